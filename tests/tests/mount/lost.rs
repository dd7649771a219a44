//! What is lost in the middle of a disk or a file is never taken for its end.

use super::trees::{backup, files};
use super::*;
use rustix::fs::{Advice, OFlags};
use wherry_tests::volumes::Loop;

/// Damages the one pack at this byte.
fn damage(place: &Place, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(pack_of(place)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Has the kernel read this file into its cache by a descriptor that goes past the cache, as a mapping of one does too. It
/// keeps its size for everybody, and whoever reads it comes to an error, not to an end.
fn keeps_its_size(path: &Path, content: &[u8]) {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(direct).open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::WillNeed).unwrap();
    // The kernel reads behind our back, and each page once: this waits for what is under way.
    let plain = File::open(path).unwrap();
    let (mut at, mut bytes) = (0, vec![0; 1 << 20]);
    let error = loop {
        match plain.read_at(&mut bytes, at) {
            Ok(len) => {
                let now = plain.metadata().unwrap().len();
                assert_eq!(now, content.len() as u64, "the size, after {at} bytes");
                assert!(len > 0, "it ends after {at} bytes");
                assert!(bytes[..len] == content[at as usize..][..len], "{at} + {len}");
                at += len as u64;
            }
            Err(e) => break e,
        }
    };
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "after {at} bytes");
    assert_eq!(fs::metadata(path).unwrap().len(), content.len() as u64);
    // Past the cache the good bytes before it are to be had, and then the same error.
    let mut copied = Command::new("dd");
    copied.args(["iflag=direct", "bs=16M", "status=none"]).arg(format!("if={}", path.display()));
    let copied = copied.output().unwrap();
    assert!(!copied.status.success(), "{} bytes, without an error", copied.stdout.len());
    assert!(content.starts_with(&copied.stdout));
    assert_eq!(fs::metadata(path).unwrap().len(), content.len() as u64);
}

#[test]
fn a_damaged_chunk_is_not_the_end_of_a_disk() {
    let place = Place::new();
    let disk = disk(1, 100, 0, |_| true);
    place.backup("vm", &disk);
    damage(&place, 42 * UNIT as u64);
    let mount = place.mount_here();
    keeps_its_size(&latest(&mount.mnt, "vm"), &disk);
}

#[test]
fn a_damaged_chunk_is_not_the_end_of_a_file() {
    let place = Place::new();
    let root = place.path("source");
    fs::create_dir(&root).unwrap();
    let bytes = noise(3, 8_000_000);
    fs::write(root.join("large"), &bytes).unwrap();
    backup(&place, &root);
    damage(&place, 4_000_000);
    let mount = place.mount_here();
    keeps_its_size(&files(&mount.mnt).join("large"), &bytes);
}

/// Of every size, to a file and to a device of just that size: what a restore that came to damage says brings all the rest.
#[test]
fn what_a_restore_says_at_damage_brings_a_disk_of_its_size() {
    let place = Place::new();
    let cases = [(0, false), (512, false), (512, true), (700, false), (700, true)];
    for (seed, (tail, on_device)) in cases.into_iter().enumerate() {
        let disk = disk(seed as u64, 20, tail, |_| true);
        let before: Vec<PathBuf> = packs(&place);
        place.backup("vm", &disk);
        let pack = packs(&place).into_iter().find(|pack| !before.contains(pack)).unwrap();
        let sound = fs::read(&pack).unwrap();
        let mut bytes = sound.clone();
        bytes[7 * UNIT] ^= 4;
        fs::write(&pack, bytes).unwrap();
        let file = place.path(&format!("out-{tail}-{on_device}"));
        let device = on_device.then(|| {
            File::create(&file).unwrap().set_len(disk.len().next_multiple_of(512) as u64).unwrap();
            Loop::new(&file, &[])
        });
        let target = device.as_ref().map_or(file.to_str().unwrap(), Loop::text);
        let (code, said) = place.fail(&["restore", "latest", target]);
        assert_eq!(code, 13, "{said}");
        let advised = said.split('`').find(|part| part.starts_with("dd ")).unwrap_or_else(|| panic!("{said}"));
        let mount = place.mount_here();
        let advised = advised.replace("DIR/", &format!("{}/", mount.mnt.display()));
        let ran = Command::new("sh").args(["-c", &advised]).output().unwrap();
        let ran = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.contains("No space") && ran.contains("Input/output error"), "{advised}: {ran}");
        drop((device, mount));
        let got = fs::read(&file).unwrap();
        let len = if on_device { disk.len().next_multiple_of(512) } else { disk.len() };
        assert_eq!(got.len(), len, "{advised}");
        let bad: Vec<_> = (0..disk.len().div_ceil(UNIT))
            .filter(|n| got[n * UNIT..((n + 1) * UNIT).min(disk.len())] != *disk.chunks(UNIT).nth(*n).unwrap())
            .collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert!(got[bad[0] * UNIT..][..UNIT].iter().all(|byte| *byte == 0), "{bad:?}");
        fs::write(&pack, sound).unwrap();
    }
}

fn packs(place: &Place) -> Vec<PathBuf> {
    let found = sh("find", &[place.path("repo").to_str().unwrap(), "-path", "*/packs/*", "-type", "f"]).unwrap();
    found.lines().map(PathBuf::from).collect()
}

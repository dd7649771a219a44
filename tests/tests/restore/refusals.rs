//! What is refused, with which code, and that nothing was written then.

use super::{MIB, Mounted, device, disk, file, has, home, put, refused, restored, same, sh, wait};
use crate::harness::Home;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use wherry_tests::volumes::{Loop, Volume};

/// Bytes of the snapshot that is to be restored here.
const SIZE: usize = 3 * MIB + 700;
/// Bytes of the devices.
const ROOM: usize = 16 * MIB;

/// A repository with a snapshot of a disk of [`SIZE`] bytes.
fn prepared() -> Home {
    let home = home();
    home.backup("vm", &disk(1, SIZE));
    home
}

/// In each mode, also in those that overwrite: code 11 and these words.
#[track_caller]
fn assert_busy(home: &Home, target: &Path, words: &[&str]) {
    let name = target.to_str().unwrap();
    for mode in [&[][..], &["--force"], &["--delta"], &["--dry-run"], &["--force", "--verify"]] {
        let line = refused(home, &[&["latest", name], mode].concat(), 11, target);
        has(&line, words);
    }
}

/// Code 2 and these words, in the modes that do not help.
#[track_caller]
fn assert_refused(home: &Home, target: &Path, modes: &[&str], words: &[&str]) {
    let name = target.to_str().unwrap();
    for mode in modes {
        let args: Vec<&str> = ["latest", name].into_iter().chain(mode.split_whitespace()).collect();
        has(&refused(home, &args, 2, target), &[&[name], words].concat());
    }
}

const ALL_MODES: [&str; 5] = ["", "--force", "--delta", "--dry-run", "--force --dry-run"];
const CAREFUL: [&str; 3] = ["", "--verify", "--dry-run"];

/// Runs a command when dropped.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

#[test]
fn a_mounted_device_is_busy_and_so_is_the_file_behind_it() {
    let home = prepared();
    let device = device(&home, "disk", ROOM, 0, &[]);
    sh("mkfs.ext4", &["-q", "-F", device.text()]);
    let mounted = Mounted::read_only(device.text(), home.path("mounted here"));
    assert_busy(&home, device.path(), &[device.text(), "mounted here"]);
    assert_busy(&home, &home.path("disk"), &["backing file", device.text()]);
    drop(mounted);
    assert_busy(&home, &home.path("disk"), &["backing file", device.text()]);
    assert_refused(&home, device.path(), &CAREFUL, &["ext2/3/4", "--force", "--delta"]);
    restored(&home, &["latest", device.text(), "--force"]);
}

/// What is written through one loop device changes what another one shows of the same bytes.
#[test]
fn another_loop_device_over_the_same_bytes_keeps_a_device_busy() {
    let home = prepared();
    let (whole, room) = (file(&home, "disk", 3 * ROOM, 0), ROOM.to_string());
    let first = Loop::new(&whole, &["--sizelimit", &room]);
    let second = Loop::new(&whole, &["--sizelimit", &room]);
    let across = Loop::new(&whole, &["--offset", &(ROOM - MIB).to_string(), "--sizelimit", &room]);
    let behind = Loop::new(&whole, &["--offset", &(2 * ROOM).to_string()]);
    sh("mkfs.ext4", &["-q", "-F", first.text()]);
    let mounted = Mounted::read_only(first.text(), home.path("mounted here"));
    let before = fs::read(&whole).unwrap();
    for target in [&second, &across] {
        assert_busy(&home, target.path(), &[first.text(), "the same bytes", "mounted at", "mounted here", "unmount"]);
    }
    same(&fs::read(&whole).unwrap(), &before, "the image");
    restored(&home, &["latest", behind.text(), "--verify"]);
    drop(mounted);
    drop(first);
    assert_busy(&home, second.path(), &["the same bytes", &format!("losetup -d {}", across.text())]);
    drop(across);
    restored(&home, &["latest", second.text(), "--force", "--verify"]);
}

#[test]
fn a_device_with_a_mounted_partition_is_busy() {
    let home = prepared();
    let device = device(&home, "disk", ROOM, 0, &["--partscan"]);
    // Told to the kernel, not read from a table: it need not know any kind of table.
    sh("addpart", &[device.text(), "1", "2048", "16384"]);
    let partition = format!("{}p1", device.text());
    wait("the partition", || Path::new(&partition).exists().then_some(()));
    sh("mkfs.ext4", &["-q", "-F", &partition]);
    let mounted = Mounted::read_only(&partition, home.path("mounted"));
    assert_busy(&home, device.path(), &[&partition, "mounted"]);
    assert_busy(&home, Path::new(&partition), &["mounted"]);
    drop(mounted);
    // The kernel does not keep what is below a loop device for it alone.
    let above = Loop::new(Path::new(&partition), &[]);
    let mounted = Mounted::read_only(above.text(), home.path("mounted"));
    assert_busy(&home, device.path(), &[above.text(), "mounted"]);
    drop(mounted);
    assert_busy(&home, device.path(), &[&partition, "backing file", above.text()]);
    drop(above);
    let above = Loop::new(device.path(), &[]);
    assert_busy(&home, Path::new(&partition), &[device.text(), "backing file", above.text()]);
    drop(above);
    // A free partition is a target like any other.
    restored(&home, &["latest", &partition, "--force", "--verify"]);
    sh("delpart", &[device.text(), "1"]);
}

#[test]
fn a_device_that_somebody_holds_is_busy() {
    let home = prepared();
    let below = device(&home, "disk", ROOM, 0, &[]);
    let held = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::EXCL.bits() as i32).open(below.path());
    let held = held.unwrap();
    assert_busy(&home, below.path(), &["exclusively"]);
    drop(held);
    let above = Loop::new(below.path(), &[]);
    assert_busy(&home, below.path(), &["backing file", above.text()]);
    drop(above);
    // What was closed may still be open in a process that another test is just starting.
    wait("the device", || (home.run(&["restore", "latest", below.text(), "--force"]).code == 0).then_some(()));
}

#[test]
fn swap_is_busy() {
    let home = prepared();
    let device = device(&home, "disk", ROOM, 0, &[]);
    sh("mkswap", &[device.text()]);
    sh("swapon", &[device.text()]);
    let _off = Undo("swapoff", vec![device.text().to_owned()]);
    assert_busy(&home, device.path(), &["swap"]);
}

#[test]
fn what_is_too_small_or_no_disk_is_refused_in_every_mode() {
    let home = prepared();
    let small = device(&home, "disk", 3 * MIB + 512, 0, &[]);
    assert_refused(&home, small.path(), &ALL_MODES, &["too small", "3146240", "3146428"]);
    let just = device(&home, "just", 3 * MIB + 1024, 0, &[]);
    restored(&home, &["latest", just.text(), "--verify"]);

    fs::create_dir(home.path("folder")).unwrap();
    assert_refused(&home, &home.path("folder"), &ALL_MODES, &["directory"]);
    sh("mkfifo", &[&home.text("pipe")]);
    let line = home.run(&["restore", "latest", &home.text("pipe"), "--force"]).fails(2);
    has(&line, &["neither a file nor a block device"]);
}

#[test]
fn what_is_read_only_is_refused_in_every_mode() {
    let home = prepared();
    let device = device(&home, "disk", ROOM, 0xAA, &[]);
    // The number keeps it, whatever is attached next.
    let writable = Undo("blockdev", vec!["--setrw".to_owned(), device.text().to_owned()]);
    sh("blockdev", &["--setro", device.text()]);
    assert_refused(&home, device.path(), &ALL_MODES, &["read-only"]);
    drop(writable);
    restored(&home, &["latest", device.text(), "--force"]);

    let fixed = file(&home, "fixed", MIB, 0xAA);
    sh("chattr", &["+i", &home.text("fixed")]);
    let _free = Undo("chattr", vec!["-i".to_owned(), home.text("fixed")]);
    assert_refused(&home, &fixed, &ALL_MODES, &["read-only"]);

    let volume = Volume::ext4(8);
    let inside = volume.path().join("disk");
    fs::write(&inside, vec![0xAA; MIB]).unwrap();
    volume.remount("ro");
    assert_refused(&home, &inside, &ALL_MODES, &["read-only"]);
}

#[test]
fn a_file_that_cannot_be_made_is_refused_and_leaves_nothing() {
    let home = prepared();
    let volume = Volume::ext4(8);
    volume.remount("ro");
    assert_refused(&home, &volume.path().join("disk"), &ALL_MODES, &["read-only", volume.path().to_str().unwrap()]);

    let missing = home.path("none/of these/disk");
    assert_refused(&home, &missing, &ALL_MODES, &["no folder", &home.text("none/of these")]);
    assert!(!home.path("none").exists());
    home.write("plain", "x");
    assert_refused(&home, &home.path("plain/disk"), &ALL_MODES, &["not a folder"]);
    assert_refused(&home, &home.path("new/"), &ALL_MODES, &["folder"]);
    std::os::unix::fs::symlink(home.path("nothing"), home.path("link")).unwrap();
    assert_refused(&home, &home.path("link"), &ALL_MODES, &["symbolic link"]);
}

/// A file that was made in /dev would be in memory, and whoever mistyped a disk would take it for one.
#[test]
fn a_device_that_is_not_there_is_refused_and_no_file_takes_its_place() {
    let home = prepared();
    fs::create_dir(home.path("tree")).unwrap();
    home.run(&["backup", "tree", "--name", "tree", "-q"]).ok();
    std::os::unix::fs::symlink("/dev", home.path("devices")).unwrap();
    let name = format!("wherry-test-{}", std::process::id());
    let paths = [
        format!("/dev/{name}"),
        format!("/dev/{name}/root"),
        format!("/dev/{name}/a/b"),
        home.text("devices/") + &name,
    ];
    for path in &paths {
        for mode in ALL_MODES {
            for snap in ["latest:vm", "latest:tree"] {
                let args: Vec<&str> = [snap, path].into_iter().chain(mode.split_whitespace()).collect();
                let line = refused(&home, &args, 2, Path::new(path));
                has(&line, &[path, "no such device", "lsblk"]);
                assert!(!line.contains("make it first"), "{line}");
            }
        }
    }
    assert!(!Path::new("/dev").join(&name).exists());
    // What is mounted below it is a folder like any other.
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    restored(&home, &["latest:vm", folder.path().join("disk").to_str().unwrap()]);
}

#[test]
fn standard_output_is_no_target_of_a_restore() {
    let home = prepared();
    for mode in ALL_MODES {
        let args: Vec<&str> = ["latest", "-"].into_iter().chain(mode.split_whitespace()).collect();
        has(&refused(&home, &args, 2, &home.path("-")), &["wherry cat", "./-"]);
    }
    restored(&home, &["latest", "./-"]);
    assert_eq!(fs::read(home.path("-")).unwrap().len(), SIZE);
}

/// That the filesystem has no files of such a size shows only when it is made.
#[test]
fn a_file_whose_making_fails_leaves_nothing() {
    let home = home();
    let volume = Volume::ext4(8);
    // Far beyond what ext4 can address in one file.
    let image = home.path("huge.raw");
    File::create(&image).unwrap().set_len(8 << 40).unwrap();
    home.run(&["backup", image.to_str().unwrap(), "--name", "huge"]).ok();
    let target = volume.path().join("disk");
    let line = home.run(&["restore", "latest", target.to_str().unwrap()]).fails(1);
    has(&line, &[target.to_str().unwrap(), "size"]);
    let left: Vec<_> = fs::read_dir(volume.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lost+found"], "{line}");
}

#[test]
fn what_is_not_empty_is_refused_unless_overwriting_is_asked_for() {
    let home = prepared();
    // Not a multiple of a page: the last MiB begins within one.
    let size = ROOM + 1536;
    let target = device(&home, "disk", size, 0, &[]);
    let last = (size - MIB) as u64;
    for at in [0, 1, MIB as u64 - 1, last, last + 1, last + 3000, size as u64 - 1] {
        put(target.path(), at, &[1]);
        let place = format!("byte {at}");
        assert_refused(&home, target.path(), &CAREFUL, &["not empty", &place, "--force", "--delta"]);
        put(target.path(), at, &[0]);
    }
    // In between nobody looks.
    put(target.path(), MIB as u64, &[1]);
    put(target.path(), last - 1, &[1]);
    restored(&home, &["latest", target.text()]);

    let old = file(&home, "old", 5, 0);
    assert_refused(&home, &old, &CAREFUL, &["not empty", "5 B"]);
    restored(&home, &["latest", &home.text("old"), "--force"]);
    let empty = file(&home, "empty", 0, 0);
    restored(&home, &["latest", empty.to_str().unwrap()]);
    assert_eq!(fs::metadata(empty).unwrap().len(), SIZE as u64);
}

#[test]
fn a_filesystem_whose_beginning_was_wiped_is_known_by_its_copies() {
    let home = prepared();
    let image = home.path("disk");
    for (block, what) in [("1024", "ext2/3/4"), ("2048", "ext2/3/4"), ("4096", "ext2/3/4"), ("", "btrfs"), ("", "VMFS")]
    {
        File::create(&image).unwrap().set_len(160 << 20).unwrap();
        let target = Loop::new(&image, &[]);
        match what {
            "btrfs" => put(target.path(), (64 << 20) + 0x40, b"_BHRfS_M"),
            "VMFS" => put(target.path(), 1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
            _ => drop(sh("mkfs.ext4", &["-q", "-F", "-b", block, target.text()])),
        }
        put(target.path(), 0, &vec![0; MIB]);
        put(target.path(), (159 << 20) as u64, &vec![0; MIB]);
        let line = refused(&home, &["latest", target.text()], 2, &image);
        has(&line, &["not empty", what]);
    }
}

/// The end of a file that was cut cannot be read, as a bad sector cannot; what is written to it is there.
#[test]
fn a_bad_sector_of_what_is_written_over_keeps_nobody_from_that() {
    // Whole sectors: what is behind the end in the last one would have to be read.
    let (home, content) = (home(), disk(1, 3 * MIB));
    home.backup("vm", &content);
    for (len, at) in [(512 << 10, 0), (ROOM - (512 << 10), ROOM - MIB)] {
        for mode in ["--force", "--delta --engine threads", "--force --verify", "--delta"] {
            let target = device(&home, "disk", ROOM, 0, &[]);
            let cut = OpenOptions::new().write(true).open(home.path("disk")).unwrap();
            cut.set_len(len as u64).unwrap();
            let words = ["not empty", "a part that cannot be read", &at.to_string(), "--force", "--delta"];
            assert_refused(&home, target.path(), &CAREFUL, &words);
            let args: Vec<&str> = ["latest", target.text()].into_iter().chain(mode.split_whitespace()).collect();
            assert_eq!(restored(&home, &args)["resumed"], false, "{len} {mode}");
            drop(target);
            same(&fs::read(home.path("disk")).unwrap()[..content.len()], &content, mode);
        }
    }
}

//! `--verify` of a directory: what is on the medium is compared, and a filesystem without one says so.

use super::{backup, files, has, restore};
use crate::harness::Home;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_tests::small::noise;
use wherry_tests::steered::Steered;
use wherry_tests::trees::{assert_same, list};
use wherry_tests::volumes::{Loop, Volume};

const MIB: usize = 1 << 20;

/// A filesystem on a disk that keeps a byte wrongly; dropped, it is unmounted.
struct Mounted {
    point: PathBuf,
    _device: Loop,
}

impl Mounted {
    fn new(home: &Home, steered: &Steered) -> Self {
        let device = Loop::new(&steered.disk(), &[]);
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal", device.text()]);
        let point = home.path("mnt");
        fs::create_dir(&point).unwrap();
        run("mount", &[device.text(), point.to_str().unwrap()]);
        Self { point, _device: device }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.point).status();
    }
}

/// Nothing of the target is in the page cache.
fn drop_cache(root: &Path) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let file = File::open(path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
}

#[test]
fn a_medium_that_keeps_something_else_is_found_out() {
    let home = Home::with_repository();
    let bytes = noise(1, 24 * MIB);
    files(&home.path("tree"), &[("large", &bytes), ("small", b"small"), ("other", &noise(2, 70_000))]);
    backup(&home, "tree", &[]);
    let steered = Steered::mount(vec![0; 96 * MIB], true);
    let mounted = Mounted::new(&home, &steered);
    let out = mounted.point.join("out");
    let text = out.to_str().unwrap();
    // Wherever the large file comes to lie, and behind what the filesystem keeps for itself.
    (3..24).for_each(|n| steered.flip(n * 4 * MIB as u64 + 77));
    // Without it nobody can know, and with what is in the page cache a comparison does not either.
    restore(&home, text, &[]);
    for mode in ["--delta", "--force"] {
        let ran = home.run(&["restore", "latest:t", text, "--verify", mode]);
        assert_eq!((ran.code, ran.stdout.as_str()), (13, ""), "{mode}: {}", ran.stderr);
        has(&ran.stderr, &["large: read back", "1 files differ", "medium is faulty"]);
        has(&ran.stderr, &["what was there before is there still and may be wrong"]);
        assert_eq!(list(&out).len(), 4, "{mode}: what was there has its name");
    }
    drop_cache(&out);
    assert!(fs::read(out.join("large")).unwrap() != bytes, "nothing was flipped");
    // What is new and wrong has no name; the others have theirs.
    fs::remove_dir_all(&out).unwrap();
    let ran = home.run(&["restore", "latest:t", text, "--verify"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["other", "small"]);
}

#[test]
fn what_an_earlier_run_made_is_read_back_too() {
    let home = Home::with_repository();
    for n in 0..40_u64 {
        files(&home.path("tree"), &[(&format!("f{n:02}"), &noise(n, 100_000 * (n as usize % 9)))]);
    }
    backup(&home, "tree", &[]);
    let mut running = home.spawn(&["restore", "latest:t", "out", "-q"]);
    let begun = || fs::read_dir(home.path("out")).is_ok_and(|mut names| names.next().is_some());
    while !begun() && running.runs() {}
    running.kill();
    let mut marker: Vec<_> = fs::read_dir(home.path("")).unwrap().map(|e| e.unwrap().path()).collect();
    marker.retain(|path| path.to_str().unwrap().ends_with(".out.wherry-restore"));
    // As if the run had been killed behind all of its names, one of which went wrong since without a trace.
    let saved = marker.first().map(|path| (path.clone(), fs::read(path).unwrap()));
    let (path, note) = saved.expect("it was killed before it ended");
    restore(&home, "out", &[]);
    fs::write(path, note).unwrap();
    let meta = home.path("out/f07").metadata().unwrap();
    let mut bytes = fs::read(home.path("out/f07")).unwrap();
    bytes[1000] ^= 1;
    fs::write(home.path("out/f07"), bytes).unwrap();
    File::options().write(true).open(home.path("out/f07")).unwrap().set_modified(meta.modified().unwrap()).unwrap();
    let report = restore(&home, "out", &["--verify"]);
    assert_eq!(
        (&report["resumed"], &report["kept"], &report["files"]),
        (&true.into(), &39.into(), &1.into()),
        "{report}"
    );
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "read back and mended");
}

#[test]
fn a_filesystem_in_memory_says_that_it_has_no_medium() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("a", &noise(1, 300_000)), ("d/b", b"2"), ("empty", b"")]);
    backup(&home, "tree", &[]);
    let volume = Volume::tmpfs(16 << 20);
    let out = volume.path().join("out");
    let report = restore(&home, out.to_str().unwrap(), &["--verify"]);
    assert_eq!((&report["verified"], &report["unverified"]), (&false.into(), &3.into()), "{report}");
    let ran = home.run(&["restore", "latest:t", out.to_str().unwrap(), "--verify", "--delta"]).ok();
    has(&ran.stdout, &["NOT verified: 3 files", "page cache only"]);
    assert!(!ran.stdout.contains("\nverified"), "{}", ran.stdout);
    let report = restore(&home, "out", &["--verify"]);
    assert_eq!((&report["verified"], &report["unverified"]), (&true.into(), &0.into()), "{report}");
    // A disk likewise.
    home.backup("disk", &noise(3, 200_000));
    let file = volume.path().join("disk");
    let ran = home.run(&["restore", "latest:disk", file.to_str().unwrap(), "--verify"]).ok();
    has(&ran.stdout, &["NOT verified", "page cache only"]);
    let ran = home.run(&["restore", "latest:disk", &home.text("disk"), "--verify"]).ok();
    has(&ran.stdout, &["\nverified: everything"]);
}

/// Changes a byte on the medium, below what the filesystem has in memory. `bytes`: what is there, once.
fn rot(volume: &Volume, bytes: &[u8]) {
    rustix::fs::syncfs(File::open(volume.path()).unwrap()).unwrap();
    let image = volume.path().parent().unwrap().join("image");
    let all = fs::read(&image).unwrap();
    let found = all.chunks(1024).position(|block| block == &bytes[..1024]).expect("it is on the medium");
    let file = File::options().write(true).open(image).unwrap();
    file.write_all_at(&[bytes[100] ^ 1], found as u64 * 1024 + 100).unwrap();
}

#[test]
fn what_was_there_and_is_wrong_on_the_medium_alone_is_made_anew() {
    let home = Home::with_repository();
    let bytes = noise(1, 100_000);
    files(&home.path("tree"), &[("a", &bytes), ("b", &noise(2, 100_000))]);
    backup(&home, "tree", &[]);
    let volume = Volume::ext4(32);
    let out = volume.path().join("out");
    let text = out.to_str().unwrap();
    restore(&home, text, &[]);
    rot(&volume, &bytes);
    assert!(fs::read(out.join("a")).unwrap() == bytes, "the page cache does not know yet");
    let report = restore(&home, text, &["--delta", "--verify"]);
    assert_eq!((&report["kept"], &report["files"]), (&1.into(), &1.into()), "{report}");
    drop_cache(&out);
    assert!(fs::read(out.join("a")).unwrap() == bytes, "what was on the medium stayed");
}

/// Some filesystems read through the page cache although they took O_DIRECT: nothing may be in it then.
#[test]
fn what_is_read_back_is_not_in_the_page_cache_any_more() {
    let home = Home::with_repository();
    let bytes = noise(1, 100_000);
    files(&home.path("tree"), &[("a", &bytes)]);
    backup(&home, "tree", &[]);
    let volume = Volume::ext4(32);
    let out = volume.path().join("out");
    let report = restore(&home, out.to_str().unwrap(), &["--verify"]);
    assert_eq!(report["verified"], true, "{report}");
    rot(&volume, &bytes);
    assert!(fs::read(out.join("a")).unwrap() != bytes, "it came from the page cache");
}

#[test]
fn what_was_not_read_is_not_said_to_be_verified() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("a", b"1"), ("d/b", b"2"), ("d/c", b"3")]);
    backup(&home, "tree", &[]);
    files(&home.path("out"), &[("a", b"theirs")]);
    for mode in ["never", "if-newer"] {
        let report = restore(&home, "out", &["--verify", "--overwrite", mode]);
        let read = if mode == "never" { 1 } else { 3 };
        assert_eq!((&report["verified"], &report["unread"]), (&false.into(), &read.into()), "{report}");
        let ran = home.run(&["restore", "latest:t", "out", "--verify", "--overwrite", mode]).ok();
        has(&ran.stdout, &["NOT verified: 3 files were not read back"]);
        assert!(!ran.stdout.contains("\nverified"), "{}", ran.stdout);
    }
    let report = restore(&home, "out", &["--verify", "--delta"]);
    assert_eq!((&report["verified"], &report["unread"]), (&true.into(), &0.into()), "{report}");
}

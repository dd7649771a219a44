//! A cache on a disk that is full: a real file system on a small loop device.

use super::*;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

/// A small ext4 file system, mounted; gone with this value. Needs root.
struct Disk {
    root: tempfile::TempDir,
}

impl Disk {
    fn new(bytes: u64) -> Self {
        let disk = Self { root: tempfile::tempdir().expect("tempdir") };
        let image = disk.root.path().join("image");
        File::create(&image).and_then(|f| f.set_len(bytes)).expect("image");
        fs::create_dir(disk.path()).expect("mkdir");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    /// Uses up all space but about `leave` bytes.
    fn fill(&self, leave: u64) {
        let mut ballast = File::create(self.path().join("ballast")).expect("ballast");
        let free = rustix::fs::statvfs(self.path()).map(|s| s.f_bavail * s.f_frsize).expect("statvfs");
        let mut left = free.saturating_sub(leave);
        while left > 0 && ballast.write_all(&[0x5a; 4096]).is_ok() {
            left = left.saturating_sub(4096);
        }
        let _ = ballast.sync_all();
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).expect("remove");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).stderr(std::process::Stdio::null()).status();
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?} (this test needs root and loop devices): {said}");
}

#[test]
fn a_disk_that_fills_up_is_told_once_and_harms_nothing() {
    let disk = Disk::new(48 << 20);
    let dir = disk.path();
    let (index, _) = open(&dir);
    disk.fill(3 << 20);
    let mut told = Vec::new();
    let packs = 3000;
    for n in 0..packs {
        if let Err(error) = insert(&index, n) {
            told.push((n, error));
            index.cover("idx/late").expect("cover");
        }
        assert!(found(&index, n) == 100 || told.len() == 1);
    }
    let [(at, error)] = &told[..] else { panic!("told {told:?}") };
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("MiB are missing"), "{error}");
    assert!(*at > 100, "full at once, at pack {at}");
    assert!(index.failure().is_some());
    // What was taken in before is still found, and what came right after is in memory.
    assert!((0..*at + 20).all(|n| found(&index, n) == 100));
    assert!(index.is_covered("idx/late").expect("covered"));
    drop(index);

    // Still full: it opens or says so.
    match ChunkIndex::open(&options(&dir)) {
        Ok((index, _)) => assert!((0..packs).all(|n| matches!(found(&index, n), 0 | 100))),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{error}"),
    }
    disk.make_room();
    let (index, _) = open(&dir);
    assert!(!index.is_covered("idx/late").expect("covered"), "it was in memory only");
    for n in 0..packs {
        let covered = index.covered_pack(&pack(n)).expect("covered");
        assert_eq!(found(&index, n), if covered { 100 } else { 0 }, "pack {n}");
    }
    insert(&index, packs).expect("insert");
    index.flush().expect("flush");
    assert_eq!(found(&index, packs), 100);
}

#[test]
fn a_disk_without_room_for_an_index_is_full() {
    let disk = Disk::new(16 << 20);
    disk.fill(0);
    let error = ChunkIndex::open(&options(&disk.path())).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    disk.make_room();
    let (index, _) = open(&disk.path());
    insert(&index, 0).expect("insert");
    assert_eq!(found(&index, 0), 100);
}

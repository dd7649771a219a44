//! Journals that were not replayed, of filesystems that were copied while in use, compared with what the kernel makes of
//! them: the log has gone round, blocks that it holds were freed and used again, content looks like blocks of its own.

use super::compare::compare;
use super::home_with;
use super::images::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// What debugfs says of a journal.
struct Log {
    goes_round: bool,
    /// Blocks that the journal holds in one transaction and a later one revokes.
    revoked: usize,
}

impl Log {
    fn of(image: &Path) -> Self {
        let text = sh("debugfs", &["-R", "logdump -a", image.to_str().unwrap()]);
        let number = |line: &str, before: &str| -> Option<u64> {
            let digits = line.split(before).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        };
        let (mut goes_round, mut last) = (false, 0);
        let (mut logged, mut revoked) = (BTreeMap::new(), BTreeMap::new());
        let mut sequence = 0;
        for line in text.lines() {
            if let Some(at) = number(line, ") at block ").filter(|_| line.starts_with("Found expected")) {
                goes_round |= at < last;
                last = at;
            }
            sequence = number(line, "block, sequence ").unwrap_or(sequence);
            if let Some(block) = number(line, "FS block ") {
                let them = if line.contains("Revoke") { &mut revoked } else { &mut logged };
                them.insert(block, sequence);
            }
        }
        let is_there = |(block, revoked): &(&u64, &u64)| logged.get(block).is_some_and(|logged| logged < revoked);
        Self { goes_round, revoked: revoked.iter().filter(is_there).count() }
    }
}

fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Has blocks of a directory logged, frees them, and has all free blocks used by a file that is not logged.
fn change(root: &Path, round: u8, names: usize) {
    let (folder, filler) = (root.join(format!("folder{round}")), root.join("filler"));
    fs::create_dir(&folder).unwrap();
    (0..names).for_each(|n| drop(File::create(folder.join(format!("{n:0>200}"))).unwrap()));
    sync(&folder);
    if filler.exists() {
        fs::remove_file(&filler).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
    sync(root);
    let mut file = File::create(&filler).unwrap();
    let mut len = 0;
    while let Ok(n) = file.write(&[b'a' + round; 64 << 10]) {
        len += n as u64;
    }
    file.set_len(len - (512 << 10)).unwrap();
    file.sync_all().unwrap();
    // What stays: in the journal, and not yet where it belongs.
    let kept = root.join(format!("kept{round}"));
    fs::create_dir(&kept).unwrap();
    for n in 0..10 {
        let path = kept.join(format!("file{n}"));
        fs::write(&path, vec![b'A' + round; 100 * n]).unwrap();
        // Else its space may be one that was never written so far, which is said and not read.
        sync(&path);
    }
    fs::rename(&kept, root.join(format!("renamed{round}"))).unwrap();
    sync(root);
}

/// Rounds of changes to a filesystem; after each the image is copied, as by a power failure.
fn rounds(kind: &str, options: &[&str], mount: &str, names: usize) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = dir.path().join("image");
    make(&image, 24);
    mkfs(&image, kind, options);
    let copies: Vec<_> = (0..12).map(|round| dir.path().join(format!("copy{round}"))).collect();
    {
        let mounted = Mounted::new(&image, None, &format!("rw{mount}"));
        for (round, copy) in copies.iter().enumerate() {
            change(mounted.path(), round as u8, names);
            fs::copy(&image, copy).unwrap();
        }
    }
    let (mut round, mut revoked) = (0, 0);
    for copy in &copies {
        let log = Log::of(copy);
        if !log.goes_round && log.revoked == 0 || round > 3 && revoked > 3 {
            continue;
        }
        round += usize::from(log.goes_round);
        revoked += usize::from(log.revoked > 0);
        let home = home_with(copy);
        drop(Mounted::new(copy, None, "rw"));
        compare(&home, "/p0", Mounted::new(copy, None, "ro").path(), 10);
    }
    assert!(round > 0 && revoked > 0, "{kind} {options:?}: {round} logs go round, {revoked} have blocks revoked");
}

#[test]
fn logs_that_go_round_are_read_as_the_kernel_reads_them() {
    rounds("ext4", &["-b", "1024", "-J", "size=1"], "", 400);
}

#[test]
fn logs_without_checksums_are_read_as_the_kernel_reads_them() {
    rounds("ext4", &["-b", "1024", "-J", "size=1", "-O", "^metadata_csum,^64bit"], "", 400);
    rounds("ext3", &["-b", "1024", "-J", "size=1"], "", 400);
}

#[test]
fn logs_of_large_blocks_are_read_as_the_kernel_reads_them() {
    rounds("ext4", &["-b", "4096", "-J", "size=4", "-O", "64bit"], "", 1200);
}

#[test]
fn logs_with_the_checksums_of_old_are_read_as_the_kernel_reads_them() {
    rounds("ext4", &["-b", "1024", "-J", "size=1", "-O", "^metadata_csum,64bit"], ",journal_checksum", 400);
    // Commit blocks that do not wait for what they commit.
    let mount = ",data=writeback,journal_async_commit";
    rounds("ext4", &["-b", "1024", "-J", "size=1", "-O", "^metadata_csum"], mount, 400);
}

#[test]
fn content_in_the_journal_that_looks_like_a_part_of_it_is_content() {
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    make(&image, 32);
    mkfs(&image, "ext4", &["-b", "1024"]);
    let block = [&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2][..], &[7; 1016]].concat();
    {
        let mounted = Mounted::new(&image, None, "rw,data=journal");
        for n in 1..20 {
            let path = mounted.path().join(format!("file{n}"));
            fs::write(&path, block.repeat(n)).unwrap();
            sync(&path);
        }
        fs::copy(&image, &copy).unwrap();
    }
    let home = home_with(&copy);
    assert!(super::bytes(&home, &["cat", "latest", "/p0/file9"]) == block.repeat(9));
    drop(Mounted::new(&copy, None, "rw"));
    compare(&home, "/p0", Mounted::new(&copy, None, "ro").path(), 19);
}

//! `--delta` of a directory: what is in the target already is neither fetched nor written again, and nothing is believed of
//! it.

use super::{backup, files, has, restore};
use crate::harness::Home;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use wherry_tests::small::noise;
use wherry_tests::trees::{assert_same, change, grow, list, set_attribute, set_times};
use wherry_tests::volumes::Volume;

const MIB: usize = 1 << 20;

/// Some small files, a large one, one with holes, an empty one; and a copy that a restore made.
fn home() -> Home {
    let home = Home::with_repository();
    for n in 0..200_u64 {
        files(&home.path("tree"), &[(&format!("d{}/{n}", n % 7), &noise(n, (n * 61 % 9000) as usize))]);
    }
    files(&home.path("tree"), &[("large", &noise(77, 24 * MIB)), ("empty", b"")]);
    let sparse = File::create(home.path("tree/sparse")).unwrap();
    sparse.set_len(64 * MIB as u64).unwrap();
    sparse.write_all_at(&noise(5, 3 * MIB), 20 * MIB as u64).unwrap();
    backup(&home, "tree", &[]);
    restore(&home, "out", &[]);
    home
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"))
}

/// The inode of each regular file with one name.
fn inodes(root: &Path) -> BTreeMap<std::path::PathBuf, u64> {
    fn below(folder: &Path, into: &mut BTreeMap<std::path::PathBuf, u64>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                below(&path, into);
            } else if meta.is_file() {
                into.insert(path, meta.ino());
            }
        }
    }
    let mut all = BTreeMap::new();
    below(root, &mut all);
    all
}

#[test]
fn what_is_right_stays_the_same_inode_and_nothing_is_fetched() {
    let home = home();
    let before = inodes(&home.path("out"));
    // Only metadata differs, of all sorts.
    for path in before.keys().step_by(3) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o4711)).unwrap();
        set_attribute(path, "user.theirs", b"x");
        set_times(path, 5, 5);
    }
    let report = restore(&home, "out", &["--delta", "--verify"]);
    assert_eq!(number(&report, "kept"), before.len() as u64, "{report}");
    assert_eq!(
        (number(&report, "fetched"), number(&report, "written"), number(&report, "files")),
        (0, 0, 0),
        "{report}"
    );
    assert_eq!((&report["delta"], &report["verified"]), (&true.into(), &true.into()), "{report}");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "metadata alone");
    assert_eq!(inodes(&home.path("out")), before);
}

#[test]
fn only_what_differs_is_fetched_whatever_times_say() {
    let home = home();
    let out = |name: &str| home.path("out").join(name);
    let stay = inodes(&home.path("out"));
    let size = number(&restore(&home, "whole", &[]), "fetched");
    // One byte in a hundred pieces, in each other way: the time and the size stay.
    for (name, at) in [("large", 11 * MIB as u64), ("sparse", 50 * MIB as u64), ("d3/3", 7)] {
        let meta = out(name).metadata().unwrap();
        let file = File::options().read(true).write(true).open(out(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        drop(file);
        set_times(&out(name), meta.mtime(), meta.mtime_nsec());
    }
    let report = restore(&home, "out", &["--delta"]);
    let fetched = number(&report, "fetched");
    // A piece of the large file, and the chunk that the small one shares with its neighbours.
    assert!(fetched > 0 && fetched < size / 10, "{fetched} of {size}: {report}");
    assert_eq!(number(&report, "files"), 3, "{report}");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "three bytes");
    let now = inodes(&home.path("out"));
    let moved: Vec<_> = now.iter().filter(|(path, inode)| stay[*path] != **inode).collect();
    assert_eq!(moved.len(), 3, "{moved:?}");
    let sparse = out("sparse").metadata().unwrap();
    assert!(sparse.blocks() * 512 < 8 * MIB as u64, "the holes are there again: {}", sparse.blocks());
}

#[test]
fn longer_shorter_missing_and_other_names() {
    let home = home();
    let out = |name: &str| home.path("out").join(name);
    File::options().append(true).open(out("large")).unwrap().set_len(25 * MIB as u64 + 3).unwrap();
    File::options().write(true).open(out("sparse")).unwrap().set_len(21 * MIB as u64 + 5).unwrap();
    fs::write(out("empty"), "no more").unwrap();
    fs::remove_file(out("d1/1")).unwrap();
    fs::remove_dir_all(out("d2")).unwrap();
    fs::write(out("d2"), "a file").unwrap();
    fs::remove_file(out("d4/4")).unwrap();
    fs::create_dir(out("d4/4")).unwrap();
    fs::write(out("d5/extra"), "extra").unwrap();
    fs::remove_file(out("d6/6")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, out("d6/6"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let report = restore(&home, "out", &["--delta"]);
    assert!(out("d5/extra").exists() && number(&report, "fetched") < 6 * MIB as u64, "{report}");
    let report = restore(&home, "out", &["--delta", "--delete"]);
    assert_eq!(number(&report, "removed"), 1);
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "with --delete");
}

#[test]
fn it_goes_with_each_overwrite_mode() {
    let home = home();
    let out = |name: &str| home.path("out").join(name);
    let spoil = || {
        fs::write(out("d1/1"), "older").unwrap();
        set_times(&out("d1/1"), 1000, 0);
        fs::write(out("d2/2"), "newer").unwrap();
        set_times(&out("d2/2"), 8_000_000_000, 0);
    };
    let holds = |name: &str| fs::read(out(name)).unwrap() == fs::read(home.path("tree").join(name)).unwrap();
    spoil();
    restore(&home, "out", &["--delta", "--overwrite", "never"]);
    assert_eq!((holds("d1/1"), holds("d2/2")), (false, false));
    restore(&home, "out", &["--delta", "--overwrite", "if-newer"]);
    assert_eq!((holds("d1/1"), holds("d2/2")), (true, false));
    spoil();
    restore(&home, "out", &["--delta", "--overwrite", "always"]);
    assert_eq!((holds("d1/1"), holds("d2/2")), (true, true));
    // Of a part of the tree the rest is left alone.
    spoil();
    restore(&home, "out", &["--delta", "d1"]);
    assert_eq!((holds("d1/1"), holds("d2/2")), (true, false));
    // A directory that is not empty needs leave, and --delta is one.
    has(&home.run(&["restore", "latest:t", "out"]).fails(2), &["not empty", "--delta"]);
}

#[test]
fn what_has_a_name_outside_of_the_target_is_not_touched() {
    let home = home();
    fs::create_dir(home.path("outside")).unwrap();
    for name in ["large", "d1/1", "empty"] {
        let other = home.path("outside").join(name.replace('/', "-"));
        fs::hard_link(home.path("out").join(name), &other).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        set_times(&other, 77, 7);
    }
    let before = list(&home.path("outside"));
    let report = restore(&home, "out", &["--delta"]);
    // Taken from the old data, not from the repository.
    assert_eq!((number(&report, "files"), number(&report, "fetched")), (3, 0), "{report}");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "the target");
    let after = list(&home.path("outside"));
    for (path, facts) in &before {
        let now = &after[path];
        assert!(path.is_empty() || (now.mode, now.modified) == (facts.mode, facts.modified), "{now:?}");
    }
}

#[test]
fn names_of_one_inode_become_those_of_the_snapshot() {
    let home = Home::with_repository();
    let tree = home.path("tree");
    files(&tree, &[("a", b"same"), ("b/linked", b"linked"), ("c", b"same")]);
    fs::hard_link(tree.join("b/linked"), tree.join("again")).unwrap();
    backup(&home, "tree", &[]);
    // Linked where they should not be, and the other way round.
    files(&home.path("out"), &[("a", b"same"), ("b/linked", b"linked"), ("again", b"linked")]);
    fs::hard_link(home.path("out/a"), home.path("out/c")).unwrap();
    restore(&home, "out", &["--delta"]);
    assert_same(&list(&home.path("out")), &list(&tree), "names");
}

#[test]
fn random_targets_become_the_snapshot() {
    for seed in 20..24 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        backup(&home, "tree", &[]);
        restore(&home, "out", &[]);
        for round in 0..3 {
            change(&home.path("out"), seed * 100 + round, 25);
            let report = restore(&home, "out", &["--delta", "--delete", "--verify"]);
            assert!(number(&report, "kept") > 100, "{report}");
            assert_same(&list(&home.path("out")), &list(&home.path("tree")), &format!("seed {seed}, round {round}"));
        }
    }
}

#[test]
fn a_killed_one_shows_only_whole_files_and_goes_on() {
    let home = Home::with_repository();
    for n in 0..24_u64 {
        files(&home.path("tree"), &[(&format!("f{n:02}"), &noise(n, 3 * MIB))]);
    }
    backup(&home, "tree", &[]);
    let wanted = list(&home.path("tree"));
    let mut hits = 0;
    for round in 0..3 {
        restore(&home, "out", &[]);
        for n in 0..24 {
            let file = File::options().write(true).open(home.path(&format!("out/f{n:02}"))).unwrap();
            file.write_all_at(&[0; 100], 2 * MIB as u64 + round).unwrap();
        }
        let spoiled = list(&home.path("out"));
        let before: BTreeSet<_> = inodes(&home.path("out")).into_values().collect();
        // What is under way, whatever it is called.
        let begun = || {
            let names = fs::read_dir(home.path("out")).unwrap().filter_map(|entry| entry.unwrap().metadata().ok());
            names.filter(|meta| !before.contains(&meta.ino())).count()
        };
        let mut running = home.spawn(&["restore", "latest:t", "out", "--delta", "-q"]);
        while begun() < 4 * (1 + round as usize) && running.runs() {}
        let hit = !running.kill();
        hits += usize::from(hit);
        for (path, facts) in list(&home.path("out")) {
            let is_whole = wanted.get(&path).is_some_and(|wanted| wanted.kind == facts.kind)
                || spoiled.get(&path).is_some_and(|old| old.kind == facts.kind);
            assert!(is_whole || path.starts_with(b".wherry-"), "{}: half written", path.escape_ascii());
        }
        let report = restore(&home, "out", &["--delta"]);
        assert!(!hit || report["resumed"] == true, "{report}");
        assert_same(&list(&home.path("out")), &wanted, "after a kill");
        fs::remove_dir_all(home.path("out")).unwrap();
    }
    assert!(hits > 0, "none was hit");
}

#[test]
fn on_a_filesystem_with_reflinks_data_is_shared_with_the_old_file() {
    let volume = Volume::xfs(320);
    let home = home();
    let out = volume.path().join("out");
    let text = out.to_str().unwrap();
    restore(&home, text, &[]);
    let used = || {
        let room = rustix::fs::statvfs(volume.path()).unwrap();
        (room.f_blocks - room.f_bfree) * room.f_frsize
    };
    let spoil = |name: &str, at: u64, len| {
        let file = File::options().write(true).open(out.join(name)).unwrap();
        file.write_all_at(&noise(99, len), at).unwrap();
    };
    spoil("large", 9 * MIB as u64, 100);
    spoil("sparse", 40 * MIB as u64, 100);
    spoil("sparse", 64 * MIB as u64 - 1, 2 * MIB);
    // Another name keeps the old data: what is not shared with it takes room.
    fs::hard_link(out.join("large"), volume.path().join("old")).unwrap();
    rustix::fs::syncfs(File::open(volume.path()).unwrap()).unwrap();
    let before = used();
    let report = restore(&home, text, &["--delta", "--verify"]);
    assert!(number(&report, "written") < 4 * MIB as u64, "{report}");
    // Room apart: this filesystem reserves more.
    let facts = |root: &Path| {
        let facts = list(root).into_iter().map(|(path, facts)| (path, (facts.kind, facts.mode, facts.modified)));
        facts.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(facts(&out), facts(&home.path("tree")));
    assert!(used() < before + 6 * MIB as u64, "{} more bytes are used", used() - before);
    assert!(fs::metadata(out.join("sparse")).unwrap().blocks() * 512 < 8 * MIB as u64);
}

/// Zeros of a disk image are not written into a new file, but a file that shares the old data has to lose it.
#[test]
fn zeros_of_a_disk_image_replace_what_is_there() {
    let volume = Volume::xfs(320);
    let home = Home::with_repository();
    fs::create_dir(home.path("tree")).unwrap();
    // A boot sector, and data in the middle of chunks that are zero else.
    let mut disk = vec![0; 8 * MIB];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 0x83;
    for n in 0..8 {
        disk[n * MIB + 200_000..][..5000].copy_from_slice(&noise(n as u64, 5000));
    }
    fs::write(home.path("tree/disk.img"), &disk).unwrap();
    backup(&home, "tree", &[]);
    for out in [volume.path().join("out"), home.path("out")] {
        let text = out.to_str().unwrap();
        restore(&home, text, &[]);
        let sparse = fs::metadata(out.join("disk.img")).unwrap().blocks() * 512;
        assert!(sparse < MIB as u64, "zeros were written: {sparse}");
        let file = File::options().write(true).open(out.join("disk.img")).unwrap();
        // In a chunk with data, beside it and over it, and in a chunk without.
        for at in [100_000, 2 * MIB + 203_000, 5 * MIB + 700_000] {
            file.write_all_at(&noise(99, 10_000), at as u64).unwrap();
        }
        drop(file);
        let report = restore(&home, text, &["--delta", "--verify"]);
        assert_eq!(number(&report, "files"), 1, "{report}");
        assert!(fs::read(out.join("disk.img")).unwrap() == disk, "{text} is another disk");
    }
}

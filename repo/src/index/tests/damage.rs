//! Damage of every kind: the index is dropped, or says so, or forgets; it never tells of a place where a chunk is not.

use super::super::row::{COPY_LEN, checked};
use super::*;
use std::fs;

const PACKS: u32 = 60;

/// An index with several SST files, closed; `root` holds nothing else.
fn make(dir: &Path) {
    let (index, _) = open(dir);
    for n in 0..PACKS {
        insert(&index, n).expect("insert");
        if n % 20 == 19 {
            index.flush().expect("flush");
        }
    }
}

fn files(dir: &Path, suffix: &str, prefix: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(database(dir)).expect("readdir").map(|e| e.expect("entry").path()).collect();
    files.retain(|p| {
        let name = p.file_name().expect("name").to_string_lossy().into_owned();
        name.starts_with(prefix) && name.ends_with(suffix)
    });
    files.sort();
    files
}

/// What became of a damaged index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    DroppedAtOpen,
    /// A lookup said so; the next open dropped it.
    FoundInUse,
    /// The damage hit nothing that was asked for, or something that is only there for speed.
    Unnoticed,
}

fn fate(dir: &Path) -> Fate {
    let (index, opened) = open(dir);
    if let Opened::Dropped(why) = opened {
        assert!(!why.is_empty());
        assert_eq!(found(&index, 0), 0);
        return Fate::DroppedAtOpen;
    }
    for n in 0..PACKS {
        for row in rows(n, chunks(n)) {
            match index.lookup(&row.id) {
                Ok(found) => assert!(found.is_empty() || found == [location(n, &row)], "a wrong place: {found:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                    // Told once; from here on it works without what was there.
                    assert_eq!(index.lookup(&row.id).expect("lookup"), []);
                    insert(&index, PACKS).expect("insert");
                    assert_eq!(found(&index, PACKS), 100);
                    assert!(index.failure().is_some());
                    drop(index);
                    let (index, opened) = open(dir);
                    assert!(matches!(opened, Opened::Dropped(_)), "{opened:?}");
                    assert_eq!(found(&index, 0), 0);
                    drop(index);
                    assert_eq!(open(dir).1, Opened::Reused);
                    return Fate::FoundInUse;
                }
            }
        }
    }
    Fate::Unnoticed
}

/// Damages a copy of a sound index and tells its fate.
fn damaged(sound: &Path, damage: impl FnOnce(&Path)) -> Fate {
    let copy = tempfile::tempdir().expect("tempdir");
    fs::create_dir_all(database(copy.path())).expect("mkdir");
    for file in files(sound, "", "") {
        fs::copy(&file, database(copy.path()).join(file.file_name().expect("name"))).expect("copy");
    }
    damage(copy.path());
    fate(copy.path())
}

fn flip(file: &Path, at: usize, bit: u32) {
    let mut bytes = fs::read(file).expect("read");
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).expect("write");
}

#[test]
fn flipped_bits_are_found_or_harmless() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    assert_eq!(damaged(sound.path(), |_| ()), Fate::Unnoticed);
    let mut fates = Vec::new();
    for (prefix, suffix, flips) in [("", ".sst", 60), ("MANIFEST", "", 40), ("CURRENT", "", 16)] {
        // Of the SST files the last: the first holds but the stamp.
        let file = files(sound.path(), suffix, prefix).pop().expect("a file");
        let name = file.file_name().expect("name").to_owned();
        let len = fs::metadata(&file).expect("metadata").len() as usize;
        for i in 0..flips {
            let at = i * len / flips;
            fates.push((prefix, damaged(sound.path(), |dir| flip(&database(dir).join(&name), at, i as u32 % 8))));
        }
    }
    let count = |prefix: &str, fate| fates.iter().filter(|f| **f == (prefix, fate)).count();
    assert!(count("", Fate::FoundInUse) > 30, "{fates:?}");
    assert!(count("MANIFEST", Fate::DroppedAtOpen) > 20, "{fates:?}");
    assert!(count("CURRENT", Fate::DroppedAtOpen) > 10, "{fates:?}");
}

#[test]
fn cut_and_missing_files_are_found() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    for (prefix, suffix) in [("", ".sst"), ("MANIFEST", ""), ("CURRENT", "")] {
        let name = files(sound.path(), suffix, prefix).remove(0).file_name().expect("name").to_owned();
        let fate = damaged(sound.path(), |dir| fs::remove_file(database(dir).join(&name)).expect("remove"));
        assert_eq!(fate, Fate::DroppedAtOpen, "{name:?} is missing");
        let fate = damaged(sound.path(), |dir| {
            let path = database(dir).join(&name);
            let bytes = fs::read(&path).expect("read");
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("write");
        });
        // A manifest that ends early may be a whole one of an earlier moment.
        assert!(fate == Fate::DroppedAtOpen || prefix == "MANIFEST", "{name:?} is cut: {fate:?}");
    }
}

/// Changes the database behind the index's back, so that all of RocksDB's own checksums are right.
fn rewrite(dir: &Path, change: impl FnOnce(&rocksdb::DB)) {
    let db = rocksdb::DB::open_default(database(dir)).expect("raw open");
    change(&db);
    db.flush().expect("raw flush");
}

fn row_key(chunk: u64) -> Vec<u8> {
    [b"r", &id(chunk).bytes()[..]].concat()
}

#[test]
fn each_byte_of_a_row_is_protected() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    for at in 0..COPY_LEN {
        let fate = damaged(sound.path(), |dir| {
            rewrite(dir, |db| {
                let mut value = db.get(row_key(0)).expect("get").expect("row");
                value[at] ^= 0x10;
                db.put(row_key(0), value).expect("put");
            });
        });
        assert_eq!(fate, Fate::FoundInUse, "byte {at}");
    }
    let fate = damaged(sound.path(), |dir| {
        rewrite(dir, |db| db.put(row_key(0), &db.get(row_key(1)).expect("get").expect("row")[..]).expect("put"));
    });
    assert_eq!(fate, Fate::FoundInUse, "a row under another key");
    let fate = damaged(sound.path(), |dir| rewrite(dir, |db| db.put(row_key(0), b"short").expect("put")));
    assert_eq!(fate, Fate::FoundInUse, "a row of another length");
}

#[test]
fn a_number_that_means_another_pack_is_found() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    let key = [&b"p"[..], &0u32.to_be_bytes()].concat();
    let fate = damaged(sound.path(), |dir| {
        let other = [&pack(77).to_bytes()[..], &epoch(0).to_le_bytes()].concat();
        rewrite(dir, |db| db.put(&key, checked(&key, &other)).expect("put"));
    });
    assert_eq!(fate, Fate::FoundInUse);
    let fate = damaged(sound.path(), |dir| rewrite(dir, |db| db.delete(&key).expect("delete")));
    assert_eq!(fate, Fate::FoundInUse);
}

#[test]
fn another_repository_or_version_is_dropped() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    let stamp = |version: u32, uuid: &[u8]| checked(b"m-stamp", &[&version.to_le_bytes()[..], uuid].concat());
    for (value, says) in [
        (stamp(1, &[9; 16]), "another repository"),
        (stamp(0, REPOSITORY.bytes()), "version 0"),
        (stamp(2, REPOSITORY.bytes()), "version 2"),
        (b"junk".to_vec(), "what it is"),
    ] {
        let copy = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(copy.path().join(REPOSITORY.to_string())).expect("mkdir");
        make(copy.path());
        rewrite(copy.path(), |db| db.put(b"m-stamp", value).expect("put"));
        let (index, opened) = open(copy.path());
        assert!(matches!(&opened, Opened::Dropped(why) if why.contains(says)), "{opened:?}");
        assert_eq!(found(&index, 0), 0);
        drop(index);
        assert_eq!(open(copy.path()).1, Opened::Reused);
    }
    // A folder of another repository under this one's name.
    let mut other = options(sound.path());
    other.repository = RepositoryId::new([1; 16]);
    fs::create_dir_all(sound.path().join(other.repository.to_string())).expect("mkdir");
    fs::rename(database(sound.path()), sound.path().join(other.repository.to_string()).join("index")).expect("rename");
    let opened = ChunkIndex::open(&other).expect("open").1;
    assert!(matches!(&opened, Opened::Dropped(why) if why.contains("another repository")), "{opened:?}");
}

#[test]
fn what_is_no_database_is_dropped() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir_all(database(dir.path())).expect("mkdir");
    fs::write(database(dir.path()).join("000007.sst"), b"junk").expect("write");
    assert!(matches!(open(dir.path()).1, Opened::Dropped(_)));
    assert_eq!(open(dir.path()).1, Opened::Reused);
}

#[test]
fn deleting_the_folder_while_it_is_used_harms_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (index, _) = open(dir.path());
    for n in 0..20 {
        insert(&index, n).expect("insert");
    }
    index.flush().expect("flush");
    fs::remove_dir_all(dir.path()).expect("remove");
    let mut told = 0;
    for n in 20..200 {
        told += usize::from(insert(&index, n).is_err());
        assert!(found(&index, n) == 100 || index.failure().is_some());
    }
    told += usize::from(index.flush().is_err());
    assert!(told <= 1, "told {told} times");
    drop(index);
    assert_eq!(open(dir.path()).1, Opened::Fresh);
}

#[test]
fn a_note_on_sampling_that_nobody_writes_is_damage() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    for (body, want) in [
        (&[2, 1][..], Fate::Unnoticed),
        // With so many no row would ever be kept.
        (&[17, 1], Fate::DroppedAtOpen),
        (&[2, 7], Fate::DroppedAtOpen),
        (&[2], Fate::DroppedAtOpen),
    ] {
        let put = |db: &rocksdb::DB| db.put(b"m-sampling", checked(b"m-sampling", body)).expect("put");
        assert_eq!(damaged(sound.path(), |dir| rewrite(dir, put)), want, "{body:?}");
    }
}

#[test]
fn a_note_of_damage_counts_whatever_it_says() {
    let sound = tempfile::tempdir().expect("tempdir");
    make(sound.path());
    for note in [&b"why"[..], b"\xff\xfe"] {
        let fate = damaged(sound.path(), |dir| {
            let beside = database(dir).with_file_name("index.damaged");
            fs::write(beside, note).expect("write");
        });
        assert_eq!(fate, Fate::DroppedAtOpen, "{note:?}");
    }
}

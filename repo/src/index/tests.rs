//! Tests of the index: what it is asked here, and by theme in the files beside.

mod bounds;
mod crash;
mod damage;
mod full;
mod measure;
mod model;
mod process;

use super::{ChunkIndex, IndexOptions, Opened, Row};
use crate::{Codec, ErrorKind, Location, PackId, PackKind, RepositoryId, SessionId, ShortId};
use std::path::{Path, PathBuf};

pub(super) const REPOSITORY: RepositoryId = RepositoryId::new([0xab; 16]);

pub(super) fn options(dir: &Path) -> IndexOptions {
    IndexOptions { dir: dir.to_owned(), repository: REPOSITORY, memory: 4 << 20, max_disk: 1 << 30 }
}

pub(super) fn open(dir: &Path) -> (ChunkIndex, Opened) {
    ChunkIndex::open(&options(dir)).expect("open")
}

/// Where RocksDB keeps its files.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(REPOSITORY.to_string()).join("index")
}

pub(super) fn id(n: u64) -> ShortId {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&n.to_le_bytes()).as_bytes()[..16]);
    ShortId::new(out)
}

pub(super) fn pack(n: u32) -> PackId {
    PackId {
        kind: PackKind::Data,
        session: SessionId::new([3; 16]),
        seq: n,
        random: 0x1234_5678_9abc_def0 ^ u64::from(n),
    }
}

pub(super) fn epoch(n: u32) -> u32 {
    n % 3
}

/// Rows of pack `n` for the chunks of these numbers.
pub(super) fn rows(n: u32, chunks: impl IntoIterator<Item = u64>) -> Vec<Row> {
    let row = |(ordinal, chunk): (usize, u64)| Row {
        id: id(chunk),
        ordinal: ordinal as u32,
        offset: 64 + 70_000 * ordinal as u32,
        len: 60_000 + n % 1000 + ordinal as u32,
        codec: [Codec::Raw, Codec::Lz4, Codec::Zstd][(n as usize + ordinal) % 3],
    };
    chunks.into_iter().enumerate().map(row).collect()
}

pub(super) fn location(n: u32, row: &Row) -> Location {
    Location {
        pack: pack(n),
        epoch: epoch(n),
        ordinal: row.ordinal,
        offset: row.offset,
        len: row.len,
        codec: row.codec,
    }
}

/// Chunks of pack `n` when each pack has its own.
pub(super) fn chunks(n: u32) -> std::ops::Range<u64> {
    let first = u64::from(n) * 100;
    first..first + 100
}

/// Inserts pack `n` with chunks of its own.
pub(super) fn insert(index: &ChunkIndex, n: u32) -> crate::Result<()> {
    index.insert(&pack(n), epoch(n), &rows(n, chunks(n)))
}

/// How many chunks of pack `n` are known; a location that is not theirs fails the test.
pub(super) fn found(index: &ChunkIndex, n: u32) -> usize {
    let hits = rows(n, chunks(n)).into_iter().filter(|row| {
        let found = index.lookup(&row.id).expect("lookup");
        assert!(found.is_empty() || found == [location(n, row)], "pack {n}: {found:?}");
        !found.is_empty()
    });
    hits.count()
}

fn both() -> (tempfile::TempDir, [ChunkIndex; 2]) {
    let dir = tempfile::tempdir().expect("tempdir");
    let rocks = open(dir.path()).0;
    (dir, [rocks, ChunkIndex::in_memory(16 << 20)])
}

#[test]
fn finds_what_was_inserted_and_nothing_else() {
    let (_dir, indexes) = both();
    for index in indexes {
        assert_eq!(index.lookup(&id(0)).expect("lookup"), []);
        insert(&index, 0).expect("insert");
        insert(&index, 1).expect("insert");
        assert_eq!((found(&index, 0), found(&index, 1), found(&index, 2)), (100, 100, 0));
        assert!(index.covered_pack(&pack(1)).expect("covered"));
        assert!(!index.covered_pack(&pack(2)).expect("covered"));
        assert!(!index.is_covered("idx/one").expect("covered"));
        index.cover("idx/one").expect("cover");
        assert!(index.is_covered("idx/one").expect("covered"));
        assert_eq!(index.failure(), None);
    }
}

#[test]
fn keeps_the_newest_copies_and_takes_a_pack_twice() {
    let (_dir, indexes) = both();
    for index in indexes {
        for n in [5, 9, 7, 9, 5] {
            index.insert(&pack(n), epoch(n), &rows(n, [1, 2, 1])).expect("insert");
        }
        let expected =
            |ordinal: usize| -> Vec<Location> { [7, 9, 5].map(|n| location(n, &rows(n, [1, 2, 1])[ordinal])).into() };
        // A chunk that stands in a pack twice is known by its last place.
        assert_eq!(index.lookup(&id(1)).expect("lookup"), expected(2));
        assert_eq!(index.lookup(&id(2)).expect("lookup"), expected(1));
        for n in 10..40 {
            index.insert(&pack(n), epoch(n), &rows(n, [1])).expect("insert");
        }
        assert_eq!(index.lookup(&id(1)).expect("lookup").len(), super::row::MAX_COPIES);
    }
}

#[test]
fn refuses_what_cannot_be_a_row() {
    let (_dir, [index, memory]) = both();
    let mut row = rows(1, [1]);
    row[0].len = 1 << 24;
    for index in [&index, &memory] {
        assert_eq!(index.insert(&pack(1), 0, &row).expect_err("too long").kind(), ErrorKind::Invalid);
    }
    row[0].len = (1 << 24) - 1;
    index.insert(&pack(1), 0, &row).expect("insert");
    assert_eq!(index.lookup(&id(1)).expect("lookup")[0].len, (1 << 24) - 1);
    assert_eq!(index.insert(&pack(1), 1, &row).expect_err("other epoch").kind(), ErrorKind::Invalid);
    assert_eq!(index.failure(), None, "a refused call is no failure of the index");
}

#[test]
fn is_there_after_closing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (index, opened) = open(dir.path());
    assert_eq!(opened, Opened::Fresh);
    insert(&index, 4).expect("insert");
    index.cover("idx/a").expect("cover");
    drop(index);
    let (index, opened) = open(dir.path());
    assert_eq!(opened, Opened::Reused);
    insert(&index, 5).expect("insert");
    assert_eq!((found(&index, 4), found(&index, 5)), (100, 100));
    assert!(index.is_covered("idx/a").expect("covered"));
    drop(index);
    ChunkIndex::destroy(dir.path(), &REPOSITORY).expect("destroy");
    let (index, opened) = open(dir.path());
    assert_eq!((opened, found(&index, 4)), (Opened::Fresh, 0));
}

#[test]
fn many_threads_ask_while_one_inserts() {
    let (_dir, indexes) = both();
    for index in indexes {
        let index = &index;
        std::thread::scope(|scope| {
            for first in [0, 20] {
                scope.spawn(move || (first..first + 20).for_each(|n| insert(index, n).expect("insert")));
            }
            for _ in 0..3 {
                scope.spawn(move || (0..40).for_each(|n| assert!(found(index, n) <= 100)));
            }
        });
        assert!((0..40).all(|n| found(index, n) == 100));
    }
}

//! What is inside a run before it commits.

use super::*;
use crate::progress::Screen;
use std::io::Write;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::Memory;
use wherry_repo::{Components, Credential, ErrorKind, InitOptions, PasswordCost, Repository, System, WriterOptions};

const UNIT: usize = 64 << 10;

fn repository() -> Repository {
    let system = Arc::new(System::default());
    let components = Components { storage: Arc::new(Memory::default()), clock: system.clone(), rng: system };
    let mut options = InitOptions::default();
    options.chunk_size = UNIT as u32;
    options.password_cost = PasswordCost::new(8, 1);
    Repository::init(components, &options, &Credential::Password("x".to_owned().into())).unwrap()
}

#[test]
fn the_map_of_a_stream_follows_while_it_is_read() {
    let repository = repository();
    let (read, mut write) = std::io::pipe().unwrap();
    let chunk = |n: u64| (n + 1).to_le_bytes().repeat(UNIT / 8);
    let disk: Vec<u8> = (0..70).flat_map(chunk).chain([1; 100]).collect();
    let len = disk.len() as u64;
    let writing = std::thread::spawn(move || write.write_all(&disk).unwrap());
    let options = WriterOptions { name: "vm".into(), pack_size: 1 << 20, ..WriterOptions::default() };
    let writer = SnapshotWriter::start(&repository, Arc::new(ChunkIndex::in_memory(1 << 20)), &options).unwrap();
    let (source, pool) = (Source::stream(read.into()), BufferPool::new(4 * UNIT, 4).unwrap());
    let cancel = Cancel::default();
    let backup = Backup {
        source,
        writer,
        pool: &pool,
        depth: 4,
        workers: 3,
        changed: None,
        allocated: None,
        limit_read: None,
        beat: BEAT,
        progress: Screen::new(true, true).progress("backup", None),
        cancel: &cancel,
    };
    let done = backup.read().unwrap();
    writing.join().unwrap();
    assert_eq!((done.size, done.hole), (len, 0));
    // The map has gone past the first chunk: it does not take another one in its place.
    backup.writer.put(&mut backup.writer.scratch().unwrap(), 0, &chunk(1000)).unwrap();
    let committed = backup.writer.commit(CommitInfo { size: len, ..CommitInfo::default() });
    let error = committed.expect_err("all chunks were kept in memory");
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
}

//! What is inside a run before it commits.

use super::*;
use crate::progress::Screen;
use std::io::Write;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{Components, Credential, ErrorKind, InitOptions, PasswordCost, Repository, System, WriterOptions};

const UNIT: usize = 64 << 10;

fn repository() -> Repository {
    on(Arc::new(Memory::default()))
}

fn on(storage: Arc<Memory>) -> Repository {
    let system = Arc::new(System::default());
    let components = Components { storage, clock: system.clone(), rng: system };
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
    let (source, pool) = (Source::stream(read.into(), None), BufferPool::new(4 * UNIT, 4).unwrap());
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

/// How many sessions have an outcome, and so are over.
fn outcomes(storage: &Memory) -> usize {
    let mut found = 0;
    let mut count = |_| {
        found += 1;
        Ok(())
    };
    storage.list("snap/", &mut count).unwrap();
    found
}

/// A volume that is gone by the time its run has begun: `gc` on another machine would wait for that run for two hours.
#[test]
fn a_run_whose_source_cannot_be_opened_is_over() {
    let storage = Arc::new(Memory::default());
    let repository = on(storage.clone());
    let options = WriterOptions { name: "vm".into(), pack_size: 1 << 20, ..WriterOptions::default() };
    let start = || SnapshotWriter::start(&repository, Arc::new(ChunkIndex::in_memory(1 << 20)), &options).unwrap();
    let outcomes = || outcomes(&storage);
    let (open, ()) = runs::or_abandon(start(), Ok(())).unwrap();
    assert_eq!(outcomes(), 0);
    let error = runs::or_abandon::<()>(start(), Err(anyhow::anyhow!("the volume is gone"))).unwrap_err();
    assert_eq!((error.to_string().as_str(), outcomes()), ("the volume is gone", 1));
    drop(open);
}

/// Likewise where no thread can be had for its signs of life.
#[test]
fn a_run_that_cannot_give_signs_of_life_is_over() {
    let storage = Arc::new(Memory::default());
    let repository = on(storage.clone());
    let options = WriterOptions { name: "vm".into(), pack_size: 1 << 20, ..WriterOptions::default() };
    let outcomes = || outcomes(&storage);
    let writer = SnapshotWriter::start(&repository, Arc::new(ChunkIndex::in_memory(1 << 20)), &options).unwrap();
    drop(Beating::start(writer.pulse(), BEAT).unwrap());
    assert_eq!(outcomes(), 0);
    // More memory for its stack than there is.
    let thread = std::thread::Builder::new().stack_size(1 << 60);
    let error = Beating::by(thread, writer.pulse(), BEAT).unwrap_err();
    assert!(error.to_string().contains("no thread could be started"), "{error:#}");
    assert_eq!(outcomes(), 1);
}

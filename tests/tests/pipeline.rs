//! The pipeline of a backup in this process: what cannot be seen from outside within a minute.

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use wherry::backup::Backup;
use wherry::progress::Screen;
use wherry::signals::Cancel;
use wherry_block::{BufferPool, Engine, Source};
use wherry_repo::format::records::Generation;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail, keys};
use wherry_repo::{
    CommitInfo, Error, ErrorKind, PackId, PackKind, Repository, Result, Snapshot, SnapshotWriter, WriterOptions,
};
use wherry_tests::small::*;

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs of life come as fast as they can.
const OFTEN: Duration = Duration::from_millis(1);

/// One run. An error is its kind and its text.
fn run(repository: &Repository, source: Source, uploads: usize) -> Result<Snapshot, (Option<ErrorKind>, String)> {
    let options = WriterOptions { uploads, pack_size: 32 << 20, ..options("vm") };
    let writer = SnapshotWriter::start(repository, index(), &options).unwrap();
    let pool = BufferPool::new(1 << 20, 4).unwrap();
    let progress = Screen::new(true, true).progress("backup", None);
    let cancel = Cancel::default();
    let work = Backup {
        source,
        writer,
        pool: &pool,
        depth: 4,
        workers: 3,
        changed: None,
        allocated: None,
        limit_read: None,
        beat: OFTEN,
        progress,
        cancel: &cancel,
    };
    work.run(CommitInfo::default())
        .map(|(snapshot, _)| snapshot)
        .map_err(|e| (e.downcast_ref().map(Error::kind), e.to_string()))
}

/// Packs are stored when the run has given so many signs of life after they came.
#[derive(Debug)]
struct Slow {
    inner: Memory,
    beats: Mutex<usize>,
    beaten: Condvar,
}

impl Slow {
    const BEATS: usize = 3;
}

impl Storage for Slow {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.inner.get_tail(key, len)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.inner.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        if key.as_str().starts_with(keys::PACKS) {
            let mut beats = self.beats.lock();
            let enough = *beats + Self::BEATS;
            while *beats < enough {
                if self.beaten.wait_for(&mut beats, PATIENCE).timed_out() {
                    return Err(Error::new(ErrorKind::Unavailable, "the run is silent while its packs are stored"));
                }
            }
        }
        self.inner.create(key, body)
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        if key.as_str().ends_with("/beat") {
            *self.beats.lock() += 1;
            self.beaten.notify_all();
        }
        self.inner.overwrite(key, body)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
}

#[test]
fn a_run_gives_signs_of_life_until_it_has_committed() {
    let storage = Arc::new(Slow { inner: Memory::default(), beats: Mutex::default(), beaten: Condvar::new() });
    let repository = init(storage).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let disk = noise(1, 20 * UNIT + 5);
    fs::write(folder.path().join("disk"), &disk).unwrap();
    let source = Source::open(&folder.path().join("disk"), Engine::Threads).unwrap();
    // One pack, which is not full before the end: it is stored by the commit.
    let snapshot = run(&repository, source, 1).unwrap();
    assert!(restore(&repository, &snapshot).unwrap() == disk);
}

/// A pipe that holds `content` and does not end before the writer is dropped.
fn pipe(content: &[u8]) -> (Source, std::io::PipeWriter) {
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(content).unwrap();
    (Source::stream(OwnedFd::from(read), None), write)
}

#[test]
fn a_run_that_a_collector_ended_does_not_wait_for_its_source() {
    let (storage, repository) = in_memory();
    let (source, input) = pipe(b"some bytes, and no end");
    let (tell, told) = channel();
    let this = repository.clone();
    let running = std::thread::spawn(move || tell.send(run(&this, source, 1).map(|s| s.id)));
    let seen = |key: &Key| keys::parse_session(key).filter(|(_, part)| part.starts_with("seen")).map(|(id, _)| id);
    let session = loop {
        if let Some(id) = keys_of(&*storage).iter().find_map(seen) {
            break id;
        }
        assert!(!running.is_finished(), "{:?}", told.recv());
    };
    // A pack of its own is condemned.
    let condemned = vec![PackId { kind: PackKind::Data, session, seq: 0, random: 1 }];
    repository.publish_generation(1, &Generation { condemned, ..Generation::default() }).unwrap();
    let ended = told.recv_timeout(PATIENCE);
    // Whatever waits for it wakes up.
    drop(input);
    let (kind, text) = ended.expect("it waits for its source for ever").unwrap_err();
    assert_eq!(kind, Some(ErrorKind::Conflict), "{text}");
    running.join().unwrap().unwrap();
}

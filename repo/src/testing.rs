//! A small repository, for tests of what can only be seen from inside.

use crate::index::ChunkIndex;
use crate::storage::{Listed, Memory, Storage, Tail};
use crate::{
    Clock, CommitInfo, Components, Credential, Error, ErrorKind, InitOptions, Key, ParentChoice, PasswordCost,
    Repository, Result, Snapshot, SnapshotWriter, System, Timestamp, WriterOptions,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

/// Chunk size in bytes.
pub(crate) const UNIT: usize = 64 << 10;

/// Time that goes on when it is told to.
#[derive(Debug, Default)]
pub(crate) struct StillClock(AtomicI64);

impl StillClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as i64, Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_780_000_000_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed).unsigned_abs())
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// A storage in memory that can refuse to be written to or not answer, does something before or after an object is created,
/// and counts requests.
pub(crate) struct Watched {
    pub(crate) inner: Memory,
    /// Below which prefix it refuses to be written to, and how.
    pub(crate) refuses: Mutex<Option<(&'static str, ErrorKind)>>,
    /// Nothing below this prefix answers.
    pub(crate) silent: Mutex<Option<&'static str>>,
    /// It is listed and is not given.
    pub(crate) ghost: Mutex<Option<Key>>,
    /// A disk of this machine, which cannot read this object.
    pub(crate) unreadable: Mutex<Option<Key>>,
    /// Requests that had no answer.
    pub(crate) unanswered: AtomicUsize,
    /// What is done, once, after an object was created whose key has this in it.
    pub(crate) after: Mutex<Option<(&'static str, Box<dyn FnOnce(&Key) + Send>)>>,
    /// What is done, once, before an object is created whose key ends so.
    pub(crate) before: Mutex<Option<(&'static str, Hook)>>,
    /// Listings and reads of ends of packs.
    pub(crate) lookups: AtomicUsize,
    /// Reads of parts of objects, their ends included.
    parts: AtomicUsize,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Watched {
    /// Reads of parts of objects so far.
    pub(crate) fn reads(&self) -> usize {
        self.parts.load(Ordering::Relaxed)
    }

    fn answer(&self, name: &str) -> Result<()> {
        if !self.silent.lock().is_some_and(|prefix| name.starts_with(prefix)) {
            return Ok(());
        }
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Err(Error::new(ErrorKind::Unavailable, format!("no answer for {name}")))
    }

    fn admit(&self, key: &Key) -> Result<()> {
        self.answer(key.as_str())?;
        match *self.refuses.lock() {
            Some((prefix, kind)) if key.as_str().starts_with(prefix) => {
                Err(Error::new(kind, "nothing may be written here"))
            }
            _ => Ok(()),
        }
    }
}

impl Storage for Watched {
    fn location(&self) -> String {
        "memory".into()
    }
    fn is_local(&self) -> bool {
        self.unreadable.lock().is_some()
    }
    fn get(&self, key: &Key) -> Result<Bytes> {
        self.answer(key.as_str())?;
        if self.unreadable.lock().as_ref() == Some(key) {
            let source = std::io::Error::from_raw_os_error(5);
            return Err(Error::new(ErrorKind::Unavailable, "Input/output error").with_source(source).with_object(key));
        }
        if self.ghost.lock().as_ref() == Some(key) {
            return Err(Error::new(ErrorKind::NotFound, "it is listed and not given"));
        }
        self.inner.get(key)
    }
    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.parts.fetch_add(1, Ordering::Relaxed);
        self.answer(key.as_str())?;
        self.inner.get_range(key, range)
    }
    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.parts.fetch_add(1, Ordering::Relaxed);
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.answer(key.as_str())?;
        self.inner.get_tail(key, len)
    }
    fn head(&self, key: &Key) -> Result<Listed> {
        self.answer(key.as_str())?;
        self.inner.head(key)
    }
    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let hook = self.before.lock().take_if(|(ends, _)| key.as_str().ends_with(*ends));
        hook.into_iter().for_each(|(_, hook)| hook());
        self.admit(key)?;
        self.inner.create(key, body)?;
        let hook = self.after.lock().take_if(|(part, _)| key.as_str().contains(*part));
        hook.into_iter().for_each(|(_, hook)| hook(key));
        Ok(())
    }
    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.admit(key)?;
        self.inner.overwrite(key, body)
    }
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.answer(prefix)?;
        self.inner.list(prefix, visit)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.admit(key)?;
        self.inner.delete(key)
    }
}

/// A new repository, its storage and its clock.
pub(crate) fn repository() -> (Arc<Watched>, Arc<StillClock>, Repository) {
    let clock = Arc::new(StillClock::default());
    let storage = Arc::new(Watched {
        inner: Memory::new(clock.clone()),
        refuses: Mutex::default(),
        silent: Mutex::default(),
        ghost: Mutex::default(),
        unreadable: Mutex::default(),
        unanswered: AtomicUsize::new(0),
        after: Mutex::default(),
        before: Mutex::default(),
        lookups: AtomicUsize::new(0),
        parts: AtomicUsize::new(0),
    });
    let components = Components { storage: storage.clone(), clock: clock.clone(), rng: Arc::new(System::default()) };
    let cheap = PasswordCost { memory_kib: 8, passes: 1 };
    let options = InitOptions { chunk_size: UNIT as u32, password_cost: cheap, ..InitOptions::default() };
    let repository = Repository::init(components, &options, &password()).unwrap();
    (storage, clock, repository)
}

pub(crate) fn password() -> Credential {
    Credential::Password("x".to_owned().into())
}

/// A writer that knows nothing of what is stored.
pub(crate) fn writer(repository: &Repository, name: &str) -> SnapshotWriter {
    let options = WriterOptions {
        name: name.into(),
        pack_size: 512 << 10,
        uploads: 0,
        parent: ParentChoice::None,
        ..WriterOptions::default()
    };
    SnapshotWriter::start(repository, Arc::new(ChunkIndex::in_memory(1 << 20)), &options).unwrap()
}

/// Chunk `n` of every disk here; half of it compresses.
pub(crate) fn chunk(n: u64) -> Vec<u8> {
    let mut chunk = vec![0; UNIT];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut chunk[..UNIT / 2]);
    chunk
}

/// Stores a disk of so many chunks, whatever is stored already.
pub(crate) fn backup(repository: &Repository, name: &str, chunks: u64) -> Snapshot {
    let writer = writer(repository, name);
    let mut scratch = writer.scratch().unwrap();
    for n in 0..chunks {
        writer.put(&mut scratch, n, &chunk(n)).unwrap();
        writer.advance(n + 1).unwrap();
    }
    writer.commit(CommitInfo { size: chunks * UNIT as u64, ..CommitInfo::default() }).unwrap()
}

//! A storage in memory that lets a test meddle with each call: fail it, before or after it took effect, or do something
//! else first, as another process would.

use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail};
use wherry_repo::{Error, ErrorKind, Result, Timestamp};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read of an object, or a part of it.
    Read,
    /// A create or an overwrite.
    Write,
    /// A listing; the name is its prefix.
    List,
    /// A delete.
    Delete,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Fate {
    /// What it should.
    Done,
    /// It fails and has no effect.
    Fails(Error),
    /// It takes effect, and fails all the same.
    ReplyLost(Error),
}

type Meddler = Box<dyn FnMut(Call, &str) -> Fate + Send>;

/// The storage.
pub struct Meddling {
    /// What holds the objects; calls to it are let alone.
    pub inner: Arc<Memory>,
    local: bool,
    meddler: Mutex<Meddler>,
}

impl fmt::Debug for Meddling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddling").field("inner", &self.inner).field("local", &self.local).finish_non_exhaustive()
    }
}

impl Meddling {
    /// Over these objects; `local`: it says that it is a disk of this machine.
    pub fn new(inner: Arc<Memory>, local: bool) -> Arc<Self> {
        Arc::new(Self { inner, local, meddler: Mutex::new(Box::new(|_, _| Fate::Done)) })
    }

    /// From now on `meddler` decides on each call, by what is called and the key.
    pub fn meddle(&self, meddler: impl FnMut(Call, &str) -> Fate + Send + 'static) {
        *self.meddler.lock() = Box::new(meddler);
    }

    /// From now on all calls are let alone.
    pub fn leave_alone(&self) {
        self.meddle(|_, _| Fate::Done);
    }

    fn call<T>(&self, call: Call, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let fate = (self.meddler.lock())(call, name);
        match fate {
            Fate::Done => work(),
            Fate::Fails(error) => Err(error),
            Fate::ReplyLost(error) => work().and(Err(error)),
        }
    }
}

/// A fault that may pass; on a local disk a bad sector.
pub fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "no answer").with_source(std::io::Error::from_raw_os_error(5))
}

impl Storage for Meddling {
    fn location(&self) -> String {
        "meddling".into()
    }

    fn is_local(&self) -> bool {
        self.local
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.call(Call::Read, key.as_str(), || self.inner.get(key))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.call(Call::Read, key.as_str(), || self.inner.get_range(key, range))
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.call(Call::Read, key.as_str(), || self.inner.get_tail(key, len))
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.call(Call::Read, key.as_str(), || self.inner.head(key))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.call(Call::Write, key.as_str(), || self.inner.create(key, body))
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.call(Call::Write, key.as_str(), || self.inner.overwrite(key, body))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.call(Call::List, prefix, || self.inner.list(prefix, visit))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.call(Call::Delete, key.as_str(), || self.inner.delete(key))
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        self.inner.time()
    }

    fn free(&self) -> Option<u64> {
        self.inner.free()
    }
}

//! A storage that stops working at one chosen mutation, in one of three ways, as a crash or a lost connection does.

use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail};
use wherry_repo::{Error, ErrorKind, Result};

/// What becomes of the mutation at which it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It never happened.
    NotApplied,
    /// It happened, and nobody was told.
    ReplyLost,
    /// It happened, the reply was lost, and the same was sent again.
    Twice,
    /// It never happened, and everything after it works again.
    Refused,
}

/// All ways.
pub const CUTS: [Cut; 4] = [Cut::NotApplied, Cut::ReplyLost, Cut::Twice, Cut::Refused];

/// Counts mutations, and works no more from the chosen one on.
#[derive(Debug)]
pub struct Cutting {
    inner: Arc<Memory>,
    at: u64,
    how: Cut,
    seen: AtomicU64,
}

impl Cutting {
    /// Stops at mutation number `at`, counted from 1; 0 never stops.
    pub fn new(inner: Arc<Memory>, at: u64, how: Cut) -> Self {
        Self { inner, at, how, seen: AtomicU64::new(0) }
    }

    /// Mutations so far.
    pub fn mutations(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// True when the cut has been reached.
    pub fn is_cut(&self) -> bool {
        self.at != 0 && self.how != Cut::Refused && self.mutations() >= self.at
    }

    fn dead() -> Error {
        Error::new(ErrorKind::Unavailable, "the storage was cut off")
    }

    fn alive(&self) -> Result<()> {
        if self.is_cut() { Err(Self::dead()) } else { Ok(()) }
    }

    fn mutate(&self, apply: impl Fn() -> Result<()>) -> Result<()> {
        self.alive()?;
        let n = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if n != self.at {
            return apply();
        }
        match self.how {
            Cut::NotApplied | Cut::Refused => {}
            Cut::ReplyLost => drop(apply()),
            Cut::Twice => {
                drop(apply());
                drop(apply());
            }
        }
        Err(Self::dead())
    }
}

impl Storage for Cutting {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.alive()?;
        self.inner.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.alive()?;
        self.inner.get_range(key, range)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.alive()?;
        self.inner.get_tail(key, len)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.alive()?;
        self.inner.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.mutate(|| self.inner.create(key, body.clone()))
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.mutate(|| self.inner.overwrite(key, body.clone()))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.alive()?;
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.mutate(|| self.inner.delete(key))
    }
}

//! Counting requests and bytes: what a run costs.

use super::{Key, Listed, Lock, Storage, Tail};
use crate::{Result, Timestamp};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Requests of one verb.
#[derive(Debug, Default)]
pub struct Verb {
    requests: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Verb {
    /// Calls, failed ones included. A listing is one call, however many pages it has.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Calls that failed, "no such object" and "exists already" included.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Bytes of bodies that came or were acknowledged; for listings the number of objects.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    fn count<T>(&self, outcome: Result<T>, bytes: impl FnOnce(&T) -> u64) -> Result<T> {
        self.requests.fetch_add(1, Relaxed);
        match &outcome {
            Ok(value) => self.bytes.fetch_add(bytes(value), Relaxed),
            Err(_) => self.failed.fetch_add(1, Relaxed),
        };
        outcome
    }
}

/// The counters of one storage, shared with whoever shows them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Whole objects, ranges and tails read.
    pub get: Verb,
    /// Lengths asked for.
    pub head: Verb,
    /// Objects created.
    pub create: Verb,
    /// Objects overwritten.
    pub overwrite: Verb,
    /// Listings.
    pub list: Verb,
    /// Objects deleted.
    pub delete: Verb,
}

/// A [`Storage`] that counts. Below `Retrying` it counts requests, above it calls.
#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn Storage>,
    counters: Arc<Counters>,
}

impl Metered {
    /// Counts the calls to `inner` in `counters`.
    pub fn new(inner: Arc<dyn Storage>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

impl Storage for Metered {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    fn lock(&self, holder: &str) -> Result<Option<Lock>> {
        self.inner.lock(holder)
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.counters.get.count(self.inner.get(key), |bytes| bytes.len() as u64)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.counters.get.count(self.inner.get_range(key, range), |bytes| bytes.len() as u64)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.counters.get.count(self.inner.get_tail(key, len), |tail| tail.bytes.len() as u64)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.counters.head.count(self.inner.head(key), |_| 0)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let len = body.len() as u64;
        self.counters.create.count(self.inner.create(key, body), |()| len)
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        let len = body.len() as u64;
        self.counters.overwrite.count(self.inner.overwrite(key, body), |()| len)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut objects = 0;
        let outcome = self.inner.list(prefix, &mut |found| {
            objects += 1;
            visit(found)
        });
        self.counters.list.count(outcome, |()| objects)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.counters.delete.count(self.inner.delete(key), |()| 0)
    }

    fn make_durable(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        self.inner.make_durable(keys)
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        match self.inner.time() {
            Ok(None) => Ok(None),
            // The answer to a listing says it.
            told => self.counters.list.count(told, |_| 0),
        }
    }

    fn free(&self) -> Option<u64> {
        self.inner.free()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Memory;

    #[test]
    fn a_disk_of_this_machine_stays_one() {
        let counted = |inner| Metered::new(inner, Arc::default()).is_local();
        assert!(counted(Arc::new(crate::storage::Local::new("/", false))) && !counted(Arc::new(Memory::default())));
    }

    #[test]
    fn every_verb_counts() {
        let counters = Arc::new(Counters::default());
        let metered = Metered::new(Arc::new(Memory::default()), Arc::clone(&counters));
        let key = Key::new("a/b").unwrap();
        metered.create(&key, Bytes::from_static(b"12345")).unwrap();
        metered.create(&key, Bytes::from_static(b"12345")).unwrap_err();
        metered.overwrite(&key, Bytes::from_static(b"1234567")).unwrap();
        metered.get(&key).unwrap();
        metered.get_range(&key, 1..3).unwrap();
        metered.get_tail(&key, 4).unwrap();
        metered.head(&key).unwrap();
        metered.list("a/", &mut |_| Ok(())).unwrap();
        metered.delete(&key).unwrap();
        let shown = |verb: &Verb| (verb.requests(), verb.failed(), verb.bytes());
        let Counters { get, head, create, overwrite, list, delete } = &*counters;
        assert_eq!([shown(get), shown(head), shown(create)], [(3, 0, 13), (1, 0, 0), (2, 1, 5)]);
        assert_eq!([shown(overwrite), shown(list), shown(delete)], [(1, 0, 7), (1, 0, 1), (1, 0, 0)]);
    }
}

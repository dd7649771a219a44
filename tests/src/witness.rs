//! A storage in memory that sees what a writer does: in which order objects came to be, whether an index speaks of a
//! pack too early, which packs a reader needs. On demand one request fails, or something happens at a bad moment.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::{Listed, Memory, Tail, keys};
use wherry_repo::{Clock, Error, ErrorKind, Key, Result, Storage};

/// A request that fails, once.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Of reads, or of writes.
    pub read: bool,
    /// Keys that begin so.
    pub prefix: &'static str,
    /// And hold this.
    pub part: String,
    /// So many are let pass before.
    pub skip: u32,
    /// Writes: it happens, and only the reply is lost.
    pub applied: bool,
}

type Hook = Box<dyn FnOnce() + Send>;

/// The storage.
pub struct Witness {
    inner: Memory,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    /// When each object came to be, counted in objects.
    order: HashMap<Key, u64>,
    read: BTreeSet<Key>,
    fault: Option<Fault>,
    fired: Option<Key>,
    slow: bool,
    indexes: Vec<Weak<ChunkIndex>>,
    on_open: Option<Hook>,
    before_outcome: Option<Hook>,
    broken: Vec<String>,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

/// Time a slow storage takes for a pack.
const SLOW: Duration = Duration::from_micros(300);

impl Witness {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { inner: Memory::new(clock), notes: Mutex::default() }
    }

    /// When the object came to be, counted in objects.
    pub fn order(&self, key: &Key) -> Option<u64> {
        self.notes.lock().order.get(key).copied()
    }

    /// The packs of which something was read since the last call, there or not.
    pub fn take_read(&self) -> BTreeSet<Key> {
        std::mem::take(&mut self.notes.lock().read)
    }

    /// From now on one request fails.
    pub fn arm(&self, fault: Fault) {
        let mut notes = self.notes.lock();
        (notes.fault, notes.fired) = (Some(fault), None);
    }

    /// No request fails any more. The key of the one that did.
    pub fn disarm(&self) -> Option<Key> {
        let mut notes = self.notes.lock();
        notes.fault = None;
        notes.fired.take()
    }

    /// A fault that has not struck yet never will.
    pub fn calm(&self) {
        self.notes.lock().fault = None;
    }

    /// True when the armed fault has struck.
    pub fn has_fired(&self) -> bool {
        self.notes.lock().fired.is_some()
    }

    /// Whether packs take their time, so that who does not wait for them is seen.
    pub fn set_slow(&self, slow: bool) {
        self.notes.lock().slow = slow;
    }

    /// This index must not know a pack before there is one.
    pub fn watch(&self, index: &Arc<ChunkIndex>) {
        self.notes.lock().indexes.push(Arc::downgrade(index));
    }

    /// What happens right after the next session is opened.
    pub fn on_open(&self, hook: Hook) {
        self.notes.lock().on_open = Some(hook);
    }

    /// What happens right before the next session gets its outcome.
    pub fn before_outcome(&self, hook: Hook) {
        self.notes.lock().before_outcome = Some(hook);
    }

    /// True when there still is a hook, which is removed.
    pub fn forget_hook(&self) -> bool {
        self.notes.lock().on_open.take().is_some()
    }

    /// Rules that were broken since the last call.
    pub fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().broken)
    }

    /// Puts a lost object back.
    pub fn bring_back(&self, key: &Key, body: Bytes) {
        self.inner.overwrite(key, body).unwrap();
    }

    /// True when this request is the one that fails.
    fn strikes(&self, read: bool, key: &Key) -> Option<bool> {
        let mut notes = self.notes.lock();
        let fault = notes.fault.as_mut()?;
        let text = key.as_str();
        if fault.read != read || !text.starts_with(fault.prefix) || !text.contains(&fault.part) {
            return None;
        }
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        let applied = fault.applied;
        notes.fault = None;
        notes.fired = Some(key.clone());
        Some(applied)
    }

    /// D5 of `repo/docs/concurrency.md`.
    fn look_for_rows(&self, key: &Key) {
        let Some(pack) = keys::parse_pack(key) else { return };
        let mut notes = self.notes.lock();
        let indexes: Vec<_> = notes.indexes.iter().filter_map(Weak::upgrade).collect();
        if indexes.iter().any(|index| index.covered_pack(&pack).unwrap()) {
            notes.broken.push(format!("an index knew {key} before it was acknowledged"));
        }
        let slow = notes.slow;
        drop(notes);
        if slow {
            std::thread::sleep(SLOW);
        }
    }

    fn write(&self, key: &Key, apply: impl Fn() -> Result<()>) -> Result<()> {
        if key.as_str().starts_with(keys::SNAP) {
            let hook = self.notes.lock().before_outcome.take();
            if let Some(hook) = hook {
                hook();
            }
        }
        let strikes = self.strikes(false, key);
        if strikes != Some(false) {
            apply()?;
            let mut notes = self.notes.lock();
            let n = notes.order.len() as u64;
            notes.order.entry(key.clone()).or_insert(n);
        }
        if strikes.is_some() { Err(cut(key)) } else { Ok(()) }
    }
}

fn cut(key: &Key) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection was cut").with_object(key)
}

impl Storage for Witness {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.notes.lock().read.insert(key.clone());
        match self.strikes(true, key) {
            Some(_) => Err(cut(key)),
            None => self.inner.get_range(key, range),
        }
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.inner.get_tail(key, len)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.inner.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.look_for_rows(key);
        self.write(key, || self.inner.create(key, body.clone()))?;
        if keys::parse_session(key).is_some_and(|(_, part)| part == "open") {
            let hook = self.notes.lock().on_open.take();
            if let Some(hook) = hook {
                hook();
            }
        }
        Ok(())
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.write(key, || self.inner.overwrite(key, body.clone()))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
}

//! Opened chunks, for all disks of a mount together: bounded in bytes, each fetched by one thread whoever else wants it.
//!
//! The bound counts every buffer there is: kept chunks, chunks somebody is still copying from, and those being opened.
//! A thread that needs a buffer waits until there is room. That ends, because of two rules: who waits for a buffer holds
//! no chunk, and who holds a chunk only copies it out.

use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use wherry_repo::{ErrorKind, ShortId, Verified};

/// A chunk's plaintext. Its memory goes back to the cache when the last holder lets go.
pub type Chunk = Arc<Verified<Buffer>>;

/// The cache. Clones are one.
#[derive(Clone, Debug)]
pub struct ChunkCache {
    table: Arc<Mutex<Table>>,
    pool: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<ShortId, Entry>,
    /// Kept chunks by when they were last wanted.
    order: BTreeMap<u64, ShortId>,
    tick: u64,
}

#[derive(Debug)]
enum Entry {
    Kept { chunk: Chunk, tick: u64 },
    Pending(Arc<Flight>),
}

/// What the cache says of a chunk.
#[derive(Debug)]
pub enum Found {
    /// Here it is.
    Kept(Chunk),
    /// Somebody else fetches it: wait for that.
    Pending(Arc<Flight>),
    /// The caller fetches it.
    Mine(Claim),
}

/// How a fetch that others wait for ended.
#[derive(Clone, Debug)]
pub enum Landed {
    /// Well.
    Chunk(Chunk),
    /// With an error, which was logged.
    Failed(Failed),
    /// Nobody fetches it any more: ask the cache again.
    Abandoned,
}

/// Why a fetch failed. That is so for the snapshot it was made for: another one may name another place of the same chunk, or
/// be there still where this one is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The kind of error.
    pub kind: ErrorKind,
    /// Number of the [`Source`](super::source::Source) it was made for.
    pub by: u64,
}

/// A chunk somebody fetches.
#[derive(Debug, Default)]
pub struct Flight {
    landed: Mutex<Option<Landed>>,
    bell: Condvar,
}

impl Flight {
    /// Waits for the end of the fetch.
    pub fn wait(&self) -> Landed {
        let mut landed = self.landed.lock();
        loop {
            if let Some(landed) = &*landed {
                return landed.clone();
            }
            self.bell.wait(&mut landed);
        }
    }

    fn land(&self, landed: Landed) {
        *self.landed.lock() = Some(landed);
        self.bell.notify_all();
    }
}

/// The right and the duty to fetch a chunk. Dropped unfinished, it lets the next one who wants the chunk try.
#[derive(Debug)]
pub struct Claim {
    cache: ChunkCache,
    id: ShortId,
    flight: Arc<Flight>,
    ended: bool,
}

impl Claim {
    /// What others wait for.
    pub fn flight(&self) -> Arc<Flight> {
        self.flight.clone()
    }

    /// Hands the chunk, or why there is none, to everybody who waits.
    pub fn finish(mut self, result: Result<Verified<Buffer>, Failed>) {
        self.ended = true;
        match result {
            Ok(chunk) => {
                let chunk = Arc::new(chunk);
                self.cache.keep(self.id, chunk.clone());
                self.flight.land(Landed::Chunk(chunk));
            }
            Err(failed) => {
                // A failed fetch is not remembered: the storage may be back a moment later.
                self.cache.table.lock().entries.remove(&self.id);
                self.flight.land(Landed::Failed(failed));
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            self.cache.table.lock().entries.remove(&self.id);
            self.flight.land(Landed::Abandoned);
        }
    }
}

impl ChunkCache {
    /// An empty cache of at most `limit` bytes, or one chunk, if that is more.
    pub fn new(limit: u64) -> Self {
        let pool = Pool { limit: limit as usize, state: Mutex::default(), bell: Condvar::new() };
        Self { table: Arc::default(), pool: Arc::new(pool) }
    }

    /// Its bound in bytes.
    pub fn limit(&self) -> u64 {
        self.pool.limit as u64
    }

    /// Bytes of all its buffers, in use or not.
    pub fn allocated(&self) -> u64 {
        self.pool.state.lock().total as u64
    }

    /// Looks a chunk up, or makes the caller the one who fetches it.
    pub fn find(&self, id: ShortId) -> Found {
        let mut table = self.table.lock();
        let Table { entries, order, tick: now } = &mut *table;
        match entries.get_mut(&id) {
            Some(Entry::Kept { chunk, tick }) => {
                order.remove(tick);
                *now += 1;
                *tick = *now;
                order.insert(*now, id);
                Found::Kept(chunk.clone())
            }
            Some(Entry::Pending(flight)) => Found::Pending(flight.clone()),
            None => {
                let flight = Arc::new(Flight::default());
                entries.insert(id, Entry::Pending(flight.clone()));
                Found::Mine(Claim { cache: self.clone(), id, flight, ended: false })
            }
        }
    }

    /// Memory for a chunk of `len` bytes. Waits for it; the caller holds no chunk (see the top of this file).
    pub fn buffer(&self, len: usize) -> Buffer {
        loop {
            let seen = match self.pool.take(len) {
                Ok(bytes) => return Buffer { bytes, pool: self.pool.clone() },
                Err(seen) => seen,
            };
            // The chunk is dropped after the lock of the table: that may wake a thread which takes it at once.
            let oldest = self.table.lock().pop_oldest();
            if oldest.is_none() {
                self.pool.wait_for_change(seen);
            }
        }
    }

    fn keep(&self, id: ShortId, chunk: Chunk) {
        let mut table = self.table.lock();
        table.tick += 1;
        let tick = table.tick;
        table.order.insert(tick, id);
        table.entries.insert(id, Entry::Kept { chunk, tick });
        drop(table);
        // There is one more chunk that can make room.
        self.pool.changed();
    }
}

impl Table {
    fn pop_oldest(&mut self) -> Option<Entry> {
        let (_, id) = self.order.pop_first()?;
        self.entries.remove(&id)
    }
}

/// All memory of a cache.
#[derive(Debug)]
struct Pool {
    limit: usize,
    state: Mutex<PoolState>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Buffers that hold nothing: giving them back to the allocator and asking again costs a page fault per page.
    free: Vec<Vec<u8>>,
    /// Bytes of all buffers, the free ones included.
    total: usize,
    /// Goes up whenever a thread that waits should look again.
    changes: u64,
}

impl Pool {
    /// A buffer of this length, or the state of things in which there was none.
    fn take(&self, len: usize) -> Result<Vec<u8>, u64> {
        let mut state = self.state.lock();
        if let Some(at) = state.free.iter().rposition(|b| b.capacity() >= len) {
            let mut bytes = state.free.swap_remove(at);
            bytes.resize(len, 0);
            return Ok(bytes);
        }
        while state.total + len > self.limit {
            // A free buffer is too short for this chunk: its memory is worth more than it.
            let Some(short) = state.free.pop() else { break };
            state.total -= short.capacity();
        }
        if state.total + len > self.limit && state.total > 0 {
            return Err(state.changes);
        }
        let bytes = vec![0; len];
        state.total += bytes.capacity();
        Ok(bytes)
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        state.free.push(bytes);
        state.changes += 1;
        self.bell.notify_all();
    }

    fn changed(&self) {
        self.state.lock().changes += 1;
        self.bell.notify_all();
    }

    fn wait_for_change(&self, seen: u64) {
        let mut state = self.state.lock();
        while state.changes == seen {
            self.bell.wait(&mut state);
        }
    }
}

/// Memory on loan from a cache.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;

//! Chunks of one snapshot, through the chunk cache.

use super::cache::{Chunk, ChunkCache, Claim, Failed, Found, Landed};
use super::workers::{Scratch, Workers};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_repo::{ChunkReader, ChunkRef, Error, ErrorKind, Fetch, ShortId};

/// What all disks and files of a mount share.
#[derive(Debug)]
pub struct Shared {
    /// Opened chunks.
    pub cache: ChunkCache,
    /// Threads that fetch ahead.
    pub ahead: Workers,
    /// Longest request to the storage (bytes), unless a single chunk is longer.
    pub fetch: u64,
    /// How far ahead of a reader that goes straight on is fetched (bytes).
    pub window: u64,
    /// Chunks that could not be read, by the number of the snapshot: each is logged once.
    damaged: Mutex<BTreeSet<(u64, ShortId)>>,
}

impl Shared {
    /// A cache of `cache` bytes and so many threads that fetch ahead, `fetch` bytes at a time.
    pub fn new(cache: u64, threads: usize, fetch: u64) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            cache: ChunkCache::new(cache),
            ahead: Workers::start("ahead", threads)?,
            fetch,
            window: (cache / 4).min(32 << 20),
            damaged: Mutex::default(),
        }))
    }
}

/// Fetches chunks of one snapshot, each once for all who want it.
#[derive(Debug)]
pub struct Source {
    /// Tells it from all others of this process.
    number: u64,
    chunks: ChunkReader,
    name: String,
    /// Of a disk: bytes of a chunk, whose number then tells where it is.
    unit: Option<u64>,
    shared: Arc<Shared>,
}

/// Zeros to answer with.
pub(super) static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

impl Source {
    /// Of the snapshot that `name` names in the log. `unit` is the size of the chunks of a disk in bytes.
    pub fn new(chunks: ChunkReader, name: String, unit: Option<u64>, shared: Arc<Shared>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, chunks, name, unit, shared })
    }

    /// What is shared.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// One chunk, from the cache or fetched by this thread.
    pub fn get(&self, chunk: &ChunkRef, scratch: &mut Scratch) -> Result<Chunk, ErrorKind> {
        loop {
            let flight = match self.shared.cache.find(chunk.id()) {
                Found::Kept(chunk) => return Ok(chunk),
                Found::Pending(flight) => flight,
                Found::Mine(claim) => {
                    let flight = claim.flight();
                    self.fetch_alone(chunk, claim, scratch);
                    flight
                }
            };
            match flight.wait() {
                Landed::Chunk(chunk) => return Ok(chunk),
                Landed::Failed(Failed { kind, by }) if by == self.number => return Err(kind),
                // What failed for another snapshot is tried for this one.
                Landed::Failed(_) | Landed::Abandoned => {}
            }
        }
    }

    /// Fetches those of these chunks that nobody has and nobody fetches.
    pub fn bring(&self, chunks: Vec<ChunkRef>, scratch: &mut Scratch) {
        let (mine, mut claims) = self.claim(chunks);
        for fetch in self.chunks.plan(mine, self.shared.fetch) {
            self.run(&fetch, &mut claims, scratch);
        }
    }

    fn claim(&self, chunks: Vec<ChunkRef>) -> (Vec<ChunkRef>, HashMap<ShortId, Claim>) {
        let mut claims = HashMap::new();
        let mut mine = Vec::new();
        for chunk in chunks {
            if let Found::Mine(claim) = self.shared.cache.find(chunk.id()) {
                claims.insert(chunk.id(), claim);
                mine.push(chunk);
            }
        }
        (mine, claims)
    }

    /// Has these chunks fetched, as far as nobody has them or fetches them. An error will be met again, and said, by whoever
    /// reads that far.
    pub fn fetch_ahead(self: &Arc<Self>, chunks: Vec<ChunkRef>) {
        let (mine, mut claims) = self.claim(chunks);
        for fetch in self.chunks.plan(mine, self.shared.fetch) {
            let source = self.clone();
            let mut claims = fetch.chunks.iter().filter_map(|c| claims.remove_entry(&c.id())).collect();
            self.shared.ahead.submit(move |scratch| source.run(&fetch, &mut claims, scratch));
        }
    }

    /// Fetches and opens. Damage to one chunk, or to a part of the pack, is no damage to the others.
    fn run(&self, fetch: &Fetch, claims: &mut HashMap<ShortId, Claim>, scratch: &mut Scratch) {
        let buffer = |chunk: &ChunkRef| self.shared.cache.buffer(chunk.len);
        let Ok(()) = self.chunks.read(fetch, &mut scratch.sealed, buffer, |chunk, opened| -> Result<(), Infallible> {
            if let Some(claim) = claims.remove(&chunk.id()) {
                claim.finish(opened.map_err(|e| self.failed(self.log_chunk(chunk, &e))));
            }
            Ok(())
        });
    }

    fn fetch_alone(&self, chunk: &ChunkRef, claim: Claim, scratch: &mut Scratch) {
        let mut claims = HashMap::from([(chunk.id(), claim)]);
        for fetch in self.chunks.plan(vec![*chunk], self.shared.fetch) {
            self.run(&fetch, &mut claims, scratch);
        }
        claims.into_values().for_each(|claim| claim.finish(Err(self.failed(ErrorKind::Internal))));
    }

    fn failed(&self, kind: ErrorKind) -> Failed {
        Failed { kind, by: self.number }
    }

    /// Says once what of which snapshot cannot be read and why: the kernel asks for each page anew.
    fn log_chunk(&self, chunk: &ChunkRef, error: &Error) -> ErrorKind {
        /// Enough for any log; after that each is said each time.
        const MOST: usize = 10_000;
        let mut damaged = self.shared.damaged.lock();
        if damaged.len() < MOST && !damaged.insert((self.number, chunk.id())) {
            return error.kind();
        }
        drop(damaged);
        match self.unit {
            Some(unit) => {
                let start = chunk.number * unit;
                self.log(start..start + chunk.len as u64, error)
            }
            None => {
                tracing::error!(snapshot = %self.name, "a chunk of {} bytes cannot be read: {error}", chunk.len);
                error.kind()
            }
        }
    }

    /// Says which bytes of a disk cannot be read.
    pub(super) fn log(&self, bytes: Range<u64>, error: &Error) -> ErrorKind {
        tracing::error!(snapshot = %self.name, from = bytes.start, to = bytes.end, "cannot be read: {error}");
        error.kind()
    }
}

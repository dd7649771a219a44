//! Reads of one snapshot through the chunk cache.

use super::cache::{Chunk, ChunkCache, Claim, Found, Landed};
use super::streams::Streams;
use super::workers::{Scratch, Workers};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::{ChunkRef, ErrorKind, Fetch, ReadSession, Result, ShortId, SnapshotReader};

/// What all disks of a mount share.
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
    /// Chunks that were found damaged: each is logged once.
    damaged: Mutex<BTreeSet<ShortId>>,
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

/// One snapshot, opened.
#[derive(Debug)]
pub struct Disk {
    reader: SnapshotReader,
    name: String,
    shared: Arc<Shared>,
}

/// Zeros to answer with.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

impl Disk {
    /// The disk of a session, which lasts as long as this. Reads nothing yet.
    pub fn open(session: Arc<ReadSession>, shared: Arc<Shared>) -> Result<Arc<Self>> {
        let name = format!("{} ({})", session.snapshot().record.name, session.snapshot().id);
        Ok(Arc::new(Self { reader: SnapshotReader::within(session)?, name, shared }))
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// Gives `answer` the bytes from `offset` on, at most `len`, fewer at the end of the disk and, where `short` allows
    /// that, before bytes that cannot be read. `streams` are those of the open file. An error is logged here.
    pub fn read<T>(
        self: &Arc<Self>,
        streams: &Mutex<Streams>,
        offset: u64,
        len: usize,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ErrorKind> {
        let end = offset.saturating_add(len as u64).min(self.size());
        if offset >= end {
            return Ok(answer(&[]));
        }
        let unit = self.reader.chunk_size();
        let numbers = offset / unit..end.div_ceil(unit);
        let most = (self.shared.window / unit).max(1);
        let ahead = streams.lock().note(numbers.clone(), most);
        let result = self.answer(offset..end, numbers, short, scratch, answer);
        // After the answer: who waits for that should not wait for this.
        if let Some(ahead) = ahead {
            self.fetch_ahead(ahead);
        }
        result
    }

    fn answer<T>(
        &self,
        bytes: Range<u64>,
        numbers: Range<u64>,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ErrorKind> {
        let unit = self.reader.chunk_size();
        let len = (bytes.end - bytes.start) as usize;
        let mut chunks = Vec::with_capacity((numbers.end - numbers.start) as usize);
        for number in numbers.clone() {
            chunks.push(self.chunk(number)?);
        }
        if chunks.iter().all(Option::is_none) && len <= ZEROS.len() {
            return Ok(answer(&ZEROS[..len]));
        }
        if let [Some(chunk)] = &chunks[..] {
            let start = (bytes.start - chunk.number * unit) as usize;
            let opened = self.get(chunk, scratch)?;
            return Ok(answer(&(*opened).as_ref()[start..start + len]));
        }
        self.bring(chunks.iter().flatten().copied().collect(), scratch);
        let mut whole = std::mem::take(&mut scratch.answer);
        whole.clear();
        let joined = self.join(&mut whole, bytes, numbers, &chunks, scratch);
        let result = match joined {
            Err(kind) if !short || whole.is_empty() => Err(kind),
            _ => Ok(answer(&whole)),
        };
        scratch.answer = whole;
        result
    }

    /// Appends these bytes of these chunks to `whole`, as far as they can be read.
    fn join(
        &self,
        whole: &mut Vec<u8>,
        bytes: Range<u64>,
        numbers: Range<u64>,
        chunks: &[Option<ChunkRef>],
        scratch: &mut Scratch,
    ) -> Result<(), ErrorKind> {
        let unit = self.reader.chunk_size();
        for (number, chunk) in numbers.zip(chunks) {
            let from = bytes.start.saturating_sub(number * unit) as usize;
            let to = (bytes.end - number * unit).min(unit) as usize;
            match chunk {
                None => whole.resize(whole.len() + to - from, 0),
                // One at a time: who waits for room holds no chunk.
                Some(chunk) => whole.extend_from_slice(&(*self.get(chunk, scratch)?).as_ref()[from..to]),
            }
        }
        Ok(())
    }

    /// The first byte at or after `offset` that is data, or that is not, as the map of the snapshot says; the end of
    /// the disk counts as not data. `None` when there is none, or `offset` is at the end or beyond.
    pub fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>, ErrorKind> {
        if offset >= self.size() {
            return Ok(None);
        }
        let unit = self.reader.chunk_size();
        let first = offset / unit;
        let (mut next, mut expected) = (first, first);
        loop {
            let found = self.reader.next_chunks(next).map_err(|e| self.log(offset..self.size(), &e))?;
            let Some((chunks, then)) = found else { break };
            for chunk in chunks {
                if data {
                    return Ok(Some(offset.max(chunk.number * unit)));
                }
                if chunk.number != expected {
                    return Ok(Some(offset.max(expected * unit)));
                }
                expected += 1;
            }
            next = then;
        }
        Ok((!data).then_some(offset.max(expected * unit).min(self.size())))
    }

    /// What the map says of a chunk.
    fn chunk(&self, number: u64) -> Result<Option<ChunkRef>, ErrorKind> {
        self.reader.chunk(number).map_err(|e| {
            let unit = self.reader.chunk_size();
            self.log(number * unit..(number + 1) * unit, &e)
        })
    }

    /// One chunk, from the cache or fetched by this thread.
    fn get(&self, chunk: &ChunkRef, scratch: &mut Scratch) -> Result<Chunk, ErrorKind> {
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
                Landed::Failed(kind) => return Err(kind),
                Landed::Abandoned => {}
            }
        }
    }

    /// Fetches those of these chunks that nobody has and nobody fetches.
    fn bring(&self, chunks: Vec<ChunkRef>, scratch: &mut Scratch) {
        let (mine, mut claims) = self.claim(chunks);
        for fetch in self.reader.plan(mine, self.shared.fetch) {
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

    /// Has these chunks fetched, as far as nobody has them or fetches them.
    fn fetch_ahead(self: &Arc<Self>, numbers: Range<u64>) {
        // An error will be met again, and said, by whoever reads that far.
        let numbers = numbers.start..numbers.end.min(self.reader.chunk_count());
        let chunks = numbers.map_while(|n| self.reader.chunk(n).ok()).flatten().collect();
        let (mine, mut claims) = self.claim(chunks);
        for fetch in self.reader.plan(mine, self.shared.fetch) {
            let disk = self.clone();
            let mut claims = fetch.chunks.iter().filter_map(|c| claims.remove_entry(&c.id())).collect();
            self.shared.ahead.submit(move |scratch| disk.run(&fetch, &mut claims, scratch));
        }
    }

    /// Fetches and opens. Damage to one chunk, or to a part of the pack, is no damage to the others.
    fn run(&self, fetch: &Fetch, claims: &mut HashMap<ShortId, Claim>, scratch: &mut Scratch) {
        let buffer = |chunk: &ChunkRef| self.shared.cache.buffer(chunk.len);
        let Ok(()) = self.reader.read(fetch, &mut scratch.sealed, buffer, |chunk, opened| -> Result<(), Infallible> {
            if let Some(claim) = claims.remove(&chunk.id()) {
                claim.finish(opened.map_err(|e| self.log_chunk(chunk, &e)));
            }
            Ok(())
        });
    }

    fn fetch_alone(&self, chunk: &ChunkRef, claim: Claim, scratch: &mut Scratch) {
        let mut claims = HashMap::from([(chunk.id(), claim)]);
        for fetch in self.reader.plan(vec![*chunk], self.shared.fetch) {
            self.run(&fetch, &mut claims, scratch);
        }
        claims.into_values().for_each(|claim| claim.finish(Err(ErrorKind::Internal)));
    }

    /// Says once which bytes of which snapshot cannot be read and why: the kernel asks for each page anew.
    fn log_chunk(&self, chunk: &ChunkRef, error: &wherry_repo::Error) -> ErrorKind {
        /// Enough for any log; after that each is said each time.
        const MOST: usize = 10_000;
        let mut damaged = self.shared.damaged.lock();
        if damaged.len() < MOST && !damaged.insert(chunk.id()) {
            return error.kind();
        }
        drop(damaged);
        let start = chunk.number * self.reader.chunk_size();
        self.log(start..start + chunk.len as u64, error)
    }

    fn log(&self, bytes: Range<u64>, error: &wherry_repo::Error) -> ErrorKind {
        tracing::error!(snapshot = %self.name, from = bytes.start, to = bytes.end, "cannot be read: {error}");
        error.kind()
    }
}

//! The local index of chunks: which pack holds a chunk, asked by every worker for every chunk of a backup.
//!
//! It is a cache. Whatever it says is checked before use (the bars of the sessions' rules, then AEAD tag and chunk id),
//! and whatever it does not say costs deduplication or a request, never data. Delete its folder at any moment: nothing
//! but speed is lost. **A miss therefore proves nothing**: rows are left out when the disk or memory bound is reached.
//!
//! # On disk
//! A RocksDB database in `<dir>/<repository uuid>/index`, beside it `index.lock` (held while open, never removed) and, when
//! damage was found while in use, `index.damaged` (why; the next [`ChunkIndex::open`] drops the database). One column
//! family, the first byte of a key says what it is:
//!
//! | key | value |
//! |---|---|
//! | `r` chunk id (16) | copies of the chunk, newest first, each 20 bytes with a check of its own (`row.rs`) |
//! | `p` pack number (4, big-endian) | pack name, key epoch, check |
//! | `P` pack name | pack number, check |
//! | `c` name of an index segment | check |
//! | `m` stamp, sampling | version and repository; how many rows are kept; check |
//!
//! Why all copies in one value: a miss, by far the most frequent answer, is then one point lookup that the filters of
//! whole keys answer, without an iterator over every level. The price is a lookup before each write, which is rare.
//!
//! Why one column family and no write-ahead log: memtables of one family reach the disk in the order they were filled, so
//! after a crash the database is as it was at some earlier moment. A segment is covered after its rows, a number is
//! given to a pack in the batch of its rows; so no crash leaves `covered` without rows, or rows with a number that is
//! given out again. What was lost is simply not covered, and is taken in again.
//!
//! # Bounds
//! Memory: block cache, filters, block indexes and memtables come out of [`IndexOptions::memory`]. Disk: at six tenths of
//! [`IndexOptions::max_disk`] the index begins to keep only the chunks whose ids end in a zero bit, then two, and so on
//! (ids are uniform, so each bit halves it); a compaction in the background drops the others. At eight tenths nothing is
//! taken until that is done; the rest is for what a compaction writes before it removes what it read. What is lost is the deduplication against chunks whose rows were left out.
//! Rows of packs that are gone are let go of all at once: whoever brings the index up to date and finds it that full looks which packs
//! there are, and where at least half are gone it takes all in anew.

mod memory;
mod options;
mod place;
mod rocks;
mod row;
#[cfg(test)]
mod tests;
mod values;

use crate::{Error, ErrorKind, Location, PackId, RepositoryId, Result, ShortId};
use memory::Memory;
use parking_lot::Mutex;
use rocks::Rocks;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

pub use row::Row;
pub(crate) use values::{again, seeds};

/// Where an index lives and what it may use.
#[derive(Clone, Debug)]
pub struct IndexOptions {
    /// The cache directory; the index is in `<dir>/<repository uuid>/index`.
    pub dir: PathBuf,
    /// The repository whose chunks it knows.
    pub repository: RepositoryId,
    /// Bytes of memory, all told. Below 4 MiB it is taken as 4 MiB.
    pub memory: u64,
    /// Bytes on disk. Below 16 MiB it is taken as 16 MiB.
    pub max_disk: u64,
}

/// What [`ChunkIndex::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Fresh,
    /// There was one, and it is in use.
    Reused,
    /// There was one, it was dropped for this reason (damaged, of another version, of another repository), and it is
    /// empty now.
    Dropped(String),
}

/// Size of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Chunks known; an estimate.
    pub rows: u64,
    /// Bytes on disk; 0 without one.
    pub disk: u64,
    /// Only chunks whose ids end in so many zero bits are taken. 0: all.
    pub sampling: u32,
}

/// The index. All methods may be called from any number of threads.
///
/// When its disk is full it takes rows into a small memory of its own instead; when its database turns out damaged or
/// unreadable it stops asking it. The one call that notices returns the error, for the caller to log; every later one
/// works with what is left. So no error of an index is a reason to fail a backup.
#[derive(Debug)]
pub struct ChunkIndex {
    rocks: Option<Rocks>,
    /// One of `WORKING`, `NO_WRITES`, `OFF`: what may still be asked of `rocks`.
    state: AtomicU8,
    /// All there is without `rocks`, else what `rocks` no longer takes.
    memory: Memory,
    memory_used: AtomicBool,
    /// Names of the error that ended the use of the database, for `Debug` and later questions.
    failure: Mutex<Option<String>>,
}

const WORKING: u8 = 0;
const NO_WRITES: u8 = 1;
const OFF: u8 = 2;

impl ChunkIndex {
    /// Opens the index, or makes it. One that is damaged, of another version or of another repository is dropped and
    /// made anew.
    ///
    /// Errors: `Busy` when another process, or another part of this one, has it open; `Full` when the disk is full;
    /// `Denied` or `Unavailable` when the folder cannot be used. In all these cases go on with
    /// [`ChunkIndex::in_memory`].
    pub fn open(options: &IndexOptions) -> Result<(Self, Opened)> {
        let (rocks, opened) = Rocks::open(options)?;
        let memory = Memory::new(options::overflow_memory(options.memory));
        Ok((Self::new(Some(rocks), memory), opened))
    }

    /// An index without a disk, of at most `memory` bytes; when they are used up it takes no more rows.
    pub fn in_memory(memory: u64) -> Self {
        Self::new(None, Memory::new(memory))
    }

    /// Removes the index of a repository from a cache directory. `Busy` when it is open somewhere.
    pub fn destroy(dir: &Path, repository: &RepositoryId) -> Result<()> {
        rocks::destroy(dir, repository)
    }

    fn new(rocks: Option<Rocks>, memory: Memory) -> Self {
        let state = if rocks.is_some() { WORKING } else { OFF };
        Self {
            memory_used: AtomicBool::new(rocks.is_none()),
            rocks,
            state: AtomicU8::new(state),
            memory,
            failure: Mutex::new(None),
        }
    }

    /// Every copy of the chunk that is known, the one taken in last first; none proves nothing. A location is the place
    /// something was once put: the pack may be condemned or gone.
    ///
    /// Errors: `Corrupt` or `Unavailable`, once; the index goes on without its database.
    pub fn lookup(&self, id: &ShortId) -> Result<Vec<Location>> {
        let mut found = match self.memory_used.load(Ordering::Acquire) {
            true => self.memory.lookup(id),
            false => Vec::new(),
        };
        if let Some(rocks) = self.readable() {
            match rocks.lookup(id) {
                Ok(more) if found.is_empty() => found = more,
                Ok(more) => found.extend(more),
                Err(error) => self.failed(error)?,
            }
        }
        Ok(found)
    }

    /// Takes in chunks of a pack, all or none of them. The pack must be acknowledged by the storage. Doing it again changes
    /// nothing; a chunk that stands in a pack twice is known by its last place.
    ///
    /// Errors: `Full` (says how much is missing), `Corrupt` or `Unavailable`, each once: these rows and all later ones go
    /// into memory. `Invalid`: a chunk of 16 MiB or more, or a pack that is known with another epoch.
    pub fn insert(&self, pack: &PackId, epoch: u32, rows: &[Row]) -> Result<()> {
        let mut noticed = Ok(());
        if let Some(rocks) = self.writable() {
            match rocks.insert(pack, epoch, rows) {
                Ok(()) => return Ok(()),
                Err(error) => noticed = self.failed(error),
            }
        }
        self.memory_used.store(true, Ordering::Release);
        self.memory.insert(pack, epoch, rows).and(noticed)
    }

    /// Whether this index segment was taken in (as far as the bounds allowed). `false` proves nothing.
    pub fn is_covered(&self, segment: &str) -> Result<bool> {
        if self.memory.is_covered(segment) {
            return Ok(true);
        }
        match self.readable().map(|rocks| rocks.is_covered(segment)) {
            Some(Ok(covered)) => Ok(covered),
            Some(Err(error)) => self.failed(error).map(|()| false),
            None => Ok(false),
        }
    }

    /// Notes that every row of this index segment was inserted before. It outlives a crash only together with them.
    pub fn cover(&self, segment: &str) -> Result<()> {
        if let Some(rocks) = self.writable() {
            match rocks.cover(segment) {
                Ok(()) => return Ok(()),
                Err(error) => self.failed(error)?,
            }
        }
        self.memory.cover(segment);
        Ok(())
    }

    /// Whether rows of this pack were inserted (as far as the bounds allowed). `false` proves nothing.
    pub fn covered_pack(&self, pack: &PackId) -> Result<bool> {
        if self.memory.covered_pack(pack) {
            return Ok(true);
        }
        match self.readable().map(|rocks| rocks.covered_pack(pack)) {
            Some(Ok(covered)) => Ok(covered),
            Some(Err(error)) => self.failed(error).map(|()| false),
            None => Ok(false),
        }
    }

    /// True when it leaves rows out for want of room, or soon will.
    pub(crate) fn is_crowded(&self) -> bool {
        self.writable().is_some_and(Rocks::is_crowded)
    }

    /// Drops all rows when at least half of the packs are gone: then they can be taken in anew without leaving out so many.
    /// Says whether it did.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub(crate) fn clear_if(&self, is_gone: impl Fn(&PackId) -> bool) -> Result<bool> {
        let Some(rocks) = self.writable() else { return Ok(false) };
        let cleared = rocks.count_packs(is_gone).and_then(|(all, gone)| match gone > 0 && gone >= all / 2 {
            true => rocks.clear().map(|()| true),
            false => Ok(false),
        });
        cleared.or_else(|e| self.failed(e).map(|()| false))
    }

    /// Brings everything to the disk; what was taken in since the last time is otherwise lost when the process is killed.
    /// Dropping the index does it too.
    pub fn flush(&self) -> Result<()> {
        match self.writable().map(Rocks::flush) {
            Some(Err(error)) => self.failed(error),
            _ => Ok(()),
        }
    }

    /// Size and sampling.
    pub fn stats(&self) -> IndexStats {
        let mut stats = self.rocks.as_ref().map(Rocks::stats).unwrap_or_default();
        stats.rows += self.memory.rows();
        stats
    }

    /// Why the database is no longer written to or asked, when that is so.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    fn readable(&self) -> Option<&Rocks> {
        (self.state.load(Ordering::Acquire) < OFF).then_some(self.rocks.as_ref())?
    }

    fn writable(&self) -> Option<&Rocks> {
        (self.state.load(Ordering::Acquire) == WORKING).then_some(self.rocks.as_ref())?
    }

    /// Puts the database out of use as far as this error demands. The error is returned only to the first that noticed.
    fn failed(&self, error: Error) -> Result<()> {
        let state = match error.kind() {
            ErrorKind::Invalid => return Err(error),
            ErrorKind::Full => NO_WRITES,
            _ => OFF,
        };
        if self.state.fetch_max(state, Ordering::AcqRel) >= state {
            return Ok(());
        }
        if let (ErrorKind::Corrupt, Some(rocks)) = (error.kind(), &self.rocks) {
            rocks.mark_damaged(&error);
        }
        *self.failure.lock() = Some(error.to_string());
        Err(error)
    }
}

//! What on a target differs from a snapshot: for `--delta`, for going on after an interruption, and for `--verify`.

use crate::progress::Progress;
use crate::signals::Cancel;
use crate::threads;
use anyhow::Result;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry_block::{BufferPool, ReadDone, Source};
use wherry_repo::SnapshotReader;

/// A set of chunks: one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    bits: Vec<u64>,
}

impl Chunks {
    fn new(count: u64) -> Self {
        Self { bits: vec![0; count.div_ceil(64) as usize] }
    }

    fn insert(&mut self, chunk: u64) {
        if let Some(word) = self.bits.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
        }
    }

    fn remove(&mut self, chunk: u64) {
        if let Some(word) = self.bits.get_mut((chunk / 64) as usize) {
            *word &= !(1 << (chunk % 64));
        }
    }

    /// True when the chunk is in the set.
    pub fn contains(&self, chunk: u64) -> bool {
        self.bits.get((chunk / 64) as usize).is_some_and(|word| word & 1 << (chunk % 64) != 0)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Runs of chunks of the set in `from..to`.
    pub fn runs(&self, from: u64, to: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = from;
        std::iter::from_fn(move || {
            while at < to && !self.contains(at) {
                // A word without any is passed over whole.
                let empty = at.is_multiple_of(64) && self.bits.get((at / 64) as usize) == Some(&0);
                at += if empty { 64 } else { 1 };
            }
            let start = at.min(to);
            while at < to && self.contains(at) {
                at += 1;
            }
            (start < at.min(to)).then_some(start..at)
        })
    }
}

/// After so many parts that cannot be read the rest is written without a look: each of them ends a reading.
const MOST_FAULTS: usize = 1000;

/// A comparison of a target with a snapshot.
#[derive(Debug)]
pub struct Compare<'a> {
    /// What is read.
    pub target: &'a Source,
    /// What it should hold.
    pub reader: &'a SnapshotReader,
    /// Buffers to read into.
    pub pool: &'a BufferPool,
    /// Reads in flight.
    pub depth: usize,
    /// Threads that compare.
    pub workers: usize,
    /// What differs is going to be written, which gives a bad sector of a disk back: a part that cannot be read differs.
    /// Otherwise it is an error.
    pub is_written: bool,
    /// Shows how far it is.
    pub progress: &'a Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

/// What was found so far.
struct State {
    differing: Chunks,
    /// Chunks to be looked at.
    pending: Chunks,
}

impl Compare<'_> {
    /// Reads the first bytes of the target, as many as the snapshot has, past the page cache, and returns the chunks that
    /// are not what the snapshot says.
    pub fn run(&self) -> Result<Chunks> {
        let (unit, count) = (self.reader.chunk_size(), self.reader.chunk_count());
        let size = self.size();
        let mut state = State { differing: Chunks::new(count), pending: Chunks::new(count) };
        // What the target does not have differs. What it has not allocated is read too: it is zero, and must be compared.
        (size / unit..count)
            .filter(|n| (n + 1) * unit > size && size < self.reader.size())
            .for_each(|n| state.differing.insert(n));
        (0..size.div_ceil(unit)).for_each(|n| state.pending.insert(n));
        let state = Mutex::new(state);
        for _ in 0..MOST_FAULTS {
            let Some(bad) = self.pass(&state)? else { return Ok(state.into_inner().differing) };
            let state = &mut *state.lock();
            for n in bad.start / unit..bad.end.div_ceil(unit) {
                state.pending.remove(n);
                state.differing.insert(n);
            }
        }
        tracing::warn!("so much of the target cannot be read that the rest is written without a look");
        let State { mut differing, pending } = state.into_inner();
        pending.runs(0, count).flatten().for_each(|n| differing.insert(n));
        Ok(differing)
    }

    fn size(&self) -> u64 {
        self.reader.size().min(self.target.geometry().size)
    }

    /// Looks at what is pending. `Some`: these bytes cannot be read, and what is pending still was not looked at.
    fn pass(&self, state: &Mutex<State>) -> Result<Option<Range<u64>>> {
        let (unit, size) = (self.reader.chunk_size(), self.size());
        let bytes = |run: Range<u64>| run.start * unit..(run.end * unit).min(size);
        let pending: Vec<_> = state.lock().pending.runs(0, self.reader.chunk_count()).map(bytes).collect();
        let results = self.target.read_all(pending.into_iter(), unit as usize, self.depth, self.pool)?;
        let stop = AtomicBool::new(false);
        let bad = Mutex::new(None);
        let work = || -> Result<()> {
            for done in results.receiver().clone() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.cancel.check()?;
                let ReadDone { offset, buffer } = match done {
                    Err(e @ wherry_block::Error::Io { offset, len, .. }) if self.is_written && len > 0 => {
                        tracing::warn!("{e}; it is written anew");
                        *bad.lock() = Some(offset..offset + len);
                        return Ok(());
                    }
                    done => done?,
                };
                for (n, chunk) in buffer[..].chunks(unit as usize).enumerate() {
                    let number = offset / unit + n as u64;
                    // The target may be longer than the snapshot: then the last chunk is, too.
                    let len = chunk.len().min((self.reader.size() - number * unit) as usize);
                    let is_same = self.reader.is_same(number, &chunk[..len])?;
                    let mut state = state.lock();
                    state.pending.remove(number);
                    if !is_same {
                        state.differing.insert(number);
                    }
                }
                self.progress.add(buffer.len() as u64);
            }
            Ok(())
        };
        // One that failed ends the others: what they would find is of no use.
        let work = || work().inspect_err(|_| stop.store(true, Ordering::Relaxed));
        let results = std::thread::scope(|scope| {
            let threads = threads::some(scope, self.workers, work)?;
            Ok::<_, wherry_repo::Error>(threads.into_iter().map(|t| t.join()).collect::<Vec<_>>())
        })?;
        for result in results {
            result.map_err(|_| wherry_repo::Error::internal("a worker thread panicked"))??;
        }
        Ok(bad.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words() {
        let mut c = Chunks::new(300);
        [3, 4, 63, 64, 65, 200].into_iter().for_each(|n| c.insert(n));
        assert_eq!(c.runs(0, 300).collect::<Vec<_>>(), [3..5, 63..66, 200..201]);
        assert_eq!(c.runs(4, 65).collect::<Vec<_>>(), [4..5, 63..65]);
        assert_eq!(c.runs(66, 200).count(), 0);
        assert_eq!(c.count(), 6);
        assert!(!c.contains(1000));
        c.remove(64);
        assert_eq!(c.runs(4, 66).collect::<Vec<_>>(), [4..5, 63..64, 65..66]);
    }
}

//! The way of a restore: the map is walked window by window, ranged reads of packs are sorted by place, and each chunk
//! that was verified is written wherever it belongs, in any order.

mod compare;
mod disk;
mod marker;
mod seen;

pub use compare::{Chunks, Compare};
pub use disk::DiskRestore;
pub(crate) use disk::{FETCH, fetchers};
pub use marker::Marker;
pub(crate) use marker::again;
pub(crate) use seen::Seen;

use crate::exit::caught;
use crate::progress::Progress;
use crate::signals::Cancel;
use crate::threads;
use anyhow::Result;
use crossbeam_channel::bounded;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry_block::{Buffer, BufferPool, Sink};
use wherry_repo::{ChunkRef, Fetch, SnapshotReader, Verified};

/// Chunks of a window are sorted by their place in the storage before they are fetched.
const WINDOW: usize = 1024;

/// So many bytes are zeroed before it is looked at again whether the work should end. A multiple of every chunk size.
const ZEROED: u64 = 256 << 20;

/// What a restore works with.
#[derive(Debug)]
pub struct Restore<'a> {
    /// What is read.
    pub reader: &'a SnapshotReader,
    /// What is written.
    pub sink: &'a Sink,
    /// Buffers to write from: the memory budget.
    pub pool: &'a BufferPool,
    /// Requests to the storage under way at once; as many threads decrypt and decompress.
    pub fetchers: usize,
    /// Longest request in bytes.
    pub fetch_bytes: u64,
    /// Only these chunks, when it is known which ones differ.
    pub only: Option<&'a Chunks>,
    /// Shows how far it is.
    pub progress: &'a Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

impl Restore<'_> {
    /// Writes everything and makes it durable.
    pub fn run(self) -> Result<()> {
        let (queue, jobs) = bounded::<Fetch>(self.fetchers * 2);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
        let stop = AtomicBool::new(false);
        let fail = |error: anyhow::Error| {
            failed.lock().get_or_insert(error);
            stop.store(true, Ordering::Relaxed);
        };
        let work = || -> Result<()> {
            let mut scratch = Vec::new();
            for fetch in jobs.clone() {
                if stop.load(Ordering::Relaxed) {
                    continue;
                }
                self.cancel.check()?;
                let buffer = |chunk: &ChunkRef| {
                    let mut buffer = self.pool.take();
                    buffer.set_len(chunk.len);
                    buffer
                };
                self.reader.read(&fetch, &mut scratch, buffer, |chunk, opened| self.write(chunk, opened?))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let worker = || {
                caught(work).unwrap_or_else(&fail);
                // Whoever plans must not wait for a queue that nobody empties.
                jobs.iter().for_each(drop);
            };
            let workers = match threads::some(scope, self.fetchers, worker) {
                Ok(workers) => workers,
                Err(e) => return fail(e.into()),
            };
            self.plan(|fetch| !stop.load(Ordering::Relaxed) && queue.send(fetch).is_ok()).unwrap_or_else(&fail);
            drop(queue);
            for worker in workers {
                if worker.join().is_err() {
                    fail(wherry_repo::Error::internal("a worker thread panicked").into());
                }
            }
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.cancel.check()?;
        self.sink.flush()?;
        Ok(())
    }

    fn write(&self, chunk: &ChunkRef, verified: Verified<Buffer>) -> Result<()> {
        // What was asked for before the work was to end may come much later: others may have the target by then.
        self.cancel.check()?;
        self.sink.write(chunk.number * self.reader.chunk_size(), verified.into_inner())?;
        self.progress.add(chunk.len as u64);
        Ok(())
    }

    /// Hands out every fetch, and zeroes what lies between the chunks, until told to stop.
    fn plan(&self, mut send: impl FnMut(Fetch) -> bool) -> Result<()> {
        let mut window = Vec::with_capacity(WINDOW);
        let mut next = 0;
        let mut zeroed = 0;
        let mut flush = |window: &mut Vec<ChunkRef>| {
            self.reader.plan(std::mem::take(window), self.fetch_bytes).into_iter().all(&mut send)
        };
        while let Some((chunks, then)) = self.reader.next_chunks(next)? {
            for chunk in chunks {
                self.zero(zeroed, chunk.number)?;
                zeroed = chunk.number + 1;
                if self.only.is_none_or(|only| only.contains(chunk.number)) {
                    window.push(chunk);
                } else {
                    self.progress.add(chunk.len as u64);
                }
            }
            if window.len() >= WINDOW && !flush(&mut window) {
                return Ok(());
            }
            next = then;
        }
        flush(&mut window);
        self.zero(zeroed, self.reader.chunk_count())
    }

    /// Zeroes the chunks `from..to`, as far as they are wanted.
    fn zero(&self, from: u64, to: u64) -> Result<()> {
        let (size, unit) = (self.reader.size(), self.reader.chunk_size());
        if from >= to {
            return Ok(());
        }
        let end = |n: u64| (n * unit).min(size);
        let zero = |chunks: Range<u64>| {
            pieces(chunks.start * unit..end(chunks.end), ZEROED).try_for_each(|piece| -> Result<()> {
                self.cancel.check()?;
                Ok(self.sink.zero(piece)?)
            })
        };
        match self.only {
            None => zero(from..to)?,
            Some(only) => only.runs(from, to).try_for_each(zero)?,
        }
        self.progress.add(end(to) - from * unit);
        Ok(())
    }
}

/// A range in pieces of at most so many bytes.
fn pieces(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(most as usize).map(move |at| at..end.min(at.saturating_add(most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        let of = |range, most| pieces(range, most).collect::<Vec<_>>();
        assert_eq!(of(4..11, 3), [4..7, 7..10, 10..11]);
        assert!(of(4..7, 3).into_iter().eq(std::iter::once(4..7)));
        assert_eq!(of(4..4, 3), []);
        assert_eq!(of(0..(1 << 30) + 5, ZEROED).len(), 5);
    }
}

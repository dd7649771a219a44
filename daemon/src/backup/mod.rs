//! The way of a backup: ranges of the source are read with a deep queue, workers hash and store the chunks, the map
//! follows as far as everything below is decided.

mod changed;
mod tracker;

pub use changed::ChangedBlocks;

use crate::progress::Progress;
use crate::signals::Cancel;
use crate::throttle::Throttle;
use anyhow::Result;
use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracker::Tracker;
use wherry_block::{BufferPool, Kind, ReadDone, Source};
use wherry_repo::{Put, SnapshotWriter};

/// Signs of life come this often; other machines take a session for dead after two hours of silence.
const BEAT: Duration = Duration::from_secs(60);

/// A source that stalls must not keep a signal from being seen for longer than this.
const LOOK: Duration = Duration::from_millis(200);

/// What a backup works with.
#[derive(Debug)]
pub struct Backup<'a> {
    /// What is read.
    pub source: &'a Source,
    /// What is written.
    pub writer: &'a SnapshotWriter,
    /// Buffers to read into: the memory budget.
    pub pool: &'a BufferPool,
    /// Reads in flight.
    pub depth: usize,
    /// Threads that hash, compress and seal.
    pub workers: usize,
    /// Only these ranges may differ from the parent.
    pub changed: Option<ChangedBlocks>,
    /// Bytes per second to read at most.
    pub limit_read: Option<u64>,
    /// Shows how far it is.
    pub progress: &'a Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

/// What was read.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Size of the volume in bytes.
    pub size: u64,
    /// Bytes that were not allocated, or taken over from the parent, and so not read.
    pub hole: u64,
}

impl Backup<'_> {
    /// Reads everything and puts it. Nothing is committed.
    pub fn run(self) -> Result<Done> {
        let unit = self.writer.chunk_size();
        let size = self.source.geometry().size;
        let stream = self.source.geometry().kind == Kind::Stream;
        let tracker = Arc::new(Mutex::new(Tracker::new(unit as u64)));
        let ranges = self.ranges(size, tracker.clone())?;
        let reader = self.source.read_all(ranges, unit, self.depth, self.pool)?;
        let results = reader.receiver().clone();
        let reader = Mutex::new(Some(reader));
        let throttle = self.limit_read.map(Throttle::new);
        let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
        let stop = AtomicBool::new(false);
        let fail = |error: anyhow::Error| {
            failed.lock().get_or_insert(error);
            stop.store(true, Ordering::Relaxed);
        };
        let work = || -> Result<()> {
            let mut scratch = self.writer.scratch()?;
            for done in results.clone() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.cancel.check()?;
                let ReadDone { offset, buffer } = done?;
                if let Some(throttle) = &throttle {
                    throttle.take(buffer.len() as u64, || self.cancel.is_cancelled() || stop.load(Ordering::Relaxed));
                    self.cancel.check()?;
                }
                for (n, chunk) in buffer.chunks(unit).enumerate() {
                    if self.writer.put(&mut scratch, offset / unit as u64 + n as u64, chunk)? == Put::New {
                        self.progress.add_stored(chunk.len() as u64);
                    }
                }
                let end = offset + buffer.len() as u64;
                drop(buffer);
                self.progress.add(end - offset);
                let decided = {
                    let mut tracker = tracker.lock();
                    if stream {
                        tracker.announce(offset..end);
                    }
                    tracker.complete(offset..end);
                    tracker.decided()
                };
                if !stream {
                    self.writer.advance(decided / unit as u64)?;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let (ended, end) = bounded::<()>(0);
            scope.spawn(|| {
                let end = end;
                let mut waited = Duration::ZERO;
                while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    if let Err(e) = self.cancel.check() {
                        fail(e.into());
                        // Ends the reading, and so the workers that wait for it.
                        return drop(reader.lock().take());
                    }
                    waited += LOOK;
                    if waited < BEAT {
                        continue;
                    }
                    waited = Duration::ZERO;
                    match self.writer.beat() {
                        Err(e) if e.kind() == wherry_repo::ErrorKind::Conflict => return fail(e.into()),
                        Err(e) => tracing::warn!("no sign of life could be given: {e}"),
                        Ok(()) => {}
                    }
                }
            });
            let workers: Vec<_> =
                (0..self.workers.max(1)).map(|_| scope.spawn(|| work().unwrap_or_else(&fail))).collect();
            for worker in workers {
                if worker.join().is_err() {
                    fail(wherry_repo::Error::internal("a worker thread panicked").into());
                }
            }
            drop(ended);
        });
        drop(reader.into_inner());
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.source.recheck()?;
        let tracker = tracker.lock();
        let size = if stream { tracker.end() } else { size };
        Ok(Done { size, hole: size - tracker.covered(size) })
    }

    /// What is read: the allocated ranges, or of these the changed ones. Each is announced when the engine takes it; the
    /// rest is zero, or the parent's.
    fn ranges(
        &self,
        size: u64,
        tracker: Arc<Mutex<Tracker>>,
    ) -> Result<Box<dyn Iterator<Item = Range<u64>> + Send + 'static>> {
        let announce = move |range: &Range<u64>| tracker.lock().announce(range.clone());
        let Some(changed) = &self.changed else {
            return Ok(Box::new(self.source.extents(0..size).inspect(announce)));
        };
        let unit = self.writer.chunk_size() as u64;
        let parent = self.writer.parent().map_or(0, |p| p.record.size);
        let changed = changed.rounded(unit, size, parent);
        for same in changed.gaps(size) {
            self.progress.add(same.end - same.start);
            self.writer.inherit(same.start / unit..same.end.div_ceil(unit))?;
        }
        let extents: Vec<_> = changed.ranges().iter().map(|range| self.source.extents(range.clone())).collect();
        Ok(Box::new(extents.into_iter().flatten().inspect(announce)))
    }
}

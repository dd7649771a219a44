//! The way of a backup: ranges of the source are read with a deep queue, workers hash and store the chunks, the map
//! follows as far as everything below is decided.

mod beating;
mod changed;
mod runs;
mod tracker;

pub use changed::{Allocated, ChangedBlocks, ListUse, Pinned};
pub use runs::{DiskRuns, Order, TRIES};

use crate::exit::caught;
use crate::progress::Progress;
use crate::signals::Cancel;
use crate::threads;
use crate::throttle::Throttle;
use anyhow::Result;
pub(crate) use beating::Beating;
use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
pub(crate) use runs::{kind, starts_over};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracker::Tracker;
use wherry_block::{BufferPool, EngineInfo, Kind, ReadDone, Source};
use wherry_repo::{CommitInfo, Put, Snapshot, SnapshotWriter};

/// Signs of life come this often; other machines take a session for dead after two hours of silence.
pub const BEAT: Duration = Duration::from_secs(60);

/// A source that stalls must not keep a signal, or the failure of an upload, from being seen for longer than this.
const LOOK: Duration = Duration::from_millis(200);

/// Ranges of a source, ascending.
type Ranges = Box<dyn Iterator<Item = Range<u64>> + Send + 'static>;

/// What a backup works with.
#[derive(Debug)]
pub struct Backup<'a> {
    /// What is read; closed as soon as all is read, or the run is to end.
    pub source: Source,
    /// What is written.
    pub writer: SnapshotWriter,
    /// Buffers to read into: the memory budget.
    pub pool: &'a BufferPool,
    /// Reads in flight.
    pub depth: usize,
    /// Threads that hash, compress and seal.
    pub workers: usize,
    /// Only these ranges may differ from the parent.
    pub changed: Option<ChangedBlocks>,
    /// Only these ranges hold data, the rest is zero; without a word about changes.
    pub allocated: Option<ChangedBlocks>,
    /// Bytes per second to read at most.
    pub limit_read: Option<u64>,
    /// A sign of life is given this often: [`BEAT`].
    pub beat: Duration,
    /// Shows how far it is.
    pub progress: Progress,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

/// What was read.
#[derive(Clone, Copy, Debug)]
struct Done {
    /// Size of the volume in bytes.
    size: u64,
    /// Bytes that were not allocated, and so not read.
    hole: u64,
}

impl Backup<'_> {
    /// Reads everything, puts it and commits, with what is found out of `info` filled in; gives also what it was read with.
    /// After an error there is no snapshot, and what was stored is left to the next run of the volume.
    pub fn run(self, info: CommitInfo) -> Result<(Snapshot, EngineInfo)> {
        // Until the end: a commit waits for uploads, and a run that is silent for long is taken for dead.
        let _beating = Beating::start(self.writer.pulse(), self.beat)?;
        let done = self.read();
        let engine = self.source.engine();
        let Self { source, writer, progress, cancel, .. } = self;
        drop(progress);
        // What follows may take long, and whoever wants to unmount or detach the source waits for this.
        drop(source);
        cancel.only_sends(true);
        match done {
            Ok(Done { size, hole }) => {
                tracing::debug!(size, "all is read");
                let info = CommitInfo { size, hole, engine: engine.name.to_owned(), ..info };
                Ok((writer.commit_unless(info, || cancel.may_commit())?, engine))
            }
            Err(error) => {
                if let Err(e) = writer.abandon() {
                    tracing::debug!("the run was not left in order: {e}");
                }
                Err(error)
            }
        }
    }

    /// Reads everything and puts it.
    fn read(&self) -> Result<Done> {
        let unit = self.writer.chunk_size();
        let size = self.source.geometry().size;
        let stream = self.source.geometry().kind == Kind::Stream;
        let tracker = Arc::new(Mutex::new(Tracker::new(unit as u64)));
        let (ranges, inherited) = self.ranges(size, tracker.clone())?;
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
                    tracker.complete(offset..end);
                    tracker.decided()
                };
                self.writer.advance(decided / unit as u64)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let (ended, end) = bounded::<()>(0);
            let watch = || {
                let end = end;
                while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    if let Err(e) = self.cancel.check().and_then(|()| self.writer.check()) {
                        fail(e.into());
                    }
                    if stop.load(Ordering::Relaxed) {
                        // Ends the reading, and so the workers that wait for it, or for a slow storage.
                        self.writer.take_no_more();
                        return drop(reader.lock().take());
                    }
                }
            };
            let worker = || caught(work).unwrap_or_else(&fail);
            match threads::one(scope, watch).and_then(|_| threads::some(scope, self.workers, worker)) {
                Ok(workers) => workers.into_iter().filter_map(|worker| worker.join().err()).for_each(|_| {
                    fail(wherry_repo::Error::internal("a worker thread panicked").into());
                }),
                Err(e) => fail(e.into()),
            }
            drop(ended);
        });
        drop(reader.into_inner());
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.source.recheck()?;
        if self.source.was_written()
            && let Some(identity) = self.source.identity()
        {
            tracing::warn!(
                "{} was written to while it was read: what was read may not fit together; back up a copy of it, or stop or freeze \
                 what uses it meanwhile",
                identity.path.display()
            );
        }
        let tracker = tracker.lock();
        let size = if stream { tracker.end() } else { size };
        // A piece that went missing between the engine and the workers would be taken for zeros.
        if let Some(first) = tracker.missing(size) {
            let text = format!("the bytes from {first} on were not read; nothing is committed, please report it");
            return Err(wherry_repo::Error::internal(text).into());
        }
        Ok(Done { size, hole: if stream { 0 } else { size - inherited - tracker.covered(size) } })
    }

    /// What is read: the allocated ranges, or of these the changed ones. Each is announced when the engine takes it; the
    /// rest is zero, or the parent's. Also, how many bytes are the parent's.
    fn ranges(&self, size: u64, tracker: Arc<Mutex<Tracker>>) -> Result<(Ranges, u64)> {
        if self.source.geometry().kind == Kind::Stream {
            tracker.lock().announce_stream();
            return Ok((Box::new(std::iter::empty()), 0));
        }
        let announce = move |range: &Range<u64>| tracker.lock().announce(range.clone());
        let unit = self.writer.chunk_size() as u64;
        let Some(changed) = &self.changed else {
            let ranges = match &self.allocated {
                Some(allocated) => allocated.rounded(unit, size, size).ranges().to_vec(),
                None => ChangedBlocks::complement(std::iter::empty(), size),
            };
            let extents: Vec<_> = ranges.into_iter().map(|range| self.source.extents(range)).collect();
            return Ok((Box::new(extents.into_iter().flatten().inspect(announce)), 0));
        };
        let parent = self.writer.parent().map_or(0, |p| p.record.size);
        let changed = changed.rounded(unit, size, parent);
        let mut same = Vec::new();
        for gap in changed.gaps(size) {
            same.extend(self.writer.inheritable(gap.start / unit..gap.end.div_ceil(unit))?);
        }
        let mut inherited = 0;
        for chunks in &same {
            let bytes = (chunks.end * unit).min(size) - chunks.start * unit;
            self.writer.inherit(chunks.clone(), bytes)?;
            self.progress.add(bytes);
            inherited += bytes;
        }
        let listed: u64 = changed.ranges().iter().map(|r| r.end - r.start).sum();
        let lost = size - listed - inherited;
        if lost > 0 {
            let lost = crate::output::size(lost);
            tracing::warn!("{lost} are read although the list does not name them: the parent's copy of them is gone");
        }
        let read = ChangedBlocks::complement(same.into_iter().map(|c| c.start * unit..c.end * unit), size);
        let extents: Vec<_> = read.into_iter().map(|range| self.source.extents(range)).collect();
        Ok((Box::new(extents.into_iter().flatten().inspect(announce)), inherited))
    }
}

#[cfg(test)]
mod tests;

//! A backup of a disk, by as many runs as it takes: a run that a collector ends is followed by another one, which has less
//! left to send.

use super::{Allocated, BEAT, Backup, ListUse, Pinned};
use crate::context::Context;
use crate::progress::Meter;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use wherry_block::{BufferPool, EngineInfo, Kind, Source};
use wherry_repo::index::ChunkIndex;
use wherry_repo::{
    CommitInfo, Compression, Error, ErrorKind, ParentChoice, Repository, Snapshot, SnapshotId, SnapshotWriter,
    WriterOptions,
};

/// Reads are this long (bytes), or one chunk where chunks are longer.
const READ: usize = 1 << 20;

/// How often a run starts over when collectors end it under way; each time less is left to send.
pub const TRIES: usize = 5;

/// What a backup is told of its snapshot.
pub struct Order<'a> {
    /// Name of the volume.
    pub name: String,
    /// What is built upon.
    pub parent: ParentChoice,
    /// How chunks are packed.
    pub compression: Compression,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// What is read, as the record says it.
    pub source: String,
    /// Bytes per second to read at most.
    pub limit_read: Option<u64>,
    /// Called when a run has begun, before anything is read: its session, and how far it is.
    pub begun: &'a (dyn Fn(SnapshotId, Meter) + Sync),
}

impl fmt::Debug for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Order({:?})", self.name)
    }
}

impl Order<'_> {
    /// Options of a writer, whose packs have this size and number.
    pub(crate) fn options(&self, pack_size: u64, packs: usize, uploads: usize) -> WriterOptions {
        WriterOptions {
            name: self.name.clone(),
            parent: self.parent.clone(),
            compression: self.compression,
            pack_size: pack_size as usize,
            pack_buffers: packs,
            uploads,
            ..WriterOptions::default()
        }
    }

    /// What the commit is told before anything is read.
    pub(crate) fn info(&self, context: &Context) -> CommitInfo {
        CommitInfo {
            tags: self.tags.clone(),
            source: self.source.clone(),
            run: context.run.to_string(),
            ..CommitInfo::default()
        }
    }
}

/// What a caller does about an error of the repository; `None`: it is none.
pub(crate) fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}

/// Whether a run that ended so is followed by another one.
pub(crate) fn starts_over(error: &anyhow::Error, attempt: usize) -> bool {
    let over = kind(error) == Some(ErrorKind::Conflict) && attempt < TRIES;
    if over {
        tracing::warn!("{error:#}; starting over");
    }
    over
}

/// The writer, and what was opened for it. Where that failed its run ends, or collectors on other machines would wait for it.
pub(super) fn or_abandon<T>(writer: SnapshotWriter, opened: Result<T>) -> Result<(SnapshotWriter, T)> {
    match opened {
        Ok(opened) => Ok((writer, opened)),
        Err(error) => {
            writer.abandon().unwrap_or_else(|e| tracing::debug!("the run stays open: {e}"));
            Err(error)
        }
    }
}

/// A disk to be backed up.
#[derive(Debug)]
pub struct DiskRuns<'a> {
    /// Settings, budget, and what asks to end.
    pub context: &'a Context,
    /// Where to.
    pub repository: &'a Repository,
    /// Its index.
    pub index: &'a Arc<ChunkIndex>,
    /// What the snapshot is to be.
    pub order: Order<'a>,
    /// What changed since the snapshot that is built upon, where a list says so.
    pub changed: Option<Pinned>,
    /// What of the source holds data, where a storage system says so and there is no list of changes.
    pub allocated: Option<Allocated>,
}

/// What became of a disk.
#[derive(Debug)]
pub struct DiskSaved {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What became of the list of changed, or of allocated, blocks.
    pub list: Option<ListUse>,
    /// What the source was read with.
    pub engine: EngineInfo,
}

impl DiskRuns<'_> {
    /// Backs up what `open` opens, for each run anew.
    ///
    /// # Errors
    /// As [`Backup::run`]; `Conflict` when collectors ended all of [`TRIES`] runs, or the one of a stream.
    pub fn run(self, mut open: impl FnMut() -> Result<Source>) -> Result<DiskSaved> {
        let Self { context, repository, index, order, changed, allocated } = self;
        let budget = context.budget;
        let options = order.options(budget.pack_size, budget.packs, budget.uploads);
        for attempt in 1.. {
            context.cancel.only_sends(false);
            let writer = SnapshotWriter::start(repository, index.clone(), &options)?;
            let unit = writer.chunk_size();
            let mut opened = || Ok((BufferPool::new(READ.max(unit), budget.depth(READ.max(unit) as u64))?, open()?));
            let (writer, (pool, source)) = or_abandon(writer, opened())?;
            let geometry = source.geometry();
            let total = (geometry.kind != Kind::Stream).then_some(geometry.size);
            let changed = changed.as_ref().map(|pinned| pinned.for_run(attempt, &writer, geometry.size));
            let allocated = allocated.as_ref().map(|allocated| allocated.of(geometry.size));
            let list = changed.as_ref().or(allocated.as_ref()).map(ListUse::from);
            if let Some(Err(why)) = &changed {
                tracing::warn!(
                    "the list of changed blocks is not used, everything is read: {why}; --parent SNAP names its snapshot"
                );
            }
            let progress = context.progress("backup", total);
            (order.begun)(writer.id(), progress.meter());
            let work = Backup {
                source,
                pool: &pool,
                depth: pool.count(),
                workers: budget.workers,
                changed: changed.and_then(Result::ok),
                allocated: allocated.and_then(Result::ok),
                writer,
                limit_read: order.limit_read,
                beat: BEAT,
                progress,
                cancel: &context.cancel,
            };
            match work.run(order.info(context)) {
                Ok((snapshot, engine)) => {
                    index.flush().unwrap_or_else(|e| tracing::debug!("the chunk index was not flushed: {e}"));
                    return Ok(DiskSaved { snapshot, list, engine });
                }
                Err(error) if total.is_some() && starts_over(&error, attempt) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::internal("a backup neither ended nor failed").into())
    }
}

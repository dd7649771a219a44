//! A disk that is restored to a target: what is compared, what is opened, what is written.

use super::{Chunks, Compare, Restore};
use crate::context::Context;
use anyhow::Result;
use std::path::Path;
use wherry_block::{BufferPool, Sink, SinkOptions, Source};
use wherry_repo::SnapshotReader;

/// Longest request to the storage (bytes), unless a single chunk is longer.
pub(crate) const FETCH: u64 = 2 << 20;

/// Requests to the storage under way at once.
pub(crate) fn fetchers(context: &Context) -> usize {
    let budget = context.budget;
    if context.is_remote() { budget.downloads } else { budget.downloads.min(budget.workers * 2) }
}

/// A snapshot and the target that it is written to.
#[derive(Debug)]
pub struct DiskRestore<'a> {
    context: &'a Context,
    reader: &'a SnapshotReader,
    target: &'a Path,
    pool: BufferPool,
    depth: usize,
}

impl<'a> DiskRestore<'a> {
    /// Nothing is opened yet.
    ///
    /// # Errors
    /// When there is not enough memory for buffers.
    pub fn new(context: &'a Context, reader: &'a SnapshotReader, target: &'a Path) -> Result<Self> {
        let unit = reader.chunk_size();
        let depth = context.budget.depth(unit.max(4096));
        Ok(Self { context, reader, target, pool: BufferPool::new(unit as usize, depth)?, depth })
    }

    /// The chunks that the target holds otherwise. `is_written`: those are going to be written.
    pub fn differing(&self, what: &'static str, is_written: bool) -> Result<Chunks> {
        let progress = self.context.progress(what, Some(self.reader.size()));
        let compare = Compare {
            target: &Source::open(self.target, self.context.settings.engine.into())?,
            reader: self.reader,
            pool: &self.pool,
            depth: self.depth.min(64),
            workers: self.context.budget.workers,
            is_written,
            progress: &progress,
            cancel: &self.context.cancel,
        };
        compare.run()
    }

    /// Opens the target to write to it; `create` makes it. `below_loop`: see [`SinkOptions`].
    pub fn sink(&self, create: bool, below_loop: bool) -> Result<Sink> {
        let engine = self.context.settings.engine.into();
        let options = SinkOptions { engine, depth: self.depth.min(64), below_loop };
        Ok(match create {
            true => Sink::create(self.target, self.reader.size(), options, &self.pool),
            false => Sink::open(self.target, self.reader.size(), options, &self.pool),
        }?)
    }

    /// Writes what is to be written, all or `only` these chunks, and makes it durable.
    pub fn fill(&self, sink: &Sink, only: Option<&Chunks>, progress: &crate::progress::Progress) -> Result<()> {
        let work = Restore {
            reader: self.reader,
            sink,
            pool: &self.pool,
            fetchers: fetchers(self.context),
            fetch_bytes: FETCH,
            only,
            progress,
            cancel: &self.context.cancel,
        };
        work.run()
    }
}

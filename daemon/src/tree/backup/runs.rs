//! A backup of a directory, by as many runs as it takes.

use super::{BATCH, Counts, TreeBackup};
use crate::backup::{BEAT, Order, starts_over};
use crate::context::Context;
use crate::own::Identity;
use crate::tree::dir::Root;
use crate::tree::exclude::Exclude;
use anyhow::Result;
use std::path::PathBuf;
use std::sync::Arc;
use wherry_block::EngineInfo;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{Error, Repository, Snapshot, TreeInfo, TreeWriter};

/// A directory to be backed up.
#[derive(Debug)]
pub struct TreeRuns<'a> {
    /// Settings, budget, and what asks to end.
    pub context: &'a Context,
    /// Where to.
    pub repository: &'a Repository,
    /// Its index.
    pub index: &'a Arc<ChunkIndex>,
    /// What the snapshot is to be.
    pub order: Order<'a>,
    /// What is left out.
    pub exclude: Exclude,
    /// See [`TreeBackup`].
    pub own: Option<Identity>,
    /// See [`TreeBackup`].
    pub scratch: PathBuf,
    /// See [`TreeBackup`].
    pub ignore_inode: bool,
    /// See [`TreeBackup`].
    pub force_read: bool,
}

impl TreeRuns<'_> {
    /// Backs up what `open` opens, for each run anew; gives the engine for small files as it was found beforehand, too.
    ///
    /// # Errors
    /// As [`TreeBackup::run`]; `Invalid` where there is too little memory; `Conflict` when collectors ended all runs.
    pub fn run(self, mut open: impl FnMut() -> Result<Root>) -> Result<(Snapshot, Counts, EngineInfo)> {
        let Self { context, repository, index, order, exclude, .. } = &self;
        let budget = context.budget.of_tree(repository.chunk_size())?;
        repository.limit_tree_nodes(budget.nodes);
        repository.limit_nodes(budget.maps);
        let engine = wherry_block::file_engine(context.settings.engine.into(), BATCH)?;
        let options = order.options(budget.pack_size, budget.packs, budget.uploads);
        for attempt in 1.. {
            context.cancel.only_sends(false);
            let root = open()?;
            let writer = TreeWriter::start(repository, (*index).clone(), &options)?;
            let progress = context.progress("backup", None);
            (order.begun)(writer.id(), progress.meter());
            let work = TreeBackup {
                root,
                writer,
                exclude: exclude.clone(),
                own: self.own,
                scratch: self.scratch.clone(),
                ignore_inode: self.ignore_inode,
                force_read: self.force_read,
                ring: engine.name == "ring",
                shares: budget.shares,
                limit_read: order.limit_read,
                beat: BEAT,
                progress,
                cancel: &context.cancel,
            };
            let described = TreeInfo { excluded: exclude.given().to_vec(), ..TreeInfo::default() };
            match work.run(order.info(context), described) {
                Ok((snapshot, counts)) => {
                    index.flush().unwrap_or_else(|e| tracing::debug!("the chunk index was not flushed: {e}"));
                    return Ok((snapshot, counts, engine));
                }
                Err(error) if starts_over(&error, attempt) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::internal("a backup neither ended nor failed").into())
    }
}

//! A snapshot opened to look into it.

use crate::context::Context;
use crate::exit::Exit;
use crate::mount::Limits;
use crate::mount::disk::Disk;
use crate::mount::source::Shared;
use crate::readers::Readers;
use crate::tree::inside::DiskView;
use crate::tree::inside::bytes::DiskBytes;
use crate::tree::path::TreePath;
use crate::tree::view::{Failed, View};
use crate::tree::view_tree::TreeView;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use wherry_repo::{Error, ErrorKind, Repository, Snapshot, TreeReader};

/// Longest request to the storage (bytes), unless a single chunk is longer.
const FETCH: u64 = 1 << 20;

/// Opens a snapshot and does `work` with the view of it; a signal ends the process meanwhile. The result is `Partial` where
/// the snapshot is, whatever `work` says.
pub(super) fn look(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
    work: impl FnOnce(&mut dyn View) -> Result<Exit>,
) -> Result<Exit> {
    let _armed = context.cancel.arm("");
    let readers = Readers::start(repository)?;
    let record = &snapshot.record;
    if record.partial {
        tracing::warn!("snapshot {} is partial: what could not be read when it was made is missing", snapshot.id);
    }
    let whole = |exit| if exit == Exit::Done && record.partial { Exit::Partial } else { exit };
    if record.tree.is_some() {
        let budget = &context.budget;
        repository.limit_tree_nodes(budget.nodes.max(8 << 20));
        let reader = TreeReader::within(readers.open(snapshot)?)?;
        let mut view = TreeView::new(&reader, budget.chunk_cache, budget.downloads);
        return readers.until_a_signal(&context.cancel, || work(&mut view)).map(whole);
    }
    let limits = Limits::new(&context.budget, snapshot.volume_chunk_size()?);
    let shared = Shared::new(limits.cache, limits.ahead, FETCH).map_err(|e| {
        Error::new(ErrorKind::Unavailable, "threads cannot be started: allow this user more processes").with_source(e)
    })?;
    let disk = Disk::open(readers.open(snapshot)?, shared)?;
    let exit = readers.until_a_signal(&context.cancel, || {
        let bytes = Arc::new(DiskBytes::new(disk));
        let mut view = DiskView::open(bytes, &snapshot.id.to_string(), record.started)?;
        work(&mut view)
    })?;
    Ok(whole(exit))
}

/// The path that was typed; the top when there is none.
pub(super) fn path(typed: Option<OsString>) -> TreePath {
    typed.map_or_else(TreePath::default, |typed| TreePath::new(typed.as_bytes()))
}

/// `Damage` when the repository has lost something, `Partial` when anything else could not be read.
pub(super) fn ended(failed: Failed) -> Exit {
    match failed {
        Failed { damaged: true, .. } => Exit::Damage,
        Failed { count: 0, .. } => Exit::Done,
        Failed { .. } => Exit::Partial,
    }
}

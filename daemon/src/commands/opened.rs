//! A snapshot opened to look into it.

use crate::context::Context;
use crate::exit::Exit;
use crate::mount::Limits;
use crate::mount::disk::Disk;
use crate::mount::file::File;
use crate::mount::source::{Shared, Source};
use crate::readers::Readers;
use crate::tree::inside::bytes::{DiskBytes, FileBytes};
use crate::tree::inside::{DiskView, Whose};
use crate::tree::path::TreePath;
use crate::tree::view::{Failed, View};
use crate::tree::view_images::ImagesView;
use crate::tree::view_tree::TreeView;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use wherry_repo::format::tree::{Content, MAX_PIECE};
use wherry_repo::{Error, ErrorKind, Repository, Snapshot, TreeReader};

/// Longest request to the storage (bytes), unless a single chunk is longer.
const FETCH: u64 = 1 << 20;

/// What was typed for a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    /// The path.
    pub(super) path: TreePath,
    /// With a `/` behind it: what is there is to be gone into, also if it is a disk image.
    into: bool,
}

impl Typed {
    /// The top where nothing was typed.
    pub(super) fn new(typed: Option<OsString>) -> Self {
        let typed = typed.unwrap_or_default();
        Self { path: TreePath::new(typed.as_bytes()), into: typed.as_bytes().ends_with(b"/") }
    }
}

/// Opens a snapshot and does `work` with the view of it and the path; a signal ends the process meanwhile. The result is
/// `Partial` where the snapshot is, whatever `work` says.
pub(super) fn look(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
    typed: &Typed,
    work: impl FnOnce(&mut dyn View, &TreePath) -> Result<Exit>,
) -> Result<Exit> {
    let _armed = context.cancel.arm("");
    let readers = Readers::start(repository)?;
    let record = &snapshot.record;
    if record.partial {
        tracing::warn!("snapshot {} is partial: what could not be read when it was made is missing", snapshot.id);
    }
    let whole = |exit| if exit == Exit::Done && record.partial { Exit::Partial } else { exit };
    let whose =
        |image: &TreePath| Whose { snapshot: snapshot.id.to_string(), time: record.started, image: image.clone() };
    if record.tree.is_some() {
        let budget = &context.budget;
        repository.limit_tree_nodes(budget.nodes.max(8 << 20));
        let reader = Arc::new(TreeReader::within(readers.open(snapshot)?)?);
        let tree = TreeView::new(&reader, budget.chunk_cache, budget.downloads);
        let open = |path: &TreePath, size: u64, content: Content| {
            // The view of the tree keeps next to nothing meanwhile.
            let shared = shared(context, repository.chunk_size().max(MAX_PIECE).into())?;
            let name = format!("{} ({})", record.name, snapshot.id);
            let source = Source::new(reader.chunks().clone(), name, None, shared);
            let file = File::new(reader.clone(), source, size, content);
            let named = |e: Error| e.context(format!("{path} cannot be looked into"));
            Ok(DiskView::open(Arc::new(FileBytes::new(file, size)), whose(path)).map_err(named)?)
        };
        let mut view = ImagesView::new(tree, Box::new(open));
        if typed.into {
            view.go_into(&typed.path);
        }
        return readers.until_a_signal(&context.cancel, || work(&mut view, &typed.path)).map(whole);
    }
    let disk = Disk::open(readers.open(snapshot)?, shared(context, snapshot.volume_chunk_size()?)?)?;
    let exit = readers.until_a_signal(&context.cancel, || {
        let bytes = Arc::new(DiskBytes::new(disk));
        let mut view = DiskView::open(bytes, whose(&TreePath::default()))?;
        work(&mut view, &typed.path)
    })?;
    Ok(whole(exit))
}

/// What reads a disk whose longest chunk has so many bytes.
fn shared(context: &Context, chunk: u64) -> Result<Arc<Shared>> {
    let limits = Limits::new(&context.budget, chunk);
    let threads = "threads cannot be started: allow this user more processes";
    let shared = Shared::new(limits.cache, limits.ahead, FETCH);
    Ok(shared.map_err(|e| Error::new(ErrorKind::Unavailable, threads).with_source(e))?)
}

/// `Damage` when the repository has lost something, `Partial` when anything else could not be read.
pub(super) fn ended(failed: Failed) -> Exit {
    match failed {
        Failed { damaged: true, .. } => Exit::Damage,
        Failed { count: 0, .. } => Exit::Done,
        Failed { .. } => Exit::Partial,
    }
}

//! `wherry backup` of a directory

use super::backup::{choice, default_name};
use super::saved::Saved;
use crate::backup::Order;
use crate::cli::BackupArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::own::Own;
use crate::tree::backup::{BATCH, Counts, TreeRuns};
use crate::tree::dir::Root;
use crate::tree::exclude::Exclude;
use crate::tree::path::escaped;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use wherry_repo::{DEFAULT_CHUNK_SIZE, Error, Snapshot};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    saved: Saved,
    files: u64,
    directories: u64,
    others: u64,
    /// Files that were taken over unread.
    files_unread: u64,
    unsettled: u64,
    partial: bool,
    /// Other filesystems that are mounted below, and were left out.
    boundaries: u64,
    missing: u64,
    /// The first thousand.
    missing_paths: Vec<MissingPath>,
}

#[derive(Serialize)]
struct MissingPath {
    path: String,
    errno: u32,
    reason: String,
}

/// Backs up a directory.
pub(super) fn run(context: &Context, path: &Path, args: &BackupArgs) -> Result<Exit> {
    let start = Instant::now();
    if let Some(list) = &args.changed_blocks {
        let text = format!("--changed-blocks {}: that is for disks, and SOURCE is a directory", list.display());
        return Err(Error::invalid(text).into());
    }
    let name = args.name.as_ref().map_or_else(|| default_name(path), |name| Ok(name.to_string()))?;
    let tree = &args.tree;
    let exclude = Exclude::new(&tree.exclude, tree.exclude_caches, &tree.exclude_if_present)?;
    // Too little memory is said at once.
    context.budget.of_tree(DEFAULT_CHUNK_SIZE)?;
    wherry_block::file_engine(context.settings.engine.into(), BATCH)?;
    // The source first: a wrong path should not cost a password.
    let root = Root::open(path, tree.all_filesystems)?;
    let (repository, _turn) =
        context.open_to_write_limited(&format!("backup of {name:?}"), args.limit_upload.map(|l| l.0))?;
    let own = Own::of(&context.settings);
    let index = context.index(&repository)?;
    let armed = context.cancel.arm("run the same command again: what is stored already is not sent twice");
    let runs = TreeRuns {
        context,
        repository: &repository,
        index: &index,
        order: Order {
            parent: choice(context, &repository, args.parent.as_ref())?,
            name,
            compression: args.compression.map_or(wherry_repo::Compression::Lz4, Into::into),
            tags: args.tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
            source: path.display().to_string(),
            limit_read: args.limit_read.map(|l| l.0),
            begun: &|_, _| {},
        },
        exclude,
        own: own.repository(),
        scratch: std::env::temp_dir(),
        ignore_inode: tree.ignore_inode,
        force_read: tree.force_read,
    };
    let (snapshot, counts, _) = runs.run(|| Ok(root.clone()))?;
    drop(armed);
    report(context, &snapshot, &counts, start)?;
    Ok(if snapshot.record.partial { Exit::Partial } else { Exit::Done })
}

fn report(context: &Context, snapshot: &Snapshot, counts: &Counts, start: Instant) -> Result<()> {
    let missing_paths = counts.named.iter().map(|missing| MissingPath {
        path: escaped(&missing.path),
        errno: missing.errno,
        reason: std::io::Error::from_raw_os_error(missing.errno.cast_signed()).to_string(),
    });
    let report = Report {
        saved: Saved::new(snapshot, start),
        files: counts.files,
        directories: counts.directories,
        others: counts.others,
        files_unread: counts.kept,
        unsettled: counts.unsettled,
        partial: snapshot.record.partial,
        boundaries: counts.boundaries,
        missing: counts.missing,
        missing_paths: missing_paths.collect(),
    };
    context.output.result(&report, || {
        let (saved, size) = (&report.saved, output::size);
        let found = vec![
            format!("tree      {} files, {} directories, {} others", report.files, report.directories, report.others),
            format!(
                "read      {} in {:.1} s, {} files not read again",
                size(saved.read),
                saved.seconds,
                report.files_unread
            ),
            format!(
                "found     {} unchanged, {} known, {} new",
                size(saved.unchanged),
                size(saved.known),
                size(saved.new)
            ),
        ];
        let rest = [
            (report.unsettled, "changed   # files changed each time they were read"),
            (report.boundaries, "mounts    # other filesystems below were left out"),
            (report.missing, "missing   # could not be read: the snapshot is partial"),
        ];
        let rest = rest.into_iter().filter(|(count, _)| *count > 0);
        saved.text(found, rest.map(|(count, text)| text.replace('#', &count.to_string())).collect())
    })
}

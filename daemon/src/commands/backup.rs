//! `wherry backup`

use super::saved::Saved;
use crate::backup::{BEAT, Backup, ChangedBlocks, ListUse, Pinned};
use crate::cli::{BackupArgs, Parent, SourceArg};
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::select::SnapSpec;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use wherry_block::{BufferPool, Kind, Source};
use wherry_repo::{
    CommitInfo, Error, ErrorKind, Newest, ParentChoice, Repository, Snapshot, SnapshotId, SnapshotWriter, WriterOptions,
};

/// Reads are this long (bytes), or one chunk where chunks are longer.
const READ: usize = 1 << 20;

/// How often a run starts over when collectors end it under way; each time less is left to send.
pub(super) const TRIES: usize = 5;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    saved: Saved,
    /// What became of the list of changed blocks; null without one.
    changed_blocks: Option<ListUse>,
    engine_reason: String,
}

/// Backs up a device, an image, a directory or standard input.
pub(crate) fn run(context: &Context, args: BackupArgs) -> Result<Exit> {
    let start = Instant::now();
    if let SourceArg::Path(path) = &args.source
        && path.is_dir()
    {
        return super::backup_tree::run(context, path, &args);
    }
    if let Some(flag) = args.tree.given() {
        return Err(Error::invalid(format!("{flag} is for directories, and SOURCE is none")).into());
    }
    let BackupArgs { source, name, tags, parent, compression, limit_read, limit_upload, changed_blocks, .. } = args;
    let (path, name) = match &source {
        SourceArg::Stdin => {
            let name = name.ok_or_else(|| Error::invalid("standard input has no name of its own: give --name"))?;
            (None, name.to_string())
        }
        SourceArg::Path(path) => {
            (Some(path.as_path()), name.map_or_else(|| default_name(path), |n| Ok(n.to_string()))?)
        }
    };
    if let (None, Some(list)) = (path, &changed_blocks) {
        let list = list.display();
        let text = format!(
            "--changed-blocks {list} with standard input: it is read from front to back anyway; give the device or image, \
             or leave the list out"
        );
        return Err(Error::invalid(text).into());
    }
    if path.is_some_and(|path| path.as_os_str().is_empty()) {
        return Err(Error::invalid("SOURCE is empty: name a block device or a disk image").into());
    }
    let changed = changed_blocks.as_deref().map(ChangedBlocks::read).transpose()?;
    let engine = context.settings.engine.into();
    let open = |path: Option<&Path>| path.map_or_else(Source::stdin, |path| Source::open(path, engine));
    // The source first: a wrong path should not cost a password.
    let mut opened = Some(open(path)?);
    if let Some(mounted) = opened.as_ref().and_then(Source::mounted_writable) {
        tracing::warn!(
            "{mounted}: what is read may not fit together; back up a snapshot of it, or freeze it meanwhile"
        );
    }
    let (repository, _turn) =
        context.open_to_write_limited(&format!("backup of {name:?}"), limit_upload.map(|l| l.0))?;
    let exact = matches!(&parent, Some(Parent::Snap(SnapSpec::Id(_) | SnapSpec::Prefix(_))));
    let parent = choice(context, &repository, parent.as_ref())?;
    // Before any session chooses its parent: what is newer than this is not what the list belongs to.
    let changed = match changed {
        Some(list) => Some(Pinned::new(list, pin(&repository, &name, &parent, exact)?)),
        None => None,
    };
    let index = context.index(&repository)?;
    let budget = context.budget;
    let options = WriterOptions {
        name,
        parent,
        compression: compression.map_or(wherry_repo::Compression::Lz4, Into::into),
        pack_size: budget.pack_size as usize,
        pack_buffers: budget.packs,
        uploads: budget.uploads,
        ..WriterOptions::default()
    };
    let armed = context.cancel.arm("run the same command again: what is stored already is not sent twice");
    for attempt in 1.. {
        let writer = SnapshotWriter::start(&repository, index.clone(), &options)?;
        let unit = writer.chunk_size();
        let pool = BufferPool::new(READ.max(unit), budget.depth(READ.max(unit) as u64))?;
        let source = opened.take().map_or_else(|| open(path), Ok)?;
        let geometry = source.geometry();
        let total = (geometry.kind != Kind::Stream).then_some(geometry.size);
        let changed = changed.as_ref().map(|pinned| pinned.for_run(attempt, &writer, geometry.size));
        let list_use = changed.as_ref().map(ListUse::from);
        if let Some(Err(why)) = &changed {
            tracing::warn!(
                "the list of changed blocks is not used, everything is read: {why}; --parent SNAP names its snapshot"
            );
        }
        let work = Backup {
            source: &source,
            pool: &pool,
            depth: pool.count(),
            workers: budget.workers,
            changed: changed.and_then(Result::ok),
            writer,
            limit_read: limit_read.map(|l| l.0),
            beat: BEAT,
            progress: context.progress("backup", total),
            cancel: &context.cancel,
        };
        let info = CommitInfo {
            tags: tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect::<BTreeMap<_, _>>(),
            source: source_name(path),
            run: context.run.to_string(),
            ..CommitInfo::default()
        };
        match work.run(info) {
            Ok(snapshot) => {
                drop(armed);
                if path.is_none() && snapshot.record.size == 0 {
                    tracing::warn!("standard input was empty, and so is the snapshot: did the command before it fail?");
                }
                index.flush().unwrap_or_else(|e| tracing::debug!("the chunk index was not flushed: {e}"));
                report(context, &snapshot, list_use, source.engine().why, start)?;
                return Ok(Exit::Done);
            }
            Err(error) if kind(&error) == Some(ErrorKind::Conflict) && total.is_some() && attempt < TRIES => {
                tracing::warn!("{error:#}; starting over");
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::internal("a backup neither ended nor failed").into())
}

/// Which snapshot is built upon.
pub(super) fn choice(context: &Context, repository: &Repository, parent: Option<&Parent>) -> Result<ParentChoice> {
    Ok(match parent {
        None | Some(Parent::Auto) => ParentChoice::Auto,
        Some(Parent::None) => ParentChoice::None,
        Some(Parent::Snap(snap)) => ParentChoice::Snapshot(context.snapshot(repository, snap)?.id),
    })
}

/// The snapshot a list of changed blocks belongs to, or why it has none: the one that was named by its id, `exact`ly,
/// else the newest one of the volume.
fn pin(
    repository: &Repository,
    volume: &str,
    parent: &ParentChoice,
    exact: bool,
) -> Result<Result<SnapshotId, String>, Error> {
    match parent {
        ParentChoice::None => return Ok(Err("--parent none leaves it no snapshot to belong to".to_owned())),
        ParentChoice::Snapshot(id) if exact => return Ok(Ok(*id)),
        ParentChoice::Snapshot(_) | ParentChoice::Auto => {}
    }
    Ok(match repository.newest(repository.volume_id(volume))? {
        Newest::Snapshot(id) => Ok(id),
        Newest::Unclear(why) => Err(why),
    })
}

pub(super) fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.downcast_ref::<Error>().map(Error::kind)
}

fn source_name(path: Option<&Path>) -> String {
    path.map_or_else(|| "-".to_owned(), |path| path.display().to_string())
}

/// `<hostname>.<last path component>`.
pub(super) fn default_name(path: &Path) -> Result<String> {
    let real = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let last = real.file_name().and_then(|name| name.to_str());
    let last =
        last.ok_or_else(|| Error::invalid(format!("{} gives no name for the volume: give --name", path.display())))?;
    let name = format!("{}.{last}", wherry_repo::host_name());
    match name.parse::<crate::cli::VolumeName>() {
        Ok(name) => Ok(name.to_string()),
        Err(why) => Err(Error::invalid(format!("{name:?} cannot be the volume's name ({why}): give --name")).into()),
    }
}

fn report(
    context: &Context,
    snapshot: &Snapshot,
    changed_blocks: Option<ListUse>,
    engine_reason: String,
    start: Instant,
) -> Result<()> {
    let report = Report { saved: Saved::new(snapshot, start), changed_blocks, engine_reason };
    context.output.result(&report, || {
        let (saved, size) = (&report.saved, output::size);
        let found = vec![
            format!(
                "read      {} in {:.1} s ({}/s, {} engine), {} not allocated",
                size(saved.read),
                saved.seconds,
                size((saved.read as f64 / saved.seconds.max(0.001)) as u64),
                saved.engine,
                size(saved.hole)
            ),
            format!(
                "found     {} unchanged, {} known, {} zero, {} new",
                size(saved.unchanged),
                size(saved.known),
                size(saved.zero),
                size(saved.new)
            ),
        ];
        let list = report.changed_blocks.as_ref().map(|list| match &list.reason {
            Some(why) => format!("list      not used, everything was read: {why}"),
            None => "list      used: only what it names was read".to_owned(),
        });
        saved.text(found, list.into_iter().collect())
    })
}

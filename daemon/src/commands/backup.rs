//! `wherry backup`

use super::saved::Saved;
use crate::backup::{ChangedBlocks, DiskRuns, ListUse, Order, Pinned};
use crate::cli::{BackupArgs, Parent, SourceArg, Tag};
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::select::{SnapSpec, summaries};
use anyhow::Result;
use rustix::fd::BorrowedFd;
use rustix::fs::{OFlags, Stat, fcntl_getfl, fstat, major, minor};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use wherry_block::Source;
use wherry_repo::{Error, Newest, ParentChoice, Repository, Snapshot, SnapshotId};

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    saved: Saved,
    /// What became of the list of changed blocks; null without one.
    changed_blocks: Option<ListUse>,
    engine_reason: String,
}

/// Whether a standard stream was closed when the process began (`<&-`): Rust puts the null device in its place then, open for reading and
/// writing. `</dev/null` opens it for reading, and is somebody's word that there is nothing.
fn is_nobodys(stream: BorrowedFd<'_>) -> bool {
    const NULL: (u32, u32) = (1, 3);
    let is_null = |stat: Stat| (major(stat.st_rdev), minor(stat.st_rdev)) == NULL;
    fstat(stream).is_ok_and(is_null) && fcntl_getfl(stream).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// A tag that is given with two values.
fn twice(tags: &[Tag]) -> Option<(&str, &str, &str)> {
    tags.iter().enumerate().find_map(|(n, tag)| {
        let other = tags[..n].iter().find(|other| other.key == tag.key && other.value != tag.value)?;
        Some((tag.key.as_str(), other.value.as_str(), tag.value.as_str()))
    })
}

/// Backs up a device, an image, a directory or standard input.
pub(crate) fn run(context: &Context, args: BackupArgs) -> Result<Exit> {
    let start = Instant::now();
    if let (SourceArg::Path(path), Some(size)) = (&args.source, args.size) {
        let text = format!("--size {size} is for standard input (-): the size of {} can be asked for", path.display());
        return Err(Error::invalid(text).into());
    }
    if let Some((key, one, other)) = twice(&args.tags) {
        let text = format!("--tag {key}={one} and --tag {key}={other}: a tag has one value");
        return Err(Error::invalid(text).into());
    }
    if let SourceArg::Path(path) = &args.source
        && path.is_dir()
    {
        return super::backup_tree::run(context, path, &args);
    }
    if let Some(flag) = args.tree.given() {
        return Err(Error::invalid(format!("{flag} is for directories, and SOURCE is none")).into());
    }
    let size = args.size.map(|size| size.0);
    let BackupArgs { source, name, tags, parent, compression, limit_read, limit_upload, changed_blocks, .. } = args;
    let (path, name) = match &source {
        SourceArg::Stdin => {
            if is_nobodys(rustix::stdio::stdin()) {
                let text = "standard input is closed, or the null device opened for reading and writing: a backup of it would be of nothing";
                return Err(Error::invalid(text).into());
            }
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
    let open = |path: Option<&Path>| path.map_or_else(|| Source::stdin(size), |path| Source::open(path, engine));
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
    let armed = context.cancel.arm("run the same command again: what is stored already is not sent twice");
    let runs = DiskRuns {
        context,
        repository: &repository,
        index: &index,
        order: Order {
            name,
            parent,
            compression: compression.map_or(wherry_repo::Compression::Lz4, Into::into),
            tags: tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect(),
            source: source_name(path),
            limit_read: limit_read.map(|l| l.0),
            begun: &|_, _| {},
        },
        changed,
        allocated: None,
    };
    let saved = runs.run(|| Ok(opened.take().map_or_else(|| open(path), Ok)?))?;
    drop(armed);
    if path.is_none() && size.is_none() {
        warn_of_short(&repository, &saved.snapshot);
    }
    report(context, &saved.snapshot, saved.list, saved.engine.why, start)?;
    Ok(Exit::Done)
}

/// Warns of what came by a pipe that may have broken: there is nothing but its length to tell by.
fn warn_of_short(repository: &Repository, snapshot: &Snapshot) {
    let (id, size) = (snapshot.id, snapshot.record.size);
    // It is committed: what cannot be listed now is no reason to fail.
    let before = repository.snapshots(Some(snapshot.volume)).ok().and_then(|list| {
        let mut others = summaries(&list);
        others.retain(|other| other.id != id);
        let newest = SnapSpec::LatestOf(snapshot.record.name.clone()).resolve(&others).ok()?.id;
        let newest = list.snapshots.iter().find(|s| s.id == newest)?;
        newest.record.tree.is_none().then_some((newest.id, newest.record.size))
    });
    match before {
        Some((older, was)) if size < was => tracing::warn!(
            "standard input ended after {size} bytes, and snapshot {older} of this volume has {was}: did the command before it fail? \
             The snapshot stands, and is the latest: `wherry forget {id}` drops it; with --size {was} one that is shorter is not committed"
        ),
        _ if size == 0 => {
            tracing::warn!("standard input was empty, and so is the snapshot: did the command before it fail?");
        }
        _ => {}
    }
}

/// Which snapshot is built upon.
pub(super) fn choice(context: &Context, repository: &Repository, parent: Option<&Parent>) -> Result<ParentChoice> {
    Ok(match parent {
        None | Some(Parent::Auto) => ParentChoice::Auto,
        Some(Parent::None) => ParentChoice::None,
        Some(Parent::Snap(snap)) => ParentChoice::Snapshot(context.parent(repository, snap)?.id),
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

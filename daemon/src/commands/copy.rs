//! `wherry copy`

use super::backup::{TRIES, kind};
use crate::backup::{BEAT, Beating};
use crate::cli::CopyArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use crate::readers::Readers;
use crate::select::{self, SnapSpec};
use anyhow::Result;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use wherry_repo::index::ChunkIndex;
use wherry_repo::{
    CopyOptions, CopyPlan, Error, ErrorKind, Repository, Snapshot, SnapshotCopy, SnapshotId, WriterOptions,
};

/// Ranges of packs that are read are this long at most (bytes).
const FETCH: u64 = 1 << 20;
/// Chunks of disk images in trees may be as long as this (bytes), whatever the repository's default is.
const LONGEST: u32 = 4 << 20;
/// With less than this for nodes of trees (bytes) each is read many times.
const TREE_NODES: u64 = 6 << 20;

#[derive(Serialize)]
struct Report {
    source: String,
    target: String,
    to: String,
    snapshots: Vec<View>,
    copied: usize,
    present: usize,
    failed: usize,
    read: u64,
    stored: u64,
    metadata: u64,
    seconds: f64,
}

/// A snapshot of the source, and what became of it. Sizes are in bytes.
#[derive(Serialize)]
struct View {
    snapshot: String,
    volume: String,
    time: String,
    #[serde(skip)]
    time_local: String,
    /// `copied`, `present` or `failed`.
    state: &'static str,
    /// Its id at the target.
    copy: Option<String>,
    /// What the copy is built upon there.
    parent: Option<String>,
    partial: bool,
    /// The copy was there before, and somebody has asked to forget it.
    forgotten: bool,
    size: u64,
    read: u64,
    unchanged: u64,
    known: u64,
    new: u64,
    stored: u64,
    metadata: u64,
    error: Option<String>,
}

impl View {
    fn new(snapshot: &Snapshot, state: &'static str) -> Self {
        let record = &snapshot.record;
        Self {
            snapshot: snapshot.id.to_string(),
            volume: record.name.clone(),
            time: output::utc_time(record.started),
            time_local: output::local_time(record.started),
            state,
            copy: None,
            parent: None,
            partial: record.partial,
            forgotten: false,
            size: record.size,
            read: 0,
            unchanged: 0,
            known: 0,
            new: 0,
            stored: 0,
            metadata: 0,
            error: None,
        }
    }

    fn copied(snapshot: &Snapshot, copy: &Snapshot) -> Self {
        let stats = copy.record.stats;
        Self {
            copy: Some(copy.id.to_string()),
            parent: copy.record.parent.map(|id| id.to_string()),
            read: stats.read,
            unchanged: stats.unchanged,
            known: stats.known,
            new: stats.new,
            stored: stats.stored,
            metadata: copy.metadata(),
            ..Self::new(snapshot, "copied")
        }
    }
}

/// Copies snapshots into another repository.
pub(crate) fn run(context: &Context, args: CopyArgs) -> Result<Exit> {
    let start = Instant::now();
    let CopyArgs { snaps, to, credential, s3, filter, compression, limit_upload } = args;
    let none = || Error::invalid("no repository to copy into is named: give --to, or set to in the configuration");
    let to = to.ok_or_else(none)?;
    let credential = credential.source()?;
    let source = context.open_repository()?;
    let target = context.open_other(&to, &s3, &credential, limit_upload.map(|limit| limit.0))?;
    if source.id() == target.id() {
        let text = format!("{to} is the repository that is copied from (uuid {}): name another one", source.id());
        return Err(Error::invalid(text).into());
    }
    let _turn = target.begin_writing("copy")?;
    let listed = source.snapshots(None)?;
    let summaries: Vec<_> = select::summaries(&listed).into_iter().filter(|s| filter.admits(s)).collect();
    let mut chosen: Vec<SnapshotId> = match snaps.is_empty() {
        true => summaries.iter().filter(|s| !s.forgotten).map(|s| s.id).collect(),
        false => named(&snaps, &summaries)?,
    };
    // From old to new, so that each is built upon the one before.
    let of_run: Vec<Snapshot> = {
        chosen.sort_unstable();
        listed.snapshots.iter().filter(|s| chosen.binary_search(&s.id).is_ok()).cloned().collect()
    };
    let exit = super::snapshots::damage(&listed);
    let there = target.snapshots(None)?;
    let plan = CopyPlan::new(&source, listed, &target, &there);
    let writer = WriterOptions {
        compression: compression.map_or(wherry_repo::Compression::Lz4, Into::into),
        ..WriterOptions::default()
    };
    let has_trees = of_run.iter().any(|s| s.record.tree.is_some());
    let run = Run {
        context,
        source: &source,
        target: &target,
        options: options(context, has_trees, writer, [&source, &target])?,
    };
    let report = run.all(&of_run, plan, to, start)?;
    let partial = report.snapshots.iter().any(|view| view.partial && view.state == "copied");
    context.output.result(&report, || text(&report))?;
    Ok(match (report.failed > 0, partial) {
        (true, _) => Exit::Damage,
        (false, true) if exit == Exit::Done => Exit::Partial,
        _ => exit,
    })
}

fn named(snaps: &[SnapSpec], summaries: &[select::Summary]) -> wherry_repo::Result<Vec<SnapshotId>> {
    snaps.iter().map(|spec| spec.resolve(summaries).map(|found| found.id)).collect()
}

/// What memory there is, for two repositories.
fn options(
    context: &Context,
    trees: bool,
    writer: WriterOptions,
    repositories: [&Repository; 2],
) -> wherry_repo::Result<CopyOptions> {
    let budget = context.budget;
    for repository in repositories {
        repository.limit_nodes(budget.nodes / 2);
        repository.limit_lookups(budget.index / 2);
    }
    let mut options = CopyOptions {
        writer: WriterOptions {
            pack_size: budget.pack_size as usize,
            pack_buffers: budget.packs,
            uploads: budget.uploads,
            ..writer
        },
        threads: (budget.io_buffers / (4 * FETCH)).clamp(1, budget.downloads as u64) as usize,
        fetch: FETCH,
        run: context.run.to_string(),
    };
    if trees {
        let of_tree = budget.of_tree(LONGEST)?;
        options.threads = of_tree.shares.workers.max(1);
        options.writer.pack_size = of_tree.pack_size as usize;
        options.writer.pack_buffers = of_tree.packs;
        options.writer.uploads = of_tree.uploads;
        for repository in repositories {
            repository.limit_tree_nodes((of_tree.nodes / 2).max(TREE_NODES));
            repository.limit_nodes(of_tree.maps / 2);
        }
    }
    Ok(options)
}

struct Run<'a> {
    context: &'a Context,
    source: &'a Repository,
    target: &'a Repository,
    options: CopyOptions,
}

impl Run<'_> {
    fn all(&self, snapshots: &[Snapshot], mut plan: CopyPlan, to: String, start: Instant) -> Result<Report> {
        let index = self.context.index(self.target)?;
        let readers = Readers::start(self.source)?;
        let armed =
            self.context.cancel.arm("those copied so far stay; run the same command again: it goes on from there");
        let mut views = Vec::new();
        for snapshot in snapshots {
            self.context.cancel.check()?;
            if let Some((copy, visible)) = plan.copy_of(&snapshot.id) {
                let copy = Some(copy.to_string());
                views.push(View { copy, forgotten: !visible, ..View::new(snapshot, "present") });
                continue;
            }
            match self.one(snapshot, &plan, &readers, &index) {
                Ok(copy) => {
                    plan.note(&snapshot.id, &copy);
                    views.push(View::copied(snapshot, &copy));
                }
                // The others may be whole.
                Err(e) if matches!(kind(&e), Some(ErrorKind::Corrupt | ErrorKind::NotFound)) => {
                    tracing::error!("snapshot {} of {:?} was not copied: {e:#}", snapshot.id, snapshot.record.name);
                    views.push(View { error: Some(format!("{e:#}")), ..View::new(snapshot, "failed") });
                }
                Err(e) if kind(&e) == Some(ErrorKind::NoSnapshot) => {
                    tracing::warn!("{e:#}: it was not copied");
                }
                Err(e) => return Err(e),
            }
        }
        drop(armed);
        index.flush().unwrap_or_else(|e| tracing::debug!("the chunk index was not flushed: {e}"));
        let count = |state| views.iter().filter(|view| view.state == state).count();
        let sum = |of: fn(&View) -> u64| views.iter().map(of).sum();
        Ok(Report {
            source: self.source.id().to_string(),
            target: self.target.id().to_string(),
            to,
            copied: count("copied"),
            present: count("present"),
            failed: count("failed"),
            read: sum(|view| view.read),
            stored: sum(|view| view.stored),
            metadata: sum(|view| view.metadata),
            seconds: start.elapsed().as_secs_f64(),
            snapshots: views,
        })
    }

    fn one(
        &self,
        snapshot: &Snapshot,
        plan: &CopyPlan,
        readers: &Readers,
        index: &Arc<ChunkIndex>,
    ) -> Result<Snapshot> {
        let base = plan.base_of(snapshot);
        for attempt in 1.. {
            let session = readers.open(snapshot)?;
            let copy = SnapshotCopy::start(session, self.target, index.clone(), base.as_ref(), &self.options)?;
            let _beating = Beating::start(copy.pulse(), BEAT)?;
            let progress = self.context.progress("copy", None);
            let watch = |bytes| {
                progress.add(bytes);
                self.context.cancel.check()
            };
            match copy.run(&watch) {
                Err(e) if e.kind() == ErrorKind::Conflict && attempt < TRIES => tracing::warn!("{e}; starting over"),
                copied => return Ok(copied?),
            }
        }
        Err(Error::internal("a copy neither ended nor failed").into())
    }
}

fn text(report: &Report) -> String {
    let size = output::size;
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("TIME", Side::Left),
        ("VOLUME", Side::Left),
        ("SIZE", Side::Right),
        ("READ", Side::Right),
        ("STORED", Side::Right),
        ("COPY", Side::Left),
        ("STATE", Side::Left),
    ]);
    for view in &report.snapshots {
        let partial = if view.partial { ", partial" } else { "" };
        let state = match (view.state, view.forgotten) {
            ("copied", _) => format!("copied{partial}"),
            ("present", false) => format!("was there{partial}"),
            ("present", true) => format!("was there, forgotten{partial}"),
            _ => "FAILED".to_owned(),
        };
        table.row([
            view.snapshot.chars().take(8).collect(),
            view.time_local.clone(),
            view.volume.clone(),
            size(view.size),
            size(view.read),
            size(view.stored),
            view.copy.as_ref().map_or_else(String::new, |id| id.chars().take(8).collect()),
            state,
        ]);
    }
    let Report { copied, present, failed, read, stored, metadata, seconds, .. } = report;
    let (read, stored, metadata) = (size(*read), size(*stored), size(*metadata));
    table.render()
        + &format!(
            "{copied} copied, {present} were there, {failed} failed; read {read}, stored {stored} of data and {metadata} of \
             metadata in {seconds:.1} s\n"
        )
}

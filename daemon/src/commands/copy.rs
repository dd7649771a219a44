//! `wherry copy`

use crate::backup::{BEAT, Beating, TRIES, kind};
use crate::budget::Budget;
use crate::cli::CopyArgs;
use crate::context::{Context, resolve, unrivalled};
use crate::credential::Second;
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
    CopyOptions, CopyPlan, Error, ErrorKind, Repository, Snapshot, SnapshotCopy, SnapshotId, SnapshotList, Turn,
    WriterOptions,
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
    /// Forgotten for good since the run had begun.
    gone: usize,
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
    /// `copied`, `present`, `failed` or `gone`.
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
    let to = to.filter(|to| !to.is_empty()).ok_or_else(none)?;
    let credential = credential.is_given().then(|| credential.source()).transpose()?;
    if s3.to_s3_skip_verify {
        tracing::warn!("--to-s3-skip-verify: the server's certificate is not checked");
    }
    let source = context.open_repository()?;
    let (s3, upload) = (s3.over(&context.settings.s3), limit_upload.map(|limit| limit.0));
    let target = context.open_other(Second::To, &to, &s3, credential.as_ref(), upload)?;
    if source.id() == target.id() {
        let text = format!("{to} is the repository that is copied from (uuid {}): name another one", source.id());
        return Err(Error::invalid(text).into());
    }
    let turn = target.begin_writing("copy")?;
    let listed = source.snapshots(None)?;
    let summaries: Vec<_> = select::summaries(&listed).into_iter().filter(|s| filter.admits(s)).collect();
    filter.warn_of_nothing(&summaries, &listed);
    let mut chosen: Vec<SnapshotId> = match snaps.is_empty() {
        true => summaries.iter().filter(|s| !s.forgotten).map(|s| s.id).collect(),
        false => named(&source, &snaps, &listed, &summaries)?,
    };
    // From old to new, so that each is built upon the one before.
    let of_run: Vec<Snapshot> = {
        chosen.sort_unstable();
        listed.snapshots.iter().filter(|s| chosen.binary_search(&s.id).is_ok()).cloned().collect()
    };
    let there = target.snapshots(None)?;
    let damaged = [super::snapshots::damage(&listed), damage_at_target(&there, &to)].contains(&Exit::Damage);
    let plan = CopyPlan::new(&source, listed, &target, &there)?;
    let writer = WriterOptions {
        compression: compression.map_or(wherry_repo::Compression::Lz4, Into::into),
        ..WriterOptions::default()
    };
    let longest = of_run.iter().filter_map(Snapshot::chunk_size).max().unwrap_or(0);
    let has_trees = of_run.iter().any(|s| s.record.tree.is_some());
    let run = Run {
        context,
        source: &source,
        target: &target,
        options: options(context, has_trees, longest, writer, [&source, &target])?,
        turn,
    };
    let report = run.all(&of_run, plan, to, start)?;
    context.output.result(&report, || text(&report))?;
    Ok(exit(&report, snaps.is_empty(), damaged))
}

fn named(
    source: &Repository,
    snaps: &[SnapSpec],
    listed: &SnapshotList,
    summaries: &[select::Summary],
) -> wherry_repo::Result<Vec<SnapshotId>> {
    let one = |spec| {
        let id = resolve(source, listed, summaries, spec)?.id;
        // A record that cannot be read is told, and keeps nobody from the others.
        unrivalled(source, summaries, &id, spec)?;
        Ok(id)
    };
    snaps.iter().map(one).collect()
}

/// Names the records of the target that cannot be read. A copy may be among them: then there will be a second one.
fn damage_at_target(list: &SnapshotList, to: &str) -> Exit {
    for (key, error) in &list.damaged {
        tracing::error!(
            object = key.as_str(),
            "a snapshot's record cannot be read in {to}, which is copied into; run `wherry check --repo {to}`: {error}"
        );
    }
    if list.damaged.is_empty() { Exit::Done } else { Exit::Damage }
}

/// `all`: no snapshots were named. Else one that is gone is one that there is not.
fn exit(report: &Report, all: bool, is_damaged: bool) -> Exit {
    let partial = report.snapshots.iter().any(|view| view.partial && view.state == "copied");
    match () {
        _ if report.failed > 0 || is_damaged => Exit::Damage,
        _ if report.gone > 0 && !all => Exit::NoSnapshot,
        _ if partial => Exit::Partial,
        _ => Exit::Done,
    }
}

/// Threads for chunks of disks of at most `longest` bytes. Each has a range of a pack as it was read, and a chunk of it opened,
/// unpacked, packed again, proven and sealed.
fn threads(budget: &Budget, longest: u64) -> usize {
    let each = (4 * FETCH).max(6 * longest);
    (budget.io_buffers / each).clamp(1, budget.downloads as u64) as usize
}

/// What memory there is, for two repositories; `longest`: bytes of the longest chunk of the disks.
pub(super) fn options(
    context: &Context,
    trees: bool,
    longest: u64,
    writer: WriterOptions,
    repositories: [&Repository; 2],
) -> wherry_repo::Result<CopyOptions> {
    let budget = context.budget;
    for repository in repositories {
        repository.limit_nodes(budget.nodes / 2);
        // The chunk index has the other half.
        repository.limit_lookups(budget.index / 4);
    }
    let mut options = CopyOptions {
        writer: WriterOptions {
            pack_size: budget.pack_size as usize,
            pack_buffers: budget.packs,
            uploads: budget.uploads,
            ..writer
        },
        threads: threads(&budget, longest),
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
    turn: Turn,
}

impl Run<'_> {
    fn all(&self, snapshots: &[Snapshot], mut plan: CopyPlan, to: String, start: Instant) -> Result<Report> {
        let index = self.context.index_within(self.target, self.context.budget.index / 2)?;
        let readers = Readers::start(self.source)?;
        let armed =
            self.context.cancel.arm("those copied so far stay; run the same command again: it goes on from there");
        let mut views = Vec::new();
        for snapshot in snapshots {
            self.context.cancel.check()?;
            views.push(match self.one(snapshot, &mut plan, &readers, &index) {
                // The others may be whole. Gone while it was read is not copied either.
                Err(e)
                    if matches!(kind(&e), Some(ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::NoSnapshot)) =>
                {
                    tracing::error!("snapshot {} of {:?} was not copied: {e:#}", snapshot.id, snapshot.record.name);
                    View { error: Some(format!("{e:#}")), ..View::new(snapshot, "failed") }
                }
                view => view?,
            });
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
            gone: count("gone"),
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
        plan: &mut CopyPlan,
        readers: &Readers,
        index: &Arc<ChunkIndex>,
    ) -> Result<View> {
        self.turn.beat_when_due()?;
        let base = plan.base_of(snapshot);
        for attempt in 1.. {
            let there = match plan.copy_of(&snapshot.id) {
                None => plan.copied_since(self.target, snapshot)?,
                known => known,
            };
            if let Some((copy, visible)) = there {
                let copy = Some(copy.to_string());
                return Ok(View { copy, forgotten: !visible, ..View::new(snapshot, "present") });
            }
            let session = match readers.open(snapshot) {
                // Since it was listed.
                Err(e) if e.kind() == ErrorKind::NoSnapshot => {
                    tracing::warn!("{e}: it was not copied");
                    return Ok(View::new(snapshot, "gone"));
                }
                session => session?,
            };
            let copy = SnapshotCopy::start(session, self.target, index.clone(), base.as_ref(), &self.options)?;
            let _beating = Beating::start(copy.pulse(), BEAT)?;
            let progress = self.context.progress("copy", None);
            let watch = |bytes| {
                progress.add(bytes);
                self.turn.beat_when_due()?;
                self.context.cancel.check()
            };
            match copy.run(plan, &watch) {
                Err(e) if e.kind() == ErrorKind::Conflict && attempt < TRIES => tracing::warn!("{e}; starting over"),
                copied => {
                    let copy = copied?;
                    plan.note(&snapshot.id, &copy);
                    return Ok(View::copied(snapshot, &copy));
                }
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
            ("gone", _) => "gone".to_owned(),
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
    let Report { copied, present, failed, gone, read, stored, metadata, seconds, .. } = report;
    let gone = if *gone > 0 { format!(", {gone} gone") } else { String::new() };
    let (read, stored, metadata) = (size(*read), size(*stored), size(*metadata));
    table.render()
        + &format!(
            "{copied} copied, {present} were there, {failed} failed{gone}; read {read}, stored {stored} of data and {metadata} of \
             metadata in {seconds:.1} s\n"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chunks_have_fewer_threads() {
        const MIB: u64 = 1 << 20;
        for ceiling in [64, 128, 256, 1024, 4096] {
            let budget = Budget::new(ceiling * MIB, 4);
            for class in 16..=22 {
                let (longest, threads) = (1 << class, threads(&budget, 1 << class) as u64);
                assert!(threads == 1 || threads * (4 * MIB).max(6 * longest) <= budget.io_buffers, "{ceiling} {class}");
            }
        }
        let budget = Budget::new(1024 * MIB, 4);
        assert_eq!([256 << 10, 4 * MIB].map(|longest| threads(&budget, longest)), [32, 5]);
    }

    #[test]
    fn the_worst_of_what_happened_is_the_exit_code() {
        let report = |failed, gone| Report {
            source: String::new(),
            target: String::new(),
            to: String::new(),
            snapshots: Vec::new(),
            copied: 1,
            present: 0,
            failed,
            gone,
            read: 0,
            stored: 0,
            metadata: 0,
            seconds: 0.0,
        };
        assert_eq!(exit(&report(0, 0), false, false), Exit::Done);
        assert_eq!(exit(&report(0, 1), true, false), Exit::Done, "nobody asked for that one");
        assert_eq!(exit(&report(0, 1), false, false), Exit::NoSnapshot);
        assert_eq!(exit(&report(1, 1), false, false), Exit::Damage);
        assert_eq!(exit(&report(0, 0), true, true), Exit::Damage, "a record of either repository");
    }
}

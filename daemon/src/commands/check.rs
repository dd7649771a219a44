//! `wherry check`

use super::snapshots::PathView;
use crate::cli::CheckArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, count, local_time, shown, size, utc_time};
use crate::progress::Progress;
use crate::select::SnapSpec;
use parking_lot::Mutex;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::{
    CheckOptions, CheckReport, CheckStep, Damage, DamageKind, Hit, LostPath, NotReadReason, ReadData, Repository,
    SnapshotId, Turn, Wanted, Watch,
};

/// Ranges of one snapshot that text shows; JSON shows those that the report has.
const SHOWN_RANGES: usize = 5;

/// Paths likewise.
const SHOWN_PATHS: usize = 5;

/// The result as `--json` shows it; sizes are in bytes.
#[derive(Serialize)]
pub(super) struct View {
    clean: bool,
    snapshots: u64,
    records: u64,
    packs: u64,
    nodes: u64,
    chunks: u64,
    /// What these chunks take in the storage.
    data: u64,
    read: u64,
    not_read: Vec<NotReadView>,
    /// What was read is noted in the repository.
    kept: bool,
    unused: Unused,
    moved: Moved,
    /// Snapshots that are trees of directories.
    trees: u64,
    damages: Vec<DamageView>,
    seconds: f64,
}

#[derive(Serialize)]
struct NotReadView {
    reason: &'static str,
    packs: u64,
    bytes: u64,
}

/// Not where the maps say, but found by their ids: no damage.
#[derive(Serialize)]
struct Moved {
    chunks: u64,
    nodes: u64,
}

#[derive(Serialize)]
struct Unused {
    packs: u64,
    bytes: u64,
}

#[derive(Serialize)]
pub(super) struct DamageView {
    object: String,
    kind: &'static str,
    missing: bool,
    what: String,
    advice: &'static str,
    hits: Vec<HitView>,
}

#[derive(Serialize)]
struct HitView {
    snapshot: String,
    volume: Option<String>,
    volume_id: String,
    time: Option<String>,
    whole: bool,
    bytes: u64,
    ranges: Vec<RangeView>,
    /// Ranges that are not in the list.
    more: u64,
    /// Of a tree: entries that cannot be read.
    entries: u64,
    paths: Vec<LostView>,
    /// Paths that are not in the list.
    more_paths: u64,
}

#[derive(Serialize)]
struct LostView {
    #[serde(flatten)]
    path: PathView,
    /// Its content or its attributes cannot be read.
    itself: bool,
    /// So many entries below it have no name any more.
    below: u64,
}

impl LostView {
    fn new(lost: &LostPath) -> Self {
        Self { path: PathView::new(&lost.path), itself: lost.itself, below: lost.below }
    }

    fn describe(&self) -> String {
        match self.below {
            0 => self.path.shown.clone(),
            1 => format!("1 entry below {}", self.path.shown),
            n => format!("{n} entries below {}", self.path.shown),
        }
    }
}

#[derive(Serialize)]
struct RangeView {
    offset: u64,
    length: u64,
}

/// Checks the repository, or what some snapshots need of it.
pub(crate) fn run(context: &Context, args: CheckArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let CheckArgs { snaps, read_data, sample, max_age } = args;
    let repository = context.open_repository()?;
    let id = |spec: &SnapSpec| match spec {
        // As it is: the record may be what is damaged.
        SnapSpec::Id(id) => Ok(*id),
        spec => context.snapshot(&repository, spec).map(|snapshot| snapshot.id),
    };
    let read_data = read_data
        .then(|| ReadData { share: sample.map_or(1.0, |share| share.0 / 100.0), max_age: max_age.map(|age| age.0) });
    let snapshots = snaps.iter().map(id).collect::<wherry_repo::Result<_>>()?;
    let _armed = context.cancel.arm(match read_data {
        None => "nothing was changed; run it again",
        Some(_) => "what was read until then is noted: with --max-age the next run leaves it out",
    });
    let report = examine(context, &repository, snapshots, read_data)?;
    let view = View::new(&report, start.elapsed().as_secs_f64());
    context.output.result(&view, || text(&report))?;
    Ok(if report.is_clean() { Exit::Done } else { Exit::Damage })
}

/// Checks these snapshots, or everything when there are none; without `read_data`, of the data only what an earlier check has
/// found damaged.
pub(super) fn examine(
    context: &Context,
    repository: &Repository,
    snapshots: Vec<SnapshotId>,
    read_data: Option<ReadData>,
) -> anyhow::Result<CheckReport> {
    // What was found damaged before is read again in any case: else it would be denied until somebody reads all data.
    let read_data = match read_data {
        None if repository.has_noted_damage()? => Some(ReadData { share: 0.0, max_age: None }),
        read_data => read_data,
    };
    let options = options(context, snapshots, read_data);
    watched(context, repository, None, |watch| repository.check(&options, watch))
}

/// Likewise of everything, and gives what no pack has; meanwhile the turn gives signs of life.
pub(super) fn find_wanted(
    context: &Context,
    repository: &Repository,
    read_data: Option<ReadData>,
    turn: Option<&Turn>,
) -> anyhow::Result<(CheckReport, Wanted)> {
    let options = options(context, Vec::new(), read_data);
    watched(context, repository, turn, |watch| repository.find_wanted(&options, watch))
}

fn options(context: &Context, snapshots: Vec<SnapshotId>, read_data: Option<ReadData>) -> CheckOptions {
    let budget = context.budget;
    CheckOptions {
        snapshots,
        read_data,
        threads: (budget.chunk_cache >> 23).clamp(2, if context.is_remote() { 32 } else { 2 * budget.workers as u64 })
            as usize,
        memory: budget.index / 2,
        keep: true,
    }
}

fn watched<T>(
    context: &Context,
    repository: &Repository,
    turn: Option<&Turn>,
    work: impl FnOnce(Watch<'_>) -> wherry_repo::Result<T>,
) -> anyhow::Result<T> {
    repository.limit_lookups(context.budget.index / 2);
    let progress: Mutex<Option<Progress>> = Mutex::default();
    let found = work(&|step, done, total| {
        if step == CheckStep::Data {
            let mut progress = progress.lock();
            let progress = progress.get_or_insert_with(|| context.progress("check", Some(total)));
            progress.add(done.saturating_sub(progress.done()));
        } else {
            tracing::debug!(?step, done, total, "checking");
        }
        turn.map_or(Ok(()), Turn::beat_when_due)?;
        context.cancel.check()
    })?;
    drop(progress);
    Ok(found)
}

impl View {
    pub(super) fn new(report: &CheckReport, seconds: f64) -> Self {
        let not_read = report.not_read.iter().map(|left| NotReadView {
            reason: match left.reason {
                NotReadReason::NotAsked => "not-asked",
                NotReadReason::Younger => "younger",
                NotReadReason::Sample => "sample",
                NotReadReason::Failed => "failed",
            },
            packs: left.packs,
            bytes: left.bytes,
        });
        Self {
            clean: report.is_clean(),
            snapshots: report.snapshots,
            records: report.records,
            packs: report.packs,
            nodes: report.nodes,
            chunks: report.chunks,
            data: report.data_bytes,
            read: report.read_bytes,
            not_read: not_read.collect(),
            kept: report.kept,
            unused: Unused { packs: report.unused_packs, bytes: report.unused_bytes },
            moved: Moved { chunks: report.moved_chunks, nodes: report.moved_nodes },
            trees: report.trees,
            damages: report.damages.iter().map(DamageView::new).collect(),
            seconds,
        }
    }
}

impl DamageView {
    pub(super) fn new(damage: &Damage) -> Self {
        Self {
            object: damage.object.to_string(),
            kind: kind(damage.kind),
            missing: damage.missing,
            what: damage.what.clone(),
            advice: damage.advice(),
            hits: damage.hits.iter().map(HitView::new).collect(),
        }
    }
}

impl HitView {
    fn new(hit: &Hit) -> Self {
        Self {
            snapshot: hit.snapshot.to_string(),
            volume: hit.name.clone(),
            volume_id: hit.volume.to_string(),
            time: hit.time.map(utc_time),
            whole: hit.whole,
            bytes: hit.bytes,
            ranges: hit.ranges.iter().map(|r| RangeView { offset: r.start, length: r.end - r.start }).collect(),
            more: hit.more,
            entries: hit.entries,
            paths: hit.paths.iter().map(LostView::new).collect(),
            more_paths: hit.more_paths,
        }
    }
}

fn kind(kind: DamageKind) -> &'static str {
    match kind {
        DamageKind::Config | DamageKind::Newest => "config",
        DamageKind::KeySlot => "key-slot",
        DamageKind::Epoch => "key-epoch",
        DamageKind::Pin => "pin",
        DamageKind::Session => "session",
        DamageKind::Index => "index",
        DamageKind::Snapshot | DamageKind::Pinned | DamageKind::Gone => "snapshot",
        DamageKind::Forget => "forget",
        DamageKind::Checked => "checked",
        DamageKind::Generation => "generation",
        DamageKind::Pack => "pack",
        DamageKind::Map => "map",
    }
}

/// The report for whoever got out of bed: what there is, what is damaged and whom it hits, what was not looked at.
pub(super) fn text(report: &CheckReport) -> String {
    let mut lines = Vec::new();
    for damage in &report.damages {
        lines.push(format!("DAMAGED   {}: {}", damage.object, shown(&damage.what)));
        lines.extend(damage.hits.iter().map(|hit| format!("  hits    {}", describe(hit))));
        lines.push(format!("  next    {}", damage.advice()));
    }
    let nodes = if report.trees > 0 { "nodes of maps and trees" } else { "map nodes" };
    let counts = [(report.snapshots, "snapshot"), (report.records, "record"), (report.packs, "pack")];
    let counts = counts.map(|(n, what)| count(n, what)).join(", ");
    let node = match (report.nodes, report.trees) {
        (1, 0) => "map node",
        (1, _) => "node of maps and trees",
        _ => nodes,
    };
    let (n, chunks) = (report.nodes, count(report.chunks, "chunk"));
    lines.push(format!("checked   {counts}, {n} {node}; they refer to {chunks} ({})", size(report.data_bytes)));
    if report.read_bytes > 0 {
        lines.push(format!("read      {} of chunks", size(report.read_bytes)));
    }
    for left in &report.not_read {
        let why = match left.reason {
            NotReadReason::NotAsked => {
                "nobody asked for it: --read-data does, and finds damage in the chunks themselves"
            }
            NotReadReason::Younger => "read or written within --max-age",
            NotReadReason::Sample => "not in this --sample: the next ones take it first",
            NotReadReason::Failed => "they could be read at first and then could not, see above: run it again",
        };
        lines.push(format!("not read  {} of chunks in {}: {why}", size(left.bytes), count(left.packs, "pack")));
    }
    if let Some(why) = &report.not_kept {
        lines.push(format!(
            "not kept  what was read could not be noted in the repository, so later runs do not know of it: {}",
            shown(why)
        ));
    }
    if report.unused_packs > 0 {
        lines.push(format!(
            "unused    {} ({}) that no snapshot refers to: of runs under way or broken off, or of forgotten snapshots",
            count(report.unused_packs, "pack"),
            size(report.unused_bytes)
        ));
    }
    if report.moved_chunks + report.moved_nodes > 0 {
        lines.push(format!(
            "moved     {} and {} {nodes} are not, or not intact, in the packs that {} name; they were found in others",
            count(report.moved_chunks, "chunk"),
            report.moved_nodes,
            if report.trees > 0 { "they" } else { "the maps" }
        ));
    }
    lines.push(summary(report));
    lines.join("\n")
}

fn summary(report: &CheckReport) -> String {
    let objects = match report.damages.len() {
        0 => return "no damage found".to_owned(),
        1 => "1 object is damaged".to_owned(),
        n => format!("{n} objects are damaged"),
    };
    let hit: std::collections::BTreeSet<_> =
        report.damages.iter().flat_map(|d| &d.hits).map(|hit| hit.snapshot).collect();
    match hit.len() {
        0 => format!("{objects}; no snapshot that was checked is hit"),
        1 => format!("{objects}, 1 snapshot is hit"),
        n => format!("{objects}, {n} snapshots are hit"),
    }
}

pub(super) fn describe(hit: &Hit) -> String {
    let volume = match &hit.name {
        Some(name) => shown(name),
        None => format!("a volume whose name is not known (id {})", hit.volume),
    };
    let time = hit.time.map_or_else(String::new, |time| format!(" of {}", local_time(time)));
    let snapshot = format!("{volume}, snapshot {}{time}", hit.snapshot);
    if hit.whole {
        return format!("{snapshot}: nothing of it can be read");
    }
    if hit.entries > 0 {
        let paths: Vec<_> = hit.paths.iter().take(SHOWN_PATHS).map(|lost| LostView::new(lost).describe()).collect();
        let more = match hit.paths.len() as u64 + hit.more_paths - paths.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more, see --json"),
        };
        let what = if hit.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", hit.entries) };
        return format!(
            "{snapshot}: {what} cannot be read ({} of files), {}{more}",
            output::size(hit.bytes),
            paths.join(", ")
        );
    }
    let ranges: Vec<_> =
        hit.ranges.iter().take(SHOWN_RANGES).map(|r| format!("{} to {}", r.start, r.end - 1)).collect();
    let more = match hit.ranges.len() as u64 + hit.more - ranges.len() as u64 {
        0 => String::new(),
        more => format!(" and {more} more ranges, see --json"),
    };
    format!("{snapshot}: {} cannot be read, bytes {}{more}", output::size(hit.bytes), ranges.join(", "))
}

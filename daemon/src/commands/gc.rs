//! `wherry gc`

use crate::cli::{GcArgs, Span};
use crate::context::Context;
use crate::exit::Exit;
use crate::jobs::forget::REASON;
use crate::output::{self, shown, size};
use crate::progress::Progress;
use parking_lot::Mutex;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::{CollectOptions, CollectStep, Collected, Packed, Repository, Turn};

/// The result as `--json` shows it; sizes are in bytes.
#[derive(Serialize)]
pub(crate) struct View {
    dry_run: bool,
    generation: Option<u32>,
    sealed: bool,
    unsealed: Option<u32>,
    overtaken: bool,
    /// Forgets that became final.
    settled: u64,
    /// Forgets that could be, and are left to the Jobs of a cluster, which asked for them.
    left_to_jobs: u64,
    packs: Packs,
    live: Live,
    spared: Packs,
    condemned: Packs,
    repacked: Repacked,
    rewritten: Rewritten,
    /// Found damaged by this run, which nobody knew of.
    found_damaged: Packs,
    rescued: u64,
    waiting: Vec<WaitingView>,
    fenced: Vec<FencedView>,
    deleted: Packs,
    /// Sealed, and not yet for as long as the grace is.
    graced: Packs,
    failed: Packs,
    records: u64,
    sessions: u64,
    segments: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct Packs {
    packs: u64,
    bytes: u64,
}

impl From<Packed> for Packs {
    fn from(Packed { packs, bytes }: Packed) -> Self {
        Self { packs, bytes }
    }
}

#[derive(Serialize)]
struct Live {
    packs: u64,
    bytes: u64,
    /// Bytes of them that something refers to.
    referenced: u64,
}

#[derive(Serialize)]
struct Repacked {
    packs: u64,
    bytes: u64,
    chunks: u64,
    /// Bytes of these chunks.
    copied: u64,
}

#[derive(Serialize)]
struct Rewritten {
    packs: u64,
    bytes: u64,
    /// Chunks and nodes that were sealed anew.
    chunks: u64,
    /// Bytes of these.
    sealed: u64,
    /// What a later run with --rewrite seals anew.
    left: Packs,
    /// What none does, as something in it does not open.
    damaged: Packs,
}

#[derive(Serialize)]
struct WaitingView {
    session: String,
    volume: String,
    host: String,
    pid: u32,
    silent: u64,
}

#[derive(Serialize)]
struct FencedView {
    session: String,
    volume: String,
}

/// What holds for whoever collects by hand.
pub(crate) fn options() -> CollectOptions {
    // What a Job of a cluster has forgotten is made final by the Job that looks whether its backup is still gone.
    CollectOptions { spared_reason: Some(REASON), ..CollectOptions::default() }
}

/// Collects garbage.
pub(crate) fn run(context: &Context, args: GcArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let GcArgs { dry_run, rewrite, grace, fence_after } = args;
    let repository = context.open_repository()?;
    let default = options();
    let options = CollectOptions {
        dry_run,
        rewrite,
        grace: grace.map_or(default.grace, |grace| grace.0),
        fence_after: fence_after.map_or(default.fence_after, |after| after.0),
        ..default
    };
    let (report, options) = collect(context, &repository, None, options)?;
    let view = View::new(&report, dry_run, start.elapsed().as_secs_f64());
    context.output.result(&view, || text(&report, &options))?;
    Ok(match (report.unopened.packs, report.failed.packs) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::Damage,
    })
}

/// One run, with the threads and the memory that this process has, and the turn if it has one already; the second value is how it was done.
pub(crate) fn collect(
    context: &Context,
    repository: &Repository,
    turn: Option<Turn>,
    options: CollectOptions,
) -> anyhow::Result<(Collected, CollectOptions)> {
    let budget = context.budget;
    let options = CollectOptions {
        threads: if context.is_remote() { 16 } else { 2 * budget.workers },
        memory: budget.collector(),
        pack_size: usize::try_from(budget.pack_size)?,
        ..options
    };
    let mut shown = Showing { context, turn, at: Mutex::default() };
    let _armed = context.cancel.arm("what is condemned stays so, and nothing is lost: the next gc goes on");
    let mut before = Packed::default();
    if shown.turn.is_none() && !options.dry_run {
        let begun = repository.begin_collecting("gc", &options, &|step, done, total| shown.watch(step, done, total))?;
        (shown.turn, before) = (Some(begun.0), begun.1);
    }
    let mut report = repository.collect(&options, &|step, done, total| shown.watch(step, done, total))?;
    report.swept.packs += before.packs;
    report.swept.bytes += before.bytes;
    Ok((report, options))
}

/// What is seen of a run while it works.
struct Showing<'a> {
    context: &'a Context,
    turn: Option<Turn>,
    at: Mutex<Option<(CollectStep, Progress)>>,
}

impl Showing<'_> {
    fn watch(&self, step: CollectStep, done: u64, total: u64) -> wherry_repo::Result<()> {
        self.context.cancel.check()?;
        let word = match step {
            CollectStep::Mark => Some("mark"),
            CollectStep::Copy => Some("copy"),
            CollectStep::Sweep => Some("delete"),
            CollectStep::Lists | CollectStep::Wait | CollectStep::Compact => None,
        };
        let mut at = self.at.lock();
        if at.as_ref().is_none_or(|(known, _)| *known != step) {
            tracing::debug!(?step, done, total, "collecting");
            *at = None;
            *at = word.map(|word| (step, self.context.progress(word, Some(total))));
        }
        if let Some((_, progress)) = &*at {
            progress.add(done.saturating_sub(progress.done()));
        }
        drop(at);
        if let Some(turn) = &self.turn {
            turn.beat_when_due()?;
        }
        Ok(())
    }
}

/// Packs that are sealed under older keys still, and that a later run seals anew.
fn left(report: &Collected) -> Packed {
    let Collected { old, damaged, rewritten, .. } = report;
    Packed {
        packs: old.packs.saturating_sub(damaged.packs + rewritten.packs),
        bytes: old.bytes.saturating_sub(damaged.bytes + rewritten.bytes),
    }
}

impl View {
    pub(crate) fn new(report: &Collected, dry_run: bool, seconds: f64) -> Self {
        let Packed { packs, bytes } = report.live;
        let waiting = report.waiting.iter().map(|waiting| WaitingView {
            session: waiting.session.to_string(),
            volume: waiting.name.clone(),
            host: waiting.host.clone(),
            pid: waiting.pid,
            silent: waiting.silent.as_secs(),
        });
        let fenced = report.fenced.iter();
        let fenced = fenced.map(|(id, name)| FencedView { session: id.to_string(), volume: name.clone() });
        Self {
            dry_run,
            generation: report.generation,
            sealed: report.sealed,
            unsealed: report.unsealed,
            overtaken: report.overtaken,
            settled: report.settled,
            left_to_jobs: report.left_forgets,
            packs: report.all.into(),
            live: Live { packs, bytes, referenced: report.live_bytes },
            spared: report.spared.into(),
            condemned: report.condemned.into(),
            repacked: Repacked {
                packs: report.thin.packs,
                bytes: report.thin.bytes,
                chunks: report.copied.packs,
                copied: report.copied.bytes,
            },
            rewritten: Rewritten {
                packs: report.rewritten.packs,
                bytes: report.rewritten.bytes,
                chunks: report.resealed.packs,
                sealed: report.resealed.bytes,
                left: left(report).into(),
                damaged: report.damaged.into(),
            },
            found_damaged: report.unopened.into(),
            rescued: report.rescued,
            waiting: waiting.collect(),
            fenced: fenced.collect(),
            deleted: report.swept.into(),
            graced: report.graced.into(),
            failed: report.failed.into(),
            records: report.records,
            sessions: report.sessions,
            segments: report.segments,
            seconds,
        }
    }
}

fn packs(packed: Packed) -> String {
    let noun = if packed.packs == 1 { "pack" } else { "packs" };
    format!("{} {noun} ({})", packed.packs, size(packed.bytes))
}

/// What is kept and why, what goes and when, and what is to be done next.
pub(crate) fn text(report: &Collected, options: &CollectOptions) -> String {
    let dry = options.dry_run;
    let mut lines = Vec::new();
    let mut say = |word: &str, what: String| lines.push(format!("{word:<11}{what}"));
    if report.settled > 0 {
        say("final", format!("{} forgotten for good: the delay is over", snapshots(report.settled)));
    }
    if report.left_forgets > 0 {
        let what = snapshots(report.left_forgets);
        let by_hand = "where none does it any more, `wherry unforget ID` and then `wherry forget ID` do it by hand";
        say(
            "left",
            format!("{what}, whose delay is over, to the Jobs of the cluster, which look once more first; {by_hand}"),
        );
    }
    if report.all.packs > 0 {
        let of = size(report.live_bytes);
        say("needed", format!("{}, of which snapshots and runs under way need {of}", packs(report.live)));
    }
    if report.spared.packs > 0 {
        let why = "which no snapshot needs: of backups under way, or broken off not long ago";
        say("spared", format!("{}, {why}", packs(report.spared)));
    }
    let condemned = if dry { "would go" } else { "condemned" };
    if report.condemned.packs > 0 {
        say(condemned, format!("{}, which nothing needs", packs(report.condemned)));
    }
    if report.thin.packs > 0 {
        let copied = size(report.copied.bytes);
        let (what, of) = (packs(report.thin), if dry { "are copied" } else { "were copied" });
        say(condemned, format!("{what}, of which {} chunks ({copied}) {of}", report.copied.packs));
    }
    if report.rewritten.packs > 0 {
        let of = if dry { "are sealed anew" } else { "were sealed anew" };
        let (packs, sealed) = (packs(report.rewritten), size(report.resealed.bytes));
        say(
            condemned,
            format!("{packs} of older keys, of which {} chunks and nodes ({sealed}) {of}", report.resealed.packs),
        );
    }
    let left = left(report);
    if left.packs > 0 {
        say("left", format!("{} under older keys: run `wherry gc --rewrite` again", packs(left)));
    }
    if report.damaged.packs > 0 {
        let until = "`wherry check` says what that hits, and they stay until no snapshot refers to them";
        say("left", format!("{} under older keys, in which something is damaged: {until}", packs(report.damaged)));
    }
    if report.unopened.packs > 0 {
        say(
            "damaged",
            format!("{} did not open: `wherry check --read-data` says what that hits", packs(report.unopened)),
        );
    }
    if report.rescued > 0 {
        say("rescued", format!("{} condemned packs: a backup that ended meanwhile needs them", report.rescued));
    }
    for (session, name) in &report.fenced {
        say("ended", format!("backup of {}, session {session}: it gave no sign of life", shown(name)));
    }
    for waiting in &report.waiting {
        let (name, host) = (shown(&waiting.name), shown(&waiting.host));
        let silent = output::duration(waiting.silent.as_secs());
        say("waits for", format!("backup of {name}, pid {} on host {host}, silent for {silent}", waiting.pid));
    }
    if report.swept.packs > 0 {
        say("deleted", packs(report.swept));
    }
    if report.graced.packs > 0 {
        let grace = Span(options.grace);
        say(
            "waiting",
            format!("{}: they are deleted by the first gc after the grace of {grace}", packs(report.graced)),
        );
    }
    if report.failed.packs > 0 {
        say("failed", format!("{} could not be deleted, see above: the next gc tries again", packs(report.failed)));
    }
    lines.push(summary(report, dry));
    lines.join("\n")
}

fn snapshots(n: u64) -> String {
    if n == 1 { "1 snapshot".to_owned() } else { format!("{n} snapshots") }
}

fn summary(report: &Collected, dry: bool) -> String {
    let goes = report.condemned.packs + report.thin.packs + report.rewritten.packs;
    if dry {
        let unsealed = if report.unsealed.is_some() { "; an earlier run is gone on with first" } else { "" };
        return match goes {
            0 => format!("nothing would be condemned{unsealed}"),
            _ => format!("nothing was written{unsealed}"),
        };
    }
    if report.overtaken {
        return "other collectors came first each time: nothing is left to do here".to_owned();
    }
    if !report.waiting.is_empty() {
        return "condemned, but not yet deleted: run `wherry gc` again when these backups have ended or gone on"
            .to_owned();
    }
    match (goes, report.swept.packs) {
        // It is not the grace that keeps them.
        (_, 0) if report.failed.packs > 0 && report.graced.packs == 0 => {
            "nothing was deleted: mend what is said above, and run `wherry gc` again".to_owned()
        }
        (0, 0) if report.graced.packs == 0 => "nothing to delete".to_owned(),
        (_, 0) => "nothing is deleted yet: run `wherry gc` again after the grace".to_owned(),
        _ => format!("{} are free now", size(report.swept.bytes)),
    }
}

//! `wherry forget`

use super::snapshots::Known;
use crate::cli::{ForgetArgs, KeepFlags};
use crate::context::{Context, certain, resolve};
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use crate::retention::{self, Decision, Dropped, Policy};
use crate::select::{self, SnapSpec, Summary};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use wherry_repo::{Clock, Error, ErrorKind, Repository, SnapshotId, SnapshotList, storage};

/// How long a forget can be taken back where nothing else is said.
pub(crate) const DELAY: Duration = Duration::from_secs(7 * 86_400);

#[derive(Serialize)]
struct View {
    snapshot: String,
    /// Null with `time` when its record cannot be read.
    volume: Option<String>,
    time: Option<String>,
    keep: bool,
    /// Why it stays.
    reasons: Vec<String>,
    /// Why it goes: named, partial (and a whole one is newer), damaged (and an intact one is newer), or unmatched by any rule; null when
    /// it stays.
    dropped: Option<&'static str>,
    /// This run forgot it.
    forgotten: bool,
    #[serde(skip)]
    done: Done,
}

/// What became of a snapshot that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It stays, or nothing is done.
    Nothing,
    Forgotten,
    /// It was forgotten before, and goes sooner now.
    Sooner,
    /// Somebody else had forgotten it.
    Before,
    /// It was pinned since the list was read, and stays.
    Pinned,
}

/// Forgets the snapshots that are named, or those a policy does not keep.
pub(crate) fn run(context: &Context, args: ForgetArgs) -> Result<Exit> {
    let ForgetArgs { snaps, keep, filter, delay, dry_run, force } = args;
    let policy = Policy::from(keep.clone());
    match snaps.is_empty() {
        true if policy.is_empty() => {
            let text = "nothing to forget by: name snapshots, or give a policy such as --keep-daily 7";
            return Err(Error::invalid(text).into());
        }
        false if keep != KeepFlags::default() => {
            return Err(
                Error::invalid("snapshots and a --keep-* policy are given at once: leave one of them out").into()
            );
        }
        _ => {}
    }
    let (repository, _turn) = match dry_run {
        true => (context.open_repository()?, None),
        false => context.open_to_write("forget").map(|(repository, turn)| (repository, Some(turn)))?,
    };
    let mut list = repository.snapshots(None)?;
    let pins = repository.pins()?;
    let mut all = select::summaries(&list);
    if snaps.is_empty() {
        let known = Known::read(&repository)?;
        all.iter_mut().for_each(|s| s.damaged = known.is_damaged(&s.id));
    }
    let summaries: Vec<_> = all.iter().filter(|s| filter.admits(s)).cloned().collect();
    filter.warn_of_nothing(&summaries, &list);
    // Their records cannot be read: they are named by their ids, and nothing else is known of them.
    let mut given_up = BTreeSet::new();
    let (decisions, why) = match snaps.is_empty() {
        true => {
            let zone = jiff::tz::TimeZone::system();
            (retention::decide(&all, &summaries, &pins, &policy, context.system.now(), &zone), "policy")
        }
        false => {
            let mut there = Vec::new();
            for spec in &snaps {
                match lost(&repository, spec, &list)? {
                    Some(id) => drop(given_up.insert(id)),
                    None => there.push(spec.clone()),
                }
            }
            (named(&repository, &there, &list, &summaries, &pins)?, "by hand")
        }
    };
    if let Some(id) = given_up.intersection(&pins).next() {
        return Err(is_pinned_text(id, "a volume that is not known").into());
    }
    if snaps.is_empty() && !force {
        match retention::excess(&decisions) {
            Some(what) if dry_run => tracing::warn!("this would forget {what}, and is refused without --force"),
            _ => retention::guard(&decisions)?,
        }
    }
    for (volume, n) in retention::only_partial(&decisions) {
        tracing::warn!(
            "{n} partial snapshots of {volume:?} are newer than each whole one, and no policy drops one: see to it that a whole backup \
             comes, or forget them by their ids"
        );
    }
    // Whoever says how long means that also of what is forgotten already.
    let sooner = delay.is_some();
    let delay = delay.map_or(DELAY, |delay| delay.0);
    let mut views = if dry_run {
        views(&decisions, |_| Ok(Done::Nothing))
    } else {
        act(context, &repository, &decisions, (delay, sooner), why)
    }?;
    let known = views.len();
    for id in &given_up {
        let done = if dry_run { Done::Nothing } else { forget(&repository, id, (delay, sooner), why)? };
        views.push(View::given_up(id, done));
    }
    context.output.result(&views, || text(&decisions, &views, known, delay))?;
    list.damaged.retain(|(key, _)| !storage::keys::parse_snap(key).is_some_and(|(_, id)| given_up.contains(&id)));
    Ok(super::snapshots::damage(&list))
}

/// The id of what is named by all of it and has no record that can be read: damaged, lost by the storage, or taken by a collector after
/// a forget of which nobody can read any more that it was for good.
fn lost(repository: &Repository, spec: &SnapSpec, list: &SnapshotList) -> Result<Option<SnapshotId>> {
    let damaged = spec.damaged(list);
    let SnapSpec::Id(id) = spec else { return Ok(damaged) };
    if damaged.is_some() || list.snapshots.iter().any(|s| s.id == *id) {
        return Ok(damaged);
    }
    Ok((repository.is_missed(id)? || repository.has_lost_verdict(id)?).then_some(*id))
}

/// Those that are named, each once, in the order of the command line. `Invalid` when one of them is pinned, `Corrupt` when it
/// cannot be told.
fn named(
    repository: &Repository,
    snaps: &[SnapSpec],
    list: &SnapshotList,
    summaries: &[Summary],
    pins: &BTreeSet<SnapshotId>,
) -> Result<Vec<Decision>> {
    let mut decisions: Vec<Decision> = Vec::new();
    for spec in snaps {
        let Summary { id, volume, time, .. } = resolve(repository, list, summaries, spec)?.clone();
        certain(repository, list, &id, spec)?;
        if pins.contains(&id) {
            return Err(is_pinned_text(&id, &format!("{volume:?}")).into());
        }
        if decisions.iter().all(|d| d.id != id) {
            decisions.push(Decision { id, volume, time, reasons: Vec::new(), dropped: Dropped::Named });
        }
    }
    Ok(decisions)
}

fn is_pinned_text(id: &SnapshotId, volume: &str) -> Error {
    Error::invalid(format!("snapshot {id} of {volume} is pinned, nothing was forgotten: `wherry unpin {id}` first"))
}

impl View {
    /// One whose record cannot be read.
    fn given_up(id: &SnapshotId, done: Done) -> Self {
        Self {
            snapshot: id.to_string(),
            volume: None,
            time: None,
            keep: false,
            reasons: Vec::new(),
            dropped: Some(Dropped::Named.name()),
            forgotten: matches!(done, Done::Forgotten | Done::Sooner),
            done,
        }
    }
}

/// One that was named. The second half of `delay`: it holds also where it was forgotten before with a longer one.
fn forget(
    repository: &Repository,
    id: &SnapshotId,
    (delay, sooner): (Duration, bool),
    why: &str,
) -> wherry_repo::Result<Done> {
    Ok(match repository.forget(id, delay, why)? {
        true => Done::Forgotten,
        false if sooner && repository.forget_sooner(id, delay, why)? => Done::Sooner,
        false => Done::Before,
    })
}

fn act(
    context: &Context,
    repository: &Repository,
    all: &[Decision],
    delay: (Duration, bool),
    why: &str,
) -> Result<Vec<View>> {
    let _armed = context.cancel.arm("those forgotten so far stay forgotten; run the same command again for the others");
    views(all, |decision| {
        context.cancel.check()?;
        let delay = (delay.0, delay.1 && decision.dropped == Dropped::Named);
        let done = match forget(repository, &decision.id, delay, why) {
            // A policy leaves alone what was pinned since it was asked for.
            Err(e) if decision.dropped != Dropped::Named && is_pinned(repository, decision, &e)? => {
                tracing::warn!("{e}");
                Done::Pinned
            }
            done => done?,
        };
        tracing::debug!(snapshot = %decision.id, ?done, "forgotten");
        Ok(done)
    })
}

fn is_pinned(repository: &Repository, decision: &Decision, error: &Error) -> Result<bool> {
    Ok(error.kind() == ErrorKind::Invalid && repository.is_pinned(&decision.id)?)
}

fn views(decisions: &[Decision], mut forget: impl FnMut(&Decision) -> Result<Done>) -> Result<Vec<View>> {
    let view = |decision: &Decision| {
        let done = if decision.keep() { Done::Nothing } else { forget(decision)? };
        Ok(View {
            snapshot: decision.id.to_string(),
            volume: Some(decision.volume.clone()),
            time: Some(output::utc_time(decision.time)),
            keep: decision.keep(),
            reasons: decision.reasons.iter().map(ToString::to_string).collect(),
            dropped: (!decision.keep()).then(|| decision.dropped.name()),
            forgotten: matches!(done, Done::Forgotten | Done::Sooner),
            done,
        })
    };
    decisions.iter().map(view).collect()
}

/// The first views are those of the decisions, of which there are `known`.
fn text(decisions: &[Decision], views: &[View], known: usize, delay: Duration) -> String {
    let digits = select::unique_digits(decisions.iter().map(|d| d.id));
    let mut table = Table::new(&[
        ("ID", Side::Left),
        ("TIME", Side::Left),
        ("VOLUME", Side::Left),
        ("", Side::Left),
        ("WHY", Side::Left),
    ]);
    for (decision, view) in decisions.iter().zip(views) {
        let what = match (view.keep, view.done) {
            (true, _) => "stays",
            (false, Done::Nothing) => "would go",
            (false, Done::Forgotten) => "forgotten",
            (false, Done::Sooner) => "goes sooner",
            (false, Done::Before) => "was forgotten before",
            (false, Done::Pinned) => "stays, pinned since",
        };
        table.row([
            view.snapshot.chars().take(digits).collect(),
            output::local_time(decision.time),
            decision.volume.clone(),
            what.to_owned(),
            if view.keep { view.reasons.join(", ") } else { decision.dropped.to_string() },
        ]);
    }
    let mut lost = String::new();
    for view in &views[known..] {
        let what = match view.done {
            Done::Nothing => "would be given up",
            Done::Before => "was given up before",
            _ => "is given up",
        };
        lost += &format!(
            "{} {what}: its record cannot be read, so which volume it is of and what is in it is not known; bringing the object back from \
             a copy of the repository is of use until the forget is final\n",
            view.snapshot
        );
    }
    let gone = views.iter().filter(|view| view.forgotten).count();
    let end = match gone {
        0 => String::new(),
        // Nothing but a collector makes it final.
        _ if delay.is_zero() => {
            format!(
                "{gone} forgotten; the next `wherry gc` makes that final, until then `wherry unforget` brings them back\n"
            )
        }
        _ => format!("{gone} forgotten; `wherry unforget` brings them back within {}\n", crate::cli::Span(delay)),
    };
    let table = if decisions.is_empty() && !lost.is_empty() { String::new() } else { table.render() };
    table + &lost + &end
}

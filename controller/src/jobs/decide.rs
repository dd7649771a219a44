//! Which Jobs are made and removed, and what is said of those that ended: a pure function of what is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wherry_api::api::Guard;
use wherry_api::events::{self, Reason};
use wherry_api::job::{JobKind, JobResult, State};
use wherry_api::{Settings, Time};

/// One that failed is not waited for as long as one that succeeded, but so long at least.
const AGAIN: Duration = Duration::from_secs(3600);
/// What is overdue is said again after so long.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// By so much a clock may be behind that of the API server.
const SKEW: Duration = Duration::from_secs(60);

/// A BackupStorageLocation, as far as Jobs go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Location {
    /// Its name.
    pub name: String,
    /// Available, and not ReadOnly.
    pub usable: bool,
    /// uuid of the repository that is recorded for it.
    pub repository: Option<String>,
    /// The newest result of each kind.
    pub results: BTreeMap<JobKind, JobResult>,
}

impl Location {
    /// The newest result of a kind; none where it is known to be of another repository, which the location led to before.
    fn result(&self, kind: JobKind) -> Option<&JobResult> {
        self.results.get(&kind).filter(|result| result.repository.is_none() || result.repository == self.repository)
    }
}

/// A Job of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What its deletion rests on.
    pub guard: Guard,
    /// What it does.
    pub kind: JobKind,
    /// For which repository, by uuid.
    pub repository: String,
    /// For which location.
    pub location: String,
    /// When it was made.
    pub created: Time,
    /// When it ended, and whether well; `None`: it runs, or is going to.
    pub ended: Option<(Time, bool)>,
}

/// All that is seen.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Now.
    pub now: Time,
    /// Since when this process looks.
    pub since: Time,
    /// By name.
    pub locations: Vec<Location>,
    /// In any order.
    pub jobs: Vec<Job>,
    /// What was said: of which Job (uid), or of what is overdue in which location, and when.
    pub said: BTreeMap<String, Time>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// A Job is made.
    Make {
        /// What it does.
        kind: JobKind,
        /// For which location.
        location: String,
        /// uuid of the repository.
        repository: String,
        /// When the one before it was made: two controllers make the same one.
        after: Option<Time>,
    },
    /// A Job that has ended is removed: there are enough others.
    Remove {
        /// Its name.
        name: String,
        /// What the deletion rests on.
        guard: Guard,
    },
}

/// Something that an operator should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What it is said of, as in [`View::said`].
    pub of: String,
    /// Of which location.
    pub location: String,
    /// One word.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// What is done next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Writes, in any order.
    pub acts: Vec<Act>,
    /// Events.
    pub said: Vec<Said>,
    /// When something is due next, if nothing changes before.
    pub next: Option<Time>,
}

impl Plan {
    fn looks_at(&mut self, at: Time) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// Of each repository the location that Jobs are made for: the first that can be used. Where none can, the first one, which
/// says what is wrong.
fn chosen(locations: &[Location]) -> BTreeMap<&str, &Location> {
    let mut chosen: BTreeMap<&str, &Location> = BTreeMap::new();
    for location in locations {
        let Some(repository) = location.repository.as_deref() else { continue };
        let entry = chosen.entry(repository).or_insert(location);
        if !entry.usable && location.usable {
            *entry = location;
        }
    }
    chosen
}

fn interval(kind: JobKind, settings: &Settings) -> Duration {
    match kind {
        JobKind::Forget => settings.forget_interval,
        JobKind::Gc => settings.gc_interval,
    }
}

/// Decides.
#[must_use]
pub fn plan(view: &View, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    for (repository, location) in chosen(&view.locations) {
        let jobs: Vec<&Job> = view.jobs.iter().filter(|job| job.repository == repository).collect();
        make(view, settings, location, repository, &jobs, &mut plan);
        plan.said.extend(overdue(view, settings, location));
        if let Some((_, at)) = overdue_at(view, settings, location).filter(|(_, at)| *at > view.now) {
            plan.looks_at(at);
        }
    }
    remove(view, settings, &mut plan);
    tell(view, &mut plan);
    plan
}

fn make(view: &View, settings: &Settings, location: &Location, repository: &str, jobs: &[&Job], plan: &mut Plan) {
    if settings.pause || !location.usable || jobs.iter().any(|job| job.ended.is_none()) {
        return;
    }
    let due = |kind| {
        let interval = interval(kind, settings);
        let before = jobs.iter().filter(|job| job.kind == kind).max_by_key(|job| job.created);
        let due = match before {
            Some(Job { ended: Some((ended, false)), .. }) => ended.after(interval.min(AGAIN)),
            Some(job) => job.created.after(interval),
            // The Jobs of before are gone, and what they said is there. What never was is due before all that was.
            None => location.result(kind).map_or(Time::default(), |result| result.at.after(interval)),
        };
        (!interval.is_zero()).then_some((due, kind, before))
    };
    // One that takes as long as its interval is due again when it ends: the other kind has its turn then.
    let Some((due, kind, before)) = JobKind::ALL.into_iter().filter_map(due).min_by_key(|(due, ..)| *due) else {
        return;
    };
    if due > view.now {
        plan.looks_at(due);
        return;
    }
    plan.acts.push(Act::Make {
        kind,
        location: location.name.clone(),
        repository: repository.to_owned(),
        after: before.map(|job| job.created),
    });
}

/// Of each kind and repository the newest stay.
fn remove(view: &View, settings: &Settings, plan: &mut Plan) {
    let mut ended: Vec<&Job> = view.jobs.iter().filter(|job| job.ended.is_some()).collect();
    ended.sort_by_key(|job| std::cmp::Reverse((job.created, job.name.clone())));
    let mut kept: BTreeMap<(&str, JobKind), usize> = BTreeMap::new();
    for job in ended {
        let kept = kept.entry((&job.repository, job.kind)).or_default();
        *kept += 1;
        if *kept > settings.job_history {
            plan.acts.push(Act::Remove { name: job.name.clone(), guard: job.guard.clone() });
        }
    }
}

/// The newest Job of each repository and kind that ended.
fn newest(view: &View) -> impl Iterator<Item = &Job> {
    let mut newest: BTreeMap<(&str, JobKind), &Job> = BTreeMap::new();
    for job in view.jobs.iter().filter(|job| job.ended.is_some()) {
        let entry = newest.entry((&job.repository, job.kind)).or_insert(job);
        if entry.created < job.created {
            *entry = job;
        }
    }
    newest.into_values()
}

/// What is wrong with a Job that ended; none if it did its work.
fn wrong(view: &View, job: &Job) -> Option<(Reason, String)> {
    let location = view.locations.iter().find(|location| location.name == job.location);
    let result = location.and_then(|location| location.results.get(&job.kind));
    // One of before says nothing about this Job. Its node's clock may be a little behind.
    let result = result.filter(|result| result.at.after(SKEW) >= job.created);
    Some(match (result, job.ended) {
        (Some(result), _) if result.state == State::OnHold => (events::FORGETTING_ON_HOLD, result.message.clone()),
        (Some(result), _) if result.state == State::Refused => (events::JOB_REFUSED, result.message.clone()),
        (Some(result), _) if result.state == State::Failed => (events::JOB_FAILED, result.message.clone()),
        (_, Some((_, true))) => return None,
        _ => (events::JOB_FAILED, "it left no result: see the log of its pods".to_owned()),
    })
}

/// How many repositories have a newest Job of that kind which failed or was refused. (On hold is counted by backups.)
pub(super) fn failing(view: &View, kind: JobKind) -> usize {
    let failed = |job: &&Job| wrong(view, job).is_some_and(|(reason, _)| reason != events::FORGETTING_ON_HOLD);
    newest(view).filter(|job| job.kind == kind).filter(failed).count()
}

/// Of each Job that ended and of which nothing was said yet; of several of a kind only of the newest.
fn tell(view: &View, plan: &mut Plan) {
    for job in newest(view).filter(|job| !view.said.contains_key(&job.guard.uid)) {
        let Some((reason, message)) = wrong(view, job) else { continue };
        let message = format!("Job {} ({}): {message}", job.name, job.kind);
        plan.said.push(Said { of: job.guard.uid.clone(), location: job.location.clone(), reason, message });
    }
}

/// Since when no gc of the repository of a location has succeeded, if that is too long ago.
#[must_use]
pub fn overdue_since(view: &View, settings: &Settings, location: &Location) -> Option<Time> {
    overdue_at(view, settings, location).filter(|(_, at)| view.now >= *at).map(|(since, _)| since)
}

/// Likewise, however long ago, and from when on it is too long. Where none ever has: since the first Job of that kind that is known of,
/// as a process may not live as long as that.
fn overdue_at(view: &View, settings: &Settings, location: &Location) -> Option<(Time, Time)> {
    if settings.gc_interval.is_zero() || settings.gc_overdue.is_zero() {
        return None;
    }
    let same = view.locations.iter().filter(|other| other.repository == location.repository);
    let results: Vec<&JobResult> = same.filter_map(|other| other.result(JobKind::Gc)).collect();
    let done = results.iter().filter_map(|result| result.last_done).max();
    let ended = results.iter().map(|result| result.first.unwrap_or(result.at).min(result.at));
    let ours = |job: &&Job| job.kind == JobKind::Gc && Some(&job.repository) == location.repository.as_ref();
    let first = ended.chain(view.jobs.iter().filter(ours).map(|job| job.created)).min();
    // A location that is only read from has neither: others collect there.
    let never = || if location.usable { first.or(Some(view.since)) } else { first };
    let last = done.or_else(never)?;
    // Where gc is seldom wanted, one that has not come yet is not late.
    let late = settings.gc_overdue.max(settings.gc_interval.saturating_mul(2));
    Some((last, last.after(late)))
}

/// The locations whose repository has had no gc that succeeded for too long: one of each repository.
pub(super) fn all_overdue<'a>(view: &'a View, settings: &Settings) -> BTreeSet<&'a str> {
    let overdue = |location: &&Location| overdue_since(view, settings, location).is_some();
    chosen(&view.locations).into_values().filter(overdue).map(|location| location.name.as_str()).collect()
}

fn overdue(view: &View, settings: &Settings, location: &Location) -> Option<Said> {
    let since = overdue_since(view, settings, location)?;
    let of = format!("overdue {}", location.name);
    if view.said.get(&of).is_some_and(|at| view.now < at.after(REMIND)) {
        return None;
    }
    let result = location.result(JobKind::Gc);
    let last = result.map_or_else(|| "no gc has ended".to_owned(), |result| result.message.clone());
    let message = format!("no gc of the repository of {} has succeeded since {since}: {last}", location.name);
    Some(Said { of, location: location.name.clone(), reason: events::GC_OVERDUE, message })
}

/// What was said of Jobs that are gone need not be remembered.
pub(super) fn still_said(view: &View) -> BTreeSet<&str> {
    let of_jobs = view.jobs.iter().map(|job| job.guard.uid.as_str());
    of_jobs.chain(view.said.keys().map(String::as_str).filter(|of| of.starts_with("overdue "))).collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

//! When Jobs are made, which are removed, and what is said.

use super::*;

const HOUR: i64 = 3600;
const NOW: i64 = 1_000_000 * HOUR;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()).unwrap()
}

fn hours_ago(hours: i64) -> Time {
    Time(NOW - hours * HOUR)
}

fn location(name: &str) -> Location {
    Location { name: name.into(), usable: true, repository: Some("r".into()), results: BTreeMap::new() }
}

fn job(name: &str, kind: JobKind, created: Time, ended: Option<(Time, bool)>) -> Job {
    let guard = Guard { uid: format!("uid-{name}"), resource_version: "7".into() };
    Job { name: name.into(), guard, kind, repository: "r".into(), location: "default".into(), created, ended }
}

fn view(jobs: Vec<Job>) -> View {
    View { now: Time(NOW), since: Time(NOW), locations: vec![location("default")], jobs, said: BTreeMap::new() }
}

/// Kind and `after` of the Job that is made.
fn made(view: &View, settings: &Settings) -> Option<(JobKind, Option<Time>)> {
    let made: Vec<_> = plan(view, settings)
        .acts
        .into_iter()
        .filter_map(|act| match act {
            Act::Make { kind, after, location, repository } => {
                assert_eq!((location.as_str(), repository.as_str()), ("default", "r"));
                Some((kind, after))
            }
            Act::Remove { .. } => None,
        })
        .collect();
    assert!(made.len() < 2, "{made:?}");
    made.first().copied()
}

#[test]
fn one_at_a_time_and_each_in_its_turn() {
    let usual = settings(&[]);
    assert_eq!(made(&view(vec![]), &usual), Some((JobKind::Forget, None)));
    let running = job("f1", JobKind::Forget, hours_ago(30), None);
    assert_eq!(made(&view(vec![running]), &usual), None);
    let forgot = job("f1", JobKind::Forget, hours_ago(0), Some((hours_ago(0), true)));
    assert_eq!(made(&view(vec![forgot.clone()]), &usual), Some((JobKind::Gc, None)));
    let collects = job("g1", JobKind::Gc, hours_ago(2), None);
    let late = job("f1", JobKind::Forget, hours_ago(2), Some((hours_ago(2), true)));
    assert_eq!(made(&view(vec![late.clone(), collects]), &usual), None);
    let collected = job("g1", JobKind::Gc, hours_ago(2), Some((hours_ago(1), true)));
    assert_eq!(made(&view(vec![late, collected.clone()]), &usual), Some((JobKind::Forget, Some(hours_ago(2)))));
    // Of several the newest counts, and between two it is as long from beginning to beginning.
    let older = job("f0", JobKind::Forget, hours_ago(3), Some((hours_ago(3), true)));
    let newest = |created| job("f1", JobKind::Forget, created, Some((hours_ago(0), true)));
    let of = |created| view(vec![older.clone(), newest(created), collected.clone()]);
    assert_eq!(made(&of(hours_ago(0)), &usual), None);
    assert_eq!(made(&of(hours_ago(1)), &usual), Some((JobKind::Forget, Some(hours_ago(1)))));
    let both = view(vec![forgot, collected]);
    assert_eq!((made(&both, &usual), plan(&both, &usual).next), (None, Some(hours_ago(-1))));
}

/// Jobs that take as long as the time between two of them are due again when they end.
#[test]
fn what_takes_long_leaves_the_other_kind_its_turn() {
    let usual = settings(&[]);
    let forgot = job("f1", JobKind::Forget, hours_ago(2), Some((hours_ago(0), true)));
    let collected = |hours| job("g1", JobKind::Gc, hours_ago(hours), Some((hours_ago(hours - 1), true)));
    assert_eq!(made(&view(vec![forgot.clone(), collected(26)]), &usual), Some((JobKind::Gc, Some(hours_ago(26)))));
    assert_eq!(made(&view(vec![forgot.clone(), collected(24)]), &usual), Some((JobKind::Forget, Some(hours_ago(2)))));
    assert_eq!(made(&view(vec![forgot]), &usual), Some((JobKind::Gc, None)), "there was none yet");
}

#[test]
fn what_was_done_by_jobs_that_are_gone_counts() {
    let mut known = view(vec![]);
    for kind in JobKind::ALL {
        let result = JobResult::new(kind, hours_ago(2), State::Done, String::new());
        known.locations[0].results.insert(kind, result);
    }
    assert_eq!(made(&known, &settings(&[("forgetInterval", "3h")])), None);
    assert_eq!(made(&known, &settings(&[])), Some((JobKind::Forget, None)));
    // Not in another repository, which the location led to before.
    for result in known.locations[0].results.values_mut() {
        result.repository = Some("other".into());
    }
    assert_eq!(made(&known, &settings(&[("forgetInterval", "3h")])), Some((JobKind::Forget, None)));
}

#[test]
fn one_that_failed_is_tried_again_sooner_but_not_at_once() {
    let forgot = || job("f1", JobKind::Forget, hours_ago(0), Some((hours_ago(0), true)));
    let failed = |hours| job("g1", JobKind::Gc, hours_ago(9), Some((hours_ago(hours), false)));
    let usual = settings(&[]);
    assert_eq!(made(&view(vec![forgot(), failed(0)]), &usual), None);
    assert_eq!(made(&view(vec![forgot(), failed(1)]), &usual), Some((JobKind::Gc, Some(hours_ago(9)))));
}

#[test]
fn nothing_is_made_where_nothing_is_to_be_done() {
    let none = |locations: Vec<Location>, pairs: &[(&str, &str)]| {
        let plan = plan(&View { locations, ..view(vec![]) }, &settings(pairs));
        assert_eq!(plan.acts, [], "{pairs:?}");
    };
    none(vec![Location { usable: false, ..location("default") }], &[]);
    none(vec![Location { repository: None, ..location("default") }], &[]);
    none(vec![location("default")], &[("pause", "true")]);
    none(vec![location("default")], &[("forgetInterval", "0"), ("gcInterval", "0")]);
    assert_eq!(made(&view(vec![]), &settings(&[("forgetInterval", "0")])), Some((JobKind::Gc, None)));
}

/// Two locations that lead to one repository: one Job at a time for both.
#[test]
fn a_repository_has_one_job_however_many_locations_lead_to_it() {
    let two = |first_usable| {
        let first = Location { usable: first_usable, ..location("a") };
        View { locations: vec![first, location("default")], ..view(vec![]) }
    };
    let made_for = |view: &View| match &plan(view, &settings(&[])).acts[..] {
        [Act::Make { location, .. }] => location.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((made_for(&two(true)), made_for(&two(false))), ("a".to_owned(), "default".to_owned()));
    let running = Job { location: "default".into(), ..job("f1", JobKind::Forget, hours_ago(1), None) };
    let busy = View { jobs: vec![running], ..two(true) };
    assert_eq!(plan(&busy, &settings(&[])).acts, []);
    // Another repository does not wait for it.
    let mut other = busy;
    other.locations[0].repository = Some("s".into());
    assert_eq!(made_for(&other), "a");
}

#[test]
fn the_newest_of_each_kind_are_kept() {
    let ended = |name: &str, kind, hours| job(name, kind, hours_ago(hours), Some((hours_ago(hours), true)));
    let mut jobs: Vec<Job> = (0..5).map(|n| ended(&format!("f{n}"), JobKind::Forget, n)).collect();
    jobs.extend((0..2).map(|n| ended(&format!("g{n}"), JobKind::Gc, n)));
    let running = job("old", JobKind::Gc, hours_ago(99), None);
    jobs.push(running);
    let removed: Vec<String> = plan(&view(jobs), &settings(&[("jobHistory", "2")]))
        .acts
        .into_iter()
        .map(|act| match act {
            Act::Remove { name, .. } => name,
            Act::Make { .. } => panic!("one runs"),
        })
        .collect();
    assert_eq!(removed, ["f2", "f3", "f4"]);
}

#[test]
fn what_came_of_a_job_is_said_once() {
    let said = |state: Option<State>, at: Time, well: bool, known: bool| {
        let mut view = view(vec![job("f1", JobKind::Forget, hours_ago(2), Some((hours_ago(1), well)))]);
        if let Some(state) = state {
            let result = JobResult::new(JobKind::Forget, at, state, "why".into());
            view.locations[0].results.insert(JobKind::Forget, result);
        }
        if known {
            view.said.insert("uid-f1".into(), hours_ago(1));
        }
        plan(&view, &settings(&[])).said.into_iter().map(|said| (said.reason.word, said.message)).collect::<Vec<_>>()
    };
    let one = |reason, why: &str| vec![(reason, format!("Job f1 (forget): {why}"))];
    let at = hours_ago(1);
    assert_eq!(said(Some(State::OnHold), at, true, false), one("ForgettingOnHold", "why"));
    assert_eq!(said(Some(State::Refused), at, true, false), one("JobRefused", "why"));
    assert_eq!(said(Some(State::Failed), at, false, false), one("JobFailed", "why"));
    assert_eq!(said(Some(State::Done), at, true, false), []);
    assert_eq!(said(Some(State::OnHold), at, true, true), []);
    // The result of one before is none.
    let none = one("JobFailed", "it left no result: see the log of its pods");
    assert_eq!(said(Some(State::OnHold), hours_ago(3), false, false), none);
    assert_eq!(said(None, at, false, false), none);
}

#[test]
fn a_gc_that_does_not_succeed_is_said_once_a_day() {
    let usual = settings(&[]);
    let said = |view: &View| plan(view, &usual).said.into_iter().map(|said| said.reason.word).collect::<Vec<_>>();
    let mut late = view(vec![]);
    assert_eq!(said(&late), Vec::<&str>::new());
    late.since = hours_ago(96);
    assert_eq!(said(&late), ["GcOverdue"]);
    late.said.insert("overdue default".into(), hours_ago(23));
    assert_eq!(said(&late), Vec::<&str>::new());
    late.said.insert("overdue default".into(), hours_ago(24));
    assert_eq!(said(&late), ["GcOverdue"]);
    // By what is recorded a new process says it at once.
    let mut known = view(vec![]);
    let failed = JobResult {
        last_done: Some(hours_ago(97)),
        ..JobResult::new(JobKind::Gc, hours_ago(1), State::Failed, "full".into())
    };
    known.locations[0].results.insert(JobKind::Gc, failed);
    let told = plan(&known, &usual).said;
    assert!(told.len() == 1 && told[0].message.ends_with(": full"), "{told:?}");
    assert_eq!(said(&known), ["GcOverdue"]);
    // Nor does one succeed that only waits, which is no failure of its own.
    let waits = JobResult {
        last_done: Some(hours_ago(95)),
        ..JobResult::new(JobKind::Gc, hours_ago(1), State::Unfinished, "waits for 1 backups".into())
    };
    known.locations[0].results.insert(JobKind::Gc, waits.clone());
    known.jobs.push(job("g1", JobKind::Gc, hours_ago(2), Some((hours_ago(1), true))));
    assert_eq!(said(&known), Vec::<&str>::new());
    assert_eq!(failing(&known, JobKind::Gc), 0);
    let waits = JobResult { last_done: Some(hours_ago(97)), ..waits };
    known.locations[0].results.insert(JobKind::Gc, waits);
    let told = plan(&known, &usual).said;
    assert!(told.len() == 1 && told[0].reason.word == "GcOverdue", "{told:?}");
    assert!(told[0].message.ends_with(": waits for 1 backups"), "{told:?}");
    // None ever has: what counts is the first Job, not when this process began.
    let mut never = view(vec![job("g9", JobKind::Gc, hours_ago(97), Some((hours_ago(96), false)))]);
    assert_eq!(all_overdue(&never, &usual), BTreeSet::from(["default"]));
    never.jobs.clear();
    assert_eq!(all_overdue(&never, &usual), BTreeSet::new());
    // Those that forget say nothing of it: gc may not have been wanted so far.
    let forgot = JobResult::new(JobKind::Forget, hours_ago(1), State::Done, String::new());
    never.locations[0].results.insert(JobKind::Forget, JobResult { first: Some(hours_ago(99)), ..forgot });
    never.jobs.push(job("f9", JobKind::Forget, hours_ago(97), Some((hours_ago(96), true))));
    assert_eq!(all_overdue(&never, &usual), BTreeSet::new());
    // Nor do those of another repository, which the location led to before.
    let failed = JobResult::new(JobKind::Gc, hours_ago(1), State::Failed, String::new());
    let failed = |of: &str| JobResult { first: Some(hours_ago(99)), repository: Some(of.into()), ..failed.clone() };
    never.locations[0].results.insert(JobKind::Gc, failed("other"));
    assert_eq!(all_overdue(&never, &usual), BTreeSet::new());
    never.locations[0].results.insert(JobKind::Gc, failed("r"));
    assert_eq!(all_overdue(&never, &usual), BTreeSet::from(["default"]));
    // Of two locations of one repository one is counted, and what a gc by either did is done.
    never.locations.push(Location { name: "second".into(), results: BTreeMap::new(), ..never.locations[0].clone() });
    assert_eq!(all_overdue(&never, &usual).len(), 1);
    let done = JobResult {
        last_done: Some(hours_ago(2)),
        ..JobResult::new(JobKind::Gc, hours_ago(2), State::Done, String::new())
    };
    never.locations[1].results.insert(JobKind::Gc, done);
    assert_eq!(all_overdue(&never, &usual), BTreeSet::new());
    // One that is only read from, for as long as this process looks.
    let mut reads = view(vec![]);
    (reads.since, reads.locations[0].usable) = (hours_ago(500), false);
    assert_eq!(all_overdue(&reads, &usual), BTreeSet::new());
    reads.locations[0].usable = true;
    assert_eq!(all_overdue(&reads, &usual), BTreeSet::from(["default"]));
    assert_eq!(plan(&known, &settings(&[("gcOverdue", "0")])).said, []);
    // Nor is one late that is wanted once a week.
    for (hours, overdue) in [(168 + 97, 0), (2 * 168, 1)] {
        let since = View { since: hours_ago(hours), ..view(vec![]) };
        assert_eq!(all_overdue(&since, &settings(&[("gcInterval", "168h")])).len(), overdue, "{hours} h");
    }
    // It is looked at when it is late, whatever else is to be done.
    let paused = settings(&[("pause", "true")]);
    assert_eq!(plan(&View { since: hours_ago(90), ..view(vec![]) }, &paused).next, Some(hours_ago(-6)));
    assert_eq!(plan(&known, &settings(&[("gcInterval", "0")])).said, []);
}

#[test]
fn repositories_without_a_gc_for_too_long_are_counted_where_none_ever_succeeded() {
    use super::super::figures::Figures;
    let registry = wherry_api::metrics::Registry::new(wherry_api::metrics::By::Controller);
    let served = |view: &View| {
        let mut figures = Figures::default();
        figures.take(view, &settings(&[]));
        figures.tell(&registry);
        registry.print().lines().find_map(|line| line.strip_prefix("wherry_gc_overdue ")?.parse::<f64>().ok())
    };
    let failed = |at: i64| view(vec![job("g", JobKind::Gc, hours_ago(at), Some((hours_ago(at), false)))]);
    assert_eq!(served(&failed(3)), Some(0.0));
    assert_eq!(served(&failed(97)), Some(1.0));
    assert_eq!(served(&view(vec![])), Some(0.0));
}

#[test]
fn jobs_that_fail_are_counted_by_kind_until_one_succeeds() {
    use super::super::figures::Figures;
    let registry = wherry_api::metrics::Registry::new(wherry_api::metrics::By::Controller);
    let served = |view: &View| {
        let mut figures = Figures::default();
        figures.take(view, &settings(&[]));
        figures.tell(&registry);
        let text = registry.print();
        let of = |series: &str| text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<u64>().ok());
        [
            "wherry_jobs_failing{task=\"forget\"} ",
            "wherry_jobs_failing{task=\"gc\"} ",
            "wherry_gc_live_bytes ",
            "wherry_gc_deleted_bytes ",
        ]
        .map(|series| of(series).unwrap())
    };
    let ended = |name: &str, kind, at: i64, good| job(name, kind, hours_ago(at), Some((hours_ago(at), good)));
    let mut view = view(vec![ended("f1", JobKind::Forget, 3, true), ended("f2", JobKind::Forget, 2, false)]);
    assert_eq!(served(&view), [1, 0, 0, 0]);
    view.jobs.push(ended("f3", JobKind::Forget, 1, true));
    assert_eq!(served(&view), [0, 0, 0, 0]);
    // It ended well and came to nothing.
    let result = |kind, state| JobResult::new(kind, hours_ago(1), state, "why".into());
    view.locations[0].results.insert(JobKind::Forget, result(JobKind::Forget, State::Refused));
    view.jobs.push(ended("g1", JobKind::Gc, 1, true));
    assert_eq!(served(&view), [1, 0, 0, 0]);
    view.locations[0].results.insert(JobKind::Forget, result(JobKind::Forget, State::OnHold));
    let mut gc = result(JobKind::Gc, State::Done);
    gc.collecting = Some(wherry_api::job::Collecting { live_bytes: Some(70), deleted_bytes: 5, ..Default::default() });
    view.locations[0].results.insert(JobKind::Gc, gc);
    assert_eq!(served(&view), [0, 0, 70, 5]);
    // One that fails has deleted nothing, and what there was is there.
    let mut figures = Figures::default();
    figures.take(&view, &settings(&[]));
    view.locations[0].results.insert(JobKind::Gc, result(JobKind::Gc, State::Failed));
    figures.take(&view, &settings(&[]));
    let of = figures.locations.values().next().unwrap();
    assert_eq!((of.live_bytes, of.deleted_bytes), (70, 0));
    // Nor does one that only waited say what stays.
    let mut waited = result(JobKind::Gc, State::Unfinished);
    waited.collecting = Some(wherry_api::job::Collecting { deleted_bytes: 3, ..Default::default() });
    view.locations[0].results.insert(JobKind::Gc, JobResult::parse(&waited.print()).unwrap());
    figures.take(&view, &settings(&[]));
    let of = figures.locations.values().next().unwrap();
    assert_eq!((of.live_bytes, of.deleted_bytes), (70, 3));
}

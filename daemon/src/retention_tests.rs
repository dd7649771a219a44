use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use wherry_repo::Made;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn berlin() -> TimeZone {
    // Spelled out, so that no time zone database is needed.
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn at(text: &str) -> Timestamp {
    let time: jiff::Timestamp = text.parse().unwrap();
    Timestamp(i64::try_from(time.as_nanosecond()).unwrap())
}

fn snapshot(number: u8, volume: &str, time: Timestamp) -> Summary {
    let id = SnapshotId::new([number; 16]);
    let made = Made { id, started: time, ended: time, parent: None };
    Summary {
        id,
        volume: volume.to_owned(),
        time,
        made,
        copied: false,
        tags: BTreeMap::new(),
        partial: false,
        forgotten: false,
        damaged: false,
    }
}

/// On all there are.
fn decide(
    all: &[Summary],
    pins: &BTreeSet<SnapshotId>,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision> {
    super::decide(all, all, pins, policy, now, zone)
}

fn snapshots(times: &[&str]) -> Vec<Summary> {
    times.iter().enumerate().map(|(n, time)| snapshot(n as u8, "v", at(time))).collect()
}

/// The numbers of the snapshots that stay, in the order of the list.
fn kept(snapshots: &[Summary], policy: &Policy) -> Vec<u8> {
    let decisions = decide(snapshots, &BTreeSet::new(), policy, at("2030-01-01T00:00:00Z"), &berlin());
    let mut kept: Vec<_> = decisions.iter().filter(|d| d.keep()).map(|d| d.id.bytes()[0]).collect();
    kept.sort_unstable();
    kept
}

#[test]
fn last() {
    let all = snapshots(&["2026-01-03T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    assert_eq!(kept(&all, &Policy { last: 2, ..Policy::default() }), [0, 2]);
    assert_eq!(kept(&all, &Policy { last: 9, ..Policy::default() }), [0, 1, 2]);
    assert_eq!(kept(&all, &Policy::default()), [0; 0]);
}

#[test]
fn days_are_those_of_the_time_zone() {
    // 23:30 UTC is half past midnight in Berlin: of the next day.
    let all =
        snapshots(&["2026-01-01T12:00:00Z", "2026-01-01T22:30:00Z", "2026-01-01T23:30:00Z", "2026-01-02T12:00:00Z"]);
    assert_eq!(kept(&all, &Policy { daily: 5, ..Policy::default() }), [1, 3]);
    assert_eq!(kept(&all, &Policy { daily: 1, ..Policy::default() }), [3]);
}

#[test]
fn the_hour_that_comes_twice_is_two_hours() {
    // Summer time ends on 2026-10-25 at 01:00 UTC: 00:30 and 01:30 UTC are both 02:30 in Berlin.
    let all = snapshots(&["2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]);
    assert_eq!(kept(&all, &Policy { hourly: 5, ..Policy::default() }), [1, 2]);
}

#[test]
fn weeks_begin_on_monday_and_cross_years() {
    // 2025-12-29 is a Monday: the first day of week 1 of 2026. 2026-01-04 is its Sunday.
    let all =
        snapshots(&["2025-12-28T12:00:00Z", "2025-12-29T12:00:00Z", "2026-01-04T12:00:00Z", "2026-01-05T12:00:00Z"]);
    assert_eq!(kept(&all, &Policy { weekly: 9, ..Policy::default() }), [0, 2, 3]);
    assert_eq!(kept(&all, &Policy { yearly: 9, ..Policy::default() }), [1, 3]);
    assert_eq!(kept(&all, &Policy { monthly: 9, ..Policy::default() }), [1, 3]);
}

#[test]
fn periods_without_a_snapshot_do_not_count() {
    let all =
        snapshots(&["2020-05-01T00:00:00Z", "2023-05-01T00:00:00Z", "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z"]);
    assert_eq!(kept(&all, &Policy { yearly: 2, ..Policy::default() }), [1, 3]);
}

#[test]
fn within_counts_back_from_the_newest() {
    let all =
        snapshots(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-02T00:00:01Z", "2026-01-03T00:00:00Z"]);
    let policy = Policy { within: Some(Duration::from_secs(DAY as u64)), ..Policy::default() };
    assert_eq!(kept(&all, &policy), [1, 2, 3], "the bound itself is within");
    let policy = Policy { within: Some(Duration::ZERO), ..Policy::default() };
    assert_eq!(kept(&all, &policy), [3]);
}

#[test]
fn partial_ones_never_count() {
    let mut all =
        snapshots(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z"]);
    (all[1].partial, all[3].partial) = (true, true);
    // The newer one may be all there is of the last day; it does not take the place of a whole one.
    assert_eq!(kept(&all, &Policy { last: 1, ..Policy::default() }), [2, 3]);
    assert_eq!(kept(&all, &Policy { last: 2, ..Policy::default() }), [0, 2, 3]);
    all.iter_mut().for_each(|s| s.partial = true);
    assert_eq!(kept(&all, &Policy { last: 1, ..Policy::default() }), [0, 1, 2, 3]);
}

#[test]
fn the_future_is_left_alone() {
    let all = snapshots(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2031-01-01T00:00:00Z"]);
    assert_eq!(kept(&all, &Policy { last: 1, ..Policy::default() }), [1, 2]);
    let within = Policy { within: Some(Duration::from_secs(1)), ..Policy::default() };
    assert_eq!(kept(&all, &within), [1, 2]);
}

#[test]
fn forgotten_ones_are_not_decided_on() {
    let mut all = snapshots(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    all[1].forgotten = true;
    let decisions =
        decide(&all, &BTreeSet::new(), &Policy { last: 1, ..Policy::default() }, at("2027-01-01T00:00:00Z"), &berlin());
    assert_eq!(decisions.len(), 1);
    assert_eq!((decisions[0].id, &decisions[0].reasons[..]), (all[0].id, &[Reason::Last][..]));
}

#[test]
fn all_reasons_are_said() {
    let all = snapshots(&["2026-01-02T00:00:00Z"]);
    let policy = Policy { last: 1, daily: 1, yearly: 1, within: Some(Duration::ZERO), ..Policy::default() };
    let decisions = decide(&all, &BTreeSet::new(), &policy, at("2027-01-01T00:00:00Z"), &berlin());
    assert_eq!(decisions[0].reasons, [Reason::Last, Reason::Daily, Reason::Yearly, Reason::Within]);
}

/// So many of a volume stay, and so many go, a day apart.
fn of(volume: &str, keep: usize, drop: usize) -> Vec<Decision> {
    let decision = |n: usize| Decision {
        id: SnapshotId::default(),
        volume: volume.to_owned(),
        time: Timestamp(n as i64 * DAY * 1_000_000_000),
        reasons: if n < keep { vec![Reason::Last] } else { vec![] },
        dropped: Dropped::Unmatched,
    };
    (0..keep + drop).map(decision).collect()
}

fn refused(decisions: &[Decision]) -> String {
    let error = guard(decisions).unwrap_err();
    assert_eq!(error.kind(), wherry_repo::ErrorKind::Invalid);
    assert!(error.to_string().contains("--force"), "{error}");
    error.to_string()
}

#[test]
fn most_of_all_goes_only_by_force() {
    for (keep, drop) in [(0, 0), (1, 9), (0, 10), (11, 11), (40, 11)] {
        assert!(guard(&of("a", keep, drop)).is_ok(), "{drop} of {}", keep + drop);
    }
    for (keep, drop) in [(0, 11), (1, 11), (3, 17), (10, 11), (40, 41)] {
        let error = refused(&of("a", keep, drop));
        assert!(error.contains(&format!("{drop} of the {} snapshots it is about", keep + drop)), "{error}");
    }
    // A few of each of many volumes.
    refused(&(0..6).flat_map(|n| of(&n.to_string(), 1, 2)).collect::<Vec<_>>());
}

#[test]
fn nearly_all_of_one_volume_goes_only_by_force() {
    let both = |keep, drop| [of("a", 500, 0), of("b", keep, drop)].concat();
    for (keep, drop) in [(0, 0), (1, 9), (0, 10), (1, 10), (3, 11), (3, 400), (10, 11), (40, 11)] {
        assert!(guard(&both(keep, drop)).is_ok(), "{drop} of {}", keep + drop);
    }
    for (keep, drop) in [(0, 11), (1, 11), (2, 11), (1, 40), (2, 400)] {
        let error = refused(&both(keep, drop));
        assert!(error.contains(&format!("{drop} of the {} snapshots of volume \"b\"", keep + drop)), "{error}");
    }
}

/// Partial ones, and those of a time to come, stay by no rule and save nobody.
#[test]
fn what_is_left_is_whole() {
    for (reason, dropped) in [(Reason::Partial, Dropped::Partial), (Reason::Future, Dropped::Unmatched)] {
        let mut decisions = [of("a", 500, 0), of("b", 4, 37)].concat();
        assert!(guard(&decisions).is_ok());
        let few = decisions.iter_mut().filter(|d| d.volume == "b" && d.keep()).take(2);
        few.for_each(|d| (d.reasons, d.dropped) = (vec![reason], dropped));
        assert!(refused(&decisions).contains("leave 2 whole ones"));
    }
}

/// An hourly volume among daily ones, each night, the first one after its first backup too.
#[test]
fn what_goes_on_night_after_night_needs_no_force() {
    let day = |day: i64| Timestamp((1_700_000_000 / DAY + day) * DAY * 1_000_000_000);
    let policy = Policy { daily: 7, ..Policy::default() };
    for nights in 1..9 {
        let hours =
            (1..nights * 24).map(|n| snapshot(n as u8, "hourly", Timestamp(day(0).0 + n * HOUR * 1_000_000_000)));
        let days = (0..30).flat_map(|volume| (0..7).map(move |n| (format!("daily {volume}"), n)));
        let days = days.map(|(volume, n)| snapshot(n as u8, &volume, day(n)));
        let all: Vec<_> = hours.chain(days).collect();
        guard(&decide(&all, &BTreeSet::new(), &policy, day(9), &TimeZone::UTC)).unwrap();
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let n = || prop_oneof![2 => Just(0u32), 3 => 1..5u32];
    let within = prop::option::of((0..100u64).prop_map(|days| Duration::from_secs(days * DAY as u64)));
    (n(), n(), n(), n(), n(), n(), within).prop_map(|(last, hourly, daily, weekly, monthly, yearly, within)| Policy {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
        within,
    })
}

fn any_snapshots() -> impl Strategy<Value = Vec<Summary>> {
    // Times cluster within hours, days and years, and meet; a few lie beyond `now`.
    let time =
        (0..5i64, 0..60i64, 0..4i64, 0..3i64).prop_map(|(y, d, h, s)| y * 300 * DAY + d * DAY + h * HOUR + s * 1000);
    let marks = [0.15, 0.1, 0.2].map(prop::bool::weighted);
    prop::collection::vec((time, 0..2u8, marks), 0..40).prop_map(|list| {
        let snapshot = |(n, (time, volume, [partial, forgotten, damaged])): (usize, (i64, u8, [bool; 3]))| Summary {
            partial,
            forgotten,
            damaged,
            ..snapshot(n as u8, &volume.to_string(), Timestamp((1_700_000_000 + time) * 1_000_000_000))
        };
        list.into_iter().enumerate().map(snapshot).collect()
    })
}

fn now() -> Timestamp {
    Timestamp((1_700_000_000 + 1230 * DAY) * 1_000_000_000)
}

/// The definition, written the other way around: periods first, then the newest of each. Intact ones stay as if there were no
/// damaged ones, and damaged ones as if they were intact.
fn by_periods(all: &[Summary], policy: &Policy) -> BTreeSet<SnapshotId> {
    let intact: Vec<_> = all.iter().filter(|s| !s.damaged || s.partial).cloned().collect();
    let mut kept = places(&intact, policy);
    let damaged = |s: &&Summary| s.damaged && !s.partial && !s.forgotten;
    let places = places(all, policy);
    for s in all.iter().filter(damaged) {
        let counts = |o: &&Summary| o.volume == s.volume && !o.partial && !o.forgotten && o.time <= now();
        let newest = intact.iter().filter(counts).map(|s| s.time).max();
        let within = policy.within.zip(newest).is_some_and(|(w, n)| s.time.0 >= n.0 - w.as_nanos() as i64);
        if places.contains(&s.id) || within || newest.is_none_or(|n| s.time > n) {
            kept.insert(s.id);
        }
    }
    kept
}

/// What stays where it is not known that any is damaged.
fn places(all: &[Summary], policy: &Policy) -> BTreeSet<SnapshotId> {
    let zone = berlin();
    let mut kept = BTreeSet::new();
    for volume in all.iter().map(|s| s.volume.as_str()).collect::<BTreeSet<_>>() {
        let whole: Vec<_> =
            all.iter().filter(|s| s.volume == volume && !s.partial && !s.forgotten && s.time <= now()).collect();
        let formats = [
            ("%s %f", policy.last),
            ("%Y-%m-%d %H %z", policy.hourly),
            ("%Y-%m-%d", policy.daily),
            ("%G-%V", policy.weekly),
            ("%Y-%m", policy.monthly),
            ("%Y", policy.yearly),
        ];
        for (format, count) in formats {
            let mut periods: BTreeMap<(String, Option<SnapshotId>), (Timestamp, SnapshotId)> = BTreeMap::new();
            for s in &whole {
                let name = local(s.time, &zone).strftime(format).to_string();
                let key = (name, format.starts_with("%s").then_some(s.id));
                let newest = periods.entry(key).or_insert((s.time, s.id));
                *newest = (*newest).max((s.time, s.id));
            }
            let mut newest: Vec<_> = periods.into_values().collect();
            newest.sort_unstable_by(|a, b| b.cmp(a));
            kept.extend(newest.into_iter().take(count as usize).map(|(_, id)| id));
        }
        let newest = whole.iter().map(|s| s.time).max();
        for s in all.iter().filter(|s| s.volume == volume && !s.forgotten) {
            let within = policy.within.zip(newest).is_some_and(|(w, n)| s.time.0 >= n.0 - w.as_nanos() as i64);
            let partial = s.partial && newest.is_none_or(|n| s.time > n);
            if within || partial || s.time > now() {
                kept.insert(s.id);
            }
        }
    }
    kept
}

fn decided(all: &[Summary], policy: &Policy) -> BTreeSet<SnapshotId> {
    decide(all, &BTreeSet::new(), policy, now(), &berlin()).into_iter().filter(Decision::keep).map(|d| d.id).collect()
}

proptest! {
    #[test]
    fn agrees_with_the_definition(all in any_snapshots(), policy in any_policy()) {
        prop_assert_eq!(decided(&all, &policy), by_periods(&all, &policy));
    }

    #[test]
    fn no_volume_loses_its_newest(all in any_snapshots(), policy in any_policy()) {
        prop_assume!(!policy.is_empty());
        let kept = decided(&all, &policy);
        for volume in ["0", "1"] {
            let of = |s: &&Summary| s.volume == volume && !s.partial && !s.forgotten && s.time <= now();
            if let Some(newest) = all.iter().filter(of).max_by_key(|s| (s.time, s.id)) {
                prop_assert!(kept.contains(&newest.id));
            }
        }
    }

    #[test]
    fn running_it_again_drops_nothing_more(all in any_snapshots(), policy in any_policy()) {
        let kept = decided(&all, &policy);
        let left: Vec<_> = all.into_iter().filter(|s| kept.contains(&s.id)).collect();
        prop_assert_eq!(decided(&left, &policy), kept);
    }

    #[test]
    fn a_wider_policy_keeps_all_that_a_narrower_one_does(all in any_snapshots(), policy in any_policy(), more in any_policy()) {
        let wider = Policy {
            last: policy.last + more.last,
            hourly: policy.hourly + more.hourly,
            daily: policy.daily + more.daily,
            weekly: policy.weekly + more.weekly,
            monthly: policy.monthly + more.monthly,
            yearly: policy.yearly + more.yearly,
            within: policy.within.max(more.within),
        };
        prop_assert!(decided(&all, &policy).is_subset(&decided(&all, &wider)));
    }

    #[test]
    fn order_and_other_volumes_do_not_matter(all in any_snapshots(), policy in any_policy()) {
        let mut reversed = all.clone();
        reversed.reverse();
        prop_assert_eq!(decide(&reversed, &BTreeSet::new(), &policy, now(), &berlin()), decide(&all, &BTreeSet::new(), &policy, now(), &berlin()));
        let alone: Vec<_> = all.iter().filter(|s| s.volume == "0").cloned().collect();
        let kept = decided(&all, &policy);
        prop_assert!(decided(&alone, &policy).is_subset(&kept));
        prop_assert_eq!(decided(&alone, &policy).len(), kept.iter().filter(|id| alone.iter().any(|s| s.id == **id)).count());
    }
}

#[test]
fn a_pinned_one_stays_and_counts_as_any_other() {
    let mut all = snapshots(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
    all.push(Summary { partial: true, ..snapshot(3, "v", at("2025-12-31T00:00:00Z")) });
    all.push(Summary { partial: true, ..snapshot(4, "v", at("2025-12-30T00:00:00Z")) });
    let policy = Policy { last: 1, ..Policy::default() };
    let pins = [0, 2, 3].map(|n| SnapshotId::new([n; 16])).into();
    let decisions = decide(&all, &pins, &policy, at("2030-01-01T00:00:00Z"), &berlin());
    let found: Vec<_> = decisions.iter().map(|d| (d.id.bytes()[0], &d.reasons[..])).collect();
    use Reason::{Last, Pinned};
    assert_eq!(found, [(2, &[Last, Pinned][..]), (1, &[]), (0, &[Pinned]), (3, &[Pinned]), (4, &[])]);
    assert_eq!((decisions[1].dropped, decisions[4].dropped), (Dropped::Unmatched, Dropped::Partial));
    // One from the future too: its pin is one more reason.
    let decisions = decide(&all, &pins, &policy, at("2026-01-02T12:00:00Z"), &berlin());
    assert_eq!(decisions[0].reasons, [Reason::Future, Pinned]);
}

/// Made by a host whose clock lost its time: what was built upon the newest, or ended after it, is newer, whatever it says of when it began.
#[test]
fn no_policy_drops_what_was_made_last() {
    let policy = Policy { last: 2, ..Policy::default() };
    let mut all =
        snapshots(&["2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]);
    assert_eq!(kept(&all, &policy), [2, 3]);
    let (last, ended) = (all[3].id, at("2026-01-04T00:00:00Z"));
    all[0].made.parent = Some(last);
    assert_eq!(kept(&all, &policy), [0, 2, 3]);
    let decisions = decide(&all, &BTreeSet::new(), &policy, at("2027-01-01T00:00:00Z"), &berlin());
    let reasons = |n: u8| decisions.iter().find(|d| d.id == SnapshotId::new([n; 16])).unwrap().reasons.clone();
    assert_eq!((reasons(0), reasons(3)), (vec![Reason::Newest], vec![Reason::Last]));
    assert_eq!(Reason::Newest.to_string(), "newest");
    // Of those that a filter leaves, too: what it was built upon is not among them.
    let some = super::decide(&all, &all[..3], &BTreeSet::new(), &policy, ended, &berlin());
    assert_eq!(some.iter().filter(|d| d.keep()).count(), 3);
    // When there is a newer one by its time the rules hold again.
    let mut more = all.clone();
    more.push(snapshot(4, "v", ended));
    assert_eq!(kept(&more, &policy), [3, 4]);
    // One of a time to come is no measure, nor is one that says that it ended then.
    let mut future = all.clone();
    future[3].time = at("2040-01-01T00:00:00Z");
    assert_eq!(kept(&future, &policy), [1, 2, 3]);
    (all[0].made.parent, all[0].made.ended) = (None, ended);
    assert_eq!(kept(&all, &policy), [0, 2, 3]);
    // A copy ended when it was copied.
    for copied in [0, 3] {
        let mut copies = all.clone();
        copies[copied].copied = true;
        assert_eq!(kept(&copies, &policy).contains(&0), copied == 3, "compared with one that is no copy");
    }
    all[0].made.ended = at("2040-01-01T00:00:00Z");
    assert_eq!(kept(&all, &policy), [2, 3]);
}

/// Known to be damaged is as good as not there for what has to be left, and no reason to drop what there is of it.
#[test]
fn a_damaged_one_takes_no_place_and_loses_none() {
    let mut all = snapshots(&[
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
        "2026-01-03T00:00:00Z",
        "2026-01-04T00:00:00Z",
        "2026-01-05T00:00:00Z",
    ]);
    let decided = |all: &[Summary], last: u32| -> Vec<(u8, Vec<Reason>, Dropped)> {
        let policy = Policy { last, ..Policy::default() };
        let decisions = decide(all, &BTreeSet::new(), &policy, at("2030-01-01T00:00:00Z"), &berlin());
        decisions.into_iter().map(|d| (d.id.bytes()[0], d.reasons, d.dropped)).collect()
    };
    use Reason::{Damaged, Last};
    // Newer than each intact one: it stays, as a partial one does, and the newest intact one has the place.
    (all[2].damaged, all[3].damaged, all[4].damaged) = (true, true, true);
    let one = decided(&all, 1);
    let stays = |n: u8| (n, vec![Damaged], Dropped::Damaged);
    assert_eq!(one[..3], [stays(4), stays(3), stays(2)]);
    assert_eq!(one[3..], [(1, vec![Last], Dropped::Unmatched), (0, vec![], Dropped::Unmatched)]);
    // An intact one has come: they stay where they would have had a place, and it is no place of an intact one.
    all[4].damaged = false;
    let two = decided(&all, 2);
    assert_eq!(two[..3], [(4, vec![Last], Dropped::Unmatched), stays(3), (2, vec![], Dropped::Damaged)]);
    assert_eq!(two[3..], [(1, vec![Last], Dropped::Unmatched), (0, vec![], Dropped::Unmatched)]);
    assert_eq!((Damaged.to_string(), Dropped::Damaged.name()), ("damaged".to_owned(), "damaged"));
    // Partial as well: that comes first.
    (all[0].damaged, all[0].partial) = (true, true);
    assert_eq!(decided(&all, 9)[4], (0, vec![], Dropped::Partial));
    // What was made last is told by the intact ones, too.
    (all[3].damaged, all[3].made.ended, all[4].damaged) = (false, at("2026-01-04T00:00:00Z"), true);
    all[1].made.parent = Some(all[3].id);
    assert_eq!(decided(&all, 1)[3], (1, vec![Reason::Newest], Dropped::Unmatched));
}

/// Damaged ones that stay are nothing that is left of a volume.
#[test]
fn what_leaves_damaged_ones_alone_is_refused() {
    let mut all: Vec<_> = (0..20).map(|n| snapshot(n, "v", Timestamp(i64::from(n) * DAY * 1_000_000_000))).collect();
    // Nor is it more than half of all that there is.
    all.extend((20..80).map(|n| snapshot(n, "other", Timestamp(i64::from(n) * DAY * 1_000_000_000))));
    let policy = Policy { last: 3, within: Some(Duration::from_secs(59 * DAY as u64)), ..Policy::default() };
    let of_v = Policy { within: None, ..policy };
    let excess = |all: &[Summary]| {
        let mut decisions = decide(&all[20..], &BTreeSet::new(), &policy, Timestamp(i64::MAX), &berlin());
        decisions.extend(decide(&all[..20], &BTreeSet::new(), &of_v, Timestamp(i64::MAX), &berlin()));
        super::excess(&decisions)
    };
    assert_eq!(excess(&all), None);
    all[18].damaged = true;
    assert_eq!(excess(&all), None, "it is no longer one of three, and another one is");
    (0..17).for_each(|n| all[n].damaged = true);
    assert!(excess(&all).unwrap().contains("leave 2 whole ones"));
}

#[test]
fn many_that_stay_only_as_no_whole_one_is_newer_are_told() {
    let policy = Policy { last: 1, ..Policy::default() };
    let told = |partial: u8| {
        let mut all = vec![snapshot(0, "v", Timestamp(0)), snapshot(99, "other", Timestamp(99))];
        all.extend((1..=partial).map(|n| Summary { partial: true, ..snapshot(n, "v", Timestamp(n.into())) }));
        // Of this one there is another reason as well.
        let pins = BTreeSet::from([SnapshotId::new([1; 16])]);
        let decisions = decide(&all, &pins, &policy, Timestamp(100), &TimeZone::UTC);
        only_partial(&decisions).into_iter().map(|(volume, n)| (volume.to_owned(), n)).collect::<Vec<_>>()
    };
    assert_eq!(told(11), []);
    assert_eq!(told(12), [("v".to_owned(), 11)]);
}

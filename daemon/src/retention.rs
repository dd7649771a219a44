//! Which snapshots a policy keeps. Pure: a list, a policy, a moment and a time zone give a decision for each snapshot.
//!
//! Each volume stands alone. Only whole snapshots that are neither forgotten nor dated in the future count, and of which no
//! check has found that they are damaged. The newest of them is kept by every policy that keeps anything, so no volume ever
//! loses all it has.

use crate::cli::KeepFlags;
use crate::select::Summary;
use jiff::Zoned;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use wherry_repo::{Error, Result, SnapshotId, Timestamp};

/// What to keep of each volume. A count of 0 is as good as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of the last so many hours that have one; likewise the others.
    pub hourly: u32,
    /// Days of the time zone.
    pub daily: u32,
    /// Weeks, from Monday on.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// All that are not older than this, counted back from the newest that counts. Not from now: a volume whose
    /// backups have stopped keeps what it has.
    pub within: Option<Duration>,
}

impl From<KeepFlags> for Policy {
    fn from(flags: KeepFlags) -> Self {
        let KeepFlags { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, keep_within } =
            flags;
        Self {
            last: keep_last.unwrap_or(0),
            hourly: keep_hourly.unwrap_or(0),
            daily: keep_daily.unwrap_or(0),
            weekly: keep_weekly.unwrap_or(0),
            monthly: keep_monthly.unwrap_or(0),
            yearly: keep_yearly.unwrap_or(0),
            within: keep_within.map(|span| span.0),
        }
    }
}

impl Policy {
    /// Whether it keeps nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self { last, hourly, daily, weekly, monthly, yearly, within } = *self;
        within.is_none() && [last, hourly, daily, weekly, monthly, yearly].into_iter().all(|count| count == 0)
    }
}

/// Why a snapshot stays, or why it does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// One of the newest.
    Last,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// Not old enough.
    Within,
    /// Partial, but no whole one is newer.
    Partial,
    /// Damaged, but no intact one is newer; or a rule would keep it if it were intact: it has no other's place, and most of it
    /// may be there.
    Damaged,
    /// It was made after the one with the latest time, whatever its own says: some clock is or was wrong, and it may be the newest.
    Newest,
    /// Its time has not come: some clock is or was wrong, and no rule is to be trusted with it.
    Future,
    /// Somebody pinned it.
    Pinned,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within => "within",
            Self::Partial => "partial",
            Self::Damaged => "damaged",
            Self::Newest => "newest",
            Self::Future => "future",
            Self::Pinned => "pinned",
        })
    }
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its id.
    pub id: SnapshotId,
    /// Its volume.
    pub volume: String,
    /// Its time.
    pub time: Timestamp,
    /// Why it stays, in order and each once. Empty: it goes.
    pub reasons: Vec<Reason>,
    /// Why it goes, should it go.
    pub dropped: Dropped,
}

/// Why a snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It was named.
    Named,
    /// It is partial, and a whole one is newer.
    Partial,
    /// It is damaged, an intact one is newer, and no rule would keep it.
    Damaged,
    /// No rule keeps it.
    Unmatched,
}

impl Dropped {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Partial => "partial",
            Self::Damaged => "damaged",
            Self::Unmatched => "unmatched",
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "named",
            Self::Partial => "partial, and a whole one is newer",
            Self::Damaged => "damaged, and an intact one is newer",
            Self::Unmatched => "no rule keeps it",
        })
    }
}

impl Decision {
    /// Whether it stays.
    pub fn keep(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Those that were made after the one with the latest time of their volume, as what was built upon it or ended after it. Only whole ones
/// that are neither forgotten nor of a time to come are compared with: the others nobody would have built upon. Of the damaged ones that is
/// not known: the latest of all counts, and the latest intact one. Copies come in any order.
fn newest(all: &[Summary], now: Timestamp) -> BTreeSet<SnapshotId> {
    let past = || all.iter().filter(|s| !s.forgotten && !s.copied && s.time <= now && s.made.ended <= now);
    let latest = |counts: fn(&Summary) -> bool| {
        let mut latest: BTreeMap<&str, &Summary> = BTreeMap::new();
        for snapshot in past().filter(|s| counts(s)) {
            let entry = latest.entry(&snapshot.volume).or_insert(snapshot);
            if (entry.time, entry.id) < (snapshot.time, snapshot.id) {
                *entry = snapshot;
            }
        }
        latest
    };
    let latest = [latest(|s| !s.partial), latest(|s| !s.partial && !s.damaged)];
    let later = |s: &&Summary| {
        let mut latest = latest.iter().filter_map(|latest| latest.get(&*s.volume));
        latest.any(|l| s.time < l.time && s.made.is_later(&l.made))
    };
    past().filter(later).map(|s| s.id).collect()
}

/// Decides on each of `snapshots` that is not forgotten already; by volume, the newest first. Those in `pins` stay; for the
/// rules they count as any other. `all`: what there is of their volumes besides.
pub fn decide(
    all: &[Summary],
    snapshots: &[Summary],
    pins: &BTreeSet<SnapshotId>,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision> {
    let newest = newest(all, now);
    let mut volumes: BTreeMap<&str, Vec<&Summary>> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|s| !s.forgotten) {
        volumes.entry(&snapshot.volume).or_default().push(snapshot);
    }
    let mut decisions = Vec::new();
    for mut volume in volumes.into_values() {
        volume.sort_by_key(|s| std::cmp::Reverse((s.time, s.id)));
        decisions.extend(decide_volume(&volume, &newest, pins, policy, now, zone));
    }
    decisions
}

/// One volume, the newest first.
fn decide_volume(
    volume: &[&Summary],
    made_last: &BTreeSet<SnapshotId>,
    pins: &BTreeSet<SnapshotId>,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision> {
    let counts = |s: &Summary| !s.partial && !s.damaged && s.time <= now;
    let newest = volume.iter().find(|s| counts(s)).map(|s| s.time);
    let since = match (newest, policy.within) {
        (Some(newest), Some(within)) => {
            Some(newest.0.saturating_sub(i64::try_from(within.as_nanos()).unwrap_or(i64::MAX)))
        }
        _ => None,
    };
    // By the first ones a damaged snapshot takes no place from an intact one, by the second ones it stays where it would have had one.
    let (mut intact, mut all) = (rules(policy), rules(policy));
    let decision = |snapshot: &&Summary| {
        let mut reasons = Vec::new();
        if snapshot.time > now {
            reasons.push(Reason::Future);
        } else {
            let (is_newer, local) = (newest.is_none_or(|newest| snapshot.time > newest), local(snapshot.time, zone));
            if counts(snapshot) {
                reasons.extend(kept(&mut intact, &local));
            }
            let has_place = !snapshot.partial && kept(&mut all, &local).count() > 0;
            if since.is_some_and(|since| snapshot.time.0 >= since) {
                reasons.push(Reason::Within);
            }
            if snapshot.partial && is_newer {
                reasons.push(Reason::Partial);
            }
            if snapshot.damaged && !snapshot.partial && (is_newer || has_place) {
                reasons.push(Reason::Damaged);
            }
            if made_last.contains(&snapshot.id) {
                reasons.push(Reason::Newest);
            }
        }
        if pins.contains(&snapshot.id) {
            reasons.push(Reason::Pinned);
        }
        let dropped = match snapshot {
            Summary { partial: true, .. } => Dropped::Partial,
            Summary { damaged: true, .. } => Dropped::Damaged,
            _ => Dropped::Unmatched,
        };
        Decision { id: snapshot.id, volume: snapshot.volume.clone(), time: snapshot.time, reasons, dropped }
    };
    volume.iter().map(decision).collect()
}

fn local(time: Timestamp, zone: &TimeZone) -> Zoned {
    // 64 bits of nanoseconds are within what jiff can show.
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default().to_zoned(zone.clone())
}

/// Names a period of time: two snapshots are of one period when the numbers are equal.
type Period = (i64, i64, i64);

/// A rule that keeps the newest of each of the last so many periods. It is shown the snapshots from new to old.
struct Rule {
    reason: Reason,
    left: u32,
    period: fn(&Zoned) -> Period,
    last: Option<Period>,
}

impl Rule {
    fn keeps(&mut self, time: &Zoned) -> bool {
        let period = (self.period)(time);
        let fresh = self.reason == Reason::Last || self.last != Some(period);
        if self.left == 0 || !fresh {
            return false;
        }
        self.left -= 1;
        self.last = Some(period);
        true
    }
}

/// The reasons of the rules that keep a snapshot of this time.
fn kept(rules: &mut [Rule], time: &Zoned) -> impl Iterator<Item = Reason> {
    rules.iter_mut().filter_map(|rule| rule.keeps(time).then_some(rule.reason))
}

fn rules(policy: &Policy) -> [Rule; 6] {
    let Policy { last, hourly, daily, weekly, monthly, yearly, within: _ } = *policy;
    let rule = |reason, left, period| Rule { reason, left, period, last: None };
    [
        rule(Reason::Last, last, |_| (0, 0, 0)),
        // The hour that is there twice when summer time ends is two hours: their offsets differ.
        rule(Reason::Hourly, hourly, |t| (day(t), t.hour().into(), t.offset().seconds().into())),
        rule(Reason::Daily, daily, |t| (day(t), 0, 0)),
        rule(Reason::Weekly, weekly, |t| {
            let week = t.date().iso_week_date();
            (week.year().into(), week.week().into(), 0)
        }),
        rule(Reason::Monthly, monthly, |t| (t.year().into(), t.month().into(), 0)),
        rule(Reason::Yearly, yearly, |t| (t.year().into(), 0, 0)),
    ]
}

fn day(time: &Zoned) -> i64 {
    i64::from(time.year()) * 1000 + i64::from(time.day_of_year())
}

/// Of a volume so many partial snapshots stay without a word.
const PARTIAL: usize = 10;

/// Volumes of which many snapshots stay for no other reason than that no whole one is newer, and how many: no policy ever drops one.
pub fn only_partial(decisions: &[Decision]) -> BTreeMap<&str, usize> {
    let mut volumes = BTreeMap::new();
    for decision in decisions.iter().filter(|d| d.reasons == [Reason::Partial]) {
        *volumes.entry(decision.volume.as_str()).or_default() += 1;
    }
    volumes.retain(|_, n| *n > PARTIAL);
    volumes
}

/// So many snapshots a policy may always drop in one run.
const HARMLESS: usize = 10;
/// A volume that is left with fewer whole snapshots has lost nearly everything.
const FEW: usize = 3;
/// Nanoseconds that the snapshots of a volume must be apart for that: a new one that is backed up each hour has few days yet.
const YOUNG: i64 = 3 * 86_400 * 1_000_000_000;

/// What becomes of the snapshots of a volume.
#[derive(Default)]
struct Fate {
    dropped: usize,
    all: usize,
    /// Those that stay and of which more is known than that they are partial, damaged, or of a time to come.
    whole: usize,
    times: Vec<Timestamp>,
}

impl Fate {
    fn loses_nearly_all(&self) -> bool {
        let span =
            self.times.iter().max().map_or(0, |t| t.0).saturating_sub(self.times.iter().min().map_or(0, |t| t.0));
        is_much(self.dropped, self.all) && self.whole < FEW && span >= YOUNG
    }
}

fn is_much(dropped: usize, all: usize) -> bool {
    dropped > HARMLESS && dropped * 2 > all
}

/// Refuses decisions that drop more than is believed of a policy in one run.
pub fn guard(decisions: &[Decision]) -> Result<()> {
    excess(decisions).map_or(Ok(()), |what| {
        let text = format!(
            "this would forget {what}; nothing was changed: look at it with --dry-run, and add --force if it is right"
        );
        Err(Error::invalid(text))
    })
}

/// What decisions of one run would drop, where that is more than `HARMLESS` snapshots and more than half of all that were
/// considered, or of one volume and leaves fewer than `FEW` of it: a policy or a clock may be wrong, also for one volume among many.
pub fn excess(decisions: &[Decision]) -> Option<String> {
    let mut volumes: BTreeMap<&str, Fate> = BTreeMap::new();
    for decision in decisions {
        let fate = volumes.entry(&decision.volume).or_default();
        let is_lacking = matches!(decision.dropped, Dropped::Partial | Dropped::Damaged);
        let is_whole = !is_lacking && !decision.reasons.contains(&Reason::Future);
        fate.all += 1;
        fate.dropped += usize::from(!decision.keep());
        fate.whole += usize::from(decision.keep() && is_whole);
        fate.times.push(decision.time);
    }
    let dropped = volumes.values().map(|fate| fate.dropped).sum();
    let all = decisions.len();
    if is_much(dropped, all) {
        return Some(format!("{dropped} of the {all} snapshots it is about, more than {HARMLESS} and more than half"));
    }
    let (volume, fate) = volumes.iter().find(|(_, fate)| fate.loses_nearly_all())?;
    Some(format!(
        "{} of the {} snapshots of volume {volume:?}, more than {HARMLESS} and more than half, and leave {} whole ones",
        fate.dropped, fate.all, fate.whole
    ))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

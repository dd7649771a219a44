//! Which snapshots a policy keeps. Pure: a list, a policy, a moment and a time zone give a decision for each snapshot.
//!
//! Each volume stands alone. Only whole snapshots that are neither forgotten nor dated in the future count. The newest
//! of them is kept by every policy that keeps anything, so no volume ever loses all it has.

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
    /// No rule keeps it.
    Unmatched,
}

impl Dropped {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Partial => "partial",
            Self::Unmatched => "unmatched",
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "named",
            Self::Partial => "partial, and a whole one is newer",
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

/// Decides on each snapshot that is not forgotten already; by volume, the newest first. Those in `pins` stay; for the
/// rules they count as any other.
pub fn decide(
    snapshots: &[Summary],
    pins: &BTreeSet<SnapshotId>,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision> {
    let mut volumes: BTreeMap<&str, Vec<&Summary>> = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|s| !s.forgotten) {
        volumes.entry(&snapshot.volume).or_default().push(snapshot);
    }
    let mut decisions = Vec::new();
    for mut volume in volumes.into_values() {
        volume.sort_by_key(|s| std::cmp::Reverse((s.time, s.id)));
        decisions.extend(decide_volume(&volume, pins, policy, now, zone));
    }
    decisions
}

/// One volume, the newest first.
fn decide_volume(
    volume: &[&Summary],
    pins: &BTreeSet<SnapshotId>,
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Decision> {
    let counts = |s: &Summary| !s.partial && s.time <= now;
    let newest = volume.iter().find(|s| counts(s)).map(|s| s.time);
    let since = match (newest, policy.within) {
        (Some(newest), Some(within)) => {
            Some(newest.0.saturating_sub(i64::try_from(within.as_nanos()).unwrap_or(i64::MAX)))
        }
        _ => None,
    };
    let mut rules = rules(policy);
    let decision = |snapshot: &&Summary| {
        let mut reasons = Vec::new();
        if snapshot.time > now {
            reasons.push(Reason::Future);
        } else {
            if counts(snapshot) {
                let local = local(snapshot.time, zone);
                reasons.extend(rules.iter_mut().filter_map(|rule| rule.keeps(&local).then_some(rule.reason)));
            }
            if since.is_some_and(|since| snapshot.time.0 >= since) {
                reasons.push(Reason::Within);
            }
            if snapshot.partial && newest.is_none_or(|newest| snapshot.time > newest) {
                reasons.push(Reason::Partial);
            }
        }
        if pins.contains(&snapshot.id) {
            reasons.push(Reason::Pinned);
        }
        let dropped = if snapshot.partial { Dropped::Partial } else { Dropped::Unmatched };
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

/// So many snapshots a policy may always drop in one run.
const HARMLESS: usize = 10;
/// A volume that is left with fewer has lost nearly everything. What a policy leaves with more passes, however much goes: an hourly
/// volume under `--keep-daily` loses most of what it has each night.
const FEW: usize = 3;

/// Refuses decisions of one run by which a volume would be left with fewer than `FEW` snapshots and lose more than `HARMLESS` and
/// more than half, or all such volumes together: a policy or a clock may be wrong, also for one volume among many.
pub fn guard(decisions: &[Decision]) -> Result<()> {
    let mut volumes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for decision in decisions {
        let (dropped, all) = volumes.entry(&decision.volume).or_default();
        *dropped += usize::from(!decision.keep());
        *all += 1;
    }
    volumes.retain(|_, (dropped, all)| *dropped > 0 && *all - *dropped < FEW);
    let sum = volumes.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    let is_much = |(dropped, all): (usize, usize)| dropped > HARMLESS && dropped * 2 > all;
    let (what, (dropped, all)) = match volumes.iter().find(|(_, of)| is_much(**of)) {
        Some((volume, of)) => (format!("of volume {volume:?}"), *of),
        None if is_much(sum) => (format!("of {} volumes", volumes.len()), sum),
        None => return Ok(()),
    };
    Err(Error::invalid(format!(
        "this would forget {dropped} of the {all} snapshots {what}, more than {HARMLESS} and more than half, and leave fewer than \
         {FEW} of a volume; nothing was changed: look at it with --dry-run, and add --force if it is right"
    )))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;

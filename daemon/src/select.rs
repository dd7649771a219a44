//! Which snapshot a word on the command line means. Pure: it works on a list.

use crate::cli::Filter;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use wherry_repo::{Error, ErrorKind, Made, Result, SnapshotId, SnapshotList, Timestamp, storage};

/// What choosing among snapshots needs to know of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: SnapshotId,
    /// The name of its volume.
    pub volume: String,
    /// When it was taken.
    pub time: Timestamp,
    /// What else says when it was made.
    pub made: Made,
    /// A copy: it was begun when what it is a copy of was, and ended when it was copied.
    pub copied: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Some of the data could not be read: never `latest`, never a parent.
    pub partial: bool,
    /// Somebody asked to forget it and has not taken that back: found by id alone.
    pub forgotten: bool,
    /// The last check that looked found damage that hits it. Only who asks the notes of checks knows.
    pub damaged: bool,
}

impl Summary {
    /// From old to new; snapshots of one moment have an order too.
    fn age(&self) -> (Timestamp, SnapshotId) {
        (self.time, self.id)
    }
}

/// A snapshot as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapSpec {
    /// The one with this id.
    Id(SnapshotId),
    /// The only one whose id begins with these 4 to 31 lower-case hex digits.
    Prefix(String),
    /// The newest of the only volume.
    Latest,
    /// The newest of this volume.
    LatestOf(String),
}

/// What there is to choose from.
pub fn summaries(list: &SnapshotList) -> Vec<Summary> {
    let summary = |s: &wherry_repo::Snapshot| Summary {
        id: s.id,
        volume: s.record.name.clone(),
        time: s.record.started,
        made: s.made(),
        copied: s.record.origin.is_some(),
        tags: s.record.tags.clone(),
        partial: s.record.partial,
        forgotten: !list.is_visible(&s.id),
        damaged: false,
    };
    list.snapshots.iter().map(summary).collect()
}

impl FromStr for SnapSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(volume) = text.strip_prefix("latest:") {
            return match volume {
                "" => Err("latest: lacks the name of a volume: write latest:NAME".to_owned()),
                name => Ok(Self::LatestOf(name.to_owned())),
            };
        }
        let hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            32 if hex => text.to_ascii_lowercase().parse().map(Self::Id).map_err(|e: Error| e.to_string()),
            4..=31 if hex => Ok(Self::Prefix(text.to_ascii_lowercase())),
            0..=3 if hex => Err(format!("{text:?} is too short for a snapshot: write at least 4 digits of its id")),
            _ => Err(format!(
                "{text:?} is not a snapshot: write its id, the first 4 or more digits of it, latest, or latest:NAME"
            )),
        }
    }
}

impl fmt::Display for SnapSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Prefix(prefix) => f.write_str(prefix),
            Self::Latest => f.write_str("latest"),
            Self::LatestOf(volume) => write!(f, "latest:{volume}"),
        }
    }
}

impl SnapSpec {
    /// Whether it names the snapshot with this id, in hex, by the id itself.
    pub fn names(&self, id: &str) -> bool {
        match self {
            Self::Id(whole) => id == whole.to_string(),
            Self::Prefix(prefix) => id.starts_with(prefix),
            Self::Latest | Self::LatestOf(_) => false,
        }
    }

    /// Whether it is a word for the newest.
    pub fn is_latest(&self) -> bool {
        matches!(self, Self::Latest | Self::LatestOf(_))
    }

    /// The id, when it names the snapshot by all of it and its record cannot be read: then that is all there is to be said of it.
    pub fn damaged(&self, list: &SnapshotList) -> Option<SnapshotId> {
        let Self::Id(id) = self else { return None };
        let is_it = |key| storage::keys::parse_snap(key).is_some_and(|(_, found)| found == *id);
        list.damaged.iter().any(|(key, _)| is_it(key)).then_some(*id)
    }

    /// The one snapshot that is meant. Errors: [`ErrorKind::NoSnapshot`]; [`ErrorKind::Invalid`] when several could be
    /// meant.
    pub fn resolve<'a>(&self, snapshots: &'a [Summary]) -> Result<&'a Summary> {
        let none = |why: String| Error::new(ErrorKind::NoSnapshot, why);
        match self {
            Self::Id(id) => {
                snapshots.iter().find(|s| s.id == *id).ok_or_else(|| none(format!("there is no snapshot {id}")))
            }
            Self::Prefix(prefix) => {
                let mut found = snapshots.iter().filter(|s| s.id.to_string().starts_with(prefix));
                let Some(first) = found.next() else {
                    return Err(none(format!("there is no snapshot whose id begins with {prefix}")));
                };
                let others: Vec<_> = found.map(|s| s.id.to_string()).collect();
                if others.is_empty() {
                    return Ok(first);
                }
                let ids = shortened(std::iter::once(first.id.to_string()).chain(others));
                Err(Error::invalid(format!("{prefix} is the beginning of several ids ({ids}); write more digits")))
            }
            Self::Latest => {
                let volumes = volumes(snapshots);
                if volumes.len() > 1 {
                    // All of them: what is wanted is one of these.
                    let named = |volume: &str| match volume.contains(char::is_whitespace) {
                        true => format!("{:?}", format!("latest:{volume}")),
                        false => format!("latest:{volume}"),
                    };
                    let names = volumes.into_iter().map(named).collect::<Vec<_>>().join(", ");
                    return Err(Error::invalid(format!("latest could be of several volumes; write one of {names}")));
                }
                newest(snapshots.iter()).ok_or_else(|| match snapshots.iter().any(is_partial) {
                    true => none(format!("there is no whole snapshot; {}", only_partial(snapshots.iter()))),
                    false => none(only_partial(snapshots.iter())),
                })
            }
            Self::LatestOf(volume) => newest(snapshots.iter().filter(|s| s.volume == *volume)).ok_or_else(|| {
                let of_it = || snapshots.iter().filter(|s| s.volume == *volume);
                let hint = match shortened(volumes(snapshots).into_iter()) {
                    names if names.is_empty() || of_it().any(is_partial) => only_partial(of_it()),
                    names => format!("the volumes are {names}"),
                };
                none(format!("there is no whole snapshot of volume {volume:?}; {hint}"))
            }),
        }
    }
}

impl Filter {
    /// Whether a snapshot is one of those meant.
    pub fn admits(&self, snapshot: &Summary) -> bool {
        let Self { name, tags } = self;
        name.as_ref().is_none_or(|name| name.as_str() == snapshot.volume)
            && tags.iter().all(|tag| snapshot.tags.get(&tag.key) == Some(&tag.value))
    }

    /// Warns when it was given and admits none of the repository's snapshots, of which these are left: a name that was mistyped
    /// must not look like work that is done.
    pub fn warn_of_nothing(&self, admitted: &[Summary], list: &SnapshotList) {
        let Self { name, tags } = self;
        if !admitted.is_empty() || name.is_none() && tags.is_empty() {
            return;
        }
        let of = name.as_ref().map_or_else(String::new, |name| format!(" of volume {:?}", name.as_str()));
        let with: String = tags.iter().map(|tag| format!(" with tag {}={}", tag.key, tag.value)).collect();
        let hint = match shortened(volumes(&summaries(list)).into_iter()) {
            names if names.is_empty() => "there is none at all".to_owned(),
            names => format!("the volumes are {names}"),
        };
        tracing::warn!("there is no snapshot{of}{with}, so nothing is done; {hint}");
    }
}

/// What `latest` and a parent may be: whole, and not forgotten.
fn eligible(snapshot: &&Summary) -> bool {
    !snapshot.partial && !snapshot.forgotten
}

fn is_partial(snapshot: &Summary) -> bool {
    snapshot.partial && !snapshot.forgotten
}

/// What there is where none may be `latest`.
fn only_partial<'a>(snapshots: impl Iterator<Item = &'a Summary>) -> String {
    match snapshots.filter(|s| is_partial(s)).max_by_key(|s| s.age()) {
        Some(newest) => {
            format!("there are only partial ones, which have to be named by their ids; the newest is {}", newest.id)
        }
        None => "there is no snapshot yet".to_owned(),
    }
}

/// The one with the latest time of those that may be `latest`.
pub fn newest<'a>(snapshots: impl Iterator<Item = &'a Summary>) -> Option<&'a Summary> {
    snapshots.filter(eligible).max_by_key(|s| s.age())
}

/// Another one of its volume that may be newer than the one with the latest time: any other that it was not built upon where that time has not come, and what was
/// built upon it. Clocks are wrong, or were. What ended after it is none: two may run at once, and the one that began last is the newest. `None`: it is.
pub fn rival<'a>(snapshots: &'a [Summary], latest: &Summary, now: Timestamp) -> Option<&'a Summary> {
    let others = || snapshots.iter().filter(eligible).filter(|s| s.volume == latest.volume && s.id != latest.id);
    if latest.time > now {
        // A clock that is ahead by a little, or by a lot, changes nothing about what came before.
        let before = before(snapshots, latest);
        return others().filter(|s| !before.contains(&s.id)).max_by_key(|s| (s.time <= now, s.age()));
    }
    // Copies come in any order.
    let after = after(snapshots, latest.id);
    others().filter(|s| !s.copied && !latest.copied && after.contains(&s.id)).max_by_key(|s| s.age())
}

/// What a snapshot was built upon, and what that was, and so on, as far as it is there.
fn before(snapshots: &[Summary], of: &Summary) -> BTreeSet<SnapshotId> {
    let mut before = BTreeSet::new();
    let mut next = of.made.parent;
    while let Some(id) = next.filter(|id| before.insert(*id)) {
        next = snapshots.iter().find(|s| s.id == id).and_then(|s| s.made.parent);
    }
    before
}

/// What was built upon a snapshot, and upon that, and so on.
fn after(snapshots: &[Summary], id: SnapshotId) -> BTreeSet<SnapshotId> {
    let mut after = BTreeSet::from([id]);
    let mut known = 0;
    // Mostly nothing was: one round.
    while known < after.len() {
        known = after.len();
        let is_new = |s: &&Summary| s.made.parent.is_some_and(|parent| after.contains(&parent));
        let found: Vec<_> = snapshots.iter().filter(is_new).map(|s| s.id).collect();
        after.extend(found);
    }
    after
}

fn volumes(snapshots: &[Summary]) -> BTreeSet<&str> {
    snapshots.iter().filter(eligible).map(|s| s.volume.as_str()).collect()
}

/// How many digits tell these ids apart; at least 8.
pub fn unique_digits(ids: impl Iterator<Item = SnapshotId>) -> usize {
    let mut ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    let common = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    ids.windows(2).map(common).max().map_or(8, |longest| (longest + 1).max(8))
}

/// The first ten, separated by commas.
fn shortened<T: fmt::Display>(mut all: impl Iterator<Item = T>) -> String {
    let mut text: Vec<String> = all.by_ref().take(10).map(|x| x.to_string()).collect();
    match all.count() {
        0 => {}
        more => text.push(format!("and {more} more")),
    }
    text.join(", ")
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;

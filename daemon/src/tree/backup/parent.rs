//! What the parent has: read beside the walk, in the same order, and the rule that says whether a file is the one it was.

use crate::tree::inode::Inode;
use std::collections::BTreeMap;
use std::time::Duration;
use wherry_api::labels;
use wherry_repo::format::tree::{Below, Content, Entry, Known, Time, What};
use wherry_repo::{Entries, ErrorKind, Result, ShortId, Timestamp, TreeReader};

/// The names that the parent has in one directory, as the walk comes to them.
#[derive(Debug)]
pub(super) struct Beside<'a> {
    entries: Option<Entries<'a>>,
    next: Option<Entry>,
    margin: Duration,
}

impl<'a> Beside<'a> {
    /// Of a directory that the parent has; or not.
    pub(super) fn new(reader: Option<&'a TreeReader>, below: Option<&Below>, margin: Duration) -> Result<Self> {
        let entries = reader.zip(below).map(|(reader, below)| reader.list(below, 0)).transpose();
        Ok(Self { entries: bearable(entries)?.flatten(), next: None, margin })
    }

    /// ctimes in this directory that are nearer than this to the parent's start say nothing.
    pub(super) fn margin(&self) -> Duration {
        self.margin
    }

    /// What the parent has under a name. Names have to ascend. A list that is damaged has no further names.
    pub(super) fn find(&mut self, name: &[u8]) -> Result<Option<Known>> {
        loop {
            match &self.next {
                Some(entry) if entry.name() > name => return Ok(None),
                Some(entry) if entry.name() == name => {
                    return Ok(match self.next.take() {
                        Some(Entry::Known(known)) => Some(*known),
                        _ => None,
                    });
                }
                _ => {}
            }
            let Some(entries) = &mut self.entries else { return Ok(None) };
            self.next = bearable(entries.next().transpose())?.flatten().map(|(_, entry)| entry);
            if self.next.is_none() {
                self.entries = None;
            }
        }
    }
}

/// `None` for what is damaged: there the parent is not built upon.
fn bearable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            tracing::warn!("a part of the parent's tree cannot be read and is not built upon: {e}");
            Ok(None)
        }
        Err(e) => Err(e.context("the parent's tree").advise("--parent none does without it")),
    }
}

/// Of a storage snapshot a ctime must be so much older than that, in nanoseconds. Not every driver freezes the filesystem:
/// a ctime may have been in it while the data was still on its way, half a minute as a rule, and clocks of nodes and
/// storage differ. Likewise where the volume was read while it was in use: a page that is written through a mapping may follow
/// its ctime by as long.
const SETTLED: i64 = 600 * 1_000_000_000;

/// The time before which all that a snapshot with these tags says of a file was so: when it began to read, some time before
/// that where it was in use meanwhile, or, of what was read from a storage snapshot, some time before that was taken. `None`: nobody knows, so nothing is built upon.
pub(super) fn as_of(started: Timestamp, tags: &BTreeMap<String, String>) -> Option<Timestamp> {
    if !tags.contains_key(labels::SNAPSHOT_HANDLE) {
        let live = tags.get(labels::CONSISTENCY).is_some_and(|is| is == labels::LIVE);
        return started.0.checked_sub(if live { SETTLED } else { 0 }).map(Timestamp);
    }
    let taken: wherry_api::Time = tags.get(labels::SNAPSHOT_TIME)?.parse().ok()?;
    let taken = taken.0.checked_mul(1_000_000_000)?.checked_sub(SETTLED)?;
    Some(started.min(Timestamp(taken)))
}

/// When a file is taken over unread.
#[derive(Debug)]
pub(super) struct Rule {
    /// As of when the parent is: see [`as_of`] (nanoseconds since 1970).
    started: i128,
    ignore_inode: bool,
    /// Shared chunks whose files are stored anew, ascending.
    thin: Vec<ShortId>,
}

impl Rule {
    /// For a parent that is as of `started`.
    pub(super) fn new(started: Timestamp, ignore_inode: bool, mut thin: Vec<ShortId>) -> Self {
        thin.sort_unstable();
        Self { started: i128::from(started.0), ignore_inode, thin }
    }

    /// A ctime from here on says nothing: the file may have changed after that.
    fn before(&self, margin: Duration) -> Time {
        let nanoseconds = self.started - i128::try_from(margin.as_nanos()).unwrap_or(i128::MAX);
        let seconds = i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or(i64::MIN);
        Time { seconds, nanoseconds: nanoseconds.rem_euclid(1_000_000_000) as u32 }
    }

    /// True when the file, which has this number in the tree, is the one that the parent has. `margin` is that of the filesystem
    /// it is on: with all filesystems a tree has several.
    pub(super) fn is_same(&self, seen: &Inode, number: u64, theirs: &Known, margin: Duration) -> bool {
        let What::File { size, content } = &theirs.what else { return false };
        let thin = match content {
            Content::Shared { chunk, .. } => self.thin.binary_search(&chunk.to.id).is_ok(),
            _ => false,
        };
        *size == seen.size
            && theirs.modified == seen.modified
            && theirs.changed == seen.changed
            && (self.ignore_inode || theirs.inode == number)
            && theirs.missing.is_none()
            && !theirs.unsettled
            && seen.changed < self.before(margin)
            && !thin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::inode::InodeKind;
    use std::sync::Arc;
    use wherry_repo::format::tree::{Attributes, Extended, InodeFlags, Set};

    fn file(changed: Time) -> (Inode, Known) {
        let (flags, modified) = (InodeFlags::default(), Time::default());
        let inode = Inode {
            kind: InodeKind::File,
            permissions: 0o644,
            owner: 0,
            group: 0,
            flags,
            extended: Set::default(),
            modified,
            changed,
            number: 7,
            links: 1,
            size: 5,
            allocated: 4096,
        };
        let attributes = Attributes {
            permissions: 0o644,
            owner: 0,
            group: 0,
            owner_name: Vec::new(),
            group_name: Vec::new(),
            flags,
            extended: Extended::None,
        };
        let known = Known {
            name: b"a".to_vec(),
            attributes: Arc::new(attributes),
            modified,
            changed,
            inode: 7,
            links: None,
            missing: None,
            unsettled: false,
            what: What::File { size: 5, content: Content::Nothing },
        };
        (inode, known)
    }

    #[test]
    fn a_ctime_near_to_the_parents_run_says_nothing_by_the_clock_that_wrote_it() {
        let rule = Rule::new(Timestamp(10_000_000_000_000), false, Vec::new());
        for (margin, seconds, nanoseconds, same) in [
            (2, 9997, 999_999_999, true),
            (2, 9998, 0, false),
            (2, 10_001, 0, false),
            (3600, 6399, 999_999_999, true),
            (3600, 6400, 0, false),
            (3600, 9997, 0, false),
        ] {
            let (seen, theirs) = file(Time { seconds, nanoseconds });
            let said = rule.is_same(&seen, seen.number, &theirs, Duration::from_secs(margin));
            assert_eq!(said, same, "{seconds} s, margin {margin} s");
        }
    }

    /// Read hours after it was taken, a storage snapshot says nothing of those hours, and little of the minutes before it.
    #[test]
    fn a_storage_snapshot_is_as_of_when_it_was_taken() {
        const SECOND: i64 = 1_000_000_000;
        let read = |tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            as_of(Timestamp(20_000 * SECOND), &tags).map(|at| at.0 / SECOND)
        };
        assert_eq!(read(&[]), Some(20_000));
        assert_eq!(read(&[(labels::SNAPSHOT_HANDLE, "h")]), None, "nobody knows when it was taken");
        assert_eq!(read(&[(labels::SNAPSHOT_HANDLE, "h"), (labels::SNAPSHOT_TIME, "soon")]), None);
        // In use while it was read.
        assert_eq!(read(&[(labels::CONSISTENCY, labels::LIVE)]), Some(20_000 - 600));
        assert_eq!(read(&[(labels::CONSISTENCY, "another")]), Some(20_000));
        let taken = |at: &str| read(&[(labels::SNAPSHOT_HANDLE, "h"), (labels::SNAPSHOT_TIME, at)]);
        assert_eq!(taken("1970-01-01T05:00:00Z"), Some(18_000 - 600));
        // By a clock that is ahead.
        assert_eq!(taken("2970-01-01T05:00:00Z"), None);
        assert_eq!(taken("2070-01-01T05:00:00Z"), Some(20_000));
    }
}

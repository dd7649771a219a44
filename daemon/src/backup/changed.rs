//! A list of changed blocks, as storage systems and hypervisors give it: what is not in it equals the parent.

use serde::Serialize;
use std::ops::Range;
use std::path::Path;
use wherry_repo::{Error, Result, SnapshotId, SnapshotWriter};

/// A list and the one snapshot it may be applied to. With any other one it would give wrong data.
#[derive(Clone, Debug)]
pub struct Pinned {
    list: ChangedBlocks,
    /// `Err`: there is none, for this reason.
    parent: Result<SnapshotId, String>,
}

/// What of a source holds data, as a storage system says it: the rest reads as zeros, or is nobody's data.
#[derive(Clone, Debug)]
pub struct Allocated {
    /// It.
    pub list: ChangedBlocks,
    /// Bytes of the source that it is about.
    pub size: u64,
}

impl Allocated {
    /// The list, if it is about a source of so many bytes; else why not.
    pub fn of(&self, size: u64) -> Result<ChangedBlocks, String> {
        if self.size == size {
            return Ok(self.list.clone());
        }
        Err(format!("what is allocated was told of {} bytes, and the source has {size}", self.size))
    }
}

/// What became of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListUse {
    /// False: everything was read.
    pub used: bool,
    /// Why it was not used.
    pub reason: Option<String>,
}

impl From<&Result<ChangedBlocks, String>> for ListUse {
    fn from(list: &Result<ChangedBlocks, String>) -> Self {
        Self { used: list.is_ok(), reason: list.as_ref().err().cloned() }
    }
}

impl Pinned {
    /// The list holds what changed since this snapshot.
    pub fn new(list: ChangedBlocks, parent: Result<SnapshotId, String>) -> Self {
        Self { list, parent }
    }

    /// The list, if it may be applied in this run; else why not. Runs count from 1: one that starts over may build on
    /// another snapshot, and has another look at a source that may have changed. `size` is that of the source in bytes.
    pub fn for_run(&self, run: usize, writer: &SnapshotWriter, size: u64) -> Result<ChangedBlocks, String> {
        let list = self.admit(run, writer.parent().map(|p| p.id), writer.can_inherit())?;
        // Where a disk shrank, the list may name what is gone.
        let end = writer.parent().map_or(size, |p| p.record.size.max(size));
        match list.beyond(end) {
            Some(Range { start, end: to }) => Err(format!(
                "it names {} bytes at {start}, and the disk ends at {size}: it is of another disk, or not in bytes",
                to - start
            )),
            None => Ok(list),
        }
    }

    fn admit(&self, run: usize, parent: Option<SnapshotId>, intact: bool) -> Result<ChangedBlocks, String> {
        let pinned = self.parent.clone()?;
        if run > 1 {
            return Err("the run was started over".to_owned());
        }
        if parent != Some(pinned) {
            let on = parent.map_or_else(|| "no snapshot".to_owned(), |id| id.to_string());
            return Err(format!("it belongs to snapshot {pinned}, and the run builds on {on}: snapshots came or went"));
        }
        if !intact {
            return Err(format!(
                "snapshot {pinned} cannot be built upon: its map is damaged, or its chunk size another"
            ));
        }
        Ok(self.list.clone())
    }
}

/// Ascending ranges of bytes that do not touch each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlocks(Vec<Range<u64>>);

impl ChangedBlocks {
    /// The list in a file, see [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("the list of changed blocks {name} cannot be read: {e}")))?;
        Self::parse(&name.to_string(), &text)
    }

    /// One range a line: offset and length in bytes, decimal; `#` begins a comment. `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut ranges = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bad =
                || Error::invalid(format!("{name}:{}: want an offset and a length in bytes, not {line:?}", n + 1));
            let mut words = line.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(offset)), Some(Ok(length)), None) = (words.next(), words.next(), words.next()) else {
                return Err(bad());
            };
            ranges.push(offset..offset.checked_add(length).ok_or_else(bad)?);
        }
        Ok(Self::new(ranges))
    }

    /// These ranges, in any order.
    pub(crate) fn new(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|r| !r.is_empty());
        ranges.sort_unstable_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// In whole chunks of `unit` bytes of a volume of `size` bytes. What the parent of `parent` bytes did not have, and its
    /// last chunk when it ended inside one, counts as changed.
    pub fn rounded(&self, unit: u64, size: u64, parent: u64) -> Self {
        let mut ranges: Vec<_> = self
            .0
            .iter()
            .map(|r| r.start / unit * unit..(r.end.div_ceil(unit).saturating_mul(unit)).min(size))
            .collect();
        if parent != size {
            ranges.push(parent.min(size) / unit * unit..size);
        }
        ranges.retain(|r| r.start < size);
        Self::new(ranges)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// The first range that begins where `size` bytes have ended: then the list is of another volume, or counts in other
    /// units. One that only ends there was rounded up.
    pub fn beyond(&self, size: u64) -> Option<Range<u64>> {
        self.0.iter().find(|r| r.start >= size).cloned()
    }

    /// What lies between them in a volume of `size` bytes.
    pub fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        Self::complement(self.0.iter().cloned(), size)
    }

    /// What lies between ascending ranges in a volume of `size` bytes.
    pub fn complement(ranges: impl Iterator<Item = Range<u64>> + Clone, size: u64) -> Vec<Range<u64>> {
        let starts = std::iter::once(0).chain(ranges.clone().map(|r| r.end));
        let ends = ranges.map(|r| r.start).chain(std::iter::once(size));
        starts.zip(ends).map(|(a, b)| a..b).filter(|r| r.start < r.end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_applied_to_its_snapshot_alone() {
        let [mine, other] = ["0a".repeat(16), "0b".repeat(16)].map(|id| id.parse::<SnapshotId>().unwrap());
        let list = ChangedBlocks::new(vec![1..2, 5..6]);
        let pinned = Pinned::new(list.clone(), Ok(mine));
        assert_eq!(pinned.admit(1, Some(mine), true), Ok(list.clone()));
        for (run, parent, intact, words) in [
            (2, Some(mine), true, "started over"),
            (1, Some(other), true, "0b0b"),
            (1, None, false, "no snapshot"),
            (1, Some(mine), false, "damaged"),
        ] {
            let why = pinned.admit(run, parent, intact).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        let unpinned = Pinned::new(list, Err("it is partial".into()));
        let refused = unpinned.admit(1, Some(mine), true);
        assert_eq!(ListUse::from(&refused), ListUse { used: false, reason: Some("it is partial".into()) });
    }

    #[test]
    fn ranges_are_sorted_merged_and_rounded_out() {
        let c = ChangedBlocks::new(vec![95..96, 30..30, 11..12, 12..25]);
        assert_eq!(c.ranges(), [11..25, 95..96]);
        let r = c.rounded(10, 98, 98);
        assert_eq!(r.ranges(), [10..30, 90..98]);
        assert_eq!(r.gaps(98), [0..10, 30..90]);
        assert_eq!(c.rounded(10, 118, 98).ranges(), [10..30, 90..118], "the volume grew");
        assert_eq!(c.rounded(10, 55, 98).ranges(), [10..30, 50..55], "it shrank");
    }

    #[test]
    fn a_range_that_begins_behind_the_end_is_found() {
        let c = ChangedBlocks::new(vec![11..25, 95..106]);
        assert_eq!(c.beyond(96), None, "it was rounded up");
        assert_eq!((c.beyond(95), c.beyond(5)), (Some(95..106), Some(11..25)));
    }
}

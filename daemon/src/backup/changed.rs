//! A list of changed blocks, as storage systems and hypervisors give it: what is not in it equals the parent.

use std::ops::Range;
use std::path::Path;
use wherry_repo::{Error, Result};

/// Ascending ranges of bytes that do not touch each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedBlocks(Vec<Range<u64>>);

impl ChangedBlocks {
    /// One range a line: offset and length in bytes, decimal; `#` begins a comment.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::invalid(format!("the list of changed blocks {name} cannot be read: {e}")))?;
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

    fn new(mut ranges: Vec<Range<u64>>) -> Self {
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

    /// What lies between them in a volume of `size` bytes.
    pub fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|r| r.end));
        let ends = self.0.iter().map(|r| r.start).chain(std::iter::once(size));
        starts.zip(ends).map(|(a, b)| a..b).filter(|r| !r.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! Up to where everything is decided. Reads end in any order; the map is written in ascending order.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that were handed out and not finished yet, in whole chunks.
#[derive(Debug)]
pub(super) struct Tracker {
    unit: u64,
    open: BTreeMap<u64, u64>,
    announced: u64,
    covered: u64,
    end: u64,
}

impl Tracker {
    pub(super) fn new(unit: u64) -> Self {
        Self { unit, open: BTreeMap::new(), announced: 0, covered: 0, end: 0 }
    }

    /// A range is going to be read; ranges ascend. The chunks it touches are open, but those an earlier range touched.
    pub(super) fn announce(&mut self, range: Range<u64>) {
        self.end = self.end.max(range.end);
        let start = (range.start / self.unit * self.unit).max(self.announced);
        let end = range.end.div_ceil(self.unit) * self.unit;
        if start < end {
            self.open.insert(start, end);
            self.announced = end;
            self.covered += end - start;
        }
    }

    /// A piece of it was read and its chunks were put. It begins with a chunk and ends with one, or with the volume.
    pub(super) fn complete(&mut self, piece: Range<u64>) {
        let (mut start, end) = (piece.start, piece.end.div_ceil(self.unit) * self.unit);
        // A piece may reach over ranges that touch each other.
        while start < end {
            let Some((from, to)) = self.open.range(..=start).next_back().map(|(a, b)| (*a, *b)) else { return };
            if to <= start {
                return;
            }
            self.open.remove(&from);
            if from < start {
                self.open.insert(from, start);
            }
            if end < to {
                self.open.insert(end, to);
            }
            start = to;
        }
    }

    /// Every chunk below this offset was put, or is not going to be.
    pub(super) fn decided(&self) -> u64 {
        self.open.first_key_value().map_or(self.announced, |(start, _)| *start)
    }

    /// Where the last announced range ends, to the byte: its last chunk may be a short one.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of all announced chunks that lie inside a volume of `size` bytes.
    pub(super) fn covered(&self, size: u64) -> u64 {
        self.covered - self.announced.saturating_sub(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decided_follows_the_lowest_open_chunk() {
        let mut t = Tracker::new(10);
        t.announce(5..25);
        t.announce(27..31);
        assert_eq!((t.decided(), t.end()), (0, 31));
        t.complete(10..30);
        assert_eq!(t.decided(), 0);
        t.complete(0..10);
        assert_eq!(t.decided(), 30);
        t.announce(90..95);
        t.complete(30..40);
        assert_eq!(t.decided(), 90);
        t.complete(90..95);
        assert_eq!((t.decided(), t.covered(95)), (100, 45));
    }

    #[test]
    fn a_range_in_a_chunk_that_was_announced_counts_once() {
        let mut t = Tracker::new(10);
        t.announce(0..3);
        t.announce(5..8);
        t.announce(9..12);
        assert_eq!(t.covered(20), 20);
        t.complete(0..20);
        assert_eq!(t.decided(), 20);
    }
}

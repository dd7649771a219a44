//! Cuts ranges into the reads to be made.

use std::iter::Peekable;
use std::ops::Range;

/// The units (of `unit` bytes, aligned) that the ranges touch, each once, ascending, in pieces of at most `limit` bytes
/// (a multiple of `unit`). Pieces begin at a multiple of `unit` and end at one or at `size`; units that lie side by side
/// share a piece. Ranges beyond `size` are cut.
pub(crate) struct Pieces<I: Iterator<Item = Range<u64>>> {
    ranges: Peekable<I>,
    unit: u64,
    limit: u64,
    size: u64,
    /// Rounded and not yet given out.
    current: Range<u64>,
    /// Where the last range ended, as given.
    last: u64,
}

/// The ranges were not ascending: this one begins before the end of the one before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disordered(pub(crate) Range<u64>);

impl<I: Iterator<Item = Range<u64>>> Pieces<I> {
    pub(crate) fn new(ranges: I, unit: u64, limit: u64, size: u64) -> Self {
        Self { ranges: ranges.peekable(), unit, limit, size, current: 0..0, last: 0 }
    }

    /// Whether the next range touches what is current; then the current one grows. Otherwise it is left for later.
    fn extend(&mut self) -> Result<bool, Disordered> {
        let Some(next) = self.ranges.peek().cloned() else { return Ok(false) };
        if next.is_empty() || next.start >= self.size {
            self.ranges.next();
            return Ok(true);
        }
        if next.start < self.last {
            return Err(Disordered(next));
        }
        let start = (next.start / self.unit * self.unit).max(self.current.end);
        let end = next.end.min(self.size).next_multiple_of(self.unit).min(self.size);
        if !self.current.is_empty() && start > self.current.end {
            return Ok(false);
        }
        self.ranges.next();
        self.last = next.end;
        if self.current.is_empty() {
            self.current = start..end.max(start);
        } else {
            self.current.end = end.max(start);
        }
        Ok(true)
    }
}

impl<I: Iterator<Item = Range<u64>>> Iterator for Pieces<I> {
    type Item = Result<Range<u64>, Disordered>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.current.end - self.current.start < self.limit {
            match self.extend() {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => return Some(Err(e)),
            }
        }
        if self.current.is_empty() {
            return None;
        }
        let end = (self.current.start + self.limit).min(self.current.end);
        let piece = self.current.start..end;
        // Its end stays known when it is used up, so no unit comes twice.
        self.current.start = end;
        Some(Ok(piece))
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn cut(ranges: &[Range<u64>], unit: u64, limit: u64, size: u64) -> Result<Vec<Range<u64>>, Disordered> {
        Pieces::new(ranges.iter().cloned(), unit, limit, size).collect()
    }

    #[test]
    fn rounds_to_units_merges_and_cuts() {
        assert_eq!(cut(&[0..100], 10, 40, 95).unwrap(), [0..40, 40..80, 80..95]);
        assert_eq!(cut(&[1..2, 3..4, 19..21, 30..31, 50..51], 10, 40, 100).unwrap(), [0..40, 50..60]);
        assert_eq!(cut(&[5..5, 12..13, 200..300], 10, 40, 95).unwrap(), [10..20]);
        assert_eq!(cut(&[0..40, 40..41], 10, 40, 95).unwrap(), [0..40, 40..50]);
        assert_eq!(cut(&[0..1, 0..2], 10, 40, 95), Err(Disordered(0..2)));
        assert_eq!(cut(&[], 10, 40, 95).unwrap(), []);
        assert_eq!(cut(&[0..7], 10, 40, 0).unwrap(), []);
    }

    proptest::proptest! {
        #[test]
        fn every_touched_unit_comes_exactly_once(
            steps in proptest::collection::vec((0u64..50, 0u64..50), 0..20), size in 0u64..900, limit in 1u64..5
        ) {
            let unit = 8;
            let mut at = 0;
            let ranges: Vec<_> = steps.iter().map(|(gap, len)| { let start = at + gap; at = start + len; start..at }).collect();
            let touched: Vec<u64> = (0..size.div_ceil(unit))
                .filter(|u| ranges.iter().any(|r| !r.is_empty() && r.start < ((u + 1) * unit).min(size) && r.end > u * unit))
                .collect();
            let mut got = Vec::new();
            for piece in cut(&ranges, unit, limit * unit, size).unwrap() {
                proptest::prop_assert!(piece.start % unit == 0 && piece.end - piece.start <= limit * unit);
                proptest::prop_assert!(piece.end % unit == 0 || piece.end == size);
                got.extend(piece.start / unit..piece.end.div_ceil(unit));
            }
            proptest::prop_assert_eq!(got, touched);
        }
    }
}

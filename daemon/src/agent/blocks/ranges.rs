//! An answer of the service, taken range by range: what is believed, and what makes all of it wrong.

use super::wire::Answer;
use crate::backup::ChangedBlocks;
use std::ops::Range;

/// Ranges are kept rounded out to so many bytes, as the smallest chunks have.
const GRAIN: u64 = 64 << 10;
/// So many ranges are kept (16 bytes each); of more, those that lie close together become one.
const MOST: usize = 1 << 18;

/// What has come of an answer, from one call or several.
#[derive(Debug)]
pub(super) struct Ranges {
    /// Of the device, in bytes.
    size: u64,
    /// A message has come, so the service knows the volume by its size.
    heard: bool,
    /// Where the last range ended: an answer that was cut goes on there.
    end: u64,
    /// No range has come since the call began.
    first: bool,
    grain: u64,
    kept: Vec<Range<u64>>,
}

impl Ranges {
    /// Nothing yet, of a device of so many bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { size, heard: false, end: 0, first: true, grain: GRAIN, kept: Vec::new() }
    }

    /// A call begins there.
    pub(super) fn begin(&mut self) -> u64 {
        self.first = true;
        self.end
    }

    /// Up to where the ranges reach.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether nothing can follow what has come.
    pub(super) fn is_full(&self) -> bool {
        self.heard && self.end == self.size
    }

    /// One message. An error says why nothing of the answer is to be believed.
    pub(super) fn take(&mut self, message: &Answer) -> Result<(), String> {
        let Self { size, .. } = *self;
        if u64::try_from(message.capacity) != Ok(size) {
            return Err(format!("it is about a volume of {} bytes, and the device has {size}", message.capacity));
        }
        self.heard = true;
        for block in &message.blocks {
            let range = u64::try_from(block.offset).ok().zip(u64::try_from(block.size).ok());
            let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
            let Some(range) = range.filter(|range| !range.is_empty()) else {
                return Err(format!("a range of {} bytes at {} is none", block.size, block.offset));
            };
            if range.end > size {
                return Err(format!("a range ends at {}, and the volume at {size}", range.end));
            }
            // What a call begins with may have begun before the place where it was asked to go on (KEP-3314, starting_offset).
            let follows = if self.first { range.end > self.end } else { range.start >= self.end };
            if !follows {
                let end = self.end;
                return Err(format!(
                    "a range from {} to {} comes after one that ends at {end}",
                    range.start, range.end
                ));
            }
            (self.first, self.end) = (false, range.end);
            self.keep(range);
        }
        Ok(())
    }

    /// All has come.
    pub(super) fn whole(self) -> Result<ChangedBlocks, String> {
        if self.heard {
            Ok(ChangedBlocks::new(self.kept))
        } else {
            Err("it says nothing, not even how large the volume is".into())
        }
    }

    fn keep(&mut self, range: Range<u64>) {
        push(&mut self.kept, self.grain, self.size, range);
        while self.kept.len() > MOST {
            self.grain *= 2;
            for range in std::mem::take(&mut self.kept) {
                push(&mut self.kept, self.grain, self.size, range);
            }
        }
    }
}

/// Adds a range, rounded out; with those that it touches it becomes one.
fn push(kept: &mut Vec<Range<u64>>, grain: u64, size: u64, range: Range<u64>) {
    let mut start = range.start / grain * grain;
    let mut end = range.end.div_ceil(grain).saturating_mul(grain).min(size);
    // More than the last one, where a call goes on with what began long before.
    while let Some(last) = kept.pop_if(|last| start <= last.end) {
        (start, end) = (start.min(last.start), end.max(last.end));
    }
    kept.push(start..end);
}

#[cfg(test)]
mod tests {
    use super::super::wire::Block;
    use super::*;

    const SIZE: u64 = 100 * GRAIN;

    fn message(capacity: u64, blocks: &[(i64, i64)]) -> Answer {
        let blocks = blocks.iter().map(|(offset, size)| Block { offset: *offset, size: *size }).collect();
        Answer { capacity: capacity as i64, blocks }
    }

    fn of(blocks: &[(i64, i64)]) -> Result<Vec<Range<u64>>, String> {
        let mut ranges = Ranges::new(SIZE);
        ranges.take(&message(SIZE, blocks))?;
        Ok(ranges.whole()?.ranges().to_vec())
    }

    #[test]
    fn ranges_are_rounded_out_and_joined() {
        let g = GRAIN as i64;
        assert_eq!(of(&[]), Ok(vec![]));
        assert_eq!(of(&[(5, 1), (g - 1, 1), (g, 1), (5 * g + 7, g)]), Ok(vec![0..2 * GRAIN, 5 * GRAIN..7 * GRAIN]));
        assert_eq!(of(&[(0, 100 * g)]), Ok(std::iter::once(0..SIZE).collect()));
    }

    #[test]
    fn what_breaks_a_rule_is_all_wrong() {
        let g = GRAIN as i64;
        for (blocks, words) in [
            (&[(2 * g, g), (0, g)][..], "comes after one that ends at"),
            (&[(0, 2 * g), (g, g)], "comes after one that ends at"),
            (&[(0, g), (0, g)], "comes after one that ends at"),
            (&[(99 * g, g + 1)], "the volume at"),
            (&[(100 * g, 1)], "the volume at"),
            (&[(g, 0)], "is none"),
            (&[(-1, 1)], "is none"),
            (&[(1, -1)], "is none"),
            (&[(i64::MAX, i64::MAX)], "the volume at"),
        ] {
            let why = of(blocks).unwrap_err();
            assert!(why.contains(words), "{blocks:?}: {why}");
        }
        for capacity in [0, SIZE - 1, SIZE + 1, u64::MAX] {
            let why = Ranges::new(SIZE).take(&message(capacity, &[])).unwrap_err();
            assert!(why.contains("the device has"), "{why}");
        }
        assert!(Ranges::new(SIZE).whole().unwrap_err().contains("says nothing"));
    }

    /// What follows a cut may begin with a range that began before it, however long before.
    #[test]
    fn an_answer_goes_on_where_it_was_cut() {
        let g = GRAIN as i64;
        let mut ranges = Ranges::new(SIZE);
        ranges.take(&message(SIZE, &[(g, g), (10 * g, g), (20 * g, g)])).unwrap();
        assert_eq!((ranges.begin(), ranges.is_full()), (21 * GRAIN, false));
        // One that ends before that place is no answer to the question.
        let why = ranges.take(&message(SIZE, &[(20 * g, g)])).unwrap_err();
        assert!(why.contains("comes after"), "{why}");
        ranges.take(&message(SIZE, &[(9 * g + 1, 20 * g)])).unwrap();
        assert!(ranges.take(&message(SIZE, &[(28 * g, 2 * g)])).is_err(), "only the first one may");
        ranges.take(&message(SIZE, &[(99 * g, g)])).unwrap();
        assert!(ranges.is_full());
        assert_eq!(ranges.whole().unwrap().ranges(), [GRAIN..2 * GRAIN, 9 * GRAIN..30 * GRAIN, 99 * GRAIN..SIZE]);
    }

    #[test]
    fn any_number_of_ranges_takes_bounded_memory() {
        let size = (MOST as u64 * 5) * GRAIN;
        let mut ranges = Ranges::new(size);
        let step = 2 * GRAIN as i64;
        for n in 0..(MOST as i64 * 5 / 2) {
            ranges.take(&message(size, &[(n * step + 3, 1)])).unwrap();
            assert!(ranges.kept.len() <= MOST);
        }
        let changed = ranges.whole().unwrap();
        let covers = |at: u64| changed.ranges().iter().any(|range| range.contains(&at));
        assert!(changed.ranges().len() <= MOST && covers(3) && covers(size - 2 * GRAIN + 3));
        let bytes: u64 = changed.ranges().iter().map(|range| range.end - range.start).sum();
        assert!(bytes <= size);
    }
}

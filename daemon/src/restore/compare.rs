//! What on a target differs from a snapshot: for `--delta`, for going on after an interruption, and for `--verify`.

use crate::progress::Progress;
use crate::signals::Cancel;
use anyhow::Result;
use parking_lot::Mutex;
use std::ops::Range;
use wherry_block::{BufferPool, ReadDone, Source};
use wherry_repo::SnapshotReader;

/// A set of chunks: one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    bits: Vec<u64>,
}

impl Chunks {
    fn new(count: u64) -> Self {
        Self { bits: vec![0; count.div_ceil(64) as usize] }
    }

    fn insert(&mut self, chunk: u64) {
        if let Some(word) = self.bits.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
        }
    }

    /// True when the chunk is in the set.
    pub fn contains(&self, chunk: u64) -> bool {
        self.bits.get((chunk / 64) as usize).is_some_and(|word| word & 1 << (chunk % 64) != 0)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Runs of chunks of the set in `from..to`.
    pub fn runs(&self, from: u64, to: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = from;
        std::iter::from_fn(move || {
            while at < to && !self.contains(at) {
                // A word without any is passed over whole.
                let empty = at.is_multiple_of(64) && self.bits.get((at / 64) as usize) == Some(&0);
                at += if empty { 64 } else { 1 };
            }
            let start = at.min(to);
            while at < to && self.contains(at) {
                at += 1;
            }
            (start < at.min(to)).then_some(start..at)
        })
    }
}

/// Reads the first bytes of `target`, as many as the snapshot has, past the page cache, and returns the chunks that are not
/// what the snapshot says.
pub fn compare(
    target: &Source,
    reader: &SnapshotReader,
    pool: &BufferPool,
    depth: usize,
    workers: usize,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Chunks> {
    let unit = reader.chunk_size();
    let size = reader.size().min(target.geometry().size);
    let differing = Mutex::new(Chunks::new(reader.chunk_count()));
    // What the target does not have differs. What it has not allocated is read too: it is zero, and must be compared.
    (size / unit..reader.chunk_count())
        .filter(|n| (n + 1) * unit > size && size < reader.size())
        .for_each(|n| differing.lock().insert(n));
    let results = target.read_all(std::iter::once(0..size), unit as usize, depth, pool)?;
    let work = || -> Result<()> {
        for done in results.receiver().clone() {
            cancel.check()?;
            let ReadDone { offset, buffer } = done?;
            for (n, chunk) in buffer[..].chunks(unit as usize).enumerate() {
                let number = offset / unit + n as u64;
                // The target may be longer than the snapshot: then the last chunk is, too.
                let len = chunk.len().min((reader.size() - number * unit) as usize);
                if !reader.is_same(number, &chunk[..len])? {
                    differing.lock().insert(number);
                }
            }
            progress.add(buffer.len() as u64);
        }
        Ok(())
    };
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join()).collect::<Vec<_>>()
    });
    for result in results {
        result.map_err(|_| wherry_repo::Error::internal("a worker thread panicked"))??;
    }
    Ok(differing.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words() {
        let mut c = Chunks::new(300);
        [3, 4, 63, 64, 65, 200].into_iter().for_each(|n| c.insert(n));
        assert_eq!(c.runs(0, 300).collect::<Vec<_>>(), [3..5, 63..66, 200..201]);
        assert_eq!(c.runs(4, 65).collect::<Vec<_>>(), [4..5, 63..65]);
        assert_eq!(c.runs(66, 200).count(), 0);
        assert_eq!(c.count(), 6);
        assert!(!c.contains(1000));
    }
}

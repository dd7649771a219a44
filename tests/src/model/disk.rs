//! A disk as a reference knows it: pages that are not zero.

use crate::small::UNIT;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

const PAGE: u64 = UNIT as u64;

/// A disk. Clones share their pages.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Disk {
    pub(super) size: u64,
    pages: BTreeMap<u64, Arc<Vec<u8>>>,
}

/// What a chunk is, for maps: class, length and a hash of its content.
pub(super) type Content = (u8, usize, u64);

impl Disk {
    /// A disk of zeros.
    pub(super) fn new(size: u64) -> Self {
        Self { size, pages: BTreeMap::new() }
    }

    /// Writes as far as the disk goes.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() && at < self.size {
            let (page, from) = (at / PAGE, (at % PAGE) as usize);
            let len = rest.len().min(UNIT - from).min((self.size - at) as usize);
            let body = self.pages.entry(page).or_insert_with(|| Arc::new(vec![0; UNIT]));
            Arc::make_mut(body)[from..from + len].copy_from_slice(&rest[..len]);
            if body.iter().all(|b| *b == 0) {
                self.pages.remove(&page);
            }
            at += len as u64;
            rest = &rest[len..];
        }
    }

    /// Cuts off, or adds zeros.
    pub(super) fn resize(&mut self, size: u64) {
        if size < self.size {
            drop(self.pages.split_off(&size.div_ceil(PAGE)));
            let (last, left) = (size / PAGE, (size % PAGE) as usize);
            if let Some(body) = self.pages.get_mut(&last) {
                Arc::make_mut(body)[left..].fill(0);
                if body.iter().all(|b| *b == 0) {
                    self.pages.remove(&last);
                }
            }
        }
        self.size = size;
    }

    /// Chunks of this size, the zero ones included.
    pub(super) fn chunks(&self, unit: u64) -> u64 {
        self.size.div_ceil(unit)
    }

    /// The bytes of a chunk in the disk.
    pub(super) fn range(&self, n: u64, unit: u64) -> Range<u64> {
        (n * unit).min(self.size)..((n + 1) * unit).min(self.size)
    }

    /// A chunk.
    pub(super) fn chunk(&self, n: u64, unit: u64) -> Vec<u8> {
        let Range { start, end } = self.range(n, unit);
        let mut out = vec![0; (end - start) as usize];
        for (page, body) in self.pages.range(start / PAGE..end.div_ceil(PAGE)) {
            let at = (page * PAGE - start) as usize;
            let len = UNIT.min(out.len() - at);
            out[at..at + len].copy_from_slice(&body[..len]);
        }
        out
    }

    /// What a chunk is.
    pub(super) fn content(&self, n: u64, unit: u64) -> Content {
        let chunk = self.chunk(n, unit);
        let mut hasher = DefaultHasher::new();
        chunk.hash(&mut hasher);
        (unit.trailing_zeros() as u8, chunk.len(), hasher.finish())
    }

    /// Numbers of the chunks that are not zero.
    pub(super) fn present(&self, unit: u64) -> BTreeSet<u64> {
        self.pages.keys().map(|page| page * PAGE / unit).collect()
    }

    /// True when a chunk is nothing but zeros.
    pub(super) fn is_zero(&self, n: u64, unit: u64) -> bool {
        let Range { start, end } = self.range(n, unit);
        self.pages.range(start / PAGE..end.div_ceil(PAGE)).next().is_none()
    }

    /// True when both have this chunk, of one length and content.
    pub(super) fn is_same(&self, other: &Self, n: u64, unit: u64) -> bool {
        let range = self.range(n, unit);
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        !range.is_empty()
            && range == other.range(n, unit)
            && self.pages.range(pages.clone()).eq(other.pages.range(pages))
    }

    /// Runs of chunks that are the same in the other one: what a right list of changed blocks leaves out.
    pub(super) fn unchanged(&self, other: &Self, unit: u64) -> Vec<Range<u64>> {
        let end = if self.size == other.size { self.chunks(unit) } else { self.size.min(other.size) / unit };
        let mut runs = Vec::new();
        let mut from = 0;
        let present: BTreeSet<u64> = self.present(unit).union(&other.present(unit)).copied().collect();
        for n in present.into_iter().filter(|n| *n < end && !self.is_same(other, *n, unit)).chain([end]) {
            if from < n {
                runs.push(from..n);
            }
            from = n + 1;
        }
        runs
    }
}

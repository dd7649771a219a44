//! Names of one inode: which number they have together.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

/// Parts, so that no growing table is in memory twice.
const PARTS: usize = 16;

/// Bytes a place of a table takes: 32 and its mark.
const PLACE: usize = 33;

/// For each inode of a source that has several names, the number of the one that was seen first. It only grows, since the
/// kernel may know any number for as long as the mount lives, up to a bound; inodes seen later are then told apart.
#[derive(Debug)]
pub struct Links {
    parts: Vec<Mutex<HashMap<Inode, u64>>>,
    most: usize,
    hasher: RandomState,
    told: AtomicBool,
}

/// An inode of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// Number in the mount of the directory where its filesystem begins.
    pub within: u64,
    /// Its number there.
    pub inode: u64,
    /// What tells it from another inode that had this number.
    pub alike: u64,
}

impl Links {
    /// A table of at most about `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let places = usize::try_from(bytes).unwrap_or(usize::MAX) / PARTS / PLACE;
        // A table has a power of two of places, and is seven eighths full at most.
        let places = if places == 0 { 0 } else { 1 << places.ilog2() };
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { parts, most: places / 8 * 7, hasher: RandomState::new(), told: AtomicBool::new(false) }
    }

    /// The number of the inode that has a name of this number; `None`: it is not known and there is no room, so its names are
    /// files of their own.
    pub fn number(&self, inode: Inode, own: u64) -> Option<u64> {
        let mut part = self.part(inode).lock();
        if let Some(first) = part.get(&inode) {
            return Some(*first);
        }
        if part.len() < self.most {
            part.insert(inode, own);
            return Some(own);
        }
        drop(part);
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "there are more hard links than fit into memory: from here on their names are shown as files of their own; \
                 give more --memory, or restore"
            );
        }
        None
    }

    fn part(&self, inode: Inode) -> &Mutex<HashMap<Inode, u64>> {
        &self.parts[(self.hasher.hash_one(inode) >> 32) as usize % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_counts_until_there_is_no_room() {
        let links = Links::new(100_000);
        let inode = |n: u64| Inode { within: n % 3, inode: n / 3, alike: 7 };
        let known: Vec<_> = (0..10_000).filter(|n| links.number(inode(*n), 77 + n).is_some()).collect();
        let bytes: usize = links.parts.iter().map(|part| part.lock().capacity() / 7 * 8 * PLACE).sum();
        assert!(known.len() > 1000 && bytes <= 100_000, "{} in {bytes}", known.len());
        for n in 0..10_000 {
            // What is known stays, and what is not is not any more.
            assert_eq!(links.number(inode(n), 1), known.binary_search(&n).is_ok().then_some(77 + n));
        }
        assert_eq!(Links::new(0).number(inode(0), 5), None);
    }
}

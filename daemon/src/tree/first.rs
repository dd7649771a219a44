//! First names of inodes that have several, for whoever makes the others: within a bound. Where one does not fit, the names
//! that come after it are files of their own, which have everything but the link; that is counted.

use std::collections::BTreeMap;

/// What tells an inode from others of a tree: the boundary it is below, its number, and what its names say alike.
pub type Key = (u64, u64, u64);

/// The first name of an inode.
#[derive(Debug)]
struct First {
    name: Box<[u8]>,
    /// Names that are still to come.
    left: u64,
}

/// What an inode takes besides its name (bytes): its place in nodes that may be half empty, and the allocator's part.
const EACH: usize = 2 * size_of::<(Key, First)>() + 32;

/// See the module. No table that grows at once: what it takes is what it has.
#[derive(Debug)]
pub struct FirstNames {
    names: BTreeMap<Key, First>,
    bytes: usize,
    most: usize,
    beyond: u64,
}

impl FirstNames {
    /// None yet, and at most `most` bytes of them.
    pub fn new(most: usize) -> Self {
        Self { names: BTreeMap::new(), bytes: 0, most, beyond: 0 }
    }

    /// The first name of an inode, for one more; `None`: there is none, or it is not known.
    pub fn further(&mut self, key: &Key) -> Option<Vec<u8>> {
        let first = self.names.get_mut(key)?;
        first.left = first.left.saturating_sub(1);
        let name = first.name.to_vec();
        if first.left == 0 {
            self.bytes -= EACH + name.len();
            self.names.remove(key);
        }
        Some(name)
    }

    /// Notes a name under which an inode was made that has so many names.
    pub fn note(&mut self, key: Key, name: Vec<u8>, names: u64) {
        let takes = EACH + name.len();
        if names < 2 {
            return;
        }
        if self.bytes + takes > self.most {
            if self.beyond == 0 {
                tracing::warn!(
                    "there are more hard links than fit into memory: from here on some of their names become files of their \
                     own; give more --memory"
                );
            }
            self.beyond += 1;
            return;
        }
        self.bytes += takes;
        self.names.insert(key, First { name: name.into(), left: names - 1 });
    }

    /// First names that no further one could be linked to, for want of room: so many files at most have further names that are
    /// files of their own, as those of one may all be elsewhere than what is restored.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_are_counted_and_what_is_through_makes_room() {
        let mut names = FirstNames::new(100 * (EACH + 4));
        for n in 0..120 {
            assert_eq!(names.further(&(0, n, 7)), None);
            names.note((0, n, 7), format!("{n:04}").into_bytes(), 3);
        }
        assert_eq!((names.names.len(), names.beyond()), (100, 20));
        assert_eq!(names.further(&(0, 5, 8)), None, "another inode had the number");
        for n in 0..120 {
            let first = (n < 100).then(|| format!("{n:04}").into_bytes());
            assert_eq!((names.further(&(0, n, 7)), names.further(&(0, n, 7))), (first.clone(), first));
            assert_eq!(names.further(&(0, n, 7)), None, "all its names were there");
        }
        assert_eq!((names.names.len(), names.bytes), (0, 0));
        names.note((0, 1, 1), b"alone".to_vec(), 1);
        assert_eq!((names.names.len(), names.beyond()), (0, 20));
    }
}

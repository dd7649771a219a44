//! Which small files share a chunk: section *Content of files* of `repo/docs/format.md`. Files come in the order of the
//! walk, so the same tree makes the same chunks whatever the threads do.

/// A chunk ends before a file that would make it longer (bytes).
pub(super) const LONGEST: usize = 256 << 10;

/// A chunk of at least so many bytes ends after a name that says so.
const ENOUGH: usize = 32 << 10;

/// A chunk is of so many entries of the walk at most, whatever they are: what waits for its end waits in memory.
const WINDOW: u64 = 8192;

/// A chunk of whole small files that is being filled.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Its plaintext so far.
    pub(super) bytes: Vec<u8>,
    /// The files in it: number in the walk, and first byte.
    pub(super) members: Vec<(u64, u32)>,
    /// Number in the walk of its first file.
    first: u64,
}

impl Group {
    /// True when the file that is number `at` of the walk and `len` bytes long belongs into the next chunk.
    pub(super) fn is_full(&self, at: u64, len: usize) -> bool {
        !self.members.is_empty() && (self.bytes.len() + len > LONGEST || self.is_over(at))
    }

    /// True when the walk has gone on so far that this chunk ends.
    pub(super) fn is_over(&self, at: u64) -> bool {
        !self.members.is_empty() && at >= self.first + WINDOW
    }

    /// Takes a file; true when the chunk ends after it. `may_end`: its name says so.
    pub(super) fn push(&mut self, at: u64, data: &[u8], may_end: bool) -> bool {
        if self.members.is_empty() {
            self.first = at;
        }
        self.members.push((at, self.bytes.len() as u32));
        self.bytes.extend_from_slice(data);
        self.bytes.len() >= ENOUGH && may_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups of these files (number, length, may end), as lists of their numbers.
    fn groups(files: &[(u64, usize, bool)]) -> Vec<Vec<u64>> {
        let (mut done, mut group) = (Vec::new(), Group::default());
        let mut end = |group: &mut Group| {
            let ended = std::mem::take(group);
            let mut from = 0;
            for (n, offset) in &ended.members {
                assert_eq!(*offset as usize, from, "files lie one after the other");
                from += files.iter().find(|f| f.0 == *n).unwrap().1;
            }
            assert_eq!(from, ended.bytes.len());
            assert!(ended.bytes.len() <= LONGEST);
            done.push(ended.members.iter().map(|m| m.0).collect());
        };
        for (at, len, may_end) in files {
            if group.is_full(*at, *len) {
                end(&mut group);
            }
            if group.push(*at, &vec![0; *len], *may_end) {
                end(&mut group);
            }
        }
        if !group.members.is_empty() {
            end(&mut group);
        }
        done
    }

    #[test]
    fn a_chunk_ends_by_length_by_name_and_by_distance() {
        let k = 1 << 10;
        assert_eq!(
            groups(&[(0, 64 * k, false), (1, 64 * k, false), (2, 64 * k, false), (3, 64 * k, false), (4, 1, false)]),
            [vec![0, 1, 2, 3], vec![4]]
        );
        assert_eq!(
            groups(&[(0, 31 * k, true), (1, k, true), (2, 5, false)]),
            [vec![0, 1], vec![2]],
            "by name, from 32 KiB on"
        );
        assert_eq!(groups(&[(0, 32 * k - 1, true), (1, 5, false), (2, 5, false)]), [vec![0, 1, 2]]);
        assert_eq!(groups(&[(5, 1, false), (8196, 1, false), (8197, 1, false)]), [vec![5, 8196], vec![8197]]);
    }
}

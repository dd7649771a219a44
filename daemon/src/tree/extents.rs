//! Which parts of a file have data.

use super::filesystem::Filesystem;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::io;
use std::ops::Range;

/// What is allocated of `range`, ascending; what is between is holes. Moves the place of the file. A filesystem that cannot
/// tell has one range.
pub fn extents(file: &impl AsFd, range: Range<u64>) -> Extents<'_> {
    Extents { file: file.as_fd(), at: range.start, size: range.end, has_told: false }
}

/// See [`extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    file: BorrowedFd<'a>,
    at: u64,
    size: u64,
    /// A hole that the filesystem tells of is one.
    has_told: bool,
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.size {
            return None;
        }
        let found = self.range();
        match &found {
            Ok(Some(range)) => self.at = range.end,
            Ok(None) | Err(_) => self.at = self.size,
        }
        found.map_err(io::Error::from).transpose()
    }
}

impl Extents<'_> {
    fn range(&mut self) -> Result<Option<Range<u64>>, Errno> {
        let found = self.ask()?;
        if self.has_told || found == Some(self.at..self.size) {
            return Ok(found);
        }
        self.has_told = true;
        // Those look into the page cache. One of another machine or program may not have been given what the kernel has, and
        // takes that for a hole.
        if Filesystem::of(self.file).is_ok_and(Filesystem::syncs_all) {
            return Ok(found);
        }
        match rustix::fs::fdatasync(self.file) {
            Ok(()) => self.ask(),
            Err(_) => Ok(Some(self.at..self.size)),
        }
    }

    fn ask(&self) -> Result<Option<Range<u64>>, Errno> {
        let start = match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
            // Nothing from here on; or the file has become shorter.
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(self.at..self.size)),
            other => other?,
        };
        if start >= self.size {
            return Ok(None);
        }
        let end = match rustix::fs::seek(self.file, SeekFrom::Hole(start)) {
            Err(Errno::NXIO) => self.size,
            other => other?.min(self.size),
        };
        // One that punches holes meanwhile may answer the same place twice; it must not keep us here.
        Ok(Some(start..if end > start { end } else { self.size }))
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn of(file: &std::fs::File, size: u64) -> Vec<Range<u64>> {
        extents(file, 0..size).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn holes_are_between_the_ranges() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(of(&file, 0), []);
        file.set_len(10 << 20).unwrap();
        assert_eq!(of(&file, 10 << 20), []);
        file.write_all_at(&[1; 65536], 1 << 20).unwrap();
        file.write_all_at(&[1; 65536], 5 << 20).unwrap();
        let mib = 1 << 20;
        assert_eq!(of(&file, 10 << 20), [mib..mib + 65536, 5 * mib..5 * mib + 65536]);
        // As long as it was said to be, whatever it has become.
        assert_eq!(of(&file, mib + 100), Vec::from_iter(std::iter::once(mib..mib + 100)));
        file.set_len(2 << 20).unwrap();
        assert_eq!(of(&file, 10 << 20), Vec::from_iter(std::iter::once(mib..mib + 65536)));
        file.write_all_at(&[1], (2 << 20) - 1).unwrap();
        assert_eq!(of(&file, 2 << 20).last().unwrap().end, 2 << 20);
    }
}

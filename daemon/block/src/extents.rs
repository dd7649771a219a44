//! Which parts of a file are allocated.

use std::iter::FusedIterator;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The allocated ranges of a source within a range, ascending, asked of the filesystem one by one: a sparse file of many
/// terabytes costs no memory. What lies between them reads as zero.
///
/// Where the filesystem cannot tell, all the rest counts as allocated: reading more than needed is slow, not wrong.
#[derive(Debug)]
pub struct Extents {
    /// `None`: everything is allocated.
    file: Option<Arc<OwnedFd>>,
    rest: Range<u64>,
}

impl Extents {
    pub(crate) fn new(file: Option<Arc<OwnedFd>>, range: Range<u64>) -> Self {
        Self { file, rest: range }
    }
}

impl Iterator for Extents {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(file) = &self.file else { return Some(std::mem::take(&mut self.rest)) };
        let start = match rustix::fs::seek(file, SeekFrom::Data(self.rest.start)) {
            // No data from here to the end of the file.
            Err(Errno::NXIO) => {
                self.rest = 0..0;
                return None;
            }
            Err(_) => self.rest.start,
            // Never before where it was asked for.
            Ok(start) => start.max(self.rest.start),
        };
        if start >= self.rest.end {
            self.rest = 0..0;
            return None;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.rest.end),
            _ => self.rest.end,
        };
        self.rest.start = end;
        Some(start..end)
    }
}

impl FusedIterator for Extents {}

//! Reading the data of one file, in a worker thread: a small one whole, a large one cut into pieces that are stored at
//! once, a disk image in chunks. What changes while it is read is read again.

use super::Shared;
use super::image::looks_like_one;
use crate::tree::attributes::Look;
use crate::tree::dir::Dir;
use crate::tree::extents::extents;
use crate::tree::inode::{Inode, InodeKind};
use anyhow::Result;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use wherry_repo::Scratch;
use wherry_repo::format::tree::{Content, Known, MAX_PIECE, MAX_SHARED, PIECE, Piece, Time, What};

/// What a large file is read into (bytes): two of the longest pieces, or the longest chunk of a disk image.
pub(super) const WINDOW: usize = 2 * MAX_PIECE as usize;

/// A file that changes while it is read is read so often at most.
const TRIES: usize = 3;

/// One file to be read.
#[derive(Debug)]
pub(super) struct Job {
    /// Its number in the walk.
    pub(super) at: u64,
    /// Where it is.
    pub(super) dir: Arc<Dir>,
    /// Its name there.
    pub(super) name: Vec<u8>,
    /// What was seen of it.
    pub(super) seen: Inode,
    /// What the parent has of it.
    pub(super) parent: Option<Box<Known>>,
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// What it was when its last byte was read.
    pub(super) stamp: Stamp,
    /// It changed each time, or was shorter than it is said to be.
    pub(super) unsettled: bool,
    /// Bytes of it that were not allocated.
    pub(super) hole: u64,
    /// What is there now, when it is another file than the one that was seen.
    pub(super) fresh: Option<Box<Look>>,
    /// Its data.
    pub(super) data: Data,
}

/// The data of a file that was read.
#[derive(Debug)]
pub(super) enum Data {
    /// A small one, to be put into a shared chunk.
    Small(Vec<u8>),
    /// It is stored.
    Stored(Content),
    /// It cannot be read.
    Missing(NonZeroU32),
    /// The name is gone.
    Gone,
}

/// What tells that a file has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// mtime.
    pub(super) modified: Time,
    /// ctime.
    pub(super) changed: Time,
}

impl Stamp {
    /// Of what an entry says of a regular file.
    pub(super) fn known(known: &Known) -> Option<Self> {
        match &known.what {
            What::File { size, .. } => Some(Self { size: *size, modified: known.modified, changed: known.changed }),
            _ => None,
        }
    }

    /// Of what was seen.
    pub(super) fn seen(inode: &Inode) -> Self {
        Self { size: inode.size, modified: inode.modified, changed: inode.changed }
    }

    /// Of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let time = |seconds, nanoseconds: i64| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999),
        };
        Ok(Self {
            size: meta.size(),
            modified: time(meta.mtime(), meta.mtime_nsec()),
            changed: time(meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// What came of reading a file once.
pub(super) struct Once {
    pub(super) data: Data,
    /// Bytes of it that were not allocated.
    pub(super) hole: u64,
    /// It did not end before its end.
    pub(super) whole: bool,
}

/// What came of opening a file.
enum Opened {
    File(File),
    /// The name is gone.
    Gone,
    Failed(io::Error),
}

/// Why a file was not read to its end.
pub(super) enum Stop {
    /// The file: its snapshot is partial.
    File(io::Error),
    /// The run: there is no snapshot.
    Run(anyhow::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

impl From<wherry_repo::Error> for Stop {
    fn from(error: wherry_repo::Error) -> Self {
        Self::Run(error.into())
    }
}

impl Shared<'_> {
    /// Reads a file.
    ///
    /// # Errors
    /// Those that end the run; what ends the reading of the file alone is in [`Data`].
    pub(super) fn read_file(&self, job: &Job, scratch: &mut Scratch) -> Result<Read> {
        let (opened, fresh) = self.open(job);
        let mut stamp = Stamp::seen(fresh.as_ref().map_or(&job.seen, |look| &look.inode));
        let fresh = fresh.map(Box::new);
        let read = |stamp, unsettled, hole, data, fresh| Ok(Read { stamp, unsettled, hole, fresh, data });
        let missing = |stamp, error: &io::Error, fresh| {
            let errno = number(Errno::from_io_error(error).unwrap_or(Errno::IO));
            read(stamp, false, 0, Data::Missing(errno), fresh)
        };
        let file = match opened {
            Opened::File(file) => file,
            Opened::Gone => return read(stamp, false, 0, Data::Gone, fresh),
            Opened::Failed(e) => return missing(stamp, &e, fresh),
        };
        for attempt in 1.. {
            let before = match Stamp::of(&file) {
                Ok(before) => before,
                Err(e) => return missing(stamp, &e, fresh),
            };
            stamp = before;
            let Once { data, hole, whole } = match self.read_once(job, &file, before.size, scratch) {
                Ok(read) => read,
                Err(Stop::Run(e)) => return Err(e),
                Err(Stop::File(e)) => return missing(stamp, &e, fresh),
            };
            let settled = whole && Stamp::of(&file).is_ok_and(|after| after == before);
            if settled || attempt == TRIES {
                let fresh = if stamp.changed == job.seen.changed { fresh } else { self.look_again(job, &stamp, fresh) };
                return read(stamp, !settled, hole, data, fresh);
            }
        }
        Err(wherry_repo::Error::internal("a file was read no times").into())
    }

    /// Owner, permissions and attributes as they are now: those that were seen may be older than the content that was read,
    /// and more open.
    fn look_again(&self, job: &Job, stamp: &Stamp, fresh: Option<Box<Look>>) -> Option<Box<Look>> {
        let is_it = |look: &Look| look.inode.kind == InodeKind::File && look.inode.changed == stamp.changed;
        job.dir.look(&job.name).ok().filter(is_it).map(Box::new).or(fresh)
    }

    /// Opens the file; or the one that has taken its name since it was seen, with what is seen of that.
    fn open(&self, job: &Job) -> (Opened, Option<Look>) {
        let mut fresh: Option<Look> = None;
        let mut last = Errno::STALE;
        for _ in 0..TRIES {
            let e = match job.dir.open_file(&job.name, fresh.as_ref().map_or(&job.seen, |look| &look.inode)) {
                Ok(file) => return (Opened::File(file), fresh),
                Err(e) => e,
            };
            last = match Errno::from_io_error(&e) {
                // A name that can be looked at is there, whatever is wrong with what it leads to.
                Some(errno @ (Errno::STALE | Errno::NOENT)) => errno,
                _ => return (Opened::Failed(e), fresh),
            };
            match job.dir.look(&job.name) {
                Ok(look) if look.inode.kind == InodeKind::File => fresh = Some(look),
                Ok(_) => return (Opened::Failed(Errno::STALE.into()), None),
                // The name itself is not there, in a directory that is.
                Err(Errno::NOENT) => return (Opened::Gone, None),
                Err(errno) => return (Opened::Failed(errno.into()), None),
            }
        }
        (Opened::Failed(last.into()), None)
    }

    /// Reads `size` bytes, whatever the file has become meanwhile: what is not there any more is zero.
    fn read_once(&self, job: &Job, file: &File, size: u64, scratch: &mut Scratch) -> Result<Once, Stop> {
        if size == 0 {
            return Ok(Once { data: Data::Stored(Content::Nothing), hole: 0, whole: true });
        }
        let mut ranges = extents(file, 0..size);
        let first = ranges.next().transpose()?;
        if size <= MAX_SHARED && first.as_ref().is_some_and(|range| *range == (0..size)) {
            let mut bytes = vec![0; size as usize];
            self.pay(size)?;
            let whole = fill(file, &mut bytes, 0)?;
            return Ok(Once { data: Data::Small(bytes), hole: 0, whole });
        }
        if looks_like_one(file, size)? {
            let ranges = first.into_iter().map(Ok).chain(ranges);
            return self.read_image(file, size, ranges, job.parent.as_deref(), scratch);
        }
        let mut list = self.writer.list(job.parent.as_deref().and_then(content));
        let mut window = self.window()?;
        let kept = job.parent.as_deref().map(|theirs| self.writer.kept_pieces(theirs)).transpose()?;
        let (mut end, mut hole, mut whole) = (0, 0, true);
        for range in first.into_iter().map(Ok).chain(ranges) {
            let range = range?;
            hole += range.start - end;
            list.push(Piece::Hole(range.start - end))?;
            let (mut at, mut have) = (range.start, 0);
            end = range.end;
            while at < end || have > 0 {
                let room = window.bytes.len() - have;
                let more = ((end - at) as usize).min(room);
                self.pay(more as u64)?;
                whole &= fill(file, &mut window.bytes[have..have + more], at)?;
                (at, have) = (at + more as u64, have + more);
                let mut cut = 0;
                // What is left over must be as long as a piece can be, or all there is.
                while have - cut >= MAX_PIECE as usize || (at == end && cut < have) {
                    let piece = &window.bytes[cut..have];
                    let piece = &piece[..self.writer.cutter().cut(piece)];
                    list.push(Piece::Chunk(self.put(scratch, PIECE, piece, kept.as_ref())?))?;
                    cut += piece.len();
                }
                window.bytes.copy_within(cut..have, 0);
                have -= cut;
            }
        }
        list.push(Piece::Hole(size - end))?;
        whole &= reaches(file, end..size)?;
        Ok(Once { data: Data::Stored(list.finish()?), hole: hole + size - end, whole })
    }
}

/// Reads at `at` until `out` is full; what is behind the end of the file is zero, and then it is not true that all came.
pub(super) fn fill(file: &File, out: &mut [u8], at: u64) -> io::Result<bool> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out[done..].fill(0);
    Ok(done == out.len())
}

/// Whether the last byte of a range of a file is there. Where there are no data at its end: a hole, or nothing any more.
pub(super) fn reaches(file: &File, behind: Range<u64>) -> io::Result<bool> {
    if behind.is_empty() { Ok(true) } else { fill(file, &mut [0], behind.end - 1) }
}

/// The content of a regular file.
fn content(known: &Known) -> Option<&Content> {
    match &known.what {
        What::File { content, .. } => Some(content),
        _ => None,
    }
}

/// As the format has it.
fn number(errno: Errno) -> NonZeroU32 {
    NonZeroU32::new(errno.raw_os_error().unsigned_abs()).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;

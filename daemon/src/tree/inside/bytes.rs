//! Where the parsers read: a range of a disk, never beyond it, through the verified reader.

use crate::mount::disk::Disk;
use crate::mount::file::{File, Unreadable};
use crate::mount::streams::Streams;
use crate::mount::workers::Scratch;
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wherry_repo::{Error, ErrorKind, Result};

/// Bytes that can be read anywhere.
pub trait Bytes: fmt::Debug + Send + Sync {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `out` with the bytes from `offset` on, all of which are there.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// The disk of a snapshot, through the chunk cache.
#[derive(Debug)]
pub struct DiskBytes {
    disk: Arc<Disk>,
    streams: Mutex<Streams>,
    scratch: Mutex<Scratch>,
}

impl DiskBytes {
    /// Of an opened disk.
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk, streams: Mutex::default(), scratch: Mutex::default() }
    }
}

impl Bytes for DiskBytes {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = out.len();
        let copied = self.disk.read(&self.streams, offset, len, false, &mut self.scratch.lock(), |b| copy(out, b));
        copied.unwrap_or_else(|kind| Err(lost(kind, offset, len)))
    }
}

/// A file in the snapshot of a directory, likewise.
#[derive(Debug)]
pub struct FileBytes {
    file: File,
    size: u64,
    streams: Mutex<Streams>,
    scratch: Mutex<Scratch>,
}

impl FileBytes {
    /// Of a file of so many bytes.
    pub fn new(file: File, size: u64) -> Self {
        Self { file, size, streams: Mutex::default(), scratch: Mutex::default() }
    }
}

impl Bytes for FileBytes {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = out.len();
        match self.file.read(&self.streams, offset, len, false, &mut self.scratch.lock(), |b| copy(out, b)) {
            Ok(copied) => copied,
            Err(Unreadable::Chunk(kind)) => Err(lost(kind, offset, len)),
            Err(Unreadable::List(e)) => Err(e),
        }
    }
}

fn copy(out: &mut [u8], bytes: &[u8]) -> Result<()> {
    if bytes.len() != out.len() {
        return Err(Error::internal("a read goes beyond the end of the disk"));
    }
    out.copy_from_slice(bytes);
    Ok(())
}

/// Bytes cannot be read for a reason of this kind. Which chunk it is and why was logged.
fn lost(kind: ErrorKind, offset: u64, len: usize) -> Error {
    let kind = if kind == ErrorKind::NotFound { ErrorKind::Corrupt } else { kind };
    Error::new(kind, format!("bytes {offset} to {} of the disk cannot be read", offset + len as u64 - 1))
}

impl Bytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(out.len()).and_then(|end| self.get(start..end));
        out.copy_from_slice(bytes.ok_or_else(|| Error::internal("a read goes beyond the end of the bytes"))?);
        Ok(())
    }
}

/// A range of a disk, as a parser sees it: offsets count from its beginning, and nothing outside can be read.
#[derive(Clone, Debug)]
pub struct Window {
    bytes: Arc<dyn Bytes>,
    range: Range<u64>,
    meter: Arc<Meter>,
}

/// What a parser asked of a window.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes read.
    read: AtomicU64,
    /// Nanoseconds it waited for the storage.
    waited: AtomicU64,
    /// A read is under way.
    waiting: AtomicBool,
    /// Nothing is read any more.
    stopped: AtomicBool,
    /// The first error of the storage or of what is stored.
    failed: Mutex<Option<Error>>,
}

/// A read that takes longer than this waited for the storage.
const CACHED: Duration = Duration::from_millis(1);

impl Window {
    /// All of it.
    pub fn whole(bytes: Arc<dyn Bytes>) -> Self {
        let range = 0..bytes.size();
        Self { bytes, range, meter: Arc::default() }
    }

    /// A part of it, with a meter of its own; what is beyond the end is left out.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Self {
        let at = |offset: u64| self.range.start.saturating_add(offset).min(self.range.end);
        let (start, end) = (at(range.start), at(range.end));
        Self { bytes: self.bytes.clone(), range: start..end.max(start), meter: Arc::default() }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Where it begins in the disk.
    pub fn start(&self) -> u64 {
        self.range.start
    }

    /// What was asked of it.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Fills `out`; `None` where that goes beyond the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<Option<()>> {
        let meter = &self.meter;
        if meter.stopped.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Cancelled, "the reader was given up"));
        }
        if out.is_empty() {
            return Ok(Some(()));
        }
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.size()) {
            return Ok(None);
        }
        let start = Instant::now();
        meter.waiting.store(true, Ordering::Relaxed);
        let result = self.bytes.read(self.range.start + offset, out);
        let took = start.elapsed();
        meter.read.fetch_add(out.len() as u64, Ordering::Relaxed);
        if took > CACHED {
            meter.waited.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        }
        meter.waiting.store(false, Ordering::Relaxed);
        if let Err(e) = &result {
            meter.failed.lock().get_or_insert_with(|| Error::new(e.kind(), e.to_string()));
        }
        result.map(Some)
    }

    /// So many bytes at `offset`; `None` where that goes beyond the end.
    pub fn take(&self, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; len];
        Ok(self.read(offset, &mut bytes)?.map(|()| bytes))
    }
}

impl Meter {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Time spent waiting for the storage so far, reads that have not ended left out.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Whether a read is under way.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Has all further reads fail.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The first error since this was asked last.
    pub fn failed(&self) -> Option<Error> {
        self.failed.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_a_window_can_be_read() {
        let whole = Window::whole(Arc::new((0..100).collect::<Vec<u8>>()));
        let part = whole.part(10..20);
        assert_eq!((part.start(), part.size()), (10, 10));
        assert_eq!(part.take(3, 7).unwrap().unwrap(), (13..20).collect::<Vec<u8>>());
        assert_eq!(part.take(3, 8).unwrap(), None);
        assert_eq!(part.take(u64::MAX, 2).unwrap(), None);
        assert_eq!((whole.part(90..200).size(), whole.part(200..300).size()), (10, 0));
        assert_eq!(part.part(5..50).take(0, 5).unwrap().unwrap(), (15..20).collect::<Vec<u8>>());
        assert_eq!(part.meter().read(), 7);
        part.meter().stop();
        assert_eq!(part.take(0, 1).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

//! What a backup reads: a block device, an image file or standard input.

use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::engine::{self, Channel, Engine, EngineInfo, Setup};
use crate::extents::Extents;
use crate::geometry::{self, Geometry, Identity, Kind, Opened};
use crate::pieces::Pieces;
use crate::reader::{Cancel, Delivery, Reader, Reading};
use crate::request::{Op, Request};
use crate::{Error, Result, mounts, stream};

/// A source that is mounted, or used by something that is mounted, and may change while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedSource {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The mounted device: the source itself, a partition of it or a device built on it.
    pub device: String,
}

impl fmt::Display for MountedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is mounted writable at {}", self.device, self.mount_point.display())
    }
}

/// An open device or file, or standard input. Reading does not change it; it may be read several times, except a stream.
#[derive(Debug)]
pub struct Source {
    from: From,
    engine: Engine,
    /// Found out at open.
    chosen: EngineInfo,
    /// What the last reading used.
    info: Mutex<EngineInfo>,
}

#[derive(Debug)]
enum From {
    Disk(Arc<Opening>),
    /// `None` once reading has begun.
    Stream(Mutex<Option<stream::Input>>),
}

/// An open device or file, shared with the engine that reads it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) identity: Identity,
    pub(crate) opened: Opened,
    /// Whether where a file has holes may be asked: set by whoever asks first.
    pub(crate) has_told: OnceLock<bool>,
}

impl Source {
    /// Opens a block device or regular file for reading past the page cache, and settles the engine. The engine and the
    /// reason for it are logged once.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Io`; `Invalid` for anything but a block device or a regular file; `Unsupported` when the
    /// ring is asked for by name and the system denies it.
    pub fn open(path: &Path, engine: Engine) -> Result<Self> {
        let source = Self::open_quietly(path)?;
        let chosen = engine::probe(engine, path)?;
        Ok(Self { engine, info: Mutex::new(chosen.clone()), chosen, ..source })
    }

    /// For a look in the calling thread: no engine is needed, none is logged.
    pub(crate) fn open_quietly(path: &Path) -> Result<Self> {
        let opened = Opened::open(path, OFlags::RDONLY, Mode::empty())?;
        if !opened.direct {
            // As near to the medium as can be had: what is clean in the page cache is read anew.
            let _ = rustix::fs::fadvise(&opened.fd, 0, None, rustix::fs::Advice::DontNeed);
        }
        let identity = Identity::new(path, &opened.stat);
        Ok(Self::new(
            From::Disk(Arc::new(Opening { identity, opened, has_told: OnceLock::new() })),
            "threads",
            "not started",
        ))
    }

    #[cfg(test)]
    pub(crate) fn disk(&self) -> Option<Arc<Opening>> {
        match &self.from {
            From::Disk(disk) => Some(disk.clone()),
            From::Stream(_) => None,
        }
    }

    fn new(from: From, name: &'static str, why: &str) -> Self {
        let chosen = EngineInfo::only(name, why);
        Self { from, engine: Engine::Threads, info: Mutex::new(chosen.clone()), chosen }
    }

    /// Standard input: a stream of unknown size. With `size`, in bytes, a reading fails with `Length` where it is not as long: a pipe
    /// does not tell how its writer ended.
    ///
    /// # Errors
    /// `Io` when it is closed.
    pub fn stdin(size: Option<u64>) -> Result<Self> {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
        Ok(Self::stream(input.map_err(|e| Error::on_path("open", stream::NAME.as_ref(), e))?, size))
    }

    /// Any open file, pipe or socket as a stream, read from where it is; `size` as of [`stdin`](Self::stdin).
    pub fn stream(fd: OwnedFd, size: Option<u64>) -> Self {
        let input = stream::Input { fd, size };
        Self::new(From::Stream(Mutex::new(Some(input))), "stream", stream::WHY)
    }

    /// Kind, size and alignment, as they were at open.
    pub fn geometry(&self) -> Geometry {
        match &self.from {
            From::Disk(disk) => disk.opened.geometry,
            From::Stream(_) => Geometry { kind: Kind::Stream, size: u64::MAX, logical_block: 1 },
        }
    }

    /// The engine used by the last reading, or to be used by the next.
    pub fn engine(&self) -> EngineInfo {
        self.info.lock().clone()
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        matches!(&self.from, From::Disk(disk) if disk.opened.direct)
    }

    /// Whether what is read comes from a medium: past the page cache, and of no filesystem that has one of its own, or no medium.
    pub fn is_from_medium(&self) -> bool {
        matches!(&self.from, From::Disk(disk) if disk.opened.from_medium)
    }

    /// Which device or file this is. `None` for a stream.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.from {
            From::Disk(disk) => Some(&disk.identity),
            From::Stream(_) => None,
        }
    }

    /// The allocated ranges within `range`; the rest of it reads as zero. Devices and streams are allocated throughout. What was
    /// written to a file before is given to its filesystem first; where that fails all of it is allocated.
    pub fn extents(&self, range: Range<u64>) -> Extents {
        match &self.from {
            From::Disk(disk) => {
                let size = disk.opened.geometry.size;
                let range = range.start.min(size)..range.end.min(size);
                let fd = &disk.opened.fd;
                // A filesystem of another machine or program may not have been given what the kernel has: it takes that for a hole.
                let tell = || disk.opened.geometry.kind == Kind::File && rustix::fs::fdatasync(fd).is_ok();
                Extents::new(disk.has_told.get_or_init(tell).then(|| fd.clone()), range)
            }
            From::Stream(_) => Extents::new(None, range),
        }
    }

    /// Whether the source, a partition of it or something built on it is mounted writable, so that it may change while it
    /// is read. Only what this process can see counts.
    pub fn mounted_writable(&self) -> Option<MountedSource> {
        mounts::mounted_writable(self.identity()?)
    }

    /// Checks that the size is still what it was at open. A reading does this by itself at its end.
    ///
    /// # Errors
    /// `Changed`, `Io`.
    pub fn recheck(&self) -> Result<()> {
        match &self.from {
            From::Disk(disk) => disk.recheck(),
            From::Stream(_) => Ok(()),
        }
    }

    /// Whether an image file has been written to since it was opened, or otherwise changed: its times say so, and nothing says it
    /// of a device.
    pub fn was_written(&self) -> bool {
        match &self.from {
            From::Disk(disk) => disk.was_written(),
            From::Stream(_) => false,
        }
    }

    /// Reads every unit (aligned piece of `unit` bytes) that `ranges` touch, each exactly once, with at most `depth` reads
    /// in flight and never more than `pool` has buffers. A read covers as many units as fit a buffer and lie side by side.
    /// Results begin at a multiple of `unit` and end at one or at the end of the source.
    ///
    /// A stream ignores `ranges` and `depth`: all of it is read, each result but the last fills its buffer as far as whole
    /// units go.
    ///
    /// # Errors
    /// `Invalid` unless `unit` is a multiple of 4096 and of the logical block, and at most as large as a buffer; or when a
    /// stream is read twice. `Unsupported` as in [`Self::open`]. `Stopped` when no thread can be started. Everything else
    /// comes through the [`Reader`], also `Invalid` for ranges that are not ascending or overlap.
    pub fn read_all<R>(&self, ranges: R, unit: usize, depth: usize, pool: &BufferPool) -> Result<Reader>
    where
        R: Iterator<Item = Range<u64>> + Send + 'static,
    {
        let path = self.identity().map_or(stream::NAME.as_ref(), |identity| identity.path.as_path());
        let block = match &self.from {
            From::Disk(disk) => disk.opened.block(),
            From::Stream(_) => 1,
        };
        if unit == 0 || !unit.is_multiple_of(block) || unit > pool.buffer_bytes() {
            let why = format!("units of {unit} bytes: want a multiple of {block}, at most {}", pool.buffer_bytes());
            return Err(Error::invalid(path, why));
        }
        let limit = pool.buffer_bytes() / unit * unit;
        let (delivery, receiver) = Delivery::new(pool);
        let cancel = Cancel::new(pool).map_err(|errno| Error::on_path("eventfd for", path, errno))?;
        let running = match &self.from {
            From::Stream(input) => {
                let input =
                    input.lock().take().ok_or_else(|| Error::invalid(path, "a stream can be read only once"))?;
                stream::start(input, limit, delivery, cancel.clone())?
            }
            From::Disk(disk) => {
                let boxed: Box<dyn Iterator<Item = Range<u64>> + Send> = Box::new(ranges);
                let pieces = Pieces::new(boxed, unit as u64, limit as u64, disk.opened.geometry.size);
                let reading = Reading {
                    source: disk.clone(),
                    pieces: Mutex::new(pieces),
                    delivery,
                    cancel: cancel.clone(),
                    exhausted: AtomicBool::new(false),
                };
                let channel = Channel { file: disk.opened.fd.clone(), alignment: disk.opened.alignment() };
                let setup = Setup { engine: self.engine, chosen: self.chosen.clone(), depth, pool: Some(pool), path };
                engine::start(&setup, channel, cancel.waker.clone(), Arc::new(reading))?
            }
        };
        *self.info.lock() = running.info.clone();
        Ok(Reader::new(receiver, cancel, running))
    }

    /// Reads `len` bytes at `offset` into `buffer` in the calling thread and sets its length to `len`. `offset` is a
    /// multiple of 4096 and of the logical block.
    ///
    /// # Errors
    /// `Invalid` for a stream, a wrong alignment, more than the buffer holds or than the source has; `ShortRead`,
    /// `Changed`, `Io`.
    pub fn read_at(&self, offset: u64, len: usize, buffer: Buffer) -> Result<Buffer> {
        let From::Disk(disk) = &self.from else {
            return Err(Error::invalid(stream::NAME.as_ref(), "a stream cannot be read at an offset"));
        };
        let block = disk.opened.block();
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= disk.opened.geometry.size);
        if !offset.is_multiple_of(block as u64) || len > buffer.capacity() || !inside {
            return Err(Error::invalid(&disk.identity.path, format!("cannot read {len} bytes at {offset}")));
        }
        let mut request = Request::new(Op::Read, offset, len.next_multiple_of(block), len, buffer);
        let result = match request.run(&disk.opened.fd, disk.opened.alignment()) {
            Err(Errno::INVAL) if disk.opened.direct => disk.read_buffered(&mut request),
            result => result,
        };
        disk.judge(offset, len, result)?;
        request.buffer.set_len(len);
        Ok(request.buffer)
    }
}

impl Opening {
    /// Whether a read of `wanted` bytes at `offset` that ended with `result` is good.
    pub(crate) fn judge(&self, offset: u64, wanted: usize, result: Result<usize, Errno>) -> Result<()> {
        let path = &self.identity.path;
        let len = wanted as u64;
        match result {
            Ok(got) if got >= wanted => Ok(()),
            // A device that was cut shows as an error or as an early end; say what it is.
            _ if self.recheck().is_err() => self.recheck(),
            Ok(got) => Err(Error::ShortRead { path: path.clone(), offset, len, got: got as u64 }),
            Err(errno) => Err(Error::on_range("read", path, offset, len, errno)),
        }
    }

    pub(crate) fn recheck(&self) -> Result<()> {
        let path = &self.identity.path;
        let was = self.opened.geometry.size;
        let now = self.opened.current_size().map_err(|errno| Error::on_path("seek in", path, errno))?;
        if now == was { Ok(()) } else { Err(Error::Changed { path: path.clone(), was, now }) }
    }

    fn was_written(&self) -> bool {
        let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
        let opened = &self.opened;
        opened.geometry.kind == Kind::File
            && rustix::fs::fstat(&opened.fd).is_ok_and(|now| times(&now) != times(&opened.stat))
    }

    /// Reads through the page cache what cannot be read directly.
    pub(crate) fn read_buffered(&self, request: &mut Request) -> Result<usize, Errno> {
        let path = &self.identity.path;
        tracing::debug!(path = %path.display(), offset = request.offset, "direct read refused, the page cache is used");
        let file = geometry::buffered(&self.opened.fd, path, OFlags::RDONLY).map_err(|_| Errno::INVAL)?;
        request.restart(request.wanted);
        request.run(&file, 1)
    }
}

//! What a restore writes: a block device or an image file.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TryRecvError};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::engine::{self, Channel, Engine, EngineInfo, Running, Setup, Work};
use crate::geometry::{self, Geometry, Kind, Opened};
use crate::request::{Op, Request};
use crate::sysfs::Device;
use crate::wake::Waker;
use crate::{Error, Result, mounts, zero};

/// Zeros are asked for in steps of this, so that a failed or abandoned sink need not wait for a whole device.
const ZERO_STEP: u64 = 1 << 30;

/// A writer that waits for room in the queue looks for an error this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Size of the zeros written where nothing better is to be had.
const ZERO_BYTES: usize = 1 << 20;

/// Settings of a sink.
#[derive(Debug, Clone, Copy)]
pub struct SinkOptions {
    /// Engine.
    pub engine: Engine,
    /// Writes in flight at most.
    pub depth: usize,
}

/// A target open for writing, out of order and from any number of threads.
///
/// A range is either written or zeroed, once; what happens to a range both are done to is not defined. Nothing is safe
/// before [`Self::flush`] returned `Ok`. The first error stays: from then on nothing is written any more and every call
/// returns that error. Dropping the sink waits for the writes in flight and leaves the rest undone.
pub struct Sink {
    shared: Arc<Shared>,
    /// `None` only while dropped.
    queue: Option<Sender<Request>>,
    running: Option<Running>,
}

struct Shared {
    path: PathBuf,
    opened: Opened,
    /// Bytes to be written: the size of the restored data, which may be less than that of the device.
    size: u64,
    fresh: bool,
    receiver: Receiver<Request>,
    waker: Arc<Waker>,
    state: Mutex<State>,
    idle: Condvar,
    abandoned: AtomicBool,
    zeros: OnceLock<Buffer>,
}

struct State {
    in_flight: usize,
    error: Option<Error>,
    /// What lies behind the last whole block: kept until `flush`, because it cannot be written directly.
    tail: Vec<u8>,
    /// The folder must learn of a file that was made.
    unsynced_folder: bool,
}

impl Sink {
    /// Makes a file of `size` bytes, all hole, and opens it. It must not exist. Its mode is 0600.
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the folder), `Denied`, `ReadOnly`, `Io`, `Unsupported`.
    pub fn create(path: &Path, size: u64, options: SinkOptions, pool: &BufferPool) -> Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        let opened = Opened::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode).map_err(|e| match e {
            Error::NotFound { .. } => Error::NotFound { path: folder(path).to_owned() },
            e => e,
        })?;
        set_size(path, &opened, size)?;
        Self::start(path, opened, size, true, options, pool)
    }

    /// Opens a block device or a regular file that exists, to write `size` bytes to it. A file is set to exactly `size`
    /// bytes at once; of a larger device the rest stays untouched.
    ///
    /// A device is opened exclusively: it can be neither mounted nor opened so by others as long as the sink exists.
    ///
    /// # Errors
    /// `Busy` naming who uses it, `TooSmall`, `NotFound`, `Denied`, `ReadOnly`, `Invalid`, `Io`, `Unsupported`.
    pub fn open(path: &Path, size: u64, options: SinkOptions, pool: &BufferPool) -> Result<Self> {
        let stat = rustix::fs::stat(path).map_err(|errno| Error::on_path("open", path, errno))?;
        if let Some(by) = mounts::user_of(&stat) {
            return Err(Error::Busy { path: path.to_owned(), by });
        }
        let number = geometry::device_number(&stat);
        let flags = if number.is_some() { OFlags::RDWR | OFlags::EXCL } else { OFlags::RDWR };
        let opened = Opened::open(path, flags, Mode::empty()).map_err(|e| match e {
            Error::Busy { path, .. } => Error::Busy { by: mounts::holder(&path), path },
            e => e,
        })?;
        // A device that is read-only can be opened for writing all the same.
        if number.is_some_and(|number| Device::new(number).is_read_only()) {
            return Err(Error::ReadOnly { path: path.to_owned() });
        }
        match opened.geometry.kind {
            Kind::Device if opened.geometry.size < size => {
                return Err(Error::TooSmall { path: path.to_owned(), size: opened.geometry.size, needed: size });
            }
            Kind::Device => {}
            _ => set_size(path, &opened, size)?,
        }
        Self::start(path, opened, size, false, options, pool)
    }

    fn start(
        path: &Path,
        opened: Opened,
        size: u64,
        fresh: bool,
        options: SinkOptions,
        pool: &BufferPool,
    ) -> Result<Self> {
        let chosen = engine::probe(options.engine, path)?;
        let (queue, receiver) = crossbeam_channel::bounded(options.depth.max(1));
        let waker = Waker::new().map_err(|errno| Error::on_path("eventfd for", path, errno))?;
        let state = State { in_flight: 0, error: None, tail: Vec::new(), unsynced_folder: fresh };
        let channel = Channel { file: opened.fd.clone(), alignment: opened.alignment() };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            opened,
            size,
            fresh,
            receiver,
            waker: Arc::new(waker),
            state: Mutex::new(state),
            idle: Condvar::new(),
            abandoned: AtomicBool::new(false),
            zeros: OnceLock::new(),
        });
        let setup = Setup { engine: options.engine, chosen, depth: options.depth, pool: Some(pool), path };
        let running = engine::start(&setup, channel, shared.waker.clone(), shared.clone())?;
        Ok(Self { shared, queue: Some(queue), running: Some(running) })
    }

    /// Kind, size (of the whole device) and alignment.
    pub fn geometry(&self) -> Geometry {
        let Geometry { kind, size, logical_block } = self.shared.opened.geometry;
        Geometry { kind, size: if kind == Kind::Device { size } else { self.shared.size }, logical_block }
    }

    /// Whether this is a file made by [`Self::create`]: what is not written reads as zero.
    pub fn is_fresh(&self) -> bool {
        self.shared.fresh
    }

    /// Whether writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.shared.opened.direct
    }

    /// The engine that runs.
    pub fn engine(&self) -> EngineInfo {
        match &self.running {
            Some(running) => running.info.clone(),
            None => EngineInfo { name: "threads", why: "stopped".into() },
        }
    }

    /// Queues a write of `buffer` at `offset`; waits while the queue is full. The buffer goes back to its pool when it was
    /// written. `offset` is a multiple of 4096 and of the logical block, the length too unless it ends at the end of the
    /// data.
    ///
    /// # Errors
    /// `Invalid` for a wrong range; otherwise the first error of the sink, which may stem from any write before.
    pub fn write(&self, offset: u64, mut buffer: Buffer) -> Result<()> {
        let shared = &*self.shared;
        let whole = shared.check(offset, buffer.len() as u64)? as usize;
        let mut state = shared.state.lock();
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        if whole < buffer.len() {
            state.tail = buffer[whole..].to_vec();
            buffer.set_len(whole);
        }
        if whole == 0 {
            return Ok(());
        }
        state.in_flight += 1;
        drop(state);
        let mut request = Request::new(Op::Write, offset, whole, whole, buffer);
        let Some(queue) = &self.queue else { return Err(shared.error()) };
        while let Err(SendTimeoutError::Timeout(back) | SendTimeoutError::Disconnected(back)) =
            queue.send_timeout(request, LOOK_AGAIN)
        {
            // An engine that died empties no queue.
            if let Some(error) = shared.state.lock().error.clone() {
                drop(back);
                shared.release();
                return Err(error);
            }
            request = back;
        }
        shared.waker.wake();
        Ok(())
    }

    /// Makes a range read as zero: at once on return, safe after [`Self::flush`]. In a fresh file that is so already. The
    /// same alignment as for [`Self::write`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        let shared = &*self.shared;
        let whole = shared.check(range.start, range.end.saturating_sub(range.start))?;
        if let Some(error) = &shared.state.lock().error {
            return Err(error.clone());
        }
        if shared.fresh || range.is_empty() {
            return Ok(());
        }
        let direct_end = range.start + whole;
        let mut at = range.start;
        while at < direct_end {
            if shared.abandoned.load(Ordering::Acquire) {
                return Ok(());
            }
            let step = at..direct_end.min(at + ZERO_STEP);
            if let Err(errno) = shared.zero(&step) {
                shared.latch(Error::on_range("zero", &shared.path, step.start, step.end - step.start, errno));
                return Err(shared.error());
            }
            at = step.end;
        }
        if direct_end < range.end {
            shared.state.lock().tail = vec![0; (range.end - direct_end) as usize];
        }
        Ok(())
    }

    /// Waits for all writes, then makes everything durable: data, size and, of a file that was made, its name.
    ///
    /// # Errors
    /// The first error of the sink.
    pub fn flush(&self) -> Result<()> {
        let shared = &*self.shared;
        let mut state = shared.state.lock();
        while state.in_flight > 0 && state.error.is_none() {
            shared.idle.wait(&mut state);
        }
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let tail = std::mem::take(&mut state.tail);
        let folder = std::mem::take(&mut state.unsynced_folder);
        drop(state);
        shared.make_durable(&tail, folder).map_err(|e| {
            shared.latch(e);
            shared.error()
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.abandoned.store(true, Ordering::Release);
        // The engine sees the end of the queue; dropping `running` waits for it.
        self.queue = None;
        self.shared.waker.force();
        self.running = None;
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { path, size, fresh, .. } = &*self.shared;
        f.debug_struct("Sink").field("path", path).field("size", size).field("fresh", fresh).finish_non_exhaustive()
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn set_size(path: &Path, opened: &Opened, size: u64) -> Result<()> {
    rustix::fs::ftruncate(&opened.fd, size).map_err(|errno| Error::on_range("set the size", path, 0, size, errno))
}

impl Shared {
    /// Checks a range; returns how many of its bytes are whole blocks.
    fn check(&self, offset: u64, len: u64) -> Result<u64> {
        let block = self.opened.block() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        match end {
            Some(_) if len.is_multiple_of(block) && offset.is_multiple_of(block) => Ok(len),
            Some(end) if end == self.size && offset.is_multiple_of(block) => Ok(len / block * block),
            _ => {
                let why =
                    format!("{len} bytes at {offset} are not in whole blocks of {block} or not within {}", self.size);
                Err(Error::invalid(&self.path, why))
            }
        }
    }

    fn zero(&self, range: &Range<u64>) -> Result<(), Errno> {
        let file = &self.opened.fd;
        let done = match self.opened.geometry.kind {
            Kind::Device => zero::device(file, range),
            _ => zero::file(file, range),
        };
        match done {
            Err(errno) if zero::is_unknown(errno) => {}
            done => return done,
        }
        let zeros = match self.zeros.get() {
            Some(zeros) => zeros,
            None => {
                let pool = BufferPool::new(ZERO_BYTES, 1).map_err(|_| Errno::NOMEM)?;
                self.zeros.get_or_init(|| pool.take())
            }
        };
        zero::write(file, range, zeros)
    }

    fn make_durable(&self, tail: &[u8], sync_folder: bool) -> Result<()> {
        let Self { path, size, opened, .. } = self;
        if !tail.is_empty() {
            // Through the page cache, which keeps what else is in the last block of a device.
            let offset = size - tail.len() as u64;
            let failed = |errno| Error::on_range("write", path, offset, tail.len() as u64, errno);
            let file = geometry::buffered(&opened.fd, path, OFlags::RDWR)?;
            let mut written = 0;
            while written < tail.len() {
                match rustix::io::pwrite(&file, &tail[written..], offset + written as u64) {
                    Ok(0) => return Err(failed(Errno::IO)),
                    Ok(count) => written += count,
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
        }
        rustix::fs::fsync(&opened.fd).map_err(|errno| Error::on_range("flush", path, 0, *size, errno))?;
        if sync_folder {
            let folder = folder(path);
            let failed = |errno| Error::on_path("flush", folder, errno);
            let open = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            rustix::fs::fsync(open.map_err(failed)?).map_err(failed)?;
        }
        Ok(())
    }

    fn latch(&self, error: Error) {
        let mut state = self.state.lock();
        if state.error.is_none() {
            state.error = Some(error);
        }
        self.idle.notify_all();
    }

    fn error(&self) -> Error {
        self.state.lock().error.clone().unwrap_or_else(|| self.stopped("for no known reason"))
    }

    fn stopped(&self, why: &str) -> Error {
        Error::Stopped { path: self.path.clone(), why: why.to_owned() }
    }

    fn release(&self) {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            self.idle.notify_all();
        }
    }

    /// Whether a request is still to be carried out. If not it is dropped, and its buffer goes back to the pool.
    fn is_wanted(&self) -> bool {
        let wanted = !self.abandoned.load(Ordering::Acquire) && self.state.lock().error.is_none();
        if !wanted {
            self.release();
        }
        wanted
    }
}

impl Work for Shared {
    fn next(&self) -> Option<Request> {
        loop {
            let request = self.receiver.recv().ok()?;
            if self.is_wanted() {
                return Some(request);
            }
        }
    }

    fn try_next(&self) -> Poll<Option<Request>> {
        let mut announced = false;
        loop {
            match self.receiver.try_recv() {
                Ok(request) if self.is_wanted() => return Poll::Ready(Some(request)),
                Ok(_) => {}
                Err(TryRecvError::Disconnected) => return Poll::Ready(None),
                Err(TryRecvError::Empty) if announced => return Poll::Pending,
                Err(TryRecvError::Empty) => {
                    self.waker.expect();
                    announced = true;
                }
            }
        }
    }

    fn done(&self, mut request: Request, result: Result<usize, Errno>) {
        let (offset, len) = (request.offset, request.len);
        let result = match result {
            // A filesystem that takes O_DIRECT and refuses the write.
            Err(Errno::INVAL) if self.opened.direct => {
                request.restart(len);
                geometry::buffered(&self.opened.fd, &self.path, OFlags::RDWR)
                    .map_err(|_| Errno::INVAL)
                    .and_then(|file| request.run(&file, 1))
            }
            result => result,
        };
        drop(request);
        if let Err(errno) = result {
            self.latch(Error::on_range("write", &self.path, offset, len as u64, errno));
        }
        self.release();
    }

    fn broken(&self, why: &str) {
        self.latch(self.stopped(why));
    }

    fn finished(&self) {
        // With the sink still there this is no regular end, and a flush must not wait for what will not come.
        if !self.abandoned.load(Ordering::Acquire) {
            self.latch(self.stopped("its threads have ended"));
        }
    }
}

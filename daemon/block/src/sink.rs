//! What a restore writes: a block device or an image file.

mod work;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use work::{Shared, State, set_size};

use crate::buffer::{Buffer, BufferPool};
use crate::engine::{self, Channel, Engine, EngineInfo, Running, Setup};
use crate::geometry::{self, Geometry, Kind, Opened, folder};
use crate::request::{Op, Request};
use crate::sysfs::Device;
use crate::wake::Waker;
use crate::{Error, Result, mounts};

/// Zeros are asked for in steps of this, so that a sink that failed need not wait for a whole device.
const ZERO_STEP: u64 = 1 << 30;

/// A writer that waits for room in the queue looks for an error this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Settings of a sink.
#[derive(Debug, Clone, Copy)]
pub struct SinkOptions {
    /// Engine.
    pub engine: Engine,
    /// Writes in flight at most.
    pub depth: usize,
    /// A loop device over the target is no reason to refuse it: the kubelet puts one over each device that it publishes.
    pub below_loop: bool,
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

impl Sink {
    /// Makes a file of `size` bytes, all hole, and opens it. It must not exist. Its mode is 0600. When this fails, nothing
    /// is left of it.
    ///
    /// # Errors
    /// `Exists`, `NotFound` (the folder), `Denied`, `ReadOnly`, `Io`, `Unsupported`.
    pub fn create(path: &Path, size: u64, options: SinkOptions, pool: &BufferPool) -> Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        let opened = Opened::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode).map_err(|e| match e {
            Error::NotFound { .. } => Error::NotFound { path: folder(path).to_owned() },
            e => e,
        })?;
        let sink = set_size(path, &opened, size).and_then(|()| Self::start(path, opened, size, true, options, pool));
        if sink.is_err() {
            // It was made above, so it is nobody else's; there is no help if it cannot be removed either.
            let _ = rustix::fs::unlink(path);
        }
        sink
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
        let user = if options.below_loop { mounts::user_but_loops(&stat) } else { mounts::user_of(&stat) };
        if let Some(by) = user {
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
            _ => {}
        }
        let is_file = opened.geometry.kind != Kind::Device;
        let sink = Self::start(path, opened, size, false, options, pool)?;
        // Not before the engine runs: a refusal must leave the file as it was.
        if is_file {
            set_size(path, &sink.shared.opened, size)?;
        }
        Ok(sink)
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
            None => EngineInfo::only("threads", "stopped"),
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
        let direct_end = range.start + whole;
        let mut at = range.start;
        loop {
            if let Some(error) = &shared.state.lock().error {
                return Err(error.clone());
            }
            if shared.fresh || at == direct_end {
                break;
            }
            let step = at..direct_end.min(at + ZERO_STEP);
            if let Err(errno) = shared.zero(&step) {
                shared.latch(Error::on_range("zero", &shared.path, step.start, step.end - step.start, errno));
                return Err(shared.error());
            }
            at = step.end;
        }
        if direct_end < range.end && !shared.fresh {
            shared.state.lock().tail = vec![0; (range.end - direct_end) as usize];
        }
        Ok(())
    }

    /// Makes a step of what a larger device has behind the data read as zero: from `at`, which begins as the size of the data.
    /// Where to go on; `None` at the end of the device, and of a file, which ends with its data. Safe after [`Self::flush`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn zero_behind(&self, at: u64) -> Result<Option<u64>> {
        let shared = &*self.shared;
        if let Some(error) = &shared.state.lock().error {
            return Err(error.clone());
        }
        let Geometry { kind, size, logical_block } = shared.opened.geometry;
        let start = at.max(shared.size);
        if kind != Kind::Device || start >= size {
            return Ok(None);
        }
        let aligned = start.next_multiple_of(u64::from(logical_block)).min(size);
        let step = aligned..size.min(aligned + ZERO_STEP);
        let done = match aligned > start {
            // Through the page cache, which keeps what else is in the block.
            true => shared.write_buffered(start, &vec![0; (aligned - start) as usize]),
            false => Ok(()),
        };
        let zero = || {
            shared.zero(&step).map_err(|e| Error::on_range("zero", &shared.path, step.start, step.end - step.start, e))
        };
        done.and_then(|()| zero()).map_err(|e| {
            shared.latch(e);
            shared.error()
        })?;
        Ok((step.end < size).then_some(step.end))
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::engine::Work;

    fn sink(file: &Path, pool: &BufferPool) -> Sink {
        Sink::open(file, 8192, SinkOptions { engine: Engine::Threads, depth: 1, below_loop: false }, pool).unwrap()
    }

    #[test]
    fn a_refused_direct_write_goes_through_the_page_cache() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pool = BufferPool::new(8192, 1).unwrap();
        let sink = sink(file.path(), &pool);
        let mut buffer = pool.take();
        buffer.fill(7);
        sink.shared.state.lock().in_flight += 1;
        sink.shared.done(Request::new(Op::Write, 0, 8192, 8192, buffer), Err(Errno::INVAL));
        sink.flush().unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 8192]);
    }

    #[test]
    fn zeros_are_written_where_nothing_else_helps() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0xAA; 8192]).unwrap();
        let pool = BufferPool::new(4096, 1).unwrap();
        let sink = sink(file.path(), &pool);
        sink.shared.write_zeros(&(4096..8192)).unwrap();
        let now = std::fs::read(file.path()).unwrap();
        assert!(now[..4096] == [0xAA; 4096] && now[4096..] == [0; 4096]);
    }

    #[test]
    fn a_flush_does_not_wait_for_an_engine_that_died() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pool = BufferPool::new(4096, 3).unwrap();
        let mut sink = sink(file.path(), &pool);
        // Its threads end although the sink was not dropped.
        sink.queue = None;
        sink.running = None;
        assert!(matches!(sink.flush(), Err(Error::Stopped { .. })));
        assert!(matches!(sink.write(0, pool.take()), Err(Error::Stopped { .. })));
    }
}

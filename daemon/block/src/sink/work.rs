//! The work a sink gives its engine, and what stays when it is done: the first error, the tail, durability.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use crossbeam_channel::{Receiver, TryRecvError};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::engine::Work;
use crate::geometry::{self, Kind, Opened, folder};
use crate::request::Request;
use crate::wake::Waker;
use crate::{Error, Result, zero};

/// Size of the zeros written where nothing better is to be had.
const ZERO_BYTES: usize = 1 << 20;

pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) opened: Opened,
    /// Bytes to be written: the size of the restored data, which may be less than that of the device.
    pub(super) size: u64,
    pub(super) fresh: bool,
    pub(super) receiver: Receiver<Request>,
    pub(super) waker: Arc<Waker>,
    pub(super) state: Mutex<State>,
    pub(super) idle: Condvar,
    pub(super) abandoned: AtomicBool,
    pub(super) zeros: OnceLock<Buffer>,
}

pub(super) struct State {
    pub(super) in_flight: usize,
    pub(super) error: Option<Error>,
    /// What lies behind the last whole block: kept until `flush`, because it cannot be written directly.
    pub(super) tail: Vec<u8>,
    /// The folder must learn of a file that was made.
    pub(super) unsynced_folder: bool,
}

pub(super) fn set_size(path: &Path, opened: &Opened, size: u64) -> Result<()> {
    rustix::fs::ftruncate(&opened.fd, size).map_err(|errno| Error::on_range("set the size", path, 0, size, errno))
}

impl Shared {
    /// Checks a range; returns how many of its bytes are whole blocks.
    pub(super) fn check(&self, offset: u64, len: u64) -> Result<u64> {
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

    pub(super) fn zero(&self, range: &Range<u64>) -> Result<(), Errno> {
        let file = &self.opened.fd;
        let done = match self.opened.geometry.kind {
            Kind::Device => zero::device(file, range),
            _ => zero::file(file, range),
        };
        match done {
            Err(errno) if zero::is_unknown(errno) => {}
            done => return done,
        }
        self.write_zeros(range)
    }

    pub(super) fn write_zeros(&self, range: &Range<u64>) -> Result<(), Errno> {
        let zeros = match self.zeros.get() {
            Some(zeros) => zeros,
            None => {
                let pool = BufferPool::new(ZERO_BYTES, 1).map_err(|_| Errno::NOMEM)?;
                self.zeros.get_or_init(|| pool.take())
            }
        };
        zero::write(&self.opened.fd, range, zeros)
    }

    pub(super) fn make_durable(&self, tail: &[u8], sync_folder: bool) -> Result<()> {
        let Self { path, size, opened, .. } = self;
        if !tail.is_empty() {
            // Through the page cache, which keeps what else is in the last block of a device.
            self.write_buffered(size - tail.len() as u64, tail)?;
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

    pub(super) fn write_buffered(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Self { path, opened, .. } = self;
        let failed = |errno| Error::on_range("write", path, offset, bytes.len() as u64, errno);
        let file = geometry::buffered(&opened.fd, path, OFlags::RDWR)?;
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::pwrite(&file, &bytes[written..], offset + written as u64) {
                Ok(0) => return Err(failed(Errno::IO)),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn latch(&self, error: Error) {
        let mut state = self.state.lock();
        if state.error.is_none() {
            state.error = Some(error);
        }
        self.idle.notify_all();
    }

    pub(super) fn error(&self) -> Error {
        self.state.lock().error.clone().unwrap_or_else(|| self.stopped("for no known reason"))
    }

    pub(super) fn stopped(&self, why: &str) -> Error {
        Error::Stopped { path: self.path.clone(), why: why.to_owned() }
    }

    pub(super) fn release(&self) {
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

//! Reading ranges of a source with a deep queue.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::buffer::{Buffer, BufferPool};
use crate::engine::{EngineInfo, Running, Work};
use crate::pieces::{Disordered, Pieces};
use crate::request::{Op, Request};
use crate::source::Opening;
use crate::wake::Waker;
use crate::{Error, Result};

/// Bytes that were read.
#[derive(Debug)]
pub struct ReadDone {
    /// Where they lie in the source: a multiple of the unit.
    pub offset: u64,
    /// The bytes, `buffer.len()` of them.
    pub buffer: Buffer,
}

/// Reads in flight and their results.
///
/// Results come through [`Self::receiver`], whose clones any number of threads may take from; their order is free but
/// roughly ascending. The channel ends in one of two ways: after everything was delivered, or after one `Err`. So a
/// reading is complete if and only if no receiver saw an error. An error is delivered also when the source changed its
/// size meanwhile, when an engine thread died, and when a range was not in order.
///
/// Dropping the reader cancels what was not yet read and waits for what is in flight; receivers that are left see the
/// end of the channel.
pub struct Reader {
    receiver: Receiver<Result<ReadDone>>,
    cancel: Cancel,
    running: Running,
}

/// Ends a reading early.
#[derive(Clone)]
pub(crate) struct Cancel {
    stop: Arc<AtomicBool>,
    pub(crate) waker: Arc<Waker>,
    pool: BufferPool,
}

impl Cancel {
    pub(crate) fn new(pool: &BufferPool) -> Result<Self, Errno> {
        Ok(Self { stop: Arc::default(), waker: Arc::new(Waker::new()?), pool: pool.clone() })
    }

    pub(crate) fn is_set(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.force();
        self.pool.interrupt();
    }

    pub(crate) fn take_buffer(&self) -> Option<Buffer> {
        self.pool.take_unless(|| self.is_set())
    }
}

impl Reader {
    pub(crate) fn new(receiver: Receiver<Result<ReadDone>>, cancel: Cancel, running: Running) -> Self {
        Self { receiver, cancel, running }
    }

    /// The results. Clone it for each thread that takes from it.
    pub fn receiver(&self) -> &Receiver<Result<ReadDone>> {
        &self.receiver
    }

    /// The engine that carries this reading out.
    pub fn engine(&self) -> &EngineInfo {
        &self.running.info
    }
}

impl Iterator for Reader {
    type Item = Result<ReadDone>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.recv().ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.cancel.set();
        // `running` is dropped next and waits for the engine.
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("engine", self.engine()).finish_non_exhaustive()
    }
}

/// Where results go: delivers each, and the first error as the last.
pub(crate) struct Delivery {
    sender: Sender<Result<ReadDone>>,
    failed: AtomicBool,
}

impl Delivery {
    /// A channel that takes all buffers of the pool and the error, so that delivering never waits.
    pub(crate) fn new(pool: &BufferPool) -> (Self, Receiver<Result<ReadDone>>) {
        let (sender, receiver) = crossbeam_channel::bounded(pool.count() + 1);
        (Self { sender, failed: AtomicBool::new(false) }, receiver)
    }

    pub(crate) fn deliver(&self, offset: u64, buffer: Buffer) {
        // Fails only when all receivers are gone; the buffer goes back to its pool.
        let _ = self.sender.try_send(Ok(ReadDone { offset, buffer }));
    }

    pub(crate) fn fail(&self, error: Error) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            let _ = self.sender.try_send(Err(error));
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

type Ranges = Box<dyn Iterator<Item = Range<u64>> + Send>;

/// The work of an engine that reads ranges of a source.
pub(crate) struct Reading {
    pub(crate) source: Arc<Opening>,
    pub(crate) pieces: Mutex<Pieces<Ranges>>,
    pub(crate) delivery: Delivery,
    pub(crate) cancel: Cancel,
    /// All pieces were handed out.
    pub(crate) exhausted: AtomicBool,
}

impl Reading {
    fn is_over(&self) -> bool {
        self.cancel.is_set() || self.delivery.has_failed() || self.exhausted.load(Ordering::Acquire)
    }

    /// The read of the next piece, into `buffer`.
    fn request(&self, buffer: Buffer) -> Option<Request> {
        let piece = match self.pieces.lock().next() {
            Some(Ok(piece)) => piece,
            Some(Err(Disordered(range))) => {
                let why = format!("range {}..{} is not behind the one before it", range.start, range.end);
                self.delivery.fail(Error::invalid(&self.source.identity.path, why));
                return None;
            }
            None => {
                self.exhausted.store(true, Ordering::Release);
                return None;
            }
        };
        let wanted = (piece.end - piece.start) as usize;
        Some(Request::new(Op::Read, piece.start, wanted.next_multiple_of(self.source.opened.block()), wanted, buffer))
    }
}

impl Work for Reading {
    fn next(&self) -> Option<Request> {
        if self.is_over() {
            return None;
        }
        // The buffer first: pieces are then asked for in order.
        let buffer = self.cancel.take_buffer()?;
        if self.is_over() {
            return None;
        }
        self.request(buffer)
    }

    fn try_next(&self) -> Poll<Option<Request>> {
        if self.is_over() {
            return Poll::Ready(None);
        }
        match self.cancel.pool.take_or_wake(&self.cancel.waker) {
            Some(buffer) => Poll::Ready(self.request(buffer)),
            None => Poll::Pending,
        }
    }

    fn done(&self, mut request: Request, result: Result<usize, Errno>) {
        if self.delivery.has_failed() {
            return;
        }
        let result = match result {
            // A filesystem that takes O_DIRECT and refuses the read, or an odd end of a device.
            Err(Errno::INVAL) if self.source.opened.direct => self.source.read_buffered(&mut request),
            result => result,
        };
        match self.source.judge(request.offset, request.wanted, result) {
            Ok(()) => {
                request.buffer.set_len(request.wanted);
                self.delivery.deliver(request.offset, request.buffer);
            }
            Err(e) => self.delivery.fail(e),
        }
    }

    fn broken(&self, why: &str) {
        self.delivery.fail(Error::Stopped { path: self.source.identity.path.clone(), why: why.to_owned() });
    }

    fn finished(&self) {
        if self.cancel.is_set() || self.delivery.has_failed() {
            return;
        }
        if !self.exhausted.load(Ordering::Acquire) {
            self.broken("it ended before everything was read");
        } else if let Err(e) = self.source.recheck() {
            self.delivery.fail(e);
        }
    }
}

//! The buffers packs are built in. There are so many and no more: when all are on their way to storage, who wants
//! one waits, and so the whole pipeline keeps its pace.

use crate::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Buffers begin at a multiple of this, so that storage may write them past the page cache.
const ALIGN: usize = 4096;
/// Who waits for a buffer looks so often whether none is given any more.
const LOOK: Duration = Duration::from_millis(100);

/// A fixed number of buffers of one size.
#[derive(Debug)]
pub(crate) struct PackPool {
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
    capacity: usize,
    closed: AtomicBool,
}

/// A buffer on loan.
#[derive(Debug)]
pub(crate) struct PackBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    back: Sender<Vec<u8>>,
}

impl PackPool {
    /// `count` buffers of `capacity` bytes each.
    pub(crate) fn new(count: usize, capacity: usize) -> Arc<Self> {
        let (back, free) = bounded(count);
        for _ in 0..count {
            // Room in a channel as long as the pool is whole; memory is touched only when it is used.
            let _ = back.try_send(Vec::new());
        }
        Arc::new(Self { free, back, capacity, closed: AtomicBool::new(false) })
    }

    /// Bytes a buffer holds.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// From now on no buffer is given, and nobody waits for one.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether that was said.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits for a free buffer. `Cancelled` when the pool is closed.
    pub(crate) fn take(&self) -> Result<PackBuffer> {
        let mut memory = loop {
            if self.is_closed() {
                return Err(Error::new(ErrorKind::Cancelled, "the run was asked to end: no further pack is begun"));
            }
            match self.free.recv_timeout(LOOK) {
                Ok(memory) => break memory,
                Err(RecvTimeoutError::Timeout) => {}
                // Not as long as the pool lives: it has a sender itself.
                Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("a pool of buffers has none")),
            }
        };
        if memory.is_empty() {
            memory = vec![0; self.capacity + ALIGN];
        }
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Ok(PackBuffer { memory, start, len: 0, back: self.back.clone() })
    }
}

impl PackBuffer {
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len.min(self.memory.len() - self.start);
    }

    /// A buffer of nothing, to stand in the place of one that moves on.
    pub(crate) fn give_up(&self) -> Self {
        Self { memory: Vec::new(), start: 0, len: 0, back: bounded(0).0 }
    }

    pub(crate) fn all(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

impl AsRef<[u8]> for PackBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl Drop for PackBuffer {
    fn drop(&mut self) {
        let _ = self.back.try_send(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = PackPool::new(2, 10_000);
        let (mut a, b) = (pool.take().unwrap(), pool.take().unwrap());
        a.set_len(7);
        assert_eq!((a.as_ref().len(), a.as_ref().as_ptr() as usize % ALIGN), (7, 0));
        assert!(pool.free.is_empty(), "there are two and no more");
        drop(bytes::Bytes::from_owner(a));
        drop(b);
        assert_eq!(pool.free.len(), 2);
    }

    #[test]
    fn nobody_waits_for_a_buffer_of_a_closed_pool() {
        let pool = PackPool::new(1, 10_000);
        let all = pool.take().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| pool.take().is_err());
            pool.close();
            assert!(waits.join().unwrap());
        });
        drop(all);
        assert!(pool.take().is_err(), "also when one is free");
    }
}

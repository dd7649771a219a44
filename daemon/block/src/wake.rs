//! Wakes an engine thread that waits in the kernel for its transfers.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// An eventfd that a ring or a `poll` can wait for, written to only while somebody said that it waits.
#[derive(Debug)]
pub(crate) struct Waker {
    event: OwnedFd,
    waiting: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> Result<Self, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, waiting: AtomicBool::new(false) })
    }

    /// Asks for the next [`Self::wake`] to be delivered. The caller must look for work once more after this call, because
    /// what came before it was not announced.
    pub(crate) fn expect(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Makes the descriptor readable if somebody waits.
    pub(crate) fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.force();
        }
    }

    /// Makes the descriptor readable in any case.
    pub(crate) fn force(&self) {
        // Fails only when the counter is full, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable again.
    pub(crate) fn clear(&self) {
        let mut count = [0u8; 8];
        // Fails only when nobody woke us, which is the state wanted.
        let _ = rustix::io::read(&self.event, &mut count);
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.event
    }
}

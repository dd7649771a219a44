//! The io_uring engine: one thread owns one ring and everything that is in flight on it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{Builder, JoinHandle};

use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::io::Errno;

use crate::buffer::BufferPool;
use crate::engine::{Channel, Exit};
use crate::request::{Op, Request, Step};
use crate::wake::Waker;

/// Marks the completion that says "look for new work", not a transfer.
const WAKE: u64 = u64::MAX;

/// A ring that was tried out and is ready for `depth` transfers.
pub(crate) struct Ring {
    ring: IoUring,
    depth: usize,
    /// The pool whose buffers are registered.
    fixed: Option<BufferPool>,
}

impl Ring {
    /// Opens a ring, checks that the kernel has all that is needed and that a round trip works, and registers `pool` with
    /// it if the limit of locked memory allows. The error is a reason for people.
    pub(crate) fn open(depth: usize, pool: Option<&BufferPool>) -> Result<Self, String> {
        // One more than transfers: the wake-up.
        let entries = (depth as u32 + 1).next_power_of_two();
        let mut ring = IoUring::new(entries).map_err(|e| explain("io_uring_setup", &e))?;
        let mut known = Probe::new();
        ring.submitter().register_probe(&mut known).map_err(|e| explain("the kernel is too old: probing", &e))?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::ReadFixed::CODE,
            opcode::WriteFixed::CODE,
            opcode::PollAdd::CODE,
        ];
        if let Some(code) = needed.iter().find(|code| !known.is_supported(**code)) {
            return Err(format!("the kernel is too old: operation {code} is missing"));
        }
        // A filter may allow the setup and deny the rest.
        // SAFETY: a no-op refers to no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(|_| "a new ring is full".to_owned())?;
        ring.submit_and_wait(1).map_err(|e| explain("io_uring_enter", &e))?;
        ring.completion().next().ok_or("a no-op did not complete")?;

        let fixed = pool.filter(|pool| {
            // SAFETY: the vectors describe the mapping of the pool, which lives as long as the ring: `fixed` holds it,
            // and is dropped after `ring` (order of the fields).
            match unsafe { ring.submitter().register_buffers(&pool.io_vectors()) } {
                Ok(()) => true,
                Err(e) => {
                    tracing::debug!(error = %e, "buffers not registered with the ring, plain ones are used");
                    false
                }
            }
        });
        Ok(Self { ring, depth, fixed: fixed.cloned() })
    }

    pub(crate) fn describe(&self) -> String {
        let kind = if self.fixed.is_some() { "registered" } else { "plain" };
        format!("io_uring with {kind} buffers")
    }

    /// Starts the thread that works until there is no more to do.
    pub(crate) fn spawn(self, channel: Channel, waker: Arc<Waker>, exit: Exit) -> io::Result<JoinHandle<()>> {
        let slots = (0..self.depth).map(|_| None).collect();
        let free = (0..self.depth).rev().collect();
        let in_flight = InFlight { ring: self.ring, slots, free, lost: false, channel, waker, fixed: self.fixed };
        Builder::new().name("wherry-ring".into()).spawn(move || {
            // Moved in last, dropped last: "finished" is said when nothing is in flight any more.
            let exit = exit;
            let mut in_flight = in_flight;
            in_flight.run(&exit);
        })
    }
}

pub(crate) fn explain(what: &str, error: &io::Error) -> String {
    let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => ": denied by kernel.io_uring_disabled or a seccomp filter",
        Some(Errno::NOSYS) => ": not in this kernel, or denied by a seccomp filter",
        Some(Errno::NOMEM) => ": the limit of locked memory is too low",
        _ => "",
    };
    format!("{what}: {error}{hint}")
}

/// The table of transfers in flight. It owns their buffers, so the kernel never writes to memory somebody else has.
struct InFlight {
    // Dropped before `channel` and `fixed`: the kernel lets go of file and buffers first.
    ring: IoUring,
    slots: Vec<Option<Request>>,
    free: Vec<usize>,
    /// The kernel no longer tells what became of the transfers.
    lost: bool,
    channel: Channel,
    waker: Arc<Waker>,
    fixed: Option<BufferPool>,
}

impl InFlight {
    fn run(&mut self, exit: &Exit) {
        let work = exit.work();
        let mut answers = Vec::with_capacity(self.slots.len() + 1);
        let (mut ended, mut listening) = (false, false);
        loop {
            while !ended && let Some(slot) = self.free.last().copied() {
                match work.try_next() {
                    Poll::Ready(Some(request)) => {
                        self.free.pop();
                        self.slots[slot] = Some(request);
                        self.submit(slot);
                    }
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            if ended && self.is_idle() {
                return;
            }
            if !ended && !listening {
                self.listen();
                listening = true;
            }
            if let Err(e) = self.wait(&mut answers) {
                self.lost = true;
                work.broken(&format!("io_uring_enter: {e}"));
                return;
            }
            for (tag, result) in answers.drain(..) {
                if tag == WAKE {
                    // Cleared before the next look for work: what comes later wakes again.
                    self.waker.clear();
                    listening = false;
                } else if let Some((request, result)) = self.complete(tag as usize, result) {
                    work.done(request, result);
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Puts the outstanding part of the transfer in `slot` into the submission queue.
    fn submit(&mut self, slot: usize) {
        let Some(request) = &mut self.slots[slot] else { return };
        let fd = types::Fd(self.channel.file.as_raw_fd());
        let (pointer, len) = (request.pointer(), request.remaining() as u32);
        let fixed = self.fixed.as_ref().is_some_and(|pool| pool.is(request.buffer.pool()));
        // At most 16384 buffers in a pool.
        let index = request.buffer.index() as u16;
        let offset = request.position();
        let entry = match (request.op, fixed) {
            (Op::Read, true) => opcode::ReadFixed::new(fd, pointer, len, index).offset(offset).build(),
            (Op::Read, false) => opcode::Read::new(fd, pointer, len).offset(offset).build(),
            (Op::Write, true) => opcode::WriteFixed::new(fd, pointer, len, index).offset(offset).build(),
            (Op::Write, false) => opcode::Write::new(fd, pointer, len).offset(offset).build(),
        };
        self.push(entry.user_data(slot as u64));
    }

    /// Asks to be woken when there is new work.
    fn listen(&mut self) {
        let fd = types::Fd(self.waker.fd().as_raw_fd());
        self.push(opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(WAKE));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the entry refers to the file of the channel or the waker, which outlive the ring (order of the fields),
        // and, for a transfer, to `remaining()` bytes of a buffer that stays in its slot, untouched, until its
        // completion was seen; `Drop` waits for the completions, or gives the memory up for good.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // Cannot be, there is an entry for each slot and one for the waker. Were it full, submitting makes room.
            let _ = self.ring.submit();
        }
    }

    /// Submits what was pushed and waits until at least one answer is there.
    fn wait(&mut self, answers: &mut Vec<(u64, i32)>) -> io::Result<()> {
        loop {
            let waited = self.ring.submit_and_wait(1);
            answers.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
            match waited {
                _ if !answers.is_empty() => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Short of memory for the moment.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => std::thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes a transfer that is over out of the table; one that is not is submitted again.
    fn complete(&mut self, slot: usize, result: i32) -> Option<(Request, Result<usize, Errno>)> {
        let request = self.slots.get_mut(slot)?.as_mut()?;
        // A negative result is a negated errno.
        let answer = usize::try_from(result).map_err(|_| Errno::from_raw_os_error(result.wrapping_neg()));
        match request.advance(answer, self.channel.alignment) {
            Step::Again => {
                self.submit(slot);
                None
            }
            Step::Finished(result) => {
                self.free.push(slot);
                Some((self.slots[slot].take()?, result))
            }
        }
    }
}

impl Drop for InFlight {
    /// Waits for all that is in flight: the kernel must be done with a buffer before it goes back to its pool.
    fn drop(&mut self) {
        let mut answers = Vec::new();
        while !self.lost && !self.is_idle() {
            if self.wait(&mut answers).is_err() {
                self.lost = true;
            }
            for (tag, _) in answers.drain(..) {
                let slot = tag as usize;
                if tag != WAKE && self.slots.get_mut(slot).is_some_and(|slot| slot.take().is_some()) {
                    self.free.push(slot);
                }
            }
        }
        if self.lost {
            // The kernel may still write to these buffers: they must never be handed out again.
            self.slots.drain(..).for_each(std::mem::forget);
        }
    }
}

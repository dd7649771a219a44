//! One transfer and how its answers are judged, the same for both engines.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::buffer::Buffer;

/// How often a transfer may be turned away (EAGAIN, EINTR) in a row before that counts as an error.
const MAX_RETRIES: u32 = 10_000;

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write,
}

/// A transfer of the first `len` bytes of `buffer` from or to `offset`, and how far it has come.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// Bytes that count of those transferred: less than `len` when a read is rounded up to the alignment of the device.
    pub(crate) wanted: usize,
    pub(crate) buffer: Buffer,
    done: usize,
    retries: u32,
}

/// What is to be done after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send the rest (again).
    Again,
    /// Over, with the number of bytes transferred. A read may end short, at the end of the file; a write never does.
    Finished(Result<usize, Errno>),
}

impl Request {
    /// A transfer of `len` <= `buffer.capacity()` bytes, of which `wanted` <= `len` count.
    pub(crate) fn new(op: Op, offset: u64, len: usize, wanted: usize, mut buffer: Buffer) -> Self {
        let len = len.min(buffer.capacity());
        buffer.set_len(len);
        Self { op, offset, len, wanted: wanted.min(len), buffer, done: 0, retries: 0 }
    }

    /// Begins again, with `len` bytes.
    pub(crate) fn restart(&mut self, len: usize) {
        self.len = len.min(self.buffer.capacity());
        self.buffer.set_len(self.len);
        self.done = 0;
    }

    /// Where the part still to be transferred begins in the device.
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.done as u64
    }

    /// Bytes still to be transferred.
    pub(crate) fn remaining(&self) -> usize {
        self.len - self.done
    }

    /// Where the part still to be transferred begins in memory: `remaining()` bytes that the buffer owns.
    pub(crate) fn pointer(&mut self) -> *mut u8 {
        self.buffer.as_mut_ptr().wrapping_add(self.done)
    }

    /// Takes the system's answer to the part that was outstanding. `alignment` is what offsets must be a multiple of.
    pub(crate) fn advance(&mut self, answer: Result<usize, Errno>, alignment: usize) -> Step {
        match answer {
            Err(Errno::INTR | Errno::AGAIN) if self.retries < MAX_RETRIES => {
                self.retries += 1;
                Step::Again
            }
            Err(errno) => Step::Finished(Err(errno)),
            // More than was asked for cannot be: do not believe any of it.
            Ok(count) if count > self.remaining() => Step::Finished(Err(Errno::IO)),
            // Nothing is the end of the file, for a write it is no progress; neither may loop.
            Ok(0) => Step::Finished(if self.op == Op::Read { Ok(self.done) } else { Err(Errno::IO) }),
            Ok(count) => {
                self.done += count;
                self.retries = 0;
                let enough = if self.op == Op::Read { self.wanted } else { self.len };
                if self.done >= enough {
                    return Step::Finished(Ok(self.done));
                }
                if self.done.is_multiple_of(alignment) {
                    return Step::Again;
                }
                // The rest begins at a place that cannot be asked for directly. A read came to the end of the file; a
                // write stopped in the middle of a block.
                Step::Finished(if self.op == Op::Read { Ok(self.done) } else { Err(Errno::IO) })
            }
        }
    }

    /// Carries the transfer out in the calling thread.
    pub(crate) fn run(&mut self, file: &OwnedFd, alignment: usize) -> Result<usize, Errno> {
        loop {
            let (from, position) = (self.done, self.position());
            let answer = match self.op {
                Op::Read => rustix::io::pread(file, &mut self.buffer[from..], position),
                Op::Write => rustix::io::pwrite(file, &self.buffer[from..], position),
            };
            if let Step::Finished(result) = self.advance(answer, alignment) {
                return result;
            }
        }
    }
}

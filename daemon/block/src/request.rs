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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::BufferPool;

    const BLOCK: usize = 512;

    /// Plays `answers` to a transfer of `len` bytes at 4096; returns how it ended and what was asked for meanwhile.
    fn play(
        op: Op,
        len: usize,
        wanted: usize,
        answers: &[Result<usize, Errno>],
    ) -> (Option<Result<usize, Errno>>, Vec<(u64, usize)>) {
        let pool = BufferPool::new(8192, 1).unwrap();
        let mut request = Request::new(op, 4096, len, wanted, pool.take());
        let start = request.pointer() as usize;
        let mut asked = Vec::new();
        for answer in answers {
            let (position, rest) = (request.position(), request.remaining());
            assert_eq!(request.pointer() as usize - start, (position - 4096) as usize);
            asked.push((position, rest));
            if let Step::Finished(result) = request.advance(*answer, BLOCK) {
                return (Some(result), asked);
            }
        }
        (None, asked)
    }

    #[test]
    fn short_transfers_go_on_where_they_stopped() {
        for op in [Op::Read, Op::Write] {
            let (end, asked) = play(op, 8192, 8192, &[Ok(1024), Ok(4096), Ok(3072)]);
            assert_eq!(end, Some(Ok(8192)));
            assert_eq!(asked, [(4096, 8192), (5120, 7168), (9216, 3072)]);
        }
    }

    #[test]
    fn interrupted_transfers_are_sent_again_but_not_for_ever() {
        let (end, asked) = play(Op::Read, 4096, 4096, &[Err(Errno::INTR), Err(Errno::AGAIN), Ok(4096)]);
        assert_eq!(end, Some(Ok(4096)));
        assert_eq!(asked, [(4096, 4096); 3]);
        let (end, asked) = play(Op::Write, 4096, 4096, &[Err(Errno::AGAIN); 20_000]);
        assert_eq!(end, Some(Err(Errno::AGAIN)));
        assert_eq!(asked.len(), MAX_RETRIES as usize + 1);
    }

    #[test]
    fn errors_end_a_transfer_at_once_also_after_progress() {
        assert_eq!(play(Op::Read, 4096, 4096, &[Err(Errno::IO), Ok(4096)]).0, Some(Err(Errno::IO)));
        assert_eq!(play(Op::Write, 4096, 4096, &[Ok(512), Err(Errno::NOSPC)]).0, Some(Err(Errno::NOSPC)));
    }

    #[test]
    fn nothing_is_the_end_of_a_file_for_a_read_and_an_error_for_a_write() {
        assert_eq!(play(Op::Read, 8192, 8192, &[Ok(4096), Ok(0)]).0, Some(Ok(4096)));
        assert_eq!(play(Op::Write, 8192, 8192, &[Ok(4096), Ok(0)]).0, Some(Err(Errno::IO)));
    }

    #[test]
    fn a_read_is_over_with_the_bytes_wanted_a_write_with_all() {
        assert_eq!(play(Op::Read, 4096, 1000, &[Ok(1000)]).0, Some(Ok(1000)));
        assert_eq!(play(Op::Read, 4096, 1000, &[Ok(999)]).0, Some(Ok(999)));
        assert_eq!(play(Op::Read, 4096, 1000, &[Ok(512)]).0, None);
        assert_eq!(play(Op::Write, 4096, 4096, &[Ok(1000)]).0, Some(Err(Errno::IO)));
    }

    #[test]
    fn more_than_asked_for_is_not_believed() {
        assert_eq!(play(Op::Read, 4096, 4096, &[Ok(4097)]).0, Some(Err(Errno::IO)));
    }
}

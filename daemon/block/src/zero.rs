//! Making ranges of a target read as zero, for certain: a discard is none of the ways.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, opcode};

use crate::buffer::Buffer;

/// `BLKZEROOUT`: its argument is `uint64_t range[2]`, start and length in bytes.
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

/// Whether a way to zero a range is one the device or filesystem does not know.
pub(crate) fn is_unknown(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS)
}

/// Zeroes a range of a block device, aligned to its logical blocks. The kernel sends "write zeroes" if the device knows
/// that, else writes zeros; either way the range reads as zero afterwards.
pub(crate) fn device(fd: &OwnedFd, range: &Range<u64>) -> Result<(), Errno> {
    // SAFETY: BLKZEROOUT takes a pointer to two 64-bit words, which it only reads.
    let call = unsafe { Setter::<BLKZEROOUT, [u64; 2]>::new([range.start, range.end - range.start]) };
    // SAFETY: the opcode and its argument belong together, see above; on anything but a block device it fails.
    unsafe { rustix::ioctl::ioctl(fd.as_fd(), call) }
}

/// Zeroes a range of a regular file by cutting a hole, or else by marking it unwritten. Its size stays.
pub(crate) fn file(fd: &OwnedFd, range: &Range<u64>) -> Result<(), Errno> {
    let len = range.end - range.start;
    match rustix::fs::fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range.start, len) {
        Err(errno) if is_unknown(errno) => {
            rustix::fs::fallocate(fd, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, range.start, len)
        }
        result => result,
    }
}

/// Writes `zeros` over a range, again and again.
pub(crate) fn write(fd: &OwnedFd, range: &Range<u64>, zeros: &Buffer) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(zeros.len() as u64) as usize;
        match rustix::io::pwrite(fd, &zeros[..len], at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => at += count as u64,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

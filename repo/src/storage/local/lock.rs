//! One process at a time: a lock that the kernel takes back from a process that ends, however it ends.

use super::hand_over;
use crate::{Error, ErrorKind, Result};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The file in the root; `_` keeps it apart from every key.
pub(super) const NAME: &str = "_lock";

/// What a holder says of itself is not longer (bytes).
const LONGEST: usize = 1024;

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// Takes the lock. The outer error is one of the filesystem; the inner result is the storage's answer.
pub(super) fn lock(root: BorrowedFd<'_>, holder: &str) -> Result<Result<Option<Lock>>, Errno> {
    // It is never removed: two processes could then hold two files of one name.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = OFlags::CREATE | OFlags::EXCL;
    let file = match rustix::fs::openat(root, NAME, flags | new, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => {
            let file = rustix::fs::openat(root, NAME, flags | OFlags::NONBLOCK, Mode::empty())?;
            let stat = rustix::fs::fstat(&file)?;
            // By another name it is another's file, and not one to be emptied.
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
                return Err(Errno::LOOP);
            }
            file
        }
        file => {
            let file = file?;
            hand_over(root, &file);
            file
        }
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = [0; LONGEST];
            let len = rustix::io::pread(&file, &mut text, 0).unwrap_or(0);
            let holder = String::from_utf8_lossy(&text[..len]).trim().to_owned();
            return Ok(Err(Error::new(ErrorKind::Busy, holder)));
        }
        // A filesystem that knows no locks.
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(Ok(None)),
        Err(errno) => return Err(errno),
    }
    // For people only; the lock holds whatever the file says.
    let _ = rustix::fs::ftruncate(&file, 0);
    let _ = rustix::io::pwrite(&file, holder.as_bytes(), 0);
    Ok(Ok(Some(Lock { _file: file })))
}

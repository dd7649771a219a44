//! What can go wrong with a device or image file, in the kinds a caller acts on.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed open, read or write. Cheap to clone: a sink keeps its first error and returns it from then on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Somebody else uses the device or file; nothing was written.
    #[error("{path} is busy: {by}; unmount or close it and run again", path = path.display())]
    Busy {
        /// Device or file.
        path: PathBuf,
        /// Who holds it.
        by: String,
    },
    /// The target cannot hold the data.
    #[error("{path} is too small: it holds {size} bytes, {needed} are needed; name a larger one", path = path.display())]
    TooSmall {
        /// Device.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// Bytes to be written.
        needed: u64,
    },
    /// A request that cannot be met as it stands: wrong kind of file, wrong alignment, ranges out of order.
    #[error("{path}: {why}", path = path.display())]
    Invalid {
        /// Device or file.
        path: PathBuf,
        /// What is wrong with the request.
        why: String,
    },
    /// Device or filesystem is read-only.
    #[error("{path} is read-only; make it writable, or name another one", path = path.display())]
    ReadOnly {
        /// Device or file.
        path: PathBuf,
    },
    /// No such device or file, or no such folder to make the file in.
    #[error("{path} does not exist; check the path", path = path.display())]
    NotFound {
        /// Device, file or folder.
        path: PathBuf,
    },
    /// A file that was to be made is there already.
    #[error("{path} exists already; name another file, or remove this one", path = path.display())]
    Exists {
        /// File.
        path: PathBuf,
    },
    /// The system denies access.
    #[error("no permission to open {path}: {errno}; run as root or as a user with access to it", path = path.display())]
    Denied {
        /// Device or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        errno: Errno,
    },
    /// The size of the source changed while it was read, so what was read is no state the source ever had.
    #[error(
        "{path} changed its size from {was} to {now} bytes while it was read; \
         run again when it keeps still, or read a snapshot of it",
        path = path.display()
    )]
    Changed {
        /// Device or file.
        path: PathBuf,
        /// Bytes when it was opened.
        was: u64,
        /// Bytes now.
        now: u64,
    },
    /// A read ended before the end of the source although its size is unchanged.
    #[error("read of {len} bytes at {offset} of {path} ended after {got} bytes; check the device", path = path.display())]
    ShortRead {
        /// Device or file.
        path: PathBuf,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A stream is not as long as was said: whoever writes to it failed, or it is another one.
    #[error(
        "{path} {} the {size} bytes of --size; nothing was committed: see what the command before it said, and run both again",
        ended(*read, *size),
        path = path.display()
    )]
    Length {
        /// Stands for the stream.
        path: PathBuf,
        /// Bytes that were said.
        size: u64,
        /// Bytes that were read: up to its end, or more than those.
        read: u64,
    },
    /// The system reported an error for a transfer.
    #[error("{op} of {len} bytes at {offset} of {path} failed: {errno}{}", hint(*errno), path = path.display())]
    Io {
        /// What was done: open, read, write, zero, flush, ...
        op: &'static str,
        /// Device or file.
        path: PathBuf,
        /// First byte concerned.
        offset: u64,
        /// Bytes concerned.
        len: u64,
        /// What the system said.
        #[source]
        errno: Errno,
    },
    /// An engine that was asked for by name is not to be had on this system.
    #[error("the {engine} engine cannot be used here: {why}; use --engine auto or threads")]
    Unsupported {
        /// Engine.
        engine: &'static str,
        /// Why not.
        why: String,
    },
    /// Memory for buffers could not be had.
    #[error("no memory for {bytes} bytes of buffers: {errno}; lower --memory")]
    NoMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What the system said.
        #[source]
        errno: Errno,
    },
    /// A thread of the engine ended before its work was done. Nothing after it can be trusted to have happened.
    #[error("the engine that works on {path} stopped: {why}; run again, with --engine threads if it stays so", path = path.display())]
    Stopped {
        /// Device or file.
        path: PathBuf,
        /// Why, as far as known.
        why: String,
    },
}

/// How far a stream came that is not as long as was said.
fn ended(read: u64, size: u64) -> String {
    if read < size { format!("ended after {read} of") } else { format!("goes on, {read} bytes were read, behind") }
}

/// What to do about it, where that is known.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOSPC | Errno::DQUOT => "; make room there and run the same command again",
        Errno::IO => "; check the device, the kernel log has the cause",
        _ => "",
    }
}

impl Error {
    /// The error for a failed open, stat or other call on `path` that concerns no range of bytes.
    pub(crate) fn on_path(op: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::NOENT | Errno::NOTDIR => Self::NotFound { path },
            Errno::EXIST => Self::Exists { path },
            Errno::ROFS => Self::ReadOnly { path },
            Errno::ACCESS | Errno::PERM => Self::Denied { path, errno },
            Errno::BUSY | Errno::TXTBSY => Self::Busy { path, by: "another program holds it".into() },
            _ => Self::Io { op, path, offset: 0, len: 0, errno },
        }
    }

    /// The error for a failed transfer.
    pub(crate) fn on_range(op: &'static str, path: &Path, offset: u64, len: u64, errno: Errno) -> Self {
        Self::Io { op, path: path.to_owned(), offset, len, errno }
    }

    pub(crate) fn invalid(path: &Path, why: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let path = || PathBuf::from("/dev/x");
        for error in [
            Error::Busy { path: path(), by: "mounted".into() },
            Error::TooSmall { path: path(), size: 1, needed: 2 },
            Error::ReadOnly { path: path() },
            Error::NotFound { path: path() },
            Error::Exists { path: path() },
            Error::Denied { path: path(), errno: Errno::PERM },
            Error::Changed { path: path(), was: 1, now: 2 },
            Error::ShortRead { path: path(), offset: 1, len: 2, got: 1 },
            Error::Length { path: path(), size: 2, read: 1 },
            Error::Io { op: "read", path: path(), offset: 1, len: 2, errno: Errno::IO },
            Error::Unsupported { engine: "ring", why: "it is off".into() },
            Error::NoMemory { bytes: 1, errno: Errno::NOMEM },
            Error::Stopped { path: path(), why: "a panic".into() },
        ] {
            let text = error.to_string();
            let next = text.split_once("; ").map(|(_, next)| next);
            assert!(next.is_some_and(|next| next.len() > 10), "no next step: {text}");
        }
    }
}

//! The folder of one repository in the cache directory: its lock, its room, and errors that name it.

use crate::{Error, ErrorKind, RepositoryId, Result};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Held while the database is in use.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing alone: a process that is just being started may hold a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

/// The folder of one repository in the cache directory, and what lies in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// Bytes of free disk that the database wants beside what it has.
    wanted: u64,
}

impl Place {
    pub(super) fn new(dir: &Path, repository: &RepositoryId, wanted: u64) -> Self {
        Self { folder: dir.join(repository.to_string()), wanted }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join("index")
    }

    pub(super) fn damaged(&self) -> PathBuf {
        self.folder.join("index.damaged")
    }

    /// Makes the folder and takes the lock. The lock file is never removed: two holders could have two files.
    pub(super) fn lock(&self) -> Result<Lock> {
        let path = self.folder.join("index.lock");
        let failed = |e| from_io(e, &path, "cannot be made");
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed)?;
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(busy(&self.folder)),
            Err(TryLockError::Error(e)) => Err(from_io(e, &path, "cannot be locked")),
        }
    }

    pub(super) fn remove_database(&self) -> Result<()> {
        for removed in [fs::remove_dir_all(self.database()), fs::remove_file(self.damaged())] {
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(from_io(e, &self.database(), "cannot be removed"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether there is anything where the database belongs.
    pub(super) fn is_empty(&self) -> Result<bool> {
        match fs::read_dir(self.database()) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(from_io(e, &self.database(), "cannot be read")),
        }
    }

    /// `Full` when what makes the database wait is a disk that has no room left.
    pub(super) fn check_space(&self) -> Result<()> {
        const LEAST: u64 = 1 << 20;
        if self.free() < LEAST { Err(self.full("it waits for room")) } else { Ok(()) }
    }

    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// RocksDB tells the cause of an I/O error in its text alone.
    pub(super) fn db_failure(&self, error: &rocksdb::Error) -> Error {
        let text = error.as_ref();
        let says = |needles: &[&str]| needles.iter().any(|n| text.contains(n));
        let at = self.folder.display();
        if says(&["No space left on device", "Disk quota exceeded", "Not enough space"]) {
            return self.full(text);
        }
        if says(&["lock hold by current process", "While lock file"]) {
            return busy(&self.folder);
        }
        if says(&["Permission denied", "Read-only file system", "Operation not permitted"]) {
            let message =
                format!("the cache in {at} cannot be used: {text}; give another --cache-dir, or use --no-cache");
            return Error::new(ErrorKind::Denied, message);
        }
        if says(&["Too many open files", "Cannot allocate memory", "Shutdown in progress", "Write stall"]) {
            let message = format!("the chunk index in {at} cannot be used now: {text}; going on without it");
            return Error::new(ErrorKind::Unavailable, message);
        }
        Error::corrupt(format!("the chunk index in {at} is damaged: {text}; it is made anew"))
    }

    pub(super) fn full(&self, text: &str) -> Error {
        const MIB: u64 = 1 << 20;
        let missing = self.wanted.saturating_sub(self.free()).div_ceil(MIB).max(1);
        Error::new(
            ErrorKind::Full,
            format!(
                "the disk of the cache in {} is full, about {missing} MiB are missing: the chunk index takes no more rows, \
                 deduplication is worse until there is room ({text})",
                self.folder.display()
            ),
        )
    }
}

fn busy(folder: &Path) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!("the cache in {} is in use by another wherry; going on without it", folder.display()),
    )
}

fn from_io(error: io::Error, path: &Path, what: &str) -> Error {
    let path = path.display();
    let (kind, next) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::Full, "make room"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "give another --cache-dir")
        }
        _ => (ErrorKind::Unavailable, "give another --cache-dir"),
    };
    Error::new(kind, format!("{path} {what}: {error}; {next}, or use --no-cache")).with_source(error)
}

//! Files on their way to a name. Each is locked while its process lives, so that leftovers are told from work.

use super::{FOLDER, hand_over, make_folder};
use crate::clock::{Rng, System};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The folder they are in; `_` keeps it apart from every key.
pub(super) const FOLDER_NAME: &str = "_tmp";

/// A new empty file below [`FOLDER_NAME`], removed when dropped unless it has been moved away.
pub(super) struct Temporary {
    /// That folder. It is opened once and never by its path again: its owner could put a link in its place while root
    /// works here.
    pub(super) folder: OwnedFd,
    pub(super) file: OwnedFd,
    /// In `folder`.
    pub(super) name: String,
    pub(super) moved: bool,
}

impl Temporary {
    /// `folder` is where it will get its name.
    pub(super) fn new(root: BorrowedFd<'_>, folder: &OwnedFd) -> Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..16 {
            let mut random = [0; 8];
            System::default().fill(&mut random).map_err(|_| Errno::IO)?;
            let name = format!("{:016x}", u64::from_le_bytes(random));
            let mine = match rustix::fs::openat(root, FOLDER_NAME, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::NOENT) => {
                    make_folder(root, FOLDER_NAME)?;
                    continue;
                }
                opened => opened?,
            };
            let file = match rustix::fs::openat(&mine, &name, flags, Mode::RUSR | Mode::WUSR) {
                // Taken, or the folder is gone.
                Err(Errno::EXIST | Errno::NOENT) => continue,
                made => Self { folder: mine, file: made?, name, moved: false },
            };
            hand_over(folder.as_fd(), &file.file);
            match rustix::fs::flock(&file.file, FlockOperation::NonBlockingLockExclusive) {
                // A sweep came between open and lock, and is about to remove it.
                Err(Errno::WOULDBLOCK) => continue,
                // Where there are no locks a sweep gets none either, and removes nothing.
                Ok(()) | Err(_) if rustix::fs::fstat(&file.file)?.st_nlink > 0 => return Ok(file),
                Ok(()) | Err(_) => continue,
            }
        }
        Err(Errno::AGAIN)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved {
            // Nothing to do about a failure: the next sweep tries again.
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Removes the files of processes that are gone. What can not be removed stays for the next time.
pub(super) fn sweep(root: BorrowedFd<'_>) {
    let folder = rustix::fs::openat(root, FOLDER_NAME, FOLDER | OFlags::NOFOLLOW, Mode::empty());
    let Ok(folder) = folder else { return };
    let Ok(entries) = Dir::read_from(&folder) else { return };
    for entry in entries.flatten() {
        // NFS locks only what is open for writing.
        let open = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(&folder, entry.file_name(), open, Mode::empty()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && rustix::fs::unlinkat(folder.as_fd(), entry.file_name(), AtFlags::empty()).is_ok()
            // An empty one may be of a process that lives, and has not come to lock it: it makes another.
            && rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size > 0)
        {
            tracing::info!(file = %entry.file_name().to_string_lossy(), "removed what a dead process left behind");
        }
    }
}

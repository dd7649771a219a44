//! Writing one object: temporary file, fsync, name, fsync of the folder.

use super::temporary::{self, Temporary};
use super::{FOLDER, LANES, Local, make_folder, make_folders};
use crate::storage::{Key, conflict};
use crate::{Error, ErrorKind, Result};
use rustix::fs::{Advice, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bodies from this size on leave no trace in the page cache.
const LARGE: usize = 1 << 20;
/// Of memory, offset and length of direct writes; no block device asks for more.
const ALIGN: usize = 4096;

/// When a name may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum If {
    Absent,
    Any,
}

/// Why an object did not get its name.
enum Failed {
    Errno(Errno),
    /// The filesystem can do none of what a create needs.
    NoCreate,
    /// The name was given, and then something failed: it may be there after a crash, or not.
    Unclear(Errno),
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Folder and name of a key; the folder is empty for objects in the root.
pub(super) fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

impl Local {
    pub(super) fn write(&self, key: &Key, body: &[u8], when: If) -> Result<()> {
        let (mut failed, mut unclear) = (Errno::NOENT, false);
        // A folder, or the temporary file, can be removed under us by a delete or a sweep: then from the start.
        for _ in 0..4 {
            match self.try_write(key, body, when) {
                Ok(()) => return Ok(()),
                Err(Failed::Errno(Errno::NOENT)) => {}
                Err(Failed::Errno(errno)) => {
                    failed = errno;
                    break;
                }
                Err(Failed::Unclear(errno)) => {
                    (failed, unclear) = (errno, true);
                    break;
                }
                Err(Failed::NoCreate) => {
                    let message = format!(
                        "the filesystem of {} can neither rename without replacing nor make hard links, so two writers \
                         could overwrite each other; use another filesystem, or one writer at a time: --single-writer",
                        self.path.display()
                    );
                    return Err(Error::invalid(message).with_object(key));
                }
            }
        }
        let error = match failed {
            Errno::EXIST => conflict(key),
            Errno::NOSPC | Errno::DQUOT => self.full(key, body.len(), failed),
            errno => self.failed_on("write", key.as_str(), errno).with_object(key),
        };
        Err(if unclear { error.unclear() } else { error })
    }

    fn try_write(&self, key: &Key, body: &[u8], when: If) -> Result<(), Failed> {
        let root = match self.root() {
            Err(Errno::NOENT) => {
                make_folders(&self.path)?;
                self.root()?
            }
            root => root?,
        }
        .as_fd();
        self.swept.call_once(|| {
            temporary::sweep(root);
            // Whoever made the root may not have made its name durable. A folder above that this user may not open is
            // somebody else's care.
            let _ = rustix::fs::openat(root, "..", FOLDER, Mode::empty()).and_then(rustix::fs::fsync);
        });
        let (folder, name) = split(key);
        let folder = self.durable_folder(root, folder)?;
        if when == If::Absent && self.settled(&folder, name)? {
            return Err(Errno::EXIST.into());
        }
        let mut file = Temporary::new(root, &folder)?;
        fill(&file.file, body)?;
        rustix::fs::fsync(&file.file)?;
        if body.len() >= LARGE {
            // Advice; what was written directly is not in the cache.
            let _ = rustix::fs::fadvise(&file.file, 0, None, Advice::DontNeed);
        }
        match when {
            If::Any => {
                rustix::fs::renameat(&file.folder, &file.name, &folder, name)?;
                file.moved = true;
            }
            If::Absent => match self.name_if_absent(&mut file, &folder, name) {
                Err(Failed::Errno(Errno::EXIST)) => {
                    self.settled(&folder, name)?;
                    return Err(Errno::EXIST.into());
                }
                named => named?,
            },
        }
        rustix::fs::fsync(&folder).map_err(Failed::Unclear)
    }

    /// Whether the object exists; if so it is durable when this returns, because the caller will act on it.
    fn settled(&self, folder: &OwnedFd, name: &str) -> Result<bool, Errno> {
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => rustix::fs::fsync(folder).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the names of these objects durable, and those of the folders they are in: each folder is asked for once. Their content
    /// is, since before they had a name. Not `syncfs`: that waits for all that others write to the filesystem, and before Linux 5.17 it
    /// does not tell that the filesystem itself failed.
    pub(super) fn sync_folders(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        let mut folders = BTreeSet::new();
        for key in keys {
            let mut folder = split(&key).0;
            while !folders.contains(folder) {
                folders.insert(folder.to_owned());
                folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            }
        }
        let folders: Vec<String> = folders.into_iter().collect();
        let sync = |folder: &String| {
            let open = self.root().and_then(|root| open_below(root.as_fd(), folder));
            match open.and_then(rustix::fs::fsync) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(self.failed_on("make durable", folder, errno)),
            }
        };
        crate::side::each(LANES, &folders, sync).map(drop)
    }

    fn name_if_absent(&self, file: &mut Temporary, folder: &OwnedFd, name: &str) -> Result<(), Failed> {
        let unable = |errno| matches!(errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM);
        match rustix::fs::renameat_with(&file.folder, &file.name, folder, name, RenameFlags::NOREPLACE) {
            Err(errno) if unable(errno) => {}
            renamed => {
                renamed?;
                file.moved = true;
                return Ok(());
            }
        }
        // NFS has no such rename, but links.
        match rustix::fs::linkat(&file.folder, &file.name, folder, name, AtFlags::empty()) {
            Err(Errno::EXIST) if rustix::fs::fstat(&file.file)?.st_nlink > 1 => {} // Made, and the reply was lost.
            Err(errno) if unable(errno) => {
                if !self.single_writer {
                    return Err(Failed::NoCreate);
                }
                if self.settled(folder, name)? {
                    return Err(Errno::EXIST.into());
                }
                rustix::fs::renameat(&file.folder, &file.name, folder, name)?;
                file.moved = true;
            }
            linked => linked?,
        }
        Ok(())
    }

    /// Opens a folder below the root and makes it, and its names above, durable if this process has not done so.
    fn durable_folder(&self, root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
        let mut folder = rustix::fs::openat(root, ".", FOLDER, Mode::empty())?;
        if path.is_empty() {
            return Ok(folder);
        }
        if let Ok(open) = rustix::fs::openat(root, path, FOLDER, Mode::empty())
            && self.durable.lock().get(path) == Some(&inode_of(&open)?)
        {
            return Ok(open);
        }
        let mut end = 0;
        for part in path.split('/') {
            end += part.len();
            make_folder(folder.as_fd(), part)?;
            let below = rustix::fs::openat(&folder, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
            let inode = inode_of(&below)?;
            let prefix = path.get(..end).unwrap_or(path);
            if self.durable.lock().get(prefix) != Some(&inode) {
                rustix::fs::fsync(&folder)?;
                self.durable.lock().insert(prefix.into(), inode);
            }
            folder = below;
            end += 1;
        }
        Ok(folder)
    }

    fn full(&self, key: &Key, needed: usize, errno: Errno) -> Error {
        let free = match self.root().and_then(rustix::fs::fstatvfs) {
            Ok(stat) if errno == Errno::NOSPC && stat.f_files > 0 && stat.f_favail == 0 => "no inode is free".into(),
            Ok(stat) => format!("{} bytes are free", stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(_) => "how much is free is unknown".into(),
        };
        let what = if errno == Errno::DQUOT { "the quota of this user is used up" } else { "no space is left" };
        let message = format!(
            "{what} in {}: {needed} bytes were to be written, {free}; make room there and run the command again",
            self.path.display()
        );
        Error::new(ErrorKind::Full, message).with_object(key).with_source(std::io::Error::from(errno))
    }
}

/// Device and inode: no other folder has the same.
fn inode_of(folder: &OwnedFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(folder).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Opens a folder below the root. No part of its path may be a link: root may be at work in the folder of somebody else.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let mut folder = rustix::fs::openat(root, ".", FOLDER, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder = rustix::fs::openat(&folder, part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(folder)
}

/// Writes the whole body, directly as far as memory, filesystem and length allow.
fn fill(file: &OwnedFd, body: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    if body.len() >= LARGE && body.as_ptr().addr().is_multiple_of(ALIGN) && direct(file, true).is_ok() {
        let whole = body.len() - body.len() % ALIGN;
        while done < whole {
            match rustix::io::pwrite(file, &body[done..whole], done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // A filesystem that wants more: the rest goes through the cache.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        direct(file, false)?;
    }
    while done < body.len() {
        match rustix::io::pwrite(file, &body[done..], done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn direct(file: &OwnedFd, on: bool) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT })
}

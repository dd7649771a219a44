//! A local folder, or a network filesystem that behaves like one.
//!
//! An object is written as `_tmp/<random>` inside the same root, made durable, and only then renamed or linked to its
//! name, which fails if the name is taken; then the folder is made durable, and every folder above it that this
//! process has not seen durable yet. Others see the object before that: who rests on one that is not its own makes the
//! folder durable itself ([`Storage::make_durable`]). A crash leaves at most a file in `_tmp`, which the next writer removes: each is
//! locked by the process that writes it. `_tmp` can not be taken for an object, because no key may contain `_`.
//!
//! `_lock` is the file that processes lock which must take turns, with a line about the one that holds it.
//!
//! What root makes in a folder of another user is given to that user: else a mount or restore by root would keep the owner
//! of a repository out of it.
//!
//! Large bodies bypass the page cache (`O_DIRECT`) when their memory is aligned to 4096 bytes: a third of the CPU time
//! of buffered writes, and nothing else is pushed out of the cache. Other bodies are written through the cache and
//! dropped from it.

mod lock;
mod temporary;
mod write;

pub use lock::Lock;

use super::{Key, Listed, Storage, Tail, check_prefix, check_range, check_size, conflict, keys, too_short};
use crate::{Error, ErrorKind, Result, Timestamp};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Once, OnceLock};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// A pipe is not waited at; for files this says nothing.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

const READ: &str = "read";
/// So many folders in a folder are listed several at a time.
const MANY: usize = 8;
/// Folders that are listed, or made durable, at a time.
const LANES: usize = 8;

/// A [`Storage`] in a folder. The folder is made by the first write.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    single_writer: bool,
    /// The open root: every access goes through it, so that a run never continues below a mount point whose
    /// filesystem has gone away.
    root: OnceLock<OwnedFd>,
    /// Device and inode of folders whose names this process has made durable.
    durable: Mutex<HashMap<String, (u64, u64)>>,
    swept: Once,
}

impl Local {
    /// The storage in the folder `path`, which need not exist yet. `single_writer` promises that no other process
    /// writes; then a filesystem that can neither rename without replacing nor link will do.
    pub fn new(path: impl Into<PathBuf>, single_writer: bool) -> Self {
        let (root, durable, swept) = (OnceLock::new(), Mutex::default(), Once::new());
        Self { path: path.into(), single_writer, root, durable, swept }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn root(&self) -> Result<&OwnedFd, Errno> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = rustix::fs::open(&self.path, FOLDER, Mode::empty())?;
        Ok(self.root.get_or_init(|| root))
    }

    fn open(&self, key: &Key) -> Result<(OwnedFd, Stat), Errno> {
        let file = rustix::fs::openat(self.root()?, key.as_str(), FILE, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((file, stat)),
            _ => Err(Errno::ISDIR),
        }
    }

    /// Reads `range` of the object, which is known to be inside.
    fn read(&self, key: &Key, file: &OwnedFd, range: Range<u64>) -> Result<Bytes> {
        let len = usize::try_from(range.end - range.start)
            .map_err(|_| Error::invalid(format!("{range:?} is more than this machine can address")))?;
        let mut out: Vec<u8> = Vec::with_capacity(len);
        while out.len() < len {
            let at = range.start + out.len() as u64;
            match rustix::io::pread(file, spare_capacity(&mut out), at) {
                Ok(0) => return Err(too_short(key, &range, at)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(READ, key, errno)),
            }
        }
        out.truncate(len);
        Ok(out.into())
    }

    fn walk(&self, folder: OwnedFd, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let failed = |errno| self.failed_on("list", prefix, errno);
        let mut entries = Dir::new(folder).map_err(failed)?;
        let mut folders = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            // Not ours: `.`, `..`, `_tmp`, lost+found ...
            let Some(key) = entry.file_name().to_str().ok().and_then(|name| Key::new(format!("{prefix}{name}")).ok())
            else {
                continue;
            };
            let folder = entries.fd().map_err(failed)?;
            let stat = match rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                // One pack that the disk has lost does not hide all others. Nobody builds on an empty one, collectors look for all of it
                // in others, and a check names it.
                Err(errno) if is_of_medium(errno) && keys::parse_pack(&key).is_some() => {
                    visit(Listed { key, size: 0, modified: Timestamp(0) })?;
                    continue;
                }
                Err(errno) => return Err(self.failed("list", &key, errno)),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => visit(listed(key, &stat))?,
                FileType::Directory => folders.push(key),
                _ => tracing::debug!(object = %key, "neither file nor folder, left out of the listing"),
            }
        }
        let folder = entries.fd().map_err(failed)?;
        if folders.len() >= MANY {
            return self.walk_many(folder, prefix, &folders, visit);
        }
        folders.iter().try_for_each(|below| self.walk_below(folder, prefix, below, visit))
    }

    /// Lists the folder `below`, which is in `folder`.
    fn walk_below(
        &self,
        folder: BorrowedFd<'_>,
        prefix: &str,
        below: &Key,
        visit: &mut dyn FnMut(Listed) -> Result<()>,
    ) -> Result<()> {
        let name = &below.as_str()[prefix.len()..];
        match rustix::fs::openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(folder) => self.walk(folder, &format!("{below}/"), visit),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("list", below, errno)),
        }
    }

    /// Lists many folders, several at a time: from a cold disk each is a wait.
    fn walk_many(
        &self,
        folder: BorrowedFd<'_>,
        prefix: &str,
        below: &[Key],
        visit: &mut dyn FnMut(Listed) -> Result<()>,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (tell, found) = sync_channel(LANES);
            let mut lanes = 0;
            for _ in 0..LANES {
                let (tell, next) = (tell.clone(), &next);
                let lane = move || {
                    while let Some(below) = below.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let mut all = Vec::new();
                        let walked = self.walk_below(folder, prefix, below, &mut |listed| {
                            all.push(listed);
                            Ok(())
                        });
                        // Nobody listens any more when an error has ended the listing.
                        if tell.send(walked.map(|()| all)).is_err() {
                            return;
                        }
                    }
                };
                lanes += usize::from(std::thread::Builder::new().spawn_scoped(scope, lane).is_ok());
            }
            drop(tell);
            if lanes == 0 {
                return below.iter().try_for_each(|below| self.walk_below(folder, prefix, below, visit));
            }
            found.into_iter().try_for_each(|all| all?.into_iter().try_for_each(&mut *visit))
        })
    }

    fn failed(&self, doing: &str, key: &Key, errno: Errno) -> Error {
        match errno {
            Errno::NOENT => Error::new(ErrorKind::NotFound, format!("there is no object {key} in {}", self.location()))
                .with_object(key)
                .with_source(std::io::Error::from(errno)),
            Errno::EXIST => conflict(key),
            _ => self.failed_on(doing, key.as_str(), errno).with_object(key),
        }
    }

    fn failed_on(&self, doing: &str, name: &str, errno: Errno) -> Error {
        let (kind, hint) = match errno {
            // Only a read is of something that may be missing; there is no place to list, or to write to.
            Errno::NOENT | Errno::NOTDIR if doing == READ => (ErrorKind::NotFound, "; check the path"),
            Errno::NOENT | Errno::NOTDIR => (ErrorKind::NoRepository, "; check the path"),
            Errno::ACCESS | Errno::PERM => {
                (ErrorKind::Denied, "; run as the owner of the folder, or give this user access to it")
            }
            Errno::ROFS => (ErrorKind::Denied, "; mount the filesystem read-write"),
            Errno::NOSPC | Errno::DQUOT => (ErrorKind::Full, "; make room there and run the command again"),
            Errno::FBIG => {
                (ErrorKind::Full, "; raise the limit on the size of files (`ulimit -f`), or use another filesystem")
            }
            Errno::ISDIR | Errno::LOOP => {
                (ErrorKind::Corrupt, ": no regular file stands there; was the folder edited by hand?")
            }
            Errno::INVAL | Errno::BADF | Errno::FAULT | Errno::NAMETOOLONG => (ErrorKind::Internal, ""),
            // EIO, ESTALE, ETIMEDOUT, EMFILE, ENOMEM ...: all may pass.
            _ => (ErrorKind::Unavailable, "; see the kernel log for the cause"),
        };
        let source = std::io::Error::from(errno);
        let place = self.path.join(name);
        Error::new(kind, format!("can not {doing} {}: {source}{hint}", place.display())).with_source(source)
    }
}

/// Whether a disk, or the filesystem on it, says of what was asked for that it is damaged. It will not be whole in a minute.
pub(super) fn is_of_medium(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::BADMSG | Errno::UCLEAN)
}

/// An object is as old as its name: what was written long before it got that (a disk or server that hung meanwhile, a process
/// that was stopped) has told nobody yet. Its name changes `st_ctime`, the writing alone `st_mtime`.
fn listed(key: Key, stat: &Stat) -> Listed {
    let of = |seconds: i64, nanos: i64| Timestamp(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    let nanos = |nanos| i64::try_from(nanos).unwrap_or_default();
    let written = of(stat.st_mtime, nanos(stat.st_mtime_nsec));
    Listed { key, size: size(stat), modified: written.max(of(stat.st_ctime, nanos(stat.st_ctime_nsec))) }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

impl Storage for Local {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn is_local(&self) -> bool {
        true
    }

    fn free(&self) -> Option<u64> {
        let stat = self.root().and_then(rustix::fs::fstatvfs).ok()?;
        // Filesystems that cannot say it (FUSE) give zeros.
        (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, holder: &str) -> Result<Option<Lock>> {
        let root = self.root().map_err(|errno| self.failed_on("open", "", errno))?;
        lock::lock(root.as_fd(), holder).map_err(|errno| self.failed_on("lock", lock::NAME, errno))?
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        let (file, stat) = self.open(key).map_err(|e| self.failed(READ, key, e))?;
        check_size(key, size(&stat))?;
        self.read(key, &file, 0..size(&stat))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let (file, stat) = self.open(key).map_err(|e| self.failed(READ, key, e))?;
        check_range(key, &range, size(&stat))?;
        self.read(key, &file, range)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        let (file, stat) = self.open(key).map_err(|e| self.failed(READ, key, e))?;
        let size = size(&stat);
        Ok(Tail { bytes: self.read(key, &file, size.saturating_sub(len)..size)?, size })
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        let (_, stat) = self.open(key).map_err(|e| self.failed(READ, key, e))?;
        Ok(listed(key.clone(), &stat))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.write(key, &body, write::If::Absent)
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.write(key, &body, write::If::Any)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        check_prefix(prefix)?;
        let folder = match prefix.strip_suffix('/') {
            Some(folder) => self.root().and_then(|root| rustix::fs::openat(root, folder, FOLDER, Mode::empty())),
            // Opened anew: a listing moves the position of what it reads.
            None => self.root().and_then(|root| rustix::fs::openat(root, ".", FOLDER, Mode::empty())),
        };
        match folder {
            Ok(folder) => self.walk(folder, prefix, visit),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed_on("list", prefix, errno)),
        }
    }

    fn make_durable(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        self.sync_folders(keys)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let (folder, name) = write::split(key);
        let remove = || {
            let root = self.root()?;
            let open = write::open_below(root.as_fd(), folder)?;
            rustix::fs::unlinkat(&open, name, AtFlags::empty())?;
            rustix::fs::fsync(&open)?;
            // The folder of a session goes with its last object; one that is not empty stays.
            if folder.contains('/') && rustix::fs::unlinkat(root.as_fd(), folder, AtFlags::REMOVEDIR).is_ok() {
                self.durable.lock().remove(folder);
            }
            Ok(())
        };
        match remove() {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("delete", key, errno)),
        }
    }
}

/// Makes `path` and all missing folders above it, durably, for this user alone.
fn make_folders(path: &Path) -> Result<(), Errno> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            make_folders(parent)?;
            match rustix::fs::mkdirat(CWD, path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(errno) => return Err(errno),
    }
    rustix::fs::fsync(rustix::fs::open(parent, FOLDER, Mode::empty())?)
}

/// Whom a new file or folder in `folder` is to be given to; `None` where it is its maker's.
fn owner_for(folder: BorrowedFd<'_>) -> Option<(Uid, Gid)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let owner = rustix::fs::fstat(folder).ok()?;
    (owner.st_uid != 0).then(|| (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid)))
}

/// Gives what was just made in `folder` to whom that belongs. A filesystem that knows no owners keeps nobody out.
fn hand_over(folder: BorrowedFd<'_>, made: &OwnedFd) {
    if let Some((user, group)) = owner_for(folder)
        && let Err(errno) = rustix::fs::fchown(made, Some(user), Some(group))
    {
        tracing::debug!("what root makes stays its own: {errno}");
    }
}

/// Makes a folder for the owner of the one above alone, unless it is there.
fn make_folder(above: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    let is_given = owner_for(above).is_some();
    // Its owner may look into it before it is theirs: a listing that may not is one that fails.
    let first = if is_given { Mode::RWXU | Mode::ROTH | Mode::XOTH } else { Mode::RWXU };
    let is_new = match rustix::fs::mkdirat(above, name, first) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    if !is_given {
        return Ok(());
    }
    let folder = rustix::fs::openat(above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    // Also one that was left so: whoever made it was killed, and its owner may not be able to write there.
    if is_new || Mode::from_raw_mode(rustix::fs::fstat(&folder)?.st_mode) == first {
        hand_over(above, &folder);
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

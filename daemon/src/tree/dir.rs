//! Directories by descriptor. Whatever is opened below the root is opened by a single name in a directory that was
//! reached the same way, so no link, no mount and nobody who renames things meanwhile leads out of it.

use super::attributes::{Device, Look, Scratch, look, look_at_root, looked_alike};
use super::filesystem::Filesystem;
use super::inode::{Inode, InodeKind};
use super::path::escaped;
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use std::cmp::Ordering as Order;
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use wherry_repo::{Error, ErrorKind, Result};

/// The directory that is backed up.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    dir: Arc<Dir>,
    look: Look,
}

impl Root {
    /// Opens it; a link given as `path` is followed, the last one that ever is. Other filesystems mounted below it are
    /// entered only if `all_filesystems`.
    ///
    /// # Errors
    /// `Invalid` where there is no such directory, the kernel is older than 5.6 or `/proc` is not there; `Unavailable`
    /// where it cannot be read.
    pub fn open(path: &Path, all_filesystems: bool) -> Result<Self> {
        let failed = |errno: Errno| {
            let kind = match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => ErrorKind::Invalid,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, format!("{}: cannot be opened as a directory", path.display()))
                .with_source(io::Error::from(errno))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty());
        let fd = fd.or_else(|e| if e == Errno::PERM { rustix::fs::open(path, flags, Mode::empty()) } else { Err(e) });
        let fd = fd.map_err(failed)?;
        match open_beneath(fd.as_fd(), c".", OFlags::PATH | OFlags::DIRECTORY, false) {
            // Filters of system calls that do not know it answer EPERM.
            Err(Errno::NOSYS | Errno::PERM) => {
                return Err(Error::invalid(format!(
                    "{}: directories are backed up with Linux 5.6 or newer only, this kernel has no openat2",
                    path.display()
                )));
            }
            other => other.map_err(failed)?,
        };
        let look = look_at_root(fd.as_fd(), &mut Scratch::new()).map_err(failed)?;
        let kind = Filesystem::of(fd.as_fd()).map_err(failed)?;
        let open = OpenSet { limit: open_limit(), all_filesystems, ring: Mutex::new(VecDeque::new()) };
        let dir = Dir {
            parent: None,
            name: CString::default(),
            ordinal: 0,
            depth: 0,
            inode: look.inode.number,
            device: look.device,
            filesystem: Mutex::new(Some(kind)),
            fd: Mutex::new(Some(Arc::new(fd))),
            used: AtomicBool::new(false),
            again: AtomicU32::new(0),
            open: Arc::new(open),
        };
        let root = Self { path: path.to_owned(), dir: Arc::new(dir), look };
        root.dir.proc_answers().map_err(|e| {
            let text = "extended attributes are read through /proc, which is not there: mount it";
            Error::invalid(format!("{}: {text}", path.display())).with_source(io::Error::from(e))
        })?;
        Ok(root)
    }

    /// As it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// Its own metadata.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// What it is on.
    pub fn filesystem(&self) -> Filesystem {
        self.dir.filesystem()
    }

    /// Has everything written out that is on its filesystem, as far as that can be done.
    pub(crate) fn sync(&self) {
        self.dir.sync();
    }
}

/// A directory of the walk. Its descriptor may be closed when many are open, and is opened again when it is needed: by
/// its name in the directory above, and only if it still is the same inode.
pub struct Dir {
    parent: Option<Arc<Dir>>,
    name: CString,
    ordinal: u64,
    depth: u32,
    inode: u64,
    device: Device,
    /// Only where it is known to differ from that of the directory above.
    filesystem: Mutex<Option<Filesystem>>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
    /// How often it was listed once more.
    again: AtomicU32,
    open: Arc<OpenSet>,
}

/// The descriptors of directories that are open; the root's is not among them.
struct OpenSet {
    limit: usize,
    all_filesystems: bool,
    ring: Mutex<VecDeque<Weak<Dir>>>,
}

/// At most 1024 descriptors, and half of what the process may have.
fn open_limit() -> usize {
    let may = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024);
    usize::try_from(may / 2).unwrap_or(usize::MAX).clamp(16, 960)
}

impl std::fmt::Debug for Dir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dir").field("path", &self.path()).field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl Dir {
    /// A directory that was looked at, and is not opened yet.
    pub(crate) fn below(self: &Arc<Self>, name: &CStr, ordinal: u64, look: &Look) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(self.clone()),
            name: name.to_owned(),
            ordinal,
            depth: self.depth + 1,
            inode: look.inode.number,
            device: look.device,
            filesystem: Mutex::new(None),
            fd: Mutex::new(None),
            used: AtomicBool::new(false),
            again: AtomicU32::new(0),
            open: self.open.clone(),
        })
    }

    /// The directory above; none for the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Its name in the directory above; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.name.to_bytes()
    }

    /// Directories above it: 0 for the root.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The filesystem it is on.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Whether other filesystems are entered, for who reports them.
    pub fn enters_filesystems(&self) -> bool {
        self.open.all_filesystems
    }

    /// Whether other filesystems are entered.
    pub(crate) fn all_filesystems(&self) -> bool {
        self.open.all_filesystems
    }

    /// It is about to be listed once more: so often it was with this.
    pub(crate) fn lists_again(&self) -> u32 {
        self.again.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Its path from the root, without a slash at either end; empty for the root.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.name());
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path of a name in it, from the root.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// What it is on.
    pub fn filesystem(&self) -> Filesystem {
        let mut at = self;
        loop {
            if let Some(kind) = *at.filesystem.lock() {
                return kind;
            }
            match &at.parent {
                Some(parent) => at = parent,
                None => return Filesystem::default(),
            }
        }
    }

    /// Its descriptor, opened again if need be.
    ///
    /// # Errors
    /// `ESTALE` if it is another inode by now, else what the kernel says.
    pub fn descriptor(self: &Arc<Self>) -> Result<Arc<OwnedFd>, Errno> {
        // Level by level and not by recursion: 4096 levels may have to be opened again.
        let mut closed = Vec::new();
        let mut at = self;
        let mut fd = loop {
            if let Some(fd) = at.fd.lock().clone() {
                at.used.store(true, Ordering::Relaxed);
                break fd;
            }
            closed.push(at);
            at = at.parent.as_ref().ok_or(Errno::BADF)?;
        };
        for dir in closed.into_iter().rev() {
            // One that is not there is not the end of its names: they may be elsewhere by now, and must not be taken for gone.
            fd = Arc::new(dir.open_in(fd.as_fd()).map_err(|e| if e == Errno::NOENT { Errno::STALE } else { e })?);
            *dir.fd.lock() = Some(fd.clone());
            dir.open.add(dir);
        }
        Ok(fd)
    }

    fn open_in(&self, parent: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let all = self.open.all_filesystems;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let fd = open_beneath(parent, &self.name, flags, all)?;
        let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::INO)?;
        if (stat.stx_dev_major, stat.stx_dev_minor) != self.device || stat.stx_ino != self.inode {
            return Err(Errno::STALE);
        }
        let other = self.parent.as_ref().is_some_and(|parent| parent.device != self.device);
        if other {
            *self.filesystem.lock() = Some(Filesystem::of(fd.as_fd())?);
        }
        Ok(fd)
    }

    /// Has everything written out that is on its filesystem, as far as that can be done.
    pub(crate) fn sync(self: &Arc<Self>) {
        if let Err(e) = self.descriptor().and_then(rustix::fs::syncfs) {
            let path = escaped(&self.path());
            tracing::warn!(
                "the filesystem of \"{path}\" could not be written out, and changes through mappings may be missed: {e}"
            );
        }
    }

    /// What a name in it is now.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn look_with(self: &Arc<Self>, name: &[u8], scratch: &mut Scratch) -> Result<Look, Errno> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        look(self.descriptor()?.as_fd(), &name, scratch)
    }

    /// The same for a single name: the buffers (128 KiB) are made for it.
    ///
    /// # Errors
    /// As of [`Self::look_with`].
    pub(crate) fn look(self: &Arc<Self>, name: &[u8]) -> Result<Look, Errno> {
        self.look_with(name, &mut Scratch::new())
    }

    /// Opens a regular file in it for reading.
    ///
    /// # Errors
    /// `ESTALE` if it is no regular file or another inode than `seen` by now, else what the kernel says.
    pub fn open_file(self: &Arc<Self>, name: &[u8], seen: &Inode) -> io::Result<File> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        if seen.kind != InodeKind::File {
            return Err(Errno::STALE.into());
        }
        let dir = self.descriptor()?;
        // Not blocking: a fifo that was put in its place must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = match open_beneath(dir.as_fd(), &name, flags, self.open.all_filesystems) {
            // A link where a file was is another inode, and so is what is mounted over it.
            Err(Errno::LOOP | Errno::XDEV) => return Err(Errno::STALE.into()),
            other => other?,
        };
        if !looked_alike(fd.as_fd(), seen)? {
            return Err(Errno::STALE.into());
        }
        Ok(File::from(fd))
    }

    /// Which of two entries comes first in the walk: entry `mine` of this directory or `others` of `other`. A directory
    /// comes before what is in it.
    pub(crate) fn order(self: &Arc<Self>, mine: u64, other: &Arc<Self>, others: u64) -> Order {
        let (mut a, mut at) = (self, mine);
        let (mut b, mut bt) = (other, others);
        let deeper = self.depth.cmp(&other.depth);
        while a.depth > b.depth {
            let Some(parent) = &a.parent else { break };
            (at, a) = (a.ordinal, parent);
        }
        while b.depth > a.depth {
            let Some(parent) = &b.parent else { break };
            (bt, b) = (b.ordinal, parent);
        }
        while !Arc::ptr_eq(a, b) {
            let (Some(up), Some(other)) = (&a.parent, &b.parent) else { break };
            (at, a) = (a.ordinal, up);
            (bt, b) = (b.ordinal, other);
        }
        at.cmp(&bt).then(deeper)
    }

    /// Whether `/proc/self/fd` leads to it.
    fn proc_answers(self: &Arc<Self>) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}/.", self.descriptor()?.as_raw_fd());
        rustix::fs::statx(rustix::fs::CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE).map(drop)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // A chain of 4096 would need as many frames.
        let mut parent = self.parent.take();
        while let Some(dir) = parent {
            parent = Arc::into_inner(dir).and_then(|mut dir| dir.parent.take());
        }
    }
}

impl OpenSet {
    /// One more is open: the one that was not used for longest is closed if there are too many.
    fn add(&self, dir: &Arc<Dir>) {
        let mut ring = self.ring.lock();
        ring.push_back(Arc::downgrade(dir));
        while ring.len() > self.limit {
            let Some(oldest) = ring.pop_front() else { break };
            let Some(oldest) = oldest.upgrade() else { continue };
            if oldest.used.swap(false, Ordering::Relaxed) {
                ring.push_back(Arc::downgrade(&oldest));
            } else {
                *oldest.fd.lock() = None;
            }
        }
    }
}

/// Opens one name in a directory, and never anything else: no link, no path, and no other mount unless wanted.
fn open_beneath(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, all_filesystems: bool) -> Result<OwnedFd, Errno> {
    let resolve = resolution(all_filesystems);
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| {
        for attempt in 0..100 {
            match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
                Err(Errno::INTR) => {}
                // The kernel could not make sure, as somebody renames or mounts meanwhile; or somebody has a lease, which
                // takes a while to break.
                Err(Errno::AGAIN) if attempt > 10 => std::thread::sleep(Duration::from_millis(50)),
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    };
    if flags.contains(OFlags::PATH) {
        return open(flags);
    }
    match open(flags | OFlags::NOATIME) {
        // Only who owns it may ask for that.
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

/// How a name is looked up in a directory and nowhere else.
fn resolution(all_filesystems: bool) -> ResolveFlags {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if all_filesystems { resolve } else { resolve | ResolveFlags::NO_XDEV }
}

/// What [`Dir::open_file`] asks of the kernel first, for who asks for many files at once.
pub(crate) fn beneath(all_filesystems: bool) -> (OFlags, ResolveFlags) {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    (flags, resolution(all_filesystems))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inode is compared as well, which would hide that these are left out: so they are tested by themselves.
    #[test]
    fn one_name_opens_no_link_and_no_way_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("link")).unwrap();
        let fd = File::open(dir.path()).unwrap();
        let open = |name: &CStr| open_beneath(fd.as_fd(), name, OFlags::RDONLY, false).map(drop);
        assert_eq!(open(c"d"), Ok(()));
        assert_eq!(open(c"link"), Err(Errno::LOOP));
        assert_eq!(open(c"link/."), Err(Errno::LOOP));
        assert_eq!(open(c".."), Err(Errno::XDEV));
        assert_eq!(open(c"/"), Err(Errno::XDEV));
    }

    /// Its names may be under a name that the walk has passed: they are lost, not gone.
    #[test]
    fn a_directory_that_is_not_where_it_was_is_no_directory_without_names() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        std::fs::create_dir_all(at("above/d")).unwrap();
        let root = Root::open(scratch.path(), false).unwrap().dir().clone();
        let above = root.below(c"above", 0, &root.look(b"above").unwrap());
        let look = above.look(b"d").unwrap();
        let d = || root.below(c"above", 0, &root.look(b"above").unwrap()).below(c"d", 0, &look);
        assert!(d().descriptor().is_ok());
        let closed = d();
        std::fs::rename(at("above/d"), at("d")).unwrap();
        assert_eq!(closed.descriptor().err(), Some(Errno::STALE));
        let closed = root.below(c"above", 0, &root.look(b"above").unwrap()).below(c"d", 0, &look);
        std::fs::rename(at("above"), at("b")).unwrap();
        assert_eq!(closed.descriptor().err(), Some(Errno::STALE), "the one above it");
        assert_eq!(closed.look(b"x").err(), Some(Errno::STALE));
    }
}

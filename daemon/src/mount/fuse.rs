//! The thin shell between the kernel and [`Fs`]. What may take long is answered by workers, so that a slow storage holds
//! up those who wait for it and nobody else.

use super::fs::{Attributes, Fault, Fs, Kind};
use super::workers::Workers;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wherry_repo::{ErrorKind, Timestamp};

/// Disks never change.
const LONG: Duration = Duration::from_secs(3600);
/// Folders and links may, when snapshots are added.
const SHORT: Duration = Duration::from_secs(1);

/// Numbers of `lseek`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Reads that the kernel may have under way ahead of those who read.
const BACKGROUND: u16 = 64;

/// A file system for the kernel.
#[derive(Debug)]
pub(super) struct Shell {
    fs: Arc<Fs>,
    workers: Workers,
    owner: (u32, u32),
}

impl Shell {
    /// `readers` reads are under way at a time. `owner` are the user and the group everything belongs to.
    pub(super) fn new(fs: Arc<Fs>, readers: usize, owner: (u32, u32)) -> io::Result<Self> {
        Ok(Self { fs, workers: Workers::start("read", readers)?, owner })
    }

    fn file_attr(&self, attributes: &Attributes) -> FileAttr {
        let (kind, perm) = match attributes.kind {
            Kind::Folder => (FileType::Directory, 0o555),
            Kind::Link => (FileType::Symlink, 0o777),
            Kind::Disk => (FileType::RegularFile, 0o400),
        };
        let time = system_time(attributes.time);
        FileAttr {
            ino: INodeNo(attributes.number),
            size: attributes.size,
            blocks: attributes.allocated.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The one table from faults to errno.
fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::NoEntry => Errno::ENOENT,
        Fault::NotFolder => Errno::ENOTDIR,
        Fault::IsFolder => Errno::EISDIR,
        Fault::Invalid => Errno::EINVAL,
        Fault::Beyond => Errno::ENXIO,
        Fault::ReadOnly => Errno::EROFS,
        Fault::BadHandle => Errno::EBADF,
        Fault::Repository(ErrorKind::Denied) => Errno::EACCES,
        Fault::Repository(ErrorKind::NoSnapshot) => Errno::ENOENT,
        Fault::Repository(ErrorKind::Busy) => Errno::EBUSY,
        // Corrupt above all, and what nobody who reads a disk could act on.
        Fault::Repository(_) => Errno::EIO,
    }
}

fn lifetime(kind: Kind) -> Duration {
    if kind == Kind::Disk { LONG } else { SHORT }
}

fn system_time(time: Timestamp) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    let there = if time.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    there.unwrap_or(UNIX_EPOCH)
}

impl Filesystem for Shell {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each of them is a favour: a kernel that has it not works without.
        for wish in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_DIO] {
            let _ = config.add_capabilities(wish);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // No name here is anything but UTF-8.
        match name.to_str().ok_or(Fault::NoEntry).and_then(|name| self.fs.lookup(parent.0, name)) {
            Ok(found) => reply.entry(&lifetime(found.kind), &self.file_attr(&found), Generation(0)),
            Err(fault) => reply.error(errno(fault)),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.attributes(number.0) {
            Ok(found) => reply.attr(&lifetime(found.kind), &self.file_attr(&found)),
            Err(fault) => reply.error(errno(fault)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.fs.read_link(number.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(fault) => reply.error(errno(fault)),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let fs = self.fs.clone();
        self.workers.submit(move |_| {
            let listed = fs.list(number.0, offset, |number, kind, name, next| {
                let kind = match kind {
                    Kind::Folder => FileType::Directory,
                    Kind::Link => FileType::Symlink,
                    Kind::Disk => FileType::RegularFile,
                };
                !reply.add(INodeNo(number), next, kind, name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(fault) => reply.error(errno(fault)),
            }
        });
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(errno(Fault::ReadOnly));
        }
        let fs = self.fs.clone();
        self.workers.submit(move |_| match fs.open(number.0) {
            // What the kernel has in its cache is right for ever.
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The kernel takes a short answer for the end of the file, and keeps that in its cache, unless whoever reads goes
        // past the cache.
        let short = flags.0 & OFlags::DIRECT.bits().cast_signed() != 0;
        let fs = self.fs.clone();
        self.workers.submit(move |scratch| {
            let mut reply = Some(reply);
            let read = fs.read(handle.0, offset, size as usize, short, scratch, |bytes| {
                if let Some(reply) = reply.take() {
                    reply.data(bytes);
                }
            });
            if let (Err(fault), Some(reply)) = (read, reply) {
                reply.error(errno(fault));
            }
        });
    }

    fn lseek(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return reply.error(errno(Fault::Invalid)),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(errno(Fault::Beyond)) };
        let fs = self.fs.clone();
        self.workers.submit(move |_| match fs.seek(handle.0, offset, data) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.workers.submit(move |_| {
            fs.close(handle.0);
            reply.ok();
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    // Everything that would change something. The mount is read-only already; this holds where somebody remounts it.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(errno(Fault::ReadOnly));
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(errno(Fault::ReadOnly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_an_input_output_error_and_changes_are_refused() {
        assert_eq!(i32::from(errno(Fault::Repository(ErrorKind::Corrupt))), i32::from(Errno::EIO));
        assert_eq!(i32::from(errno(Fault::Repository(ErrorKind::Unavailable))), i32::from(Errno::EIO));
        assert_eq!(i32::from(errno(Fault::ReadOnly)), i32::from(Errno::EROFS));
    }

    #[test]
    fn times_before_1970_are_times() {
        assert_eq!(system_time(Timestamp(-1_000_000_000)), UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(system_time(Timestamp(5)), UNIX_EPOCH + Duration::from_nanos(5));
        let _ = system_time(Timestamp(i64::MIN));
    }
}

//! The thin shell between the kernel and [`Fs`]. What may take long is answered by workers, so that a slow storage holds
//! up those who wait for it and nobody else.

use super::fs::{Fault, Fs, Listed};
use super::show::{Shown, errno, errno_of_listing, file_type, lifetime};
use super::workers::{Scratch, Workers};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Numbers of `lseek`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Reads that the kernel may have under way ahead of those who read.
const BACKGROUND: u16 = 64;

/// A file system for the kernel.
#[derive(Debug)]
pub(super) struct Shell {
    shown: Arc<Shown>,
    workers: Workers,
}

impl Shell {
    /// `readers` reads are under way at a time. `owner` are the user and the group that everything belongs to but what is in
    /// trees. With `for_others` the kernel lets each user do what modes and ACLs allow.
    pub(super) fn new(fs: Arc<Fs>, readers: usize, owner: (u32, u32), for_others: bool) -> io::Result<Self> {
        Ok(Self { shown: Arc::new(Shown { fs, owner, for_others }), workers: Workers::start("read", readers)? })
    }

    /// Does what the kernel asks of this number: at once where that is in memory.
    fn answer(&self, number: INodeNo, answer: impl FnOnce(&Shown, &mut Scratch) + Send + 'static) {
        if self.shown.fs.is_at_hand(number.0) {
            return answer(&self.shown, &mut Scratch::default());
        }
        self.submit(answer);
    }

    fn submit(&self, answer: impl FnOnce(&Shown, &mut Scratch) + Send + 'static) {
        let shown = self.shown.clone();
        self.workers.submit(move |scratch| answer(&shown, scratch));
    }
}

/// Answers with bytes, or with their number where `size` is 0, as both calls for extended attributes do.
fn answer_sized(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match (size, u32::try_from(bytes.len())) {
        (0, Ok(len)) => reply.size(len),
        (_, Ok(len)) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Shell {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each of them is a favour: a kernel that has it not works without.
        let wishes = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        for wish in wishes {
            let _ = config.add_capabilities(wish);
        }
        if self.shown.for_others {
            // Where a file has an ACL, its mode alone lets the group do more.
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = |shown: &Shown, found, reply: ReplyEntry| match found {
            Ok(found) => reply.entry(&lifetime(&found), &shown.file_attr(&found), Generation(0)),
            Err(fault) => reply.error(errno(fault)),
        };
        let fs = &self.shown.fs;
        if let Ok(number) = fs.shown(parent.0, name.as_bytes())
            && fs.is_at_hand(number)
        {
            return answer(&self.shown, fs.attributes(number), reply);
        }
        let name = name.as_bytes().to_vec();
        self.submit(move |shown, _| answer(shown, shown.fs.lookup(parent.0, &name), reply));
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(number, move |shown, _| match shown.fs.attributes(number.0) {
            Ok(found) => reply.attr(&lifetime(&found), &shown.file_attr(&found)),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        self.submit(move |shown, _| match shown.fs.read_link(number.0) {
            Ok(target) => reply.data(&target),
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.submit(move |shown, _| {
            let add = |listed: Listed<'_>| {
                let name = OsStr::from_bytes(listed.name);
                !reply.add(INodeNo(listed.number), listed.next, file_type(listed.kind), name)
            };
            match shown.fs.list(number.0, offset, false, add) {
                Ok(()) => reply.ok(),
                Err(fault) => reply.error(errno_of_listing(fault)),
            }
        });
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.submit(move |shown, _| {
            let add = |listed: Listed<'_>| {
                let name = OsStr::from_bytes(listed.name);
                let (attr, lifetime) = match listed.attributes {
                    Some(attributes) => (shown.file_attr(attributes), lifetime(attributes)),
                    None => (shown.bare(listed.number, listed.kind), Duration::ZERO),
                };
                !reply.add(INodeNo(listed.number), listed.next, name, &lifetime, &attr, Generation(0))
            };
            match shown.fs.list(number.0, offset, true, add) {
                Ok(()) => reply.ok(),
                Err(fault) => reply.error(errno_of_listing(fault)),
            }
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        self.answer(number, move |shown, scratch| match shown.fs.extended(number.0, scratch) {
            Ok(set) => match set.0.binary_search_by(|(known, _)| known.as_slice().cmp(&name)) {
                Ok(at) => answer_sized(reply, size, &set.0[at].1),
                Err(_) => reply.error(Errno::ENODATA),
            },
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(number, move |shown, scratch| match shown.fs.extended(number.0, scratch) {
            Ok(set) => {
                let names: Vec<u8> = set.0.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
                answer_sized(reply, size, &names);
            }
            Err(fault) => reply.error(errno(fault)),
        });
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(errno(Fault::ReadOnly));
        }
        self.submit(move |shown, _| match shown.fs.open(number.0) {
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
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The kernel takes a short answer for the end of the file, and keeps that in its cache, unless this very read goes past
        // the cache. The flags are those of the open file: what is mapped, or read ahead, has them too. An owner of locks is
        // named by reads past the cache alone.
        let short = owner.is_some() && flags.0 & OFlags::DIRECT.bits().cast_signed() != 0;
        self.submit(move |shown, scratch| {
            let mut reply = Some(reply);
            let read = shown.fs.read(handle.0, offset, size as usize, short, scratch, |bytes| {
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
        self.submit(move |shown, _| match shown.fs.seek(handle.0, offset, data) {
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
        self.submit(move |shown, _| {
            shown.fs.close(handle.0);
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

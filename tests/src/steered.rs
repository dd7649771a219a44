//! A disk in memory that does what real ones do on bad days: it keeps another byte than it was given, and what was
//! discarded reads as junk. A file `disk` in a FUSE mount; a loop device over it is a device that behaves so.

use crate::fuse;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const TTL: Duration = Duration::ZERO;
const DISK: u64 = 2;

/// What reads in place of discarded bytes.
pub const JUNK: u8 = 0x5A;

/// The mounted disk; dropped, it is unmounted and gone. Loop devices over it must be gone before.
pub struct Steered {
    session: Option<BackgroundSession>,
    folder: TempDir,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Bytes that are kept wrongly, whatever is written.
    flipped: Vec<u64>,
    /// Whether ranges can be zeroed other than by writing zeros.
    zeroes: bool,
    discards: usize,
    zeroings: usize,
}

impl fmt::Debug for Steered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steered").field(&self.folder).finish()
    }
}

impl Steered {
    /// Mounts one with this content; `zeroes`: it can zero a range when asked to. Needs /dev/fuse.
    pub fn mount(bytes: Vec<u8>, zeroes: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-steered-").tempdir().expect("a temporary folder");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("steered".into())];
        let state = Arc::new(Mutex::new(State { bytes, zeroes, ..State::default() }));
        let session = fuser::spawn_mount(Disk(state.clone()), folder.path(), &config).expect("FUSE mounts");
        Self { session: Some(session), folder, state }
    }

    /// The file.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// From now on the lowest bit of the byte at this offset is kept wrongly.
    pub fn flip(&self, offset: u64) {
        self.state.lock().flipped.push(offset);
    }

    /// What is on the disk.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// How often it was asked to discard, and how often to zero a range.
    pub fn asked(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.discards, state.zeroings)
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        fuse::unmount(self.session.take(), self.folder.path());
    }
}

struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn attr(&self, ino: u64) -> FileAttr {
        let size = if ino == DISK { self.0.lock().bytes.len() as u64 } else { 0 };
        let (kind, perm) = if ino == DISK { (FileType::RegularFile, 0o600) } else { (FileType::Directory, 0o700) };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.as_encoded_bytes() {
            b"disk" => reply.entry(&TTL, &self.attr(DISK), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size {
            self.0.lock().bytes.resize(size as usize, 0);
        }
        reply.attr(&TTL, &self.attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the page cache, which would hide what the disk makes of it.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock();
        let from = state.bytes.len().min(offset as usize);
        reply.data(&state.bytes[from..state.bytes.len().min(from + size as usize)]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.0.lock();
        let state = &mut *state;
        let (from, to) = (offset as usize, offset as usize + data.len());
        state.bytes.resize(state.bytes.len().max(to), 0);
        state.bytes[from..to].copy_from_slice(data);
        for at in state.flipped.iter().map(|at| *at as usize).filter(|at| (from..to).contains(at)) {
            state.bytes[at] ^= 1;
        }
        reply.written(data.len() as u32);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut state = self.0.lock();
        let len = state.bytes.len();
        let range = len.min(offset as usize)..len.min((offset + length) as usize);
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        if mode.contains(FallocateFlags::PUNCH_HOLE) {
            state.discards += 1;
            state.bytes[range].fill(JUNK);
        } else if mode.contains(FallocateFlags::ZERO_RANGE) && state.zeroes {
            state.zeroings += 1;
            state.bytes[range].fill(0);
        } else {
            return reply.error(Errno::EOPNOTSUPP);
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

//! Regular files between their first byte and their name.

use super::Step;
use super::descriptors::Slot;
use super::folder::{Folder, Look, look_at, open};
use super::metadata::{Metadata, On, Origin, apply};
use super::readback::{ReadBack, Written};
use super::shared::{Place, Shared, failed};
use crate::tree::path::escaped;
use anyhow::Result;
use rustix::fs::{FallocateFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use wherry_repo::Error;

const WRITING: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;
const LOST: u8 = 3;

/// A file under its temporary name.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Vec<u8>,
    /// What it is called in the end.
    pub(super) last: Vec<u8>,
    pub(super) made: Look,
    slot: Arc<Slot>,
    state: AtomicU8,
}

impl Temporary {
    /// Makes it.
    pub(super) fn create(shared: &Shared, folder: &Arc<Folder>, last: &[u8]) -> io::Result<Self> {
        let here = folder.open(shared)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        loop {
            let name = shared.temporary();
            match open(&here, &name, flags, mode, ResolveFlags::empty()) {
                // Of an earlier run, or planted: it is not ours.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(file) => {
                    let temporary = Self {
                        folder: Arc::clone(folder),
                        name,
                        last: last.to_vec(),
                        made: look_at(&file)?,
                        slot: Arc::default(),
                        state: AtomicU8::new(WRITING),
                    };
                    shared.files.put(&temporary.slot, file);
                    return Ok(temporary);
                }
            }
        }
    }

    fn open(&self, shared: &Shared) -> io::Result<Arc<File>> {
        shared.files.get(&self.slot, || self.open_as(shared, OFlags::RDWR))
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, name: &self.last }
    }

    /// Opened once more: an error if the name leads to another inode now.
    pub(super) fn open_as(&self, shared: &Shared, flags: OFlags) -> io::Result<File> {
        let here = self.folder.open(shared)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | flags;
        let file = open(&here, &self.name, flags, Mode::empty(), ResolveFlags::empty())?;
        match look_at(&file)?.identity == self.made.identity {
            true => Ok(file),
            false => Err(io::Error::other("another file has taken its place")),
        }
    }

    /// It does not get its name, although it was finished.
    pub(super) fn reject(&self) {
        self.state.store(GIVEN_UP, Ordering::Release);
    }

    /// `None` while it is being written; then whether it is whole.
    pub(super) fn outcome(&self) -> Option<bool> {
        match self.state.load(Ordering::Acquire) {
            WRITING => None,
            state => Some(state == DONE),
        }
    }

    /// What it should hold cannot be had.
    pub(super) fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST
    }
}

/// A regular file that is being written; workers share it. It has its name after [`super::Restorer::finish_window`]. One that
/// is dropped before [`Self::finish`] is given up: it never gets its name.
#[derive(Debug)]
pub struct FileHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) temporary: Arc<Temporary>,
    pub(super) metadata: Metadata,
    pub(super) size: u64,
    written: AtomicU64,
    end: AtomicU64,
}

impl FileHandle {
    pub(super) fn new(shared: Arc<Shared>, temporary: Arc<Temporary>, metadata: Metadata, size: u64) -> Self {
        Self { shared, temporary, metadata, size, written: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    /// Writes bytes at an offset. In any order, from any thread; what is never written is a hole.
    ///
    /// # Errors
    /// When the system fails, or the bytes do not lie within the size.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.temporary.place();
        let length = bytes.len() as u64;
        let Some(end) = offset.checked_add(length).filter(|&end| end <= self.size) else {
            return Err(Error::internal(format!("bytes beyond the end of {}", escaped(&place.path()))).into());
        };
        let write = || {
            self.shared.step(Step::Write, &place)?;
            self.temporary.open(&self.shared)?.write_all_at(bytes, offset)
        };
        write().map_err(|e| failed(Step::Write, &place, e))?;
        self.written.fetch_add(length, Ordering::Relaxed);
        self.end.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// Shares all data of another file, which a filesystem with reflinks can. False: it cannot, and nothing was done. What it
    /// has besides the snapshot's is to be overwritten and [cleared](Self::clear); [`Self::finish`] sets the size.
    ///
    /// # Errors
    /// When the system fails.
    pub(super) fn share(&self, other: &File) -> Result<bool> {
        let place = self.temporary.place();
        let file = self.temporary.open(&self.shared).map_err(|e| failed(Step::Create, &place, e))?;
        let shares = rustix::fs::ioctl_ficlone(&*file, other).is_ok();
        if shares {
            // It has the other one's size now.
            self.end.store(u64::MAX, Ordering::Relaxed);
        }
        Ok(shares)
    }

    /// Reads bytes that it shares. False: it does not have them, or they cannot be read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.temporary.open(&self.shared).is_ok_and(|file| file.read_exact_at(bytes, offset).is_ok())
    }

    /// Makes a hole, whatever it shares there; zeros on a filesystem that cannot.
    ///
    /// # Errors
    /// When the system fails.
    pub fn clear(&self, range: Range<u64>) -> Result<()> {
        let place = self.temporary.place();
        let punch = || {
            self.shared.step(Step::Write, &place)?;
            let file = self.temporary.open(&self.shared)?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(&*file, flags, range.start, range.end - range.start)?)
        };
        match punch() {
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::OPNOTSUPP | Errno::NOSYS)) => self.zero(range),
            punched => punched.map_err(|e| failed(Step::Write, &place, e)),
        }
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; 64 << 10];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(zeros.len());
            self.write_at(at, &zeros[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    /// For reading it back from its medium once it is finished.
    pub fn read_back(&self) -> ReadBack {
        ReadBack::new(Arc::clone(&self.shared), Written::Temporary(Arc::clone(&self.temporary)))
    }

    /// What it should hold cannot be had: it never gets its name, and the report names it.
    pub fn lose(&self) {
        let _ = self.end(LOST);
    }

    /// True if it was still being written.
    fn end(&self, state: u8) -> bool {
        self.temporary.state.compare_exchange(WRITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Gives the file its size and metadata: all that was to be written is written.
    ///
    /// # Errors
    /// When the system fails. What is refused is in the report.
    pub fn finish(self) -> Result<()> {
        let (shared, temporary) = (&*self.shared, &*self.temporary);
        let place = temporary.place();
        let file = temporary.open(shared).map_err(|e| failed(Step::Create, &place, e))?;
        if self.end.load(Ordering::Relaxed) != self.size {
            let truncate = || {
                shared.step(Step::Truncate, &place)?;
                file.set_len(self.size)
            };
            truncate().map_err(|e| failed(Step::Truncate, &place, e))?;
        }
        let folder = &temporary.folder;
        let origin = Origin { foreign: folder.inherits, flagged: folder.flagged };
        apply(shared, &place, On::File(&file), &self.metadata, origin)?;
        if !folder.on.syncs_all() {
            let sync = || {
                shared.step(Step::Sync, &place)?;
                sync(&file)
            };
            sync().map_err(|e| failed(Step::Sync, &place, e))?;
        }
        temporary.slot.close();
        shared.report.lock().bytes += self.written.load(Ordering::Relaxed);
        temporary.state.store(DONE, Ordering::Release);
        Ok(())
    }
}

/// Has a file written out where the `syncfs` of the window would not say that this failed. Some filesystems say so only to
/// who closes it: any descriptor will do.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        // There is nothing that could be written out later.
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {}
        synced => synced?,
    }
    Ok(nix::unistd::close(file.try_clone()?)?)
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if self.end(GIVEN_UP) || self.temporary.is_lost() {
            self.temporary.slot.close();
        }
    }
}

//! Regular files between their first byte and their name.

use super::Step;
use super::descriptors::Slot;
use super::folder::{Folder, Identity, look_at, open};
use super::metadata::{Metadata, On, Origin, apply};
use super::shared::{Place, Shared, failed};
use anyhow::Result;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use wherry_repo::Error;

const WRITING: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A file under its temporary name.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Vec<u8>,
    /// What it is called in the end.
    pub(super) last: Vec<u8>,
    identity: Identity,
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
                        identity: look_at(&file)?.identity,
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
        shared.files.get(&self.slot, || {
            let here = self.folder.open(shared)?;
            let file = open(&here, &self.name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty(), ResolveFlags::empty())?;
            match look_at(&file)?.identity == self.identity {
                true => Ok(file),
                false => Err(io::Error::other("another file has taken its place")),
            }
        })
    }

    fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, name: &self.last }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// `None` while it is being written; then whether it is whole.
    pub(super) fn outcome(&self) -> Option<bool> {
        match self.state.load(Ordering::Acquire) {
            WRITING => None,
            state => Some(state == DONE),
        }
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
            return Err(Error::internal(format!("bytes beyond the end of {}", place.path().escape_ascii())).into());
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
        temporary.slot.close();
        shared.report.lock().bytes += self.written.load(Ordering::Relaxed);
        temporary.state.store(DONE, Ordering::Release);
        Ok(())
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        let state = &self.temporary.state;
        if state.compare_exchange(WRITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.temporary.slot.close();
        }
    }
}

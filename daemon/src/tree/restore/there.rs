//! Regular files that are there already: they stay if they hold what the snapshot says, and help to build it if not.

use super::Step;
use super::descriptors::Slot;
use super::file::{FileHandle, Temporary};
use super::folder::{Folder, Identity, Look, look, look_at, open};
use super::metadata::{Metadata, On, Origin, apply};
use super::readback::{ReadBack, Written};
use super::shared::{Place, Shared, failed};
use crate::tree::extents::extents;
use anyhow::Result;
use parking_lot::Mutex;
use rustix::fs::{Advice, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A regular file that has the name of one of the snapshot.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Vec<u8>,
    pub(super) identity: Identity,
    size: u64,
    /// It has this one name.
    pub(super) single: bool,
    /// An earlier run of this restore made it, with all its names, and it may be replaced whatever the overwrite mode.
    pub(super) ours: bool,
    slot: Arc<Slot>,
    became: Mutex<Became>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub(super) enum Became {
    /// It was not compared to its end: it stays as it was.
    #[default]
    Open,
    /// It holds what the snapshot says, and has its metadata.
    Kept,
    /// This one takes its place.
    Replaced(Arc<Temporary>),
    /// It was to be replaced, and that was refused.
    Refused,
    /// What the snapshot says of it cannot be had: it stays as it was.
    Lost,
}

impl Old {
    /// `None` if it is no regular file, this process may not read it, or it is on another filesystem than its directory.
    pub(super) fn open(
        shared: &Shared,
        folder: &Arc<Folder>,
        name: &[u8],
        ours: impl FnOnce(&File, &Look) -> bool,
    ) -> io::Result<Option<Self>> {
        let here = folder.open(shared)?;
        // To open a device may do something.
        if !look(&here, name)?.is_some_and(|there| there.kind == FileType::RegularFile) {
            return Ok(None);
        }
        let file = match open_file(shared, folder, name, OFlags::empty()) {
            Err(e) => {
                return match Errno::from_io_error(&e) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::STALE | Errno::IO) => Err(e),
                    _ => Ok(None),
                };
            }
            Ok(file) => file,
        };
        let there = look_at(&file)?;
        if there.kind != FileType::RegularFile {
            return Ok(None);
        }
        if shared.options.distrust {
            // What is compared comes from the medium, not from the page cache: else one that is wrong there would stay.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        let old = Self {
            folder: Arc::clone(folder),
            name: name.to_vec(),
            identity: there.identity,
            size: there.size,
            single: there.links == 1,
            ours: ours(&here, &there),
            slot: Arc::default(),
            became: Mutex::default(),
        };
        shared.files.put(&old.slot, file);
        Ok(Some(old))
    }

    fn file(&self, shared: &Shared) -> io::Result<Arc<File>> {
        shared.files.get(&self.slot, || self.open_as(shared, OFlags::empty()))
    }

    /// Opened once more: an error if the name leads to another inode now.
    pub(super) fn open_as(&self, shared: &Shared, flags: OFlags) -> io::Result<File> {
        let file = open_file(shared, &self.folder, &self.name, flags)?;
        match look_at(&file)?.identity == self.identity {
            true => Ok(file),
            false => Err(io::Error::other("another file has taken its place")),
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, name: &self.name }
    }

    pub(super) fn became(&self) -> Became {
        self.became.lock().clone()
    }

    /// Closes its descriptor: nothing more is going to be read.
    pub(super) fn close(&self) {
        self.slot.close();
    }
}

fn open_file(shared: &Shared, folder: &Arc<Folder>, name: &[u8], flags: OFlags) -> io::Result<File> {
    let here = folder.open(shared)?;
    // What is mounted over a file is not the target's.
    open(&here, name, OFlags::RDONLY | OFlags::NONBLOCK | flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

/// A regular file that is there and waits for its comparison with the snapshot's, see [`super::Begun::There`]. One that is
/// dropped before [`Self::keep`] or [`Self::replace`] ends the window with an error.
#[derive(Debug)]
pub struct There {
    shared: Arc<Shared>,
    old: Arc<Old>,
    metadata: Metadata,
    wanted: u64,
}

impl There {
    pub(super) fn new(shared: Arc<Shared>, old: Arc<Old>, metadata: Metadata, wanted: u64) -> Self {
        Self { shared, old, metadata, wanted }
    }

    /// True if it may stay when it holds what the snapshot says: it is as long, and has no other name, or
    /// an earlier run of this restore made it. Else nothing tells whether other names of it are in the target, and what is
    /// outside must not change.
    pub fn may_stay(&self) -> bool {
        (self.old.single || self.old.ours) && self.old.size == self.wanted
    }

    /// Bytes it has, as it was when it was opened.
    pub fn size(&self) -> u64 {
        self.old.size
    }

    /// Reads bytes at an offset. False: it does not have them, or they cannot be read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.old.file(&self.shared).is_ok_and(|file| file.read_exact_at(bytes, offset).is_ok())
    }

    /// True if these bytes are there and zero; holes are not read.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        range.end <= self.old.size
            && self
                .old
                .file(&self.shared)
                .is_ok_and(|file| is_zero(&file, range, |at, bytes| file.read_exact_at(bytes, at)))
    }

    /// It is what the snapshot says: it gets the metadata.
    ///
    /// # Errors
    /// When the system fails. What is refused is in the report.
    pub fn keep(self) -> Result<()> {
        let (shared, place) = (&*self.shared, self.old.place());
        let file = self.old.file(shared).map_err(|e| failed(Step::Create, &place, e))?;
        // They hinder all that follows, and come last again if the snapshot has them.
        let hindering = IFlags::IMMUTABLE | IFlags::APPEND;
        let flags = rustix::fs::ioctl_getflags(&*file).unwrap_or(IFlags::empty());
        if flags.intersects(hindering) {
            let loosened = flags.difference(hindering);
            shared.attempt(Step::Flags, None, &place, || rustix::fs::ioctl_setflags(&*file, loosened))?;
        }
        apply(shared, &place, On::File(&file), &self.metadata, Origin { foreign: true, flagged: true })?;
        shared.report.lock().kept += 1;
        *self.old.became.lock() = Became::Kept;
        self.old.close();
        Ok(())
    }

    /// What the snapshot says of it cannot be had: it stays as it is, and the report names it.
    pub fn lose(self) {
        let mut became = self.old.became.lock();
        // The file that takes its place knows it already.
        if matches!(*became, Became::Open) {
            *became = Became::Lost;
        }
        drop(became);
        self.old.close();
    }

    /// For reading it, or what has taken its place, back from the medium.
    pub fn read_back(&self) -> ReadBack {
        ReadBack::new(Arc::clone(&self.shared), Written::There(Arc::clone(&self.old)))
    }

    /// Begins the file that takes its place. `None`: it could not be made, which is in the report.
    ///
    /// # Errors
    /// When the system fails.
    pub fn replace(&self) -> Result<Option<FileHandle>> {
        let (shared, old) = (&self.shared, &self.old);
        let place = old.place();
        let made = shared.step(Step::Create, &place).and_then(|()| Temporary::create(shared, &old.folder, &old.name));
        let Some(temporary) = shared.settle(Step::Create, &place, made)? else {
            *old.became.lock() = Became::Refused;
            return Ok(None);
        };
        let temporary = Arc::new(temporary);
        *old.became.lock() = Became::Replaced(Arc::clone(&temporary));
        Ok(Some(FileHandle::new(Arc::clone(shared), temporary, self.metadata.clone(), self.wanted)))
    }

    /// Lets a file that replaces this one share all its data, on a filesystem that can. False: it cannot.
    ///
    /// # Errors
    /// When the system fails.
    pub fn share_with(&self, handle: &FileHandle) -> Result<bool> {
        match self.old.file(&self.shared) {
            Ok(file) => handle.share(&file),
            Err(_) => Ok(false),
        }
    }
}

/// True if a range of a file is zero; only what is allocated is read.
pub(crate) fn is_zero(file: &File, range: Range<u64>, mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>) -> bool {
    let mut buffer = vec![0; 64 << 10];
    for data in extents(file, range) {
        let Ok(data) = data else { return false };
        let mut at = data.start;
        while at < data.end {
            let part = &mut buffer[..usize::try_from(data.end - at).unwrap_or(usize::MAX).min(64 << 10)];
            if read(at, part).is_err() || part.iter().any(|&byte| byte != 0) {
                return false;
            }
            at += part.len() as u64;
        }
    }
    true
}

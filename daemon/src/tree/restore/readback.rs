//! Reading back what a window holds, from the medium: after it was made durable, before it gets its names.

use super::Step;
use super::file::Temporary;
use super::shared::{Place, Shared};
use super::there::{Became, Old, is_zero};
use anyhow::Result;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wherry_block::Buffer;

/// What direct reads begin at a multiple of.
const BLOCK: u64 = 4096;

#[derive(Clone, Debug)]
pub(super) enum Written {
    Temporary(Arc<Temporary>),
    There(Arc<Old>),
}

/// A file of the window.
#[derive(Clone, Debug)]
pub struct ReadBack {
    shared: Arc<Shared>,
    written: Written,
}

impl ReadBack {
    pub(super) fn new(shared: Arc<Shared>, written: Written) -> Self {
        Self { shared, written }
    }

    fn place(&self) -> Place<'_> {
        match &self.written {
            Written::Temporary(temporary) => temporary.place(),
            Written::There(old) => old.place(),
        }
    }

    /// Opens it for reading past the page cache, with room for what is read at once. `None`: it is not in the target, or its
    /// own permissions keep this process from reading it, which is in the report.
    ///
    /// # Errors
    /// When the system fails.
    pub fn open(&self, buffer: Buffer) -> Result<Option<Medium>> {
        let temporary = match &self.written {
            Written::Temporary(temporary) => Some(Arc::clone(temporary)),
            Written::There(old) => match old.became() {
                Became::Kept => None,
                Became::Replaced(temporary) => Some(temporary),
                Became::Open | Became::Refused | Became::Lost => return Ok(None),
            },
        };
        if temporary.as_ref().is_some_and(|temporary| temporary.outcome() != Some(true)) {
            return Ok(None);
        }
        let shared = &*self.shared;
        let open = |flags| match (&temporary, &self.written) {
            (Some(temporary), _) => temporary.open_as(shared, flags),
            (None, Written::There(old)) => old.open_as(shared, flags),
            (None, Written::Temporary(_)) => Err(Errno::NOENT.into()),
        };
        let (file, mut direct) = match open(OFlags::DIRECT) {
            Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => (open(OFlags::empty()), false),
            file => (file, true),
        };
        let place = self.place();
        shared.step(Step::ReadBack, &place)?;
        let Some(file) = shared.settle(Step::ReadBack, &place, file)? else { return Ok(None) };
        direct &= !wherry_block::reads_from_memory(&file);
        // Also where it was opened for direct reads: some files are read through the page cache all the same, such as
        // compressed ones of btrfs. What is clean there, as all is by now, is read anew.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(Some(Medium { file, direct, buffer, at: 0, len: 0 }))
    }

    /// It does not hold what was written: it never gets its name. What was there before stays as it is.
    pub fn reject(&self) {
        match &self.written {
            Written::Temporary(temporary) => temporary.reject(),
            Written::There(old) => {
                if let Became::Replaced(temporary) = old.became() {
                    temporary.reject();
                }
            }
        }
    }
}

/// An open file that is read in order, past the page cache.
#[derive(Debug)]
pub struct Medium {
    file: File,
    direct: bool,
    buffer: Buffer,
    /// What the buffer holds: so many bytes from here on.
    at: u64,
    len: usize,
}

impl Medium {
    /// False where its filesystem reads through the page cache only.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Its size.
    ///
    /// # Errors
    /// When the system fails.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads these bytes; best in ascending order.
    ///
    /// # Errors
    /// When they cannot be read, or are not there.
    pub fn read(&mut self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        while !out.is_empty() {
            if at < self.at || at >= self.at + self.len as u64 {
                self.fill(at)?;
            }
            let skip = usize::try_from(at - self.at).unwrap_or(usize::MAX);
            let Some(bytes) = self.buffer[..self.len].get(skip..).filter(|bytes| !bytes.is_empty()) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let part = bytes.len().min(out.len());
            let (now, rest) = out.split_at_mut(part);
            now.copy_from_slice(&bytes[..part]);
            out = rest;
            at += part as u64;
        }
        Ok(())
    }

    /// True if these bytes are zero; holes are not read.
    pub fn is_zero(&mut self, range: Range<u64>) -> bool {
        let Ok(file) = self.file.try_clone() else { return false };
        is_zero(&file, range, |at, bytes| self.read(at, bytes))
    }

    fn fill(&mut self, offset: u64) -> io::Result<()> {
        self.at = offset / BLOCK * BLOCK;
        self.len = 0;
        let capacity = self.buffer.capacity();
        self.buffer.set_len(capacity);
        self.len = loop {
            match self.file.read_at(&mut self.buffer, self.at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        Ok(())
    }
}

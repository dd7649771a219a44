//! What is in the target already is not fetched, and not written again. Nothing is believed of it: it is read, and its ids
//! are compared.

use super::work::{Job, Place, Places, Target, Work, at, write};
use crate::tree::restore::{FileHandle, There};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wherry_repo::format::tree::Content;
use wherry_repo::{ChunkRef, Error, Part, Span};

/// Chunks of one file that are asked for together.
const ASKED: usize = 64;

impl Work<'_> {
    /// Chunks that files share: one whose parts are all in the target, and together have its id, is not fetched.
    pub(super) fn assemble(&self, chunks: &[ChunkRef], places: &Arc<Places>) -> Result<()> {
        let mut lacking = Vec::new();
        let mut plain = Vec::new();
        for chunk in chunks {
            self.restore.cancel.check()?;
            match self.of_target(chunk, at(places, chunk), &mut plain) {
                Some(sources) => self.write(chunk, &plain, at(places, chunk), &sources)?,
                None => lacking.push(*chunk),
            }
        }
        self.ask(lacking, places);
        Ok(())
    }

    fn ask(&self, chunks: Vec<ChunkRef>, places: &Arc<Places>) {
        for fetch in self.restore.reader.chunks().plan(chunks, self.restore.fetch_bytes) {
            self.add(Job::Fetch { fetch, places: places.clone() });
        }
    }

    /// Puts a chunk together out of the target. `None`: it is not there; else the places it was read from.
    fn of_target(&self, chunk: &ChunkRef, places: &[Place], plain: &mut Vec<u8>) -> Option<Vec<usize>> {
        plain.clear();
        plain.resize(chunk.len, 0);
        let mut order: Vec<_> = (0..places.len()).collect();
        order.sort_by_key(|&n| places[n].skip);
        let mut sources = Vec::new();
        let mut end = 0;
        for n in order {
            let Place { file, skip, len, .. } = &places[n];
            let there = file.there.lock();
            if *skip == end
                && let Some(there) = &*there
                && there.size() == *len as u64
                && there.read_at(0, plain.get_mut(end..end + len)?)
            {
                sources.push(n);
                end += len;
            }
        }
        (end == chunk.len && self.restore.reader.chunks().identify(chunk, plain) == chunk.id()).then_some(sources)
    }

    /// A file that is there is to hold these bytes and nothing else. `is_same`: it is known to.
    pub(super) fn settle(&self, there: There, place: &Place, bytes: &[u8], is_same: bool) -> Result<()> {
        let holds = || {
            let mut old = vec![0; bytes.len()];
            there.size() == bytes.len() as u64 && there.read_at(0, &mut old) && old == bytes
        };
        if there.may_stay() && (is_same || holds()) {
            return there.keep();
        }
        match there.replace()? {
            None => Ok(()),
            Some(handle) => {
                handle.write_at(place.offset, bytes)?;
                handle.finish()
            }
        }
    }

    /// Compares a file piece by piece, and builds it anew from what is right of it if any is not.
    pub(super) fn compare(
        &self,
        file: &Arc<Target>,
        size: u64,
        content: &Content,
        scratch: &mut Vec<u8>,
    ) -> Result<()> {
        let Some(there) = file.there.lock().take() else {
            return Err(Error::internal("a file is compared twice").into());
        };
        match self.compare_with(&there, file, size, content, scratch) {
            Ok(true) => there.keep(),
            Ok(false) => Ok(()),
            Err(e) if self.goes_on(&e) => {
                self.lose(file, &e);
                there.lose();
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// True if it holds what the snapshot says.
    fn compare_with(
        &self,
        there: &There,
        file: &Arc<Target>,
        size: u64,
        content: &Content,
        scratch: &mut Vec<u8>,
    ) -> Result<bool> {
        let mut plain = Vec::new();
        if there.may_stay() && self.holds(there, size, content, &mut plain)? {
            self.restore.progress.add(size);
            return Ok(true);
        }
        let Some(handle) = there.replace()? else {
            self.restore.progress.add(size);
            return Ok(false);
        };
        let shares = there.share_with(&handle)?;
        // What is shared with the file that was there has to be overwritten, also by zeros.
        let sparse = !shares && matches!(content, Content::Map { .. });
        let handle = Arc::new(handle);
        *file.handle.lock() = Some(handle.clone());
        let (mut chunks, mut places) = (Vec::new(), Places::new());
        for span in self.restore.reader.pieces(size, content, 0)? {
            self.restore.cancel.check()?;
            let span = span?;
            let Some(Part { chunk, skip }) = span.data else {
                if shares {
                    handle.clear(span.offset..span.offset + span.len)?;
                }
                self.restore.progress.add(span.len);
                continue;
            };
            let read = |at, bytes: &mut [u8]| if shares { handle.read_at(at, bytes) } else { there.read_at(at, bytes) };
            if self.has(&span, &chunk, &mut plain, read) {
                if !shares {
                    self.restore.cancel.check()?;
                    write(&handle, span.offset, &plain, sparse)?;
                }
                self.restore.progress.add(span.len);
                continue;
            }
            file.left.fetch_add(1, Ordering::AcqRel);
            let (file, skip, len) = (file.clone(), skip as usize, span.len as usize);
            let place = Place { file, skip, len, offset: span.offset, sparse };
            let here = places.entry((chunk.id(), chunk.len)).or_default();
            if here.is_empty() {
                chunks.push(chunk);
            }
            here.push(place);
            if chunks.len() >= ASKED {
                self.ask(std::mem::take(&mut chunks), &Arc::new(std::mem::take(&mut places)));
                self.help(scratch);
            }
        }
        self.ask(chunks, &Arc::new(places));
        drop::<Arc<FileHandle>>(handle);
        file.part_done()?;
        Ok(false)
    }

    /// True if a file is what the snapshot says, up to its size.
    fn holds(&self, there: &There, size: u64, content: &Content, plain: &mut Vec<u8>) -> Result<bool> {
        for span in self.restore.reader.pieces(size, content, 0)? {
            self.restore.cancel.check()?;
            let span = span?;
            let is_same = match &span.data {
                None => there.is_zero(span.offset..span.offset + span.len),
                Some(Part { chunk, .. }) => self.has(&span, chunk, plain, |at, bytes| there.read_at(at, bytes)),
            };
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if a file has this piece; then `plain` is it.
    fn has(
        &self,
        span: &Span,
        chunk: &ChunkRef,
        plain: &mut Vec<u8>,
        read: impl FnOnce(u64, &mut [u8]) -> bool,
    ) -> bool {
        // A part of a chunk has no id of its own.
        if span.len != chunk.len as u64 {
            return false;
        }
        plain.clear();
        plain.resize(chunk.len, 0);
        read(span.offset, plain) && self.restore.reader.chunks().identify(chunk, plain) == chunk.id()
    }
}

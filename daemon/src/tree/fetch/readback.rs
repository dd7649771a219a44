//! What was written, or was there already, is read back from the medium.

use super::work::{Target, Work};
use crate::tree::path::escaped;
use crate::tree::restore::{Medium, ReadBack};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wherry_repo::format::tree::Content;
use wherry_repo::{Error, Part};

/// A file of the window, and what it should hold.
pub(super) struct Check {
    pub(super) back: ReadBack,
    pub(super) file: Arc<Target>,
    pub(super) size: u64,
    pub(super) content: Content,
}

impl Work<'_> {
    /// Reads a file back; one that is wrong does not get its name.
    pub(super) fn read_back(&self, check: &Check) -> Result<()> {
        let Some(pool) = &self.pool else {
            return Err(Error::internal("a file is read back without buffers").into());
        };
        if check.file.is_lost() {
            return Ok(());
        }
        let Some(mut medium) = check.back.open(pool.take())? else {
            self.unread.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        self.cached.fetch_add(u64::from(!medium.is_direct()), Ordering::Relaxed);
        if let Some(what) = self.differs(check, &mut medium)? {
            check.back.reject();
            tracing::error!(
                "{}: read back from the medium, it is not what was written: {what}",
                escaped(&check.file.path)
            );
            self.wrong.lock().push(|| check.file.path.clone());
        }
        Ok(())
    }

    /// What is wrong with a file, if anything is.
    fn differs(&self, check: &Check, medium: &mut Medium) -> Result<Option<String>> {
        let there = match medium.size() {
            Ok(there) => there,
            Err(e) => return Ok(Some(format!("it cannot be looked at: {e}"))),
        };
        if there != check.size {
            return Ok(Some(format!("it has {there} bytes, not {}", check.size)));
        }
        let mut plain = Vec::new();
        for span in self.restore.reader.pieces(check.size, &check.content, 0)? {
            self.restore.cancel.check()?;
            let span = span?;
            let range = span.offset..span.offset + span.len;
            let Some(Part { chunk, .. }) = span.data else {
                if !medium.is_zero(range) {
                    return Ok(Some(format!("byte {} and on are not zero", span.offset)));
                }
                continue;
            };
            plain.clear();
            plain.resize(span.len as usize, 0);
            if let Err(e) = medium.read(span.offset, &mut plain) {
                return Ok(Some(format!("byte {} and on cannot be read: {e}", span.offset)));
            }
            let wanted = match plain.len() == chunk.len {
                true => Some(chunk.id()),
                false => check.file.part.get().copied(),
            };
            if wanted != Some(self.restore.reader.chunks().identify(&chunk, &plain)) {
                return Ok(Some(format!("byte {} and on differ", span.offset)));
            }
        }
        Ok(None)
    }
}

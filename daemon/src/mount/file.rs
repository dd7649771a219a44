//! Reads of one regular file in the snapshot of a tree.

use super::source::{Source, ZEROS};
use super::streams::Streams;
use super::workers::Scratch;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::format::tree::Content;
use wherry_repo::{ChunkRef, Error, ErrorKind, Result, Span, TreeReader};

/// What is fetched ahead of readers is counted in these (bytes): pieces have no one size.
const UNIT: u64 = 256 << 10;

/// So many parts of a file are in memory at a time.
const PARTS: usize = 256;

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// A chunk of it, for this reason, which was logged.
    Chunk(ErrorKind),
    /// What says where its chunks are.
    List(Error),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::List(error)
    }
}

impl From<ErrorKind> for Unreadable {
    fn from(kind: ErrorKind) -> Self {
        Self::Chunk(kind)
    }
}

/// The data of a regular file.
#[derive(Debug)]
pub struct File {
    reader: Arc<TreeReader>,
    source: Arc<Source>,
    size: u64,
    content: Content,
}

impl File {
    /// `size` bytes with this content, of the tree of `reader`. `source` fetches what that names.
    pub fn new(reader: Arc<TreeReader>, source: Arc<Source>, size: u64, content: Content) -> Self {
        Self { reader, source, size, content }
    }

    /// Gives `answer` the bytes from `offset` on, at most `len`, fewer at the end of the file and, where `short` allows
    /// that, before bytes that cannot be read. `streams` are those of the open file.
    pub fn read<T>(
        &self,
        streams: &Mutex<Streams>,
        offset: u64,
        len: usize,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Unreadable> {
        let end = offset.saturating_add(len as u64).min(self.size);
        if offset >= end {
            return Ok(answer(&[]));
        }
        let ahead = match self.content {
            // All of it comes with its first byte.
            Content::Nothing | Content::Shared { .. } => None,
            _ => {
                let most = (self.source.shared().window / UNIT).max(1);
                streams.lock().note(offset / UNIT..end.div_ceil(UNIT), most)
            }
        };
        let result = self.answer(offset..end, short, scratch, answer);
        // After the answer: who waits for that should not wait for this.
        if let Some(ahead) = ahead {
            self.fetch_ahead(ahead.start * UNIT..ahead.end * UNIT);
        }
        result
    }

    fn answer<T>(
        &self,
        bytes: Range<u64>,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Unreadable> {
        let len = (bytes.end - bytes.start) as usize;
        let mut pieces = self.reader.pieces(self.size, &self.content, bytes.start)?;
        let first = self.next_part(&mut pieces, bytes.start)?;
        if first.offset + first.len >= bytes.end {
            match first.data {
                None if len <= ZEROS.len() => return Ok(answer(&ZEROS[..len])),
                None => {}
                Some(part) => {
                    let start = part.skip as usize + (bytes.start - first.offset) as usize;
                    let chunk = self.source.get(&part.chunk, scratch)?;
                    let found = (*chunk).as_ref().get(start..start + len).ok_or_else(outside)?;
                    return Ok(answer(found));
                }
            }
        }
        let mut whole = std::mem::take(&mut scratch.answer);
        whole.clear();
        let joined = self.join(&mut whole, first, &mut pieces, &bytes, scratch);
        let result = match joined {
            Err(why) if !short || whole.is_empty() => Err(why),
            _ => Ok(answer(&whole)),
        };
        scratch.answer = whole;
        result
    }

    /// The next part, which begins at `at` or, being the first, before it.
    fn next_part(&self, pieces: &mut impl Iterator<Item = Result<Span>>, at: u64) -> Result<Span, Unreadable> {
        let part = pieces.next().ok_or_else(outside)??;
        if part.offset > at || part.offset + part.len <= at { Err(outside().into()) } else { Ok(part) }
    }

    /// Appends these bytes to `whole`, as far as they can be read. `first` is the part that has the first of them, `pieces`
    /// are those behind it.
    fn join(
        &self,
        whole: &mut Vec<u8>,
        first: Span,
        pieces: &mut impl Iterator<Item = Result<Span>>,
        bytes: &Range<u64>,
        scratch: &mut Scratch,
    ) -> Result<(), Unreadable> {
        let mut first = Some(first);
        let mut at = bytes.start;
        while at < bytes.end {
            let mut parts = Vec::new();
            // An error is one of what lies behind the parts before it.
            let mut failed = None;
            let mut end = at;
            while end < bytes.end && parts.len() < PARTS {
                match first.take().map_or_else(|| self.next_part(pieces, end), Ok) {
                    Ok(part) => {
                        end = part.offset + part.len;
                        parts.push(part);
                    }
                    Err(why) => {
                        failed = Some(why);
                        break;
                    }
                }
            }
            self.source.bring(chunks(&parts), scratch);
            for part in parts {
                let from = (at - part.offset) as usize;
                let to = (bytes.end - part.offset).min(part.len) as usize;
                match part.data {
                    None => whole.resize(whole.len() + to - from, 0),
                    Some(data) => {
                        let skip = data.skip as usize;
                        // One at a time: who waits for room holds no chunk.
                        let chunk = self.source.get(&data.chunk, scratch)?;
                        whole.extend_from_slice((*chunk).as_ref().get(skip + from..skip + to).ok_or_else(outside)?);
                    }
                }
                at = part.offset + to as u64;
            }
            if let Some(why) = failed {
                return Err(why);
            }
        }
        Ok(())
    }

    fn fetch_ahead(&self, bytes: Range<u64>) {
        let Ok(pieces) = self.reader.pieces(self.size, &self.content, bytes.start) else { return };
        let mut parts = pieces.map_while(Result::ok).take_while(|part| part.offset < bytes.end);
        loop {
            let some: Vec<_> = parts.by_ref().take(PARTS).collect();
            if some.is_empty() {
                return;
            }
            self.source.fetch_ahead(chunks(&some));
        }
    }

    /// The first byte at or after `offset` that is data, or that is in a hole of the source; the end of the file counts as a
    /// hole. `None` when there is none, or `offset` is at the end or beyond.
    pub fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>, Unreadable> {
        if offset >= self.size {
            return Ok(None);
        }
        for part in self.reader.pieces(self.size, &self.content, offset)? {
            let part = part?;
            if part.data.is_some() == data {
                return Ok(Some(offset.max(part.offset)));
            }
        }
        Ok((!data).then_some(self.size))
    }
}

fn chunks(parts: &[Span]) -> Vec<ChunkRef> {
    parts.iter().filter_map(|part| part.data).map(|data| data.chunk).collect()
}

/// The entry of a file and what it leads to were checked one by one; that they fit is for whoever joins them.
fn outside() -> Error {
    Error::corrupt("a file is damaged: its pieces do not add up")
}

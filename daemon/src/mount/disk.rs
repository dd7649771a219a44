//! Reads of the snapshot of a disk.

use super::source::{Shared, Source, ZEROS};
use super::streams::Streams;
use super::workers::Scratch;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::{ChunkRef, ErrorKind, ReadSession, Result, SnapshotReader};

/// One snapshot, opened.
#[derive(Debug)]
pub struct Disk {
    reader: SnapshotReader,
    source: Arc<Source>,
}

impl Disk {
    /// The disk of a session, which lasts as long as this. Reads nothing yet.
    pub fn open(session: Arc<ReadSession>, shared: Arc<Shared>) -> Result<Arc<Self>> {
        let name = format!("{} ({})", session.snapshot().record.name, session.snapshot().id);
        let reader = SnapshotReader::within(session)?;
        let source = Source::new(reader.chunks().clone(), name, Some(reader.chunk_size()), shared);
        Ok(Arc::new(Self { reader, source }))
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// Gives `answer` the bytes from `offset` on, at most `len`, fewer at the end of the disk and, where `short` allows
    /// that, before bytes that cannot be read. `streams` are those of the open file. An error is logged here.
    pub fn read<T>(
        &self,
        streams: &Mutex<Streams>,
        offset: u64,
        len: usize,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ErrorKind> {
        let end = offset.saturating_add(len as u64).min(self.size());
        if offset >= end {
            return Ok(answer(&[]));
        }
        let unit = self.reader.chunk_size();
        let numbers = offset / unit..end.div_ceil(unit);
        let most = (self.source.shared().window / unit).max(1);
        let ahead = streams.lock().note(numbers.clone(), most);
        let result = self.answer(offset..end, numbers, short, scratch, answer);
        // After the answer: who waits for that should not wait for this.
        if let Some(ahead) = ahead {
            self.fetch_ahead(ahead);
        }
        result
    }

    fn answer<T>(
        &self,
        bytes: Range<u64>,
        numbers: Range<u64>,
        short: bool,
        scratch: &mut Scratch,
        answer: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ErrorKind> {
        let unit = self.reader.chunk_size();
        let len = (bytes.end - bytes.start) as usize;
        let mut chunks = Vec::with_capacity((numbers.end - numbers.start) as usize);
        for number in numbers.clone() {
            chunks.push(self.chunk(number)?);
        }
        if chunks.iter().all(Option::is_none) && len <= ZEROS.len() {
            return Ok(answer(&ZEROS[..len]));
        }
        if let [Some(chunk)] = &chunks[..] {
            let start = (bytes.start - chunk.number * unit) as usize;
            let opened = self.source.get(chunk, scratch)?;
            return Ok(answer(&(*opened).as_ref()[start..start + len]));
        }
        self.source.bring(chunks.iter().flatten().copied().collect(), scratch);
        let mut whole = std::mem::take(&mut scratch.answer);
        whole.clear();
        let joined = self.join(&mut whole, bytes, numbers, &chunks, scratch);
        let result = match joined {
            Err(kind) if !short || whole.is_empty() => Err(kind),
            _ => Ok(answer(&whole)),
        };
        scratch.answer = whole;
        result
    }

    /// Appends these bytes of these chunks to `whole`, as far as they can be read.
    fn join(
        &self,
        whole: &mut Vec<u8>,
        bytes: Range<u64>,
        numbers: Range<u64>,
        chunks: &[Option<ChunkRef>],
        scratch: &mut Scratch,
    ) -> Result<(), ErrorKind> {
        let unit = self.reader.chunk_size();
        for (number, chunk) in numbers.zip(chunks) {
            let from = bytes.start.saturating_sub(number * unit) as usize;
            let to = (bytes.end - number * unit).min(unit) as usize;
            match chunk {
                None => whole.resize(whole.len() + to - from, 0),
                // One at a time: who waits for room holds no chunk.
                Some(chunk) => whole.extend_from_slice(&(*self.source.get(chunk, scratch)?).as_ref()[from..to]),
            }
        }
        Ok(())
    }

    /// The first byte at or after `offset` that is data, or that is not, as the map of the snapshot says; the end of
    /// the disk counts as not data. `None` when there is none, or `offset` is at the end or beyond.
    pub fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>, ErrorKind> {
        if offset >= self.size() {
            return Ok(None);
        }
        let unit = self.reader.chunk_size();
        let first = offset / unit;
        let (mut next, mut expected) = (first, first);
        loop {
            let found = self.reader.next_chunks(next).map_err(|e| self.source.log(offset..self.size(), &e))?;
            let Some((chunks, then)) = found else { break };
            for chunk in chunks {
                if data {
                    return Ok(Some(offset.max(chunk.number * unit)));
                }
                if chunk.number != expected {
                    return Ok(Some(offset.max(expected * unit)));
                }
                expected += 1;
            }
            next = then;
        }
        Ok((!data).then_some(offset.max(expected * unit).min(self.size())))
    }

    /// What the map says of a chunk.
    fn chunk(&self, number: u64) -> Result<Option<ChunkRef>, ErrorKind> {
        self.reader.chunk(number).map_err(|e| {
            let unit = self.reader.chunk_size();
            self.source.log(number * unit..(number + 1) * unit, &e)
        })
    }

    /// Has these chunks fetched, as far as nobody has them or fetches them.
    fn fetch_ahead(&self, numbers: Range<u64>) {
        let numbers = numbers.start..numbers.end.min(self.reader.chunk_count());
        self.source.fetch_ahead(numbers.map_while(|n| self.reader.chunk(n).ok()).flatten().collect());
    }
}

//! Copying a map: that of a disk, or of a disk image in a tree.

use super::Work;
use crate::format::node::FANOUT_BITS;
use crate::map::{Tree, chunk_count};
use crate::reader::ChunkRef;
use crate::tree::ImageWriter;
use crate::{Result, Scratch, SnapshotReader, SnapshotWriter};
use std::collections::BTreeMap;
use std::ops::Range;

/// Leaves of the source's map that are compared and copied at a time: with 256 KiB a chunk, 1 GiB of the disk.
const LEAVES: u64 = 32;

/// A map of the source.
#[derive(Clone, Copy)]
pub(super) struct From<'a> {
    pub(super) tree: &'a Tree,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// log2 of the chunk size.
    pub(super) class: u8,
}

/// Where a map goes.
pub(super) trait Sink: Sync {
    fn scratch(&self) -> Result<Scratch>;
    fn put(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<()>;
    fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>>;
    fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()>;
    fn advance(&self, number: u64) -> Result<()>;
}

impl Sink for SnapshotWriter {
    fn scratch(&self) -> Result<Scratch> {
        self.scratch()
    }
    fn put(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<()> {
        self.put(scratch, number, plain).map(drop)
    }
    fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.inheritable(chunks)
    }
    fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()> {
        self.inherit(chunks, bytes)
    }
    fn advance(&self, number: u64) -> Result<()> {
        self.advance(number)
    }
}

impl Sink for ImageWriter<'_> {
    fn scratch(&self) -> Result<Scratch> {
        self.scratch()
    }
    fn put(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<()> {
        self.put_unordered(scratch, number, plain)
    }
    fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.inheritable(chunks)
    }
    fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()> {
        self.inherit(chunks, bytes)
    }
    fn advance(&self, number: u64) -> Result<()> {
        self.advance(number)
    }
}

/// Copies a disk; `base` is the snapshot of which the writer's parent is a copy.
pub(super) fn disk(
    work: &Work<'_>,
    reader: &SnapshotReader,
    base: Option<&SnapshotReader>,
    writer: &SnapshotWriter,
) -> Result<()> {
    copy(work, from(reader), base.map(from), writer)
}

fn from(reader: &SnapshotReader) -> From<'_> {
    From { tree: reader.map_tree(), size: reader.size(), class: reader.chunk_size().trailing_zeros() as u8 }
}

/// Copies a map. `base` is a map of the source of which the sink's parent has a copy: what both have in common is taken over
/// from there and not read.
pub(super) fn copy(work: &Work<'_>, from: From<'_>, base: Option<From<'_>>, sink: &dyn Sink) -> Result<()> {
    let base = base.filter(|base| base.class == from.class);
    let end = chunk_count(from.size, from.class);
    let mut start = 0;
    while start < end {
        let to = (start + (LEAVES << FANOUT_BITS)).min(end);
        let mine = chunks(work, &from, start..to)?;
        let theirs = match &base {
            // One that cannot be read is none: everything is read.
            Some(base) => match chunks(work, base, start..to) {
                Err(e) if work.chunks.repository().is_damage(&e) => None,
                found => Some(found?),
            },
            None => None,
        };
        let (mut read, mut same) = (mine.clone(), Vec::new());
        if let Some(theirs) = theirs {
            for range in equal(&mine, &theirs, start..to) {
                for kept in sink.inheritable(range)? {
                    let bytes = (kept.end << from.class).min(from.size) - (kept.start << from.class);
                    same.push((kept, bytes));
                }
            }
            for (kept, _) in &same {
                read.retain(|n, _| !kept.contains(n));
            }
        }
        for (kept, bytes) in same {
            sink.inherit(kept, bytes)?;
        }
        work.each(
            read.into_values().collect(),
            || sink.scratch(),
            |scratch, chunk, plain| sink.put(scratch, chunk.number, plain),
        )?;
        (work.watch)(0)?;
        sink.advance(to)?;
        start = to;
    }
    Ok(())
}

/// The chunks of this part that are not zero, by number.
fn chunks(work: &Work<'_>, from: &From<'_>, range: Range<u64>) -> Result<BTreeMap<u64, ChunkRef>> {
    let mut found = BTreeMap::new();
    let mut leaf = range.start >> FANOUT_BITS;
    while leaf << FANOUT_BITS < range.end {
        work.chunks.admit()?;
        let found_leaf = work.of_source(from.tree.next_leaf(leaf)).map_err(|e| e.context(work.chunks.name()))?;
        let Some((number, node)) = found_leaf else { break };
        for (n, slot) in node.present() {
            let chunk = (number << FANOUT_BITS) + n as u64;
            if range.contains(&chunk) {
                found.insert(chunk, ChunkRef::of_map(from.size, from.class, chunk, *slot));
            }
        }
        leaf = number + 1;
    }
    Ok(found)
}

/// Where both have the same, zeros included.
fn equal(mine: &BTreeMap<u64, ChunkRef>, theirs: &BTreeMap<u64, ChunkRef>, range: Range<u64>) -> Vec<Range<u64>> {
    let same = |a: Option<&ChunkRef>, b: Option<&ChunkRef>| a.map(|c| (c.id(), c.len)) == b.map(|c| (c.id(), c.len));
    let mut differ: Vec<u64> =
        mine.keys().chain(theirs.keys()).filter(|n| !same(mine.get(n), theirs.get(n))).copied().collect();
    differ.sort_unstable();
    differ.dedup();
    let mut found = Vec::new();
    let mut start = range.start;
    for n in differ {
        found.push(start..n);
        start = n + 1;
    }
    found.push(start..range.end);
    found.retain(|range| range.start < range.end);
    found
}

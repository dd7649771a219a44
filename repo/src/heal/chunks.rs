//! Chunks of one snapshot of the other repository, read and offered.

use super::{Heal, HealWatch};
use crate::check::{Name, Of};
use crate::format::tree::{Entry, Placed, TreeNode};
use crate::map::{Tree, chunk_count, chunk_len};
use crate::reader::{ChunkReader, ChunkRef};
use crate::tree::{Leads, Node};
use crate::{ErrorKind, ReadSession, Result, SnapshotReader, TreeReader};
use std::collections::HashSet;
use std::sync::Arc;

/// Chunks that are read together.
const BATCH: usize = 1024;

pub(super) fn take(heal: &Heal<'_>, session: Arc<ReadSession>, scan: bool, watch: HealWatch<'_>) -> Result<()> {
    let snapshot = session.snapshot().clone();
    let taken = match snapshot.record.tree.is_some() {
        false => SnapshotReader::within(session).and_then(|reader| disk(heal, &reader, scan, watch)),
        true => TreeReader::within(session).and_then(|reader| tree(heal, &reader, watch)),
    };
    match taken {
        // Damage there, not of what was just stored here.
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) && !heal.is_broken() => {
            tracing::warn!("snapshot {} of the other repository cannot be read: {e}", snapshot.id);
            Ok(())
        }
        taken => taken,
    }
}

/// What is read, and from whom.
struct Reading<'a, 'b> {
    heal: &'a Heal<'b>,
    chunks: &'a ChunkReader,
    watch: HealWatch<'a>,
    batch: Vec<ChunkRef>,
    /// Lengths of what is wanted, by class.
    lengths: HashSet<(u8, u32)>,
}

impl<'a, 'b> Reading<'a, 'b> {
    fn new(heal: &'a Heal<'b>, chunks: &'a ChunkReader, watch: HealWatch<'a>) -> Self {
        let lengths = heal.state.lock().open.iter().map(|((class, _), len)| (*class, *len)).collect();
        Self { heal, chunks, watch, batch: Vec::new(), lengths }
    }

    /// Takes one to be read, if it may be wanted.
    fn push(&mut self, chunk: ChunkRef) -> Result<()> {
        let name = (chunk.class(), chunk.id());
        if self.lengths.contains(&(chunk.class(), chunk.len as u32)) && self.heal.is_new(name) {
            self.batch.push(chunk);
        }
        if self.batch.len() >= BATCH { self.read() } else { Ok(()) }
    }

    /// Reads what was taken, on several threads.
    fn read(&mut self) -> Result<()> {
        (self.watch)(0)?;
        let options = &self.heal.options.copy;
        let plan = self.chunks.plan(std::mem::take(&mut self.batch), options.fetch);
        crate::side::each(options.threads, &plan, |fetch| {
            let take = |chunk: &ChunkRef, opened: Result<crate::Verified<Vec<u8>>>| match opened {
                Ok(plain) => {
                    (self.watch)(chunk.len as u64)?;
                    self.heal.offer(chunk.class(), plain.as_ref())
                }
                Err(e) if self.is_damage(&e) => {
                    tracing::debug!("a chunk of the other repository is of no use: {e}");
                    Ok(())
                }
                Err(e) => Err(e),
            };
            self.chunks.read(fetch, &mut Vec::new(), |chunk| vec![0; chunk.len], take)
        })
        .map(drop)
    }

    fn is_damage(&self, e: &crate::Error) -> bool {
        self.chunks.repository().is_damage(e)
    }

    /// Everything below a map.
    fn map(&mut self, map: &Tree, size: u64, class: u8) -> Result<()> {
        let end = chunk_count(size, class).div_ceil(1 << crate::format::node::FANOUT_BITS);
        let mut leaf = 0;
        while leaf < end {
            (self.watch)(0)?;
            self.chunks.admit()?;
            let next = match map.next_leaf(leaf) {
                // One of those that are read together; this one may be readable.
                Err(e) if self.is_damage(&e) => map.node(0, leaf).map(|node| node.map(|node| (leaf, node))).or(Err(e)),
                next => next,
            };
            match next {
                Ok(None) => break,
                Ok(Some((number, node))) => {
                    for (n, slot) in node.present() {
                        let chunk = (number << crate::format::node::FANOUT_BITS) + n as u64;
                        if chunk < chunk_count(size, class) {
                            self.push(ChunkRef::of_map(size, class, chunk, *slot))?;
                        }
                    }
                    leaf = number + 1;
                }
                // What is behind it may be readable.
                Err(e) if self.is_damage(&e) => leaf += 1,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn disk(heal: &Heal<'_>, reader: &SnapshotReader, scan: bool, watch: HealWatch<'_>) -> Result<()> {
    let mut reading = Reading::new(heal, reader.chunks(), watch);
    let class = reader.chunk_size().trailing_zeros() as u8;
    for Of { chunks, .. } in heal.wanted.snapshots.values() {
        for (number, name) in chunks.iter().filter(|(_, name)| heal.is_open(name)) {
            // Also of the last chunk of a disk that has grown since, or was longer.
            let len = heal.wanted.chunks.get(name).copied();
            let has_len = || len.map(|len| len as usize) == Some(chunk_len(reader.size(), class, *number));
            if name.0 != class || (*number < reader.chunk_count() && !has_len()) {
                range(&reading, reader, *number, name)?;
                continue;
            }
            if *number >= reader.chunk_count() {
                continue;
            }
            match reader.chunk(*number) {
                Ok(chunk) => chunk.map_or(Ok(()), |chunk| reading.push(chunk))?,
                Err(e) if reading.is_damage(&e) => tracing::debug!("a part of the other's map is of no use: {e}"),
                Err(e) => return Err(e),
            }
        }
    }
    reading.read()?;
    if scan && heal.missing() > 0 {
        reading.map(reader.map_tree(), reader.size(), class)?;
        reading.read()?;
    }
    Ok(())
}

/// A chunk that the other repository has in chunks of another size.
fn range(reading: &Reading<'_, '_>, reader: &SnapshotReader, number: u64, name: &Name) -> Result<()> {
    let heal = reading.heal;
    let Some(len) = heal.wanted.chunks.get(name).copied().map(u64::from) else { return Ok(()) };
    let start = number.saturating_mul(1 << name.0);
    let end = start.saturating_add(len);
    if end > reader.size() {
        return Ok(());
    }
    let mut plain = vec![0; len as usize];
    let size = reader.chunk_size();
    for n in start / size..end.div_ceil(size) {
        let read = reader.chunk(n).and_then(|chunk| chunk.map(|chunk| reader.read_chunk(&chunk)).transpose());
        let theirs = match read {
            Ok(None) => continue,
            Ok(Some(theirs)) => theirs.into_inner(),
            Err(e) if reading.is_damage(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        let at = n * size;
        let (from, to) = (start.max(at), end.min(at + theirs.len() as u64));
        if let (Some(out), Some(part)) = (
            plain.get_mut((from - start) as usize..(to - start) as usize),
            theirs.get((from - at) as usize..(to - at) as usize),
        ) {
            out.copy_from_slice(part);
        }
    }
    (reading.watch)(len)?;
    heal.offer(name.0, &plain)
}

/// All chunks of a tree, and of the disk images in it, that are as long as something wanted.
fn tree(heal: &Heal<'_>, reader: &TreeReader, watch: HealWatch<'_>) -> Result<()> {
    let mut reading = Reading::new(heal, reader.chunks(), watch);
    let mut seen = HashSet::new();
    let root = TreeNode::Leaf(vec![Entry::Known(Box::new(reader.root().clone()))]);
    let mut stack: Vec<Placed> = Vec::new();
    visit(&mut reading, reader, &Node::Folder(root), &mut stack)?;
    while let Some(at) = stack.pop() {
        if !seen.insert((at.at.pack, at.at.ordinal)) {
            continue;
        }
        match reader.node(&at) {
            Ok(node) => visit(&mut reading, reader, &node, &mut stack)?,
            Err(e) if reading.is_damage(&e) => tracing::debug!("a node of the other repository is of no use: {e}"),
            Err(e) => return Err(e),
        }
        (watch)(0)?;
    }
    reading.read()
}

fn visit(reading: &mut Reading<'_, '_>, reader: &TreeReader, node: &Node, stack: &mut Vec<Placed>) -> Result<()> {
    let (mut chunks, mut images) = (Vec::new(), Vec::new());
    node.each_lead(&mut |lead| match lead {
        Leads::Chunk(placed) => chunks.push(placed),
        Leads::Node(placed) => stack.push(placed),
        Leads::Image(image) => images.push(image),
    });
    chunks.iter().try_for_each(|placed| reading.push(ChunkRef::of_tree(placed)))?;
    for image in images {
        if !reading.lengths.iter().any(|(class, _)| *class == image.class) {
            continue;
        }
        match reader.image(&image) {
            Ok(map) => reading.map(&map, image.size, image.class)?,
            Err(e) if reading.is_damage(&e) => {
                tracing::debug!("a disk image of the other repository is of no use: {e}")
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

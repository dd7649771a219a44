//! Step 3: the maps of snapshots, and of disk images in trees, every node and every slot.

use super::packs::{Known, Packs, State};
use super::{CheckStep, Piece, Run, trees};
use crate::crypto::TAG;
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::id::{Location, PackId, ShortId};
use crate::map::{Image, Tree, chunk_count, chunk_len, span};
use crate::storage::{Key, keys};
use crate::{Error, ErrorKind, Result, Snapshot};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Chunks to be opened because the index of their pack cannot be used, by pack and [`Piece::print`].
pub(super) type Suspects = BTreeMap<PackId, BTreeMap<u64, Piece>>;

/// So many are kept (about 100 bytes each); more count as damaged without being read.
const MOST_SUSPECTS: usize = 1 << 20;

/// What the maps turned out to be.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) suspects: Suspects,
    /// Nodes and chunks that are damaged.
    pub(super) bad: HashSet<(PackId, u64)>,
    /// Snapshots whose record does not fit its map or tree, by their place in the list.
    pub(super) unreadable: HashSet<usize>,
}

pub(super) fn examine(run: &Run<'_>, packs: &Packs<'_>, snapshots: &[Snapshot]) -> Result<Maps> {
    let walk = Walk {
        run,
        packs,
        edges: Seen::new(MOST_SEEN),
        suspected: AtomicUsize::new(0),
        maps: Mutex::default(),
        done: AtomicU64::new(0),
        total: snapshots.len() as u64,
    };
    // Few at once: each reads with several threads where there is much to read.
    let numbered: Vec<_> = snapshots.iter().enumerate().collect();
    run.each_with(run.options.threads.min(4), &numbered, |(n, snapshot)| {
        walk.snapshot(*n, snapshot)?;
        walk.done.fetch_add(1, Ordering::Relaxed);
        walk.watch()
    })?;
    Ok(walk.maps.into_inner())
}

pub(super) struct Walk<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) packs: &'a Packs<'a>,
    /// Nodes at the end of a disk, and tops of disk images, that were looked at for a disk of this size and class.
    pub(super) edges: Seen<(PackId, u32, u64, u8)>,
    suspected: AtomicUsize,
    pub(super) maps: Mutex<Maps>,
    /// Snapshots.
    done: AtomicU64,
    total: u64,
}

/// So many of them are remembered (about 100 bytes each).
const MOST_SEEN: usize = 1 << 16;

/// What was looked at: of the last ones each once. What was forgotten for want of room is looked at again, which changes
/// nothing but the time it takes; snapshots that share it mostly follow each other.
pub(super) struct Seen<T> {
    seen: Mutex<HashSet<T>>,
    most: usize,
}

impl<T: Eq + Hash> Seen<T> {
    fn new(most: usize) -> Self {
        Self { seen: Mutex::default(), most }
    }

    /// True the first time.
    pub(super) fn is_new(&self, thing: T) -> bool {
        let mut seen = self.seen.lock();
        if seen.len() >= self.most && !seen.contains(&thing) {
            seen.clear();
        }
        seen.insert(thing)
    }
}

/// The map of one disk, of a snapshot or in a tree, and the shape of that.
pub(super) struct View {
    pub(super) tree: Tree,
    /// Bytes.
    size: u64,
    pub(super) class: u8,
    chunks: u64,
    /// Chunk size in bytes.
    unit: u64,
    /// What has its top node in it.
    key: Key,
}

impl View {
    pub(super) fn open(run: &Run<'_>, snapshot: &Snapshot) -> Result<Self> {
        let unit = snapshot.volume_chunk_size()?;
        let tree = Tree::open(run.repository, &snapshot.record)?;
        let (size, class) = (snapshot.record.size, snapshot.record.class);
        let key = keys::snap(&snapshot.volume, &snapshot.id);
        Ok(Self { tree, size, class, chunks: chunk_count(size, class), unit, key })
    }

    /// That of a disk image in a tree, with its top node from where the entry says; `damaged` is told when it cannot be read
    /// there. Then from wherever else it is.
    pub(super) fn of_image(run: &Run<'_>, image: &Image, damaged: &mut dyn FnMut(&Error)) -> Result<Option<Self>> {
        let opened = match Tree::of_image(run.repository, image, false) {
            Err(e) if run.is_damage(&e) => {
                damaged(&e);
                // What is below it is checked where it is said to be.
                Tree::of_image(run.repository, image, true).map(Tree::by_place)
            }
            opened => opened,
        };
        let tree = match opened {
            Err(e) if run.is_damage(&e) => return Ok(None),
            opened => opened?,
        };
        let (size, class, key) = (image.size, image.class, keys::pack(&image.top.at.pack));
        Ok(Some(Self { tree, size, class, chunks: chunk_count(size, class), unit: 1 << class, key }))
    }

    /// Its top node; `None`: all is zero.
    pub(super) fn top(&self) -> Result<Option<Arc<Node>>> {
        self.tree.node(self.tree.levels() - 1, 0)
    }

    /// The chunks below a node.
    fn below(&self, level: u8, number: u64) -> Range<u64> {
        let span = span(level + 1);
        let start = number.saturating_mul(span);
        start..start.saturating_add(span)
    }

    /// Bytes of the disk below a node.
    pub(super) fn bytes_below(&self, level: u8, number: u64) -> Range<u64> {
        let chunks = self.below(level, number);
        self.bytes(chunks.start)..self.bytes(chunks.end)
    }

    /// Bytes of a chunk.
    pub(super) fn bytes_of(&self, number: u64) -> Range<u64> {
        self.bytes(number)..self.bytes(number + 1)
    }

    fn bytes(&self, chunk: u64) -> u64 {
        chunk.saturating_mul(self.unit).min(self.size)
    }

    /// True when the end of the disk is below a node: then it is not the same for disks of other sizes.
    fn is_edge(&self, level: u8, number: u64) -> bool {
        self.below(level, number).end > self.size / self.unit
    }

    /// What the slot of a chunk says.
    pub(super) fn chunk(&self, number: u64, slot: &Slot) -> Piece {
        let plain = chunk_len(self.size, self.class, number) as u32;
        Piece { id: slot.id, at: slot.at, class: self.class, plain }
    }
}

/// What the slot of a node of `level` says.
pub(super) fn node_piece(slot: &Slot, level: u8) -> Piece {
    Piece { id: slot.id, at: slot.at, class: 128 + level, plain: slot.at.len.saturating_sub(TAG as u32) }
}

/// Nodes of one level; those that do not open as errors.
pub(super) fn open_nodes(tree: &Tree, wanted: &[(u64, Slot)], level: u8) -> Vec<(u64, Slot, Result<Node>)> {
    if let Ok(nodes) = tree.fetch(wanted, level) {
        let mut nodes: HashMap<u64, Node> = nodes.into_iter().collect();
        let node = |(n, slot): &(u64, Slot)| Some((*n, *slot, Ok(nodes.remove(n)?)));
        return wanted.iter().filter_map(node).collect();
    }
    // One by one, to see which it was.
    let one = |(n, slot): &(u64, Slot)| {
        let node = tree.fetch(&[(*n, *slot)], level).and_then(|mut nodes| {
            let lost = || crate::Error::internal("a map node was read and lost");
            nodes.pop().map(|(_, node)| node).ok_or_else(lost)
        });
        (*n, *slot, node)
    };
    wanted.iter().map(one).collect()
}

impl Walk<'_> {
    pub(super) fn watch(&self) -> Result<()> {
        (self.run.watch)(CheckStep::Maps, self.done.load(Ordering::Relaxed), self.total)
    }

    fn snapshot(&self, number: usize, snapshot: &Snapshot) -> Result<()> {
        if snapshot.record.tree.is_some() {
            return trees::examine(self, number, snapshot);
        }
        let view = match View::open(self.run, snapshot) {
            Ok(view) => view,
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.unreadable(number, snapshot, &e);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.map(&view)
    }

    /// Everything below the top of a map.
    pub(super) fn map(&self, view: &View) -> Result<()> {
        let level = view.tree.levels() - 1;
        match view.top()? {
            Some(top) if level == 0 => self.leaves(view, &[(0, &top)]),
            Some(top) => self.inner(view, level, 0, &top),
            None => Ok(()),
        }
    }

    /// The record does not fit what it leads to.
    pub(super) fn unreadable(&self, number: usize, snapshot: &Snapshot, why: &Error) {
        self.run.findings.whole(&keys::snap(&snapshot.volume, &snapshot.id), why.message());
        self.maps.lock().unreadable.insert(number);
    }

    /// Everything below a node of level 1 or more.
    fn inner(&self, view: &View, level: u8, number: u64, node: &Node) -> Result<()> {
        self.watch()?;
        let child = |n: usize| (number << FANOUT_BITS) + n as u64;
        let slots: Vec<(u64, Slot)> = node.present().map(|(n, slot)| (child(n), *slot)).collect();
        let known = self.packs.know(&slots.iter().map(|(_, slot)| slot.at.pack).collect())?;
        let (mut wanted, mut lost) = (Vec::new(), Vec::new());
        self.expect(128 + level - 1, slots.iter().map(|(_, slot)| (slot.id, slot.at.pack)), &known);
        for (n, slot) in slots {
            if view.below(level - 1, n).start >= view.chunks {
                self.beyond(view);
                continue;
            }
            let piece = node_piece(&slot, level - 1);
            let first = self.packs.see(&piece);
            let edge = || (slot.at.pack, slot.at.ordinal, view.size, view.class);
            let new_edge = view.is_edge(level - 1, n) && self.edges.is_new(edge());
            let is_new = first || new_edge;
            match known.get(&slot.at.pack).filter(|pack| pack.state != State::Missing) {
                None => {
                    self.gone(&piece, first)?;
                    lost.extend(is_new.then_some((n, slot)));
                }
                Some(pack) => {
                    if !agrees(pack, &piece) {
                        self.disagree("map", &slot.at);
                    }
                    wanted.extend(is_new.then_some((n, slot)));
                }
            }
        }
        let mut nodes = Vec::with_capacity(wanted.len());
        for (n, slot, node) in open_nodes(&view.tree, &wanted, level - 1) {
            match node {
                Ok(node) => nodes.push((n, node)),
                Err(e) if self.run.is_damage(&e) => {
                    self.does_not_open(&node_piece(&slot, level - 1), &e);
                    lost.push((n, slot));
                }
                Err(e) => return Err(e),
            }
        }
        for (n, slot) in lost {
            let repository = self.run.repository;
            nodes.extend(repository.elsewhere().node(repository, &slot, level - 1, true)?.map(|node| (n, node)));
        }
        if level == 1 {
            let nodes: Vec<_> = nodes.iter().map(|(n, node)| (*n, node)).collect();
            return self.leaves(view, &nodes);
        }
        nodes.iter().try_for_each(|(n, node)| self.inner(view, level - 1, *n, node))
    }

    fn leaves(&self, view: &View, leaves: &[(u64, &Node)]) -> Result<()> {
        let packs: BTreeSet<PackId> =
            leaves.iter().flat_map(|(_, leaf)| leaf.present()).map(|(_, s)| s.at.pack).collect();
        let known = self.packs.know(&packs)?;
        let slots = leaves.iter().flat_map(|(_, leaf)| leaf.present()).map(|(_, slot)| (slot.id, slot.at.pack));
        self.expect(view.class, slots, &known);
        for (leaf, node) in leaves {
            for (n, slot) in node.present() {
                let number = (leaf << FANOUT_BITS) + n as u64;
                if number >= view.chunks {
                    self.beyond(view);
                    continue;
                }
                self.chunk("map", view.chunk(number, slot), &known)?;
            }
        }
        Ok(())
    }

    /// A chunk that a map or a tree refers to.
    pub(super) fn chunk(&self, what: &str, piece: Piece, known: &HashMap<PackId, Known>) -> Result<()> {
        let first = self.packs.see(&piece);
        match known.get(&piece.at.pack) {
            None => {}
            Some(Known { state: State::Missing, .. }) => self.gone(&piece, first)?,
            Some(pack) if agrees(pack, &piece) => {}
            Some(Known { prints: Some(_), .. }) => {
                self.disagree(what, &piece.at);
                self.suspect(piece);
            }
            Some(_) => self.suspect(piece),
        }
        Ok(())
    }

    /// Those whose packs are gone are looked for next.
    pub(super) fn expect(
        &self,
        class: u8,
        pieces: impl Iterator<Item = (ShortId, PackId)>,
        known: &HashMap<PackId, Known>,
    ) {
        let gone = |(_, pack): &(ShortId, PackId)| known.get(pack).is_some_and(|pack| pack.state == State::Missing);
        self.run.repository.elsewhere().expect(class, pieces.filter(gone).map(|(id, _)| id));
    }

    /// The pack of a chunk or node is gone; another one may hold the same.
    pub(super) fn gone(&self, piece: &Piece, first: bool) -> Result<()> {
        self.watch()?;
        self.run.findings.missing(&keys::pack(&piece.at.pack));
        if first && let Some(copy) = self.packs.elsewhere(piece)?.first() {
            self.packs.see_moved(piece, copy);
            if copy.is_by_rows() {
                self.suspect(Piece { at: copy.at, ..*piece });
            }
        }
        Ok(())
    }

    /// A node is not where its hint says.
    pub(super) fn does_not_open(&self, node: &Piece, why: &Error) {
        match self.run.does_not_open(node, why) {
            true => self.packs.lose(&node.at.pack),
            false => drop(self.maps.lock().bad.insert((node.at.pack, node.print()))),
        }
    }

    fn beyond(&self, view: &View) {
        let what = if view.key.as_str().starts_with(keys::SNAP) { "its map" } else { "the map of a disk image in it" };
        let end = if view.key.as_str().starts_with(keys::SNAP) { "volume" } else { "image" };
        self.run.findings.whole(&view.key, format!("{what} goes on behind the end of the {end}"));
    }

    /// Authentic nodes and an authentic index say different things: one was written wrongly.
    pub(super) fn disagree(&self, what: &str, at: &Location) {
        let what = format!("its index and a {what} do not agree on number {}", at.ordinal);
        self.run.findings.whole(&keys::pack(&at.pack), what);
    }

    pub(super) fn suspect(&self, piece: Piece) {
        let print = piece.print();
        let mut maps = self.maps.lock();
        if self.suspected.load(Ordering::Relaxed) >= MOST_SUSPECTS {
            maps.bad.insert((piece.at.pack, print));
        } else if maps.suspects.entry(piece.at.pack).or_default().insert(print, piece).is_none() {
            self.suspected.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// True when the index of the pack says the same as a slot, or cannot be asked.
pub(super) fn agrees(pack: &Known, piece: &Piece) -> bool {
    match &pack.prints {
        Some(prints) => prints.get(piece.at.ordinal as usize) == Some(&piece.print()),
        None => piece.class >= 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_remembered_within_a_bound() {
        let seen = Seen::new(100);
        for n in 0..1000 {
            assert!(seen.is_new(n) && !seen.is_new(n), "{n}");
            assert!(seen.seen.lock().len() <= 100);
        }
        assert!(seen.is_new(0), "it was forgotten");
    }
}

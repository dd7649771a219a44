//! What snapshots refer to and no pack has: what could be taken from another repository, if that has the same content.

use super::Piece;
use crate::Snapshot;
use crate::id::{Location, ShortId, SnapshotId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes that something named here takes at most: a chunk, one place of it, or a node.
const EACH: u64 = 160;
/// So many are named in any case.
const LEAST: usize = 1 << 12;

/// A chunk or node by class and short id.
pub(crate) type Name = (u8, ShortId);

/// All that snapshots refer to and no pack has: each chunk once, and of lost nodes the topmost ones.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Their lengths in bytes.
    pub(crate) chunks: HashMap<Name, u32>,
    /// Where they should be.
    pub(crate) nodes: BTreeMap<Name, Location>,
    /// Who refers to them.
    pub(crate) snapshots: BTreeMap<SnapshotId, Of>,
    /// Which chunks of disks they are, by number: each of these is in the list of one snapshot.
    places: HashSet<(u64, Name)>,
    /// There is more than is named here.
    pub(crate) is_full: bool,
    /// So much is named; what is more is found by the next look, when this is there.
    most: usize,
    /// Of the snapshot that is being looked at.
    now: Now,
}

#[derive(Debug, Default)]
struct Now {
    chunks: HashMap<Name, u32>,
    places: HashSet<(u64, Name)>,
    nodes: BTreeMap<Name, Location>,
    has_chunks: bool,
    has_nodes: bool,
    in_image: bool,
}

/// What a snapshot refers to that no pack has.
#[derive(Debug)]
pub(crate) struct Of {
    pub(crate) snapshot: Snapshot,
    /// Of a volume: chunks by their numbers, where no snapshot before this one has the same in the same place.
    pub(crate) chunks: Vec<(u64, Name)>,
    /// A part of its map or tree is lost.
    pub(crate) nodes: bool,
}

impl Wanted {
    /// What names no more than `most` things.
    pub(super) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// How much may be named within so many bytes.
    pub(super) fn most(memory: u64) -> usize {
        ((memory / EACH) as usize).max(LEAST)
    }

    /// Chunks.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Bytes of their plaintexts.
    pub fn bytes(&self) -> u64 {
        self.chunks.values().map(|len| u64::from(*len)).sum()
    }

    /// Nodes of maps and trees; what is below a lost one is not known, and not counted.
    pub fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// How many of these chunks are not wanted any more by a later look.
    pub fn found_since(&self, later: &Self) -> u64 {
        self.chunks.keys().filter(|name| !later.chunks.contains_key(name)).count() as u64
    }

    /// Nothing is lost, as far as was looked.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.nodes.is_empty()
    }

    /// There is more than is named here: look again when this is there.
    pub fn is_partial(&self) -> bool {
        self.is_full
    }

    pub(super) fn begin(&mut self) {
        self.now = Now::default();
    }

    /// What was said since `begin` is of this snapshot. Not called of one that is forgotten for good: that needs nothing.
    pub(super) fn end(&mut self, snapshot: &Snapshot) {
        let Now { chunks, places, nodes, has_chunks, has_nodes, .. } = std::mem::take(&mut self.now);
        if self.most == 0 || !(has_chunks || has_nodes) {
            return;
        }
        let mut of = Of { snapshot: snapshot.clone(), chunks: places.iter().copied().collect(), nodes: has_nodes };
        of.chunks.sort_unstable();
        self.chunks.extend(chunks);
        self.places.extend(places);
        self.nodes.extend(nodes);
        self.snapshots.insert(snapshot.id, of);
    }

    /// Whether what follows is of a disk image in a tree; what was so before.
    pub(super) fn inside(&mut self, image: bool) -> bool {
        std::mem::replace(&mut self.now.in_image, image)
    }

    /// `number`: which chunk of a disk it is.
    pub(super) fn chunk(&mut self, piece: &Piece, number: Option<u64>) {
        let (name, now) = ((piece.class, piece.id), &mut self.now);
        now.has_chunks = true;
        if !(self.chunks.contains_key(&name) || now.chunks.contains_key(&name)) {
            if !self.has_room() {
                return;
            }
            self.now.chunks.insert(name, piece.plain);
        }
        // Another volume may have the same in another place, and only that one have a copy.
        let place = number.filter(|_| !self.now.in_image).map(|number| (number, name));
        if let Some(place) = place
            && !(self.places.contains(&place) || self.now.places.contains(&place))
            && self.has_room()
        {
            self.now.places.insert(place);
        }
    }

    pub(super) fn node(&mut self, piece: &Piece) {
        let name = (piece.class, piece.id);
        self.now.has_nodes = true;
        if self.nodes.contains_key(&name) || self.now.nodes.contains_key(&name) || self.has_room() {
            self.now.nodes.insert(name, piece.at);
        }
    }

    fn has_room(&mut self) -> bool {
        let Now { chunks, places, nodes, .. } = &self.now;
        let now = chunks.len() + places.len() + nodes.len();
        let has_room = self.chunks.len() + self.places.len() + self.nodes.len() + now < self.most;
        self.is_full |= !has_room;
        has_room
    }
}

//! What snapshots refer to and no pack has: what could be taken from another repository, if that has the same content.

use super::Piece;
use crate::Snapshot;
use crate::id::{Location, ShortId, SnapshotId};
use std::collections::{BTreeMap, HashMap};

/// Chunks that are named at once (about 100 bytes each); what is more is found by the next look, when these are there.
const MOST: usize = 1 << 20;

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
    /// There are more chunks than are named here.
    pub(crate) is_full: bool,
    of: Vec<(u64, Name)>,
    has_chunks: bool,
    has_nodes: bool,
    in_image: bool,
}

/// What a snapshot refers to that no pack has.
#[derive(Debug)]
pub(crate) struct Of {
    pub(crate) snapshot: Snapshot,
    /// Of a volume: chunks, by their numbers, that no snapshot before this one named.
    pub(crate) chunks: Vec<(u64, Name)>,
    /// A part of its map or tree is lost.
    pub(crate) nodes: bool,
}

impl Wanted {
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
        self.of.clear();
        (self.has_chunks, self.has_nodes, self.in_image) = (false, false, false);
    }

    pub(super) fn end(&mut self, snapshot: &Snapshot) {
        if self.has_chunks || self.has_nodes {
            let chunks = std::mem::take(&mut self.of);
            let of = Of { snapshot: snapshot.clone(), chunks, nodes: self.has_nodes };
            self.snapshots.insert(snapshot.id, of);
        }
    }

    /// Whether what follows is of a disk image in a tree; what was so before.
    pub(super) fn inside(&mut self, image: bool) -> bool {
        std::mem::replace(&mut self.in_image, image)
    }

    /// `number`: which chunk of a disk it is.
    pub(super) fn chunk(&mut self, piece: &Piece, number: Option<u64>) {
        self.has_chunks = true;
        let name = (piece.class, piece.id);
        if self.chunks.len() >= MOST && !self.chunks.contains_key(&name) {
            self.is_full = true;
        } else if self.chunks.insert(name, piece.plain).is_none() {
            self.of.extend(number.filter(|_| !self.in_image).map(|number| (number, name)));
        }
    }

    pub(super) fn node(&mut self, piece: &Piece) {
        self.has_nodes = true;
        self.nodes.insert((piece.class, piece.id), piece.at);
    }
}

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
    /// Of the snapshot that is being looked at.
    now: Now,
}

#[derive(Debug, Default)]
struct Now {
    chunks: HashMap<Name, (u32, Option<u64>)>,
    nodes: BTreeMap<Name, Location>,
    has_chunks: bool,
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
        self.now = Now::default();
    }

    /// What was said since `begin` is of this snapshot. Not called of one that is forgotten for good: that needs nothing.
    pub(super) fn end(&mut self, snapshot: &Snapshot) {
        let Now { chunks, nodes, has_chunks, .. } = std::mem::take(&mut self.now);
        if !has_chunks && nodes.is_empty() {
            return;
        }
        let mut of = Of { snapshot: snapshot.clone(), chunks: Vec::new(), nodes: !nodes.is_empty() };
        for (name, (len, number)) in chunks {
            self.chunks.insert(name, len);
            of.chunks.extend(number.map(|number| (number, name)));
        }
        of.chunks.sort_unstable();
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
        if self.chunks.contains_key(&name) || now.chunks.contains_key(&name) {
            return;
        }
        if self.chunks.len() + now.chunks.len() >= MOST {
            self.is_full = true;
        } else {
            now.chunks.insert(name, (piece.plain, number.filter(|_| !now.in_image)));
        }
    }

    pub(super) fn node(&mut self, piece: &Piece) {
        self.now.nodes.insert((piece.class, piece.id), piece.at);
    }
}

//! Maps, of the disk of a snapshot or of a disk image in a tree: a fixed-radix Merkle tree over its chunks. See
//! `docs/format.md`, section "Map".

mod builder;
mod cache;
mod tree;

pub(crate) use builder::{MapBuilder, NodeSink};
pub(crate) use cache::NodeCache;
pub(crate) use tree::Tree;

use crate::format::node::{FANOUT, FANOUT_BITS};
use crate::format::tree::{Content, Known, Placed, What};

/// A disk image, as the entry of a tree says it: what leads to its map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// log2 of the chunk size.
    pub(crate) class: u8,
    /// Levels of the map.
    pub(crate) levels: u8,
    /// Its top node.
    pub(crate) top: Placed,
}

impl Image {
    /// That of a file with this content; `None`: it is stored in another way.
    pub(crate) fn new(size: u64, content: &Content) -> Option<Self> {
        match *content {
            Content::Map { class, levels, top } => Some(Self { size, class, levels, top }),
            _ => None,
        }
    }

    /// Likewise, of an entry.
    pub(crate) fn of(known: &Known) -> Option<Self> {
        match &known.what {
            What::File { size, content } => Self::new(*size, content),
            _ => None,
        }
    }

    /// The content of the file.
    pub(crate) fn content(&self) -> Content {
        Content::Map { class: self.class, levels: self.levels, top: self.top }
    }
}

/// Chunks of a volume of `size` bytes in chunks of 2^`class` bytes.
pub(crate) fn chunk_count(size: u64, class: u8) -> u64 {
    size.div_ceil(1 << class)
}

/// Length in bytes of the plaintext of chunk `number` of a volume of `size` bytes.
pub(crate) fn chunk_len(size: u64, class: u8, number: u64) -> usize {
    let start = number << class;
    (size.saturating_sub(start)).min(1 << class) as usize
}

/// Levels a map over `chunks` chunks has: at least one.
pub(crate) fn levels(chunks: u64) -> u8 {
    let mut levels = 1;
    while levels < crate::crypto::MAX_LEVELS as u8 && chunks > span(levels) {
        levels += 1;
    }
    levels
}

/// Chunks below one node of level `levels - 1`.
pub(crate) fn span(levels: u8) -> u64 {
    1u64.checked_shl(FANOUT_BITS * u32::from(levels)).unwrap_or(u64::MAX)
}

/// The node of the level above and the slot in it, of a chunk or node.
pub(crate) fn above(number: u64) -> (u64, usize) {
    (number >> FANOUT_BITS, (number % FANOUT as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_the_volume() {
        for (chunks, want) in
            [(0, 1), (1, 1), (128, 1), (129, 2), (16_384, 2), (16_385, 3), (1 << 48, 7), (u64::MAX, 10)]
        {
            assert_eq!(levels(chunks), want, "{chunks} chunks");
        }
        assert_eq!(chunk_len(300_000, 18, 0), 262_144);
        assert_eq!(chunk_len(300_000, 18, 1), 300_000 - 262_144);
        assert_eq!(chunk_count(262_145, 18), 2);
    }
}

//! Pieces, and lists of them.

use super::super::Fields;
use super::refs::{Refs, Table, put_count, put_number};
use super::{LIST, ListNode, MAX_FANOUT, MAX_HEIGHT, PIECE, Piece, heights, split};
use crate::Result;

impl Piece {
    /// Bytes of the file, at least 1.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Hole(bytes) => *bytes,
            Self::Chunk(chunk) => u64::from(chunk.to.plain),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, refs: &mut Refs) {
        match self {
            Self::Hole(bytes) => {
                out.push(0);
                put_number(out, *bytes);
            }
            Self::Chunk(chunk) => refs.put(out, chunk, 1),
        }
    }

    pub(super) fn read(f: &mut Fields<'_>, refs: &mut Table) -> Result<Self> {
        match f.number()? {
            0 => Ok(Self::Hole(f.number()?)),
            n => Ok(Self::Chunk(refs.named(f, n - 1)?)),
        }
    }
}

/// Why no reader would take pieces that follow each other.
pub(super) fn fault_of_pieces(pieces: &[Piece]) -> Option<&'static str> {
    let hole = |piece: &Piece| matches!(piece, Piece::Hole(_));
    if pieces.iter().any(|piece| matches!(piece, Piece::Chunk(chunk) if chunk.to.class != PIECE)) {
        Some("a piece of another class")
    } else if pieces.iter().any(|piece| piece.bytes() == 0) {
        Some("a piece of no bytes")
    } else if pieces.windows(2).any(|pair| hole(&pair[0]) && hole(&pair[1])) {
        Some("two holes in a row")
    } else {
        None
    }
}

/// The sum, if it is below 2^64.
pub(super) fn sum_of(mut bytes: impl Iterator<Item = u64>) -> Option<u64> {
    bytes.try_fold(0, u64::checked_add)
}

impl ListNode {
    /// The class it is stored under.
    pub fn class(&self) -> u8 {
        match self {
            Self::Leaf(_) => LIST,
            Self::Inner { height, .. } => LIST + height,
        }
    }

    /// Bytes of the file below it. Whoever loads it compares them with what led to it.
    pub fn sum(&self) -> u64 {
        let sum = match self {
            Self::Leaf(pieces) => sum_of(pieces.iter().map(Piece::bytes)),
            Self::Inner { children, .. } => sum_of(children.iter().map(|(_, bytes)| *bytes)),
        };
        sum.unwrap_or(u64::MAX)
    }

    /// Why no reader would take it; `None`: it is right.
    pub fn fault(&self) -> Option<&'static str> {
        let (count, sum, fault) = match self {
            Self::Leaf(pieces) => (pieces.len(), sum_of(pieces.iter().map(Piece::bytes)), fault_of_pieces(pieces)),
            Self::Inner { height, children } => {
                let fault = if !(1..=MAX_HEIGHT).contains(height) {
                    Some("a height that no node has")
                } else if children.iter().any(|(node, _)| node.to.class != LIST + height - 1) {
                    Some("a child of another class")
                } else if children.iter().any(|(_, bytes)| *bytes == 0) {
                    Some("a child without bytes")
                } else {
                    None
                };
                (children.len(), sum_of(children.iter().map(|(_, bytes)| *bytes)), fault)
            }
        };
        match (count, sum) {
            (1..=MAX_FANOUT, Some(_)) => fault,
            (1..=MAX_FANOUT, None) => Some("more bytes than a file can have"),
            _ => Some("a count is 0 or above its limit"),
        }
    }

    /// The bytes; the only ones for this content. Only of a node without [fault](Self::fault).
    pub fn encode(&self) -> Vec<u8> {
        let (mut said, mut refs) = (Vec::new(), Refs::default());
        match self {
            Self::Leaf(pieces) => {
                put_count(&mut said, pieces.len());
                pieces.iter().for_each(|piece| piece.put(&mut said, &mut refs));
            }
            Self::Inner { children, .. } => {
                put_count(&mut said, children.len());
                for (node, bytes) in children {
                    refs.put(&mut said, node, 0);
                    put_number(&mut said, *bytes);
                }
            }
        }
        refs.node(self.class(), &said)
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt): these are not the bytes of a node of a list.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (class, mut f, hints) = split("a node of a list", bytes)?;
        if !heights(LIST).contains(&class) {
            return Err(f.bad("it is of another class"));
        }
        let refs = &mut Table::read(&mut f, hints)?;
        let count = f.count(1, MAX_FANOUT, if class == LIST { 1 } else { 2 })?;
        let node = if class == LIST {
            let mut pieces = Vec::with_capacity(count);
            for _ in 0..count {
                pieces.push(Piece::read(&mut f, refs)?);
            }
            Self::Leaf(pieces)
        } else {
            let mut children = Vec::with_capacity(count);
            for _ in 0..count {
                let number = f.number()?;
                children.push((refs.named(&f, number)?, f.number()?));
            }
            Self::Inner { height: class - LIST, children }
        };
        if let Some(why) = node.fault() {
            return Err(f.bad(why));
        }
        refs.end(f)?;
        Ok(node)
    }
}

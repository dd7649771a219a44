//! Writing a map from its chunks in ascending order, with one open node per level in memory. A node that says the
//! same as the parent's node at the same place, hints included, is taken over and not written (step D4 of
//! `docs/concurrency.md`).

use super::{Tree, above};
use crate::crypto::MAX_LEVELS;
use crate::format::node::{Node, Slot};
use crate::id::Location;
use crate::{Error, ErrorKind, Result};

/// Where finished nodes go.
pub(crate) trait NodeSink {
    /// Stores a node and says where.
    fn store(&self, node: &Node) -> Result<Slot>;

    /// D1, W8: whether the pack was there when the session began, and can be opened.
    fn is_listed(&self, at: &Location) -> bool;
}

/// Builds one map.
#[derive(Debug)]
pub(crate) struct MapBuilder {
    open: Vec<(u64, Node)>,
    chunks: u64,
    /// The lowest number that may still come.
    next: u64,
}

impl MapBuilder {
    /// For a map of any size: how many levels it has is known when it ends.
    pub(crate) fn new() -> Self {
        Self { open: (0..MAX_LEVELS as u8).map(|level| (0, Node::new(level))).collect(), chunks: 0, next: 0 }
    }

    /// Chunks that are not zero, so far.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The next present chunk. `Internal` unless numbers ascend: one that came twice, or too late, would take the place of
    /// another one, or of a whole node.
    pub(crate) fn push(&mut self, number: u64, slot: Slot, parent: Option<&Tree>, sink: &dyn NodeSink) -> Result<()> {
        if number < self.next {
            let text =
                format!("chunk {number} was put after chunk {}; nothing is committed, please report it", self.next - 1);
            return Err(Error::internal(text));
        }
        self.next = number.saturating_add(1);
        self.chunks += 1;
        self.place(0, number, slot, parent, sink)
    }

    fn place(&mut self, level: u8, number: u64, slot: Slot, parent: Option<&Tree>, sink: &dyn NodeSink) -> Result<()> {
        let (node, place) = above(number);
        if self.open[usize::from(level)].0 != node {
            if !self.open[usize::from(level)].1.is_empty() {
                self.close(level, parent, sink)?;
            }
            self.open[usize::from(level)].0 = node;
        }
        self.open[usize::from(level)].1.set(place, slot);
        Ok(())
    }

    /// Ends the open node of a level and puts it into the one above; an empty one leaves no trace.
    fn close(&mut self, level: u8, parent: Option<&Tree>, sink: &dyn NodeSink) -> Result<()> {
        let (number, node) = std::mem::replace(&mut self.open[usize::from(level)], (0, Node::new(level)));
        if node.is_empty() {
            return Ok(());
        }
        let same = match parent {
            Some(tree) if level + 1 < tree.levels() => match tree.node(level, number) {
                Ok(Some(theirs)) if *theirs == node => {
                    tree.slot(level + 1, number)?.filter(|slot| sink.is_listed(&slot.at))
                }
                Ok(_) => None,
                // Nodes may be sealed anew, and then swept, beside a run that takes that long: this one is stored again.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => None,
                Err(e) => return Err(e),
            },
            _ => None,
        };
        let slot = match same {
            Some(slot) => slot,
            None => sink.store(&node)?,
        };
        self.place(level + 1, number, slot, parent, sink)
    }

    /// The top node; `None` when every chunk is zero.
    pub(crate) fn finish(mut self, levels: u8, parent: Option<&Tree>, sink: &dyn NodeSink) -> Result<Option<Node>> {
        for level in 0..levels - 1 {
            self.close(level, parent, sink)?;
        }
        Ok(Some(self.open.swap_remove(usize::from(levels) - 1).1).filter(|top| !top.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::id::{Codec, PackId, PackKind, SessionId, ShortId};

    /// Takes nodes and stores none.
    struct Nowhere;

    impl NodeSink for Nowhere {
        fn store(&self, node: &Node) -> Result<Slot> {
            Ok(slot(node.level))
        }

        fn is_listed(&self, _at: &Location) -> bool {
            true
        }
    }

    fn slot(n: u8) -> Slot {
        let pack = PackId { kind: PackKind::Data, session: SessionId::new([1; 16]), seq: 0, random: 7 };
        let at = Location { pack, epoch: 0, ordinal: n.into(), offset: 64, len: 100, codec: Codec::Raw };
        Slot { id: ShortId::new([n; 16]), at }
    }

    #[test]
    fn numbers_ascend() {
        for (numbers, ascend) in [
            (&[0, 1, 127, 128, 1 << 40][..], true),
            (&[0, 0], false),
            (&[5, 4], false),
            // The node of the first one is closed by then.
            (&[0, 128, 1], false),
            (&[u64::MAX], true),
        ] {
            let mut builder = MapBuilder::new();
            let pushed = numbers.iter().try_for_each(|n| builder.push(*n, slot(*n as u8), None, &Nowhere));
            match ascend {
                true => assert!(pushed.is_ok() && builder.chunks() == numbers.len() as u64, "{numbers:?}: {pushed:?}"),
                false => assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Internal, "{numbers:?}"),
            }
        }
    }
}

//! Reading disk images in a tree: their maps, opened once for all who read them, and their parts by offset.

use super::{Part, Span};
use crate::format::node::{FANOUT, FANOUT_BITS, Node, Slot};
use crate::map::{Image, Tree, above, chunk_count};
use crate::{ChunkRef, Repository, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Maps that stay opened: each holds its top node, of about 10 KiB, and tells the others in the repository's cache.
const OPENED: usize = 16;

/// The maps of a tree that were used last.
#[derive(Debug, Default)]
pub(super) struct Images(Mutex<VecDeque<(Image, Arc<Tree>)>>);

impl Images {
    /// The map of an image. Where `by_id`, nodes that are not where they should be are looked up (V3).
    pub(super) fn open(&self, repository: &Repository, image: &Image, by_id: bool) -> Result<Arc<Tree>> {
        let known = |opened: &mut VecDeque<(Image, Arc<Tree>)>| {
            let at = opened.iter().position(|(known, _)| known == image)?;
            let used = opened.remove(at)?;
            opened.push_back(used.clone());
            Some(used.1)
        };
        if let Some(tree) = known(&mut self.0.lock()) {
            return Ok(tree);
        }
        // Nobody else waits meanwhile.
        let tree = Arc::new(Tree::of_image(repository, image, by_id)?);
        let mut opened = self.0.lock();
        if let Some(first) = known(&mut opened) {
            return Ok(first);
        }
        opened.push_back((*image, tree.clone()));
        if opened.len() > OPENED {
            opened.pop_front();
        }
        Ok(tree)
    }
}

/// The parts of an image in order: a chunk each, and holes between them, of which two may follow each other. After an error
/// it ends.
#[derive(Debug)]
pub(super) struct Parts {
    tree: Arc<Tree>,
    image: Image,
    /// Number of the chunk that is next.
    next: u64,
    /// The leaf that was read last, and its number.
    leaf: Option<(u64, Arc<Node>)>,
    /// Leaves come with their neighbours.
    ahead: bool,
}

impl Parts {
    /// From the part on that holds byte `from`, which is below the size.
    pub(super) fn new(tree: Arc<Tree>, image: Image, from: u64) -> Self {
        Self { tree, image, next: from >> image.class, leaf: None, ahead: true }
    }

    /// Chunk `number`, or the hole that it is in: where it is, and the number of the chunk behind it.
    fn part(&mut self, number: u64) -> Result<(Option<Slot>, u64)> {
        let wanted = number >> FANOUT_BITS;
        if self.leaf.as_ref().is_none_or(|(leaf, _)| *leaf != wanted) {
            match self.tree.leaf_from(wanted)? {
                Some(leaf) if leaf == wanted => {}
                // What is behind the hole is read when somebody comes to it.
                Some(leaf) => return Ok((None, leaf << FANOUT_BITS)),
                None => return Ok((None, u64::MAX)),
            }
            // Whoever goes on to a second leaf will want more; of one that is damaged only its own bytes are lost.
            if self.leaf.is_some() && self.ahead {
                self.ahead = self.tree.load_below(wanted >> FANOUT_BITS, wanted).is_ok();
            }
            self.leaf = self.tree.node(0, wanted)?.map(|node| (wanted, node));
        }
        let Some((_, node)) = &self.leaf else { return Ok((None, number + 1)) };
        let (_, place) = above(number);
        Ok(match node.slot(place) {
            Some(slot) => (Some(*slot), number + 1),
            None => {
                let end = node.present().map(|(n, _)| n).find(|n| *n > place).unwrap_or(FANOUT);
                (None, number - place as u64 + end as u64)
            }
        })
    }
}

impl Iterator for Parts {
    type Item = Result<Span>;

    fn next(&mut self) -> Option<Self::Item> {
        let Image { size, class, .. } = self.image;
        let (first, chunks) = (self.next, chunk_count(size, class));
        if first >= chunks {
            return None;
        }
        Some(match self.part(first) {
            Ok((slot, end)) => {
                self.next = end;
                let offset = first << class;
                let len = if end >= chunks { size - offset } else { (end - first) << class };
                let data = slot.map(|slot| Part { chunk: ChunkRef::of_map(size, class, first, slot), skip: 0 });
                Ok(Span { offset, len, data })
            }
            Err(e) => {
                self.next = chunks;
                Err(e)
            }
        })
    }
}

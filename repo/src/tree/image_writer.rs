//! Writing disk images in a tree, as maps in the chunks of block volumes; and taking them over unread.

use super::TreeWriter;
use crate::format::node::{FANOUT_BITS, Node, Slot};
use crate::format::tree::{Content, Placed, Ref};
use crate::map::{Image, MapBuilder, NodeSink, Tree};
use crate::writer::{MapWriter, Written};
use crate::{Put, Result, Scratch};
use std::ops::Range;

/// One disk image being written, by one thread.
#[derive(Debug)]
pub struct ImageWriter<'a> {
    writer: &'a TreeWriter,
    map: MapWriter,
    size: u64,
    /// What the parent has, if it is built upon.
    theirs: Option<Image>,
}

impl<'a> ImageWriter<'a> {
    /// Of `size` bytes in chunks of 2^`class` bytes, on the map that the parent has of the same file.
    pub(super) fn new(writer: &'a TreeWriter, size: u64, class: u8, theirs: Option<Image>) -> Result<Self> {
        let parent = match (writer.parent(), &theirs) {
            (Some(parent), Some(theirs)) => writer.or_none(parent.image(theirs))?,
            _ => None,
        };
        let theirs = theirs.filter(|_| parent.is_some());
        Ok(Self { writer, map: MapWriter::new(class, parent), size, theirs })
    }

    /// Chunk size in bytes, at most [`TreeWriter::largest`].
    pub fn chunk_size(&self) -> usize {
        1 << self.map.class()
    }

    /// Takes chunk `number`, read from the source. Numbers ascend; those never put are zero. All have the chunk size but the
    /// last one of an image that ends inside it. After an error there is no snapshot.
    pub fn put(&mut self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<Put> {
        let put = self.map.put(&self.writer.store, scratch, number, plain)?;
        self.map.advance(&self.writer.store, number.saturating_add(1))?;
        Ok(put)
    }

    /// As [`put`](Self::put), with numbers in any order and from any number of threads, until [`advance`](Self::advance).
    pub(crate) fn put_unordered(&self, scratch: &mut Scratch, number: u64, plain: &[u8]) -> Result<()> {
        self.map.put(&self.writer.store, scratch, number, plain).map(drop)
    }

    /// Says that every chunk below `number` was put, is inherited or is zero.
    pub(crate) fn advance(&self, number: u64) -> Result<()> {
        self.map.advance(&self.writer.store, number)
    }

    /// Buffers for one thread.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        self.writer.scratch(self.chunk_size())
    }

    /// True when there is an intact map of the parent's in chunks of the same size.
    pub(crate) fn can_inherit(&self) -> bool {
        self.map.can_inherit()
    }

    /// W8: those of these chunks that can be taken over from the parent unread.
    pub(crate) fn inheritable(&self, chunks: Range<u64>) -> Result<Vec<Range<u64>>> {
        self.map.inheritable(&self.writer.store, chunks)
    }

    /// Takes these chunks of so many bytes over from the parent.
    pub(crate) fn inherit(&self, chunks: Range<u64>, bytes: u64) -> Result<()> {
        self.map.inherit(&self.writer.store, chunks, bytes)
    }

    /// The content of the file.
    pub fn finish(self) -> Result<Content> {
        let store = &self.writer.store;
        let Written { levels, top, .. } = self.map.finish(store, self.size)?;
        let image = |top| Image { size: self.size, class: self.map.class(), levels, top };
        self.writer.image_content(top, self.map.parent().zip(self.theirs), image)
    }
}

impl TreeWriter {
    /// The content of an image whose map has this top node: the parent's one if that is the same (D4), else it is stored.
    fn image_content(
        &self,
        top: Option<Node>,
        parent: Option<(&Tree, Image)>,
        image: impl FnOnce(Placed) -> Image,
    ) -> Result<Content> {
        let Some(top) = top else { return Ok(Content::Nothing) };
        let same = match parent {
            // Of an image that was larger a node below the top may be the same.
            Some((tree, theirs)) if tree.levels() == top.level + 1 && self.store.is_listed(&theirs.top.at) => {
                tree.node(top.level, 0)?.filter(|found| **found == top).map(|_| theirs.top)
            }
            _ => None,
        };
        let top = match same {
            Some(top) => top,
            None => {
                self.store.check()?;
                let Slot { id, at } = NodeSink::store(&self.store, &top).inspect_err(|e| self.store.fail(e))?;
                let plain = at.len.saturating_sub(crate::crypto::TAG as u32);
                Placed { to: Ref { id, class: 128 + top.level, plain }, at }
            }
        };
        self.enable_images()?;
        Ok(image(top).content())
    }

    /// W8: an image of the parent's tree, to be taken over unread. All nodes of its map are read. `None`: one cannot be, or
    /// a chunk may be gone and is nowhere else, so the file has to be read.
    pub(super) fn keep_image(&self, image: &Image) -> Result<Option<Content>> {
        let Some(parent) = self.parent() else { return Ok(None) };
        let Some(tree) = self.or_none(parent.image(image))? else { return Ok(None) };
        let (mut same, mut found) = (self.store.is_listed(&image.top.at), true);
        let whole = self.each_node(&tree, &mut |_, node| {
            for (_, slot) in node.present() {
                let listed = self.store.is_listed(&slot.at);
                same &= listed;
                found &= listed || node.level > 0 || self.store.known(&slot.id).is_some();
            }
            Ok(found)
        })?;
        if !(whole && found) {
            return Ok(None);
        }
        if same {
            self.enable_images()?;
            return Ok(Some(image.content()));
        }
        let mut builder = MapBuilder::new();
        let whole = self.each_node(&tree, &mut |number, node| {
            for (n, slot) in node.present().filter(|_| node.level == 0) {
                let at = if self.store.is_listed(&slot.at) { Some(slot.at) } else { self.store.known(&slot.id) };
                let Some(at) = at else {
                    found = false;
                    return Ok(false);
                };
                let chunk = (number << FANOUT_BITS) + n as u64;
                builder.push(chunk, Slot { id: slot.id, at }, Some(&*tree), &self.store)?;
            }
            Ok(true)
        })?;
        if !(whole && found) {
            return Ok(None);
        }
        let top = builder.finish(image.levels, Some(&*tree), &self.store)?;
        self.image_content(top, Some((&*tree, *image)), |top| Image { top, ..*image }).map(Some)
    }

    /// Shows `take` every node of a map of the parent's and its number in its level, those above others first. `take` says
    /// whether to go on. False when one cannot be read.
    fn each_node(&self, tree: &Tree, take: &mut dyn FnMut(u64, &Node) -> Result<bool>) -> Result<bool> {
        let mut next = vec![(tree.levels() - 1, 0)];
        while let Some((level, number)) = next.pop() {
            let Some(node) = self.or_none(tree.node(level, number))? else { return Ok(false) };
            // A node of a slot that is there is there.
            let Some(node) = node else { continue };
            if !take(number, &node)? {
                return Ok(true);
            }
            if level == 0 {
                continue;
            }
            if level == 1 && self.or_none(tree.load_below(number, 0))?.is_none() {
                return Ok(false);
            }
            let below: Vec<_> = node.present().map(|(n, _)| (number << FANOUT_BITS) + n as u64).collect();
            next.extend(below.into_iter().rev().map(|n| (level - 1, n)));
        }
        Ok(true)
    }
}

//! Trees: snapshots of directories. Section *Trees* of `docs/format.md` has the bytes and the rules; what is here builds
//! trees from entries that come in order, and reads them by name, number and offset. It knows no filesystem.

mod cache;
mod cut;
mod folder;
mod image;
mod image_writer;
mod list;
mod missing;
mod reader;
mod split;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use cache::{TreeCache, decode};
pub use cut::Cutter;
pub use folder::FolderBuilder;
pub use image_writer::ImageWriter;
pub use list::ListBuilder;
pub use missing::Missing;
pub use reader::{Entries, Part, Pieces, Span, TreeReader};
pub use writer::{Kept, PieceSet, TreeWriter};

use crate::format::tree::{Content, Entry, Extended, ListNode, Piece, Placed, TreeNode, What};
use crate::id::{Location, ShortId};
use crate::map::Image;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// A node of a directory or of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Of a directory.
    Folder(TreeNode),
    /// Of a list of pieces.
    List(ListNode),
}

/// What builders need of the run they belong to.
pub(crate) trait Ground: Sync {
    /// BLAKE3 of a name, keyed with the split key.
    fn split(&self, name: &[u8]) -> [u8; 32];

    /// Stores a node, and says where.
    fn store(&self, node: &Node) -> Result<Placed>;

    /// A node of the parent's own tree, read where its hint says and nowhere else; `None` when it is damaged or gone.
    fn theirs(&self, at: &Placed) -> Result<Option<Arc<Node>>>;

    /// D1, W8: whether the pack was there when the session began, and can be opened.
    fn is_listed(&self, at: &Location) -> bool;

    /// What identifies a node beside its class.
    fn id(&self, node: &Node) -> Result<ShortId>;
}

impl Node {
    /// The class it is stored under.
    pub(crate) fn class(&self) -> u8 {
        match self {
            Self::Folder(node) => node.class(),
            Self::List(node) => node.class(),
        }
    }

    /// Its bytes. `Internal` where no reader would take them.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let (fault, encode): (_, &dyn Fn() -> Vec<u8>) = match self {
            Self::Folder(node) => (node.fault(), &|| node.encode()),
            Self::List(node) => (node.fault(), &|| node.encode()),
        };
        match fault {
            Some(why) => Err(Error::internal(format!("a tree node has {why}; nothing is committed, please report it"))),
            None => Ok(encode()),
        }
    }

    /// Gives equal refs one place, that of the first one: a node has each ref once, and so one hint for it.
    pub(crate) fn unify(&mut self) {
        let mut seen: HashMap<(ShortId, u8), Location> = HashMap::new();
        self.each_place(&mut |placed| {
            placed.at = *seen.entry((placed.to.id, placed.to.class)).or_insert(placed.at);
        });
    }

    /// Shows `change` every ref in it, in order, with its hint.
    pub(crate) fn each_place(&mut self, change: &mut dyn FnMut(&mut Placed)) {
        match self {
            Self::Folder(TreeNode::Leaf(entries)) => {
                entries.iter_mut().for_each(|entry| each_place_of(entry, change));
            }
            Self::Folder(TreeNode::Inner { children, .. }) => {
                children.iter_mut().for_each(|child| change(&mut child.node));
            }
            Self::List(ListNode::Leaf(pieces)) => pieces.iter_mut().filter_map(chunk_mut).for_each(change),
            Self::List(ListNode::Inner { children, .. }) => children.iter_mut().for_each(|(node, _)| change(node)),
        }
    }
}

/// What a node refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// To a chunk.
    Chunk(Placed),
    /// To a node of a directory or list.
    Node(Placed),
    /// To the map of a disk image.
    Image(Image),
}

impl Node {
    /// Shows `take` all that it refers to; what several entries share, as often as they do.
    pub(crate) fn each_lead(&self, take: &mut dyn FnMut(Leads)) {
        let piece = |piece: &Piece| match piece {
            Piece::Chunk(chunk) => Some(Leads::Chunk(*chunk)),
            Piece::Hole(_) => None,
        };
        match self {
            Self::Folder(TreeNode::Leaf(entries)) => entries.iter().for_each(|entry| {
                let Entry::Known(known) = entry else { return };
                if let Extended::Chunk(set) = known.attributes.extended {
                    take(Leads::Chunk(set));
                }
                match &known.what {
                    What::File { size, content } => match content {
                        Content::Shared { chunk, .. } => take(Leads::Chunk(*chunk)),
                        Content::List(at) => take(Leads::Node(*at)),
                        Content::Map { .. } => drop(Image::new(*size, content).map(|image| take(Leads::Image(image)))),
                        Content::Pieces(pieces) => pieces.iter().filter_map(piece).for_each(&mut *take),
                        Content::Nothing => {}
                    },
                    What::Folder { below: Some(below), .. } => take(Leads::Node(below.node)),
                    _ => {}
                }
            }),
            Self::Folder(TreeNode::Inner { children, .. }) => {
                children.iter().for_each(|child| take(Leads::Node(child.node)))
            }
            Self::List(ListNode::Leaf(pieces)) => pieces.iter().filter_map(piece).for_each(take),
            Self::List(ListNode::Inner { children, .. }) => children.iter().for_each(|(at, _)| take(Leads::Node(*at))),
        }
    }
}

fn each_place_of(entry: &mut Entry, change: &mut dyn FnMut(&mut Placed)) {
    let Entry::Known(known) = entry else { return };
    if let Extended::Chunk(set) = known.attributes.extended {
        let mut placed = set;
        change(&mut placed);
        // Most entries of a node share theirs.
        if placed != set {
            Arc::make_mut(&mut known.attributes).extended = Extended::Chunk(placed);
        }
    }
    match &mut known.what {
        What::File { content, .. } => match content {
            Content::Shared { chunk: at, .. } | Content::List(at) | Content::Map { top: at, .. } => change(at),
            Content::Pieces(pieces) => pieces.iter_mut().filter_map(chunk_mut).for_each(change),
            Content::Nothing => {}
        },
        What::Folder { below: Some(below), .. } => change(&mut below.node),
        _ => {}
    }
}

fn chunk_mut(piece: &mut Piece) -> Option<&mut Placed> {
    match piece {
        Piece::Chunk(placed) => Some(placed),
        Piece::Hole(_) => None,
    }
}

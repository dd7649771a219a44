//! Writing the content of a file from its pieces: the few of most files stand in the entry, those of a large one in a list
//! of nodes. A node that is also in the parent's list of the same file, hints included, is taken over (step D4).

use super::split::ends;
use super::{Ground, Node};
use crate::format::tree::{Content, LIST, ListNode, MAX_ENTRY_PIECES, MAX_HEIGHT, Piece, Placed};
use crate::id::ShortId;
use crate::{Error, Result};
use std::collections::HashMap;
use std::fmt;

/// Nodes of the parent's list that are kept to compare with: those of a file of 2 TiB.
const COMPARED: usize = 1 << 16;

/// Builds the content of one file.
pub struct ListBuilder<'a> {
    ground: &'a dyn Ground,
    /// The top of the parent's list of this file.
    parent: Option<Placed>,
    /// The nodes of that list but their hints; made when the first node is closed.
    theirs: Option<HashMap<(ShortId, u8), Placed>>,
    /// A hole that may go on.
    hole: u64,
    open: Vec<Piece>,
    /// Open nodes of height 1 and up.
    levels: Vec<Vec<(Placed, u64)>>,
    /// Nodes that were closed, by height.
    closed: Vec<u64>,
    /// There were more pieces than an entry holds.
    is_list: bool,
    is_all_hole: bool,
    size: u64,
}

impl fmt::Debug for ListBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListBuilder").field("size", &self.size).finish_non_exhaustive()
    }
}

impl<'a> ListBuilder<'a> {
    /// `parent` is what the parent has of the same file.
    pub(crate) fn new(ground: &'a dyn Ground, parent: Option<&Content>) -> Self {
        let parent = match parent {
            Some(Content::List(top)) => Some(*top),
            _ => None,
        };
        Self {
            ground,
            parent,
            theirs: None,
            hole: 0,
            open: Vec::new(),
            levels: Vec::new(),
            closed: Vec::new(),
            is_list: false,
            is_all_hole: true,
            size: 0,
        }
    }

    /// Bytes of the file so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece. A hole behind a hole is one with it; an empty one is none.
    pub fn push(&mut self, piece: Piece) -> Result<()> {
        let len = piece.bytes();
        let too_long = || Error::invalid("a file is longer than 2^64 bytes");
        self.size = self.size.checked_add(len).ok_or_else(too_long)?;
        match piece {
            Piece::Hole(len) => {
                self.hole += len;
                Ok(())
            }
            Piece::Chunk(_) => {
                self.is_all_hole = false;
                self.end_hole()?;
                self.add(piece)
            }
        }
    }

    fn end_hole(&mut self) -> Result<()> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.add(Piece::Hole(len)),
        }
    }

    fn add(&mut self, piece: Piece) -> Result<()> {
        self.open.push(piece);
        if self.is_list {
            return self.end_leaf(&piece);
        }
        if self.open.len() <= MAX_ENTRY_PIECES {
            return Ok(());
        }
        // There are too many for an entry: they end leaves as if it had been a list from the start.
        self.is_list = true;
        for piece in std::mem::take(&mut self.open) {
            self.open.push(piece);
            self.end_leaf(&piece)?;
        }
        Ok(())
    }

    fn end_leaf(&mut self, last: &Piece) -> Result<()> {
        let mark = match last {
            Piece::Chunk(placed) => Some(placed.to.id.bytes()[0]),
            Piece::Hole(_) => None,
        };
        if ends(self.open.len(), mark) { self.close(0) } else { Ok(()) }
    }

    /// Ends the open node of a height and puts it into the one above.
    fn close(&mut self, height: u8) -> Result<()> {
        let node = match usize::from(height).checked_sub(1) {
            None => ListNode::Leaf(std::mem::take(&mut self.open)),
            Some(above) => ListNode::Inner { height, children: std::mem::take(&mut self.levels[above]) },
        };
        let bytes = node.sum();
        let mut node = Node::List(node);
        node.unify();
        let placed = match self.same(height, &node)? {
            Some(theirs) => theirs,
            None => self.ground.store(&node)?,
        };
        let (height, above) = (usize::from(height), height + 1);
        if self.closed.len() <= height {
            self.closed.resize(height + 1, 0);
        }
        self.closed[height] += 1;
        if self.levels.len() <= height {
            self.levels.push(Vec::new());
        }
        let open = &mut self.levels[height];
        open.push((placed, bytes));
        if !ends(open.len(), Some(placed.to.id.bytes()[0])) {
            return Ok(());
        }
        if above > MAX_HEIGHT {
            return Err(Error::invalid("a file has more pieces than a tree can hold"));
        }
        self.close(above)
    }

    /// The place of the parent's node, if its list of this file has the same one.
    fn same(&mut self, height: u8, node: &Node) -> Result<Option<Placed>> {
        let Some(parent) = self.parent else { return Ok(None) };
        if self.theirs.is_none() {
            self.theirs = Some(nodes_of(self.ground, parent)?);
        }
        let id = self.ground.id(node)?;
        let Some(at) = self.theirs.as_ref().and_then(|theirs| theirs.get(&(id, LIST + height))).copied() else {
            return Ok(None);
        };
        if !self.ground.is_listed(&at.at) {
            return Ok(None);
        }
        Ok(self.ground.theirs(&at)?.filter(|theirs| **theirs == *node).map(|_| at))
    }

    /// The content. It is [`size`](Self::size) bytes long.
    pub fn finish(mut self) -> Result<Content> {
        if self.is_all_hole {
            return Ok(Content::Nothing);
        }
        self.end_hole()?;
        if !self.is_list {
            return Ok(Content::Pieces(self.open));
        }
        let mut height = 0;
        loop {
            let is_open = match usize::from(height).checked_sub(1) {
                None => !self.open.is_empty(),
                Some(above) => !self.levels[above].is_empty(),
            };
            if is_open {
                self.close(height)?;
            }
            // The only node of its height is the top: it stands alone in what is open above it.
            if self.closed.get(usize::from(height)) == Some(&1) {
                let top = self.levels.get(usize::from(height)).and_then(|open| open.first());
                return top
                    .map(|(top, _)| Content::List(*top))
                    .ok_or_else(|| Error::internal("the top of a list was lost"));
            }
            height += 1;
        }
    }
}

/// The nodes of a list of the parent's, by their ids. Leaves are not read.
fn nodes_of(ground: &dyn Ground, top: Placed) -> Result<HashMap<(ShortId, u8), Placed>> {
    let mut found = HashMap::new();
    let mut next = vec![top];
    while let Some(at) = next.pop() {
        found.insert((at.to.id, at.to.class), at);
        if at.to.class == LIST || found.len() >= COMPARED {
            continue;
        }
        if let Some(node) = ground.theirs(&at)?
            && let Node::List(ListNode::Inner { children, .. }) = &*node
        {
            next.extend(children.iter().rev().map(|(child, _)| *child));
        }
    }
    Ok(found)
}

//! Writing a directory from its entries, with one open node a level in memory. A node that says the same as the parent's
//! node that begins with the same name, hints included, is taken over and not written (step D4 of `docs/concurrency.md`).

use super::split::ends;
use super::{Ground, Node};
use crate::format::tree::{Below, Child, Entry, FOLDER, MAX_HEIGHT, Placed, TreeNode};
use crate::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// Builds the nodes of one directory.
pub struct FolderBuilder<'a> {
    ground: &'a dyn Ground,
    parent: Option<Below>,
    /// Nodes of the parent's directory on the way to the one that was compared last, from the top.
    path: Vec<(Placed, Arc<Node>)>,
    open: Vec<Entry>,
    /// Open nodes of height 1 and up.
    levels: Vec<Vec<Child>>,
    /// Nodes that were closed, by height.
    closed: Vec<u64>,
    last: Option<Vec<u8>>,
}

impl fmt::Debug for FolderBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderBuilder").field("levels", &self.levels.len()).finish_non_exhaustive()
    }
}

impl<'a> FolderBuilder<'a> {
    /// `parent` is what the parent has in the same directory.
    pub(crate) fn new(ground: &'a dyn Ground, parent: Option<Below>) -> Self {
        Self { ground, parent, path: Vec::new(), open: Vec::new(), levels: Vec::new(), closed: Vec::new(), last: None }
    }

    /// The next entry. `Internal` unless names ascend: what came too late would be found by nobody. After an error there is
    /// no directory.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        let name = entry.name();
        if name.is_empty() || self.last.as_deref().is_some_and(|last| last >= name) {
            let (name, last) = (name.escape_ascii(), self.last.as_deref().unwrap_or_default().escape_ascii());
            let text =
                format!("\"{name}\" was put into a directory after \"{last}\"; nothing is committed, please report it");
            return Err(Error::internal(text));
        }
        let mark = self.ground.split(name)[0];
        self.last = Some(name.to_vec());
        self.open.push(entry);
        if ends(self.open.len(), Some(mark)) { self.close(0) } else { Ok(()) }
    }

    /// Ends the open node of a height and puts it into the one above.
    fn close(&mut self, height: u8) -> Result<()> {
        let node = match usize::from(height).checked_sub(1) {
            None => TreeNode::Leaf(std::mem::take(&mut self.open)),
            Some(above) => TreeNode::Inner { height, children: std::mem::take(&mut self.levels[above]) },
        };
        let first = node.first().to_vec();
        let (entries, totals) = node.sum();
        let mut node = Node::Folder(node);
        node.unify();
        let node = match self.same(height, &first, &node)? {
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
        let mark = self.ground.split(&first).get(usize::from(above)).copied();
        let open = &mut self.levels[height];
        open.push(Child { first, node, entries, totals });
        if !ends(open.len(), mark) {
            return Ok(());
        }
        if above > MAX_HEIGHT {
            return Err(Error::invalid("a directory has more names than a tree can hold"));
        }
        self.close(above)
    }

    /// The place of the parent's node of this height that begins with this name, if it is the same node.
    fn same(&mut self, height: u8, first: &[u8], node: &Node) -> Result<Option<Placed>> {
        let Some(parent) = self.parent else { return Ok(None) };
        let (mut at, mut depth) = (parent.node, 0);
        let found = loop {
            let Some(theirs) = at.to.class.checked_sub(FOLDER).filter(|theirs| *theirs >= height) else {
                return Ok(None);
            };
            let known = self.path.get(depth).filter(|(place, _)| *place == at).map(|(_, node)| node.clone());
            let Some(loaded) = known.map_or_else(|| self.ground.theirs(&at), |node| Ok(Some(node)))? else {
                return Ok(None);
            };
            if theirs == height {
                break loaded;
            }
            let Node::Folder(TreeNode::Inner { children, .. }) = &*loaded else { return Ok(None) };
            let n = children.partition_point(|child| child.first.as_slice() <= first);
            let Some(child) = n.checked_sub(1).and_then(|n| children.get(n)) else { return Ok(None) };
            let next = child.node;
            self.path.truncate(depth);
            self.path.push((at, loaded));
            (at, depth) = (next, depth + 1);
        };
        let same = *found == *node && self.ground.is_listed(&at.at);
        self.path.truncate(depth);
        self.path.push((at, found));
        Ok(Some(at).filter(|_| same))
    }

    /// What is in the directory, or `None` when nothing was pushed.
    pub fn finish(mut self) -> Result<Option<Below>> {
        if self.last.is_none() {
            return Ok(None);
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
            if let ([.., 1], [.., top]) = (&self.closed[..=usize::from(height)], &self.levels[..=usize::from(height)]) {
                let child = top.first().ok_or_else(|| Error::internal("the top of a directory was lost"))?;
                return Ok(Some(Below { node: child.node, entries: child.entries, totals: child.totals }));
            }
            height += 1;
        }
    }
}

//! What a tree lacks. Totals lead to it, so that it costs nothing where a tree is whole.

use super::{Node, TreeReader};
use crate::Result;
use crate::format::tree::{Below, Entry, TreeNode, What};
use std::sync::Arc;

/// Paths that are missing in a tree, in order, and why: see [`TreeReader::missing`]. After an error it goes on behind what
/// cannot be read.
#[derive(Debug)]
pub struct Missing<'a> {
    reader: &'a TreeReader,
    /// The root's own flag and what is in it are yet to come.
    begins: bool,
    enters: Option<Below>,
    /// Nodes on the way, what of each is next, and how long the path of the directory is that it belongs to.
    stack: Vec<(Arc<Node>, usize, usize)>,
    path: Vec<u8>,
}

impl<'a> Missing<'a> {
    pub(super) fn new(reader: &'a TreeReader) -> Self {
        Self { reader, begins: true, enters: None, stack: Vec::new(), path: Vec::new() }
    }

    /// What is next in the node on top of the stack.
    fn step(&mut self) -> Result<Option<(Vec<u8>, u32)>> {
        if let Some(below) = self.enters.take() {
            let node = self.reader.folder(&below.node, below.entries, &below.totals)?;
            self.stack.push((node, 0, self.path.len()));
        }
        let Some((node, next, len)) = self.stack.last_mut() else { return Ok(None) };
        let (node, n, len) = (node.clone(), *next, *len);
        *next += 1;
        match &*node {
            Node::Folder(TreeNode::Inner { children, .. }) => match children.get(n) {
                Some(child) if child.totals.missing > 0 => {
                    let node = self.reader.folder(&child.node, child.entries, &child.totals)?;
                    self.stack.push((node, 0, len));
                }
                Some(_) => {}
                None => drop(self.stack.pop()),
            },
            Node::Folder(TreeNode::Leaf(entries)) => match entries.get(n) {
                Some(entry) if entry.totals().missing > 0 => {
                    self.path.truncate(len);
                    if len > 0 {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(entry.name());
                    let errno = match entry {
                        Entry::Unknown { errno, .. } => Some(errno.get()),
                        Entry::Known(known) => {
                            if let What::Folder { below, .. } = &known.what {
                                self.enters = below.filter(|below| below.totals.missing > 0);
                            }
                            known.missing.map(|errno| errno.get())
                        }
                    };
                    return Ok(errno.map(|errno| (self.path.clone(), errno)));
                }
                Some(_) => {}
                None => drop(self.stack.pop()),
            },
            Node::List(_) => drop(self.stack.pop()),
        }
        Ok(None)
    }
}

impl Iterator for Missing<'_> {
    type Item = Result<(Vec<u8>, u32)>;

    fn next(&mut self) -> Option<Self::Item> {
        if std::mem::take(&mut self.begins) {
            let root = self.reader.root();
            if let What::Folder { below, .. } = &root.what {
                self.enters = below.filter(|below| below.totals.missing > 0);
            }
            if let Some(errno) = root.missing {
                return Some(Ok((Vec::new(), errno.get())));
            }
        }
        while self.enters.is_some() || !self.stack.is_empty() {
            match self.step() {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(e) => {
                    let path = self.path.escape_ascii().to_string();
                    return Some(Err(e.context(format!("in \"{path}\""))));
                }
            }
        }
        None
    }
}

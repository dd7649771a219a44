//! Step 5 for trees: the paths that damage hits.

use super::hits::Search;
use super::report::Lost;
use super::trees::{Step, Want, each_chunk, image, len, open, piece, step, sum_of, top};
use crate::format::tree::{Entry, PIECE, TreeNode};
use crate::storage::{Key, keys};
use crate::tree::{Node, TreeReader};
use crate::{Result, Snapshot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node on the way.
struct Frame {
    /// `None`: the node in the record.
    step: Option<Step>,
    /// What of it is next.
    next: usize,
    /// Bytes of the path that it is about: a directory's, or a file's.
    len: usize,
    /// Something below it is hit.
    any: bool,
}

/// What of one tree cannot be read, by the object that is to blame.
pub(super) fn find(search: &Search<'_>, snapshot: &Snapshot, found: &mut BTreeMap<Key, Lost>) -> Result<()> {
    let root = top(TreeReader::open(search.run.repository, snapshot)?.root());
    let mut finder = Finder { search, found, path: Vec::new() };
    let mut stack = vec![Frame { step: None, next: 0, len: 0, any: false }];
    while let Some(frame) = stack.last_mut() {
        let node = match &frame.step {
            None => Some(root.clone()),
            // It was read a moment ago, or is now for the first time.
            Some(step) => finder.open(step)?,
        };
        let below = match &node {
            Some(node) => finder.node(frame, node)?,
            None => {
                let step = frame.step.clone();
                frame.any = true;
                step.map_or(Ok(()), |step| finder.lost(&step, frame.len, false))?;
                None
            }
        };
        if let Some(below) = below {
            stack.push(below);
            continue;
        }
        let Some(done) = stack.pop() else { break };
        match (&done.step, stack.last_mut()) {
            (_, Some(above)) if done.any => above.any = true,
            (Some(step), _) => search.packs.set_clean(&step.at.at.pack, step.at.at.ordinal),
            _ => {}
        }
    }
    Ok(())
}

struct Finder<'a> {
    search: &'a Search<'a>,
    found: &'a mut BTreeMap<Key, Lost>,
    path: Vec<u8>,
}

impl Finder<'_> {
    /// A node, when it is what led to it says.
    fn open(&self, step: &Step) -> Result<Option<Arc<Node>>> {
        let search = self.search;
        let node = open(search.run, &step.at, &mut |why| {
            let (at, piece) = (&step.at.at, step.piece());
            if !search.is_bad(&piece) {
                search.run.does_not_open(&piece, why);
                search.more.borrow_mut().insert((at.pack, piece.print()));
            }
        })?;
        Ok(node.filter(|node| step.fits(sum_of(node))))
    }

    /// Goes on in a node, and gives the next one below it.
    fn node(&mut self, frame: &mut Frame, node: &Node) -> Result<Option<Frame>> {
        self.search.watch()?;
        if frame.next == 0 {
            self.expect(node)?;
        }
        while frame.next < len(node) {
            let n = frame.next;
            frame.next += 1;
            self.path.truncate(frame.len);
            if let Node::Folder(TreeNode::Leaf(entries)) = node {
                if frame.len > 0 {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(entries.get(n).map(Entry::name).unwrap_or_default());
            }
            let Self { search, found, path } = self;
            each_chunk(node, n, &mut |chunk, bytes| {
                let piece = piece(chunk);
                if !search.is_bad(&piece) {
                    return Ok(());
                }
                if let Some(pack) = search.lost_from(&piece)? {
                    frame.any = true;
                    search.wanted.borrow_mut().chunk(&piece, None);
                    found.entry(keys::pack(&pack)).or_default().paths.entry(path, bytes);
                }
                Ok(())
            })?;
            if let Some(image) = image(node, n) {
                for (key, bytes) in search.image(&image)? {
                    frame.any = true;
                    found.entry(key).or_default().paths.entry(path, bytes);
                }
            }
            let Some(step) = step(node, n) else { continue };
            let (packs, at) = (search.packs, &step.at.at);
            if packs.is_clean(&at.pack, at.ordinal) && packs.sum(at).is_some_and(|sum| step.fits(sum)) {
                continue;
            }
            // Only the root is above all others.
            let is_all = frame.step.is_none();
            if self.open(&step)?.is_none() {
                frame.any = true;
                self.lost(&step, self.path.len(), is_all)?;
                continue;
            }
            return Ok(Some(Frame { step: Some(step), next: 0, len: self.path.len(), any: false }));
        }
        Ok(None)
    }

    /// What is looked for elsewhere is looked for together.
    fn expect(&self, node: &Node) -> Result<()> {
        let mut bad = Vec::new();
        for n in 0..len(node) {
            each_chunk(node, n, &mut |chunk, _| {
                bad.extend(self.search.is_bad(&piece(chunk)).then_some(chunk.to.id));
                Ok(())
            })?;
        }
        self.search.run.repository.elsewhere().expect(PIECE, bad);
        Ok(())
    }

    /// A node at the first `len` bytes of the path cannot be read.
    fn lost(&mut self, step: &Step, len: usize, is_all: bool) -> Result<()> {
        let (search, piece) = (self.search, step.piece());
        search.wanted.borrow_mut().node(&piece);
        let pack = search.culprit(&piece)?;
        let paths = &mut self.found.entry(keys::pack(&pack)).or_default().paths;
        let path = self.path.get(..len).unwrap_or_default();
        paths.whole |= is_all;
        match &step.want {
            Want::Folder { totals, .. } => paths.below(path, totals.below, totals.bytes),
            Want::List(bytes) => paths.entry(path, *bytes),
        }
        Ok(())
    }
}

//! Step 3 for trees: from the root down, each node once by its place. Every ref is compared with the index of its pack, and
//! what a node adds up to with what led to it.
//!
//! On the way down no node is held: a tree may be 4096 directories deep. What is needed again is mostly in the cache.

use super::maps::{View, Walk, agrees};
use super::packs::{Claim, Known as Pack, State};
use super::{Piece, Run};
use crate::format::tree::{
    Content, Entry, Extended, FOLDER, Known, ListNode, PIECE, Piece as Part, Placed, Totals, TreeNode, What,
};
use crate::id::PackId;
use crate::map::Image;
use crate::storage::keys;
use crate::tree::{Node, TreeReader};
use crate::{Error, ErrorKind, Result, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A node, and what that which leads to it says of it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) at: Placed,
    pub(super) want: Want,
}

/// What a node is to add up to.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// A part of a directory.
    Folder {
        /// Names directly in the directory.
        entries: u64,
        /// All below.
        totals: Totals,
        /// The first name, where it is said.
        first: Option<Vec<u8>>,
    },
    /// So many bytes of a file.
    List(u64),
}

impl Step {
    pub(super) fn piece(&self) -> Piece {
        piece(&self.at)
    }

    /// True when a node that adds up to `sum` ([`sum_of`]) is as was said.
    pub(super) fn fits(&self, sum: u64) -> bool {
        let (numbers, first) = match &self.want {
            Want::Folder { entries, totals, first } => (folder_print(*entries, totals), first.as_deref()),
            Want::List(bytes) => (list_print(*bytes), None),
        };
        (sum >> 32) as u32 == numbers && first.is_none_or(|first| sum as u32 == print(first))
    }

    /// 64 bits that differ where the node or what is said of it does.
    pub(super) fn print(&self) -> u64 {
        let (numbers, first) = match &self.want {
            Want::Folder { entries, totals, first } => (folder_print(*entries, totals), first.as_deref()),
            Want::List(bytes) => (list_print(*bytes), None),
        };
        let said = u64::from(numbers) << 32 | u64::from(print(first.unwrap_or_default()));
        self.piece().print() ^ said.rotate_left(17)
    }
}

/// What a ref says, as the index of its pack says it.
pub(super) fn piece(placed: &Placed) -> Piece {
    Piece { id: placed.to.id, at: placed.at, class: placed.to.class, plain: placed.to.plain }
}

fn print(bytes: &[u8]) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..4]);
    u32::from_le_bytes(out)
}

/// Never 0, and never that of a list.
fn folder_print(entries: u64, totals: &Totals) -> u32 {
    let numbers = [entries, totals.below, totals.folders, totals.bytes, totals.missing];
    print(&numbers.map(u64::to_le_bytes).concat()) & !1 | 2
}

fn list_print(bytes: u64) -> u32 {
    print(&bytes.to_le_bytes()) | 1
}

/// 64 bits of what a node adds up to: half for the numbers, half for its first name.
pub(super) fn sum_of(node: &Node) -> u64 {
    let (numbers, first) = match node {
        Node::Folder(folder) => {
            let (entries, totals) = folder.sum();
            (folder_print(entries, &totals), print(folder.first()))
        }
        Node::List(list) => (list_print(list.sum()), 0),
    };
    u64::from(numbers) << 32 | u64::from(first)
}

/// The node in the record, which holds nothing but the root.
pub(super) fn top(root: &Known) -> Arc<Node> {
    Arc::new(Node::Folder(TreeNode::Leaf(vec![Entry::Known(Box::new(root.clone()))])))
}

/// Entries, children or pieces of a node.
pub(super) fn len(node: &Node) -> usize {
    match node {
        Node::Folder(TreeNode::Leaf(entries)) => entries.len(),
        Node::Folder(TreeNode::Inner { children, .. }) => children.len(),
        Node::List(ListNode::Leaf(pieces)) => pieces.len(),
        Node::List(ListNode::Inner { children, .. }) => children.len(),
    }
}

fn known(node: &Node, n: usize) -> Option<&Known> {
    match node {
        Node::Folder(TreeNode::Leaf(entries)) => match entries.get(n) {
            Some(Entry::Known(known)) => Some(known),
            _ => None,
        },
        _ => None,
    }
}

/// The node that entry or child `n` leads to.
pub(super) fn step(node: &Node, n: usize) -> Option<Step> {
    match node {
        Node::Folder(TreeNode::Leaf(_)) => match &known(node, n)?.what {
            What::Folder { below: Some(below), .. } => {
                let want = Want::Folder { entries: below.entries, totals: below.totals, first: None };
                Some(Step { at: below.node, want })
            }
            What::File { size, content: Content::List(at) } => Some(Step { at: *at, want: Want::List(*size) }),
            _ => None,
        },
        Node::Folder(TreeNode::Inner { children, .. }) => children.get(n).map(|child| {
            let first = Some(child.first.clone());
            Step { at: child.node, want: Want::Folder { entries: child.entries, totals: child.totals, first } }
        }),
        Node::List(ListNode::Inner { children, .. }) => {
            children.get(n).map(|(at, bytes)| Step { at: *at, want: Want::List(*bytes) })
        }
        Node::List(ListNode::Leaf(_)) => None,
    }
}

/// Shows `take` the chunks that entry or piece `n` refers to, and how many bytes of the file are in each.
pub(super) fn each_chunk(node: &Node, n: usize, take: &mut dyn FnMut(&Placed, u64) -> Result<()>) -> Result<()> {
    if let Node::List(ListNode::Leaf(pieces)) = node {
        return match pieces.get(n) {
            Some(Part::Chunk(chunk)) => take(chunk, chunk.to.plain.into()),
            _ => Ok(()),
        };
    }
    let Some(known) = known(node, n) else { return Ok(()) };
    if let Extended::Chunk(set) = &known.attributes.extended {
        take(set, 0)?;
    }
    match &known.what {
        What::File { size, content: Content::Shared { chunk, .. } } => take(chunk, *size),
        What::File { content: Content::Pieces(pieces), .. } => pieces.iter().try_for_each(|piece| match piece {
            Part::Chunk(chunk) => take(chunk, chunk.to.plain.into()),
            Part::Hole(_) => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// The disk image that entry `n` is.
pub(super) fn image(node: &Node, n: usize) -> Option<Image> {
    Image::of(known(node, n)?)
}

/// A node from where its hint says; `damaged` is told when it cannot be read there. Then from wherever else it is.
pub(super) fn open(run: &Run<'_>, at: &Placed, damaged: &mut dyn FnMut(&Error)) -> Result<Option<Arc<Node>>> {
    match run.trees.load(run.repository, at, false) {
        Err(e) if run.is_damage(&e) => damaged(&e),
        read => return read.map(Some),
    }
    match run.trees.load(run.repository, at, true) {
        Err(e) if run.is_damage(&e) => Ok(None),
        read => read.map(Some),
    }
}

/// A node on the way, and which of its entries or children lead on; of each, whether what is below it is to be walked.
struct Frame {
    /// `None`: the node in the record.
    at: Option<Placed>,
    todo: Vec<(u8, bool)>,
}

/// Everything below the root of a tree.
pub(super) fn examine(walk: &Walk<'_>, number: usize, snapshot: &Snapshot) -> Result<()> {
    let root = match TreeReader::open(walk.run.repository, snapshot) {
        Ok(tree) => top(tree.root()),
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            walk.unreadable(number, snapshot, &e);
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let mut stack = vec![Frame { at: None, todo: walk.refs(&root)? }];
    while let Some(Frame { at, todo }) = stack.last_mut() {
        let next = todo.pop();
        let node = match (&next, &*at) {
            (None, _) => None,
            (Some(_), None) => Some(root.clone()),
            (Some(_), Some(at)) => walk.open(at)?,
        };
        let Some((node, (n, leads))) = node.zip(next) else {
            stack.pop();
            continue;
        };
        let Some(step) = step(&node, n.into()) else { continue };
        let Some(node) = walk.open(&step.at)? else { continue };
        let sum = sum_of(&node);
        walk.packs.set_sum(&step.at.at, sum);
        if !step.fits(sum) {
            walk.misfit(&step);
        }
        if leads {
            let todo = walk.refs(&node)?;
            stack.push(Frame { at: Some(step.at), todo });
        }
    }
    Ok(())
}

impl Walk<'_> {
    fn open(&self, at: &Placed) -> Result<Option<Arc<Node>>> {
        open(self.run, at, &mut |why| self.does_not_open(&piece(at), why))
    }

    /// An authentic node is not what an authentic node that leads to it says: readers refuse it there.
    fn misfit(&self, step: &Step) {
        let at = &step.at.at;
        let what = format!("tree node {} in it does not add up to what led to it", at.ordinal);
        self.run.findings.whole(&keys::pack(&at.pack), what);
        self.maps.lock().bad.insert((at.pack, step.print()));
    }

    /// Compares all that a node refers to with the indexes of the packs. What is left to be opened comes last one first.
    fn refs(&self, node: &Node) -> Result<Vec<(u8, bool)>> {
        self.watch()?;
        let mut packs = BTreeSet::new();
        let steps: Vec<(u8, Step)> =
            (0..=u8::MAX).take(len(node)).filter_map(|n| Some((n, step(node, n.into())?))).collect();
        packs.extend(steps.iter().map(|(_, step)| step.at.at.pack));
        let mut chunks = Vec::new();
        for n in 0..len(node) {
            each_chunk(node, n, &mut |chunk, _| {
                chunks.push(piece(chunk));
                Ok(())
            })?;
        }
        let images: Vec<Image> = (0..len(node)).filter_map(|n| image(node, n)).collect();
        packs.extend(images.iter().map(|image| image.top.at.pack));
        packs.extend(chunks.iter().map(|chunk| chunk.at.pack));
        let known = self.packs.know(&packs)?;
        self.expect(PIECE, chunks.iter().map(|chunk| (chunk.id, chunk.at.pack)), &known);
        self.expect(FOLDER, steps.iter().map(|(_, step)| (step.at.to.id, step.at.at.pack)), &known);
        self.expect(FOLDER, images.iter().map(|image| (image.top.to.id, image.top.at.pack)), &known);
        for chunk in chunks {
            self.chunk("tree", chunk, &known)?;
        }
        for image in images {
            self.image(&image, &known)?;
        }
        let mut todo = Vec::new();
        for (n, step) in steps {
            let piece = step.piece();
            let first = self.packs.see(&piece);
            match known.get(&piece.at.pack).filter(|pack| pack.state != State::Missing) {
                None => self.gone(&piece, first)?,
                Some(pack) if agrees(pack, &piece) => {}
                Some(_) => self.disagree("tree", &piece.at),
            }
            match self.packs.claim(&piece.at) {
                Claim::Known(sum) if step.fits(sum) => {}
                Claim::Known(_) => self.misfit(&step),
                Claim::Ours => todo.push((n, true)),
                Claim::Theirs => todo.push((n, false)),
            }
        }
        todo.reverse();
        Ok(todo)
    }

    /// A disk image: its map, once for each place, size and chunk size.
    fn image(&self, image: &Image, known: &HashMap<PackId, Pack>) -> Result<()> {
        let (top, at) = (piece(&image.top), &image.top.at);
        let first = self.packs.see(&top);
        let is_new = self.edges.is_new((at.pack, at.ordinal, image.size, image.class));
        match known.get(&at.pack).filter(|pack| pack.state != State::Missing) {
            None => self.gone(&top, first)?,
            Some(pack) if agrees(pack, &top) => {}
            Some(_) => self.disagree("tree", at),
        }
        if !is_new {
            return Ok(());
        }
        let view = View::of_image(self.run, image, &mut |why| self.does_not_open(&piece(&image.top), why))?;
        view.map_or(Ok(()), |view| self.map(&view))
    }
}

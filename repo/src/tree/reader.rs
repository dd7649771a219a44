//! Reading a tree: by name, by number, in order; and the content of files by offset. Nothing leaves that does not add up to
//! what led to it.

use super::image::{Images, Parts};
use super::{Missing, Node};
use crate::format::tree::{
    Below, Content, Entry, FOLDER, Known, ListNode, Piece, Placed, Totals, TreeNode, What, body,
};
use crate::map::{Image, Tree};
use crate::reader::ChunkReader;
use crate::storage::keys;
use crate::{ChunkRef, Error, ReadSession, Repository, Result, Snapshot, TreeInfo};
use std::sync::Arc;

/// The tree of a snapshot; share it between threads. An error of kind `Corrupt` says that a part of it is lost; the rest can
/// be read.
#[derive(Debug)]
pub struct TreeReader {
    chunks: ChunkReader,
    root: Known,
    info: TreeInfo,
    /// Nodes that are not where their hints say are looked up by id.
    by_id: bool,
    images: Images,
}

/// A part of a file: see [`TreeReader::pieces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// Where they are; `None`: in a hole, so they are zero.
    pub data: Option<Part>,
}

/// A part of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk, which [`TreeReader::chunks`] plans and reads.
    pub chunk: ChunkRef,
    /// First byte in its plaintext.
    pub skip: u32,
}

impl TreeReader {
    /// Without a session: a collector does not know of this reader. Reads nothing yet: the top of the tree is in the
    /// snapshot's record. `Invalid` when it is the snapshot of a disk.
    pub fn open(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        Self::new(repository, snapshot, None, true)
    }

    /// The snapshot of a session, which is kept for this reader until that ends.
    pub fn within(session: Arc<ReadSession>) -> Result<Self> {
        let (repository, snapshot) = (session.repository().clone(), session.snapshot().clone());
        Self::new(&repository, &snapshot, Some(session), true)
    }

    /// The parent of a writer, which must not take over a hint whose pack is gone (W8): it looks nowhere else.
    pub(crate) fn of_parent(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        Self::new(repository, snapshot, None, false)
    }

    fn new(
        repository: &Repository,
        snapshot: &Snapshot,
        session: Option<Arc<ReadSession>>,
        by_id: bool,
    ) -> Result<Self> {
        let record = &snapshot.record;
        let named = |e: Error| e.with_object(keys::snap(&snapshot.volume, &snapshot.id));
        let Some(info) = record.tree.clone() else {
            let text = format!("snapshot {} of {:?} is one of a disk, not of a directory", snapshot.id, record.name);
            return Err(Error::invalid(text));
        };
        let root = Known::decode_root(&record.top).map_err(named)?;
        let ids = &repository.keys().ids;
        let top = ids.tree_node(FOLDER, body(&record.top).map_err(named)?.1);
        let (totals, missing) = whole(&root);
        if ids.root(record.size, 0, 0, Some(top)) != record.root || totals.bytes != record.size {
            return Err(named(Error::corrupt(
                "the snapshot's record is damaged: its tree is not the one its root id names",
            )));
        }
        if missing != info.missing || record.partial != (missing > 0) {
            return Err(named(Error::corrupt("the snapshot's record is damaged: what is missing does not add up")));
        }
        let name = format!("{:?}, snapshot {}", record.name, snapshot.id);
        let chunks = ChunkReader::of_tree(repository, session, name);
        Ok(Self { chunks, root, info, by_id, images: Images::default() })
    }

    /// The root directory; its name is empty.
    pub fn root(&self) -> &Known {
        &self.root
    }

    /// What the record says of the tree.
    pub fn info(&self) -> &TreeInfo {
        &self.info
    }

    /// Plans and reads the chunks that [`pieces`](Self::pieces) and extended attributes name.
    pub fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }

    /// A chunk of extended attributes, to be read.
    pub fn set(&self, chunk: &Placed) -> ChunkRef {
        ChunkRef::of_tree(chunk)
    }

    /// A node, before what is below it is compared with what led to it.
    pub(crate) fn node(&self, at: &Placed) -> Result<Arc<Node>> {
        self.chunks.admit()?;
        let repository = self.chunks.repository();
        self.chunks.read_node(repository.tree_nodes().load(repository, at, self.by_id))
    }

    /// The map of a disk image.
    pub(crate) fn image(&self, image: &Image) -> Result<Arc<Tree>> {
        self.chunks.admit()?;
        self.of_map(self.images.open(self.chunks.repository(), image, self.by_id))
    }

    /// What was read of a map, and in an error of it what that was.
    fn of_map<T>(&self, read: Result<T>) -> Result<T> {
        self.chunks.read_node(read)
    }

    /// A node of a directory that adds up to what led to it.
    pub(crate) fn folder(&self, at: &Placed, entries: u64, totals: &Totals) -> Result<Arc<Node>> {
        let node = self.node(at)?;
        match &*node {
            Node::Folder(folder) if folder.sum() == (entries, *totals) => Ok(node),
            _ => Err(self.does_not_fit(at)),
        }
    }

    /// A node of a list that holds so many bytes of a file.
    fn list_node(&self, at: &Placed, bytes: u64) -> Result<Arc<Node>> {
        let node = self.node(at)?;
        match &*node {
            Node::List(list) if list.sum() == bytes => Ok(node),
            _ => Err(self.does_not_fit(at)),
        }
    }

    fn does_not_fit(&self, at: &Placed) -> Error {
        Error::corrupt("a tree node is damaged: it does not add up to what led to it")
            .context(self.chunks.name())
            .with_object(keys::pack(&at.at.pack))
    }

    /// The entry of this name, and its number counted from that of the directory it is in, which is 0 here.
    pub fn find(&self, folder: &Below, name: &[u8]) -> Result<Option<(u64, Entry)>> {
        let (mut at, mut entries, mut totals, mut number) = (folder.node, folder.entries, folder.totals, 1);
        loop {
            match &*self.folder(&at, entries, &totals)? {
                Node::Folder(TreeNode::Inner { children, .. }) => {
                    let n = children.partition_point(|child| child.first.as_slice() <= name);
                    let Some((child, before)) = children[..n].split_last() else { return Ok(None) };
                    number = before.iter().map(|child| child.totals.below).fold(number, u64::saturating_add);
                    (at, entries, totals) = (child.node, child.entries, child.totals);
                }
                Node::Folder(TreeNode::Leaf(found)) => {
                    let Ok(n) = found.binary_search_by(|entry| entry.name().cmp(name)) else { return Ok(None) };
                    number = found[..n].iter().map(|entry| entry.totals().below).fold(number, u64::saturating_add);
                    return Ok(Some((number, found[n].clone())));
                }
                Node::List(_) => return Err(self.does_not_fit(&at)),
            }
        }
    }

    /// The entries of a directory in order, from entry `from` of it on (counted from 0), each with its number as
    /// [`find`](Self::find) gives it.
    pub fn list(&self, folder: &Below, from: u64) -> Result<Entries<'_>> {
        let mut entries = Entries { reader: self, path: Vec::new(), number: 1 };
        if from >= folder.entries {
            return Ok(entries);
        }
        let (mut at, mut below, mut totals, mut skip) = (folder.node, folder.entries, folder.totals, from);
        loop {
            let node = self.folder(&at, below, &totals)?;
            match &*node {
                Node::Folder(TreeNode::Inner { children, .. }) => {
                    let mut n = 0;
                    while children.get(n).is_some_and(|child| child.entries <= skip) {
                        skip -= children[n].entries;
                        entries.number = entries.number.saturating_add(children[n].totals.below);
                        n += 1;
                    }
                    let Some(child) = children.get(n) else { return Err(self.does_not_fit(&at)) };
                    (at, below, totals) = (child.node, child.entries, child.totals);
                    entries.path.push((node.clone(), n + 1));
                }
                Node::Folder(TreeNode::Leaf(found)) => {
                    let n = skip as usize;
                    entries.number = (found.iter().take(n))
                        .map(|entry| entry.totals().below)
                        .fold(entries.number, u64::saturating_add);
                    entries.path.push((node.clone(), n));
                    return Ok(entries);
                }
                Node::List(_) => return Err(self.does_not_fit(&at)),
            }
        }
    }

    /// The entry of this number: the root is 0, a directory comes before what is in it, by name. `Invalid` when there is
    /// none.
    pub fn by_number(&self, number: u64) -> Result<Entry> {
        let found = self.lineage(number)?.pop().map(|(_, entry)| entry);
        found.ok_or_else(|| Error::internal("an entry was found and lost"))
    }

    /// Likewise, after all directories on the way to it from the root, each with its number.
    pub fn lineage(&self, number: u64) -> Result<Vec<(u64, Entry)>> {
        let none = || Error::invalid(format!("there is no entry {number} in {}", self.chunks.name()));
        let mut found = vec![(0, Entry::Known(Box::new(self.root.clone())))];
        let mut here = 0;
        while here < number {
            let below = match found.last() {
                Some((_, Entry::Known(known))) => match known.what {
                    What::Folder { below: Some(below), .. } => below,
                    _ => return Err(none()),
                },
                _ => return Err(none()),
            };
            if number - here > below.totals.below {
                return Err(none());
            }
            // The first entry is right behind the directory.
            here += 1;
            let (mut at, mut entries, mut totals) = (below.node, below.entries, below.totals);
            let entry = loop {
                match &*self.folder(&at, entries, &totals)? {
                    Node::Folder(TreeNode::Inner { children, .. }) => {
                        let Some(child) = skip(children, &mut here, number, |child| child.totals.below) else {
                            return Err(self.does_not_fit(&at));
                        };
                        (at, entries, totals) = (child.node, child.entries, child.totals);
                    }
                    Node::Folder(TreeNode::Leaf(found)) => {
                        let Some(entry) = skip(found, &mut here, number, |entry| entry.totals().below) else {
                            return Err(self.does_not_fit(&at));
                        };
                        break entry.clone();
                    }
                    Node::List(_) => return Err(self.does_not_fit(&at)),
                }
            };
            found.push((here, entry));
        }
        Ok(found)
    }

    /// The parts of a file of `size` bytes in order, from the one on that holds byte `from`.
    pub fn pieces(&self, size: u64, content: &Content, from: u64) -> Result<Pieces<'_>> {
        let mut pieces =
            Pieces { reader: self, image: None, path: Vec::new(), own: Vec::new(), next: 0, offset: 0, size };
        if from >= size {
            pieces.offset = size;
            return Ok(pieces);
        }
        if let Some(image) = Image::new(size, content) {
            pieces.image = Some(Parts::new(self.image(&image)?, image, from));
            return Ok(pieces);
        }
        match content {
            Content::Nothing => pieces.own = vec![(Piece::Hole(size), 0)],
            Content::Shared { chunk, offset } => pieces.own = vec![(Piece::Chunk(*chunk), *offset)],
            Content::Pieces(own) => {
                if own.iter().map(Piece::bytes).fold(0, u64::saturating_add) != size {
                    return Err(
                        Error::corrupt("a file is damaged: its pieces do not add up").context(self.chunks.name())
                    );
                }
                pieces.own = own.iter().map(|piece| (*piece, 0)).collect();
                while let Some((piece, _)) =
                    pieces.own.get(pieces.next).filter(|(p, _)| pieces.offset.saturating_add(p.bytes()) <= from)
                {
                    pieces.offset += piece.bytes();
                    pieces.next += 1;
                }
            }
            Content::List(top) => self.seek(&mut pieces, *top, from)?,
            Content::Map { .. } => {}
        }
        Ok(pieces)
    }

    fn seek(&self, pieces: &mut Pieces<'_>, top: Placed, from: u64) -> Result<()> {
        let (mut at, mut bytes) = (top, pieces.size);
        loop {
            let node = self.list_node(&at, bytes)?;
            match &*node {
                Node::List(ListNode::Inner { children, .. }) => {
                    let mut n = 0;
                    while children.get(n).is_some_and(|(_, bytes)| pieces.offset.saturating_add(*bytes) <= from) {
                        pieces.offset += children[n].1;
                        n += 1;
                    }
                    let Some((child, below)) = children.get(n).copied() else { return Err(self.does_not_fit(&at)) };
                    pieces.path.push((node.clone(), n + 1));
                    (at, bytes) = (child, below);
                }
                Node::List(ListNode::Leaf(leaf)) => {
                    let mut n = 0;
                    while leaf.get(n).is_some_and(|piece| pieces.offset.saturating_add(piece.bytes()) <= from) {
                        pieces.offset += leaf[n].bytes();
                        n += 1;
                    }
                    pieces.path.push((node.clone(), n));
                    return Ok(());
                }
                Node::Folder(_) => return Err(self.does_not_fit(&at)),
            }
        }
    }

    /// What could not be looked at or read when the tree was made, in order: paths from the root without a slash before
    /// them, and error numbers. What is whole is not read.
    pub fn missing(&self) -> Missing<'_> {
        Missing::new(self)
    }
}

/// Totals of a whole tree but its root, and what is missing in it, the root counted.
pub(crate) fn whole(root: &Known) -> (Totals, u64) {
    let totals = match root.what {
        What::Folder { below: Some(below), .. } => below.totals,
        _ => Totals::default(),
    };
    (totals, totals.missing.saturating_add(root.missing.is_some().into()))
}

/// The one of `all` in which `number` lies, when the first one begins at `here`; `here` is then where it begins.
fn skip<'a, T>(all: &'a [T], here: &mut u64, number: u64, len: impl Fn(&T) -> u64) -> Option<&'a T> {
    for one in all {
        let end = here.saturating_add(len(one));
        if number < end {
            return Some(one);
        }
        *here = end;
    }
    None
}

/// Entries of a directory in order. After an error it ends.
#[derive(Debug)]
pub struct Entries<'a> {
    reader: &'a TreeReader,
    /// Nodes from the top, and what of each is next.
    path: Vec<(Arc<Node>, usize)>,
    number: u64,
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (node, next) = self.path.last_mut()?;
            let n = *next;
            *next += 1;
            match &**node {
                Node::Folder(TreeNode::Leaf(entries)) => {
                    if let Some(entry) = entries.get(n) {
                        let number = self.number;
                        self.number = number.saturating_add(entry.totals().below);
                        return Some(Ok((number, entry.clone())));
                    }
                    self.path.pop();
                }
                Node::Folder(TreeNode::Inner { children, .. }) => match children.get(n) {
                    Some(child) => match self.reader.folder(&child.node, child.entries, &child.totals) {
                        Ok(node) => self.path.push((node, 0)),
                        Err(e) => {
                            self.path.clear();
                            return Some(Err(e));
                        }
                    },
                    None => {
                        self.path.pop();
                    }
                },
                Node::List(_) => self.path.clear(),
            }
        }
    }
}

/// Parts of a file in order. Two holes may follow each other. After an error it ends.
#[derive(Debug)]
pub struct Pieces<'a> {
    reader: &'a TreeReader,
    /// Of a disk image: all that there is.
    image: Option<Parts>,
    /// Nodes of a list from the top, and what of each is next.
    path: Vec<(Arc<Node>, usize)>,
    /// Pieces that stand in the entry, and the first byte of each in its chunk.
    own: Vec<(Piece, u32)>,
    next: usize,
    offset: u64,
    size: u64,
}

impl Pieces<'_> {
    fn span(&mut self, piece: Piece, skip: u32) -> Span {
        let (len, data) = match piece {
            Piece::Hole(len) => (len, None),
            // Of a shared chunk the file has only a part.
            Piece::Chunk(at) => {
                let left = u64::from(at.to.plain.saturating_sub(skip));
                (left.min(self.size - self.offset), Some(Part { chunk: ChunkRef::of_tree(&at), skip }))
            }
        };
        let offset = self.offset;
        self.offset += len;
        Span { offset, len, data }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Span>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(image) = &mut self.image {
            let span = self.reader.chunks.admit().map_or_else(|e| Some(Err(e)), |()| image.next());
            if matches!(span, Some(Err(_)) | None) {
                (self.image, self.offset) = (None, self.size);
            }
            return span.map(|span| self.reader.of_map(span));
        }
        if self.offset >= self.size {
            return None;
        }
        if let Some((piece, skip)) = self.own.get(self.next).copied() {
            self.next += 1;
            return Some(Ok(self.span(piece, skip)));
        }
        loop {
            let (node, next) = self.path.last_mut()?;
            let n = *next;
            *next += 1;
            match &**node {
                Node::List(ListNode::Leaf(pieces)) => {
                    if let Some(piece) = pieces.get(n).copied() {
                        return Some(Ok(self.span(piece, 0)));
                    }
                    self.path.pop();
                }
                Node::List(ListNode::Inner { children, .. }) => match children.get(n) {
                    Some((child, bytes)) => match self.reader.list_node(child, *bytes) {
                        Ok(node) => self.path.push((node, 0)),
                        Err(e) => {
                            self.path.clear();
                            return Some(Err(e));
                        }
                    },
                    None => {
                        self.path.pop();
                    }
                },
                Node::Folder(_) => self.path.clear(),
            }
        }
    }
}

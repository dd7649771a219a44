//! Writing the snapshot of a directory: chunks go in from any number of threads, directories from one, a committed snapshot
//! comes out. As for volumes nothing is acknowledged before the storage has acknowledged all that the snapshot leads to.

use super::reader::whole;
use super::{Cutter, FolderBuilder, Ground, ImageWriter, ListBuilder, Node, TreeReader};
use crate::format::clear;
use crate::format::tree::{
    self, ATTRIBUTES, Below, Content, Entry, Extended, FOLDER, Known, ListNode, MAX_HERE, MAX_NODE, MAX_PIECE, Piece,
    Placed, Ref, Set, TreeNode, What,
};
use crate::id::{Location, SessionId, ShortId};
use crate::index::ChunkIndex;
use crate::map::Image;
use crate::repository::class_of;
use crate::session::Session;
use crate::writer::{Content as Committed, Store};
use crate::{CommitInfo, Error, ErrorKind, Pulse, Put, Repository, Result, Scratch, Snapshot, TreeInfo, WriterOptions};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Refs of a file that are compared with its pieces; those behind them are looked up like those of a new file.
const COMPARED: usize = 1 << 16;
/// A shared chunk may end after a name that is marked by a byte below this: one of 32.
const GROUP_MARK: u8 = 8;

/// The tree of one directory being written. Drop it without [`commit`](Self::commit) and there is no snapshot.
#[derive(Debug)]
pub struct TreeWriter {
    pub(super) store: Store,
    parent: Option<TreeReader>,
    cutter: Cutter,
    /// For nodes.
    scratch: Mutex<Scratch>,
    /// The longest chunk that is put (bytes).
    largest: usize,
    /// The repository says that trees may have disk images.
    images: Mutex<bool>,
    told_damaged: AtomicBool,
}

/// Chunks of one entry of the parent's tree (T1), which need not be looked up when they are read again.
#[derive(Debug, Default)]
pub struct PieceSet(HashMap<(ShortId, u8), Placed>);

/// The content of an entry of the parent's tree that is taken over unread: every pack that it leads to was there when the
/// session began (W8).
#[derive(Debug, PartialEq, Eq)]
pub struct Kept(Content);

impl Kept {
    /// What goes into the new entry.
    pub fn into_content(self) -> Content {
        self.0
    }
}

impl PieceSet {
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl TreeWriter {
    /// Opens a session, after the repository says to all who open it that it may hold trees (W2). `index` is brought up to
    /// date with what adopted sessions stored. [`WriterOptions::chunk_size`] does not matter here.
    pub fn start(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions) -> Result<Self> {
        Self::begin(repository, index, options, MAX_PIECE.max(repository.chunk_size()) as usize)
    }

    /// For the copy of a tree, whose disk images may have chunks of any size.
    pub(crate) fn start_copy(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions) -> Result<Self> {
        Self::begin(repository, index, options, 1 << crate::crypto::MAX_CLASS)
    }

    fn begin(repository: &Repository, index: Arc<ChunkIndex>, options: &WriterOptions, largest: usize) -> Result<Self> {
        repository.enable(clear::TREE)?;
        let (mut session, left) = Session::start(repository, &options.name, &options.parent)?;
        // What is of another kind is not named as what this one is built upon.
        if let Some(disk) = session.parent.take_if(|parent| parent.record.tree.is_none()) {
            tracing::warn!("snapshot {} is one of a disk and not built upon", disk.id);
        }
        let parent = match &session.parent {
            Some(parent) => match TreeReader::of_parent(repository, parent) {
                Ok(tree) => Some(tree),
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    tracing::warn!("snapshot {} is damaged and not built upon: {e}", parent.id);
                    None
                }
                Err(e) => return session.or_leave(Err(e)),
            },
            None => None,
        };
        let store = Store::new(session, &left, index, options, largest)?;
        let scratch = Mutex::new(store.scratch(MAX_NODE as usize)?);
        let cutter = Cutter::new(*repository.keys().ids.gear());
        let (images, told_damaged) = (Mutex::new(false), AtomicBool::new(false));
        Ok(Self { store, parent, cutter, scratch, largest, images, told_damaged })
    }

    /// Id of the session, and of the snapshot if it commits.
    pub fn id(&self) -> SessionId {
        self.store.session.id
    }

    /// The tree it builds on.
    pub fn parent(&self) -> Option<&TreeReader> {
        self.parent.as_ref()
    }

    /// The snapshot it builds on, when it has a tree to build on.
    pub fn parent_snapshot(&self) -> Option<&Snapshot> {
        self.store.session.parent.as_ref().filter(|_| self.parent.is_some())
    }

    /// True when packs of a dead run may be used.
    pub fn is_resumed(&self) -> bool {
        self.store.is_resumed()
    }

    /// Bytes of data packs acknowledged so far.
    pub fn stored(&self) -> u64 {
        self.store.stored()
    }

    /// Buffers for one worker thread that puts chunks of at most `largest` bytes.
    pub fn scratch(&self, largest: usize) -> Result<Scratch> {
        self.store.scratch(largest)
    }

    /// The longest chunk that is put (bytes): a piece of a file, or a chunk of a disk image.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Gives signs of life of this run; somebody has to do that about once a minute, until it has committed.
    pub fn pulse(&self) -> Pulse {
        self.store.pulse()
    }

    /// Fails when this run cannot commit any more: an upload failed, or the session was ended.
    pub fn check(&self) -> Result<()> {
        self.store.check()
    }

    /// See [`SnapshotWriter::take_no_more`](crate::SnapshotWriter::take_no_more).
    pub fn take_no_more(&self) {
        self.store.take_no_more();
    }

    /// Where large files are cut.
    pub fn cutter(&self) -> &Cutter {
        &self.cutter
    }

    /// True when a shared chunk of 32 KiB or more ends after the file of this name.
    pub fn ends_group(&self, name: &[u8]) -> bool {
        self.split(name)[0] < GROUP_MARK
    }

    /// Stores a chunk of class [`PIECE`](tree::PIECE), [`SHARED`](tree::SHARED) or [`ATTRIBUTES`], unless it is in `kept` or
    /// known. After an error there is no snapshot.
    pub fn put(
        &self,
        scratch: &mut Scratch,
        class: u8,
        plain: &[u8],
        kept: Option<&PieceSet>,
    ) -> Result<(Placed, Put)> {
        self.store.check()?;
        self.take(scratch, class, plain, kept).inspect_err(|e| self.store.fail(e))
    }

    fn take(&self, scratch: &mut Scratch, class: u8, plain: &[u8], kept: Option<&PieceSet>) -> Result<(Placed, Put)> {
        let most = Some(class).filter(|class| *class <= ATTRIBUTES).and_then(tree::max_plain).unwrap_or(0) as usize;
        if plain.is_empty() || plain.len() > most {
            let text =
                format!("{} bytes are no chunk of class {class}; nothing is committed, please report it", plain.len());
            return Err(Error::internal(text));
        }
        let id = self.store.repository.keys().ids.chunk(class, plain);
        let to = Ref { id: id.short(), class, plain: plain.len() as u32 };
        let (placed, put) = match kept.and_then(|kept| kept.0.get(&(to.id, class))).filter(|theirs| theirs.to == to) {
            Some(theirs) => (*theirs, Put::Unchanged),
            None => {
                let (at, put) = self.store.put_chunk(scratch, class, &id, plain)?;
                (Placed { to, at }, put)
            }
        };
        if class != ATTRIBUTES {
            let len = plain.len() as u64;
            self.store.counts.read.fetch_add(len, Ordering::Relaxed);
            self.store.counts.note(put, len);
        }
        Ok((placed, put))
    }

    /// Extended attributes as an entry has them: long ones are put as a chunk. `None` when they are longer than a tree takes
    /// (1 MiB): then they are missing.
    pub fn extended(&self, scratch: &mut Scratch, set: Set, kept: Option<&PieceSet>) -> Result<Option<Extended>> {
        if set.0.is_empty() {
            return Ok(Some(Extended::None));
        }
        match set.encoded_len() {
            len if len <= MAX_HERE => Ok(Some(Extended::Here(set))),
            len if len > tree::MAX_SET as usize => Ok(None),
            _ => self.put(scratch, ATTRIBUTES, &set.encode(), kept).map(|(chunk, _)| Some(Extended::Chunk(chunk))),
        }
    }

    /// What the parent's tree has under this name in a directory of it, `folder`. `None` also where that cannot be read:
    /// then there is no parent for it, which is said once.
    pub fn in_parent(&self, folder: &Below, name: &[u8]) -> Result<Option<Known>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        Ok(match self.or_none(parent.find(folder, name))?.flatten() {
            Some((_, Entry::Known(known))) => Some(*known),
            _ => None,
        })
    }

    /// What of the parent's tree was read; `None` when it is damaged.
    pub(crate) fn or_none<T>(&self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(e) if self.store.repository.is_damage(&e) => {
                if !self.told_damaged.swap(true, Ordering::Relaxed) {
                    tracing::warn!("a part of the parent's tree cannot be read and is not built upon: {e}");
                }
                Ok(None)
            }
            Err(e) => Err(e.context("the parent's tree").advise("--parent none does without it")),
        }
    }

    /// The chunks of an entry of the parent's tree that may be taken over (D1, W8), for [`put`](Self::put).
    pub fn kept_pieces(&self, theirs: &Known) -> Result<PieceSet> {
        let mut set = self.kept_here(theirs);
        if let What::File { content: Content::List(top), .. } = &theirs.what {
            let mut left = COMPARED;
            self.each_piece(top, &mut |_, piece| {
                self.add_piece(&mut set, piece);
                left -= 1;
                Ok(left > 0)
            })?;
        }
        Ok(set)
    }

    /// Likewise, those alone that the entry names itself: no list is read.
    pub(crate) fn kept_here(&self, theirs: &Known) -> PieceSet {
        let mut set = PieceSet::default();
        if let Extended::Chunk(chunk) = &theirs.attributes.extended {
            self.add_kept(&mut set, chunk);
        }
        match &theirs.what {
            What::File { content: Content::Shared { chunk, .. }, .. } => self.add_kept(&mut set, chunk),
            What::File { content: Content::Pieces(pieces), .. } => {
                pieces.iter().for_each(|piece| self.add_piece(&mut set, piece));
            }
            _ => {}
        }
        set
    }

    fn add_piece(&self, set: &mut PieceSet, piece: &Piece) {
        if let Piece::Chunk(chunk) = piece {
            self.add_kept(set, chunk);
        }
    }

    fn add_kept(&self, set: &mut PieceSet, placed: &Placed) {
        if set.0.len() < COMPARED && self.store.is_listed(&placed.at) {
            set.0.insert((placed.to.id, placed.to.class), *placed);
        }
    }

    /// W8: the content of a regular file of the parent's tree, to be taken over unread. `None`: some of it may be gone and is
    /// nowhere else, so the file has to be read. `theirs` must come from [`parent`](Self::parent). Its bytes count as
    /// unchanged.
    pub fn keep(&self, theirs: &Known) -> Result<Option<Kept>> {
        let What::File { size, content } = &theirs.what else { return Ok(None) };
        let kept = match content {
            Content::Nothing => Some(Content::Nothing),
            Content::Shared { chunk, offset } => {
                self.placed(chunk).map(|chunk| Content::Shared { chunk, offset: *offset })
            }
            Content::Pieces(pieces) => {
                pieces.iter().map(|piece| self.piece(piece)).collect::<Option<_>>().map(Content::Pieces)
            }
            Content::List(top) => self.keep_list(*size, *top)?,
            Content::Map { .. } => match Image::of(theirs) {
                Some(image) => self.keep_image(&image)?,
                None => None,
            },
        };
        if kept.is_some() {
            self.store.counts.note(Put::Unchanged, *size);
        }
        Ok(kept.map(Kept))
    }

    /// Where a chunk of the parent's is to be referred to: as it is, or a hit where its pack is not listed.
    fn placed(&self, theirs: &Placed) -> Option<Placed> {
        if self.store.is_listed(&theirs.at) {
            return Some(*theirs);
        }
        self.store.known(&theirs.to.id).map(|at| Placed { at, ..*theirs })
    }

    fn piece(&self, theirs: &Piece) -> Option<Piece> {
        match theirs {
            Piece::Hole(len) => Some(Piece::Hole(*len)),
            Piece::Chunk(chunk) => self.placed(chunk).map(Piece::Chunk),
        }
    }

    fn keep_list(&self, size: u64, top: Placed) -> Result<Option<Content>> {
        let (mut same, mut found) = (true, true);
        let whole = self.each_piece(&top, &mut |nodes, piece| {
            let kept = self.piece(piece);
            same &= nodes && kept == Some(*piece);
            found = kept.is_some();
            Ok(found)
        })?;
        if !(whole && found) {
            return Ok(None);
        }
        if same {
            return Ok(Some(Content::List(top)));
        }
        let content = Content::List(top);
        let mut list = self.list(Some(&content));
        let mut found = true;
        let whole = self.each_piece(&top, &mut |_, piece| {
            match self.piece(piece) {
                Some(piece) => list.push(piece)?,
                None => found = false,
            }
            Ok(found)
        })?;
        if !(whole && found) || list.size() != size {
            return Ok(None);
        }
        list.finish().map(Some)
    }

    /// Shows `take` the pieces of a list of the parent's in order, and whether every node above each of them is listed.
    /// False when a node cannot be read. `take` says whether to go on.
    fn each_piece(&self, top: &Placed, take: &mut dyn FnMut(bool, &Piece) -> Result<bool>) -> Result<bool> {
        let mut next = vec![(*top, true)];
        while let Some((at, listed)) = next.pop() {
            let listed = listed && self.store.is_listed(&at.at);
            let Some(node) = self.theirs(&at)? else { return Ok(false) };
            match &*node {
                Node::List(ListNode::Inner { children, .. }) => {
                    next.extend(children.iter().rev().map(|(child, _)| (*child, listed)));
                }
                Node::List(ListNode::Leaf(pieces)) => {
                    for piece in pieces {
                        if !take(listed, piece)? {
                            return Ok(true);
                        }
                    }
                }
                Node::Folder(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Builds a directory; `parent` is what the parent's tree has in the same one.
    pub fn folder(&self, parent: Option<&Below>) -> FolderBuilder<'_> {
        FolderBuilder::new(self, parent.copied().filter(|_| self.parent.is_some()))
    }

    /// Builds the content of a file; `parent` is what the parent's tree has of the same one.
    pub fn list(&self, parent: Option<&Content>) -> ListBuilder<'_> {
        ListBuilder::new(self, parent.filter(|_| self.parent.is_some()))
    }

    /// Writes a disk image of `size` bytes, in chunks of the size that the parent has for the same file, else of the
    /// repository's; `parent` is what the parent's tree has of that file.
    pub fn image(&self, size: u64, parent: Option<&Known>) -> Result<ImageWriter<'_>> {
        let theirs = parent.filter(|_| self.parent.is_some()).and_then(Image::of);
        // There may be no room for longer ones than those of the repository.
        let theirs = theirs.filter(|theirs| 1_usize << theirs.class <= self.largest);
        let class = theirs.map_or_else(|| class_of(self.store.repository.chunk_size()), |theirs| Ok(theirs.class))?;
        ImageWriter::new(self, size, class, theirs)
    }

    /// Writes a disk image in chunks of 2^`class` bytes, on the map that the parent has of that file if its chunks are as long.
    pub(crate) fn image_as(&self, size: u64, class: u8, parent: Option<&Known>) -> Result<ImageWriter<'_>> {
        let theirs = parent.filter(|_| self.parent.is_some()).and_then(Image::of);
        ImageWriter::new(self, size, class, theirs.filter(|theirs| theirs.class == class))
    }

    /// W8: whether a chunk of the parent's may be referred to where it is.
    pub(crate) fn may_keep(&self, theirs: &Placed) -> bool {
        self.store.is_listed(&theirs.at)
    }

    /// W2: says to all who open the repository from now on that trees in it may have disk images. Once a run.
    pub(super) fn enable_images(&self) -> Result<()> {
        let mut enabled = self.images.lock();
        if !*enabled {
            self.store.repository.enable(clear::TREE_MAP).inspect_err(|e| self.store.fail(e))?;
            *enabled = true;
        }
        Ok(())
    }

    /// Commits: Ok means the snapshot is durable and will restore. `Conflict` means the run was ended by somebody else.
    /// `root` is the directory itself, with an empty name. What `info` and `tree` say of size and of what is missing is not
    /// taken from them but from the totals.
    pub fn commit(self, root: Known, info: CommitInfo, tree: TreeInfo) -> Result<Snapshot> {
        self.commit_unless(root, info, tree, || Ok(()))
    }

    /// As [`commit`](Self::commit), but asks `refused` when all is stored, which may have taken long. On an error of that
    /// the run is given up, and what it stored is left to the next one.
    pub fn commit_unless(
        self,
        root: Known,
        info: CommitInfo,
        tree: TreeInfo,
        refused: impl FnOnce() -> Result<()>,
    ) -> Result<Snapshot> {
        self.store.check().map_err(|e| self.store.given_up(e))?;
        let (totals, missing) = whole(&root);
        let top = TreeNode::Leaf(vec![Entry::Known(Box::new(root))]).encode();
        Known::decode_root(&top).map_err(|e| Error::internal(format!("the root is none: {e}")))?;
        let ids = &self.store.repository.keys().ids;
        let id = ids.tree_node(FOLDER, tree::body(&top)?.1);
        let content = Committed {
            class: 0,
            levels: 0,
            root: ids.root(totals.bytes, 0, 0, Some(id)),
            top,
            chunks: 0,
            tree: Some(TreeInfo { missing, ..tree }),
        };
        self.store.commit(content, CommitInfo { size: totals.bytes, partial: missing > 0, ..info }, refused)
    }

    /// Stores all of the tree but its top node, commits nothing and ends the run.
    pub(crate) fn store(self) -> Result<()> {
        self.store.store_all()
    }

    /// Gives the run up, storing what is complete, so that the next run of the volume does not send it again.
    pub fn abandon(self) -> Result<()> {
        self.store.abandon()
    }
}

impl Ground for TreeWriter {
    fn split(&self, name: &[u8]) -> [u8; 32] {
        self.store.repository.keys().ids.split(name)
    }

    fn store(&self, node: &Node) -> Result<Placed> {
        let store = || {
            let bytes = node.encode()?;
            let (class, body) = tree::body(&bytes)?;
            let id = self.store.repository.keys().ids.tree_node(class, body);
            // Never looked up: a stranger's node carries hints into packs that nobody tracks (D4).
            let at = self.store.pack_node(&mut self.scratch.lock(), class, &id, &bytes)?;
            Ok(Placed { to: Ref { id: id.short(), class, plain: bytes.len() as u32 }, at })
        };
        // What it held would be missing in whatever is committed.
        self.store.check()?;
        store().inspect_err(|e| self.store.fail(e))
    }

    fn theirs(&self, at: &Placed) -> Result<Option<Arc<Node>>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        self.or_none(parent.node(at))
    }

    fn is_listed(&self, at: &Location) -> bool {
        self.store.is_listed(at)
    }

    fn id(&self, node: &Node) -> Result<ShortId> {
        let bytes = node.encode()?;
        let (class, body) = tree::body(&bytes)?;
        Ok(self.store.repository.keys().ids.tree_node(class, body).short())
    }
}

//! Copying the tree of a directory: its nodes are built anew, as every id in them is another one at the target. Where an
//! older snapshot has the same content, that of its copy is taken over unread; the rest is read.

use super::Work;
use super::map::{self, From};
use crate::format::tree::{Attributes, Below, Content, Entry, Extended, Known, Piece, Placed, SHARED, What};
use crate::id::ShortId;
use crate::map::Image;
use crate::reader::ChunkRef;
use crate::tree::{Entries, FolderBuilder, PieceSet};
use crate::{Error, Result, TreeInfo, TreeReader, TreeWriter};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Entries of one directory whose chunks are read together: of the topmost one, and in the depths.
const BATCH: usize = 512;
const LEAST: usize = 8;
/// Pieces of one file, likewise.
const PIECES: usize = 256;
/// Chunks whose places at the target are kept in mind.
const KNOWN: usize = 1 << 16;

/// What identifies a chunk at the source.
type Id = (ShortId, u8);

/// What the base has in the same place: at the source, and as its copy has it.
#[derive(Clone)]
struct Pair<T> {
    source: T,
    target: T,
}

/// A directory being copied.
struct Folder<'a> {
    known: Known,
    entries: Option<Entries<'a>>,
    base: Option<Pair<Below>>,
    builder: FolderBuilder<'a>,
    /// Entries whose chunks are at the target.
    ready: VecDeque<(Entry, Option<Pair<Known>>)>,
}

struct Copy<'a> {
    work: &'a Work<'a>,
    reader: &'a TreeReader,
    base: Option<&'a TreeReader>,
    writer: &'a TreeWriter,
    /// Places at the target, by what the chunks are at the source.
    known: HashMap<Id, Placed>,
    thin: HashSet<ShortId>,
    /// Thin chunks at the target, by what they are at the source.
    thin_there: BTreeMap<ShortId, ShortId>,
}

/// Copies a tree; `base` is the snapshot of which the writer's parent is a copy. Gives the root, and what the record says.
pub(super) fn copy(
    work: &Work<'_>,
    reader: &TreeReader,
    base: Option<&TreeReader>,
    writer: &TreeWriter,
) -> Result<(Known, TreeInfo)> {
    let info = reader.info();
    let mut copy = Copy {
        work,
        reader,
        base,
        writer,
        known: HashMap::new(),
        thin: info.thin.iter().copied().collect(),
        thin_there: BTreeMap::new(),
    };
    let root = copy.root()?;
    if totals(&root) != totals(reader.root()) {
        let text = "the copy of a directory does not add up to the original; nothing is committed, please report it";
        return Err(Error::internal(text));
    }
    Ok((root, TreeInfo { thin: copy.thin_there.into_values().collect(), ..info.clone() }))
}

fn totals(root: &Known) -> Option<(u64, crate::format::tree::Totals)> {
    match &root.what {
        What::Folder { below, .. } => below.map(|below| (below.entries, below.totals)),
        _ => None,
    }
}

impl<'a> Copy<'a> {
    fn root(&mut self) -> Result<Known> {
        let pair = match (self.base, self.writer.parent()) {
            (Some(source), Some(target)) => Some(Pair { source: source.root().clone(), target: target.root().clone() }),
            _ => None,
        };
        let root = self.reader.root().clone();
        self.bring([(&Entry::Known(Box::new(root.clone())), pair.as_ref())])?;
        let mut open = match self.place(root, pair)? {
            Placing::Folder(root) => vec![self.open(*root)?],
            Placing::Entry(root) => return Ok(*root),
        };
        loop {
            // Each of the open ones has read ahead: together no more than a few times what one may, however deep it is.
            let batch = (BATCH / open.len().max(1)).max(LEAST);
            let Some(folder) = open.last_mut() else { return Err(lost()) };
            if folder.ready.is_empty() {
                self.fill(folder, batch)?;
            }
            match folder.ready.pop_front() {
                Some((Entry::Known(known), pair)) => match self.place(*known, pair)? {
                    Placing::Entry(entry) => folder.builder.push(Entry::Known(entry))?,
                    Placing::Folder(folder) => open.push(self.open(*folder)?),
                },
                Some((entry, _)) => folder.builder.push(entry)?,
                None => {
                    let Some(Folder { mut known, builder, .. }) = open.pop() else { return Err(lost()) };
                    if let What::Folder { below, .. } = &mut known.what {
                        *below = builder.finish()?;
                    }
                    match open.last_mut() {
                        Some(above) => above.builder.push(Entry::Known(Box::new(known)))?,
                        None => return Ok(known),
                    }
                }
            }
        }
    }

    /// Begins a directory, whose own metadata is done.
    fn open(&self, (known, pair): (Known, Option<Pair<Known>>)) -> Result<Folder<'a>> {
        let below = |known: &Known| match known.what {
            What::Folder { below, .. } => below,
            _ => None,
        };
        let base = pair.and_then(|pair| Some(Pair { source: below(&pair.source)?, target: below(&pair.target)? }));
        let entries = below(&known).map(|below| self.work.of_source(self.reader.list(&below, 0))).transpose()?;
        let builder = self.writer.folder(base.as_ref().map(|base| &base.target));
        Ok(Folder { known, entries, base, builder, ready: VecDeque::new() })
    }

    /// Reads the next entries of a directory and brings their chunks.
    fn fill(&mut self, folder: &mut Folder<'a>, batch: usize) -> Result<()> {
        let Some(entries) = &mut folder.entries else { return Ok(()) };
        for entry in entries.by_ref().take(batch) {
            let (_, entry) = self.work.of_source(entry)?;
            let pair = match &folder.base {
                Some(base) => self.in_base(base, entry.name())?,
                None => None,
            };
            folder.ready.push_back((entry, pair));
        }
        self.bring(folder.ready.iter().map(|(entry, pair)| (entry, pair.as_ref())))
    }

    /// What the base has under a name; `None` also where some of it cannot be read.
    fn in_base(&self, folder: &Pair<Below>, name: &[u8]) -> Result<Option<Pair<Known>>> {
        let Some(base) = self.base else { return Ok(None) };
        let source = match base.find(&folder.source, name) {
            Err(e) if self.work.chunks.repository().is_damage(&e) => None,
            found => found?,
        };
        let Some((_, Entry::Known(source))) = source else { return Ok(None) };
        let target = self.writer.in_parent(&folder.target, name)?;
        Ok(target.map(|target| Pair { source: *source, target }))
    }

    /// Sees to it that every chunk these entries name themselves has a place at the target. Lists and images are done when
    /// it is their turn.
    fn bring<'e>(&mut self, entries: impl IntoIterator<Item = (&'e Entry, Option<&'e Pair<Known>>)>) -> Result<()> {
        self.forget_some();
        let (mut wanted, mut kept) = (Vec::new(), PieceSet::default());
        for (entry, pair) in entries {
            let Entry::Known(known) = entry else { continue };
            let before = wanted.len();
            if let Extended::Chunk(set) = &known.attributes.extended {
                match pair.and_then(|pair| same_set(set, pair)).filter(|theirs| self.writer.may_keep(theirs)) {
                    Some(theirs) => {
                        self.known.insert(id_of(set), theirs);
                    }
                    None => wanted.push(*set),
                }
            }
            match &known.what {
                What::File { content: Content::Shared { chunk, .. }, .. } if !is_same(known, pair) => {
                    wanted.push(*chunk)
                }
                What::File { content: Content::Pieces(pieces), .. } if !is_same(known, pair) => {
                    wanted.extend(pieces.iter().filter_map(chunk_of));
                }
                _ => {}
            }
            if let Some(pair) = pair.filter(|_| wanted.len() > before && kept.len() < KNOWN) {
                kept.extend(self.writer.kept_here(&pair.target));
            }
        }
        self.copy_chunks(wanted, &kept)
    }

    /// Brings these chunks to the target, those whose places are not in mind.
    fn copy_chunks(&mut self, wanted: Vec<Placed>, kept: &PieceSet) -> Result<()> {
        let mut seen = HashSet::new();
        let lacks = |placed: &Placed| !self.known.contains_key(&id_of(placed)) && seen.insert(id_of(placed));
        let wanted: Vec<ChunkRef> = wanted.into_iter().filter(lacks).map(|placed| ChunkRef::of_tree(&placed)).collect();
        let found = Mutex::new(Vec::new());
        let largest = self.writer.largest();
        self.work.each(
            wanted,
            || self.writer.scratch(largest),
            |scratch, chunk, plain| {
                let (placed, _) = self.writer.put(scratch, chunk.class(), plain, Some(kept))?;
                found.lock().push(((chunk.id(), chunk.class()), placed));
                Ok(())
            },
        )?;
        self.known.extend(found.into_inner());
        Ok(())
    }

    /// What was kept in mind must not grow with the tree.
    fn forget_some(&mut self) {
        if self.known.len() > KNOWN {
            self.known.clear();
        }
    }

    fn at_target(&self, placed: &Placed) -> Result<Placed> {
        self.known.get(&id_of(placed)).copied().ok_or_else(lost)
    }

    /// An entry as the target has it.
    fn place(&mut self, mut known: Known, pair: Option<Pair<Known>>) -> Result<Placing> {
        if let Extended::Chunk(set) = known.attributes.extended {
            self.copy_chunks(vec![set], &PieceSet::default())?;
            let extended = Extended::Chunk(self.at_target(&set)?);
            known.attributes = Arc::new(Attributes { extended, ..(*known.attributes).clone() });
        }
        match &known.what {
            What::Folder { below: Some(_), .. } => return Ok(Placing::Folder(Box::new((known, pair)))),
            What::File { size, content } => {
                let size = *size;
                let content = self.content(&known, size, content, pair.as_ref())?;
                known.what = What::File { size, content };
            }
            _ => {}
        }
        Ok(Placing::Entry(Box::new(known)))
    }

    fn content(&mut self, known: &Known, size: u64, content: &Content, pair: Option<&Pair<Known>>) -> Result<Content> {
        if let Some(pair) = pair.filter(|_| is_same(known, pair))
            && let Some(kept) = self.writer.keep(&pair.target)?
        {
            let kept = kept.into_content();
            if let (Content::Shared { chunk, .. }, Content::Shared { chunk: theirs, .. }) = (content, &kept) {
                self.note_thin(chunk, theirs);
            }
            return Ok(kept);
        }
        match content {
            Content::Nothing => Ok(Content::Nothing),
            Content::Shared { chunk, offset } => {
                // Of a file that could not be taken over: what the base has may be gone at the target.
                self.copy_chunks(vec![*chunk], &PieceSet::default())?;
                let theirs = self.at_target(chunk)?;
                self.note_thin(chunk, &theirs);
                Ok(Content::Shared { chunk: theirs, offset: *offset })
            }
            Content::Pieces(pieces) => {
                self.copy_chunks(pieces.iter().filter_map(chunk_of).collect(), &PieceSet::default())?;
                let piece = |piece: &Piece| match piece {
                    Piece::Hole(len) => Ok(Piece::Hole(*len)),
                    Piece::Chunk(chunk) => self.at_target(chunk).map(Piece::Chunk),
                };
                pieces.iter().map(piece).collect::<Result<_>>().map(Content::Pieces)
            }
            Content::List(_) => self.list(size, content, pair),
            Content::Map { .. } => self.image(size, content, pair),
        }
    }

    fn note_thin(&mut self, chunk: &Placed, theirs: &Placed) {
        if chunk.to.class == SHARED && self.thin.contains(&chunk.to.id) {
            self.thin_there.insert(chunk.to.id, theirs.to.id);
        }
    }

    /// The pieces of a long file, in steps.
    fn list(&mut self, size: u64, content: &Content, pair: Option<&Pair<Known>>) -> Result<Content> {
        let theirs = match pair.map(|pair| &pair.target.what) {
            Some(What::File { content, .. }) => Some(content),
            _ => None,
        };
        let kept = pair.map(|pair| self.writer.kept_pieces(&pair.target)).transpose()?.unwrap_or_default();
        self.remember_pieces(pair)?;
        let mut list = self.writer.list(theirs);
        let mut pieces = self.work.of_source(self.reader.pieces(size, content, 0))?;
        loop {
            let mut step = Vec::with_capacity(PIECES);
            for span in pieces.by_ref().take(PIECES) {
                let span = self.work.of_source(span)?;
                step.push(match span.data {
                    None => Piece::Hole(span.len),
                    Some(part) => Piece::Chunk(part.chunk.placed()),
                });
            }
            if step.is_empty() {
                break;
            }
            self.copy_chunks(step.iter().filter_map(chunk_of).collect(), &kept)?;
            for piece in &step {
                list.push(match piece {
                    Piece::Hole(len) => Piece::Hole(*len),
                    Piece::Chunk(chunk) => Piece::Chunk(self.at_target(chunk)?),
                })?;
            }
            self.forget_some();
            (self.work.watch)(0)?;
        }
        if list.size() != size {
            return Err(Error::internal(
                "the copy of a file is not as long as it; nothing is committed, please report it",
            ));
        }
        list.finish()
    }

    /// A file that the base has in another version: piece for piece its copy has what it has itself, so what is the same in
    /// this version need not be read.
    fn remember_pieces(&mut self, pair: Option<&Pair<Known>>) -> Result<()> {
        let (Some(pair), Some(base), Some(parent)) = (pair, self.base, self.writer.parent()) else { return Ok(()) };
        let (What::File { size, content }, What::File { size: theirs, content: copied }) =
            (&pair.source.what, &pair.target.what)
        else {
            return Ok(());
        };
        let is_list = |content: &Content| matches!(content, Content::List(_) | Content::Pieces(_));
        if size != theirs || !is_list(content) || !is_list(copied) {
            return Ok(());
        }
        // What cannot be read of either ends it, each by what its own storage says: the rest is read.
        let of_base = |e: Error| if self.work.chunks.repository().is_damage(&e) { Ok(()) } else { Err(e) };
        let mine = match base.pieces(*size, content, 0) {
            Err(e) => return of_base(e),
            Ok(mine) => mine,
        };
        let Some(theirs) = self.writer.or_none(parent.pieces(*size, copied, 0))? else { return Ok(()) };
        for (a, b) in mine.zip(theirs).take(KNOWN / 2) {
            let Some(b) = self.writer.or_none(b)? else { break };
            let a = match a {
                Err(e) => return of_base(e),
                Ok(a) => a,
            };
            if (a.offset, a.len, a.data.is_some()) != (b.offset, b.len, b.data.is_some()) {
                break;
            }
            if let (Some(a), Some(b)) = (a.data, b.data) {
                let placed = b.chunk.placed();
                if self.writer.may_keep(&placed) {
                    self.known.insert((a.chunk.id(), a.chunk.class()), placed);
                }
            }
        }
        Ok(())
    }

    fn image(&mut self, size: u64, content: &Content, pair: Option<&Pair<Known>>) -> Result<Content> {
        let image = Image::new(size, content).ok_or_else(lost)?;
        let theirs = pair.map(|pair| &pair.target);
        let sink = self.writer.image_as(size, image.class, theirs)?;
        let tree = self.work.of_source(self.reader.image(&image))?;
        let older = match (self.base, pair.and_then(|pair| Image::of(&pair.source)), theirs.and_then(Image::of)) {
            (Some(base), Some(older), Some(copied)) if older.size == copied.size && sink.can_inherit() => {
                match base.image(&older) {
                    Err(e) if self.work.chunks.repository().is_damage(&e) => None,
                    tree => Some((older, tree?)),
                }
            }
            _ => None,
        };
        let base = older.as_ref().map(|(older, tree)| From { tree, size: older.size, class: older.class });
        map::copy(self.work, From { tree: &tree, size, class: image.class }, base, &sink)?;
        sink.finish()
    }
}

enum Placing {
    Entry(Box<Known>),
    /// What is in it is still to come.
    Folder(Box<(Known, Option<Pair<Known>>)>),
}

fn id_of(placed: &Placed) -> Id {
    (placed.to.id, placed.to.class)
}

fn chunk_of(piece: &Piece) -> Option<Placed> {
    match piece {
        Piece::Chunk(chunk) => Some(*chunk),
        Piece::Hole(_) => None,
    }
}

/// Where the copy of the base has these attributes, if the base has the same.
fn same_set(set: &Placed, pair: &Pair<Known>) -> Option<Placed> {
    match (&pair.source.attributes.extended, &pair.target.attributes.extended) {
        (Extended::Chunk(older), Extended::Chunk(copied)) if older.to == set.to && copied.to.plain == set.to.plain => {
            Some(*copied)
        }
        _ => None,
    }
}

/// True when a file has the same content as in the base; where that lies does not matter.
fn is_same(known: &Known, pair: Option<&Pair<Known>>) -> bool {
    let Some(Pair { source, target }) = pair else { return false };
    let (What::File { size: a, content: mine }, What::File { size: b, content: older }, What::File { size: c, .. }) =
        (&known.what, &source.what, &target.what)
    else {
        return false;
    };
    let same_node = |a: &Placed, b: &Placed| id_of(a) == id_of(b);
    let same_piece = |(a, b): (&Piece, &Piece)| match (a, b) {
        (Piece::Hole(a), Piece::Hole(b)) => a == b,
        (Piece::Chunk(a), Piece::Chunk(b)) => a.to == b.to,
        _ => false,
    };
    let same = match (mine, older) {
        (Content::Nothing, Content::Nothing) => true,
        (Content::Shared { chunk: a, offset: x }, Content::Shared { chunk: b, offset: y }) => a.to == b.to && x == y,
        (Content::Pieces(a), Content::Pieces(b)) => a.len() == b.len() && a.iter().zip(b).all(same_piece),
        (Content::List(a), Content::List(b)) => same_node(a, b),
        (Content::Map { class: a, levels: x, top: m }, Content::Map { class: b, levels: y, top: n }) => {
            (a, x) == (b, y) && same_node(m, n)
        }
        _ => false,
    };
    same && a == b && b == c
}

fn lost() -> Error {
    Error::internal("a part of a tree that is copied was lost; nothing is committed, please report it")
}

//! What differs between two trees. Directories whose nodes have the same id are not entered.

use super::path::TreePath;
use super::view::{Failed, View, is_local};
use super::view_tree::TreeView;
use anyhow::Result;
use std::cmp::Ordering;
use std::iter::{Flatten, Peekable};
use std::option::IntoIter;
use wherry_repo::format::tree::{Below, Content, Entry, Extended, Known, PIECE, Piece, Placed, What};
use wherry_repo::{Entries, Error, TreeReader};

/// Bytes of two files that are compared at once.
const PIECES: u64 = 4 << 20;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the new tree has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// It is of another kind, or has other data, another target, or another device number.
    Content,
    /// Only metadata differ: mode, owner, mtime, attributes, flags, number of names. Inode number and ctime do not count.
    Metadata,
    /// Something of it could not be read when one of the trees was made: it is not compared, nor what the list of a directory
    /// lacks.
    Unreadable,
}

/// Takes a path that differs; the entry is that of the new tree, but of the old one where it was removed.
pub type Tell<'a> = &'a mut dyn FnMut(Change, &TreePath, &Entry) -> Result<()>;

/// The entries of a directory.
type Listing<'a> = Peekable<Flatten<IntoIter<Entries<'a>>>>;

/// A directory of two trees.
struct Inside<'a> {
    path: TreePath,
    sides: [Listing<'a>; 2],
    /// Whether the list of each was read whole when its tree was made: what is not in it was not there.
    whole: [bool; 2],
}

/// What is to be compared below an entry: nothing where one has no directory there.
#[derive(Clone, Copy)]
struct Pair {
    below: [Option<Below>; 2],
    whole: [bool; 2],
}

/// Compares two trees, the old one and the new one.
#[derive(Debug)]
pub struct Compare<'a> {
    readers: [&'a TreeReader; 2],
    views: [TreeView<'a>; 2],
    failed: Failed,
}

/// What comes next in two directories.
enum Step {
    End,
    Failed(Error),
    Removed(Entry),
    Added(Entry),
    Both(Entry, Entry),
}

impl<'a> Compare<'a> {
    /// Keeps about `memory` bytes of chunks, and has so many requests under way at a time.
    pub fn new(readers: [&'a TreeReader; 2], memory: u64, threads: usize) -> Self {
        let views = readers.map(|reader| TreeView::new(reader, memory / 2, threads));
        Self { readers, views, failed: Failed::default() }
    }

    /// Notes what cannot be read of one path; any other error ends it.
    fn lose(&mut self, error: wherry_repo::Error) -> Result<()> {
        let error = error.into();
        if is_local(&error) {
            self.failed.add(&error);
            return Ok(());
        }
        Err(error)
    }

    /// Gives `tell` each path that differs, a directory before what is in it, by name. What cannot be read is logged and
    /// counted, and not told of.
    ///
    /// # Errors
    /// Those of `tell`, and what is about more than one path.
    pub fn run(mut self, tell: Tell<'_>) -> Result<Failed> {
        let [old, new] = self.readers.map(|reader| Entry::Known(Box::new(reader.root().clone())));
        let mut path = TreePath::default();
        let mut inside: Vec<Inside<'a>> = Vec::new();
        let mut next = self.both(&path, &old, &new, tell)?;
        loop {
            if let Some(Pair { below, whole }) = next.take() {
                match self.open(below) {
                    Ok(sides) => inside.push(Inside { path: path.clone(), sides, whole }),
                    Err(e) => self.lose(e.context(format!("{path} cannot be listed")))?,
                }
            }
            let Some(Inside { path: here, sides, whole }) = inside.last_mut() else { return Ok(self.failed) };
            let mut at = |entry: &Entry| path = here.join(entry.name());
            match step(sides) {
                Step::End => {
                    inside.pop();
                }
                Step::Failed(e) => {
                    let error = e.context(format!("{here} cannot be listed to its end"));
                    self.lose(error)?;
                    inside.pop();
                }
                // Whether it was there nobody knows; its directory was told of.
                Step::Removed(_) if !whole[1] => {}
                Step::Added(_) if !whole[0] => {}
                Step::Removed(entry) => {
                    at(&entry);
                    tell(Change::Removed, &path, &entry)?;
                    next = different(Some(&entry), None);
                }
                Step::Added(entry) => {
                    at(&entry);
                    tell(Change::Added, &path, &entry)?;
                    next = different(None, Some(&entry));
                }
                Step::Both(old, new) => {
                    at(&new);
                    next = self.both(&path, &old, &new, tell)?;
                }
            }
        }
    }

    fn open(&self, sides: [Option<Below>; 2]) -> wherry_repo::Result<[Listing<'a>; 2]> {
        let open = |n: usize| -> wherry_repo::Result<Listing<'a>> {
            let reader: &'a TreeReader = self.readers[n];
            let listed = sides[n].map(|below| reader.list(&below, 0)).transpose()?;
            Ok(listed.into_iter().flatten().peekable())
        };
        Ok([open(0)?, open(1)?])
    }

    /// Tells how an entry differs that both have; gives what is to be compared below it.
    fn both(&mut self, path: &TreePath, old: &Entry, new: &Entry, tell: Tell<'_>) -> Result<Option<Pair>> {
        let change = match (old, new) {
            (Entry::Known(a), Entry::Known(b)) if is_unread(a, b) => Some(Change::Unreadable),
            (Entry::Known(a), Entry::Known(b)) => match self.same_content(path, a, b) {
                Ok(false) => Some(Change::Content),
                Ok(true) if a.missing.or(b.missing).is_some() => Some(Change::Unreadable),
                Ok(true) => (!same_metadata(a, b)).then_some(Change::Metadata),
                Err(e) if is_local(&e) => {
                    self.failed.add(&e);
                    None
                }
                Err(e) => return Err(e),
            },
            _ => Some(Change::Unreadable),
        };
        if let Some(change) = change {
            tell(change, path, new)?;
        }
        Ok(different(Some(old), Some(new)))
    }

    fn same_content(&mut self, path: &TreePath, old: &Known, new: &Known) -> Result<bool> {
        Ok(match (&old.what, &new.what) {
            (What::File { size: a, content: old }, What::File { size: b, content: new }) => {
                a == b && self.same_data(path, *a, [old, new])?
            }
            (What::Folder { .. }, What::Folder { .. }) => true,
            (a, b) => a == b,
        })
    }

    /// Whether two files of the same size have the same data. Mostly the ids tell; the same data may be cut or shared in
    /// another way, and from where on that is they are read.
    fn same_data(&mut self, path: &TreePath, size: u64, contents: [&Content; 2]) -> Result<bool> {
        if same_refs(contents[0], contents[1]) {
            return Ok(true);
        }
        match contents {
            // The ids of maps in chunks of one size differ if and only if the data does; and what has a map is not all zero.
            [Content::Map { class: a, .. }, Content::Map { class: b, .. }] if a == b => return Ok(false),
            [Content::Map { .. }, Content::Nothing] | [Content::Nothing, Content::Map { .. }] => return Ok(false),
            _ => {}
        }
        let named = |e: Error| e.context(format!("{path} cannot be compared"));
        let open = |n: usize| self.readers[n].pieces(size, contents[n], 0).map_err(named);
        let (mut old, mut new) = (open(0)?, open(1)?);
        let mut at = size;
        while let (Some(a), Some(b)) = (old.next(), new.next()) {
            let (a, b) = (a.map_err(named)?, b.map_err(named)?);
            let same_chunk = match (a.data, b.data) {
                (None, None) => true,
                (Some(a), Some(b)) => a.skip == b.skip && a.chunk.id() == b.chunk.id() && a.chunk.len == b.chunk.len,
                _ => false,
            };
            if a.len != b.len || !same_chunk {
                at = a.offset;
                break;
            }
        }
        drop((old, new));
        while at < size {
            let piece = at..(at + PIECES).min(size);
            let mut read = [Vec::new(), Vec::new()];
            for (view, bytes) in self.views.iter_mut().zip(&mut read) {
                view.read(path, piece.clone(), &mut |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })?;
            }
            if read[0] != read[1] {
                return Ok(false);
            }
            at = piece.end;
        }
        Ok(true)
    }
}

/// The next name of two directories. After a failure neither goes on.
fn step([old, new]: &mut [Listing<'_>; 2]) -> Step {
    let order = match (old.peek(), new.peek()) {
        (None, None) => return Step::End,
        (Some(Err(_)), _) | (_, None) => Ordering::Less,
        (_, Some(Err(_))) | (None, _) => Ordering::Greater,
        (Some(Ok((_, a))), Some(Ok((_, b)))) => a.name().cmp(b.name()),
    };
    let mut entries = (None, None);
    if order.is_le() {
        entries.0 = old.next();
    }
    if order.is_ge() {
        entries.1 = new.next();
    }
    match entries {
        (Some(Err(e)), _) | (_, Some(Err(e))) => Step::Failed(e),
        (Some(Ok((_, old))), Some(Ok((_, new)))) => Step::Both(old, new),
        (Some(Ok((_, old))), None) => Step::Removed(old),
        (None, Some(Ok((_, new)))) => Step::Added(new),
        (None, None) => Step::End,
    }
}

fn below(entry: &Entry) -> Option<Below> {
    match entry {
        Entry::Known(known) => match known.what {
            What::Folder { below, .. } => below,
            _ => None,
        },
        Entry::Unknown { .. } => None,
    }
}

/// What is below both, if that differs.
fn different(old: Option<&Entry>, new: Option<&Entry>) -> Option<Pair> {
    let pair = Pair { below: [old, new].map(|entry| entry.and_then(below)), whole: [old, new].map(is_whole) };
    match &pair.below {
        [None, None] => None,
        [Some(a), Some(b)] if same(&a.node, &b.node) => None,
        // Of none of it is known whether the other one had it.
        [None, Some(_)] if !pair.whole[0] => None,
        [Some(_), None] if !pair.whole[1] => None,
        _ => Some(pair),
    }
}

/// Whether all is known that was below an entry. Nothing was below one that is not there.
fn is_whole(entry: Option<&Entry>) -> bool {
    match entry {
        None => true,
        Some(Entry::Known(known)) => known.missing.is_none() || !matches!(known.what, What::Folder { .. }),
        Some(Entry::Unknown { .. }) => false,
    }
}

/// Whether both are files, and the data of one could not be read. All else that they are is known.
fn is_unread(old: &Known, new: &Known) -> bool {
    let lacks = |known: &Known| {
        known.missing.is_some() && matches!(known.what, What::File { size: 1.., content: Content::Nothing })
    };
    let is_file = |known: &Known| matches!(known.what, What::File { .. });
    is_file(old) && is_file(new) && (lacks(old) || lacks(new))
}

/// Whether two refs are to the same, wherever that is.
fn same(a: &Placed, b: &Placed) -> bool {
    (a.to.id, a.to.class) == (b.to.id, b.to.class)
}

fn same_refs(old: &Content, new: &Content) -> bool {
    match (old, new) {
        (Content::Nothing, Content::Nothing) => true,
        (Content::Shared { chunk: a, offset: x }, Content::Shared { chunk: b, offset: y }) => same(a, b) && x == y,
        (Content::Pieces(a), Content::Pieces(b)) => {
            let pair = |(a, b): (&Piece, &Piece)| match (a, b) {
                (Piece::Hole(a), Piece::Hole(b)) => a == b,
                (Piece::Chunk(a), Piece::Chunk(b)) => a.to.class == PIECE && same(a, b),
                _ => false,
            };
            a.len() == b.len() && a.iter().zip(b).all(pair)
        }
        (Content::List(a), Content::List(b)) => same(a, b),
        (Content::Map { class: x, levels: m, top: a }, Content::Map { class: y, levels: n, top: b }) => {
            (x, m) == (y, n) && same(a, b)
        }
        _ => false,
    }
}

fn same_metadata(a: &Known, b: &Known) -> bool {
    let extended = match (&a.attributes.extended, &b.attributes.extended) {
        (Extended::Chunk(a), Extended::Chunk(b)) => same(a, b),
        (a, b) => a == b,
    };
    let rest = |known: &Known| {
        let a = &known.attributes;
        (known.modified, known.links, a.permissions, a.owner, a.group, a.flags)
    };
    let names = |known: &Known| (known.attributes.owner_name.clone(), known.attributes.group_name.clone());
    extended && rest(a) == rest(b) && names(a) == names(b)
}

//! What a restore of a directory would do, without doing any of it: the tree of the snapshot is walked beside the target.
//! Nothing is opened for writing; links of the target are not followed.

use super::alike;
use super::compare::Change;
use super::dir::{Dir, Root};
use super::first::{FirstNames, Key};
use super::inode::{Inode, InodeKind, kind_of};
use super::path::TreePath;
use super::restore::{Overwrite, Owners, is_zero, list_names};
use super::select::Select;
use crate::signals::Cancel;
use anyhow::Result;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wherry_repo::format::tree::{Below, Content, Entry, Extended, Known, Set, What};
use wherry_repo::{ChunkRef, Entries, Error, Span, TreeReader};

/// What would be restored, and how.
#[derive(Debug)]
pub struct Rehearsal<'a> {
    /// What is read.
    pub reader: &'a TreeReader,
    /// Which part of it is wanted.
    pub select: &'a Select,
    /// The target would get the metadata of the tree's root.
    pub root: bool,
    /// What happens to names that are there already.
    pub overwrite: Overwrite,
    /// Files that are there are compared, and those that are right would stay.
    pub compare: bool,
    /// What the snapshot does not have would go.
    pub delete: bool,
    /// Owners by number, also where the system knows their names.
    pub numeric_ids: bool,
    /// Bytes of first names of inodes with several, at most.
    pub links: usize,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

/// What would happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// Bytes of the files that are wanted.
    pub bytes: u64,
    /// Regular files that would be written.
    pub files: u64,
    /// Regular files that hold what the snapshot says already.
    pub kept: u64,
    /// Directories that would be made or entered.
    pub directories: u64,
    /// Other inodes that would be made.
    pub others: u64,
    /// Further names of inodes.
    pub links: u64,
    /// Names that would be left as they are.
    pub skipped: u64,
    /// Names that would be removed.
    pub removed: u64,
    /// Bytes of the files that would be written, outside of holes.
    pub written: u64,
    /// Bytes of them that the target does not have.
    pub fetched: u64,
}

/// Takes a path that would change.
pub type Tell<'a> = &'a mut dyn FnMut(Change, &TreePath) -> Result<()>;

/// Small files that share a chunk, of which the walk has come to the first.
#[derive(Default)]
struct Group {
    chunk: Option<ChunkRef>,
    members: Vec<Member>,
}

struct Member {
    path: TreePath,
    /// What the target has of this name; `None`: it has to be replaced in any case.
    there: Option<Vec<u8>>,
    part: Range<usize>,
    same_metadata: bool,
}

struct Walk<'a, 'b> {
    rehearsal: &'b Rehearsal<'a>,
    tell: Tell<'b>,
    owners: Owners,
    links: FirstNames,
    boundaries: u64,
    group: Group,
    found: Foreseen,
}

/// A directory that the walk is in.
struct Inside<'a> {
    path: TreePath,
    below: Option<Below>,
    entries: Option<Entries<'a>>,
    select: &'a Select,
    /// What is there of this name; `None`: it would be made.
    there: Option<Arc<Dir>>,
    /// The list of names is whole, so what is not in it may go.
    whole: bool,
    boundary: u64,
}

impl Rehearsal<'_> {
    /// Gives `tell` each path that would change: it comes there, its data, or only its metadata, or it goes. `target` is
    /// `None` where there is nothing yet.
    ///
    /// # Errors
    /// Those of `tell`, and what cannot be read of the repository.
    pub fn run(&self, target: Option<&Root>, tell: Tell<'_>) -> Result<Foreseen> {
        let mut walk = Walk {
            rehearsal: self,
            tell,
            owners: Owners::new(self.numeric_ids),
            links: FirstNames::new(self.links),
            boundaries: 0,
            group: Group::default(),
            found: Foreseen::default(),
        };
        walk.whole(target)?;
        Ok(walk.found)
    }

    fn extended(&self, known: &Known) -> Result<Set> {
        Ok(match &known.attributes.extended {
            Extended::None => Set::default(),
            Extended::Here(set) => set.clone(),
            Extended::Chunk(chunk) => Set::decode(self.reader.chunks().read_chunk(&self.reader.set(chunk))?.as_ref())?,
        })
    }
}

impl<'b> Walk<'_, 'b> {
    fn whole(&mut self, target: Option<&Root>) -> Result<()> {
        let this = self.rehearsal;
        let root = this.reader.root().clone();
        match target {
            None => (self.tell)(Change::Added, &TreePath::default())?,
            Some(target) => {
                let looked = target.look().inode.clone();
                if this.root && self.gets_metadata(&looked, &root) && !self.same_metadata(&looked, &root)? {
                    (self.tell)(Change::Metadata, &TreePath::default())?;
                }
            }
        }
        let there = target.map(|target| target.dir().clone());
        let mut inside = vec![self.enter(TreePath::default(), &root, this.select, there, 0)?];
        while let Some(here) = inside.last_mut() {
            this.cancel.check()?;
            let Some(entry) = here.entries.as_mut().and_then(Iterator::next) else {
                let Some(here) = inside.pop() else { break };
                self.settle()?;
                self.leave(&here)?;
                continue;
            };
            let (_, Entry::Known(known)) = entry? else { continue };
            let Some(select) = here.select.of(&known.name) else { continue };
            let (path, boundary) = (here.path.join(&known.name), here.boundary);
            let there = match &here.there {
                Some(dir) => match dir.look(&known.name) {
                    Ok(look) => Some((dir.clone(), look)),
                    Err(Errno::NOENT) => None,
                    Err(errno) => {
                        tracing::warn!("{path} cannot be looked at in the target: {}", std::io::Error::from(errno));
                        self.found.skipped += 1;
                        continue;
                    }
                },
                None => None,
            };
            if let What::Folder { boundary: is_boundary, .. } = known.what {
                if let Some((is_new, dir)) = self.folder(&path, &known, there.as_ref())? {
                    if is_new {
                        (self.tell)(Change::Added, &path)?;
                    }
                    self.boundaries += u64::from(is_boundary);
                    let boundary = if is_boundary { self.boundaries } else { boundary };
                    inside.push(self.enter(path, &known, select, dir, boundary)?);
                }
                continue;
            }
            self.name(path, &known, there, boundary)?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        path: TreePath,
        known: &Known,
        select: &'b Select,
        there: Option<Arc<Dir>>,
        boundary: u64,
    ) -> Result<Inside<'b>> {
        let (below, is_boundary) = match known.what {
            What::Folder { below, boundary } => (below, boundary),
            _ => (None, false),
        };
        self.found.directories += u64::from(!path.names().is_empty());
        let entries = below.map(|below| self.rehearsal.reader.list(&below, 0)).transpose()?;
        let whole = known.missing.is_none() && !is_boundary;
        Ok(Inside { path, below, entries, select, there, whole, boundary })
    }

    /// A directory: whether it is new, and what is there of it; `None`: it is passed over.
    fn folder(
        &mut self,
        path: &TreePath,
        known: &Known,
        there: Option<&(Arc<Dir>, super::attributes::Look)>,
    ) -> Result<Option<(bool, Option<Arc<Dir>>)>> {
        let Some((dir, look)) = there else { return Ok(Some((true, None))) };
        if look.inode.kind != InodeKind::Folder {
            if self.rehearsal.overwrite != Overwrite::Always {
                self.found.skipped += 1;
                return Ok(None);
            }
            (self.tell)(Change::Content, path)?;
            return Ok(Some((false, None)));
        }
        if self.gets_metadata(&look.inode, known) && !self.same_metadata(&look.inode, known)? {
            (self.tell)(Change::Metadata, path)?;
        }
        let name = CString::new(known.name.as_slice()).map_err(|_| Error::internal("a name with a zero"))?;
        Ok(Some((false, Some(dir.below(&name, 0, look)))))
    }

    /// A name that is no directory.
    fn name(
        &mut self,
        path: TreePath,
        known: &Known,
        there: Option<(Arc<Dir>, super::attributes::Look)>,
        boundary: u64,
    ) -> Result<()> {
        let content = match &known.what {
            // What there is of it would pass for the whole, and is not restored.
            What::File { size: 1.., content: Content::Nothing } if known.missing.is_some() => return Ok(()),
            What::File { size, content } => Some((*size, content)),
            _ => None,
        };
        if let Some((dir, look)) = &there {
            if self.stays(&look.inode, known) {
                self.found.skipped += 1;
                return Ok(());
            }
            if look.inode.kind == InodeKind::Folder {
                self.found.removed += self.count(dir, &known.name)?;
            }
        }
        let key: Option<(Key, u64)> =
            known.links.map(|links| ((boundary, known.inode, alike::of_known(known)), links.get()));
        if let Some((key, links)) = key {
            if self.links.further(&key).is_some() {
                self.found.links += 1;
                return self.changed(&path, there.is_some(), Change::Content);
            }
            self.links.note(key, path.bytes(), links);
        }
        self.found.bytes += content.map_or(0, |(size, _)| size);
        let Some((size, content)) = content else {
            self.found.others += 1;
            let change = match &there {
                Some((_, look)) if look.inode.kind == kind_of(&known.what).0 => {
                    if self.same_metadata(&look.inode, known)? {
                        return Ok(());
                    }
                    Change::Metadata
                }
                _ => Change::Content,
            };
            return self.changed(&path, there.is_some(), change);
        };
        let Some((dir, look)) = there else {
            self.write(size, content, None)?;
            return self.changed(&path, false, Change::Content);
        };
        let file = match self.rehearsal.compare && look.inode.kind == InodeKind::File {
            true => dir.open_file(&known.name, &look.inode).ok(),
            false => None,
        };
        // Of one with several names nothing tells whether all of them are in the target: it is made anew.
        let may_stay = look.inode.links == 1 && look.inode.size == size;
        let same_metadata = self.same_metadata(&look.inode, known)?;
        if let (Some(file), Content::Shared { .. }) = (&file, content) {
            let Some(Span { data: Some(part), len, .. }) =
                self.rehearsal.reader.pieces(size, content, 0)?.next().transpose()?
            else {
                return Err(Error::corrupt("a file has no chunk").into());
            };
            let mut bytes = vec![0; size as usize];
            let there = (may_stay && file.read_exact_at(&mut bytes, 0).is_ok()).then_some(bytes);
            let part_of = part.skip as usize..part.skip as usize + len as usize;
            if self.group.chunk.is_some_and(|chunk| (chunk.id(), chunk.len) != (part.chunk.id(), part.chunk.len)) {
                self.settle()?;
            }
            self.group.chunk = Some(part.chunk);
            self.group.members.push(Member { path, there, part: part_of, same_metadata });
            return Ok(());
        }
        if may_stay
            && let Some(file) = &file
            && self.holds(file, size, content)?
        {
            return self.kept(&path, same_metadata);
        }
        self.write(size, content, file.as_ref())?;
        self.changed(&path, true, Change::Content)
    }

    fn kept(&mut self, path: &TreePath, same_metadata: bool) -> Result<()> {
        self.found.kept += 1;
        if same_metadata { Ok(()) } else { (self.tell)(Change::Metadata, path) }
    }

    fn changed(&mut self, path: &TreePath, there: bool, change: Change) -> Result<()> {
        (self.tell)(if there { change } else { Change::Added }, path)
    }

    /// Compares the files of the open group: their chunk is fetched only if the target does not have all of it.
    fn settle(&mut self) -> Result<()> {
        let Group { chunk, mut members } = std::mem::take(&mut self.group);
        let Some(chunk) = chunk else { return Ok(()) };
        let chunks = self.rehearsal.reader.chunks();
        members.sort_by_key(|member| member.part.start);
        let mut plain = Vec::new();
        for Member { there, part, .. } in &members {
            match there {
                Some(bytes) if part.start == plain.len() => plain.extend_from_slice(bytes),
                _ => break,
            }
        }
        let is_whole = plain.len() == chunk.len && chunks.identify(&chunk, &plain) == chunk.id();
        if !is_whole {
            plain = chunks.read_chunk(&chunk)?.into_inner();
        }
        let mut differ = 0;
        for Member { path, there, part, same_metadata } in members {
            if there.as_deref().is_some_and(|there| plain.get(part.clone()) == Some(there)) {
                self.kept(&path, same_metadata)?;
                continue;
            }
            differ += 1;
            self.found.files += 1;
            self.found.written += part.len() as u64;
            (self.tell)(Change::Content, &path)?;
        }
        self.found.fetched += if differ > 0 { chunk.len as u64 } else { 0 };
        Ok(())
    }

    /// Counts a file that would be written, of which `there` is what is there.
    fn write(&mut self, size: u64, content: &Content, there: Option<&File>) -> Result<()> {
        self.found.files += 1;
        let mut plain = Vec::new();
        for span in self.rehearsal.reader.pieces(size, content, 0)? {
            self.rehearsal.cancel.check()?;
            let span = span?;
            if span.data.is_none() {
                continue;
            }
            self.found.written += span.len;
            if !there.is_some_and(|file| self.has(file, &span, &mut plain)) {
                self.found.fetched += span.len;
            }
        }
        Ok(())
    }

    /// True if a file is what the snapshot says, up to its size.
    fn holds(&self, file: &File, size: u64, content: &Content) -> Result<bool> {
        let mut plain = Vec::new();
        for span in self.rehearsal.reader.pieces(size, content, 0)? {
            self.rehearsal.cancel.check()?;
            if !self.has(file, &span?, &mut plain) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// True if a file has this piece.
    fn has(&self, file: &File, span: &Span, plain: &mut Vec<u8>) -> bool {
        let Some(part) = &span.data else {
            let hole = span.offset..span.offset + span.len;
            return is_zero(file, hole, |at, bytes| file.read_exact_at(bytes, at));
        };
        // A part of a chunk has no id of its own.
        if span.len != part.chunk.len as u64 {
            return false;
        }
        plain.resize(part.chunk.len, 0);
        file.read_exact_at(plain, span.offset).is_ok()
            && self.rehearsal.reader.chunks().identify(&part.chunk, plain) == part.chunk.id()
    }

    /// Whether what is there of this name would be left, as [`Overwrite`] says.
    fn stays(&self, there: &Inode, known: &Known) -> bool {
        let is_folder = there.kind == InodeKind::Folder;
        match self.rehearsal.overwrite {
            Overwrite::Never => true,
            Overwrite::IfNewer => is_folder || there.modified >= known.modified,
            // A directory with names is not replaced unless what the snapshot does not have may go.
            Overwrite::Always => is_folder && !self.rehearsal.delete,
        }
    }

    fn gets_metadata(&self, there: &Inode, known: &Known) -> bool {
        match self.rehearsal.overwrite {
            Overwrite::Never => false,
            Overwrite::IfNewer => there.modified < known.modified,
            Overwrite::Always => true,
        }
    }

    fn same_metadata(&self, there: &Inode, known: &Known) -> Result<bool> {
        let a = &known.attributes;
        let owner = self.owners.user(&a.owner_name, a.owner);
        let group = self.owners.group(&a.group_name, a.group);
        // Links have no permissions; flags of what is neither file nor directory come with the directory it is made in.
        let permissions = matches!(known.what, What::Link(_)) || there.permissions == a.permissions;
        let flags = !matches!(known.what, What::File { .. } | What::Folder { .. }) || there.flags == a.flags;
        Ok(permissions
            && flags
            && (there.owner, there.group, there.modified) == (owner, group, known.modified)
            && there.extended == self.rehearsal.extended(known)?)
    }

    /// What is there and the snapshot does not have.
    fn leave(&mut self, here: &Inside<'_>) -> Result<()> {
        let Some(dir) = here.there.as_ref().filter(|_| self.rehearsal.delete && here.whole) else { return Ok(()) };
        let mut gone = Vec::new();
        names_in(dir, &mut |name, _| {
            let has = here.below.map(|below| self.rehearsal.reader.find(&below, name)).transpose()?.flatten();
            if has.is_none() {
                gone.push(name.to_vec());
            }
            Ok(())
        })?;
        gone.sort_unstable();
        for name in gone {
            let path = here.path.join(&name);
            let count = self.count(dir, &name)?;
            if count > 0 {
                self.found.removed += count;
                (self.tell)(Change::Removed, &path)?;
            }
        }
        Ok(())
    }

    /// How many names would go with this one; nothing where something is mounted.
    fn count(&self, dir: &Arc<Dir>, name: &[u8]) -> Result<u64> {
        let mut waiting = vec![(dir.clone(), name.to_vec())];
        let mut count = 0;
        while let Some((dir, name)) = waiting.pop() {
            self.rehearsal.cancel.check()?;
            let Ok(look) = dir.look(&name) else { continue };
            if look.mounted {
                continue;
            }
            count += 1;
            if look.inode.kind == InodeKind::Folder {
                let name = CString::new(name).map_err(|_| Error::internal("a name with a zero"))?;
                let below = dir.below(&name, 0, &look);
                names_in(&below, &mut |name, _| {
                    waiting.push((below.clone(), name.to_vec()));
                    Ok(())
                })?;
            }
        }
        Ok(count)
    }
}

fn names_in(dir: &Arc<Dir>, each: &mut dyn FnMut(&[u8], FileType) -> Result<()>) -> Result<()> {
    let opened = dir.descriptor().and_then(|fd| Ok(File::from(fd.try_clone().map_err(|_| Errno::MFILE)?)));
    let file = opened.map_err(|errno| {
        let path = dir.path().escape_ascii().to_string();
        Error::invalid(format!("{path}: cannot be listed in the target: {}", std::io::Error::from(errno)))
    })?;
    list_names(&file, each)
}

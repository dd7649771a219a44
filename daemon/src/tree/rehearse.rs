//! What a restore of a directory would do, without doing any of it: the tree of the snapshot is walked beside the target.
//! Nothing is opened for writing; links of the target are not followed.

mod gone;

use super::alike;
use super::attributes::{Look, Scratch};
use super::compare::Change;
use super::dir::{Dir, Root};
use super::fetch::Told;
use super::first::FirstNames;
use super::inode::{Inode, InodeKind, kind_of, permissions};
use super::path::TreePath;
use super::restore::{Overwrite, Owners, Refused, Report, Step, Why, is_zero, were_given};
use super::select::Select;
use crate::own::{Own, Used};
use crate::signals::Cancel;
use anyhow::Result;
use rustix::io::Errno;
use std::collections::HashSet;
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
    /// There is nothing in the target, so it gets that in any overwrite mode.
    pub untouched: bool,
    /// The number of the run that would go on: its temporary files go, and are nothing that the snapshot does not have.
    pub run: u64,
    /// What an earlier run of this restore made is left as it is, as of `Options::trust_names`.
    pub trust_names: bool,
    /// Nor is that trusted unread: it is compared too.
    pub distrust: bool,
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
    /// What stays as it is.
    pub own: &'a Own,
    /// Asks to end.
    pub cancel: &'a Cancel,
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
    /// First names, of inodes with several, that would not be given: the further ones cannot be linked to them.
    unnamed: HashSet<Vec<u8>>,
    group: Group,
    scratch: Scratch,
    told: Told,
    report: Report,
}

/// A name of the target: the directory it is in, and what it leads to.
type There = (Arc<Dir>, Look);

/// A directory that the walk is in.
struct Inside<'a> {
    path: TreePath,
    below: Option<Below>,
    entries: Option<Entries<'a>>,
    select: &'a Select,
    /// What is there of this name; `None`: it would be made.
    there: Option<Arc<Dir>>,
    /// The lists of names of this one and of all above it are whole, and nothing is mounted there: what is not in it may go.
    whole: bool,
    boundary: u64,
}

impl Rehearsal<'_> {
    /// Gives `tell` each path that would change: it comes there, its data, or only its metadata, or it goes. `target` is
    /// `None` where there is nothing yet. What comes back is what the restore would say in the end; of `fetched` see
    /// `Walk::write`.
    ///
    /// # Errors
    /// Those of `tell`, and what cannot be read of the repository.
    pub fn run(&self, target: Option<&Root>, tell: Tell<'_>) -> Result<(Told, Report)> {
        let mut walk = Walk {
            rehearsal: self,
            tell,
            owners: Owners::new(self.numeric_ids),
            links: FirstNames::new(self.links),
            boundaries: 0,
            unnamed: HashSet::new(),
            group: Group::default(),
            scratch: Scratch::new(),
            told: Told::default(),
            report: Report::default(),
        };
        walk.whole(target)?;
        walk.told.apart = walk.links.beyond();
        Ok((walk.told, walk.report))
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
                if this.root
                    && (this.untouched || self.gets_metadata(&looked, &root))
                    && !self.same_metadata(&looked, &root)?
                {
                    (self.tell)(Change::Metadata, &TreePath::default())?;
                }
            }
        }
        let there = target.map(|target| target.dir().clone());
        self.miss(&TreePath::default(), &root);
        // A restore with `delete` of a root that could not be listed is refused.
        let mut inside = vec![self.enter(TreePath::default(), &root, this.select, there, 0, true)?];
        while let Some(here) = inside.last_mut() {
            this.cancel.check()?;
            let Some(entry) = here.entries.as_mut().and_then(Iterator::next) else {
                let Some(here) = inside.pop() else { break };
                self.settle()?;
                self.leave(&here)?;
                continue;
            };
            let (_, entry) = entry?;
            let Some(select) = here.select.of(entry.name()) else { continue };
            let (path, boundary, above_whole) = (here.path.join(entry.name()), here.boundary, here.whole);
            let Entry::Known(known) = entry else {
                self.told.missing += 1;
                tracing::warn!("{path}: could not be looked at when the snapshot was made");
                continue;
            };
            self.miss(&path, &known);
            let there = match &here.there {
                Some(dir) => match dir.look_with(&known.name, &mut self.scratch) {
                    Ok(look) => Some((dir.clone(), look)),
                    Err(Errno::NOENT) => None,
                    Err(errno) => {
                        self.refuse(&path, Step::Create, errno);
                        continue;
                    }
                },
                None => None,
            };
            if let What::Folder { boundary: is_boundary, .. } = known.what {
                let mounted =
                    there.as_ref().is_some_and(|(_, look)| look.mounted && look.inode.kind == InodeKind::Folder);
                let mut whole = above_whole && known.missing.is_none() && !is_boundary;
                if whole && this.delete && mounted {
                    self.skip(&path, Why::Mounted);
                    whole = false;
                }
                if let Some((is_new, dir)) = self.folder(&path, &known, there.as_ref())? {
                    if is_new {
                        (self.tell)(Change::Added, &path)?;
                    }
                    self.boundaries += u64::from(is_boundary);
                    let boundary = if is_boundary { self.boundaries } else { boundary };
                    inside.push(self.enter(path, &known, select, dir, boundary, whole)?);
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
        whole: bool,
    ) -> Result<Inside<'b>> {
        let below = match known.what {
            What::Folder { below, .. } => below,
            _ => None,
        };
        self.report.directories += u64::from(!path.names().is_empty());
        let entries = below.map(|below| self.rehearsal.reader.list(&below, 0)).transpose()?;
        Ok(Inside { path, below, entries, select, there, whole, boundary })
    }

    fn skip(&mut self, path: &TreePath, why: Why) {
        self.report.skip(why, || in_target(path));
    }

    /// The restore would try, and the system refuse it.
    fn refuse(&mut self, path: &TreePath, step: Step, errno: Errno) {
        let refused = &mut self.report.refused;
        *refused.kinds.entry(step).or_default() += 1;
        let errno = errno.raw_os_error();
        refused.list.push(|| Refused { path: in_target(path), step, attribute: None, errno });
    }

    /// Notes that the snapshot does not have the content of an entry.
    fn miss(&mut self, path: &TreePath, known: &Known) {
        if let Some(errno) = known.missing {
            self.told.missing += 1;
            let why = std::io::Error::from_raw_os_error(errno.get().cast_signed());
            tracing::warn!("{path}: was not read when the snapshot was made: {why}");
        }
    }

    /// A directory: whether it is new, and what is there of it; `None`: it is passed over.
    fn folder(
        &mut self,
        path: &TreePath,
        known: &Known,
        there: Option<&There>,
    ) -> Result<Option<(bool, Option<Arc<Dir>>)>> {
        let Some((dir, look)) = there else { return Ok(Some((true, None))) };
        if let Some(used) = self.used(look) {
            self.skip(path, Why::InUse(used));
            return Ok(None);
        }
        if look.inode.kind != InodeKind::Folder {
            if self.rehearsal.overwrite != Overwrite::Always {
                self.skip(path, Why::OtherType);
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
    fn name(&mut self, path: TreePath, known: &Known, there: Option<There>, boundary: u64) -> Result<()> {
        let key = known.links.map(|links| ((boundary, known.inode, alike::of_known(known)), links.get()));
        if let Some((key, _)) = &key
            && let Some(first) = self.links.further(key)
        {
            return self.further(&path, &first, known, there.as_ref());
        }
        let content = match &known.what {
            // What there is of it would pass for the whole, and is not restored.
            What::File { size: 1.., content: Content::Nothing } if known.missing.is_some() => return Ok(()),
            What::File { size, content } => Some((*size, content)),
            _ => None,
        };
        let stays = there.as_ref().and_then(|(_, look)| self.stays(look, known));
        // What stays is not the snapshot's inode, unless an earlier run made it.
        if let Some((key, links)) = key.filter(|_| stays.is_none_or(|why| why == Why::Done)) {
            self.links.note(key, in_target(&path), links);
        }
        if let Some(why) = stays {
            // As in the restore's report: that one is not told of what is done.
            if why != Why::Done {
                self.skip(&path, why);
            }
            return Ok(());
        }
        self.told.bytes += content.map_or(0, |(size, _)| size);
        if let Some((dir, look)) = &there
            && !self.gives_way(&path, dir, &known.name, look)?
        {
            // Written all the same: only the name cannot be given.
            if let Some((size, content)) = content {
                self.write(size, content, None)?;
            }
            if known.links.is_some() {
                self.unnamed.insert(in_target(&path));
            }
            return Ok(());
        }
        let Some((size, content)) = content else {
            self.report.others += 1;
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
            self.report.files += 1;
            self.write(size, content, None)?;
            return self.changed(&path, false, Change::Content);
        };
        let this = self.rehearsal;
        let is_done = self.is_done(&look.inode, known);
        let compare = this.compare || this.distrust && this.trust_names;
        let file =
            match compare && (is_done || this.overwrite != Overwrite::Never) && look.inode.kind == InodeKind::File {
                true => dir.open_file(&known.name, &look.inode).ok(),
                false => None,
            };
        // Of one with several names nothing tells whether all of them are in the target: it is made anew.
        let may_stay = (look.inode.links == 1 || is_done) && look.inode.size == size;
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
        self.report.files += 1;
        self.write(size, content, file.as_ref())?;
        self.changed(&path, true, Change::Content)
    }

    /// A further name of an inode, the `first` of which is there by then.
    fn further(&mut self, path: &TreePath, first: &[u8], known: &Known, there: Option<&There>) -> Result<()> {
        if self.unnamed.contains(first) {
            self.refuse(path, Step::Link, Errno::NOENT);
            return Ok(());
        }
        if let Some((dir, look)) = there {
            // An earlier run gave it.
            if look.inode.links > 1 && self.is_done(&look.inode, known) {
                self.report.links += 1;
                return Ok(());
            }
            let why = match self.rehearsal.overwrite {
                Overwrite::Never => Some(Why::Exists),
                Overwrite::IfNewer if look.inode.modified >= known.modified => Some(Why::NotOlder),
                Overwrite::IfNewer | Overwrite::Always => self.used(look).map(Why::InUse),
            };
            if let Some(why) = why {
                self.skip(path, why);
                return Ok(());
            }
            if !self.gives_way(path, dir, &known.name, look)? {
                return Ok(());
            }
        }
        self.report.links += 1;
        self.changed(path, there.is_some(), Change::Content)
    }

    fn kept(&mut self, path: &TreePath, same_metadata: bool) -> Result<()> {
        self.report.kept += 1;
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
            self.report.files += 1;
            self.report.bytes += part.len() as u64;
            (self.tell)(Change::Content, &path)?;
        }
        self.told.fetched += if differ > 0 { chunk.len as u64 } else { 0 };
        Ok(())
    }

    /// Counts the data of a file that would be written, of which `there` is what is there. As fetched count the bytes that
    /// it does not have: the restore itself counts what its requests span, gaps between chunks too.
    fn write(&mut self, size: u64, content: &Content, there: Option<&File>) -> Result<()> {
        let mut plain = Vec::new();
        for span in self.rehearsal.reader.pieces(size, content, 0)? {
            self.rehearsal.cancel.check()?;
            let span = span?;
            if span.data.is_none() {
                continue;
            }
            self.report.bytes += span.len;
            if !there.is_some_and(|file| self.has(file, &span, &mut plain)) {
                self.told.fetched += span.len;
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

    /// Why what is there of this name would be left, if it would, as [`Overwrite`] says. Whether a directory gives way,
    /// [`Self::gives_way`] tells.
    fn stays(&self, look: &Look, known: &Known) -> Option<Why> {
        let (there, in_use) = (&look.inode, self.used(look).map(Why::InUse));
        if in_use.is_none() && self.is_done(there, known) {
            return (!self.rehearsal.distrust || there.kind != InodeKind::File).then_some(Why::Done);
        }
        let is_folder = there.kind == InodeKind::Folder;
        match self.rehearsal.overwrite {
            Overwrite::Never | Overwrite::IfNewer if is_folder => Some(Why::OtherType),
            Overwrite::Never => Some(Why::Exists),
            Overwrite::IfNewer if there.modified >= known.modified => Some(Why::NotOlder),
            Overwrite::IfNewer | Overwrite::Always => in_use,
        }
    }

    /// What this run works with, if that is it.
    fn used(&self, there: &Look) -> Option<Used> {
        let (major, minor) = there.device;
        self.rehearsal.own.is((major, minor, there.inode.number))
    }

    /// True if an earlier run of this restore made what is there.
    fn is_done(&self, there: &Inode, known: &Known) -> bool {
        let (kind, size) = kind_of(&known.what);
        self.rehearsal.trust_names
            && there.kind == kind
            && there.modified == known.modified
            && (matches!(kind, InodeKind::Link(_)) || were_given(permissions(known), there.permissions))
            && (kind != InodeKind::File || there.size == size)
    }

    fn gets_metadata(&self, there: &Inode, known: &Known) -> bool {
        self.rehearsal.trust_names
            || match self.rehearsal.overwrite {
                Overwrite::Never => false,
                Overwrite::IfNewer => there.modified < known.modified,
                Overwrite::Always => true,
            }
    }

    fn same_metadata(&self, there: &Inode, known: &Known) -> Result<bool> {
        let a = &known.attributes;
        // One that cannot be asked for is not set.
        let owner = self.owners.user(&a.owner_name, a.owner).unwrap_or(there.owner);
        let group = self.owners.group(&a.group_name, a.group).unwrap_or(there.group);
        // Links have no permissions; flags of what is neither file nor directory come with the directory it is made in.
        let same = matches!(known.what, What::Link(_)) || there.permissions == permissions(known);
        let flags = !matches!(known.what, What::File { .. } | What::Folder { .. }) || there.flags == a.flags;
        Ok(same
            && flags
            && (there.owner, there.group, there.modified) == (owner, group, known.modified)
            && there.extended == self.rehearsal.extended(known)?)
    }
}

/// A path as reports of a restore have it: below the target, without a slash in front.
fn in_target(path: &TreePath) -> Vec<u8> {
    path.below(&TreePath::default())
}

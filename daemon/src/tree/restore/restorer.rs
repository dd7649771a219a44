//! The walking side: what there is in the snapshot, in its order.

use super::file::{FileHandle, Temporary};
use super::folder::{Folder, Identity, Look, look, look_at, open};
use super::metadata::{Metadata, On, Origin, apply, own_again, were_given};
use super::remove::remove;
use super::report::{Report, Step, Why};
use super::shared::{Place, Shared, failed};
use super::there::{Old, There};
use super::window::{Last, Late, Left, NewLink, Pending, Window};
use super::{Begun, Item, Options, Overwrite, Target, names};
use crate::tree::inode::InodeKind;
use crate::tree::path::escaped;
use anyhow::Result;
use rustix::fs::{FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::Arc;
use wherry_repo::Error;
use wherry_repo::format::tree::{InodeFlags, Time};

/// A tree being restored. One thread walks the snapshot and calls [`Self::enter`], [`Self::file`], [`Self::other`],
/// [`Self::link`] and [`Self::leave`]; any threads write the files; after each window of names ([`Self::window_full`]) the
/// walking thread calls [`Self::finish_window`], at the end [`Self::finish`].
///
/// After an error nothing but dropping it makes sense; that removes temporary files, and the names that were given stay.
#[derive(Debug)]
pub struct Restorer {
    pub(super) shared: Arc<Shared>,
    /// The target.
    pub(super) target: Arc<Folder>,
    /// There was nothing in it, or it was made.
    untouched: bool,
    /// When it was changed last, before this restore.
    modified: Time,
    /// Directories that are entered, the target first.
    stack: Vec<Left>,
    pub(super) window: Window,
    /// Left directories whose permissions would hinder this process.
    pub(super) closing: Vec<Left>,
    /// Flags that come last.
    pub(super) late: Vec<Late>,
    /// Paths of inodes that may have further names and did not get their first: those must not lead to what is there.
    pub(super) unnamed: HashSet<Vec<u8>>,
    /// Likewise of those that were lost.
    pub(super) lost: HashSet<Vec<u8>>,
    /// Linked inodes of an earlier run that others took the place of: further names may lead to them still.
    pub(super) replaced: HashSet<Identity>,
    /// Each filesystem that was entered.
    pub(super) filesystems: BTreeMap<(u32, u32), Arc<File>>,
}

impl Restorer {
    /// Begins in a target. Temporary files of the run are removed from it and from each directory entered, with
    /// [`Options::resume`].
    ///
    /// # Errors
    /// When the target cannot be used.
    pub fn start(target: Target, options: Options) -> Result<Self> {
        let untouched = target.made || target.is_empty(options.run)?;
        let modified = look_at(&target.folder)?.modified;
        let shared = Arc::new(Shared::new(options));
        let (folder, before) = Folder::target(&shared, target.folder, target.made)?;
        let mut this = Self {
            shared,
            target: Arc::clone(&folder),
            untouched,
            modified,
            stack: Vec::new(),
            window: Window::default(),
            closing: Vec::new(),
            late: Vec::new(),
            unnamed: HashSet::new(),
            lost: HashSet::new(),
            replaced: HashSet::new(),
            filesystems: BTreeMap::new(),
        };
        this.push(folder, Last::Before(before))?;
        Ok(this)
    }

    /// The target gets this metadata at the end, if it was made or was empty, or as the overwrite mode says of directories that
    /// are there; its name is not used. Without this call it keeps its own.
    pub fn root(&mut self, item: &Item<'_>) {
        let metadata = Metadata::new(item, &self.shared.owners);
        if let Some(root) = self.stack.first_mut()
            && (self.untouched || gets_metadata(&self.shared.options, self.modified, &metadata))
        {
            root.last = Last::Metadata(metadata);
        }
    }

    /// Enters a directory, made if there is none. False: it cannot be made, or something else is there that stays; what is in
    /// it is to be passed over, without [`Self::leave`]. The report says so.
    ///
    /// # Errors
    /// When the system fails, or the name is not allowed.
    pub fn enter(&mut self, item: &Item<'_>) -> Result<bool> {
        let parent = self.here(item)?;
        let place = Place { folder: &parent, name: item.name };
        let shared = Arc::clone(&self.shared);
        let Some(entered) = shared.settle(Step::Folder, &place, self.enter_or_make(&place, &parent, item))? else {
            return Ok(false);
        };
        let (folder, last) = match entered {
            Ok(entered) => entered,
            Err(why) => {
                shared.skip(&place, why);
                return Ok(false);
            }
        };
        parent.note(folder.identity);
        shared.report.lock().directories += 1;
        self.push(folder, last)?;
        Ok(true)
    }

    /// Why what is there stays, if it does and is something else.
    fn enter_or_make(
        &self,
        place: &Place<'_>,
        parent: &Arc<Folder>,
        item: &Item<'_>,
    ) -> io::Result<Result<(Arc<Folder>, Last), Why>> {
        let (shared, here) = (&*self.shared, parent.open(&self.shared)?);
        let metadata = Metadata::new(item, &shared.owners);
        // Again, when somebody changes the name between the look and the deed.
        for _ in 0..16 {
            let there = if parent.fresh { None } else { look(&here, item.name)? };
            shared.step(Step::Folder, place)?;
            if let Some(why) = there.as_ref().and_then(|there| shared.in_use(there)) {
                return Ok(Err(why));
            }
            match there {
                Some(there) if parent.is_taken(there.identity) => return Ok(Err(Why::Taken)),
                Some(there) if there.kind == FileType::Directory => {
                    let (folder, before) = parent.enter(shared, item.name, ResolveFlags::empty())?;
                    let ours = gets_metadata(&shared.options, there.modified, &metadata);
                    return Ok(Ok((folder, if ours { Last::Metadata(metadata) } else { Last::Before(before) })));
                }
                Some(_) if shared.options.overwrite != Overwrite::Always => return Ok(Err(Why::OtherType)),
                Some(_) => {
                    remove(shared, &here, place, false)?;
                }
                None => match rustix::fs::mkdirat(&*here, item.name, Mode::RWXU) {
                    Err(Errno::EXIST) if !parent.fresh => {}
                    made => {
                        made?;
                        let no_dump = item.inode.flags.0 & InodeFlags::NO_DUMP != 0;
                        let folder = parent.made(shared, item.name, no_dump)?;
                        return Ok(Ok((folder, Last::Metadata(metadata))));
                    }
                },
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Leaves the directory that was entered last.
    ///
    /// # Errors
    /// When none is entered.
    pub fn leave(&mut self) -> Result<()> {
        match self.stack.pop() {
            Some(left) if !self.stack.is_empty() => {
                self.window.leave(left);
                Ok(())
            }
            _ => Err(Error::internal("the target was left before its end").into()),
        }
    }

    /// Begins a regular file in the directory entered last.
    ///
    /// # Errors
    /// When the system fails, or the name is not allowed.
    pub fn file(&mut self, item: &Item<'_>) -> Result<Begun> {
        let folder = self.here(item)?;
        let place = Place { folder: &folder, name: item.name };
        let shared = Arc::clone(&self.shared);
        if let Some((why, there)) = self.stays(&place, &folder, item)? {
            let flags = Metadata::new(item, &shared.owners).late_flags();
            if why == Why::Done && !flags.is_empty() {
                // They come behind the name, so the earlier run may not have set them.
                let (name, identity) = (item.name.to_vec(), there.identity);
                self.late.push(Late { folder: Arc::clone(&folder), name, identity, flags });
            }
            return Ok(Begun::Left(Some(why)));
        }
        let metadata = Metadata::new(item, &shared.owners);
        let (flags, linked, weight) = (metadata.late_flags(), item.inode.links > 1, metadata.weight());
        if let Some(old) = self.old(&place, &folder, item)? {
            let old = Arc::new(old);
            self.window.add(Pending::There { old: Arc::clone(&old), flags, linked }, weight);
            return Ok(Begun::There(There::new(shared, old, metadata, item.inode.size)));
        }
        let made = shared.step(Step::Create, &place).and_then(|()| Temporary::create(&shared, &folder, item.name));
        let Some(temporary) = shared.settle(Step::Create, &place, made)? else {
            return Ok(Begun::Left(None));
        };
        let temporary = Arc::new(temporary);
        self.window.add(Pending::File { temporary: Arc::clone(&temporary), flags, linked, over: None }, weight);
        Ok(Begun::Write(FileHandle::new(shared, temporary, metadata, item.inode.size)))
    }

    /// Makes a link, fifo, socket or device. False: what is there stays, or it could not be made; as of [`Begun::Left`].
    ///
    /// # Errors
    /// When the system fails, the name is not allowed, or it is of another kind.
    pub fn other(&mut self, item: &Item<'_>) -> Result<bool> {
        let folder = self.here(item)?;
        let place = Place { folder: &folder, name: item.name };
        let shared = Arc::clone(&self.shared);
        match self.stays(&place, &folder, item)? {
            Some((why, _)) => return Ok(why == Why::Done),
            None => shared.step(Step::Create, &place)?,
        }
        let Some(temporary) = shared.settle(Step::Create, &place, make(&shared, &folder, &item.inode.kind))? else {
            return Ok(false);
        };
        let (name, node) = temporary;
        let made = look_at(&node).map_err(|e| failed(Step::Create, &place, e))?;
        let (here, last) = (Arc::clone(&folder), item.name.to_vec());
        self.window.add(Pending::Other { folder: here, temporary: name, last, made }, 0);
        let on = if matches!(item.inode.kind, InodeKind::Link(_)) { On::Link(&node) } else { On::Other(&node) };
        let mut metadata = Metadata::new(item, &shared.owners);
        // What lies in a directory with the flag has it from there.
        if folder.flagged {
            metadata.flags.0 &= !InodeFlags::NO_DUMP;
        }
        let origin = Origin { foreign: folder.inherits, flagged: false };
        apply(&shared, &place, on, &metadata, origin)?;
        if metadata.late_flags() != IFlags::empty() {
            shared.refuse(Step::Flags, None, &place, Errno::OPNOTSUPP);
        }
        Ok(true)
    }

    /// Gives an inode a further name, in the directory entered last. `first`: its first name, below the target, parts joined
    /// by `/`; given in this window or before.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub fn link(&mut self, name: &[u8], first: &[u8]) -> Result<()> {
        let folder = self.top();
        check(&folder, name)?;
        for part in first.split(|&b| b == b'/') {
            check(&folder, part)?;
        }
        self.window.link(NewLink { folder, name: name.to_vec(), first: first.to_vec() });
        Ok(())
    }

    /// True when [`Self::finish_window`] is due: enough names wait, or enough memory is used for them.
    pub fn window_full(&self) -> bool {
        self.window.is_full()
    }

    /// Notes in the report that this cannot be had: see [`Report::lost`].
    pub fn lose(&self, path: &[u8]) {
        self.shared.report.lock().lost.push(|| path.to_vec());
    }

    /// What was done so far.
    pub fn report(&self) -> Report {
        self.shared.report.lock().clone()
    }

    /// Ends: all windows, the directories that are still entered, flags. What was restored is on the disk.
    ///
    /// # Errors
    /// When the system fails, or a file is not finished.
    pub fn finish(mut self) -> Result<Report> {
        if self.stack.len() > 1 {
            return Err(Error::internal("a directory was not left").into());
        }
        self.finish_window()?;
        while let Some(root) = self.stack.pop() {
            self.closing.push(root);
        }
        for left in std::mem::take(&mut self.closing) {
            self.close(left)?;
        }
        self.finish_flags()?;
        self.sync_all()?;
        Ok(std::mem::take(&mut *self.shared.report.lock()))
    }

    fn top(&self) -> Arc<Folder> {
        Arc::clone(self.stack.last().map_or(&self.target, |left| &left.folder))
    }

    /// The directory entered last, for a new name in it.
    fn here(&self, item: &Item<'_>) -> Result<Arc<Folder>> {
        let folder = self.top();
        check(&folder, item.name)?;
        Ok(folder)
    }

    fn push(&mut self, folder: Arc<Folder>, last: Last) -> Result<()> {
        let place = Place { folder: &folder, name: b"" };
        let file = folder.open(&self.shared).map_err(|e| failed(Step::Folder, &place, e))?;
        let (major, minor, _): Identity = folder.identity;
        self.filesystems.entry((major, minor)).or_insert_with(|| Arc::clone(&file));
        if self.shared.options.resume && !folder.fresh {
            self.remove_temporary(&folder, &file)?;
        }
        self.stack.push(Left { folder, last });
        Ok(())
    }

    fn remove_temporary(&self, folder: &Arc<Folder>, file: &File) -> Result<()> {
        let shared = &*self.shared;
        names::list(file, |name, kind| {
            if names::is_temporary(shared.options.run, name) && kind != FileType::Directory {
                let place = Place { folder, name };
                shared.settle(Step::Remove, &place, remove(shared, file, &place, false))?;
            }
            Ok::<_, anyhow::Error>(())
        })
    }

    /// The regular file that is there, if it is to be compared.
    fn old(&self, place: &Place<'_>, folder: &Arc<Folder>, item: &Item<'_>) -> Result<Option<Old>> {
        let options = &self.shared.options;
        if folder.fresh || !(options.compare || (options.distrust && options.trust_names)) {
            return Ok(None);
        }
        let ours = |here: &File, there: &Look| options.trust_names && is_done(here, there, item);
        let old = Old::open(&self.shared, folder, item.name, ours).map_err(|e| failed(Step::Create, place, e))?;
        // It may have come there a moment ago.
        Ok(old.filter(|old| old.ours || options.overwrite != Overwrite::Never))
    }

    /// Why what is there stays, if it does.
    fn stays(&self, place: &Place<'_>, folder: &Arc<Folder>, item: &Item<'_>) -> Result<Option<(Why, Look)>> {
        if folder.fresh {
            return Ok(None);
        }
        let shared = &*self.shared;
        let looked = folder.open(shared).and_then(|here| Ok((look(&here, item.name)?, here)));
        let (there, here) = match looked.map_err(|e| failed(Step::Create, place, e))? {
            (None, _) => return Ok(None),
            (Some(there), here) => (there, here),
        };
        if folder.is_taken(there.identity) {
            shared.skip(place, Why::Taken);
            return Ok(Some((Why::Taken, there)));
        }
        let in_use = shared.in_use(&there);
        if in_use.is_none() && shared.options.trust_names && is_done(&here, &there, item) {
            let compared = shared.options.distrust && there.kind == FileType::RegularFile;
            // One with several names may rightly be found under another one.
            if !compared && there.links == 1 {
                folder.note(there.identity);
            }
            if !compared {
                own_again(shared, place, &here, &there, item)?;
            }
            return Ok((!compared).then_some((Why::Done, there)));
        }
        let why = match shared.options.overwrite {
            Overwrite::Never if there.kind == FileType::Directory => Why::OtherType,
            Overwrite::Never => Why::Exists,
            Overwrite::IfNewer if there.kind == FileType::Directory => Why::OtherType,
            Overwrite::IfNewer if there.modified >= item.inode.modified => Why::NotOlder,
            Overwrite::IfNewer | Overwrite::Always => match in_use {
                Some(why) => why,
                None => return Ok(None),
            },
        };
        shared.skip(place, why);
        Ok(Some((why, there)))
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// True if a directory that was there before gets the snapshot's metadata.
fn gets_metadata(options: &Options, modified: Time, metadata: &Metadata) -> bool {
    options.trust_names
        || match options.overwrite {
            Overwrite::Never => false,
            Overwrite::IfNewer => modified < metadata.modified,
            Overwrite::Always => true,
        }
}

fn check(folder: &Folder, name: &[u8]) -> Result<()> {
    match names::is_name(name) {
        true => Ok(()),
        false => {
            let (name, path) = (escaped(name), escaped(&folder.path(b"")));
            Err(Error::internal(format!("\"{name}\" is no name, in {path}")).into())
        }
    }
}

/// True if an earlier run of the same restore made what is there.
fn is_done(here: &File, there: &Look, item: &Item<'_>) -> bool {
    let inode = item.inode;
    let mode = were_given(inode.permissions, there.permissions);
    there.modified == inode.modified
        && match &inode.kind {
            InodeKind::File => mode && there.kind == FileType::RegularFile && there.size == inode.size,
            InodeKind::Folder => false,
            InodeKind::Link(to) => {
                there.kind == FileType::Symlink
                    && rustix::fs::readlinkat(here, item.name, Vec::new())
                        .is_ok_and(|there| there.as_bytes() == &to[..])
            }
            InodeKind::Fifo => mode && there.kind == FileType::Fifo,
            InodeKind::Socket => mode && there.kind == FileType::Socket,
            InodeKind::Character(major, minor) => {
                mode && there.kind == FileType::CharacterDevice && there.device == (*major, *minor)
            }
            InodeKind::Block(major, minor) => {
                mode && there.kind == FileType::BlockDevice && there.device == (*major, *minor)
            }
        }
}

/// Makes what is neither file nor directory, under a temporary name, and opens it without doing anything to it.
fn make(shared: &Shared, folder: &Arc<Folder>, kind: &InodeKind) -> io::Result<(Vec<u8>, File)> {
    let here = folder.open(shared)?;
    let private = Mode::RUSR | Mode::WUSR;
    let node = |name: &[u8], kind, device| rustix::fs::mknodat(&*here, name, kind, private, device);
    loop {
        let name = shared.temporary();
        let made = match kind {
            InodeKind::Link(to) => rustix::fs::symlinkat(&to[..], &*here, &name[..]),
            InodeKind::Fifo => node(&name, FileType::Fifo, 0),
            InodeKind::Socket => node(&name, FileType::Socket, 0),
            InodeKind::Character(major, minor) => {
                node(&name, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            InodeKind::Block(major, minor) => node(&name, FileType::BlockDevice, rustix::fs::makedev(*major, *minor)),
            InodeKind::File | InodeKind::Folder => Err(Errno::INVAL),
        };
        match made {
            // Of an earlier run, or planted: it is not ours.
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
            Ok(()) => {
                let made = open(&here, &name, OFlags::PATH, Mode::empty(), ResolveFlags::empty())?;
                return Ok((name, made));
            }
        }
    }
}

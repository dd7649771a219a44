//! The end of a window: everything is on the disk, then it gets its names; further names; directories that are done.

use super::Overwrite;
use super::file::Temporary;
use super::folder::{Before, Folder, Identity, Look, look, look_at, open};
use super::metadata::{Metadata, On, Origin, apply};
use super::prune::clear_away;
use super::remove::{loosen, remove};
use super::report::{Step, Why};
use super::restorer::Restorer;
use super::shared::{Place, Shared, failed, intruded};
use super::there::{Became, Old};
use crate::tree::path::escaped;
use anyhow::Result;
use rustix::fs::{AtFlags, IFlags, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;
use wherry_repo::Error;

/// Names that wait for one `syncfs`.
const NAMES: usize = 4096;
/// Bytes that their metadata may take.
const BYTES: usize = 4 << 20;

/// An inode that has its temporary name, or one that keeps the name it has.
#[derive(Debug)]
pub(super) enum Pending {
    File {
        temporary: Arc<Temporary>,
        flags: IFlags,
        /// Further names of it may come.
        linked: bool,
        /// What an earlier run of this restore made and this one replaces, whatever the overwrite mode.
        over: Option<Identity>,
    },
    /// A regular file that was there already.
    There {
        old: Arc<Old>,
        flags: IFlags,
        linked: bool,
    },
    Other {
        folder: Arc<Folder>,
        temporary: Vec<u8>,
        last: Vec<u8>,
        made: Look,
    },
}

impl Pending {
    /// The directory it is in, its name there now, and the one it gets.
    fn names(&self) -> (&Arc<Folder>, &[u8], &[u8]) {
        match self {
            Self::File { temporary, .. } => (&temporary.folder, &temporary.name, &temporary.last),
            Self::There { old, .. } => (&old.folder, &old.name, &old.name),
            Self::Other { folder, temporary, last, .. } => (folder, temporary, last),
        }
    }

    /// What was made for it.
    fn made(&self) -> Option<&Look> {
        match self {
            Self::File { temporary, .. } => Some(&temporary.made),
            Self::There { .. } => None,
            Self::Other { made, .. } => Some(made),
        }
    }

    /// What the snapshot says of it cannot be had.
    fn is_lost(&self) -> bool {
        match self {
            Self::File { temporary, .. } => temporary.is_lost(),
            Self::There { old, .. } => matches!(old.became(), Became::Lost),
            Self::Other { .. } => false,
        }
    }

    /// Once it is known what became of a file that was there: that one is written to a temporary name if it is replaced.
    fn settle(&mut self) -> Result<()> {
        let unfinished = match self {
            Self::There { old, flags, linked } => match old.became() {
                Became::Replaced(temporary) => {
                    let over = old.ours.then_some(old.identity);
                    *self = Self::File { temporary, flags: *flags, linked: *linked, over };
                    return self.settle();
                }
                Became::Open => true,
                Became::Kept | Became::Refused | Became::Lost => false,
            },
            Self::File { temporary, .. } => temporary.outcome().is_none(),
            Self::Other { .. } => false,
        };
        if unfinished {
            return Err(Error::internal("a window ended before its files").into());
        }
        Ok(())
    }
}

/// A further name.
#[derive(Debug)]
pub(super) struct NewLink {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Vec<u8>,
    pub(super) first: Vec<u8>,
}

/// A directory and what happens to it last.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) folder: Arc<Folder>,
    pub(super) last: Last,
}

#[derive(Debug)]
pub(super) enum Last {
    /// It gets the snapshot's metadata.
    Metadata(Metadata),
    /// It keeps its own: what was changed to get in is put back.
    Before(Before),
}

/// Flags that an inode gets when all else is done.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) folder: Arc<Folder>,
    /// Empty: the directory itself.
    pub(super) name: Vec<u8>,
    pub(super) identity: Identity,
    pub(super) flags: IFlags,
}

/// What waits for the end of the window.
#[derive(Debug, Default)]
pub(super) struct Window {
    pending: VecDeque<Pending>,
    links: VecDeque<NewLink>,
    left: VecDeque<Left>,
    bytes: usize,
    /// All of it is on the disk.
    durable: bool,
}

impl Window {
    pub(super) fn add(&mut self, pending: Pending, bytes: usize) {
        self.bytes += bytes;
        self.durable = false;
        self.pending.push_back(pending);
    }

    pub(super) fn link(&mut self, link: NewLink) {
        self.bytes += link.first.len();
        self.links.push_back(link);
    }

    pub(super) fn leave(&mut self, left: Left) {
        if let Last::Metadata(metadata) = &left.last {
            self.bytes += metadata.weight();
        }
        self.left.push_back(left);
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() + self.links.len() + self.left.len() >= NAMES || self.bytes >= BYTES
    }
}

impl Restorer {
    /// Ends a window: makes durable what was written, gives the final names, makes further names, finishes the directories
    /// that were left. Every file that was begun must be finished, or dropped: such a one is removed.
    ///
    /// # Errors
    /// When the system fails, or a file is still being written.
    pub fn finish_window(&mut self) -> Result<()> {
        if !self.window.durable {
            self.sync_window()?;
        }
        while let Some(pending) = self.window.pending.front() {
            let (named, flags) = name_it(&self.shared, pending)?;
            let is_single =
                matches!(pending, Pending::File { linked: false, .. } | Pending::There { linked: false, .. });
            if pending.is_lost() {
                let (folder, _, last) = pending.names();
                let path = folder.path(last);
                self.shared.report.lock().lost.push(|| path.clone());
                if !is_single {
                    self.lost.insert(path);
                }
            } else if !named && !is_single {
                let (folder, _, last) = pending.names();
                self.unnamed.insert(folder.path(last));
            }
            if named && let Pending::File { over: Some(old), linked: true, .. } = pending {
                self.replaced.insert(*old);
            }
            self.window.pending.pop_front();
            if let Some((late, linked)) = flags {
                match linked {
                    true => self.late.push(late),
                    false => set_flags(&self.shared, &late)?,
                }
            }
        }
        while let Some(link) = self.window.links.pop_front() {
            self.link_now(&link)?;
        }
        while let Some(left) = self.window.left.pop_front() {
            match hinders(&self.shared, &left.last) {
                true => self.closing.push(left),
                false => self.close(left)?,
            }
        }
        self.window.bytes = 0;
        Ok(())
    }

    /// Everything that waits for its name reaches the disk, and can be read back from there before [`Self::finish_window`].
    ///
    /// # Errors
    /// When the system fails, or a file is still being written.
    pub fn sync_window(&mut self) -> Result<()> {
        self.window.pending.iter_mut().try_for_each(Pending::settle)?;
        let at = |pending: &Pending| pending.names().0.identity;
        let written: BTreeSet<_> = self.window.pending.iter().map(at).map(|(major, minor, _)| (major, minor)).collect();
        self.sync(|filesystem| written.contains(filesystem))?;
        self.window.durable = true;
        Ok(())
    }

    pub(super) fn sync_all(&self) -> Result<()> {
        self.sync(|_| true)
    }

    fn sync(&self, wanted: impl Fn(&(u32, u32)) -> bool) -> Result<()> {
        let place = Place { folder: &self.target, name: b"" };
        for (_, file) in self.filesystems.iter().filter(|(filesystem, _)| wanted(filesystem)) {
            self.shared.step(Step::Sync, &place)?;
            rustix::fs::syncfs(&**file).map_err(|e| failed(Step::Sync, &place, e.into()))?;
        }
        Ok(())
    }

    fn link_now(&mut self, link: &NewLink) -> Result<()> {
        let place = Place { folder: &link.folder, name: &link.name };
        if self.lost.contains(&link.first) {
            let path = place.path();
            tracing::warn!("not restored: {}: it is {}, which is lost", escaped(&path), escaped(&link.first));
            self.shared.report.lock().lost.push(|| path);
            return Ok(());
        }
        if self.unnamed.contains(&link.first) {
            // What has the first name is not the snapshot's inode.
            self.shared.refuse(Step::Link, None, &place, Errno::NOENT);
            return Ok(());
        }
        let tried = self.try_link(&place, link);
        let tried = match tried {
            Err(e) => match e.downcast::<io::Error>() {
                Ok(e) => Err(e),
                Err(e) => return Err(e),
            },
            Ok(done) => Ok(done),
        };
        if self.shared.settle(Step::Link, &place, tried)? == Some(true) {
            self.shared.report.lock().links += 1;
        }
        Ok(())
    }

    /// True when the name is there. An `io::Error` may be one that the system refuses with.
    fn try_link(&mut self, place: &Place<'_>, link: &NewLink) -> Result<bool> {
        let shared = Arc::clone(&self.shared);
        let here = link.folder.open(&shared)?;
        let (folder, first) = self.reach(&link.first)?;
        let Some(inode) = look(&folder, first)? else { return Err(io::Error::from(Errno::NOENT).into()) };
        let there = look(&here, &link.name)?;
        let over = there.as_ref().is_some_and(|there| self.replaced.contains(&there.identity));
        match (&there, shared.options.overwrite) {
            (Some(there), _) if there.identity == inode.identity => return Ok(true),
            _ if over => {}
            (Some(_), Overwrite::Never) => {
                shared.skip(place, Why::Exists);
                return Ok(false);
            }
            (Some(there), Overwrite::IfNewer) if there.modified >= inode.modified => {
                shared.skip(place, Why::NotOlder);
                return Ok(false);
            }
            _ => {}
        }
        if let Some(why) = there.as_ref().and_then(|there| shared.in_use(there)) {
            shared.skip(place, why);
            return Ok(false);
        }
        shared.step(Step::Link, place)?;
        let link_to = |name: &[u8]| rustix::fs::linkat(&*folder, first, &*here, name, AtFlags::empty());
        let mut loosened = None;
        let mut make = |name: &[u8]| match link_to(name) {
            // A first name that stayed from before may be immutable.
            Err(Errno::PERM) => match loosen(&folder, first) {
                Ok(flags) => {
                    loosened = Some(flags);
                    link_to(name)
                }
                Err(_) => Err(Errno::PERM),
            },
            made => made,
        };
        let linked = if there.is_none() {
            match make(&link.name) {
                Err(Errno::EXIST) => {
                    shared.skip(place, Why::Exists);
                    Ok(false)
                }
                made => made.map(|()| true).map_err(|e| io::Error::from(e).into()),
            }
        } else {
            let temporary = shared.temporary();
            match make(&temporary) {
                Ok(()) => give_name(&shared, &link.folder, (&temporary, &inode), &link.name, over),
                Err(e) => Err(io::Error::from(e).into()),
            }
        };
        if let (Some(flags), Ok(true)) = (loosened, &linked) {
            let (folder, name, identity) = (Arc::clone(&link.folder), link.name.clone(), inode.identity);
            self.late.push(Late { folder, name, identity, flags });
        }
        linked
    }

    /// The directory of a path below the target, and its last part.
    fn reach<'a>(&self, path: &'a [u8]) -> io::Result<(Arc<File>, &'a [u8])> {
        let mut folder = self.target.open(&self.shared)?;
        let mut parts = path.split(|&b| b == b'/');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            let flags = OFlags::DIRECTORY | OFlags::PATH;
            folder = Arc::new(open(&folder, part, flags, Mode::empty(), ResolveFlags::empty())?);
        }
        Ok((folder, last))
    }

    /// The last that happens to a directory, but its flags.
    pub(super) fn close(&mut self, left: Left) -> Result<()> {
        let Left { folder, last } = left;
        let shared = &*self.shared;
        let place = Place { folder: &folder, name: b"" };
        let file = folder.open(shared).map_err(|e| failed(Step::Folder, &place, e))?;
        let flags = match last {
            Last::Metadata(metadata) => {
                let inherited = folder.above().is_some_and(|above| above.inherits);
                let origin = Origin { foreign: inherited || !folder.fresh, flagged: folder.flagged };
                apply(shared, &place, On::Folder(&file), &metadata, origin)?;
                metadata.late_flags()
            }
            Last::Before(before) => {
                if let Some(permissions) = before.permissions {
                    let mode = Mode::from_bits_retain(permissions.into());
                    shared.attempt(Step::Mode, None, &place, || rustix::fs::fchmod(&*file, mode))?;
                }
                before.flags.unwrap_or(IFlags::empty())
            }
        };
        if !flags.is_empty() {
            let identity = folder.identity;
            self.late.push(Late { folder: Arc::clone(&folder), name: Vec::new(), identity, flags });
        }
        folder.close();
        Ok(())
    }

    /// Flags that hinder every change: files first, then directories, deepest first, as they were left.
    pub(super) fn finish_flags(&mut self) -> Result<()> {
        let (folders, files): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.late).into_iter().partition(|l| l.name.is_empty());
        files.iter().chain(&folders).try_for_each(|late| set_flags(&self.shared, late))
    }

    /// Removes what has only its temporary name, as far as it goes.
    pub(super) fn give_up(&mut self) {
        for mut pending in self.window.pending.drain(..) {
            // One that is not settled is not begun, or ends with its temporary name.
            let _ = pending.settle();
            let Some(made) = pending.made() else { continue };
            let (folder, name, _) = pending.names();
            let place = Place { folder, name };
            let remove = |here: Arc<File>| match folder.has_still(&here, name, made)? {
                true => remove(&self.shared, &here, &place, false),
                false => Ok(false),
            };
            // Nothing to tell: the same run removes it when it goes on.
            let _ = folder.open(&self.shared).and_then(remove);
        }
    }
}

/// True for permissions with which this process could not go on in the directory: further names and removals may come.
fn hinders(shared: &Shared, last: &Last) -> bool {
    let permissions = match last {
        Last::Metadata(metadata) => metadata.permissions,
        Last::Before(before) => before.permissions.unwrap_or(0o700),
    };
    !shared.privileged && permissions & 0o700 != 0o700
}

/// Gives an inode its name. Returns whether it has it, the flags that it is still to get, and whether further names come
/// before these.
fn name_it(shared: &Shared, pending: &Pending) -> Result<(bool, Option<(Late, bool)>)> {
    let (folder, temporary, last) = pending.names();
    let whole = match pending {
        Pending::File { temporary, .. } => temporary.outcome() == Some(true),
        Pending::There { old, .. } => {
            let kept = matches!(old.became(), Became::Kept);
            if kept {
                let there = folder.open(shared).and_then(|here| look(&here, last)).ok().flatten();
                if folder.is_taken(there.map_or(old.identity, |there| there.identity)) {
                    shared.skip(&old.place(), Why::Taken);
                    return Ok((false, None));
                }
                // One with several names may rightly be found under another one.
                if old.single {
                    folder.note(old.identity);
                }
            }
            return Ok((kept, late(pending)));
        }
        Pending::Other { .. } => true,
    };
    if !whole {
        discard(shared, folder, temporary)?;
        return Ok((false, None));
    }
    let over = matches!(pending, Pending::File { over: Some(_), .. });
    let Some(made) = pending.made() else { return Ok((false, None)) };
    if !give_name(shared, folder, (temporary, made), last, over)? {
        return Ok((false, None));
    }
    folder.note(made.identity);
    let mut report = shared.report.lock();
    match pending {
        Pending::Other { .. } => report.others += 1,
        Pending::File { .. } | Pending::There { .. } => report.files += 1,
    }
    Ok((true, late(pending)))
}

/// The flags that an inode which has its name is still to get, and whether further names come before these.
fn late(pending: &Pending) -> Option<(Late, bool)> {
    let (identity, flags, linked) = match pending {
        Pending::File { temporary, flags, linked, .. } => (temporary.made.identity, *flags, *linked),
        Pending::There { old, flags, linked } if matches!(old.became(), Became::Kept) => {
            (old.identity, *flags, *linked)
        }
        Pending::There { .. } | Pending::Other { .. } => return None,
    };
    let (folder, _, last) = pending.names();
    (!flags.is_empty()).then(|| (Late { folder: Arc::clone(folder), name: last.to_vec(), identity, flags }, linked))
}

fn discard(shared: &Shared, folder: &Arc<Folder>, temporary: &[u8]) -> Result<()> {
    let place = Place { folder, name: temporary };
    let removed = folder.open(shared).and_then(|here| remove(shared, &here, &place, false));
    shared.settle(Step::Remove, &place, removed).map(drop)
}

/// Renames a temporary name, which led to this inode, to a final one, as the overwrite mode says; `over`: whatever it says.
/// False: it could not be, and the temporary name is gone; the report says why.
fn give_name(
    shared: &Shared,
    folder: &Arc<Folder>,
    (temporary, made): (&[u8], &Look),
    last: &[u8],
    over: bool,
) -> Result<bool> {
    let place = Place { folder, name: last };
    let here = folder.open(shared).map_err(|e| failed(Step::Rename, &place, e))?;
    shared.step(Step::Rename, &place)?;
    if !folder.has_still(&here, temporary, made).map_err(|e| failed(Step::Rename, &place, e))? {
        return Err(intruded(&place));
    }
    let over = over || shared.options.overwrite != Overwrite::Never;
    // If it cannot be looked at, the renaming tells.
    let is_taken = || look(&here, last).ok().flatten().is_some_and(|there| folder.is_taken(there.identity));
    let named = match over {
        true if is_taken() => Err(Errno::EXIST),
        true => replace(shared, folder, &here, temporary, &place)?,
        false => match rustix::fs::renameat_with(&*here, temporary, &*here, last, RenameFlags::NOREPLACE) {
            // Some filesystems cannot; a link is never made over a name either.
            Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::linkat(&*here, temporary, &*here, last, AtFlags::empty())
                .and_then(|()| rustix::fs::unlinkat(&*here, temporary, AtFlags::empty())),
            named => named,
        },
    };
    let why = match named {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) if is_taken() => Why::Taken,
        Err(Errno::EXIST) if !over => Why::Exists,
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => Why::OtherType,
        Err(errno) => {
            discard(shared, folder, temporary)?;
            return Ok(shared.settle::<()>(Step::Rename, &place, Err(errno.into()))?.is_some());
        }
    };
    shared.skip(&place, why);
    discard(shared, folder, temporary)?;
    Ok(false)
}

/// Renames over what is there: at once, but of a directory, which goes first.
fn replace(
    shared: &Shared,
    folder: &Arc<Folder>,
    here: &File,
    temporary: &[u8],
    place: &Place<'_>,
) -> Result<rustix::io::Result<()>> {
    let rename = || rustix::fs::renameat(here, temporary, here, place.name);
    Ok(match rename() {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) if shared.options.overwrite == Overwrite::Always => {
            if shared.options.delete {
                clear_away(shared, folder, place.name)?;
            } else if let Err(e) = remove(shared, here, place, true) {
                return Ok(Err(Errno::from_io_error(&e).unwrap_or(Errno::ISDIR)));
            }
            rename()
        }
        Err(Errno::PERM) if loosen(here, place.name).is_ok() => rename(),
        named => named,
    })
}

fn set_flags(shared: &Shared, late: &Late) -> Result<()> {
    let place = Place { folder: &late.folder, name: &late.name };
    let opened = late.folder.open(shared).and_then(|here| match late.name.is_empty() {
        true => Ok(here),
        false => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            Ok(Arc::new(open(&here, &late.name, flags, Mode::empty(), ResolveFlags::empty())?))
        }
    });
    let Some(file) = shared.settle(Step::Flags, &place, opened)? else { return Ok(()) };
    shared.attempt(Step::Flags, None, &place, || {
        // Somebody else's inode of this name gets no flags.
        if look_at(&file).is_ok_and(|look| look.identity != late.identity) {
            return Err(Errno::STALE);
        }
        let there = rustix::fs::ioctl_getflags(&*file)?;
        rustix::fs::ioctl_setflags(&*file, there | late.flags)
    })?;
    Ok(())
}

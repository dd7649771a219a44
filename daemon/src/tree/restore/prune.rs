//! What the snapshot does not have goes.

use super::folder::{Before, Folder, Identity, Look, look_at, open};
use super::metadata::On;
use super::names;
use super::remove::remove;
use super::report::{Step, Why};
use super::restorer::Restorer;
use super::shared::{Place, Shared, ends, failed};
use crate::own::Used;
use anyhow::Result;
use rustix::fs::{FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use wherry_repo::Error;
use wherry_repo::format::tree::Time;

/// What a snapshot has, for [`Restorer::prune`].
pub trait Known {
    /// A directory of the snapshot.
    type Folder;

    /// The one that was restored to the target.
    fn root(&self) -> Result<Self::Folder>;

    /// What a directory has under a name.
    ///
    /// # Errors
    /// When the snapshot cannot be read; nothing more is removed then.
    fn find(&self, folder: &Self::Folder, name: &[u8]) -> Result<Has<Self::Folder>>;

    /// All names of a directory.
    ///
    /// # Errors
    /// When the snapshot cannot be read, and those of `each`.
    fn names(&self, folder: &Self::Folder, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;

    /// Asked before each name.
    ///
    /// # Errors
    /// When nothing more is to be removed.
    fn check(&self) -> Result<()>;
}

/// What a snapshot has under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Has<F> {
    /// Nothing: the name goes, and all that is in it.
    Nothing,
    /// A directory: names in it that the snapshot does not have go.
    Folder(F),
    /// Anything else, also a directory in which another filesystem was mounted, or an entry that could not be looked at: what
    /// there is in the target stays.
    Other,
}

/// A snapshot that has nothing.
struct Nothing;

impl Known for Nothing {
    type Folder = ();

    fn root(&self) -> Result<()> {
        Ok(())
    }

    fn find(&self, (): &(), _: &[u8]) -> Result<Has<()>> {
        Ok(Has::Nothing)
    }

    fn names(&self, (): &(), _: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// A directory whose names are looked at.
struct Frame<F> {
    folder: Arc<Folder>,
    /// `None`: the snapshot does not have it, and it goes.
    has: Option<F>,
    /// Directories in it that are still to be entered.
    inside: Vec<Vec<u8>>,
    before: Before,
    modified: Time,
}

/// Names of one directory that are removed at once.
const FOREIGN: usize = 1 << 14;
/// Names of the snapshot that are looked for at once in what a directory lists.
const SPELLED: usize = 1 << 16;

/// Names of a directory that the snapshot does not have.
#[derive(Default)]
struct Foreign {
    waiting: Vec<(Vec<u8>, FileType)>,
    /// See [`known_otherwise`], once that was asked.
    otherwise: Option<HashSet<Identity>>,
}

impl Restorer {
    /// Removes from the target what the snapshot does not have. To be called when all else has succeeded, with nothing but the
    /// target entered, before [`Self::finish`]. Links are removed, not followed; what is mounted in the target is not entered
    /// and stays; so does what this run works with, and what the target knows by a name of the snapshot that is spelled
    /// otherwise. What cannot be removed is in the report. Memory: the names of directories in each directory above the one that
    /// is looked at.
    ///
    /// # Errors
    /// When the system fails, the snapshot cannot be read, or [`super::Options::delete`] is not set.
    pub fn prune<K: Known>(&mut self, snapshot: &K) -> Result<()> {
        if !self.shared.options.delete {
            return Err(Error::internal("a restore that was not asked to remove anything").into());
        }
        self.finish_window()?;
        let folder = Arc::clone(&self.target);
        let shared = Arc::clone(&self.shared);
        let frame = begin(&shared, snapshot, folder, Before::default(), Some(snapshot.root()?))?;
        work(&shared, snapshot, frame)
    }
}

/// Removes a directory and all in it. What is mounted in it stays, and so does it then.
pub(super) fn clear_away(shared: &Shared, parent: &Arc<Folder>, name: &[u8]) -> Result<()> {
    match enter(shared, &Nothing, parent, name, None)? {
        Some(frame) => work(shared, &Nothing, frame),
        None => Ok(()),
    }
}

/// Goes through a directory and all below, without recursion: a tree may be deeper than a stack.
fn work<K: Known>(shared: &Shared, snapshot: &K, frame: Frame<K::Folder>) -> Result<()> {
    let mut stack = vec![frame];
    while let Some(frame) = stack.last_mut() {
        snapshot.check()?;
        if let Some(name) = frame.inside.pop() {
            let has = match &frame.has {
                None => Has::Nothing,
                Some(folder) => snapshot.find(folder, &name)?,
            };
            let has = match has {
                Has::Nothing => None,
                Has::Folder(folder) => Some(folder),
                Has::Other => continue,
            };
            let parent = Arc::clone(&frame.folder);
            stack.extend(enter(shared, snapshot, &parent, &name, has)?);
        } else if let Some(frame) = stack.pop() {
            end(shared, frame)?;
        }
    }
    Ok(())
}

/// Enters a directory, if it can be.
fn enter<K: Known>(
    shared: &Shared,
    snapshot: &K,
    parent: &Arc<Folder>,
    name: &[u8],
    has: Option<K::Folder>,
) -> Result<Option<Frame<K::Folder>>> {
    let place = Place { folder: parent, name };
    if let Some(used) = used(shared, parent, name)? {
        // What the snapshot has there was not restored, and that was said.
        if has.is_none() {
            shared.skip(&place, Why::Spared(used));
        }
        return Ok(None);
    }
    match parent.enter(shared, name, ResolveFlags::NO_XDEV) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::XDEV) => {
            shared.skip(&place, Why::Mounted);
            Ok(None)
        }
        entered => match shared.settle(Step::Remove, &place, entered)? {
            None => Ok(None),
            Some((folder, before)) => begin(shared, snapshot, folder, before, has).map(Some),
        },
    }
}

/// Removes what can go at once.
fn begin<K: Known>(
    shared: &Shared,
    snapshot: &K,
    folder: Arc<Folder>,
    before: Before,
    has: Option<K::Folder>,
) -> Result<Frame<K::Folder>> {
    let here = folder.open(shared)?;
    let modified = look_at(&here)?.modified;
    let (mut inside, mut foreign) = (Vec::new(), Foreign::default());
    names::list(&here, |name, mut kind| {
        snapshot.check()?;
        if kind == FileType::Unknown {
            kind = match look_here(&here, name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                // Who enters it hears why, and tells.
                Err(_) => FileType::Directory,
                Ok(there) => there.kind,
            };
        }
        let gone = match &has {
            None => true,
            Some(folder) => matches!(snapshot.find(folder, name)?, Has::Nothing),
        };
        match gone {
            true => foreign.waiting.push((name.to_vec(), kind)),
            false if kind == FileType::Directory => inside.push(name.to_vec()),
            false => {}
        }
        if foreign.waiting.len() >= FOREIGN {
            remove_all(shared, snapshot, &folder, has.as_ref(), &mut foreign, &mut inside)?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    remove_all(shared, snapshot, &folder, has.as_ref(), &mut foreign, &mut inside)?;
    Ok(Frame { folder, has, inside, before, modified })
}

/// Removes the names that wait; directories are still to be entered.
fn remove_all<K: Known>(
    shared: &Shared,
    snapshot: &K,
    folder: &Arc<Folder>,
    has: Option<&K::Folder>,
    foreign: &mut Foreign,
    inside: &mut Vec<Vec<u8>>,
) -> Result<()> {
    let here = folder.open(shared)?;
    let otherwise = match (foreign.otherwise.take(), has) {
        (Some(known), _) => known,
        (None, Some(has)) if !foreign.waiting.is_empty() => known_otherwise(shared, snapshot, folder, has)?,
        (None, _) => HashSet::new(),
    };
    for (name, kind) in foreign.waiting.drain(..) {
        snapshot.check()?;
        let place = Place { folder, name: &name };
        // Where numbers tell nothing any of them may be what was restored just now.
        let taken = !otherwise.is_empty()
            && (!folder.on.keeps_numbers() || inode(&here, &place)?.is_some_and(|inode| otherwise.contains(&inode)));
        if taken {
            shared.skip(&place, Why::Taken);
        } else if kind == FileType::Directory {
            inside.push(name);
        } else if let Some(used) = used(shared, folder, &name)? {
            shared.skip(&place, Why::Spared(used));
        } else {
            note(shared, &place, remove(shared, &here, &place, false))?;
        }
    }
    foreign.otherwise = Some(otherwise);
    Ok(())
}

/// What names of the snapshot lead to that the directory does not list: the target does not tell cases, or forms of a letter,
/// apart, so that it lists what was restored just now as it spells it.
fn known_otherwise<K: Known>(
    shared: &Shared,
    snapshot: &K,
    folder: &Arc<Folder>,
    has: &K::Folder,
) -> Result<HashSet<Identity>> {
    let (mut inodes, mut names) = (HashSet::new(), HashSet::new());
    let here = folder.open(shared)?;
    let mut sift = |names: &mut HashSet<Vec<u8>>| {
        if names.is_empty() {
            return Ok(());
        }
        // By a descriptor of its own: whoever needs this is in the midst of listing by the other one.
        let again = open(&here, b".", OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())?;
        names::list(&again, |name, _| {
            snapshot.check()?;
            names.remove(name);
            Ok::<_, anyhow::Error>(())
        })?;
        for name in names.drain() {
            inodes.extend(inode(&here, &Place { folder, name: &name })?);
        }
        Ok::<_, anyhow::Error>(())
    };
    snapshot.names(has, &mut |name| {
        snapshot.check()?;
        names.insert(name.to_vec());
        if names.len() < SPELLED { Ok(()) } else { sift(&mut names) }
    })?;
    sift(&mut names)?;
    Ok(inodes)
}

/// What a name leads to. `None`: to nothing, to what is mounted there, or it cannot be looked at, which who removes it hears.
fn inode(here: &File, place: &Place<'_>) -> Result<Option<Identity>> {
    match look_here(here, place.name) {
        Ok(there) => Ok(Some(there.identity)),
        Err(e) if Errno::from_io_error(&e).is_some_and(|errno| !ends(Step::Remove, errno)) => Ok(None),
        Err(e) => Err(failed(Step::Remove, place, e)),
    }
}

/// What this run works with under a name, if it does.
fn used(shared: &Shared, folder: &Arc<Folder>, name: &[u8]) -> Result<Option<Used>> {
    let own = &shared.options.own;
    if own.is_empty() {
        return Ok(None);
    }
    let place = Place { folder, name };
    let here = folder.open(shared).map_err(|e| failed(Step::Remove, &place, e))?;
    Ok(inode(&here, &place)?.and_then(|inode| own.is(inode)))
}

/// Looks at a name, but not at what is mounted there: a server that is away would be waited for.
fn look_here(here: &File, name: &[u8]) -> io::Result<Look> {
    look_at(&open(here, name, OFlags::PATH, Mode::empty(), ResolveFlags::NO_XDEV)?)
}

/// A directory is done: it goes, or gets back what was changed.
fn end<F>(shared: &Shared, frame: Frame<F>) -> Result<()> {
    let Frame { folder, has, before, modified, .. } = frame;
    if let (None, Some(parent)) = (&has, folder.above()) {
        folder.close();
        let here = parent.open(shared)?;
        let place = Place { folder: parent, name: folder.name() };
        return match remove(shared, &here, &place, true) {
            // What could not be removed in it is in the report.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOTEMPTY | Errno::EXIST)) => Ok(()),
            removed => note(shared, &place, removed),
        };
    }
    let file = folder.open(shared)?;
    let place = Place { folder: &folder, name: b"" };
    // Its time was right before names in it went.
    if look_at(&file)?.modified != modified {
        shared.attempt(Step::Times, None, &place, || On::Folder(&file).set_modified(modified))?;
    }
    if let Some(permissions) = before.permissions {
        let mode = Mode::from_bits_retain(permissions.into());
        shared.attempt(Step::Mode, None, &place, || rustix::fs::fchmod(&*file, mode))?;
    }
    if let Some(flags) = before.flags {
        shared.attempt(Step::Flags, None, &place, || {
            let there: IFlags = rustix::fs::ioctl_getflags(&*file)?;
            rustix::fs::ioctl_setflags(&*file, there | flags)
        })?;
    }
    folder.close();
    Ok(())
}

fn note(shared: &Shared, place: &Place<'_>, removed: io::Result<bool>) -> Result<()> {
    match removed {
        // Something is mounted on it.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => shared.skip(place, Why::Mounted),
        removed => {
            let gone = shared.settle(Step::Remove, place, removed)? == Some(true);
            shared.report.lock().removed += u64::from(gone);
        }
    }
    Ok(())
}

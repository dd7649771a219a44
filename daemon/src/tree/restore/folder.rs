//! Directories of the target, held by what they are and not by a path.

use super::descriptors::Slot;
use super::metadata::{ACL_DEFAULT, by_descriptor};
use super::shared::Shared;
use crate::tree::filesystem::Filesystem;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, OFlags, ResolveFlags, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use wherry_repo::format::tree::Time;

/// Tells an inode from all others of this system.
pub(super) type Identity = (u32, u32, u64);

/// What a name or a descriptor leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) kind: FileType,
    pub(super) permissions: u16,
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) identity: Identity,
    pub(super) modified: Time,
    pub(super) size: u64,
    /// Names it has.
    pub(super) links: u32,
    pub(super) device: (u32, u32),
    /// When it was made, where the filesystem knows: the number of one that is gone is given to another one.
    born: Option<Time>,
}

impl Look {
    /// Whether this is the inode that was seen before.
    fn is_still(&self, before: &Self, on: Filesystem) -> bool {
        // A server may say when one time and not the other, or another time later.
        let born = self.born.zip(before.born).filter(|_| on.is_local()).is_none_or(|(now, before)| now == before);
        born && self.identity == before.identity
    }
}

/// Looks at an open inode.
pub(super) fn look_at(file: &File) -> io::Result<Look> {
    statx(file, b"", AtFlags::EMPTY_PATH)
}

/// Looks at a name without following it; `None` if there is none.
pub(super) fn look(folder: &File, name: &[u8]) -> io::Result<Option<Look>> {
    match statx(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        there => there.map(Some),
    }
}

fn statx(folder: &File, name: &[u8], flags: AtFlags) -> io::Result<Look> {
    let s =
        rustix::fs::statx(folder, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let time = |t: &StatxTimestamp| Time { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    Ok(Look {
        kind: FileType::from_raw_mode(s.stx_mode.into()),
        permissions: s.stx_mode & 0o7777,
        owner: s.stx_uid,
        group: s.stx_gid,
        identity: (s.stx_dev_major, s.stx_dev_minor, s.stx_ino),
        modified: time(&s.stx_mtime),
        size: s.stx_size,
        links: s.stx_nlink,
        device: (s.stx_rdev_major, s.stx_rdev_minor),
        born: (s.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(&s.stx_btime)),
    })
}

/// Opens a single name in a directory, never through a link and never out of it.
pub(super) fn open(folder: &File, name: &[u8], flags: OFlags, mode: Mode, more: ResolveFlags) -> io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | more;
    // O_PATH takes no other flags along; a link itself can only be opened with it and O_NOFOLLOW, where NO_SYMLINKS allows it.
    let opened = rustix::fs::openat2(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode, resolve)?;
    Ok(File::from(opened))
}

/// How directories are opened.
const FOLDER: OFlags = OFlags::DIRECTORY;

/// A directory below the target, or the target.
#[derive(Debug)]
pub(super) struct Folder {
    above: Option<Arc<Folder>>,
    name: Vec<u8>,
    pub(super) identity: Identity,
    /// What it is on.
    pub(super) on: Filesystem,
    /// This restore made it.
    pub(super) fresh: bool,
    /// It has a default ACL, which what is made in it gets.
    pub(super) inherits: bool,
    /// It has the flag for no dump, which what is made in it gets.
    pub(super) flagged: bool,
    slot: Arc<Slot>,
    /// Inodes that have their names in it as the snapshot says, if it was there before.
    named: Mutex<HashSet<Identity>>,
}

/// How many inodes a directory that was there notes, for [`Folder::is_taken`]; about 10 MB.
const NAMED: usize = 1 << 18;

/// What a directory had before it was made accessible.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    pub(super) permissions: Option<u16>,
    pub(super) flags: Option<IFlags>,
    /// It is not to be dumped; that was not changed.
    pub(super) no_dump: bool,
}

impl Folder {
    /// The target. Its descriptor stays open.
    pub(super) fn target(shared: &Shared, file: File, fresh: bool) -> io::Result<(Arc<Self>, Before)> {
        let before = make_accessible(shared, &file)?;
        let (inherits, flagged) = (has_default_acl(&file), before.no_dump);
        let identity = look_at(&file)?.identity;
        let on = Filesystem::of(file.as_fd())?;
        let slot = Slot::held(file);
        Ok((
            Arc::new(Self {
                above: None,
                name: Vec::new(),
                identity,
                on,
                fresh,
                inherits,
                flagged,
                slot,
                named: Mutex::default(),
            }),
            before,
        ))
    }

    /// A directory in this one that was there before, made accessible.
    pub(super) fn enter(
        self: &Arc<Self>,
        shared: &Shared,
        name: &[u8],
        more: ResolveFlags,
    ) -> io::Result<(Arc<Self>, Before)> {
        let here = self.open(shared)?;
        let mut opened = None;
        let file = match open(&here, name, FOLDER, Mode::empty(), more) {
            // Our own directory may forbid us to read it.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let named = open(&here, name, FOLDER | OFlags::PATH, Mode::empty(), more)?;
                let there = look_at(&named)?;
                let mode = Mode::from_bits_retain(u32::from(there.permissions | 0o700));
                rustix::fs::chmodat(CWD, by_descriptor(&named), mode, AtFlags::empty())?;
                opened = Some(there.permissions);
                open(&here, name, FOLDER, Mode::empty(), more)?
            }
            file => file?,
        };
        let mut before = make_accessible(shared, &file)?;
        before.permissions = opened.or(before.permissions);
        let inherits = has_default_acl(&file);
        let folder = self.below(shared, name, file, |folder| {
            (folder.fresh, folder.inherits, folder.flagged) = (false, inherits, before.no_dump);
        })?;
        Ok((folder, before))
    }

    /// A directory in this one that was just made. `no_dump`: it is to have that flag, which has to be there before anything is
    /// made in it: links and devices can get it in no other way.
    pub(super) fn made(self: &Arc<Self>, shared: &Shared, name: &[u8], no_dump: bool) -> io::Result<Arc<Self>> {
        let file = open(&*self.open(shared)?, name, FOLDER, Mode::empty(), ResolveFlags::empty())?;
        if self.inherits {
            // What is made in it must not get what it got itself.
            rustix::fs::fremovexattr(&file, ACL_DEFAULT).or_else(|e| match e {
                Errno::NODATA | Errno::OPNOTSUPP => Ok(()),
                e => Err(e),
            })?;
        }
        let flags = rustix::fs::ioctl_getflags(&file);
        // A filesystem without flags refuses it when the directory's metadata is set, which is then in the report.
        let set = no_dump && flags.is_ok_and(|flags| rustix::fs::ioctl_setflags(&file, flags | IFlags::NODUMP).is_ok());
        self.below(shared, name, file, |folder| folder.flagged |= set)
    }

    fn below(
        self: &Arc<Self>,
        shared: &Shared,
        name: &[u8],
        file: File,
        change: impl FnOnce(&mut Self),
    ) -> io::Result<Arc<Self>> {
        let identity @ (major, minor, _) = look_at(&file)?.identity;
        // Another one is mounted there, or it is a volume of its own.
        let is_other = (major, minor) != (self.identity.0, self.identity.1);
        let mut folder = Self {
            above: Some(Arc::clone(self)),
            name: name.to_vec(),
            identity,
            on: if is_other { Filesystem::of(file.as_fd())? } else { self.on },
            fresh: true,
            inherits: false,
            flagged: self.flagged,
            slot: Arc::default(),
            named: Mutex::default(),
        };
        change(&mut folder);
        let folder = Arc::new(folder);
        shared.folders.put(&folder.slot, file);
        Ok(folder)
    }

    /// Its descriptor. Where it was closed it is opened again, from the nearest directory above that is open, and must be the
    /// same directory.
    pub(super) fn open(self: &Arc<Self>, shared: &Shared) -> io::Result<Arc<File>> {
        let mut closed = Vec::new();
        let mut at = self;
        let mut file = loop {
            match (at.slot.now(), &at.above) {
                (Some(file), _) => break file,
                (None, Some(above)) => {
                    closed.push(at);
                    at = above;
                }
                (None, None) => return Err(io::Error::other("the target was closed")),
            }
        };
        for folder in closed.into_iter().rev() {
            let opened = open(&file, &folder.name, FOLDER, Mode::empty(), ResolveFlags::empty())?;
            if look_at(&opened)?.identity != folder.identity {
                return Err(io::Error::other("another directory has taken its place"));
            }
            file = shared.folders.put(&folder.slot, opened);
        }
        Ok(file)
    }

    /// Notes that a name of the snapshot in it leads to this inode.
    pub(super) fn note(&self, identity: Identity) {
        let mut named = self.named.lock();
        if !self.fresh && named.len() < NAMED {
            named.insert(identity);
        }
    }

    /// True if what is found under a name in it came there under another name of the snapshot: a filesystem that does not
    /// tell cases apart has one for both. In a directory that this restore made that is all there is.
    pub(super) fn is_taken(&self, identity: Identity) -> bool {
        self.fresh || self.named.lock().contains(&identity)
    }

    /// Whether a name in it, by its descriptor, still leads to what this restore has made there.
    pub(super) fn has_still(&self, here: &File, name: &[u8], made: &Look) -> io::Result<bool> {
        let there = look(here, name)?;
        Ok(there.is_some_and(|there| there.is_still(made, self.on) || !self.on.keeps_numbers()))
    }

    /// Closes its descriptor: nothing more is going to be done in it.
    pub(super) fn close(&self) {
        if self.above.is_some() {
            self.slot.close();
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn above(&self) -> Option<&Arc<Self>> {
        self.above.as_ref()
    }

    /// The path of a name in it, below the target; of itself, for an empty name.
    pub(super) fn path(&self, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        let mut at = Some(self);
        while let Some(folder) = at {
            parts.push(&folder.name);
            at = folder.above.as_deref();
        }
        parts.retain(|part| !part.is_empty());
        parts.reverse();
        parts.join(&b'/')
    }
}

fn has_default_acl(folder: &File) -> bool {
    // Its length does not matter, nor that it does not fit.
    !matches!(
        rustix::fs::fgetxattr(folder, ACL_DEFAULT, &mut [0_u8; 1][..]),
        Err(Errno::NODATA | Errno::OPNOTSUPP) | Ok(0)
    )
}

/// Lets this process make and remove names in a directory, as far as it may, and says what was changed for it.
fn make_accessible(shared: &Shared, folder: &File) -> io::Result<Before> {
    let mut before = Before::default();
    if let Ok(flags) = rustix::fs::ioctl_getflags(folder) {
        before.no_dump = flags.contains(IFlags::NODUMP);
        let hindering = IFlags::IMMUTABLE | IFlags::APPEND;
        if flags.intersects(hindering) && rustix::fs::ioctl_setflags(folder, flags.difference(hindering)).is_ok() {
            before.flags = Some(flags.intersection(hindering));
        }
    }
    let permissions = look_at(folder)?.permissions;
    if !shared.privileged && permissions & 0o700 != 0o700 {
        // Somebody else's directory stays as it is; what cannot be made in it is refused name by name.
        if rustix::fs::fchmod(folder, Mode::from_bits_retain(u32::from(permissions | 0o700))).is_ok() {
            before.permissions = Some(permissions);
        }
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where servers say when it was made they may say otherwise later.
    #[test]
    fn the_number_of_one_that_is_gone_is_another_file_on_local_filesystems() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = File::open(scratch.path()).unwrap();
        let (local, other) = (Filesystem::of(folder.as_fd()).unwrap(), Filesystem::default());
        assert!(local.is_local(), "the test wants scratch files on a local filesystem");
        let born = |seconds| Some(Time { seconds, nanoseconds: 0 });
        let look = |born| Look { born, ..look_at(&folder).unwrap() };
        for (now, is_same) in [(born(1), true), (born(2), false), (None, true)] {
            assert_eq!(look(now).is_still(&look(born(1)), local), is_same, "{now:?}");
            assert!(look(now).is_still(&look(born(1)), other), "{now:?}");
        }
        let identity = (0, 0, 0);
        assert!(!Look { identity, ..look(None) }.is_still(&look(None), other));
    }
}

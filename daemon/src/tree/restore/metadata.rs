//! What an inode gets besides its data, and in which order. Why: in [`super`].

use super::folder::{Look, look_at, open};
use super::owners::Owners;
use super::remove::loosen;
use super::shared::{Place, Shared};
use super::{Item, Step};
use crate::tree::inode::InodeKind;
use anyhow::Result;
use rustix::fs::{AtFlags, CWD, Gid, IFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// The access ACL of any inode but a link.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// What is made in a directory gets this as its ACL.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// What a program may do beyond its user.
const CAPABILITY: &[u8] = b"security.capability";
/// Bits that let a program run as its owner or group.
const SET_ID: u16 = 0o6000;
const SET_GROUP: u16 = 0o2000;

/// An error of the system, as text tells it.
pub(super) fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

/// What an inode is to get, its owner found.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) permissions: u16,
    /// An error: by its name it cannot be told.
    pub(super) owner: Result<u32, Errno>,
    pub(super) group: Result<u32, Errno>,
    pub(super) flags: InodeFlags,
    pub(super) extended: Set,
    pub(super) modified: Time,
}

impl Metadata {
    pub(super) fn new(item: &Item<'_>, owners: &Owners) -> Self {
        let inode = item.inode;
        Self {
            permissions: inode.permissions & 0o7777,
            owner: owners.user(item.owner, inode.owner),
            group: owners.group(item.group, inode.group),
            flags: inode.flags,
            extended: inode.extended.clone(),
            modified: inode.modified,
        }
    }

    /// Bytes that it keeps in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        let set = &self.extended.0;
        size_of::<Self>() + set.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>()
    }

    /// The flags that come last, for the kernel.
    pub(super) fn late_flags(&self) -> IFlags {
        let mut flags = IFlags::empty();
        flags.set(IFlags::IMMUTABLE, self.flags.0 & InodeFlags::IMMUTABLE != 0);
        flags.set(IFlags::APPEND, self.flags.0 & InodeFlags::APPEND != 0);
        flags
    }

    /// The permissions as they are right without the access ACL: with it those of the group are its mask, and where it is
    /// refused they would be the group's.
    fn bare_permissions(&self) -> u16 {
        let acl = self.extended.0.iter().find(|(name, _)| name == ACL_ACCESS);
        let group = acl.map(|(_, acl)| group_of(acl).unwrap_or(0) << 3);
        group.map_or(self.permissions, |group| self.permissions & !0o070 | group)
    }

    fn no_dump(&self) -> bool {
        self.flags.0 & InodeFlags::NO_DUMP != 0
    }
}

/// An inode that is held by a descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) enum On<'a> {
    /// A regular file.
    File(&'a File),
    /// A directory.
    Folder(&'a File),
    /// A link, by a descriptor that only names it.
    Link(&'a File),
    /// A fifo, socket or device, likewise.
    Other(&'a File),
}

impl On<'_> {
    fn file(&self) -> &File {
        match self {
            Self::File(file) | Self::Folder(file) | Self::Link(file) | Self::Other(file) => file,
        }
    }

    /// A path that names the inode itself, a link too: what `/proc` leads to is not followed further.
    fn path(&self) -> String {
        by_descriptor(self.file())
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::File(_) | Self::Folder(_))
    }

    fn own(&self, owner: Option<u32>, group: Option<u32>) -> rustix::io::Result<()> {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        rustix::fs::chownat(self.file(), "", owner, group, AtFlags::EMPTY_PATH)
    }

    fn set_attribute(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self.is_open() {
            true => rustix::fs::fsetxattr(self.file(), name, value, XattrFlags::empty()),
            false => rustix::fs::setxattr(self.path(), name, value, XattrFlags::empty()),
        }
    }

    fn remove_attribute(&self, name: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::removexattr(self.path(), name)
    }

    fn attributes(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        // The longest list that Linux gives.
        let mut list = vec![0; 64 << 10];
        let used = rustix::fs::listxattr(self.path(), &mut list[..])?;
        let names = list[..used].split(|&b| b == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn set_mode(&self, mode: u16) -> rustix::io::Result<()> {
        let mode = Mode::from_bits_retain(mode.into());
        match self.is_open() {
            true => rustix::fs::fchmod(self.file(), mode),
            false => rustix::fs::chmodat(CWD, self.path(), mode, AtFlags::empty()),
        }
    }

    pub(super) fn set_modified(&self, modified: Time) -> rustix::io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
            last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() },
        };
        match self.is_open() {
            true => rustix::fs::futimens(self.file(), &times),
            false => rustix::fs::utimensat(CWD, self.path(), &times, AtFlags::empty()),
        }
    }
}

/// What an access ACL in the kernel's form lets the group of an inode do; `None` if it cannot be read.
pub(crate) fn group_of(acl: &[u8]) -> Option<u16> {
    const GROUP: u16 = 4;
    const MASK: u16 = 0x10;
    let entries = acl.strip_prefix(&2_u32.to_le_bytes())?;
    let of = |wanted: u16| {
        let entry = entries.chunks_exact(8).find(|entry| entry[..2] == wanted.to_le_bytes());
        entry.map(|entry| u16::from_le_bytes([entry[2], entry[3]]) & 7)
    };
    Some(of(GROUP)? & of(MASK).unwrap_or(7))
}

/// A path that names what the descriptor holds.
pub(super) fn by_descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// What else is known of the inode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// It may have attributes that it must not have: it was there before, or its directory gave it an ACL.
    pub(super) foreign: bool,
    /// It may have flags that it must not have.
    pub(super) flagged: bool,
}

/// Steps 2 to 6 of [`super`]. What is refused is in the report.
///
/// # Errors
/// When the filesystem is broken, full or read-only.
pub(super) fn apply(shared: &Shared, place: &Place<'_>, on: On<'_>, metadata: &Metadata, origin: Origin) -> Result<()> {
    let (owner, group) = own(shared, place, on, metadata)?;
    if origin.foreign {
        remove_foreign(shared, place, on, metadata)?;
    }
    let attributes = |wanted: fn(&[u8]) -> bool| {
        metadata.extended.0.iter().filter(move |(name, _)| wanted(name)).map(|(name, value)| (&name[..], &value[..]))
    };
    let acl: fn(&[u8]) -> bool = |name| matches!(name, ACL_ACCESS | ACL_DEFAULT);
    let early = attributes(|name| !matches!(name, ACL_ACCESS | ACL_DEFAULT | CAPABILITY));
    // Capabilities of a file that got another owner than it had would be given to whoever restores.
    let capability = attributes(|name| name == CAPABILITY);
    for (name, value) in early.chain(capability) {
        shared.attempt(Step::Attribute, Some(name), place, || on.set_attribute(name, value))?;
    }
    if !matches!(on, On::Link(_)) {
        let mode = metadata.bare_permissions() & !denied_bits(on, owner, group);
        shared.attempt(Step::Mode, None, place, || on.set_mode(mode))?;
    }
    for (name, value) in attributes(acl) {
        shared.attempt(Step::Acl, Some(name), place, || on.set_attribute(name, value))?;
    }
    if metadata.no_dump() || origin.flagged {
        shared.attempt(Step::NoDump, None, place, || set_no_dump(on, metadata.no_dump()))?;
    }
    shared.attempt(Step::Times, None, place, || on.set_modified(metadata.modified))?;
    Ok(())
}

/// Sets owner and group, and says which of them it could. Who may not give files away may often choose the group.
fn own(shared: &Shared, place: &Place<'_>, on: On<'_>, metadata: &Metadata) -> Result<(bool, bool)> {
    let (owner, group) = (metadata.owner.ok(), metadata.group.ok());
    if let Some(errno) = metadata.owner.err().or(metadata.group.err()) {
        shared.step(Step::Owner, place)?;
        shared.refuse(Step::Owner, None, place, errno);
        // What is known of the two it may get all the same.
        let group = group.is_some() && on.own(None, group).is_ok();
        let owner = owner.is_some() && on.own(owner, None).is_ok();
        return Ok((owner && group, group));
    }
    let mut grouped = false;
    let owned = shared.attempt(Step::Owner, None, place, || {
        on.own(owner, group).inspect_err(|_| {
            grouped = on.own(None, group).is_ok();
        })
    })?;
    Ok((owned, owned || grouped))
}

/// What an earlier run made whole and could not give to its owner: that was refused, or the owner could not be asked for. It is
/// tried once more.
///
/// # Errors
/// As of [`apply`].
pub(super) fn own_again(shared: &Shared, place: &Place<'_>, here: &File, there: &Look, item: &Item<'_>) -> Result<()> {
    let mut metadata = Metadata::new(item, &shared.owners);
    let is_link = matches!(item.inode.kind, InodeKind::Link(_));
    if (metadata.owner, metadata.group) == (Ok(there.owner), Ok(there.group))
        && (is_link || metadata.permissions == there.permissions)
    {
        return Ok(());
    }
    let is_file = item.inode.kind == InodeKind::File;
    let flags = if is_file { OFlags::RDONLY | OFlags::NONBLOCK } else { OFlags::PATH };
    let opened = open(here, place.name, flags, Mode::empty(), ResolveFlags::NO_XDEV);
    let opened = opened.and_then(|file| match look_at(&file)?.identity == there.identity {
        false if place.folder.on.keeps_numbers() => Err(Errno::STALE.into()),
        _ => Ok(file),
    });
    let Some(file) = shared.settle(Step::Owner, place, opened)? else { return Ok(()) };
    let on = match is_file {
        true => On::File(&file),
        false if is_link => On::Link(&file),
        false => On::Other(&file),
    };
    if is_file {
        // They hinder this, and come last again.
        let _ = loosen(here, place.name);
    } else {
        // Those that it has came with its directory.
        metadata.flags = InodeFlags::default();
    }
    // Unless all of it comes to the right owner nothing more may hang on it than does.
    if let (true, true) = own(shared, place, on, &metadata)? {
        apply(shared, place, on, &metadata, Origin::default())?;
    }
    Ok(())
}

/// True for the permissions of a file that an earlier run gave these: without set-id bits, if its owner was refused.
pub(crate) fn were_given(wanted: u16, there: u16) -> bool {
    there == wanted & 0o7777 || there == wanted & 0o7777 & !SET_ID
}

/// A set-id bit would let others act as whoever restores, not as the owner that could not be set. On a directory the bit of
/// the group says who owns what is made in it.
fn denied_bits(on: On<'_>, owner: bool, group: bool) -> u16 {
    match on {
        On::Folder(_) if group => 0,
        On::Folder(_) => SET_GROUP,
        _ if owner => 0,
        _ => SET_ID,
    }
}

/// Attributes that the system keeps for itself: labels, and what vouches for a file.
fn is_systems(name: &[u8]) -> bool {
    [&b"security.selinux"[..], b"security.SMACK64", b"security.apparmor", b"security.ima", b"security.evm"]
        .iter()
        .any(|system| name.starts_with(system))
}

/// Removes attributes that the snapshot does not have, but those that are the system's own.
fn remove_foreign(shared: &Shared, place: &Place<'_>, on: On<'_>, metadata: &Metadata) -> Result<()> {
    let Ok(there) = on.attributes() else { return Ok(()) };
    let ours = |name: &[u8]| {
        name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || matches!(name, ACL_ACCESS | ACL_DEFAULT)
            || (name.starts_with(b"security.") && !is_systems(name))
    };
    let wanted = |name: &[u8]| metadata.extended.0.binary_search_by(|(n, _)| n[..].cmp(name)).is_ok();
    for name in there.iter().filter(|name| ours(name) && !wanted(name)) {
        shared.attempt(Step::Attribute, Some(name), place, || match on.remove_attribute(name) {
            Err(Errno::NODATA) => Ok(()),
            done => done,
        })?;
    }
    Ok(())
}

fn set_no_dump(on: On<'_>, wanted: bool) -> rustix::io::Result<()> {
    if !on.is_open() {
        // Nothing opens these to set flags; they have those of their directory.
        return if wanted { Err(Errno::OPNOTSUPP) } else { Ok(()) };
    }
    let there = match rustix::fs::ioctl_getflags(on.file()) {
        // A filesystem without flags has none to take away.
        Err(_) if !wanted => return Ok(()),
        there => there?,
    };
    let mut flags = there;
    flags.set(IFlags::NODUMP, wanted);
    if flags == there { Ok(()) } else { rustix::fs::ioctl_setflags(on.file(), flags) }
}

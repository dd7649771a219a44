//! Single names go.

use super::Step;
use super::folder::{look, open};
use super::shared::{Place, Shared};
use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Removes a name, never what a link leads to; a directory must be empty. True if it was there.
pub(super) fn remove(shared: &Shared, here: &File, place: &Place<'_>, folder: bool) -> io::Result<bool> {
    shared.step(Step::Remove, place)?;
    let flags = if folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let unlink = || rustix::fs::unlinkat(here, place.name, flags);
    match unlink() {
        Err(Errno::PERM) if loosen(here, place.name).is_ok() => unlink(),
        done => done,
    }
    .map(|()| true)
    .or_else(|e| if e == Errno::NOENT { Ok(false) } else { Err(e.into()) })
}

/// Takes immutable and append only from what a name leads to, and says which of them it had: an error if none.
pub(super) fn loosen(here: &File, name: &[u8]) -> io::Result<IFlags> {
    let hindering = IFlags::IMMUTABLE | IFlags::APPEND;
    // Others have no such flags, and to open a device may do something.
    let kind = look(here, name)?.map(|look| look.kind);
    if !matches!(kind, Some(FileType::RegularFile | FileType::Directory)) {
        return Err(Errno::PERM.into());
    }
    let file = open(here, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty(), ResolveFlags::NO_XDEV)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    if !flags.intersects(hindering) {
        return Err(Errno::PERM.into());
    }
    rustix::fs::ioctl_setflags(&file, flags.difference(hindering))?;
    Ok(flags.intersection(hindering))
}

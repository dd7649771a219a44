//! What the walking thread and the writing ones share.

use super::descriptors::Descriptors;
use super::folder::{Folder, Look};
use super::metadata::io_error;
use super::owners::Owners;
use super::report::{Refused, Report, Step, Why};
use super::{Options, names};
use crate::tree::path::escaped;
use anyhow::Result;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::Resource;
use rustix::thread::CapabilitySet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_repo::{Error, ErrorKind};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    /// Of directories.
    pub(super) folders: Descriptors,
    /// Of files that are being written.
    pub(super) files: Descriptors,
    pub(super) owners: Owners,
    pub(super) report: Mutex<Report>,
    /// Permissions do not bind this process.
    pub(super) privileged: bool,
    next: AtomicU64,
}

/// A name in a directory; an empty one is the directory itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) folder: &'a Folder,
    pub(super) name: &'a [u8],
}

impl Place<'_> {
    pub(super) fn path(&self) -> Vec<u8> {
        self.folder.path(self.name)
    }
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1024);
        let asked = match options.descriptors {
            0 => usize::try_from(limit).unwrap_or(usize::MAX) / 2,
            asked => asked,
        };
        let each = (asked / 2).clamp(4, 512);
        let privileged = match rustix::thread::capabilities(None) {
            Ok(sets) => sets.effective.contains(CapabilitySet::DAC_OVERRIDE),
            Err(_) => rustix::process::geteuid().is_root(),
        };
        Self {
            folders: Descriptors::new(each),
            files: Descriptors::new(each),
            owners: Owners::new(options.numeric_ids),
            report: Mutex::default(),
            privileged,
            // Where another restore of the same snapshot is in the target all the same, its names are others.
            next: AtomicU64::new(u64::from(RandomState::new().hash_one(0) as u32) << 32),
            options,
        }
    }

    /// The next temporary name of this run.
    pub(super) fn temporary(&self) -> Vec<u8> {
        names::temporary(self.options.run, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells who watches what is going to be done.
    pub(super) fn step(&self, step: Step, place: &Place<'_>) -> io::Result<()> {
        match &self.options.steps {
            None => Ok(()),
            Some(steps) => steps(step, &place.path()),
        }
    }

    /// Does a step. False: the system refused it, which the report says.
    ///
    /// # Errors
    /// When it failed for a reason that makes going on pointless.
    pub(super) fn attempt(
        &self,
        step: Step,
        attribute: Option<&[u8]>,
        place: &Place<'_>,
        act: impl FnOnce() -> rustix::io::Result<()>,
    ) -> Result<bool> {
        self.step(step, place)?;
        match act() {
            Ok(()) => Ok(true),
            Err(errno) if ends(step, errno) => Err(failed(step, place, io_error(errno))),
            Err(errno) => {
                self.refuse(step, attribute, place, errno);
                Ok(false)
            }
        }
    }

    /// What became of a step that was tried: true if it was done, false if it was refused, which the report then says.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    pub(super) fn settle<T>(&self, step: Step, place: &Place<'_>, tried: io::Result<T>) -> Result<Option<T>> {
        match tried {
            Ok(done) => Ok(Some(done)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(errno) if !ends(step, errno) => {
                    self.refuse(step, None, place, errno);
                    Ok(None)
                }
                _ => Err(failed(step, place, error)),
            },
        }
    }

    pub(super) fn refuse(&self, step: Step, attribute: Option<&[u8]>, place: &Place<'_>, errno: Errno) {
        let refused = &mut self.report.lock().refused;
        *refused.kinds.entry(step).or_default() += 1;
        refused.list.push(|| Refused {
            path: place.path(),
            step,
            attribute: attribute.map(<[u8]>::to_vec),
            errno: errno.raw_os_error(),
        });
    }

    pub(super) fn skip(&self, place: &Place<'_>, why: Why) {
        self.report.lock().skip(why, || place.path());
    }

    /// Why what is there stays, if this run works with it.
    pub(super) fn in_use(&self, there: &Look) -> Option<Why> {
        self.options.own.is(there.identity).map(Why::InUse)
    }
}

/// True if no other step will do better.
pub(super) fn ends(step: Step, errno: Errno) -> bool {
    match errno {
        Errno::IO | Errno::ROFS | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::BADF | Errno::STALE => true,
        // Attributes have a space of their own, small on some filesystems; a quota of another owner is not ours.
        Errno::NOSPC | Errno::DQUOT => !matches!(step, Step::Attribute | Step::Acl | Step::Owner),
        Errno::FBIG => true,
        _ => matches!(step, Step::Write | Step::Truncate | Step::Sync),
    }
}

/// That it was the target that refused, and not the storage: an agent does not wait until that passes.
#[derive(Debug)]
pub(crate) struct OfTarget(pub(crate) io::Error);

impl std::fmt::Display for OfTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for OfTarget {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The error that ends a restore when what has a temporary name of it is not what it has made.
pub(super) fn intruded(place: &Place<'_>) -> anyhow::Error {
    let text = format!(
        "{}: what was written for it is gone, or something else has its temporary name: another restore or program is in the \
         target; once that has ended, give the same command again",
        escaped(&place.path())
    );
    Error::new(ErrorKind::Busy, text).into()
}

/// The error that ends a restore.
pub(super) fn failed(step: Step, place: &Place<'_>, error: io::Error) -> anyhow::Error {
    let path = place.path();
    let path = if path.is_empty() { "the target".into() } else { escaped(&path) };
    let (kind, next) = match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT) => (ErrorKind::Full, "make room and give the same command again"),
        Some(Errno::MFILE | Errno::NFILE) => (ErrorKind::Unavailable, "raise the limit of open files (ulimit -n)"),
        Some(Errno::FBIG) => {
            (ErrorKind::Invalid, "the filesystem of the target holds no file of this size: take another")
        }
        Some(Errno::ROFS) => (ErrorKind::Invalid, "mount the target writable"),
        _ => (ErrorKind::Unavailable, "give the same command again to go on"),
    };
    Error::new(kind, format!("{path}: {step}: {error}")).with_source(OfTarget(error)).advise(next).into()
}

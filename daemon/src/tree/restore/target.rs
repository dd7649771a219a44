//! The directory that a tree is restored into.

use super::folder::look_at;
use super::names;
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wherry_repo::{Error, ErrorKind, Result};

/// A directory, open. Links in its own path are followed: whoever runs the restore typed them.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    pub(super) folder: File,
    pub(super) made: bool,
}

impl Target {
    /// Opens the directory; makes it (0700) if there is nothing of this name. It is this restore's alone until all that was
    /// opened by it is closed, also by the end of the process: two would take each other's temporary files for their own.
    ///
    /// # Errors
    /// `Invalid`, when it is no directory, cannot be made or opened, or the kernel lacks openat2 (before 5.6); `Busy`, when it
    /// is another one's.
    pub fn open(path: &Path) -> Result<Self> {
        let made = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => {
                let text = format!("{} cannot be made: {e}; check the path", path.display());
                return Err(Error::invalid(text).with_source(e));
            }
        };
        let this = Self::opened(path, made)?;
        match rustix::fs::flock(&this.folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                let text = format!(
                    "{} is in use: another restore writes to it, or another program has locked it; once that has ended, give \
                     the same command again",
                    path.display()
                );
                Err(Error::new(ErrorKind::Busy, text))
            }
            // What keeps no locks of directories, as NFS, has the names of temporary files alone to tell restores apart.
            Err(e) => {
                tracing::debug!("{} cannot be locked: {e}", path.display());
                Ok(this)
            }
            Ok(()) => Ok(this),
        }
    }

    /// Keeps other restores out for as long as this lives, also when all else of the target is closed.
    ///
    /// # Errors
    /// When the system fails.
    pub fn hold(&self) -> Result<File> {
        let held = self.folder.try_clone();
        held.map_err(|e| Error::invalid(format!("{} cannot be held open: {e}", self.path.display())))
    }

    /// Opens the directory if there is something of this name, and makes nothing.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn there(path: &Path) -> Result<Option<Self>> {
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Self::opened(path, false).map(Some),
        }
    }

    fn opened(path: &Path, made: bool) -> Result<Self> {
        let shown = path.display();
        let wrong =
            |what: &str, e: io::Error| Error::invalid(format!("{shown} {what}: {e}; check the path")).with_source(e);
        let flags = i32::try_from(OFlags::DIRECTORY.bits()).unwrap_or_default();
        let folder = File::options().read(true).custom_flags(flags).open(path);
        let folder = folder.map_err(|e| wrong("cannot be opened as a directory", e))?;
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(&folder, ".", flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(_) => Ok(Self { path: path.to_owned(), folder, made }),
            Err(Errno::NOSYS) => Err(Error::invalid(
                "this kernel has no openat2, without which a restore could be led out of its target; use Linux 5.6 or newer",
            )),
            Err(e) => Err(wrong("cannot be looked at", e.into())),
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if [`Self::open`] made it.
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// True if there is no name in it, but temporary ones of this run.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_empty(&self, run: u64) -> Result<bool> {
        let mut empty = true;
        let listed = names::list(&self.folder, |name, _| {
            empty &= names::is_temporary(run, name);
            Ok::<_, io::Error>(())
        });
        match listed {
            Ok(()) => Ok(empty),
            Err(e) => Err(Error::invalid(format!("{} cannot be read: {e}; check the path", self.path.display()))),
        }
    }

    /// Device and inode number: tells it from another directory of this name, for the marker.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn identity(&self) -> Result<(u32, u32, u64)> {
        look_at(&self.folder)
            .map(|look| look.identity)
            .map_err(|e| Error::invalid(format!("{} cannot be looked at: {e}; check the path", self.path.display())))
    }
}

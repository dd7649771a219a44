//! What a run works with on this machine: the folder of its repository, the file of its key or password, its cache. A restore
//! writes into none of it and removes none of it: what it reads from would be gone, and every other snapshot with it.

use crate::config::Settings;
use crate::credential::CredentialSource;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::fmt;
use std::path::{Path, PathBuf};
use wherry_repo::storage::folder_of;
use wherry_repo::{Error, Result};

/// Tells an inode from all others of this system: major and minor number of its device, its own number.
pub type Identity = (u32, u32, u64);

/// What a thing is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Used {
    /// The folder of the repository, or one in it.
    Repository,
    /// The file with the key.
    KeyFile,
    /// The file with the password.
    PasswordFile,
    /// The folder of the cache.
    Cache,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repository => "the repository in use",
            Self::KeyFile => "the key file in use",
            Self::PasswordFile => "the password file in use",
            Self::Cache => "the cache directory in use",
        })
    }
}

/// All that a run works with. It is known by what it is and not by a path, so neither a link nor a mount gets around it.
#[derive(Debug, Default)]
pub struct Own(Vec<Thing>);

#[derive(Debug)]
struct Thing {
    used: Used,
    path: PathBuf,
    identity: Identity,
    /// Open, so that its number stays its own: some filesystems number anew what nobody holds.
    _held: OwnedFd,
}

impl Own {
    /// Of these settings. What is not there, or is no folder or file of this machine, is left out.
    pub fn of(settings: &Settings) -> Self {
        let mut own = Self::default();
        if let Some(folder) = settings.repo.as_deref().and_then(folder_of) {
            own.add(Used::Repository, Path::new(folder));
            // They may be links, or bound elsewhere.
            for inside in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if inside.path().is_dir() {
                    own.add(Used::Repository, &inside.path());
                }
            }
        }
        match &settings.credential {
            CredentialSource::KeyFile(path) => own.add(Used::KeyFile, path),
            CredentialSource::PasswordFile(path) => own.add(Used::PasswordFile, path),
            _ => {}
        }
        if let Some(folder) = settings.cache_dir.as_deref().filter(|_| settings.use_cache) {
            own.add(Used::Cache, folder);
        }
        own
    }

    fn add(&mut self, used: Used, path: &Path) {
        let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        // Whoever needs it hears why it cannot be had.
        if let Ok(held) = opened
            && let Ok(identity) = identity(held.as_fd(), Path::new(""), AtFlags::EMPTY_PATH)
        {
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            self.0.push(Thing { used, path, identity, _held: held });
        }
    }

    /// True where nothing of it can be met: whoever looks for it need not.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What this inode is used as, if it is.
    pub fn is(&self, identity: Identity) -> Option<Used> {
        self.0.iter().find(|thing| thing.identity == identity).map(|thing| thing.used)
    }

    /// The folder of the repository, if it is on this machine.
    pub fn repository(&self) -> Option<Identity> {
        self.0.iter().find(|thing| thing.used == Used::Repository).map(|thing| thing.identity)
    }

    /// Refuses a target that is any of it, or that lies within the repository.
    ///
    /// # Errors
    /// `Invalid`, when it does; it names both.
    pub fn refuse(&self, target: &Path) -> Result<()> {
        let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
        // Of one that is going to be made there are the folders above it.
        let found = absolute.ancestors().find_map(|at| Some((at == absolute, std::fs::canonicalize(at).ok()?)));
        let Some((is_there, found)) = found else { return Ok(()) };
        for at in found.ancestors() {
            let Ok(identity) = identity(CWD, at, AtFlags::empty()) else { continue };
            let is_target = is_there && at == found;
            let used = |thing: &&Thing| thing.identity == identity && (is_target || thing.used == Used::Repository);
            if let Some(thing) = self.0.iter().find(used) {
                let (name, path, is) =
                    (target.display(), thing.path.display(), if is_target { "is" } else { "lies in" });
                return Err(Error::invalid(format!(
                    "{name} {is} {} ({path}), which a restore must not write to: name a target outside of it",
                    thing.used
                )));
            }
        }
        Ok(())
    }
}

fn identity(folder: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Result<Identity, Errno> {
    let s = rustix::fs::statx(folder, path, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::TYPE | StatxFlags::INO)?;
    Ok((s.stx_dev_major, s.stx_dev_minor, s.stx_ino))
}

//! What a backup of a tree did.

use crate::own::Identity;
use crate::tree::path::escaped;
use crate::tree::walk::Folder;
use wherry_repo::{MissingPath, ShortId, TreeInfo};

/// So many of what is missing are named, in the record and in the result.
const NAMED: usize = 1000;

/// Something that could not be looked at or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its path from the root.
    pub path: Vec<u8>,
    /// Why: an error number.
    pub errno: u32,
}

/// What was found, and what became of it.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Names of regular files.
    pub files: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Other names.
    pub others: u64,
    /// Bytes of holes in the files that were read.
    pub hole: u64,
    /// Files that were taken over unread.
    pub kept: u64,
    /// Files that changed each time they were read, or were shorter than they are said to be.
    pub unsettled: u64,
    /// Directories and files over which another filesystem is mounted, which was left out.
    pub boundaries: u64,
    /// All that is missing.
    pub missing: u64,
    /// The first of them, in the order of the walk.
    pub named: Vec<Missing>,
    /// Shared chunks of which little is used.
    pub(super) thin: Vec<ShortId>,
}

/// In a record so many bytes of paths are named at most, and so many paths.
const IN_RECORD: usize = 100;

impl Counts {
    /// Fills in what was counted.
    pub(super) fn fill(&self, info: TreeInfo) -> TreeInfo {
        let mut room = TreeInfo::MOST_BYTES;
        let first_missing = self.named.iter().take(IN_RECORD).map_while(|missing| {
            room = room.checked_sub(missing.path.len())?;
            Some(MissingPath { path: missing.path.clone(), errno: missing.errno })
        });
        TreeInfo {
            files: self.files,
            folders: self.directories,
            others: self.others,
            missing: self.missing,
            first_missing: first_missing.collect(),
            unsettled: self.unsettled,
            thin: self.thin.clone(),
            ..info
        }
    }

    /// Notes that a file changed each time it was read, or was shorter than it is said to be.
    pub(super) fn unsettle(&mut self, path: &[u8]) {
        self.unsettled += 1;
        if self.unsettled <= NAMED as u64 {
            tracing::warn!(
                "{}: changed each time it was read, or ended before its end; what was read last is kept",
                escaped(path)
            );
        }
    }

    /// Notes that something is missing, and says so.
    pub(super) fn miss(&mut self, path: Vec<u8>, errno: u32) {
        self.missing += 1;
        if self.named.len() < NAMED {
            let why = std::io::Error::from_raw_os_error(errno.cast_signed());
            tracing::warn!("{}: cannot be read and is missing in the snapshot: {why}", escaped(&path));
            self.named.push(Missing { path, errno });
        }
    }
}

/// Says that a directory is the repository that is written to, if it is and what is in it is saved.
pub(super) fn warn_of_own(folder: &Folder, own: Option<Identity>) {
    let (major, minor) = folder.look.device;
    if own != Some((major, minor, folder.look.inode.number)) || folder.left_out().is_some() {
        return;
    }
    match escaped(&folder.dir.path()) {
        path if path.is_empty() => {
            tracing::warn!("the source is the repository that is written to: each backup stores what was stored again");
        }
        path => tracing::warn!(
            "{path}: this is the repository that is written to, and each backup stores what was stored again: leave it out \
             with --exclude /{path}"
        ),
    }
}

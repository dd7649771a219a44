//! The half of a tree's restore that changes the target. It knows no repository: who has the snapshot walks it and tells
//! here, directory by directory, what there is.
//!
//! Everything below the target is reached by descriptors and single names, and no link is followed, so nothing outside can
//! be changed, whatever was planted in the target. An inode gets, in this order:
//!
//! 1. A temporary name in its directory, made exclusively; data, holes left out; its size. Writing clears set-id bits and
//!    capabilities, so it comes first.
//! 2. Owner: clears them too.
//! 3. Extended attributes but ACLs, capabilities last.
//! 4. Permissions with set-id and sticky: only now nobody else's file can get a set-id bit. Of an inode with an ACL those of its
//!    group, and not the mask that stands in their place: the next step may be refused.
//! 5. ACLs: a change of the permissions behind them would change their mask.
//! 6. No dump, then times, behind all that might set them.
//! 7. For a window of many: `syncfs`, and then the final names. So no name shows what is not on the disk. Where `syncfs` may
//!    keep an error to itself, each file is written out, and closed, behind 6.
//! 8. Further names of linked inodes: their first name is there now.
//! 9. Directories that nothing comes to any more, deepest first, 2 to 6. Their default ACL only now, else what is made in
//!    them would inherit it; their times only now, as every name made in them sets these.
//! 10. What the snapshot does not have goes, when it is asked for.
//! 11. Immutable and append only, files first: nothing above could be done to such an inode, or in such a directory.

mod descriptors;
mod file;
mod folder;
mod metadata;
mod names;
mod owners;
mod prune;
mod readback;
mod remove;
mod report;
mod restorer;
mod shared;
mod target;
mod there;
mod window;

#[cfg(test)]
mod tests;

pub use file::FileHandle;
pub(crate) use metadata::{group_of, were_given};
pub(crate) use names::{is_temporary, list as list_names};
pub(crate) use owners::Owners;
pub use prune::{Has, Known};
pub use readback::{Medium, ReadBack};
pub use report::{Listed, NAMED, Refusals, Refused, Report, Skipped, Step, Why, shown_path};
pub use restorer::Restorer;
pub(crate) use shared::OfTarget;
pub use target::Target;
pub use there::There;
pub(crate) use there::is_zero;

use super::inode::Inode;
use crate::own::Own;
use std::fmt;
use std::io;
use std::sync::Arc;

/// An inode to be made and the name it gets.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Name in its directory: 1 to 255 bytes without `/` and zero, not `.` or `..`. Checked.
    pub name: &'a [u8],
    /// Its metadata; of a regular file `size` is the length it gets.
    pub inode: &'a Inode,
    /// Name of the owner, or empty.
    pub owner: &'a [u8],
    /// Name of the group, or empty.
    pub group: &'a [u8],
}

/// What happens to names that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// They stay; so does the metadata of directories.
    Never,
    /// What was last changed before the snapshot's is replaced.
    IfNewer,
    /// They are replaced. A directory that has names is not replaced by a file unless [`Options::delete`] is set.
    Always,
}

/// How to restore.
#[derive(Clone)]
pub struct Options {
    /// What happens to names that are there already.
    pub overwrite: Overwrite,
    /// What the snapshot does not have is going to be removed, by [`Restorer::prune`].
    pub delete: bool,
    /// Owners by number, also where the system knows their names.
    pub numeric_ids: bool,
    /// Names the temporary files of this run. The same for a run that goes on: the temporary files with this number that are
    /// found are removed if `resume` is set.
    pub run: u64,
    /// An earlier run with this number was interrupted.
    pub resume: bool,
    /// The target was empty when that run began: a regular file that has its final name with equal size, mtime and mode was
    /// made by it, whole, and is left as it is.
    pub trust_names: bool,
    /// A regular file that is there and would be replaced is compared with the snapshot's first: see [`Begun::There`].
    pub compare: bool,
    /// Nor is what an earlier run made trusted unread: it is compared too.
    pub distrust: bool,
    /// What is left as it is wherever it is met.
    pub own: Arc<Own>,
    /// Descriptors to keep open at most; 0: as many as the limit of the process suggests.
    pub descriptors: usize,
    /// Called before each step that changes something, for tests: with its path below the target. An error ends the restore
    /// there, as if the process had been killed.
    pub steps: Option<Steps>,
}

/// Sees each step before it is done. See [`Options::steps`].
pub type Steps = Arc<dyn Fn(Step, &[u8]) -> io::Result<()> + Send + Sync>;

impl Options {
    /// As `restore` does it without options, for a run of this number.
    pub fn new(run: u64) -> Self {
        Self {
            overwrite: Overwrite::Never,
            delete: false,
            numeric_ids: false,
            run,
            resume: false,
            trust_names: false,
            compare: false,
            distrust: false,
            own: Arc::default(),
            descriptors: 0,
            steps: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("overwrite", &self.overwrite)
            .field("delete", &self.delete)
            .field("numeric_ids", &self.numeric_ids)
            .field("run", &format_args!("{:016x}", self.run))
            .field("resume", &self.resume)
            .field("trust_names", &self.trust_names)
            .field("compare", &self.compare)
            .field("distrust", &self.distrust)
            .field("own", &self.own)
            .field("descriptors", &self.descriptors)
            .finish_non_exhaustive()
    }
}

/// What became of a regular file that was begun.
#[derive(Debug)]
pub enum Begun {
    /// To be written: its data, then [`FileHandle::finish`].
    Write(FileHandle),
    /// There is a regular file of this name that would be replaced: to be compared, then kept or replaced.
    There(There),
    /// What is there stays, or it could not be made: in the report. It is not the snapshot's inode, so its further names must
    /// not be linked to it: the next one is restored as the first. Not so with [`Why::Done`].
    Left(Option<Why>),
}

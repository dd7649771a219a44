//! What a restore did, and what it could not or would not do.

use super::metadata::io_error;
use crate::own::Used;
use crate::tree::path::escaped;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;

/// Paths that a report names; what is beyond is counted.
pub const NAMED: usize = 1000;

/// What a restore did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Regular files written, each inode once.
    pub files: u64,
    /// Regular files that held what the snapshot says already, and got its metadata.
    pub kept: u64,
    /// Directories made or entered.
    pub directories: u64,
    /// Symbolic links, fifos, sockets and devices.
    pub others: u64,
    /// Further names of inodes.
    pub links: u64,
    /// Bytes of data written; holes are none.
    pub bytes: u64,
    /// Names removed because the snapshot does not have them, each inside a removed directory counted.
    pub removed: u64,
    /// What the system refused.
    pub refused: Refusals,
    /// How many names were left for each reason.
    pub reasons: BTreeMap<Why, u64>,
    /// Paths of what the repository has lost, in whole or in part: a file did not get its name, and what the target had there
    /// is as it was. One that ends in `/` is a directory, of which names or attributes are lost.
    pub lost: Listed<Vec<u8>>,
    /// Names in the target that were left as they were, because of the overwrite mode or as they are done already.
    pub skipped: Listed<Skipped>,
}

impl Report {
    /// Notes a name that is left as it is. What the run itself works with comes first: of that there is little, and it is said
    /// however much else was left.
    pub(crate) fn skip(&mut self, why: Why, path: impl FnOnce() -> Vec<u8>) {
        *self.reasons.entry(why).or_default() += 1;
        match why {
            Why::InUse(_) | Why::Spared(_) => {
                self.skipped.count += 1;
                self.skipped.first.insert(0, Skipped { path: path(), why });
            }
            _ => self.skipped.push(|| Skipped { path: path(), why }),
        }
    }
}

/// A list of at most [`NAMED`] and the count of all.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The first ones.
    pub first: Vec<T>,
    /// How many there are in all.
    pub count: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { first: Vec::new(), count: 0 }
    }
}

impl<T> Listed<T> {
    pub(crate) fn push(&mut self, item: impl FnOnce() -> T) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(item());
        }
    }
}

/// All that was refused.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// One for each path and step.
    pub list: Listed<Refused>,
    /// How many of each kind.
    pub kinds: BTreeMap<Step, u64>,
}

/// A step that the system refused; what else belongs to the path was done as far as it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Below the target, parts joined by `/`; empty for the target itself.
    pub path: Vec<u8>,
    /// Which step.
    pub step: Step,
    /// The name of the extended attribute, for a step that has one.
    pub attribute: Option<Vec<u8>>,
    /// The error number of the system.
    pub errno: i32,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown_path(&self.path), self.step)?;
        if let Some(name) = &self.attribute {
            write!(f, " {}", escaped(name))?;
        }
        write!(f, ": {}", io_error(Errno::from_raw_os_error(self.errno)))
    }
}

/// A path below the target, as text; that of the target itself, which is empty, in words.
pub fn shown_path(path: &[u8]) -> String {
    if path.is_empty() { "the directory itself".to_owned() } else { escaped(path) }
}

/// A name that was left as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Below the target, parts joined by `/`.
    pub path: Vec<u8>,
    /// Why.
    pub why: Why,
}

/// Why a name was left as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is something of this name (`never`).
    Exists,
    /// What is there is as new, or newer (`if-newer`).
    NotOlder,
    /// An earlier run of this restore made it, whole.
    Done,
    /// A directory should be there and something else is, or the other way round.
    OtherType,
    /// It came there under another name of the snapshot: the target does not tell the two apart.
    Taken,
    /// Another filesystem is mounted there: nothing in it is removed.
    Mounted,
    /// This run works with it: nothing is restored over it or into it.
    InUse(Used),
    /// Likewise; the snapshot does not have it, and it is not removed.
    Spared(Used),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::InUse(used) | Self::Spared(used) => return write!(f, "it is {used}"),
            Self::Exists => "something of this name is there",
            Self::NotOlder => "what is there is as new, or newer",
            Self::Done => "an earlier run of this restore made it",
            Self::OtherType => {
                "a directory is in the place of something else, or something else in that of a directory"
            }
            Self::Taken => "another name of the snapshot is the same in the target, which does not tell them apart",
            Self::Mounted => "another filesystem is mounted there",
        };
        f.write_str(text)
    }
}

/// A kind of change that a restore makes, in the order in which an inode sees them. The order is in [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A directory is made, or made accessible.
    Folder,
    /// An inode of another kind is made, under its temporary name.
    Create,
    /// Data.
    Write,
    /// The size.
    Truncate,
    /// Owner and group.
    Owner,
    /// Extended attributes but ACLs.
    Attribute,
    /// Permissions.
    Mode,
    /// POSIX ACLs.
    Acl,
    /// No dump: the flag that hinders nothing.
    NoDump,
    /// Time of the last change.
    Times,
    /// All that was written to a filesystem reaches its disk.
    Sync,
    /// The temporary name gives way to the final one.
    Rename,
    /// A further name of an inode.
    Link,
    /// What is on the medium is compared with what should be there.
    ReadBack,
    /// A name is removed.
    Remove,
    /// Immutable, append only.
    Flags,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "making the directory",
            Self::Create => "making it",
            Self::Write => "its data",
            Self::Truncate => "its size",
            Self::Owner => "its owner",
            Self::Attribute => "extended attribute",
            Self::Mode => "its permissions",
            Self::Acl => "its ACL",
            Self::NoDump | Self::Flags => "its inode flags",
            Self::Times => "its times",
            Self::Sync => "making it durable",
            Self::Rename => "giving it its name",
            Self::Link => "a further name of a file",
            Self::ReadBack => "reading it back",
            Self::Remove => "removing it",
        })
    }
}

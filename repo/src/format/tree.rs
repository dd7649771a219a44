//! Tree nodes: directories, lists of pieces, and what an entry says. Section *Trees* of `docs/format.md`.

mod attributes;
mod entry;
mod list;
mod node;
mod refs;

pub use entry::is_name;

use super::Fields;
use crate::Result;
use crate::crypto::{MAX_CLASS, MAX_LEVELS, MIN_CLASS};
use crate::id::{Location, ShortId};
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Class of a piece of one file, cut by content.
pub const PIECE: u8 = 1;
/// Class of a chunk of whole small files.
pub const SHARED: u8 = 2;
/// Class of a long set of extended attributes.
pub const ATTRIBUTES: u8 = 3;
/// Class of a directory's leaf; a node of height h has this and h.
pub const FOLDER: u8 = 160;
/// Class of a leaf of a list of pieces; a node of height h has this and h.
pub const LIST: u8 = 176;
/// Highest height of a node.
pub const MAX_HEIGHT: u8 = 15;

/// No piece is longer than this (bytes).
pub const MAX_PIECE: u32 = 2 << 20;
/// No chunk of small files is longer than this (bytes).
pub const MAX_SHARED_CHUNK: u32 = 256 << 10;
/// No file in such a chunk is longer than this (bytes).
pub const MAX_SHARED: u64 = 64 << 10;
/// No set of extended attributes is longer than this (bytes).
pub const MAX_SET: u32 = 1 << 20;
/// No set of extended attributes that stands in a node is longer than this (bytes).
pub const MAX_HERE: usize = 1024;
/// No value of an extended attribute is longer than this (bytes).
pub const MAX_VALUE: usize = 64 << 10;
/// No encoded tree node is longer than this (bytes).
pub const MAX_NODE: u32 = 2 << 20;
/// No body of a tree node is longer than this (bytes). 256 entries never need more, whatever they say, so that nobody who
/// builds a node has to count its bytes.
pub const MAX_BODY: usize = 3 << 19;
/// Most entries, children or pieces of a node.
pub const MAX_FANOUT: usize = 256;
/// Most pieces that stand in an entry.
pub const MAX_ENTRY_PIECES: usize = 32;
/// Most refs of a node: the pieces and the extended attributes of 256 entries.
pub const MAX_REFS: usize = MAX_FANOUT * (MAX_ENTRY_PIECES + 1);

/// Longest plaintext of a chunk or node of a class (bytes); `None`: there is no such class.
pub const fn max_plain(class: u8) -> Option<u32> {
    const LAST_FOLDER: u8 = FOLDER + MAX_HEIGHT;
    const LAST_LIST: u8 = LIST + MAX_HEIGHT;
    const LAST_LEVEL: u8 = 127 + MAX_LEVELS as u8;
    match class {
        PIECE => Some(MAX_PIECE),
        SHARED => Some(MAX_SHARED_CHUNK),
        ATTRIBUTES => Some(MAX_SET),
        MIN_CLASS..=MAX_CLASS => Some(1 << class),
        128..=LAST_LEVEL => Some(super::node::MAX_NODE as u32),
        FOLDER..=LAST_FOLDER | LIST..=LAST_LIST => Some(MAX_NODE),
        _ => None,
    }
}

/// The classes of nodes of each height, from that of a leaf.
const fn heights(leaf: u8) -> RangeInclusive<u8> {
    leaf..=leaf + MAX_HEIGHT
}

/// Class and body of an encoded tree node: what its id is taken over. Says nothing about what the body holds.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt): its head or its length makes no sense.
pub fn body(bytes: &[u8]) -> Result<(u8, &[u8])> {
    split("a tree node", bytes).map(|(class, body, _)| (class, body.rest))
}

/// Class, body and hints.
fn split<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u8, Fields<'a>, Fields<'a>)> {
    let mut f = Fields::new(what, bytes);
    let (version, class) = (f.u8()?, f.u8()?);
    f.zeros(2)?;
    let len = f.u32()? as usize;
    let known = heights(FOLDER).contains(&class) || heights(LIST).contains(&class);
    if version != 1 || !known || len > MAX_BODY || bytes.len() > MAX_NODE as usize {
        return Err(f.bad("its head or its length makes no sense"));
    }
    let body = Fields::new(what, f.take(len)?);
    Ok((class, body, f))
}

/// What opens a chunk or node, but its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    /// Its identity within its class.
    pub id: ShortId,
    /// How its bytes are to be read.
    pub class: u8,
    /// Length in bytes of its plaintext, at least 1.
    pub plain: u32,
}

/// A ref and its hint: where it was when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What.
    pub to: Ref,
    /// Where.
    pub at: Location,
}

/// A moment as filesystems have it: seconds since 1970, before it too, and nanoseconds (below 10^9) after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Below 10^9.
    pub nanoseconds: u32,
}

/// Inode flags that are kept: 1 immutable, 2 append only, 4 no dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InodeFlags(pub u8);

impl InodeFlags {
    /// Cannot be changed.
    pub const IMMUTABLE: u8 = 1;
    /// Can only be appended to.
    pub const APPEND: u8 = 2;
    /// Left out by dump(8).
    pub const NO_DUMP: u8 = 4;
}

/// Extended attributes: names (1 to 255 bytes) ascending, values of at most 64 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Set(pub Vec<(Vec<u8>, Vec<u8>)>);

/// Extended attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extended {
    /// There are none.
    None,
    /// At most 1024 bytes of them.
    Here(Set),
    /// More: a chunk of class [`ATTRIBUTES`] whose plaintext is the set.
    Chunk(Placed),
}

/// What many inodes have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The 12 bits of the mode below the type.
    pub permissions: u16,
    /// User id.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// Name of the owner; empty when the system knew none. At most 255 bytes.
    pub owner_name: Vec<u8>,
    /// Name of the group, likewise.
    pub group_name: Vec<u8>,
    /// Inode flags.
    pub flags: InodeFlags,
    /// Extended attributes, POSIX ACLs among them.
    pub extended: Extended,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It could not be looked at.
    Unknown {
        /// 1 to 255 bytes.
        name: Vec<u8>,
        /// Why: an error number of Linux.
        errno: NonZeroU32,
    },
    /// It could.
    Known(Box<Known>),
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Unknown { name, .. } => name,
            Self::Known(known) => &known.name,
        }
    }
}

/// A name that could be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// 1 to 255 bytes without `/` and zero, not `.` or `..`; empty for the root.
    pub name: Vec<u8>,
    /// Attributes; shared by entries of one node that have the same.
    pub attributes: Arc<Attributes>,
    /// mtime.
    pub modified: Time,
    /// ctime of the source, for the next run.
    pub changed: Time,
    /// Inode number of the source.
    pub inode: u64,
    /// Names of the inode, when it has at least two (flag 1).
    pub links: Option<NonZeroU64>,
    /// The content, or a part of the list, could not be read for this error number (flag 2).
    pub missing: Option<NonZeroU32>,
    /// It changed each time it was read (flag 8).
    pub unsettled: bool,
    /// What it is.
    pub what: What,
}

/// The types of inodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Where they are.
        content: Content,
    },
    /// A directory.
    Folder {
        /// Another filesystem is mounted in it (flag 4): not entered.
        boundary: bool,
        /// What is in it; `None`: nothing.
        below: Option<Below>,
    },
    /// A symbolic link and its target of 1 to 4095 bytes.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

/// The data of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Size 0, or all a hole, or unreadable.
    Nothing,
    /// A part of a chunk of class [`SHARED`], as long as the file.
    Shared {
        /// The chunk.
        chunk: Placed,
        /// First byte in it.
        offset: u32,
    },
    /// Up to 32 pieces.
    Pieces(Vec<Piece>),
    /// More: a node of class [`LIST`] and up.
    List(Placed),
    /// A disk image: a map as of a block volume.
    Map {
        /// Size class of its chunks.
        class: u8,
        /// Levels of the map.
        levels: u8,
        /// The top node, class 127 + levels.
        top: Placed,
    },
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes (at least 1) that the source did not have allocated.
    Hole(u64),
    /// A chunk of class [`PIECE`].
    Chunk(Placed),
}

/// What is in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// Its top node.
    pub node: Placed,
    /// Names directly in it, at least 1.
    pub entries: u64,
    /// All that is below.
    pub totals: Totals,
}

/// What is below a directory or a node of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries, at any depth.
    pub below: u64,
    /// Directories directly in it.
    pub folders: u64,
    /// Sizes of all regular files (bytes), each name counted, at most `u64::MAX`.
    pub bytes: u64,
    /// Entries that could not be looked at or read.
    pub missing: u64,
}

/// A node of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeNode {
    /// Entries, 1 to 256, ascending by name.
    Leaf(Vec<Entry>),
    /// Nodes below.
    Inner {
        /// 1 to [`MAX_HEIGHT`].
        height: u8,
        /// 1 to 256, ascending.
        children: Vec<Child>,
    },
}

/// A node below an inner node of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Name of its first entry.
    pub first: Vec<u8>,
    /// The node.
    pub node: Placed,
    /// Names directly in the directory, below this node.
    pub entries: u64,
    /// All below.
    pub totals: Totals,
}

/// A node of a list of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListNode {
    /// Pieces, 1 to 256.
    Leaf(Vec<Piece>),
    /// Nodes below and the bytes of the file in each.
    Inner {
        /// 1 to [`MAX_HEIGHT`].
        height: u8,
        /// 1 to 256.
        children: Vec<(Placed, u64)>,
    },
}

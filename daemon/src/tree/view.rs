//! A tree of names, as `ls`, `find`, `cat` and `dump` see it, whatever it comes from: the inside of a disk, or a tree of
//! directories.

use super::inode::{Inode, InodeKind};
use super::path::{TreePath, escaped};
use crate::exit;
use anyhow::Result;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use wherry_repo::format::tree::Set;
use wherry_repo::{Error, ErrorKind};

/// An entry of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; empty for the top.
    pub name: Vec<u8>,
    /// Metadata. What the source does not tell is 0, 1 name, no attribute.
    pub inode: Inode,
    /// Name of the owner; empty where none is known.
    pub owner_name: Vec<u8>,
    /// Name of the group, likewise.
    pub group_name: Vec<u8>,
    /// Whether mode, owner and group are what the source has: FAT, for one, has none.
    pub owned: bool,
    /// Why metadata or data of it cannot be read: an error number of Linux.
    pub missing: Option<NonZeroU32>,
    /// With `missing`: what there is of it is right all the same, and more than a name.
    pub partly: bool,
    /// A directory in which the source has another filesystem: inode numbers in it are of that one.
    pub boundary: bool,
    /// What a part of a disk is.
    pub part: Option<Part>,
}

/// What a part of a disk is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the partition table calls it.
    pub kind: String,
    /// What is in it: `ext4`, `LVM physical volume`; `unknown`.
    pub content: String,
}

impl Node {
    /// A directory.
    pub fn is_folder(&self) -> bool {
        self.inode.kind == InodeKind::Folder
    }

    /// A regular file.
    pub fn is_file(&self) -> bool {
        self.inode.kind == InodeKind::File
    }
}

/// Takes the entries of a directory one by one; an error ends the listing.
pub type Each<'a> = &'a mut dyn FnMut(Node) -> Result<()>;

/// Takes the bytes of a file, in order; an error ends the reading.
pub type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// A tree of names. Links are never followed. Errors about a path are [`PathError`]; those of the repository keep their
/// kind.
pub trait View {
    /// The entry at a path.
    fn stat(&mut self, path: &TreePath) -> Result<Node>;

    /// The entries of a directory but the first `from`, in the order of the source, which is the same each time; `.` and
    /// `..` are not among them.
    fn list(&mut self, path: &TreePath, from: u64, each: Each<'_>) -> Result<()>;

    /// Bytes of a regular file; what is beyond its end is left out, holes are zeros.
    fn read(&mut self, path: &TreePath, bytes: Range<u64>, take: Take<'_>) -> Result<()>;

    /// So many directories there can be: who has gone through more of them goes round in a circle of damaged ones.
    fn most_folders(&self) -> u64;

    /// The path is to be gone into as a directory: it was typed with a `/` behind it, and may be that of a disk image.
    fn go_into(&mut self, path: &TreePath) {
        let _ = path;
    }

    /// Whether this path is that of a disk, in which there are partitions.
    fn is_disk(&self, path: &TreePath) -> bool {
        let _ = path;
        false
    }

    /// What `dump` of this path leaves out, in words; of what is inside of a disk there is something.
    fn leaves_out(&self, path: &TreePath) -> Option<&'static str>;

    /// All files below a directory are going to be read: what comes next may be fetched ahead.
    fn expect_all(&mut self) {}

    /// Where a regular file of `size` bytes has data, from byte `from` on: at most `most` ranges, ascending, none empty,
    /// that do not touch each other. Fewer: there are no more. Without knowledge of holes, all of it.
    fn regions(&mut self, path: &TreePath, size: u64, from: u64, most: usize) -> Result<Vec<Range<u64>>> {
        let _ = (path, most);
        let rest = from..size;
        Ok((!rest.is_empty()).then_some(rest).into_iter().collect())
    }

    /// All extended attributes of an entry; those in a node of a listing may lack the long ones.
    fn extended(&mut self, path: &TreePath, node: &Node) -> Result<Set> {
        let _ = path;
        Ok(node.inode.extended.clone())
    }

    /// Why an entry with this error number cannot be read, in words.
    fn lack(&self, errno: NonZeroU32) -> String {
        let _ = errno;
        "it is damaged".to_owned()
    }
}

/// What is wrong with a path. The process ends with 1 for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// There is nothing.
    None(String),
    /// What should be a directory is none.
    NotFolder(String),
    /// A directory of the path is a symbolic link, and this is its target.
    Link(String, String),
    /// What should be a regular file is something else.
    NotFile(String, &'static str),
    /// The filesystem inside the image is damaged, or its reader is not up to it; why, and what to do.
    Broken(String, String),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None(path) => write!(f, "there is no {path} in the snapshot; `wherry ls` shows what there is"),
            Self::NotFolder(path) => write!(f, "{path} is no directory"),
            Self::Link(path, target) => {
                write!(f, "{path} is a symbolic link to {target}, and links are not followed: name what it leads to")
            }
            Self::NotFile(path, kind) => write!(f, "{path} is {kind}, not a regular file"),
            Self::Broken(path, why) => write!(f, "{path} cannot be read: {why}"),
        }
    }
}

impl std::error::Error for PathError {}

/// What an inode is, in one word, as `--json` has it.
pub fn kind_word(kind: &InodeKind) -> &'static str {
    match kind {
        InodeKind::File => "file",
        InodeKind::Folder => "directory",
        InodeKind::Link(_) => "symlink",
        InodeKind::Fifo => "fifo",
        InodeKind::Socket => "socket",
        InodeKind::Character(..) => "character-device",
        InodeKind::Block(..) => "block-device",
    }
}

/// The error for reading what is no regular file.
pub fn not_a_file(path: &TreePath, kind: &InodeKind) -> PathError {
    match kind {
        InodeKind::Link(target) => PathError::Link(path.to_string(), escaped(target)),
        InodeKind::Folder => PathError::NotFile(path.to_string(), "a directory"),
        InodeKind::Fifo => PathError::NotFile(path.to_string(), "a named pipe"),
        InodeKind::Socket => PathError::NotFile(path.to_string(), "a socket"),
        _ => PathError::NotFile(path.to_string(), "a device"),
    }
}

/// Entries of one directory that are in memory, and put in order, at a time.
pub const PAGE: usize = 20_000;

/// Bytes of the names of directories that wait to be gone through. Where there are more they are listed again.
const WAITING: usize = 16 << 20;

/// Entries that are listed again at a time.
const AGAIN: usize = 4096;

/// The page is full.
#[derive(Debug)]
struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the page is full")
    }
}

impl std::error::Error for Full {}

/// At most [`PAGE`] entries of a directory, but the first `from`, by name. Fewer: these are the last.
pub fn page(view: &mut dyn View, path: &TreePath, from: u64) -> Result<Vec<Node>> {
    some(view, path, from, PAGE)
}

/// Likewise, at most `most`.
fn some(view: &mut dyn View, path: &TreePath, from: u64, most: usize) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let listed = view.list(path, from, &mut |node| {
        nodes.push(node);
        if nodes.len() == most { Err(Full.into()) } else { Ok(()) }
    });
    match listed {
        Err(e) if !e.is::<Full>() => return Err(e),
        _ => nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name)),
    }
    Ok(nodes)
}

/// What could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// How many paths.
    pub count: u64,
    /// Whether one of them for damage of the repository.
    pub damaged: bool,
}

impl Failed {
    /// Logs and counts the error of one path.
    pub fn add(&mut self, error: &anyhow::Error) {
        tracing::error!("{}", exit::one_line(error));
        self.count += 1;
        self.damaged |= is_damage(error);
    }
}

/// Whether the repository has lost what an error is about.
pub fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<Error>().map(Error::kind);
        matches!(kind, Some(ErrorKind::Corrupt | ErrorKind::NotFound))
    })
}

/// Takes a page of the entries of the directory of this path; one without entries where it is empty or cannot be read.
pub type TakePage<'a> = &'a mut dyn FnMut(&mut dyn View, &TreePath, Vec<Node>) -> Result<()>;

/// A directory whose own directories are being gone through.
struct Frame {
    /// Those that are still to be entered, the next one last.
    names: Vec<Vec<u8>>,
    /// Where the listing goes on behind them.
    next: Option<u64>,
}

/// What a walk has done so far.
struct Walk<'a> {
    top: &'a TreePath,
    deep: bool,
    take: TakePage<'a>,
    /// Bytes of the names that wait.
    waiting: usize,
    seen: u64,
    failed: Failed,
}

/// Goes through a directory, page by page, and where `deep` all below it, a directory at a time, its own directories right
/// after it. A directory below `top` that cannot be read is logged and counted, and so is an entry that cannot. An error of
/// `take` ends it. So few names are kept that a tree of any width can be gone through: what is above them is listed again.
pub fn walk(view: &mut dyn View, top: &TreePath, deep: bool, take: TakePage<'_>) -> Result<Failed> {
    let mut walk = Walk { top, deep, take, waiting: 0, seen: 0, failed: Failed::default() };
    let mut path = top.clone();
    let mut frames = vec![walk.folder(view, &path)?];
    while let Some(frame) = frames.last_mut() {
        if let Some(name) = frame.names.pop() {
            walk.waiting -= cost(&name);
            path.push(name);
            frames.push(walk.folder(view, &path)?);
        } else if let Some(from) = frame.next.take() {
            match some(view, &path, from, AGAIN) {
                Ok(nodes) => {
                    frame.next = (nodes.len() == AGAIN).then_some(from + AGAIN as u64);
                    frame.names = nodes.into_iter().filter(Node::is_folder).map(|node| node.name).rev().collect();
                    walk.waiting += frame.names.iter().map(cost).sum::<usize>();
                }
                Err(e) if !is_local(&e) => return Err(e),
                Err(e) => walk.failed.add(&e),
            }
        } else {
            frames.pop();
            path.pop();
        }
    }
    Ok(walk.failed)
}

impl Walk<'_> {
    /// Takes all entries of a directory.
    fn folder(&mut self, view: &mut dyn View, path: &TreePath) -> Result<Frame> {
        self.seen += 1;
        let mut frame = Frame { names: Vec::new(), next: None };
        let (before, mut from) = (self.waiting, 0);
        loop {
            let nodes = match page(view, path, from) {
                Ok(nodes) => nodes,
                Err(e) if path == self.top && from == 0 || !is_local(&e) => return Err(e),
                Err(e) => {
                    self.failed.add(&e);
                    if from == 0 {
                        (self.take)(view, path, Vec::new())?;
                    }
                    break;
                }
            };
            if self.seen > view.most_folders() {
                let why = "it has more directories than its filesystem has room for: they go round in a circle";
                return Err(PathError::Broken(self.top.to_string(), why.to_owned()).into());
            }
            for node in &nodes {
                if self.deep && node.is_folder() && frame.next.is_none() {
                    self.waiting += cost(&node.name);
                    frame.names.push(node.name.clone());
                }
                if let Some(errno) = node.missing {
                    tracing::error!("{} cannot be read: {}", path.join(&node.name), view.lack(errno));
                    self.failed.count += 1;
                }
            }
            if self.waiting > WAITING {
                frame = Frame { names: Vec::new(), next: Some(0) };
                self.waiting = before;
            }
            let (count, last) = (nodes.len(), nodes.len() < PAGE);
            (self.take)(view, path, nodes)?;
            if last {
                break;
            }
            from += count as u64;
        }
        frame.names.reverse();
        Ok(frame)
    }
}

/// Bytes that a name takes while it waits.
fn cost(name: &Vec<u8>) -> usize {
    name.len() + size_of_val(name)
}

/// Whether an error is about one path, so that others may be fine.
pub fn is_local(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<Error>().map(Error::kind);
        cause.is::<PathError>() || matches!(kind, Some(ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use wherry_repo::format::tree::{InodeFlags, Time};

    /// Directories with long names side by side, and in every thousandth of them as many again.
    struct Wide {
        width: u64,
        again: u64,
    }

    fn name(n: u64) -> Vec<u8> {
        format!("{n:0>200}").into_bytes()
    }

    fn folder(name: Vec<u8>) -> Node {
        let inode = Inode {
            kind: InodeKind::Folder,
            permissions: 0o755,
            owner: 0,
            group: 0,
            flags: InodeFlags::default(),
            extended: Set::default(),
            modified: Time::default(),
            changed: Time::default(),
            number: 0,
            links: 1,
            size: 0,
            allocated: 0,
        };
        let none = Vec::new();
        let (owner_name, group_name) = (none.clone(), none);
        Node {
            name,
            inode,
            owner_name,
            group_name,
            owned: true,
            missing: None,
            partly: false,
            boundary: false,
            part: None,
        }
    }

    impl View for Wide {
        fn stat(&mut self, path: &TreePath) -> Result<Node> {
            Ok(folder(path.name().to_vec()))
        }

        fn list(&mut self, path: &TreePath, from: u64, each: Each<'_>) -> Result<()> {
            self.again += u64::from(from > 0 && !from.is_multiple_of(PAGE as u64));
            let is_wide = match path.names() {
                [] => true,
                [one] => one.ends_with(b"7000"),
                _ => false,
            };
            let width = if is_wide { self.width } else { 0 };
            (from..width).try_for_each(|n| each(folder(name(n))))
        }

        fn read(&mut self, _: &TreePath, _: Range<u64>, _: Take<'_>) -> Result<()> {
            Ok(())
        }

        fn most_folders(&self) -> u64 {
            u64::MAX
        }

        fn leaves_out(&self, _: &TreePath) -> Option<&'static str> {
            None
        }
    }

    #[test]
    fn more_directories_than_can_wait_are_all_gone_through_once_and_in_order() {
        for (width, again) in [(30_000, false), (100_000, true)] {
            let mut view = Wide { width, again: 0 };
            let (mut last, mut wide) = (None, BTreeSet::new());
            let mut count = 0;
            let failed = walk(&mut view, &TreePath::default(), true, &mut |_, path, nodes| {
                if last.as_ref().is_none_or(|last| last != path) {
                    assert!(last.as_ref().is_none_or(|last| last < path), "{last:?} before {path}");
                    count += 1;
                    last = Some(path.clone());
                }
                if !nodes.is_empty() {
                    wide.insert(path.clone());
                }
                Ok(())
            });
            assert_eq!(failed.unwrap(), Failed::default());
            // One in ten thousand is as wide as the top.
            let deeper = width / 10_000;
            assert_eq!((count, wide.len() as u64), (1 + width + deeper * width, 1 + deeper));
            assert_eq!(view.again > 0, again, "{} listings went on", view.again);
        }
    }
}

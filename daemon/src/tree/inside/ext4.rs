//! ext2, ext3 and ext4, by the crate ext4-view.

use super::bytes::Window;
use super::filesystem::{Fault, Filesystem, Found, MOST_READ};
use super::raw::Raw;
use super::replayed;
use crate::tree::inode::{Inode, InodeKind};
use crate::tree::path::joined;
use crate::tree::view::Node;
use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata};
use std::error::Error as StdError;
use std::num::NonZeroU32;
use std::ops::Range;
use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// Longest target of a link (bytes).
const MOST_TARGET: u64 = 4096;
/// EIO.
const UNREADABLE: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");

/// An opened filesystem.
pub(super) struct Ext {
    fs: Ext4,
    /// For what the crate does not tell.
    raw: Raw,
    /// The directory that was looked up last: its path has no link in it.
    known: Vec<Vec<u8>>,
}

struct Reader(Window);

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, out: &mut [u8]) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.0.read(start, out)?.ok_or_else(|| "a read goes beyond the end of the partition".into())
    }
}

impl Ext {
    /// Opens it, as it is once its journal was replayed.
    pub(super) fn open(window: Window) -> Found<Self> {
        let window = replayed::window(window)?;
        let raw = Raw::new(window.clone())?;
        let fs = Ext4::load(Box::new(Reader(window))).map_err(fault)?;
        Ok(Self { fs, raw, known: Vec::new() })
    }

    /// Metadata at a path, of a link itself. The crate follows links on the way, so each name is looked at.
    fn metadata(&mut self, path: &[Vec<u8>]) -> Found<Metadata> {
        let from = if path.len() > self.known.len() && path.starts_with(&self.known) { self.known.len() } else { 0 };
        for depth in from + 1..path.len() {
            let before = &path[..depth];
            let metadata = self.look(before)?;
            if metadata.is_symlink() {
                return Err(Fault::Link(depth, self.target(before, &metadata)?));
            }
            if !metadata.is_dir() {
                return Err(Fault::NotFolder(depth));
            }
        }
        let metadata = self.look(path)?;
        if let Some((_, folder)) = path.split_last() {
            self.known = folder.to_vec();
        }
        Ok(metadata)
    }

    fn look(&self, path: &[Vec<u8>]) -> Found<Metadata> {
        if path.iter().any(|name| name.len() > 255 || name.contains(&0)) {
            return Err(Fault::None);
        }
        match self.fs.symlink_metadata(joined(path).as_slice()) {
            // Of names with one hash the crate may miss those in the next block of the index.
            Err(Ext4Error::NotFound) => self.look_at_all(path),
            found => found.map_err(fault),
        }
    }

    /// Likewise, by the list of the directory.
    fn look_at_all(&self, path: &[Vec<u8>]) -> Found<Metadata> {
        let (name, folder) = path.split_last().ok_or(Fault::None)?;
        for entry in self.fs.read_dir(joined(folder).as_slice()).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if entry.file_name().as_ref() == name.as_slice() {
                return entry.metadata().map_err(fault);
            }
        }
        Err(Fault::None)
    }

    fn target(&self, path: &[Vec<u8>], metadata: &Metadata) -> Found<Vec<u8>> {
        if metadata.len() > MOST_TARGET {
            return Err(Fault::broken("a symbolic link is too long"));
        }
        let target = self.fs.read_link(joined(path).as_slice()).map_err(fault)?;
        Ok(target.as_path().as_ref().to_vec())
    }

    fn node(&self, path: &[Vec<u8>], metadata: &Metadata) -> Found<Node> {
        let kind = match metadata.file_type() {
            FileType::Symlink => InodeKind::Link(self.target(path, metadata)?),
            other => kind(other),
        };
        Ok(node(path.last().cloned().unwrap_or_default(), kind, Some(metadata)))
    }
}

impl Filesystem for Ext {
    fn stat(&mut self, path: &[Vec<u8>]) -> Found<Node> {
        let metadata = self.metadata(path)?;
        self.node(path, &metadata)
    }

    fn list(&mut self, path: &[Vec<u8>], from: u64, each: &mut dyn FnMut(Node) -> Found<()>) -> Found<()> {
        let metadata = self.metadata(path)?;
        if !metadata.is_dir() {
            return Err(match metadata.is_symlink() {
                true => Fault::Link(path.len(), self.target(path, &metadata)?),
                false => Fault::NotFolder(path.len()),
            });
        }
        let mut skip = from;
        for entry in self.fs.read_dir(joined(path).as_slice()).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().as_ref().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let below = [path, std::slice::from_ref(&name)].concat();
            let found = entry.metadata().map_err(fault).and_then(|metadata| self.node(&below, &metadata));
            each(match found {
                Ok(node) => node,
                Err(Fault::Disk(e)) => return Err(Fault::Disk(e)),
                // One damaged inode does not keep the others from being listed.
                Err(_) => {
                    let kind = entry.file_type().map_or(InodeKind::File, kind);
                    Node { missing: Some(UNREADABLE), ..node(name, kind, None) }
                }
            })?;
        }
        Ok(())
    }

    fn read(&mut self, path: &[Vec<u8>], bytes: Range<u64>, take: &mut dyn FnMut(Vec<u8>) -> Found<()>) -> Found<()> {
        let metadata = self.metadata(path)?;
        if metadata.is_symlink() {
            return Err(Fault::Link(path.len(), self.target(path, &metadata)?));
        }
        if metadata.file_type() != FileType::Regular {
            return Err(Fault::NotFile);
        }
        let end = bytes.end.min(metadata.len());
        if bytes.start >= end {
            return Ok(());
        }
        let mut file = self.fs.open(joined(path).as_slice()).map_err(|e| match e {
            Ext4Error::NotFound => Fault::Lacks("its reader misses it among names of the same hash".to_owned()),
            e => fault(e),
        })?;
        // The crate takes space that was reserved and never written for data: what lay there before would come out.
        let number = format!("{file:?}")
            .split("inode: ")
            .nth(1)
            .and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()));
        let number = number.ok_or_else(|| Fault::Lacks("its reader does not tell which inode it is".to_owned()))?;
        if self.raw.has_unwritten(number)? {
            let why = "it has space that is reserved and was never written, which its reader would take for data";
            return Err(Fault::Lacks(why.to_owned()));
        }
        if bytes.start > 0 {
            file.seek_to(bytes.start).map_err(fault)?;
        }
        let mut at = bytes.start;
        while at < end {
            let mut piece = vec![0; (end - at).min(MOST_READ as u64) as usize];
            let mut filled = 0;
            while filled < piece.len() {
                match file.read_bytes(&mut piece[filled..]).map_err(fault)? {
                    0 => return Err(Fault::broken("a file ends before its size says")),
                    n => filled += n,
                }
            }
            at += piece.len() as u64;
            take(piece)?;
        }
        Ok(())
    }

    fn most_folders(&self) -> u64 {
        self.raw.inodes
    }
}

fn fault(error: Ext4Error) -> Fault {
    match error {
        Ext4Error::NotFound | Ext4Error::MalformedPath | Ext4Error::PathTooLong => Fault::None,
        Ext4Error::NotADirectory => Fault::None,
        Ext4Error::IsADirectory | Ext4Error::IsASpecialFile => Fault::NotFile,
        Ext4Error::Incompatible(_) => Fault::Lacks(format!("its reader lacks what it takes ({error})")),
        Ext4Error::Encrypted => Fault::Lacks("it is encrypted by the filesystem".to_owned()),
        // The crate calls all times damage that do not fit 31 bits of seconds.
        Ext4Error::Corrupt(_) if format!("{error:?}").contains("InodeTimestamp") => {
            Fault::Lacks("its reader does not know times before 1970 and from 2038 to 2106".to_owned())
        }
        // It looks for the list of blocks of a hole in block 0.
        Ext4Error::Corrupt(_)
            if format!("{error:?}").contains("BlockRead { block_index: 0, original_block_index: 0") =>
        {
            Fault::Lacks("its reader does not know holes as large as this one".to_owned())
        }
        error => Fault::broken(error),
    }
}

fn kind(kind: FileType) -> InodeKind {
    match kind {
        FileType::Directory => InodeKind::Folder,
        FileType::Symlink => InodeKind::Link(Vec::new()),
        FileType::Fifo => InodeKind::Fifo,
        FileType::Socket => InodeKind::Socket,
        FileType::CharacterDevice => InodeKind::Character(0, 0),
        FileType::BlockDevice => InodeKind::Block(0, 0),
        _ => InodeKind::File,
    }
}

fn node(name: Vec<u8>, kind: InodeKind, metadata: Option<&Metadata>) -> Node {
    let modified = metadata.map_or(Time::default(), |m| {
        let time = m.modified();
        Time { seconds: time.seconds(), nanoseconds: time.nanoseconds() }
    });
    let size = match kind {
        InodeKind::File | InodeKind::Link(_) => metadata.map_or(0, Metadata::len),
        _ => 0,
    };
    let inode = Inode {
        kind,
        permissions: metadata.map_or(0, Metadata::mode),
        owner: metadata.map_or(0, Metadata::uid),
        group: metadata.map_or(0, Metadata::gid),
        flags: InodeFlags::default(),
        extended: Set::default(),
        modified,
        changed: Time::default(),
        number: 0,
        links: 1,
        size,
        allocated: size,
    };
    let owned = metadata.is_some();
    Node {
        name,
        inode,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        owned,
        missing: None,
        partly: false,
        boundary: false,
        part: None,
    }
}

//! ext2, ext3 and ext4, by the crate ext4-view.

use super::bytes::Window;
use super::filesystem::{Fault, Filesystem, Found, MOST_READ};
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
/// Largest block (bytes).
const MOST_BLOCK: u64 = 64 << 10;
/// Most groups of blocks: descriptors of so many take 16 MiB. Of 128 MiB each they make 128 TiB.
const MOST_GROUPS: u64 = 1 << 20;
/// EIO.
const UNREADABLE: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");

/// An opened filesystem.
pub(super) struct Ext {
    fs: Ext4,
    inodes: u64,
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
    /// Opens it. What its superblock says is checked first where the crate would take memory by it.
    pub(super) fn open(window: Window) -> Found<Self> {
        let superblock = window.take(1024, 1024)?.ok_or_else(|| Fault::broken("it is too small"))?;
        let field = |at: usize| superblock[at..at + 4].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let block = 1024u64.checked_shl(field(24) as u32).filter(|block| *block <= MOST_BLOCK && field(24) < 7);
        let block = block.ok_or_else(|| Fault::broken("its blocks have an impossible size"))?;
        let wide = field(96) & 0x80 != 0;
        let blocks = field(4) | if wide { field(336) << 32 } else { 0 };
        if blocks.checked_mul(block).is_none_or(|bytes| bytes > window.size()) {
            return Err(Fault::broken(format!(
                "it has {blocks} blocks of {block} bytes, and the partition only {} bytes",
                window.size()
            )));
        }
        if field(32) == 0 || blocks / field(32) > MOST_GROUPS {
            return Err(Fault::broken("it has too many groups of blocks"));
        }
        let raw = Raw::new(window.clone(), &superblock, block);
        let fs = Ext4::load(Box::new(Reader(window))).map_err(fault)?;
        Ok(Self { fs, inodes: field(0), raw, known: Vec::new() })
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
        self.inodes
    }
}

/// Inodes and extents as they are on the disk, a journal that was not replayed left out of account.
struct Raw {
    window: Window,
    block: u64,
    /// The first byte of the descriptors of groups, and the length of one.
    groups: (u64, u64),
    inode: u64,
    per_group: u64,
}

impl Raw {
    fn new(window: Window, superblock: &[u8], block: u64) -> Self {
        let wide = number(superblock, 96, 4) & 0x80 != 0;
        let descriptor = if wide { number(superblock, 254, 2).max(32) } else { 32 };
        let inode = if number(superblock, 76, 4) == 0 { 128 } else { number(superblock, 88, 2) };
        let first = if block == 1024 { 2 } else { 1 };
        Self { window, block, groups: (first * block, descriptor), inode, per_group: number(superblock, 40, 4).max(1) }
    }

    fn take(&self, at: u64, len: u64) -> Found<Vec<u8>> {
        self.window.take(at, len as usize)?.ok_or_else(|| Fault::broken("a block is beyond the end of the partition"))
    }

    /// Whether the file of this inode has extents that were never written.
    fn has_unwritten(&self, inode: u64) -> Found<bool> {
        let (group, place) = ((inode - 1) / self.per_group, (inode - 1) % self.per_group);
        let descriptor = self.take(self.groups.0 + group * self.groups.1, self.groups.1)?;
        let high = if descriptor.len() >= 64 { number(&descriptor, 40, 4) << 32 } else { 0 };
        let table = (number(&descriptor, 8, 4) | high).saturating_mul(self.block);
        let inode = self.take(table.saturating_add(place * self.inode), 128)?;
        if number(&inode, 32, 4) & 0x8_0000 == 0 {
            return Ok(false);
        }
        self.unwritten_in(&inode[40..100], 5, &mut 0)
    }

    fn unwritten_in(&self, node: &[u8], most_depth: u64, seen: &mut u64) -> Found<bool> {
        /// Blocks of extents of one file.
        const MOST: u64 = 1 << 18;
        *seen += 1;
        let (count, depth) = (number(node, 2, 2), number(node, 6, 2));
        if number(node, 0, 2) != 0xf30a || depth > most_depth || *seen > MOST {
            return Err(Fault::broken("the extents of a file are damaged"));
        }
        for entry in node.get(12..).unwrap_or_default().chunks_exact(12).take(count as usize) {
            if depth == 0 {
                if number(entry, 4, 2) > 0x8000 {
                    return Ok(true);
                }
                continue;
            }
            let at = (number(entry, 4, 4) | number(entry, 8, 2) << 32).saturating_mul(self.block);
            if self.unwritten_in(&self.take(at, self.block)?, depth - 1, seen)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..at + len).unwrap_or_default().iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
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

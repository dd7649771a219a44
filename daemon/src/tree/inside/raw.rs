//! What the crate ext4-view does not tell: inodes by their number, and which blocks a file has.

use super::bytes::Window;
use super::filesystem::{Fault, Found};
use crc::{CRC_32_ISCSI, Crc, Table};

/// Largest block (bytes).
const MOST_BLOCK: u64 = 64 << 10;
/// Most groups of blocks: descriptors of so many take 16 MiB. Of 128 MiB each they make 128 TiB.
const MOST_GROUPS: u64 = 1 << 20;
/// Most blocks that list the blocks of one file.
const MOST_LISTS: u64 = 1 << 18;
/// Most pieces of a journal.
const MOST_RUNS: usize = 1 << 18;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC-32C as these filesystems have it: going on from a sum, its bits not flipped at the end.
pub(super) fn crc32c(from: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(from.reverse_bits());
    digest.update(bytes);
    !digest.finalize()
}

/// A little-endian number of so many bytes.
pub(super) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..at + len).unwrap_or_default().iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Inodes and blocks of a filesystem, as they are in a window.
pub(super) struct Raw {
    window: Window,
    /// Length of a block (bytes).
    pub(super) block: u64,
    /// How many there are.
    blocks: u64,
    /// How many inodes there are.
    pub(super) inodes: u64,
    /// The first byte of the descriptors of groups, and the length of one.
    groups: (u64, u64),
    inode: u64,
    per_group: u64,
    /// What checksums of metadata begin with, where there are any.
    seed: Option<u32>,
}

/// Blocks that follow each other in a file and on the disk.
#[derive(Debug)]
struct Run {
    /// The first, in the file.
    at: u64,
    /// The first, on the disk.
    from: u64,
    len: u64,
    /// They are reserved, and nothing was ever written there.
    unwritten: bool,
}

/// A way through the blocks of a file.
struct Walk<'a> {
    /// The file's own part of checksums.
    seed: Option<u32>,
    /// Blocks of lists that were read.
    lists: u64,
    /// It goes no further than this block of the file.
    end: u64,
    each: &'a mut dyn FnMut(Run) -> Found<()>,
}

/// The blocks of a journal.
#[derive(Debug)]
pub(super) struct Blocks {
    /// How many there are.
    pub(super) len: u64,
    runs: Vec<Run>,
}

impl Blocks {
    /// Where the `n`th is on the disk.
    pub(super) fn at(&self, n: u64) -> Option<u64> {
        let run = self.runs.get(self.runs.partition_point(|run| run.at <= n).checked_sub(1)?)?;
        (n - run.at < run.len).then(|| run.from + (n - run.at))
    }
}

impl Raw {
    /// Of a filesystem. What its superblock says is checked here where memory would be taken by it.
    pub(super) fn new(window: Window) -> Found<Self> {
        let superblock = window.take(1024, 1024)?.ok_or_else(|| Fault::broken("it is too small"))?;
        let field = |at: usize| number(&superblock, at, 4);
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
        let descriptor = if wide { number(&superblock, 254, 2).max(32) } else { 32 };
        let inode = if field(76) == 0 { 128 } else { number(&superblock, 88, 2).max(128) };
        let first = if block == 1024 { 2 } else { 1 };
        let summed = field(100) & 0x400 != 0;
        let seed = if field(96) & 0x2000 != 0 { field(624) as u32 } else { crc32c(!0, &superblock[104..120]) };
        Ok(Self {
            window,
            block,
            blocks,
            inodes: field(0),
            groups: (first * block, descriptor),
            inode,
            per_group: field(40).max(1),
            seed: summed.then_some(seed),
        })
    }

    fn take(&self, at: u64, len: u64) -> Found<Vec<u8>> {
        self.window.take(at, len as usize)?.ok_or_else(|| Fault::broken("a block is beyond the end of the partition"))
    }

    /// A block of the disk.
    pub(super) fn block(&self, n: u64) -> Found<Vec<u8>> {
        self.take(n.saturating_mul(self.block), self.block)
    }

    /// How many there would be room for.
    pub(super) fn most_blocks(&self) -> u64 {
        self.window.size() / self.block
    }

    /// Whether the file of this inode has extents that were never written.
    pub(super) fn has_unwritten(&self, inode: u64) -> Found<bool> {
        let (inode, seed) = self.inode(inode)?;
        if !has_extents(&inode) {
            return Ok(false);
        }
        let mut found = false;
        let mut each = |run: Run| {
            found |= run.unwritten;
            Ok(())
        };
        self.extents(&inode[40..100], 5, &mut Walk { seed, lists: 0, end: u64::MAX, each: &mut each })?;
        Ok(found)
    }

    /// The blocks of the journal, a regular file that has no holes and is all written.
    pub(super) fn journal(&self, inode: u64) -> Found<Blocks> {
        let (inode, seed) = self.inode(inode)?;
        let size = number(&inode, 4, 4) | number(&inode, 108, 4) << 32;
        if number(&inode, 0, 2) & 0xf000 != 0x8000 || number(&inode, 26, 2) == 0 || size > self.window.size() {
            return Err(Fault::broken("what should be the file of its journal is none"));
        }
        let len = size / self.block;
        let mut runs: Vec<Run> = Vec::new();
        let mut each = |run: Run| {
            let at = runs.last().map_or(0, |last| last.at + last.len);
            let is_there = run.from > 0 && run.from.checked_add(run.len).is_some_and(|end| end <= self.blocks);
            if run.unwritten || !is_there || run.at != at {
                return Err(Fault::broken("its journal has no blocks where it should have some"));
            }
            let is_full = runs.len() == MOST_RUNS;
            match runs.last_mut() {
                Some(last) if last.from + last.len == run.from => last.len += run.len,
                _ if is_full => return Err(Fault::broken("its journal is in too many pieces")),
                _ => runs.push(run),
            }
            Ok(())
        };
        let mut walk = Walk { seed, lists: 0, end: len, each: &mut each };
        match has_extents(&inode) {
            true => self.extents(&inode[40..100], 5, &mut walk)?,
            false => self.listed(&inode, &mut walk)?,
        }
        Ok(Blocks { len, runs })
    }

    /// An inode as it is stored, and the file's own part of checksums.
    fn inode(&self, inode: u64) -> Found<(Vec<u8>, Option<u32>)> {
        let index = inode.checked_sub(1).ok_or_else(|| Fault::broken("an inode has no number"))?;
        let (group, place) = (index / self.per_group, index % self.per_group);
        let descriptor = self.take(self.groups.0.saturating_add(group.saturating_mul(self.groups.1)), self.groups.1)?;
        let high = if descriptor.len() >= 64 { number(&descriptor, 40, 4) << 32 } else { 0 };
        let table = (number(&descriptor, 8, 4) | high).saturating_mul(self.block);
        let bytes = self.take(table.saturating_add(place.saturating_mul(self.inode)), self.inode)?;
        let own = |seed| crc32c(crc32c(seed, &(inode as u32).to_le_bytes()), &bytes[100..104]);
        let Some(seed) = self.seed.map(own) else { return Ok((bytes, None)) };
        // Its checksum is in two parts, the second only where the inode has room for it.
        let long = bytes.len() > 132 && number(&bytes, 128, 2) >= 4;
        let mut rest = bytes.clone();
        rest[124..126].fill(0);
        let mut stored = number(&bytes, 124, 2);
        let mut mask = 0xffff;
        if long {
            rest[130..132].fill(0);
            stored |= number(&bytes, 130, 2) << 16;
            mask = u32::MAX;
        }
        if u64::from(crc32c(seed, &rest) & mask) != stored {
            return Err(Fault::broken(format!("the checksum of inode {inode} does not fit")));
        }
        Ok((bytes, Some(seed)))
    }

    fn extents(&self, node: &[u8], most_depth: u64, walk: &mut Walk<'_>) -> Found<()> {
        let damaged = || Fault::broken("the extents of a file are damaged");
        let (count, depth) = (number(node, 2, 2), number(node, 6, 2));
        if number(node, 0, 2) != 0xf30a || depth > most_depth {
            return Err(damaged());
        }
        for entry in node.get(12..).unwrap_or_default().chunks_exact(12).take(count as usize) {
            if depth > 0 {
                let below = self.list(number(entry, 4, 4) | number(entry, 8, 2) << 32, walk)?;
                // Behind as many entries as there may be.
                let sum = 12 + 12 * number(&below, 4, 2) as usize;
                let is_there = sum + 4 <= below.len();
                let fits = |seed| is_there && number(&below, sum, 4) == u64::from(crc32c(seed, &below[..sum]));
                if !walk.seed.is_none_or(fits) {
                    return Err(damaged());
                }
                self.extents(&below, depth - 1, walk)?;
                continue;
            }
            let len = number(entry, 4, 2);
            let unwritten = len > 0x8000;
            (walk.each)(Run {
                at: number(entry, 0, 4),
                from: number(entry, 8, 4) | number(entry, 6, 2) << 32,
                len: if unwritten { len - 0x8000 } else { len },
                unwritten,
            })?;
        }
        Ok(())
    }

    /// As files of ext2 and ext3 have them: twelve blocks, then lists of blocks, lists of lists, and lists of these.
    fn listed(&self, inode: &[u8], walk: &mut Walk<'_>) -> Found<()> {
        let mut at = 0;
        for n in 0..15 {
            self.below(number(inode, 40 + 4 * n, 4), n.saturating_sub(11), &mut at, walk)?;
        }
        Ok(())
    }

    /// The blocks below one that is so many levels above them.
    fn below(&self, block: u64, level: usize, at: &mut u64, walk: &mut Walk<'_>) -> Found<()> {
        if *at >= walk.end {
            return Ok(());
        }
        if level == 0 {
            (walk.each)(Run { at: *at, from: block, len: 1, unwritten: false })?;
            *at += 1;
            return Ok(());
        }
        let list = self.list(block, walk)?;
        list.chunks_exact(4).try_for_each(|entry| self.below(number(entry, 0, 4), level - 1, at, walk))
    }

    fn list(&self, block: u64, walk: &mut Walk<'_>) -> Found<Vec<u8>> {
        walk.lists += 1;
        if walk.lists > MOST_LISTS {
            return Err(Fault::broken("a file has too many lists of blocks"));
        }
        self.block(block)
    }
}

fn has_extents(inode: &[u8]) -> bool {
    number(inode, 32, 4) & 0x8_0000 != 0
}

//! The journal of ext3 and ext4, read as the kernel replays it (`fs/jbd2/recovery.c`): which blocks it has newer than the
//! filesystem. The crate ext4-view reads journals too, but not behind the place where the log goes round, and it lets a
//! block that was revoked in one transaction come back from one before.

use super::filesystem::{Fault, Found};
use super::raw::{Blocks, Raw, crc32c, number};
use crc::{CRC_32_MPEG_2, Crc, Table};
use std::collections::BTreeMap;

/// What each block of the journal itself begins with.
pub(super) const MAGIC: u32 = 0xc03b_3998;
/// Most blocks that are newer, and most that one transaction may name: about 40 MiB each. The largest journal that mke2fs
/// makes unasked has a quarter of that.
const MOST: usize = 1 << 20;
/// Blocks that are left to fast commits where the journal does not say how many.
const FAST: u64 = 256;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_1: u32 = 3;
const SUPERBLOCK_2: u32 = 4;
const REVOKE: u32 = 5;

/// Of the checksums of old: most significant bit first.
static CRC32_BE: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_MPEG_2);

/// Where the newer content of a block is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Newer {
    /// The block of the disk that has it.
    pub(super) at: u64,
    /// Its first four bytes are the magic of the journal, and zero there.
    pub(super) escaped: bool,
    /// It cannot be put in place.
    damaged: bool,
}

/// Blocks by their number in the filesystem.
pub(super) type Newest = BTreeMap<u64, Newer>;

/// Which blocks the journal in this inode has newer.
pub(super) fn newest(raw: &Raw, inode: u64) -> Found<Newest> {
    let blocks = raw.journal(inode)?;
    let head = Head::read(&block(raw, &blocks, 0)?, raw, blocks.len)?;
    if head.start == 0 {
        return Ok(Newest::new());
    }
    let (next, left, sequence) = (head.start, head.last - head.first, head.sequence);
    Log { raw, blocks, head, next, left, sequence }.scan()
}

fn block(raw: &Raw, blocks: &Blocks, n: u64) -> Found<Vec<u8>> {
    raw.block(blocks.at(n).ok_or_else(|| broken("has no block where it should have one"))?)
}

/// Which checksums a journal has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sums {
    None,
    /// One for the blocks of a transaction.
    Whole,
    /// One for each block, of which two bytes are kept; what they begin with.
    Short(u32),
    /// Likewise, all four bytes.
    Long(u32),
}

/// What the first block of a journal says.
#[derive(Debug)]
struct Head {
    /// Of the log, which goes from the first block to before the last and on from there to the first.
    first: u64,
    last: u64,
    /// Where its oldest transaction begins; 0 where there is none.
    start: u64,
    /// The number of that transaction.
    sequence: u32,
    sums: Sums,
    /// Numbers of blocks have 64 bits.
    wide: bool,
    /// Commit blocks were written without waiting for what they commit.
    in_advance: bool,
    /// The first block of fast commits.
    fast: Option<u64>,
}

impl Head {
    /// Of a journal in so many blocks.
    fn read(bytes: &[u8], raw: &Raw, blocks: u64) -> Found<Self> {
        let field = |at: usize| u64::from(big(bytes, at));
        let version = big(bytes, 4);
        if big(bytes, 0) != MAGIC || !matches!(version, SUPERBLOCK_1 | SUPERBLOCK_2) || field(12) != raw.block {
            return Err(broken("does not begin as one"));
        }
        let features = |at: usize| if version == SUPERBLOCK_2 { big(bytes, at) } else { 0 };
        let (compatible, incompatible) = (features(36), features(40));
        if incompatible & !0x3f != 0 || features(44) != 0 {
            return Err(Fault::Lacks(format!(
                "its journal has features that wherry does not know ({incompatible:#x})"
            )));
        }
        let seed = crc32c(!0, &bytes[48..64]);
        let sums = match (compatible & 1 != 0, incompatible & 8 != 0, incompatible & 16 != 0) {
            (false, false, false) => Sums::None,
            (true, false, false) => Sums::Whole,
            (false, true, false) => Sums::Short(seed),
            (false, false, true) => Sums::Long(seed),
            _ => return Err(broken("has checksums of two kinds")),
        };
        if matches!(sums, Sums::Short(_) | Sums::Long(_)) && (bytes[80] != 4 || !fits(!0, &bytes[..1024], 252)) {
            return Err(broken("has a wrong checksum"));
        }
        let (end, first, start) = (field(16), field(20), field(28));
        let mut last = end;
        let mut fast = None;
        if incompatible & 32 != 0 {
            let kept = if field(84) == 0 { FAST } else { field(84) };
            // As the kernel has it: a smaller journal has no fast commits.
            if end >= kept + 1024 {
                last = end - kept;
                fast = Some(last + 1).filter(|fast| *fast < end);
            }
        }
        if end > blocks || first == 0 || first >= last || start != 0 && !(first..last).contains(&start) {
            return Err(broken("is not where it says"));
        }
        let (wide, in_advance) = (incompatible & 2 != 0, incompatible & 4 != 0);
        Ok(Self { first, last, start, sequence: big(bytes, 24), sums, wide, in_advance, fast })
    }

    /// What checksums of each block begin with.
    fn seed(&self) -> Option<u32> {
        match self.sums {
            Sums::Short(seed) | Sums::Long(seed) => Some(seed),
            Sums::None | Sums::Whole => None,
        }
    }
}

/// What a transaction has said so far.
struct Transaction {
    newer: Vec<(u64, Newer)>,
    revoked: Vec<u64>,
    /// Of its blocks, where there is one for all.
    sum: u32,
    /// A block of it has a wrong checksum, or none that can be.
    is_doubtful: bool,
}

impl Transaction {
    fn new() -> Self {
        Self { newer: Vec::new(), revoked: Vec::new(), sum: !0, is_doubtful: false }
    }

    /// It is committed. What is revoked is so in all transactions up to this one, and not in those to come.
    fn settle(self, newest: &mut Newest) -> Found<()> {
        for (block, newer) in self.newer {
            let before = newest.insert(block, newer);
            if before.is_some_and(|before| before.damaged) {
                newest.entry(block).and_modify(|newer| newer.damaged = true);
            }
        }
        for block in self.revoked {
            newest.remove(&block);
        }
        if newest.len() > MOST { Err(too_much()) } else { Ok(()) }
    }
}

/// The way through a log.
struct Log<'a> {
    raw: &'a Raw,
    blocks: Blocks,
    head: Head,
    /// The next block, and how many there are until all were read.
    next: u64,
    left: u64,
    /// The transaction that is read.
    sequence: u32,
}

impl Log<'_> {
    /// Goes through it to its end, which is where no block of the transaction follows that has to.
    fn scan(mut self) -> Found<Newest> {
        let mut newest = Newest::new();
        let mut transaction = Transaction::new();
        let mut last_time = 0;
        // A transaction that was committed in advance, and did not come whole: the journal ends before it.
        let mut cut = None;
        while let Some((_, bytes)) = self.take()? {
            if big(&bytes, 0) != MAGIC || big(&bytes, 8) != self.sequence {
                break;
            }
            match big(&bytes, 4) {
                DESCRIPTOR => self.descriptor(&bytes, &mut transaction)?,
                REVOKE => self.revoke(&bytes, &mut transaction)?,
                COMMIT => {
                    let time = number_be(&bytes, 48, 8);
                    let is_whole = !transaction.is_doubtful && self.commits(&bytes, transaction.sum);
                    if !is_whole && time < last_time {
                        // Left there by an earlier filesystem, with the same number by chance.
                        break;
                    }
                    if cut.is_some() || transaction.is_doubtful || !is_whole && !self.head.in_advance {
                        return Err(broken(&format!("has a damaged transaction ({})", self.sequence)));
                    }
                    last_time = time;
                    let committed = std::mem::replace(&mut transaction, Transaction::new());
                    match is_whole {
                        true => committed.settle(&mut newest)?,
                        false => cut = Some(self.sequence),
                    }
                    self.sequence = self.sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        if let Some((block, _)) = newest.iter().find(|(_, newer)| newer.damaged) {
            return Err(broken(&format!("has block {block} damaged")));
        }
        self.has_no_fast_commits(cut.unwrap_or(self.sequence))?;
        Ok(newest)
    }

    /// The next block of the log, and where it is. `None` where it has gone round.
    fn take(&mut self) -> Found<Option<(u64, Vec<u8>)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let at = self.blocks.at(self.next).ok_or_else(|| broken("has no block where it should have one"))?;
        self.next = if self.next + 1 == self.head.last { self.head.first } else { self.next + 1 };
        Ok(Some((at, self.raw.block(at)?)))
    }

    /// The blocks that follow, and what they are to replace.
    fn descriptor(&mut self, bytes: &[u8], transaction: &mut Transaction) -> Found<()> {
        const ESCAPED: u64 = 1;
        const SAME_UUID: u64 = 2;
        const LAST: u64 = 8;
        let mut end = bytes.len();
        if let Some(seed) = self.head.seed() {
            end -= 4;
            transaction.is_doubtful |= !fits(seed, bytes, end);
        }
        transaction.sum = crc32_be(transaction.sum, bytes);
        let high = if self.head.wide { 4 } else { 0 };
        let size = match self.head.sums {
            Sums::Long(_) => 16,
            Sums::Short(_) => 10 + high,
            Sums::None | Sums::Whole => 8 + high,
        };
        let mut at = 12;
        while at + size <= end {
            let tag = &bytes[at..at + size];
            let block = number_be(tag, 0, 4) | number_be(tag, 8, high) << 32;
            let flags = number_be(tag, 6, 2);
            // A log that has gone round has no commit block for this.
            let Some((from, content)) = self.take()? else { return Ok(()) };
            let sum = |seed| crc32c(crc32c(seed, &self.sequence.to_be_bytes()), &content);
            let fits = match self.head.sums {
                Sums::Long(seed) => u64::from(sum(seed)) == number_be(tag, 12, 4),
                Sums::Short(seed) => u64::from(sum(seed) & 0xffff) == number_be(tag, 4, 2),
                Sums::Whole => {
                    transaction.sum = crc32_be(transaction.sum, &content);
                    true
                }
                Sums::None => true,
            };
            // Of the disk: the filesystem may have grown since its superblock was written.
            let damaged = !fits || block >= self.raw.most_blocks();
            transaction.newer.push((block, Newer { at: from, escaped: flags & ESCAPED != 0, damaged }));
            if transaction.newer.len() > MOST {
                return Err(too_much());
            }
            if flags & LAST != 0 {
                break;
            }
            at += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
        }
        Ok(())
    }

    /// Blocks whose content in the journal is no longer what they are used for.
    fn revoke(&self, bytes: &[u8], transaction: &mut Transaction) -> Found<()> {
        let mut end = bytes.len();
        if let Some(seed) = self.head.seed() {
            end -= 4;
            transaction.is_doubtful |= !fits(seed, bytes, end);
        }
        let used = number_be(bytes, 12, 4);
        if used > end as u64 {
            return Err(broken("revokes more than a block can name"));
        }
        let size = if self.head.wide { 8 } else { 4 };
        let listed = bytes.get(16..used as usize).unwrap_or_default();
        transaction.revoked.extend(listed.chunks_exact(size).map(|entry| number_be(entry, 0, size)));
        if transaction.revoked.len() > MOST { Err(too_much()) } else { Ok(()) }
    }

    /// Whether a commit block is whole, and so what it commits, where that has one sum.
    fn commits(&self, bytes: &[u8], sum: u32) -> bool {
        match self.head.sums {
            Sums::None => true,
            Sums::Whole => match (bytes[12], bytes[13], big(bytes, 16)) {
                (0, 0, 0) => true,
                (kind, len, stored) => (kind, len, stored) == (1, 4, sum),
            },
            Sums::Short(seed) | Sums::Long(seed) => {
                // The rest is zeros, which may have come no further than the first sector.
                let mut begin = bytes.to_vec();
                begin[64..].fill(0);
                fits(seed, bytes, 16) || fits(seed, &begin, 16)
            }
        }
    }

    /// Those say what changed in words of their own, in place of the transaction that would be next.
    fn has_no_fast_commits(&self, next: u32) -> Found<()> {
        const HEAD: u64 = 9;
        let Some(fast) = self.head.fast else { return Ok(()) };
        let bytes = block(self.raw, &self.blocks, fast)?;
        if number(&bytes, 0, 2) == HEAD && number(&bytes, 8, 4) == u64::from(next) {
            let why = "its newest changes are in the journal as fast commits, which wherry does not read: restore the \
                       disk and mount that";
            return Err(Fault::Lacks(why.to_owned()));
        }
        Ok(())
    }
}

/// Whether the four bytes at `at` are the checksum of these with zeros there.
fn fits(seed: u32, bytes: &[u8], at: usize) -> bool {
    crc32c(crc32c(crc32c(seed, &bytes[..at]), &[0; 4]), &bytes[at + 4..]) == big(bytes, at)
}

fn crc32_be(from: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32_BE.digest_with_initial(from);
    digest.update(bytes);
    digest.finalize()
}

/// A big-endian number of so many bytes.
fn number_be(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes.get(at..at + len).unwrap_or_default().iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn big(bytes: &[u8], at: usize) -> u32 {
    number_be(bytes, at, 4) as u32
}

fn broken(what: &str) -> Fault {
    Fault::broken(format!("its journal {what}, and was not replayed"))
}

fn too_much() -> Fault {
    Fault::Lacks("its journal was not replayed, and has more than wherry reads".to_owned())
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;

use super::super::bytes::Window;
use super::super::raw::crc32c;
use super::super::replayed;
use super::*;
use std::process::Command;
use std::sync::Arc;

const BLOCK: usize = 1024;
/// What is newer in these tests: blocks that hold nothing.
const FREE: u64 = 6000;

/// Features of a journal.
const WIDE: u32 = 2;
const IN_ADVANCE: u32 = 4;
const SHORT: u32 = 8;
const LONG: u32 = 16;

/// An image whose journal is written here, a transaction after the other.
struct Disk {
    image: Vec<u8>,
    blocks: Vec<usize>,
    /// Where the log goes round.
    last: usize,
    compatible: u32,
    incompatible: u32,
    next: usize,
    sequence: u32,
    /// Of the transaction.
    sum: u32,
    time: u64,
}

impl Disk {
    fn new(kind: &str, compatible: u32, incompatible: u32) -> Self {
        Self::with(1, kind, compatible, incompatible)
    }

    /// With a journal of so many MiB.
    fn with(mib: u64, kind: &str, compatible: u32, incompatible: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::File::create(&path).unwrap().set_len((7 + mib) << 20).unwrap();
        let journal = format!("size={mib}");
        let made =
            Command::new("mke2fs").args(["-q", "-F", "-b", "1024", "-J", &journal, "-t", kind]).arg(&path).output();
        let made = made.expect("mke2fs is there: scripts/test installs it");
        assert!(made.status.success(), "{made:?}");
        let image = std::fs::read(&path).unwrap();
        let raw = Raw::new(Window::whole(Arc::new(image.clone()))).unwrap();
        let blocks = raw.journal(8).unwrap();
        let blocks: Vec<usize> = (0..blocks.len).map(|n| blocks.at(n).unwrap() as usize).collect();
        Self { image, last: blocks.len(), blocks, compatible, incompatible, next: 0, sequence: 0, sum: !0, time: 100 }
    }

    /// The journal goes on from here.
    fn from(mut self, next: usize, sequence: u32) -> Self {
        (self.next, self.sequence) = (next, sequence);
        for (at, value) in [(24, sequence), (28, next as u32), (36, self.compatible), (40, self.incompatible)] {
            self.head(at, value);
        }
        self
    }

    /// Sets a field in the first block of the journal.
    fn head(&mut self, at: usize, value: u32) {
        let start = self.blocks[0] * BLOCK;
        let head = &mut self.image[start..start + BLOCK];
        head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        head[80] = 4;
        head[252..256].fill(0);
        let sum = crc32c(!0, head);
        head[252..256].copy_from_slice(&sum.to_be_bytes());
    }

    fn seed(&self) -> Option<u32> {
        let head = self.blocks[0] * BLOCK;
        (self.incompatible & (SHORT | LONG) != 0).then(|| crc32c(!0, &self.image[head + 48..head + 64]))
    }

    fn write(&mut self, bytes: &[u8]) {
        let at = self.blocks[self.next] * BLOCK;
        self.image[at..at + BLOCK].copy_from_slice(bytes);
        self.next = if self.next + 1 == self.last { 1 } else { self.next + 1 };
    }

    /// A block of the journal's own, with its checksum at `sum`.
    fn own(&mut self, kind: u32, content: &[u8], sum: usize) {
        let mut bytes = [MAGIC, kind, self.sequence].map(u32::to_be_bytes).concat();
        bytes.extend_from_slice(content);
        bytes.resize(BLOCK, 0);
        if let Some(seed) = self.seed() {
            let value = crc32c(seed, &bytes).to_be_bytes();
            bytes[sum..sum + 4].copy_from_slice(&value);
        }
        if kind == DESCRIPTOR {
            self.sum = crc32_be(self.sum, &bytes);
        }
        self.write(&bytes);
    }

    /// Blocks that are newer: of this byte each, which may begin with the magic.
    fn newer(&mut self, blocks: &[(u64, u8, bool)]) {
        let mut tags = Vec::new();
        let contents: Vec<Vec<u8>> = blocks
            .iter()
            .map(|(_, byte, escaped)| [&vec![if *escaped { 0 } else { *byte }; 4][..], &[*byte; BLOCK - 4]].concat())
            .collect();
        for (n, ((block, _, escaped), content)) in blocks.iter().zip(&contents).enumerate() {
            // The first has the UUID behind it, the others say that theirs is the same.
            let flags = u32::from(*escaped) | if n > 0 { 2 } else { 0 } | if n + 1 == blocks.len() { 8 } else { 0 };
            let sum = self.seed().map_or(0, |seed| crc32c(crc32c(seed, &self.sequence.to_be_bytes()), content));
            tags.extend((*block as u32).to_be_bytes());
            let high = ((*block >> 32) as u32).to_be_bytes();
            if self.incompatible & LONG != 0 {
                tags.extend([flags.to_be_bytes(), high, sum.to_be_bytes()].concat());
            } else {
                tags.extend([(sum as u16).to_be_bytes(), (flags as u16).to_be_bytes()].concat());
                if self.incompatible & WIDE != 0 {
                    tags.extend(high);
                }
                // The kernel keeps room for a checksum that it does not put there.
                tags.extend(vec![0; if self.incompatible & SHORT != 0 { 2 } else { 0 }]);
            }
            tags.extend(vec![0xee; if n == 0 { 16 } else { 0 }]);
        }
        self.own(DESCRIPTOR, &tags, BLOCK - 4);
        for content in contents {
            self.sum = crc32_be(self.sum, &content);
            self.write(&content);
        }
    }

    fn revoke(&mut self, blocks: &[u64]) {
        let wide = self.incompatible & WIDE != 0;
        let entries: Vec<u8> = blocks
            .iter()
            .flat_map(|block| if wide { block.to_be_bytes().to_vec() } else { (*block as u32).to_be_bytes().to_vec() })
            .collect();
        let used = (16 + entries.len() as u32).to_be_bytes();
        self.own(REVOKE, &[&used[..], &entries].concat(), BLOCK - 4);
    }

    fn commit(&mut self) {
        let mut content = [0; 52];
        if self.compatible & 1 != 0 {
            content[..2].copy_from_slice(&[1, 4]);
            content[4..8].copy_from_slice(&self.sum.to_be_bytes());
        }
        content[36..44].copy_from_slice(&self.time.to_be_bytes());
        self.own(COMMIT, &content, 16);
        self.sequence = self.sequence.wrapping_add(1);
        self.sum = !0;
        self.time += 1;
    }

    /// One transaction.
    fn transaction(&mut self, newer: &[(u64, u8)], revoked: &[u64]) {
        if !revoked.is_empty() {
            self.revoke(revoked);
        }
        if !newer.is_empty() {
            let newer: Vec<_> = newer.iter().map(|(block, byte)| (*block, *byte, false)).collect();
            self.newer(&newer);
        }
        self.commit();
    }

    /// Damages the block of the log that is so many before the next.
    fn damage(&mut self, before: usize, at: usize) {
        let place = self.blocks[self.next - before] * BLOCK + at;
        self.image[place] ^= 0x10;
    }

    fn window(&self) -> Found<Window> {
        let mut image = self.image.clone();
        image[1024 + 96] |= 4;
        let sum = crc32c(!0, &image[1024..2044]).to_le_bytes();
        image[2044..2048].copy_from_slice(&sum);
        replayed::window(Window::whole(Arc::new(image)))
    }

    /// The last byte of each of the first free blocks.
    #[track_caller]
    fn shows(&self, bytes: &[u8]) {
        let window = self.window().unwrap();
        let shown: Vec<u8> = (FREE..FREE + bytes.len() as u64)
            .map(|block| *window.take(block * BLOCK as u64, BLOCK).unwrap().unwrap().last().unwrap())
            .collect();
        assert_eq!(shown, bytes);
    }

    #[track_caller]
    fn fails(&self, words: &str) {
        match self.window() {
            Err(Fault::Broken(why) | Fault::Lacks(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

/// With all forms that tags and checksums have; the journal in lists of blocks and in extents.
fn each(test: impl Fn(&dyn Fn() -> Disk)) {
    let forms =
        [(0, 1), (0, 1 | WIDE), (1, 1), (0, 1 | SHORT), (0, 1 | SHORT | WIDE), (0, 1 | LONG), (0, 1 | LONG | WIDE)];
    for ((compatible, incompatible), kind) in forms.into_iter().zip(["ext3", "ext4"].into_iter().cycle()) {
        test(&|| Disk::new(kind, compatible, incompatible));
    }
}

#[test]
fn a_log_goes_round_and_its_numbers_too() {
    each(|new| {
        let disk = new();
        let last = disk.last;
        // It ends within a descriptor's blocks, before a commit block, and exactly.
        for (before, sequence) in [(2, 7), (4, u32::MAX - 1), (5, u32::MAX)] {
            let mut disk = new().from(last - before, sequence);
            disk.transaction(&[(FREE, 1), (FREE + 1, 1), (FREE + 2, 1)], &[]);
            disk.transaction(&[(FREE + 1, 2)], &[]);
            disk.transaction(&[(FREE + 2, 3)], &[]);
            assert!(disk.next < last - before, "it went round");
            disk.shows(&[1, 2, 3, 0]);
        }
    });
}

#[test]
fn what_is_revoked_does_not_come_back_from_any_transaction_before() {
    each(|new| {
        let mut disk = new().from(1, u32::MAX);
        disk.transaction(&[(FREE, 1), (FREE + 1, 1), (FREE + 2, 1)], &[]);
        disk.transaction(&[(FREE + 3, 1)], &[]);
        disk.transaction(&[(FREE + 4, 1)], &[FREE, FREE + 1, FREE + 4]);
        disk.transaction(&[(FREE + 1, 2)], &[]);
        disk.shows(&[0, 2, 1, 1, 0]);
    });
}

#[test]
fn what_looks_like_a_block_of_the_journal_is_made_whole_again() {
    each(|new| {
        let mut disk = new().from(1, 1);
        disk.newer(&[(FREE, 1, true), (FREE + 1, 2, false)]);
        disk.commit();
        let window = disk.window().unwrap();
        let at = FREE * BLOCK as u64;
        let expected = [&MAGIC.to_be_bytes()[..], &[1; BLOCK - 4], &[2; BLOCK]].concat();
        assert_eq!(window.take(at, 2 * BLOCK).unwrap().unwrap(), expected);
        // From the middle of those bytes too, and from before them.
        assert_eq!(window.take(at + 2, 7).unwrap().unwrap(), expected[2..9]);
        assert_eq!(window.take(at - 2, 5).unwrap().unwrap(), [&[0, 0], &expected[..3]].concat());
    });
}

#[test]
fn what_was_not_committed_is_not_there() {
    each(|new| {
        let mut disk = new().from(1, 1);
        disk.transaction(&[(FREE, 1)], &[]);
        disk.revoke(&[FREE]);
        disk.newer(&[(FREE, 2, false), (FREE + 1, 2, false)]);
        disk.shows(&[1, 0]);
        // A commit block of another transaction ends nothing.
        disk.sequence += 1;
        disk.commit();
        disk.shows(&[1, 0]);
    });
}

#[test]
fn what_is_damaged_is_not_shown_as_if_it_were_older() {
    each(|new| {
        let mut disk = new().from(1, 1);
        disk.transaction(&[(FREE, 1)], &[]);
        disk.transaction(&[(FREE, 2)], &[]);
        // Of the last one: its commit block, what is in it, and its tags. Where there are no checksums nobody knows.
        let (is_summed, is_whole) = (disk.seed().is_some(), disk.compatible & 1 != 0);
        for (before, at, words) in
            [(1, 17, "damaged transaction (2)"), (2, 500, "damaged"), (3, 700, "damaged transaction (2)")]
        {
            if is_summed || is_whole {
                disk.damage(before, at);
                disk.fails(words);
                disk.damage(before, at);
            }
        }
        disk.shows(&[2]);
        if is_summed {
            // What is revoked need not be whole.
            disk.damage(2, 500);
            disk.transaction(&[(FREE + 1, 3)], &[FREE]);
            disk.shows(&[0, 3]);
            disk.damage(4, 30);
            disk.fails("damaged transaction (3)");
        }
    });
}

#[test]
fn what_an_earlier_journal_left_there_is_no_damage() {
    let mut disk = Disk::new("ext4", 0, 1 | WIDE | LONG).from(1, 1);
    disk.transaction(&[(FREE, 1)], &[]);
    disk.time = 5;
    disk.transaction(&[(FREE, 2)], &[]);
    disk.damage(3, 700);
    disk.shows(&[1]);
}

#[test]
fn a_commit_in_advance_ends_the_journal_where_what_it_commits_is_not_whole() {
    let mut disk = Disk::new("ext3", 1, 1 | IN_ADVANCE).from(1, 1);
    disk.transaction(&[(FREE, 1)], &[]);
    disk.transaction(&[(FREE, 2)], &[]);
    disk.damage(2, 500);
    disk.shows(&[1]);
    disk.transaction(&[(FREE, 3)], &[]);
    disk.fails("damaged transaction (3)");
}

#[test]
fn a_commit_block_of_which_one_sector_came_is_one() {
    let mut disk = Disk::new("ext4", 0, 1 | WIDE | LONG).from(1, 1);
    disk.transaction(&[(FREE, 1)], &[]);
    disk.damage(1, 600);
    disk.shows(&[1]);
}

#[test]
fn a_superblock_in_the_journal_is_as_a_replay_leaves_it() {
    for kind in ["ext3", "ext4"] {
        let mut disk = Disk::new(kind, 0, 1 | WIDE | LONG).from(1, 1);
        let mut superblock = disk.image[1024..2048].to_vec();
        superblock[96] |= 4;
        // The label; the checksum is not made right.
        superblock[120..125].copy_from_slice(b"newer");
        disk.newer(&[(1, 0, false)]);
        // In place of the block that was written with it.
        let at = disk.blocks[disk.next - 1] * BLOCK;
        disk.image[at..at + BLOCK].copy_from_slice(&superblock);
        let seed = disk.seed().unwrap();
        let descriptor = disk.blocks[disk.next - 2] * BLOCK;
        let sum = crc32c(crc32c(seed, &disk.sequence.to_be_bytes()), &superblock).to_be_bytes();
        disk.image[descriptor + 24..descriptor + 28].copy_from_slice(&sum);
        disk.image[descriptor + BLOCK - 4..descriptor + BLOCK].fill(0);
        let sum = crc32c(seed, &disk.image[descriptor..descriptor + BLOCK]).to_be_bytes();
        disk.image[descriptor + BLOCK - 4..descriptor + BLOCK].copy_from_slice(&sum);
        disk.commit();
        let window = disk.window().unwrap();
        let left = window.take(1024, 1024).unwrap().unwrap();
        assert_eq!((&left[120..125], left[96] & 4), (&b"newer"[..], 0));
        if kind == "ext4" {
            assert_eq!(left[1020..], crc32c(!0, &left[..1020]).to_le_bytes());
        }
        assert_eq!(window.take(1022, 100).unwrap().unwrap()[2..], left[..98], "not from its begin");
    }
}

#[test]
fn a_journal_that_is_not_read_is_said() {
    let new = || {
        let mut disk = Disk::new("ext4", 0, 1 | WIDE | LONG).from(1, 1);
        disk.transaction(&[(FREE, 1)], &[]);
        disk
    };
    let with = |at: usize, value: u32| {
        let mut disk = new();
        disk.head(at, value);
        disk
    };
    let last = new().last as u32;
    for (at, value) in [(16, last + 1), (16, u32::MAX), (20, 0), (20, last), (28, last), (28, u32::MAX)] {
        with(at, value).fails("is not where it says");
    }
    for (at, value) in [(0, 1), (4, 7), (12, 4096)] {
        with(at, value).fails("does not begin as one");
    }
    with(40, 0x80 | LONG).fails("features that wherry does not know");
    with(40, SHORT | LONG).fails("two kinds");
    let mut disk = new();
    let head = disk.blocks[0] * BLOCK;
    disk.image[head + 100] ^= 1;
    disk.fails("wrong checksum");
    let mut disk = new();
    disk.image[1024 + 228] = 1;
    disk.fails("on another disk");
    let mut disk = new();
    disk.image[1024 + 92] &= !4;
    disk.fails("it has none");
    let mut disk = new();
    disk.revoke(&[0; 100]);
    let at = disk.blocks[disk.next - 1] * BLOCK;
    disk.image[at + 12] = 1;
    disk.fails("more than a block can name");
    // A block beyond the end of the disk.
    let mut disk = new();
    disk.transaction(&[(1 << 40, 1)], &[]);
    disk.fails("damaged");
    disk.transaction(&[(FREE, 2)], &[1 << 40]);
    disk.shows(&[2]);
}

#[test]
fn a_log_without_an_end_ends_where_it_has_gone_round() {
    let mut disk = Disk::new("ext3", 0, 1).from(1, 1);
    for _ in 0..disk.last - 1 {
        disk.commit();
    }
    disk.shows(&[0]);
    let mut disk = disk.from(1, 1);
    for _ in 0..disk.last / 100 + 1 {
        let newer: Vec<_> = (0..100).map(|n| (FREE + n, 1, false)).collect();
        disk.newer(&newer);
    }
    disk.shows(&[0]);
}

#[test]
fn fast_commits_that_a_replay_would_read_are_said() {
    let fast = |mib: u64, kept: u32, blocks: usize| {
        let mut disk = Disk::with(mib, "ext4", 0, 1 | WIDE | LONG | 32);
        disk.head(84, kept);
        disk.last -= blocks;
        let start = disk.last - 2;
        let mut disk = disk.from(start, 1);
        disk.transaction(&[(FREE, 1), (FREE + 1, 1)], &[]);
        disk.shows(&[1, 1]);
        disk
    };
    // One that is too small has none.
    fast(1, 2, 0);
    for (kept, blocks) in [(0, 256), (100, 100)] {
        let mut disk = fast(4, kept, blocks);
        let head = disk.blocks[disk.last + 1] * BLOCK;
        // Its tag, the length of what follows, features, and the transaction that it follows.
        disk.image[head..head + 12].copy_from_slice(&[9, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        disk.shows(&[1, 1]);
        disk.image[head + 8] = 2;
        disk.fails("restore the disk and mount that");
    }
}

#[test]
fn damage_of_any_kind_is_no_danger() {
    each(|new| {
        let last = new().last;
        let mut disk = new().from(last - 6, 1);
        disk.transaction(&[(FREE, 1), (FREE + 1, 1)], &[]);
        disk.transaction(&[(FREE + 1, 2)], &[FREE]);
        disk.transaction(&[(1, 2)], &[FREE + 1]);
        let mut random = 7_u64;
        let mut next = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % most
        };
        let places: Vec<usize> =
            [0, 1, 2, 3, 4, 5, 6].into_iter().chain(disk.last - 6..disk.last).map(|n| disk.blocks[n] * BLOCK).collect();
        let whole = disk.image.clone();
        for _ in 0..30 {
            for _ in 0..1 + next(4) {
                let at = places[next(places.len())] + if next(2) == 0 { next(100) } else { next(BLOCK) };
                disk.image[at] = next(256) as u8;
            }
            if let Ok(window) = disk.window() {
                assert_eq!(window.take(0, whole.len()).unwrap().unwrap().len(), whole.len());
            }
            disk.image.copy_from_slice(&whole);
        }
    });
}

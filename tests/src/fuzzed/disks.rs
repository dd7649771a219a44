//! Disks: partition tables, and the filesystems behind them.

use std::ops::Range;
use std::sync::Arc;
use wherry::tree::inside::bytes::{Bytes, Window};
use wherry::tree::inside::{DiskView, Whose, partitions};
use wherry::tree::path::TreePath;
use wherry::tree::view::{Node, View};
use wherry_repo::format::clear::checksum;
use wherry_repo::{Result, Timestamp};

#[derive(Debug)]
struct Image(Vec<u8>);

impl Bytes for Image {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).expect("an image is in memory");
        out.copy_from_slice(&self.0[from..from + out.len()]);
        Ok(())
    }
}

/// Where a GPT may have its headers: the length of a sector, and which one it is.
fn headers(size: usize) -> [(usize, usize); 4] {
    let last = |sector: usize| (size / sector).saturating_sub(1);
    [(512, 1), (512, last(512)), (4096, 1), (4096, last(4096))]
}

/// The same disk with a header here whose checksums fit, where there is one, and with no other: little is read behind those
/// that do not fit, and nothing of those behind one that does.
fn with_checksums(bytes: &[u8], here: (usize, usize)) -> Option<Vec<u8>> {
    const MAGIC: &[u8] = b"EFI PART";
    let (sector, number) = here;
    let head = sector * number;
    let mut disk = bytes.to_vec();
    for at in headers(bytes.len()).map(|(sector, number)| sector * number).into_iter().filter(|at| *at != head) {
        if disk.get(at..).is_some_and(|rest| rest.starts_with(MAGIC)) {
            disk[at] = 0;
        }
    }
    let fields = disk.get(head..head + 512).filter(|fields| fields.starts_with(MAGIC))?.to_vec();
    let field = |at: usize| u32::from_le_bytes([fields[at], fields[at + 1], fields[at + 2], fields[at + 3]]) as usize;
    let (length, start) = (field(12), field(72).checked_mul(sector)?);
    let entries = disk.get(start..start.checked_add(field(80).checked_mul(field(84))?)?)?;
    let sum = checksum(entries).to_le_bytes();
    disk[head + 88..head + 92].copy_from_slice(&sum);
    disk[head + 24..head + 32].copy_from_slice(&(number as u64).to_le_bytes());
    disk[head + 16..head + 20].fill(0);
    let sum = checksum(disk.get(head..head.checked_add(length)?)?).to_le_bytes();
    disk[head + 16..head + 20].copy_from_slice(&sum);
    Some(disk)
}

pub(super) fn partition_table(bytes: &[u8]) -> bool {
    let mended = headers(bytes.len()).into_iter().filter_map(|here| with_checksums(bytes, here));
    mended.fold(table(bytes), |found, disk| found | table(&disk))
}

fn table(bytes: &[u8]) -> bool {
    let size = bytes.len() as u64;
    let table = partitions::read(&Window::whole(Arc::new(Image(bytes.to_vec())))).expect("memory can be read");
    let partitions = table.map(|table| table.partitions).unwrap_or_default();
    let is_there = |bytes: &Range<u64>| bytes.start < bytes.end && bytes.end <= size;
    assert!(partitions.iter().all(|partition| is_there(&partition.bytes)), "it is on the disk");
    !partitions.is_empty()
}

/// Bytes that are read of a file, at its begin and at its end.
const PIECE: u64 = 4096;

/// Partitions, and the filesystems in them: two levels of directories, begin and end of their files. True when a filesystem has
/// a file that can be read.
pub(super) fn disk(bytes: &[u8]) -> bool {
    /// Entries on one level.
    const MOST: usize = 64;
    let whose = Whose { snapshot: String::new(), time: Timestamp(0), image: TreePath::new(b"") };
    let Ok(mut view) = DiskView::open(Arc::new(Image(bytes.to_vec())), whose) else { return false };
    // The end of what is much longer than the disk is found by going round in circles, which takes its time.
    let longest = 16 * bytes.len() as u64;
    let mut folders = vec![TreePath::new(b"")];
    let mut is_read = false;
    for depth in 0..3 {
        let mut found = Vec::new();
        for folder in &folders {
            if found.len() >= MOST {
                break;
            }
            let (nodes, is_whole) = listed(&mut view, folder, MOST - found.len());
            let (again, is_again) = listed(&mut view, folder, MOST - found.len());
            assert!(!is_whole || !is_again || nodes == again, "{folder}: {nodes:?} is {again:?} the second time");
            found.extend(nodes.iter().map(|node| folder.join(&node.name)));
        }
        for path in &found {
            let size = view.stat(path).ok().map(|node| node.inode.size);
            is_read |= read(&mut view, path, size, 0..PIECE) && depth > 0;
            if let Some(size) = size.filter(|size| (PIECE + 1..longest).contains(size)) {
                read(&mut view, path, Some(size), size - PIECE..size);
            }
        }
        folders = found;
    }
    is_read
}

/// The first entries of a directory, and whether they came without an error.
fn listed(view: &mut DiskView, folder: &TreePath, most: usize) -> (Vec<Node>, bool) {
    let mut nodes = Vec::new();
    let end = view.list(folder, 0, &mut |node| {
        nodes.push(node);
        if nodes.len() < most { Ok(()) } else { Err(std::io::Error::other("enough").into()) }
    });
    let is_whole = end.is_ok() || nodes.len() >= most;
    (nodes, is_whole)
}

/// Reads these bytes: as many as there are by the file's size, or, with an error, fewer. Whether there were any.
fn read(view: &mut DiskView, path: &TreePath, size: Option<u64>, bytes: Range<u64>) -> bool {
    let mut given = 0;
    let end = view.read(path, bytes.clone(), &mut |piece| {
        given += piece.len() as u64;
        Ok(())
    });
    let there = bytes.end.min(size.unwrap_or(u64::MAX)).saturating_sub(bytes.start);
    assert!(given <= there, "{given} bytes of {bytes:?} of {path}, which has {size:?}");
    assert!(
        end.is_err() || size.is_none() || given == there,
        "{given} bytes of {bytes:?} of {path}, which has {size:?}"
    );
    given > 0
}

/// An MBR with one primary and one logical partition.
fn mbr() -> Vec<u8> {
    let mut disk = vec![0; 16 << 10];
    put_slot(&mut disk, 446, 0x83, 1, 4);
    put_slot(&mut disk, 462, 0x05, 8, 16);
    put_slot(&mut disk, 8 * 512 + 446, 0x83, 1, 4);
    for at in [510, 8 * 512 + 510] {
        disk[at..at + 2].copy_from_slice(&[0x55, 0xaa]);
    }
    disk
}

fn put_slot(disk: &mut [u8], at: usize, kind: u8, start: u32, count: u32) {
    disk[at + 4] = kind;
    disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
}

/// Four sectors with a GPT whose header is in this one: entries in the third, which is what the one partition has too.
fn gpt(sector: usize, number: usize) -> Vec<u8> {
    let mut disk = vec![0; 4 * sector];
    put_slot(&mut disk, 446, 0xee, 1, u32::MAX);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let entries = 2;
    let entry = entries * sector;
    disk[entry..entry + 16].fill(7);
    disk[entry + 32] = 2;
    disk[entry + 40] = 2;
    let head = number * sector;
    disk[head..head + 8].copy_from_slice(b"EFI PART");
    for (at, value) in [(8, 0x0001_0000_u32), (12, 92), (72, entries as u32), (80, 2), (84, 128)] {
        disk[head + at..head + at + 4].copy_from_slice(&value.to_le_bytes());
    }
    with_checksums(&disk, (sector, number)).expect("it has that header")
}

/// The ext2 of the corpus with a journal of twelve blocks that was not replayed: it goes round, has a file newer than the
/// filesystem, and revokes what one transaction says in the next.
fn journal() -> Vec<u8> {
    const BLOCK: usize = 1024;
    const FIRST: usize = 28;
    const MAGIC: u32 = 0xc03b_3998;
    let mut disk = include_bytes!("../../../fuzz/corpus/disk/ext2").to_vec();
    let inode = |n: usize| 5 * BLOCK + (n - 1) * 256;
    let content = disk[inode(12) + 40..inode(12) + 44].to_vec();
    let content = u32::from_le_bytes(content.try_into().expect("it is a number"));
    // The journal is there, was not replayed, and is in inode 8: a file of these blocks.
    for (at, value) in [(92, 4), (96, 4), (224, 8)] {
        disk[BLOCK + at] |= value;
    }
    disk[inode(8)..inode(8) + 2].copy_from_slice(&0x8180_u16.to_le_bytes());
    disk[inode(8) + 4..inode(8) + 8].copy_from_slice(&(12 * BLOCK as u32).to_le_bytes());
    disk[inode(8) + 26] = 1;
    for n in 0..12 {
        disk[inode(8) + 40 + 4 * n] = (FIRST + n) as u8;
    }
    let (free, start) = (FIRST as u32 + 12, 8);
    let head = [MAGIC, 4, 0, BLOCK as u32, 12, 1, 5, start, 0, 0, 1];
    let log = [
        // Two tags, the second of which is the last. A UUID is behind none.
        (8, &[MAGIC, 1, 5, content, 2, free, 10][..]),
        (9, &[u32::from_be_bytes(*b"newe")]),
        (11, &[MAGIC, 2, 5]),
        (1, &[MAGIC, 5, 6, 20, free]),
        (2, &[MAGIC, 2, 6]),
    ];
    for (n, words) in std::iter::once((0, &head[..])).chain(log) {
        let at = (FIRST + n) * BLOCK;
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        disk[at..at + words.len()].copy_from_slice(&words);
    }
    disk
}

pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("disk", "ext3-journal", journal()),
        ("partitions", "mbr", mbr()),
        ("partitions", "gpt-second", gpt(512, 3)),
        ("partitions", "gpt-4096", gpt(4096, 1)),
        ("partitions", "gpt-4096-second", gpt(4096, 3)),
    ]
}

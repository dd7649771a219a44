//! The bytes of volumes and snapshots: sparse files, copied with their holes and told apart block by block.

use anyhow::Context;
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that are read and written at once.
const PIECE: usize = 1 << 20;

/// What the old bytes of a new volume are: no filesystem takes them for its own.
const OLD: &[u8] = b"old bytes of a volume that somebody else has had before. ";

/// Makes an image of this size, all hole.
pub(crate) fn create(path: &Path, size: u64) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.with_context(|| format!("making {}", path.display()))?;
    file.set_len(size).with_context(|| format!("making {} {size} bytes long", path.display()))?;
    Ok(file)
}

/// Copies an image, holes too, into a new one that is at least as large.
pub(crate) fn copy(from: &Path, to: &Path, size: u64) -> anyhow::Result<()> {
    let source = open(from)?;
    let target = create(to, 0)?;
    // Where the filesystem cannot share data, it is copied.
    let shared = ioctl_ficlone(&target, &source).is_ok();
    target.set_len(size).with_context(|| format!("making {} {size} bytes long", to.display()))?;
    if shared {
        return Ok(());
    }
    let mut buffer = vec![0; PIECE];
    for segment in segments(&source)? {
        let mut at = segment.start;
        while at < segment.end {
            let length = (segment.end - at).min(PIECE as u64) as usize;
            source.read_exact_at(&mut buffer[..length], at).with_context(|| format!("reading {}", from.display()))?;
            target.write_all_at(&buffer[..length], at).with_context(|| format!("writing {}", to.display()))?;
            at += length as u64;
        }
    }
    Ok(())
}

/// Fills a range of an image with old bytes.
pub(crate) fn fill(path: &Path, range: Range<u64>) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    let buffer: Vec<u8> = OLD.iter().copied().cycle().take(PIECE).collect();
    let mut at = range.start;
    while at < range.end {
        let length = (range.end - at).min(PIECE as u64) as usize;
        file.write_all_at(&buffer[..length], at).with_context(|| format!("writing {}", path.display()))?;
        at += length as u64;
    }
    Ok(())
}

/// The parts of a file that are no holes, in order.
fn segments(file: &File) -> anyhow::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(found), // no data from there on
            Err(e) => return Err(e).context("looking for the data of an image"),
        };
        at = seek(file, SeekFrom::Hole(start)).context("looking for the holes of an image")?;
        found.push(start..at);
    }
}

/// The numbers of the blocks that are allocated, at least in part.
pub(crate) fn allocated(image: &Path, block_size: u64) -> anyhow::Result<Vec<u64>> {
    let mut blocks: Vec<u64> = Vec::new();
    for segment in segments(&open(image)?)? {
        // Two segments may meet in one block.
        let from = (segment.start / block_size).max(blocks.last().map_or(0, |last| last + 1));
        blocks.extend(from..segment.end.div_ceil(block_size));
    }
    Ok(blocks)
}

/// A hash of each block that is not zero.
pub(crate) fn hashes(image: &Path, block_size: u64) -> anyhow::Result<BTreeMap<u64, String>> {
    let file = open(image)?;
    let mut buffer = vec![0; block_size as usize];
    let mut hashes = BTreeMap::new();
    for block in allocated(image, block_size)? {
        read_block(&file, block, &mut buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            hashes.insert(block, blake3::hash(&buffer).to_hex().to_string());
        }
    }
    Ok(hashes)
}

/// The block as it is in the file; zeros after its end.
fn read_block(file: &File, block: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut at = block * buffer.len() as u64;
    let mut rest = buffer;
    while !rest.is_empty() {
        let length = file.read_at(rest, at).context("reading an image")?;
        if length == 0 {
            rest.fill(0);
            break;
        }
        at += length as u64;
        rest = &mut rest[length..];
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

//! Disk images among the files: which files are some, and reading one in chunks of one size, as a disk is read. So it shares
//! them with the same disk backed up as a volume. Section *Content of files* of `repo/docs/format.md`.

use super::Shared;
use super::read::{Data, Once, Stop, fill, reaches};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use wherry_repo::format::tree::Known;
use wherry_repo::{ImageWriter, Put, Scratch};

/// No file that is shorter is a disk image (bytes).
const LEAST: u64 = 1 << 20;

/// A file that is longer (bytes) and has holes is a disk image, whatever it begins with.
const SPARSE: u64 = 1 << 30;

/// So much of its begin says what a file is (bytes): up to the header of a GPT on a disk with sectors of 4096 bytes.
const HEAD: usize = 4096 + 8;

/// True for a file that is stored as a disk image: `size` bytes long, of which so many are `allocated`, that begins with
/// `head`.
fn is_image(size: u64, allocated: u64, head: &[u8]) -> bool {
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let begins = [&b"QFI\xfb"[..], b"KDMV", b"COWD"].iter().any(|magic| has(0, magic));
    let table = has(510, b"\x55\xaa") || has(512, b"EFI PART") || has(4096, b"EFI PART");
    size >= LEAST && (begins || table || size > SPARSE && allocated < size)
}

/// Whether an open file of `size` bytes is one.
pub(super) fn looks_like_one(file: &File, size: u64) -> io::Result<bool> {
    if size < LEAST {
        return Ok(false);
    }
    let mut head = [0; HEAD];
    fill(file, &mut head, 0)?;
    Ok(is_image(size, file.metadata()?.blocks().saturating_mul(512), &head))
}

/// A chunk that is being filled.
struct Filling<'a, 'b> {
    shared: &'b Shared<'a>,
    image: ImageWriter<'a>,
    scratch: &'b mut Scratch,
    /// Its number, and bytes it has; `None`: there is none yet.
    chunk: Option<(u64, usize)>,
    bytes: &'b mut [u8],
}

impl Filling<'_, '_> {
    /// Stores the chunk, if there is one.
    fn store(&mut self) -> Result<(), Stop> {
        let Some((number, len)) = self.chunk.take() else { return Ok(()) };
        if self.image.put(self.scratch, number, &self.bytes[..len])? == Put::New {
            self.shared.progress.add_stored(len as u64);
        }
        Ok(())
    }
}

impl<'a> Shared<'a> {
    /// Reads what has data of a disk image of `size` bytes, whatever the file has become meanwhile. `ranges` are those that have
    /// data.
    pub(super) fn read_image(
        &self,
        file: &File,
        size: u64,
        ranges: impl Iterator<Item = io::Result<Range<u64>>>,
        parent: Option<&Known>,
        scratch: &mut Scratch,
    ) -> Result<Once, Stop> {
        let image = self.writer.image(size, parent)?;
        let unit = image.chunk_size();
        let mut window = self.window()?;
        let mut filling = Filling { shared: self, image, scratch, chunk: None, bytes: &mut window.bytes };
        let (mut data, mut last, mut whole) = (0, 0, true);
        for range in ranges {
            let Range { start: mut at, end } = range?;
            data += end - at;
            last = end;
            while at < end {
                let number = at / unit as u64;
                let first = number * unit as u64;
                if filling.chunk.is_none_or(|(known, _)| known != number) {
                    filling.store()?;
                    let len = (size - first).min(unit as u64) as usize;
                    // What is between the ranges is zero.
                    filling.bytes[..len].fill(0);
                    filling.chunk = Some((number, len));
                }
                let stop = end.min(first + unit as u64);
                self.pay(stop - at)?;
                whole &= fill(file, &mut filling.bytes[(at - first) as usize..(stop - first) as usize], at)?;
                at = stop;
            }
        }
        filling.store()?;
        whole &= reaches(file, last..size)?;
        Ok(Once { data: Data::Stored(filling.image.finish()?), hole: size - data, whole })
    }
}

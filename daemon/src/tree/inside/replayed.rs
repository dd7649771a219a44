//! A filesystem whose journal was not replayed, as it is once that is done: a disk that was copied while in use.
//!
//! Nothing is replayed. Who reads through this window gets the blocks that the journal has newer from there, and a
//! superblock that says that nothing is left to do.

use super::bytes::{Bytes, Window};
use super::filesystem::{Fault, Found};
use super::journal::{self, MAGIC, Newest};
use super::raw::{Raw, crc32c, number};
use std::sync::Arc;
use wherry_repo::{Error, Result};

/// Where the superblock is (bytes), and its length.
const SUPERBLOCK: u64 = 1024;
const LEN: usize = 1024;
/// Where its features are: of those that all may ignore, none, and those that only read.
const COMPATIBLE: usize = 92;
const INCOMPATIBLE: usize = 96;
const READ_ONLY: usize = 100;
/// Where its checksum is, if it has one.
const SUM: usize = 1020;

/// This window as it is with the journal replayed; itself, where there is nothing to replay.
pub(super) fn window(disk: Window) -> Found<Window> {
    const HAS_JOURNAL: u64 = 4;
    const TO_BE_REPLAYED: u64 = 4;
    let superblock = disk.take(SUPERBLOCK, LEN)?.ok_or_else(|| Fault::broken("it is too small"))?;
    if number(&superblock, INCOMPATIBLE, 4) & TO_BE_REPLAYED == 0 {
        return Ok(disk);
    }
    if has_sum(&superblock) && sum(&superblock) != number(&superblock, SUM, 4) {
        return Err(Fault::broken("the checksum of its superblock does not fit"));
    }
    let (inode, device) = (number(&superblock, 224, 4), number(&superblock, 228, 4));
    if number(&superblock, COMPATIBLE, 4) & HAS_JOURNAL == 0 || inode == 0 && device == 0 {
        return Err(Fault::broken("its journal was not replayed, and it has none"));
    }
    if device != 0 {
        let why = "its journal is on another disk, and was not replayed";
        return Err(Fault::Lacks(why.to_owned()));
    }
    let raw = Raw::new(disk.clone())?;
    let newest = journal::newest(&raw, inode)?;
    let mut replayed = Replayed { disk, block: raw.block, newest, superblock: Vec::new() };
    let mut left = vec![0; LEN];
    replayed.blocks(SUPERBLOCK, &mut left)?;
    if left[24..28] != superblock[24..28] {
        return Err(Fault::broken("its journal has a superblock with blocks of another size"));
    }
    left[INCOMPATIBLE] &= !(TO_BE_REPLAYED as u8);
    if has_sum(&left) {
        let sum = (sum(&left) as u32).to_le_bytes();
        left[SUM..].copy_from_slice(&sum);
    }
    replayed.superblock = left;
    Ok(Window::whole(Arc::new(replayed)))
}

fn has_sum(superblock: &[u8]) -> bool {
    number(superblock, READ_ONLY, 4) & 0x400 != 0
}

fn sum(superblock: &[u8]) -> u64 {
    crc32c(!0, &superblock[..SUM]).into()
}

/// The bytes of that window.
#[derive(Debug)]
struct Replayed {
    /// As it is. Its meter counts all that is read.
    disk: Window,
    /// Length of a block (bytes).
    block: u64,
    newest: Newest,
    /// As a replay leaves it.
    superblock: Vec<u8>,
}

impl Replayed {
    /// Fills `out`, each block from where it is newest.
    fn blocks(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut offset, mut out) = (offset, out);
        while !out.is_empty() {
            let (block, within) = (offset / self.block, offset % self.block);
            let (len, from) = match self.newest.range(block..).next() {
                Some((next, newer)) if *next == block => (self.block - within, newer.at * self.block + within),
                Some((next, _)) => (next * self.block - offset, offset),
                None => (u64::MAX, offset),
            };
            let (piece, rest) = out.split_at_mut(len.min(out.len() as u64) as usize);
            self.disk.read(from, piece)?.ok_or_else(|| Error::internal("a read goes beyond the end of the disk"))?;
            if self.newest.get(&block).is_some_and(|newer| newer.escaped) {
                overlay(within, piece, 0, &MAGIC.to_be_bytes());
            }
            offset += piece.len() as u64;
            out = rest;
        }
        Ok(())
    }
}

impl Bytes for Replayed {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.blocks(offset, out)?;
        overlay(offset, out, SUPERBLOCK, &self.superblock);
        Ok(())
    }
}

/// Lays bytes that are at `at` over those of `out`, which are at `offset`, as far as they are the same.
fn overlay(offset: u64, out: &mut [u8], at: u64, bytes: &[u8]) {
    let (start, end) = (offset.max(at), (offset + out.len() as u64).min(at + bytes.len() as u64));
    if start < end {
        let of = |from: u64| (start - from) as usize..(end - from) as usize;
        out[of(offset)].copy_from_slice(&bytes[of(at)]);
    }
}

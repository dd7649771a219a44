//! Partition tables: MBR with its logical partitions, and GPT. Read only, and nothing that they say is believed before it
//! was checked against the size of the disk.

use super::bytes::Window;
use crc32fast::hash;
use std::ops::Range;
use wherry_repo::Result;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts: 1 to 4 and from 5 on the logical ones, or its place in a GPT, from 1.
    pub number: u32,
    /// Its bytes in the disk; not empty.
    pub bytes: Range<u64>,
    /// What the table calls it, for people.
    pub kind: String,
}

/// What a disk has instead of one filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table, although it could be read.
    pub warnings: Vec<String>,
}

/// Most logical partitions of an MBR.
const MOST_LOGICAL: u32 = 128;
/// Most entries of a GPT.
const MOST_GPT: u32 = 1024;
/// Sizes of sectors (bytes): an image does not tell.
const SECTORS: [u64; 2] = [512, 4096];

/// Reads the partition table of a disk; `None` when there is none.
pub fn read(disk: &Window) -> Result<Option<Table>> {
    let Some(first) = disk.take(0, 512)? else { return Ok(None) };
    let Some(entries) = entries(&first, disk.size()) else { return Ok(None) };
    // A protective MBR says that there is a GPT; one whose own headers are both lost is not guessed at.
    if entries.iter().any(|entry| entry.kind == PROTECTIVE) {
        return match gpt(disk)? {
            Some(table) => Ok(Some(table)),
            None => {
                let text = "the disk says it has a GPT, but both of its headers are damaged".to_owned();
                Ok(Some(Table { partitions: Vec::new(), warnings: vec![text] }))
            }
        };
    }
    Ok(Some(mbr(disk, &entries)?))
}

/// An entry of an MBR; numbers of sectors of 512 bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    kind: u8,
    start: u64,
    count: u64,
}

/// Type of an MBR that protects a GPT.
const PROTECTIVE: u8 = 0xee;

fn slots(sector: &[u8]) -> Option<[Slot; 4]> {
    if sector.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let mut slots = [Slot { kind: 0, start: 0, count: 0 }; 4];
    for (slot, raw) in slots.iter_mut().zip(sector.get(446..510)?.chunks_exact(16)) {
        // Code of a boot sector lies in its place, as in those of FAT and NTFS.
        if raw[0] & 0x7f != 0 {
            return None;
        }
        *slot = Slot { kind: raw[4], start: u64::from(u32_at(raw, 8)), count: u64::from(u32_at(raw, 12)) };
    }
    Some(slots)
}

/// The four entries of the first sector; `None` when it is no partition table of a disk of this size.
fn entries(sector: &[u8], size: u64) -> Option<[Slot; 4]> {
    let slots = slots(sector)?;
    let used = || slots.iter().filter(|slot| slot.kind != 0);
    // mkfs.fat writes a table with one entry from sector 0 on, for systems that want one.
    let fits = |slot: &Slot| slot.start > 0 && (slot.kind == PROTECTIVE || slot.start * 512 < size);
    (used().next().is_some() && used().all(fits)).then_some(slots)
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn mbr(disk: &Window, entries: &[Slot; 4]) -> Result<Table> {
    let mut table = Table::default();
    let mut number = 0;
    for slot in entries {
        number += 1;
        if slot.kind != 0 && !is_extended(slot.kind) {
            table.add(disk, number, slot.start, slot.count, mbr_kind(slot.kind));
        }
    }
    if let Some(extended) = entries.iter().find(|slot| is_extended(slot.kind)) {
        logical(disk, extended, &mut table)?;
    }
    Ok(table)
}

/// Follows the chain of tables in an extended partition: each has one logical partition, placed relative to the table, and
/// the next table, placed relative to the extended partition.
fn logical(disk: &Window, extended: &Slot, table: &mut Table) -> Result<()> {
    let mut at = extended.start;
    let mut seen = vec![at];
    let mut number = 4;
    loop {
        let sector = disk.take(at * 512, 512)?;
        let Some(slots) = sector.as_deref().and_then(slots) else {
            table.warnings.push(format!("the chain of logical partitions is damaged at sector {at}"));
            return Ok(());
        };
        for slot in slots.iter().filter(|slot| slot.kind != 0 && !is_extended(slot.kind) && slot.count > 0) {
            number += 1;
            table.add(disk, number, at + slot.start, slot.count, mbr_kind(slot.kind));
        }
        let Some(next) = slots.iter().find(|slot| is_extended(slot.kind) && slot.count > 0) else { return Ok(()) };
        at = extended.start + next.start;
        if seen.contains(&at) {
            table.warnings.push(format!("the chain of logical partitions leads back to sector {at}"));
            return Ok(());
        }
        seen.push(at);
        if number >= 4 + MOST_LOGICAL || seen.len() > MOST_LOGICAL as usize {
            table.warnings.push(format!("there are more than {MOST_LOGICAL} logical partitions"));
            return Ok(());
        }
    }
}

impl Table {
    /// Adds a partition of so many sectors of 512 bytes.
    fn add(&mut self, disk: &Window, number: u32, start: u64, count: u64, kind: String) {
        self.add_bytes(
            disk,
            number,
            start.saturating_mul(512)..(start.saturating_add(count)).saturating_mul(512),
            kind,
        );
    }

    /// Adds a partition as far as the disk has it.
    fn add_bytes(&mut self, disk: &Window, number: u32, bytes: Range<u64>, kind: String) {
        let end = bytes.end.min(disk.size());
        if bytes.start >= end {
            self.warnings.push(format!("partition {number} is beyond the end of the disk"));
            return;
        }
        if end < bytes.end {
            self.warnings.push(format!("partition {number} goes beyond the end of the disk"));
        }
        self.partitions.push(Partition { number, bytes: bytes.start..end, kind });
    }
}

/// The GPT; `None` when neither of its headers is whole.
fn gpt(disk: &Window) -> Result<Option<Table>> {
    for sector in SECTORS {
        let last = (disk.size() / sector).saturating_sub(1);
        let mut warnings = Vec::new();
        for (which, at) in [("first", 1), ("second", last)] {
            match gpt_at(disk, sector, at)? {
                Ok(mut table) => {
                    table.warnings.splice(0..0, warnings);
                    return Ok(Some(table));
                }
                Err(why) => warnings.push(format!("the {which} header of the GPT {why}")),
            }
        }
    }
    Ok(None)
}

/// The GPT whose header is in this sector, or what is wrong with it.
fn gpt_at(disk: &Window, sector: u64, at: u64) -> Result<Result<Table, &'static str>> {
    let Some(head) = disk.take(at.saturating_mul(sector), 512)? else { return Ok(Err("is beyond the disk")) };
    if &head[..8] != b"EFI PART" {
        return Ok(Err("is missing"));
    }
    let len = u32_at(&head, 12) as usize;
    if !(92..=512).contains(&len) || u32_at(&head, 8) != 0x0001_0000 {
        return Ok(Err("is of a version that is not known"));
    }
    let mut unsigned = head[..len].to_vec();
    unsigned[16..20].fill(0);
    if hash(&unsigned) != u32_at(&head, 16) || u64_at(&head, 24) != at {
        return Ok(Err("is damaged"));
    }
    let (count, size) = (u32_at(&head, 80), u32_at(&head, 84) as usize);
    if !(128..=4096).contains(&size) || !size.is_power_of_two() || count > MOST_GPT {
        return Ok(Err("has entries of a size that is not known"));
    }
    let Some(raw) = disk.take(u64_at(&head, 72).saturating_mul(sector), count as usize * size)? else {
        return Ok(Err("has its entries beyond the disk"));
    };
    if hash(&raw) != u32_at(&head, 88) {
        return Ok(Err("has damaged entries"));
    }
    let mut table = Table::default();
    for (number, entry) in (1..).zip(raw.chunks_exact(size)) {
        if entry[..16] == [0; 16] {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let bytes = first.saturating_mul(sector)..last.saturating_add(1).saturating_mul(sector);
        table.add_bytes(disk, number, bytes, gpt_kind(&entry[..16]));
    }
    Ok(Ok(table))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn mbr_kind(kind: u8) -> String {
    let name = match kind {
        0x01 | 0x04 | 0x06 | 0x0b | 0x0c | 0x0e => "FAT",
        0x07 => "NTFS or exFAT",
        0x27 => "Windows recovery",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8e => "Linux LVM",
        0xa5 => "FreeBSD",
        0xef => "EFI system",
        0xfd => "Linux RAID",
        _ => return format!("0x{kind:02x}"),
    };
    name.to_owned()
}

/// A GUID as it is written; its first three groups are little-endian.
fn guid(raw: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (n, at) in order.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&n) {
            text.push('-');
        }
        text.push_str(&format!("{:02X}", raw[at]));
    }
    text
}

fn gpt_kind(raw: &[u8]) -> String {
    let text = guid(raw);
    let name = match text.as_str() {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
        "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" => "Linux root (arm64)",
        "BC13C2FF-59E6-4262-A352-B275FD6F7172" => "Linux extended boot",
        "933AC7E1-2EB4-4F13-B844-0E14E2AEF915" => "Linux home",
        "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" => "Linux swap",
        "E6D6D379-F507-44C2-A23C-238F2A3DF928" => "Linux LVM",
        "A19D880F-05FC-4D3B-A006-743F0F84911E" => "Linux RAID",
        "CA7D7CCB-63ED-4C53-861C-1742536059CC" => "Linux LUKS",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "Microsoft data",
        "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" => "Microsoft reserved",
        "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => "Windows recovery",
        _ => return text,
    };
    name.to_owned()
}

#[cfg(test)]
#[path = "partitions_tests.rs"]
mod tests;

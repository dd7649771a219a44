//! FAT of 12, 16 and 32 bits, with long names. Read here, because the crates for it bring an archive of their own or are
//! no longer kept (`repo/docs/trees.md`).

use super::bytes::Window;
use super::filesystem::{Fault, Filesystem, Found, MOST_READ};
use crate::tree::inode::{Inode, InodeKind};
use crate::tree::view::Node;
use std::ops::Range;
use wherry_repo::format::tree::{InodeFlags, Set, Time};

/// Whether the first sector is that of a FAT filesystem.
pub(super) fn is_fat(boot: &[u8]) -> bool {
    Shape::new(boot).is_ok()
}

/// Where things are.
#[derive(Clone, Debug)]
struct Shape {
    bits: u8,
    cluster: u64,
    /// The first file allocation table, in bytes.
    table: Range<u64>,
    /// The root directory where it is no chain (bytes).
    root: Range<u64>,
    /// Where it is one.
    root_cluster: u32,
    /// The first byte of cluster 2.
    data: u64,
    /// One past the last cluster.
    end: u32,
}

impl Shape {
    fn new(boot: &[u8]) -> Result<Self, &'static str> {
        let byte = |at: usize| boot.get(at).copied().unwrap_or_default();
        let short = |at: usize| u64::from(u16::from_le_bytes([byte(at), byte(at + 1)]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let (sector, per_cluster, reserved, tables) = (short(11), u64::from(byte(13)), short(14), u64::from(byte(16)));
        if !matches!((byte(0), byte(2)), (0xeb, 0x90) | (0xe9, _)) || short(510) != 0xaa55 {
            return Err("there is no boot sector");
        }
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() || reserved == 0 {
            return Err("the boot sector has impossible sizes");
        }
        if !matches!(tables, 1 | 2) || !matches!(byte(21), 0xf0 | 0xf8..=0xff) {
            return Err("the boot sector has an impossible number of tables");
        }
        let sectors = if short(19) != 0 { short(19) } else { long(32) };
        let table = if short(22) != 0 { short(22) } else { long(36) };
        let root = (short(17) * 32).div_ceil(sector);
        let first = reserved + tables * table + root;
        let clusters = sectors.checked_sub(first).ok_or("the boot sector leaves no room for data")? / per_cluster;
        let bits = match clusters {
            0 => return Err("the boot sector leaves no room for data"),
            1..4085 => 12,
            4085..65_525 => 16,
            65_525..0x0fff_fff5 => 32,
            _ => return Err("there are too many clusters"),
        };
        let is_32 = short(22) == 0;
        // Small filesystems of 32 bits exist, made so on purpose.
        let bits = if is_32 { 32 } else { bits };
        if is_32 != (short(17) == 0) || bits == 32 && !is_32 {
            return Err("the boot sector does not say which kind of FAT it is");
        }
        let root_start = (reserved + tables * table) * sector;
        Ok(Self {
            bits,
            cluster: per_cluster * sector,
            table: reserved * sector..(reserved + table) * sector,
            root: root_start..root_start + short(17) * 32,
            root_cluster: if is_32 { long(44) as u32 } else { 0 },
            data: first * sector,
            end: clusters as u32 + 2,
        })
    }
}

/// An opened FAT filesystem.
#[derive(Debug)]
pub(super) struct Fat {
    window: Window,
    shape: Shape,
    /// The part of the table that was read last, and its first byte.
    table: (u64, Vec<u8>),
    /// Where the file that was read last goes on: its first cluster, and a cluster of it with its place in the chain.
    going: Option<(u32, u64, u32)>,
}

/// Bytes of the table that are read at a time.
const TABLE: u64 = 32 << 10;
/// Most bytes of a directory: the specification's bound.
const FOLDER: u64 = 65_536 * 32;

/// A directory: the fixed root of 12 and 16 bits, or a chain.
#[derive(Clone, Copy, Debug)]
enum Folder {
    Root,
    Chain(u32),
}

/// An entry as it is on the disk.
#[derive(Clone, Debug)]
struct Raw {
    name: String,
    short: String,
    folder: bool,
    read_only: bool,
    modified: Time,
    first: u32,
    size: u32,
}

impl Fat {
    /// Opens it.
    pub(super) fn open(window: Window) -> Found<Self> {
        let boot = window.take(0, 512)?.ok_or_else(|| Fault::broken("it is too small"))?;
        let shape = Shape::new(&boot).map_err(Fault::broken)?;
        Ok(Self { window, shape, table: (0, Vec::new()), going: None })
    }

    /// The cluster after this one; `None` at the end of the chain.
    fn next(&mut self, cluster: u32) -> Found<Option<u32>> {
        let n = u64::from(cluster);
        let (at, len) = match self.shape.bits {
            12 => (n * 3 / 2, 2),
            16 => (n * 2, 2),
            _ => (n * 4, 4),
        };
        let at = self.shape.table.start + at;
        if at + len > self.shape.table.end {
            return Err(Fault::broken("a chain of clusters leads out of the table"));
        }
        if at < self.table.0 || at + len > self.table.0 + self.table.1.len() as u64 {
            let start = self.shape.table.start + (at - self.shape.table.start) / TABLE * TABLE;
            // One byte more: an entry of 12 bits may lie across the end.
            let end = (start + TABLE + 1).min(self.shape.table.end).min(self.window.size());
            let bytes = self.window.take(start, end.saturating_sub(start) as usize)?;
            self.table = (start, bytes.ok_or_else(|| Fault::broken("its table is cut off"))?);
        }
        let from = (at - self.table.0) as usize;
        let raw = self.table.1.get(from..from + len as usize).ok_or_else(|| Fault::broken("its table is cut off"))?;
        let value = raw.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let (value, last) = match self.shape.bits {
            12 if cluster % 2 == 1 => (value >> 4, 0xff8),
            12 => (value & 0xfff, 0xff8),
            16 => (value, 0xfff8),
            _ => (value & 0x0fff_ffff, 0x0fff_fff8),
        };
        if value >= last {
            return Ok(None);
        }
        self.offset(value)?;
        Ok(Some(value))
    }

    /// The first byte of a cluster.
    fn offset(&self, cluster: u32) -> Found<u64> {
        if !(2..self.shape.end).contains(&cluster) {
            return Err(Fault::broken("a chain of clusters leads to one that is not there"));
        }
        Ok(self.shape.data + u64::from(cluster - 2) * self.shape.cluster)
    }

    /// Calls `each` with the entries of a directory until it returns false.
    fn entries(&mut self, folder: Folder, each: &mut dyn FnMut(&mut Self, Raw) -> Found<bool>) -> Found<()> {
        let mut long = Long::default();
        let mut read = 0;
        let (mut at, mut left, mut cluster) = match folder {
            Folder::Root => (self.shape.root.start, self.shape.root.end - self.shape.root.start, None),
            Folder::Chain(first) => (self.offset(first)?, self.shape.cluster, Some(first)),
        };
        loop {
            let bytes = self.window.take(at, left as usize)?.ok_or_else(|| Fault::broken("a directory is cut off"))?;
            for raw in bytes.chunks_exact(32) {
                match raw[0] {
                    0 => return Ok(()),
                    0xe5 => long = Long::default(),
                    _ if raw[11] & 0x3f == 0x0f => long.add(raw),
                    // The name of the volume.
                    _ if raw[11] & 0x08 != 0 => long = Long::default(),
                    _ => {
                        let entry = Raw::new(raw, std::mem::take(&mut long), self.shape.bits == 32);
                        if entry.short != "." && entry.short != ".." && !each(self, entry)? {
                            return Ok(());
                        }
                    }
                }
            }
            read += left;
            if read > FOLDER {
                return Err(Fault::broken("a directory is longer than one can be"));
            }
            let Some(next) = cluster.map(|c| self.next(c)).transpose()?.flatten() else { return Ok(()) };
            (at, left, cluster) = (self.offset(next)?, self.shape.cluster, Some(next));
        }
    }

    fn root(&self) -> Folder {
        if self.shape.bits == 32 { Folder::Chain(self.shape.root_cluster) } else { Folder::Root }
    }

    /// The entry of this name: exactly, else in any case, as the filesystem means it.
    fn lookup(&mut self, folder: Folder, name: &[u8]) -> Found<Option<Raw>> {
        let Ok(wanted) = std::str::from_utf8(name) else { return Ok(None) };
        let lower = wanted.to_lowercase();
        let mut found = None;
        self.entries(folder, &mut |_, entry| {
            let exact = entry.name == wanted;
            if exact || found.is_none() && (entry.name.to_lowercase() == lower || entry.short.to_lowercase() == lower) {
                found = Some(entry);
            }
            Ok(!exact)
        })?;
        Ok(found)
    }

    fn folder_of(&self, entry: &Raw) -> Folder {
        Folder::Chain(entry.first)
    }

    /// What is at a path; `None` for the root.
    fn find(&mut self, path: &[Vec<u8>]) -> Found<Option<Raw>> {
        let mut folder = self.root();
        let mut found: Option<Raw> = None;
        for (depth, name) in path.iter().enumerate() {
            if let Some(entry) = &found {
                if !entry.folder {
                    return Err(Fault::NotFolder(depth));
                }
                folder = self.folder_of(entry);
            }
            found = Some(self.lookup(folder, name)?.ok_or(Fault::None)?);
        }
        Ok(found)
    }
}

impl Filesystem for Fat {
    fn stat(&mut self, path: &[Vec<u8>]) -> Found<Node> {
        Ok(self.find(path)?.map_or_else(|| node(Vec::new(), InodeKind::Folder, 0o755, 0, Time::default()), Node::from))
    }

    fn list(&mut self, path: &[Vec<u8>], from: u64, each: &mut dyn FnMut(Node) -> Found<()>) -> Found<()> {
        let folder = match self.find(path)? {
            None => self.root(),
            Some(entry) if entry.folder => self.folder_of(&entry),
            Some(_) => return Err(Fault::NotFolder(path.len())),
        };
        let mut skip = from;
        self.entries(folder, &mut |_, entry| {
            if skip > 0 {
                skip -= 1;
                return Ok(true);
            }
            each(entry.into()).map(|()| true)
        })
    }

    fn read(&mut self, path: &[Vec<u8>], bytes: Range<u64>, take: &mut dyn FnMut(Vec<u8>) -> Found<()>) -> Found<()> {
        let entry = self.find(path)?.filter(|entry| !entry.folder).ok_or(Fault::NotFile)?;
        let end = bytes.end.min(u64::from(entry.size));
        let mut at = bytes.start;
        if at >= end {
            return Ok(());
        }
        let unit = self.shape.cluster;
        let wanted = at / unit;
        let (mut place, mut cluster) = match self.going {
            Some((first, place, cluster)) if first == entry.first && place <= wanted => (place, cluster),
            _ => (0, entry.first),
        };
        self.offset(cluster)?;
        while at < end {
            while place < at / unit {
                cluster = self.next(cluster)?.ok_or_else(|| Fault::broken("a file ends before its size says"))?;
                place += 1;
                // Going round in a circle ends here: the size of a file is below 4 GiB.
            }
            self.going = Some((entry.first, place, cluster));
            let start = self.offset(cluster)? + at % unit;
            let len = (unit - at % unit).min(end - at).min(MOST_READ as u64);
            let bytes = self.window.take(start, len as usize)?;
            take(bytes.ok_or_else(|| Fault::broken("a file is beyond the end of the partition"))?)?;
            at += len;
        }
        Ok(())
    }

    fn most_folders(&self) -> u64 {
        u64::from(self.shape.end)
    }
}

/// The parts of a long name, which come last part first.
#[derive(Debug, Default)]
struct Long {
    units: Vec<u16>,
    checksum: u8,
    next: u8,
}

impl Long {
    fn add(&mut self, raw: &[u8]) {
        let (number, checksum) = (raw[0], raw[13]);
        if number & 0x40 != 0 {
            *self = Self { units: Vec::new(), checksum, next: number & 0x3f };
        } else if number & 0x3f != self.next || checksum != self.checksum {
            *self = Self::default();
        }
        if self.next == 0 {
            return;
        }
        self.next -= 1;
        let units = [&raw[1..11], &raw[14..26], &raw[28..32]].concat();
        let units: Vec<u16> = units.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        self.units.splice(0..0, units);
    }

    /// The name, if it is whole and belongs to this short name.
    fn finish(self, short: &[u8]) -> Option<String> {
        let sum = short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
        if self.units.is_empty() || self.next != 0 || sum != self.checksum {
            return None;
        }
        let len = self.units.iter().position(|unit| *unit == 0).unwrap_or(self.units.len());
        Some(String::from_utf16_lossy(&self.units[..len]))
    }
}

impl Raw {
    fn new(raw: &[u8], long: Long, wide: bool) -> Self {
        let short_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        // Code page 437 is what Linux takes; beyond ASCII it is a guess, but one that tells names apart.
        let part = |bytes: &[u8], lower: bool| {
            let text: String = bytes.iter().map(|b| char::from(*b)).collect();
            let text = text.trim_end_matches(' ').to_owned();
            if lower { text.to_ascii_lowercase() } else { text }
        };
        let mut name = raw[..11].to_vec();
        if name[0] == 0x05 {
            name[0] = 0xe5;
        }
        let joined = |base: String, extension: String| match extension.is_empty() {
            true => base,
            false => format!("{base}.{extension}"),
        };
        let short = joined(part(&name[..8], false), part(&name[8..], false));
        let shown = joined(part(&name[..8], raw[12] & 8 != 0), part(&name[8..], raw[12] & 16 != 0));
        let first = u32::from(short_at(26)) | if wide { u32::from(short_at(20)) << 16 } else { 0 };
        // What would lead out of its directory, or be no name at all, is made harmless.
        let clean = |name: String| {
            let name: String = name.chars().map(|c| if matches!(c, '/' | '\0') { '\u{fffd}' } else { c }).collect();
            if matches!(name.as_str(), "" | "." | "..") { format!("{name}\u{fffd}") } else { name }
        };
        let name = match long.finish(&raw[..11]) {
            Some(long) => clean(long),
            None if matches!(short.as_str(), "." | "..") => short.clone(),
            None => clean(shown),
        };
        Self {
            name,
            short,
            folder: raw[11] & 0x10 != 0,
            read_only: raw[11] & 0x01 != 0,
            modified: time(short_at(24), short_at(22)),
            first,
            size: u32::from_le_bytes([raw[28], raw[29], raw[30], raw[31]]),
        }
    }
}

/// FAT has local times and does not say where; they are taken for UTC.
fn time(date: u16, time: u16) -> Time {
    let field = |word: u16, shift: u16, bits: u16| (word >> shift & ((1 << bits) - 1)) as i8;
    let date = jiff::civil::Date::new(1980 + (date >> 9) as i16, field(date, 5, 4), field(date, 0, 5));
    let clock = jiff::civil::Time::new(field(time, 11, 5), field(time, 5, 6), field(time, 0, 5) * 2, 0);
    let (Ok(date), Ok(clock)) = (date, clock) else { return Time::default() };
    let moment = date.to_datetime(clock).to_zoned(jiff::tz::TimeZone::UTC);
    Time { seconds: moment.map_or(0, |m| m.timestamp().as_second()), nanoseconds: 0 }
}

fn node(name: Vec<u8>, kind: InodeKind, permissions: u16, size: u64, modified: Time) -> Node {
    let inode = Inode {
        kind,
        permissions,
        owner: 0,
        group: 0,
        flags: InodeFlags::default(),
        extended: Set::default(),
        modified,
        changed: modified,
        number: 0,
        links: 1,
        size,
        allocated: size,
    };
    Node {
        name,
        inode,
        owner_name: Vec::new(),
        group_name: Vec::new(),
        owned: false,
        missing: None,
        partly: false,
        boundary: false,
        part: None,
    }
}

impl From<Raw> for Node {
    fn from(raw: Raw) -> Self {
        let mode = if raw.read_only { 0o555 } else { 0o755 };
        let kind = if raw.folder { InodeKind::Folder } else { InodeKind::File };
        let size = if raw.folder { 0 } else { u64::from(raw.size) };
        node(raw.name.into_bytes(), kind, mode, size, raw.modified)
    }
}

//! Entries of directories.

use super::super::Fields;
use super::attributes::Rows;
use super::heights;
use super::list::{fault_of_pieces, sum_of};
use super::refs::{Refs, Table, put_count, put_number, put_text};
use super::{
    Below, Content, Entry, FOLDER, Known, LIST, MAX_ENTRY_PIECES, MAX_SHARED, Piece, SHARED, Time, Totals, What,
};
use crate::Result;
use crate::crypto::{MAX_CLASS, MIN_CLASS};
use crate::map::{chunk_count, levels};
use std::num::{NonZeroU32, NonZeroU64};

const LINKED: u8 = 1;
const MISSING: u8 = 2;
const BOUNDARY: u8 = 4;
const UNSETTLED: u8 = 8;

/// True for what a name in a directory can be.
pub fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && !name.iter().any(|b| matches!(b, 0 | b'/')) && name != b"." && name != b".."
}

impl Entry {
    /// What it adds to the totals of the directory it is in.
    pub fn totals(&self) -> Totals {
        let Self::Known(known) = self else { return Totals { below: 1, missing: 1, ..Totals::default() } };
        let own = Totals { below: 1, missing: known.missing.is_some().into(), ..Totals::default() };
        match &known.what {
            What::File { size, .. } => Totals { bytes: *size, ..own },
            What::Folder { below, .. } => {
                // The directories in it are its own, not those of the directory that it is in.
                let below = below.map(|below| Totals { folders: 0, ..below.totals }).unwrap_or_default();
                Totals { folders: 1, ..own.add(&below) }
            }
            _ => own,
        }
    }

    /// Why no reader would take it; `None`: it is right.
    pub fn fault(&self) -> Option<&'static str> {
        if !is_name(self.name()) {
            return Some("a name that is not allowed");
        }
        match self {
            Self::Unknown { .. } => None,
            Self::Known(known) => known.attributes.fault().or_else(|| known.fault()),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, refs: &mut Refs, attributes: u64) {
        put_text(out, self.name());
        match self {
            Self::Unknown { errno, .. } => {
                out.push(0);
                put_number(out, errno.get().into());
            }
            Self::Known(known) => known.put(out, refs, attributes),
        }
    }

    /// Reads one; its name is not looked at.
    pub(super) fn read(f: &mut Fields<'_>, refs: &mut Table, rows: &mut Rows) -> Result<Self> {
        let name = f.text()?.to_vec();
        match f.u8()? {
            0 => Ok(Self::Unknown { name, errno: errno(f)? }),
            kind => Known::read(f, refs, rows, name, kind).map(|known| Self::Known(Box::new(known))),
        }
    }
}

fn errno(f: &mut Fields<'_>) -> Result<NonZeroU32> {
    let n = u32::try_from(f.number()?).ok().and_then(NonZeroU32::new);
    n.ok_or_else(|| f.bad("no error has this number"))
}

impl Time {
    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seconds.to_le_bytes());
        out.extend_from_slice(&self.nanoseconds.to_le_bytes());
    }

    fn read(f: &mut Fields<'_>) -> Result<Self> {
        Ok(Self { seconds: i64::from_le_bytes(f.array()?), nanoseconds: f.u32()? })
    }
}

impl Known {
    /// Why no reader would take it, whatever its name and attributes; `None`: it is right.
    pub(super) fn fault(&self) -> Option<&'static str> {
        if self.modified.nanoseconds >= 1_000_000_000 || self.changed.nanoseconds >= 1_000_000_000 {
            return Some("a time with a second of nanoseconds or more");
        }
        if self.links.is_some_and(|links| links.get() < 2) {
            return Some("a linked inode with one name");
        }
        match &self.what {
            What::File { size, content } => content.fault(*size),
            What::Folder { .. } if self.links.is_some() || self.unsettled => Some("a directory with a flag of others"),
            What::Folder { below: Some(below), .. } => {
                if !heights(FOLDER).contains(&below.node.to.class) {
                    Some("a directory of another class")
                } else if below.entries == 0 {
                    Some("a directory whose node is empty")
                } else {
                    None
                }
            }
            What::Link(target) if !(1..=4095).contains(&target.len()) || target.contains(&0) => {
                Some("the target of a link is not allowed")
            }
            _ => None,
        }
    }

    fn put(&self, out: &mut Vec<u8>, refs: &mut Refs, attributes: u64) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let (kind, boundary) = match &self.what {
            What::File { .. } => (1, false),
            What::Folder { boundary, .. } => (2, *boundary),
            What::Link(_) => (3, false),
            What::Fifo => (4, false),
            What::Socket => (5, false),
            What::Character(..) => (6, false),
            What::Block(..) => (7, false),
        };
        let flags = flag(self.links.is_some(), LINKED)
            | flag(self.missing.is_some(), MISSING)
            | flag(boundary, BOUNDARY)
            | flag(self.unsettled, UNSETTLED);
        out.extend_from_slice(&[kind, flags]);
        put_number(out, attributes);
        self.modified.put(out);
        self.changed.put(out);
        put_number(out, self.inode);
        if let Some(links) = self.links {
            put_number(out, links.get());
        }
        if let Some(errno) = self.missing {
            put_number(out, errno.get().into());
        }
        match &self.what {
            What::File { size, content } => {
                put_number(out, *size);
                content.put(out, refs);
            }
            What::Folder { below: None, .. } => out.push(0),
            What::Folder { below: Some(below), .. } => {
                out.push(1);
                refs.put(out, &below.node, 0);
                put_number(out, below.entries);
                below.totals.put(out);
            }
            What::Link(target) => {
                put_count(out, target.len());
                out.extend_from_slice(target);
            }
            What::Character(major, minor) | What::Block(major, minor) => {
                out.extend_from_slice(&major.to_le_bytes());
                out.extend_from_slice(&minor.to_le_bytes());
            }
            What::Fifo | What::Socket => {}
        }
    }

    fn read(f: &mut Fields<'_>, refs: &mut Table, rows: &mut Rows, name: Vec<u8>, kind: u8) -> Result<Self> {
        let flags = f.u8()?;
        if flags & !(LINKED | MISSING | BOUNDARY | UNSETTLED) != 0 || (flags & BOUNDARY != 0 && kind != 2) {
            return Err(f.bad("an entry has a flag that it cannot have"));
        }
        let row = f.number()?;
        let attributes = rows.named(f, row)?;
        let (modified, changed) = (Time::read(f)?, Time::read(f)?);
        let inode = f.number()?;
        let links = match flags & LINKED {
            0 => None,
            _ => Some(NonZeroU64::new(f.number()?).ok_or_else(|| f.bad("a linked inode with no name"))?),
        };
        let missing = if flags & MISSING == 0 { None } else { Some(errno(f)?) };
        let what = match kind {
            1 => What::File { size: f.number()?, content: Content::read(f, refs)? },
            2 => What::Folder { boundary: flags & BOUNDARY != 0, below: Below::read(f, refs)? },
            3 => {
                let len = usize::from(f.u16()?);
                What::Link(f.take(len)?.to_vec())
            }
            4 => What::Fifo,
            5 => What::Socket,
            6 => What::Character(f.u32()?, f.u32()?),
            7 => What::Block(f.u32()?, f.u32()?),
            _ => return Err(f.bad("an entry of unknown type")),
        };
        let unsettled = flags & UNSETTLED != 0;
        let known = Self { name, attributes, modified, changed, inode, links, missing, unsettled, what };
        match known.fault() {
            None => Ok(known),
            Some(why) => Err(f.bad(why)),
        }
    }
}

impl Below {
    fn read(f: &mut Fields<'_>, refs: &mut Table) -> Result<Option<Self>> {
        match f.u8()? {
            0 => Ok(None),
            1 => {
                let number = f.number()?;
                let node = refs.named(f, number)?;
                Ok(Some(Self { node, entries: f.number()?, totals: Totals::read(f)? }))
            }
            _ => Err(f.bad("a directory of unknown content")),
        }
    }
}

impl Totals {
    /// Both together; what passes 2^64 - 1 stays there.
    pub fn add(&self, more: &Self) -> Self {
        Self {
            below: self.below.saturating_add(more.below),
            folders: self.folders.saturating_add(more.folders),
            bytes: self.bytes.saturating_add(more.bytes),
            missing: self.missing.saturating_add(more.missing),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for n in [self.below, self.folders, self.bytes, self.missing] {
            put_number(out, n);
        }
    }

    pub(super) fn read(f: &mut Fields<'_>) -> Result<Self> {
        Ok(Self { below: f.number()?, folders: f.number()?, bytes: f.number()?, missing: f.number()? })
    }
}

impl Content {
    /// Why no reader would take it as the content of a file of `size` bytes; `None`: it is right.
    pub fn fault(&self, size: u64) -> Option<&'static str> {
        if size == 0 && *self != Self::Nothing {
            return Some("a file of no bytes that has content");
        }
        match self {
            Self::Nothing => None,
            Self::Shared { chunk, offset } => {
                if chunk.to.class != SHARED {
                    Some("a shared chunk of another class")
                } else if size > MAX_SHARED || u64::from(*offset) + size > u64::from(chunk.to.plain) {
                    Some("a shared file that is too long or outside of its chunk")
                } else {
                    None
                }
            }
            Self::Pieces(pieces) => {
                if !(1..=MAX_ENTRY_PIECES).contains(&pieces.len()) {
                    Some("a count of pieces is 0 or above its limit")
                } else if sum_of(pieces.iter().map(Piece::bytes)) != Some(size) {
                    Some("pieces that do not add up to the size")
                } else if matches!(pieces[..], [Piece::Hole(_)]) {
                    Some("a hole that is all")
                } else {
                    fault_of_pieces(pieces)
                }
            }
            Self::List(top) if !heights(LIST).contains(&top.to.class) => Some("a list of another class"),
            Self::List(_) => None,
            Self::Map { class, levels: high, top } => {
                if !(MIN_CLASS..=MAX_CLASS).contains(class) || *high != levels(chunk_count(size, *class)) {
                    Some("a map whose levels do not fit size and size class")
                } else if top.to.class != 127 + high {
                    Some("a map of another class")
                } else {
                    None
                }
            }
        }
    }

    fn put(&self, out: &mut Vec<u8>, refs: &mut Refs) {
        match self {
            Self::Nothing => out.push(0),
            Self::Shared { chunk, offset } => {
                out.push(1);
                refs.put(out, chunk, 0);
                put_number(out, (*offset).into());
            }
            Self::Pieces(pieces) => {
                out.extend_from_slice(&[2, pieces.len() as u8]);
                pieces.iter().for_each(|piece| piece.put(out, refs));
            }
            Self::List(top) => {
                out.push(3);
                refs.put(out, top, 0);
            }
            Self::Map { class, levels, top } => {
                out.extend_from_slice(&[4, *class, *levels]);
                refs.put(out, top, 0);
            }
        }
    }

    fn read(f: &mut Fields<'_>, refs: &mut Table) -> Result<Self> {
        let named = |f: &mut Fields<'_>, refs: &mut Table| {
            let number = f.number()?;
            refs.named(f, number)
        };
        match f.u8()? {
            0 => Ok(Self::Nothing),
            1 => {
                let chunk = named(f, refs)?;
                let offset = f.number()?.try_into().map_err(|_| f.bad("a shared file is outside of its chunk"))?;
                Ok(Self::Shared { chunk, offset })
            }
            2 => {
                let count = usize::from(f.u8()?);
                if count > MAX_ENTRY_PIECES {
                    return Err(f.bad("a count of pieces is above its limit"));
                }
                let mut pieces = Vec::with_capacity(count.min(f.remaining()));
                for _ in 0..count {
                    pieces.push(Piece::read(f, refs)?);
                }
                Ok(Self::Pieces(pieces))
            }
            3 => Ok(Self::List(named(f, refs)?)),
            4 => Ok(Self::Map { class: f.u8()?, levels: f.u8()?, top: named(f, refs)? }),
            _ => Err(f.bad("a file of unknown content")),
        }
    }
}

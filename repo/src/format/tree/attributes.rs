//! Attributes and sets of extended ones.

use super::super::Fields;
use super::refs::{FirstUse, Refs, Table, distinct, put_count, put_text};
use super::{ATTRIBUTES, Attributes, Entry, Extended, InodeFlags, MAX_HERE, MAX_VALUE, Set, max_plain};
use crate::Result;
use std::sync::Arc;

impl Set {
    /// Length of [`Self::encode`] in bytes: up to [`MAX_HERE`] it stands in the node, beyond in a chunk.
    pub fn encoded_len(&self) -> usize {
        2 + self.0.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>()
    }

    /// The bytes; the plaintext of a chunk of class [`ATTRIBUTES`]. Only of a set without [fault](Self::fault).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.put(&mut out);
        out
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt): these are not the bytes of a set.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut f = Fields::new("a set of extended attributes", bytes);
        let set = Self::read(&mut f)?;
        f.end()?;
        Ok(set)
    }

    /// Why no reader would take it; `None`: it is right. One that is empty is none ([`Extended::None`]).
    pub fn fault(&self) -> Option<&'static str> {
        let name = |name: &[u8]| (1..=255).contains(&name.len()) && !name.contains(&0);
        if self.0.is_empty() || self.0.len() > usize::from(u16::MAX) {
            Some("a set of extended attributes has none or too many")
        } else if !self.0.iter().all(|(n, _)| name(n)) || !self.0.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            Some("names of extended attributes are not allowed or do not ascend")
        } else if self.0.iter().any(|(_, value)| value.len() > MAX_VALUE) {
            Some("the value of an extended attribute is too long")
        } else if max_plain(ATTRIBUTES).is_none_or(|most| self.encoded_len() > most as usize) {
            Some("a set of extended attributes is too long")
        } else {
            None
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_count(out, self.0.len());
        for (name, value) in &self.0 {
            put_text(out, name);
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
    }

    fn read(f: &mut Fields<'_>) -> Result<Self> {
        let count = f.count(1, usize::from(u16::MAX), 6)?;
        let mut set = Vec::with_capacity(count);
        for _ in 0..count {
            let name = f.text()?.to_vec();
            let len = f.u32()? as usize;
            set.push((name, f.take(len)?.to_vec()));
        }
        let set = Self(set);
        match set.fault() {
            None => Ok(set),
            Some(why) => Err(f.bad(why)),
        }
    }
}

impl Attributes {
    /// Why no reader would take them; `None`: they are right.
    pub fn fault(&self) -> Option<&'static str> {
        let owner = |name: &[u8]| name.len() <= 255 && !name.contains(&0);
        if self.permissions > 0o7777 || self.flags.0 > 7 {
            return Some("an unknown bit of permissions or inode flags");
        }
        if !owner(&self.owner_name) || !owner(&self.group_name) {
            return Some("the name of an owner or a group is not allowed");
        }
        match &self.extended {
            Extended::None => None,
            Extended::Here(set) if set.encoded_len() > MAX_HERE => {
                Some("a long set of extended attributes in the node")
            }
            Extended::Here(set) => set.fault(),
            Extended::Chunk(chunk) if chunk.to.class != ATTRIBUTES => Some("extended attributes of another class"),
            Extended::Chunk(chunk) if chunk.to.plain as usize <= MAX_HERE => {
                Some("a short set of extended attributes in a chunk")
            }
            Extended::Chunk(_) => None,
        }
    }

    fn put(&self, out: &mut Vec<u8>, refs: &mut Refs) {
        out.extend_from_slice(&self.permissions.to_le_bytes());
        out.extend_from_slice(&self.owner.to_le_bytes());
        out.extend_from_slice(&self.group.to_le_bytes());
        put_text(out, &self.owner_name);
        put_text(out, &self.group_name);
        out.push(self.flags.0);
        match &self.extended {
            Extended::None => out.push(0),
            Extended::Here(set) => {
                out.push(1);
                put_count(out, set.encoded_len());
                set.put(out);
            }
            Extended::Chunk(chunk) => {
                out.push(2);
                refs.put(out, chunk, 0);
            }
        }
    }

    fn read(f: &mut Fields<'_>, refs: &mut Table) -> Result<Self> {
        let (permissions, owner, group) = (f.u16()?, f.u32()?, f.u32()?);
        let (owner_name, group_name) = (f.text()?.to_vec(), f.text()?.to_vec());
        let flags = InodeFlags(f.u8()?);
        let extended = match f.u8()? {
            0 => Extended::None,
            1 => {
                let len = usize::from(f.u16()?);
                Extended::Here(Set::decode(f.take(len)?)?)
            }
            2 => {
                let number = f.number()?;
                Extended::Chunk(refs.named(f, number)?)
            }
            _ => return Err(f.bad("extended attributes are in an unknown place")),
        };
        let all = Self { permissions, owner, group, owner_name, group_name, flags, extended };
        match all.fault() {
            None => Ok(all),
            Some(why) => Err(f.bad(why)),
        }
    }
}

/// Appends the attributes of entries, each row once; returns which row each entry has.
pub(super) fn put_rows(out: &mut Vec<u8>, refs: &mut Refs, entries: &[Entry]) -> Vec<u64> {
    let count_at = out.len();
    put_count(out, 0);
    // Rows, and where in `out` they are.
    let mut rows: Vec<(&Arc<Attributes>, std::ops::Range<usize>)> = Vec::new();
    let numbers = entries.iter().map(|entry| {
        let Entry::Known(known) = entry else { return 0 };
        if let Some(n) = rows.iter().rposition(|(row, _)| Arc::ptr_eq(row, &known.attributes)) {
            return n as u64;
        }
        let start = out.len();
        known.attributes.put(out, refs);
        let (before, this) = out.split_at(start);
        if let Some(n) = rows.iter().position(|(_, place)| before[place.clone()] == *this) {
            out.truncate(start);
            return n as u64;
        }
        rows.push((&known.attributes, start..out.len()));
        rows.len() as u64 - 1
    });
    let numbers = numbers.collect();
    let count = rows.len() as u16;
    out[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
    numbers
}

/// The attributes of a node that is read.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Arc<Attributes>>,
    order: FirstUse,
}

impl Rows {
    pub(super) fn read(f: &mut Fields<'_>, refs: &mut Table) -> Result<Self> {
        let count = f.count(0, super::MAX_FANOUT, 14)?;
        let mut rows = Vec::with_capacity(count);
        let mut bytes = Vec::with_capacity(count);
        for _ in 0..count {
            let before = f.rest;
            rows.push(Arc::new(Attributes::read(f, refs)?));
            bytes.push(&before[..before.len() - f.remaining()]);
        }
        if !distinct(bytes) {
            return Err(f.bad("attributes are there twice"));
        }
        Ok(Self { rows, order: FirstUse::of(count) })
    }

    pub(super) fn named(&mut self, f: &Fields<'_>, number: u64) -> Result<Arc<Attributes>> {
        let row = self.order.row(number).and_then(|row| self.rows.get(row));
        row.cloned().ok_or_else(|| f.bad("attributes are not there, or not in the order of first use"))
    }

    pub(super) fn end(&self, f: &Fields<'_>) -> Result<()> {
        if self.order.all() { Ok(()) } else { Err(f.bad("attributes are not used")) }
    }
}

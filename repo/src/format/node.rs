//! Nodes of a map.

use super::Fields;
use crate::Result;
use crate::id::{Codec, Location, PackId, ShortId};

/// Slots of a node.
pub const FANOUT: usize = 128;
/// log2 of [`FANOUT`].
pub const FANOUT_BITS: u32 = 7;
/// No encoded node is longer than this (bytes): 128 runs of one slot, each in a pack of its own.
pub const MAX_NODE: usize = 8 + FANOUT * (33 + 12 + 20);

/// A chunk or a lower node, and where it lay when the map was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First half of its id.
    pub id: ShortId,
    /// Where it is; stale after a repack.
    pub at: Location,
}

/// One node: up to [`FANOUT`] slots, an absent one is zero.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// 0: slots are chunks; n: slots are nodes of level n - 1.
    pub level: u8,
    slots: Vec<Option<Slot>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node(level {}, {} slots)", self.level, self.present().count())
    }
}

impl Node {
    /// A node without slots.
    pub fn new(level: u8) -> Self {
        Self { level, slots: vec![None; FANOUT] }
    }

    /// The slot of this number, 0 to 127.
    pub fn slot(&self, n: usize) -> Option<&Slot> {
        self.slots.get(n)?.as_ref()
    }

    /// Fills a slot.
    pub fn set(&mut self, n: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(n) {
            *place = Some(slot);
        }
    }

    /// Present slots with their numbers, ascending.
    pub fn present(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter_map(|(n, slot)| Some((n, slot.as_ref()?)))
    }

    /// True when no slot is present.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// The bytes; the only ones for this content.
    pub fn encode(&self) -> Vec<u8> {
        let mut packs: Vec<(PackId, u32)> = Vec::new();
        let mut runs: Vec<(u8, u8, u16, Slot)> = Vec::new();
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        let mut before: Option<(usize, Slot)> = None;
        for (n, slot) in self.present() {
            let continues = before.is_some_and(|(m, last)| m + 1 == n && follows(&last.at, &slot.at));
            if !continues {
                let key = (slot.at.pack, slot.at.epoch);
                let pack = packs.iter().position(|p| *p == key).unwrap_or_else(|| {
                    packs.push(key);
                    packs.len() - 1
                });
                runs.push((n as u8, 0, pack as u16, *slot));
                bodies.push(Vec::new());
            }
            if let (Some(run), Some(body)) = (runs.last_mut(), bodies.last_mut()) {
                run.1 += 1;
                body.extend_from_slice(slot.id.bytes());
                body.extend_from_slice(&slot.at.len.to_le_bytes()[..3]);
                body.push(slot.at.codec as u8);
            }
            before = Some((n, *slot));
        }
        let mut out = vec![1, self.level];
        out.extend_from_slice(&(packs.len() as u16).to_le_bytes());
        out.extend_from_slice(&(runs.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        for (pack, epoch) in &packs {
            out.extend_from_slice(&pack.to_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        for ((first, count, pack, slot), body) in runs.iter().zip(&bodies) {
            out.extend_from_slice(&[*first, *count]);
            out.extend_from_slice(&pack.to_le_bytes());
            out.extend_from_slice(&slot.at.ordinal.to_le_bytes());
            out.extend_from_slice(&slot.at.offset.to_le_bytes());
            out.extend_from_slice(body);
        }
        out
    }

    /// The reverse.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut f = Fields::new("a map node", bytes);
        let (version, level) = (f.u8()?, f.u8()?);
        if version != 1 || usize::from(level) >= crate::crypto::MAX_LEVELS || bytes.len() > MAX_NODE {
            return Err(f.bad("its head makes no sense"));
        }
        let (packs, runs) = (usize::from(f.u16()?), usize::from(f.u16()?));
        f.zeros(2)?;
        if packs > FANOUT || runs == 0 || runs > FANOUT {
            return Err(f.bad("too many packs or runs"));
        }
        let packs = (0..packs)
            .map(|_| Ok((PackId::from_bytes(&f.array()?).ok_or_else(|| f.bad("an unknown kind of pack"))?, f.u32()?)))
            .collect::<Result<Vec<_>>>()?;
        let mut node = Self::new(level);
        let mut free = 0;
        for _ in 0..runs {
            let (first, count) = (usize::from(f.u8()?), usize::from(f.u8()?));
            let pack = usize::from(f.u16()?);
            let (ordinal, mut offset) = (f.u32()?, f.u32()?);
            let Some((pack, epoch)) = packs.get(pack).copied() else { return Err(f.bad("a run names no pack")) };
            if count == 0 || first < free || first + count > FANOUT {
                return Err(f.bad("a run is out of place"));
            }
            for i in 0..count {
                let id = ShortId::new(f.array()?);
                let len = f.u24()?;
                let codec = Codec::from_u8(f.u8()?).ok_or_else(|| f.bad("an unknown codec"))?;
                let ordinal = ordinal.checked_add(i as u32).ok_or_else(|| f.bad("an ordinal is too large"))?;
                node.set(first + i, Slot { id, at: Location { pack, epoch, ordinal, offset, len, codec } });
                offset = offset.checked_add(len).ok_or_else(|| f.bad("an offset is too large"))?;
            }
            free = first + count;
        }
        f.end()?;
        // One content has one encoding; anything else was not written by us.
        if node.encode() != bytes {
            return Err(Fields::new("a map node", &[]).bad("it is not in its canonical form"));
        }
        Ok(node)
    }
}

/// True when `b` lies right behind `a` in the same pack.
pub(super) fn follows(a: &Location, b: &Location) -> bool {
    a.pack == b.pack
        && a.epoch == b.epoch
        && a.ordinal.checked_add(1) == Some(b.ordinal)
        && a.offset.checked_add(a.len) == Some(b.offset)
}

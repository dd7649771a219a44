//! The index without a disk: what is used with `--no-cache`, when another process holds the cache, and for the rows that
//! a full or damaged cache no longer takes. It never grows beyond the bytes it was given: then it takes no more rows.

use super::row::{Copy, MAX_COPIES, Pack, Row};
use crate::{Location, PackId, Result, ShortId};
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};

/// A key of the table: a chunk and which of its copies (0 is the oldest), so that the common single copy costs one
/// entry and no allocation.
type Key = (ShortId, u8);

/// Bytes of one entry in a hash table, its control byte included.
const ENTRY: usize = size_of::<(Key, Copy)>() + 1;

/// Bytes a known pack costs: an entry in each direction. Coarse: there are about 100 chunks to a pack.
const PACK: usize = 2 * (size_of::<(PackId, u32)>() * 2);

/// Bytes the name of a covered segment costs, beside its length.
const NAME: usize = 64;

#[derive(Debug)]
pub(super) struct Memory {
    max_rows: usize,
    max_rest: usize,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: HashMap<Key, Copy>,
    packs: Vec<(PackId, u32)>,
    numbers: HashMap<PackId, u32>,
    covered: HashSet<String>,
    /// Bytes that everything but the rows takes.
    rest: usize,
}

impl Memory {
    /// At most `bytes` of memory: three quarters for rows, the rest for packs and segment names.
    pub(super) fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { max_rows: max_rows(bytes / 4 * 3), max_rest: bytes / 4, inner: RwLock::default() }
    }

    pub(super) fn lookup(&self, id: &ShortId) -> Vec<Location> {
        let inner = self.inner.read();
        let mut found = Vec::new();
        for nth in 0..MAX_COPIES as u8 {
            let Some(copy) = inner.rows.get(&(*id, nth)) else { break };
            if let Some((pack, epoch)) = inner.packs.get(copy.pack as usize) {
                let pack = Pack { number: copy.pack, id: *pack, epoch: *epoch };
                found.extend(copy.location(&pack));
            }
        }
        found.reverse();
        found
    }

    pub(super) fn insert(&self, pack: &PackId, epoch: u32, rows: &[Row]) -> Result<()> {
        let mut inner = self.inner.write();
        let number = match inner.numbers.get(pack) {
            Some(number) => *number,
            None => {
                if inner.rest + PACK > self.max_rest {
                    return Ok(());
                }
                let Ok(number) = u32::try_from(inner.packs.len()) else { return Ok(()) };
                inner.rest += PACK;
                inner.packs.push((*pack, epoch));
                inner.numbers.insert(*pack, number);
                number
            }
        };
        for row in rows {
            let copy = row.copy_in(number)?;
            inner.put(row.id, copy, self.max_rows);
        }
        Ok(())
    }

    pub(super) fn covered_pack(&self, pack: &PackId) -> bool {
        self.inner.read().numbers.contains_key(pack)
    }

    pub(super) fn is_covered(&self, segment: &str) -> bool {
        self.inner.read().covered.contains(segment)
    }

    pub(super) fn cover(&self, segment: &str) {
        let mut inner = self.inner.write();
        let cost = NAME + segment.len();
        if inner.rest + cost <= self.max_rest && inner.covered.insert(segment.to_owned()) {
            inner.rest += cost;
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.inner.read().rows.len() as u64
    }
}

impl Inner {
    fn put(&mut self, id: ShortId, copy: Copy, max_rows: usize) {
        for nth in 0..MAX_COPIES as u8 {
            match self.rows.get_mut(&(id, nth)) {
                Some(known) if known.pack == copy.pack => {
                    *known = copy;
                    return;
                }
                Some(_) => {}
                None => {
                    if self.rows.len() < max_rows {
                        self.rows.insert((id, nth), copy);
                    }
                    return;
                }
            }
        }
    }
}

/// Rows that a hash table may hold so that it, and while it grows its former half beside it, stays within `bytes`. The
/// table has a power of two of slots and is filled to seven eighths.
fn max_rows(bytes: usize) -> usize {
    let slots = bytes / 3 * 2 / ENTRY;
    match slots.checked_ilog2() {
        Some(power) if power >= 3 => (1 << power) / 8 * 7,
        _ => 0,
    }
}

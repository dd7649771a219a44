//! All packs, and one bit for each chunk and node in them that something refers to.
//!
//! A pack takes 64 bytes; the bits of all lie in one row of words, where each pack has a part that grows when it must. How
//! many chunks a pack has nobody asks: the marks say how much of it is referred to.

use crate::crypto::TAG;
use crate::format::pack::MAX_PACK;
use crate::id::{PackId, SessionId};
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result};
use std::collections::{HashMap, HashSet};

/// No pack has more chunks than this: each takes at least its tag.
const MOST_ORDINALS: u32 = (MAX_PACK / TAG as u64) as u32;

/// What is kept of a pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pack {
    id: PackId,
    /// Its length in bytes.
    size: u64,
    /// Bytes of what is marked.
    live: u64,
    /// Its words.
    first: u32,
    words: u32,
    /// The lowest key epoch of what was marked in it; none: the highest number.
    epoch: u32,
    swept: bool,
    condemned: bool,
    damaged: bool,
}

impl Pack {
    /// One of so many bytes, of which nothing is known yet.
    pub(super) fn new(id: PackId, size: u64) -> Self {
        Self { id, size, live: 0, first: 0, words: 0, epoch: u32::MAX, swept: false, condemned: false, damaged: false }
    }
}

/// Bytes of memory for a pack without marks.
const PACK: u64 = size_of::<Pack>() as u64;

/// So many packs need more than these bytes.
pub(super) fn no_room(packs: usize, memory: u64) -> Error {
    let memory = memory >> 20;
    let text = format!("the marks of {packs} packs need more than the {memory} MiB that are for them");
    Error::invalid(text).advise("nothing was deleted: give more with --memory")
}

/// The number of a pack.
pub(super) type Number = usize;

/// The table of packs.
#[derive(Debug)]
pub(super) struct Packs {
    /// Those that were listed, sorted by id, then those that came later.
    packs: Vec<Pack>,
    listed: usize,
    /// The one that was found last: what follows each other in a map mostly lies in the same pack.
    last: Option<Number>,
    /// Packs that were not listed, and which of them are there.
    late: HashMap<PackId, Option<Number>>,
    /// Packs that are condemned and were not listed: gone, or left out by the listing.
    absent: HashSet<PackId>,
    /// The random parts of the names of all packs that were ever in a delete set, sorted.
    swept: Vec<u64>,
    words: Vec<u64>,
    /// Chunks for which a pack gets room at first, for each byte of it.
    chunk: u64,
    memory: u64,
    /// Of live packs.
    pub(super) total: u64,
    pub(super) marked: u64,
}

impl Packs {
    /// Of these packs, which are there; those in `swept` are as good as gone. `chunk` is how long a chunk mostly is (bytes).
    /// Nothing is copied: of millions of packs the listing would take as much as the table.
    pub(super) fn new(mut packs: Vec<Pack>, mut swept: Vec<u64>, chunk: u64, memory: u64) -> Result<Self> {
        packs.sort_unstable_by_key(|pack| pack.id);
        packs.dedup_by_key(|pack| pack.id);
        packs.shrink_to_fit();
        swept.shrink_to_fit();
        swept.sort_unstable();
        packs.iter_mut().for_each(|pack| pack.swept = swept.binary_search(&pack.id.random).is_ok());
        let total = packs.iter().filter(|pack| !pack.swept).map(|pack| pack.size).sum();
        let listed = packs.len();
        let (late, absent, words) = (HashMap::new(), HashSet::new(), Vec::new());
        let table = Self { packs, listed, last: None, late, absent, swept, words, chunk, memory, total, marked: 0 };
        table.fits(0)?;
        Ok(table)
    }

    /// An error when so many packs do not fit, without a mark.
    pub(super) fn have_room(packs: usize, memory: u64) -> Result<()> {
        if packs as u64 * PACK <= memory { Ok(()) } else { Err(no_room(packs, memory)) }
    }

    /// How many bytes are left beside so many words more; an error when those do not fit. What counts is what is taken, and not what is in
    /// use: a vector has room for more than is in it, and a map for a byte and a pair in each of its places, of which it fills seven of eight.
    fn fits(&self, words: usize) -> Result<u64> {
        let map = |capacity: usize, pair: usize| (capacity as u64 * 8).div_ceil(7) * (pair as u64 + 1);
        let late = map(self.late.capacity(), size_of::<(PackId, Option<Number>)>());
        let absent = map(self.absent.capacity(), size_of::<PackId>());
        let bits = self.words.capacity().max(self.words.len() + words) as u64 * 8;
        let need = self.packs.capacity() as u64 * PACK + self.swept.capacity() as u64 * 8 + late + absent + bits;
        self.memory.checked_sub(need).ok_or_else(|| no_room(self.packs.len(), self.memory))
    }

    fn search(&self, id: &PackId) -> Option<Number> {
        self.packs[..self.listed].binary_search_by_key(id, |pack| pack.id).ok()
    }

    /// The pack of this name; `None` when it is gone, or as good as gone. One that came after the list is asked for: it is
    /// there, and is never condemned by whoever made this list; by an earlier list it may have been.
    pub(super) fn find(&mut self, repository: &Repository, id: &PackId) -> Result<Option<Number>> {
        if self.last.is_none_or(|last| self.packs[last].id != *id) {
            self.last = self.look_up(repository, id)?;
        }
        Ok(self.last)
    }

    fn look_up(&mut self, repository: &Repository, id: &PackId) -> Result<Option<Number>> {
        if let Some(n) = self.search(id) {
            return Ok(Some(n).filter(|n| !self.packs[*n].swept));
        }
        if self.is_swept(id) {
            return Ok(None);
        }
        if let Some(known) = self.late.get(id) {
            return Ok(*known);
        }
        let size = match repository.storage().head(&keys::pack(id)) {
            Ok(object) => Some(object.size),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        self.add_late(id, size)
    }

    /// Takes one that was not listed; `None`: it is gone.
    fn add_late(&mut self, id: &PackId, size: Option<u64>) -> Result<Option<Number>> {
        self.late.reserve(1);
        let mut known = None;
        if let Some(size) = size {
            if self.packs.len() == self.packs.capacity() {
                // The list has no room to spare, and a vector that doubles would take as much again for one pack. What is left is for the
                // bits too.
                let left = usize::try_from(self.fits(0)? / PACK / 2).unwrap_or(usize::MAX);
                self.packs.reserve_exact((self.packs.len() / 64).max(16).min(left).max(1));
            }
            let condemned = self.absent.contains(id);
            self.packs.push(Pack { condemned, ..Pack::new(*id, size) });
            known = Some(self.packs.len() - 1);
        }
        self.late.insert(*id, known);
        self.fits(0)?;
        Ok(known)
    }

    /// Marks what is at this place, counted from 0, of `len` bytes; true for the first time.
    pub(super) fn mark(&mut self, n: Number, place: u32, len: u32) -> Result<bool> {
        if place >= MOST_ORDINALS {
            let text = format!("a reference names number {place} of a pack, which has fewer");
            return Err(Error::corrupt(text).with_object(keys::pack(&self.packs[n].id)));
        }
        let (word, bit) = (place / 64, 1u64 << (place % 64));
        if word >= self.packs[n].words {
            self.grow(n, word + 1)?;
        }
        let pack = &mut self.packs[n];
        let word = &mut self.words[(pack.first + word) as usize];
        let new = *word & bit == 0;
        if new {
            *word |= bit;
            pack.live += u64::from(len);
            self.marked += u64::from(len);
        }
        Ok(new)
    }

    /// Notes the key epoch that something in it was sealed under.
    pub(super) fn note_epoch(&mut self, n: Number, epoch: u32) {
        self.packs[n].epoch = self.packs[n].epoch.min(epoch);
    }

    /// The key epoch of what is marked in it: a pack has one.
    pub(super) fn epoch(&self, n: Number) -> u32 {
        self.packs[n].epoch
    }

    fn grow(&mut self, n: Number, least: u32) -> Result<()> {
        let Pack { size, first, words, .. } = self.packs[n];
        let guess = (size / self.chunk.max(1)).div_ceil(64).min(u64::from(MOST_ORDINALS / 64)) as u32;
        let wanted = least.max(2 * words).max(if words == 0 { guess } else { 0 });
        let left = usize::try_from(self.fits(wanted as usize)? / 8).unwrap_or(usize::MAX);
        // A vector that doubles takes as much again as it has: by an eighth at a time it is a few more copies in all. Half of what is
        // left stays for packs that come late.
        let start = self.words.len();
        if self.words.capacity() - start < wanted as usize {
            let spare = (start / 8).saturating_sub(wanted as usize).min(left / 2);
            self.words.reserve_exact(wanted as usize + spare);
        }
        let many = || Error::invalid("there are more chunks than marks can be kept of: give more with --memory");
        let new = u32::try_from(start).ok().filter(|new| new.checked_add(wanted).is_some()).ok_or_else(many)?;
        self.words.extend_from_within(first as usize..(first + words) as usize);
        self.words.resize(start + wanted as usize, 0);
        (self.packs[n].first, self.packs[n].words) = (new, wanted);
        Ok(())
    }

    pub(super) fn is_marked(&self, n: Number, place: u32) -> bool {
        let pack = &self.packs[n];
        place / 64 < pack.words && self.words[(pack.first + place / 64) as usize] >> (place % 64) & 1 == 1
    }

    /// The places that are marked.
    pub(super) fn marks(&self, n: Number) -> impl Iterator<Item = u32> + '_ {
        (0..self.packs[n].words * 64).filter(move |place| self.is_marked(n, *place))
    }

    pub(super) fn id(&self, n: Number) -> PackId {
        self.packs[n].id
    }

    pub(super) fn size(&self, n: Number) -> u64 {
        self.packs[n].size
    }

    /// Bytes of what is marked in it.
    pub(super) fn live(&self, n: Number) -> u64 {
        self.packs[n].live
    }

    /// True unless nothing in it is marked.
    pub(super) fn is_live(&self, n: Number) -> bool {
        let Pack { first, words, .. } = self.packs[n];
        self.words[first as usize..(first + words) as usize].iter().any(|word| *word != 0)
    }

    /// The packs that were listed and are not as good as gone.
    pub(super) fn listed(&self) -> impl Iterator<Item = Number> + '_ {
        (0..self.listed).filter(|n| !self.packs[*n].swept)
    }

    /// Who wrote the packs that were listed.
    pub(super) fn sessions(&self) -> HashSet<SessionId> {
        self.listed().map(|n| self.packs[n].id.session).collect()
    }

    /// Whether a pack of this name was ever in a delete set.
    pub(super) fn is_swept(&self, id: &PackId) -> bool {
        self.swept.binary_search(&id.random).is_ok()
    }

    pub(super) fn is_condemned(&self, n: Number) -> bool {
        self.packs[n].condemned
    }

    /// All packs that are there and not as good as gone, also those that were not listed.
    pub(super) fn all(&self) -> impl Iterator<Item = Number> + '_ {
        (0..self.packs.len()).filter(|n| !self.packs[*n].swept)
    }

    /// Notes that these are damaged: before anything is looked for, of data packs.
    pub(super) fn set_damaged<'a>(&mut self, damaged: impl IntoIterator<Item = &'a PackId>) {
        for id in damaged {
            if let Some(n) = self.search(id) {
                self.packs[n].damaged = true;
            }
        }
    }

    /// Whether a check, or this run, has found this pack damaged.
    pub(super) fn is_damaged(&self, n: Number) -> bool {
        self.packs[n].damaged
    }

    /// Notes, before anything is looked for, that a list condemns these.
    pub(super) fn condemn(&mut self, condemned: &[PackId]) {
        for id in condemned {
            match self.search(id) {
                Some(n) => self.packs[n].condemned = true,
                None => drop(self.absent.insert(*id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PackKind, SessionId};

    fn pack(n: u64) -> PackId {
        PackId { kind: PackKind::Data, session: SessionId::new([1; 16]), seq: n as u32, random: n << 32 }
    }

    #[test]
    fn bits_of_many_packs_do_not_meet_and_cost_about_one_bit_a_chunk() {
        const PACKS: u64 = 4000;
        let found = (0..PACKS).map(|n| Pack::new(pack(n), 32 << 20)).collect();
        let mut table = Packs::new(found, Vec::new(), 256 << 10, 1 << 20).unwrap();
        // More than the guess was in some, and each place twice.
        let places =
            |n: usize| (0..if n.is_multiple_of(10) { 300 } else { 128 }).filter(move |place| place % 3 != n as u32 % 3);
        for _ in 0..2 {
            for n in 0..PACKS as usize {
                for place in places(n) {
                    table.mark(n, place, 10).unwrap();
                }
            }
        }
        for n in 0..PACKS as usize {
            assert!(table.marks(n).eq(places(n)), "pack {n}");
            assert_eq!(table.live(n), 10 * places(n).count() as u64);
        }
        let chunks = PACKS * (9 * 128 + 300) / 10;
        assert!(table.words.len() as u64 * 64 < 2 * chunks, "{} words", table.words.len());
        let few = Packs::new((0..PACKS).map(|n| Pack::new(pack(n), 1)).collect(), Vec::new(), 1, 64 << 10);
        assert_eq!(few.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(table.mark(0, MOST_ORDINALS, 1).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn one_pack_that_comes_late_takes_no_second_table() {
        const PACKS: u64 = 4000;
        // One pack more, the four places of the map that names it, and two words of bits.
        let memory = (PACKS + 1) * PACK + 4 * 49 + 2 * 8;
        let of = |memory| {
            let found = (0..PACKS).map(|n| Pack::new(pack(n), 1 << 20)).collect();
            Packs::new(found, Vec::new(), 1 << 20, memory).unwrap()
        };
        assert!(of(memory - 17).add_late(&pack(PACKS), Some(1)).is_err());
        let mut table = of(memory);
        let late = table.add_late(&pack(PACKS), Some(1 << 20)).unwrap().unwrap();
        assert!(table.mark(late, 0, 10).unwrap());
        assert!(table.mark(0, 63, 10).unwrap());
        assert!(table.packs.capacity() as u64 * PACK <= memory, "{} packs", table.packs.capacity());
        assert!(table.mark(1, 0, 10).is_err());
    }

    #[test]
    fn bits_use_all_that_is_there_for_them() {
        const PACKS: u64 = 4000;
        let words = |n: u64| if n.is_multiple_of(3) { 3 } else { 1 };
        let memory = PACKS * PACK + 8 * (0..PACKS).map(words).sum::<u64>();
        let of = |memory| {
            let found = (0..PACKS).map(|n| Pack::new(pack(n), (words(n) * 64) << 10)).collect();
            let mut table = Packs::new(found, Vec::new(), 1 << 10, memory).unwrap();
            (0..PACKS).try_for_each(|n| table.mark(n as usize, 0, 10).map(drop))
        };
        of(memory).unwrap();
        assert_eq!(of(memory - 1).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

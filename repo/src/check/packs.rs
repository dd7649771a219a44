//! Step 2: packs, what their indexes say, and which of their chunks and nodes were seen in maps.

use super::age::{Age, Reading};
use super::{CheckStep, Piece, Run};
use crate::crypto::TAG;
use crate::elsewhere::Copy;
use crate::format::pack::{Entry, Index, MIN_PACK};
use crate::format::tree::max_plain;
use crate::id::{Location, PackId, PackKind};
use crate::pack::read_index;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Packs whose indexes are read between two looks at the watch.
const BATCH: usize = 512;

/// How it stands with a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not looked at yet.
    Unread,
    /// Header, index and trailer are intact.
    Good,
    /// One of them is not: chunks can be read by what the maps say of them, if at all.
    Damaged,
    /// There is no such object.
    Missing,
}

/// What is kept of each pack; one bit for each chunk or node.
#[derive(Debug)]
struct Pack {
    id: PackId,
    state: State,
    size: u64,
    written: Option<Timestamp>,
    seen: Bits,
    /// Nodes below which nothing is damaged.
    clean: Bits,
    /// What tree nodes add up to, by ordinal: 64 bits of it, 0 where that is not known.
    sums: Vec<u64>,
    /// When what is below nodes was read, by ordinal.
    ages: Vec<Option<Age>>,
    /// The last time that all of it was.
    reading: Option<Reading>,
    /// That was by this check.
    fresh: bool,
    /// Chunks or nodes seen, and their bytes.
    count: u64,
    bytes: u64,
    /// Those of them that are not here but in another pack.
    moved: u64,
    moved_bytes: u64,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Sets a bit; true when it was not set.
    fn set(&mut self, n: u32) -> bool {
        let (word, bit) = (n as usize / 64, 1 << (n % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0.get_mut(word).is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    fn get(&self, n: u32) -> bool {
        self.0.get(n as usize / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }
}

/// No pack has more chunks than this: each takes at least its tag.
const MOST_ORDINALS: u32 = (crate::format::pack::MAX_PACK / TAG as u64) as u32;

/// All packs. Cheap questions are answered under one lock; nothing is read while it is held.
pub(super) struct Packs<'a> {
    run: &'a Run<'a>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    numbers: HashMap<PackId, usize>,
    packs: Vec<Pack>,
    /// What the index of a pack says, in the order of ordinals; kept for some.
    prints: HashMap<usize, (Arc<[u64]>, bool)>,
    order: VecDeque<usize>,
    bytes: u64,
    /// Chunks that were opened in place of damaged ones, by where they are: their packs may have nothing else that is read.
    opened: HashSet<(PackId, u32)>,
}

/// In place of a sum: somebody walks the node.
const CLAIMED: u64 = 1;

/// Who walks what is below a tree node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Whoever asks.
    Ours,
    /// Another thread, or one that found it damaged.
    Theirs,
    /// It was opened, and adds up to this.
    Known(u64),
}

/// A pack as a batch of slots meets it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) state: State,
    /// [`Piece::print`] of what it holds; there if it is good.
    pub(super) prints: Option<Arc<[u64]>>,
}

/// A pack as the data step needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) id: PackId,
    pub(super) state: State,
    pub(super) size: u64,
    /// Of the chunks that snapshots refer to.
    pub(super) bytes: u64,
    pub(super) written: Option<Timestamp>,
    /// Before this check.
    pub(super) reading: Option<Reading>,
}

/// Sums for the report.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) packs: u64,
    pub(super) nodes: u64,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    pub(super) unused_packs: u64,
    pub(super) unused_bytes: u64,
    pub(super) moved_chunks: u64,
    pub(super) moved_nodes: u64,
}

impl Table {
    fn number(&mut self, id: &PackId) -> usize {
        let packs = &mut self.packs;
        *self.numbers.entry(*id).or_insert_with(|| {
            packs.push(Pack {
                id: *id,
                state: State::Unread,
                size: 0,
                written: None,
                seen: Bits::default(),
                clean: Bits::default(),
                sums: Vec::new(),
                ages: Vec::new(),
                reading: None,
                fresh: false,
                count: 0,
                bytes: 0,
                moved: 0,
                moved_bytes: 0,
            });
            packs.len() - 1
        })
    }

    /// Keeps what an index says, in place of what was not asked for of late.
    fn keep(&mut self, number: usize, prints: &Arc<[u64]>, most: u64) {
        let size = |prints: &Arc<[u64]>| 8 * prints.len() as u64 + 64;
        if size(prints) > most || self.prints.contains_key(&number) {
            return;
        }
        self.bytes += size(prints);
        self.prints.insert(number, (prints.clone(), false));
        self.order.push_back(number);
        while self.bytes > most {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.prints.get_mut(&oldest) {
                Some((_, asked)) if *asked => {
                    *asked = false;
                    self.order.push_back(oldest);
                }
                _ => self.bytes -= self.prints.remove(&oldest).map_or(0, |(prints, _)| size(&prints)),
            }
        }
    }
}

impl<'a> Packs<'a> {
    pub(super) fn new(run: &'a Run<'a>) -> Self {
        Self { run, table: Mutex::default() }
    }

    /// Lists all packs and opens the index of each.
    pub(super) fn examine_all(&self) -> Result<()> {
        let mut ids = Vec::new();
        for prefix in [keys::PACKS, keys::META] {
            self.run.storage().list(prefix, &mut |object| {
                if let Some(id) = keys::parse_pack(&object.key) {
                    let mut table = self.table.lock();
                    let number = table.number(&id);
                    if let Some(pack) = table.packs.get_mut(number) {
                        (pack.size, pack.written) = (object.size, Some(object.modified));
                    }
                    ids.push(id);
                }
                Ok(())
            })?;
        }
        ids.sort_unstable();
        let mut done = 0;
        for part in ids.chunks(BATCH) {
            self.know(&part.iter().copied().collect())?;
            done += part.len() as u64;
            (self.run.watch)(CheckStep::Packs, done, ids.len() as u64)?;
        }
        Ok(())
    }

    /// What is to be known of these packs; those that were not looked at yet, or whose index was given up, are read.
    pub(super) fn know(&self, wanted: &BTreeSet<PackId>) -> Result<HashMap<PackId, Known>> {
        let mut known = HashMap::with_capacity(wanted.len());
        let mut unread = Vec::new();
        {
            let mut table = self.table.lock();
            for id in wanted {
                let number = table.number(id);
                let state = table.packs.get(number).map_or(State::Unread, |pack| pack.state);
                let prints = table.prints.get_mut(&number).map(|(prints, asked)| {
                    *asked = true;
                    prints.clone()
                });
                match (state, &prints) {
                    (State::Unread, _) | (State::Good, None) => unread.push(*id),
                    _ => drop(known.insert(*id, Known { state, prints })),
                }
            }
        }
        let loaded = self.run.each(&unread, |id| self.load(id))?;
        let mut table = self.table.lock();
        for (id, (state, size, prints)) in unread.into_iter().zip(loaded) {
            let number = table.number(&id);
            if let Some(pack) = table.packs.get_mut(number) {
                pack.size = size.unwrap_or(pack.size);
                if state == State::Damaged && pack.written.is_some() && pack.size < MIN_PACK {
                    self.run.findings.empty(&keys::pack(&id));
                }
                match (pack.state, state) {
                    // What was seen of it before was compared with its index, and nobody opens that for what is wrong now.
                    (State::Good, State::Damaged) => self.run.findings.unclear(&keys::pack(&id)),
                    _ => pack.state = state,
                }
            }
            if let Some(prints) = &prints {
                table.keep(number, prints, self.run.options.memory);
            }
            known.insert(id, Known { state, prints });
        }
        Ok(known)
    }

    fn load(&self, id: &PackId) -> Result<(State, Option<u64>, Option<Arc<[u64]>>)> {
        match self.pieces(id) {
            Ok((pieces, size)) => Ok((State::Good, Some(size), Some(pieces.iter().map(Piece::print).collect()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok((State::Missing, None, None)),
            Err(e) if self.run.is_damage(&e) => {
                self.run.findings.whole(&keys::pack(id), e.message());
                Ok((State::Damaged, None, None))
            }
            Err(e) => Err(e),
        }
    }

    /// What the index of a pack says, in the order of ordinals, and the length of the pack in bytes.
    pub(super) fn pieces(&self, id: &PackId) -> Result<(Vec<Piece>, u64)> {
        let (index, epoch, size) = read_index(self.run.storage(), self.run.repository.keys(), id)?;
        let piece = |entry: &Entry| piece(&index, entry, id, epoch);
        let pieces = index.entries.iter().map(piece).collect::<Option<Vec<_>>>();
        let pieces = pieces.ok_or_else(|| Error::corrupt("a pack's index is damaged: an entry makes no sense"))?;
        Ok((pieces, size))
    }

    /// Notes that a map refers to a chunk or node; true for the first time.
    pub(super) fn see(&self, piece: &Piece) -> bool {
        self.see_at(&piece.at.pack, piece.at.ordinal, piece.at.len)
    }

    fn see_at(&self, pack: &PackId, place: u32, len: u32) -> bool {
        if place >= MOST_ORDINALS {
            return true;
        }
        let mut table = self.table.lock();
        let number = table.number(pack);
        table.packs.get_mut(number).is_some_and(|pack| {
            let first = pack.seen.set(place);
            if first {
                pack.count += 1;
                pack.bytes += u64::from(len);
            }
            first
        })
    }

    /// Notes what a tree node that was opened adds up to.
    pub(super) fn set_sum(&self, at: &Location, sum: u64) {
        let (mut table, place) = (self.table.lock(), at.ordinal as usize);
        let number = table.number(&at.pack);
        let Some(pack) = table.packs.get_mut(number).filter(|_| at.ordinal < MOST_ORDINALS) else { return };
        if pack.sums.len() <= place {
            pack.sums.resize(place + 1, 0);
        }
        pack.sums.get_mut(place).into_iter().for_each(|known| *known = sum);
    }

    /// What was noted of it.
    pub(super) fn sum(&self, at: &Location) -> Option<u64> {
        let table = self.table.lock();
        let pack = table.numbers.get(&at.pack).and_then(|n| table.packs.get(*n))?;
        pack.sums.get(at.ordinal as usize).copied().filter(|sum| *sum > CLAIMED)
    }

    /// Says who walks what is below a tree node: each is walked once.
    pub(super) fn claim(&self, at: &Location) -> Claim {
        match self.sum(at) {
            Some(sum) => Claim::Known(sum),
            None if self.begin(at) => Claim::Ours,
            None => Claim::Theirs,
        }
    }

    fn begin(&self, at: &Location) -> bool {
        let (mut table, place) = (self.table.lock(), at.ordinal as usize);
        let number = table.number(&at.pack);
        let Some(pack) = table.packs.get_mut(number).filter(|_| at.ordinal < MOST_ORDINALS) else { return true };
        if pack.sums.len() <= place {
            pack.sums.resize(place + 1, 0);
        }
        pack.sums.get_mut(place).is_none_or(|sum| {
            *sum == 0 && {
                *sum = CLAIMED;
                true
            }
        })
    }

    /// What a map says is in a pack that is gone, in packs that are intact (V6); then, what is to be opened before anybody believes it,
    /// in those whose own index cannot be read.
    pub(super) fn elsewhere(&self, piece: &Piece) -> Result<Vec<Copy>> {
        let (repository, elsewhere) = (self.run.repository, self.run.repository.elsewhere());
        let known = self.intact(piece, elsewhere.find(repository, &piece.id, piece.class, &piece.at)?)?;
        let known = if known.is_empty() { self.all_elsewhere(piece)? } else { known };
        if !known.is_empty() {
            return Ok(known);
        }
        // A collector may have moved it since somebody looked.
        self.intact(piece, elsewhere.find_moved(repository, &piece.id, piece.class, &piece.at)?)
    }

    /// Likewise, also in packs of which nothing was known as memory is short: for who found that what [`elsewhere`](Self::elsewhere)
    /// names is damaged. Nothing where that knew of all.
    pub(super) fn all_elsewhere(&self, piece: &Piece) -> Result<Vec<Copy>> {
        let (repository, elsewhere) = (self.run.repository, self.run.repository.elsewhere());
        if !elsewhere.may_know_more(piece.class) {
            return Ok(Vec::new());
        }
        self.intact(piece, elsewhere.find_all(repository, &piece.id, piece.class, &piece.at)?)
    }

    /// Those of these copies whose packs are there and whole; after them those that a segment names.
    fn intact(&self, piece: &Piece, mut copies: Vec<Copy>) -> Result<Vec<Copy>> {
        copies.retain(|copy| piece.class >= 128 || copy.may_be_of(piece.plain));
        let known = self.know(&copies.iter().map(|copy| copy.pack).collect())?;
        copies.retain(|copy| match known.get(&copy.pack).map(|pack| pack.state) {
            Some(State::Good) => true,
            Some(State::Damaged) => copy.is_by_rows(),
            _ => false,
        });
        copies.sort_by_key(Copy::is_by_rows);
        Ok(copies)
    }

    /// Notes that a chunk or node, met for the first time, is not where the map says but where `copy` is.
    pub(super) fn see_moved(&self, piece: &Piece, copy: &Copy) {
        self.see_at(&copy.pack, copy.place, copy.at.len);
        let mut table = self.table.lock();
        let number = table.number(&piece.at.pack);
        if let Some(pack) = table.packs.get_mut(number) {
            pack.moved += 1;
            pack.moved_bytes += u64::from(piece.at.len);
        }
    }

    /// Notes that a copy of a damaged chunk was opened and is intact: it is what snapshots have of it, and no pack that has such is
    /// unused. One whose pack is gone was counted when a map named it.
    pub(super) fn set_opened(&self, piece: &Piece, copy: &Copy) {
        let is_new = {
            let mut table = self.table.lock();
            let pack = table.numbers.get(&piece.at.pack).and_then(|n| table.packs.get(*n));
            let is_there = pack.is_some_and(|pack| pack.state != State::Missing);
            table.opened.insert((copy.pack, copy.place)) && is_there
        };
        if is_new {
            self.see_moved(piece, copy);
        }
    }

    /// When a copy of a damaged chunk was read.
    pub(super) fn age_of_copy(&self, copy: &Copy) -> Age {
        match self.table.lock().opened.contains(&(copy.pack, copy.place)) {
            true => return Age::Since(self.run.began),
            // Only what maps refer to by place was opened of such a pack.
            false if copy.is_by_rows() => return Age::Never,
            false => {}
        }
        self.age(&copy.pack)
    }

    /// Notes that nothing below a node is damaged.
    pub(super) fn set_clean(&self, pack: &PackId, ordinal: u32) {
        let mut table = self.table.lock();
        let number = table.number(pack);
        if let Some(pack) = table.packs.get_mut(number).filter(|_| ordinal < MOST_ORDINALS) {
            pack.clean.set(ordinal);
        }
    }

    /// Takes back all that [`Self::set_clean`] noted.
    pub(super) fn forget_clean(&self) {
        self.table.lock().packs.iter_mut().for_each(|pack| pack.clean = Bits::default());
    }

    pub(super) fn is_clean(&self, pack: &PackId, ordinal: u32) -> bool {
        let table = self.table.lock();
        table.numbers.get(pack).and_then(|n| table.packs.get(*n)).is_some_and(|pack| pack.clean.get(ordinal))
    }

    /// Packs that turned out to be gone while they were read.
    pub(super) fn lose(&self, id: &PackId) {
        let mut table = self.table.lock();
        let number = table.number(id);
        if let Some(pack) = table.packs.get_mut(number) {
            pack.state = State::Missing;
        }
    }

    /// Packs that are missing.
    pub(super) fn gone(&self) -> BTreeSet<PackId> {
        self.table.lock().packs.iter().filter(|p| p.state == State::Missing).map(|p| p.id).collect()
    }

    /// The data packs that snapshots refer to, by name; `all`: and those that nobody refers to by place.
    pub(super) fn used(&self, all: bool) -> Vec<Used> {
        let table = self.table.lock();
        let used = table.packs.iter().filter(|p| p.id.kind == PackKind::Data && (all || p.count > 0));
        let used = used.map(|p| Used {
            id: p.id,
            state: p.state,
            size: p.size,
            bytes: p.bytes,
            written: p.written,
            reading: p.reading,
        });
        let mut used: Vec<Used> = used.collect();
        used.sort_unstable_by_key(|p| p.id);
        used
    }

    /// Takes a reading that was noted; false when no such pack is known.
    pub(super) fn note(&self, id: &PackId, reading: Reading) -> bool {
        let mut table = self.table.lock();
        let number = table.numbers.get(id).copied();
        let pack = number.and_then(|n| table.packs.get_mut(n)).filter(|pack| pack.state != State::Missing);
        pack.is_some_and(|pack| {
            pack.reading = pack.reading.max(Some(reading));
            true
        })
    }

    /// All chunks of a pack were read by this check, or were to be and could not.
    pub(super) fn set_read(&self, id: &PackId, intact: bool, fresh: bool) {
        let mut table = self.table.lock();
        let number = table.number(id);
        if let Some(pack) = table.packs.get_mut(number) {
            // It may be read a second time, for what a map says is in it and its index does not.
            let before = pack.reading.is_some_and(|reading| reading.damaged && reading.at == self.run.began);
            (pack.reading, pack.fresh) = (Some(Reading { at: self.run.began, damaged: !intact || before }), fresh);
        }
    }

    /// The readings of packs that are there, in the order of their times.
    pub(super) fn readings(&self) -> Vec<(Reading, PackId)> {
        let table = self.table.lock();
        let there = table.packs.iter().filter(|pack| pack.state != State::Missing);
        let mut readings: Vec<_> = there.filter_map(|pack| Some((pack.reading?, pack.id))).collect();
        readings.sort_unstable();
        readings
    }

    /// When a chunk was read that is in this pack and was not found to be damaged.
    pub(super) fn age(&self, id: &PackId) -> Age {
        let table = self.table.lock();
        let Some(pack) = table.numbers.get(id).and_then(|n| table.packs.get(*n)) else { return Age::Never };
        match pack.reading {
            // Of one whose index is damaged all that is referred to was opened.
            _ if pack.fresh || pack.state == State::Damaged => Age::Since(self.run.began),
            Some(Reading { damaged: true, .. }) => Age::Damaged,
            Some(Reading { at, .. }) => Age::Since(at),
            None => Age::Never,
        }
    }

    /// True when this check knows of each data pack there is whether it is damaged, and relies on no earlier one. Also of those that nobody
    /// refers to by place: what refers to them may be a node that was healed, or will be.
    pub(super) fn all_noted(&self) -> bool {
        let began = self.run.began;
        let is_known = |pack: &Pack| match pack.state {
            // Of a damaged one all that is referred to was opened.
            State::Missing | State::Damaged => true,
            State::Good | State::Unread => pack.reading.is_some_and(|reading| reading.at == began),
        };
        self.table.lock().packs.iter().filter(|p| p.id.kind == PackKind::Data).all(is_known)
    }

    /// True when this check has read each data pack that snapshots refer to, and all were intact.
    pub(super) fn all_read(&self) -> bool {
        let read = |pack: &Pack| pack.fresh && pack.state == State::Good && pack.reading.is_some_and(|r| !r.damaged);
        self.table.lock().packs.iter().filter(|p| p.id.kind == PackKind::Data && p.count > 0).all(read)
    }

    /// Notes when what is below a node was read.
    pub(super) fn set_age_below(&self, at: &Location, age: Age) {
        let (mut table, place) = (self.table.lock(), at.ordinal as usize);
        let number = table.number(&at.pack);
        let Some(pack) = table.packs.get_mut(number).filter(|_| at.ordinal < MOST_ORDINALS) else { return };
        if pack.ages.len() <= place {
            pack.ages.resize(place + 1, None);
        }
        pack.ages.get_mut(place).into_iter().for_each(|known| *known = Some(age));
    }

    /// What was noted of it.
    pub(super) fn age_below(&self, at: &Location) -> Option<Age> {
        let table = self.table.lock();
        let pack = table.numbers.get(&at.pack).and_then(|n| table.packs.get(*n))?;
        pack.ages.get(at.ordinal as usize).copied().flatten()
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for pack in &self.table.lock().packs {
            totals.packs += u64::from(pack.state != State::Missing);
            match pack.id.kind {
                PackKind::Meta => {
                    totals.nodes += pack.count - pack.moved;
                    totals.moved_nodes += pack.moved;
                }
                PackKind::Data if pack.count == 0 => {
                    totals.unused_packs += u64::from(pack.state != State::Missing);
                    totals.unused_bytes += pack.size;
                }
                PackKind::Data => {
                    totals.chunks += pack.count - pack.moved;
                    totals.bytes += pack.bytes - pack.moved_bytes;
                    totals.moved_chunks += pack.moved;
                }
            }
        }
        totals
    }
}

/// `None` for what no writer writes.
fn piece(index: &Index, entry: &Entry, id: &PackId, epoch: u32) -> Option<Piece> {
    let kind = if entry.class < 128 { PackKind::Data } else { PackKind::Meta };
    let fits = kind == id.kind && max_plain(entry.class).is_some_and(|most| entry.plain <= most);
    let at = index.location(entry, id, epoch)?;
    fits.then_some(Piece { id: entry.id.short(), at, class: entry.class, plain: entry.plain })
}

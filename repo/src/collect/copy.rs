//! G6 and G7: what is condemned, and copies of what is still needed of packs that go.
//!
//! A pack of chunks of which no more than a quarter is referred to is copied: the chunks as they are sealed, with where they
//! were sealed first. More would not be worth it: maps keep naming the old place, so that the copy is found by id, and the
//! next backup that builds on such a map stores these chunks once more. Packs of nodes are not copied: a writer does not look
//! up nodes of its parent, so a copied one would cost the next backup its parent, for a saving of little.

use super::lists::Lists;
use super::packs::{Number, Packs};
use super::report::{Collected, Packed};
use super::{CollectStep, Run, Tried};
use crate::crypto::TAG;
use crate::format::pack::{Entry, HEADER, Header, Index, TRAILER, Trailer};
use crate::format::records::{Generation, Moved};
use crate::format::tree::max_plain;
use crate::id::{Location, PackId, PackKind, SessionId, VolumeId};
use crate::pack::read_index;
use crate::session::fence;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result, clock};

/// A pack is copied when no more than one part in so many is referred to.
const THIN: u64 = 4;
/// Chunks of a pack that lie this close (bytes) are read together.
const GAP: u64 = 256 << 10;
/// Longest such read (bytes).
const WINDOW: u64 = 4 << 20;
/// The origins that one pack may name.
const MOST_ORIGINS: usize = u16::MAX as usize - 1;

/// What a mark says is to be done.
pub(super) struct Plan {
    lists: Lists,
    /// Without a reference.
    condemned: Vec<PackId>,
    /// With few.
    thin: Vec<Number>,
    /// Of older key epochs, to be sealed anew.
    old: Vec<Number>,
    list: Generation,
}

/// A chunk as it is to be copied.
struct Taken {
    /// Its entry in the pack it comes from; the ordinal is the one it was sealed with.
    entry: Entry,
    /// The pack it was sealed for, and that one's key epoch.
    origin: (PackId, u32),
    sealed: Vec<u8>,
}

impl Run<'_> {
    /// G5, G6: marks, and says what goes.
    pub(super) fn plan(&self, mut lists: Lists, report: &mut Collected) -> Result<Plan> {
        *report = Collected {
            all: Packed::default(),
            live: Packed::default(),
            live_bytes: 0,
            spared: Packed::default(),
            condemned: Packed::default(),
            thin: Packed::default(),
            copied: Packed::default(),
            old: Packed::default(),
            damaged: Packed::default(),
            rewritten: Packed::default(),
            resealed: Packed::default(),
            ..std::mem::take(report)
        };
        let roots = lists.roots.all()?;
        let kept = self.mark(&mut lists.packs, &roots)?;
        let dead = lists.roots.dead(&roots);
        let may_condemn = lists.roots.may_condemn();
        let packs = &lists.packs;
        let (mut condemned, mut thin, mut old) = (Vec::new(), Vec::new(), Vec::new());
        let newest = self.repository.keys().epoch();
        for n in packs.listed() {
            let (id, size) = (packs.id(n), packs.size(n));
            report.all.add(size);
            match (packs.is_live(n), may_condemn(&id.session) && !kept.contains(&n)) {
                (true, may) => {
                    report.live.add(size);
                    report.live_bytes += packs.live(n);
                    // Of what is damaged not all can be moved.
                    let (is_damaged, may) = (packs.is_damaged(n), may && !packs.is_damaged(n));
                    if self.options.rewrite && packs.epoch(n) < newest {
                        report.old.add(size);
                        is_damaged.then(|| report.damaged.add(size));
                        old.extend(may.then_some(n));
                    } else if may && id.kind == PackKind::Data && cost(packs, n) * THIN <= size {
                        thin.push(n);
                    }
                }
                (false, true) => {
                    report.condemned.add(size);
                    condemned.push(id);
                }
                (false, false) => report.spared.add(size),
            }
        }
        // Those that free most for what is copied.
        thin.sort_by(|a, b| {
            let share = |n: &Number| packs.live(*n) as f64 / packs.size(*n).max(1) as f64;
            share(a).total_cmp(&share(b))
        });
        // Backups need room as well, until the old packs are deleted.
        let half = self.storage().free().map_or(u64::MAX, |free| free / 2);
        let mut room = self.options.copy_most.min(half);
        thin.retain(|n| {
            let fits = packs.live(*n) <= room;
            room -= if fits { packs.live(*n) } else { 0 };
            fits
        });
        thin.iter().for_each(|n| {
            report.thin.add(packs.size(*n));
            report.copied.packs += packs.marks(*n).count() as u64;
            report.copied.bytes += packs.live(*n);
        });
        let old = self.choose_old(packs, old, half - report.copied.bytes, report)?;
        report.records = dead.len() as u64;
        drop(may_condemn);
        let roots = roots.iter().map(|root| root.made.id).collect();
        let list =
            Generation { condemned: Vec::new(), roots, dead, nonce: self.repository.nonce()?, moved: Vec::new() };
        Ok(Plan { lists, condemned, thin, old, list })
    }

    /// G7, and the list to be published; `None` when there is nothing to condemn.
    pub(super) fn copy_packs(&self, plan: Plan, report: &mut Collected) -> Result<Tried<Option<Generation>>> {
        let Plan { lists, mut condemned, thin, old, list } = plan;
        (report.thin, report.copied, report.records) = Default::default();
        if self.learn(true, report)? {
            return Ok(Tried::Damaged);
        }
        // The copies that found room are a stranger's without a mark: the next list condemns them.
        let copied = unless_full(self.copy_thin(&lists.packs, &thin, report), "no packs are copied")?;
        if copied.is_none() {
            (report.thin, report.copied) = Default::default();
        }
        let anew = unless_full(self.seal_anew(&lists.packs, &old, report), "nothing is sealed anew")?;
        if anew.is_none() {
            (report.rewritten, report.resealed) = Default::default();
        }
        if self.learn(true, report)? {
            return Ok(Tried::Damaged);
        }
        let mut moved: Vec<Moved> = copied.into_iter().chain(anew).flatten().collect();
        moved.sort_unstable_by_key(|moved| moved.pack);
        condemned.extend(moved.iter().map(|moved| moved.pack));
        if condemned.is_empty() && self.are_named(&list.dead)? {
            return Ok(Tried::Done(None));
        }
        condemned.sort_unstable();
        Ok(Tried::Done(Some(Generation { condemned, moved, ..list })))
    }

    /// Copies what is marked in these packs. The result ascends by pack. Nothing comes of a try in which one does not open
    /// ([`learn`](Self::learn)), so no more is copied then, and the rest is read to know all of them.
    fn copy_thin(&self, packs: &Packs, thin: &[Number], report: &mut Collected) -> Result<Vec<Moved>> {
        let mut copier = Copier { run: self, session: None, seq: 0, open: None };
        let mut moved = Vec::new();
        let total: u64 = thin.iter().map(|n| packs.live(*n)).sum();
        for n in thin.iter().copied() {
            (self.watch)(CollectStep::Copy, report.copied.bytes, total)?;
            let id = packs.id(n);
            let places: Vec<u32> = packs.marks(n).collect();
            let chunks = match self.read_chunks(&id, &places) {
                Err(e) if e.kind() != ErrorKind::NotFound && self.repository.is_damage(&e) => {
                    tracing::warn!("{} is damaged and stays where it is; run `wherry check`: {e}", keys::pack(&id));
                    self.does_not_open(id, packs.size(n));
                    continue;
                }
                chunks => chunks.map_err(|e| e.with_object(keys::pack(&id)))?,
            };
            if !self.unopened.lock().is_empty() {
                continue;
            }
            chunks.iter().try_for_each(|chunk| copier.append(chunk))?;
            report.thin.add(packs.size(n));
            chunks.iter().for_each(|chunk| report.copied.add(u64::from(chunk.entry.len)));
            moved.push(Moved { pack: id, places: bitmap(&places) });
        }
        if self.unopened.lock().is_empty() {
            copier.finish()?;
        }
        Ok(moved)
    }

    /// The chunks at these places of a pack, which ascend; each has been opened, so what is copied is what it should be.
    fn read_chunks(&self, pack: &PackId, places: &[u32]) -> Result<Vec<Taken>> {
        let (opener, mut scratch) = (self.repository.opener(), Vec::new());
        let mut taken = Vec::with_capacity(places.len());
        self.each_sealed(pack, places, &mut |entry, at, sealed| {
            let mut plain = vec![0; entry.plain as usize];
            opener.chunk(&entry.id.short(), entry.class, at, sealed, &mut scratch, &mut plain)?;
            let entry = Entry { ordinal: at.ordinal, ..*entry };
            taken.push(Taken { entry, origin: (at.pack, at.epoch), sealed: sealed.to_vec() });
            Ok(())
        })?;
        Ok(taken)
    }

    /// Calls `take` with what stands at these places of a pack, which ascend, as it is sealed.
    pub(super) fn each_sealed(&self, pack: &PackId, places: &[u32], take: TakeSealed<'_>) -> Result<()> {
        let repository = self.repository;
        let key = keys::pack(pack);
        let (index, epoch, _) = read_index(repository.storage(), repository.keys(), pack)?;
        let damaged = || Error::corrupt("a snapshot refers to what is not in the index of this pack").with_object(&key);
        let entry = |place: &u32| index.entries.get(*place as usize).copied().ok_or_else(damaged);
        let wanted = places.iter().map(entry).collect::<Result<Vec<_>>>()?;
        let end = |entry: &Entry| u64::from(entry.offset) + u64::from(entry.len);
        let mut rest = &wanted[..];
        while let Some(first) = rest.first() {
            let start = u64::from(first.offset);
            let (mut count, mut stop) = (1, end(first));
            while let Some(next) = rest.get(count)
                && u64::from(next.offset) <= stop + GAP
                && end(next) - start <= WINDOW
            {
                (count, stop) = (count + 1, end(next));
            }
            let bytes = repository.storage().get_range(&key, start..stop)?;
            let (window, others) = rest.split_at(count);
            for entry in window {
                let from = (u64::from(entry.offset) - start) as usize;
                let sealed = bytes.get(from..from + entry.len as usize).ok_or_else(damaged)?;
                let at = index.location(entry, pack, epoch).ok_or_else(damaged)?;
                if max_plain(entry.class).is_none_or(|most| entry.plain > most) {
                    return Err(damaged());
                }
                take(entry, &at, sealed)?;
            }
            rest = others;
        }
        Ok(())
    }
}

/// `None` where the storage has no room: what found some is a stranger's without a mark, and the next list condemns it.
fn unless_full<T>(done: Result<T>, what: &str) -> Result<Option<T>> {
    match done {
        Err(e) if e.kind() == ErrorKind::Full => {
            tracing::warn!("{what}, as there is no room for that before others are deleted: {e}");
            Ok(None)
        }
        done => done.map(Some),
    }
}

/// Takes an entry of a pack's index, where it is and what it was sealed for, and its sealed bytes.
pub(super) type TakeSealed<'a> = &'a mut dyn FnMut(&Entry, &Location, &[u8]) -> Result<()>;

/// Bytes that a copy of what is marked in a pack takes, alone in a pack.
fn cost(packs: &Packs, n: Number) -> u64 {
    let frame = HEADER + TRAILER + TAG + PackId::LEN + 4 + Index::plain_len(packs.marks(n).count());
    packs.live(n) + frame as u64
}

/// One bit for each place, as [`Moved`] has them.
pub(super) fn bitmap(places: &[u32]) -> Vec<u8> {
    let mut bits = Vec::new();
    for place in places {
        let byte = *place as usize / 8;
        if bits.len() <= byte {
            bits.resize(byte + 1, 0u8);
        }
        bits[byte] |= 1 << (place % 8);
    }
    bits
}

/// Fills packs of copies.
struct Copier<'a> {
    run: &'a Run<'a>,
    /// Whose packs they are. It has a Fence before it has packs: so they can be condemned by anybody who finds no reference to
    /// them, and until then this run's list comes first or not at all (G8).
    session: Option<SessionId>,
    seq: u32,
    open: Option<Filling>,
}

/// A pack of copies while it is filled.
struct Filling {
    id: PackId,
    epoch: u32,
    body: Vec<u8>,
    index: Index,
}

impl Copier<'_> {
    /// G7: takes one chunk.
    fn append(&mut self, chunk: &Taken) -> Result<()> {
        let capacity = self.run.options.pack_size;
        let full = |filling: &Filling| {
            let index = Index::plain_len(filling.index.entries.len() + 1) + 33 * (filling.index.origins.len() + 1);
            filling.epoch != chunk.origin.1
                || filling.body.len() + chunk.sealed.len() + index + TAG + TRAILER > capacity
                || filling.index.origins.len() >= MOST_ORIGINS
        };
        if self.open.as_ref().is_some_and(|filling| !filling.index.entries.is_empty() && full(filling)) {
            self.finish()?;
        }
        let mut filling = match self.open.take() {
            Some(filling) => filling,
            None => self.begin(chunk.origin.1)?,
        };
        let known = filling.index.origins.iter().rposition(|known| *known == chunk.origin);
        let number = known.unwrap_or_else(|| {
            filling.index.origins.push(chunk.origin);
            filling.index.origins.len() - 1
        });
        let offset = filling.body.len() as u32;
        filling.index.entries.push(Entry { offset, origin: number as u16 + 1, ..chunk.entry });
        filling.body.extend_from_slice(&chunk.sealed);
        self.open = Some(filling);
        Ok(())
    }

    /// Begins a pack under the key epoch of what is copied into it: whoever could read that can read the copy, also a reader that
    /// was there before the keys were rotated.
    fn begin(&mut self, epoch: u32) -> Result<Filling> {
        let repository = self.run.repository;
        let session = match self.session {
            Some(session) => session,
            None => {
                let session = SessionId::new(clock::random(repository.rng())?);
                fence(repository, VolumeId::new([0; 16]), session, "a collector's, for the packs that it fills")?;
                *self.session.insert(session)
            }
        };
        let random = u64::from_le_bytes(clock::random(repository.rng())?);
        let id = PackId { kind: PackKind::Data, session, seq: self.seq, random };
        self.seq += 1;
        let commitment = repository.keys().pack(&id, epoch)?.commitment;
        let body = Header { epoch, pack: id, commitment }.encode().to_vec();
        debug_assert_eq!(body.len(), HEADER);
        Ok(Filling { id, epoch, body, index: Index::default() })
    }

    /// Stores the pack that is open and reads it back: only then may what was copied be condemned.
    fn finish(&mut self) -> Result<()> {
        let Some(Filling { id, epoch, mut body, index }) = self.open.take() else { return Ok(()) };
        let repository = self.run.repository;
        let sealed = repository.keys().pack(&id, epoch)?.seal_index(index.encode())?;
        let trailer = Trailer::of(body.len(), &sealed, index.entries.len());
        body.extend_from_slice(&sealed);
        body.extend_from_slice(&trailer.encode());
        let (key, body) = (keys::pack(&id), bytes::Bytes::from(body));
        repository.storage().create(&key, body.clone())?;
        let wrong =
            || Error::corrupt("a copy is not what was stored a moment ago; nothing was condemned").with_object(&key);
        if repository.storage().get(&key)? != body
            || read_index(repository.storage(), repository.keys(), &id)?.0 != index
        {
            return Err(wrong());
        }
        Ok(())
    }
}

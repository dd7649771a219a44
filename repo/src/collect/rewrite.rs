//! G7, for packs of older key epochs (M4): what is referred to in them is opened and sealed anew under the newest epoch, and
//! the old packs are condemned.
//!
//! What is moved is found by its id from then on, chunks and nodes alike. Unlike copies, chunks that were sealed anew have
//! index segments: nothing in them has an origin, so the next backup finds each in the index and stores none again.

use super::copy::bitmap;
use super::packs::{Number, Packs};
use super::report::Collected;
use super::{CollectStep, Run};
use crate::format::pack::{Entry, Index, TRAILER};
use crate::format::records::{Kind, Moved};
use crate::format::segment::{self, PackRows};
use crate::id::{Location, PackId, PackKind, SessionId, VolumeId};
use crate::pack::{OpenPack, PackPool, Piece, SealedPack, open_packed, read_index};
use crate::session::fence;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result, clock};
use std::collections::HashSet;

/// Packs of nodes are this long at most (bytes).
const META_PACK: usize = 4 << 20;
/// Packs whose rows go into one index segment.
const SEGMENT: usize = 64;
/// Bytes of memory for each chunk that is looked for by its id, as long as its table grows, of a quarter of what there is.
const ROW: u64 = 4 * 16;

impl Run<'_> {
    /// Of these packs as many as one run seals anew. `Invalid` where there are so many chunks that whoever looked for them by
    /// id, as all do from then on, would not have the memory for it.
    pub(super) fn choose_old(
        &self,
        packs: &Packs,
        mut old: Vec<Number>,
        report: &mut Collected,
    ) -> Result<Vec<Number>> {
        let chunks: u64 = old.iter().map(|n| packs.marks(*n).count() as u64).sum();
        if chunks * ROW > self.options.memory {
            let need = (chunks * ROW).div_ceil(1 << 20);
            let text = format!(
                "what was sealed anew is looked for by its id, and for {chunks} chunks that takes {need} MiB of memory"
            );
            let advice = "nothing was deleted: give more with --memory, or copy the snapshots into another repository \
                          with `wherry copy`";
            return Err(Error::invalid(text).advise(advice));
        }
        let mut room = self.options.rewrite_most;
        old.retain(|n| {
            let fits = packs.live(*n) <= room;
            room -= if fits { packs.live(*n) } else { 0 };
            fits
        });
        for n in &old {
            report.rewritten.add(packs.size(*n));
            report.resealed.packs += packs.marks(*n).count() as u64;
            report.resealed.bytes += packs.live(*n);
        }
        Ok(old)
    }

    /// Seals anew what is marked in these packs. One of which something does not open stays as it is, and so do those that hold
    /// the same: they are added to `kept`.
    pub(super) fn seal_anew(
        &self,
        packs: &Packs,
        old: &[Number],
        kept: &mut HashSet<PackId>,
        report: &mut Collected,
    ) -> Result<Vec<Moved>> {
        (report.rewritten, report.resealed) = Default::default();
        if old.is_empty() {
            return Ok(Vec::new());
        }
        let repository = self.repository;
        let session = SessionId::new(clock::random(repository.rng())?);
        let reason = "a collector's, for the packs that it seals anew";
        fence(repository, VolumeId::new([0; 16]), session, reason)?;
        let mut sealer = Sealer { run: self, session, seq: 0, open: [None, None], rows: Vec::new(), segments: 0 };
        let mut moved = Vec::new();
        let total: u64 = old.iter().map(|n| packs.live(*n)).sum();
        for n in old.iter().copied() {
            (self.watch)(CollectStep::Copy, report.resealed.bytes, total)?;
            let id = packs.id(n);
            let places: Vec<u32> = packs.marks(n).collect();
            let mut taken = Vec::with_capacity(places.len());
            let opened = self.each_sealed(&id, &places, &mut |entry, at, sealed| {
                taken.push((*entry, self.packed(entry, at, sealed)?));
                Ok(())
            });
            match opened {
                // Not where it is gone: another collector may have deleted it.
                Err(e) if e.kind() != ErrorKind::NotFound && repository.is_damage(&e) => {
                    tracing::warn!("{} stays as it is, under an old key: {e}; run `wherry check`", keys::pack(&id));
                    self.keep_copies(&id, &places, kept)?;
                    continue;
                }
                opened => opened?,
            }
            for (entry, packed) in &taken {
                sealer.append(id.kind, entry, packed)?;
                report.resealed.add(u64::from(entry.len));
            }
            report.rewritten.add(packs.size(n));
            moved.push(Moved { pack: id, places: bitmap(&places) });
        }
        sealer.finish()?;
        Ok(moved)
    }

    /// What was sealed, as it was packed. It is what its id says.
    fn packed(&self, entry: &Entry, at: &Location, sealed: &[u8]) -> Result<Vec<u8>> {
        open_packed(self.repository.keys(), self.repository.pack_keys(), entry, at, sealed)
    }
}

/// Fills packs of chunks and packs of nodes under the newest epoch.
struct Sealer<'a> {
    run: &'a Run<'a>,
    /// Whose packs they are. As of a [`Copier`](super::copy::Copier).
    session: SessionId,
    seq: u32,
    /// Of chunks and of nodes.
    open: [Option<OpenPack>; 2],
    rows: Vec<PackRows>,
    segments: u32,
}

impl Sealer<'_> {
    fn capacity(&self, kind: PackKind, piece: &Piece<'_>) -> usize {
        let wanted = if kind == PackKind::Data { self.run.options.pack_size } else { META_PACK };
        wanted.max(piece.packed.len() + Index::plain_len(1) + TRAILER + (4 << 10))
    }

    fn append(&mut self, kind: PackKind, entry: &Entry, packed: &[u8]) -> Result<()> {
        let Entry { id, class, codec, plain, .. } = *entry;
        let piece = Piece { id, class, codec, plain, packed };
        let capacity = self.capacity(kind, &piece);
        loop {
            let pack = match self.open[kind as usize].take() {
                Some(pack) => pack,
                None => self.begin(kind)?,
            };
            let at = pack.reserve(&piece, capacity);
            if let Some(at) = &at {
                pack.fill(at, &piece, &mut Vec::with_capacity(at.len as usize))?;
            }
            self.open[kind as usize] = Some(pack);
            if at.is_some() {
                return Ok(());
            }
            self.store(kind)?;
        }
    }

    fn begin(&mut self, kind: PackKind) -> Result<OpenPack> {
        let repository = self.run.repository;
        let pool = PackPool::new(1, crate::format::pack::MAX_PACK as usize);
        self.seq += 1;
        OpenPack::new(kind, self.session, self.seq - 1, repository.keys(), repository.rng(), &pool)
    }

    /// Stores the pack that is open and reads it back: only then may what was in other packs be condemned.
    fn store(&mut self, kind: PackKind) -> Result<()> {
        let Some(pack) = self.open[kind as usize].take() else { return Ok(()) };
        let repository = self.run.repository;
        pack.close();
        let SealedPack { id, body, rows } = pack.finish(&PackPool::new(1, crate::format::pack::MAX_PACK as usize))?;
        let key = keys::pack(&id);
        repository.storage().create(&key, body.clone())?;
        if repository.storage().get(&key)? != body {
            let text = "what was sealed anew is not what was stored a moment ago; nothing was condemned";
            return Err(Error::corrupt(text).with_object(&key));
        }
        read_index(repository.storage(), repository.keys(), &id)?;
        if kind == PackKind::Data {
            self.rows.push(rows);
            self.segment(SEGMENT)?;
        }
        Ok(())
    }

    /// Rows of the packs that are stored, when there are at least so many.
    fn segment(&mut self, least: usize) -> Result<()> {
        if self.rows.len() < least {
            return Ok(());
        }
        let repository = self.run.repository;
        let key = keys::segment(&self.session, self.segments);
        let rows = segment::encode(&std::mem::take(&mut self.rows));
        self.segments += 1;
        repository.storage().create(&key, repository.keys().seal_record(Kind::Segment, &key, &rows)?.into())
    }

    fn finish(mut self) -> Result<()> {
        self.store(PackKind::Data)?;
        self.store(PackKind::Meta)?;
        self.segment(1)
    }
}

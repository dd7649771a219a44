//! G7, for packs of older key epochs (M4): what is referred to in them is opened and sealed anew under the newest epoch, and
//! the old packs are condemned.
//!
//! What is moved is found by its id from then on, chunks and nodes alike. Unlike copies, chunks that were sealed anew have
//! index segments: nothing in them has an origin, so the next backup finds each in the index and stores none again.

use super::copy::bitmap;
use super::packs::{Number, Packs};
use super::report::Collected;
use super::{CollectStep, Run};
use crate::format::pack::Entry;
use crate::format::records::Moved;
use crate::id::{Location, PackId, PackKind};
use crate::pack::read_index;
use crate::sealer::Sealer;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result};

/// Bytes of memory for each chunk that is looked for by its id, as long as its table grows, of a quarter of what there is.
const ROW: u64 = 4 * 16;

impl Run<'_> {
    /// Of these packs as many as one run seals anew, in no more than `free` bytes. `Invalid` where there are so many chunks that whoever looked for them by
    /// id, as all do from then on, would not have the memory for it.
    pub(super) fn choose_old(
        &self,
        packs: &Packs,
        old: Vec<Number>,
        free: u64,
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
        let (mut room, mut chosen) = (self.options.rewrite_most.min(free), Vec::new());
        for n in old.iter().copied() {
            if packs.live(n) > room {
                continue;
            }
            // A mark opens nodes where it is said that they are. Who moves them needs the index, and meets what is wrong with it each time anew,
            // as of nodes nothing is noted.
            if packs.id(n).kind == PackKind::Meta && self.has_no_index(&packs.id(n))? {
                report.damaged.add(packs.size(n));
                continue;
            }
            room -= packs.live(n);
            chosen.push(n);
        }
        if chosen.is_empty() && old.iter().any(|n| packs.live(*n) > free) {
            tracing::warn!(
                "nothing is sealed anew: more than half of what is free on the storage would be used for it"
            );
        }
        let old = chosen;
        for n in &old {
            report.rewritten.add(packs.size(*n));
            report.resealed.packs += packs.marks(*n).count() as u64;
            report.resealed.bytes += packs.live(*n);
        }
        Ok(old)
    }

    /// Whether the index of a pack is there and of no use.
    fn has_no_index(&self, pack: &PackId) -> Result<bool> {
        match read_index(self.storage(), self.repository.keys(), pack) {
            Err(e) if e.kind() != ErrorKind::NotFound && self.repository.is_damage(&e) => {
                tracing::warn!("{} stays as it is, under an old key: {e}", keys::pack(pack));
                Ok(true)
            }
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(false),
        }
    }

    /// Seals anew what is marked in these packs. Nothing comes of a try in which one does not open ([`learn`](Self::learn)), so no more is
    /// sealed then, and the rest is read to know all of them.
    pub(super) fn seal_anew(&self, packs: &Packs, old: &[Number], report: &mut Collected) -> Result<Vec<Moved>> {
        (report.rewritten, report.resealed) = Default::default();
        let repository = self.repository;
        let (mut sealer, reason) = (None, "a collector's, for the packs that it seals anew");
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
                    self.does_not_open(id, packs.size(n));
                    continue;
                }
                opened => opened?,
            }
            if !self.unopened.lock().is_empty() {
                continue;
            }
            // Its Fence stays for ever: none where nothing opens.
            let sealer = match &mut sealer {
                Some(sealer) => sealer,
                none => none.insert(Sealer::start(repository, self.options.pack_size, reason)?),
            };
            for (entry, packed) in &taken {
                sealer.append(id.kind, entry, packed)?;
                report.resealed.add(u64::from(entry.len));
            }
            report.rewritten.add(packs.size(n));
            moved.push(Moved { pack: id, places: bitmap(&places) });
        }
        if let Some(mut sealer) = sealer.filter(|_| self.unopened.lock().is_empty()) {
            sealer.finish()?;
        }
        Ok(moved)
    }

    /// What was sealed, as it was packed. It is what its id says.
    fn packed(&self, entry: &Entry, at: &Location, sealed: &[u8]) -> Result<Vec<u8>> {
        self.repository.opener().checked(entry, at, sealed)
    }
}

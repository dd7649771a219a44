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
use crate::id::{Location, PackId};
use crate::sealer::Sealer;
use crate::storage::keys;
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeSet;

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

    /// Seals anew what is marked in these packs. Those that do not open are added to `unopened`; nothing comes of a try that has any, so no
    /// more is sealed then, and the rest is read to know all of them.
    pub(super) fn seal_anew(
        &self,
        packs: &Packs,
        old: &[Number],
        unopened: &mut BTreeSet<PackId>,
        report: &mut Collected,
    ) -> Result<Vec<Moved>> {
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
                    unopened.insert(id);
                    continue;
                }
                opened => opened?,
            }
            if !unopened.is_empty() {
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
        if let Some(mut sealer) = sealer.filter(|_| unopened.is_empty()) {
            sealer.finish()?;
        }
        Ok(moved)
    }

    /// What was sealed, as it was packed. It is what its id says.
    fn packed(&self, entry: &Entry, at: &Location, sealed: &[u8]) -> Result<Vec<u8>> {
        self.repository.opener().checked(entry, at, sealed)
    }
}

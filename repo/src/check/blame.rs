//! Which pack is to be brought back for what no pack holds intact. A map or tree names the one that it was stored in. Where a
//! collector has moved it from there (G7) that one is gone for good: it is the copy that is damaged, or gone too.

use super::hits::Search;
use super::packs::State;
use super::report::Copies;
use super::{Piece, data};
use crate::elsewhere::Copy;
use crate::id::{PackId, ShortId};
use crate::storage::keys;
use crate::{ErrorKind, Result};
use std::collections::{BTreeSet, HashMap};

/// When so many chunks of lost packs are known (about 60 bytes each), no more packs are taken in: what else was in those that are
/// lost is looked for in vain.
const MOST_LOST: usize = 1 << 16;

impl Search<'_> {
    /// The pack to blame for a chunk or node that nobody can read: the one that a slot names, or, if that is gone, the first
    /// that holds it damaged. Of others in which it may be, or was, that is noted.
    pub(super) fn culprit(&self, piece: &Piece) -> Result<PackId> {
        let (own, findings) = (piece.at.pack, &self.run.findings);
        let damaged = self.damaged_copies(piece)?;
        for copy in &damaged {
            let key = keys::pack(&copy.pack);
            findings.part(&key, copy.at.ordinal, piece.class);
            findings.copies(&key, Copies::Damaged);
        }
        if !self.bad.packs.contains(&own) {
            return Ok(own);
        }
        if let Some(copy) = damaged.first() {
            return Ok(copy.pack);
        }
        self.note_unread(&own)?;
        if !self.is_condemned(&own)? {
            return Ok(own);
        }
        if let Some(copy) = self.lost_copy(piece)? {
            findings.missing(&keys::pack(&copy));
            return Ok(copy);
        }
        findings.copies(&keys::pack(&own), Copies::Lost);
        Ok(own)
    }

    /// The lost pack that a segment has for a chunk. None has those of nodes, or of chunks that were copied as they are.
    fn lost_copy(&self, piece: &Piece) -> Result<Option<PackId>> {
        if piece.class >= 128 {
            return Ok(None);
        }
        if self.lost.borrow().is_none() {
            let lost = self.lost_packs()?;
            *self.lost.borrow_mut() = Some(lost);
        }
        let Some(pack) = self.lost.borrow().as_ref().and_then(|lost| lost.get(&piece.id).copied()) else {
            return Ok(None);
        };
        // It may have come since.
        let known = self.packs.know(&[pack].into())?;
        Ok(known.get(&pack).filter(|known| known.state == State::Missing).map(|_| pack))
    }

    /// What segments say was in packs that are not there and that no collector has deleted.
    fn lost_packs(&self) -> Result<HashMap<ShortId, PackId>> {
        let (repository, mut lost) = (self.run.repository, HashMap::new());
        repository.elsewhere().each_gone(repository, |pack, ids| {
            self.watch()?;
            if !self.is_condemned(pack)? && lost.len() < MOST_LOST {
                lost.extend(ids.map(|id| (id, *pack)));
            }
            Ok(())
        })?;
        Ok(lost)
    }

    /// The damaged copies in packs that stay, in an order that is always the same.
    fn damaged_copies(&self, piece: &Piece) -> Result<Vec<Copy>> {
        let mut copies = self.packs.elsewhere(piece)?;
        copies.extend(self.packs.all_elsewhere(piece)?);
        copies.sort_unstable_by_key(|copy| (copy.pack, copy.place));
        copies.dedup();
        let mut damaged = Vec::new();
        for copy in copies {
            if !self.is_condemned(&copy.pack)? && self.is_damaged(piece, &copy)? {
                damaged.push(copy);
            }
        }
        Ok(damaged)
    }

    /// Whether a copy is there and does not open. That of a chunk was opened when an intact one was looked for.
    fn is_damaged(&self, piece: &Piece, copy: &Copy) -> Result<bool> {
        if piece.class < 128 {
            let name = (copy.pack, Piece { at: copy.at, ..*piece }.print());
            return Ok(self.bad.parts.contains(&name) || self.more.borrow().contains(&name));
        }
        match data::open_node(self.run, piece, copy) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) if self.run.is_damage(&e) => Ok(true),
            opened => opened.map(|()| false),
        }
    }

    /// Packs whose own index cannot be read, and of which no segment has rows, may hold what was in `gone`.
    fn note_unread(&self, gone: &PackId) -> Result<()> {
        let unknown = self.run.repository.elsewhere().unknown();
        let unknown: BTreeSet<PackId> = unknown.into_iter().filter(|pack| pack.kind == gone.kind).collect();
        for (id, known) in self.packs.know(&unknown)? {
            if known.state == State::Damaged {
                self.run.findings.copies(&keys::pack(&id), Copies::Unknown);
            }
        }
        Ok(())
    }
}

//! G5, of chunks whose pack is damaged or gone: which copies of them are kept.

use super::mark::{Child, Mark};
use super::packs::{Number, Packs};
use super::report::Collected;
use super::{CollectStep, Run};
use crate::elsewhere::Copy;
use crate::format::tree::max_plain;
use crate::id::{PackId, PackKind};
use crate::storage::keys;
use crate::{ErrorKind, Result};
use std::collections::BTreeSet;

/// From this rank on a copy is in a pack that is known to be damaged, or whose own index cannot be read.
const DAMAGED: u8 = 3;
/// Copies that were opened and are remembered (about 50 bytes each), so that the second mark of a run opens none again.
const REMEMBERED: usize = 1 << 20;

/// How a copy compares with others, the least first: one that is marked already, then one that no list condemns, then any; each
/// in a pack that is not known to be damaged and whose own index can be read, and then in any other. `None` when it is not there.
fn rank(run: &Run<'_>, packs: &mut Packs, copy: &Copy) -> Result<Option<(u8, Number)>> {
    let n = packs.find(run.repository, &copy.pack)?.filter(|n| copy.at.end() <= packs.size(*n));
    if let Some(n) = n
        && copy.is_by_rows()
        && !packs.is_damaged(n)
    {
        // No collector can move what is in it, and what of it was marked before has no intact copy kept. Its chunks may all be intact: nothing is noted.
        run.unopened.lock().insert(copy.pack, None);
        packs.set_damaged([&copy.pack]);
    }
    Ok(n.map(|n| {
        let rank = match (packs.is_condemned(n), packs.is_marked(n, copy.place)) {
            (false, true) => 0,
            (false, false) => 1,
            (true, _) => 2,
        };
        (if packs.is_damaged(n) || copy.is_by_rows() { DAMAGED + rank } else { rank }, n)
    }))
}

impl Mark<'_, '_> {
    /// Whether a chunk is not marked yet and in a pack that is known to be damaged: which of its chunks are nobody noted.
    pub(super) fn may_be_lost(&self, pack: Number, child: &Child) -> bool {
        child.class < 128 && self.packs.is_damaged(pack) && !self.packs.is_marked(pack, child.at.ordinal)
    }

    /// Of such a chunk an intact copy is kept besides, if there is one: readers find it by id, and it may be all that is left.
    pub(super) fn keep_intact(&mut self, pack: Number, child: &Child) -> Result<()> {
        if !self.may_be_lost(pack, child) {
            return Ok(());
        }
        match self.best(child)? {
            Some((rank, n, copy)) if rank < DAMAGED => self.keep(n, &copy),
            Some(_) => self.keep_all(child),
            None => {
                self.is_unclear = true;
                Ok(())
            }
        }
    }

    /// All copies of a chunk that are only in packs that are damaged: any of them may be the intact one.
    fn keep_all(&mut self, child: &Child) -> Result<()> {
        self.is_unclear = true;
        let repository = self.run.repository;
        for copy in self.elsewhere.find_all(repository, &child.id, child.class, &child.at)? {
            match rank(self.run, self.packs, &copy)? {
                Some((_, n)) => self.keep(n, &copy)?,
                // Where its index was read it was not cut: it is the listing that could not see how long it is.
                None => self.last_copies.extend(self.packs.find(repository, &copy.pack)?),
            }
        }
        Ok(())
    }

    /// An intact copy may be in a pack whose index cannot be read for now.
    pub(super) fn keep_left_out(&mut self) -> Result<()> {
        if !self.is_unclear {
            return Ok(());
        }
        for pack in self.elsewhere.left_out() {
            self.last_copies.extend(self.packs.find(self.run.repository, &pack)?);
        }
        Ok(())
    }

    fn keep(&mut self, n: Number, copy: &Copy) -> Result<()> {
        self.found.insert(copy.pack);
        if self.packs.is_condemned(n) {
            self.last_copies.insert(n);
        }
        self.packs.note_epoch(n, copy.at.epoch);
        self.packs.mark(n, copy.place, copy.at.len).map(drop)
    }

    /// A copy of what is not where its hint says, in a pack that is there.
    pub(super) fn resolve(&mut self, child: &Child) -> Result<Option<(Number, Copy)>> {
        let mut best = self.best(child)?;
        if best.is_none() {
            // Those that were known are all gone: once more, with what came since.
            let (run, packs) = (self.run, &mut *self.packs);
            best = self.elsewhere.first(run.repository, &child.id, child.class, &child.at, |copy| {
                Ok(rank(run, packs, copy)?.map(|(rank, n)| (rank, n, *copy)))
            })?;
        }
        if best.is_some_and(|(rank, ..)| rank >= DAMAGED) && child.class < 128 {
            self.keep_all(child)?;
        }
        Ok(best.map(|(_, n, copy)| (n, copy)))
    }

    /// The copy to keep, and its rank: of those that are known; of all there are where none of these is in a pack that is there and
    /// that is not known to be damaged.
    fn best(&mut self, child: &Child) -> Result<Option<(u8, Number, Copy)>> {
        let repository = self.run.repository;
        let known = self.elsewhere.find(repository, &child.id, child.class, &child.at)?;
        let best = self.best_of(child, &known)?;
        if best.is_some_and(|(rank, ..)| rank < DAMAGED) || !self.elsewhere.may_know_more(child.class) {
            return Ok(best);
        }
        let all = self.elsewhere.find_all(repository, &child.id, child.class, &child.at)?;
        self.best_of(child, &all)
    }

    fn best_of(&mut self, child: &Child, copies: &[Copy]) -> Result<Option<(u8, Number, Copy)>> {
        let repository = self.run.repository;
        let mut ranked = Vec::with_capacity(copies.len());
        for copy in copies {
            ranked.extend(rank(self.run, self.packs, copy)?.map(|(rank, n)| (rank, n, *copy)));
        }
        ranked.sort_by_key(|(rank, ..)| *rank);
        // Where one copy is damaged, or its pack cut, another may well be damaged, too, and this is all that will be left.
        let is_damaged = self.packs.find(repository, &child.at.pack)?.is_some();
        let in_doubt = child.class < 128 && (is_damaged || ranked.last().is_some_and(|(rank, ..)| *rank >= DAMAGED));
        for (rank, n, copy) in ranked {
            if !in_doubt || rank >= DAMAGED || self.opens(child, n, &copy)? {
                return Ok(Some((rank, n, copy)));
            }
        }
        Ok(None)
    }

    /// Whether a copy of a chunk is intact. If not, its pack counts as damaged from here on, and all that was decided before that
    /// was known is decided anew ([`Run::learn`]).
    fn opens(&mut self, child: &Child, n: Number, copy: &Copy) -> Result<bool> {
        let (run, name) = (self.run, (copy.pack, copy.place));
        if run.opened.lock().contains(&name) {
            return Ok(true);
        }
        (run.watch)(CollectStep::Mark, self.packs.marked, self.packs.total.max(self.packs.marked))?;
        match run.open_copy(child, copy) {
            Ok(()) => {
                let mut opened = run.opened.lock();
                if opened.len() < REMEMBERED {
                    opened.insert(name);
                }
                Ok(true)
            }
            // By another collector, or lost since it was listed: not what is looked for.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) if run.repository.is_damage(&e) => {
                tracing::warn!("{} is damaged, too; run `wherry check --read-data`: {e}", keys::pack(&copy.pack));
                run.does_not_open(copy.pack, self.packs.size(n));
                self.packs.set_damaged([&copy.pack]);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}

impl Run<'_> {
    fn open_copy(&self, child: &Child, copy: &Copy) -> Result<()> {
        let key = keys::pack(&copy.pack);
        if max_plain(child.class).is_none_or(|most| copy.plain > most) {
            return Err(crate::Error::corrupt("its index gives a chunk a length that none has").with_object(key));
        }
        let start = u64::from(copy.at.offset);
        let sealed = self.storage().get_range(&key, start..start + u64::from(copy.at.len))?;
        let (mut scratch, mut plain) = (Vec::new(), vec![0; copy.plain as usize]);
        self.repository.opener().chunk(&child.id, child.class, &copy.at, &sealed, &mut scratch, &mut plain).map(drop)
    }

    /// Notes that something in a pack did not open; its size is in bytes.
    pub(super) fn does_not_open(&self, pack: PackId, size: u64) {
        self.unopened.lock().insert(pack, Some(size));
    }

    /// Whether something did not open that nobody knew of. Then what was decided is worth nothing: the intact copy may be in a pack that was left
    /// without a mark. The next mark knows of it. With `noted` (V8) whoever collects next does, too; of nodes each mark sees it itself.
    pub(super) fn learn(&self, noted: bool, report: &mut Collected) -> Result<bool> {
        let unopened = std::mem::take(&mut *self.unopened.lock());
        let chunks = unopened.iter().filter(|(pack, size)| pack.kind == PackKind::Data && size.is_some());
        let data: BTreeSet<PackId> = chunks.map(|(pack, _)| *pack).collect();
        if noted && !data.is_empty() {
            self.repository.hold_damaged(&data)?;
        }
        let mut damaged = self.damaged.lock();
        for (pack, size) in &unopened {
            if damaged.insert(*pack) {
                size.iter().for_each(|size| report.unopened.add(*size));
            }
        }
        Ok(!unopened.is_empty())
    }
}

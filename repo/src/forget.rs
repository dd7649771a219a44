//! Forgetting snapshots and taking that back. Asked-for snapshots are hidden, not taken as parents, and restorable;
//! a collector makes a forget final when its delay is over. Steps F1 to F3 of `docs/concurrency.md`.

use crate::format::records::{Asked, Settled, Verdict};
use crate::id::SnapshotId;
use crate::storage::{Key, keys};
use crate::{Error, ErrorKind, Repository, Result, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the newest forget of a snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Which forget of this snapshot, counted from 0.
    pub k: u32,
    /// How it was settled; `None` while it can be undone.
    pub verdict: Option<Verdict>,
    /// Some earlier or later forget of the snapshot is final.
    any_final: bool,
    /// The newest that was settled in a way that cannot be read.
    unreadable: Option<u32>,
}

impl Forget {
    /// The snapshot is not shown and not built upon.
    pub fn hides(&self) -> bool {
        // What cannot be read may say that it is gone for good: then it must not look whole.
        self.any_final || self.verdict.is_none() || self.unreadable.is_some()
    }

    /// It can still be settled. Not where it was, and what that says cannot be read.
    pub(crate) fn is_pending(&self) -> bool {
        !self.any_final && self.verdict.is_none() && self.unreadable != Some(self.k)
    }

    /// Whether it is gone for good cannot be read, and nobody has asked anew since: a collector keeps what is there of it.
    pub(crate) fn is_unclear(&self) -> bool {
        !self.any_final && self.unreadable.is_some() && !self.is_pending()
    }

    /// The snapshot is gone for good.
    pub fn is_final(&self) -> bool {
        self.any_final
    }
}

/// Objects that one request lists.
const PAGE: usize = 1000;

/// What a listing says of forgets: of each snapshot that ever went, so in a row each (24 bytes).
#[derive(Debug, Default)]
pub(crate) struct ListedForgets {
    rows: Vec<Row>,
}

/// A forget, of which there may be two rows: that it was asked for, and that it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    id: SnapshotId,
    k: u32,
    is_settled: bool,
}

impl ListedForgets {
    fn note(&mut self, key: &Key) {
        let Some((id, k, is_settled)) = keys::parse_forget(key) else { return };
        let asked = Row { id, k, is_settled: false };
        match self.rows.last_mut() {
            // Most storages list in the order of names.
            Some(last) if is_settled && *last == asked => last.is_settled = true,
            _ => self.rows.push(Row { id, k, is_settled }),
        }
    }

    /// The snapshots of which there is one, whatever became of it.
    pub(crate) fn all(&self) -> impl Iterator<Item = SnapshotId> {
        self.rows.iter().map(|row| row.id)
    }

    /// The snapshots of which one is settled.
    pub(crate) fn settled(&self) -> impl Iterator<Item = SnapshotId> {
        self.rows.iter().filter(|row| row.is_settled).map(|row| row.id)
    }

    /// What says how the forgets of these snapshots were settled.
    pub(crate) fn settlements(&self, wanted: impl Fn(&SnapshotId) -> bool) -> impl Iterator<Item = Key> {
        let settled = self.rows.iter().filter(move |row| row.is_settled && wanted(&row.id));
        settled.map(|row| keys::forget(&row.id, row.k, true))
    }

    /// The snapshots whose newest forget is not settled.
    pub(crate) fn unsettled(&self) -> BTreeSet<SnapshotId> {
        let asked = self.rows.iter().filter(|row| !row.is_settled);
        let mut newest: BTreeMap<SnapshotId, Row> = asked.map(|row| (row.id, *row)).collect();
        for row in &self.rows {
            newest.entry(row.id).and_modify(|newest| *newest = (*newest).max(*row));
        }
        newest.into_values().filter(|row| !row.is_settled).map(|row| row.id).collect()
    }
}

impl Repository {
    /// The forgets that there are, whatever became of them.
    pub(crate) fn listed_forgets(&self, prefix: &str) -> Result<ListedForgets> {
        let mut listed = ListedForgets::default();
        self.storage().list(prefix, &mut |object| {
            listed.note(&object.key);
            Ok(())
        })?;
        Ok(listed)
    }

    /// Those of some snapshots, and maybe others. There is one for each that ever went: a listing that takes longer than one for each of
    /// these is given up for that.
    pub(crate) fn listed_forgets_of(&self, ids: &BTreeSet<SnapshotId>) -> Result<ListedForgets> {
        let lanes = self.storage().lanes().max(1);
        let most = PAGE * ids.len().div_ceil(lanes);
        let (mut listed, mut seen) = (ListedForgets::default(), 0);
        if ids.is_empty() {
            return Ok(listed);
        }
        let done = self.storage().list(keys::FORGET, &mut |object| {
            seen += 1;
            if seen > most {
                return Err(Error::internal("a listing goes on in parts"));
            }
            listed.note(&object.key);
            Ok(())
        });
        if seen <= most {
            return done.map(|()| listed);
        }
        let ids: Vec<SnapshotId> = ids.iter().copied().collect();
        let parts = crate::side::each(lanes, &ids, |id| self.listed_forgets(&of(id)))?;
        let mut listed = ListedForgets::default();
        parts.into_iter().for_each(|part| listed.rows.extend(part.rows));
        Ok(listed)
    }

    /// The newest forget of each snapshot that has one, for those that are asked for: there is one for each that ever went, and what
    /// became of it takes a request. A settled record that cannot be read makes nothing final, so that nothing is given up because of
    /// damage; and the snapshot stays hidden, as it may be gone.
    pub(crate) fn verdicts(
        &self,
        listed: &ListedForgets,
        wanted: impl Fn(&SnapshotId) -> bool,
    ) -> Result<BTreeMap<SnapshotId, Forget>> {
        let (mut found, mut settled) = (BTreeMap::new(), Vec::new());
        for Row { id, k, is_settled } in listed.rows.iter().filter(|row| wanted(&row.id)) {
            let forget = Forget { k: *k, verdict: None, any_final: false, unreadable: None };
            let entry = found.entry(*id).or_insert(forget);
            entry.k = entry.k.max(*k);
            settled.extend(is_settled.then_some((*id, *k)));
        }
        // Many at once, and a part at a time.
        for part in settled.chunks(1024) {
            let part: Vec<_> = part.iter().map(|(id, k)| ((*id, *k), keys::forget(id, *k, true))).collect();
            for (((id, k), _), settled) in part.iter().zip(self.read_many::<_, Settled>(&part)) {
                let Some(entry) = found.get_mut(id) else { continue };
                match settled {
                    Ok((settled, _)) => {
                        entry.any_final |= settled.verdict == Verdict::Final;
                        if *k == entry.k {
                            entry.verdict = Some(settled.verdict);
                        }
                    }
                    Err(e) if self.is_damage(&e) => {
                        tracing::warn!("{e}: counted as not settled");
                        entry.unreadable = entry.unreadable.max(Some(*k));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(found)
    }

    /// The newest forget of one snapshot.
    pub(crate) fn forget_of(&self, id: &SnapshotId) -> Result<Option<Forget>> {
        Ok(self.verdicts(&self.listed_forgets(&of(id))?, |_| true)?.remove(id))
    }

    /// Whether a snapshot is gone for good.
    pub fn is_gone(&self, id: &SnapshotId) -> Result<bool> {
        Ok(self.forget_of(id)?.is_some_and(|forget| forget.is_final()))
    }

    /// Whether what became of a forget of this snapshot cannot be read, and no other one says that it is gone for good: its record may
    /// be gone, and its packs stay. A [`forget`](Self::forget) gives it up.
    pub fn has_lost_verdict(&self, id: &SnapshotId) -> Result<bool> {
        Ok(self.forget_of(id)?.is_some_and(|forget| !forget.any_final && forget.unreadable.is_some()))
    }

    /// F1. Asks to forget a snapshot: it is hidden at once, and gone when a collector runs after `delay`. False when it was
    /// asked for already. `Invalid` when it is pinned. Where what became of an earlier forget cannot be read it is asked anew:
    /// that one keeps its key, and the verdict of this one can be read.
    pub fn forget(&self, id: &SnapshotId, delay: Duration, reason: &str) -> Result<bool> {
        self.check_writable()?;
        let k = match self.forget_of(id)? {
            Some(forget) if forget.is_final() || forget.is_pending() => return Ok(false),
            Some(forget) => forget.k + 1,
            None => 0,
        };
        if self.is_pinned(id)? {
            return Err(pinned(id));
        }
        let at = self.clock().now();
        let not_before = Timestamp(at.0.saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX)));
        let asked = Asked { at, not_before, reason: reason.into(), nonce: self.nonce()? };
        let asked = match self.create(&keys::forget(id, k, false), &asked) {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::Conflict => false,
            Err(e) => return Err(e),
        };
        // Pinned since it was looked for above: whoever pins may have looked for forgets before this one was there.
        if self.is_pinned(id)? {
            self.undo(id, self.forget_of(id)?)?;
            return Err(pinned(id));
        }
        Ok(asked)
    }

    /// Asks anew for what is asked for already, where `delay` from now is over sooner than the delay that was asked for: F2, and
    /// then F1. A process that is ended in between leaves the snapshot as if nobody had asked. False when it is gone for good, when
    /// nobody has asked, or when it goes as soon as that anyhow. `Invalid` when it is pinned. What was asked for and cannot be read
    /// would never come to pass: it is asked for anew.
    pub fn forget_sooner(&self, id: &SnapshotId, delay: Duration, reason: &str) -> Result<bool> {
        let due = match self.pending_due(id) {
            Err(e) if self.is_damage(&e) => None,
            due => match due? {
                None => return Ok(false),
                due => due,
            },
        };
        let wanted = self.storage_time()?.0.saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX));
        if due.is_some_and(|due| due.0 <= wanted) {
            return Ok(false);
        }
        match self.undo(id, self.forget_of(id)?) {
            // Made final meanwhile.
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(false),
            back => back.and_then(|_| self.forget(id, delay, reason)),
        }
    }

    /// Takes a forget back. False when none was pending. `Conflict` when it is too late, `Corrupt` when it cannot be read
    /// whether it is.
    pub fn unforget(&self, id: &SnapshotId) -> Result<bool> {
        self.check_writable()?;
        let listed = self.listed_forgets(&of(id))?;
        // Taken back by somebody who was not told yet: whoever hears that nothing is pending relies on it.
        self.storage().make_durable(&mut listed.settlements(|_| true))?;
        let forget = self.verdicts(&listed, |_| true)?.remove(id);
        if let Some(Forget { any_final: false, unreadable: Some(k), .. }) = forget {
            let key = keys::forget(id, k, true);
            let text = format!(
                "{key} cannot be read, so snapshot {id} may be gone for good; what is there of it is kept, and can be restored: \
                 bring the object back from a copy of the repository, or give the snapshot up: `wherry forget {id}`"
            );
            return Err(Error::corrupt(text).with_object(key));
        }
        self.undo(id, forget)
    }

    /// F2, of what was read of it just now.
    fn undo(&self, id: &SnapshotId, forget: Option<Forget>) -> Result<bool> {
        let too_late =
            || Error::new(ErrorKind::Conflict, format!("it is too late: snapshot {id} was forgotten for good"));
        let k = match forget {
            Some(forget) if forget.is_final() => return Err(too_late()),
            Some(forget) if forget.is_pending() => forget.k,
            _ => return Ok(false),
        };
        let key = keys::forget(id, k, true);
        let settled = Settled { verdict: Verdict::Undone, at: self.clock().now(), nonce: self.nonce()? };
        match self.create(&key, &settled) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::Conflict => match self.read::<Settled>(&key)?.verdict {
                Verdict::Undone => Ok(true),
                Verdict::Final => Err(too_late()),
            },
            Err(e) => Err(e),
        }
    }

    /// F3: makes the pending forget of a snapshot final, when its delay is over by the storage's clock. False when none is
    /// pending, or it was taken back meanwhile, or now, as the snapshot is pinned. `Invalid` before the delay is over.
    pub fn settle(&self, id: &SnapshotId) -> Result<bool> {
        self.check_writable()?;
        match self.forget_of(id)?.is_some_and(|forget| forget.is_pending()) {
            true => self.settle_at(id, self.storage_time()?),
            false => Ok(false),
        }
    }

    /// Likewise; `now` is by the storage's clock, and no later than it is.
    pub(crate) fn settle_at(&self, id: &SnapshotId, now: Timestamp) -> Result<bool> {
        let k = match self.forget_of(id)? {
            Some(forget) if forget.is_pending() => forget.k,
            _ => return Ok(false),
        };
        let (_, due) = self.asked_at(id, k)?;
        if now < due {
            return Err(Error::invalid(format!("the delay of the forget of snapshot {id} is not over")));
        }
        let key = keys::forget(id, k, true);
        // Asked for by a build that knows no pins, or by one that was ended before it had looked.
        let verdict = if self.is_pinned(id)? { Verdict::Undone } else { Verdict::Final };
        match self.create(&key, &Settled { verdict, at: self.clock().now(), nonce: self.nonce()? }) {
            Ok(_) => Ok(verdict == Verdict::Final),
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(self.read::<Settled>(&key)?.verdict == Verdict::Final),
            Err(e) => Err(e),
        }
    }

    /// When the newest pending forget of a snapshot may become final, by the storage's clock. `None` if none is pending, or it cannot
    /// be read.
    pub fn forget_due(&self, id: &SnapshotId) -> Result<Option<Timestamp>> {
        Ok(self.unless_damaged(id, self.pending_due(id))?.flatten())
    }

    fn pending_due(&self, id: &SnapshotId) -> Result<Option<Timestamp>> {
        match self.forget_of(id)? {
            Some(forget) if forget.is_pending() => Ok(Some(self.asked_at(id, forget.k)?.1)),
            _ => Ok(None),
        }
    }

    /// A forget that cannot be read says nothing, and keeps nobody from looking at others.
    pub(crate) fn unless_damaged<T>(&self, id: &SnapshotId, read: Result<T>) -> Result<Option<T>> {
        match read {
            Err(e) if self.is_damage(&e) => {
                tracing::warn!(
                    "the forget of snapshot {id} cannot be read and is left as it is; `wherry unforget {id}`, then `wherry forget {id}`, \
                     makes another one: {e}"
                );
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// A forget, and when its delay is over by the storage's clock: the delay from when the record came there. The clock of
    /// whoever asked has no part in that, nor has that of whoever settles.
    pub(crate) fn asked_at(&self, id: &SnapshotId, k: u32) -> Result<(Asked, Timestamp)> {
        let key = keys::forget(id, k, false);
        let asked: Asked = self.read(&key)?;
        let came = self.storage().head(&key)?.modified;
        let delay = asked.not_before.0.saturating_sub(asked.at.0).max(0);
        Ok((asked, Timestamp(came.0.saturating_add(delay))))
    }

    /// The reason that was given for the newest pending forget of a snapshot; `None` if none is pending, or it cannot be read.
    pub fn forget_reason(&self, id: &SnapshotId) -> Result<Option<String>> {
        Ok(self.unless_damaged(id, self.asked(id))?.flatten().map(|asked| asked.reason))
    }

    fn asked(&self, id: &SnapshotId) -> Result<Option<Asked>> {
        match self.forget_of(id)? {
            Some(forget) if forget.is_pending() => Ok(Some(self.read(&keys::forget(id, forget.k, false))?)),
            _ => Ok(None),
        }
    }
}

/// Where the forgets of a snapshot are.
fn of(id: &SnapshotId) -> String {
    format!("{}{id}/", keys::FORGET)
}

fn pinned(id: &SnapshotId) -> Error {
    Error::invalid(format!("snapshot {id} is pinned and was not forgotten: `wherry unpin {id}` comes first"))
}

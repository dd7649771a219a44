//! Which packs checks have found damaged: for writers, which refer to none of them (W8), for collectors, which keep what
//! is intact elsewhere (G5), and for who heals, of which collectors would take what they do not know to be needed (M7). Collectors add
//! those that they meet (G7).

use super::ledger::{TRIES, latest};
use crate::format::checked::{ReadTogether, Readings};
use crate::id::{PackId, SessionId};
use crate::storage::{Key, keys};
use crate::{Error, ErrorKind, Repository, Result, Timestamp, clock};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Records that are in memory at once; each may take 2 MiB.
const AT_ONCE: usize = 8;

/// What is to become of a record that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoiled {
    /// It is left out.
    Passed,
    /// It is an error: who cannot read does not delete.
    Refused,
}

/// What the records say.
#[derive(Default)]
struct Noted {
    /// When a pack was found damaged, where it was not found intact later.
    damaged: HashMap<PackId, Timestamp>,
    /// When a pack that was asked for was found intact last, by whatever clock.
    intact: HashMap<PackId, Timestamp>,
}

impl Repository {
    /// The packs that were damaged when a check last read them, as `checked/packs` says. A reading that is dated further ahead
    /// than a wrong clock explains counts where it says damage, and not where it says that all is intact. A record that is
    /// damaged itself is left out: a check reads anew what only that one had.
    ///
    /// Costs a listing; the records are read once, and those with later readings a second time where some pack is damaged.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub(crate) fn damaged_packs(&self) -> Result<HashSet<PackId>> {
        let damaged = self.damaged_within(Spoiled::Passed, &BTreeSet::new())?;
        if damaged.is_none() {
            // Nobody waits for that.
            tracing::warn!("checks are at work, so which packs they have found damaged is not known");
        }
        Ok(damaged.map(|noted| noted.damaged.into_keys().collect()).unwrap_or_default())
    }

    /// True when a check, or who met it otherwise, has noted of some pack that it is damaged, and none has found it intact since.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub fn has_noted_damage(&self) -> Result<bool> {
        Ok(!self.damaged_packs()?.is_empty())
    }

    /// Likewise, for who deletes what is not needed.
    ///
    /// # Errors
    /// `Corrupt`, or what a local disk says, when a record cannot be read: it may have named a pack of which something is needed that
    /// nobody refers to by place. `Busy` when checks put records together faster than they are read here. What the storage says when
    /// it does not answer.
    pub(crate) fn damaged_packs_for_certain(&self) -> Result<HashSet<PackId>> {
        self.for_certain(&BTreeSet::new()).map(|noted| noted.damaged.into_keys().collect())
    }

    /// Sees to it that collectors take all of these data packs for damaged, whatever somebody notes who began, or whose clock says
    /// that he began, later than the check that found them so.
    ///
    /// # Errors
    /// Those of `damaged_packs_for_certain`, and what the storage says when nothing can be noted.
    pub(crate) fn hold_damaged(&self, packs: &BTreeSet<PackId>) -> Result<()> {
        // A check that is under way may have read one of them before it was damaged, and note that yet.
        let now = self.clock().now();
        let left = |noted: &Noted| -> Vec<PackId> {
            let is_held = |id: &PackId| {
                noted
                    .damaged
                    .get(id)
                    .is_some_and(|at| *at >= now && noted.intact.get(id).is_none_or(|intact| intact < at))
            };
            packs.iter().filter(|id| !is_held(id)).copied().collect()
        };
        let noted = self.for_certain(packs)?;
        let open = left(&noted);
        if open.is_empty() {
            return Ok(());
        }
        self.check_writable()?;
        // Also one by a clock that is ahead: when it has come to that, nobody is to believe it more than this.
        let newest = open.iter().filter_map(|id| noted.intact.get(id)).max().copied().unwrap_or(now).max(now);
        let check = SessionId::new(clock::random(self.rng())?);
        for (k, part) in (0..).zip(open.chunks(Readings::MOST)) {
            let (at, intact) = (Timestamp(newest.0.saturating_add(1)), Vec::new());
            let group = ReadTogether { at, intact, damaged: part.to_vec() };
            self.create(&keys::readings(&check, k), &Readings { groups: vec![group] })?;
        }
        match left(&self.for_certain(packs)?).first() {
            None => Ok(()),
            Some(id) => Err(Error::new(
                ErrorKind::Busy,
                format!("{} was damaged, and another check has just noted that it is intact", keys::pack(id)),
            )),
        }
    }

    /// When each of these packs was found intact last, by whatever clock, as far as that can be read: who finds it damaged now
    /// notes that as later. Else a host whose clock is ahead, or this one if it is behind, would be believed more.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub(super) fn last_intact(&self, packs: &BTreeSet<PackId>) -> Result<HashMap<PackId, Timestamp>> {
        if packs.is_empty() {
            return Ok(HashMap::new());
        }
        Ok(self.damaged_within(Spoiled::Passed, packs)?.map(|noted| noted.intact).unwrap_or_default())
    }

    fn for_certain(&self, asked: &BTreeSet<PackId>) -> Result<Noted> {
        let busy = "checks are at work, so which packs they have found damaged is not known: run it again when they are done; if that \
             does not help, the storage lists a record below checked/ that it does not give, and `wherry check --read-data` that reads \
             everything in one run removes it";
        self.damaged_within(Spoiled::Refused, asked)?.ok_or_else(|| Error::new(ErrorKind::Busy, busy))
    }

    /// `None`: checks put records together faster than they are read here.
    fn damaged_within(&self, spoiled: Spoiled, asked: &BTreeSet<PackId>) -> Result<Option<Noted>> {
        for _ in 0..=TRIES {
            if let Some(noted) = self.damaged_now(spoiled, asked)? {
                return Ok(Some(noted));
            }
        }
        Ok(None)
    }

    /// `None`: a record went while it was read. What it said is in another one, which may not have been listed. `asked`: packs of
    /// which it is said when they were found intact, although nobody found them damaged, and by whatever clock.
    fn damaged_now(&self, spoiled: Spoiled, asked: &BTreeSet<PackId>) -> Result<Option<Noted>> {
        let latest = latest(self);
        let mut found = self.list(keys::READ)?;
        found.retain(|key| keys::parse_readings(key).is_some());
        let Noted { mut damaged, mut intact } = Noted::default();
        // When the newest reading of each record was.
        let mut times: HashMap<Key, Timestamp> = HashMap::new();
        let whole = self.each_reading(&found, spoiled, |key, group| {
            for id in group.intact.iter().filter(|id| asked.contains(*id)) {
                let at = intact.entry(*id).or_insert(group.at);
                *at = group.at.max(*at);
            }
            let time = times.entry(key.clone()).or_insert(group.at);
            *time = group.at.max(*time);
            for id in &group.damaged {
                let at = damaged.entry(*id).or_insert(group.at);
                *at = group.at.max(*at);
            }
        })?;
        if !whole {
            return Ok(None);
        }
        let Some(first) = damaged.values().min().copied() else { return Ok(Some(Noted { damaged, intact })) };
        // What was brought back from a copy of the repository, and read since.
        found.retain(|key| times.get(key).is_some_and(|newest| *newest > first));
        let whole = self.each_reading(&found, spoiled, |_, group| {
            for id in group.intact.iter().filter(|_| group.at <= latest) {
                if damaged.get(id).is_some_and(|at| *at < group.at) {
                    damaged.remove(id);
                }
            }
        })?;
        Ok(whole.then_some(Noted { damaged, intact }))
    }

    /// False when a record was gone by the time it was read.
    fn each_reading(&self, found: &[Key], spoiled: Spoiled, mut take: impl FnMut(&Key, &ReadTogether)) -> Result<bool> {
        for part in found.chunks(AT_ONCE) {
            let part: Vec<_> = part.iter().map(|key| ((), key.clone())).collect();
            for (((), key), record) in part.iter().zip(self.read_many::<_, Readings>(&part)) {
                match record {
                    Ok((record, _)) => record.groups.iter().for_each(|group| take(key, group)),
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
                    Err(e) if self.is_damage(&e) && spoiled == Spoiled::Refused => {
                        let what =
                            format!("{key} cannot be read, so which packs checks have found damaged is not known");
                        return Err(e.context(what).with_object(key).advise(
                            "who goes on might delete the only intact copy of something: run `wherry check --read-data --sample 100% \
                             --max-age 0s`; where that has read everything in one run it notes it anew and removes this object",
                        ));
                    }
                    Err(e) if self.is_damage(&e) => {
                        tracing::warn!(
                            "{key} cannot be read, so which packs are damaged may not be known: {e}; run \
                            `wherry check --read-data`"
                        );
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(true)
    }
}

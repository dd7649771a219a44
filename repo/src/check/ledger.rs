//! What checks have read is noted in the repository, for later checks and for whoever asks: rule V8 of `docs/concurrency.md`.
//! Nothing that fails here fails a check.

use super::age::{Age, Reading};
use super::packs::Packs;
use super::{CheckReport, Run};
use crate::format::checked::{Checked, ReadTogether, Readings, States};
use crate::format::records::Record;
use crate::id::{PackId, SnapshotId};
use crate::storage::{Key, keys};
use crate::{ErrorKind, Repository, Result, SessionId, Timestamp, clock};
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// What was read is noted so often, so that little of it is lost with a process that is killed.
const EVERY: Duration = Duration::from_secs(300);
/// More records of readings than this are put together, those that are full not counted.
const MANY: usize = 16;
/// Records read at once.
const BATCH: usize = 64;
/// A listing is made so often when records go while they are read.
pub(super) const TRIES: usize = 4;
/// What is dated further ahead than this is of a wrong clock.
const AHEAD: Duration = Duration::from_secs(86_400);

/// The notes of one check.
pub(super) struct Ledger<'a> {
    run: &'a Run<'a>,
    packs: &'a Packs<'a>,
    check: SessionId,
    /// What was noted before is not asked for, and only damage is noted.
    damage_only: bool,
    /// Why what was noted before is not known.
    unread: Option<String>,
    /// Records that were there, and can be read.
    before: Vec<Key>,
    /// Records that do not open.
    spoiled: Vec<Key>,
    /// The newest readings of packs that were not listed, or that no named snapshot needs: by checks that began later than this one, and
    /// all that say damaged; where only some snapshots are checked, all.
    others: BTreeMap<PackId, Reading>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Number of the next record.
    next: u32,
    /// Packs that were read, whether they are intact.
    unsaved: Vec<(PackId, bool)>,
    /// When the last record was written, by the monotonic clock.
    saved: Duration,
    written: Vec<Key>,
    /// Why the last one was not.
    failed: Option<String>,
}

impl<'a> Ledger<'a> {
    /// Reads what was noted before, into the table of packs.
    pub(super) fn load(run: &'a Run<'a>, packs: &'a Packs<'a>) -> Result<Self> {
        let found = Found::<Readings>::read(run.repository, keys::READ, |key| keys::parse_readings(key).is_some());
        let (found, unread) = match found {
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => (Found::none(), Some(e.to_string())),
            Ok(found) => (found, None),
        };
        let latest = latest(run.repository);
        let mut others: BTreeMap<PackId, Reading> = BTreeMap::new();
        // What is dated too late for this clock stays as it is: it may be this clock that is wrong.
        let is_taken = |record: &Readings| record.groups.iter().all(|group| group.at <= latest);
        let taken = found.records.iter().zip(&found.read).filter(|(record, _)| is_taken(record));
        let before = taken.map(|(_, key)| key.clone()).collect();
        for ReadTogether { at, intact, damaged } in found.records.into_iter().flat_map(|record| record.groups) {
            let ids = intact.into_iter().map(|id| (id, false)).chain(damaged.into_iter().map(|id| (id, true)));
            for (id, damaged) in ids.filter(|(_, damaged)| *damaged || at <= latest) {
                // Damage counts whatever the clock was.
                let reading = Reading { at: at.min(latest), damaged };
                // A repair dates what it has found in its packs from its own start, which may be long before they came. Who checks
                // named snapshots lists no packs, and knows of none that it is gone.
                let may_be = damaged || at >= run.began || !run.options.snapshots.is_empty();
                if !packs.note(&id, reading) && may_be {
                    let newest = others.entry(id).or_insert(reading);
                    *newest = reading.max(*newest);
                }
            }
        }
        let spoiled = found.spoiled.into_iter().chain(found.refused).collect();
        Ok(Self { unread, before, spoiled, others, damage_only: false, ..Self::of_damage(run, packs)? })
    }

    /// For a check that reads no data: what it finds damaged all the same is worth a note.
    pub(super) fn of_damage(run: &'a Run<'a>, packs: &'a Packs<'a>) -> Result<Self> {
        let state = State { saved: run.repository.clock().monotonic(), ..State::default() };
        let (check, state) = (SessionId::new(clock::random(run.repository.rng())?), Mutex::new(state));
        let (before, spoiled, others) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self { run, packs, check, damage_only: true, unread: None, before, spoiled, others, state })
    }

    /// All chunks of a pack were read, or were to be; `fresh`: and each was opened that could be.
    pub(super) fn note(&self, id: &PackId, intact: bool, fresh: bool) {
        self.packs.set_read(id, intact, fresh);
        if !self.run.options.keep {
            return;
        }
        let now = self.run.repository.clock().monotonic();
        {
            let mut state = self.state.lock();
            state.unsaved.push((*id, intact));
            if now.saturating_sub(state.saved) < EVERY {
                return;
            }
            state.saved = now;
        }
        self.save();
    }

    /// Some record of readings cannot be read.
    pub(super) fn has_lost(&self) -> bool {
        !self.spoiled.is_empty()
    }

    /// Writes down what was read and is not noted yet.
    pub(super) fn save(&self) {
        let unsaved = std::mem::take(&mut self.state.lock().unsaved);
        for part in unsaved.chunks(Readings::MOST) {
            let readings = part.iter().map(|(id, intact)| (Reading { at: self.run.began, damaged: !intact }, *id));
            if let Err(e) = self.in_order(readings.collect()).and_then(|readings| self.write(&together(&readings))) {
                let mut state = self.state.lock();
                state.failed = Some(e.to_string());
                state.unsaved.extend_from_slice(part);
            }
        }
    }

    /// Readings by their times. What this check found damaged is later than what anybody has noted to be intact: it has seen that
    /// note, whatever the clock was that it is of.
    fn in_order(&self, mut readings: Vec<(Reading, PackId)>) -> Result<Vec<(Reading, PackId)>> {
        let began = self.run.began;
        let is_new = |reading: &Reading| reading.damaged && reading.at == began;
        let damaged = readings.iter().filter(|(reading, _)| is_new(reading)).map(|(_, id)| *id).collect();
        let intact = self.run.repository.last_intact(&damaged)?;
        for (reading, id) in readings.iter_mut().filter(|(reading, _)| is_new(reading)) {
            if let Some(at) = intact.get(id) {
                reading.at = reading.at.max(Timestamp(at.0.saturating_add(1)));
            }
        }
        readings.sort_unstable();
        Ok(readings)
    }

    fn write(&self, record: &Readings) -> Result<()> {
        self.run.repository.check_writable()?;
        let key = {
            let mut state = self.state.lock();
            state.next += 1;
            keys::readings(&self.check, state.next - 1)
        };
        self.run.repository.create(&key, record)?;
        let mut state = self.state.lock();
        state.written.push(key);
        state.failed = None;
        Ok(())
    }

    /// True when what was read could be noted so far.
    pub(super) fn works(&self) -> bool {
        self.unread.is_none() && self.state.lock().failed.is_none()
    }

    /// Says of these snapshots how it stands with them, `None`: damage hits it; and puts records together where there are many.
    /// `walked`: the snapshots that were looked at, if anything was damaged that others may need too. `saw_all`: nothing was lost that
    /// refers to data packs.
    pub(super) fn finish(
        &self,
        found: Result<Vec<(SnapshotId, Option<Age>)>>,
        walked: Option<&HashSet<SnapshotId>>,
        saw_all: bool,
        report: &mut CheckReport,
    ) {
        // Nobody asked for more.
        if self.damage_only && walked.is_none() && found.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        let said = match self.works() {
            true => {
                let said = found.and_then(|found| self.say(&found, walked));
                said.and_then(|()| self.put_together(saw_all)).map_err(|e| e.to_string())
            }
            false => Err(self.unread.clone().or_else(|| self.state.lock().failed.clone()).unwrap_or_default()),
        };
        report.kept = said.is_ok();
        report.not_kept = said.err();
    }

    /// Only who looked at everything knows what is gone.
    fn is_whole(&self) -> bool {
        self.run.options.snapshots.is_empty() && !self.damage_only
    }

    fn say(&self, found: &[(SnapshotId, Option<Age>)], walked: Option<&HashSet<SnapshotId>>) -> Result<()> {
        let (repository, began) = (self.run.repository, self.run.began);
        let Found { records, read, spoiled, .. } = Found::states(repository)?;
        let latest = latest(repository);
        let is_taken = |record: &States| record.snapshots.iter().all(|state| state.said <= latest);
        let taken = records.iter().zip(&read).filter(|(record, _)| is_taken(record));
        let taken: Vec<Key> = taken.map(|(_, key)| key.clone()).collect();
        let before = merged(repository, records);
        let mut after: BTreeMap<SnapshotId, Checked> = match self.is_whole() {
            true => before.iter().filter(|(_, state)| state.said >= began).map(|(id, s)| (*id, *s)).collect(),
            false => before.clone(),
        };
        for (id, age) in found {
            let old = before.get(id);
            let verified = old.and_then(|old| old.verified);
            let new = |verified, damaged| Checked { snapshot: *id, said: began, verified, damaged };
            let state = match (age, old) {
                (None, _) => new(None, true),
                // Damage was found before, and this check could not look whether it is still there.
                (Some(Age::Damaged), Some(old)) if old.damaged => *old,
                (Some(Age::Damaged), _) => new(None, false),
                (Some(Age::Never), _) => new(verified, false),
                (Some(Age::Since(at)), _) => new(verified.max(Some(*at)), false),
            };
            // Another check has looked since this one began: what either found damaged is, what either read was read.
            let state = match old.filter(|old| old.said > began) {
                Some(later) if later.damaged => *later,
                Some(later) if state.damaged => Checked { said: later.said, ..state },
                Some(later) => Checked { said: later.said, verified: state.verified.max(later.verified), ..state },
                None => state,
            };
            after.insert(*id, state);
        }
        // Others may need what this check found damaged. That all of them was intact nobody can say before it was looked at.
        for state in after.values_mut().filter(|state| walked.is_some_and(|walked| !walked.contains(&state.snapshot))) {
            if state.verified.take().is_some() {
                state.said = state.said.max(began);
            }
        }
        repository.check_writable()?;
        repository.create(&keys::states(&self.check), &States { snapshots: after.into_values().collect() })?;
        self.remove(taken.iter().chain(&spoiled));
        Ok(())
    }

    /// Who checks named snapshots does that, too, and leaves out nothing: what it did not look at may be there.
    fn put_together(&self, saw_all: bool) -> Result<()> {
        if self.damage_only {
            return Ok(());
        }
        // They may have said what is damaged. Who has read all knows that again, and has noted it. What could not be read for a
        // moment, and can be now, stays.
        if self.is_whole() && saw_all && self.packs.all_noted() {
            let read = |key: &&Key| self.run.repository.read::<Readings>(key);
            let still = |key: &&Key| read(key).is_err_and(|e| self.run.is_damage(&e));
            self.remove(self.spoiled.iter().filter(still));
        }
        let old: Vec<Key> = self.before.iter().chain(&self.state.lock().written).cloned().collect();
        let mut readings = self.packs.readings();
        if old.len() <= MANY + (readings.len() + self.others.len()) / Readings::MOST {
            return Ok(());
        }
        let others = self.others.iter().map(|(id, reading)| (*reading, *id));
        let stays = |(reading, id): &(Reading, PackId)| reading.at >= self.run.began || self.may_be(id);
        readings.extend(others.filter(|other| !self.is_whole() || stays(other)));
        for part in self.in_order(readings)?.chunks(Readings::MOST) {
            self.write(&together(part))?;
        }
        self.remove(old.iter());
        Ok(())
    }

    /// Whether a pack that was not listed has come since, or nobody can say.
    fn may_be(&self, id: &PackId) -> bool {
        !self.run.storage().head(&keys::pack(id)).is_err_and(|e| e.kind() == ErrorKind::NotFound)
    }

    /// What stays is merged once more by a later check.
    fn remove<'k>(&self, keys: impl Iterator<Item = &'k Key>) {
        for key in keys {
            if let Err(e) = self.run.storage().delete(key) {
                tracing::warn!("{key} is of no use any more and could not be removed: {e}");
            }
        }
    }
}

/// A record of readings, which are in the order of their times.
fn together(readings: &[(Reading, PackId)]) -> Readings {
    let group = |same: &[(Reading, PackId)]| {
        let of = |damaged: bool| same.iter().filter(|(r, _)| r.damaged == damaged).map(|(_, id)| *id).collect();
        same.first().map(|(r, _)| ReadTogether { at: r.at, intact: of(false), damaged: of(true) })
    };
    Readings { groups: readings.chunk_by(|(a, _), (b, _)| a.at == b.at).filter_map(group).collect() }
}

/// What is dated later than this is of a wrong clock.
pub(super) fn latest(repository: &Repository) -> Timestamp {
    Timestamp(repository.clock().now().0.saturating_add(AHEAD.as_nanos() as i64))
}

/// Of several states of a snapshot the one that was said last.
fn merged(repository: &Repository, records: Vec<States>) -> BTreeMap<SnapshotId, Checked> {
    let latest = latest(repository);
    let mut all: BTreeMap<SnapshotId, Checked> = BTreeMap::new();
    for state in records.into_iter().flat_map(|record| record.snapshots).filter(|state| state.said <= latest) {
        let known = all.entry(state.snapshot).or_insert(state);
        // Of what was said of the same time that which promises less.
        let weight = |state: &Checked| (state.said, state.damaged, Reverse(state.verified));
        if weight(known) < weight(&state) {
            *known = state;
        }
    }
    all
}

/// Records of one kind.
struct Found<T> {
    records: Vec<T>,
    /// Their keys.
    read: Vec<Key>,
    /// Those that do not open, or that each listing names and the storage does not give.
    spoiled: Vec<Key>,
    /// Those that a local disk does not give.
    refused: Vec<Key>,
}

impl Found<States> {
    fn states(repository: &Repository) -> Result<Self> {
        Self::read(repository, keys::STATES, |key| keys::parse_states(key).is_some())
    }
}

impl<T: Record + Send> Found<T> {
    fn none() -> Self {
        Self { records: Vec::new(), read: Vec::new(), spoiled: Vec::new(), refused: Vec::new() }
    }

    /// All that can be read. When one is gone that was listed, a check has put it together with others: they are listed again.
    fn read(repository: &Repository, prefix: &str, is_ours: impl Fn(&Key) -> bool) -> Result<Self> {
        let (mut tries, mut not_given) = (0, BTreeMap::<Key, usize>::new());
        loop {
            tries += 1;
            let found: Vec<_> =
                repository.list(prefix)?.into_iter().filter(|key| is_ours(key)).map(|key| ((), key)).collect();
            let mut all = Self::none();
            let mut gone = false;
            for part in found.chunks(BATCH) {
                for (((), key), record) in part.iter().zip(repository.read_many::<_, T>(part)) {
                    match record {
                        Ok((record, _)) => {
                            all.records.push(record);
                            all.read.push(key.clone());
                        }
                        Err(e) if e.kind() == ErrorKind::NotFound => {
                            gone = true;
                            *not_given.entry(key.clone()).or_default() += 1;
                        }
                        Err(e) if e.kind() == ErrorKind::Corrupt => all.spoiled.push(key.clone()),
                        Err(e) if repository.is_damage(&e) => {
                            tracing::warn!("{key} cannot be read: {e}");
                            all.refused.push(key.clone());
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
            if !gone || tries == TRIES {
                // No other check removes one record for as long as that.
                all.spoiled.extend(not_given.into_iter().filter(|(_, times)| *times == TRIES).map(|(key, _)| key));
                return Ok(all);
            }
        }
    }
}

impl Repository {
    /// How it stands with snapshots, as far as checks that read data have said: what nobody said anything of is not in it. What
    /// cannot be read is left out.
    pub fn checked(&self) -> Result<BTreeMap<SnapshotId, Checked>> {
        let found = Found::states(self)?;
        for key in &found.spoiled {
            tracing::warn!(
                "{key} is damaged: when some snapshots were verified is not known; run `wherry check \
                 --read-data`"
            );
        }
        Ok(merged(self, found.records))
    }
}

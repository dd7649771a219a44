//! Step 1: clear objects and records.

use super::{CheckStep, DamageKind, Run};
use crate::collect::missing_generation;
use crate::format::checked::{Readings, States};
use crate::format::clear::{self, Config, Epoch};
use crate::format::records::{
    Asked, Beat, Generation, Kind, Outcome, Pinned, Record, Seen, SessionOpen, Settled, Sweep, Unpinned, Verdict,
};
use crate::format::segment;
use crate::id::{SnapshotId, VolumeId};
use crate::repository::check_mac;
use crate::storage::{Key, keys};
use crate::{Error, ErrorKind, Repository, Result, Snapshot};
use std::collections::{BTreeMap, HashSet};

/// What the later steps need of the records.
pub(super) struct Objects {
    /// To be followed, by volume and time.
    pub(super) snapshots: Vec<Snapshot>,
    /// Snapshots whose record does not open.
    pub(super) lost: Vec<(VolumeId, SnapshotId, Option<String>)>,
    /// Objects opened.
    pub(super) records: u64,
}

/// What one object turned out to be.
enum Item {
    /// Nothing that later steps need.
    Fine,
    /// Somebody else's: left alone.
    Unknown,
    Snapshot(Box<Snapshot>),
    /// The snapshot is forgotten for good.
    Final(SnapshotId),
    /// A forget, what became of it, or a pin does not open, and what is wrong with it.
    Unread(SnapshotId, Key, String),
    /// Likewise of a snapshot or fence.
    Lost(VolumeId, SnapshotId, Key, String),
}

pub(super) fn examine(run: &Run<'_>) -> Result<Objects> {
    let mut records = 1; // repo.json: the repository could not have been opened without it
    for slot in run.repository.slots()? {
        records += 1;
        match slot {
            // Removed since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if run.is_damage(&e) => run.findings.whole(&named(&e)?, e.message()),
            slot => drop(slot?),
        }
    }
    let epochs = run.repository.epochs()?;
    for key in lost_epochs(&epochs) {
        run.findings.whole(&key, "it is gone");
    }
    for (key, epoch) in epochs {
        records += 1;
        match epoch {
            Err(e) if run.is_damage(&e) => run.findings.whole(&key, e.message()),
            epoch => drop(epoch?),
        }
    }
    let only: HashSet<SnapshotId> = run.options.snapshots.iter().copied().collect();
    // Snapshots last: one whose record a collector removes meanwhile is then known to be forgotten.
    let mut found = Vec::new();
    let rest = [keys::CONFIG, keys::SESS, keys::IDX, keys::CHECKED, keys::GEN, keys::FORGET, keys::PIN, keys::SNAP];
    for prefix in if only.is_empty() { &rest[..] } else { &[keys::CONFIG, keys::FORGET, keys::PIN, keys::SNAP] } {
        let mut part = run.repository.list(prefix)?;
        part.sort_unstable();
        found.extend(part.into_iter().filter(|key| match subject(key) {
            Some(id) => only.is_empty() || only.contains(&id),
            None => true,
        }));
    }
    if only.is_empty()
        && let Some(key) = missing_generation(run.repository.storage())?
    {
        run.findings.whole(&key, "it is gone");
    }
    let total = found.len() as u64;
    let (mut snapshots, mut lost, mut unread, mut forgotten) = (Vec::new(), Vec::new(), Vec::new(), HashSet::new());
    for part in found.chunks(256) {
        for item in run.each(part, |key| open(run, key))? {
            records += u64::from(!matches!(item, Item::Unknown));
            match item {
                Item::Fine | Item::Unknown => {}
                Item::Snapshot(snapshot) => snapshots.push(*snapshot),
                Item::Lost(volume, id, key, what) => {
                    lost.push((volume, id));
                    unread.push((id, key, what));
                }
                Item::Final(id) => drop(forgotten.insert(id)),
                Item::Unread(id, key, what) => unread.push((id, key, what)),
            }
        }
        (run.watch)(CheckStep::Records, records.min(total), total)?;
    }
    // Another forget of it says that it is gone for good: nobody needs to know what this one says, nor what the record of the snapshot
    // says, which keeps its key (N1). Nor what was asked for or pinned once that has an end: the end counts, and where that one cannot
    // be read it is named itself.
    let ends: HashSet<Key> = unread.iter().filter_map(|(_, key, _)| end_of(key)).collect();
    let ended: HashSet<&Key> = found.iter().filter(|key| ends.contains(*key)).collect();
    let has_ended = |key: &Key| end_of(key).is_some_and(|end| ended.contains(&end));
    for (_, key, what) in unread.iter().filter(|(id, key, _)| !forgotten.contains(id) && !has_ended(key)) {
        run.findings.whole(key, what.as_str());
    }
    // Not what is a Fence: a session that nobody goes on with gets one where the record was, and is no snapshot by that.
    let there = snapshots.iter().map(|s| s.id).chain(lost.iter().map(|(_, id)| *id));
    let there: HashSet<SnapshotId> = there.chain(forgotten.iter().copied()).collect();
    missing_pinned(run, &found, &there)?;
    let named = missing_roots(run, &found, &there)?;
    if only.is_empty() {
        let there =
            there.into_iter().chain(named).chain(found.iter().filter_map(|key| Some(keys::parse_forget(key)?.0)));
        missing_parents(run, &snapshots, &there.collect(), &forgotten)?;
    }
    snapshots.retain(|s| !forgotten.contains(&s.id));
    lost.retain(|(_, id)| !forgotten.contains(id));
    for id in &only {
        if !snapshots.iter().any(|s| s.id == *id) && !lost.iter().any(|(_, l)| l == id) {
            return Err(Error::new(ErrorKind::NoSnapshot, format!("there is no snapshot {id}")));
        }
    }
    snapshots.sort_by(|a, b| (&a.record.name, a.record.started, a.id).cmp(&(&b.record.name, b.record.started, b.id)));
    let names: BTreeMap<VolumeId, &str> = snapshots.iter().map(|s| (s.volume, s.record.name.as_str())).collect();
    let name = |volume: &VolumeId, id: &SnapshotId| match names.get(volume) {
        Some(name) => Some((*name).to_owned()),
        // The session that wrote it has named its volume too.
        None => run.repository.read::<SessionOpen>(&keys::session(id, "open")).ok().map(|open| open.name),
    };
    let lost = lost.iter().map(|(volume, id)| (*volume, *id, name(volume, id))).collect();
    Ok(Objects { snapshots, lost, records })
}

/// A pin without an end names a snapshot that is not forgotten: its record must be there. `there`: those whose record is, and
/// those that are forgotten for good.
fn missing_pinned(run: &Run<'_>, found: &[Key], there: &HashSet<SnapshotId>) -> Result<()> {
    // Pins were listed before records, so the record of each was there then if it is not gone.
    for key in found {
        let Some((id, _, false)) = keys::parse_pin(key) else { continue };
        if there.contains(&id) {
            continue;
        }
        // Who has ended the pin since, and forgotten the snapshot, has said so before a collector took the record.
        if run.repository.is_pinned(&id)? && run.repository.forget_of(&id)?.is_none() {
            let what = format!("it pins snapshot {id}, whose record is gone although nobody has forgotten it");
            run.findings.of_kind(key, DamageKind::Pinned, what);
        }
    }
    Ok(())
}

/// What the newest list of a collector found to be needed goes only by a forget: of all else the record must be there.
/// Gives those that are missing.
fn missing_roots(run: &Run<'_>, found: &[Key], there: &HashSet<SnapshotId>) -> Result<Vec<SnapshotId>> {
    let mut missing = Vec::new();
    let Some((list, roots)) = newest_roots(run.repository, found)? else { return Ok(missing) };
    for id in roots.iter().filter(|id| !there.contains(*id)) {
        // Forgotten, collected and its record taken since forgets were listed.
        if run.repository.forget_of(id)?.is_none() {
            let what = format!("it names snapshot {id}, whose record is gone although nobody has forgotten it");
            run.findings.of_kind(list, DamageKind::Gone, what);
            missing.push(*id);
        }
    }
    Ok(missing)
}

/// What another one was built upon was committed, too. `known`: those whose record is there, that were ever asked to be forgotten,
/// or that are told as missing already.
fn missing_parents(
    run: &Run<'_>,
    snapshots: &[Snapshot],
    known: &HashSet<SnapshotId>,
    forgotten: &HashSet<SnapshotId>,
) -> Result<()> {
    for built in snapshots.iter().filter(|snapshot| !forgotten.contains(&snapshot.id)) {
        let Some(parent) = built.record.parent.filter(|parent| !known.contains(parent)) else { continue };
        // Forgotten, collected and its record taken since forgets were listed.
        if run.repository.forget_of(&parent)?.is_none() {
            let what =
                format!("it is gone although nobody has forgotten the snapshot, and {} was built upon it", built.id);
            run.findings.of_kind(&keys::snap(&built.volume, &parent), DamageKind::Gone, what);
        }
    }
    Ok(())
}

/// The newest of these lists of collectors, and the snapshots that were needed then. `None` also where it is damaged.
fn newest_roots<'a>(repository: &Repository, found: &'a [Key]) -> Result<Option<(&'a Key, Vec<SnapshotId>)>> {
    let number = |key: &Key| keys::parse_generation(key).filter(|(_, sealed)| !sealed).map(|(n, _)| n);
    let Some(list) = found.iter().filter(|key| number(key).is_some()).max_by_key(|key| number(key)) else {
        return Ok(None);
    };
    match repository.read::<Generation>(list) {
        // Told as damage of the list.
        Err(e) if repository.is_damage(&e) => Ok(None),
        read => Ok(Some((list, read?.roots))),
    }
}

impl Repository {
    /// Whether a check misses the record of this snapshot: the newest list of a collector names it, or another one was built upon it,
    /// and it is gone though nobody has forgotten it. A [`forget`](Self::forget) gives it up.
    pub fn is_missed(&self, id: &SnapshotId) -> Result<bool> {
        let lists = self.list(keys::GEN)?;
        let is_root = newest_roots(self, &lists)?.is_some_and(|(_, roots)| roots.contains(id));
        let is_parent = || Ok::<_, Error>(self.snapshots(None)?.snapshots.iter().any(|s| s.record.parent == Some(*id)));
        if !(is_root || is_parent()?) || self.forget_of(id)?.is_some() {
            return Ok(false);
        }
        for key in self.list(keys::SNAP)?.iter().filter(|key| keys::parse_snap(key).is_some_and(|(_, of)| of == *id)) {
            match self.read::<Outcome>(key) {
                // Where the record was: the session was taken for one that had come to no end.
                Ok(Outcome::Fence(_)) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if !self.is_damage(&e) => return Err(e),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// The key epochs that have no object though a newer one has.
fn lost_epochs(epochs: &[(Key, Result<Epoch>)]) -> Vec<Key> {
    let there: HashSet<u32> = epochs.iter().filter_map(|(key, _)| keys::parse_epoch(key)).collect();
    let newest = there.iter().copied().max().unwrap_or_default();
    (1..newest).filter(|n| !there.contains(n)).map(keys::epoch).collect()
}

/// The object an error is about.
fn named(e: &Error) -> Result<Key> {
    Key::new(e.object().unwrap_or_default()).map_err(|_| e.again())
}

/// The snapshot that a snapshot, forget or pin record is about.
fn subject(key: &Key) -> Option<SnapshotId> {
    let of_record = keys::parse_snap(key).map(|(_, id)| id);
    of_record.or_else(|| keys::parse_forget(key).or_else(|| keys::parse_pin(key)).map(|(id, ..)| id))
}

fn open(run: &Run<'_>, key: &Key) -> Result<Item> {
    match decode(run, key) {
        Ok(item) => Ok(item),
        Err(e) if e.kind() == ErrorKind::NotFound && is_over(run, key)? => Ok(Item::Fine),
        Err(e) if run.is_damage(&e) => {
            let what = match e.kind() {
                ErrorKind::NotFound => "it is listed, and the storage says that it is not there",
                _ => e.message(),
            };
            if let Some((volume, id)) = keys::parse_snap(key) {
                return Ok(Item::Lost(volume, id, key.clone(), what.to_owned()));
            }
            // The end of a pin is missed in any case: without it the pin counts.
            let may_be_over = keys::parse_forget(key).is_some() || end_of(key).is_some();
            if let Some(id) = subject(key).filter(|_| may_be_over) {
                return Ok(Item::Unread(id, key.clone(), what.to_owned()));
            }
            match run.repository.damaged_config() == Some(key) {
                true => run.findings.of_kind(key, DamageKind::Newest, what),
                false => run.findings.whole(key, what),
            }
            Ok(Item::Fine)
        }
        Err(e) => Err(e),
    }
}

/// Where it is said what became of a forget or a pin; `None` for all else.
fn end_of(key: &Key) -> Option<Key> {
    match (keys::parse_forget(key), keys::parse_pin(key)) {
        (Some((id, k, false)), _) => Some(keys::forget(&id, k, true)),
        (_, Some((id, k, false))) => Some(keys::pin(&id, k, true)),
        _ => None,
    }
}

/// Whether what was listed may be gone by now: sessions end, segments and notes of checks are put together, and a collector takes the
/// record of a snapshot that was made final before. Nobody takes anything else.
fn is_over(run: &Run<'_>, key: &Key) -> Result<bool> {
    if let Some((_, id)) = keys::parse_snap(key) {
        return run.repository.is_gone(&id);
    }
    Ok([keys::SESS, keys::IDX, keys::CHECKED].iter().any(|prefix| key.as_str().starts_with(prefix)))
}

fn decode(run: &Run<'_>, key: &Key) -> Result<Item> {
    let fine = |result: Result<()>| result.map(|()| Item::Fine);
    if let Some((volume, id)) = keys::parse_snap(key) {
        return match run.repository.read_sized::<Outcome>(key)? {
            (Outcome::Fence(_), _) => Ok(Item::Fine),
            (Outcome::Snapshot(record), _) if run.repository.volume_id(&record.name) != volume => {
                Err(Error::corrupt(format!("the snapshot is of volume {:?}, whose id is another one", record.name)))
            }
            (Outcome::Snapshot(record), record_size) => {
                Ok(Item::Snapshot(Box::new(Snapshot { id, volume, record: *record, record_size })))
            }
        };
    }
    if let Some((id, _, settled)) = keys::parse_forget(key) {
        if !settled {
            return fine(read::<Asked>(run, key).map(drop));
        }
        let verdict = read::<Settled>(run, key)?.verdict;
        return Ok(if verdict == Verdict::Final { Item::Final(id) } else { Item::Fine });
    }
    if let Some((_, _, unpinned)) = keys::parse_pin(key) {
        return fine(if unpinned { read::<Unpinned>(run, key).map(drop) } else { read::<Pinned>(run, key).map(drop) });
    }
    if let Some((_, part)) = keys::parse_session(key) {
        return match part {
            "open" => fine(read::<SessionOpen>(run, key).map(drop)),
            "beat" => fine(read::<Beat>(run, key).map(drop)),
            _ => fine(read::<Seen>(run, key).map(drop)),
        };
    }
    if let Some((_, sealed)) = keys::parse_generation(key) {
        return fine(if sealed { read::<Sweep>(run, key).map(drop) } else { read::<Generation>(run, key).map(drop) });
    }
    if keys::parse_segment(key).is_some() {
        let body = run.repository.keys().open_record(Kind::Segment, key, &run.storage().get(key)?)?;
        return fine(segment::decode(&body).map(drop));
    }
    if keys::parse_readings(key).is_some() {
        return fine(read::<Readings>(run, key).map(drop));
    }
    if keys::parse_states(key).is_some() {
        return fine(read::<States>(run, key).map(drop));
    }
    match keys::parse_config(key) {
        Some(_) => fine(config(run, key)),
        None => Ok(Item::Unknown),
    }
}

fn read<T: Record>(run: &Run<'_>, key: &Key) -> Result<T> {
    run.repository.read(key)
}

fn config(run: &Run<'_>, key: &Key) -> Result<()> {
    let config: Config = clear::decode(&run.storage().get(key)?)?;
    check_mac(run.repository.keys(), key, &config)
}

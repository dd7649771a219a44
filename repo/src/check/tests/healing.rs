//! What checks found damaged is referred to by nobody any more, so that the next backup heals it (W8), and what is intact
//! elsewhere is kept (G5).

use super::over_time::{DAY, again, check, checked, noted, options, packs, share, sharing, spoil, verified};
use crate::check::{CheckOptions, CheckStep, DamageKind};
use crate::format::records::Sweep;
use crate::id::PackId;
use crate::index::ChunkIndex;
use crate::storage::{Storage, keys};
use crate::testing::{UNIT, backup, chunk, repository};
use crate::{
    CollectOptions, CommitInfo, ErrorKind, Key, ParentChoice, Repository, Snapshot, SnapshotReader, SnapshotWriter,
    WriterOptions,
};
use std::sync::Arc;
use std::time::Duration;

const CHUNKS: u64 = 40;
const NONE: [u64; 0] = [];

/// One more backup of the disk of [`backup`], by a process that has an index of everything.
fn more(repository: &Repository, name: &str, parent: ParentChoice) -> Snapshot {
    let index = ChunkIndex::in_memory(1 << 20);
    index.synchronise(repository, true).unwrap();
    let options =
        WriterOptions { name: name.into(), pack_size: 512 << 10, uploads: 0, parent, ..WriterOptions::default() };
    let writer = SnapshotWriter::start(repository, Arc::new(index), &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    for n in 0..CHUNKS {
        writer.put(&mut scratch, n, &chunk(n)).unwrap();
        writer.advance(n + 1).unwrap();
    }
    writer.commit(CommitInfo { size: CHUNKS * UNIT as u64, ..CommitInfo::default() }).unwrap()
}

/// What cannot be read of it.
fn lost(repository: &Repository, snapshot: &Snapshot) -> Vec<u64> {
    let reader = SnapshotReader::open(repository, snapshot).unwrap();
    let reads = |n: &u64| match reader.chunk(*n).unwrap() {
        Some(found) => reader.read_chunk(&found).is_ok_and(|read| *read.into_inner() == chunk(*n)),
        None => false,
    };
    (0..CHUNKS).filter(|n| !reads(n)).collect()
}

#[test]
fn a_backup_refers_to_no_pack_that_a_check_found_damaged_and_heals_what_did() {
    for (name, parent) in [("vm", ParentChoice::Auto), ("vm", ParentChoice::None), ("other", ParentChoice::Auto)] {
        let (storage, clock, repository) = repository();
        let first = backup(&repository, "vm", CHUNKS);
        let key = packs(&repository).remove(0);
        spoil(&*storage, &key);
        let fresh = || again(storage.clone(), clock.clone());
        assert!(!lost(&fresh(), &first).is_empty(), "{name}: nothing was damaged");
        // Who has not looked cannot know.
        let unaware = more(&fresh(), name, parent.clone());
        assert_eq!((lost(&fresh(), &unaware), unaware.record.stats.stored), (lost(&fresh(), &first), 0), "{name}");
        clock.advance(DAY);
        let report = check(&fresh(), share(1.0));
        assert_eq!((report.damages.len(), report.damages[0].hits.len()), (1, 2), "{name}: {report:?}");
        let second = more(&fresh(), name, parent.clone());
        let stats = &second.record.stats;
        assert!(stats.new > 0 && stats.new < CHUNKS * UNIT as u64, "{name}: one pack of several: {stats:?}");
        for snapshot in [&first, &unaware, &second] {
            assert_eq!(lost(&fresh(), snapshot), NONE, "{name}: {}", snapshot.id);
        }
        clock.advance(DAY);
        let report = check(&fresh(), share(1.0));
        assert_eq!((report.damages.len(), report.damages[0].hits.len()), (1, 0), "{name}: {report:?}");
        // And that is not done again for ever.
        let third = more(&fresh(), name, parent.clone());
        assert_eq!((third.record.stats.new, third.record.stats.stored), (0, 0), "{name}");
        assert_eq!(lost(&fresh(), &third), NONE, "{name}");
    }
}

#[test]
fn a_pack_that_was_brought_back_and_read_is_as_good_as_any() {
    let (storage, clock, repository) = repository();
    backup(&repository, "vm", CHUNKS);
    let key = packs(&repository).remove(0);
    spoil(&*storage, &key);
    check(&repository, share(1.0));
    let damaged: Vec<PackId> = keys::parse_pack(&key).into_iter().collect();
    assert_eq!(repository.damaged_packs().unwrap().into_iter().collect::<Vec<_>>(), damaged);
    spoil(&*storage, &key);
    clock.advance(DAY);
    assert!(check(&repository, share(1.0)).is_clean());
    assert!(repository.damaged_packs().unwrap().is_empty() && noted(&repository).contains(&damaged[0]));
    assert_eq!(more(&repository, "vm", ParentChoice::Auto).record.stats.new, 0);
    // Nor do a clock that is a year ahead and says that all is well, or a record that is damaged, matter.
    spoil(&*storage, &key);
    clock.advance(DAY);
    check(&repository, share(1.0));
    let wrong = Arc::new(crate::testing::StillClock::default());
    wrong.advance(DAY * 400);
    spoil(&*storage, &key);
    assert!(check(&again(storage.clone(), wrong), share(1.0)).is_clean());
    assert_eq!(repository.damaged_packs().unwrap().into_iter().collect::<Vec<_>>(), damaged);
    spoil(&*storage, &repository.list(keys::READ).unwrap()[0]);
    repository.damaged_packs().unwrap();
}

#[test]
fn what_checks_have_read_costs_a_backup_a_listing_and_is_never_why_there_is_none() {
    let (storage, clock, repository) = repository();
    backup(&repository, "vm", CHUNKS);
    for _ in 0..5 {
        clock.advance(DAY);
        check(&repository, share(0.2));
    }
    *storage.silent.lock() = Some(keys::CHECKED);
    let asked = storage.unanswered.load(std::sync::atomic::Ordering::Relaxed);
    let snapshot = more(&again(storage.clone(), clock.clone()), "vm", ParentChoice::Auto);
    assert_eq!(storage.unanswered.load(std::sync::atomic::Ordering::Relaxed), asked + 1, "the listing");
    *storage.silent.lock() = None;
    assert_eq!(lost(&repository, &snapshot), NONE);
}

/// Without any delay.
fn gc(repository: &Repository) -> crate::Collected {
    try_gc(repository).unwrap()
}

fn try_gc(repository: &Repository) -> crate::Result<crate::Collected> {
    let (grace, fence_after, patience) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let options = CollectOptions { grace, fence_after, patience, pack_size: 512 << 10, ..CollectOptions::default() };
    repository.collect(&options, &|_, _, _| Ok(()))
}

#[test]
fn a_collector_keeps_the_intact_copy_of_what_is_damaged_in_its_own_place() {
    let (storage, clock, repository) = repository();
    let first = backup(&repository, "vm", CHUNKS);
    let other = backup(&repository, "other", 1);
    spoil(&*storage, &packs(&repository)[0]);
    spoil(&*storage, &packs(&repository)[1]);
    let fresh = || again(storage.clone(), clock.clone());
    check(&fresh(), share(1.0));
    let second = more(&fresh(), "vm", ParentChoice::Auto);
    assert!(lost(&fresh(), &first).is_empty() && second.record.stats.stored > 0);
    let copies = |repository: &Repository| {
        packs(repository).iter().filter(|key| keys::parse_pack(key).is_some_and(|id| id.session == second.id)).count()
    };
    let stored = copies(&repository);
    repository.forget(&second.id, Duration::ZERO, "test").unwrap();
    clock.advance(DAY);
    let collected = gc(&fresh());
    assert_eq!((collected.settled, collected.swept.packs), (1, 0), "{collected:?}");
    for _ in 0..2 {
        gc(&fresh());
        assert_eq!((lost(&fresh(), &first), copies(&repository)), (vec![], stored));
    }
    let report = check(&fresh(), share(1.0));
    assert!(report.damages.iter().all(|damage| damage.hits.is_empty()), "{report:?}");
    // When nobody needs them any more they go.
    [&first, &other].into_iter().for_each(|snapshot| drop(repository.forget(&snapshot.id, Duration::ZERO, "test")));
    clock.advance(DAY);
    gc(&fresh());
    assert!(packs(&repository).is_empty());
}

#[test]
fn a_collector_that_cannot_read_what_is_damaged_deletes_nothing_until_all_is_read_anew() {
    let (storage, clock, repository) = repository();
    let first = backup(&repository, "vm", CHUNKS);
    spoil(&*storage, &packs(&repository)[0]);
    let fresh = || again(storage.clone(), clock.clone());
    check(&fresh(), share(1.0));
    let second = more(&fresh(), "vm", ParentChoice::Auto);
    repository.forget(&second.id, Duration::ZERO, "test").unwrap();
    clock.advance(DAY);
    let notes = repository.list(keys::READ).unwrap();
    notes.iter().for_each(|key| spoil(&*storage, key));
    let refused = || {
        let before = packs(&repository);
        let error = try_gc(&fresh()).unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == ErrorKind::Corrupt && text.contains("wherry check --read-data"), "{text}");
        assert!(text.contains(notes[0].as_str()) && packs(&repository) == before, "{text}");
    };
    refused();
    // Writers go on.
    assert!(fresh().damaged_packs().unwrap().is_empty());
    // A check that reads little, or some snapshots, does not know what the note said.
    check(&fresh(), share(0.0));
    refused();
    fresh().check(&options(share(1.0), &[first.id]), &|_, _, _| Ok(())).unwrap();
    refused();
    // One that reads all does.
    let report = check(&fresh(), share(1.0));
    assert!(report.damages.iter().any(|d| d.kind == DamageKind::Checked && d.advice().contains("--read-data")));
    gc(&fresh());
    gc(&fresh());
    assert_eq!(lost(&fresh(), &first), NONE);
    assert!(check(&fresh(), share(1.0)).damages.iter().all(|damage| damage.kind == DamageKind::Pack));
}

#[test]
fn who_heals_makes_sure_that_collectors_take_for_damaged_what_is() {
    let (storage, clock, repository) = repository();
    backup(&repository, "vm", CHUNKS);
    let key = packs(&repository).remove(0);
    spoil(&*storage, &key);
    let report = check(&repository, share(1.0));
    assert!(!report.damages[0].hits.is_empty() && !repository.damaged_packs().unwrap().is_empty(), "{report:?}");
    // By a clock that is an hour ahead all is well after that, and then it is not.
    spoil(&*storage, &key);
    assert!(check(&again(storage.clone(), ahead(DAY / 24)), share(1.0)).is_clean());
    spoil(&*storage, &key);
    assert!(repository.damaged_packs().unwrap().is_empty());
    crate::heal::admit(&repository, &report).unwrap();
    let damaged: Vec<PackId> = keys::parse_pack(&key).into_iter().collect();
    assert_eq!(again(storage.clone(), clock.clone()).damaged_packs().unwrap().into_iter().collect::<Vec<_>>(), damaged);
    // What is so is not noted again.
    let notes = repository.list(keys::READ).unwrap();
    crate::heal::admit(&repository, &report).unwrap();
    assert_eq!(repository.list(keys::READ).unwrap(), notes);
    // What cannot be read may say that it is intact.
    spoil(&*storage, &notes[0]);
    let error = crate::heal::admit(&repository, &report).unwrap_err().to_string();
    assert!(error.contains("could not be noted") && error.contains("check --read-data"), "{error}");
}

/// A clock that is so much ahead of that of a repository of [`repository`].
fn ahead(by: Duration) -> Arc<crate::testing::StillClock> {
    let clock = Arc::new(crate::testing::StillClock::default());
    clock.advance(by);
    clock
}

/// Else the copy would go when that time has come.
#[test]
fn damage_is_not_undone_by_a_clock_that_said_before_that_all_was_intact() {
    for heals in [false, true] {
        let (storage, clock, repository) = repository();
        let first = backup(&repository, "vm", CHUNKS);
        assert!(check(&again(storage.clone(), ahead(30 * DAY)), share(1.0)).is_clean());
        let fresh = || again(storage.clone(), clock.clone());
        spoil(&*storage, &packs(&repository)[0]);
        clock.advance(DAY);
        let report = check(&fresh(), share(1.0));
        if heals {
            crate::heal::admit(&fresh(), &report).unwrap();
        }
        let second = more(&fresh(), "vm", ParentChoice::Auto);
        assert!(second.record.stats.stored > 0, "{:?}", second.record.stats);
        repository.forget(&second.id, Duration::ZERO, "test").unwrap();
        for days in [1, 28, 2, 40] {
            clock.advance(days * DAY);
            gc(&fresh());
            gc(&fresh());
            assert_eq!(lost(&fresh(), &first), NONE, "heals: {heals}, {days} days later");
        }
    }
}

#[test]
fn damage_that_a_clock_finds_that_is_behind_is_known_to_writers() {
    let (storage, _, repository) = repository();
    let first = backup(&repository, "vm", CHUNKS);
    let today = ahead(30 * DAY);
    assert!(check(&again(storage.clone(), today.clone()), share(1.0)).is_clean());
    spoil(&*storage, &packs(&repository)[0]);
    // Each of a month before; the second one puts nothing in its place.
    for _ in 0..2 {
        assert_eq!(check(&repository, share(1.0)).damages.len(), 1);
        assert_eq!(again(storage.clone(), today.clone()).damaged_packs().unwrap().len(), 1);
    }
    let second = more(&again(storage.clone(), today.clone()), "vm", ParentChoice::Auto);
    let fresh = again(storage, today);
    assert!(second.record.stats.new > 0 && lost(&fresh, &second) == NONE && lost(&fresh, &first) == NONE);
}

#[test]
fn a_copy_that_nobody_read_is_not_believed_where_another_one_is_damaged() {
    let (storage, clock, repository) = repository();
    let made = ["a", "b", "c"].map(|name| backup(&repository, name, CHUNKS));
    clock.advance(DAY);
    for forgotten in &made[1..] {
        repository.forget(&forgotten.id, Duration::ZERO, "test").unwrap();
        repository.settle(&forgotten.id).unwrap();
    }
    let of = |snapshot: &Snapshot| {
        let mine = |key: &Key| keys::parse_pack(key).is_some_and(|pack| pack.session == snapshot.id);
        packs(&repository).into_iter().filter(mine).collect::<Vec<_>>()
    };
    of(&made[0]).iter().for_each(|key| storage.delete(key).unwrap());
    assert!(check(&again(storage.clone(), clock.clone()), share(1.0)).is_clean(), "both copies are intact");
    made[1..].iter().flat_map(of).for_each(|key| spoil(&*storage, &key));
    let fresh = again(storage.clone(), clock.clone());
    let unread = lost(&fresh, &made[0]);
    let report = check(&fresh, share(1.0));
    let bytes: u64 = report.damages.iter().flat_map(|damage| &damage.hits).map(|hit| hit.bytes).sum();
    assert!(!unread.is_empty(), "nothing was lost");
    assert_eq!(bytes, (unread.len() * UNIT) as u64, "{report:?}");
}

#[test]
fn a_copy_that_a_collector_is_about_to_delete_is_none() {
    let (storage, clock, repository) = repository();
    let [first, second] = ["a", "b"].map(|name| backup(&repository, name, CHUNKS));
    clock.advance(DAY);
    repository.forget(&second.id, Duration::ZERO, "test").unwrap();
    repository.settle(&second.id).unwrap();
    let all: Vec<PackId> = packs(&repository).iter().filter_map(keys::parse_pack).collect();
    let (own, copies): (Vec<PackId>, Vec<PackId>) = all.into_iter().partition(|pack| pack.session == first.id);
    own.iter().for_each(|pack| storage.delete(&keys::pack(pack)).unwrap());
    let hit = |report: &crate::CheckReport| {
        report.damages.iter().flat_map(|damage| &damage.hits).map(|hit| hit.bytes).sum::<u64>()
    };
    let hits = |heals: bool| {
        let other = again(storage.clone(), clock.clone());
        match heals {
            true => hit(&other.find_wanted(&options(share(1.0), &[]), &|_, _, _| Ok(())).unwrap().0),
            false => hit(&check(&other, share(1.0))),
        }
    };
    assert_eq!([hits(false), hits(true)], [0, 0]);
    let knows = again(storage.clone(), clock.clone());
    assert_eq!(hit(&check(&knows, share(1.0))), 0);
    let sweep = Sweep { packs: copies, nonce: repository.nonce().unwrap() };
    let seal = || repository.create(&keys::sealed(1), &sweep).unwrap();
    seal();
    assert_eq!([hits(false), hits(true)], [CHUNKS * UNIT as u64; 2]);
    // What holds it as well, and came after somebody had looked. No backup begins while a list lacks its beginning.
    storage.delete(&keys::sealed(1)).unwrap();
    backup(&repository, "c", CHUNKS);
    seal();
    assert_eq!([hit(&check(&knows, share(1.0))), hits(false), hits(true)], [0; 3]);
}

#[test]
fn damage_is_noted_although_a_check_that_began_later_said_that_all_is_well() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", CHUNKS);
    let key = packs(&repository).remove(0);
    spoil(&*storage, &key);
    let other = again(storage.clone(), clock.clone());
    let mut come = Some(());
    let come = parking_lot::Mutex::new(&mut come);
    let report = repository.check(&options(share(1.0), &[]), &|step, now, total| {
        if step == CheckStep::Hits && come.lock().take().is_some() {
            assert!(now < total);
            spoil(&*storage, &key);
            clock.advance(DAY / 24);
            assert!(check(&other, share(1.0)).is_clean() && verified(&other, &snapshot).is_some());
        }
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.damages.len() == 1 && report.kept && report.not_kept.is_none(), "{report:?}");
    let state = checked(&repository, &snapshot).unwrap();
    assert_eq!((state.damaged, state.verified), (true, None));
}

#[test]
fn a_check_of_some_that_finds_damage_leaves_nobody_else_verified() {
    let (storage, clock, repository) = repository();
    let first = backup(&repository, "a", CHUNKS);
    let second = sharing(&repository, "b", 0..CHUNKS);
    check(&repository, share(1.0));
    assert!(verified(&repository, &second).is_some());
    clock.advance(DAY);
    let report = repository.check(&options(share(1.0), &[first.id]), &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean() && verified(&repository, &second).is_some(), "nothing is damaged");
    spoil(&*storage, &packs(&repository)[0]);
    clock.advance(DAY);
    let report = repository.check(&options(share(1.0), &[first.id]), &|_, _, _| Ok(())).unwrap();
    assert!(!report.is_clean() && report.kept, "{report:?}");
    assert!(checked(&repository, &first).unwrap().damaged);
    let state = checked(&repository, &second).unwrap();
    assert_eq!((state.damaged, state.verified), (false, None), "it has not been looked at");
    check(&repository, share(1.0));
    assert!(checked(&repository, &second).unwrap().damaged);
}

#[test]
fn a_check_that_reads_no_data_notes_what_it_finds_damaged_and_else_nothing() {
    let (storage, clock, repository) = repository();
    let (first, second) = (backup(&repository, "a", CHUNKS), sharing(&repository, "b", 100..100 + CHUNKS));
    let look = |snapshots: &[&Snapshot]| {
        let snapshots = snapshots.iter().map(|snapshot| snapshot.id).collect();
        let options = CheckOptions { keep: true, threads: 1, snapshots, ..CheckOptions::default() };
        repository.check(&options, &|_, _, _| Ok(())).unwrap()
    };
    assert!(look(&[]).is_clean() && repository.list(keys::CHECKED).unwrap().is_empty());
    check(&repository, share(1.0));
    clock.advance(DAY);
    let key = packs(&repository).into_iter().find(|key| keys::parse_pack(key).unwrap().session == first.id).unwrap();
    let body = storage.inner.get(&key).unwrap();
    storage.inner.delete(&key).unwrap();
    let report = look(&[&second]);
    assert!(report.is_clean() && verified(&repository, &first).is_some(), "it needs nothing of that");
    let report = look(&[&first, &second]);
    assert!(!report.is_clean() && report.kept, "{report:?}");
    assert!(checked(&repository, &first).unwrap().damaged && verified(&repository, &first).is_none());
    assert!(verified(&repository, &second).is_some(), "it was looked at and is whole");

    // One whose index is cut off: all that is referred to is opened in any case, and a chunk that does not verify is noted.
    let mut cut = body.to_vec();
    cut[100] ^= 1;
    cut.truncate(cut.len() - 70);
    storage.inner.create(&key, cut.into()).unwrap();
    clock.advance(DAY);
    assert_eq!(look(&[]).damages.len(), 1);
    assert_eq!(repository.damaged_packs().unwrap().into_iter().collect::<Vec<_>>(), [keys::parse_pack(&key).unwrap()]);
    let healed = more(&again(storage.clone(), clock.clone()), "a", ParentChoice::Auto);
    assert_eq!(lost(&again(storage.clone(), clock.clone()), &healed), NONE);
}

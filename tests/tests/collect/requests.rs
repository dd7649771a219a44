//! What is asked of the storage does not grow with all that was ever forgotten.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::{CollectStep, Error, ErrorKind, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};

/// Counts how often it is read what became of a forget.
fn counting(world: &World) -> (Repository, Arc<AtomicUsize>) {
    let (storage, count) = (Meddling::new(world.storage.clone(), true), Arc::new(AtomicUsize::new(0)));
    let reads = count.clone();
    storage.meddle(move |call, name| {
        reads.fetch_add(usize::from(call == Call::Read && name.ends_with("-settled")), Ordering::Relaxed);
        Fate::Done
    });
    (world.over(storage), count)
}

#[test]
fn what_became_of_forgets_is_read_where_it_matters_and_not_again_and_again() {
    let mut world = World::new();
    for n in 0..20 {
        let snapshot = world.backup("old", &disk(&[n]));
        world.forget(&snapshot.id);
    }
    let kept = world.backup("new", &disk(&[100]));
    let back = world.backup("new", &disk(&[101]));
    world.repository().forget(&back.id, Duration::ZERO, "test").unwrap();
    world.repository().unforget(&back.id).unwrap();
    world.gc();
    let (repository, reads) = counting(&world);
    let list = repository.snapshots(Some(kept.volume)).unwrap();
    assert_eq!(list.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), [kept.id, back.id]);
    assert!(list.is_visible(&back.id));
    assert_eq!(reads.load(Ordering::Relaxed), 1, "the one of this volume");
    assert!(repository.snapshots(None).unwrap().is_visible(&back.id));
    let kept_records = world.repository().snapshots(None).unwrap().forgets.len();
    assert!(kept_records < 5, "{kept_records}");
    assert_eq!(reads.load(Ordering::Relaxed), 1 + kept_records, "those of what has a record");

    // A backup is under way that has not heard of the list. To wait for it longer costs no more of these.
    let _writer = SnapshotWriter::start(&world.repository(), index(), &wide("new")).unwrap();
    world.forget(&kept.id);
    let waited = [3, 30].map(|seconds| {
        let (repository, reads) = counting(&world);
        let (fence_after, patience) = (Duration::from_secs(7200), Duration::from_secs(seconds));
        let before = world.clock.monotonic();
        let report = gc(&repository, &CollectOptions { fence_after, patience, ..now() }).unwrap();
        assert_eq!(report.waiting.len(), 1);
        assert!(world.clock.monotonic() - before >= patience, "it did not wait");
        reads.load(Ordering::Relaxed)
    });
    assert!(waited[1] <= waited[0], "{waited:?}");
}

/// Forgets of what went long ago are neither read nor listed to the end where it is about one volume; what is forgotten of it is
/// known all the same.
#[test]
fn all_that_ever_went_is_not_listed_for_one_volume() {
    let mut world = World::new();
    let shown = world.backup("vm", &disk(&[1]));
    let asked = world.backup("vm", &disk(&[2]));
    let gone = world.backup("vm", &disk(&[3]));
    world.forget(&gone.id);
    world.gc();
    world.repository().forget(&asked.id, Duration::from_secs(3600), "test").unwrap();
    for n in 0..3000u32 {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        world.storage.create(&keys::forget(&SnapshotId::new(id), 0, true), vec![1].into()).unwrap();
    }
    let storage = Meddling::new(world.storage.clone(), false);
    let (listed, own) = (Arc::new(AtomicUsize::new(0)), [shown.id, asked.id, gone.id]);
    let each = listed.clone();
    storage.meddle(move |call, name| {
        let is_own = own.iter().any(|id| name.contains(&id.to_string()));
        each.fetch_add(usize::from(call == Call::List && name.starts_with(keys::FORGET) && is_own), Ordering::Relaxed);
        let is_foreign = call == Call::Read && name.starts_with(keys::FORGET) && !is_own;
        if is_foreign { Fate::Fails(Error::new(ErrorKind::Denied, "of another one")) } else { Fate::Done }
    });
    let repository = world.over(storage);
    let list = repository.snapshots(Some(shown.volume)).unwrap();
    assert_eq!(listed.load(Ordering::Relaxed), 3, "one for each record");
    assert_eq!(list.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), [shown.id, asked.id]);
    assert!(list.is_visible(&shown.id) && !list.is_visible(&asked.id));
    assert_eq!(list.traces.len(), 0);
    let all = repository.snapshots(None).unwrap();
    assert_eq!((all.snapshots, all.forgets), (list.snapshots, list.forgets));
    assert_eq!(all.traces.len(), 3000);
    // Nor does a collector read what became of them.
    let report = gc(&repository, &now()).unwrap();
    assert!(report.completed && world.repository().is_gone(&asked.id).is_ok_and(|gone| !gone), "{report:?}");
}

/// Packs outlive the record and the notes of whoever wrote them, where others refer to them; they go with the last of these.
#[test]
fn packs_go_although_nothing_else_is_left_of_their_session() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&[1, 2, 3]));
    let second = world.backup("vm", &disk(&[1, 2, 3]));
    let left = |world: &World| {
        let is_pack = |key: &&wherry_repo::Key| keys::parse_pack(key).is_some_and(|pack| pack.session == first.id);
        let noted = |key: &wherry_repo::Key| {
            [keys::SNAP, keys::SESS].iter().any(|kind| key.as_str().starts_with(kind))
                && key.as_str().contains(&first.id.to_string())
        };
        let keys = keys_of(&*world.storage);
        (keys.iter().filter(is_pack).count(), keys.iter().any(noted))
    };
    world.forget(&first.id);
    world.gc();
    assert_eq!(left(&world), (1, false), "its pack, and neither record nor notes");
    world.forget(&second.id);
    world.backup("vm", &disk(&[9]));
    world.gc();
    assert_eq!(left(&world), (0, false));
    world.verify("both are gone");
}

/// Records of many volumes are removed by what was read once, and each step can be the last.
#[test]
fn what_removing_records_asks_does_not_grow_with_volumes() {
    let asked = [2, 8].map(|volumes| {
        let mut world = World::new();
        for n in 0..volumes {
            let old = world.backup(&format!("vm{n}"), &disk(&[n]));
            world.backup(&format!("vm{n}"), &disk(&[n + 100]));
            world.forget(&old.id);
        }
        let (storage, lists) = (Meddling::new(world.storage.clone(), false), Arc::new(AtomicUsize::new(0)));
        let count = lists.clone();
        storage.meddle(move |call, name| {
            count.fetch_add(usize::from(call == Call::List && name == keys::FORGET), Ordering::Relaxed);
            Fate::Done
        });
        assert_eq!(gc(&world.over(storage), &now()).unwrap().records, volumes);
        lists.load(Ordering::Relaxed)
    });
    assert_eq!(asked[0], asked[1]);
}

/// What goes through many of something looks now and then whether it is to end.
#[test]
fn it_ends_also_among_many_forgets_and_many_records() {
    let mut world = World::new();
    for n in 0..30 {
        let old = world.backup(&format!("vm{n}"), &disk(&[n]));
        world.backup(&format!("vm{n}"), &disk(&[n + 100]));
        world.forget(&old.id);
    }
    let count =
        |world: &World, is: fn(&str) -> bool| keys_of(&*world.storage).iter().filter(|key| is(key.as_str())).count();
    let settled: fn(&str) -> bool = |key| key.ends_with("-settled");
    let records: fn(&str) -> bool = |key| key.starts_with(keys::SNAP);
    for (is, grows) in [(settled, true), (records, false)] {
        let before = count(&world, is);
        let end = |_: CollectStep, _, _| match count(&world, is) == before {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Cancelled, "enough")),
        };
        assert_eq!(world.repository().collect(&now(), &end).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(count(&world, is), if grows { before + 1 } else { before - 1 });
    }
    world.gc();
    world.verify("ended twice");
}

/// Each delete waits for as long as the storage may be away: what is away ends the run, what fails for itself does not.
#[test]
fn a_storage_that_goes_away_ends_the_sweep() {
    let mut world = World::new();
    let mut gone = Vec::new();
    for n in 0..40 {
        gone.push(world.backup("vm", &disk(&[n])).id);
        world.forget(&gone[n as usize]);
    }
    world.backup("vm", &disk(&[100]));
    let sealed = gc(&world.repository(), &CollectOptions { grace: Duration::from_secs(3600), ..now() }).unwrap();
    assert!(sealed.graced.packs > 20);
    // Not one after the other: packs are deleted in the order of their names.
    let mut doomed: Vec<_> = world.packs().into_iter().filter(|pack| gone.contains(&pack.session)).collect();
    doomed.sort_unstable();
    let victims = [5, 25].map(|n| keys::pack(&doomed[n]));
    // The storage is away; two packs fail for themselves; and when nothing else is left to delete.
    for (away, swept) in [(true, false), (false, true), (false, false)] {
        world.clock.advance(Duration::from_secs(7200));
        let (storage, tries) = (Meddling::new(world.storage.clone(), false), Arc::new(AtomicUsize::new(0)));
        let (count, victims) = (tries.clone(), victims.clone());
        storage.meddle(move |call, name| {
            let is_pack = call == Call::Delete && (name.starts_with(keys::PACKS) || name.starts_with(keys::META));
            if is_pack && (away || victims.iter().any(|victim| name == victim.as_str())) {
                count.fetch_add(1, Ordering::Relaxed);
                return Fate::Fails(unavailable());
            }
            if away && count.load(Ordering::Relaxed) > 0 { Fate::Fails(unavailable()) } else { Fate::Done }
        });
        let ended = gc(&world.over(storage), &CollectOptions { threads: 1, ..now() });
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        match away {
            true => assert_eq!(ended.unwrap_err().kind(), ErrorKind::Unavailable),
            false => {
                let ended = ended.unwrap();
                assert_eq!((ended.failed.packs, ended.swept.packs > 20), (2, swept), "{ended:?}");
            }
        }
    }
    world.gc();
    world.verify("it is there again");
}

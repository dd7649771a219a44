//! Listings that lack what is there for a moment, and indexes that cannot be read for one: what is not seen is not taken
//! for gone.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::{CommitInfo, ErrorKind, Key, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};

fn commit(writer: SnapshotWriter, disk: &[u8]) -> Snapshot {
    writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() }).unwrap()
}

/// Nobody is ended, and nothing waits.
fn patient() -> CollectOptions {
    CollectOptions { fence_after: Duration::from_secs(1 << 30), ..now() }
}

/// Removes all whose key begins so for as long as the `nth` listing below `prefix` takes, counted from 1; says how many
/// listings there were.
fn hidden(storage: &Meddling, prefix: &'static str, hide: Vec<(usize, String)>) -> Arc<AtomicUsize> {
    let (inner, lists) = (storage.inner.clone(), Arc::new(AtomicUsize::new(0)));
    let (count, mut kept) = (lists.clone(), Vec::new());
    storage.meddle(move |call, name| {
        for (key, bytes) in kept.drain(..) {
            inner.create(&key, bytes).unwrap();
        }
        if call == Call::List && name == prefix {
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some((_, hidden)) = hide.iter().find(|(at, _)| *at == n) {
                for key in keys_of(&*inner).into_iter().filter(|key| key.as_str().starts_with(hidden)) {
                    kept.push((key.clone(), inner.get(&key).unwrap()));
                    inner.delete(&key).unwrap();
                }
                assert!(!kept.is_empty());
            }
        }
        Fate::Done
    });
    lists
}

/// Two listings that lack another list each: what a list condemned that was in the second one alone is not referred to.
#[test]
fn a_writer_begins_with_every_list_whatever_listings_lack() {
    let mut world = World::new();
    let known = index();
    let mut disks = Vec::new();
    for volume in 0..3 {
        let bytes = disk(&(100 * volume..100 * volume + 8).collect::<Vec<_>>());
        disks.push((world.backup(&format!("vm{volume}"), &bytes).id, bytes));
    }
    known.synchronise(&world.repository(), true).unwrap();
    let kept = CollectOptions { grace: Duration::from_secs(86_400), ..now() };
    for (id, _) in &disks {
        world.forget(id);
        assert!(gc(&world.repository(), &kept).unwrap().sealed);
    }
    let storage = Meddling::new(world.storage.clone(), false);
    let lists = hidden(&storage, keys::GEN, vec![(1, "gc/gen/00000001".into()), (2, "gc/gen/00000002".into())]);
    let bytes = &disks[1].1;
    let snapshot = backup_with(&world.over(storage), known, &wide("new"), bytes).unwrap();
    assert_eq!(snapshot.record.stats.new, bytes.len() as u64, "{:?}", snapshot.record.stats);
    assert!(lists.load(Ordering::Relaxed) >= 3);
    world.disks.insert(snapshot.id, bytes.clone());
    world.clock.advance(Duration::from_secs(2 * 86_400));
    world.gc();
    world.verify("built upon nothing that was condemned");
}

/// A pack that is condemned, needed by a snapshot that came meanwhile, and not in the listing of the second mark.
#[test]
fn what_the_second_listing_lacks_is_rescued_all_the_same() {
    let mut world = World::new();
    let known = index();
    let bytes = disk(&(0..16).collect::<Vec<_>>());
    let first = world.backup("vm", &bytes);
    known.synchronise(&world.repository(), true).unwrap();
    // It condemns between the writer's last look for lists and its commit.
    let behind = Meddling::new(world.storage.clone(), false);
    let writer = SnapshotWriter::start(&world.over(behind.clone()), known, &wide("new")).unwrap();
    put_all(&writer, &bytes).unwrap();
    world.forget(&first.id);
    let collector = world.repository();
    behind.meddle(move |call, name| {
        if call == Call::Write && name.starts_with("snap/") {
            let report = gc(&collector, &patient()).unwrap();
            assert!(report.waiting.len() == 1 && !report.sealed && report.condemned.packs >= 2, "{report:?}");
        }
        Fate::Done
    });
    let victim = world.packs().into_iter().map(|pack| keys::pack(&pack)).find(|key| key.as_str().starts_with("packs/"));
    let snapshot = commit(writer, &bytes);
    assert_eq!(snapshot.record.stats.new, 0, "it refers to what is condemned");
    world.disks.insert(snapshot.id, bytes);
    let storage = Meddling::new(world.storage.clone(), false);
    hidden(&storage, keys::PACKS, vec![(1, victim.unwrap().to_string())]);
    let repository = world.over(storage);
    let report = gc(&repository, &patient()).unwrap();
    assert!(report.rescued >= 2, "{report:?}");
    world.verify("rescued");
    world.verify_lean("rescued");
}

/// A session leans on a snapshot that is gone for good, of which a chunk was moved. The index of the pack it was moved to cannot be
/// read once: that is no reason to take the chunk for gone.
#[test]
fn what_an_unreadable_index_may_have_is_not_passed_over() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    let chunks: Vec<u64> = (100..116).map(|n| if n % 8 == 3 { n - 100 } else { n }).collect();
    let bytes = disk(&chunks);
    let second = world.backup("vm", &bytes);
    world.forget(&first.id);
    let repository = world.repository();
    let writer = SnapshotWriter::start(&repository, index(), &wide("vm")).unwrap();
    put_all(&writer, &bytes).unwrap();
    let report = gc(&world.repository(), &patient()).unwrap();
    assert!(report.copied.packs == 2 && report.waiting.len() == 1, "{report:?}");
    writer.pulse().beat().unwrap();
    let report = gc(&world.repository(), &patient()).unwrap();
    assert!(report.sealed && report.swept.packs >= 2, "{report:?}");
    world.forget(&second.id);

    let storage = Meddling::new(world.storage.clone(), true);
    let copies: Vec<String> = world
        .packs()
        .into_iter()
        .filter(|pack| pack.session != second.id && keys::pack(pack).as_str().starts_with("packs/"))
        .map(|pack| keys::pack(&pack).to_string())
        .collect();
    assert!(!copies.is_empty());
    storage.meddle(move |call, name| match call == Call::Read && copies.iter().any(|key| key == name) {
        true => Fate::Fails(unavailable()),
        false => Fate::Done,
    });
    let before = keys_of(&*world.storage);
    let generations = |keys: &[Key]| keys.iter().filter(|key| key.as_str().starts_with(keys::GEN)).count();
    let error = gc(&world.over(storage.clone()), &patient()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unavailable), "{error}");
    assert_eq!(generations(&keys_of(&*world.storage)), generations(&before), "{error}");
    storage.leave_alone();
    gc(&world.over(storage), &patient()).unwrap();
    let third = commit(writer, &bytes);
    world.disks.insert(third.id, bytes);
    world.gc();
    world.verify("committed on top of what is gone for good");
}

/// The note of a session is damaged: with an outcome nobody needs it; without, it may need anything.
#[test]
fn a_damaged_note_of_a_session_that_has_ended_keeps_nothing_from_going() {
    for ended in [true, false] {
        let mut world = World::new();
        let bytes = disk(&[1, 2, 3]);
        let writer = SnapshotWriter::start(&world.repository(), index(), &wide("vm")).unwrap();
        put_all(&writer, &bytes).unwrap();
        let id = match ended {
            true => {
                let snapshot = commit(writer, &bytes);
                world.disks.insert(snapshot.id, bytes);
                Some(snapshot.id)
            }
            false => None,
        };
        let open = keys_of(&*world.storage).into_iter().find(|key| key.as_str().ends_with("/open")).unwrap();
        let mut note = world.storage.get(&open).unwrap().to_vec();
        note[40] ^= 1;
        world.storage.overwrite(&open, note.into()).unwrap();
        match gc(&world.repository(), &now()) {
            Ok(report) => {
                assert!(id.is_some() && report.sessions == 1, "{report:?}");
                assert!(!keys_of(&*world.storage).contains(&open));
            }
            Err(e) => {
                assert!(id.is_none() && e.to_string().contains(open.as_str()), "{e}");
                assert_eq!(e.kind(), ErrorKind::Corrupt);
            }
        }
        if ended {
            world.verify("a damaged note");
        }
    }
}

/// The storage carries the request out and does not say so: nobody may be told that there is no snapshot.
#[test]
fn a_commit_without_an_answer_is_said_to_be_unknown_and_is_settled_by_the_next_run() {
    let mut world = World::new();
    let bytes = disk(&[1, 2, 3]);
    let storage = Meddling::new(world.storage.clone(), false);
    let mut sent = false;
    storage.meddle(move |call, name| match (call, name.starts_with("snap/")) {
        (Call::Write, true) => {
            sent = true;
            Fate::ReplyLost(unavailable())
        }
        (Call::Read, true) if sent => Fate::Fails(unavailable()),
        _ => Fate::Done,
    });
    let error = backup_with(&world.over(storage), index(), &wide("vm"), &bytes).unwrap_err();
    let found = world.repository().snapshots(None).unwrap();
    let id = found.snapshots[0].id;
    let text = error.to_string();
    assert!(
        text.contains(&id.to_string()) && text.contains("not known") && text.contains("wherry snapshots"),
        "{text}"
    );
    world.disks.insert(id, bytes.clone());
    let next = world.backup("vm", &bytes);
    assert_eq!((next.record.parent, next.record.stats.new), (Some(id), 0));
    world.verify("settled");
}

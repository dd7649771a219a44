//! Damage has a way out: what nobody needs any more, or what is intact elsewhere, keeps no collector from its work.

use super::*;
use wherry_repo::{CommitInfo, DamageKind, ErrorKind, Key, PackKind, ReadData, ReadSession, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};

/// One bit of the middle of an object is another one.
fn spoil(world: &World, key: &Key) {
    let mut bytes = world.storage.get(key).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    world.storage.overwrite(key, bytes.into()).unwrap();
}

fn patient() -> CollectOptions {
    CollectOptions { fence_after: Duration::from_secs(7200), ..now() }
}

#[test]
fn a_damaged_record_of_what_is_gone_for_good_stops_nobody() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    world.backup("vm", &disk(&(100..116).collect::<Vec<_>>()));
    let reading = ReadSession::open(&world.repository(), &first).unwrap();
    let key = keys::snap(&first.volume, &first.id);
    spoil(&world, &key);
    let error = gc(&world.repository(), &patient()).unwrap_err().to_string();
    assert!(error.contains(key.as_str()) && error.contains(&format!("wherry forget {}", first.id)), "{error}");
    // The record is damaged, so all that the collector knows is that it is to go.
    world.forget(&first.id);
    let error = gc(&world.repository(), &patient()).unwrap_err().to_string();
    assert!(error.contains(&first.id.to_string()) && error.contains("needs"), "somebody reads it: {error}");
    drop(reading);
    let collected = gc(&world.repository(), &patient()).unwrap();
    assert_eq!((collected.swept.packs, collected.records), (2, 0), "{collected:?}");
    // It stays, whatever comes later: it might be a Fence, and a check has nothing to say of it.
    assert!(world.repository().snapshots(None).unwrap().damaged.is_empty());
    world.clock.advance(Duration::from_secs(10));
    world.backup("vm", &disk(&(100..116).collect::<Vec<_>>()));
    assert_eq!(gc(&world.repository(), &patient()).unwrap().records, 0);
    assert!(world.storage.get(&key).is_ok());
    world.verify("the record was damaged");
    world.verify_lean("the record was damaged");
}

/// G4: the same where a list had named it dead before: which of its volume is the newest nobody can tell without it.
#[test]
fn a_dead_record_that_is_damaged_by_the_time_it_would_go_stays() {
    for damaged in [false, true] {
        let mut world = World::new();
        let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
        world.backup("vm", &disk(&(100..116).collect::<Vec<_>>()));
        world.forget(&first.id);
        let graced = CollectOptions { grace: Duration::from_secs(3600), ..now() };
        let collected = gc(&world.repository(), &graced).unwrap();
        assert!(collected.sealed && collected.records == 0, "{collected:?}");
        let key = keys::snap(&first.volume, &first.id);
        if damaged {
            spoil(&world, &key);
        }
        world.clock.advance(Duration::from_secs(3601));
        let records = (0..3).map(|_| gc(&world.repository(), &graced).unwrap().records).sum::<u64>();
        assert_eq!((records, world.storage.get(&key).is_ok()), (u64::from(!damaged), damaged));
        world.verify("its record was damaged");
    }
}

#[test]
fn a_session_whose_note_is_damaged_or_gone_is_ended_by_a_repair_when_it_is_silent() {
    for gone in [false, true] {
        for volume in ["vm", "new"] {
            let mut world = World::new();
            let bytes = disk(&(0..16).collect::<Vec<_>>());
            let first = world.backup("vm", &bytes);
            world.backup("vm", &disk(&[500]));
            world.forget(&first.id);
            let writer = SnapshotWriter::start(&world.repository(), index(), &wide(volume)).unwrap();
            put_all(&writer, &disk(&[1, 2, 3])).unwrap();
            let open = keys::session(&writer.id(), "open");
            if gone {
                world.storage.delete(&open).unwrap()
            } else {
                spoil(&world, &open)
            }
            let error = gc(&world.repository(), &patient()).unwrap_err().to_string();
            assert!(error.contains(open.as_str()) && error.contains("wherry repair"), "{error}");
            let lost = world.repository().end_lost_sessions().unwrap();
            assert_eq!(lost.iter().map(|lost| (lost.id, lost.ended)).collect::<Vec<_>>(), [(writer.id(), false)]);
            world.clock.advance(Duration::from_secs(7200));
            let lost = world.repository().end_lost_sessions().unwrap();
            assert_eq!(lost.iter().map(|lost| (lost.id, lost.ended)).collect::<Vec<_>>(), [(writer.id(), true)]);
            let own = format!("sess/{}/", writer.id());
            let left: Vec<Key> =
                keys_of(&*world.storage).into_iter().filter(|key| key.as_str().starts_with(&own)).collect();
            assert!(left.is_empty(), "{left:?}");
            assert!(world.repository().end_lost_sessions().unwrap().is_empty());
            // Had it lived, it would be told.
            let commit = writer.commit(CommitInfo { size: 3 * UNIT as u64, ..CommitInfo::default() });
            assert_eq!(commit.unwrap_err().kind(), ErrorKind::Conflict, "also of a volume nobody has heard of");
            gc(&world.repository(), &now()).unwrap();
            world.gc();
            world.verify("its note was lost");
            world.verify_lean("its note was lost");
        }
    }
}

/// M6: whoever was stalled between its listing and the clock of the storage knows nothing of what came meanwhile.
#[test]
fn a_lost_session_that_works_is_not_ended_by_a_repair_that_was_stalled() {
    let world = World::new();
    let storage = Meddling::new(world.storage.clone(), false);
    let repository = world.over(storage.clone());
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("vm")).unwrap();
    spoil(&world, &keys::session(&writer.id(), "open"));
    let (pulse, clock, mut stalled) = (writer.pulse(), world.clock.clone(), false);
    storage.meddle(move |call, name| {
        // The note by which it learns what time it is.
        if call == Call::Write && name.starts_with("gc/lead/") && !stalled {
            stalled = true;
            clock.advance(Duration::from_secs(3 * 3600));
            pulse.beat().unwrap();
        }
        Fate::Done
    });
    let lost = repository.end_lost_sessions().unwrap();
    assert_eq!(lost.iter().map(|lost| (lost.id, lost.ended)).collect::<Vec<_>>(), [(writer.id(), false)]);
    writer.pulse().beat().unwrap();
}

/// The Fence stands where it would commit, and nowhere else. Who has not come to `seen` has no packs and needs none.
#[test]
fn a_repair_fences_a_lost_session_where_it_writes_and_nowhere_else() {
    let mut world = World::new();
    let other = world.backup("other", &disk(&[900]));
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("new")).unwrap();
    spoil(&world, &keys::session(&writer.id(), "open"));
    let early = other.id;
    let early = wherry_repo::SessionId::new(std::array::from_fn(|n| early.bytes()[n] ^ 1));
    world.storage.create(&keys::session(&early, "open"), vec![7; 100].into()).unwrap();
    let error = gc(&world.repository(), &patient()).unwrap_err().to_string();
    assert!(error.contains("wherry repair"), "{error}");
    world.clock.advance(Duration::from_secs(7200));
    let ended: Vec<_> =
        world.repository().end_lost_sessions().unwrap().iter().map(|lost| (lost.id, lost.ended)).collect();
    assert!(ended.len() == 2 && ended.contains(&(writer.id(), true)) && ended.contains(&(early, true)), "{ended:?}");
    let fences = |id: wherry_repo::SessionId| -> Vec<Key> {
        let own = id.to_string();
        keys_of(&*world.storage)
            .into_iter()
            .filter(|key| key.as_str().starts_with("snap/") && key.as_str().contains(&own))
            .collect()
    };
    assert_eq!((fences(writer.id()).len(), fences(early)), (1, Vec::new()));
    assert!(!fences(writer.id())[0].as_str().contains(&other.volume.to_string()), "that is the other volume");
    drop(writer);
    gc(&world.repository(), &patient()).unwrap();
    world.verify("one of them had no packs");
}

#[test]
fn a_node_that_is_damaged_in_its_place_is_walked_where_it_is_intact() {
    let mut world = World::new();
    let bytes = disk(&(0..300).map(|n| n % 40).collect::<Vec<_>>());
    let first = world.backup("a", &bytes);
    let second = world.backup("b", &bytes);
    let third = world.backup("c", &disk(&[900]));
    world.forget(&third.id);
    let nodes = |of: &Snapshot| -> Vec<Key> {
        let packs = world.packs().into_iter().filter(|pack| pack.kind == PackKind::Meta && pack.session == of.id);
        packs.map(|pack| keys::pack(&pack)).collect()
    };
    let [key] = &nodes(&first)[..] else { panic!("several packs of nodes") };
    // All of them, but not the index of the pack.
    let mut body = world.storage.get(key).unwrap().to_vec();
    let whole = body.clone();
    body[64..164].iter_mut().for_each(|byte| *byte ^= 1);
    world.storage.overwrite(key, body.into()).unwrap();
    assert!(restore(&world.repository(), &first).unwrap() == bytes, "readers find it in the other one");
    let collected = gc(&world.repository(), &patient()).unwrap();
    assert!(collected.swept.packs > 0, "{collected:?}");
    // It is needed for the first one, when the second one has gone.
    world.forget(&second.id);
    for _ in 0..3 {
        gc(&world.repository(), &patient()).unwrap();
        assert!(restore(&world.repository(), &first).unwrap() == bytes);
    }
    // Cut off, it is the same.
    world.storage.overwrite(key, whole[..100].to_vec().into()).unwrap();
    gc(&world.repository(), &patient()).unwrap();
    assert!(restore(&world.repository(), &first).unwrap() == bytes);
}

#[test]
fn a_thin_pack_that_does_not_open_stays_with_all_that_may_have_the_same() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    let mut chunks: Vec<u64> = (100..116).collect();
    (chunks[3], chunks[11]) = (3, 11);
    let bytes = disk(&chunks);
    let second = world.backup("vm", &bytes);
    world.forget(&first.id);
    // The same chunk stands in a pack that nobody needs.
    let copy = world.backup("copy", &disk(&[3]));
    world.forget(&copy.id);
    let data: Vec<_> = world.packs().into_iter().filter(|pack| pack.kind == PackKind::Data).collect();
    let damaged = data.iter().filter(|pack| pack.session == first.id).min_by_key(|pack| pack.seq).unwrap();
    let mut body = world.storage.get(&keys::pack(damaged)).unwrap().to_vec();
    body[64..64 + 8 * UNIT].iter_mut().for_each(|byte| *byte ^= 1);
    world.storage.overwrite(&keys::pack(damaged), body.into()).unwrap();
    let collected = gc(&world.repository(), &patient()).unwrap();
    assert_eq!((collected.thin.packs, collected.copied.packs), (1, 1), "the other one is copied: {collected:?}");
    let there = world.packs();
    assert!(there.contains(damaged) && there.iter().any(|pack| pack.session == copy.id), "{there:?}");
    assert!(restore(&world.repository(), &second).unwrap() == bytes);
    for _ in 0..2 {
        gc(&world.repository(), &patient()).unwrap();
        assert!(restore(&world.repository(), &second).unwrap() == bytes);
    }
}

/// Of three copies of a chunk two are damaged, and the intact one is in a pack that nobody refers to and that the table by id has
/// no room for.
#[test]
fn the_only_intact_copy_stays_also_where_memory_is_too_little_to_know_of_it() {
    const CHUNKS: u64 = 24;
    let mut world = World::new();
    let bytes = disk(&(0..CHUNKS).collect::<Vec<_>>());
    let big = |name: &str| WriterOptions { pack_size: 32 * UNIT, ..options(name) };
    let mut made: Vec<Snapshot> = ["a", "b", "c"]
        .map(|name| {
            world.clock.advance(Duration::from_secs(60));
            backup_with(&world.repository(), index(), &big(name), &bytes).unwrap()
        })
        .into();
    // Segments, and so the rows of the table, are read in the order of their names.
    made.sort_unstable_by_key(|snapshot| snapshot.id);
    let (known, intact) = (made.remove(0), made.pop().unwrap());
    let kept = made.remove(0);
    world.disks.insert(kept.id, bytes);
    let pack_of = |snapshot: &Snapshot| {
        let packs: Vec<_> = world.packs().into_iter().filter(|pack| pack.session == snapshot.id).collect();
        assert_eq!(packs.len(), 1, "all in one");
        keys::pack(&packs[0])
    };
    for snapshot in [&known, &kept] {
        let key = pack_of(snapshot);
        let mut body = world.storage.get(&key).unwrap().to_vec();
        body[64 + 7 * UNIT] ^= 1;
        world.storage.overwrite(&key, body.into()).unwrap();
    }
    let options = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
    let report = world.repository().check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(report.damages.len() == 2 && report.damages.iter().all(|damage| damage.hits.is_empty()), "{report:?}");
    let there = pack_of(&intact);
    for snapshot in [&known, &intact] {
        world.forget(&snapshot.id);
    }
    // A pack takes as much as six rows of 16 bytes, in half of the half of the memory: room for one.
    let options = CollectOptions { memory: 64 * (CHUNKS + 6), ..now() };
    for _ in 0..2 {
        gc(&world.repository(), &options).unwrap();
        assert!(world.storage.get(&there).is_ok(), "the intact copy was swept");
    }
    let restored = restore(&world.repository(), &kept).unwrap();
    assert!(restored == world.disks[&kept.id]);
}

/// Likewise where it cannot be told which one is intact, as the index of the pack that has it cannot be read for now.
#[test]
fn the_only_intact_copy_stays_also_where_its_index_cannot_be_read() {
    let mut world = World::new();
    let bytes = disk(&[1, 2, 3]);
    let [kept, intact] = ["a", "b"].map(|name| {
        world.clock.advance(Duration::from_secs(60));
        backup_with(&world.repository(), index(), &wide(name), &bytes).unwrap()
    });
    world.disks.insert(kept.id, bytes);
    let data = |of: &Snapshot| {
        let mut keys = world.packs().into_iter().filter(|pack| pack.session == of.id).map(|pack| keys::pack(&pack));
        keys.find(|key| key.as_str().starts_with(keys::PACKS)).unwrap()
    };
    let (damaged, there) = (data(&kept), data(&intact));
    let mut body = world.storage.get(&damaged).unwrap().to_vec();
    body[64 + 7] ^= 1;
    world.storage.overwrite(&damaged, body.into()).unwrap();
    let options = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
    assert_eq!(world.repository().check(&options, &|_, _, _| Ok(())).unwrap().damages.len(), 1);
    world.forget(&intact.id);
    let storage = Meddling::new(world.storage.clone(), true);
    let unread = there.clone();
    storage.meddle(move |call, name| match call == Call::Read && name == unread.as_str() {
        true => Fate::Fails(unavailable()),
        false => Fate::Done,
    });
    for _ in 0..2 {
        gc(&world.over(storage.clone()), &now()).unwrap();
        assert!(world.storage.get(&there).is_ok(), "the intact copy was swept");
    }
    gc(&world.repository(), &now()).unwrap();
    assert!(restore(&world.repository(), &kept).unwrap() == world.disks[&kept.id]);
}

/// Of a snapshot that is gone for good, or was brought back, nobody can tell any more which of both it is.
#[test]
fn a_verdict_that_cannot_be_read_has_a_way_out() {
    for gone in [true, false] {
        let mut world = World::new();
        world.backup("other", &disk(&[700]));
        let id = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>())).id;
        world.forget(&id);
        if gone {
            // The newest of its volume: its record stays, as a witness, and its packs go.
            assert!(world.gc().swept.packs > 0);
        } else {
            assert!(world.repository().unforget(&id).unwrap());
        }
        let settled = keys::forget(&id, 0, true);
        spoil(&world, &settled);
        let repository = world.repository();
        let hidden = |repository: &Repository| !repository.snapshots(None).unwrap().is_visible(&id);
        assert!(hidden(&repository), "it may be gone: it must not look whole");
        let error = repository.unforget(&id).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Corrupt && error.to_string().contains(&format!("wherry forget {id}")),
            "{error}"
        );
        let report = repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
        let damage = report.damages.iter().find(|damage| damage.object == settled).expect("the record is named");
        assert!(
            damage.advice().contains("wherry forget") && !damage.advice().contains("nothing is lost"),
            "{damage:?}"
        );
        // Without effects and with them it is the same: it is kept as far as it is there.
        for dry_run in [true, false] {
            let collected = gc(&world.repository(), &CollectOptions { dry_run, ..now() });
            match gone {
                true => assert_eq!(collected.unwrap_err().kind(), ErrorKind::Corrupt, "dry run: {dry_run}"),
                false => assert_eq!(collected.unwrap().condemned.packs, 0, "dry run: {dry_run}"),
            }
        }
        // Given up: once more, and the verdict of that one can be read. Sooner, too, and nobody sees it in between.
        assert!(repository.forget(&id, Duration::from_secs(3600), "given up").unwrap());
        assert!(!repository.forget(&id, Duration::ZERO, "given up").unwrap(), "it is asked for already");
        assert!(repository.forget_sooner(&id, Duration::ZERO, "given up").unwrap());
        let collected = gc(&world.repository(), &now()).unwrap();
        assert_eq!((collected.settled, collected.swept.packs > 0), (1, !gone), "{collected:?}");
        assert!(hidden(&world.repository()));
        assert_eq!(world.repository().unforget(&id).unwrap_err().kind(), ErrorKind::Conflict, "it is too late");
        world.verify("a verdict was damaged");
        world.verify_lean("a verdict was damaged");
    }
}

/// What the earlier one said may have been Final, whatever a later one says.
#[test]
fn a_verdict_that_cannot_be_read_counts_beside_a_later_one() {
    let mut world = World::new();
    world.backup("other", &disk(&[700]));
    let id = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>())).id;
    let repository = world.repository();
    for _ in 0..2 {
        assert!(repository.forget(&id, Duration::from_secs(3600), "test").unwrap());
        assert!(repository.unforget(&id).unwrap());
    }
    spoil(&world, &keys::forget(&id, 0, true));
    assert!(!world.repository().snapshots(None).unwrap().is_visible(&id), "it may be gone: it must not look whole");
    assert_eq!(world.repository().unforget(&id).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(world.gc().condemned.packs, 0);
    world.forget(&id);
    let collected = world.gc();
    assert!(collected.settled == 1 && collected.swept.packs > 0, "{collected:?}");
    world.verify("an earlier verdict was damaged");
    world.verify_lean("an earlier verdict was damaged");
}

/// Who was fenced between its last heartbeat and its commit must lose also when the Fence has become unreadable and was given up.
#[test]
fn a_damaged_fence_that_is_given_up_keeps_its_key() {
    let mut world = World::new();
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("vm")).unwrap();
    put_all(&writer, &disk(&[1, 2, 3])).unwrap();
    world.gc();
    let own = writer.id().to_string();
    let fence = |world: &World| -> Option<Key> {
        let is_own = |key: &Key| key.as_str().starts_with("snap/") && key.as_str().contains(&own);
        keys_of(&*world.storage).into_iter().find(is_own)
    };
    let key = fence(&world).expect("it was fenced");
    spoil(&world, &key);
    let error = gc(&world.repository(), &now()).unwrap_err().to_string();
    assert!(error.contains(&format!("wherry forget {own}")), "{error}");
    world.repository().forget(&writer.id(), Duration::ZERO, "given up").unwrap();
    // Long after it, another one of the volume.
    world.clock.advance(Duration::from_secs(3600));
    world.backup("vm", &disk(&[4, 5]));
    for _ in 0..3 {
        world.gc();
        assert_eq!(fence(&world).as_ref(), Some(&key), "its commit would find the key free");
    }
    writer.commit(CommitInfo { size: 3 * UNIT as u64, ..CommitInfo::default() }).unwrap_err();
    world.verify("a Fence was damaged");
}

#[test]
fn lost_data_names_the_snapshot_that_needs_it_and_the_ways_out() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    world.backup("other", &disk(&(100..116).collect::<Vec<_>>()));
    let is_lost = |pack: &&wherry_repo::PackId| pack.session == first.id && pack.kind == PackKind::Data;
    let lost = world.packs().iter().find(is_lost).map(keys::pack).unwrap();
    world.storage.delete(&lost).unwrap();
    let error = gc(&world.repository(), &now()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let error = error.to_string();
    for part in [lost.as_str(), &format!("snapshot {} of volume \"vm\"", first.id), "wherry repair --from"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(error.contains(&format!("wherry forget {}", first.id)), "{error}");
    let report = world.repository().check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
    assert!(report.damages.iter().any(|damage| damage.advice().contains("`wherry gc` deletes nothing")), "{report:?}");
    // Given up, and still read: nobody can do more about that than to end the reader.
    let reading = ReadSession::open(&world.repository(), &first).unwrap();
    world.forget(&first.id);
    let error = gc(&world.repository(), &patient()).unwrap_err().to_string();
    assert!(
        error.contains(lost.as_str()) && error.contains("gone for good") && error.contains("end that session"),
        "{error}"
    );
    drop(reading);
    assert!(world.gc().swept.packs > 0);
    world.verify("what was lost is given up");
}

/// No collector has seen it, but what was built upon it names it.
#[test]
fn the_record_of_what_another_was_built_upon_is_missed() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&[1, 2, 3]));
    let second = world.backup("vm", &disk(&[1, 2, 4]));
    assert_eq!(second.record.parent, Some(first.id));
    let check = |world: &World| world.repository().check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap().damages;
    assert_eq!(check(&world), []);
    let key = keys::snap(&first.volume, &first.id);
    let record = world.storage.get(&key).unwrap();
    world.storage.delete(&key).unwrap();
    for _ in 0..2 {
        let [damage] = &check(&world)[..] else { panic!("{:?}", check(&world)) };
        assert!(damage.kind == DamageKind::Gone && damage.object == key, "{damage:?}");
        let error = gc(&world.repository(), &now()).unwrap_err().to_string();
        assert!(error.contains(&format!("wherry forget {}", first.id)), "{error}");
    }
    assert!(world.repository().is_missed(&first.id).unwrap() && !world.repository().is_missed(&second.id).unwrap());
    let given_up = world.copy();
    assert!(given_up.repository().forget(&first.id, Duration::ZERO, "test").unwrap());
    given_up.gc();
    assert_eq!(check(&given_up), []);
    // The collector took its session for one that was left.
    world.storage.overwrite(&key, record).unwrap();
    assert_eq!(check(&world), []);
    // Forgotten and collected, it is missed by nobody.
    world.forget(&first.id);
    world.gc();
    world.gc();
    assert!(world.storage.get(&key).is_err());
    assert_eq!(check(&world), []);
}

/// A record that the storage has lost leaves no trace but that a collector once saw it; a snapshot that went by a forget is missed by nobody.
#[test]
fn a_snapshot_record_that_went_without_a_forget_is_missed_by_a_check() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&[1, 2, 3]));
    let second = world.backup("vm", &disk(&[4, 5, 6]));
    let other = world.backup("other", &disk(&[7]));
    world.forget(&first.id);
    world.gc();
    let check = |world: &World| world.repository().check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap().damages;
    assert_eq!(check(&world), []);
    let key = keys::snap(&second.volume, &second.id);
    let record = world.storage.get(&key).unwrap();
    world.storage.delete(&key).unwrap();
    let [damage] = &check(&world)[..] else { panic!("{:?}", check(&world)) };
    assert!(damage.kind == DamageKind::Gone && damage.what.contains(&second.id.to_string()), "{damage:?}");
    assert!(world.repository().is_missed(&second.id).unwrap());
    for other in [&first.id, &other.id] {
        assert!(!world.repository().is_missed(other).unwrap(), "it is gone by a forget, or there");
    }
    // It may come back: nothing of it goes before somebody gives it up. Nor does a Fence say more, which who looks for sessions
    // that were left puts where the record was.
    world.forget(&other.id);
    world.clock.advance(Duration::from_secs(86_400));
    let packs = world.packs();
    for fenced in [false, true] {
        let world = world.copy();
        if fenced {
            assert!(world.repository().end_session(second.volume, second.id, "it was left").unwrap());
        }
        for dry_run in [true, false] {
            let error = gc(&world.repository(), &CollectOptions { dry_run, ..now() }).unwrap_err();
            let text = error.to_string();
            assert!(
                error.kind() == ErrorKind::Corrupt && text.contains(&format!("wherry forget {}", second.id)),
                "{text}"
            );
        }
        assert_eq!((world.packs(), check(&world)[0].kind), (packs.clone(), DamageKind::Gone), "fenced: {fenced}");
        assert!(world.repository().is_missed(&second.id).unwrap());
    }
    // Given up, nobody misses it.
    let given_up = world.copy();
    assert!(given_up.repository().forget(&second.id, Duration::ZERO, "test").unwrap());
    assert_eq!(check(&given_up), []);
    given_up.gc();
    assert_eq!(check(&given_up), []);
    world.storage.create(&key, record).unwrap();
    assert_eq!(check(&world), []);
    // Final, and its record is taken: the list names it still.
    world.backup("other", &disk(&[8]));
    world.gc();
    world.gc();
    assert_eq!(check(&world), []);
}

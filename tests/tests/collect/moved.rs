//! What a collector copied: maps keep naming the old place, and everything that reads finds it by its id.

use super::*;
use wherry_repo::{Error, ErrorKind, Key, ReadSession, SnapshotWriter};
use wherry_tests::meddling::{Call, Fate, Meddling};

/// A snapshot of which two chunks in sixteen are in packs of a forgotten one.
fn world() -> (World, Snapshot, Vec<u8>) {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    let mut chunks: Vec<u64> = (100..116).collect();
    (chunks[3], chunks[11]) = (3, 11);
    let bytes = disk(&chunks);
    let second = world.backup("vm", &bytes);
    assert_eq!(second.record.stats.unchanged, 2 * UNIT as u64);
    world.forget(&first.id);
    (world, second, bytes)
}

#[test]
fn what_was_copied_is_read_built_upon_and_copied_again() {
    let (mut world, second, bytes) = world();
    let repository = world.repository();
    let report = gc(&repository, &now()).unwrap();
    assert_eq!((report.copied.packs, report.thin.packs), (2, 2), "{report:?}");
    assert_eq!(report.swept.packs, report.thin.packs + report.condemned.packs);
    world.verify("copied");
    // A repository that was open before finds it too.
    assert!(restore(&repository, &second).unwrap() == bytes);
    world.verify_lean("copied");

    // A backup on top: what moved is stored once more, and hints lead to it.
    let mut more = bytes.clone();
    more[..UNIT].copy_from_slice(&noise(999, UNIT));
    let third = world.backup("vm", &more);
    assert_eq!((third.record.parent, third.record.stats.new), (Some(second.id), 3 * UNIT as u64));
    let next = world.backup("vm", &more);
    assert_eq!((next.record.stats.unchanged, next.record.stats.new), (16 * UNIT as u64, 0));
    // Then the copy serves nobody any more, although the second one still names the old place.
    let report = world.gc();
    assert_eq!((report.condemned.packs, report.copied.packs), (1, 0), "{report:?}");
    world.verify("stored once more");
    world.verify_lean("stored once more");
    let all: Vec<_> = world.disks.keys().copied().filter(|id| *id != second.id).collect();
    for id in all {
        world.forget(&id);
    }
    world.verify("the newer ones are forgotten");
    // The pack of three chunks, of which the second one needs two, is not thin; so nothing is copied.
    world.gc();
    world.verify("the newer ones are gone");
    world.verify_lean("the newer ones are gone");
}

/// Who was there before the keys were rotated knows the old epoch alone, and goes on reading what a later collector copied.
#[test]
fn a_copy_has_the_key_epoch_of_what_is_in_it() {
    let (world, second, bytes) = world();
    let before = world.repository();
    assert_eq!(world.repository().rotate(&[]).unwrap().epoch, 1);
    assert_eq!(gc(&world.repository(), &now()).unwrap().copied.packs, 2);
    assert!(restore(&before, &second).unwrap() == bytes);
    world.verify("copied after a rotation");
}

/// Chunks of many packs end in one copy, of which later little is needed. A copy of a copy is still sealed for where it was
/// first.
#[test]
fn a_thin_pack_of_copies_is_copied_with_its_first_origins() {
    let mut world = World::new();
    let mut old = Vec::new();
    for volume in 0..8 {
        old.push(world.backup(&format!("vm{volume}"), &disk(&(volume * 8..volume * 8 + 8).collect::<Vec<_>>())));
    }
    // One chunk of each.
    let index = index();
    index.synchronise(&world.repository(), true).unwrap();
    let chosen: Vec<u64> = (0..8).map(|volume| volume * 8).collect();
    let all = disk(&chosen);
    let eight = backup_with(&world.repository(), index.clone(), &wide("eight"), &all).unwrap();
    assert_eq!(eight.record.stats.new, 0);
    world.disks.insert(eight.id, all);
    let some = disk(&chosen[..1]);
    let single = backup_with(&world.repository(), index, &wide("one"), &some).unwrap();
    world.disks.insert(single.id, some);
    old.iter().for_each(|snapshot| world.forget(&snapshot.id));
    let large = CollectOptions { pack_size: 1 << 20, ..now() };
    let report = gc(&world.repository(), &large).unwrap();
    assert_eq!((report.copied.packs, report.thin.packs), (8, 8), "{report:?}");
    world.verify("copied");
    world.forget(&eight.id);
    let report = world.gc();
    assert_eq!((report.copied.packs, report.thin.packs), (1, 1), "{report:?}");
    world.verify("copied again");
    world.verify_lean("copied again");
}

/// An index on a disk, or one that is made from segments and trailers, may say what it likes.
#[test]
fn neither_an_old_index_nor_a_new_one_leads_astray() {
    for knows in [true, false] {
        let (mut world, _, bytes) = world();
        let kept = index();
        kept.synchronise(&world.repository(), true).unwrap();
        world.gc();
        let index = if knows { kept } else { index() };
        index.synchronise(&world.repository(), true).unwrap();
        for name in ["vm", "new"] {
            let snapshot = backup_with(&world.repository(), index.clone(), &wide(name), &bytes).unwrap();
            world.disks.insert(snapshot.id, bytes.clone());
        }
        world.verify("backed up again");
        world.verify_lean("backed up again");
    }
}

/// What does not open is not copied, and its pack stays. Where a part of the pack is not there at all nothing is condemned, and it
/// is named.
#[test]
fn what_is_damaged_is_not_copied() {
    for cut in [false, true] {
        let (world, second, _) = world();
        let thin = world.packs().into_iter().filter(|pack| pack.session != second.id);
        let key = thin.map(|pack| keys::pack(&pack)).find(|key| key.as_str().starts_with("packs/")).unwrap();
        let mut bytes = world.storage.get(&key).unwrap().to_vec();
        if cut {
            bytes.truncate(100);
        } else {
            bytes[64..64 + 8 * UNIT].iter_mut().for_each(|byte| *byte ^= 1);
        }
        world.storage.overwrite(&key, bytes.into()).unwrap();
        let before = world.packs().len();
        if !cut {
            let collected = gc(&world.repository(), &now()).unwrap();
            assert_eq!(collected.thin.packs, 1, "the other one: {collected:?}");
            assert!(world.storage.get(&key).is_ok());
            continue;
        }
        let error = gc(&world.repository(), &now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(key.as_str()), "{key} is not in {error}");
        assert!(world.packs().len() >= before, "nothing was deleted");
        assert!(!keys_of(&*world.storage).iter().any(|key| key.as_str().starts_with("gc/gen/")));
    }
}

/// Which volume a session writes and what it builds on is not known when its first note is lost: it may need anything.
#[test]
fn a_session_without_its_first_note_keeps_everything() {
    let (world, _, bytes) = world();
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("vm")).unwrap();
    put_all(&writer, &bytes).unwrap();
    let open = keys::session(&writer.id(), "open");
    world.storage.delete(&open).unwrap();
    let error =
        gc(&world.repository(), &CollectOptions { fence_after: Duration::from_secs(7200), ..now() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(open.as_str()), "{error}");
}

/// A run that is under way when its hits are copied is waited for, and its hits are there.
#[test]
fn hits_of_a_run_in_what_is_copied() {
    let (mut world, _, bytes) = world();
    let index = index();
    index.synchronise(&world.repository(), true).unwrap();
    let writer = SnapshotWriter::start(&world.repository(), index, &wide("late")).unwrap();
    put_all(&writer, &bytes).unwrap();
    let options = CollectOptions { fence_after: Duration::from_secs(7200), ..now() };
    let report = gc(&world.repository(), &options).unwrap();
    assert_eq!((report.waiting.len(), report.sealed), (1, false));
    // It refers to what is condemned: it is told when it looks.
    let lost = writer.commit(wherry_repo::CommitInfo { size: bytes.len() as u64, ..Default::default() }).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Conflict);
    let again = backup_with(&world.repository(), self::index(), &wide("late"), &bytes).unwrap();
    world.disks.insert(again.id, bytes);
    assert!(gc(&world.repository(), &options).unwrap().sealed);
    world.verify("it ran again");
    world.verify_lean("it ran again");
}

/// G11: a copy that is gone again before its list is sealed. What is then the last copy stays, although it was moved.
#[test]
fn what_was_moved_stays_when_its_copy_is_lost() {
    let mut world = World::new();
    let forgotten = world.backup("a", &disk(&(0..8).collect::<Vec<_>>()));
    // The same chunk in a pack of its own.
    let bytes = disk(&[3]);
    let parent = world.backup("b", &bytes);
    world.forget(&forgotten.id);
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("b")).unwrap();
    put_all(&writer, &bytes).unwrap();
    let data = |pack: &PackId| keys::pack(pack).as_str().starts_with("packs/");
    let before = world.packs();
    for pack in before.iter().filter(|pack| pack.session == parent.id && data(pack)) {
        world.storage.delete(&keys::pack(pack)).unwrap();
    }
    let options = CollectOptions { fence_after: Duration::from_secs(7200), ..now() };
    let report = gc(&world.repository(), &options).unwrap();
    assert_eq!((report.copied.packs, report.sealed), (1, false), "{report:?}");
    let copies: Vec<_> = world.packs().into_iter().filter(|pack| !before.contains(pack) && data(pack)).collect();
    assert_eq!(copies.len(), 1);
    world.storage.delete(&keys::pack(&copies[0])).unwrap();
    let size = bytes.len() as u64;
    let made = writer.commit(wherry_repo::CommitInfo { size, ..Default::default() }).unwrap();
    assert_eq!(made.record.stats.unchanged, size);
    world.disks.insert(made.id, bytes);
    let report = gc(&world.repository(), &options).unwrap();
    assert!(report.rescued > 0, "{report:?}");
    world.verify("rescued");
    world.verify_lean("rescued");
}

/// Of what is in two places, the one that the newest snapshots name is to stay: they are marked first, each to its end, also
/// when nodes have to be opened for it.
#[test]
fn the_newest_are_marked_first_each_to_its_end() {
    let mut world = World::new();
    let mut made: Vec<SnapshotId> = Vec::new();
    for volume in 0..8u64 {
        made.push(
            world.backup(&format!("vm{volume}"), &disk(&(0..200).map(|n| volume * 8 + n % 8).collect::<Vec<_>>())).id,
        );
    }
    let storage = Meddling::new(world.storage.clone(), false);
    let repository = world.over(storage.clone());
    let read = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let reads = read.clone();
    storage.meddle(move |call, name| {
        if call == Call::Read && name.starts_with("meta/") {
            reads.lock().extend(Key::new(name).ok().and_then(|key| keys::parse_pack(&key)).map(|pack| pack.session));
        }
        Fate::Done
    });
    gc(&repository, &CollectOptions { dry_run: true, threads: 1, ..now() }).unwrap();
    let mut read = read.lock().clone();
    read.dedup();
    made.reverse();
    assert_eq!(read, made);
}

/// Where there is no room for copies, what nobody refers to goes all the same.
#[test]
fn a_storage_that_is_full_is_collected_without_copies() {
    let (mut world, _, _) = world();
    let other = world.backup("other", &disk(&(300..320).collect::<Vec<_>>()));
    world.forget(&other.id);
    for room in [0, 1] {
        let copy = world.copy();
        let storage = Meddling::new(copy.storage.clone(), false);
        let mut left = room;
        storage.meddle(move |call, name| {
            if call != Call::Write || !name.starts_with("packs/") {
                return Fate::Done;
            }
            if left == 0 {
                return Fate::Fails(Error::new(ErrorKind::Full, "no room"));
            }
            left -= 1;
            Fate::Done
        });
        // A pack holds one chunk: the first copy has room.
        let options = CollectOptions { pack_size: UNIT, ..now() };
        let report = gc(&copy.over(storage), &options).unwrap();
        assert_eq!((report.thin.packs, report.copied.packs), (0, 0), "{report:?}");
        assert!(report.condemned.packs > 2 && report.swept == report.condemned, "{report:?}");
        copy.verify("full");
        assert!(copy.gc().copied.packs > 0);
        copy.verify("there is room");
        copy.verify_lean("there is room");
    }
}

/// A reader that came when all was over, and died before it knew. Its note says that it needs what is swept.
#[test]
fn the_note_of_a_reader_that_came_too_late_blocks_nothing() {
    let mut world = World::new();
    // A map of two levels, so that nodes are missing, and one without, so that chunks are.
    let large = world.backup("large", &disk(&(0..200).map(|n| n % 40).collect::<Vec<_>>()));
    let small = world.backup("small", &disk(&[500, 501]));
    let kept = world.backup("kept", &disk(&[1]));
    world.forget(&large.id);
    world.forget(&small.id);
    assert!(world.gc().swept.packs > 3);
    let storage = Meddling::new(world.storage.clone(), false);
    storage.meddle(|call, name| match call {
        Call::Delete if name.starts_with("sess/") => Fate::Fails(Error::new(ErrorKind::Denied, "no")),
        _ => Fate::Done,
    });
    let repository = world.over(storage);
    for snapshot in [&large, &small] {
        assert_eq!(ReadSession::open(&repository, snapshot).unwrap_err().kind(), ErrorKind::NoSnapshot);
    }
    let notes = |world: &World| keys_of(&*world.storage).iter().filter(|key| key.as_str().starts_with("sess/")).count();
    let before = notes(&world);
    assert!(before >= 2);
    world.forget(&kept.id);
    assert!(world.gc().swept.packs > 0);
    world.verify("a note of a reader is left");
    // Of a snapshot that is kept nothing may be missing.
    let whole = world.backup("whole", &disk(&[7]));
    let pack = world.packs().into_iter().find(|pack| pack.session == whole.id).unwrap();
    world.storage.delete(&keys::pack(&pack)).unwrap();
    assert_eq!(gc(&world.repository(), &now()).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A refused reader takes its note away, also at the second try.
#[test]
fn a_refused_reader_leaves_no_note() {
    let (world, snapshot) = {
        let mut world = World::new();
        let snapshot = world.backup("vm", &disk(&[1]));
        world.forget(&snapshot.id);
        world.gc();
        (world, snapshot)
    };
    let storage = Meddling::new(world.storage.clone(), false);
    let mut failed = false;
    storage.meddle(move |call, name| {
        if call == Call::Delete && name.starts_with("sess/") && !std::mem::replace(&mut failed, true) {
            return Fate::Fails(Error::new(ErrorKind::Denied, "no"));
        }
        Fate::Done
    });
    let before = keys_of(&*world.storage);
    assert_eq!(ReadSession::open(&world.over(storage), &snapshot).unwrap_err().kind(), ErrorKind::NoSnapshot);
    assert_eq!(keys_of(&*world.storage), before);
}

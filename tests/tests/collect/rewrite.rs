//! `--rewrite`: what is stored under older key epochs is sealed anew, by the protocol of copies.

use super::*;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use wherry_repo::{CheckOptions, CheckStep, ErrorKind, ReadSession, SnapshotReader, SnapshotWriter};
use wherry_tests::meddling::{Fate, Meddling};
use wherry_tests::recording::{CUTS, Cut, Cutting};

fn anew() -> CollectOptions {
    CollectOptions { rewrite: true, ..now() }
}

/// The key epochs in the headers of all packs, of chunks and of nodes.
fn epochs(storage: &dyn Storage) -> BTreeSet<(bool, u32)> {
    let packs = keys_of(storage).into_iter().filter_map(|key| Some((keys::parse_pack(&key)?, key)));
    let epoch = |bytes: &[u8]| u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let of = |key: &wherry_repo::Key| epoch(&storage.get_range(key, 0..12).unwrap());
    packs.map(|(pack, key)| (pack.kind == wherry_repo::PackKind::Meta, of(&key))).collect()
}

/// A disk with leaves of its map in packs of nodes, another one that shares some of it, garbage, and a rotation of keys.
fn world(chunks: u64) -> (World, Repository, Vec<u8>) {
    let mut world = World::new();
    let all = disk(&(0..chunks).collect::<Vec<_>>());
    world.backup("vm", &all);
    let index = index();
    index.synchronise(&world.repository(), true).unwrap();
    let shared = disk(&[3, 700, chunks - 1]);
    let other = backup_with(&world.repository(), index, &wide("other"), &shared).unwrap();
    world.disks.insert(other.id, shared);
    let gone = world.backup("gone", &disk(&(900..905).collect::<Vec<_>>()));
    world.forget(&gone.id);
    let before = world.repository();
    assert_eq!(world.repository().rotate(&[]).unwrap().epoch, 1);
    world.clock.advance(Duration::from_secs(60));
    (world, before, all)
}

#[test]
fn afterwards_nothing_is_sealed_under_the_old_key() {
    let (mut world, before, all) = world(140);
    let snapshot = world.disks.iter().find(|(_, disk)| **disk == all).map(|(id, _)| *id).unwrap();
    let list = before.snapshots(None).unwrap().snapshots;
    let snapshot = list.into_iter().find(|s| s.id == snapshot).unwrap();
    // A reader from before the rotation, in the middle of what it reads.
    let session = Arc::new(ReadSession::open(&before, &snapshot).unwrap());
    let reader = SnapshotReader::within(session.clone()).unwrap();
    assert!(reader.chunk(1).unwrap().is_some());
    assert_eq!(epochs(&*world.storage), [(false, 0), (true, 0)].into());

    let there = keys_of(&*world.storage);
    let plan = gc(&world.repository(), &CollectOptions { dry_run: true, ..anew() }).unwrap();
    assert_eq!(keys_of(&*world.storage), there);
    assert_eq!((plan.rewritten, plan.resealed.packs), (plan.old, 140 + 1 + 2), "{plan:?}");
    let nothing = gc(&world.repository(), &CollectOptions { dry_run: true, ..now() }).unwrap();
    assert_eq!((nothing.old.packs, nothing.rewritten.packs), (0, 0), "nobody asked");

    let done = gc(&world.repository(), &anew()).unwrap();
    assert_eq!((done.rewritten, done.resealed), (plan.rewritten, plan.resealed));
    assert_eq!(done.swept.packs, done.rewritten.packs + done.condemned.packs);
    assert_eq!(epochs(&*world.storage), [(false, 1), (true, 1)].into());
    world.verify("sealed anew");
    assert!(read_whole(&reader, || session.beat()).unwrap() == all, "a reader under way is hurt");
    drop((reader, session));
    let again = gc(&world.repository(), &anew()).unwrap();
    assert_eq!((again.old.packs, again.generation, again.all), (0, None, again.live), "{again:?}");

    // The next backup reads all, and stores none of it again: segments say where it is.
    let index = index();
    assert_eq!(index.synchronise(&world.repository(), true).unwrap().packs, 0);
    let next = backup_with(&world.repository(), index, &wide("vm"), &all).unwrap();
    assert_eq!((next.record.stats.new, next.record.stats.known), (0, all.len() as u64));
    world.disks.insert(next.id, all);
    world.verify("built upon");
    world.verify_lean("built upon");
    assert_eq!(world.repository().rotate(&[]).unwrap().epoch, 2);
    gc(&world.repository(), &anew()).unwrap();
    assert_eq!(epochs(&*world.storage), [(false, 2), (true, 2)].into());
    world.verify("sealed anew twice");
    world.verify_lean("sealed anew twice");
}

/// Each run seals a part, and says what is left.
#[test]
fn one_run_goes_on_where_another_has_ended() {
    let (world, _, _) = world(40);
    let mut left = u64::MAX;
    for run in 1.. {
        let few = CollectOptions { rewrite_most: 17 * UNIT as u64, ..anew() };
        let plan = gc(&world.repository(), &CollectOptions { dry_run: true, ..few.clone() }).unwrap();
        let report = gc(&world.repository(), &few).unwrap();
        assert_eq!(plan.rewritten, report.rewritten, "run {run}");
        world.verify(&format!("run {run}"));
        let now_left = report.old.packs - report.rewritten.packs;
        if report.old.packs == 0 {
            assert!(run > 3, "{run} runs");
            break;
        }
        assert!(now_left < left && report.resealed.bytes <= few.rewrite_most, "{report:?}");
        left = now_left;
    }
    assert_eq!(epochs(&*world.storage), [(false, 1)].into());
    world.verify_lean("in parts");
}

#[test]
fn cut_off_anywhere_it_leaves_nothing_and_loses_nothing() {
    let (first, _, _) = world(20);
    let whole = first.copy();
    let counting = Arc::new(Cutting::new(whole.storage.clone(), 0, Cut::NotApplied));
    assert!(gc(&whole.over(counting.clone()), &anew()).unwrap().rewritten.packs >= 3);
    let total = counting.mutations();
    assert!(total > 12, "{total}");
    for at in 1..=total {
        for how in CUTS {
            let what = format!("cut at {at} of {total}, {how:?}");
            let world = first.copy();
            let cut = Arc::new(Cutting::new(world.storage.clone(), at, how));
            if let Err(e) = gc(&world.over(cut), &anew()) {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{what}: {e}");
            }
            world.verify(&what);
            gc(&world.repository(), &anew()).unwrap();
            world.verify_lean(&what);
            world.verify(&format!("{what}, then another"));
            assert_eq!(epochs(&*world.storage), [(false, 1)].into(), "{what}");
        }
    }
}

/// A reader that begins, and a backup that hits what is moved and commits, at each call of it.
#[test]
fn whoever_reads_or_writes_meanwhile_is_not_hurt() {
    let (first, _, all) = world(20);
    let mut committed = 0;
    for at in (1..).step_by(2) {
        let mut world = first.copy();
        let before = world.repository();
        let list = before.snapshots(None).unwrap().snapshots;
        let snapshot = list.into_iter().find(|s| world.disks.get(&s.id) == Some(&all)).unwrap();
        let index = index();
        index.synchronise(&before, true).unwrap();
        let writer = SnapshotWriter::start(&before, index, &wide("new")).unwrap();
        put_all(&writer, &all).unwrap();
        let storage = Meddling::new(world.storage.clone(), false);
        let repository = world.over(storage.clone());
        let (calls, outcome) = (Arc::new(Mutex::new((0, Some(writer)))), Arc::new(Mutex::new(None)));
        let (counted, theirs, disk) = (calls.clone(), outcome.clone(), all.clone());
        storage.meddle(move |_, _| {
            let mut counted = counted.lock();
            counted.0 += 1;
            if counted.0 == at
                && let Some(writer) = counted.1.take()
            {
                let session = Arc::new(ReadSession::open(&before, &snapshot).unwrap());
                let info = wherry_repo::CommitInfo { size: disk.len() as u64, ..Default::default() };
                *theirs.lock() = Some((session, writer.commit(info)));
            }
            Fate::Done
        });
        gc(&repository, &CollectOptions { threads: 1, ..anew() }).unwrap_or_else(|e| panic!("at {at}: {e}"));
        let Some((session, commit)) = outcome.lock().take() else {
            assert!(at > 40, "a collector has only {at} calls");
            break;
        };
        match commit {
            Ok(snapshot) => {
                committed += 1;
                world.disks.insert(snapshot.id, all.clone());
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "at {at}: {e}"),
        }
        let reader = SnapshotReader::within(session.clone()).unwrap();
        assert!(read_whole(&reader, || session.beat()).unwrap() == all, "at {at}");
        drop((reader, session));
        world.verify(&format!("at call {at}"));
        world.verify_lean(&format!("at call {at}"));
    }
    assert!(committed > 5, "{committed} committed");
}

/// Nothing is made of what does not open: it stays where it is, and is counted as left.
#[test]
fn what_is_damaged_stays_as_it_is() {
    let (world, _, _) = world(20);
    let key = keys_of(&*world.storage).into_iter().find(|key| key.as_str().starts_with("packs/")).unwrap();
    let mut bytes = world.storage.get(&key).unwrap().to_vec();
    bytes[64..64 + UNIT].iter_mut().for_each(|byte| *byte ^= 1);
    world.storage.overwrite(&key, bytes.into()).unwrap();
    let report = gc(&world.repository(), &anew()).unwrap();
    let is_there = world.storage.head(&key).is_ok();
    // It may be the one that is garbage.
    assert_eq!(report.old.packs - report.rewritten.packs, u64::from(is_there), "{report:?}");
    let all = CheckOptions { read_data: Some(Default::default()), ..CheckOptions::default() };
    let damages = world.repository().check(&all, &|_, _, _| Ok(())).unwrap().damages.len();
    assert_eq!(damages > 0, is_there);
}

/// Looking for so much by id would take more memory than there is, from then on for ever.
#[test]
fn what_could_not_be_looked_for_is_not_moved() {
    let (world, _, _) = world(40);
    let there = keys_of(&*world.storage);
    let error = gc(&world.repository(), &CollectOptions { memory: 2 << 10, dry_run: true, ..anew() }).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("MiB of memory"), "{error}");
    assert_eq!(keys_of(&*world.storage), there);
}

/// A check, right before whose step `at` keys are rotated already and `meanwhile` collects: it finds no damage, and all restores. `meanwhile` gives how
/// many packs it has swept.
#[track_caller]
fn finds_no_damage(world: &World, at: CheckStep, meanwhile: impl Fn(&Repository) -> Result<u64> + Sync) {
    let (repository, other) = (world.repository(), world.repository());
    other.rotate(&[]).unwrap();
    let swept = Mutex::new(0);
    let watch = |step, _, _| {
        let mut swept = swept.lock();
        if step == at && *swept == 0 {
            *swept = meanwhile(&other)?;
        }
        Ok(())
    };
    let options = CheckOptions { threads: 1, ..CheckOptions::default() };
    let report = repository.check(&options, &watch).unwrap();
    assert!(*swept.lock() > 0, "{at:?}: nothing moved");
    assert!(report.is_clean(), "{at:?}: {:?}", report.damages);
    world.verify("moved while it was checked");
}

/// Packs of nodes that a collector seals anew and sweeps right before a check reads them, in maps, or where it looks what damage hits
/// (what was moved before makes it look).
#[test]
fn a_check_that_meets_nodes_on_the_move_finds_no_damage() {
    for at in [CheckStep::Maps, CheckStep::Hits] {
        let (mut world, _, _) = world(140);
        gc(&world.repository(), &anew()).unwrap();
        world.backup("moved meanwhile", &disk(&(500..640).collect::<Vec<_>>()));
        finds_no_damage(&world, at, |other| Ok(gc(other, &anew())?.swept.packs));
    }
}

/// Likewise of chunks, where another snapshot that was forgotten meanwhile is looked at first, and has told what is condemned by now.
#[test]
fn a_check_that_meets_chunks_on_the_move_finds_no_damage_behind_a_forgotten_snapshot() {
    // What was known of all that was moved is remembered: it is in one pack.
    let anew = CollectOptions { pack_size: 64 << 20, ..anew() };
    for forgotten in 0..3 {
        let (mut world, _, _) = world(140);
        world.backup("another", &disk(&(300..440).collect::<Vec<_>>()));
        world.repository().rotate(&[]).unwrap();
        gc(&world.repository(), &anew).unwrap();
        let id = *world.disks.keys().nth(forgotten).unwrap();
        world.disks.remove(&id);
        finds_no_damage(&world, CheckStep::Hits, |other| {
            other.forget(&id, Duration::ZERO, "test")?;
            Ok(gc(other, &anew)?.swept.packs)
        });
    }
}

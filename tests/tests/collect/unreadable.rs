//! What a collector cannot read is neither taken for what it should say nor written again by each run.

use super::*;
use std::collections::BTreeSet;
use wherry_repo::{ErrorKind, Key, PackKind, ReadData};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};

/// One bit of an object is another one.
fn flip(world: &World, key: &Key, at: usize) {
    let mut bytes = world.storage.get(key).unwrap().to_vec();
    bytes[at] ^= 1;
    world.storage.overwrite(key, bytes.into()).unwrap();
}

/// Reads all data, and notes what is damaged.
fn check_all(world: &World) {
    let options = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
    assert!(!world.repository().check(&options, &|_, _, _| Ok(())).unwrap().damages.is_empty());
}

/// Packs of this kind that this snapshot has stored, the first one first.
fn packs_of(world: &World, of: &Snapshot, kind: PackKind) -> Vec<PackId> {
    let mut packs = world.packs();
    packs.retain(|pack| pack.session == of.id && pack.kind == kind);
    packs.sort_unstable_by_key(|pack| pack.seq);
    packs
}

/// Bytes of all packs.
fn stored(world: &World) -> u64 {
    world.packs().iter().map(|pack| world.storage.head(&keys::pack(pack)).unwrap().size).sum()
}

/// Lists there are, and those that are sealed.
fn lists(world: &World) -> Vec<Key> {
    keys_of(&*world.storage).into_iter().filter(|key| keys::parse_generation(key).is_some()).collect()
}

/// What a run says that it condemned is what its list condemns.
#[track_caller]
fn says_what_is_so(world: &World, report: &Collected, what: &str) {
    let said = report.condemned.packs + report.thin.packs + report.rewritten.packs;
    let listed = report.generation.map_or(0, |n| world.repository().generation(n).unwrap().condemned.len() as u64);
    assert_eq!(said, listed, "{what}: {report:?}");
}

/// Five runs. From the second one on, by which the copies that were begun too soon are gone, nothing is stored any more, and nothing
/// is said to go; all that is to be there restores after each of them.
#[track_caller]
fn comes_to_rest(world: &World, options: &CollectOptions, what: &str) -> Collected {
    let mut sizes = Vec::new();
    for run in 1..=5 {
        let what = format!("{what}, run {run}");
        let report = gc(&world.repository(), options).unwrap_or_else(|e| panic!("{what}: {e}"));
        says_what_is_so(world, &report, &what);
        let list = world.repository().snapshots(None).unwrap();
        for (id, disk) in &world.disks {
            let snapshot = list.snapshots.iter().find(|s| s.id == *id).unwrap();
            assert!(restore(&world.repository(), snapshot).unwrap() == *disk, "{what}: {id}");
        }
        sizes.push(stored(world));
        if run == 5 {
            assert_eq!(report.generation, None, "{what}: {report:?}");
            assert!(sizes[1..].iter().all(|size| *size == sizes[1]), "{what}: {sizes:?}");
            return report;
        }
    }
    unreachable!()
}

/// G0, M5: the newest list is the witness of a record that is gone; without it, or any other, nothing may go.
#[test]
fn nothing_is_condemned_while_a_list_cannot_be_read() {
    let mut world = World::new();
    let [oldest, older, old, kept] =
        [0, 100, 200, 300].map(|first| world.backup("vm", &disk(&(first..first + 8).collect::<Vec<_>>())));
    // Not a parent of any: only the list knows of it.
    for gone in [&oldest, &older] {
        world.forget(&gone.id);
        assert!(world.gc().swept.packs > 0);
    }
    let record = keys::snap(&kept.volume, &kept.id);
    for (n, is_listed) in [(1, true), (2, true), (1, false), (2, false)] {
        let what = format!("list {n}, given {is_listed}");
        let mut world = world.copy();
        let (taken, list) = (world.storage.get(&record).unwrap(), keys::generation(n));
        let whole = world.storage.get(&list).unwrap();
        world.storage.delete(&record).unwrap();
        flip(&world, &list, whole.len() / 2);
        world.forget(&old.id);
        let storage = Meddling::new(world.storage.clone(), true);
        let key = list.clone();
        storage.meddle(move |call, name| match !is_listed && call == Call::Read && name == key.as_str() {
            true => Fate::Fails(wherry_repo::Error::new(ErrorKind::NotFound, "it is not there")),
            false => Fate::Done,
        });
        let there = keys_of(&*world.storage);
        for dry_run in [true, false] {
            let error = gc(&world.over(storage.clone()), &CollectOptions { dry_run, ..now() }).expect_err(&what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            let error = error.to_string();
            assert!(error.contains(list.as_str()) && error.contains("nothing was deleted"), "{what}: {error}");
            assert_eq!(keys_of(&*world.storage), there, "{what}");
        }
        // Brought back it says what is gone, and that is brought back as well.
        world.storage.overwrite(&list, whole).unwrap();
        let error = gc(&world.repository(), &now()).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&kept.id.to_string()), "{error}");
        assert_eq!(world.packs(), there.iter().filter_map(keys::parse_pack).collect::<Vec<_>>(), "{what}");
        world.storage.create(&record, taken).unwrap();
        assert!(world.gc().swept.packs > 0);
        world.verify(&what);
        world.verify_lean(&what);
    }
}

/// Also where there is nothing to condemn: nobody is told that all is well.
#[test]
fn a_list_that_cannot_be_read_is_told_where_nothing_is_to_go() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&[1, 2, 3]));
    world.backup("vm", &disk(&[4, 5, 6]));
    world.forget(&first.id);
    world.gc();
    let list = keys::generation(1);
    flip(&world, &list, 40);
    assert_eq!(gc(&world.repository(), &now()).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(lists(&world).len(), 2);
}

/// A disk whose pack P is damaged, what heals it in H, and a rotation of keys. `noted`: a check has read P, so that H was stored by
/// a backup that knew. Else by one that knew of no pack.
fn rotated(noted: bool) -> (World, PackId) {
    let mut world = World::new();
    let bytes = disk(&(0..8).collect::<Vec<_>>());
    let first = world.backup("vm", &bytes);
    let damaged = packs_of(&world, &first, PackKind::Data)[0];
    flip(&world, &keys::pack(&damaged), 64 + 3 * UNIT);
    if noted {
        check_all(&world);
        world.backup("vm", &bytes);
    } else {
        world.backup("other", &bytes);
    }
    assert_eq!(world.packs().iter().filter(|pack| pack.kind == PackKind::Data).count(), 2);
    assert_eq!(world.repository().rotate(&[]).unwrap().epoch, 1);
    world.clock.advance(Duration::from_secs(60));
    (world, damaged)
}

#[test]
fn what_was_healed_is_sealed_anew_once_and_what_is_damaged_is_said_to_stay() {
    for noted in [true, false] {
        let (world, damaged) = rotated(noted);
        let what = format!("noted {noted}");
        let anew = CollectOptions { rewrite: true, ..now() };
        let last = comes_to_rest(&world, &anew, &what);
        assert_eq!((last.old.packs, last.damaged.packs, last.rewritten.packs), (1, 1, 0), "{what}: {last:?}");
        assert!(world.packs().contains(&damaged), "{what}");
        let epochs: BTreeSet<u8> =
            world.packs().iter().map(|pack| world.storage.get(&keys::pack(pack)).unwrap()[8]).collect();
        assert_eq!(epochs, [0, 1].into(), "{what}");
        let plan = gc(&world.repository(), &CollectOptions { dry_run: true, ..anew }).unwrap();
        assert_eq!((plan.old, plan.damaged), (last.old, last.damaged), "{what}");
    }
}

/// Of two volumes with the same data little is left, and one of both packs is damaged: nobody has looked yet.
#[test]
fn a_thin_pack_that_does_not_open_makes_one_copy_of_the_other() {
    for (spoilt, intact) in [("a", "b"), ("b", "a")] {
        let mut world = World::new();
        let mut thin = BTreeMap::new();
        for (name, others) in [("a", 100), ("b", 200)] {
            let first = world.backup(name, &disk(&(0..8).collect::<Vec<_>>()));
            // The same chunk of both.
            let mut chunks: Vec<u64> = (others..others + 8).collect();
            chunks[3] = 3;
            world.backup(name, &disk(&chunks));
            world.forget(&first.id);
            thin.insert(name, packs_of(&world, &first, PackKind::Data)[0]);
        }
        flip(&world, &keys::pack(&thin[spoilt]), 64 + 3 * (UNIT + 16) + 100);
        let last = comes_to_rest(&world, &now(), spoilt);
        assert!(world.packs().contains(&thin[spoilt]) && !world.packs().contains(&thin[intact]), "{spoilt}: {last:?}");
        // Whoever comes next knows of it, also without reading.
        assert!(world.repository().has_noted_damage().unwrap(), "{spoilt}");
        let read_data = Some(ReadData { share: 0.0, max_age: None });
        let options = CheckOptions { read_data, ..CheckOptions::default() };
        let report = world.repository().check(&options, &|_, _, _| Ok(())).unwrap();
        let [damage] = &report.damages[..] else { panic!("{spoilt}: {report:?}") };
        assert!(damage.object == keys::pack(&thin[spoilt]) && damage.hits.is_empty(), "{spoilt}: {damage:?}");
    }
}

/// A chunk is damaged in a thin pack, and in one that stays, of which nobody knows; intact it is only in what nothing refers to. With `rewrite` both
/// are met as the one is sealed under an old key.
#[test]
fn the_only_intact_copy_stays_whichever_others_are_damaged() {
    for rewrite in [false, true] {
        let mut world = World::new();
        let mut backup = |name: &str, chunks: &[u64]| world.backup(name, &disk(chunks));
        let unused = backup("r", &[3, 300, 301, 302, 303, 304, 305, 306]);
        backup("r", &(310..318).collect::<Vec<_>>());
        let before = backup("a", &(0..8).collect::<Vec<_>>());
        backup("a", &[100, 101, 102, 3, 104, 105, 106, 107]);
        world.forget(&unused.id);
        world.forget(&before.id);
        if rewrite {
            world.repository().rotate(&[]).unwrap();
        }
        let other = world.backup("q", &disk(&[3]));
        let [thin, full] = [&before, &other].map(|of| packs_of(&world, of, PackKind::Data)[0]);
        flip(&world, &keys::pack(&thin), 64 + 3 * (UNIT + 16) + 100);
        flip(&world, &keys::pack(&full), 64 + 100);
        world.clock.advance(Duration::from_secs(60));
        let options = CollectOptions { rewrite, ..now() };
        let plan = gc(&world.repository(), &CollectOptions { dry_run: true, ..options.clone() }).unwrap();
        assert_eq!(plan.unopened.packs, 0, "a plan opens nothing that is to be moved: {plan:?}");
        let first = gc(&world.repository(), &options).unwrap();
        assert_eq!(first.unopened.packs, 2, "{first:?}");
        comes_to_rest(&world, &options, &format!("rewrite {rewrite}"));
        assert!([thin, full].iter().all(|pack| world.packs().contains(pack)));
    }
}

/// A collector that has found a pack damaged and cannot say so condemns nothing: the next one would not know of it.
#[test]
fn who_cannot_note_what_does_not_open_condemns_nothing() {
    let (world, _) = rotated(false);
    let storage = Meddling::new(world.storage.clone(), true);
    storage.meddle(move |call, name| match call == Call::Write && name.starts_with(keys::CHECKED) {
        true => Fate::Fails(unavailable()),
        false => Fate::Done,
    });
    let anew = CollectOptions { rewrite: true, ..now() };
    let there = world.packs();
    gc(&world.over(storage), &anew).unwrap_err();
    assert_eq!(lists(&world), []);
    assert!(there.iter().all(|pack| world.packs().contains(pack)));
    comes_to_rest(&world, &anew, "it can say so again");
}

/// Nodes that are damaged where a snapshot says that they are, and intact in the pack of another one; or whose pack has an index that
/// cannot be read.
#[test]
fn nodes_of_a_damaged_pack_are_sealed_anew_once() {
    for index in [false, true] {
        let mut world = World::new();
        let bytes = disk(&(0..300).map(|n| n % 40).collect::<Vec<_>>());
        let first = world.backup("a", &bytes);
        world.backup("b", &bytes);
        let [damaged] = packs_of(&world, &first, PackKind::Meta)[..] else { panic!("several packs of nodes") };
        let key = keys::pack(&damaged);
        let at = if index { world.storage.get(&key).unwrap().len() - 80 } else { 100 };
        flip(&world, &key, at);
        world.repository().rotate(&[]).unwrap();
        world.clock.advance(Duration::from_secs(60));
        let what = format!("index {index}");
        let plan = gc(&world.repository(), &CollectOptions { rewrite: true, dry_run: true, ..now() }).unwrap();
        assert_eq!((plan.damaged.packs, plan.unopened.packs), (1, 0), "{what}: {plan:?}");
        let last = comes_to_rest(&world, &CollectOptions { rewrite: true, ..now() }, &what);
        assert_eq!((last.old.packs, last.damaged.packs), (1, 1), "{what}: {last:?}");
        assert!(world.packs().contains(&damaged), "{what}");
    }
}

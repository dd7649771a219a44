//! What a collector has moved and is damaged since: `check` names the pack where it is now, and not the one where it was, and
//! what is put back under that name is all that is needed.

use super::*;
use std::collections::BTreeSet;
use wherry_repo::{CheckReport, DamageKind, ErrorKind, Key, PackKind, ReadData};
use wherry_tests::made_trees::{Made, Node, Part, backup_tree, made_up};

fn check(world: &World) -> CheckReport {
    let options = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    world.repository().check(&options, &|_, _, _| Ok(())).unwrap()
}

/// A disk whose map has two levels and a directory with some of everything, all of it sealed anew. Nobody refers by place to
/// any pack there is.
fn rewritten() -> World {
    let mut world = World::new();
    world.backup("vm", &disk(&(0..132).collect::<Vec<_>>()));
    let mut root = made_up(5, 60);
    let Made::Folder { nodes, .. } = &mut root.what else { panic!("the root is a directory") };
    let long = Node::file(b"aa long", noise(5, 2 << 20));
    let image = Node::plain(b"ab image", Made::Image(vec![Part { is_hole: false, bytes: noise(1008, 17 * UNIT) }]));
    nodes.extend([long, image]);
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    backup_tree(&world.repository(), "home", &root).unwrap();
    let before: BTreeSet<PackId> = world.packs().into_iter().collect();
    world.repository().rotate(&[]).unwrap();
    world.clock.advance(Duration::from_secs(60));
    gc(&world.repository(), &CollectOptions { rewrite: true, ..now() }).unwrap();
    assert!(world.packs().iter().all(|pack| !before.contains(pack)), "nothing is where it was");
    let kinds: BTreeSet<bool> = world.packs().iter().map(|pack| pack.kind == PackKind::Meta).collect();
    assert_eq!(kinds.len(), 2);
    assert_eq!(check(&world).damages, []);
    world
}

/// Does `work` while an object is another one.
fn with<T>(world: &World, key: &Key, change: impl FnOnce(&mut Vec<u8>), work: impl FnOnce() -> T) -> T {
    let before = world.storage.get(key).unwrap();
    let mut bytes = before.to_vec();
    change(&mut bytes);
    world.storage.overwrite(key, bytes.into()).unwrap();
    let result = work();
    world.storage.overwrite(key, before).unwrap();
    assert_eq!(check(world).damages, [], "{key} is there again");
    result
}

fn without<T>(world: &World, key: &Key, work: impl FnOnce() -> T) -> T {
    let before = world.storage.get(key).unwrap();
    world.storage.delete(key).unwrap();
    let result = work();
    world.storage.create(key, before).unwrap();
    assert_eq!(check(world).damages, [], "{key} is there again");
    result
}

#[test]
fn what_is_damaged_where_a_collector_has_moved_it_is_named_there() {
    let world = rewritten();
    for key in world.packs().iter().map(keys::pack) {
        let report = with(&world, &key, |bytes| bytes[100] ^= 1, || check(&world));
        let [damage] = &report.damages[..] else { panic!("{key}: {:?}", report.damages) };
        assert_eq!(damage.object, key);
        assert!(!damage.missing && !damage.hits.is_empty() && damage.what.contains("does not verify"), "{damage:?}");
        assert!(damage.advice().contains("bring the object back"), "{}", damage.advice());
        assert_eq!(damage.advice().contains("deletes nothing"), damage.kind == DamageKind::Map, "{}", damage.advice());
    }
}

/// One bit of the sealed index.
fn spoil(bytes: &mut [u8]) {
    let at = bytes.len() - 80;
    bytes[at] ^= 1;
}

/// What was in it nobody can tell: it is not said that all is well with it. Of nodes no segment has rows.
#[test]
fn a_pack_that_cannot_tell_what_is_in_it_is_not_cleared() {
    let world = rewritten();
    for key in world.packs().iter().filter(|pack| pack.kind == PackKind::Meta).map(keys::pack) {
        let report = with(&world, &key, |bytes| spoil(bytes), || check(&world));
        let here = report.damages.iter().find(|damage| damage.object == key).expect("it is named");
        assert!(here.advice().contains("bring the object back"), "{}", here.advice());
        let (gone, rest): (Vec<_>, Vec<_>) = report.damages.iter().partition(|damage| damage.missing);
        assert!(rest == [here] && !gone.is_empty() && gone.iter().all(|damage| !damage.hits.is_empty()), "{report:?}");
        for damage in gone {
            assert!(damage.advice().contains("had moved"), "{}", damage.advice());
            assert!(!damage.advice().contains("bring the object back"), "a collector deletes it again: {damage:?}");
        }
    }
}

/// A segment says where its chunks are: all of them are found, and collectors take what they do not need and nothing else.
#[test]
fn a_pack_of_chunks_that_were_sealed_anew_may_lose_its_own_index() {
    let mut world = rewritten();
    let gone = world.backup("gone", &disk(&(500..508).collect::<Vec<_>>()));
    world.forget(&gone.id);
    for key in world.packs().iter().filter(|pack| pack.kind == PackKind::Data).map(keys::pack) {
        let world = World { disks: world.disks.clone(), ..world.copy() };
        let before = world.storage.get(&key).unwrap();
        let mut bytes = before.to_vec();
        spoil(&mut bytes);
        world.storage.overwrite(&key, bytes.into()).unwrap();
        let is_garbage = keys::parse_pack(&key).unwrap().session == gone.id;
        let restores = || {
            let list = world.repository().snapshots(None).unwrap().snapshots;
            for (id, disk) in &world.disks {
                let snapshot = list.iter().find(|snapshot| snapshot.id == *id).unwrap();
                assert!(restore(&world.repository(), snapshot).unwrap() == *disk, "{key}");
            }
        };
        restores();
        let report = check(&world);
        let [damage] = &report.damages[..] else { panic!("{key}: {:?}", report.damages) };
        assert!(damage.object == key && damage.hits.is_empty(), "{damage:?}");
        assert!(damage.advice().contains("nothing is lost"), "{}", damage.advice());
        for _ in 0..3 {
            gc(&world.repository(), &now()).unwrap();
            restores();
        }
        let there = world.packs();
        assert_eq!(there.iter().any(|pack| keys::pack(pack) == key), !is_garbage, "{key}");
        // Neither is any pack gone that is needed, nor any left that is not.
        if !is_garbage {
            world.storage.overwrite(&key, before).unwrap();
        }
        assert_eq!(check(&world).damages, [], "{key}");
        assert!(!there.iter().any(|pack| pack.session == gone.id), "{key}");
    }
}

/// Of the same chunks there are those, and others that a list is about to condemn: who cannot read does not delete these.
#[test]
fn the_other_copy_of_what_only_a_segment_names_stays() {
    for is_noted in [false, true] {
        let mut world = World::new();
        let bytes = disk(&(0..16).collect::<Vec<_>>());
        let first = world.backup("a", &bytes);
        let [second, third] = ["b", "c"].map(|name| world.backup(name, &bytes));
        let of = |snapshot: &Snapshot| {
            let mine = |pack: &PackId| pack.session == snapshot.id && pack.kind == PackKind::Data;
            world.packs().into_iter().filter(mine).map(|pack| keys::pack(&pack)).collect::<Vec<_>>()
        };
        let (own, spoilt, others) = (of(&first), of(&second), of(&third));
        own.iter().for_each(|key| world.storage.delete(key).unwrap());
        for key in &spoilt {
            let mut bytes = world.storage.get(key).unwrap().to_vec();
            spoil(&mut bytes);
            // Nor can it be read.
            bytes[100] ^= 1;
            world.storage.overwrite(key, bytes.into()).unwrap();
        }
        if is_noted {
            let read_data = Some(ReadData::default());
            let options = CheckOptions { read_data, keep: true, ..CheckOptions::default() };
            world.repository().check(&options, &|_, _, _| Ok(())).unwrap();
        }
        world.forget(&second.id);
        world.forget(&third.id);
        for _ in 0..3 {
            world.gc();
        }
        let there = world.packs();
        assert!(others.iter().all(|key| there.iter().any(|pack| keys::pack(pack) == *key)), "noted {is_noted}");
        let list = world.repository().snapshots(None).unwrap().snapshots;
        let snapshot = list.iter().find(|snapshot| snapshot.id == first.id).unwrap();
        assert!(restore(&world.repository(), snapshot).unwrap() == bytes, "noted {is_noted}");
    }
}

#[test]
fn a_pack_that_is_gone_where_a_collector_has_moved_things_is_told_as_that() {
    let world = rewritten();
    for key in world.packs().iter().map(keys::pack) {
        let (report, collected) = without(&world, &key, || (check(&world), gc(&world.repository(), &now())));
        assert!(!report.damages.is_empty(), "{key}");
        for damage in &report.damages {
            assert!(damage.missing && !damage.hits.is_empty(), "{damage:?}");
            // Of chunks segments say where they went.
            let is_named = damage.kind == DamageKind::Pack;
            assert_eq!(damage.object == key, is_named, "{key}: {damage:?}");
            assert_eq!(damage.advice().contains("had moved"), !is_named, "{key}: {damage:?}");
            assert!(damage.advice().contains("`wherry gc` deletes nothing"), "{}", damage.advice());
        }
        assert_eq!(collected.unwrap_err().kind(), ErrorKind::Corrupt, "{key}");
    }
}

/// A thin pack was copied, and what is in the copy is sealed for where it was.
#[test]
fn a_damaged_copy_of_few_chunks_is_named_and_others_are_collected() {
    let mut world = World::new();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    let mut chunks: Vec<u64> = (100..116).collect();
    (chunks[3], chunks[11]) = (3, 11);
    let second = world.backup("vm", &disk(&chunks));
    let other = world.backup("other", &disk(&(200..216).collect::<Vec<_>>()));
    world.forget(&first.id);
    assert_eq!(world.gc().copied.packs, 2);
    let copy = world.packs().into_iter().find(|pack| ![second.id, other.id].contains(&pack.session)).unwrap();
    world.forget(&other.id);
    let key = keys::pack(&copy);
    let (report, collected) =
        with(&world, &key, |bytes| bytes[100] ^= 1, || (check(&world), gc(&world.repository(), &now()).unwrap()));
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    let hits: Vec<_> = damage.hits.iter().map(|hit| (hit.snapshot, hit.bytes)).collect();
    assert_eq!((&damage.object, hits), (&key, vec![(second.id, UNIT as u64)]));
    assert!(collected.swept.packs >= 2 && !damage.advice().contains("deletes nothing"), "{collected:?}, {damage:?}");
}

/// Two copies of what is lost, and both are damaged: one of them is to blame, and the other one is not cleared.
#[test]
fn of_two_damaged_copies_neither_is_said_to_be_of_no_matter() {
    let mut world = World::new();
    let made = ["a", "b", "c"].map(|name| world.backup(name, &disk(&[1, 2, 3])));
    let of = |world: &World, snapshot: &Snapshot, kind: PackKind| {
        let mine = |pack: &&PackId| pack.session == snapshot.id && pack.kind == kind;
        world.packs().iter().find(mine).map(keys::pack).unwrap()
    };
    let [own, b, c] = made.each_ref().map(|snapshot| of(&world, snapshot, PackKind::Data));
    // For good, and no collector has come yet.
    for snapshot in &made[1..] {
        world.forget(&snapshot.id);
        world.repository().settle(&snapshot.id).unwrap();
    }
    world.storage.delete(&own).unwrap();
    for key in [&b, &c] {
        let mut bytes = world.storage.get(key).unwrap().to_vec();
        bytes[100] ^= 1;
        world.storage.overwrite(key, bytes.into()).unwrap();
    }
    let report = check(&world);
    let named: BTreeSet<&Key> = report.damages.iter().map(|damage| &damage.object).collect();
    assert_eq!(named, [&b, &c].into(), "{report:?}");
    let (hit, rest): (Vec<_>, Vec<_>) = report.damages.iter().partition(|damage| !damage.hits.is_empty());
    assert_eq!((hit.len(), rest.len()), (1, 1), "{report:?}");
    let advice = rest[0].advice();
    assert!(!advice.contains("nothing is lost") && advice.contains("bring the object back"), "{advice}");
}

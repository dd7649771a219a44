//! What a collector cannot read is not taken for what it should say.

use super::*;
use wherry_repo::{ErrorKind, Key};
use wherry_tests::meddling::{Call, Fate, Meddling};

/// One bit of an object is another one.
fn flip(world: &World, key: &Key, at: usize) {
    let mut bytes = world.storage.get(key).unwrap().to_vec();
    bytes[at] ^= 1;
    world.storage.overwrite(key, bytes.into()).unwrap();
}

/// Lists there are, and those that are sealed.
fn lists(world: &World) -> Vec<Key> {
    keys_of(&*world.storage).into_iter().filter(|key| keys::parse_generation(key).is_some()).collect()
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

//! A power cut between the name of an object and its being durable: a collector deletes nothing on the strength of what would be gone.

use super::*;
use std::sync::Mutex;
use wherry_repo::{Key, PackKind};
use wherry_tests::fleeting::Fleeting;

/// A world in which a power cut is possible, as others see it.
fn fleeting() -> (World, Arc<Fleeting>) {
    let world = World::new();
    let storage = Fleeting::new(world.storage.clone());
    (world, storage)
}

/// What one collector deletes while another one has only named an object with `part` in its key.
fn amid(world: &World, storage: &Arc<Fleeting>, part: &'static str) -> Collected {
    let (first, second) = (world.over(storage.clone()), world.over(storage.clone()));
    let tell = Arc::new(Mutex::new(None));
    let heard = tell.clone();
    storage.stop_at(part, move || *tell.lock().unwrap() = Some(gc(&second, &now()).unwrap()));
    gc(&first, &now()).unwrap_err();
    let collected = heard.lock().unwrap().take().unwrap();
    storage.cut_power();
    collected
}

/// Whatever another one had only named, the packs that are gone are those of what stays gone.
#[track_caller]
fn stays_gone(part: &'static str) {
    let (mut world, storage) = fleeting();
    let first = world.backup("vm", &disk(&(0..16).collect::<Vec<_>>()));
    world.backup("vm", &disk(&(100..116).collect::<Vec<_>>()));
    world.forget(&first.id);
    let collected = amid(&world, &storage, part);
    assert!(collected.swept.packs > 0, "{collected:?}");
    assert!(world.repository().is_gone(&first.id).unwrap(), "it can be brought back, and its packs are deleted");
    for key in ["gc/gen/00000001", "gc/gen/00000001-sealed"] {
        assert!(world.storage.head(&Key::new(key).unwrap()).is_ok(), "{key} is gone, and its packs are deleted");
    }
    world.verify(part);
    world.verify_lean(part);
}

#[test]
fn a_final_by_which_packs_go_is_durable() {
    stays_gone("-settled");
}

#[test]
fn a_list_by_which_packs_go_is_durable() {
    stays_gone("gc/gen/00000001");
}

#[test]
fn a_delete_set_by_which_packs_go_is_durable() {
    stays_gone("-sealed");
}

/// What a snapshot needs of a pack that was lost is in two others: one that nobody needs otherwise, and one that is being stored.
#[test]
fn a_copy_that_others_go_for_is_durable() {
    for seed in 0..8 {
        let (mut world, storage) = fleeting();
        let bytes = disk(&(seed * 100..seed * 100 + 8).collect::<Vec<_>>());
        world.backup("vm", &bytes);
        let lost = world.packs().into_iter().find(|pack| pack.kind == PackKind::Data).unwrap();
        // Stored again by a volume that is then forgotten, and by one that is being stored.
        let none = WriterOptions { parent: wherry_repo::ParentChoice::None, ..wide("other") };
        let other = backup_with(&world.repository(), index(), &none, &bytes).unwrap();
        world.storage.delete(&keys::pack(&lost)).unwrap();
        // Of neither a segment says more than of the other.
        for segment in keys_of(&*world.storage).iter().filter(|key| keys::parse_segment(key).is_some()) {
            world.storage.delete(segment).unwrap();
        }
        world.repository().forget(&other.id, Duration::ZERO, "test").unwrap();
        let writer = world.over(storage.clone());
        let collector = world.over(storage.clone());
        let collect = move || drop(gc(&collector, &now()).unwrap());
        storage.stop_at("packs/", collect);
        backup_with(&writer, index(), &wide("third"), &bytes).unwrap_err();
        storage.cut_power();
        world.verify(&format!("seed {seed}"));
    }
}

//! A collector is cut off at every single mutation of the storage, in each way. The next one ends what it began.

use super::*;
use wherry_repo::ErrorKind;
use wherry_repo::SnapshotWriter;
use wherry_tests::recording::{CUTS, Cut, Cutting};

/// Snapshots to keep and to forget, packs with little in them that is needed, a dead run, a forget that is due, many index
/// segments.
fn world() -> World {
    let mut world = World::new();
    let all: Vec<u64> = (0..16).collect();
    let first = world.backup("vm", &disk(&all));
    let mut some: Vec<u64> = (100..116).collect();
    some[5] = 5;
    some[12] = 12;
    world.backup("vm", &disk(&some));
    world.backup("vm", &disk(&(300..302).collect::<Vec<_>>()));
    let other = world.backup("other", &disk(&(400..410).collect::<Vec<_>>()));
    let more = world.backup("other", &disk(&(400..402).collect::<Vec<_>>()));
    for id in [first.id, other.id] {
        world.forget(&id);
    }
    let writer = SnapshotWriter::start(&world.repository(), index(), &wide("dead")).unwrap();
    put_all(&writer, &disk(&(501..510).collect::<Vec<_>>())).unwrap();
    drop(writer);
    assert!(world.disks.contains_key(&more.id));
    world.clock.advance(Duration::from_secs(60));
    world
}

#[test]
fn a_collector_that_is_cut_off_anywhere_leaves_nothing_and_loses_nothing() {
    let first = world();
    let whole = first.copy();
    let counting = Arc::new(Cutting::new(whole.storage.clone(), 0, Cut::NotApplied));
    let before = whole.packs().len();
    let report = gc(&whole.over(counting.clone()), &now()).unwrap();
    assert!(report.copied.packs > 0 && report.condemned.packs > 0 && report.settled == 2, "{report:?}");
    assert!(report.records > 0 && report.sessions > 0 && report.segments > 0 && report.fenced.len() == 1, "{report:?}");
    whole.verify("not cut");
    whole.verify_lean("not cut");
    assert!(whole.packs().len() < before);
    let total = counting.mutations();
    assert!(total > 30, "{total}");
    for at in 1..=total {
        for how in CUTS {
            let what = format!("cut at {at} of {total}, {how:?}");
            let world = first.copy();
            let cut = Arc::new(Cutting::new(world.storage.clone(), at, how));
            if let Err(e) = gc(&world.over(cut), &now()) {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{what}: {e}");
            }
            world.verify(&what);
            world.verify_lean(&what);
            world.verify(&format!("{what}, then another"));
        }
    }
}

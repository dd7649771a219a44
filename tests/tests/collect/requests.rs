//! What is asked of the storage does not grow with all that was ever forgotten.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_repo::SnapshotWriter;
use wherry_tests::meddling::{Call, Fate, Meddling};

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
    assert!(reads.load(Ordering::Relaxed) > 20, "nobody is left to be asked for: {reads:?}");

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

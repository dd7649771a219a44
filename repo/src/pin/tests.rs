use crate::ErrorKind;
use crate::format::clear;
use crate::storage::{Storage, keys};
use crate::testing::{Watched, backup, repository};
use std::sync::Arc;
use std::time::Duration;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn before(storage: &Arc<Watched>, key_ends: &'static str, hook: impl FnOnce() + Send + 'static) {
    *storage.before.lock() = Some((key_ends, Box::new(hook)));
}

#[test]
fn a_pinned_snapshot_is_not_forgotten_until_it_is_unpinned() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    assert!(!repository.unpin(&id).unwrap() && repository.pins().unwrap().is_empty());
    assert!(storage.list(keys::PIN, &mut |found| panic!("{found:?}")).is_ok(), "looking wrote something");
    for _ in 0..3 {
        assert!(repository.pin(&id).unwrap());
        assert!(!repository.pin(&id).unwrap(), "it was pinned already");
        assert!(repository.pins().unwrap().iter().eq([&id]));
        let error = repository.forget(&id, WEEK, "test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(&format!("wherry unpin {id}")), "{error}");
        assert!(repository.snapshots(None).unwrap().is_visible(&id) && repository.forget_of(&id).unwrap().is_none());
        assert!(repository.unpin(&id).unwrap());
    }
    assert!(repository.forget(&id, WEEK, "test").unwrap());
    let error = repository.pin(&id).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("wherry unforget"), "{error}");
    assert!(!repository.is_pinned(&id).unwrap());
}

#[test]
fn the_first_pin_says_so_to_builds_that_may_delete() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    let other = repository.clone();
    before(&storage, "-pinned", move || {
        let config = crate::newest_config(other.storage()).unwrap().unwrap().1;
        assert!(clear::PIN.is_in(&config), "it is to be acknowledged first: {config:?}");
    });
    repository.pin(&id).unwrap();
    assert!(storage.before.lock().is_none());
    let config = crate::newest_config(repository.storage()).unwrap().unwrap().1;
    assert_eq!((config.minor, &config.gc[..]), (3, &["pin".to_owned()][..]));
    assert!(config.read.is_empty() && config.write.is_empty(), "others may back up and restore");
    assert!(clear::check_collectable(&config).is_ok());
    let newer = clear::Config { gc: vec!["pin".into(), "flux".into()], ..config };
    assert_eq!(clear::check_collectable(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn of_a_pin_and_a_forget_at_once_the_pin_wins() {
    // The pin begins and ends while the forget is about to ask.
    let (storage, clock, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    let other = repository.clone();
    before(&storage, "-asked", move || assert!(other.pin(&id).unwrap()));
    assert_eq!(repository.forget(&id, Duration::ZERO, "test").unwrap_err().kind(), ErrorKind::Invalid);
    assert!(storage.before.lock().is_none());
    assert!(repository.snapshots(None).unwrap().is_visible(&id), "the forget was not taken back");
    clock.advance(WEEK);
    assert!(!repository.settle(&id).unwrap());

    // The forget begins and ends while the pin is about to be made.
    let id = backup(&repository, "vm", 1).id;
    let other = repository.clone();
    before(&storage, "-pinned", move || assert!(other.forget(&id, Duration::ZERO, "test").unwrap()));
    assert!(repository.pin(&id).unwrap());
    assert!(repository.snapshots(None).unwrap().is_visible(&id), "the forget was not taken back");
    assert!(!repository.settle(&id).unwrap() && repository.is_pinned(&id).unwrap());
}

#[test]
fn a_pin_that_was_ended_at_once_takes_no_forget_back() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    // Somebody else pins before this one does, ends that, and forgets: this pin comes last and finds nothing that stands.
    let other = repository.clone();
    before(&storage, "-pinned", move || {
        assert!(other.pin(&id).unwrap() && other.unpin(&id).unwrap());
        assert!(other.forget(&id, WEEK, "test").unwrap());
    });
    let error = repository.pin(&id).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("wherry unforget"), "{error}");
    assert!(!repository.is_pinned(&id).unwrap());
    assert!(!repository.snapshots(None).unwrap().is_visible(&id), "the forget was taken back, and nothing is pinned");
    // Without the forget it is pinned after all.
    let id = backup(&repository, "vm", 1).id;
    let other = repository.clone();
    before(&storage, "-pinned", move || assert!(other.pin(&id).unwrap() && other.unpin(&id).unwrap()));
    assert!(repository.pin(&id).unwrap() && repository.is_pinned(&id).unwrap());
}

#[test]
fn a_pin_that_comes_too_late_says_so_and_leaves_no_pin() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    let other = repository.clone();
    before(&storage, "-pinned", move || {
        assert!(other.forget(&id, Duration::ZERO, "test").unwrap());
        assert!(other.settle(&id).unwrap());
    });
    let error = repository.pin(&id).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("too late"), "{error}");
    assert!(!repository.is_pinned(&id).unwrap());
    assert_eq!(repository.pin(&id).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_forget_that_looked_for_no_pins_is_never_final() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    assert!(repository.forget(&id, Duration::ZERO, "a build without pins").unwrap());
    // As that build does it: the pin stands when it asks. Or whoever pinned was ended before it looked again.
    let key = keys::pin(&id, 0, false);
    repository.create(&key, &repository.pinned().unwrap()).unwrap();
    assert!(!repository.settle(&id).unwrap(), "a pinned snapshot is gone for good");
    assert!(repository.snapshots(None).unwrap().is_visible(&id));

    // And while a collector is about to make it final, a pin may come first, or too late, but never both.
    let id = backup(&repository, "vm", 1).id;
    assert!(repository.forget(&id, Duration::ZERO, "test").unwrap());
    let other = repository.clone();
    before(&storage, "-settled", move || {
        other.unforget(&id).unwrap();
        assert!(other.pin(&id).unwrap());
    });
    assert!(!repository.settle(&id).unwrap());
    assert!(repository.is_pinned(&id).unwrap() && repository.snapshots(None).unwrap().is_visible(&id));
}

#[test]
fn damage_drops_no_pin() {
    let (storage, _, repository) = repository();
    let id = backup(&repository, "vm", 1).id;
    repository.pin(&id).unwrap();
    storage.overwrite(&keys::pin(&id, 0, false), b"junk"[..].into()).unwrap();
    assert!(repository.is_pinned(&id).unwrap());
    repository.unpin(&id).unwrap();
    assert!(!repository.is_pinned(&id).unwrap());
    storage.overwrite(&keys::pin(&id, 0, true), b"junk"[..].into()).unwrap();
    assert!(repository.is_pinned(&id).unwrap());
    assert_eq!(repository.unpin(&id).unwrap_err().kind(), ErrorKind::Corrupt);
}

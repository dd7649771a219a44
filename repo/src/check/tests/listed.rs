//! What a storage lists and does not give is lost, unless somebody may have taken it since.

use super::check;
use crate::storage::{Key, Storage, keys};
use crate::testing::{backup, repository};
use crate::{CollectOptions, Repository};
use std::time::Duration;

fn objects(repository: &Repository, prefix: &str) -> Vec<Key> {
    repository.list(prefix).unwrap()
}

#[test]
fn a_record_that_is_listed_and_not_given_is_damage_and_no_older_one_is_the_newest() {
    let (storage, _, repository) = repository();
    let [old, new] = [backup(&repository, "vm", 4), backup(&repository, "vm", 5)];
    let key = keys::snap(&new.volume, &new.id);
    *storage.ghost.lock() = Some(key.clone());
    for list in [repository.snapshots(None).unwrap(), repository.snapshots(Some(new.volume)).unwrap()] {
        assert_eq!(list.snapshots.iter().map(|s| s.id).collect::<Vec<_>>(), [old.id]);
        assert_eq!(list.damaged.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&key]);
    }
    let report = check(&repository);
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!((&damage.object, damage.hits.len()), (&key, 1));
    assert!(damage.what.contains("it is listed"), "{}", damage.what);
    assert_eq!(damage.hits[0].snapshot, new.id);
    // Nobody misses what is gone for good, whether a check hears of that before or after.
    repository.forget(&new.id, Duration::ZERO, "").unwrap();
    assert!(!check(&repository).is_clean(), "it can still be taken back");
    repository.settle(&new.id).unwrap();
    assert!(check(&repository).is_clean());
    assert!(repository.snapshots(None).unwrap().damaged.is_empty());
}

#[test]
fn what_nobody_takes_is_damage_when_it_is_not_given_and_what_goes_by_itself_is_none() {
    let (storage, clock, repository) = repository();
    let [_, gone] = [backup(&repository, "vm", 4), backup(&repository, "vm", 5)];
    let pinned = backup(&repository, "pinned", 4);
    assert!(repository.pin(&pinned.id).unwrap());
    repository.forget(&gone.id, Duration::ZERO, "").unwrap();
    clock.advance(Duration::from_secs(60));
    let options = CollectOptions { grace: Duration::ZERO, ..CollectOptions::default() };
    repository.collect(&options, &|_, _, _| Ok(())).unwrap();
    let writer = crate::testing::writer(&repository, "open");
    for (prefix, is_lost) in [
        (keys::CONFIG, true),
        (keys::GEN, true),
        (keys::FORGET, true),
        (keys::PIN, true),
        (keys::SNAP, true),
        (keys::SESS, false),
        (keys::IDX, false),
    ] {
        let all = objects(&repository, prefix);
        assert!(!all.is_empty(), "{prefix}");
        for key in all {
            let before = storage.get(&key).unwrap();
            *storage.ghost.lock() = Some(key.clone());
            let report = check(&repository);
            *storage.ghost.lock() = None;
            let named = report.damages.iter().any(|damage| damage.object == key);
            // One that is gone for good nobody misses.
            let is_lost = is_lost && keys::parse_snap(&key).is_none_or(|(_, id)| id != gone.id);
            // Nor what was asked for, once it is settled.
            let is_lost = is_lost && key != keys::forget(&gone.id, 0, false);
            assert_eq!(named, is_lost, "{key}: {:?}", report.damages);
            assert_eq!(storage.get(&key).unwrap(), before);
        }
    }
    drop(writer);
    assert!(check(&repository).is_clean());
}

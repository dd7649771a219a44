//! What checks do where what was noted of earlier ones cannot be read: V8 of `docs/concurrency.md`.

use super::over_time::{DAY, check, left, noted, older, options, packs, share, spoil, verified};
use crate::Key;
use crate::check::{CheckOptions, DamageKind, NotReadReason};
use crate::format::pack::TRAILER;
use crate::storage::{Storage, keys};
use crate::testing::{backup, repository};

/// One bit of the index of a pack is another one.
fn spoil_index(storage: &dyn Storage, key: &Key) {
    let mut body = storage.get(key).unwrap().to_vec();
    let at = body.len() - TRAILER - 1;
    body[at] ^= 1;
    storage.overwrite(key, body.into()).unwrap();
}

#[test]
fn a_damaged_record_is_named_costs_a_reading_and_goes() {
    let (storage, clock, repository) = repository();
    let snapshot = backup(&repository, "vm", 40);
    clock.advance(DAY * 40);
    for prefix in [keys::READ, keys::STATES] {
        check(&repository, share(1.0));
        let key = repository.list(prefix).unwrap().remove(0);
        spoil(&*storage, &key);
        repository.checked().unwrap();
        let report = check(&repository, older(30));
        let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
        assert_eq!((&damage.object, damage.kind, damage.hits.len()), (&key, DamageKind::Checked, 0));
        assert!(!repository.list(keys::CHECKED).unwrap().contains(&key), "{key}");
        assert!(check(&repository, older(30)).is_clean());
        assert!(verified(&repository, &snapshot).is_some());
    }
}

/// What a lost note said of it may be all that keeps a collector from taking it for intact, when something refers to it again.
#[test]
fn before_a_damaged_record_goes_also_what_nobody_refers_to_is_read() {
    for (is_ghost, is_index) in [(false, false), (true, false), (false, true)] {
        let (storage, clock, repository) = repository();
        let snapshot = backup(&repository, "vm", 40);
        let gone = backup(&repository, "gone", 40);
        let of_gone = |key: &Key| keys::parse_pack(key).filter(|pack| pack.session == gone.id);
        let pack = packs(&repository).iter().find_map(of_gone).unwrap();
        storage.delete(&keys::snap(&gone.volume, &gone.id)).unwrap();
        match is_index {
            true => spoil_index(&*storage, &keys::pack(&pack)),
            false => spoil(&*storage, &keys::pack(&pack)),
        }
        clock.advance(DAY * 40);
        check(&repository, share(1.0));
        assert!(!noted(&repository).contains(&pack), "nobody refers to it, so it is not read for nothing");
        let key = repository.list(keys::READ).unwrap().remove(0);
        match is_ghost {
            true => *storage.ghost.lock() = Some(key.clone()),
            false => spoil(&*storage, &key),
        }
        assert!(repository.damaged_packs_for_certain().is_err());
        // Who notes nothing reads its index alone, and who looks at one snapshot nothing of it; nobody misses it.
        let finds_it = |options: &CheckOptions| {
            let report = repository.check(options, &|_, _, _| Ok(())).unwrap();
            report.damages.iter().any(|damage| damage.object == keys::pack(&pack))
        };
        let all = options(share(1.0), &[]);
        assert_eq!(finds_it(&CheckOptions { keep: false, ..all }), is_index);
        assert!(!finds_it(&options(share(1.0), &[snapshot.id])));
        let there = packs(&repository);
        let of_vm = there.iter().filter_map(keys::parse_pack).filter(|pack| pack.session == snapshot.id);
        assert_eq!(left(&check(&repository, older(50)), NotReadReason::Younger).0, of_vm.count() as u64);
        // A part of it does not do.
        check(&repository, share(0.5));
        assert!(repository.list(keys::READ).unwrap().contains(&key));
        let report = check(&repository, share(1.0));
        assert!(!report.is_clean() && report.damages.iter().all(|damage| damage.hits.is_empty()), "{report:?}");
        assert!(!repository.list(keys::READ).unwrap().contains(&key));
        assert!(repository.damaged_packs_for_certain().unwrap().contains(&pack), "{is_ghost} {is_index}");
        assert!(verified(&repository, &snapshot).is_some());
    }
}

#[test]
fn notes_that_cannot_be_read_keep_nobody_from_checking() {
    let (storage, _, repository) = repository();
    let snapshot = backup(&repository, "vm", 40);
    *storage.silent.lock() = Some(keys::CHECKED);
    let report = repository.check(&options(share(1.0), &[snapshot.id]), &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean() && report.read_bytes == report.data_bytes && !report.kept, "{report:?}");
    assert!(report.not_kept.is_some_and(|why| why.contains("no answer")));
}

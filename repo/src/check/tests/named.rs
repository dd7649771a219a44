//! What checks of named snapshots note, who never look at everything: V8 of `docs/concurrency.md`.

use super::over_time::{DAY, check, noted, options, packs, share, spoil, verified};
use crate::format::checked::Readings;
use crate::storage::keys;
use crate::testing::{backup, repository};
use crate::{PackId, Repository, Snapshot, Timestamp};
use std::collections::BTreeSet;

/// A check of one snapshot.
#[track_caller]
fn check_only(repository: &Repository, snapshot: &Snapshot) {
    let report = repository.check(&options(share(1.0), &[snapshot.id]), &|_, _, _| Ok(())).unwrap();
    assert_eq!((report.kept, report.not_kept), (true, None));
}

fn of(repository: &Repository, snapshot: &Snapshot) -> BTreeSet<PackId> {
    packs(repository).iter().filter_map(keys::parse_pack).filter(|pack| pack.session == snapshot.id).collect()
}

/// All that is noted, of each pack as often as it is.
fn readings(repository: &Repository) -> Vec<(PackId, Timestamp, bool)> {
    let mut found = Vec::new();
    for key in repository.list(keys::READ).unwrap() {
        for group in repository.read::<Readings>(&key).unwrap().groups {
            found.extend(group.intact.into_iter().map(|id| (id, group.at, false)));
            found.extend(group.damaged.into_iter().map(|id| (id, group.at, true)));
        }
    }
    found
}

/// Nobody has looked whether the packs of others are there: what was noted of them stays, and each once.
#[test]
fn they_put_records_together_and_leave_out_nothing() {
    let (storage, clock, repository) = repository();
    let [mine, other, third] = ["a", "b", "c"].map(|name| backup(&repository, name, 40));
    check(&repository, share(1.0));
    clock.advance(DAY);
    let bad = *of(&repository, &other).first().unwrap();
    spoil(&*storage, &keys::pack(&bad));
    check_only(&repository, &other);
    let before: Vec<_> = readings(&repository).into_iter().filter(|(id, ..)| id.session != mine.id).collect();
    assert!(before.iter().any(|(id, _, damaged)| *id == bad && *damaged));
    let (all, at) = (noted(&repository), verified(&repository, &third));
    for run in 0..120 {
        clock.advance(DAY);
        // Most runs are of one of them; those of another one do not keep the readings of all these runs.
        check_only(&repository, if run % 17 == 16 { &third } else { &mine });
        let records = repository.list(keys::READ).unwrap().len();
        assert!(records <= 17, "run {run}: {records}");
    }
    assert_eq!(noted(&repository), all);
    let after = readings(&repository);
    for (id, at, damaged) in before.into_iter().filter(|(id, ..)| id.session == other.id) {
        let newest = after.iter().filter(|(of, ..)| *of == id).max().unwrap();
        assert!(newest.1 >= at && (newest.2 || !damaged), "{id:?}: {newest:?}");
    }
    assert!(after.len() <= 18 * all.len(), "{} of {} packs", after.len(), all.len());
    assert_eq!(repository.damaged_packs_for_certain().unwrap(), [bad].into());
    assert!(verified(&repository, &mine) > at && verified(&repository, &third) > at);
}

/// It may have named a damaged pack that such a check does not read.
#[test]
fn they_leave_a_damaged_record_where_it_is() {
    let (storage, clock, repository) = repository();
    let [mine, _] = ["a", "b"].map(|name| backup(&repository, name, 40));
    check(&repository, share(1.0));
    let key = repository.list(keys::READ).unwrap().remove(0);
    spoil(&*storage, &key);
    for _ in 0..40 {
        clock.advance(DAY);
        check_only(&repository, &mine);
        let records = repository.list(keys::READ).unwrap();
        assert!(records.contains(&key) && records.len() <= 18, "{records:?}");
        assert!(repository.damaged_packs_for_certain().is_err());
    }
}

//! Ways in that are taken away by two at once.

use super::{key, refused};
use std::sync::Arc;
use wherry_repo::storage::{Memory, Storage, keys};
use wherry_repo::{Credential, ErrorKind, Repository};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};
use wherry_tests::small::*;

fn other() -> Credential {
    Credential::Password("another way in".to_owned().into())
}

struct Ways {
    memory: Arc<Memory>,
    storage: Arc<Meddling>,
    repository: Repository,
    first: u64,
    second: u64,
}

/// Two ways in, and a storage to meddle with.
fn two() -> Ways {
    let (memory, repository) = in_memory();
    let first = repository.slots().unwrap()[0].as_ref().unwrap().slot;
    let second = repository.add_slot(&other(), CHEAP).unwrap();
    let storage = Meddling::new(memory.clone(), false);
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    Ways { memory, storage, repository, first, second }
}

/// Somebody else, who removes the second way in as the first one is about to be deleted.
fn meddle(ways: &Ways, fate: fn() -> Fate) {
    let (theirs, second) = (Repository::open(components(ways.memory.clone()), &other()).unwrap(), ways.second);
    ways.storage.meddle(move |call, _| {
        if call != Call::Delete {
            return Fate::Done;
        }
        theirs.remove_slot(second).unwrap();
        fate()
    });
}

#[test]
fn two_who_remove_each_the_others_way_in_leave_one() {
    for fate in [|| Fate::Done, || Fate::ReplyLost(unavailable())] {
        let ways = two();
        meddle(&ways, fate);
        let error = refused(ways.repository.remove_slot(ways.first));
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("is there again"), "{error}");
        assert!(ways.memory.get(&keys::slot(ways.second)).is_err(), "the other is gone, as its remover was told");
        Repository::open(components(ways.memory.clone()), &password()).unwrap();
    }
}

#[test]
fn a_way_in_is_put_back_when_nobody_knows_what_is_left() {
    let ways = two();
    let mut deleted = false;
    ways.storage.meddle(move |call, _| match call {
        Call::Delete => {
            deleted = true;
            Fate::Done
        }
        Call::List if deleted => Fate::Fails(unavailable()),
        _ => Fate::Done,
    });
    assert_eq!(refused(ways.repository.remove_slot(ways.first)).kind(), ErrorKind::Unavailable);
    Repository::open(components(ways.memory.clone()), &password()).unwrap();
}

#[test]
fn a_damaged_way_in_can_be_removed_and_is_no_other_one() {
    let ways = two();
    ways.memory.overwrite(&keys::slot(ways.second), "cut".into()).unwrap();
    assert_eq!(refused(ways.repository.remove_slot(ways.first)).kind(), ErrorKind::Invalid, "the last intact one");
    ways.repository.remove_slot(ways.second).unwrap();
    Repository::open(components(ways.memory.clone()), &password()).unwrap();
    assert_eq!(refused(ways.repository.remove_slot(7)).kind(), ErrorKind::Invalid);
    assert!(ways.memory.get(&key(&format!("keys/{:016x}", ways.first))).is_ok());
}

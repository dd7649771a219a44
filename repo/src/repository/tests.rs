//! Configurations that a newer version, or somebody without the keys, has put there.

use super::*;
use crate::index::ChunkIndex;
use crate::storage::Memory;
use crate::{CommitInfo, SnapshotWriter, System, WriterOptions};
use std::time::Duration;

const CHEAP: PasswordCost = PasswordCost::new(8, 1);

fn password() -> Credential {
    Credential::Password("x".to_owned().into())
}

fn write(repository: &Repository) -> Result<Snapshot> {
    let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    SnapshotWriter::start(repository, index, &options)?.commit(CommitInfo::default())
}

/// A repository with two snapshots, the second one forgotten, and a second way in.
fn repository() -> (Repository, Snapshot, Snapshot, u64) {
    let system = Arc::new(System::default());
    let components = Components { storage: Arc::new(Memory::default()), clock: system.clone(), rng: system };
    let options = InitOptions { password_cost: CHEAP, ..InitOptions::default() };
    let repository = Repository::init(components, &options, &password()).unwrap();
    let (first, second) = (write(&repository).unwrap(), write(&repository).unwrap());
    assert!(repository.forget(&second.id, Duration::ZERO, "test").unwrap());
    let slot = repository.add_slot(&password(), CHEAP).unwrap();
    (repository, first, second, slot)
}

/// Everything that changes a repository is refused in this way, and changes nothing.
fn assert_refused(repository: &Repository, first: &Snapshot, second: &Snapshot, slot: u64, kind: ErrorKind) {
    let keys = || repository.list("").unwrap();
    let before = keys();
    let outcomes = [
        ("backup", write(repository).map(drop)),
        ("forget", repository.forget(&first.id, Duration::ZERO, "test").map(drop)),
        ("unforget", repository.unforget(&second.id).map(drop)),
        ("key add", repository.add_slot(&password(), CHEAP).map(drop)),
        ("key remove", repository.remove_slot(slot)),
    ];
    for (what, outcome) in outcomes {
        match outcome {
            Ok(()) => panic!("{what} is not refused"),
            Err(e) => assert_eq!(e.kind(), kind, "{what}: {e}"),
        }
    }
    assert_eq!(keys(), before);
}

#[test]
fn a_feature_that_came_meanwhile_keeps_from_writing_and_not_from_reading() {
    let (repository, first, second, slot) = repository();
    let key = keys::config(1);
    let mut config = Config { write: vec!["future".into()], ..repository.inner.config.clone() };
    config.mac = config_mac(repository.keys(), &key, &config).unwrap();
    repository.storage().create(&key, clear::encode(&config).unwrap().into()).unwrap();
    assert_refused(&repository, &first, &second, slot, ErrorKind::Unsupported);
    let again = Repository::open(repository.components().clone(), &password()).unwrap();
    assert_eq!(again.snapshots(None).unwrap().visible().count(), 1);
    assert_refused(&again, &first, &second, slot, ErrorKind::Unsupported);
}

#[test]
fn a_configuration_of_somebody_without_the_keys_is_not_obeyed() {
    let (repository, first, second, slot) = repository();
    // Its checksum fits, and it allows everything.
    let forged = Config { mac: "0".repeat(64), ..repository.inner.config.clone() };
    repository.storage().create(&keys::config(1), clear::encode(&forged).unwrap().into()).unwrap();
    assert_refused(&repository, &first, &second, slot, ErrorKind::Corrupt);
}

/// Data without settings or keys: a making that was not finished has no data, so they were lost.
#[test]
fn lost_settings_and_keys_are_not_made_anew() {
    for prefix in [keys::CONFIG, keys::KEYS] {
        let (repository, ..) = repository();
        repository.list(prefix).unwrap().iter().for_each(|key| repository.storage().delete(key).unwrap());
        let before = repository.list("").unwrap();
        let components = repository.components();
        let options = InitOptions { password_cost: CHEAP, ..InitOptions::default() };
        let made = Repository::init(components.clone(), &options, &password()).unwrap_err();
        assert!(made.kind() == ErrorKind::Corrupt && made.to_string().contains(prefix), "{made}");
        let opened = Repository::open(components.clone(), &password()).unwrap_err();
        assert!(matches!(opened.kind(), ErrorKind::Corrupt | ErrorKind::Denied), "{opened}");
        assert_eq!(repository.list("").unwrap(), before);
    }
}

use super::*;
use crate::storage::Memory;
use crate::{Components, Credential, InitOptions, PasswordCost, System};
use std::sync::Arc;

fn repository() -> Repository {
    let components = Components {
        storage: Arc::new(Memory::default()),
        clock: Arc::new(System::default()),
        rng: Arc::new(System::default()),
    };
    let options = InitOptions { password_cost: PasswordCost { memory_kib: 8, passes: 1 }, ..InitOptions::default() };
    Repository::init(components, &options, &Credential::Password("x".to_owned().into())).unwrap()
}

/// A snapshot of nothing.
fn snapshot(repository: &Repository, name: &str, partial: bool) -> SnapshotId {
    let session = Session::start(repository, name, &ParentChoice::None).unwrap().0;
    let ids = &repository.keys().ids;
    let record = SnapshotRecord {
        name: name.into(),
        size: 0,
        class: 16,
        levels: 1,
        root: ids.root(0, 16, 1, None),
        top: Vec::new(),
        chunks: 0,
        parent: None,
        tags: Default::default(),
        started: session.started,
        ended: session.started,
        host: String::new(),
        source: String::new(),
        run: String::new(),
        engine: String::new(),
        partial,
        resumed: false,
        stats: Default::default(),
        version: String::new(),
        nonce: [0; 16],
        tree: None,
        origin: None,
    };
    session.commit(record).unwrap().id
}

#[test]
fn a_parent_that_was_named_and_cannot_be_one_is_refused_with_the_reason() {
    let repository = repository();
    let good = snapshot(&repository, "vm", false);
    let partial = snapshot(&repository, "vm", true);
    let other = snapshot(&repository, "other", false);
    let forgotten = snapshot(&repository, "vm", false);
    repository.forget(&forgotten, Duration::from_secs(60), "test").unwrap();
    let list = || repository.snapshots(Some(repository.volume_id("vm"))).unwrap();
    let choose = |id| choose_parent(&repository, &list(), &ParentChoice::Snapshot(id));
    assert_eq!(choose(good).unwrap().unwrap().id, good);
    for (id, word) in [(partial, "partial"), (other, "of another volume (\"other\")"), (forgotten, "forgotten")] {
        let error = choose(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && text.contains(&id.to_string()), "{text}");
    }
    assert_eq!(choose(SnapshotId::new([9; 16])).unwrap_err().kind(), ErrorKind::NoSnapshot);
    // And the newest whole one that nobody forgot is taken where none is named.
    let auto = choose_parent(&repository, &list(), &ParentChoice::Auto).unwrap();
    assert_eq!(auto.unwrap().id, good);
}

/// Whose silence counts is told by an object that is written below gc/. A policy may keep that from writers: it costs uploads.
#[test]
fn without_the_clock_of_the_storage_nobody_is_taken_over() {
    let (storage, clock, repository) = crate::testing::repository();
    let start = || Session::start(&repository, "vm", &ParentChoice::None).map(|(session, _)| session);
    let ended = |id| repository.storage().head(&keys::snap(&repository.volume_id("vm"), &id)).is_ok();
    let left = start().unwrap().id;
    clock.advance(SILENT + Duration::from_secs(60));
    *storage.refuses.lock() = Some((keys::LEAD, ErrorKind::Denied));
    let alone = start().unwrap().id;
    assert!(!ended(left), "it may be at work");
    *storage.refuses.lock() = Some((keys::LEAD, ErrorKind::Unavailable));
    assert_eq!(start().unwrap_err().kind(), ErrorKind::Unavailable);
    *storage.refuses.lock() = None;
    start().unwrap();
    assert!(ended(left) && !ended(alone), "that one is silent, and this one has just begun");
}

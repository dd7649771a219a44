//! Runs that meet trouble: what the random histories of `model.rs` have found, one by one.

use std::sync::Arc;
use std::time::Duration;
use wherry_repo::storage::Storage;
use wherry_repo::{CommitInfo, Components, ErrorKind, Repository, SnapshotWriter};
use wherry_tests::small::*;
use wherry_tests::witness::Witness;

fn repository() -> (Arc<Witness>, Repository) {
    let storage = Arc::new(Witness::new(Arc::new(TestClock::default())));
    let repository = init(storage.clone()).unwrap();
    (storage, repository)
}

/// A disk of several leaves.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 300 * UNIT + 99];
    for n in [0, 1, 2, 129, 130, 299] {
        disk[n * UNIT..][..UNIT].copy_from_slice(&noise(n as u64, UNIT));
    }
    disk[300 * UNIT..].fill(7);
    disk
}

fn info(disk: &[u8]) -> CommitInfo {
    CommitInfo { size: disk.len() as u64, ..CommitInfo::default() }
}

fn delete(storage: &Witness, prefix: &str) {
    for key in keys_of(storage).into_iter().filter(|key| key.as_str().starts_with(prefix)) {
        storage.delete(&key).unwrap();
    }
}

#[test]
fn what_is_lost_is_not_taken_over_unread() {
    let (storage, repository) = repository();
    let disk = disk();
    backup(&repository, "vm", &disk).unwrap();
    delete(&storage, "packs/");
    // This caller does not ask what can be taken over.
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    writer.inherit(0..301, disk.len() as u64).unwrap();
    let refused = writer.commit(info(&disk)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Internal, "{refused}");
    assert!(refused.to_string().contains("nothing is committed"), "{refused}");
}

/// What of the map cannot be read is written anew; chunks elsewhere are taken over unread nevertheless.
#[test]
fn a_damaged_part_of_the_parent_keeps_no_other_part_from_being_taken_over() {
    let (storage, repository) = repository();
    let size = 20_000 * UNIT as u64;
    let info = || CommitInfo { size, ..CommitInfo::default() };
    let start = || SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    let put = |writer: &SnapshotWriter, n: u64, seed: u64| {
        writer.put(&mut writer.scratch().unwrap(), n, &noise(seed, UNIT)).unwrap();
    };
    let writer = start();
    [5, 130, 16_400].into_iter().for_each(|n| put(&writer, n, n));
    writer.commit(info()).unwrap();
    let is_node = |key: &wherry_repo::Key| key.as_str().starts_with("meta/");
    let first: Vec<_> = keys_of(&*storage).into_iter().filter(is_node).collect();
    let writer = start();
    [(5, 5), (130, 7), (16_400, 16_400)].into_iter().for_each(|(n, seed)| put(&writer, n, seed));
    writer.commit(info()).unwrap();
    for key in keys_of(&*storage).iter().filter(|key| is_node(key) && !first.contains(key)) {
        storage.delete(key).unwrap();
    }
    let writer = start();
    writer.inherit(16_384..20_000, (20_000 - 16_384) * UNIT as u64).unwrap();
    [(5, 5), (130, 8)].into_iter().for_each(|(n, seed)| put(&writer, n, seed));
    let snapshot = writer.commit(info()).unwrap();
    let reader = wherry_repo::SnapshotReader::open(&repository, &snapshot).unwrap();
    for (n, seed) in [(5, 5), (130, 8), (16_400, 16_400)] {
        let chunk = reader.chunk(n).unwrap().unwrap();
        assert!(reader.read_chunk(&chunk).unwrap().as_ref() == noise(seed, UNIT), "chunk {n}");
    }
}

#[test]
fn what_a_refused_parent_interrupts_is_resumed_all_the_same() {
    let (storage, repository) = repository();
    let disk = disk();
    let first = backup(&repository, "vm", &disk).unwrap();
    let mut changed = disk.clone();
    changed[UNIT..2 * UNIT].copy_from_slice(&noise(77, UNIT));
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    put_all(&writer, &changed).unwrap();
    writer.abandon().unwrap();
    let (again, id) = (repository.clone(), first.id);
    storage.on_open(Box::new(move || assert!(again.forget(&id, Duration::from_secs(9), "now").unwrap())));
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    assert!(writer.parent().is_none() && writer.is_resumed());
    put_all(&writer, &changed).unwrap();
    let snapshot = writer.commit(info(&changed)).unwrap();
    assert_eq!(snapshot.record.stats.known, UNIT as u64, "what the dead run had stored");
    assert_eq!(repository.snapshots(None).unwrap().fenced.len(), 2, "the dead one, and the one whose parent went");
}

/// C4: it lived, only too slowly, and looks for its Fence before it commits; what decides is who creates the key.
#[test]
fn a_run_that_is_taken_for_dead_while_it_commits_has_no_snapshot() {
    let clock = Arc::new(TestClock::default());
    let storage = Arc::new(Witness::new(clock.clone()));
    let repository = init_with(Components { clock: clock.clone(), ..components(storage.clone()) }).unwrap();
    let disk = disk();
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    put_all(&writer, &disk).unwrap();
    let (again, later) = (repository.clone(), clock.clone());
    storage.before_outcome(Box::new(move || {
        later.advance(Duration::from_secs(3 * 3600));
        let next = SnapshotWriter::start(&again, index(), &options("vm")).unwrap();
        assert!(next.is_resumed());
    }));
    let refused = writer.commit(info(&disk)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    let list = repository.snapshots(None).unwrap();
    assert_eq!((list.snapshots.len(), list.fenced.len()), (0, 1));
}

/// Collectors on other machines would wait for a session that never came to work: it ends itself.
#[test]
fn a_run_that_cannot_begin_leaves_no_session_open() {
    let (storage, repository) = repository();
    let list = wherry_repo::storage::keys::generation(1);
    storage.create(&list, bytes::Bytes::from_static(b"no list")).unwrap();
    let refused = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let opened = keys_of(&*storage).into_iter().filter(|key| key.as_str().ends_with("/open")).count();
    assert_eq!((opened, repository.snapshots(None).unwrap().fenced.len()), (1, 1));
}

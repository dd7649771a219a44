//! Disks go in and come out, on a storage in memory.

#[path = "repository/copy.rs"]
mod copy;

use wherry_repo::storage::Storage;
use wherry_repo::{CommitInfo, Components, ErrorKind, ParentChoice, Repository, SnapshotWriter};
use wherry_tests::small::*;

/// A disk with holes, zeros, text and noise, whose end is no multiple of anything.
fn disk(seed: u64) -> Vec<u8> {
    let mut disk = vec![0; 40 * UNIT + 1234];
    for n in [0, 1, 2, 7, 20, 21, 39] {
        disk[n * UNIT..][..UNIT].copy_from_slice(&noise(seed + n as u64, UNIT));
    }
    disk[10 * UNIT..][..7 * 8000].copy_from_slice(&b"wherry ".repeat(8000));
    disk[40 * UNIT..].fill(7);
    disk
}

#[test]
fn what_goes_in_comes_out() {
    let (_, repository) = in_memory();
    for (n, disk) in [disk(1), vec![], vec![0; 3 * UNIT], vec![1], disk(2)[..UNIT * 2].to_vec()].into_iter().enumerate()
    {
        let snapshot = backup(&repository, &format!("vm{n}"), &disk).unwrap();
        assert!(restore(&repository, &snapshot).unwrap() == disk, "disk {n}");
        let stats = snapshot.record.stats;
        assert_eq!(stats.read, disk.len() as u64);
        assert_eq!(stats.zero + stats.unchanged + stats.known + stats.new, stats.read);
    }
    let found = repository.snapshots(None).unwrap();
    assert_eq!((found.snapshots.len(), found.damaged.len()), (5, 0));
}

#[test]
fn a_size_that_does_not_fit_the_chunks_is_not_committed() {
    let (_, repository) = in_memory();
    let disk = disk(1);
    for size in [disk.len() - 1, disk.len() + 1, 41 * UNIT, 0] {
        let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
        put_all(&writer, &disk).unwrap();
        let error = writer.commit(CommitInfo { size: size as u64, ..CommitInfo::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{size}: {error}");
    }
    assert!(repository.snapshots(None).unwrap().snapshots.is_empty());
}

#[test]
fn an_unchanged_disk_stores_nothing_and_a_changed_chunk_little() {
    let (storage, repository) = in_memory();
    let mut disk = disk(1);
    let first = backup(&repository, "vm", &disk).unwrap();
    let objects = keys_of(&*storage).len();
    let second = backup(&repository, "vm", &disk).unwrap();
    assert_eq!(second.record.parent, Some(first.id));
    assert_eq!((second.record.stats.new, second.record.stats.stored), (0, 0));
    assert_eq!(second.record.root, first.record.root);
    assert_eq!(keys_of(&*storage).len(), objects + 4, "open, seen, beat and the snapshot");
    disk[20 * UNIT] ^= 1;
    let third = backup(&repository, "vm", &disk).unwrap();
    assert_eq!(third.record.stats.new, UNIT as u64);
    assert_ne!(third.record.root, first.record.root);
    assert!(restore(&repository, &third).unwrap() == disk);
}

#[test]
fn the_index_finds_chunks_under_another_name_and_without_a_parent() {
    let (_, repository) = in_memory();
    let disk = disk(3);
    let index = index();
    backup_with(&repository, index.clone(), &options("a"), &disk).unwrap();
    let b = backup_with(&repository, index.clone(), &options("b"), &disk).unwrap();
    assert_eq!((b.record.stats.new, b.record.stats.stored), (0, 0));
    let none = wherry_repo::WriterOptions { parent: ParentChoice::None, ..options("a") };
    assert_eq!(backup_with(&repository, index, &none, &disk).unwrap().record.stats.new, 0);
    // A new index, from segments.
    let rebuilt = wherry_tests::small::index();
    assert!(rebuilt.synchronise(&repository, true).unwrap().segments > 0);
    assert_eq!(backup_with(&repository, rebuilt, &none, &disk).unwrap().record.stats.new, 0);
    // And without any: all of it is new.
    let stats = backup(&repository, "c", &disk).unwrap().record.stats;
    assert_eq!(stats.new, stats.read - stats.zero - stats.known);
}

#[test]
fn a_new_index_is_made_from_trailers_when_segments_are_lost() {
    let (storage, repository) = in_memory();
    let disk = disk(3);
    backup(&repository, "a", &disk).unwrap();
    for key in keys_of(&*storage).into_iter().filter(|k| k.as_str().starts_with("idx/")) {
        storage.delete(&key).unwrap();
    }
    let index = index();
    let synced = index.synchronise(&repository, true).unwrap();
    assert!(synced.packs > 0 && synced.segments == 0, "{synced:?}");
    assert_eq!(backup_with(&repository, index, &options("b"), &disk).unwrap().record.stats.new, 0);
}

#[test]
fn a_run_that_was_left_is_taken_over() {
    let (_, repository) = in_memory();
    let disk = disk(5);
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    put_all(&writer, &disk).unwrap();
    let dead = writer.id();
    writer.abandon().unwrap();
    assert!(repository.snapshots(None).unwrap().snapshots.is_empty(), "a run that was given up leaves no snapshot");
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    assert!(writer.is_resumed());
    put_all(&writer, &disk).unwrap();
    let snapshot = writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() }).unwrap();
    assert_eq!((snapshot.record.stats.new, snapshot.record.resumed), (0, true));
    assert!(restore(&repository, &snapshot).unwrap() == disk);
    assert_ne!(snapshot.id, dead);
    let fences = repository.snapshots(None).unwrap().fenced.len();
    assert_eq!(fences, 1, "the dead one can never commit");
}

#[test]
fn chunks_of_lost_packs_are_stored_anew() {
    let (storage, repository) = in_memory();
    // Several leaves: those of the parent say where the lost chunks were, and must not be taken over.
    let mut disk = disk(6);
    disk.resize(300 * UNIT, 0);
    let index = index();
    let first = backup_with(&repository, index.clone(), &options("vm"), &disk).unwrap();
    for key in keys_of(&*storage).into_iter().filter(|k| k.as_str().starts_with("packs/")) {
        storage.delete(&key).unwrap();
    }
    assert_eq!(restore(&repository, &first).unwrap_err().kind(), ErrorKind::Corrupt);
    let second = backup_with(&repository, index, &options("vm"), &disk).unwrap();
    assert!(second.record.stats.new > 0);
    assert!(restore(&repository, &second).unwrap() == disk);
}

#[test]
fn a_forgotten_snapshot_is_hidden_kept_and_can_be_had_back() {
    let (_, repository) = in_memory();
    let disk = disk(7);
    let first = backup(&repository, "vm", &disk).unwrap();
    let week = std::time::Duration::from_secs(7 * 86_400);
    assert!(repository.forget(&first.id, week, "test").unwrap());
    assert!(!repository.forget(&first.id, week, "test").unwrap(), "twice is once");
    let list = repository.snapshots(None).unwrap();
    assert_eq!((list.visible().count(), list.snapshots.len()), (0, 1));
    assert!(restore(&repository, &first).unwrap() == disk);
    let second = backup(&repository, "vm", &disk).unwrap();
    assert_eq!(second.record.parent, None, "what is being forgotten is not built upon");
    assert!(repository.unforget(&first.id).unwrap());
    assert_eq!(repository.snapshots(None).unwrap().visible().count(), 2);
    assert!(repository.forget(&first.id, week, "again").unwrap());
    assert_eq!(repository.snapshots(None).unwrap().visible().count(), 1);
}

#[test]
fn a_second_init_touches_nothing_and_a_wrong_password_is_denied() {
    let (storage, repository) = in_memory();
    let before = keys_of(&*storage);
    assert_eq!(init(storage.clone()).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(keys_of(&*storage), before);
    let wrong = wherry_repo::Credential::Password("wrong".to_owned().into());
    let open = |credential: &_| Repository::open(components(storage.clone()), credential);
    assert_eq!(open(&wrong).unwrap_err().kind(), ErrorKind::Denied);
    let slot = repository.add_slot(&wrong, CHEAP).unwrap();
    open(&wrong).unwrap();
    repository.remove_slot(slot).unwrap();
    assert_eq!(open(&wrong).unwrap_err().kind(), ErrorKind::Denied);
    let last = repository.slots().unwrap()[0].as_ref().unwrap().slot;
    assert_eq!(repository.remove_slot(last).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn an_interrupted_init_is_finished() {
    let (whole, _) = in_memory();
    for missing in 1..=2 {
        let storage = std::sync::Arc::new(wherry_repo::storage::Memory::default());
        let mut keys = keys_of(&*whole);
        keys.sort_by_key(|k| match k.as_str() {
            "repo.json" => 0,
            k if k.starts_with("keys/") => 1,
            _ => 2,
        });
        for key in &keys[..keys.len() - missing] {
            storage.create(key, whole.get(key).unwrap()).unwrap();
        }
        let open = Repository::open(components(storage.clone()), &password());
        assert_eq!(open.unwrap_err().kind(), ErrorKind::NoRepository);
        let repository = init(storage.clone()).unwrap();
        let disk = disk(8);
        let snapshot = backup(&repository, "vm", &disk).unwrap();
        let again = Repository::open(components(storage), &password()).unwrap();
        assert!(restore(&again, &snapshot).unwrap() == disk);
    }
}

#[test]
fn inherited_chunks_are_the_parents() {
    let (_, repository) = in_memory();
    let mut disk = disk(9);
    backup(&repository, "vm", &disk).unwrap();
    disk[20 * UNIT] ^= 1;
    let writer = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    assert!(writer.can_inherit());
    writer.inherit(0..20, 20 * UNIT as u64).unwrap();
    writer.inherit(21..41, 19 * UNIT as u64 + 1234).unwrap();
    let mut scratch = writer.scratch().unwrap();
    writer.put(&mut scratch, 20, &disk[20 * UNIT..21 * UNIT]).unwrap();
    let snapshot = writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() }).unwrap();
    assert!(restore(&repository, &snapshot).unwrap() == disk);
    let stats = snapshot.record.stats;
    assert_eq!((stats.new, stats.unchanged), (UNIT as u64, (disk.len() - UNIT) as u64));
}

#[test]
fn a_map_of_many_levels_costs_little_where_nothing_is() {
    let (_, repository) = in_memory();
    let options = options("sparse");
    let writer = SnapshotWriter::start(&repository, index(), &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    let size: u64 = 15 << 40;
    let count = size / UNIT as u64;
    let numbers: Vec<u64> = (0..64).map(|i| i * (count / 64) + i).collect();
    for n in &numbers {
        writer.put(&mut scratch, *n, &noise(*n, UNIT)).unwrap();
        writer.advance(n + 1).unwrap();
    }
    let snapshot = writer.commit(CommitInfo { size, ..CommitInfo::default() }).unwrap();
    assert_eq!((snapshot.record.chunks, snapshot.record.levels), (64, 4));
    assert!(snapshot.record.stats.metadata < 64 << 10, "{} bytes", snapshot.record.stats.metadata);
    let reader = wherry_repo::SnapshotReader::open(&repository, &snapshot).unwrap();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some((chunks, then)) = reader.next_chunks(next).unwrap() {
        for chunk in chunks {
            assert!(reader.read_chunk(&chunk).unwrap().as_ref() == noise(chunk.number, UNIT));
            found.push(chunk.number);
        }
        next = then;
    }
    assert_eq!(found, numbers);
}

#[test]
fn a_condemned_pack_is_never_hit() {
    use wherry_repo::format::records::Generation;
    let (storage, repository) = in_memory();
    let disk = disk(10);
    let index = index();
    backup_with(&repository, index.clone(), &options("a"), &disk).unwrap();
    let condemned = keys_of(&*storage).iter().filter_map(wherry_repo::storage::keys::parse_pack).collect();
    let list = Generation { condemned, ..Generation::default() };
    repository.publish_generation(1, &list).unwrap();
    let stats = backup_with(&repository, index.clone(), &options("b"), &disk).unwrap().record.stats;
    assert_eq!(stats.known, 0, "every hit was barred");
    // A list that appears while a run is under way ends it when it has hit what is condemned now.
    let writer = SnapshotWriter::start(&repository, index, &options("c")).unwrap();
    put_all(&writer, &disk).unwrap();
    let condemned = keys_of(&*storage).iter().filter_map(wherry_repo::storage::keys::parse_pack).collect();
    repository.publish_generation(2, &Generation { condemned, ..Generation::default() }).unwrap();
    let lost = writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() });
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn two_runs_of_one_volume_both_commit() {
    let (storage, repository) = in_memory();
    let other = Repository::open(Components { storage: storage.clone(), ..components(storage) }, &password()).unwrap();
    let (a, b) = (disk(11), disk(12));
    let one = SnapshotWriter::start(&repository, index(), &options("vm")).unwrap();
    let two = SnapshotWriter::start(&other, index(), &options("vm")).unwrap();
    assert!(!two.is_resumed(), "a session that lives is not taken over");
    put_all(&one, &a).unwrap();
    put_all(&two, &b).unwrap();
    let info = |disk: &[u8]| CommitInfo { size: disk.len() as u64, ..CommitInfo::default() };
    let (one, two) = (one.commit(info(&a)).unwrap(), two.commit(info(&b)).unwrap());
    assert!(restore(&repository, &one).unwrap() == a && restore(&repository, &two).unwrap() == b);
}

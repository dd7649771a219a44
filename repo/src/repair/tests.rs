use super::*;
use crate::index::ChunkIndex;
use crate::storage::Storage;
use crate::testing::{backup, repository};
use crate::{CheckOptions, ReadData};

fn rebuild(repository: &Repository) -> Rebuilt {
    repository.rebuild_index(&|_, _| Ok(())).unwrap()
}

/// Chunks that a new index finds by what the segments say alone.
fn found(repository: &Repository) -> (usize, usize) {
    let index = ChunkIndex::in_memory(1 << 20);
    let synced = index.synchronise(repository, false).unwrap();
    let mut known = 0;
    for key in repository.list(keys::PACKS).unwrap() {
        let (own, epoch, _) =
            read_index(repository.storage(), repository.keys(), &keys::parse_pack(&key).unwrap()).unwrap();
        for entry in &own.entries {
            let at = own.location(entry, &keys::parse_pack(&key).unwrap(), epoch).unwrap();
            known += usize::from(index.lookup(&entry.id.short()).unwrap().contains(&at));
        }
    }
    (known, synced.damaged)
}

#[test]
fn what_no_segment_names_is_named_again_as_it_was() {
    let (storage, _, repository) = repository();
    backup(&repository, "a", 20);
    backup(&repository, "b", 9);
    let before = found(&repository);
    assert!(before.0 >= 29 && before.1 == 0, "{before:?}");
    let whole = rebuild(&repository);
    assert_eq!((whole.rebuilt, whole.written, whole.unreadable.len()), (0, 0, 0), "nothing is lacking");

    // One is lost, one is damaged: both are made again, and nobody stumbles over the damaged one any more.
    let segments = repository.list(keys::IDX).unwrap();
    storage.delete(&segments[0]).unwrap();
    assert!(found(&repository).0 < before.0);
    let mut bytes = storage.get(&segments[1]).unwrap().to_vec();
    bytes[40] ^= 1;
    storage.overwrite(&segments[1], bytes.into()).unwrap();
    assert_eq!(found(&repository).1, 1, "whoever makes an index stumbles over it");
    let done = rebuild(&repository);
    assert!(done.rebuilt > 0 && done.written == 1 && done.damaged.len() == 1 && done.unreadable.is_empty(), "{done:?}");
    assert_eq!(found(&repository), before);
    assert!(repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap().is_clean());
    assert_eq!(rebuild(&repository).written, 0, "a second time there is nothing to do");

    repository.list(keys::IDX).unwrap().iter().for_each(|key| storage.delete(key).unwrap());
    let done = rebuild(&repository);
    assert_eq!((done.rebuilt, done.packs), (done.packs, repository.list(keys::PACKS).unwrap().len() as u64));
    assert_eq!(found(&repository), before);
}

#[test]
fn a_damaged_pack_is_left_as_it_is_and_named() {
    let (storage, _, repository) = repository();
    backup(&repository, "a", 20);
    repository.list(keys::IDX).unwrap().iter().for_each(|key| storage.delete(key).unwrap());
    let packs = repository.list(keys::PACKS).unwrap();
    let mut bytes = storage.get(&packs[0]).unwrap().to_vec();
    let at = bytes.len() - 80;
    bytes[at] ^= 1;
    storage.overwrite(&packs[0], bytes.clone().into()).unwrap();
    let done = rebuild(&repository);
    assert_eq!((done.unreadable.len(), done.rebuilt), (1, packs.len() as u64 - 1), "{done:?}");
    assert_eq!(done.unreadable[0].0, packs[0]);
    assert_eq!(storage.get(&packs[0]).unwrap(), bytes);
    let all = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    let report = repository.check(&all, &|_, _, _| Ok(())).unwrap();
    assert_eq!(report.damages.len(), 1, "no damage looks mended: {:?}", report.damages);
}

#[test]
fn a_rebuild_that_is_ended_has_removed_nothing() {
    let (storage, _, repository) = repository();
    backup(&repository, "a", 20);
    let segments = repository.list(keys::IDX).unwrap();
    storage.overwrite(&segments[0], b"junk"[..].into()).unwrap();
    let enough = |_, _| Err(Error::new(ErrorKind::Cancelled, "enough"));
    assert_eq!(repository.rebuild_index(&enough).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(repository.list(keys::IDX).unwrap(), segments);
}

/// Beside a feature of collectors that this build does not know a collector deletes nothing. What others remove there is no truth, one by one,
/// and the page says why that is harmless.
#[test]
fn what_goes_beside_an_unknown_feature_of_collectors() {
    use crate::format::records::{Process, SessionKind, SessionOpen};
    let (storage, clock, first) = repository();
    let kept = backup(&first, "vm", 9);
    let forgotten = backup(&first, "other", 5);
    first.forget(&forgotten.id, std::time::Duration::ZERO, "test").unwrap();
    assert!(first.settle(&forgotten.id).unwrap());
    let check = |repository: &Repository| {
        let read_data = Some(ReadData::default());
        repository.check(&CheckOptions { read_data, keep: true, ..CheckOptions::default() }, &|_, _, _| Ok(())).unwrap()
    };
    check(&first);
    let lost = crate::testing::writer(&first, "lost");
    // A reader whose process is gone.
    let reader = SessionId::new([7; 16]);
    let open = SessionOpen {
        kind: SessionKind::Read,
        volume: kept.volume,
        name: "vm".into(),
        parent: Some(kept.id),
        adopts: Vec::new(),
        process: Process { start: 1, ..Process::current() },
        started: first.clock().now(),
        nonce: [0; 16],
    };
    first.create(&keys::session(&reader, "open"), &open).unwrap();
    let lost_id = lost.id();
    storage.overwrite(&keys::session(&lost_id, "open"), "damaged".into()).unwrap();
    let segment = first.list(keys::IDX).unwrap().remove(0);
    let note = first.list(keys::CHECKED).unwrap().remove(0);
    [&segment, &note].into_iter().for_each(|key| storage.overwrite(key, "damaged".into()).unwrap());
    first.publish_config(1, |config| config.gc = vec!["later".into()]).unwrap();

    let repository = Repository::open(first.components().clone(), &crate::testing::password()).unwrap();
    let gone = |work: &dyn Fn()| -> Vec<String> {
        let before = repository.list("").unwrap();
        work();
        let after = repository.list("").unwrap();
        before.into_iter().filter(|key| !after.contains(key)).map(|key| key.to_string()).collect()
    };
    assert_eq!(gone(&|| drop(backup(&repository, "vm", 4))), [keys::session(&reader, "open").to_string()]);
    clock.advance(std::time::Duration::from_secs(7201));
    let repaired = gone(&|| {
        rebuild(&repository);
        assert!(repository.end_lost_sessions().unwrap().iter().all(|lost| lost.ended));
    });
    let own = format!("sess/{lost_id}/");
    let others: Vec<_> = repaired.iter().filter(|key| !key.starts_with(&own)).collect();
    assert!(repaired.len() > 1 && others == [segment.as_str()], "{repaired:?}");
    let checked = gone(&|| drop(check(&repository)));
    assert!(!checked.is_empty() && checked.iter().all(|key| key.starts_with(keys::CHECKED)), "{checked:?}");
    let collected = gone(&|| {
        let error = repository.collect(&crate::CollectOptions::default(), &|_, _, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
    assert_eq!(collected, [""; 0]);
    drop(lost);
}

use crate::format::clear;
use crate::index::ChunkIndex;
use crate::keys::Credential;
use crate::storage::{Storage, keys};
use crate::testing::{UNIT, backup, chunk, password, repository};
use crate::{
    CommitInfo, Error, ErrorKind, ParentChoice, PasswordCost, Put, Repository, Result, Snapshot, SnapshotReader,
    SnapshotWriter, WriterOptions,
};
use std::sync::Arc;

const CHEAP: PasswordCost = PasswordCost::new(8, 1);

fn key_file(n: u8) -> Credential {
    Credential::KeyFile(vec![n; 32].into())
}

fn open(repository: &Repository, credential: &Credential) -> Result<Repository> {
    Repository::open(repository.components().clone(), credential)
}

/// Reads all of a disk that [`backup`] made.
fn read(repository: &Repository, snapshot: &Snapshot) -> Result<()> {
    let reader = SnapshotReader::open(repository, snapshot)?;
    for n in 0..reader.chunk_count() {
        let at = reader.chunk(n)?.ok_or_else(|| Error::internal("a chunk is gone"))?;
        assert!(reader.read_chunk(&at)?.as_ref() == chunk(n));
    }
    assert_eq!(reader.size(), reader.chunk_count() * UNIT as u64);
    Ok(())
}

/// The epochs of all packs.
fn epochs(repository: &Repository) -> Vec<u32> {
    let mut found = Vec::new();
    for key in repository.list(keys::PACKS).unwrap() {
        let pack = keys::parse_pack(&key).unwrap();
        found.push(crate::pack::read_index(repository.storage(), repository.keys(), &pack).unwrap().1);
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn new_packs_have_the_new_epoch_and_every_way_in_reads_old_and_new() {
    let (_, _, before) = repository();
    before.add_slot(&key_file(1), CHEAP).unwrap();
    let old = backup(&before, "vm", 3);
    let rotated = before.rotate(&[key_file(9), key_file(1)]).unwrap();
    assert_eq!((rotated.epoch, rotated.slots.len(), rotated.left_out.len()), (1, 2, 0));
    let config = crate::newest_config(before.storage()).unwrap().unwrap().1;
    assert_eq!(config.read, ["epochs"], "older builds must not take new packs for damage");

    // Who was there before goes on under the epoch it knows.
    let meanwhile = backup(&before, "meanwhile", 2);
    let after = open(&before, &password()).unwrap();
    assert_eq!(epochs(&after), [0]);
    let new = backup(&after, "new", 4);
    assert_eq!(epochs(&after), [0, 1]);
    for credential in [password(), key_file(1)] {
        let repository = open(&before, &credential).unwrap();
        for snapshot in [&old, &meanwhile, &new] {
            read(&repository, snapshot).unwrap();
        }
    }
    // Until it meets a newer one.
    read(&before, &new).unwrap();
    backup(&before, "meanwhile", 5);
    assert_eq!(before.keys().epoch(), 1);

    // A way in that is made now has it all; and so on.
    after.add_slot(&key_file(2), CHEAP).unwrap();
    assert_eq!(after.rotate(&[key_file(1), key_file(2)]).unwrap().epoch, 2);
    let last = open(&before, &key_file(1)).unwrap();
    let newest = backup(&last, "newest", 1);
    assert_eq!(epochs(&last), [0, 1, 2]);
    for credential in [password(), key_file(1), key_file(2)] {
        let repository = open(&before, &credential).unwrap();
        [&old, &meanwhile, &new, &newest].into_iter().for_each(|snapshot| read(&repository, snapshot).unwrap());
        assert!(repository.check(&Default::default(), &|_, _, _| Ok(())).unwrap().is_clean());
    }
}

#[test]
fn a_slot_that_nobody_opens_keeps_the_keys_as_they_are() {
    let (storage, _, repository) = repository();
    let slot = repository.add_slot(&key_file(1), CHEAP).unwrap();
    let count = || {
        let mut count = 0;
        let mut found = |_| {
            count += 1;
            Ok(())
        };
        storage.list("", &mut found).unwrap();
        count
    };
    let before = count();
    for others in [&[][..], &[key_file(2), Credential::Password("y".to_owned().into())]] {
        let error = repository.rotate(others).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(&format!("{slot:016x}")), "{error}");
        assert_eq!(count(), before);
    }
    repository.remove_slot(slot).unwrap();
    assert_eq!(repository.rotate(&[]).unwrap().epoch, 1);
}

#[test]
fn of_two_who_rotate_at_once_one_does() {
    let (storage, _, repository) = repository();
    let other = repository.clone();
    let hook = move || assert_eq!(other.rotate(&[]).unwrap().epoch, 1);
    *storage.before.lock() = Some(("epoch-00000001", Box::new(hook)));
    let error = repository.rotate(&[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("somebody else"), "{error}");
    assert!(storage.before.lock().is_none());
    let after = open(&repository, &password()).unwrap();
    read(&open(&repository, &password()).unwrap(), &backup(&after, "vm", 2)).unwrap();
    assert_eq!(epochs(&after), [1]);
}

#[test]
fn a_slot_that_is_added_while_the_keys_are_rotated_is_never_taken_for_a_way_in() {
    // It is there before the epoch is, and was not seen.
    let (storage, _, repository) = repository();
    let other = repository.clone();
    let hook = move || assert!(other.add_slot(&key_file(1), CHEAP).is_ok());
    *storage.before.lock() = Some(("epoch-00000001", Box::new(hook)));
    let rotated = repository.rotate(&[]).unwrap();
    let [late] = rotated.left_out[..] else { panic!("{rotated:?}") };
    let error = open(&repository, &key_file(1)).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("add it again"), "{error}");
    let after = open(&repository, &password()).unwrap();
    let error = after.remove_slot(rotated.slots[0]).unwrap_err();
    assert!(error.to_string().contains("is the last one"), "{error}");
    assert_eq!(after.rotate(&[key_file(1)]).unwrap_err().kind(), ErrorKind::Invalid);
    after.remove_slot(late).unwrap();
    after.add_slot(&key_file(1), CHEAP).unwrap();
    read(&open(&repository, &key_file(1)).unwrap(), &backup(&after, "vm", 1)).unwrap();

    // The epoch is there first, and whoever adds a slot had opened the repository before.
    let error = repository.add_slot(&key_file(2), CHEAP).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("run the same command again"), "{error}");
    assert_eq!(open(&repository, &key_file(2)).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(repository.slots().unwrap().len(), 2);
}

#[test]
fn a_way_in_that_is_replaced_while_the_keys_are_rotated_locks_nobody_out() {
    let (storage, _, repository) = repository();
    let old = backup(&repository, "vm", 2);
    let other = repository.clone();
    let (send, left_out) = std::sync::mpsc::channel();
    let hook = move || {
        let slots: Vec<u64> = other.slots().unwrap().into_iter().map(|slot| slot.unwrap().slot).collect();
        other.add_slot(&key_file(1), CHEAP).unwrap();
        send.send(open(&other, &key_file(1)).unwrap()).unwrap();
        slots.into_iter().for_each(|slot| other.remove_slot(slot).unwrap());
        assert!(open(&other, &password()).is_err());
    };
    *storage.before.lock() = Some(("epoch-00000001", Box::new(hook)));
    let error = repository.rotate(&[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("there again"), "{error}");
    assert!(storage.before.lock().is_none());
    let left_out = left_out.recv().unwrap();
    assert_eq!(open(&repository, &key_file(1)).unwrap_err().kind(), ErrorKind::Denied);
    let after = open(&repository, &password()).unwrap();
    read(&after, &old).unwrap();
    let new = backup(&after, "vm", 3);
    read(&after, &new).unwrap();
    // Who came in by the other one meanwhile is told, and takes nothing for damage.
    let error = read(&left_out, &new).unwrap_err();
    assert!(error.kind() == ErrorKind::Denied && error.to_string().contains("does not open key epoch 1"), "{error}");
    assert!(!left_out.is_damage(&error) && read(&left_out, &old).is_ok());
}

#[test]
fn a_damaged_epoch_is_damage_for_those_who_need_it_alone() {
    let (storage, _, repository) = repository();
    repository.rotate(&[]).unwrap();
    let after = open(&repository, &password()).unwrap();
    after.add_slot(&key_file(1), CHEAP).unwrap();
    let snapshot = backup(&after, "vm", 2);
    let key = keys::epoch(1);
    let whole = storage.get(&key).unwrap();
    for n in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[n] ^= 1;
        storage.overwrite(&key, bytes.into()).unwrap();
        let error = open(&repository, &password()).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt, "byte {n}: {error}");
    }
    let other = open(&repository, &key_file(1)).unwrap();
    read(&other, &snapshot).unwrap();
    let report = other.check(&Default::default(), &|_, _, _| Ok(())).unwrap();
    assert_eq!(report.damages.len(), 1, "{:?}", report.damages);
    assert_eq!((&report.damages[0].object, report.damages[0].kind), (&key, crate::DamageKind::Epoch));
    // What `check` says is to be done about it can be done.
    let slot = other.add_slot(&key_file(2), CHEAP).unwrap();
    read(&open(&repository, &key_file(2)).unwrap(), &snapshot).unwrap();
    other.remove_slot(slot).unwrap();
    storage.overwrite(&key, whole).unwrap();
    read(&open(&repository, &password()).unwrap(), &snapshot).unwrap();
}

#[test]
fn the_number_of_an_epoch_whose_object_is_lost_is_not_taken_again() {
    let (storage, _, repository) = repository();
    repository.rotate(&[]).unwrap();
    let after = open(&repository, &password()).unwrap();
    after.add_slot(&key_file(1), CHEAP).unwrap();
    let snapshot = backup(&after, "vm", 2);
    storage.delete(&keys::epoch(1)).unwrap();
    let old = open(&repository, &password()).unwrap();
    assert_eq!(old.rotate(&[key_file(1)]).unwrap().epoch, 2);
    read(&open(&repository, &key_file(1)).unwrap(), &snapshot).unwrap();
}

#[test]
fn a_lost_epoch_is_damage_and_nothing_is_built_upon_what_it_sealed() {
    let (storage, _, repository) = repository();
    repository.rotate(&[]).unwrap();
    let after = open(&repository, &password()).unwrap();
    let snapshot = backup(&after, "vm", 4);
    assert_eq!(epochs(&after), [1]);
    let (key, object) = (keys::epoch(1), storage.get(&keys::epoch(1)).unwrap());
    storage.delete(&key).unwrap();

    let lacking = open(&repository, &password()).unwrap();
    let error = read(&lacking, &snapshot).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(key.as_str()), "{error}");
    let report = lacking.check(&Default::default(), &|_, _, _| Ok(())).unwrap();
    assert!(report.damages.iter().any(|damage| !damage.hits.is_empty()), "{report:?}");
    assert!(report.damages.iter().all(|damage| damage.what.contains(key.as_str())), "{:?}", report.damages);
    // Its number is not taken for another secret.
    let error = lacking.rotate(&[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(key.as_str()), "{error}");

    // Neither as a hit, nor taken over from the parent.
    for (volume, parent) in [("other", ParentChoice::None), ("vm", ParentChoice::Snapshot(snapshot.id))] {
        let index = Arc::new(ChunkIndex::in_memory(1 << 20));
        index.synchronise(&lacking, false).unwrap();
        let options = WriterOptions { name: volume.into(), pack_size: 512 << 10, parent, ..WriterOptions::default() };
        let writer = SnapshotWriter::start(&lacking, index, &options).unwrap();
        let mut scratch = writer.scratch().unwrap();
        for n in 0..4 {
            assert_eq!(writer.put(&mut scratch, n, &chunk(n)).unwrap(), Put::New);
        }
        writer.advance(4).unwrap();
        let anew = writer.commit(CommitInfo { size: 4 * UNIT as u64, ..CommitInfo::default() }).unwrap();
        read(&lacking, &anew).unwrap();
        lacking.list(keys::IDX).unwrap().iter().for_each(|key| storage.delete(key).unwrap());
    }
    storage.create(&key, object).unwrap();
    let mended = open(&repository, &password()).unwrap();
    read(&mended, &snapshot).unwrap();
    assert_eq!(mended.rotate(&[]).unwrap().epoch, 2);
}

#[test]
fn an_upgrade_adds_what_is_lacking_once() {
    let (storage, _, repository) = repository();
    let index = || Arc::new(ChunkIndex::in_memory(1 << 20));
    let names = |features: &[clear::Feature]| features.iter().map(|feature| feature.name).collect::<Vec<_>>();
    repository.pin(&backup(&repository, "vm", 1).id).unwrap();
    let (added, config) = repository.upgrade().unwrap();
    assert_eq!(names(&added), ["tree", "tree-map", "epochs"]);
    assert_eq!(
        (config.minor, &config.read[..], &config.gc[..]),
        (4, &["tree".into(), "tree-map".into(), "epochs".into()][..], &["pin".into()][..])
    );
    assert!(clear::KNOWN.iter().all(|feature| feature.is_in(&config)));
    let configs = || repository.list(keys::CONFIG).unwrap().len();
    let before = configs();
    let (added, again) = repository.upgrade().unwrap();
    assert!(added.is_empty() && again == config && configs() == before);
    // Nothing adds them once more.
    let tree = crate::TreeWriter::start(&repository, index(), &Default::default()).unwrap();
    drop(tree);
    repository.rotate(&[]).unwrap();
    assert_eq!(configs(), before);
    drop(storage);
    assert!(open(&repository, &password()).unwrap().has_trees());
}

/// P5: a rotation fails, its credential is exchanged, and then its request arrives: nobody is named by it. Removing it is the way back, and
/// said only where nothing can have been sealed under it.
#[test]
fn an_epoch_that_comes_too_late_for_all_slots_is_told_as_what_may_be_removed() {
    let (storage, _, first) = repository();
    let old = backup(&first, "vm", 3);
    let rotated = first.rotate(&[]).unwrap();
    let [slot] = rotated.slots[..] else { panic!("{rotated:?}") };
    let key = keys::epoch(1);
    let late = storage.get(&key).unwrap();
    storage.delete(&key).unwrap();
    let meanwhile = open(&first, &password()).unwrap();
    meanwhile.add_slot(&key_file(1), CHEAP).unwrap();
    meanwhile.remove_slot(slot).unwrap();
    storage.create(&key, late).unwrap();
    // Whoever had opened it before goes on under the epoch it knows.
    backup(&meanwhile, "meanwhile", 4);
    let error = open(&first, &key_file(1)).unwrap_err();
    let says = |text: &str| error.to_string().contains(text);
    assert!(error.kind() == ErrorKind::Denied && says("no key slot opens key epoch 1"), "{error}");
    assert!(says("remove the object keys/epoch-00000001"), "{error}");
    storage.delete(&key).unwrap();
    read(&open(&first, &key_file(1)).unwrap(), &old).unwrap();

    // A slot that opens it was lost, or cannot be read, and packs are sealed under it.
    let (storage, _, first) = repository();
    first.rotate(&[]).unwrap();
    backup(&open(&first, &password()).unwrap(), "vm", 3);
    let [(number, _)] = &crate::keys::slots(&*storage).unwrap()[..] else { panic!("one slot") };
    let (slot, epoch) = (keys::slot(*number), storage.get(&key).unwrap());
    storage.delete(&key).unwrap();
    open(&first, &password()).unwrap().add_slot(&key_file(1), CHEAP).unwrap();
    let body = storage.get(&slot).unwrap();
    storage.delete(&slot).unwrap();
    // From a copy: it is younger than the packs.
    storage.create(&key, epoch).unwrap();
    let told = || open(&first, &key_file(1)).unwrap_err().to_string();
    assert!(!told().contains("remove the object"), "packs are sealed under it: {}", told());
    for key in [first.list(keys::PACKS).unwrap(), first.list(keys::META).unwrap()].concat() {
        storage.delete(&key).unwrap();
    }
    assert!(told().contains("remove the object"), "nothing is: {}", told());
    storage.create(&slot, body.slice(..body.len() / 2)).unwrap();
    assert!(!told().contains("remove the object"), "that slot may open it: {}", told());
}

//! What is put together once there is much of it: index segments, and what checks have noted. Beside that a forget that was taken back
//! and asked for again, and the note of a collector that was killed.

use super::collected::gc;
use super::*;
use parking_lot::Mutex;
use wherry_repo::CollectOptions;

/// So many segments are put together (`MANY` in `repo/src/collect/compact.rs`), and one more is enough for what checks note.
const BACKUPS: u64 = 32;
/// What is left of them in the end.
const KEPT: [u64; 3] = [2, 17, 31];
const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn disk(n: u64) -> Vec<u8> {
    format!("disk {n:03} ").repeat(UNIT / 9).into_bytes()
}

fn name(n: u64) -> String {
    format!("vm {n}")
}

fn count(storage: &dyn Storage, part: &str) -> usize {
    keys_of(storage).iter().filter(|key| key.as_str().contains(part)).count()
}

/// As [`make`], for what is put together.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_merged() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let storage: Arc<dyn Storage> = Arc::new(Local::new(&place, false));
    let repository = init(storage.clone()).unwrap();
    let mut gone = Vec::new();
    for n in 0..BACKUPS {
        let id = backup(&repository, &name(n), &disk(n)).unwrap().id;
        check_and_note(&repository, &[id]);
        gone.extend((!KEPT.contains(&n)).then_some(id));
    }
    // A check that reads nothing, as nothing is due, puts together what the others have noted.
    check_and_note(&repository, &[]);
    assert_eq!(count(&*storage, "checked/packs/"), 1);
    let lead = Mutex::new(None);
    let options = CollectOptions {
        grace: Duration::ZERO,
        fence_after: Duration::ZERO,
        patience: Duration::ZERO,
        ..CollectOptions::default()
    };
    let report = repository.collect(&options, &|_, _, _| {
        let mut lead = lead.lock();
        *lead = lead.take().or_else(|| {
            let key = keys_of(&*storage).into_iter().find(|key| keys::parse_lead(key).is_some())?;
            Some((storage.get(&key).unwrap(), key))
        });
        Ok(())
    });
    assert_eq!(report.unwrap().segments, BACKUPS);
    for id in gone {
        repository.forget(&id, Duration::ZERO, "golden").unwrap();
    }
    assert!(gc(&repository, Duration::ZERO).swept.packs > 0);
    let list = repository.snapshots(None).unwrap();
    let again = list.visible().find(|s| s.record.name == name(KEPT[1])).unwrap().id;
    repository.forget(&again, WEEK, "golden").unwrap();
    repository.unforget(&again).unwrap();
    repository.forget(&again, WEEK, "golden").unwrap();
    // As one leaves it that is killed.
    let (body, key) = lead.into_inner().unwrap();
    storage.create(&key, body).unwrap();
}

#[test]
fn what_was_put_together_in_format_1_is_read_and_built_upon() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-merged"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let count = |part: &str| count(&*storage, part);
    assert_eq!((count("idx/"), count("checked/packs/"), count("gc/lead/"), count("/00000001-asked")), (1, 1, 1, 1));
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let list = repository.snapshots(None).unwrap();
    let forgotten: Vec<_> = list.snapshots.iter().filter(|s| list.visible().all(|seen| seen.id != s.id)).collect();
    assert_eq!(forgotten.iter().map(|s| s.record.name.clone()).collect::<Vec<_>>(), [name(KEPT[1])]);
    // The one that may still be taken back is.
    repository.unforget(&forgotten[0].id).unwrap();
    let all_is_there = |what: &str| {
        let list = repository.snapshots(None).unwrap();
        assert!(list.damaged.is_empty() && list.visible().count() == KEPT.len(), "{what}: {:?}", list.damaged);
        for n in KEPT {
            let snapshot = list.visible().find(|s| s.record.name == name(n)).unwrap();
            assert!(restore(&repository, snapshot).unwrap() == disk(n), "{what}: {n}");
        }
        list
    };
    let list = all_is_there("as it was");
    // Each was read, and that is known of the packs: nothing is due.
    let checked = repository.checked().unwrap();
    assert!(list.visible().all(|s| checked[&s.id].verified.is_some() && !checked[&s.id].damaged), "{checked:?}");
    assert!(check_and_note(&repository, &[]).is_clean());
    // The one segment says where all is: another volume with the same content brings nothing.
    let index = index();
    assert_eq!(index.synchronise(&repository, true).unwrap().packs as usize, 0);
    let stats = backup_with(&repository, index, &options("another"), &disk(KEPT[0])).unwrap().record.stats;
    assert_eq!(stats.new, 0, "{stats:?}");
    let report = gc(&repository, Duration::ZERO);
    assert_eq!((report.swept.packs, count("gc/lead/")), (0, 0), "{report:?}");
    let list = repository.snapshots(None).unwrap();
    let another = list.visible().find(|s| s.record.name == "another").unwrap();
    assert!(restore(&repository, another).unwrap() == disk(KEPT[0]));
    repository.forget(&another.id, Duration::ZERO, "golden").unwrap();
    gc(&repository, Duration::ZERO);
    all_is_there("collected");
}

//! A repository of each released format is read by every later build: opened, checked, restored, built upon.

#[path = "golden/collected.rs"]
mod collected;
#[path = "golden/later.rs"]
mod later;
#[path = "golden/merged.rs"]
mod merged;
#[path = "golden/trees.rs"]
mod trees;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::storage::{Local, Storage, keys};
use wherry_repo::{
    CheckOptions, CheckReport, Compression, CopyOptions, CopyPlan, Credential, ErrorKind, Key, ParentChoice, ReadData,
    ReadSession, Repository, Snapshot, SnapshotCopy, SnapshotId, WriterOptions,
};
use wherry_tests::small::*;

/// The disk of each snapshot, by the name of its volume, oldest first. The end is no multiple of anything.
fn disks() -> Vec<(&'static str, Compression, Vec<u8>)> {
    let mut first = vec![0; 300 * UNIT + 1234];
    first[..UNIT].copy_from_slice(&noise(1, UNIT));
    first[2 * UNIT..4 * UNIT].copy_from_slice(&b"wherry, format 1. ".repeat(2 * UNIT / 18 + 1)[..2 * UNIT]);
    first[200 * UNIT..201 * UNIT].copy_from_slice(&noise(2, UNIT));
    first[300 * UNIT..].fill(7);
    let mut second = first.clone();
    second[200 * UNIT] ^= 1;
    let text = b"another volume ".repeat(20_000);
    vec![
        ("vm", Compression::Lz4, first.clone()),
        ("vm", Compression::None, second),
        ("text", Compression::Zstd(3), text),
        ("copy", Compression::Lz4, first),
        ("nothing", Compression::Lz4, vec![0; 5 * UNIT]),
    ]
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The tests must not write into the source tree.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn key_file() -> Credential {
    Credential::KeyFile(noise(42, 32).into())
}

/// Makes the repository anew, where WHERRY_MAKE_GOLDEN says. A released one is never made again.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let storage: Arc<dyn Storage> = Arc::new(Local::new(&place, false));
    let repository = init(storage).unwrap();
    repository.add_slot(&key_file(), CHEAP).unwrap();
    let index = index();
    let mut last = None;
    for (name, compression, disk) in disks() {
        let options = WriterOptions { compression, parent: ParentChoice::Auto, ..options(name) };
        let snapshot = backup_with(&repository, index.clone(), &options, &disk).unwrap();
        last = Some(snapshot.id);
    }
    let week = std::time::Duration::from_secs(7 * 86_400);
    let last = last.unwrap();
    repository.forget(&last, week, "golden").unwrap();
    repository.unforget(&last).unwrap();
}

#[test]
fn format_1_is_read_and_built_upon() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-block"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    for credential in [password(), key_file()] {
        let repository = Repository::open(components(storage.clone()), &credential).unwrap();
        let list = repository.snapshots(None).unwrap();
        assert!(list.damaged.is_empty(), "{:?}", list.damaged);
        assert_eq!(list.visible().count(), disks().len());
        for (name, _, disk) in disks() {
            let id = repository.volume_id(name);
            let mut of_volume = list.snapshots.iter().filter(|s| s.volume == id && s.record.name == name);
            assert!(of_volume.any(|s| restore(&repository, s).unwrap() == disk), "no snapshot of {name} is this disk");
        }
    }
    let repository = Repository::open(components(storage), &password()).unwrap();
    let (name, _, disk) = disks().swap_remove(1);
    let stats = backup(&repository, name, &disk).unwrap().record.stats;
    assert_eq!((stats.new, stats.stored), (0, 0), "the map of the parent is not understood");
}

/// As [`make`], for the feature `tree`.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_tree() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let repository = init(Arc::new(Local::new(&place, false))).unwrap();
    trees::save(&repository, &trees::first());
    trees::save(&repository, &trees::second());
}

/// As [`make`], for the feature `tree-map`.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_tree_map() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let repository = init(Arc::new(Local::new(&place, false))).unwrap();
    trees::save(&repository, &trees::images(false));
    trees::save(&repository, &trees::images(true));
}

/// As [`make`], for pins, key epochs and copies: the features `pin` and `epochs`, and field 21 of a record.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_kept() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let storage: Arc<dyn Storage> = Arc::new(Local::new(&place, false));
    let repository = init(storage.clone()).unwrap();
    let disks = kept_disks();
    let pinned = backup(&repository, "pinned", &disks[0]).unwrap();
    repository.pin(&pinned.id).unwrap();
    let unpinned = backup(&repository, "unpinned", &disks[0]).unwrap();
    repository.pin(&unpinned.id).unwrap();
    repository.unpin(&unpinned.id).unwrap();
    repository.rotate(&[]).unwrap();
    let repository = Repository::open(components(storage), &password()).unwrap();
    repository.add_slot(&key_file(), CHEAP).unwrap();
    backup(&repository, "rotated", &disks[1]).unwrap();
    let (_, source) = in_memory();
    let original = backup(&source, "copied", &disks[2]).unwrap();
    let session = Arc::new(ReadSession::open(&source, &original).unwrap());
    let options = CopyOptions { writer: options(""), threads: 1, fetch: 1 << 20, run: "golden".into() };
    let (listed, there) = (source.snapshots(None).unwrap(), repository.snapshots(None).unwrap());
    let plan = CopyPlan::new(&source, listed, &repository, &there).unwrap();
    SnapshotCopy::start(session, &repository, index(), None, &options).unwrap().run(&plan, &|_| Ok(())).unwrap();
}

/// Those of the volumes `pinned` and `unpinned`, `rotated`, `copied`.
fn kept_disks() -> [Vec<u8>; 3] {
    [noise(1, 3 * UNIT), noise(2, 3 * UNIT + 5), noise(3, 2 * UNIT)]
}

#[test]
fn pins_key_epochs_and_copies_of_format_1_are_read() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-kept"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let (_, config) = wherry_repo::newest_config(&*storage).unwrap().unwrap();
    assert_eq!(
        (config.minor, &config.read[..], &config.gc[..]),
        (4, &["epochs".to_owned()][..], &["pin".to_owned()][..])
    );
    let [kept, rotated, copied] = kept_disks();
    // The slot of the password is older than the key epoch, that of the file younger.
    for credential in [password(), key_file()] {
        let repository = Repository::open(components(storage.clone()), &credential).unwrap();
        let list = repository.snapshots(None).unwrap();
        for (name, disk) in [("pinned", &kept), ("unpinned", &kept), ("rotated", &rotated), ("copied", &copied)] {
            let snapshot = list.snapshots.iter().find(|s| s.record.name == name).unwrap();
            assert!(restore(&repository, snapshot).unwrap() == *disk, "{name}");
            assert_eq!(repository.is_pinned(&snapshot.id).unwrap(), name == "pinned");
            assert_eq!(snapshot.record.origin.is_some(), name == "copied");
        }
    }
}

/// As [`make`], for what checks note: one volume is intact, a pack of the other is not.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_checked() {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let storage: Arc<dyn Storage> = Arc::new(Local::new(&place, false));
    let repository = init(storage.clone()).unwrap();
    let [intact, damaged, _] = kept_disks();
    let intact = backup(&repository, "intact", &intact).unwrap();
    check_and_note(&repository, &[intact.id]);
    let damaged = backup(&repository, "damaged", &damaged).unwrap();
    let key = pack_of(&*storage, &damaged);
    let mut body = storage.get(&key).unwrap().to_vec();
    body[1000] ^= 1;
    storage.overwrite(&key, body.into()).unwrap();
    assert!(!check_and_note(&repository, &[damaged.id]).is_clean());
}

fn pack_of(storage: &dyn Storage, snapshot: &Snapshot) -> Key {
    let is_of = |key: &Key| keys::parse_pack(key).is_some_and(|id| id.session == snapshot.id);
    keys_of(storage).into_iter().find(is_of).unwrap()
}

/// Nothing is due by its age alone.
fn check_and_note(repository: &Repository, snapshots: &[SnapshotId]) -> CheckReport {
    let max_age = snapshots.is_empty().then_some(Duration::from_secs(86_400));
    let (snapshots, read_data) = (snapshots.to_vec(), Some(ReadData { share: 1.0, max_age }));
    let options = CheckOptions { snapshots, read_data, keep: true, ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(report.kept, "{report:?}");
    report
}

#[test]
fn what_checks_noted_in_format_1_is_known() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-checked"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let list = repository.snapshots(None).unwrap().snapshots;
    let states = || {
        let checked = repository.checked().unwrap();
        list.iter()
            .map(|s| (s.record.name.clone(), checked[&s.id].verified.is_some(), checked[&s.id].damaged))
            .collect::<Vec<_>>()
    };
    let want = [("intact".to_owned(), true, false), ("damaged".to_owned(), false, true)];
    assert_eq!(states(), want);
    // What was damaged is read again, the rest is not due.
    let report = check_and_note(&repository, &[]);
    assert_eq!(report.not_read.iter().map(|left| left.packs).collect::<Vec<_>>(), [1]);
    assert_eq!(report.damages.iter().map(|damage| &damage.object).collect::<Vec<_>>(), [&pack_of(&*storage, &list[1])]);
    assert_eq!(states(), want);
}

/// Reads the trees of a golden repository; that of `again` is the newest one's, or leads to nothing that is not there.
fn trees_are_read_and_built_upon(name: &str, minor: u32, folders: &[trees::Folder], again: &trees::Folder) {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden(name), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let (_, config) = wherry_repo::newest_config(&*storage).unwrap().unwrap();
    let features = &["tree", "tree-map"][..minor as usize];
    assert!(config.minor == minor && config.read == features, "{config:?}");
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    trees::read(&repository, folders);
    let count = |prefix| keys_of(&*storage).iter().filter(|key| key.as_str().starts_with(prefix)).count();
    let before = (count("meta/"), count("config/"));
    let again = trees::save(&repository, again).record;
    assert!(again.parent.is_some() && again.stats.new == 0, "{:?}", again.stats);
    assert_eq!(before, (count("meta/"), count("config/")), "no node of the parent is written again");
}

#[test]
fn trees_of_format_1_are_read_and_built_upon() {
    trees_are_read_and_built_upon("v1-tree", 1, &[trees::first(), trees::second()], &trees::first());
}

#[test]
fn disk_images_in_trees_of_format_1_are_read_and_built_upon() {
    let both = [trees::images(false), trees::images(true)];
    trees_are_read_and_built_upon("v1-tree-map", 2, &both, &both[1]);
}

/// A build that does not know the feature finds it in the place where it looks for those that it must not read without.
#[test]
fn a_build_that_knows_no_disk_images_in_trees_refuses() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-tree-map"), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    // To this build `tree-maps` is what `tree-map` is to such a one.
    let n = keys_of(&*storage).iter().filter(|key| key.as_str().starts_with("config/")).count() as u32;
    let unknown = |config: &mut wherry_repo::format::clear::Config| {
        config.read.iter_mut().filter(|name| *name == "tree-map").for_each(|name| name.push('s'));
    };
    repository.publish_config(n, unknown).unwrap();
    let error = Repository::open(components(storage), &password()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("\"tree-maps\""), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden("v1-block"), temp.path());
    let line = std::fs::read_to_string(temp.path().join("repo.json")).unwrap();
    let newer = line.replace("\"format\":1", "\"format\":2");
    assert_ne!(line, newer);
    let at = newer.find("\"crc\":\"").unwrap() + 7;
    let zeroed = format!("{}00000000{}", &newer[..at], &newer[at + 8..]);
    let crc = format!("{:08x}", wherry_repo::format::clear::checksum(zeroed.as_bytes()));
    std::fs::write(temp.path().join("repo.json"), format!("{}{crc}{}", &newer[..at], &newer[at + 8..])).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let error = Repository::open(components(storage.clone()), &password()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(init(storage).unwrap_err().kind(), ErrorKind::Unsupported);
}

//! What later features leave behind: data that was sealed anew under another key, a tree whose chunks a collector has moved, what
//! another repository has healed, and a collector and others that were stopped in the middle. Chunks are text, so that all is small.

use super::collected::gc;
use super::trees::{self, Folder, Thing};
use super::*;
use std::collections::{BTreeMap, BTreeSet};
use wherry_repo::format::pack::{HEADER, Header};
use wherry_repo::heal::{admit, candidates, node_candidates};
use wherry_repo::{CollectOptions, Heal, HealOptions, NodeHeal, PackKind, SnapshotWriter, Wanted};

fn chunk(n: u64) -> Vec<u8> {
    format!("chunk {n:010} ").repeat(UNIT / 16 + 1).into_bytes()[..UNIT].to_vec()
}

fn disk(chunks: impl IntoIterator<Item = u64>) -> Vec<u8> {
    chunks.into_iter().flat_map(chunk).collect()
}

/// A disk whose map has two levels: 140 chunks, of which only these are not zero.
fn sparse(chunks: &[u64]) -> Vec<u8> {
    let mut disk = vec![0; 140 * UNIT];
    for n in chunks {
        disk[(*n % 140) as usize * UNIT..][..UNIT].copy_from_slice(&chunk(*n));
    }
    disk
}

fn made_here() -> (Arc<dyn Storage>, Repository) {
    let place = PathBuf::from(std::env::var_os("WHERRY_MAKE_GOLDEN").expect("WHERRY_MAKE_GOLDEN names a new folder"));
    let storage: Arc<dyn Storage> = Arc::new(Local::new(&place, false));
    let repository = init(storage.clone()).unwrap();
    (storage, repository)
}

/// A copy of a golden repository, which goes with the folder.
fn opened(name: &str) -> (tempfile::TempDir, Arc<dyn Storage>, Repository) {
    let temp = tempfile::tempdir().unwrap();
    copy(&golden(name), temp.path());
    let storage: Arc<dyn Storage> = Arc::new(Local::new(temp.path(), false));
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    (temp, storage, repository)
}

/// The newest snapshot of each volume is its disk, and all that is there is intact.
#[track_caller]
fn disks_are(repository: &Repository, disks: &[(&str, Vec<u8>)], what: &str) {
    let list = repository.snapshots(None).unwrap();
    assert!(list.damaged.is_empty(), "{what}: {:?}", list.damaged);
    for (name, disk) in disks {
        let named = list.visible().filter(|s| s.record.name == *name).max_by_key(|s| s.record.started);
        let snapshot = named.unwrap_or_else(|| panic!("{what}: {name} is lost"));
        assert!(restore(repository, snapshot).unwrap() == *disk, "{what}: {name}");
    }
    let options = CheckOptions { read_data: Some(ReadData::default()), ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    let hit: Vec<_> = report.damages.iter().filter(|damage| !damage.hits.is_empty()).collect();
    assert!(hit.is_empty(), "{what}: {hit:?}");
}

/// Which kinds of packs there are under which key epochs.
fn epochs(storage: &dyn Storage) -> BTreeSet<(bool, u32)> {
    let packs = keys_of(storage).into_iter().filter_map(|key| Some((keys::parse_pack(&key)?.kind, key)));
    let header = |key: &Key| Header::decode(&storage.get_range(key, 0..HEADER as u64).unwrap()).unwrap();
    packs.map(|(kind, key)| (kind == PackKind::Meta, header(&key).epoch)).collect()
}

fn rewritten_disks() -> Vec<(&'static str, Vec<u8>)> {
    vec![("vm", sparse(&[0, 1, 3, 130, 139])), ("other", disk([3, 700, 139]))]
}

fn anew() -> CollectOptions {
    let zero = Duration::ZERO;
    CollectOptions { rewrite: true, grace: zero, fence_after: zero, patience: zero, ..CollectOptions::default() }
}

/// As [`make`], for what `key rotate --rewrite` does.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_rewritten() {
    let (storage, repository) = made_here();
    for (name, disk) in rewritten_disks() {
        backup(&repository, name, &disk).unwrap();
    }
    repository.rotate(&[]).unwrap();
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    let report = repository.collect(&anew(), &|_, _, _| Ok(())).unwrap();
    assert!(report.rewritten.packs > 1 && report.swept.packs == report.rewritten.packs, "{report:?}");
    assert_eq!(epochs(&*storage), [(false, 1), (true, 1)].into());
}

#[test]
fn what_was_sealed_anew_in_format_1_is_read_and_built_upon() {
    let (_temp, storage, repository) = opened("v1-rewritten");
    assert_eq!(epochs(&*storage), [(false, 1), (true, 1)].into());
    let disks = rewritten_disks();
    disks_are(&repository, &disks, "as it was");
    let again = repository.collect(&anew(), &|_, _, _| Ok(())).unwrap();
    assert_eq!((again.old.packs, again.generation, again.all), (0, None, again.live), "{again:?}");
    // Segments say where it is now.
    let index = index();
    assert_eq!(index.synchronise(&repository, true).unwrap().packs, 0);
    let stats = backup_with(&repository, index, &options("vm"), &disks[0].1).unwrap().record.stats;
    assert_eq!((stats.new, stats.known), (0, 5 * UNIT as u64), "{stats:?}");
    repository.rotate(&[]).unwrap();
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    repository.collect(&anew(), &|_, _, _| Ok(())).unwrap();
    assert_eq!(epochs(&*storage), [(false, 2), (true, 2)].into());
    disks_are(&repository, &disks, "sealed anew once more");
}

/// Of the second one little is in the packs of the first.
fn moved_trees() -> [Folder; 2] {
    let image = |chunks: &[u64]| Thing::Image(4 * UNIT as u64, chunks.iter().map(|n| (*n, chunk(*n))).collect());
    let few = |names: &[u64]| -> Folder {
        names.iter().map(|n| (format!("file {n}").into_bytes(), Thing::Small(noise(*n, 900)))).collect()
    };
    let (mut first, mut second) = (few(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), few(&[3, 20]));
    first.insert(b"image".to_vec(), image(&[0, 1, 3]));
    second.insert(b"image".to_vec(), image(&[1, 2]));
    [first, second]
}

/// As [`make`], for a tree that a collector has moved chunks of.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_tree_moved() {
    let (_, repository) = made_here();
    let [first, second] = moved_trees();
    let first = trees::save(&repository, &first);
    trees::save(&repository, &second);
    repository.forget(&first.id, Duration::ZERO, "golden").unwrap();
    let report = gc(&repository, Duration::ZERO);
    // A file, and a chunk of the image.
    assert!(report.copied.packs == 2 && report.swept.packs > 0, "{report:?}");
}

#[test]
fn trees_that_collectors_of_format_1_have_moved_chunks_of_are_read_and_built_upon() {
    let (_temp, storage, repository) = opened("v1-tree-moved");
    assert!(keys_of(&*storage).iter().any(|key| key.as_str().ends_with("-sealed")));
    let [_, tree] = moved_trees();
    trees::read(&repository, std::slice::from_ref(&tree));
    let again = trees::save(&repository, &tree);
    assert!(again.record.parent.is_some());
    gc(&repository, Duration::ZERO);
    trees::read(&repository, &[tree.clone(), tree]);
}

fn healed_disks() -> Vec<(&'static str, Vec<u8>)> {
    // In the place of 130 there is another one later.
    vec![("vm", sparse(&[0, 1, 3, 130, 139])), ("vm", sparse(&[0, 1, 3, 140 + 130, 139]))]
}

/// Reads all data, and notes what it has found.
fn wanted(repository: &Repository) -> (CheckReport, Wanted) {
    let read_data = Some(ReadData { share: 1.0, max_age: None });
    let options = CheckOptions { read_data, keep: true, ..CheckOptions::default() };
    repository.find_wanted(&options, &|_, _, _| Ok(())).unwrap()
}

/// What `repair --from` does.
fn heal(mine: &Repository, theirs: &Repository) {
    let copying = || CopyOptions { writer: options(""), threads: 1, fetch: 1 << 20, run: "golden".into() };
    let (report, lost) = wanted(mine);
    admit(mine, &report).unwrap();
    assert!(lost.nodes() > 0 && lost.chunks() > 0, "{lost:?}");
    let listed = theirs.snapshots(None).unwrap();
    for candidate in node_candidates(mine, &lost, theirs, &listed, 3) {
        let session = Arc::new(ReadSession::open(theirs, &candidate.snapshot).unwrap());
        let copy = SnapshotCopy::start(session, mine, index(), None, &copying()).unwrap();
        NodeHeal::new(mine, copy).run(&|_| Ok(())).unwrap();
    }
    let lost = wanted(mine).1;
    let options = HealOptions { copy: copying(), dry_run: false };
    let healing = Heal::start(mine, &lost, &options).unwrap();
    for candidate in candidates(mine, &lost, theirs, &listed, false) {
        let session = Arc::new(ReadSession::open(theirs, &candidate.snapshot).unwrap());
        healing.take_from(session, false, &|_| Ok(())).unwrap();
    }
    healing.finish(&|_| Ok(())).unwrap();
    assert!(wanted(mine).1.is_empty());
}

/// As [`make`], for what another repository has healed: a pack of chunks was damaged, one was lost, and so was one of nodes.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_healed() {
    let (storage, repository) = made_here();
    let (_, other) = in_memory();
    for (name, disk) in healed_disks() {
        backup(&repository, name, &disk).unwrap();
        backup(&other, name, &disk).unwrap();
    }
    let packs = |kind| {
        keys_of(&*storage).into_iter().filter(move |key| keys::parse_pack(key).is_some_and(|id| id.kind == kind))
    };
    let (data, meta): (Vec<_>, Vec<_>) = (packs(PackKind::Data).collect(), packs(PackKind::Meta).collect());
    assert!(data.len() > 1, "{data:?}");
    let mut body = storage.get(&data[0]).unwrap().to_vec();
    body[100] ^= 1;
    storage.overwrite(&data[0], body.into()).unwrap();
    storage.delete(&data[1]).unwrap();
    storage.delete(&meta[0]).unwrap();
    heal(&repository, &other);
}

#[test]
fn what_was_healed_in_format_1_is_whole_and_stays_so() {
    let (_temp, _, repository) = opened("v1-healed");
    let disks = healed_disks();
    let is_whole = |what: &str| {
        let list = repository.snapshots(None).unwrap();
        let found: Vec<_> = list.visible().collect();
        assert_eq!(found.len(), disks.len(), "{what}");
        for (snapshot, (_, disk)) in found.iter().zip(&disks) {
            assert!(restore(&repository, snapshot).unwrap() == *disk, "{what}");
        }
        disks_are(&repository, &disks[1..], what);
    };
    let said = repository.checked().unwrap();
    assert!(said.len() == 2 && said.values().all(|state| !state.damaged && state.verified.is_some()), "{said:?}");
    is_whole("as it was");
    // The pack that is damaged is noted, and what is intact elsewhere of it stays.
    for _ in 0..2 {
        gc(&repository, Duration::ZERO);
        is_whole("collected");
    }
}

fn stopped_disks() -> Vec<(&'static str, Vec<u8>)> {
    vec![("kept", disk(0..3)), ("read", disk(10..12))]
}

/// As [`make`], for what is under way: a list without a delete set, a writer that has not heard of it, a reader.
#[test]
#[ignore = "makes a golden repository: for a new format or feature only"]
fn make_stopped() {
    let (storage, repository) = made_here();
    for (name, disk) in stopped_disks() {
        backup(&repository, name, &disk).unwrap();
    }
    let gone = backup(&repository, "gone", &disk(20..22)).unwrap();
    repository.forget(&gone.id, Duration::ZERO, "golden").unwrap();
    let writer = SnapshotWriter::start(&repository, index(), &options("running")).unwrap();
    put_all(&writer, &disk(30..32)).unwrap();
    let list = repository.snapshots(None).unwrap();
    let read = list.visible().find(|s| s.record.name == "read").unwrap();
    let reader = ReadSession::open(&repository, read).unwrap();
    let week = Duration::from_secs(7 * 86_400);
    let options = CollectOptions { fence_after: week, ..anew() };
    let report = repository.collect(&CollectOptions { rewrite: false, ..options }, &|_, _, _| Ok(())).unwrap();
    assert!(report.generation == Some(1) && !report.sealed && report.waiting.len() == 1, "{report:?}");
    // The processes are killed.
    std::mem::forget((writer, reader));
    assert!(keys_of(&*storage).iter().all(|key| !key.as_str().ends_with("-sealed")));
}

#[test]
fn what_was_under_way_in_format_1_is_gone_on_with() {
    let (_temp, storage, repository) = opened("v1-stopped");
    let names = || -> BTreeMap<&'static str, usize> {
        let keys = keys_of(&*storage);
        let count = |part: &'static str| (part, keys.iter().filter(|key| key.as_str().contains(part)).count());
        ["gc/gen/", "-sealed", "/open", "/seen-", "packs/"].into_iter().map(count).collect()
    };
    let before = names();
    assert!(before["gc/gen/"] == 1 && before["-sealed"] == 0 && before["/open"] >= 2, "{before:?}");
    disks_are(&repository, &stopped_disks(), "as it was");
    let report = gc(&repository, Duration::ZERO);
    assert!(report.sealed && report.swept.packs > 0 && report.fenced.len() == 1, "{report:?}");
    assert!(names()["-sealed"] > 0 && names()["packs/"] < before["packs/"], "{:?}", names());
    disks_are(&repository, &stopped_disks(), "gone on with");
    gc(&repository, Duration::ZERO);
    disks_are(&repository, &stopped_disks(), "collected");
}

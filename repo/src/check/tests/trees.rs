//! Trees: each object damaged or lost in turn, and what a reader that tries every path then cannot read.

use super::stored::*;
use super::{forge, pack};
use crate::check::{CheckOptions, CheckReport, Damage, ReadData};
use crate::format::records::Outcome;
use crate::format::tree::{Below, Content, Entry, Extended, FOLDER, Known, PIECE, Piece, Set, What};
use crate::id::PackKind;
use crate::index::ChunkIndex;
use crate::pack::read_index;
use crate::storage::{Key, Memory, Storage, keys};
use crate::{ParentChoice, Result, Snapshot, TreeReader, WriterOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a reader that tries every path finds: those that cannot be read themselves, and how many are below each directory
/// whose list does not name them any more.
#[derive(Debug, Default, PartialEq)]
struct Unread {
    itself: BTreeSet<Vec<u8>>,
    below: BTreeMap<Vec<u8>, u64>,
}

fn read_entry(tree: &TreeReader, known: &Known) -> Result<()> {
    if let Extended::Chunk(set) = &known.attributes.extended {
        Set::decode(tree.chunks().read_chunk(&tree.set(set))?.as_ref())?;
    }
    if let What::File { size, content } = &known.what {
        for span in tree.pieces(*size, content, 0)? {
            if let Some(part) = span?.data {
                tree.chunks().read_chunk(&part.chunk)?;
            }
        }
    }
    Ok(())
}

fn try_all(storage: &Arc<Memory>, snapshot: &Snapshot, folder: &Folder) -> Unread {
    fn paths(folder: &Folder, path: &mut Vec<Vec<u8>>, out: &mut Vec<Vec<Vec<u8>>>) {
        for (name, thing) in folder {
            path.push(name.clone());
            out.push(path.clone());
            if let Thing::Folder(inner) = thing {
                paths(inner, path, out);
            }
            path.pop();
        }
    }
    let repository = open(storage);
    let tree = TreeReader::open(&repository, snapshot).unwrap();
    let mut all = vec![Vec::new()];
    paths(folder, &mut Vec::new(), &mut all);
    let mut unread = Unread::default();
    'paths: for names in all {
        let mut found = tree.root().clone();
        for depth in 0..names.len() {
            let What::Folder { below, .. } = &found.what else { panic!("{names:?} is in no directory") };
            match tree.find(below.as_ref().unwrap(), &names[depth]) {
                Ok(Some((_, Entry::Known(known)))) => found = *known,
                Ok(Some(_)) => continue 'paths,
                Ok(None) => panic!("{names:?} is not there"),
                Err(e) => {
                    assert!(repository.is_damage(&e), "{e}");
                    *unread.below.entry(names[..depth].join(&b'/')).or_default() += 1;
                    continue 'paths;
                }
            }
        }
        if let Err(e) = read_entry(&tree, &found) {
            assert!(repository.is_damage(&e), "{e}");
            unread.itself.insert(names.join(&b'/'));
        }
    }
    unread
}

fn check(storage: &Arc<Memory>, read_data: bool) -> CheckReport {
    let read_data = read_data.then(ReadData::default);
    let options = CheckOptions { read_data, threads: 2, ..CheckOptions::default() };
    open(storage).check(&options, &|_, _, _| Ok(())).unwrap()
}

/// What the report says of one snapshot.
fn told(report: &CheckReport, snapshot: &Snapshot) -> Unread {
    let mut unread = Unread::default();
    for hit in report.damages.iter().flat_map(|damage| &damage.hits).filter(|hit| hit.snapshot == snapshot.id) {
        let entries = hit.paths.iter().map(|path| u64::from(path.itself) + path.below).sum::<u64>();
        assert!(hit.ranges.is_empty() && hit.entries == entries + hit.more_paths, "{hit:?}");
        for lost in &hit.paths {
            if lost.itself {
                unread.itself.insert(lost.path.clone());
            }
            if lost.below > 0 {
                *unread.below.entry(lost.path.clone()).or_default() += lost.below;
            }
        }
    }
    unread
}

fn packs(storage: &Arc<Memory>, kind: PackKind) -> Vec<Key> {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    let mut keys = open(storage).list(prefix).unwrap();
    keys.sort();
    keys
}

/// A tree and the same with a few changes, some unread, which shares most with it.
fn two() -> (Arc<Memory>, [(Snapshot, Folder); 2]) {
    let (storage, first) = (init(), tree());
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    let one = save_knowing(&storage, &index, ParentChoice::None, &first, &mut |_, _| {});
    let mut second = first.clone();
    second.insert(b"new".to_vec(), Thing::Small(noise(3000, 900)));
    second.insert(b"unknown".to_vec(), Thing::Unknown);
    second.insert(b"unread".to_vec(), Thing::Unread);
    let Some(Thing::Folder(many)) = second.get_mut(&b"many"[..]) else { panic!() };
    many.insert(b"f250".to_vec(), Thing::Small(noise(3001, 900)));
    let Some(Thing::Image(_, data)) = second.get_mut(&b"disk.img"[..]) else { panic!() };
    data.insert(131, noise(3002, 3000));
    let two = save_knowing(&storage, &index, ParentChoice::Snapshot(one.id), &second, &mut |_, _| {});
    assert_eq!(two.record.parent, Some(one.id));
    (storage, [(one, first), (two, second)])
}

fn compare(storage: &Arc<Memory>, all: &[(Snapshot, Folder)], what: &str) -> (CheckReport, usize) {
    let report = check(storage, true);
    let mut lost = 0;
    for (snapshot, folder) in all {
        let (mut told, unread) = (told(&report, snapshot), try_all(storage, snapshot, folder));
        let hits = report.damages.iter().flat_map(|damage| &damage.hits).filter(|hit| hit.snapshot == snapshot.id);
        let more: u64 = hits.map(|hit| hit.more_paths).sum();
        if more > 0 {
            // Of so many the first ones are named.
            assert!(told.itself.len() == 200 && told.itself.is_subset(&unread.itself), "{what}");
            assert_eq!(told.itself.len() as u64 + more, unread.itself.len() as u64, "{what}");
            told.itself.clone_from(&unread.itself);
        }
        assert_eq!(told, unread, "{what}: {:?}", report.damages);
        lost += unread.itself.len() + unread.below.len();
    }
    (report, lost)
}

#[test]
fn a_whole_tree_is_clean_and_what_was_missing_at_the_source_is_no_damage() {
    let (storage, all) = two();
    for read in [false, true] {
        let report = check(&storage, read);
        assert!(report.is_clean(), "{:?}", report.damages);
        assert_eq!((report.snapshots, report.unused_packs), (2, 0));
        assert_eq!(report.not_read.is_empty(), read);
        assert_eq!(report.read_bytes > 0, read);
    }
    assert_eq!(compare(&storage, &all, "nothing").1, 0);
    let missing = all.map(|(s, _)| (s.record.partial, s.record.tree.unwrap().missing));
    assert_eq!(missing, [(false, 0), (true, 2)]);
}

#[test]
fn each_lost_pack_is_told_by_exactly_the_paths_that_cannot_be_read() {
    let (storage, all) = two();
    let mut hit = 0;
    for kind in [PackKind::Data, PackKind::Meta] {
        for key in packs(&storage, kind) {
            let body = storage.get(&key).unwrap();
            storage.delete(&key).unwrap();
            let (report, lost) = compare(&storage, &all, key.as_str());
            assert!(lost > 0, "{key}");
            assert!(report.damages.iter().any(|d| d.object == key && d.missing && !d.hits.is_empty()), "{key}");
            hit += 1;
            storage.create(&key, body).unwrap();
        }
    }
    assert!(hit >= 4, "{hit} packs");
}

#[test]
fn each_damaged_chunk_and_node_is_told_by_exactly_the_paths_that_cannot_be_read() {
    let (storage, all) = two();
    let mut seen = BTreeSet::new();
    for kind in [PackKind::Data, PackKind::Meta] {
        for key in packs(&storage, kind) {
            let id = keys::parse_pack(&key).unwrap();
            let (index, ..) = read_index(&*storage, open(&storage).keys(), &id).unwrap();
            let body = storage.get(&key).unwrap();
            for (n, entry) in index.entries.iter().enumerate() {
                // Of the many pieces of one file a few.
                if entry.class == PIECE && n % 40 != 0 {
                    continue;
                }
                let mut bad = body.to_vec();
                bad[entry.offset as usize + entry.len as usize / 2] ^= 1;
                storage.overwrite(&key, bad.into()).unwrap();
                let what = format!("{key}, {n} of class {}", entry.class);
                let (report, lost) = compare(&storage, &all, &what);
                assert!(lost > 0, "{what}");
                let [damage] = &report.damages[..] else { panic!("{what}: {:?}", report.damages) };
                assert_eq!((&damage.object, damage.missing), (&key, false), "{what}");
                let name = match entry.class {
                    ..128 => "chunk",
                    128..FOLDER => "map node",
                    _ => "tree node",
                };
                assert_eq!(damage.what, format!("{name} {n} in it does not verify"));
                seen.insert(entry.class);
            }
            storage.overwrite(&key, body).unwrap();
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 18, 128, 129, 160, 161, 176, 177]);
}

#[test]
fn a_damaged_index_loses_nothing_and_what_it_led_to_is_read_in_any_case() {
    let (storage, all) = two();
    for kind in [PackKind::Data, PackKind::Meta] {
        for key in packs(&storage, kind) {
            let body = storage.get(&key).unwrap();
            let mut bad = body.to_vec();
            let end = bad.len() - crate::format::pack::TRAILER - 3;
            bad[end] ^= 1;
            storage.overwrite(&key, bad.into()).unwrap();
            let report = check(&storage, false);
            let [damage] = &report.damages[..] else { panic!("{key}: {:?}", report.damages) };
            assert_eq!((&damage.object, &damage.hits[..]), (&key, &[][..]));
            assert_eq!(report.read_bytes > 0, kind == PackKind::Data);
            assert_eq!(compare(&storage, &all, "index").1, 0);
            storage.overwrite(&key, body).unwrap();
        }
    }
}

#[test]
fn what_another_pack_has_too_is_moved_and_not_lost() {
    let (storage, folder) = (init(), tree());
    let options = WriterOptions {
        name: "home".into(),
        uploads: 0,
        pack_size: 1 << 20,
        parent: ParentChoice::None,
        ..WriterOptions::default()
    };
    let write = || {
        let index = Arc::new(ChunkIndex::in_memory(1 << 20));
        save_with(&open(&storage), index, &options, &folder, &mut |_, _| {})
    };
    let all = [(write(), folder.clone()), (write(), folder.clone())];
    let packs = [packs(&storage, PackKind::Data), packs(&storage, PackKind::Meta)].concat();
    let of_first = |key: &&Key| keys::parse_pack(key).unwrap().session == all[0].0.id;
    let bodies: Vec<_> = packs.iter().filter(of_first).map(|key| (key, storage.get(key).unwrap())).collect();
    for (key, _) in bodies.iter().filter(|(key, _)| key.as_str().starts_with(keys::PACKS)) {
        storage.delete(key).unwrap();
    }
    let (report, lost) = compare(&storage, &all, "all data packs of the first one");
    assert!(report.is_clean() && lost == 0, "{:?}", report.damages);
    assert!(report.moved_chunks > 100 && report.moved_nodes == 0, "{report:?}");
    for (key, _) in bodies.iter().filter(|(key, _)| key.as_str().starts_with(keys::META)) {
        storage.delete(key).unwrap();
    }
    let (report, lost) = compare(&storage, &all, "all packs of the first one");
    assert!(report.is_clean() && lost == 0, "{:?}", report.damages);
    // All is below the top node, and the other one's leads to where all is.
    assert_eq!((report.moved_chunks, report.moved_nodes), (1, 1), "{report:?}");
    for (key, body) in bodies {
        storage.create(key, body.iter().map(|b| b ^ 0x55).collect::<Vec<u8>>().into()).unwrap();
    }
    let (report, lost) = compare(&storage, &all, "all packs of the first one damaged");
    assert_eq!(lost, 0);
    assert!(!report.is_clean() && report.damages.iter().all(|damage| damage.hits.is_empty()), "{:?}", report.damages);
}

/// The one damage and the path that it is told by.
fn one_fault(change: &mut dyn FnMut(&[u8], &mut Known)) -> (Damage, Vec<(Vec<u8>, bool, u64)>) {
    let (storage, folder) = (init(), tree());
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    let good = save_knowing(&storage, &index, ParentChoice::None, &folder, &mut |_, _| {});
    // It shares the nodes below what is changed.
    let bad = save_knowing(&storage, &index, ParentChoice::Snapshot(good.id), &folder, change);
    let mut report = check(&storage, true);
    assert_eq!(told(&report, &good), Unread::default());
    let (told, unread) = (told(&report, &bad), try_all(&storage, &bad, &folder));
    assert_eq!(told.itself, unread.itself, "{:?}", report.damages);
    assert!(told.below.keys().eq(unread.below.keys()), "{:?} {unread:?}", report.damages);
    let damage = report.damages.remove(0);
    assert_eq!(report.damages, []);
    let [hit] = &damage.hits[..] else { panic!("{damage:?}") };
    assert_eq!(hit.snapshot, bad.id, "the other one is as it should be");
    let paths = hit.paths.iter().map(|lost| (lost.path.clone(), lost.itself, lost.below)).collect();
    (damage, paths)
}

#[test]
fn a_node_that_does_not_add_up_to_what_led_to_it_is_damage() {
    type Change = fn(&mut Below);
    let changes: [(&str, Change); 5] = [
        ("entries", |below| below.entries += 1),
        ("below", |below| below.totals.below += 1),
        ("folders", |below| below.totals.folders += 1),
        ("bytes", |below| below.totals.bytes -= 1),
        ("missing", |below| below.totals.missing += 1),
    ];
    for (name, change) in changes {
        let (damage, paths) = one_fault(&mut |path, known| {
            if let (b"deep/d\xcd", What::Folder { below: Some(below), .. }) = (path, &mut known.what) {
                change(below);
            }
        });
        assert!(damage.what.contains("does not add up to what led to it"), "{name}: {}", damage.what);
        // The tree as it is has as many below.
        let [(path, false, below)] = &paths[..] else { panic!("{name}: {paths:?}") };
        assert_eq!((&path[..], *below), (&b"deep/d\xcd"[..], 11 + u64::from(name == "below")), "{name}");
    }
    let (damage, paths) = one_fault(&mut |path, known| {
        if let (b"list", What::File { size, content: Content::List(_) }) = (path, &mut known.what) {
            *size += 1;
        }
    });
    assert!(damage.what.contains("does not add up to what led to it"), "{}", damage.what);
    assert_eq!(paths, [(b"list".to_vec(), true, 0)]);
}

#[test]
fn a_chunk_is_of_the_class_that_leads_to_it() {
    let mut shared = None;
    let (damage, paths) = one_fault(&mut |path, known| match &mut known.what {
        What::File { content: Content::Shared { chunk, .. }, .. } if path == b"deep/file" => shared = Some(*chunk),
        What::File { size, content } if path == b"large" => {
            let mut chunk = shared.unwrap();
            chunk.to.class = PIECE;
            *size = chunk.to.plain.into();
            *content = Content::Pieces(vec![Piece::Chunk(chunk)]);
        }
        _ => {}
    });
    for what in ["its index and a tree do not agree on number ", "; chunk ", " in it does not verify"] {
        assert!(damage.what.contains(what), "{}", damage.what);
    }
    assert_eq!(paths, [(b"large".to_vec(), true, 0)]);
}

#[test]
fn a_map_that_goes_on_behind_the_end_of_its_image_is_named_and_loses_nothing() {
    let (storage, folder) = (init(), tree());
    let mut top = None;
    let snapshot = save(&storage, &folder, &mut |path, known| {
        if let (b"disk.img", What::File { size, content: Content::Map { top: at, .. } }) = (path, &mut known.what) {
            // As many levels; chunk 399 is outside.
            *size -= 1 << 18;
            top = Some(*at);
        }
    });
    let report = check(&storage, true);
    let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
    assert_eq!(damage.object, keys::pack(&top.unwrap().at.pack));
    assert_eq!(damage.what, "the map of a disk image in it goes on behind the end of the image");
    assert_eq!((&damage.hits[..], try_all(&storage, &snapshot, &folder)), (&[][..], Unread::default()));
}

#[test]
fn chunks_of_an_image_that_were_lost_are_found_in_the_same_disk_as_a_volume() {
    let (storage, folder) = (init(), Folder::from([tree().remove_entry(&b"disk.img"[..]).unwrap()]));
    let snapshot = save(&storage, &folder, &mut |_, _| {});
    let lost: Vec<Key> = packs(&storage, PackKind::Data);
    let Thing::Image(chunks, data) = &folder[&b"disk.img"[..]] else { panic!() };
    let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    let writer = crate::SnapshotWriter::start(&open(&storage), index, &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    for (n, bytes) in data {
        let mut chunk = bytes.clone();
        chunk.resize(1 << 18, 0);
        writer.put(&mut scratch, *n, &chunk).unwrap();
    }
    writer.commit(crate::CommitInfo { size: chunks << 18, ..crate::CommitInfo::default() }).unwrap();
    // All but the attributes of the root.
    lost.iter().for_each(|key| storage.delete(key).unwrap());
    let report = check(&storage, true);
    let unread = try_all(&storage, &snapshot, &folder);
    assert_eq!(unread, Unread { itself: [Vec::new()].into(), below: BTreeMap::new() });
    assert_eq!(told(&report, &snapshot), unread, "{:?}", report.damages);
    assert_eq!(report.moved_chunks, data.len() as u64, "{report:?}");
}

#[test]
fn below_a_top_that_was_found_elsewhere_nodes_are_checked_where_it_says() {
    let (storage, folder) = (init(), Folder::from([tree().remove_entry(&b"disk.img"[..]).unwrap()]));
    let [one, two] = [(), ()].map(|()| save(&storage, &folder, &mut |_, _| {}));
    // The top of the first one, and a leaf of the second one, whose top is found in its place.
    let bad = |snapshot: &Snapshot, class| {
        let of = |key: &Key| keys::parse_pack(key).is_some_and(|id| id.session == snapshot.id);
        let key = packs(&storage, PackKind::Meta).into_iter().find(of).unwrap();
        let (index, ..) = read_index(&*storage, open(&storage).keys(), &keys::parse_pack(&key).unwrap()).unwrap();
        let n = index.entries.iter().position(|entry| entry.class == class).unwrap();
        let mut body = storage.get(&key).unwrap().to_vec();
        body[index.entries[n].offset as usize] ^= 1;
        storage.overwrite(&key, body.into()).unwrap();
        (key, format!("map node {n} in it does not verify"))
    };
    let mut want = [bad(&one, 129), bad(&two, 128)];
    want.sort();
    let options = CheckOptions { snapshots: vec![one.id], ..CheckOptions::default() };
    let report = open(&storage).check(&options, &|_, _, _| Ok(())).unwrap();
    let mut found: Vec<_> = report.damages.iter().map(|d| (d.object.clone(), d.what.clone())).collect();
    found.sort();
    assert_eq!(found, want);
    assert_eq!(try_all(&storage, &one, &folder), Unread::default(), "all is somewhere");
}

#[test]
fn an_index_that_does_not_say_what_a_tree_says_is_named() {
    let (storage, folder) = (init(), tree());
    save(&storage, &folder, &mut |_, _| {});
    for kind in [PackKind::Data, PackKind::Meta] {
        let repository = open(&storage);
        let id = pack(&repository, kind);
        let body = storage.get(&keys::pack(&id)).unwrap();
        forge(&repository, &id, |index| index.entries[3].plain -= 1);
        let report = check(&storage, false);
        let [damage] = &report.damages[..] else { panic!("{:?}", report.damages) };
        assert_eq!(damage.object, keys::pack(&id));
        assert_eq!(
            (damage.what.as_str(), &damage.hits[..]),
            ("its index and a tree do not agree on number 3", &[][..])
        );
        storage.overwrite(&keys::pack(&id), body).unwrap();
    }
}

#[test]
fn a_record_that_does_not_fit_its_tree_is_named() {
    let (storage, folder) = (init(), tree());
    let snapshot = save(&storage, &folder, &mut |_, _| {});
    type Change = fn(&mut crate::SnapshotRecord);
    let changes: [(&str, Change); 4] = [
        ("missing", |record| record.tree.as_mut().unwrap().missing += 1),
        ("partial", |record| record.partial = true),
        ("size", |record| record.size += 1),
        ("root", |record| record.root = crate::ChunkId::new([1; 32])),
    ];
    let options = CheckOptions::default();
    for (n, (name, change)) in (1u8..).zip(changes) {
        let mut record = snapshot.record.clone();
        change(&mut record);
        let key = keys::snap(&snapshot.volume, &crate::SessionId::new([n; 16]));
        let repository = open(&storage);
        repository.create(&key, &Outcome::Snapshot(Box::new(record))).unwrap();
        let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
        let [damage] = &report.damages[..] else { panic!("{name}: {:?}", report.damages) };
        assert_eq!((&damage.object, damage.hits.len(), damage.hits[0].whole), (&key, 1, true), "{name}");
        assert!(damage.hits[0].paths.is_empty() && damage.hits[0].ranges.is_empty());
        storage.delete(&key).unwrap();
    }
}

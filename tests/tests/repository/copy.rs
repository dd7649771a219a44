//! Snapshots copied from one repository into another, on storages in memory: what comes out of the copy is what came out of
//! the original, and what the target has is not read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_repo::format::tree::{Content, Entry, Extended, Known, What};
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{
    Base, CheckOptions, CommitInfo, CopyOptions, CopyPlan, Error, ErrorKind, Origin, ReadSession, Repository, Result,
    Snapshot, SnapshotCopy, SnapshotId, SnapshotWriter, TreeReader,
};
use wherry_tests::made_trees::{Made, Node, Part, backup_tree, made_up};
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};
use wherry_tests::recording::{CUTS, Cutting};
use wherry_tests::small::*;

fn plan(source: &Repository, target: &Repository) -> CopyPlan {
    let list = |repository: &Repository| repository.snapshots(None).unwrap();
    CopyPlan::new(source, list(source), target, &list(target)).unwrap()
}

/// Copies a snapshot upon what the target has; gives the copy and the bytes that were read of the original.
fn copy(source: &Repository, target: &Repository, snapshot: &Snapshot) -> Result<(Snapshot, u64)> {
    let base = plan(source, target).base_of(snapshot);
    let copied = copy_upon(source, target, snapshot, base.as_ref())?;
    assert_eq!(copied.0.record.parent, base.map(|base| base.copy));
    Ok(copied)
}

fn copy_upon(
    source: &Repository,
    target: &Repository,
    snapshot: &Snapshot,
    base: Option<&Base>,
) -> Result<(Snapshot, u64)> {
    let options = CopyOptions { writer: options(""), threads: 3, fetch: 256 << 10, run: "run".into() };
    let session = Arc::new(ReadSession::open(source, snapshot)?);
    let copy = SnapshotCopy::start(session, target, index(), base, &options)?;
    let read = AtomicU64::new(0);
    let copied = copy.run(&plan(source, target), &|bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    })?;
    Ok((copied, read.into_inner()))
}

#[track_caller]
fn is_clean(repository: &Repository) {
    is_whole(repository, Vec::new());
}

/// All that these snapshots need, or everything, is there.
#[track_caller]
fn is_whole(repository: &Repository, snapshots: Vec<SnapshotId>) {
    let options = CheckOptions { snapshots, read_data: Some(Default::default()), ..CheckOptions::default() };
    let report = repository.check(&options, &|_, _, _| Ok(())).unwrap();
    assert!(report.is_clean(), "{:?}", report.damages);
}

/// Versions of one disk: data, zeros, a change, less of it, more of it, nothing.
fn versions() -> Vec<Vec<u8>> {
    let mut first = vec![0; 300 * UNIT + 1234];
    for n in [0, 1, 2, 7, 129, 130, 131, 299] {
        first[n * UNIT..][..UNIT].copy_from_slice(&noise(n as u64, UNIT));
    }
    first[300 * UNIT..].fill(7);
    let mut second = first.clone();
    second[130 * UNIT] ^= 1;
    // What becomes zero, and what was zero.
    second[2 * UNIT..3 * UNIT].fill(0);
    second[200 * UNIT..201 * UNIT].fill(3);
    let third = second[..129 * UNIT + 77].to_vec();
    let mut fourth = second.clone();
    fourth.resize(400 * UNIT, 0);
    vec![first.clone(), first, second, third, fourth, vec![0; 5 * UNIT], vec![]]
}

#[test]
fn a_copied_disk_is_the_original_and_what_an_older_copy_has_is_not_read() {
    let ((_, source), (_, target)) = (in_memory(), in_memory());
    let mut read = Vec::new();
    for (n, disk) in versions().iter().enumerate() {
        let writer = SnapshotWriter::start(&source, index(), &options("vm")).unwrap();
        put_all(&writer, disk).unwrap();
        let tags = BTreeMap::from([("n".to_owned(), n.to_string())]);
        let info = CommitInfo { size: disk.len() as u64, tags, source: "/dev/x".into(), ..CommitInfo::default() };
        let original = writer.commit(info).unwrap();
        let (copied, bytes) = copy(&source, &target, &original).unwrap();
        assert!(restore(&target, &copied).unwrap() == *disk, "version {n} is another one");
        let (a, b) = (&original.record, &copied.record);
        assert_eq!(
            (&a.name, a.started, &a.tags, &a.host, &a.source),
            (&b.name, b.started, &b.tags, &b.host, &b.source)
        );
        assert_eq!((a.size, a.class, a.chunks, a.partial), (b.size, b.class, b.chunks, b.partial));
        assert_ne!((a.root, original.id), (b.root, copied.id), "another repository has other keys");
        assert_eq!(b.origin, Some(Origin { repository: source.id(), snapshot: original.id }));
        assert_eq!(b.parent.is_some(), n > 0);
        assert_eq!(plan(&source, &target).copy_of(&original.id), Some((copied.id, true)));
        read.push((bytes, b.stats.new));
        is_clean(&target);
    }
    let unit = UNIT as u64;
    assert_eq!(read[0], (8 * unit + 1234, 8 * unit + 1234));
    assert_eq!(read[1], (0, 0), "an unchanged disk is not read and stores nothing");
    assert_eq!(read[2], (2 * unit, 2 * unit), "of a change only that");
    // The end of a disk that was cut is another chunk.
    assert_eq!(read[3], (77, 77));
    assert_eq!(read[4], (6 * unit, 6 * unit), "what the one before had not");
    assert_eq!((read[5], read[6]), ((0, 0), (0, 0)));
    is_clean(&source);
}

#[test]
fn a_copy_is_known_wherever_it_came_by_and_a_stranger_of_the_same_name_is_none() {
    let ((_, first), (_, second), (_, third)) = (in_memory(), in_memory(), in_memory());
    let disk = versions().swap_remove(0);
    let original = backup(&first, "vm", &disk).unwrap();
    // A snapshot of the same volume that is no copy of anything: nothing may be taken from it.
    let mut other = disk.clone();
    other[UNIT] ^= 1;
    backup(&second, "vm", &other).unwrap();
    assert_eq!(plan(&first, &second).base_of(&original), None);
    assert_eq!(plan(&first, &second).copy_of(&original.id), None);
    let (in_second, read) = copy(&first, &second, &original).unwrap();
    assert!(read > 0 && restore(&second, &in_second).unwrap() == disk);
    let (in_third, _) = copy(&second, &third, &in_second).unwrap();
    assert_eq!(in_third.record.origin, in_second.record.origin, "that of the first one");
    assert_eq!(plan(&first, &third).copy_of(&original.id), Some((in_third.id, true)));
    assert_eq!(plan(&third, &first).copy_of(&in_third.id), Some((original.id, true)), "it was made there");
    third.forget(&in_third.id, std::time::Duration::from_secs(60), "test").unwrap();
    assert_eq!(plan(&first, &third).copy_of(&original.id), Some((in_third.id, false)), "forgotten, but there");
    let later = backup(&first, "vm", &other).unwrap();
    assert_eq!(plan(&first, &third).base_of(&later), None, "nothing is built upon what is forgotten");
    assert_eq!(plan(&first, &second).base_of(&later).unwrap().copy, in_second.id);
}

/// An entry but for where things are, and the bytes of a file.
fn described(reader: &TreeReader, path: &str, known: &Known, into: &mut Vec<(String, Vec<u8>)>) {
    let attributes = &known.attributes;
    let set = match &attributes.extended {
        Extended::None => Vec::new(),
        Extended::Here(set) => set.encode(),
        Extended::Chunk(chunk) => reader.chunks().read_chunk(&reader.set(chunk)).unwrap().into_inner(),
    };
    let (mut bytes, mut holes) = (Vec::new(), Vec::new());
    let what = match &known.what {
        What::File { size, content } => {
            for span in reader.pieces(*size, content, 0).unwrap() {
                let span = span.unwrap();
                match span.data {
                    None => {
                        bytes.resize(bytes.len() + span.len as usize, 0);
                        holes.push((span.offset, span.len));
                    }
                    Some(part) => {
                        let plain = reader.chunks().read_chunk(&part.chunk).unwrap().into_inner();
                        bytes.extend_from_slice(&plain[part.skip as usize..][..span.len as usize]);
                    }
                }
            }
            let content = match content {
                Content::Nothing => "nothing",
                Content::Shared { .. } => "shared",
                Content::Pieces(_) => "pieces",
                Content::List(_) => "list",
                Content::Map { .. } => "map",
            };
            format!("file {size} {content}")
        }
        What::Folder { boundary, below } => {
            format!("folder {boundary} {:?}", below.map(|below| (below.entries, below.totals)))
        }
        other => format!("{other:?}"),
    };
    let facts = (
        (attributes.permissions, attributes.owner, attributes.group, attributes.flags),
        (&attributes.owner_name, &attributes.group_name, set),
        (known.modified, known.changed, known.inode, known.links, known.missing, known.unsettled),
    );
    into.push((format!("{path} {what} {facts:?} {holes:?}"), bytes));
    if let What::Folder { below: Some(below), .. } = &known.what {
        for entry in reader.list(below, 0).unwrap() {
            match entry.unwrap().1 {
                Entry::Known(known) => {
                    described(reader, &format!("{path}/{}", known.name.escape_ascii()), &known, into);
                }
                Entry::Unknown { name, errno } => {
                    into.push((format!("{path}/{} {errno}", name.escape_ascii()), Vec::new()));
                }
            }
        }
    }
}

fn all_of(repository: &Repository, snapshot: &Snapshot) -> Vec<(String, Vec<u8>)> {
    let reader = TreeReader::open(repository, snapshot).unwrap();
    let mut found = Vec::new();
    described(&reader, "", reader.root(), &mut found);
    found
}

#[track_caller]
fn is_same(source: &Repository, original: &Snapshot, target: &Repository, copied: &Snapshot) {
    let (mine, theirs) = (all_of(source, original), all_of(target, copied));
    for (a, b) in mine.iter().zip(&theirs) {
        assert_eq!(a.0, b.0);
        assert!(a.1 == b.1, "{} has another content", a.0);
    }
    assert_eq!(mine.len(), theirs.len());
    let (a, b) = (original.record.tree.as_ref().unwrap(), copied.record.tree.as_ref().unwrap());
    assert_eq!(
        (a.missing, &a.first_missing, original.record.partial),
        (b.missing, &b.first_missing, copied.record.partial)
    );
}

/// Besides what is made up: a file with a long list of pieces, a disk image, and attributes that are a chunk.
fn tree(seed: u64) -> Node {
    let mut root = made_up(seed, 150);
    let part = |bytes| Part { is_hole: false, bytes };
    let mut image = noise(seed + 1, 140 * UNIT + 99);
    image[3 * UNIT..5 * UNIT].fill(0);
    let mut long = Node::file(b"aa long", noise(seed, 3 << 20));
    long.set.0 = vec![(b"user.long".to_vec(), noise(seed + 2, 5000))];
    let image = Node::plain(b"ab image", Made::Image(vec![part(image)]));
    let Made::Folder { nodes, .. } = &mut root.what else { panic!("the root is a directory") };
    nodes.extend([long, image]);
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    root
}

/// Without what could not be read: a partial snapshot is built upon by nobody.
fn whole(node: &mut Node) {
    if let Made::Folder { nodes, .. } = &mut node.what {
        nodes.retain(|node| !matches!(node.what, Made::Unknown | Made::Unreadable(_)));
        nodes.iter_mut().for_each(whole);
    }
}

/// One byte of each of these files is another one.
fn change(root: &mut Node, names: &[&[u8]], at: usize) {
    let Made::Folder { nodes, .. } = &mut root.what else { return };
    for node in nodes.iter_mut().filter(|node| names.contains(&&node.name[..])) {
        if let Made::File(parts) | Made::Image(parts) = &mut node.what {
            parts[0].bytes[at] ^= 1;
        }
    }
}

#[test]
fn a_copied_tree_is_the_original_and_what_an_older_copy_has_is_not_read() {
    for seed in 0..2 {
        let ((_, source), (storage, target)) = (in_memory(), in_memory());
        let mut root = tree(seed);
        whole(&mut root);
        let first = backup_tree(&source, "home", &root).unwrap();
        let (copied, read) = copy(&source, &target, &first).unwrap();
        is_same(&source, &first, &target, &copied);
        assert!(read >= (3 << 20) + 138 * UNIT as u64, "{read}");
        assert!(target.has_trees() || wherry_repo::newest_config(&*storage).unwrap().unwrap().1.read.len() == 2);
        is_clean(&target);

        // The same again.
        let second = backup_tree(&source, "home", &root).unwrap();
        let meta = |storage: &Memory| keys_of(storage).iter().filter(|key| key.as_str().starts_with("meta/")).count();
        let before = meta(&storage);
        let (again, read) = copy(&source, &target, &second).unwrap();
        is_same(&source, &second, &target, &again);
        assert_eq!((again.record.stats.stored, again.record.stats.new), (0, 0), "data was sent again");
        assert_eq!(again.record.root, copied.record.root, "the same tree is the same nodes");
        assert_eq!(meta(&storage), before, "a node was sent again");
        assert_eq!(read, 0, "seed {seed}: what is there was read");

        // One byte of the long file and of the image, in the middle.
        change(&mut root, &[b"aa long", b"ab image"], 1 << 20);
        let third = backup_tree(&source, "home", &root).unwrap();
        let (changed, read) = copy(&source, &target, &third).unwrap();
        is_same(&source, &third, &target, &changed);
        assert!(read <= 30_000 + UNIT as u64, "seed {seed}: {read} bytes were read for two");
        // And a tree of which much is another one, and some is missing.
        let other = tree(seed + 100);
        let fourth = backup_tree(&source, "home", &other).unwrap();
        let (fresh, _) = copy(&source, &target, &fourth).unwrap();
        assert!(fourth.record.partial && fresh.record.parent == Some(changed.id));
        is_same(&source, &fourth, &target, &fresh);
        is_clean(&target);
    }
}

#[test]
fn what_the_target_has_lost_of_the_older_copy_is_read_again() {
    for prefix in ["packs/", "meta/"] {
        let ((_, source), (storage, target)) = (in_memory(), in_memory());
        let disk = versions().swap_remove(0);
        let mut root = tree(7);
        whole(&mut root);
        let snapshots = [
            backup(&source, "vm", &disk).unwrap(),
            backup_tree(&source, "home", &root).unwrap(),
            backup(&source, "vm", &disk).unwrap(),
            backup_tree(&source, "home", &root).unwrap(),
        ];
        copy(&source, &target, &snapshots[0]).unwrap();
        copy(&source, &target, &snapshots[1]).unwrap();
        let packs: Vec<_> = keys_of(&*storage).into_iter().filter(|key| key.as_str().starts_with(prefix)).collect();
        packs.iter().for_each(|key| storage.delete(key).unwrap());
        for snapshot in &snapshots[2..] {
            assert!(plan(&source, &target).base_of(snapshot).is_some(), "{prefix}: it is built upon nothing");
        }
        let (vm, _) = copy(&source, &target, &snapshots[2]).unwrap();
        assert!(restore(&target, &vm).unwrap() == disk, "{prefix}");
        let (home, _) = copy(&source, &target, &snapshots[3]).unwrap();
        is_same(&source, &snapshots[3], &target, &home);
        is_whole(&target, vec![vm.id, home.id]);
    }
}

#[test]
fn a_damaged_original_has_no_copy() {
    let root = tree(9);
    for of_tree in [false, true] {
        let ((storage, source), (_, target)) = (in_memory(), in_memory());
        let original = match of_tree {
            true => backup_tree(&source, "home", &root).unwrap(),
            false => backup(&source, "vm", &versions()[0]).unwrap(),
        };
        for key in keys_of(&*storage).into_iter().filter(|key| key.as_str().starts_with("packs/")) {
            let mut body = storage.get(&key).unwrap().to_vec();
            body[200] ^= 1;
            storage.overwrite(&key, body.into()).unwrap();
        }
        let error = copy(&source, &target, &original).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(target.snapshots(None).unwrap().snapshots.is_empty());
    }
}

#[test]
fn what_a_disk_at_the_source_cannot_read_is_damage_of_the_original() {
    let root = tree(9);
    for (of_tree, prefix) in [(false, "packs/"), (true, "packs/"), (true, "meta/")] {
        let ((storage, source), (_, target)) = (in_memory(), in_memory());
        let original = match of_tree {
            true => backup_tree(&source, "home", &root).unwrap(),
            false => backup(&source, "vm", &versions()[0]).unwrap(),
        };
        let broken = Meddling::new(storage, true);
        let source = Repository::open(components(broken.clone()), &password()).unwrap();
        broken.meddle(move |call, name| match call == Call::Read && name.starts_with(prefix) {
            true => Fate::Fails(unavailable()),
            false => Fate::Done,
        });
        let error = copy(&source, &target, &original).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{of_tree} {prefix}: {error}");
        assert!(target.snapshots(None).unwrap().snapshots.is_empty());
    }
}

#[test]
fn what_a_disk_at_the_target_cannot_read_of_the_older_copy_is_read_at_the_source() {
    let ((_, source), (storage, target)) = (in_memory(), in_memory());
    let mut root = tree(7);
    whole(&mut root);
    let first = backup_tree(&source, "home", &root).unwrap();
    let (older, _) = copy(&source, &target, &first).unwrap();
    // The long file is compared piece by piece.
    change(&mut root, &[b"aa long"], 1 << 20);
    let second = backup_tree(&source, "home", &root).unwrap();
    let base = Base { of: first, copy: older.id };
    let old = keys_of(&*storage);
    for readable in 0.. {
        let storage = Arc::new(Memory::default());
        for key in &old {
            storage.create(key, target.storage().get(key).unwrap()).unwrap();
        }
        let broken = Meddling::new(storage, true);
        let there = Repository::open(components(broken.clone()), &password()).unwrap();
        let failed = Arc::new(AtomicU64::new(0));
        let (mut reads, count, old) = (0, failed.clone(), old.clone());
        broken.meddle(move |call, name| {
            if call != Call::Read || !name.starts_with("meta/") || !old.iter().any(|key| key.as_str() == name) {
                return Fate::Done;
            }
            reads += 1;
            if reads <= readable {
                return Fate::Done;
            }
            count.fetch_add(1, Ordering::Relaxed);
            Fate::Fails(unavailable())
        });
        let (copied, _) = copy_upon(&source, &there, &second, Some(&base)).unwrap();
        broken.leave_alone();
        is_same(&source, &second, &there, &copied);
        if failed.load(Ordering::Relaxed) == 0 {
            assert!(readable > 3, "the older copy was hardly looked at: {readable}");
            break;
        }
    }
}

#[test]
fn an_older_copy_that_is_gone_since_is_not_built_upon() {
    let ((_, source), (storage, target)) = (in_memory(), in_memory());
    let (disk, mut root) = (versions().swap_remove(0), tree(7));
    whole(&mut root);
    let disks = [backup(&source, "vm", &disk).unwrap(), backup(&source, "vm", &disk).unwrap()];
    let trees = [backup_tree(&source, "home", &root).unwrap(), backup_tree(&source, "home", &root).unwrap()];
    for [first, second] in [&disks, &trees] {
        copy(&source, &target, first).unwrap();
        let base = plan(&source, &target).base_of(second);
        assert!(base.is_some());
        let records: Vec<_> = keys_of(&*storage).into_iter().filter(|key| key.as_str().starts_with("snap/")).collect();
        records.iter().for_each(|key| storage.delete(key).unwrap());
        let (copied, read) = copy_upon(&source, &target, second, base.as_ref()).unwrap();
        assert!(copied.record.parent.is_none() && read > 0, "{copied:?}");
        match second.record.tree.is_some() {
            true => is_same(&source, second, &target, &copied),
            false => assert!(restore(&target, &copied).unwrap() == disk),
        }
    }
}

#[test]
fn a_copy_that_was_cut_off_at_any_moment_is_finished_by_the_next() {
    let (_, source) = in_memory();
    let disk = versions().swap_remove(0);
    let original = backup(&source, "vm", &disk).unwrap();
    let mut cuts = 0;
    for how in CUTS {
        for at in 1.. {
            let memory = Arc::new(Memory::default());
            init(memory.clone()).unwrap();
            let recording = Arc::new(Cutting::new(memory.clone(), at, how));
            let open = |storage: Arc<dyn Storage>| Repository::open(components(storage), &password()).unwrap();
            let done = copy(&source, &open(recording.clone()), &original);
            let target = open(memory);
            if let Ok((copied, _)) = &done {
                assert!(restore(&target, copied).unwrap() == disk, "an acknowledged copy is lost: {how:?} {at}");
            }
            let copied = match plan(&source, &target).copy_of(&original.id) {
                Some((id, _)) => target.snapshots(None).unwrap().snapshots.into_iter().find(|s| s.id == id).unwrap(),
                None => copy(&source, &target, &original).unwrap().0,
            };
            assert!(restore(&target, &copied).unwrap() == disk, "{how:?} {at}");
            assert_eq!(target.snapshots(None).unwrap().snapshots.len(), 1, "{how:?} {at}");
            is_clean(&target);
            if recording.mutations() < at {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn of_two_who_copy_at_once_one_makes_a_copy_and_the_other_finds_it() {
    let ((_, source), (_, target)) = (in_memory(), in_memory());
    let mut root = tree(9);
    whole(&mut root);
    let originals = [backup(&source, "vm", &versions()[0]).unwrap(), backup_tree(&source, "home", &root).unwrap()];
    for original in &originals {
        let mine = plan(&source, &target);
        assert_eq!(mine.copied_since(&target, original).unwrap(), None);
        let options = CopyOptions { writer: options(""), threads: 2, fetch: 256 << 10, run: String::new() };
        let session = Arc::new(ReadSession::open(&source, original).unwrap());
        let slow = SnapshotCopy::start(session, &target, index(), None, &options).unwrap();
        let (theirs, _) = copy(&source, &target, original).unwrap();
        let error = slow.run(&mine, &|_| Ok(())).unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains(&theirs.id.to_string()), "{error}");
        assert_eq!(mine.copied_since(&target, original).unwrap(), Some((theirs.id, true)));
        let other = originals.iter().find(|other| other.id != original.id).unwrap();
        assert_ne!(mine.copied_since(&target, other).unwrap(), Some((theirs.id, true)));
        target.forget(&theirs.id, std::time::Duration::ZERO, "test").unwrap();
        assert_eq!(mine.copied_since(&target, original).unwrap(), Some((theirs.id, false)));
        assert!(target.settle(&theirs.id).unwrap());
        assert_eq!(mine.copied_since(&target, original).unwrap(), None);
        is_clean(&target);
    }
}

#[test]
fn whoever_watches_can_end_a_copy() {
    let ((_, source), (_, target)) = (in_memory(), in_memory());
    let original = backup(&source, "vm", &versions()[0]).unwrap();
    let options = CopyOptions { writer: options(""), threads: 2, fetch: 256 << 10, run: String::new() };
    let session = Arc::new(ReadSession::open(&source, &original).unwrap());
    let copy = SnapshotCopy::start(session, &target, index(), None, &options).unwrap();
    let error = copy.run(&plan(&source, &target), &|_| Err(Error::new(ErrorKind::Cancelled, "enough"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(target.snapshots(None).unwrap().snapshots.is_empty());
}

//! Disk images as maps: what they share with volumes, what a change costs, what is taken over unread.

use super::*;
use crate::format::records::SnapshotRecord;
use crate::testing::{UNIT, chunk};
use crate::{PackId, SnapshotReader};

/// What of a disk is not zero: its chunks by number, each of the chunk size but one at the end.
#[derive(Clone, Debug, PartialEq)]
struct Disk {
    size: u64,
    chunks: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    /// Of so many chunks and `rest` bytes, those of these numbers not zero; `mark` makes them different.
    fn new(chunks: u64, rest: usize, present: impl IntoIterator<Item = u64>, mark: u64) -> Self {
        let mut disk = Self { size: chunks * UNIT as u64 + rest as u64, chunks: BTreeMap::new() };
        for n in present {
            let len = (disk.size - n * UNIT as u64).min(UNIT as u64) as usize;
            disk.chunks.insert(n, chunk(n + 1000 * mark)[..len].to_vec());
        }
        disk
    }
}

fn top_of(tree: &TreeReader) -> Option<Below> {
    match tree.root().what {
        What::Folder { below, .. } => below,
        _ => None,
    }
}

fn find(tree: &TreeReader, name: &[u8]) -> Option<Known> {
    match tree.find(&top_of(tree)?, name).unwrap() {
        Some((_, Entry::Known(known))) => Some(*known),
        _ => None,
    }
}

fn put(writer: &TreeWriter, disk: &Disk, theirs: Option<&Known>) -> Content {
    let mut scratch = writer.scratch(writer.largest()).unwrap();
    let mut image = writer.image(disk.size, theirs).unwrap();
    assert_eq!(image.chunk_size(), UNIT);
    for (n, bytes) in &disk.chunks {
        image.put(&mut scratch, *n, bytes).unwrap();
    }
    image.finish().unwrap()
}

fn commit(writer: TreeWriter, size: u64, content: Content) -> Snapshot {
    let theirs = writer.parent().and_then(top_of);
    let mut builder = writer.folder(theirs.as_ref());
    builder.push(entry(b"disk.img", What::File { size, content })).unwrap();
    let below = builder.finish().unwrap();
    writer.commit(root(below), CommitInfo::default(), TreeInfo::default()).unwrap()
}

/// A tree of this image alone, on the newest one.
fn save_image(repository: &Repository, disk: &Disk, index: &Arc<ChunkIndex>) -> Snapshot {
    let writer = start(repository, "home", ParentChoice::Auto, index).unwrap();
    let theirs = writer.parent().and_then(|tree| find(tree, b"disk.img"));
    let content = put(&writer, disk, theirs.as_ref());
    commit(writer, disk.size, content)
}

fn save_volume(repository: &Repository, disk: &Disk, index: &Arc<ChunkIndex>) -> Snapshot {
    let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
    let writer = crate::SnapshotWriter::start(repository, index.clone(), &options).unwrap();
    let mut scratch = writer.scratch().unwrap();
    for (n, bytes) in &disk.chunks {
        writer.put(&mut scratch, *n, bytes).unwrap();
        writer.advance(n + 1).unwrap();
    }
    writer.commit(CommitInfo { size: disk.size, ..CommitInfo::default() }).unwrap()
}

/// Reads it from several places on.
fn check_image(repository: &Repository, snapshot: &Snapshot, disk: &Disk) {
    let tree = TreeReader::open(repository, snapshot).unwrap();
    let known = find(&tree, b"disk.img").unwrap();
    let What::File { size, content } = &known.what else { panic!("{known:?}") };
    assert_eq!((*size, matches!(content, Content::Map { .. })), (disk.size, !disk.chunks.is_empty()));
    let edges = disk.chunks.keys().flat_map(|n| [n * UNIT as u64, (n * UNIT as u64).saturating_sub(1)]);
    for from in edges.chain([0, 1, disk.size / 2, disk.size - 1, disk.size, disk.size + 5]) {
        let mut at = None;
        for span in tree.pieces(*size, content, from).unwrap() {
            let span = span.unwrap();
            match at {
                None => assert!((span.offset..span.offset + span.len).contains(&from), "{from}: {span:?}"),
                Some(at) => assert_eq!(span.offset, at),
            }
            at = Some(span.offset + span.len);
            let number = span.offset / UNIT as u64;
            match span.data {
                Some(part) => {
                    let read = tree.chunks().read_chunk(&part.chunk).unwrap();
                    assert_eq!((span.offset, part.skip), (number * UNIT as u64, 0));
                    assert_eq!(Some(read.as_ref()), disk.chunks.get(&number).map(|c| &c[..]), "{from} {number}");
                }
                None => {
                    let after = (span.offset + span.len).div_ceil(UNIT as u64);
                    assert_eq!(disk.chunks.range(number..after).count(), 0, "{from}: no hole {span:?}");
                }
            }
            // Not all of it each time.
            if span.offset > from + 40 * UNIT as u64 && from > 0 {
                at = Some(disk.size);
                break;
            }
        }
        assert_eq!(at, (from < disk.size).then_some(disk.size), "from {from}");
    }
}

fn features(repository: &Repository) -> (u32, Vec<String>) {
    let (_, config) = crate::newest_config(repository.storage()).unwrap().unwrap();
    (config.minor, config.read)
}

fn stats(record: &SnapshotRecord) -> [u64; 5] {
    let stats = &record.stats;
    [stats.read, stats.unchanged, stats.known, stats.new, stats.stored]
}

const LEN: u64 = UNIT as u64;

#[test]
fn an_image_and_the_same_disk_as_a_volume_are_the_same_chunks() {
    // Two levels, and an end inside a chunk.
    let disk = Disk::new(300, 777, (0..20).chain([127, 128, 255, 300]), 0);
    let bytes: u64 = disk.chunks.values().map(|chunk| chunk.len() as u64).sum();
    for tree_first in [true, false] {
        let (_, _, repository) = repository();
        let index = index();
        let (tree, volume) = match tree_first {
            true => (save_image(&repository, &disk, &index), save_volume(&repository, &disk, &index)),
            false => {
                let volume = save_volume(&repository, &disk, &index);
                (save_image(&repository, &disk, &index), volume)
            }
        };
        let (first, second) = if tree_first { (&tree, &volume) } else { (&volume, &tree) };
        assert_eq!(stats(&first.record)[..4], [bytes, 0, 0, bytes]);
        assert_eq!(stats(&second.record), [bytes, 0, bytes, 0, 0], "{tree_first}");
        check_image(&repository, &tree, &disk);
        let known = find(&TreeReader::open(&repository, &tree).unwrap(), b"disk.img").unwrap();
        let What::File { content: Content::Map { class, levels, top }, .. } = known.what else { panic!("{known:?}") };
        assert_eq!((class, levels), (volume.record.class, volume.record.levels));
        // The same map, but for its hints: in the record of the volume the top node stands itself.
        let node = crate::format::node::Node::decode(&volume.record.top).unwrap();
        let ids = &repository.keys().ids;
        let id = ids.node(node.level, node.present().map(|(n, slot)| (n as u8, slot.id)));
        assert_eq!(id.short(), top.to.id);
        assert_eq!(SnapshotReader::open(&repository, &volume).unwrap().chunk_count(), 301);
    }
}

#[test]
fn the_feature_stands_before_an_image_does_and_not_without_one() {
    let (storage, _, repository) = repository();
    let index = index();
    save(&repository, &whole(1), ParentChoice::Auto, &index, None);
    // All zero: no map.
    let nothing = Disk::new(300, 0, [], 0);
    let snapshot = save_image(&repository, &nothing, &index);
    check_image(&repository, &snapshot, &nothing);
    assert_eq!(features(&repository), (1, vec!["tree".to_owned()]));
    let disk = Disk::new(3, 0, [1], 0);
    let writer = start(&repository, "home", ParentChoice::Auto, &index).unwrap();
    let content = put(&writer, &disk, None);
    assert_eq!(features(&repository), (2, vec!["tree".to_owned(), "tree-map".to_owned()]));
    commit(writer, disk.size, content);
    // It is said once. One that was taken over unread says it too, should it not be there.
    save_image(&repository, &disk, &index);
    assert_eq!(repository.list(keys::CONFIG).unwrap().len(), 3);
    storage.delete(&keys::config(2)).unwrap();
    let writer = start(&repository, "home", ParentChoice::Auto, &index).unwrap();
    let theirs = find(writer.parent().unwrap(), b"disk.img").unwrap();
    assert!(writer.keep(&theirs).unwrap().is_some());
    assert_eq!(features(&repository).1, ["tree", "tree-map"]);
}

#[test]
fn a_run_that_cannot_say_so_does_not_commit() {
    let (storage, _, repository) = repository();
    let writer = start(&repository, "home", ParentChoice::Auto, &index()).unwrap();
    let mut scratch = writer.scratch(writer.largest()).unwrap();
    let mut image = writer.image(LEN, None).unwrap();
    image.put(&mut scratch, 0, &chunk(1)).unwrap();
    *storage.refuses.lock() = Some(("", ErrorKind::Denied));
    assert_eq!(image.finish().unwrap_err().kind(), ErrorKind::Denied);
    *storage.refuses.lock() = None;
    assert!(writer.commit(root(None), CommitInfo::default(), TreeInfo::default()).is_err());
}

#[test]
fn the_same_again_stores_nothing_and_a_changed_chunk_one_node_a_level() {
    let (_, _, repository) = repository();
    let index = index();
    let disk = Disk::new(40_000, 5, (0..20).chain([128, 20_000, 39_999, 40_000]), 0);
    let first = save_image(&repository, &disk, &index);
    let nodes = stored(&repository, &first.id, PackKind::Meta);
    assert_eq!(nodes, [(128, 4), (129, 3), (130, 1), (FOLDER, 1)].into());
    let again = save_image(&repository, &disk, &index);
    assert_eq!((again.record.root, &again.record.top), (first.record.root, &first.record.top));
    for kind in [PackKind::Data, PackKind::Meta] {
        assert_eq!(stored(&repository, &again.id, kind), BTreeMap::new());
    }
    assert_eq!(stats(&again.record)[1], stats(&first.record)[0], "all of it is the parent's");
    let mut changed = disk.clone();
    changed.chunks.insert(128, chunk(50_000));
    let second = save_image(&repository, &changed, &index);
    check_image(&repository, &second, &changed);
    assert_eq!(stats(&second.record)[3], LEN);
    assert_eq!(stored(&repository, &second.id, PackKind::Data), [(16, 1)].into());
    let nodes = stored(&repository, &second.id, PackKind::Meta);
    assert_eq!(nodes, [(128, 1), (129, 1), (130, 1), (FOLDER, 1)].into(), "one leaf and what leads to it");
}

#[test]
fn images_that_grow_and_shrink_and_become_something_else_come_back() {
    let (_, _, repository) = repository();
    let index = index();
    // From one level to three and back, with ends inside chunks.
    let disks = [
        Disk::new(100, 9, [0, 5, 100], 0),
        Disk::new(129, 0, [0, 5, 128], 1),
        Disk::new(128, 0, [0, 5, 127], 1),
        Disk::new(20_000, 3, [0, 5, 127, 16_384, 20_000], 1),
        // The parent's node below its top is the same as this top.
        Disk::new(128 * 128, 0, [0, 5, 127], 1),
        Disk::new(20_000, 0, [], 1),
        Disk::new(1, 0, [0], 1),
    ];
    for (n, disk) in disks.iter().enumerate() {
        let snapshot = save_image(&repository, disk, &index);
        check_image(&repository, &snapshot, disk);
        // In pieces, every now and then: neither is built upon the other.
        if n % 3 == 1 {
            let large: Folder = [(b"disk.img".to_vec(), Thing::Large(noise(n as u64, 200_000)))].into();
            let pieces = save(&repository, &large, ParentChoice::Auto, &index, None);
            assert!(read_all(&TreeReader::open(&repository, &pieces).unwrap()).unwrap() == large);
        }
    }
    let all = repository.snapshots(None).unwrap();
    assert_eq!((all.snapshots.len(), all.damaged.len()), (disks.len() + 2, 0));
}

#[test]
fn an_image_keeps_the_chunk_size_that_the_parent_has_if_there_is_room_for_it() {
    let (_, _, repository) = repository();
    let index = index();
    let disk = Disk::new(3, 10, [0, 1, 3], 0);
    let first = save_image(&repository, &disk, &index);
    repository
        .publish_config(3, |config| {
            config.chunk_size = 1 << 20;
            config.read = vec!["tree".to_owned(), "tree-map".to_owned()];
        })
        .unwrap();
    let cold = Repository::open(repository.components().clone(), &password()).unwrap();
    assert_eq!(cold.chunk_size(), 1 << 20);
    let again = save_image(&cold, &disk, &index);
    assert_eq!(again.record.root, first.record.root);
    // One that the parent does not have.
    let writer = start(&cold, "home", ParentChoice::Auto, &index).unwrap();
    assert_eq!(writer.image(5 << 20, None).unwrap().chunk_size(), 1 << 20);
    assert_eq!(writer.largest(), crate::format::tree::MAX_PIECE as usize);
    // The longest chunks there are.
    cold.publish_config(4, |config| config.chunk_size = 4 << 20).unwrap();
    let cold = Repository::open(repository.components().clone(), &password()).unwrap();
    let writer = start(&cold, "large", ParentChoice::Auto, &index).unwrap();
    assert_eq!(writer.largest(), 4 << 20);
    let mut scratch = writer.scratch(writer.largest()).unwrap();
    let mut image = writer.image(9 << 20, None).unwrap();
    let bytes = noise(3, 4 << 20);
    image.put(&mut scratch, 0, &bytes).unwrap();
    image.put(&mut scratch, 2, &bytes[..1 << 20]).unwrap();
    let content = image.finish().unwrap();
    let snapshot = commit(writer, 9 << 20, content.clone());
    let tree = TreeReader::open(&cold, &snapshot).unwrap();
    let want = [&bytes[..], &vec![0; 4 << 20], &bytes[..1 << 20]].concat();
    assert!(data(&tree, 9 << 20, &content).unwrap() == want);
    // Such a parent is not built upon where there is no room for its chunks.
    cold.publish_config(5, |config| config.chunk_size = 64 << 10).unwrap();
    let cold = Repository::open(repository.components().clone(), &password()).unwrap();
    let writer = start(&cold, "large", ParentChoice::Auto, &index).unwrap();
    let theirs = find(writer.parent().unwrap(), b"disk.img").unwrap();
    assert_eq!(writer.image(9 << 20, Some(&theirs)).unwrap().chunk_size(), 64 << 10);
}

fn packs_of(repository: &Repository, session: &SessionId, prefix: &str) -> Vec<crate::Key> {
    let is_its = |key: &crate::Key| keys::parse_pack(key).is_some_and(|id: PackId| id.session == *session);
    repository.list(prefix).unwrap().into_iter().filter(is_its).collect()
}

#[test]
fn an_image_that_leads_to_a_lost_pack_is_not_taken_over_unread() {
    let (storage, _, repository) = repository();
    let mut disk = Disk::new(300, 0, (0..20).chain([200]), 0);
    let one = save_image(&repository, &disk, &index());
    disk.chunks.insert(201, chunk(9));
    let two = save_image(&repository, &disk, &index());
    let keep = |repository: &Repository, index: &Arc<ChunkIndex>, parent: SessionId| {
        let writer = start(repository, "home", ParentChoice::Snapshot(parent), index).unwrap();
        let known = find(writer.parent().unwrap(), b"disk.img").unwrap();
        let kept = writer.keep(&known).unwrap().map(|kept| kept.into_content());
        (writer, known, kept)
    };
    let is_same = |known: &Known, kept: &Option<Content>| {
        let What::File { content, .. } = &known.what else { unreachable!() };
        kept.as_ref().map(|kept| kept == content)
    };
    let cold = || Repository::open(repository.components().clone(), &password()).unwrap();
    let (writer, known, kept) = keep(&cold(), &index(), two.id);
    assert_eq!(is_same(&known, &kept), Some(true));
    let again = commit(writer, disk.size, kept.unwrap());
    assert_eq!(again.record.root, two.record.root);
    assert_eq!(stored(&repository, &again.id, PackKind::Meta), BTreeMap::new(), "nothing is written");
    assert_eq!(stats(&again.record), [0, disk.size, 0, 0, 0]);
    // A node of the map is gone, or does not open.
    for damage in [true, false] {
        for key in packs_of(&repository, &one.id, keys::META) {
            let body = storage.get(&key).unwrap();
            storage.delete(&key).unwrap();
            if damage {
                storage.create(&key, body.iter().map(|b| b ^ 1).collect::<Vec<u8>>().into()).unwrap();
            }
            let (writer, known, kept) = keep(&cold(), &index(), two.id);
            assert_eq!(is_same(&known, &kept), None);
            // Then it is read, and written anew as far as it has to be.
            let content = put(&writer, &disk, Some(&known));
            let healed = commit(writer, disk.size, content);
            check_image(&cold(), &healed, &disk);
            storage.delete(&key).unwrap_or_default();
            storage.create(&key, body).unwrap();
        }
    }
    // The first run's chunks are gone.
    for key in packs_of(&repository, &one.id, keys::PACKS) {
        storage.delete(&key).unwrap();
    }
    let (_, known, kept) = keep(&cold(), &index(), two.id);
    assert_eq!(is_same(&known, &kept), None);
    // Somebody else has them: then they are hits (D2), under the same ids.
    let other = index();
    let options = WriterOptions { name: "vm".into(), uploads: 0, ..WriterOptions::default() };
    let volume = crate::SnapshotWriter::start(&cold(), other.clone(), &options).unwrap();
    let mut scratch = volume.scratch().unwrap();
    for (n, bytes) in &disk.chunks {
        volume.put(&mut scratch, *n, bytes).unwrap();
    }
    volume.commit(CommitInfo { size: disk.size, ..CommitInfo::default() }).unwrap();
    let (writer, known, kept) = keep(&cold(), &other, two.id);
    assert_eq!(is_same(&known, &kept), Some(false));
    let (Some(Content::Map { top: new, .. }), What::File { content: Content::Map { top: old, .. }, .. }) =
        (&kept, &known.what)
    else {
        panic!("{kept:?}")
    };
    assert_eq!(new.to.id, old.to.id, "only hints are others");
    let healed = commit(writer, disk.size, kept.unwrap());
    assert_eq!(stored(&repository, &healed.id, PackKind::Data), BTreeMap::new());
    let reader = cold();
    check_image(&reader, &healed, &disk);
    assert_eq!(reader.found_elsewhere(), 0, "its own hints are right");
}

#[test]
fn a_damaged_node_of_a_map_loses_its_own_bytes_only() {
    let (storage, _, repository) = repository();
    let disk = Disk::new(40_000, 0, [0, 1, 130, 300, 20_000, 20_001], 0);
    let snapshot = save_image(&repository, &disk, &index());
    let [key] = &packs_of(&repository, &snapshot.id, keys::META)[..] else { panic!() };
    let entries =
        read_index(repository.storage(), repository.keys(), &keys::parse_pack(key).unwrap()).unwrap().0.entries;
    let body = storage.get(key).unwrap();
    let mut lost = Vec::new();
    for entry in entries.iter().filter(|entry| (128..FOLDER).contains(&entry.class)) {
        let mut bad = body.to_vec();
        bad[entry.offset as usize] ^= 1;
        storage.overwrite(key, bad.into()).unwrap();
        let cold = Repository::open(repository.components().clone(), &password()).unwrap();
        let tree = TreeReader::open(&cold, &snapshot).unwrap();
        let known = find(&tree, b"disk.img").unwrap();
        let What::File { size, content } = &known.what else { panic!() };
        let reads = |n: u64| {
            let mut pieces = tree.pieces(*size, content, n * LEN)?;
            let part = pieces.next().unwrap()?.data.unwrap();
            assert_eq!(tree.chunks().read_chunk(&part.chunk)?.as_ref(), &disk.chunks[&n][..]);
            Ok(())
        };
        let gone: Vec<u64> = disk
            .chunks
            .keys()
            .copied()
            .filter(|n| {
                let read: Result<()> = reads(*n);
                if let Err(e) = &read {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
                }
                read.is_err()
            })
            .collect();
        // A hole is read wherever the nodes above it can be, whatever is lost behind it.
        let hole = |n: u64| tree.pieces(*size, content, n * LEN).and_then(|mut pieces| pieces.next().unwrap());
        for (n, above) in [(5000, [0, 300]), (39_000, [20_000, 300])] {
            let is_lost = above.iter().all(|n| gone.contains(n));
            match hole(n) {
                Ok(part) => assert!(!is_lost && part.data.is_none(), "{n}: {part:?}"),
                Err(e) => assert!(is_lost, "the hole at chunk {n} is lost with {gone:?}: {e}"),
            }
        }
        lost.push(gone);
        storage.overwrite(key, body.clone()).unwrap();
    }
    lost.sort();
    let all = vec![0, 1, 130, 300, 20_000, 20_001];
    let below = |n: u64| all.iter().copied().filter(|c| c / 128 == n).collect::<Vec<_>>();
    assert_eq!(lost, [below(0), vec![0, 1, 130, 300], all.clone(), below(1), below(2), below(156), below(156)]);
}

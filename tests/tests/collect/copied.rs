//! Copies into another repository, and rebuilds of the index, with a collector from its beginning to its end at each of their
//! calls to a storage: at the source, where what is read or compared goes, and at the target, where what is built upon goes.

use super::interleaved::gc_with;
use super::*;
use parking_lot::Mutex;
use wherry_repo::format::tree::{Entry, What};
use wherry_repo::index::ChunkIndex;
use wherry_repo::{CopyOptions, CopyPlan, ErrorKind, Key, ReadSession, SnapshotCopy, TreeReader};
use wherry_tests::made_trees::{Made, Node, Part, backup_tree};
use wherry_tests::meddling::{Fate, Meddling};

/// What is backed up, made of numbered chunks.
enum Volume {
    Disk(Vec<u8>),
    /// A directory with these files; the first one is stored as a disk image.
    Tree(Vec<(String, Vec<u8>)>),
}

/// The last ones far behind the others, so that the map has leaves of its own.
fn as_disk(chunks: &[u64]) -> Volume {
    let (front, back) = chunks.split_at(chunks.len() * 2 / 3);
    Volume::Disk([disk(front), vec![0; 114 * UNIT], disk(back)].concat())
}

/// A disk image, a file of many pieces, and small ones; in packs of so few chunks that none is ever worth copying.
fn as_tree(chunks: &[u64]) -> Volume {
    let large = [("a image".to_owned(), disk(chunks)), ("b long".to_owned(), disk(&chunks[..chunks.len() / 3]))];
    let small = chunks.iter().take(6).map(|n| (format!("small {n:04}"), noise(5000 + n, 300)));
    let mut files: Vec<_> = large.into_iter().chain(small).collect();
    files.sort();
    Volume::Tree(files)
}

impl Volume {
    fn backup(&self, world: &World, name: &str) -> Snapshot {
        world.clock.advance(Duration::from_secs(60));
        match self {
            Self::Disk(bytes) => backup_with(&world.repository(), index(), &wide(name), bytes).unwrap(),
            Self::Tree(files) => {
                let node = |(n, (name, bytes)): (usize, &(String, Vec<u8>))| match n {
                    0 => Node::plain(name.as_bytes(), Made::Image(vec![Part { is_hole: false, bytes: bytes.clone() }])),
                    _ => Node::file(name.as_bytes(), bytes.clone()),
                };
                let root = Node::folder(b"", files.iter().enumerate().map(node).collect());
                backup_tree(&world.repository(), name, &root).unwrap()
            }
        }
    }

    /// A snapshot is this, bit for bit.
    #[track_caller]
    fn is_in(&self, repository: &Repository, snapshot: &Snapshot, what: &str) {
        match self {
            Self::Disk(bytes) => {
                let restored = restore(repository, snapshot).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(restored == *bytes, "{what}: the copy is another disk");
            }
            Self::Tree(files) => {
                let found = files_of(repository, snapshot).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(found == *files, "{what}: the copy is another tree");
            }
        }
    }
}

fn files_of(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<(String, Vec<u8>)>> {
    let reader = TreeReader::open(repository, snapshot)?;
    let What::Folder { below: Some(below), .. } = &reader.root().what else { panic!("it is no directory") };
    let mut found = Vec::new();
    for entry in reader.list(below, 0)? {
        let (_, Entry::Known(known)) = entry? else { panic!("an entry could not be looked at") };
        let What::File { size, content } = &known.what else { panic!("it has files alone") };
        let mut bytes = Vec::new();
        for span in reader.pieces(*size, content, 0)? {
            let span = span?;
            match span.data {
                None => bytes.resize(bytes.len() + span.len as usize, 0),
                Some(part) => {
                    let plain = reader.chunks().read_chunk(&part.chunk)?.into_inner();
                    bytes.extend_from_slice(&plain[part.skip as usize..][..span.len as usize]);
                }
            }
        }
        found.push((String::from_utf8_lossy(&known.name).into_owned(), bytes));
    }
    Ok(found)
}

/// Two repositories: at the source two snapshots of a volume, at the target a copy of the older one, and one of another volume
/// that has what is new in the other.
struct Stand {
    source: World,
    target: World,
    old: Snapshot,
    new: Snapshot,
    copy_of_old: SnapshotId,
    twin: SnapshotId,
    volume: Volume,
}

fn stand(kind: fn(&[u64]) -> Volume) -> Stand {
    let (mut source, mut target) = (World::new(), World::new());
    // Of the second pack little is needed once the older one is gone: it is copied. And no leaf of the map is the same.
    let before: Vec<u64> = (0..24).collect();
    let after: Vec<u64> = (0..24).map(|n| if (9..16).contains(&n) || n == 23 { n + 200 } else { n }).collect();
    let old = kind(&before).backup(&source, "vm");
    let volume = kind(&after);
    let new = volume.backup(&source, "vm");
    source.backup("other", &disk(&[100, 101, 102]));
    target.backup("another", &disk(&[300, 301, 302]));
    let twin = kind(&(209..216).collect::<Vec<_>>()).backup(&target, "twin").id;
    let copy_of_old = copied(&source.repository(), &target.repository(), &old).unwrap().id;
    Stand { source, target, old, new, copy_of_old, twin, volume }
}

/// An index that knows all of a repository.
fn known(repository: &Repository) -> Arc<ChunkIndex> {
    let known = index();
    known.synchronise(repository, true).unwrap();
    known
}

/// All of what `wherry copy` does for one snapshot, by one thread.
fn copied_with(
    source: &Repository,
    target: &Repository,
    known: Arc<ChunkIndex>,
    snapshot: &Snapshot,
) -> Result<Snapshot> {
    let plan = CopyPlan::new(source, source.snapshots(None)?, target, &target.snapshots(None)?)?;
    let base = plan.base_of(snapshot);
    let options = CopyOptions { writer: wide(""), threads: 1, fetch: 256 << 10, run: String::new() };
    let session = Arc::new(ReadSession::open(source, snapshot)?);
    SnapshotCopy::start(session, target, known, base.as_ref(), &options)?.run(&plan, &|_| Ok(()))
}

fn copied(source: &Repository, target: &Repository, snapshot: &Snapshot) -> Result<Snapshot> {
    copied_with(source, target, known(target), snapshot)
}

/// A storage in which `deed` is done before call number `at`, and how many calls there were.
fn with_deed(world: &World, at: usize, deed: impl Fn() + Send + 'static) -> (Repository, Arc<Mutex<usize>>) {
    let storage = Meddling::new(world.storage.clone(), false);
    let repository = world.over(storage.clone());
    let calls = Arc::new(Mutex::new(0));
    let counted = calls.clone();
    storage.meddle(move |_, _| {
        let mut counted = counted.lock();
        *counted += 1;
        if *counted == at {
            deed();
        }
        Fate::Done
    });
    (repository, calls)
}

/// What the copy is built upon, and what it hits, is forgotten and collected at the target.
fn collected_at_the_target(kind: fn(&[u64]) -> Volume, step: usize) {
    let first = stand(kind);
    let plain = (first.source.copy(), first.target.copy());
    let usual = copied(&plain.0.repository(), &plain.1.repository(), &first.new).unwrap();
    let stats = &usual.record.stats;
    assert!(stats.known > 0 && usual.record.parent == Some(first.copy_of_old), "it was to hit the twin: {stats:?}");
    let (mut whole, mut told, mut alone) = (0, 0, 0);
    for fence_after in [0, 7200] {
        for at in (1..).step_by(step) {
            let (source, target) = (first.source.copy(), first.target.copy());
            let (others, doomed) = (target.repository(), [first.copy_of_old, first.twin]);
            let options = CollectOptions { fence_after: Duration::from_secs(fence_after), ..now() };
            let known = known(&target.repository());
            let (repository, calls) = with_deed(&target, at, move || {
                doomed.iter().for_each(|id| assert!(others.forget(id, Duration::ZERO, "test").unwrap()));
                gc(&others, &options).unwrap();
            });
            let what = format!("a collector at call {at} to the target, {fence_after} s");
            let made = match copied_with(&source.repository(), &repository, known, &first.new) {
                Ok(made) => {
                    whole += 1;
                    alone += u64::from(made.record.parent.is_none());
                    made
                }
                Err(e) => {
                    told += 1;
                    assert_eq!(e.kind(), ErrorKind::Conflict, "{what}: {e}");
                    assert!(e.to_string().contains("run it again"), "{what}: {e}");
                    let visible = target.repository().snapshots(None).unwrap().visible().count();
                    assert_eq!(visible, 1, "{what}: it failed, and is there");
                    copied(&source.repository(), &target.repository(), &first.new)
                        .unwrap_or_else(|e| panic!("{what}, again: {e}"))
                }
            };
            first.volume.is_in(&target.repository(), &made, &what);
            target.verify(&what);
            target.verify_lean(&what);
            first.volume.is_in(&target.repository(), &made, &format!("{what}, then others"));
            target.verify(&format!("{what}, then others"));
            if *calls.lock() < at {
                assert!(at > 20, "a copy has only {at} calls to the target");
                break;
            }
        }
    }
    assert!(whole > 5 && told > 5 && alone > 0, "{whole} whole, {told} told, {alone} without a base");
}

#[test]
fn a_collector_of_the_target_at_any_moment_of_a_copied_disk() {
    collected_at_the_target(as_disk, 1);
}

#[test]
fn a_collector_of_the_target_at_any_moment_of_a_copied_tree() {
    collected_at_the_target(as_tree, 2);
}

/// What is copied and what it is compared with is forgotten at the source, and collected: a copy that has begun is whole, or
/// there is none.
fn collected_at_the_source(kind: fn(&[u64]) -> Volume, moves: bool) {
    let first = stand(kind);
    for forgotten in [true, false] {
        let (mut whole, mut refused, mut moved) = (0, 0, 0);
        for at in 1.. {
            let (source, target) = (first.source.copy(), first.target.copy());
            let doomed = [Some(first.old.id), forgotten.then_some(first.new.id)];
            let (others, report) = (source.repository(), Arc::new(Mutex::new(Collected::default())));
            let reported = report.clone();
            let (repository, calls) = with_deed(&source, at, move || {
                doomed.iter().flatten().for_each(|id| assert!(others.forget(id, Duration::ZERO, "test").unwrap()));
                *reported.lock() = gc(&others, &now()).unwrap();
            });
            let what = format!("a collector at call {at} to the source, forgotten {forgotten}");
            match copied(&repository, &target.repository(), &first.new) {
                Ok(made) => {
                    whole += 1;
                    first.volume.is_in(&target.repository(), &made, &what);
                }
                // Gone before it was begun.
                Err(e) => {
                    refused += 1;
                    assert_eq!(e.kind(), ErrorKind::NoSnapshot, "{what}: {e}");
                    assert!(forgotten, "{what}: {e}");
                    assert_eq!(target.repository().snapshots(None).unwrap().visible().count(), 3, "{what}");
                }
            }
            let is_reached = *calls.lock() >= at;
            moved += report.lock().copied.packs;
            for (world, of) in [(&source, "source"), (&target, "target")] {
                world.verify(&format!("{what}: {of}"));
                world.verify_lean(&format!("{what}: {of}"));
                world.verify(&format!("{what}: {of}, then others"));
            }
            if !is_reached {
                assert!(at > 10, "a copy has only {at} calls to the source");
                break;
            }
        }
        assert!(whole > 3 && (moved > 0) == moves, "{whole} whole, {moved} chunks moved meanwhile");
        assert_eq!(refused > 0, forgotten, "{refused} refused");
    }
}

#[test]
fn a_collector_of_the_source_at_any_moment_of_a_copied_disk() {
    collected_at_the_source(as_disk, true);
}

#[test]
fn a_collector_of_the_source_at_any_moment_of_a_copied_tree() {
    collected_at_the_source(as_tree, false);
}

/// Of these volumes no segment says anything, and of one there is a damaged one.
fn without_segments(volumes: &[&str]) -> (World, Snapshot, Vec<u8>) {
    let mut world = World::new();
    let segments = |world: &World| -> Vec<Key> {
        keys_of(&*world.storage).into_iter().filter(|key| key.as_str().starts_with(keys::IDX)).collect()
    };
    let bytes = disk(&(0..16).collect::<Vec<_>>());
    let mut made = Vec::new();
    for (name, bytes) in [("vm", bytes.clone()), ("little", disk(&[8, 201])), ("other", disk(&[100, 101, 102]))] {
        let before = segments(&world);
        made.push(world.backup(name, &bytes));
        let new: Vec<Key> = segments(&world).into_iter().filter(|key| !before.contains(key)).collect();
        assert!(!new.is_empty());
        for (n, key) in new.iter().enumerate().filter(|_| volumes.contains(&name)) {
            if n > 0 {
                world.storage.delete(key).unwrap();
                continue;
            }
            let mut body = world.storage.get(key).unwrap().to_vec();
            body[40] ^= 1;
            world.storage.overwrite(key, body.into()).unwrap();
        }
    }
    (world, made.swap_remove(0), bytes)
}

/// The index is lacking and made again, while what it names is collected: nobody is led to what is gone, and it ends well.
#[test]
fn a_collector_at_any_moment_of_a_rebuild() {
    for volumes in [&["vm", "little", "other"][..], &["vm"]] {
        let (first, snapshot, bytes) = without_segments(volumes);
        for at in 1.. {
            let mut world = first.copy();
            let (others, id) = (world.repository(), snapshot.id);
            let (repository, calls) = with_deed(&world, at, move || {
                assert!(others.forget(&id, Duration::ZERO, "test").unwrap());
                assert!(gc(&others, &now()).unwrap().swept.packs > 0);
            });
            let what = format!("a collector at call {at} of a rebuild, {volumes:?}");
            repository.rebuild_index(&|_, _| Ok(())).unwrap_or_else(|e| panic!("{what}: {e}"));
            let is_reached = *calls.lock() >= at;
            if is_reached {
                world.disks.remove(&id);
            }
            is_led_to_what_is_there(&mut world, &bytes, &what);
            if !is_reached {
                assert!(at > 10, "a rebuild has only {at} calls");
                break;
            }
        }
    }
}

#[test]
fn a_rebuild_at_any_moment_of_a_collector() {
    let (mut first, snapshot, bytes) = without_segments(&["vm", "little", "other"]);
    first.forget(&snapshot.id);
    for at in 1.. {
        let mut world = first.copy();
        let others = world.repository();
        let deed = move || drop(others.rebuild_index(&|_, _| Ok(())).unwrap());
        let (reached, report) = gc_with(&world, at, Box::new(deed));
        if !reached {
            assert!(at > 50, "a collector has only {at} calls");
            break;
        }
        let what = format!("a rebuild at call {at} of a collector");
        assert!(report.unwrap_or_else(|e| panic!("{what}: {e}")).swept.packs > 0, "{what}");
        is_led_to_what_is_there(&mut world, &bytes, &what);
    }
}

/// A backup of what was forgotten goes by what the segments say, and is whole; there is a segment for all that is there.
#[track_caller]
fn is_led_to_what_is_there(world: &mut World, bytes: &[u8], what: &str) {
    world.verify(what);
    let repository = world.repository();
    let known = index();
    known.synchronise(&repository, false).unwrap();
    let made = backup_with(&repository, known, &wide("new"), bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    world.disks.insert(made.id, bytes.to_vec());
    world.verify(&format!("{what}, then a backup"));
    world.verify_lean(&format!("{what}, then a backup"));
    world.verify(&format!("{what}, then others"));
    let again = world.repository().rebuild_index(&|_, _| Ok(())).unwrap();
    assert_eq!((again.rebuilt, again.damaged.len(), again.unreadable.len()), (0, 0, 0), "{what}: {again:?}");
}

//! Trees in a repository in memory.

mod damage;
mod images;

use super::{attributes, entry};
use crate::format::tree::{Below, Content, Entry, Extended, FOLDER, Known, LIST, PIECE, Piece, SHARED, Set, What};
use crate::id::{PackKind, SessionId};
use crate::index::ChunkIndex;
use crate::pack::read_index;
use crate::storage::{Storage, keys};
use crate::testing::{Watched, backup, password, repository};
use crate::{
    CommitInfo, ErrorKind, ParentChoice, Put, Repository, Result, Scratch, Snapshot, TreeInfo, TreeReader, TreeWriter,
    WriterOptions,
};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

type Folder = BTreeMap<Vec<u8>, Thing>;

/// What is in a directory here.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Small(Vec<u8>),
    Large(Vec<u8>),
    Link(Vec<u8>),
    Lost,
    Folder(Folder),
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A tree that a seed decides, some hundred entries.
fn tree(seed: u64) -> Folder {
    fn fill(seed: &mut impl FnMut(u64) -> u64, depth: u64) -> Folder {
        let count = seed(40 / depth) + 1;
        let mut folder = Folder::new();
        for n in 0..count {
            let thing = match seed(20) {
                0 => Thing::Link(format!("../{n}").into_bytes()),
                1 => Thing::Lost,
                2 => Thing::Large(noise(seed(50), 70_000 + seed(400_000) as usize)),
                3..=6 if depth < 5 => Thing::Folder(if seed(4) == 0 { Folder::new() } else { fill(seed, depth + 1) }),
                _ => Thing::Small(noise(seed(50), 1 + seed(5000) as usize)),
            };
            folder.insert(vec![b'a' + (n % 26) as u8, 128 + (n / 26) as u8, seed(255).max(1) as u8 | 128], thing);
        }
        folder
    }
    let mut state = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut draw = move |below: u64| {
        let mut word = [0; 8];
        state.fill(&mut word);
        u64::from_le_bytes(word) % below.max(1)
    };
    fill(&mut draw, 1)
}

fn start(repository: &Repository, name: &str, parent: ParentChoice, index: &Arc<ChunkIndex>) -> Result<TreeWriter> {
    let options =
        WriterOptions { name: name.into(), pack_size: 4 << 20, uploads: 0, parent, ..WriterOptions::default() };
    TreeWriter::start(repository, index.clone(), &options)
}

fn index() -> Arc<ChunkIndex> {
    Arc::new(ChunkIndex::in_memory(4 << 20))
}

/// Writes a directory; files that are as in `old`, which the parent's is, are taken over unread.
fn write(
    writer: &TreeWriter,
    scratch: &mut Scratch,
    folder: &Folder,
    theirs: Option<&Below>,
    old: Option<&Folder>,
) -> Option<Below> {
    let mut builder = writer.folder(theirs);
    for (name, thing) in folder {
        let parent = theirs.and_then(|below| writer.in_parent(below, name).unwrap());
        let is_old = old.and_then(|old| old.get(name)) == Some(thing);
        let kept = parent.as_ref().filter(|_| is_old).and_then(|known| writer.keep(known).unwrap());
        let set = parent.as_ref().map(|known| writer.kept_pieces(known).unwrap());
        let what = match thing {
            Thing::Lost => {
                builder.push(Entry::Unknown { name: name.clone(), errno: NonZeroU32::new(13).unwrap() }).unwrap();
                continue;
            }
            Thing::Link(target) => What::Link(target.clone()),
            Thing::Folder(inner) => {
                let theirs = parent.as_ref().and_then(|known| match known.what {
                    What::Folder { below, .. } => below,
                    _ => None,
                });
                let old = match old.and_then(|old| old.get(name)) {
                    Some(Thing::Folder(old)) => Some(old),
                    _ => None,
                };
                What::Folder { boundary: false, below: write(writer, scratch, inner, theirs.as_ref(), old) }
            }
            Thing::Small(_) | Thing::Large(_) if kept.is_some() => {
                let Some(What::File { size, .. }) = parent.map(|known| known.what) else { unreachable!() };
                What::File { size, content: kept.unwrap().into_content() }
            }
            Thing::Small(data) => {
                let (chunk, _) = writer.put(scratch, SHARED, data, set.as_ref()).unwrap();
                What::File { size: data.len() as u64, content: Content::Shared { chunk, offset: 0 } }
            }
            Thing::Large(data) => {
                let theirs = parent.as_ref().and_then(|known| match &known.what {
                    What::File { content, .. } => Some(content),
                    _ => None,
                });
                let mut list = writer.list(theirs);
                let mut rest = &data[..];
                while !rest.is_empty() {
                    // Shorter than the format cuts, for longer lists.
                    let (piece, left) = rest.split_at(rest.len().min(3000));
                    list.push(Piece::Chunk(writer.put(scratch, PIECE, piece, set.as_ref()).unwrap().0)).unwrap();
                    list.push(Piece::Hole(1)).unwrap();
                    rest = left;
                }
                What::File { size: list.size(), content: list.finish().unwrap() }
            }
        };
        builder.push(entry(name, what)).unwrap();
    }
    builder.finish().unwrap()
}

fn root(below: Option<Below>) -> Known {
    let Entry::Known(root) = entry(b"", What::Folder { boundary: false, below }) else { unreachable!() };
    *root
}

/// The whole run.
fn save(
    repository: &Repository,
    folder: &Folder,
    parent: ParentChoice,
    index: &Arc<ChunkIndex>,
    old: Option<&Folder>,
) -> Snapshot {
    let writer = start(repository, "home", parent, index).unwrap();
    let mut scratch = writer.scratch(256 << 10).unwrap();
    let theirs = writer.parent().and_then(|tree| match tree.root().what {
        What::Folder { below, .. } => below,
        _ => None,
    });
    let below = write(&writer, &mut scratch, folder, theirs.as_ref(), old);
    writer.commit(root(below), CommitInfo::default(), TreeInfo::default()).unwrap()
}

fn data(reader: &TreeReader, size: u64, content: &Content) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for span in reader.pieces(size, content, 0)? {
        let span = span?;
        assert_eq!(span.offset, out.len() as u64);
        match span.data {
            None => out.resize(out.len() + span.len as usize, 0),
            Some(part) => {
                let chunk = reader.chunks().read_chunk(&part.chunk)?;
                out.extend_from_slice(&chunk.as_ref()[part.skip as usize..][..span.len as usize]);
            }
        }
    }
    assert_eq!(out.len() as u64, size);
    Ok(out)
}

/// Reads a directory whose number is `number`; numbers of all entries are noted in order.
fn read(reader: &TreeReader, below: Option<Below>, number: u64, order: &mut Vec<(u64, Entry)>) -> Result<Folder> {
    let mut folder = Folder::new();
    let Some(below) = below else { return Ok(folder) };
    for (place, found) in reader.list(&below, 0)?.enumerate() {
        let (n, found) = found?;
        assert_eq!(reader.find(&below, found.name())?, Some((n, found.clone())));
        if place % 7 == 3 {
            assert_eq!(reader.list(&below, place as u64)?.next().unwrap()?, (n, found.clone()));
        }
        order.push((number + n, found.clone()));
        let thing = match &found {
            Entry::Unknown { .. } => Thing::Lost,
            Entry::Known(known) => match &known.what {
                What::Link(target) => Thing::Link(target.clone()),
                What::File { size, content: content @ Content::Shared { .. } } => {
                    Thing::Small(data(reader, *size, content)?)
                }
                What::File { size, content } => {
                    let mut bytes = data(reader, *size, content)?;
                    // The holes of one byte behind each piece.
                    let mut n = 0;
                    let len = bytes.len();
                    bytes.retain(|_| {
                        n += 1;
                        n % 3001 != 0 && n != len
                    });
                    Thing::Large(bytes)
                }
                What::Folder { below, .. } => Thing::Folder(read(reader, *below, number + n, order)?),
                other => panic!("{other:?}"),
            },
        };
        folder.insert(found.name().to_vec(), thing);
    }
    assert_eq!(reader.find(&below, b"no such name")?, None);
    assert_eq!(reader.list(&below, below.entries)?.count(), 0);
    Ok(folder)
}

fn read_all(reader: &TreeReader) -> Result<Folder> {
    let What::Folder { below, .. } = reader.root().what else { unreachable!() };
    let mut order = Vec::new();
    let folder = read(reader, below, 0, &mut order)?;
    for (n, (number, found)) in order.iter().enumerate() {
        assert_eq!(*number, n as u64 + 1, "numbers are those of the walk");
        if n % 11 == 0 {
            assert_eq!(reader.by_number(*number)?, *found);
        }
    }
    assert_eq!(reader.by_number(order.len() as u64 + 1).unwrap_err().kind(), ErrorKind::Invalid);
    Ok(folder)
}

/// Chunks and nodes of all packs of one kind that a session wrote, by class.
fn stored(repository: &Repository, session: &SessionId, kind: PackKind) -> BTreeMap<u8, usize> {
    let prefix = if kind == PackKind::Data { keys::PACKS } else { keys::META };
    let mut found = BTreeMap::new();
    for key in repository.list(prefix).unwrap() {
        let pack = keys::parse_pack(&key).unwrap();
        if pack.session == *session {
            for entry in read_index(repository.storage(), repository.keys(), &pack).unwrap().0.entries {
                *found.entry(entry.class).or_default() += 1;
            }
        }
    }
    found
}

fn lost(folder: &Folder, path: &[u8], out: &mut Vec<Vec<u8>>) {
    for (name, thing) in folder {
        let path = [path, if path.is_empty() { b"" } else { b"/" }, name].concat();
        match thing {
            Thing::Lost => out.push(path),
            Thing::Folder(inner) => lost(inner, &path, out),
            _ => {}
        }
    }
}

#[test]
fn random_trees_come_back_whole_with_and_without_a_parent() {
    for seed in 0..6 {
        let (_, _, repository) = repository();
        let index = index();
        let (old, new) = (tree(seed), tree(seed + 100));
        let mut both = old.clone();
        both.extend(new.into_iter().take(5));
        let runs = [(&old, None), (&both, Some(&old)), (&old, None), (&Folder::new(), Some(&old))];
        for (n, (folder, before)) in runs.into_iter().enumerate() {
            let snapshot = save(&repository, folder, ParentChoice::Auto, &index, before);
            let reader = TreeReader::open(&repository, &snapshot).unwrap();
            assert!(read_all(&reader).unwrap() == *folder, "seed {seed}, run {n}");
            let mut missing = Vec::new();
            lost(folder, b"", &mut missing);
            let found = reader.missing().collect::<Result<Vec<_>>>().unwrap();
            assert_eq!(found, missing.iter().map(|path| (path.clone(), 13)).collect::<Vec<_>>());
            assert_eq!((snapshot.record.partial, reader.info().missing), (!missing.is_empty(), missing.len() as u64));
            if !missing.is_empty() {
                break;
            }
        }
    }
}

/// Without what is missing: a partial snapshot is no parent.
fn whole(seed: u64) -> Folder {
    fn clean(folder: &mut Folder) {
        folder.retain(|_, thing| *thing != Thing::Lost);
        folder.values_mut().for_each(|thing| {
            if let Thing::Folder(inner) = thing {
                clean(inner);
            }
        });
    }
    let mut folder = tree(seed);
    clean(&mut folder);
    folder
}

fn wide() -> Folder {
    let mut folder: Folder =
        (0..3000).map(|n| (format!("{n:05}").into_bytes(), Thing::Small(noise(n % 50, 300)))).collect();
    folder.insert(b"sub".to_vec(), Thing::Folder(whole(3)));
    folder.insert(b"big".to_vec(), Thing::Large(noise(77, 900_000)));
    folder
}

#[test]
fn the_same_again_stores_nothing_and_a_change_one_node_a_level() {
    let (_, _, repository) = repository();
    let (index, folder) = (index(), wide());
    let first = save(&repository, &folder, ParentChoice::Auto, &index, None);
    for old in [None, Some(&folder)] {
        let again = save(&repository, &folder, ParentChoice::Auto, &index, old);
        assert!(again.record.parent.is_some());
        assert_eq!((again.record.root, &again.record.top), (first.record.root, &first.record.top));
        for kind in [PackKind::Data, PackKind::Meta] {
            assert_eq!(stored(&repository, &again.id, kind), BTreeMap::new(), "{}", old.is_some());
        }
        let stats = &again.record.stats;
        assert_eq!((stats.new, stats.known, stats.stored), (0, 0, 0));
        assert_eq!(stats.read == 0, old.is_some());
    }
    let mut changed = folder.clone();
    changed.insert(b"01500".to_vec(), Thing::Small(b"other".to_vec()));
    let second = save(&repository, &changed, ParentChoice::Auto, &index, Some(&folder));
    let What::Folder { below: Some(below), .. } = TreeReader::open(&repository, &first).unwrap().root().what else {
        unreachable!()
    };
    assert!(read_all(&TreeReader::open(&repository, &second).unwrap()).unwrap() == changed);
    let nodes = stored(&repository, &second.id, PackKind::Meta);
    let height = below.node.to.class - FOLDER;
    assert_eq!(nodes, (FOLDER..=FOLDER + height).map(|class| (class, 1)).collect(), "one leaf and what leads to it");
    assert!(height > 0 && second.record.stats.read == 5);
}

#[test]
fn how_a_directory_came_about_does_not_show() {
    let (_, _, repository) = repository();
    let index = index();
    let more = wide();
    let mut less = more.clone();
    less.retain(|name, _| name.last() != Some(&b'7'));
    let straight = save(&repository, &less, ParentChoice::None, &index, None);
    save(&repository, &more, ParentChoice::None, &index, None);
    let around = save(&repository, &less, ParentChoice::Auto, &index, None);
    assert_eq!(around.record.root, straight.record.root);
}

#[test]
fn nodes_are_taken_from_the_parent_alone() {
    let (_, _, repository) = repository();
    let (index, folder) = (index(), wide());
    let first = save(&repository, &folder, ParentChoice::None, &index, None);
    let other = save(&repository, &folder, ParentChoice::None, &index, None);
    assert_eq!(other.record.root, first.record.root);
    assert_eq!(stored(&repository, &other.id, PackKind::Data), BTreeMap::new(), "chunks are found in the index");
    // A stranger's node carries hints into packs that nobody tracks.
    let nodes = stored(&repository, &other.id, PackKind::Meta);
    assert_eq!(nodes, stored(&repository, &first.id, PackKind::Meta));
    assert!(nodes[&FOLDER] > 30 && nodes[&LIST] > 0, "{nodes:?}");
    assert_ne!(first.record.top, other.record.top, "own hints");
}

#[test]
fn a_hundred_thousand_names_cost_little_more_than_their_bytes() {
    let (storage, _, repository) = repository();
    let index = index();
    let run = |change: Option<u32>| {
        let writer = start(&repository, "home", ParentChoice::Auto, &index).unwrap();
        let theirs = writer.parent().and_then(|tree| match tree.root().what {
            What::Folder { below, .. } => below,
            _ => None,
        });
        let mut builder = writer.folder(theirs.as_ref());
        for n in 0..100_000 {
            let name = format!("{n:06}");
            let what = if change == Some(n) { What::Fifo } else { What::Link(name.clone().into_bytes()) };
            builder.push(entry(name.as_bytes(), what)).unwrap();
        }
        let below = builder.finish().unwrap();
        writer.commit(root(below), CommitInfo::default(), TreeInfo::default()).unwrap()
    };
    let first = run(None);
    let nodes = stored(&repository, &first.id, PackKind::Meta);
    let reader = TreeReader::open(&repository, &first).unwrap();
    let What::Folder { below: Some(below), .. } = reader.root().what else { unreachable!() };
    assert_eq!((below.entries, reader.list(&below, 0).unwrap().count()), (100_000, 100_000));
    assert_eq!(reader.list(&below, 77_777).unwrap().next().unwrap().unwrap().1.name(), b"077777");
    assert_eq!(reader.by_number(5001).unwrap().name(), b"005000");
    // Read again by somebody who has nothing in memory: by packs, not by nodes.
    let cold = crate::Repository::open(repository.components().clone(), &password()).unwrap();
    let before = storage.reads();
    let reader = TreeReader::open(&cold, &first).unwrap();
    assert_eq!(reader.list(&below, 0).unwrap().count(), 100_000);
    let (requests, packs) = (storage.reads() - before, repository.list(keys::META).unwrap().len());
    assert!(requests <= 4 * packs + 4, "{requests} requests for {packs} packs of {nodes:?}");
    let second = run(Some(44_444));
    assert_eq!(
        stored(&repository, &second.id, PackKind::Meta).values().sum::<usize>(),
        1 + usize::from(below.node.to.class - FOLDER)
    );
}

#[test]
fn the_feature_stands_before_a_session_is_open() {
    let (storage, _, repository) = repository();
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let (there, at_open) = (storage.clone(), seen.clone());
    *storage.after.lock() = Some((
        "/open",
        Box::new(move |_| {
            *at_open.lock() = crate::newest_config(&there.inner).unwrap().map(|(_, config)| config);
        }),
    ));
    save(&repository, &whole(1), ParentChoice::Auto, &index(), None);
    let config = seen.lock().take().expect("a session was opened");
    assert_eq!((config.minor, config.read), (1, vec!["tree".to_owned()]));
    // It is said once, and this build opens what has it.
    save(&repository, &whole(1), ParentChoice::Auto, &index(), None);
    assert_eq!(repository.list(keys::CONFIG).unwrap().len(), 2);
    let again = Repository::open(repository.components().clone(), &password()).unwrap();
    assert_eq!(again.snapshots(None).unwrap().snapshots.len(), 2);
    // A repository of disks alone stays as it was.
    let (_, _, other) = crate::testing::repository();
    backup(&other, "disk", 3);
    assert_eq!(other.list(keys::CONFIG).unwrap().len(), 1);
}

#[test]
fn of_two_first_backups_one_enables_the_feature() {
    let (_, _, repository) = repository();
    let barrier = std::sync::Barrier::new(6);
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (repository, barrier) = (&repository, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let writer = start(repository, &format!("home-{n}"), ParentChoice::Auto, &index()).unwrap();
                writer.commit(root(None), CommitInfo::default(), TreeInfo::default()).unwrap();
            });
        }
    });
    let list = repository.snapshots(None).unwrap();
    assert_eq!((list.snapshots.len(), list.damaged.len()), (6, 0));
    assert_eq!(repository.list(keys::CONFIG).unwrap().len(), 2, "one of them wrote it");
    // Somebody took the number for something else: trees come after it.
    let (_, _, other) = crate::testing::repository();
    other.publish_config(1, |config| config.chunk_size = 128 << 10).unwrap();
    save(&other, &whole(2), ParentChoice::Auto, &index(), None);
    let (key, config) = crate::newest_config(other.storage()).unwrap().unwrap();
    assert_eq!((key, config.chunk_size, config.read), (keys::config(2), 128 << 10, vec!["tree".to_owned()]));
}

#[test]
fn other_features_still_refuse() {
    for read in [vec!["future"], vec!["tree", "future"], vec!["future", "tree", "tree-map"]] {
        let (_, _, repository) = repository();
        repository
            .publish_config(1, |config| config.read = read.iter().map(|name| (*name).to_owned()).collect())
            .unwrap();
        let refused = start(&repository, "home", ParentChoice::Auto, &index()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{read:?}");
        let refused = Repository::open(repository.components().clone(), &password()).unwrap_err();
        assert!(refused.kind() == ErrorKind::Unsupported && refused.to_string().contains("future"), "{refused}");
        assert_eq!(repository.list(keys::SESS).unwrap(), Vec::new());
    }
}

#[test]
fn a_disk_is_no_parent_of_a_tree_nor_the_other_way_round() {
    let (_, _, repository) = repository();
    let disk = backup(&repository, "home", 4);
    assert_eq!(TreeReader::open(&repository, &disk).unwrap_err().kind(), ErrorKind::Invalid);
    let folder = whole(4);
    let snapshot = save(&repository, &folder, ParentChoice::Auto, &index(), None);
    assert!(read_all(&TreeReader::open(&repository, &snapshot).unwrap()).unwrap() == folder);
    backup(&repository, "home", 4);
}

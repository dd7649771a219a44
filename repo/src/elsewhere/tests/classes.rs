//! Chunks and nodes of every class: through packs, their indexes, index segments and the look-up by id.

use super::*;
use crate::format::tree::{self, Placed, Ref, max_plain};
use crate::id::ChunkId;
use crate::index::ChunkIndex;
use crate::session::Session;
use crate::writer::{Content, Put, Store};
use crate::{CommitInfo, ParentChoice, SnapshotWriter, TreeInfo, WriterOptions};

const CHUNKS: [u8; 6] = [tree::PIECE, tree::SHARED, tree::ATTRIBUTES, 16, 18, 22];
const NODES: [u8; 4] = [tree::FOLDER, 175, tree::LIST, 191];

struct Stored {
    placed: Placed,
    plain: Vec<u8>,
}

fn store(repository: &Repository, index: &Arc<ChunkIndex>) -> Store {
    let (session, left) = Session::start(repository, "tree", &ParentChoice::None).unwrap();
    let options = WriterOptions { pack_size: 0, uploads: 0, ..WriterOptions::default() };
    Store::new(session, &left, index.clone(), &options, 4 << 20).unwrap()
}

/// Content number `n`: of any length up to 60 000 bytes, so that it fits each class, half of it compresses.
fn content(n: u64) -> Vec<u8> {
    let mut random = [0; 4];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut random);
    let mut plain = chunk(n).repeat(2);
    plain.truncate(1 + u32::from_le_bytes(random) as usize % 60_000);
    plain
}

/// The same content in each class: what it is stored as must not be taken for another one.
fn put_chunks(store: &Store) -> Vec<Stored> {
    let mut scratch = store.scratch(4 << 20).unwrap();
    let ids = &store.repository.keys().ids;
    let all = (0..30).flat_map(|n| CHUNKS.map(|class| (class, content(n))));
    let put = all.map(|(class, plain)| {
        let id = ids.chunk(class, &plain);
        let (at, put) = store.put_chunk(&mut scratch, class, &id, &plain).unwrap();
        assert_eq!(put, Put::New);
        assert_eq!(store.put_chunk(&mut scratch, class, &id, &plain).unwrap(), (at, Put::Known));
        Stored { placed: Placed { to: Ref { id: id.short(), class, plain: plain.len() as u32 }, at }, plain }
    });
    put.collect()
}

fn put_nodes(store: &Store) -> Vec<Stored> {
    let mut scratch = store.scratch(4 << 20).unwrap();
    let all = (0..10).flat_map(|n| NODES.map(|class| (class, content(n))));
    let put = all.map(|(class, body)| {
        let hints = [7; 5];
        let plain = [&[1, class, 0, 0][..], &(body.len() as u32).to_le_bytes(), &body, &hints].concat();
        let id = store.repository.keys().ids.tree_node(class, &body);
        let at = store.pack_node(&mut scratch, class, &id, &plain).unwrap();
        Stored { placed: Placed { to: Ref { id: id.short(), class, plain: plain.len() as u32 }, at }, plain }
    });
    put.collect()
}

fn open(repository: &Repository, stored: &Stored, pack: &PackId, at: &Location, class: u8) -> Result<ChunkId> {
    let start = u64::from(at.offset);
    let sealed = repository.storage().get_range(&keys::pack(pack), start..start + u64::from(at.len)).unwrap();
    let mut out = vec![0; stored.plain.len()];
    let opened = repository.opener().chunk(&stored.placed.to.id, class, at, &sealed, &mut Vec::new(), &mut out);
    assert!(opened.is_err() || out == stored.plain);
    opened
}

#[test]
fn chunks_and_nodes_of_every_class_are_stored_found_and_read() {
    let (storage, _, first) = repository();
    let index = Arc::new(ChunkIndex::in_memory(1 << 20));
    let store = store(&first, &index);
    let (chunks, nodes) = (put_chunks(&store), put_nodes(&store));
    let root = ChunkId::new([3; 32]);
    let content = Content { class: 0, levels: 0, root, top: Vec::new(), chunks: 0, tree: Some(TreeInfo::default()) };
    let snapshot = store.commit(content, CommitInfo::default(), || Ok(())).unwrap();
    // Where they are, says the index: that of the run, and one that read the segments.
    let other = ChunkIndex::in_memory(1 << 20);
    other.synchronise(&first, false).unwrap();
    for Stored { placed, .. } in &chunks {
        assert_eq!(index.lookup(&placed.to.id).unwrap(), [placed.at]);
        assert_eq!(other.lookup(&placed.to.id).unwrap(), [placed.at]);
    }
    for node in &nodes {
        assert_eq!(index.lookup(&node.placed.to.id).unwrap(), [], "nodes are never looked up (D4)");
    }
    for chunk in &chunks {
        let Placed { to, at } = chunk.placed;
        for class in 0..=255 {
            let fits = max_plain(class).is_some_and(|most| to.plain <= most) && class < 128;
            let opened = open(&first, chunk, &at.pack, &at, class);
            assert_eq!(opened.is_ok(), class == to.class && fits, "class {} opened as {class}", to.class);
        }
    }
    // Whoever wants a disk is not given a tree.
    assert_eq!(SnapshotReader::open(&first, &snapshot).unwrap_err().kind(), ErrorKind::Invalid);
    // Its top is none: a check must not say that it is whole.
    let report = first.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
    assert_eq!((report.trees, report.damages.len()), (1, 1), "{:?}", report.damages);
    assert!(report.damages[0].hits[0].whole);
    let options = WriterOptions { name: "tree".into(), uploads: 0, ..WriterOptions::default() };
    let disk = SnapshotWriter::start(&first, index, &options).unwrap();
    assert_eq!((disk.chunk_size(), disk.can_inherit()), (UNIT, false));
    disk.abandon().unwrap();
    storage.delete(&keys::snap(&snapshot.volume, &snapshot.id)).unwrap();
    assert_eq!(check(&anew(&first), true).damages, [], "indexes of packs with all classes are good");
    // V3.
    for kind in [PackKind::Data, PackKind::Meta] {
        let old = packs(&first, kind);
        repack(&first, &old);
        remove(&first, &old);
    }
    for memory in [32 << 20, 0] {
        let repository = anew(&first);
        repository.limit_lookups(memory);
        let elsewhere = repository.elsewhere();
        for stored in chunks.iter().chain(&nodes) {
            let Placed { to, at } = stored.placed;
            let classes: &[u8] = if to.class < 128 { &CHUNKS } else { &NODES };
            for class in classes {
                let copies = elsewhere.find(&repository, &to.id, *class, &at).unwrap();
                assert_eq!(copies.len(), usize::from(*class == to.class), "class {} as {class}", to.class);
                assert!(copies.iter().all(|copy| copy.plain == to.plain));
            }
        }
        for chunk in &chunks {
            let Placed { to, at } = chunk.placed;
            let copy = elsewhere.find(&repository, &to.id, to.class, &at).unwrap()[0];
            open(&repository, chunk, &copy.pack, &copy.at, to.class).unwrap();
        }
        for node in &nodes {
            assert_eq!(elsewhere.tree_node(&repository, &node.placed, true).unwrap().as_ref(), Some(&node.plain));
        }
        assert_eq!(repository.found_elsewhere(), nodes.len() as u64);
    }
}

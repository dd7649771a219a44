//! Builders of trees against a store in memory; `stored` has those of a whole repository.

mod stored;

use super::*;
use crate::ErrorKind;
use crate::format::tree::{Attributes, Below, FOLDER, InodeFlags, Known, LIST, PIECE, Ref, SHARED, Time, Totals};
use crate::id::{Codec, PackId, PackKind, SessionId};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Keeps nodes in memory.
#[derive(Default)]
struct Fake {
    nodes: Mutex<HashMap<u32, Arc<Node>>>,
    next: AtomicU32,
    stored: Mutex<Vec<u8>>,
    read: AtomicUsize,
    /// Packs that are gone.
    gone: Mutex<HashSet<PackId>>,
    is_damaged: std::sync::atomic::AtomicBool,
}

fn pack(n: u64, kind: PackKind) -> PackId {
    PackId { kind, session: SessionId::new([1; 16]), seq: 0, random: n }
}

fn at(pack: PackId, ordinal: u32) -> Location {
    Location { pack, epoch: 0, ordinal, offset: 64 + ordinal * 100, len: 100, codec: Codec::Raw }
}

fn id(bytes: &[u8]) -> ShortId {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    ShortId::new(out)
}

impl Ground for Fake {
    fn split(&self, name: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&[9; 32], name).as_bytes()
    }

    fn store(&self, node: &Node) -> Result<Placed> {
        let class = node.class();
        self.stored.lock().push(class);
        let ordinal = self.next.fetch_add(1, Ordering::Relaxed);
        self.nodes.lock().insert(ordinal, Arc::new(node.clone()));
        let to = Ref { id: self.id(node)?, class, plain: 100 };
        Ok(Placed { to, at: at(pack(0, PackKind::Meta), ordinal) })
    }

    fn theirs(&self, at: &Placed) -> Result<Option<Arc<Node>>> {
        self.read.fetch_add(1, Ordering::Relaxed);
        let found = self.nodes.lock().get(&at.at.ordinal).cloned();
        Ok(found.filter(|_| !self.is_damaged.load(Ordering::Relaxed)))
    }

    fn is_listed(&self, at: &Location) -> bool {
        !self.gone.lock().contains(&at.pack)
    }

    fn id(&self, node: &Node) -> Result<ShortId> {
        let mut bare = node.clone();
        bare.each_place(&mut |placed| placed.at = at(pack(0, PackKind::Data), 0));
        Ok(id(format!("{bare:?}").as_bytes()))
    }
}

fn attributes() -> Arc<Attributes> {
    Arc::new(Attributes {
        permissions: 0o644,
        owner: 1,
        group: 1,
        owner_name: b"one".to_vec(),
        group_name: Vec::new(),
        flags: InodeFlags::default(),
        extended: Extended::None,
    })
}

fn entry(name: &[u8], what: What) -> Entry {
    Entry::Known(Box::new(Known {
        name: name.to_vec(),
        attributes: attributes(),
        modified: Time::default(),
        changed: Time::default(),
        inode: 7,
        links: None,
        missing: None,
        unsettled: false,
        what,
    }))
}

fn name(n: u32) -> Vec<u8> {
    format!("file-{n:07}").into_bytes()
}

fn chunk(class: u8, n: u32, plain: u32) -> Placed {
    Placed {
        to: Ref { id: id(&n.to_le_bytes()), class, plain },
        at: at(pack(u64::from(n / 100), PackKind::Data), n % 100),
    }
}

fn file(n: u32) -> Entry {
    let content = Content::Shared { chunk: chunk(SHARED, n / 30, 250_000), offset: n % 30 * 1000 };
    entry(&name(n), What::File { size: 1000, content })
}

fn folder(fake: &Fake, parent: Option<Below>, entries: impl IntoIterator<Item = Entry>) -> Option<Below> {
    let mut builder = FolderBuilder::new(fake, parent);
    entries.into_iter().for_each(|entry| builder.push(entry).unwrap());
    builder.finish().unwrap()
}

/// Every entry below a node, checked for the rules of nodes.
fn read(fake: &Fake, below: &Below) -> Vec<Entry> {
    let mut out = Vec::new();
    fn walk(fake: &Fake, at: &Placed, out: &mut Vec<Entry>) -> (u64, Totals, Vec<u8>) {
        let node = fake.nodes.lock()[&at.at.ordinal].clone();
        let Node::Folder(folder) = &*node else { panic!("a list in a directory") };
        assert_eq!(node.class(), at.to.class);
        let first = match folder {
            TreeNode::Leaf(entries) => {
                assert!((1..=256).contains(&entries.len()));
                out.extend(entries.iter().cloned());
                entries[0].name().to_vec()
            }
            TreeNode::Inner { height, children } => {
                assert!((1..=256).contains(&children.len()));
                for child in children {
                    assert_eq!(child.node.to.class, FOLDER + height - 1);
                    let below = walk(fake, &child.node, out);
                    assert_eq!(below, (child.entries, child.totals, child.first.clone()));
                }
                children[0].first.clone()
            }
        };
        let (entries, totals) = folder.sum();
        (entries, totals, first)
    }
    let (entries, totals, _) = walk(fake, &below.node, &mut out);
    assert_eq!((entries, totals), (below.entries, below.totals));
    out
}

#[test]
fn what_goes_into_a_directory_is_in_it() {
    for count in [0, 1, 15, 16, 17, 255, 256, 257, 1000, 20_000] {
        let fake = Fake::default();
        let entries: Vec<_> = (0..count).map(file).collect();
        let below = folder(&fake, None, entries.clone());
        match below {
            None => assert_eq!(count, 0),
            Some(below) => {
                assert!(read(&fake, &below) == entries, "{count} entries");
                assert_eq!(
                    below.totals,
                    Totals { below: count.into(), bytes: u64::from(count) * 1000, ..Totals::default() }
                );
                let height = usize::from(below.node.to.class - FOLDER);
                let of = |h: usize| fake.stored.lock().iter().filter(|c| usize::from(**c - FOLDER) == h).count();
                assert!(of(height) == 1 && (height == 0 || of(height - 1) > 1), "the least height with one node");
            }
        }
    }
}

#[test]
fn leaves_are_as_simulated() {
    let fake = Fake::default();
    let below = folder(&fake, None, (0..100_000).map(file)).unwrap();
    let leaves = fake.stored.lock().iter().filter(|class| **class == FOLDER).count();
    assert!((70..=82).contains(&(100_000 / leaves)), "{} entries a leaf", 100_000 / leaves);
    // A name that comes writes about one leaf, and one node of each height.
    let mut written = (0, 0);
    for n in 0..8 {
        fake.stored.lock().clear();
        let new = n * 12_499 + 3;
        let mut entries: Vec<_> = (0..100_000).map(file).collect();
        let mut added = name(new);
        added.push(b'x');
        entries.insert(new as usize + 1, entry(&added, What::Fifo));
        let changed = folder(&fake, Some(below), entries).unwrap();
        assert_eq!(changed.entries, 100_001);
        let stored = fake.stored.lock();
        written.0 += stored.iter().filter(|class| **class == FOLDER).count();
        written.1 += stored.iter().filter(|class| **class > FOLDER).count();
    }
    assert!((8..=10).contains(&written.0), "{} leaves for 8 names", written.0);
    let height = usize::from(below.node.to.class - FOLDER);
    assert!((8 * height..=8 * height + 2).contains(&written.1), "{} nodes above them", written.1);
}

#[test]
fn the_same_again_writes_nothing_and_one_change_one_node_a_level() {
    let fake = Fake::default();
    for count in [1, 40, 3000] {
        let below = folder(&fake, None, (0..count).map(file)).unwrap();
        fake.stored.lock().clear();
        assert_eq!(folder(&fake, Some(below), (0..count).map(file)), Some(below), "hints and all");
        assert!(fake.stored.lock().is_empty());
        let half = count / 2;
        let change = |n| if n == half { entry(&name(n), What::Socket) } else { file(n) };
        let changed = folder(&fake, Some(below), (0..count).map(change)).unwrap();
        assert!(read(&fake, &changed) == (0..count).map(change).collect::<Vec<_>>());
        let height = below.node.to.class - FOLDER;
        assert_eq!(*fake.stored.lock(), (FOLDER..=FOLDER + height).collect::<Vec<_>>(), "{count} entries");
    }
}

#[test]
fn only_an_equal_node_of_the_parent_that_is_listed_is_taken_over() {
    let fake = Fake::default();
    let below = folder(&fake, None, (0..3000).map(file)).unwrap();
    let nodes = fake.stored.lock().len();
    let again = |entries: &dyn Fn(u32) -> Entry| {
        fake.stored.lock().clear();
        let new = folder(&fake, Some(below), (0..3000).map(entries)).unwrap();
        (fake.stored.lock().len(), new)
    };
    assert_eq!(again(&file), (0, below));
    // The same content, of which one chunk is somewhere else: the same id, and other hints.
    let moved = |n| {
        let Entry::Known(mut known) = file(n) else { unreachable!() };
        if let What::File { content: Content::Shared { chunk, .. }, .. } = &mut known.what
            && n == 1500
        {
            chunk.at.ordinal += 1000;
        }
        Entry::Known(known)
    };
    let (stored, new) = again(&moved);
    assert!((1..5).contains(&stored) && new.node.to.id == below.node.to.id && new.node.at != below.node.at, "{stored}");
    // The parent's nodes are where no pack is.
    fake.gone.lock().insert(pack(0, PackKind::Meta));
    assert_eq!(again(&file).0, nodes);
    fake.gone.lock().clear();
    // They cannot be read.
    fake.is_damaged.store(true, Ordering::Relaxed);
    assert_eq!(again(&file).0, nodes);
    fake.is_damaged.store(false, Ordering::Relaxed);
    // Without a parent nothing is known, whatever is stored.
    fake.stored.lock().clear();
    folder(&fake, None, (0..3000).map(file)).unwrap();
    assert_eq!(fake.stored.lock().len(), nodes);
}

#[test]
fn a_ref_has_one_hint_in_a_node() {
    let fake = Fake::default();
    let (mut a, mut b) = (chunk(SHARED, 1, 1000), chunk(SHARED, 1, 1000));
    (a.at.ordinal, b.at.ordinal) = (5, 6);
    let of = |n, chunk| entry(&name(n), What::File { size: 10, content: Content::Shared { chunk, offset: 0 } });
    let below = folder(&fake, None, [of(0, a), of(1, b)]).unwrap();
    assert!(read(&fake, &below) == [of(0, a), of(1, a)]);
}

#[test]
fn names_ascend() {
    let fake = Fake::default();
    for names in [&[&b"b"[..], b"a"][..], &[b"a", b"a"], &[b""]] {
        let mut builder = FolderBuilder::new(&fake, None);
        let pushed = names.iter().try_for_each(|name| builder.push(entry(name, What::Fifo)));
        assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Internal, "{names:?}");
    }
}

fn pieces(count: u32) -> Vec<Piece> {
    let piece = |n: u32| match n % 7 {
        3 => Piece::Hole(4096 + u64::from(n)),
        _ => Piece::Chunk(chunk(PIECE, n, 500_000 + n % 100)),
    };
    (0..count).map(piece).collect()
}

fn list(fake: &Fake, parent: Option<&Content>, pieces: &[Piece]) -> Content {
    let mut builder = ListBuilder::new(fake, parent);
    pieces.iter().for_each(|piece| builder.push(*piece).unwrap());
    assert_eq!(builder.size(), pieces.iter().map(Piece::bytes).sum::<u64>());
    builder.finish().unwrap()
}

fn read_list(fake: &Fake, content: &Content) -> Vec<Piece> {
    fn walk(fake: &Fake, at: &Placed, out: &mut Vec<Piece>) -> u64 {
        let node = fake.nodes.lock()[&at.at.ordinal].clone();
        assert_eq!(node.class(), at.to.class);
        match &*node {
            Node::List(ListNode::Leaf(pieces)) => {
                assert!((1..=256).contains(&pieces.len()));
                out.extend(pieces);
                pieces.iter().map(Piece::bytes).sum()
            }
            Node::List(ListNode::Inner { height, children }) => {
                let below = |(child, bytes): &(Placed, u64)| {
                    assert_eq!(child.to.class, LIST + height - 1);
                    assert_eq!(walk(fake, child, out), *bytes);
                    *bytes
                };
                children.iter().map(below).sum()
            }
            Node::Folder(_) => panic!("a directory in a list"),
        }
    }
    match content {
        Content::Nothing => Vec::new(),
        Content::Pieces(pieces) => pieces.clone(),
        Content::List(top) => {
            let mut out = Vec::new();
            walk(fake, top, &mut out);
            out
        }
        other => panic!("{other:?} is none of pieces"),
    }
}

#[test]
fn pieces_stand_in_the_entry_or_in_a_list() {
    for count in [1, 31, 32, 33, 34, 255, 300, 5000] {
        let fake = Fake::default();
        let pieces = pieces(count);
        let content = list(&fake, None, &pieces);
        assert_eq!(matches!(content, Content::List(_)), count > 32);
        assert!(read_list(&fake, &content) == pieces, "{count} pieces");
        fake.stored.lock().clear();
        assert_eq!(list(&fake, Some(&content), &pieces), content);
        assert!(fake.stored.lock().is_empty(), "{count} pieces, the same again");
    }
}

#[test]
fn holes_are_one_and_a_file_that_is_a_hole_has_nothing() {
    let fake = Fake::default();
    assert_eq!(list(&fake, None, &[]), Content::Nothing);
    assert_eq!(list(&fake, None, &[Piece::Hole(5), Piece::Hole(7)]), Content::Nothing);
    let data = Piece::Chunk(chunk(PIECE, 1, 10));
    let content =
        list(&fake, None, &[Piece::Hole(5), Piece::Hole(7), Piece::Hole(0), data, Piece::Hole(1), Piece::Hole(2)]);
    assert_eq!(content, Content::Pieces(vec![Piece::Hole(12), data, Piece::Hole(3)]));
    let mut builder = ListBuilder::new(&fake, None);
    builder.push(Piece::Hole(u64::MAX)).unwrap();
    assert_eq!(builder.push(data).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn what_moved_in_a_file_keeps_its_nodes() {
    let fake = Fake::default();
    let old = pieces(20_000);
    let content = list(&fake, None, &old);
    let all = fake.stored.lock().len();
    fake.stored.lock().clear();
    let new: Vec<_> = [Piece::Chunk(chunk(PIECE, 1_000_000, 77))].into_iter().chain(old).collect();
    let moved = list(&fake, Some(&content), &new);
    assert!(read_list(&fake, &moved) == new);
    let stored = fake.stored.lock().len();
    assert!(stored < 8, "{stored} nodes of {all} were written for one piece in front");
    fake.gone.lock().insert(pack(0, PackKind::Meta));
    fake.stored.lock().clear();
    list(&fake, Some(&content), &new);
    assert_eq!(fake.stored.lock().len(), all, "W8");
}

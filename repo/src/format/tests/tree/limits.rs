//! The longest nodes, sums, classes and keys.

use super::*;
use crate::crypto::{IdKeys, Secret, prf};

fn longest_attributes(n: u8, extended: Extended) -> Arc<Attributes> {
    let mut owner_name = vec![b'o'; 255];
    owner_name[0] = n.max(1);
    owner_name[1] = if n == 0 { 1 } else { 2 };
    Arc::new(Attributes {
        permissions: 0o7777,
        owner: u32::MAX,
        group: u32::MAX,
        group_name: owner_name.clone(),
        owner_name,
        flags: InodeFlags(7),
        extended,
    })
}

fn longest_entry(n: u8, extended: Extended, what: What) -> Entry {
    let time = Time { seconds: i64::MIN, nanoseconds: 999_999_999 };
    let mut name = vec![b'n'; 255];
    name[0] = if n < 128 { 1 } else { 2 };
    name[1] = n % 128 + 128;
    Entry::Known(Box::new(Known {
        name,
        attributes: longest_attributes(n, extended),
        modified: time,
        changed: time,
        inode: u64::MAX,
        links: NonZeroU64::new(u64::MAX),
        missing: NonZeroU32::new(u32::MAX),
        unsettled: true,
        what,
    }))
}

/// Each in a pack of its own.
fn apart(class: u8, entry: u8, n: u8) -> Placed {
    let mut placed = placed(class, 0);
    let mut id = *placed.to.id.bytes();
    (id[14], id[15]) = (entry, n);
    placed.to.id = ShortId::new(id);
    placed.at.pack.random = u64::from(entry) << 8 | u64::from(n);
    placed
}

#[test]
fn the_longest_nodes_fit_the_limits() {
    let here = Set(vec![(vec![b'x'; 255], vec![0; MAX_HERE - 2 - 5 - 255])]);
    assert_eq!(here.encoded_len(), MAX_HERE);
    let links = (0..=255).map(|n| longest_entry(n, Extended::Here(here.clone()), What::Link(vec![b't'; 4095])));
    let pieces = (0..=255).map(|n| {
        let pieces: Vec<_> = (0..MAX_ENTRY_PIECES as u8).map(|i| Piece::Chunk(apart(PIECE, n, i))).collect();
        let size = pieces.iter().map(Piece::bytes).sum();
        let content = Content::Pieces(pieces);
        longest_entry(n, Extended::Chunk(apart(ATTRIBUTES, n, 0)), What::File { size, content })
    });
    let holes = (0..=255).map(|n| {
        let pair = |i: u8| [Piece::Hole(1 << 58), Piece::Chunk(apart(PIECE, n, i))];
        let pieces: Vec<_> = (0..MAX_ENTRY_PIECES as u8 / 2).flat_map(pair).collect();
        let size = pieces.iter().map(Piece::bytes).sum();
        let content = Content::Pieces(pieces);
        longest_entry(n, Extended::Here(here.clone()), What::File { size, content })
    });
    let mut longest = 0;
    for entries in [links.collect::<Vec<_>>(), pieces.collect(), holes.collect()] {
        assert_eq!(entries.len(), MAX_FANOUT);
        let node = TreeNode::Leaf(entries);
        let bytes = node.encode();
        let (_, body) = body(&bytes).unwrap();
        longest = longest.max(body.len());
        assert!(body.len() <= MAX_BODY && bytes.len() <= MAX_NODE as usize, "{} of {}", body.len(), bytes.len());
        assert_eq!(TreeNode::decode(&bytes).unwrap(), node);
    }
    // The limit says something: none is half as long again.
    assert!(longest > MAX_BODY * 9 / 10, "{longest}");
    let all = Totals { below: u64::MAX, folders: u64::MAX, bytes: u64::MAX, missing: u64::MAX };
    let child = |n: u8| Child {
        first: longest_entry(n, Extended::None, What::Fifo).name().to_vec(),
        node: apart(FOLDER + 14, n, 0),
        entries: u64::MAX,
        totals: all,
    };
    let node = TreeNode::Inner { height: 15, children: (0..=255).map(child).collect() };
    assert_eq!(TreeNode::decode(&node.encode()).unwrap(), node);
    assert_eq!(node.sum(), (u64::MAX, all));
}

#[test]
fn a_node_of_most_refs_comes_back_and_one_more_is_refused() {
    let file = |n: u8, more: u8| {
        let pieces: Vec<_> = (0..MAX_ENTRY_PIECES as u8 + more).map(|i| Piece::Chunk(apart(PIECE, n, i))).collect();
        let size = pieces.iter().map(Piece::bytes).sum();
        let what = What::File { size, content: Content::Pieces(pieces) };
        longest_entry(n, Extended::Chunk(apart(ATTRIBUTES, n, 0)), what)
    };
    let mut entries: Vec<_> = (0..=255).map(|n| file(n, 0)).collect();
    let bytes = TreeNode::Leaf(entries.clone()).encode();
    assert_eq!(bytes[8..10], (MAX_REFS as u16).to_le_bytes());
    TreeNode::decode(&bytes).unwrap();
    entries[9] = file(9, 1);
    let refused = TreeNode::decode(&TreeNode::Leaf(entries).encode()).unwrap_err();
    assert!(refused.to_string().contains("above its limit"), "{refused}");
}

#[test]
fn totals_are_added_of_all_that_is_below() {
    let known = |name: &str, missing, what| {
        let Entry::Known(mut known) = longest_entry(0, Extended::None, what) else { unreachable!() };
        (known.name, known.missing, known.unsettled, known.links) = (name.into(), missing, false, None);
        Entry::Known(known)
    };
    let inside = Totals { below: 10, folders: 4, bytes: 100, missing: 3 };
    let below = Some(Below { node: placed(FOLDER, 1), entries: 6, totals: inside });
    let entries = vec![
        known("a", None, What::File { size: 7, content: Content::Nothing }),
        known("b", NonZeroU32::new(5), What::File { size: 9, content: Content::Nothing }),
        known("c", None, What::Folder { boundary: false, below }),
        known("d", NonZeroU32::new(5), What::Folder { boundary: true, below: None }),
        known("e", None, What::Link(b"a".to_vec())),
        Entry::Unknown { name: b"f".to_vec(), errno: NonZeroU32::MIN },
    ];
    let expected = Totals { below: 16, folders: 2, bytes: 116, missing: 6 };
    assert_eq!(TreeNode::Leaf(entries).sum(), (6, expected));
    let child = |first: &str| Child { first: first.into(), node: placed(FOLDER, 1), entries: 6, totals: expected };
    let twice = Totals { below: 32, folders: 4, bytes: 232, missing: 12 };
    assert_eq!(TreeNode::Inner { height: 1, children: vec![child("a"), child("g")] }.sum(), (12, twice));
    let most = Totals { below: u64::MAX - 1, ..expected };
    assert_eq!(most.add(&expected), Totals { below: u64::MAX, ..twice });
}

#[test]
fn only_classes_of_the_table_have_a_limit() {
    let known: Vec<u8> = (0..=255).filter(|class| max_plain(*class).is_some()).collect();
    let table = (1..=3).chain(16..=22).chain(128..=137).chain(160..=191);
    assert_eq!(known, table.collect::<Vec<_>>());
    let limits = [(1, 2 << 20), (2, 256 << 10), (3, 1 << 20), (16, 64 << 10), (22, 4 << 20), (160, 2 << 20)];
    for (class, most) in limits {
        assert_eq!(max_plain(class), Some(most), "class {class}");
    }
}

#[test]
fn keys_and_tables_are_those_of_the_format() {
    let secret = Secret::new([9; 32]);
    let ids = IdKeys::new(&secret);
    let hash = |label, part: &[&[u8]], what: &[u8]| {
        ChunkId::new(*blake3::keyed_hash(prf(&secret, label, part).bytes(), what).as_bytes())
    };
    for class in (1..=3).chain(16..=22) {
        assert_eq!(ids.chunk(class, b"bytes"), hash("wherry1 chunk", &[&[class]], b"bytes"), "class {class}");
    }
    for class in 160..=191 {
        assert_eq!(ids.tree_node(class, b"bytes"), hash("wherry1 tree", &[&[class]], b"bytes"), "class {class}");
    }
    assert_eq!(ids.split(b"name"), *hash("wherry1 split", &[], b"name").bytes());
    for byte in 0..=255 {
        let word = prf(&secret, "wherry1 gear", &[&[byte]]).bytes()[..8].try_into().unwrap();
        assert_eq!(ids.gear()[usize::from(byte)], u64::from_le_bytes(word), "byte {byte}");
    }
    let top = hash("wherry1 tree", &[&[160]], b"bytes");
    let said = [&77u64.to_le_bytes()[..], &[0, 0], top.bytes()].concat();
    assert_eq!(ids.root(77, 0, 0, Some(top)), hash("wherry1 root", &[], &said));
    assert!(!format!("{ids:?}").contains(&format!("{}", ids.gear()[0])), "the table is a secret");
}

//! Nodes of directories and lists, and sets of extended attributes. The strategies are for other tests too.

mod limits;
mod refusals;

use super::*;
use crate::crypto::{MAX_CLASS, MIN_CLASS};
use crate::format::tree::*;
use crate::id::Location;
use crate::map::{chunk_count, levels};
use proptest::collection::{btree_map, vec};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

/// Chunk or node `n` of a class. All but its id follows from both, so it has one hint wherever it is named; 16 in a row
/// lie in a row in one pack.
pub(crate) fn placed(class: u8, n: u8) -> Placed {
    let most = max_plain(class).expect("a class that there is");
    let mut id = [n; 16];
    id[0] = class;
    let kind = if class < 128 { PackKind::Data } else { PackKind::Meta };
    let pack = PackId { kind, session: SessionId::new([7; 16]), seq: u32::from(n / 16), random: 5 };
    let ordinal = u32::from(n % 16);
    let codec = [Codec::Raw, Codec::Lz4, Codec::Zstd][usize::from(n % 3)];
    let at = Location { pack, epoch: 1, ordinal, offset: 64 + 1000 * ordinal, len: 1000, codec };
    Placed { to: Ref { id: ShortId::new(id), class, plain: most - u32::from(n) }, at }
}

/// What [`is_name`] takes.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop_oneof![9 => vec(any::<u8>(), 1..20), 1 => vec(any::<u8>(), 255)];
    any_bytes.prop_filter("a name", |name| is_name(name))
}

/// Sets of extended attributes, longer than a node holds too.
pub(crate) fn set() -> impl Strategy<Value = Set> {
    let value = prop_oneof![9 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 2000)];
    btree_map(vec(1u8.., 1..30), value, 1..5).prop_map(|set| Set(set.into_iter().collect()))
}

/// Attributes of an inode.
pub(crate) fn attributes() -> impl Strategy<Value = Attributes> {
    let extended = prop_oneof![
        3 => Just(Extended::None),
        1 => set().prop_filter("not too long", |set| set.encoded_len() <= MAX_HERE).prop_map(Extended::Here),
        1 => (0u8..4).prop_map(|n| Extended::Chunk(placed(ATTRIBUTES, n))),
    ];
    let owner = || vec(1u8.., 0..8);
    (0u16..=0o7777, any::<u32>(), any::<u32>(), owner(), owner(), 0u8..8, extended).prop_map(
        |(permissions, owner, group, owner_name, group_name, flags, extended)| {
            let flags = InodeFlags(flags);
            Attributes { permissions, owner, group, owner_name, group_name, flags, extended }
        },
    )
}

/// Pieces that follow each other, up to `most`.
pub(crate) fn pieces(most: usize) -> impl Strategy<Value = Vec<Piece>> {
    vec((prop::option::weighted(0.3, 1u64..1 << 40), 0u8..80, any::<bool>()), 1..=most).prop_map(|drawn| {
        let mut out: Vec<Piece> = Vec::new();
        let mut next = 0;
        for (hole, n, jump) in drawn {
            match hole.filter(|_| !matches!(out.last(), Some(Piece::Hole(_)))) {
                Some(bytes) => out.push(Piece::Hole(bytes)),
                None => {
                    next = if jump { n } else { (next + 1) % 80 };
                    out.push(Piece::Chunk(placed(PIECE, next)));
                }
            }
        }
        out
    })
}

/// A regular file: size and content.
pub(crate) fn file() -> impl Strategy<Value = (u64, Content)> {
    prop_oneof![
        1 => any::<u64>().prop_map(|size| (size, Content::Nothing)),
        3 => (0u8..8, 1u64..=MAX_SHARED, any::<prop::sample::Index>()).prop_map(|(n, size, offset)| {
            let chunk = placed(SHARED, n);
            let offset = offset.index((u64::from(chunk.to.plain) - size + 1) as usize) as u32;
            (size, Content::Shared { chunk, offset })
        }),
        2 => pieces(MAX_ENTRY_PIECES).prop_map(|mut pieces| {
            if let [Piece::Hole(_)] = pieces[..] {
                pieces.push(Piece::Chunk(placed(PIECE, 0)));
            }
            (pieces.iter().map(Piece::bytes).sum(), Content::Pieces(pieces))
        }),
        1 => (1u64.., 0u8..16, 0u8..9).prop_map(|(size, height, n)| (size, Content::List(placed(LIST + height, n)))),
        1 => (0u32..64, MIN_CLASS..=MAX_CLASS, 0u8..9).prop_map(|(bits, class, n)| {
            let size = u64::MAX >> bits;
            let levels = levels(chunk_count(size, class));
            (size, Content::Map { class, levels, top: placed(127 + levels, n) })
        }),
    ]
}

/// Totals of a directory.
pub(crate) fn totals() -> impl Strategy<Value = Totals> {
    let totals = |(below, folders, bytes, missing)| Totals { below, folders, bytes, missing };
    prop_oneof![
        (0u64..9, 0u64..9, any::<u64>(), 0u64..9).prop_map(totals),
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(totals),
    ]
}

fn what() -> impl Strategy<Value = What> {
    let below = (0u8..9, 0u8..16, 1u64.., totals());
    let below =
        below.prop_map(|(n, height, entries, totals)| Below { node: placed(FOLDER + height, n), entries, totals });
    let target = prop_oneof![9 => vec(1u8.., 1..40), 1 => vec(1u8.., 4095)];
    prop_oneof![
        8 => file().prop_map(|(size, content)| What::File { size, content }),
        3 => (any::<bool>(), prop::option::of(below)).prop_map(|(boundary, below)| What::Folder { boundary, below }),
        1 => target.prop_map(What::Link),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| What::Character(major, minor)),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| What::Block(major, minor)),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

/// An entry of all types, without its name, and with attributes that another one may have too.
fn known() -> impl Strategy<Value = Known> {
    let flags = (prop::option::weighted(0.2, 2u64..), prop::option::weighted(0.2, 1u32..), prop::bool::weighted(0.2));
    let inode = prop_oneof![0u64..1000, any::<u64>()];
    (attributes(), time(), time(), inode, flags, what()).prop_map(
        |(attributes, modified, changed, inode, (links, missing, unsettled), what)| {
            let folder = matches!(what, What::Folder { .. });
            Known {
                name: Vec::new(),
                attributes: Arc::new(attributes),
                modified,
                changed,
                inode,
                links: links.filter(|_| !folder).and_then(NonZeroU64::new),
                missing: missing.and_then(NonZeroU32::new),
                unsettled: unsettled && !folder,
                what,
            }
        },
    )
}

/// Entries of a directory in their order: at least one, at most `most`.
pub(crate) fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    let rows = vec(attributes().prop_map(Arc::new), 1..4);
    let drawn = (known(), any::<Option<prop::sample::Index>>(), 1u32.., 0u8..10);
    (rows, btree_map(name(), drawn, 1..=most)).prop_map(|(rows, drawn)| {
        let entry = |(name, (known, row, errno, kind)): (Vec<u8>, (Known, Option<prop::sample::Index>, _, _))| {
            if kind == 0 {
                return Entry::Unknown { name, errno: NonZeroU32::new(errno).unwrap_or(NonZeroU32::MIN) };
            }
            let attributes = row.map_or_else(|| known.attributes.clone(), |row| row.get(&rows).clone());
            Entry::Known(Box::new(Known { name, attributes, ..known }))
        };
        drawn.into_iter().map(entry).collect()
    })
}

/// The root of a tree.
pub(crate) fn root() -> impl Strategy<Value = Known> {
    (known(), any::<bool>(), prop::option::of((1u64..9, totals()))).prop_map(|(known, boundary, below)| {
        let below = below.map(|(entries, totals)| Below { node: placed(FOLDER, 3), entries, totals });
        Known { links: None, unsettled: false, what: What::Folder { boundary, below }, ..known }
    })
}

/// A node of a directory of any height.
pub(crate) fn node() -> impl Strategy<Value = TreeNode> {
    let child = (0u8..80, 1u64.., totals());
    prop_oneof![
        2 => entries(12).prop_map(TreeNode::Leaf),
        1 => (1..=MAX_HEIGHT, btree_map(name(), child, 1..20)).prop_map(|(height, drawn)| {
            let child = |(first, (n, entries, totals))| {
                Child { first, node: placed(FOLDER + height - 1, n), entries, totals }
            };
            TreeNode::Inner { height, children: drawn.into_iter().map(child).collect() }
        }),
    ]
}

/// A node of a list of any height.
pub(crate) fn list() -> impl Strategy<Value = ListNode> {
    prop_oneof![
        pieces(60).prop_map(ListNode::Leaf),
        (1..=MAX_HEIGHT, vec((0u8..80, 1u64..1 << 50), 1..40)).prop_map(|(height, drawn)| {
            let child = |(n, bytes)| (placed(LIST + height - 1, n), bytes);
            ListNode::Inner { height, children: drawn.into_iter().map(child).collect() }
        }),
    ]
}

fn encode_root(root: &Known) -> Vec<u8> {
    TreeNode::Leaf(vec![Entry::Known(Box::new(root.clone()))]).encode()
}

proptest! {
    #[test]
    fn nodes_of_directories_come_back(node in node()) {
        prop_assert_eq!(node.fault(), None);
        let bytes = node.encode();
        prop_assert_eq!(body(&bytes).unwrap().0, node.class());
        prop_assert_eq!(TreeNode::decode(&bytes).unwrap(), node);
        prop_assert_eq!(ListNode::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        prop_assert_eq!(Known::decode_root(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn nodes_of_lists_come_back(list in list()) {
        prop_assert_eq!(list.fault(), None);
        let bytes = list.encode();
        prop_assert_eq!(body(&bytes).unwrap().0, list.class());
        prop_assert_eq!(ListNode::decode(&bytes).unwrap(), list);
        prop_assert_eq!(TreeNode::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn roots_come_back_and_are_no_other_nodes(root in root()) {
        let bytes = encode_root(&root);
        prop_assert_eq!(TreeNode::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        prop_assert_eq!(Known::decode_root(&bytes).unwrap(), root);
    }

    #[test]
    fn sets_come_back(set in set()) {
        prop_assert_eq!(set.fault(), None);
        let bytes = set.encode();
        prop_assert_eq!(bytes.len(), set.encoded_len());
        prop_assert_eq!(Set::decode(&bytes).unwrap(), set);
    }

    #[test]
    fn another_place_makes_the_same_body(node in node(), by in 1u32..9) {
        let bytes = node.encode();
        let move_it = |placed: &mut Placed| placed.at.ordinal += by;
        let mut moved = node;
        match &mut moved {
            TreeNode::Inner { children, .. } => children.iter_mut().for_each(|child| move_it(&mut child.node)),
            TreeNode::Leaf(entries) => entries.iter_mut().for_each(|entry| {
                if let Entry::Known(known) = entry && let What::File { content: Content::Shared { chunk, .. }, .. } = &mut known.what {
                    move_it(chunk);
                }
            }),
        }
        let other = moved.encode();
        prop_assert_eq!(body(&other).unwrap(), body(&bytes).unwrap());
        prop_assert_eq!(TreeNode::decode(&other).unwrap(), moved);
    }
}

#[test]
fn every_change_of_a_node_is_found_or_makes_another_node() {
    for node in samples(node(), 6) {
        assert_every_change_is_corrupt_or_canonical(&node.encode(), TreeNode::decode, TreeNode::encode);
    }
    for list in samples(list(), 6) {
        assert_every_change_is_corrupt_or_canonical(&list.encode(), ListNode::decode, ListNode::encode);
    }
    for root in samples(root(), 3) {
        assert_every_change_is_corrupt_or_canonical(&encode_root(&root), Known::decode_root, encode_root);
    }
    for set in samples(set(), 6) {
        assert_every_change_is_corrupt_or_canonical(&set.encode(), Set::decode, Set::encode);
    }
}

#[test]
fn garbage_is_survived() {
    let valid: Vec<_> = samples(node(), 6).iter().map(TreeNode::encode).collect();
    let same = |node: &TreeNode, bytes: &[u8]| assert_eq!(node.encode(), bytes);
    assert!(assert_garbage_is_survived(&valid, TreeNode::decode, same) > 0, "the tries come near enough");
    let valid: Vec<_> = samples(list(), 6).iter().map(ListNode::encode).collect();
    let same = |list: &ListNode, bytes: &[u8]| assert_eq!(list.encode(), bytes);
    assert!(assert_garbage_is_survived(&valid, ListNode::decode, same) > 0, "the tries come near enough");
    let valid: Vec<_> = samples(set(), 6).iter().map(Set::encode).collect();
    let same = |set: &Set, bytes: &[u8]| assert_eq!(set.encode(), bytes);
    assert!(assert_garbage_is_survived(&valid, Set::decode, same) > 0, "the tries come near enough");
}

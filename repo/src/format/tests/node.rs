//! Map nodes.

use super::*;
use crate::format::node::{FANOUT, MAX_NODE, Node, Slot};
use crate::id::Location;

/// Slots in runs and alone, in few packs or many.
fn node() -> impl Strategy<Value = Node> {
    let packs = proptest::collection::vec((pack_id(), any::<u32>()), 1..4);
    let slot = (any::<bool>(), any::<prop::sample::Index>(), short_id(), 0u32..1 << 24, codec(), any::<bool>());
    let slots = proptest::collection::vec(slot, 1..FANOUT);
    (0u8..10, packs, 0usize..FANOUT, slots).prop_map(|(level, packs, from, drawn)| {
        let mut node = Node::new(level);
        let mut before =
            Location { pack: packs[0].0, epoch: packs[0].1, ordinal: 7, offset: 64, len: 0, codec: Codec::Raw };
        for (n, (present, pack, id, len, codec, follows)) in (from..FANOUT).zip(drawn) {
            let (pack, epoch) = *pack.get(&packs);
            let at = match follows {
                true => {
                    Location { ordinal: before.ordinal + 1, offset: before.offset + before.len, len, codec, ..before }
                }
                false => Location { pack, epoch, ordinal: len / 3, offset: len, len, codec },
            };
            if present || n == from {
                node.set(n, Slot { id, at });
                before = at;
            }
        }
        node
    })
}

/// The longest node there can be: each slot in a pack of its own.
fn longest() -> Node {
    let mut node = Node::new(9);
    for (n, pack) in samples(pack_id(), FANOUT).into_iter().enumerate() {
        let at = Location { pack, epoch: 1, ordinal: 2, offset: 3, len: 4, codec: Codec::Zstd };
        node.set(n, Slot { id: ShortId::new([n as u8; 16]), at });
    }
    node
}

proptest! {
    #[test]
    fn nodes_come_back(node in node()) {
        let bytes = node.encode();
        prop_assert!(bytes.len() <= MAX_NODE);
        prop_assert_eq!(Node::decode(&bytes).unwrap(), node);
    }
}

#[test]
fn the_longest_node_comes_back_and_none_is_longer() {
    let bytes = longest().encode();
    assert_eq!(bytes.len(), MAX_NODE);
    assert_eq!(Node::decode(&bytes).unwrap(), longest());
}

#[test]
fn every_change_of_a_node_is_found_or_makes_another_node() {
    let mut small = Node::new(1);
    let [a, b] = samples(pack_id(), 2)[..] else { unreachable!() };
    let at = Location { pack: a, epoch: 0, ordinal: 5, offset: 64, len: 100, codec: Codec::Raw };
    let slot = |id: u8, at| Slot { id: ShortId::new([id; 16]), at };
    small.set(3, slot(1, at));
    small.set(4, slot(2, Location { ordinal: 6, offset: 164, ..at }));
    small.set(5, slot(3, Location { pack: b, ..at }));
    small.set(127, slot(4, Location { ordinal: 0, ..at }));
    for node in samples(node(), 4).into_iter().chain([small]) {
        assert_every_change_is_corrupt_or_canonical(&node.encode(), Node::decode, Node::encode);
    }
}

#[test]
fn absurd_counts_are_refused_before_anything_is_taken_for_them() {
    for (packs, runs) in [(0xffffu16, 1u16), (1, 0xffff), (129, 1), (1, 129), (1, 0), (0, 0), (0, 1)] {
        let mut bytes = vec![1, 0];
        bytes.extend_from_slice(&packs.to_le_bytes());
        bytes.extend_from_slice(&runs.to_le_bytes());
        bytes.extend_from_slice(&[0; 60]);
        assert_eq!(Node::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{packs} packs, {runs} runs");
    }
    assert_eq!(Node::decode(&vec![0; MAX_NODE + 1]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn garbage_is_survived() {
    let valid: Vec<_> = samples(node(), 5).iter().map(Node::encode).chain([longest().encode()]).collect();
    let accepted = assert_garbage_is_survived(&valid, Node::decode, |node, bytes| assert_eq!(node.encode(), bytes));
    assert!(accepted > 0, "the tries come near enough");
}

//! Index segments.

use super::*;
use crate::format::pack::MAX_PACK;
use crate::format::segment::{PackRows, decode, encode};

fn rows() -> impl Strategy<Value = Vec<PackRows>> {
    let chunks = proptest::collection::vec((short_id(), 0u32..1 << 20, codec()), 0..6);
    let pack = (pack_id(), any::<u32>(), chunks).prop_map(|(pack, epoch, chunks)| PackRows { pack, epoch, chunks });
    proptest::collection::vec(pack, 0..4)
}

proptest! {
    #[test]
    fn segments_come_back(rows in rows()) {
        prop_assert_eq!(decode(&encode(&rows)).unwrap(), rows);
    }

    #[test]
    fn chunks_lie_one_after_the_other(rows in rows()) {
        for pack in &rows {
            let mut end = 64;
            for (n, ((id, at), (short, len, codec))) in pack.locations().zip(&pack.chunks).enumerate() {
                prop_assert_eq!((id, at.len, at.codec, at.ordinal, at.offset), (*short, *len, *codec, n as u32, end));
                prop_assert_eq!((at.pack, at.epoch), (pack.pack, pack.epoch));
                end += len;
            }
        }
    }
}

#[test]
fn every_change_of_a_segment_is_found_or_makes_another_segment() {
    for rows in samples(rows(), 8) {
        assert_every_change_is_corrupt_or_canonical(&encode(&rows), decode, |rows| encode(rows));
    }
}

#[test]
fn absurd_counts_are_refused_before_anything_is_taken_for_them() {
    let pack = samples(pack_id(), 1)[0];
    for (packs, chunks) in [(u32::MAX, 0), (1, u32::MAX), (u32::MAX, u32::MAX), (1, 1), (2, 0)] {
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend_from_slice(&packs.to_le_bytes());
        bytes.extend_from_slice(&pack.to_bytes());
        bytes.extend_from_slice(&[0; 5]);
        bytes.extend_from_slice(&chunks.to_le_bytes());
        assert_eq!(decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{packs} packs, {chunks} chunks");
    }
    // Longer than a pack can be, although each chunk is not.
    let chunks = vec![(ShortId::default(), (1 << 24) - 1, Codec::Raw); 17];
    const { assert!(17 * ((1 << 24) - 1) > MAX_PACK) };
    let bytes = encode(&[PackRows { pack, epoch: 0, chunks }]);
    assert_eq!(decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn garbage_is_survived() {
    let valid: Vec<_> = samples(rows(), 5).iter().map(|rows| encode(rows)).collect();
    let accepted = assert_garbage_is_survived(&valid, decode, |rows, bytes| assert_eq!(encode(rows), bytes));
    assert!(accepted > 0, "the tries come near enough");
}

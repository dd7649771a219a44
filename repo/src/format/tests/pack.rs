//! Header, trailer, index; sealed chunks and sealed indexes.

use super::*;
use crate::crypto::{ChunkSeal, PackKey, Secret, TAG};
use crate::format::pack::{ENTRY, Entry, HEADER, Header, Index, MAX_PACK, TRAILER, Trailer};
use crate::id::RepositoryId;

fn header() -> impl Strategy<Value = Header> {
    (any::<u32>(), pack_id(), any::<[u8; 16]>()).prop_map(|(epoch, pack, commitment)| Header {
        epoch,
        pack,
        commitment,
    })
}

/// A trailer and the length of the object it is at the end of.
fn trailer() -> impl Strategy<Value = (Trailer, u64)> {
    let half = 1 << 27;
    let parts = (HEADER as u32..half, 0..half - TRAILER as u32, any::<u32>(), any::<[u8; 16]>());
    parts.prop_map(|(offset, len, entries, hash)| {
        let size = offset + len + TRAILER as u32;
        let trailer = Trailer { index_offset: offset, index_len: len, entries, pack_len: size, index_hash: hash };
        (trailer, u64::from(size))
    })
}

/// An index and where it begins in its pack.
fn index() -> impl Strategy<Value = (Index, u32)> {
    let entry = (chunk_id(), 16u32..5000, any::<u32>(), any::<u32>(), codec(), any::<u8>(), any::<u16>());
    let origins = proptest::collection::vec((pack_id(), any::<u32>()), 0..3);
    (origins, proptest::collection::vec(entry, 0..6)).prop_map(|(origins, drawn)| {
        let mut end = HEADER as u32;
        let entries = drawn.into_iter().enumerate().map(|(place, (id, len, plain, ordinal, codec, class, origin))| {
            let origin = origin % (origins.len() as u16 + 1);
            let ordinal = if origin == 0 { place as u32 } else { ordinal };
            let offset = end;
            end += len;
            Entry { id, offset, len, plain, ordinal, codec, class, origin }
        });
        let entries = entries.collect();
        (Index { origins, entries }, end)
    })
}

proptest! {
    #[test]
    fn headers_come_back(header in header()) {
        prop_assert_eq!(Header::decode(&header.encode()).unwrap(), header);
    }

    #[test]
    fn trailers_come_back((trailer, size) in trailer()) {
        prop_assert_eq!(Trailer::decode(&trailer.encode(), size).unwrap(), trailer);
    }

    #[test]
    fn indexes_come_back((index, end) in index()) {
        let bytes = index.encode();
        prop_assert_eq!(&Index::decode(&bytes, end).unwrap(), &index);
        if index.origins.is_empty() {
            prop_assert_eq!(bytes.len(), Index::plain_len(index.entries.len()));
        }
        // Another place makes other chunks of it.
        prop_assert_eq!(Index::decode(&bytes, end + 1).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn every_change_of_a_header_or_trailer_is_found() {
    for header in samples(header(), 3) {
        assert_every_change_is_corrupt(&header.encode(), Header::decode);
    }
    for (trailer, size) in samples(trailer(), 3) {
        assert_every_change_is_corrupt(&trailer.encode(), |bytes| Trailer::decode(bytes, size));
        for wrong in [0, 1, size - 1, size + 1, u64::MAX] {
            assert_eq!(Trailer::decode(&trailer.encode(), wrong).unwrap_err().kind(), ErrorKind::Corrupt, "{wrong}");
        }
    }
}

#[test]
fn reserved_bytes_and_lengths_are_checked_although_the_checksum_fits() {
    let (trailer, size) = samples(trailer(), 1)[0];
    let header = samples(header(), 1)[0];
    let resum = |bytes: &mut [u8]| {
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
    };
    for at in [12, 41, 42, 43] {
        let mut bytes = header.encode();
        bytes[at] = 2;
        resum(&mut bytes);
        assert_eq!(Header::decode(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
    }
    for at in (8..16).chain(20..24).chain(40..60) {
        let mut bytes = trailer.encode();
        bytes[at] ^= 0x40;
        resum(&mut bytes);
        assert_eq!(Trailer::decode(&bytes, size).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
    }
    let inside_the_header =
        Trailer { index_offset: 63, index_len: trailer.index_len + trailer.index_offset - 63, ..trailer };
    assert_eq!(Trailer::decode(&inside_the_header.encode(), size).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn every_change_of_an_index_is_found_or_makes_another_index() {
    for (index, end) in samples(index(), 12) {
        assert_every_change_is_corrupt_or_canonical(&index.encode(), |bytes| Index::decode(bytes, end), Index::encode);
    }
}

#[test]
fn an_absurd_number_of_entries_is_refused_before_anything_is_taken_for_it() {
    for count in [1, 2, u32::MAX / ENTRY as u32, u32::MAX] {
        let bytes = [&[0, 0][..], &count.to_le_bytes()].concat();
        assert_eq!(Index::decode(&bytes, HEADER as u32).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert_eq!(Index::decode(&[0xff, 0xff, 0, 0, 0, 0], HEADER as u32).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn chunks_that_overlap_or_leave_gaps_or_are_in_another_order_are_refused() {
    let (index, end) = samples(index(), 20).into_iter().find(|(index, _)| index.entries.len() > 2).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Entry>), end| {
        let mut bad = index.clone();
        change(&mut bad.entries);
        assert_eq!(Index::decode(&bad.encode(), end).unwrap_err().kind(), ErrorKind::Corrupt);
    };
    refused(&|entries| entries[1].offset += 1, end);
    refused(&|entries| entries[1].offset -= 1, end);
    refused(&|entries| entries[0].offset = 0, end);
    refused(&|entries| entries[1].len += 1, end);
    refused(&|entries| entries.iter_mut().for_each(|e| e.offset += 1), end + 1);
    refused(&|entries| entries.swap(0, 1), end);
    refused(&|entries| entries[1].origin = index.origins.len() as u16 + 1, end);
    refused(&|entries| (entries[1].origin, entries[1].ordinal) = (0, 0), end);
    refused(&|entries| entries[2].len = u32::MAX, end);
}

#[test]
fn garbage_is_survived() {
    let headers: Vec<_> = samples(header(), 3).iter().map(|h| h.encode().to_vec()).collect();
    assert_garbage_is_survived(&headers, Header::decode, |header, bytes| assert_eq!(header.encode(), *bytes));
    let trailers: Vec<_> = samples(trailer(), 3);
    let size = trailers[0].1;
    let valid: Vec<_> = trailers.iter().map(|(t, _)| t.encode().to_vec()).collect();
    assert_garbage_is_survived(&valid, |b| Trailer::decode(b, size), |trailer, b| assert_eq!(trailer.encode(), *b));
    for (index, end) in samples(index(), 3) {
        let valid = [index.encode()];
        let accepted = assert_garbage_is_survived(
            &valid,
            |bytes| Index::decode(bytes, end),
            |index, bytes| assert_eq!(index.encode(), bytes),
        );
        assert!(accepted > 0, "the tries come near enough");
    }
}

fn key() -> PackKey {
    let pack = samples(pack_id(), 1)[0];
    PackKey::new(&Secret::new([7; 32]), &RepositoryId::new([8; 16]), &pack).unwrap()
}

#[test]
fn every_change_of_a_sealed_index_is_found() {
    let (key, (index, end)) = (key(), samples(index(), 1).remove(0));
    let sealed = key.seal_index(index.encode()).unwrap();
    assert_every_change_is_corrupt(&sealed, |bytes| {
        let plain = key.open_index(bytes).ok_or_else(|| crate::Error::corrupt("its seal"))?;
        Index::decode(&plain, end)
    });
}

#[test]
fn a_sealed_chunk_opens_unchanged_in_its_place_and_nowhere_else() {
    let key = key();
    let plain = b"wherry".repeat(9);
    let len = (plain.len() + TAG) as u32;
    let seal = ChunkSeal { ordinal: 3, id: ShortId::new([9; 16]), codec: 1, plain: 70, sealed: len };
    let mut sealed = plain.clone();
    let tag = key.seal_chunk(&seal, &mut sealed).unwrap();
    sealed.extend_from_slice(&tag);
    let open = |seal: &ChunkSeal, bytes: &[u8]| {
        let mut out = vec![0; bytes.len().saturating_sub(TAG)];
        key.open_chunk(seal, bytes, &mut out).map(|()| out).ok_or_else(|| crate::Error::corrupt("its tag"))
    };
    assert_eq!(open(&seal, &sealed).unwrap(), plain);
    assert_every_change_is_corrupt(&sealed, |bytes| open(&seal, bytes));
    let others = [
        ChunkSeal { ordinal: 4, ..seal },
        ChunkSeal { id: ShortId::new([8; 16]), ..seal },
        ChunkSeal { codec: 2, ..seal },
        ChunkSeal { plain: 71, ..seal },
        ChunkSeal { sealed: len + 1, ..seal },
    ];
    for other in others {
        assert!(open(&other, &sealed).is_err(), "{other:?}");
    }
}

#[test]
fn a_pack_longer_than_any_is_refused() {
    for (size, fits) in [(MAX_PACK, true), (MAX_PACK + 1, false)] {
        let index_offset = size as u32 - 100 - TRAILER as u32;
        let trailer = Trailer { index_offset, index_len: 100, entries: 1, pack_len: size as u32, index_hash: [7; 16] };
        assert_eq!(Trailer::decode(&trailer.encode(), size).is_ok(), fits, "{size} bytes");
    }
}

//! Every decoder: what was encoded comes back; every flip of a bit and every cut of what is sealed or has a checksum is
//! `Corrupt`; of what has neither, what is accepted is the one encoding of what it says; nothing makes a decoder panic
//! or take more memory than its input is long.

mod clear;
mod node;
mod pack;
mod records;
mod segment;
pub(crate) mod tree;

use crate::id::{ChunkId, Codec, PackId, PackKind, SessionId, ShortId};
use crate::{ErrorKind, Result};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::fmt::Debug;

/// Random bytes tried with each decoder.
const RANDOM: usize = 100_000;

/// The next number of a sequence.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Each change of one bit, each cut, and one byte more.
fn changes(bytes: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    let flips = (0..bytes.len() * 8).map(|bit| {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        (format!("bit {bit} of {} bytes flipped", bytes.len()), bad)
    });
    let cuts = (0..bytes.len()).map(|cut| (format!("{} bytes cut to {cut}", bytes.len()), bytes[..cut].to_vec()));
    let longer = std::iter::once(("a byte more".to_owned(), [bytes, &[0]].concat()));
    flips.chain(cuts).chain(longer)
}

/// Every change is an error of kind `Corrupt`.
fn assert_every_change_is_corrupt<T: Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T>) {
    decode(bytes).expect("intact bytes decode");
    for (what, bad) in changes(bytes) {
        match decode(&bad) {
            Ok(value) => panic!("{what} is accepted as {value:?}"),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}"),
        }
    }
}

/// Every cut is `Corrupt`, and every flip too unless it makes the one encoding of something else.
fn assert_every_change_is_corrupt_or_canonical<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    assert_eq!(encode(&decode(bytes).expect("intact bytes decode")), bytes);
    for (what, bad) in changes(bytes) {
        match decode(&bad) {
            Ok(value) => {
                assert_eq!(bad.len(), bytes.len(), "{what} is accepted");
                assert_eq!(encode(&value), bad, "{what} is accepted and is not canonical");
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}"),
        }
    }
}

/// Random bytes, and `valid` ones with random bytes in random places, never panic; errors are `Corrupt`. Returns how
/// many were accepted, each of which `canonical` has looked at.
fn assert_garbage_is_survived<T>(
    valid: &[Vec<u8>],
    decode: impl Fn(&[u8]) -> Result<T>,
    canonical: impl Fn(&T, &[u8]),
) -> usize {
    let mut state = 1;
    let mut accepted = 0;
    for round in 0..RANDOM {
        let mut bytes = match valid.get(round % (valid.len() + 1)) {
            Some(valid) => valid.clone(),
            None => vec![0; next(&mut state) as usize % 200],
        };
        let random = round % (valid.len() + 1) == valid.len();
        for _ in 0..if random { bytes.len() as u64 } else { next(&mut state) % 4 } {
            let (at, kind, byte) = (next(&mut state) as usize, next(&mut state) % 8, next(&mut state) as u8);
            let len = bytes.len();
            match kind {
                // Extreme counts and lengths are what decoders stumble over.
                0 if len > 4 && !random => bytes[at % (len - 4)..][..4].fill(0xff),
                1 if len > 2 && !random => bytes[at % (len - 2)..][..2].fill(0),
                2 if !random => bytes.truncate(at % (len + 1)),
                3 if !random => bytes.insert(at % (len + 1), byte),
                _ if len > 0 => bytes[at % len] = byte,
                _ => {}
            }
        }
        let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode(&bytes)));
        match decoded.unwrap_or_else(|_| panic!("round {round} panics: {bytes:02x?}")) {
            Ok(value) => {
                accepted += 1;
                canonical(&value, &bytes);
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "round {round}: {e}"),
        }
    }
    accepted
}

fn pack_id() -> impl Strategy<Value = PackId> {
    (any::<bool>(), any::<[u8; 16]>(), any::<u32>(), any::<u64>()).prop_map(|(meta, session, seq, random)| PackId {
        kind: if meta { PackKind::Meta } else { PackKind::Data },
        session: SessionId::new(session),
        seq,
        random,
    })
}

fn short_id() -> impl Strategy<Value = ShortId> {
    any::<[u8; 16]>().prop_map(ShortId::new)
}

fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId::new)
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Raw), Just(Codec::Lz4), Just(Codec::Zstd)]
}

/// Values of a strategy, the same each time.
fn samples<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let sample = |_| strategy.new_tree(&mut runner).expect("a value is drawn").current();
    (0..count).map(sample).collect()
}

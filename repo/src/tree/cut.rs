//! Where the pieces of a large file end: FastCDC of 2020, with a secret table of our own instead of the public one.

use std::fmt;

/// A piece is at least so long (bytes), but the last one of a range.
const MIN: usize = 128 << 10;
/// From here on in a piece (byte) an end is more likely.
const AVERAGE: usize = 512 << 10;
/// Longest piece in bytes.
const MOST: usize = crate::format::tree::MAX_PIECE as usize;
/// `MASKS[21]` and `MASKS[17]` of FastCDC, of 21 and of 17 bits but for one each.
const STRICT: u64 = 0xd917_6753_7000;
const EASY: u64 = 0xd907_0353_7000;

/// Cuts data by its content: where a piece ends depends on the bytes before it and not on where in a file they are.
pub struct Cutter {
    gear: [u64; 256],
    /// The same, shifted to the left by one bit.
    shifted: [u64; 256],
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cutter(..)")
    }
}

impl Cutter {
    /// With the gear table of a repository.
    pub(crate) fn new(gear: [u64; 256]) -> Self {
        Self { gear, shifted: gear.map(|entry| entry << 1) }
    }

    /// Length in bytes of the first piece of `rest`, which is all that is left of a range of data, or at least
    /// [`MAX_PIECE`](crate::format::tree::MAX_PIECE) bytes of it. 0 when `rest` is empty.
    pub fn cut(&self, rest: &[u8]) -> usize {
        let (strict, easy) = (STRICT << 1, EASY << 1);
        fastcdc::v2020::cut_gear(rest, MIN, AVERAGE, MOST, STRICT, EASY, strict, easy, &self.gear, &self.shifted).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule as `docs/format.md` has it, word by word.
    fn reference(gear: &[u64; 256], rest: &[u8]) -> usize {
        let end = rest.len().min(2 << 20);
        let looked = if rest.len() < 2 << 20 { end - end % 2 } else { end };
        let mut h = 0u64;
        for (n, byte) in rest.iter().enumerate().take(looked).skip(128 << 10) {
            h = h.wrapping_mul(2).wrapping_add(gear[usize::from(*byte)]);
            let m = if n < 512 << 10 { 0xd91767537000 } else { 0xd90703537000 };
            if h & m == 0 {
                return n;
            }
        }
        end
    }

    fn gear(seed: u8) -> [u64; 256] {
        std::array::from_fn(|b| {
            let hash = blake3::hash(&[seed, b as u8]);
            u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
        })
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn a_file_is_cut_as_the_format_says() {
        let data = noise(1, 24 << 20);
        for seed in 0..3 {
            let (gear, mut rest, mut pieces) = (gear(seed), &data[..], 0);
            let cutter = Cutter::new(gear);
            while !rest.is_empty() {
                let len = cutter.cut(rest);
                assert_eq!(len, reference(&gear, rest), "{} bytes left", rest.len());
                assert!(len >= MIN || len == rest.len());
                (rest, pieces) = (&rest[len..], pieces + 1);
            }
            assert!((30..80).contains(&pieces), "{pieces} pieces of 24 MiB");
        }
        assert_eq!(Cutter::new(gear(0)).cut(&[]), 0);
        let zeros = vec![0; (2 << 20) + 1];
        assert_eq!(Cutter::new(gear(0)).cut(&zeros), reference(&gear(0), &zeros));
    }

    #[test]
    fn another_table_cuts_elsewhere() {
        let data = noise(2, 8 << 20);
        let cuts = |seed| {
            let (cutter, mut at, mut cuts) = (Cutter::new(gear(seed)), 0, Vec::new());
            while at < data.len() {
                at += cutter.cut(&data[at..]);
                cuts.push(at);
            }
            cuts
        };
        assert_ne!(cuts(0), cuts(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ends_of_ranges_agree_too(seed in any::<u64>(), len in 0usize..(2 << 20) + 3, table in any::<u8>()) {
            let (data, gear) = (noise(seed, len), gear(table));
            prop_assert_eq!(Cutter::new(gear).cut(&data), reference(&gear, &data));
        }
    }
}

//! What the chunks of a run say about the size of their volume. A reader computes the length of each chunk from the size
//! in the record, so a record that does not fit its chunks would be a backup that cannot be restored.

use crate::{Error, Result};
use parking_lot::Mutex;

/// The chunks noted so far.
#[derive(Debug)]
pub(super) struct Shape {
    class: u8,
    noted: Mutex<Noted>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    /// One past the highest number.
    chunks: u64,
    /// Number and length in bytes of the one that is shorter than the others.
    short: Option<(u64, usize)>,
}

impl Shape {
    /// For chunks of 2^`class` bytes.
    pub(super) fn new(class: u8) -> Self {
        Self { class, noted: Mutex::default() }
    }

    /// Chunk `number` is `len` bytes long. `Internal` when no chunk is so long, or another one is short already.
    pub(super) fn note(&self, number: u64, len: usize) -> Result<()> {
        let whole = 1 << self.class;
        if len == 0 || len > whole {
            return Err(wrong(format!("chunk {number} has {len} bytes")));
        }
        let mut noted = self.noted.lock();
        noted.chunks = noted.chunks.max(number.saturating_add(1));
        if len < whole {
            let (first, _) = *noted.short.get_or_insert((number, len));
            if first != number {
                return Err(wrong(format!("chunks {first} and {number} are both short")));
            }
        }
        Ok(())
    }

    /// `Internal` unless a volume of `size` bytes has exactly such chunks: what lies behind them is zero.
    pub(super) fn check(&self, size: u64) -> Result<()> {
        let Noted { chunks, short } = *self.noted.lock();
        let fits = match short {
            Some((number, len)) => {
                number.saturating_add(1) == chunks
                    && u128::from(size) == (u128::from(number) << self.class) + len as u128
            }
            None => u128::from(size) >= u128::from(chunks) << self.class,
        };
        let end = short.map_or_else(String::new, |(number, len)| format!(", the short chunk {number} of {len} bytes"));
        let text = || wrong(format!("a volume of {size} bytes does not have {chunks} chunks{end}"));
        fits.then_some(()).ok_or_else(text)
    }
}

fn wrong(what: String) -> Error {
    Error::internal(format!("what was read does not fit together: {what}; nothing is committed, please report it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const UNIT: usize = 1 << 16;

    fn of(chunks: &[(u64, usize)]) -> Result<Shape> {
        let shape = Shape::new(16);
        chunks.iter().try_for_each(|(number, len)| shape.note(*number, *len))?;
        Ok(shape)
    }

    #[test]
    fn a_size_fits_its_chunks() {
        let unit = UNIT as u64;
        let cases: [(&[(u64, usize)], &[u64], &[u64]); 5] = [
            (&[], &[0, 1, unit, u64::MAX], &[]),
            (&[(0, UNIT)], &[unit, unit + 1, u64::MAX], &[0, 1, unit - 1]),
            (&[(0, 1)], &[1], &[0, 2, unit, unit + 1]),
            (&[(7, UNIT - 1), (2, UNIT)], &[8 * unit - 1], &[8 * unit, 8 * unit - 2, 9 * unit - 1, 7 * unit]),
            // The short one is not the last.
            (&[(9, UNIT), (7, 5)], &[], &[7 * unit + 5, 10 * unit, 11 * unit]),
        ];
        for (chunks, fit, wrong) in cases {
            let shape = of(chunks).unwrap();
            assert!(fit.iter().all(|size| shape.check(*size).is_ok()), "{chunks:?} {fit:?}");
            for size in wrong {
                assert_eq!(shape.check(*size).unwrap_err().kind(), ErrorKind::Internal, "{chunks:?} {size}");
            }
        }
    }

    #[test]
    fn impossible_chunks_are_refused() {
        for chunks in [&[(0, 0)][..], &[(0, UNIT + 1)], &[(4, 5), (5, 5)]] {
            assert_eq!(of(chunks).unwrap_err().kind(), ErrorKind::Internal, "{chunks:?}");
        }
        assert!(of(&[(u64::MAX, UNIT)]).unwrap().check(u64::MAX).is_err());
    }
}

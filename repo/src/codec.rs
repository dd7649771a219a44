//! Packing of plaintext before sealing.

use crate::id::Codec;
use crate::{Error, Result};

/// How a writer packs chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4 blocks: the default.
    Lz4,
    /// zstd at this level, 1 to 19.
    Zstd(i32),
}

/// Buffers and contexts one thread uses again and again.
pub(crate) struct Packer {
    compression: Compression,
    packed: Vec<u8>,
    check: Vec<u8>,
    zstd: Option<(zstd::bulk::Compressor<'static>, zstd::bulk::Decompressor<'static>)>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Packer {
    /// For chunks of at most `largest` bytes.
    pub(crate) fn new(compression: Compression, largest: usize) -> Result<Self> {
        let zstd = match compression {
            Compression::Zstd(level) => {
                let broken = |e: std::io::Error| Error::internal("zstd cannot be set up").with_source(e);
                Some((
                    zstd::bulk::Compressor::new(level).map_err(broken)?,
                    zstd::bulk::Decompressor::new().map_err(broken)?,
                ))
            }
            _ => None,
        };
        let spare = match compression {
            Compression::None => 0,
            _ => lz4_flex::block::get_maximum_output_size(largest).max(zstd::zstd_safe::compress_bound(largest)),
        };
        let check = if compression == Compression::None { 0 } else { largest };
        Ok(Self { compression, packed: vec![0; spare], check: vec![0; check], zstd })
    }

    /// The packed form of `plain`, never longer than it. What was compressed has been decoded and compared.
    pub(crate) fn pack<'a>(&'a mut self, plain: &'a [u8]) -> Result<(Codec, &'a [u8])> {
        let (codec, length) = match (self.compression, &mut self.zstd) {
            (Compression::Lz4, _) => (Codec::Lz4, lz4_flex::block::compress_into(plain, &mut self.packed).ok()),
            (_, Some((compressor, _))) => {
                (Codec::Zstd, compressor.compress_to_buffer(plain, self.packed.as_mut_slice()).ok())
            }
            _ => (Codec::Raw, None),
        };
        let Some(length) = length.filter(|length| *length < plain.len()) else { return Ok((Codec::Raw, plain)) };
        let Some(check) = self.check.get_mut(..plain.len()) else { return Ok((Codec::Raw, plain)) };
        let decoded = match &mut self.zstd {
            Some((_, decompressor)) => decompressor.decompress_to_buffer(&self.packed[..length], check).ok(),
            None => lz4_flex::block::decompress_into(&self.packed[..length], check).ok(),
        };
        if decoded != Some(plain.len()) || *check != *plain {
            return Err(Error::internal(format!(
                "what {codec:?} compressed does not decode to what it was: this machine or build computes wrongly, \
                 nothing was stored of it; test its memory, or use --compression none"
            )));
        }
        Ok((codec, &self.packed[..length]))
    }
}

/// Unpacks into `out`, which has the length of the plaintext; `None` when the bytes are not that.
pub(crate) fn unpack(codec: Codec, packed: &[u8], out: &mut [u8]) -> Option<()> {
    let length = match codec {
        Codec::Raw => {
            (packed.len() == out.len()).then(|| out.copy_from_slice(packed))?;
            out.len()
        }
        Codec::Lz4 => lz4_flex::block::decompress_into(packed, out).ok()?,
        Codec::Zstd => zstd::bulk::decompress_to_buffer(packed, out).ok()?,
    };
    (length == out.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took_and_never_grows() {
        let noise: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let text = b"wherry ".repeat(10_000);
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            let mut packer = Packer::new(compression, 70_000).unwrap();
            for plain in [&noise[..], &text[..], &noise[..1], &[]] {
                let (codec, packed) = packer.pack(plain).unwrap();
                assert!(packed.len() <= plain.len());
                let packed = packed.to_vec();
                let mut out = vec![0; plain.len()];
                unpack(codec, &packed, &mut out).unwrap();
                assert_eq!(out, plain, "{compression:?}");
                let mut longer = vec![0; plain.len() + 1];
                assert_eq!(unpack(codec, &packed, &mut longer), None, "a wrong length is refused");
            }
        }
    }
}

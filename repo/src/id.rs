//! Identities. Each is a type of its own, so that none is taken for another.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Lower-case hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The bytes of a lower-case hex string of exactly `2 * N` digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let raw = text.as_bytes();
    if raw.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (o, pair) in out.iter_mut().zip(raw.chunks_exact(2)) {
        *o = digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?;
    }
    Some(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; $len]);

        impl $name {
            /// From its bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let bytes = d.bytes()?.try_into();
                bytes.map(Self).map_err(|_| minicbor::decode::Error::message(concat!("not ", $what)))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                unhex(text).map(Self).ok_or_else(|| Error::invalid(format!("{text:?} is not {}", $what)))
            }
        }
    };
}

id!(
    /// A repository's uuid: 128 random bits, drawn by `init`, never changed.
    RepositoryId, 16, "a repository uuid (32 lower-case hex digits)"
);
id!(
    /// One writer's run: 128 random bits. A session that commits gives its id to its snapshot.
    SessionId, 16, "a snapshot id (32 lower-case hex digits)"
);
id!(
    /// A volume: the first 128 bits of keyed BLAKE3 of its name.
    VolumeId, 16, "a volume id (32 lower-case hex digits)"
);
id!(
    /// A chunk or node by content: keyed BLAKE3-256.
    ChunkId, 32, "a chunk id (64 lower-case hex digits)"
);
id!(
    /// The first 128 bits of a [`ChunkId`], as slots and the index hold it.
    ShortId, 16, "a short chunk id (32 lower-case hex digits)"
);

/// A snapshot's id is the id of the session that wrote it.
pub type SnapshotId = SessionId;

impl ChunkId {
    /// The 128 bits that slots, index rows and AEAD associated data hold.
    pub fn short(&self) -> ShortId {
        let mut out = [0; 16];
        out.copy_from_slice(&self.0[..16]);
        ShortId(out)
    }
}

/// What a pack holds: it decides the first part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks of volumes (`packs/`).
    Data = 0,
    /// Nodes of maps (`meta/`).
    Meta = 1,
}

/// The name of a pack. It seals one content, ever: `random` is drawn anew each time sealing starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// Data or map nodes.
    pub kind: PackKind,
    /// The session that wrote it.
    pub session: SessionId,
    /// Count of packs sealed by the session before this one.
    pub seq: u32,
    /// Fresh random bits of the operating system.
    pub random: u64,
}

impl PackId {
    /// Length in bytes of [`PackId::to_bytes`].
    pub const LEN: usize = 29;

    /// Kind, session, seq, random; little-endian. Part of key derivation and associated data.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = self.kind as u8;
        out[1..17].copy_from_slice(self.session.bytes());
        out[17..21].copy_from_slice(&self.seq.to_le_bytes());
        out[21..29].copy_from_slice(&self.random.to_le_bytes());
        out
    }

    /// The reverse of [`PackId::to_bytes`]; `None` when the kind is unknown.
    pub fn from_bytes(raw: &[u8; Self::LEN]) -> Option<Self> {
        let kind = match raw[0] {
            0 => PackKind::Data,
            1 => PackKind::Meta,
            _ => return None,
        };
        let (mut session, mut seq, mut random) = ([0; 16], [0; 4], [0; 8]);
        session.copy_from_slice(&raw[1..17]);
        seq.copy_from_slice(&raw[17..21]);
        random.copy_from_slice(&raw[21..29]);
        Some(Self {
            kind,
            session: SessionId(session),
            seq: u32::from_le_bytes(seq),
            random: u64::from_le_bytes(random),
        })
    }
}

impl<C> minicbor::Encode<C> for PackId {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.to_bytes())?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for PackId {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let id = d.bytes()?.try_into().ok().and_then(Self::from_bytes);
        id.ok_or_else(|| minicbor::decode::Error::message("not a pack id"))
    }
}

/// How a chunk's plaintext was packed before sealing. Decoders are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One LZ4 block.
    Lz4 = 1,
    /// One zstd frame.
    Zstd = 2,
}

impl Codec {
    /// The codec of this number in the format.
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Raw),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// All a reader needs to fetch and open one chunk, besides its id and the length of its plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack that holds it.
    pub pack: PackId,
    /// The key epoch of the pack.
    pub epoch: u32,
    /// Its place in the pack, counted from 0; the nonce.
    pub ordinal: u32,
    /// First byte of the sealed chunk in the pack object.
    pub offset: u32,
    /// Sealed length in bytes, tag included.
    pub len: u32,
    /// How the plaintext was packed.
    pub codec: Codec,
}

impl Location {
    /// One past its last byte in the pack.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

//! Sealing and deriving. Which key seals what, and why no key ever meets the same nonce with other bytes, is in
//! `docs/format.md`, section "Secrets".

use crate::format::tree;
use crate::id::{ChunkId, PackId, RepositoryId, ShortId, VolumeId};
use crate::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes an AEAD tag adds.
pub(crate) const TAG: usize = 16;
/// Bytes [`seal`] adds: salt and tag.
pub(crate) const SEAL_OVERHEAD: usize = 16 + TAG;

/// A secret of 32 bytes. It shows nothing of itself and is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// From its bytes.
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// `prf(key, label, parts)` of the format document.
pub(crate) fn prf(key: &Secret, label: &str, parts: &[&[u8]]) -> Secret {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(label.as_bytes()).update(&[0]);
    for part in parts {
        hasher.update(part);
    }
    Secret(*hasher.finalize().as_bytes())
}

fn half(secret: &Secret) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&secret.bytes()[..16]);
    out
}

fn first_word(secret: &Secret) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&secret.bytes()[..8]);
    u64::from_le_bytes(out)
}

fn aead(key: &Secret) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key.bytes());
    key.map(LessSafeKey::new).map_err(|_| Error::internal("AES-256-GCM takes no key of 32 bytes"))
}

fn length(bytes: &[u8]) -> [u8; 8] {
    (bytes.len() as u64).to_le_bytes()
}

/// Salt, ciphertext and tag of `plaintext`. The salt is computed from what is sealed, so no key sees two plaintexts.
pub(crate) fn seal(base: &Secret, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>> {
    let salt = half(&prf(base, "wherry1 salt", &[&length(context), context, plaintext]));
    let key = aead(&prf(base, "wherry1 seal", &[&length(context), context, &salt]))?;
    let mut out = Vec::with_capacity(plaintext.len() + SEAL_OVERHEAD);
    out.extend_from_slice(&salt);
    out.extend_from_slice(plaintext);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut out[16..])
        .map_err(|_| Error::internal("AES-256-GCM refused to seal"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The reverse of [`seal`]; `None` when key, context or bytes do not belong together.
pub(crate) fn open(base: &Secret, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, body) = sealed.split_at_checked(16)?;
    let key = aead(&prf(base, "wherry1 seal", &[&length(context), context, salt])).ok()?;
    let mut body = body.to_vec();
    let plain = key.open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut body).ok()?.len();
    body.truncate(plain);
    // The salt must be the one this content gives: whoever holds the key cannot make two records that differ in it.
    (half(&prf(base, "wherry1 salt", &[&length(context), context, &body])) == *salt).then_some(body)
}

/// The keys that name content: chunk, node, root and volume ids; and those that decide where trees are cut.
#[derive(Debug, Clone)]
pub(crate) struct IdKeys {
    chunk: [Secret; 7],
    /// Of [`tree::PIECE`], [`tree::SHARED`] and [`tree::ATTRIBUTES`].
    tree_chunk: [Secret; 3],
    node: [Secret; MAX_LEVELS],
    /// From [`tree::FOLDER`] on.
    tree_node: [Secret; 32],
    gear: Gear,
    split: Secret,
    root: Secret,
    volume: Secret,
}

/// The table that decides where files are cut. As secret as a key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Gear([u64; 256]);

impl fmt::Debug for Gear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gear(..)")
    }
}

/// Levels a map can have: 128^10 chunks of 64 KiB are more than 2^64 bytes.
pub(crate) const MAX_LEVELS: usize = 10;
/// Smallest size class: 64 KiB.
pub(crate) const MIN_CLASS: u8 = 16;
/// Largest size class: 4 MiB.
pub(crate) const MAX_CLASS: u8 = 22;

impl IdKeys {
    pub(crate) fn new(id: &Secret) -> Self {
        Self {
            chunk: std::array::from_fn(|i| prf(id, "wherry1 chunk", &[&[MIN_CLASS + i as u8]])),
            tree_chunk: std::array::from_fn(|i| prf(id, "wherry1 chunk", &[&[tree::PIECE + i as u8]])),
            node: std::array::from_fn(|i| prf(id, "wherry1 node", &[&[i as u8]])),
            tree_node: std::array::from_fn(|i| prf(id, "wherry1 tree", &[&[tree::FOLDER + i as u8]])),
            gear: Gear(std::array::from_fn(|byte| first_word(&prf(id, "wherry1 gear", &[&[byte as u8]])))),
            split: prf(id, "wherry1 split", &[]),
            root: prf(id, "wherry1 root", &[]),
            volume: prf(id, "wherry1 volume", &[]),
        }
    }

    /// Id of a chunk; `class` is log2 of the chunk size, 16 to 22, or of a tree, 1 to 3.
    pub(crate) fn chunk(&self, class: u8, plaintext: &[u8]) -> ChunkId {
        let key = match class {
            tree::PIECE..=tree::ATTRIBUTES => &self.tree_chunk[usize::from(class - tree::PIECE)],
            _ => &self.chunk[usize::from(class - MIN_CLASS)],
        };
        ChunkId::new(*blake3::keyed_hash(key.bytes(), plaintext).as_bytes())
    }

    /// Id of a node from the short ids of its present slots, ascending.
    pub(crate) fn node(&self, level: u8, slots: impl Iterator<Item = (u8, ShortId)>) -> ChunkId {
        let mut hasher = blake3::Hasher::new_keyed(self.node[usize::from(level)].bytes());
        for (slot, id) in slots {
            hasher.update(&[slot]).update(id.bytes());
        }
        ChunkId::new(*hasher.finalize().as_bytes())
    }

    /// Id of a tree node of `class`, 160 to 191, from its [body](tree::body).
    pub(crate) fn tree_node(&self, class: u8, body: &[u8]) -> ChunkId {
        let key = &self.tree_node[usize::from(class - tree::FOLDER)];
        ChunkId::new(*blake3::keyed_hash(key.bytes(), body).as_bytes())
    }

    /// What decides where a file is cut: a number for each byte.
    pub(crate) fn gear(&self) -> &[u64; 256] {
        &self.gear.0
    }

    /// What decides after which names nodes and shared chunks end.
    pub(crate) fn split(&self, name: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.split.bytes(), name).as_bytes()
    }

    /// Digest of a whole disk of `size` bytes; of a tree with class and levels 0 and the id of its top node.
    pub(crate) fn root(&self, size: u64, class: u8, levels: u8, top: Option<ChunkId>) -> ChunkId {
        let mut hasher = blake3::Hasher::new_keyed(self.root.bytes());
        hasher.update(&size.to_le_bytes()).update(&[class, levels]).update(top.unwrap_or_default().bytes());
        ChunkId::new(*hasher.finalize().as_bytes())
    }

    pub(crate) fn volume(&self, name: &str) -> VolumeId {
        VolumeId::new(half(&Secret(*blake3::keyed_hash(self.volume.bytes(), name.as_bytes()).as_bytes())))
    }
}

/// The keys of one pack.
pub(crate) struct PackKey {
    chunks: LessSafeKey,
    index: LessSafeKey,
    pub(crate) commitment: [u8; 16],
    aad: [u8; 16 + PackId::LEN],
}

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackKey(..)")
    }
}

/// What the tag of a chunk binds besides its bytes and its pack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkSeal {
    pub(crate) ordinal: u32,
    pub(crate) id: ShortId,
    pub(crate) codec: u8,
    /// Length of the plaintext in bytes.
    pub(crate) plain: u32,
    /// Length of the sealed chunk in bytes, tag included.
    pub(crate) sealed: u32,
}

impl PackKey {
    pub(crate) fn new(epoch: &Secret, repository: &RepositoryId, pack: &PackId) -> Result<Self> {
        let id = pack.to_bytes();
        let derive = |label| prf(epoch, label, &[repository.bytes(), &id]);
        let mut aad = [0; 16 + PackId::LEN];
        aad[..16].copy_from_slice(repository.bytes());
        aad[16..].copy_from_slice(&id);
        Ok(Self {
            chunks: aead(&derive("wherry1 pack"))?,
            index: aead(&derive("wherry1 pack index"))?,
            commitment: half(&derive("wherry1 commitment")),
            aad,
        })
    }

    fn chunk_aad(&self, seal: &ChunkSeal) -> [u8; 16 + PackId::LEN + 29] {
        let mut out = [0; 16 + PackId::LEN + 29];
        let (pack, rest) = out.split_at_mut(self.aad.len());
        pack.copy_from_slice(&self.aad);
        rest[..4].copy_from_slice(&seal.ordinal.to_le_bytes());
        rest[4..20].copy_from_slice(seal.id.bytes());
        rest[20] = seal.codec;
        rest[21..25].copy_from_slice(&seal.plain.to_le_bytes());
        rest[25..29].copy_from_slice(&seal.sealed.to_le_bytes());
        out
    }

    fn nonce(ordinal: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `bytes` where they are and returns the tag. An ordinal seals once.
    pub(crate) fn seal_chunk(&self, seal: &ChunkSeal, bytes: &mut [u8]) -> Result<[u8; TAG]> {
        let tag = self
            .chunks
            .seal_in_place_separate_tag(Self::nonce(seal.ordinal), Aad::from(self.chunk_aad(seal)), bytes)
            .map_err(|_| Error::internal("AES-256-GCM refused to seal a chunk"))?;
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts a sealed chunk (ciphertext and tag) into `out`, which is as long as the ciphertext; `None` when that is not
    /// so, or the tag does not fit: then nobody may look at `out`.
    pub(crate) fn open_chunk(&self, seal: &ChunkSeal, sealed: &[u8], out: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_last_chunk::<TAG>()?;
        if body.len() != out.len() {
            return None;
        }
        let (nonce, aad) = (Self::nonce(seal.ordinal), Aad::from(self.chunk_aad(seal)));
        self.chunks.open_separate_gather(nonce, aad, body, tag, out).ok()
    }

    pub(crate) fn seal_index(&self, mut plain: Vec<u8>) -> Result<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.index
            .seal_in_place_append_tag(nonce, Aad::from(self.aad), &mut plain)
            .map_err(|_| Error::internal("AES-256-GCM refused to seal a pack's index"))?;
        Ok(plain)
    }

    pub(crate) fn open_index(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let mut out = sealed.to_vec();
        let plain = self.index.open_in_place(nonce, Aad::from(self.aad), &mut out).ok()?.len();
        out.truncate(plain);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_only_where_they_belong() {
        let key = Secret::new([7; 32]);
        let sealed = seal(&key, b"here", b"something").unwrap();
        assert_eq!(open(&key, b"here", &sealed).unwrap(), b"something");
        assert_eq!(open(&key, b"there", &sealed), None);
        assert_eq!(open(&Secret::new([8; 32]), b"here", &sealed), None);
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, b"here", &bad), None, "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert_eq!(open(&key, b"here", &sealed[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn other_content_is_sealed_with_another_key() {
        let key = Secret::new([7; 32]);
        let (a, b) = (seal(&key, b"here", b"aaaa").unwrap(), seal(&key, b"here", b"aaab").unwrap());
        assert_ne!(a[..16], b[..16]);
        assert_eq!(a, seal(&key, b"here", b"aaaa").unwrap());
    }

    #[test]
    fn a_secret_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new([0x41; 32])), "Secret(..)");
    }
}

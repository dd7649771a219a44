//! Reading packs: one chunk by its location, or the index from the end of the object.

use crate::codec::unpack;
use crate::crypto::{ChunkSeal, PackKey, TAG};
use crate::format::node::Node;
use crate::format::pack::{Entry, HEADER, Header, Index, TRAILER, Trailer, damaged_chunk};
use crate::format::tree;
use crate::id::{ChunkId, Codec, Location, PackId, ShortId};
use crate::keys::Keys;
use crate::storage::{Storage, keys};
use crate::{Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Keys of packs read of late: deriving them anew for each chunk would cost more than opening it.
#[derive(Debug, Default)]
pub(crate) struct KeyCache(Mutex<HashMap<(PackId, u32), Arc<PackKey>>>);

impl KeyCache {
    const MOST: usize = 512;

    fn get(&self, keys: &Keys, pack: &PackId, epoch: u32) -> Result<Arc<PackKey>> {
        let mut cache = self.0.lock();
        if let Some(key) = cache.get(&(*pack, epoch)) {
            return Ok(key.clone());
        }
        let key = Arc::new(keys.pack(pack, epoch)?);
        if cache.len() >= Self::MOST {
            cache.clear();
        }
        cache.insert((*pack, epoch), key.clone());
        Ok(key)
    }
}

/// What opens sealed chunks and nodes: the keys of a repository, and those of packs read of late.
#[derive(Clone, Copy)]
pub(crate) struct Opener<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) cache: &'a KeyCache,
}

impl Opener<'_> {
    /// Opens a sealed chunk of `class` into `out`, which has the length of its plaintext; `scratch` is for what is packed.
    /// Ok means: tag and id fit. Else nobody may look at `out`.
    pub(crate) fn chunk(
        &self,
        id: &ShortId,
        class: u8,
        at: &Location,
        sealed: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<ChunkId> {
        let damaged = |why| damaged("chunk", at, why);
        let fits = class < 128 && tree::max_plain(class).is_some_and(|most| out.len() <= most as usize);
        if !fits || sealed.len() != at.len as usize {
            return Err(damaged("its length or class makes no sense"));
        }
        let plain = out.len() as u32;
        if at.codec == Codec::Raw && sealed.len() == out.len() + TAG {
            // What was not compressed is copied nowhere in between.
            self.decrypt(*id, plain, at, sealed, out)?.ok_or_else(|| damaged(NO_TAG))?;
        } else {
            let packed = self.packed(*id, plain, at, sealed, scratch)?.ok_or_else(|| damaged(NO_TAG))?;
            unpack(at.codec, packed, out).ok_or_else(|| damaged("it does not unpack"))?;
        }
        let full = self.keys.ids.chunk(class, out);
        if full.short() == *id { Ok(full) } else { Err(damaged("its content is not what its id says")) }
    }

    /// Opens a sealed map node.
    pub(crate) fn node(&self, id: &ShortId, level: u8, at: &Location, sealed: &[u8]) -> Result<Node> {
        let damaged = |why| damaged("map node", at, why);
        if sealed.len() != at.len as usize || sealed.len() < TAG || at.codec != Codec::Raw {
            return Err(damaged("its length or codec makes no sense"));
        }
        let mut bytes = Vec::new();
        let bytes = self.packed(*id, at.len - TAG as u32, at, sealed, &mut bytes)?.ok_or_else(|| damaged(NO_TAG))?;
        let node = Node::decode(bytes).map_err(|e| e.with_object(keys::pack(&at.pack)))?;
        let full = self.keys.ids.node(node.level, node.present().map(|(n, slot)| (n as u8, slot.id)));
        if node.level == level && full.short() == *id {
            Ok(node)
        } else {
            Err(damaged("its content is not what its id says"))
        }
    }

    /// Opens the sealed tree node that a ref says is there, and gives its encoded form. Ok means: tag and id fit; what it
    /// says was not looked at.
    pub(crate) fn tree_node(&self, to: &tree::Ref, at: &Location, sealed: &[u8]) -> Result<Vec<u8>> {
        let damaged = |why| damaged("tree node", at, why);
        let fits = to.class >= tree::FOLDER && tree::max_plain(to.class).is_some_and(|most| to.plain <= most);
        if !fits || sealed.len() != at.len as usize {
            return Err(damaged("its length or class makes no sense"));
        }
        let mut packed = Vec::new();
        let packed = self.packed(to.id, to.plain, at, sealed, &mut packed)?.ok_or_else(|| damaged(NO_TAG))?;
        let mut bytes = vec![0; to.plain as usize];
        unpack(at.codec, packed, &mut bytes).ok_or_else(|| damaged("it does not unpack"))?;
        let (class, body) = tree::body(&bytes).map_err(|e| e.with_object(keys::pack(&at.pack)))?;
        if class == to.class && self.keys.ids.tree_node(class, body).short() == to.id {
            Ok(bytes)
        } else {
            Err(damaged("its content is not what its id says"))
        }
    }

    /// The bytes of a chunk or node as they were packed, of which tag and id were checked.
    pub(crate) fn checked(&self, entry: &Entry, at: &Location, sealed: &[u8]) -> Result<Vec<u8>> {
        let (id, mut bytes) = (entry.id.short(), Vec::new());
        match entry.class {
            ..128 => {
                let mut plain = vec![0; entry.plain as usize];
                self.chunk(&id, entry.class, at, sealed, &mut bytes, &mut plain)?;
            }
            128..tree::FOLDER => drop(self.node(&id, entry.class - 128, at, sealed)?),
            tree::FOLDER.. => {
                let to = tree::Ref { id, class: entry.class, plain: entry.plain };
                self.tree_node(&to, at, sealed)?;
            }
        }
        self.packed(id, entry.plain, at, sealed, &mut bytes)?
            .ok_or_else(|| damaged("chunk", at, "its length makes no sense"))?;
        Ok(bytes)
    }

    /// Decrypts into `scratch`, which takes the length that is needed; None when the tag does not fit.
    fn packed<'b>(
        &self,
        id: ShortId,
        plain: u32,
        at: &Location,
        sealed: &[u8],
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<&'b [u8]>> {
        scratch.resize(sealed.len().saturating_sub(TAG), 0);
        Ok(self.decrypt(id, plain, at, sealed, scratch)?.map(|()| &scratch[..]))
    }

    fn decrypt(&self, id: ShortId, plain: u32, at: &Location, sealed: &[u8], out: &mut [u8]) -> Result<Option<()>> {
        let seal = ChunkSeal { ordinal: at.ordinal, id, codec: at.codec as u8, plain, sealed: at.len };
        Ok(self.cache.get(self.keys, &at.pack, at.epoch)?.open_chunk(&seal, sealed, out))
    }
}

const NO_TAG: &str = "its authentication tag does not fit";

fn damaged(what: &str, at: &Location, why: &str) -> Error {
    damaged_chunk(&format!("{what} {} of the pack", at.ordinal), why).with_object(keys::pack(&at.pack))
}

/// The index of a pack, read from its end, and its header.
/// Returns the index, the key epoch and the length of the object.
pub(crate) fn read_index(storage: &dyn Storage, keys: &Keys, pack: &PackId) -> Result<(Index, u32, u64)> {
    /// Covers the index of most packs in one request (bytes).
    const GUESS: u64 = 32 << 10;
    let key = keys::pack(pack);
    let named = |e: Error| e.with_object(&key);
    let mut tail = storage.get_tail(&key, GUESS)?;
    let split = |tail: &crate::storage::Tail| {
        let at = tail
            .bytes
            .len()
            .checked_sub(TRAILER)
            .ok_or_else(|| Error::corrupt("a pack is shorter than its trailer"))?;
        Trailer::decode(&tail.bytes[at..], tail.size)
    };
    let trailer = split(&tail).map_err(named)?;
    let want = u64::from(trailer.index_len) + TRAILER as u64;
    if want > tail.bytes.len() as u64 {
        tail = storage.get_tail(&key, want)?;
        if split(&tail).map_err(named)? != trailer {
            return Err(named(Error::corrupt("a pack changed while it was read")));
        }
    }
    let from = tail.bytes.len() - TRAILER - trailer.index_len as usize;
    let sealed = &tail.bytes[from..tail.bytes.len() - TRAILER];
    if blake3::hash(sealed).as_bytes()[..16] != trailer.index_hash {
        return Err(named(Error::corrupt("a pack's index is damaged: its hash does not fit")));
    }
    let header = Header::decode(&storage.get_range(&key, 0..HEADER as u64)?).map_err(named)?;
    let epoch = header.epoch;
    if header.pack != *pack || keys.pack(pack, epoch)?.commitment != header.commitment {
        return Err(named(Error::corrupt("a pack's header belongs to another pack or key")));
    }
    let plain = keys.pack(pack, epoch)?.open_index(sealed);
    let plain = plain.ok_or_else(|| named(Error::corrupt("a pack's index is damaged: its seal does not fit")))?;
    let index = Index::decode(&plain, trailer.index_offset).map_err(named)?;
    if index.entries.len() != trailer.entries as usize {
        return Err(named(Error::corrupt("a pack's trailer and index count differently")));
    }
    Ok((index, epoch, tail.size))
}

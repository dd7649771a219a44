//! Reading a snapshot: by plan for a restore, by chunk for a mount. Nothing leaves this module that was not verified.

use crate::format::node::{FANOUT, Slot};
use crate::format::tree::{Placed, Ref};
use crate::id::{Location, PackId, ShortId};
use crate::map::{Tree, chunk_count, chunk_len};
use crate::storage::keys;
use crate::{Error, ErrorKind, ReadSession, Repository, Result, Snapshot};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes whose authentication tag and id were checked. Only these may reach a sink or a reader of a mount.
#[derive(Debug)]
pub struct Verified<B>(B);

impl<B> Verified<B> {
    /// The buffer.
    pub fn into_inner(self) -> B {
        self.0
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Verified<B> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// A chunk of a snapshot that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its number: it begins at number x chunk size.
    pub number: u64,
    /// Length in bytes of its plaintext.
    pub len: usize,
    /// Which kind of chunk it is: with its id, what it holds.
    class: u8,
    slot: Slot,
}

impl ChunkRef {
    /// Its identity: chunks with the same id have the same content and chunk size.
    pub fn id(&self) -> ShortId {
        self.slot.id
    }

    pub(crate) fn class(&self) -> u8 {
        self.class
    }

    /// A chunk of a tree, as its nodes name it.
    pub(crate) fn placed(&self) -> Placed {
        Placed { to: Ref { id: self.slot.id, class: self.class, plain: self.len as u32 }, at: self.slot.at }
    }

    /// Chunk `number` of a disk of `size` bytes in chunks of 2^`class` bytes.
    pub(crate) fn of_map(size: u64, class: u8, number: u64, slot: Slot) -> Self {
        Self { number, len: chunk_len(size, class, number), class, slot }
    }

    /// A chunk of a tree, whose number says nothing.
    pub(crate) fn of_tree(chunk: &Placed) -> Self {
        let Placed { to, at } = *chunk;
        Self { number: 0, len: to.plain as usize, class: to.class, slot: Slot { id: to.id, at } }
    }
}

/// One ranged read of a pack that brings several chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pack: PackId,
    range: Range<u64>,
    /// The chunks in it, in the order of their place in the pack.
    pub chunks: Vec<ChunkRef>,
}

impl Fetch {
    /// Bytes it reads.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// Chunks of a pack with no more than this between them (bytes) are read together.
const GAP: u64 = 256 << 10;

/// Reads chunks of one snapshot, of a disk or of a tree; share it between threads. Clones are of one session.
#[derive(Clone, Debug)]
pub struct ChunkReader {
    repository: Repository,
    session: Option<Arc<ReadSession>>,
    /// What is read, for errors.
    name: String,
    /// It is a tree: where a chunk is in the file it is of, whoever reads that file knows.
    is_tree: bool,
}

/// The snapshot of a disk opened for reading; share it between threads.
#[derive(Debug)]
pub struct SnapshotReader {
    chunks: ChunkReader,
    tree: Tree,
    size: u64,
    class: u8,
}

impl SnapshotReader {
    /// Without a session: a collector does not know of this reader. Reads nothing yet: the top of the map is in the
    /// snapshot's record.
    pub fn open(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        let record = &snapshot.record;
        let tree =
            Tree::open(repository, record).map_err(|e| e.with_object(keys::snap(&snapshot.volume, &snapshot.id)))?;
        let name = format!("{:?}, snapshot {}", record.name, snapshot.id);
        let chunks = ChunkReader { repository: repository.clone(), session: None, name, is_tree: false };
        Ok(Self { chunks, tree: tree.looking_up(), size: record.size, class: record.class })
    }

    /// The snapshot of a session, which is kept for this reader until that ends.
    pub fn within(session: Arc<ReadSession>) -> Result<Self> {
        let reader = Self::open(session.repository(), session.snapshot())?;
        let chunks = ChunkReader { session: Some(session), ..reader.chunks };
        Ok(Self { chunks, ..reader })
    }

    /// Plans and reads its chunks.
    pub fn chunks(&self) -> &ChunkReader {
        &self.chunks
    }

    /// Does `read`, if it may, and says in an error of it what was read.
    fn map<T>(&self, read: impl FnOnce(&Tree) -> Result<T>) -> Result<T> {
        self.chunks.admit()?;
        self.chunks.read_node(read(&self.tree))
    }

    pub(crate) fn map_tree(&self) -> &Tree {
        &self.tree
    }

    /// Size of the volume in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Chunk size in bytes.
    pub fn chunk_size(&self) -> u64 {
        1 << self.class
    }

    /// Number of chunks, the zero ones included.
    pub fn chunk_count(&self) -> u64 {
        chunk_count(self.size, self.class)
    }

    fn reference(&self, number: u64, slot: Slot) -> ChunkRef {
        ChunkRef::of_map(self.size, self.class, number, slot)
    }

    /// The chunk of this number; `None` when it is zero.
    pub fn chunk(&self, number: u64) -> Result<Option<ChunkRef>> {
        Ok(self.map(|tree| tree.chunk(number))?.map(|slot| self.reference(number, slot)))
    }

    /// The chunks that are not zero in the next part of the map, from chunk `from` on, ascending, and the chunk number
    /// to go on from; `None` at the end.
    pub fn next_chunks(&self, from: u64) -> Result<Option<(Vec<ChunkRef>, u64)>> {
        let found = self.map(|tree| tree.next_leaf(from / FANOUT as u64))?;
        let Some((leaf, node)) = found else { return Ok(None) };
        let base = leaf * FANOUT as u64;
        let chunks = node.present().map(|(n, slot)| self.reference(base + n as u64, *slot));
        Ok(Some((chunks.filter(|c| c.number >= from).collect(), base + FANOUT as u64)))
    }

    /// As [`ChunkReader::plan`].
    pub fn plan(&self, chunks: Vec<ChunkRef>, most: u64) -> Vec<Fetch> {
        self.chunks.plan(chunks, most)
    }

    /// As [`ChunkReader::read`].
    pub fn read<B: AsMut<[u8]>, E>(
        &self,
        fetch: &Fetch,
        scratch: &mut Vec<u8>,
        buffer: impl FnMut(&ChunkRef) -> B,
        take: impl FnMut(&ChunkRef, Result<Verified<B>>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.chunks.read(fetch, scratch, buffer, take)
    }

    /// As [`ChunkReader::read_chunk`].
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Verified<Vec<u8>>> {
        self.chunks.read_chunk(chunk)
    }

    /// True when `plain` is what the snapshot has as chunk `number`.
    pub fn is_same(&self, number: u64, plain: &[u8]) -> Result<bool> {
        let slot = self.map(|tree| tree.chunk(number))?;
        if plain.len() != chunk_len(self.size, self.class, number) {
            return Ok(false);
        }
        Ok(match slot {
            None => crate::writer::is_zero(plain),
            Some(slot) => self.chunks.id_of(self.class, plain) == slot.id,
        })
    }
}

impl ChunkReader {
    /// For a tree.
    pub(crate) fn of_tree(repository: &Repository, session: Option<Arc<ReadSession>>, name: String) -> Self {
        Self { repository: repository.clone(), session, name, is_tree: true }
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What is read, for errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Fails when the snapshot is not kept for this reader any more.
    pub(crate) fn admit(&self) -> Result<()> {
        self.session.as_ref().map_or(Ok(()), |session| session.admit())
    }

    /// What was read of a map or a tree, and in an error of it what that was.
    pub(crate) fn read_node<T>(&self, read: Result<T>) -> Result<T> {
        // What is there may have been in memory, which says nothing of the storage.
        if read.is_err() {
            self.repository.reached(&read);
        }
        read.map_err(|e| self.judged(e.context(&self.name)))
    }

    /// What is missing may be so because this reader was taken for dead while its request was stalled (V4), and its snapshot was
    /// forgotten for good: then it comes too late, and nothing is lost. A sector that a local disk cannot read is damage here,
    /// which takes what needs it and nothing else; a disk that gives nothing at all has no note of this reader to show either.
    fn judged(&self, e: Error) -> Error {
        let look = || self.session.as_ref().map_or(Ok(()), |session| session.admit_anew());
        match self.repository.is_damage(&e).then(look) {
            Some(Err(late)) => late,
            Some(Ok(())) => e.into_damage(),
            None => e,
        }
    }

    fn id_of(&self, class: u8, plain: &[u8]) -> ShortId {
        self.repository.keys().ids.chunk(class, plain).short()
    }

    /// The id that a chunk of the same kind would have with this content: that of `chunk` itself only if it is its content.
    pub fn identify(&self, chunk: &ChunkRef, plain: &[u8]) -> ShortId {
        self.id_of(chunk.class, plain)
    }

    /// Ranged reads that bring these chunks, each at most about `most` bytes, sorted by their place in the storage.
    pub fn plan(&self, mut chunks: Vec<ChunkRef>, most: u64) -> Vec<Fetch> {
        chunks.sort_unstable_by_key(|c| (c.slot.at.pack, c.slot.at.offset));
        let mut plan: Vec<Fetch> = Vec::new();
        for chunk in chunks {
            let start = u64::from(chunk.slot.at.offset);
            let end = start + u64::from(chunk.slot.at.len);
            match plan.last_mut() {
                Some(fetch)
                    if fetch.pack == chunk.slot.at.pack
                        && start <= fetch.range.end + GAP
                        && end.max(fetch.range.end) - fetch.range.start <= most =>
                {
                    fetch.range.end = fetch.range.end.max(end);
                    fetch.chunks.push(chunk);
                }
                _ => plan.push(Fetch { pack: chunk.slot.at.pack, range: start..end, chunks: vec![chunk] }),
            }
        }
        plan
    }

    /// Reads a fetch and opens its chunks, each into memory of its length from `buffer`. One that is not where the map says
    /// is looked up by id. `take` gets each chunk, verified, or why it cannot be read: `Corrupt` when it is lost. An error
    /// of `take` ends it.
    pub fn read<B: AsMut<[u8]>, E>(
        &self,
        fetch: &Fetch,
        scratch: &mut Vec<u8>,
        mut buffer: impl FnMut(&ChunkRef) -> B,
        mut take: impl FnMut(&ChunkRef, Result<Verified<B>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = self.fetch(&fetch.pack, fetch.range.clone());
        if bytes.as_ref().is_err_and(|e| self.repository.is_damage(e)) {
            for chunk in &fetch.chunks {
                self.repository.elsewhere().expect(chunk.class, [chunk.id()]);
            }
        }
        for chunk in &fetch.chunks {
            let at = &chunk.slot.at;
            let opened = match &bytes {
                Ok(bytes) => {
                    let start = (u64::from(at.offset) - fetch.range.start) as usize;
                    match bytes.get(start..start + at.len as usize) {
                        Some(sealed) => self.open_chunk(chunk, at, sealed, scratch, buffer(chunk)),
                        None => Err(Error::internal("a chunk is outside its fetch")),
                    }
                }
                // A part may still be readable.
                Err(e) if e.kind() != ErrorKind::NotFound && fetch.chunks.len() > 1 && self.repository.is_damage(e) => {
                    self.read_at(chunk, &at.pack, at, scratch, buffer(chunk))
                }
                Err(e) => Err(e.again()),
            };
            let opened = match opened {
                Err(e) if self.repository.is_damage(&e) => self.find(chunk, &e, scratch, &mut buffer),
                opened => opened,
            };
            take(chunk, opened)?;
        }
        Ok(())
    }

    /// One chunk, read and verified.
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Verified<Vec<u8>>> {
        let mut found = Err(Error::internal("a plan is empty"));
        for fetch in self.plan(vec![*chunk], u64::MAX) {
            self.read(
                &fetch,
                &mut Vec::new(),
                |chunk| vec![0; chunk.len],
                |_, opened| {
                    found = opened;
                    Ok::<(), Error>(())
                },
            )?;
        }
        found
    }

    fn fetch(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes> {
        self.admit()?;
        let bytes = self.repository.storage().get_range(&keys::pack(pack), range);
        self.repository.reached(&bytes);
        bytes
    }

    /// Opens a chunk out of its sealed bytes, which are those at `at`, into `out`, which has the chunk's length.
    fn open_chunk<B: AsMut<[u8]>>(
        &self,
        chunk: &ChunkRef,
        at: &Location,
        sealed: &[u8],
        scratch: &mut Vec<u8>,
        mut out: B,
    ) -> Result<Verified<B>> {
        let plain = out.as_mut();
        if plain.len() != chunk.len {
            return Err(Error::internal("a chunk was opened into a buffer of another length"));
        }
        self.repository.opener().chunk(&chunk.slot.id, chunk.class, at, sealed, scratch, plain)?;
        Ok(Verified(out))
    }

    /// Reads a chunk alone. The bytes are in `pack`; what they were sealed for is in `at`.
    fn read_at<B: AsMut<[u8]>>(
        &self,
        chunk: &ChunkRef,
        pack: &PackId,
        at: &Location,
        scratch: &mut Vec<u8>,
        out: B,
    ) -> Result<Verified<B>> {
        let start = u64::from(at.offset);
        let sealed = self.fetch(pack, start..start + u64::from(at.len))?;
        self.open_chunk(chunk, at, &sealed, scratch, out)
    }

    /// V3: a chunk from another place than its slot says, where `why` happened.
    fn find<B: AsMut<[u8]>>(
        &self,
        chunk: &ChunkRef,
        why: &Error,
        scratch: &mut Vec<u8>,
        mut buffer: impl FnMut(&ChunkRef) -> B,
    ) -> Result<Verified<B>> {
        let slot = &chunk.slot;
        let elsewhere = self.repository.elsewhere();
        let found = elsewhere.first(&self.repository, &slot.id, chunk.class, &slot.at, |copy| {
            if !u32::try_from(chunk.len).is_ok_and(|len| copy.may_be_of(len)) {
                return Ok(None);
            }
            match self.read_at(chunk, &copy.pack, &copy.at, scratch, buffer(chunk)) {
                Ok(found) => {
                    elsewhere.note(&slot.at.pack, copy, why.kind() == ErrorKind::NotFound);
                    Ok(Some(found))
                }
                Err(e) if self.repository.is_damage(&e) => {
                    tracing::warn!("another copy of a chunk is damaged too: {e}");
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
        // Before it is called lost: that its pack is not there was said once.
        if why.kind() == ErrorKind::NotFound {
            match self.read_at(chunk, &slot.at.pack, &slot.at, scratch, buffer(chunk)) {
                Err(e) if self.repository.is_damage(&e) => {}
                read => return read,
            }
        }
        let start = chunk.number << chunk.class;
        let what = match self.is_tree {
            true => "a chunk".to_owned(),
            false => format!("bytes {start} to {}", start + chunk.len as u64 - 1),
        };
        let text = format!(
            "{what} of {} cannot be read: {}, and no other pack has that; run `wherry check --read-data`, or take another snapshot",
            self.name,
            why.message()
        );
        Err(self.judged(why.instead(text).with_object(keys::pack(&slot.at.pack))))
    }
}

//! Packs that belong to no snapshot of their own: of a collector that seals anew what it moves (G7), and of a repair with what
//! it has from another repository (M7 of `docs/concurrency.md`). What is in them is found by its id.

use crate::format::pack::{Entry, Index, MAX_PACK, TRAILER};
use crate::format::records::Kind;
use crate::format::segment::{self, PackRows};
use crate::id::{PackId, PackKind, SessionId, VolumeId};
use crate::pack::{OpenPack, PackPool, Piece, SealedPack, read_index};
use crate::session::fence;
use crate::storage::keys;
use crate::{Error, Repository, Result, clock};

/// Packs of nodes are this long at most (bytes).
const META_PACK: usize = 4 << 20;
/// Packs whose rows go into one index segment.
const SEGMENT: usize = 64;

/// Fills packs of chunks and packs of nodes under the newest epoch.
pub(crate) struct Sealer<'a> {
    repository: &'a Repository,
    /// Longest pack of chunks in bytes.
    pack_size: usize,
    /// Whose packs they are. It has a Fence before it has packs: so they can be condemned by anybody who finds no reference to
    /// them.
    session: SessionId,
    seq: u32,
    /// Of chunks and of nodes.
    open: [Option<OpenPack>; 2],
    rows: Vec<PackRows>,
    segments: u32,
    stored: Vec<PackId>,
}

impl<'a> Sealer<'a> {
    /// Draws a session for the packs and ends it; `reason` is what its Fence says.
    pub(crate) fn start(repository: &'a Repository, pack_size: usize, reason: &str) -> Result<Self> {
        let session = SessionId::new(clock::random(repository.rng())?);
        fence(repository, VolumeId::new([0; 16]), session, reason)?;
        let (open, rows, stored) = ([None, None], Vec::new(), Vec::new());
        Ok(Self { repository, pack_size, session, seq: 0, open, rows, segments: 0, stored })
    }

    fn capacity(&self, kind: PackKind, piece: &Piece<'_>) -> usize {
        let wanted = if kind == PackKind::Data { self.pack_size } else { META_PACK };
        wanted.max(piece.packed.len() + Index::plain_len(1) + TRAILER + (4 << 10))
    }

    /// Takes what `entry` describes, as it is packed; where the entry says that it is does not matter.
    pub(crate) fn append(&mut self, kind: PackKind, entry: &Entry, packed: &[u8]) -> Result<()> {
        let Entry { id, class, codec, plain, .. } = *entry;
        self.put(kind, &Piece { id, class, codec, plain, packed })
    }

    /// Takes a chunk or node.
    pub(crate) fn put(&mut self, kind: PackKind, piece: &Piece<'_>) -> Result<()> {
        let capacity = self.capacity(kind, piece);
        loop {
            let pack = match self.open[kind as usize].take() {
                Some(pack) => pack,
                None => self.begin(kind)?,
            };
            let at = pack.reserve(piece, capacity);
            if let Some(at) = &at {
                pack.fill(at, piece, &mut Vec::with_capacity(at.len as usize))?;
            }
            self.open[kind as usize] = Some(pack);
            if at.is_some() {
                return Ok(());
            }
            self.store(kind)?;
        }
    }

    fn begin(&mut self, kind: PackKind) -> Result<OpenPack> {
        let pool = PackPool::new(1, MAX_PACK as usize);
        self.seq += 1;
        OpenPack::new(kind, self.session, self.seq - 1, self.repository.keys(), self.repository.rng(), &pool)
    }

    /// Stores the pack that is open and reads it back: only then may what was in other packs be condemned, or count as healed.
    fn store(&mut self, kind: PackKind) -> Result<()> {
        let Some(pack) = self.open[kind as usize].take() else { return Ok(()) };
        pack.close();
        let SealedPack { id, body, rows } = pack.finish(&PackPool::new(1, MAX_PACK as usize))?;
        let (storage, key) = (self.repository.storage(), keys::pack(&id));
        storage.create(&key, body.clone())?;
        self.stored.push(id);
        if storage.get(&key)? != body {
            let text =
                "what was sealed is not what was stored a moment ago; nothing was condemned, nothing counts as healed";
            return Err(Error::corrupt(text).with_object(&key));
        }
        read_index(storage, self.repository.keys(), &id)?;
        if kind == PackKind::Data {
            self.rows.push(rows);
            self.segment(SEGMENT)?;
        }
        Ok(())
    }

    /// Rows of the packs that are stored, when there are at least so many.
    fn segment(&mut self, least: usize) -> Result<()> {
        if self.rows.len() < least {
            return Ok(());
        }
        let key = keys::segment(&self.session, self.segments);
        let rows = segment::encode(&std::mem::take(&mut self.rows));
        self.segments += 1;
        let sealed = self.repository.keys().seal_record(Kind::Segment, &key, &rows)?;
        self.repository.storage().create(&key, sealed.into())
    }

    /// Stores what is open.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.store(PackKind::Data)?;
        self.store(PackKind::Meta)?;
        self.segment(1)
    }

    /// The packs that were sent, also one that is not what was sent.
    pub(crate) fn stored(&self) -> &[PackId] {
        &self.stored
    }
}

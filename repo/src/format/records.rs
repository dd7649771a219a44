//! The sealed records: sessions, outcomes, forgets, generations. Each field keeps its number for ever; new ones are
//! optional, unknown ones are skipped.

use super::Fields;
use crate::crypto::{self, Secret};
use crate::id::{ChunkId, PackId, RepositoryId, SessionId, ShortId, SnapshotId, VolumeId};
use crate::storage::Key;
use crate::{Error, Result, Timestamp};
use minicbor::{Decode, Encode};
use std::collections::{BTreeMap, HashSet};

const MAGIC: &[u8; 8] = b"WHRYREC1";

/// What a record is; part of what its seal binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `sess/../open`
    Open = 1,
    /// `sess/../seen-n`
    Seen = 2,
    /// `sess/../beat`, `gc/lead/..`
    Beat = 3,
    /// `idx/..`
    Segment = 4,
    /// `snap/..`
    Outcome = 5,
    /// `forget/..-asked`
    Asked = 6,
    /// `forget/..-settled`
    Settled = 7,
    /// `gc/gen/n`
    Generation = 8,
    /// `gc/gen/n-sealed`
    Sweep = 9,
    /// `pin/..-pinned`
    Pinned = 10,
    /// `pin/..-unpinned`
    Unpinned = 11,
    /// `checked/packs/..`
    Readings = 12,
    /// `checked/snaps/..`
    States = 13,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SessionKind {
    /// Writes a snapshot.
    #[n(0)]
    Write,
    /// Reads one (mount, long restore): pins its parent, is not waited for.
    #[n(1)]
    Read,
}

/// The process that runs a session, so that another one on the same machine can tell that it is dead.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Process {
    /// Host name, for people.
    #[n(0)]
    pub host: String,
    /// Identity of the machine and its boot; empty when it cannot be known.
    #[n(1)]
    pub boot: String,
    /// Process id.
    #[n(2)]
    pub pid: u32,
    /// When the process started, in clock ticks since boot: tells a reused pid.
    #[n(3)]
    pub start: u64,
}

/// `sess/<sid>/open`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionOpen {
    /// What for.
    #[n(0)]
    pub kind: SessionKind,
    /// The volume that is written or read.
    #[n(1)]
    pub volume: VolumeId,
    /// Its name.
    #[n(2)]
    pub name: String,
    /// The snapshot this session builds on or reads: a root for collectors until the session has an outcome.
    #[n(3)]
    pub parent: Option<SnapshotId>,
    /// Dead sessions whose packs this one may use.
    #[n(4)]
    pub adopts: Vec<SessionId>,
    /// Who runs it.
    #[n(5)]
    pub process: Process,
    /// When it began.
    #[n(6)]
    pub started: Timestamp,
    /// Tells an own record from another's.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// `sess/<sid>/seen-<n>`: every list up to generation n is barred in this session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Seen {
    /// The newest generation read.
    #[n(0)]
    pub generation: u32,
    /// The volume that is written: where a repair creates the Fence of a session whose `open` nobody can read (M6 of
    /// `docs/concurrency.md`). Earlier builds did not say it.
    #[n(1)]
    pub volume: Option<VolumeId>,
}

/// `sess/<sid>/beat`: overwritten now and then; only its age matters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Beat {
    /// When, by the writer's clock.
    #[n(0)]
    pub at: Timestamp,
}

/// What a run did, in bytes of the volume unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Stats {
    /// Read from the source.
    #[n(0)]
    pub read: u64,
    /// Not allocated in the source, so not read.
    #[n(1)]
    pub hole: u64,
    /// Read and found to be zero.
    #[n(2)]
    pub zero: u64,
    /// Equal to the parent at the same place.
    #[n(3)]
    pub unchanged: u64,
    /// Found elsewhere in the repository.
    #[n(4)]
    pub known: u64,
    /// Stored by this run.
    #[n(5)]
    pub new: u64,
    /// Bytes of data packs written.
    #[n(6)]
    pub stored: u64,
    /// Bytes of all other objects of the run but this record itself; see [`Snapshot::metadata`](crate::Snapshot::metadata).
    #[n(7)]
    pub metadata: u64,
}

/// The sealed content of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SnapshotRecord {
    /// Name of the volume.
    #[n(0)]
    pub name: String,
    /// Size of the volume in bytes.
    #[n(1)]
    pub size: u64,
    /// Size class: log2 of the chunk size.
    #[n(2)]
    pub class: u8,
    /// Levels of the map.
    #[n(3)]
    pub levels: u8,
    /// Digest of the whole disk.
    #[n(4)]
    pub root: ChunkId,
    /// The encoded top node; empty when the whole disk is zero.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub top: Vec<u8>,
    /// Chunks that are not zero.
    #[n(6)]
    pub chunks: u64,
    /// The snapshot this one was built on.
    #[n(7)]
    pub parent: Option<SnapshotId>,
    /// Labels a user gave.
    #[n(8)]
    pub tags: BTreeMap<String, String>,
    /// When reading began: the snapshot's time.
    #[n(9)]
    pub started: Timestamp,
    /// When it was committed.
    #[n(10)]
    pub ended: Timestamp,
    /// Host it was made on.
    #[n(11)]
    pub host: String,
    /// What was read.
    #[n(12)]
    pub source: String,
    /// The run, as in its log lines.
    #[n(13)]
    pub run: String,
    /// Block engine that read it.
    #[n(14)]
    pub engine: String,
    /// True when some data could not be read.
    #[n(15)]
    pub partial: bool,
    /// True when packs of a dead session were adopted.
    #[n(16)]
    pub resumed: bool,
    /// What the run did.
    #[n(17)]
    pub stats: Stats,
    /// Version of wherry that wrote it.
    #[n(18)]
    pub version: String,
    /// Tells an own record from another's.
    #[cbor(n(19), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// What a tree has besides; `None`: it is the snapshot of a volume.
    #[n(20)]
    pub tree: Option<TreeInfo>,
    /// What it is a copy of; `None`: of nothing.
    #[n(21)]
    pub origin: Option<Origin>,
}

/// The snapshot that was made first, of those of several repositories that hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub struct Origin {
    /// Where it was made.
    #[n(0)]
    pub repository: RepositoryId,
    /// Its id there.
    #[n(1)]
    pub snapshot: SnapshotId,
}

/// The snapshot of a directory, in numbers: what is to be known of it without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TreeInfo {
    /// Regular files.
    #[n(0)]
    pub files: u64,
    /// Directories, the root included.
    #[n(1)]
    pub folders: u64,
    /// Everything else.
    #[n(2)]
    pub others: u64,
    /// Entries that could not be looked at or read, the root counted.
    #[n(3)]
    pub missing: u64,
    /// The first of them, at most [`MOST_MISSING`](Self::MOST_MISSING), whose paths have [`MOST_BYTES`](Self::MOST_BYTES)
    /// together.
    #[n(4)]
    pub first_missing: Vec<MissingPath>,
    /// Files that changed each time they were read.
    #[n(5)]
    pub unsettled: u64,
    /// Kind of filesystem the root is on, as the kernel names it.
    #[n(6)]
    pub filesystem: String,
    /// What was left out, as it was asked for; at most [`MOST_BYTES`](Self::MOST_BYTES) together.
    #[n(7)]
    pub excluded: Vec<String>,
    /// Shared chunks of which it uses less than a quarter, at most [`MOST_THIN`](Self::MOST_THIN).
    #[n(8)]
    pub thin: Vec<ShortId>,
}

/// A path that is missing in a tree, and why.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MissingPath {
    /// From the root, without a slash before it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// An error number of Linux.
    #[n(1)]
    pub errno: u32,
}

impl TreeInfo {
    /// Paths that are named at most.
    pub const MOST_MISSING: usize = 100;
    /// Bytes of all paths, and of all that was left out.
    pub const MOST_BYTES: usize = 64 << 10;
    /// Thin chunks that are named at most.
    pub const MOST_THIN: usize = 4096;

    /// What keeps it from being as the format says.
    pub fn fault(&self) -> Option<&'static str> {
        let paths: usize = self.first_missing.iter().map(|missing| missing.path.len()).sum();
        let excluded: usize = self.excluded.iter().map(String::len).sum();
        if self.first_missing.len() > Self::MOST_MISSING || paths > Self::MOST_BYTES {
            Some("it names too much that is missing")
        } else if self.first_missing.iter().any(|missing| missing.errno == 0) {
            Some("a path is missing for no reason")
        } else if excluded > Self::MOST_BYTES {
            Some("it names too much that was left out")
        } else if self.thin.len() > Self::MOST_THIN {
            Some("it names too many thin chunks")
        } else {
            None
        }
    }
}

impl SnapshotRecord {
    /// What keeps it from being as the format says, as far as the record alone shows.
    pub fn fault(&self) -> Option<&'static str> {
        let tree = self.tree.as_ref()?;
        if (self.class, self.levels, self.chunks) != (0, 0, 0) {
            return Some("a tree has no chunks of its own");
        }
        tree.fault()
    }
}

/// `snap/<vid>/<sid>`: what became of a session, once and for ever.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// It will never commit.
    #[n(0)]
    Fence(#[n(0)] Fence),
    /// It committed.
    #[n(1)]
    Snapshot(#[n(0)] Box<SnapshotRecord>),
}

/// Why a session was ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Fence {
    /// For people.
    #[n(0)]
    pub reason: String,
    /// When.
    #[n(1)]
    pub at: Timestamp,
    /// Tells an own record from another's.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// `forget/<sid>/<k>-asked`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Asked {
    /// When it was asked.
    #[n(0)]
    pub at: Timestamp,
    /// The moment it may become final as the clock of whoever asked has it. What counts is how long that is after `at`: collectors leave
    /// the snapshot alone for so long after the record came, by the storage's clock.
    #[n(1)]
    pub not_before: Timestamp,
    /// For people.
    #[n(2)]
    pub reason: String,
    /// Tells an own record from another's.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// What became of a forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Verdict {
    /// Taken back: the snapshot stays.
    #[n(0)]
    Undone,
    /// The snapshot is gone.
    #[n(1)]
    Final,
}

/// `forget/<sid>/<k>-settled`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Settled {
    /// Which of the two.
    #[n(0)]
    pub verdict: Verdict,
    /// When.
    #[n(1)]
    pub at: Timestamp,
    /// Tells an own record from another's.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// `pin/<sid>/<k>-pinned`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pinned {
    /// When.
    #[n(0)]
    pub at: Timestamp,
    /// Tells an own record from another's.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// `pin/<sid>/<k>-unpinned`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Unpinned {
    /// When.
    #[n(0)]
    pub at: Timestamp,
    /// Tells an own record from another's.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// `gc/gen/<n>`: packs no session may hit any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Generation {
    /// The condemned packs.
    #[n(0)]
    pub condemned: Vec<PackId>,
    /// Snapshots that were roots of the mark.
    #[n(1)]
    pub roots: Vec<SnapshotId>,
    /// Snapshots whose records may go with the sweep.
    #[n(2)]
    pub dead: Vec<SnapshotId>,
    /// Tells an own record from another's.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// What was copied out of condemned packs before they were condemned.
    #[cbor(n(4), default)]
    pub moved: Vec<Moved>,
}

/// The chunks of one condemned pack that are in another pack too.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Moved {
    /// The pack; one of the condemned.
    #[n(0)]
    pub pack: PackId,
    /// One bit for each chunk, by its place in the pack, lowest bit first; the last byte is not zero.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub places: Vec<u8>,
}

impl Moved {
    /// Whether the chunk at this place, counted from 0, was copied.
    pub fn holds(&self, place: u32) -> bool {
        self.places.get(place as usize / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
    }
}

impl Generation {
    /// What keeps it from being as the format says.
    fn fault(&self) -> Option<&'static str> {
        let condemned: HashSet<&PackId> = self.condemned.iter().collect();
        if !self.moved.is_sorted_by(|a, b| a.pack < b.pack) {
            Some("packs whose chunks were moved are not in order")
        } else if self.moved.iter().any(|moved| !condemned.contains(&moved.pack)) {
            Some("chunks were moved out of a pack that is not condemned")
        } else if self.moved.iter().any(|moved| moved.places.last().is_none_or(|last| *last == 0)) {
            Some("chunks were moved, but which is not said as it should be")
        } else {
            None
        }
    }
}

/// `gc/gen/<n>-sealed`: the packs that will be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Sweep {
    /// The packs.
    #[n(0)]
    pub packs: Vec<PackId>,
    /// Tells an own record from another's.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// A record with a CBOR body.
pub trait Record: Encode<()> + for<'b> Decode<'b, ()> {
    /// Which kind of object it is.
    const KIND: Kind;

    /// What keeps it from being as the format says, where the types allow more.
    fn fault(&self) -> Option<&'static str> {
        None
    }
}

macro_rules! record {
    ($($type:ty => $kind:ident),*) => { $(impl Record for $type { const KIND: Kind = Kind::$kind; })* };
}
record!(SessionOpen => Open, Seen => Seen, Beat => Beat, Asked => Asked, Settled => Settled, Sweep => Sweep,
    Pinned => Pinned, Unpinned => Unpinned);

impl Record for Generation {
    const KIND: Kind = Kind::Generation;

    fn fault(&self) -> Option<&'static str> {
        self.fault()
    }
}

impl Record for Outcome {
    const KIND: Kind = Kind::Outcome;

    fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Snapshot(record) => record.fault(),
            Self::Fence(_) => None,
        }
    }
}

/// The CBOR body of a record.
pub fn encode<T: Record>(record: &T) -> Result<Vec<u8>> {
    if let Some(why) = record.fault() {
        return Err(Error::internal(format!("a record was not encoded: {why}")));
    }
    minicbor::to_vec(record).map_err(|e| Error::internal(format!("a record was not encoded: {e}")))
}

/// The reverse of [`encode`].
pub fn decode<T: Record>(body: &[u8]) -> Result<T> {
    let mut decoder = minicbor::Decoder::new(body);
    let damaged = |why: String| Error::corrupt(format!("a record is damaged: {why}"));
    let record: T = decoder.decode().map_err(|e| damaged(e.to_string()))?;
    if let Some(why) = record.fault() {
        return Err(damaged(why.into()));
    }
    if decoder.position() == body.len() { Ok(record) } else { Err(damaged("bytes follow its end".into())) }
}

fn context(kind: Kind, repository: &RepositoryId, key: &Key) -> Vec<u8> {
    [&[kind as u8][..], repository.bytes(), key.as_str().as_bytes()].concat()
}

/// A body, framed and sealed for its place.
pub(crate) fn seal(base: &Secret, kind: Kind, repository: &RepositoryId, key: &Key, body: &[u8]) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&[kind as u8, 1, 0, 0]);
    out.extend(crypto::seal(base, &context(kind, repository, key), body)?);
    Ok(out)
}

/// The reverse of [`seal`].
pub(crate) fn open(base: &Secret, kind: Kind, repository: &RepositoryId, key: &Key, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut f = Fields::new("a record", bytes);
    let head: [u8; 12] = f.array().map_err(|e| e.with_object(key))?;
    if head[..8] != *MAGIC || head[8] != kind as u8 || head[9..] != [1, 0, 0] {
        return Err(f.bad("its head is not what belongs there").with_object(key));
    }
    crypto::open(base, &context(kind, repository, key), f.take(f.remaining())?)
        .ok_or_else(|| f.bad("its seal does not fit").with_object(key))
}

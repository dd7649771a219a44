//! The sealed records: sessions, outcomes, forgets, generations. Each field keeps its number for ever; new ones are
//! optional, unknown ones are skipped.

use super::Fields;
use crate::crypto::{self, Secret};
use crate::id::{ChunkId, PackId, RepositoryId, SessionId, SnapshotId, VolumeId};
use crate::storage::Key;
use crate::{Error, Result, Timestamp};
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;

const MAGIC: &[u8; 8] = b"WHRYREC1";

/// What a record is; part of what its seal binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `sess/../open`
    Open = 1,
    /// `sess/../seen-n`
    Seen = 2,
    /// `sess/../beat`
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
    /// Collectors leave the snapshot alone before this moment.
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
}

macro_rules! record {
    ($($type:ty => $kind:ident),*) => { $(impl Record for $type { const KIND: Kind = Kind::$kind; })* };
}
record!(SessionOpen => Open, Seen => Seen, Beat => Beat, Outcome => Outcome, Asked => Asked, Settled => Settled,
    Generation => Generation, Sweep => Sweep);

/// The CBOR body of a record.
pub fn encode<T: Record>(record: &T) -> Result<Vec<u8>> {
    minicbor::to_vec(record).map_err(|e| Error::internal(format!("a record was not encoded: {e}")))
}

/// The reverse of [`encode`].
pub fn decode<T: Record>(body: &[u8]) -> Result<T> {
    let mut decoder = minicbor::Decoder::new(body);
    let damaged = |why: String| Error::corrupt(format!("a record is damaged: {why}"));
    let record = decoder.decode().map_err(|e| damaged(e.to_string()))?;
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

//! The wherry repository: content-addressed, compressed, encrypted chunks in packs on object storage, snapshots of
//! volumes as Merkle maps over them, and the protocol that lets many writers and collectors work without locks.
//!
//! The bytes of every object are in `docs/format.md`, the rules of sessions, commit and collection in
//! `docs/concurrency.md`.
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("wherry has not been tried on big-endian machines: golden repositories must pass there first");

pub mod bench;
mod check;
pub mod clock;
mod codec;
mod collect;
mod copy;
mod crypto;
#[doc(hidden)]
pub mod decoders;
mod elsewhere;
mod error;
mod features;
pub mod forget;
pub mod format;
pub mod heal;
pub mod id;
pub mod index;
mod index_sync;
mod keys;
mod map;
mod newest;
mod pack;
mod pin;
mod process;
mod reader;
mod repair;
mod repository;
mod sealer;
mod session;
mod side;
pub mod storage;
#[cfg(test)]
mod testing;
mod tree;
mod turn;
mod writer;

pub use check::{
    CheckOptions, CheckReport, CheckStep, Copies, Damage, DamageKind, Hit, LostPath, NotRead, NotReadReason, ReadData,
    Wanted, Watch,
};
pub use clock::{Clock, Rng, System, Timestamp};
pub use codec::Compression;
pub use collect::{CollectOptions, CollectStep, CollectWatch, Collected, Packed, Waiting};
pub use copy::{Base, CopyOptions, CopyPlan, CopyWatch, SnapshotCopy};
pub use error::{Error, ErrorKind, Result};
pub use format::checked::Checked;
pub use format::records::{MissingPath, Origin, SnapshotRecord, Stats, TreeInfo};
pub use heal::{Candidate, Heal, HealOptions, HealWatch, Healed, NodeHeal};
pub use id::*;
pub use index_sync::Synced;
pub use keys::{Credential, MIN_KEY_FILE, PasswordCost, Rotated, SlotInfo};
pub use newest::{Made, Newest};
pub use process::host_name;
pub use reader::{ChunkReader, ChunkRef, Fetch, SnapshotReader, Verified};
pub use repair::{LostSession, Rebuilt};
pub use repository::{
    Components, DEFAULT_CHUNK_SIZE, InitOptions, Repository, Snapshot, SnapshotList, class_of, newest_config,
    no_repository, presumed_config,
};
pub use session::{ParentChoice, ReadSession};
pub use side::as_here;
pub use storage::{Key, Storage};
pub use tree::{
    Cutter, Entries, FolderBuilder, ImageWriter, Kept, ListBuilder, Missing, Part, PieceSet, Pieces, Span, TreeReader,
    TreeWriter,
};
pub use turn::Turn;
#[doc(hidden)]
pub use writer::MadeDisk;
pub use writer::{CommitInfo, Copied, Pulse, Put, Scratch, SnapshotWriter, WriterOptions};

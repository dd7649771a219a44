//! The wherry repository: content-addressed, compressed, encrypted chunks in packs on object storage, snapshots of
//! volumes as Merkle maps over them, and the protocol that lets many writers and collectors work without locks.
//!
//! The bytes of every object are in `docs/format.md`, the rules of sessions, commit and collection in
//! `docs/concurrency.md`.
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("wherry has not been tried on big-endian machines: golden repositories must pass there first");

pub mod clock;
mod error;
pub mod id;
pub mod index;
pub mod storage;

pub use clock::{Clock, Rng, System, Timestamp};
pub use error::{Error, ErrorKind, Result};
pub use id::*;
pub use storage::{Key, Storage};

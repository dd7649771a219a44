//! Block devices, image files and standard input for wherry: read with a deep queue, written out of order, both past the
//! page cache.
//!
//! A [`Source`] hands out the bytes of a volume through a [`Reader`]; a [`Sink`] takes the bytes of a restored volume.
//! Every byte travels in a [`Buffer`] of one [`BufferPool`], which is the memory budget: reads stop when the pool is
//! empty and go on when a buffer comes back. Nothing is copied and nothing is allocated per read or write.
//!
//! Two engines of equal rank carry the transfers out: `ring` (io_uring, one thread per ring) and `threads` (as many
//! threads as the queue is deep). They share everything above the single transfer: what is asked for ([`Source`],
//! [`Sink`]) and how an answer is judged (`request.rs`), so they differ in speed only. See [`Engine`].
//!
//! Small files of directories are opened and read over rings too, each of one thread that waits for all of a batch
//! ([`FileRing`]).
//!
//! This is the only crate of the workspace that holds unsafe code: the mapping of the pool (`buffer.rs`), what is handed
//! to the kernel (`ring.rs`, `files.rs`), two ioctls (`zero.rs`, `loops.rs`) and two system calls that no crate has yet
//! (`xattr.rs`).
#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod buffer;
#[doc(hidden)]
pub mod decoders;
mod disk;
mod engine;
mod error;
mod extents;
mod files;
mod geometry;
mod loops;
mod mounts;
mod pieces;
mod reader;
mod request;
mod ring;
mod sink;
mod source;
mod stream;
mod sysfs;
mod target;
mod threads;
mod wake;
mod xattr;
mod zero;

pub use buffer::{Buffer, BufferPool};
pub use disk::disk_identity;
pub use engine::{Cause, Engine, EngineInfo};
pub use error::{Error, Result};
pub use extents::Extents;
pub use files::{FileRing, ToOpen, file_engine};
pub use geometry::{Geometry, Identity, Kind, reads_from_memory};
pub use reader::{ReadDone, Reader};
pub use sink::{Sink, SinkOptions};
pub use source::{MountedSource, Source};
pub use target::{TargetKind, TargetState, inspect_target, look_at_places, not_a_device};
pub use xattr::{get_xattr, list_xattr};

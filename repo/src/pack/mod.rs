//! Packs: the objects that hold chunks and map nodes. Layout: `docs/format.md`, section "Pack".

mod builder;
mod pool;
mod reader;

pub(crate) use builder::{OpenPack, Piece, SealedPack};
pub(crate) use pool::PackPool;
pub(crate) use reader::{KeyCache, Opener, read_index};

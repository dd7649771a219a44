//! Packs: the objects that hold chunks and map nodes. Layout: `docs/format.md`, section "Pack".

mod builder;
mod pool;
mod reader;

pub(crate) use builder::{OpenPack, Piece, SealedPack};
pub(crate) use pool::PackPool;
pub(crate) use reader::{KeyCache, open_chunk, open_node, open_packed, open_tree_node, read_index};

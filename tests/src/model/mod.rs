//! A model of the whole repository: random histories are played on the real one and on a plain reference in memory, and
//! after every step the two must say the same.
//!
//! What the reference knows beside the disks themselves comes from what the storage saw ([`crate::witness`]): which packs
//! a snapshot needs, in which order objects came to be. So the rules of `repo/docs/concurrency.md` are checked too: what
//! a snapshot refers to was stored before it (C1), was there when its session began (W8), and is not condemned by a list
//! that the session had read unless it is the parent's (D1, D2).

mod backup;
mod cases;
mod disk;
mod events;
mod judge;
mod ops;
mod start;
mod verify;
mod world;

pub use cases::{CASES, Cases};
pub use ops::{History, histories};
pub use world::play;

//! Directories: walked, read, restored; and the trees of names that snapshots show.

mod ahead;
pub mod alike;
pub mod attributes;
pub mod backup;
pub mod compare;
pub mod dir;
pub mod exclude;
pub mod extents;
pub mod fetch;
pub mod filesystem;
pub mod first;
pub mod inode;
pub mod inside;
mod names;
pub mod owners;
pub mod path;
pub mod pax;
pub mod rehearse;
pub mod restore;
pub mod select;
pub mod view;
pub mod view_images;
pub mod view_tree;
pub mod walk;

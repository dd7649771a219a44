//! Restores of trees that are made up in memory, into real directories. Needs root, as the whole suite does.

mod faults;
mod feeder;
mod kinds;
mod lister;
mod nobody;
mod overwrite;
mod removal;

//! What happens beside a repository, or to it, while it is used: sectors that cannot be read, objects of strangers,
//! others who change the same thing, storages that fail in the middle.

#[path = "adverse/power.rs"]
mod power;
#[path = "adverse/sessions.rs"]
mod sessions;
#[path = "adverse/slots.rs"]
mod slots;
#[path = "adverse/strangers.rs"]
mod strangers;
#[path = "adverse/unreadable.rs"]
mod unreadable;

use wherry_repo::{Error, Key};
use wherry_tests::small::{UNIT, noise};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// So many chunks that do not compress, other ones for each seed.
fn disk(seed: u64, chunks: usize) -> Vec<u8> {
    noise(seed, chunks * UNIT)
}

/// The error of what must not succeed.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(e) => e,
    }
}

//! Does a storage keep the contract of [`Storage`]? The same checks run in our tests and, in short, as
//! `wherry probe` and before `init`. Everything is written below `probe/<random>/` and removed at the end.

mod checks;
mod race;

use super::{Key, Storage, keys};
use crate::clock::{Clock, Rng, System, random};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

pub use race::{body_of, race};

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rounds of racing creates with small bodies, and of listing what was just written.
    pub rounds: u32,
    /// Rounds of racing creates with large bodies.
    pub large_rounds: u32,
    /// Threads that race.
    pub racers: u32,
    /// Length in bytes of large bodies; all racers' bodies are in memory at once.
    pub large: usize,
    /// Objects to be listed in pages; 0 leaves this out.
    pub objects: u32,
}

impl Options {
    /// A few seconds, a few hundred small requests: for users.
    pub const SHORT: Self = Self { rounds: 4, large_rounds: 0, racers: 16, large: 1 << 20, objects: 0 };
    /// All of it.
    pub const FULL: Self = Self { rounds: 100, large_rounds: 10, racers: 16, large: 32 << 20, objects: 1100 };
}

/// What the repository needs a check for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Without it nothing works.
    Basic,
    /// Only one of those who create a key succeeds. Without it one process at a time may write.
    CreateIfAbsent,
    /// A listing shows all that was acknowledged before it began. Without it one process at a time may write.
    ListAfterWrite,
}

/// One check and its outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// A stable name.
    pub name: &'static str,
    /// What it is needed for.
    pub need: Need,
    /// Why it failed; nothing if it passed.
    pub failed: Option<String>,
}

/// All checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order they ran.
    pub checks: Vec<Check>,
}

impl Report {
    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.failed.is_some())
    }

    /// Whether all that falls under `need` was found.
    pub fn meets(&self, need: Need) -> bool {
        !self.failed().any(|check| check.need == need)
    }

    /// The storage can be used, if only by one process at a time.
    pub fn usable(&self) -> bool {
        self.meets(Need::Basic)
    }

    /// Many processes may write at once.
    pub fn many_writers(&self) -> bool {
        self.usable() && self.meets(Need::CreateIfAbsent) && self.meets(Need::ListAfterWrite)
    }
}

/// Runs the checks on two connections made by `open`. Fails if there is no storage to check, it cannot be reached, it
/// refuses these credentials or it is full: then nothing is known of it. What it does wrong is in the report.
pub fn run(open: &dyn Fn() -> Result<Arc<dyn Storage>>, options: &Options) -> Result<Report> {
    let system = System::default();
    let random = u64::from_le_bytes(random(&system as &dyn Rng)?);
    let place = Place::new(open()?, open()?, random, Box::new(system));
    let mut report = Report { checks: Vec::new() };
    for (name, need, check) in checks::ALL {
        let failed = match check(&place, options) {
            Err(error) if is_verdict(&error) => Some(error.to_string()),
            Err(error) => {
                // What does not answer is not waited for once more.
                if error.kind() != ErrorKind::Unavailable {
                    let _ = place.clean();
                }
                return Err(error.context(format!("check {name:?} of the storage could not be made")));
            }
            Ok(()) => None,
        };
        tracing::debug!(check = name, failed, "checked the storage");
        report.checks.push(Check { name, need: *need, failed });
    }
    let cleaned = place.clean().err().map(|error| error.to_string());
    report.checks.push(Check { name: "clean-up", need: Need::Basic, failed: cleaned });
    Ok(report)
}

/// Whether the error says what the storage is worth.
fn is_verdict(error: &Error) -> bool {
    use ErrorKind::{Denied, Full, NoRepository, Unavailable};
    !matches!(error.kind(), Denied | Full | NoRepository | Unavailable)
}

/// Two connections to one storage, and all keys that were made through them.
pub(crate) struct Place {
    a: Arc<dyn Storage>,
    b: Arc<dyn Storage>,
    random: u64,
    made: Mutex<Vec<Key>>,
    clock: Box<dyn Clock>,
}

impl Place {
    /// `random` sets the keys of this run apart from those of all others.
    pub(crate) fn new(a: Arc<dyn Storage>, b: Arc<dyn Storage>, random: u64, clock: Box<dyn Clock>) -> Self {
        Self { a, b, random, made: Mutex::default(), clock }
    }

    /// The prefix of all keys of this run.
    pub(crate) fn home(&self) -> String {
        format!("{}{:016x}/", keys::PROBE, self.random)
    }

    /// A key of this run; it is removed by [`Self::clean`].
    pub(crate) fn key(&self, name: &str) -> Result<Key> {
        let key = keys::probe(self.random, name)?;
        self.made.lock().push(key.clone());
        Ok(key)
    }

    /// The prefix of keys `<name>/...` of this run.
    fn prefix(&self, name: &str) -> Result<String> {
        Ok(format!("{}/", keys::probe(self.random, name)?))
    }

    /// Creates an object through the first connection.
    fn make(&self, name: &str, body: &'static [u8]) -> Result<Key> {
        let key = self.key(name)?;
        self.a.create(&key, Bytes::from_static(body))?;
        Ok(key)
    }

    /// What the second connection lists, sorted.
    fn list(&self, prefix: &str) -> Result<Vec<(Key, u64)>> {
        let mut found = Vec::new();
        self.b.list(prefix, &mut |listed| {
            found.push((listed.key, listed.size));
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    /// By name, and by listing: what a lagging list hides is removed, too.
    pub(crate) fn clean(&self) -> Result<()> {
        let mut all: BTreeSet<Key> = std::mem::take(&mut *self.made.lock()).into_iter().collect();
        all.extend(self.list(&self.home()).unwrap_or_default().into_iter().map(|(key, _)| key));
        all.iter().try_for_each(|key| self.a.delete(key))
    }
}

/// A check failed: the storage did not do what it should.
fn wrong(what: impl Into<String>) -> Error {
    Error::internal(what)
}

#[cfg(test)]
mod tests;

//! Invariant 3: a pack is deleted only if it is in a sealed delete set.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use wherry_repo::storage::{Key, Memory, Storage, keys};
use wherry_repo::{PackId, Repository, Timestamp};

/// Looks at every delete before it is done, past all that deceives who asks for it.
#[derive(Debug)]
pub(super) struct Deletes {
    repository: Repository,
    memory: Arc<Memory>,
    /// Delete sets that were read, by when they were made: a fault may make one again.
    sets: Mutex<BTreeMap<(u32, Timestamp), HashSet<PackId>>>,
    /// What must not be.
    wrong: Mutex<Vec<String>>,
}

impl Deletes {
    /// `repository` is in `memory`, and nobody has a say in its calls.
    pub(super) fn new(repository: Repository, memory: Arc<Memory>) -> Self {
        Self { repository, memory, sets: Mutex::default(), wrong: Mutex::default() }
    }

    /// An actor is about to delete an object.
    pub(super) fn asked(&self, actor: usize, key: &Key) {
        let Some(pack) = keys::parse_pack(key) else { return };
        if !self.is_sealed(&pack) {
            self.wrong.lock().push(format!("actor {actor} deletes {key}, which no sealed delete set names"));
        }
    }

    fn is_sealed(&self, pack: &PackId) -> bool {
        let mut sealed = Vec::new();
        let listed = self.memory.list(keys::GEN, &mut |object| {
            sealed.extend(keys::parse_generation(&object.key).filter(|(_, is)| *is).map(|(n, _)| (n, object.modified)));
            Ok(())
        });
        debug_assert!(listed.is_ok());
        let mut sets = self.sets.lock();
        // Mostly it is in one of the last.
        sealed.into_iter().rev().any(|(n, made)| {
            let read = || self.repository.sweep(n).map(|sweep| sweep.packs.into_iter().collect()).unwrap_or_default();
            sets.entry((n, made)).or_insert_with(read).contains(pack)
        })
    }

    pub(super) fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.wrong.lock())
    }
}

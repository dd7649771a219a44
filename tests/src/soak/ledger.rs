//! What was promised, and to whom.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// A snapshot that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) id: String,
    pub(super) volume: String,
    /// blake3 of the disk, as hex.
    pub(super) hash: String,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they were acknowledged.
    promises: Vec<Promise>,
    /// Somebody has begun to forget these: they may be gone, but what can be read of them is still right.
    doomed: BTreeSet<String>,
}

/// All promises.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

impl Ledger {
    pub(super) fn acknowledge(&self, promise: Promise) {
        self.0.lock().promises.push(promise);
    }

    /// To be called before the command that forgets is started.
    pub(super) fn doom(&self, id: &str) {
        self.0.lock().doomed.insert(id.to_owned());
    }

    /// After an acknowledged unforget.
    pub(super) fn save(&self, id: &str) {
        self.0.lock().doomed.remove(id);
    }

    pub(super) fn is_doomed(&self, id: &str) -> bool {
        self.0.lock().doomed.contains(id)
    }

    /// Those that must restore.
    pub(super) fn standing(&self) -> Vec<Promise> {
        let state = self.0.lock();
        state.promises.iter().filter(|promise| !state.doomed.contains(&promise.id)).cloned().collect()
    }

    /// Those that must restore, but for the newest `keep` of each volume.
    pub(super) fn older(&self, keep: usize) -> Vec<Promise> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut all = self.standing();
        all.reverse();
        all.retain(|promise| {
            let n = seen.entry(promise.volume.clone()).or_default();
            *n += 1;
            *n > keep
        });
        all
    }

    /// All that were ever acknowledged.
    pub(super) fn ever(&self) -> usize {
        self.0.lock().promises.len()
    }
}

//! What was promised, and to whom.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};

/// A snapshot that must restore: somebody was told of it, or it was found in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) id: String,
    pub(super) volume: String,
    /// blake3 of the disk, as hex.
    pub(super) hash: String,
    /// The run that made it.
    run: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Volume and hash of each run. Its snapshot has its number, so that it is known what should be in one of which nobody was told.
    runs: Vec<(String, String)>,
    /// In the order in which they became known.
    promises: Vec<Promise>,
    /// Somebody has begun to forget these: they may be gone, but what can be read of them is still right.
    doomed: BTreeSet<String>,
    /// These were read once at least, from one end to the other.
    restored: BTreeSet<String>,
}

/// All promises.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

impl Ledger {
    /// A run is about to back this up; its number.
    pub(super) fn begin(&self, volume: &str, hash: String) -> usize {
        let mut state = self.0.lock();
        state.runs.push((volume.to_owned(), hash));
        state.runs.len() - 1
    }

    /// There is a snapshot of a run; whether that is news. What cannot be is an error.
    pub(super) fn take(&self, id: &str, run: usize) -> Result<bool, String> {
        let mut state = self.0.lock();
        if let Some(known) = state.promises.iter().find(|promise| promise.id == id || promise.run == run) {
            let is_same = known.id == id && known.run == run;
            let text = || format!("snapshot {id} of run {run} beside snapshot {} of run {}", known.id, known.run);
            return if is_same { Ok(false) } else { Err(text()) };
        }
        let Some((volume, hash)) = state.runs.get(run).cloned() else {
            return Err(format!("snapshot {id} is of run {run}, which there was not"));
        };
        state.promises.push(Promise { id: id.to_owned(), volume, hash, run });
        Ok(true)
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

    /// It was read, and is what it was.
    pub(super) fn restored(&self, id: &str) {
        self.0.lock().restored.insert(id.to_owned());
    }

    /// Those that must restore, and those that somebody has begun to forget.
    pub(super) fn all(&self) -> (Vec<Promise>, Vec<Promise>) {
        let state = self.0.lock();
        state.promises.iter().cloned().partition(|promise| !state.doomed.contains(&promise.id))
    }

    /// Those that must restore.
    pub(super) fn standing(&self) -> Vec<Promise> {
        self.all().0
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

    /// How many there ever were, and how many of them were read once at least.
    pub(super) fn ever(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.promises.len() as u64, state.restored.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_snapshot_and_a_snapshot_one_run() {
        let ledger = Ledger::default();
        let (one, other) = (ledger.begin("a", "1".into()), ledger.begin("b", "2".into()));
        assert_eq!(ledger.take("x", one), Ok(true));
        assert_eq!(ledger.take("x", one), Ok(false), "who made it and who found it may both tell of it");
        assert!(ledger.take("y", one).is_err() && ledger.take("x", other).is_err() && ledger.take("z", 2).is_err());
        assert_eq!(ledger.take("y", other), Ok(true));
        assert_eq!(ledger.standing().iter().map(|p| p.hash.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        ledger.doom("x");
        ledger.restored("x");
        ledger.restored("x");
        assert_eq!((ledger.all().1.len(), ledger.ever()), (1, (2, 1)));
    }
}

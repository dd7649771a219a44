//! Which hard cases were reached.

use std::collections::BTreeMap;

/// Each of these must come up in a run, or it proves little.
pub const CASES: [&str; 44] = [
    "a node was taken over from the parent",
    "a last chunk was not whole",
    "a list ended a run",
    "a list let a run go on",
    "a lost index was rebuilt from segments",
    "a lost index was rebuilt from trailers",
    "a lost index was rebuilt without all segments",
    "a lost index was replaced by an empty one",
    "a lost reply of the commit",
    "a lost map was found elsewhere",
    "a map of several levels",
    "a map of three levels",
    "a pack was deleted as a collector does",
    "a parent was lost in the midst of opening",
    "a removed way in was refused",
    "a run failed",
    "a run that was taken for dead was refused",
    "a silent run was adopted",
    "a run that a list had ended was adopted",
    "a run that was given up was adopted",
    "a snapshot with a lost pack was read",
    "all that was lost was found elsewhere",
    "all that was lost was found elsewhere after long",
    "an unread chunk was lost and had to be read",
    "barred and stored anew",
    "forgotten for good",
    "known from a run that was given up",
    "known without a parent",
    "lost and stored anew",
    "one content under another name",
    "other chunk size than the parent",
    "runs taken over unread",
    "the clock went back",
    "the disk became empty",
    "the disk came back",
    "the disk grew",
    "the disk shrank",
    "the index had foreign rows",
    "the index was on disk",
    "the same disk gave the same root",
    "too late to unforget",
    "two runs at once on one volume",
    "two runs at once on two volumes",
    "unforgotten",
];

/// How often each was reached.
#[derive(Clone, Debug, Default)]
pub struct Cases(BTreeMap<&'static str, u64>);

impl Cases {
    pub(super) fn add(&mut self, case: &'static str) {
        assert!(CASES.contains(&case), "{case} is not listed");
        *self.0.entry(case).or_default() += 1;
    }

    /// Adds those of another history.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(case, n)| *self.0.entry(case).or_default() += n);
    }

    /// How often this one was reached.
    pub fn count(&self, case: &str) -> u64 {
        self.0.get(case).copied().unwrap_or_default()
    }
}

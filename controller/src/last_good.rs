//! Of each PVC how its newest DataUpload ended, and how long ago the last good one was: one volume that completes each night hides
//! no other. Pure.

use crate::admission::Work;
use crate::known::Known;
use std::collections::BTreeMap;
use wherry_api::{Phase, Time};

/// What there is to say of all PVCs that have DataUploads. When they ended is `status.completionTimestamp`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LastGood {
    /// PVCs whose newest DataUpload that ended was not Completed, whoever canceled it: Velero after its timeout, each night, or a
    /// human once. Either way that backup is not there, and the next one that completes ends it; of a PVC that was deleted, the end of
    /// that backup.
    pub(crate) failing: usize,
    /// The oldest last good one.
    pub(crate) all: Option<Time>,
    /// The oldest of those PVCs that were tried again since, without success as yet. A PVC that was deleted, or is in no schedule any
    /// more, is none of them, unless it was tried in vain before: its last good one gets older for as long as Velero keeps it, and nothing is wrong.
    pub(crate) tried: Option<Time>,
}

/// A PVC.
#[derive(Debug, Default)]
struct Volume {
    /// The newest that ended, and whether it was Completed: of two in the same second the good one.
    newest: Option<(Time, bool)>,
    /// When the newest Completed one ended.
    completed: Option<Time>,
    /// Creation of the oldest one that is there.
    first: Option<Time>,
    /// Creation of the newest one that is not Completed.
    tried: Option<Time>,
}

impl LastGood {
    /// Of all CRs of ours that there are.
    pub(crate) fn of<'a>(ours: impl Iterator<Item = &'a Known>) -> Self {
        let mut volumes: BTreeMap<(&str, &str), Volume> = BTreeMap::new();
        // Of one that cannot be read nobody knows which PVC it is of.
        for known in ours.filter(|known| known.work == Work::Backup && known.readable) {
            let volume = volumes.entry((known.source.0.as_str(), known.source.1.as_str())).or_default();
            let good = known.phase == Phase::Completed;
            if let Some(ended) = known.ended.filter(|_| known.phase.is_terminal()) {
                volume.newest = volume.newest.max(Some((ended, good)));
                volume.completed = volume.completed.max(Some(ended).filter(|_| good));
            }
            volume.first = volume.first.into_iter().chain(known.created).min();
            volume.tried = volume.tried.max(known.created.filter(|_| !good));
        }
        let mut this = Self::default();
        for Volume { newest, completed, first, tried } in volumes.into_values() {
            this.failing += usize::from(newest.is_some_and(|(_, good)| !good));
            // Of one that never was good: not before it was tried for the first time.
            let Some(last) = completed.or(first) else { continue };
            this.all = this.all.into_iter().chain([last]).min();
            if tried.is_some_and(|tried| tried >= last) {
                this.tried = this.tried.into_iter().chain([last]).min();
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wherry_api::Settings;
    use wherry_api::api::Kind;

    /// PVC, phase, when it was created, when it ended (0: it has not).
    type Upload = (&'static str, &'static str, i64, i64);

    #[track_caller]
    fn assert_is(uploads: &[Upload], failing: usize, all: i64, tried: i64) {
        let limits = crate::reconcile::Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let known = |(pvc, phase, created, ended): &Upload| {
            let object = json!({
                "metadata": { "name": "u", "uid": "u", "creationTimestamp": Time(*created) },
                "spec": { "datamover": "wherry", "sourceNamespace": "app", "sourcePVC": pvc },
                "status": { "phase": phase, "completionTimestamp": (*ended > 0).then_some(Time(*ended)) },
            });
            let mut known = Known::of(Kind::DataUpload, object);
            known.judge(&limits);
            assert!(known.readable, "{pvc} {phase}");
            known
        };
        let time = |at: i64| (at > 0).then_some(Time(at));
        // Whatever comes first.
        for turned in [false, true] {
            let mut known: Vec<Known> = uploads.iter().map(known).collect();
            if turned {
                known.reverse();
            }
            let wanted = LastGood { failing, all: time(all), tried: time(tried) };
            assert_eq!(LastGood::of(known.iter()), wanted, "{uploads:?}");
        }
    }

    #[test]
    fn one_that_completes_hides_no_other() {
        assert_is(&[], 0, 0, 0);
        let small = ("small", "Completed", 900, 910);
        // Canceled each night, by Velero after its timeout.
        let nights =
            [("large", "Completed", 100, 140), ("large", "Canceled", 200, 250), ("large", "Canceled", 300, 350)];
        assert_is(&[&nights[..], &[small]].concat(), 1, 140, 140);
        // Never good at all.
        assert_is(&[nights[1], nights[2], small], 1, 200, 200);
        // It hangs: it has not ended, and so does not fail.
        assert_is(&[nights[0], ("large", "InProgress", 200, 0), small], 0, 140, 140);
        // The one that is good ends it.
        assert_is(&[&nights[..], &[("large", "Completed", 400, 450), small]].concat(), 0, 450, 0);
    }

    #[test]
    fn the_newest_that_ended_says_whether_it_fails() {
        assert_is(&[("a", "Completed", 10, 20), ("a", "Failed", 30, 40)], 1, 20, 20);
        assert_is(&[("a", "Failed", 10, 20), ("a", "Completed", 30, 40)], 0, 40, 0);
        // Canceled once by a human: the newest backup of it did not complete.
        assert_is(&[("a", "Completed", 10, 20), ("a", "Canceled", 30, 40)], 1, 20, 20);
        // Two at once: the good one has ended later, or in the same second.
        assert_is(&[("a", "Completed", 10, 50), ("a", "Canceled", 20, 40)], 0, 50, 0);
        assert_is(&[("a", "Completed", 10, 40), ("a", "Failed", 10, 40)], 0, 40, 0);
    }

    /// Deleted, or taken out of the schedule: its backups stay as long as Velero keeps them.
    #[test]
    fn one_that_nobody_tries_any_more_is_old_and_no_more() {
        assert_is(&[("gone", "Completed", 10, 20), ("a", "Completed", 900, 910)], 0, 20, 0);
        assert_is(&[("gone", "Completed", 10, 20), ("a", "Completed", 800, 810), ("a", "New", 900, 0)], 0, 20, 810);
    }
}

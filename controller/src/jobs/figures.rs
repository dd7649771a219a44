//! What Jobs came to, as plain numbers: for metrics.

use super::decide::{View, all_overdue, failing};
use std::collections::BTreeMap;
use wherry_api::job::{JobKind, State};
use wherry_api::metrics::{DELETED_BYTES, FORGETTING_HELD, GC_OVERDUE, JOBS_FAILING, LAST_GC, LIVE_BYTES, Registry};
use wherry_api::{Settings, Time};

/// All of them. Counters are of this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Jobs that were made.
    pub made: u64,
    /// Jobs that ended and came to nothing: failed, refused, or on hold.
    pub unsuccessful: u64,
    /// Repositories whose newest Job of a kind failed or was refused.
    pub failing: BTreeMap<JobKind, usize>,
    /// By BackupStorageLocation.
    pub locations: BTreeMap<String, OfLocation>,
}

/// Of one location with a repository, by the newest results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfLocation {
    /// Nothing is forgotten, as too many backups are missing.
    pub on_hold: bool,
    /// Backups that are missing.
    pub missing: u64,
    /// Of them, those for which a human's word is wanted.
    pub held: u64,
    /// Snapshots whose backup is missing, and which wait.
    pub waiting: u64,
    /// When a Job that forgets succeeded last.
    pub forgot: Option<Time>,
    /// When a gc succeeded last.
    pub collected: Option<Time>,
    /// No gc of its repository has succeeded for too long. Of several locations of one repository that is said of one.
    pub gc_overdue: bool,
    /// Size of the packs that the newest gc left that this process has seen succeed, in bytes.
    pub live_bytes: u64,
    /// Size of the packs that it deleted, in bytes.
    pub deleted_bytes: u64,
}

impl Figures {
    /// Takes over what is seen.
    pub(super) fn take(&mut self, view: &View, settings: &Settings) {
        let overdue = all_overdue(view, settings);
        let before = std::mem::take(&mut self.locations);
        let of = |location: &super::decide::Location| {
            let result = |kind| location.results.get(&kind);
            let forget = result(JobKind::Forget);
            let forgetting = forget.and_then(|result| result.forgetting.clone()).unwrap_or_default();
            let collecting = result(JobKind::Gc).and_then(|result| result.collecting.clone());
            // One that failed left what the one before had left, and so did one that only waited.
            let left = || before.get(&location.name).map_or(0, |of| of.live_bytes);
            OfLocation {
                on_hold: forget.is_some_and(|result| result.state == State::OnHold),
                missing: forgetting.missing.len() as u64,
                held: forgetting.held,
                waiting: forgetting.waiting,
                forgot: forget.and_then(|result| result.last_done),
                collected: result(JobKind::Gc).and_then(|result| result.last_done),
                gc_overdue: overdue.contains(location.name.as_str()),
                live_bytes: collecting.as_ref().and_then(|of| of.live_bytes).unwrap_or_else(left),
                deleted_bytes: collecting.map_or(0, |of| of.deleted_bytes),
            }
        };
        let known = view.locations.iter().filter(|location| location.repository.is_some());
        self.failing = JobKind::ALL.into_iter().map(|kind| (kind, failing(view, kind))).collect();
        self.locations = known.map(|location| (location.name.clone(), of(location))).collect();
    }

    /// What of it is served.
    pub(super) fn tell(&self, registry: &Registry) {
        let held: u64 = self.locations.values().map(|of| of.held).sum();
        registry.set(&FORGETTING_HELD, &[], held as f64);
        // A location that is only read from never has one.
        let last = self.locations.values().filter_map(|of| of.collected).map(|time| time.0).min().unwrap_or(0);
        registry.set(&LAST_GC, &[], last as f64);
        let overdue = self.locations.values().filter(|of| of.gc_overdue).count();
        registry.set(&GC_OVERDUE, &[], overdue as f64);
        for (kind, failing) in &self.failing {
            registry.set(&JOBS_FAILING, &[kind.word()], *failing as f64);
        }
        let sum = |of: fn(&OfLocation) -> u64| self.locations.values().map(of).sum::<u64>() as f64;
        registry.set(&LIVE_BYTES, &[], sum(|of| of.live_bytes));
        registry.set(&DELETED_BYTES, &[], sum(|of| of.deleted_bytes));
    }
}

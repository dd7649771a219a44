//! The controller's decisions on a cluster in memory: every write fails in every way, alone, with cancel, with deletion,
//! with a second controller one write behind; the invariants hold at every moment.
#![forbid(unsafe_code)]

#[path = "controller/bases.rs"]
mod bases;
#[path = "controller/classes.rs"]
mod classes;
#[path = "controller/enumerate.rs"]
mod enumerate;
#[path = "controller/hostile.rs"]
mod hostile;
#[path = "controller/leaks.rs"]
mod leaks;
#[path = "controller/local.rs"]
mod local;
#[path = "controller/others.rs"]
mod others;
#[path = "controller/planted.rs"]
mod planted;
#[path = "controller/states.rs"]
mod states;
#[path = "controller/taken.rs"]
mod taken;

use wherry_tests::cluster::{Outcome, Scene};

/// DataUpload or DataDownload, in each kind of storage class.
fn scenes(download: bool) -> Vec<Scene> {
    let kinds = [(false, false), (true, false), (false, true), (true, true)];
    kinds
        .map(|(retain, wait_for_consumer)| Scene { download, retain, wait_for_consumer, local: false, beside: false })
        .to_vec()
}

/// An upload of a local volume, whose PV is of policy Delete, and of Retain.
fn local_scenes() -> [Scene; 2] {
    [false, true].map(|retain| Scene { download: false, retain, wait_for_consumer: false, local: true, beside: false })
}

/// Fails with all that one needs to understand a run.
#[track_caller]
fn assert_clean(outcome: &Outcome, of: &str) {
    assert!(outcome.violations.is_empty(), "{of}: {:#?}\nsteps: {:#?}", outcome.violations, outcome.steps);
}

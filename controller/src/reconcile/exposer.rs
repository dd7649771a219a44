//! How the volume of a DataUpload gets to where an agent can read it. There is an exposer for each `spec.snapshotType` that is
//! known; what all of them share (PVC, PV and hosting pod of an attempt, cancel, limits, lost nodes) is in `exposing` and
//! `upload`. How to add one: ARCHITECTURE.md.

use super::Step;
use super::csi::Csi;
use super::exposing::Exposing;
use super::local::Local;
use super::view::UploadView;
use serde_json::Value;
use std::fmt;
use std::ops::ControlFlow;
use wherry_api::cluster::{Claim, Volume};
use wherry_api::{UploadPlan, names};

/// What the states of an upload need of a kind of volume. Pure, as all of `reconcile`: what it looks at is in the view, and it
/// does one step at most.
pub(super) trait Exposer: fmt::Debug + Sync {
    /// Phase New: what is fixed when the CR is accepted. No later step needs more than that. `Break`: what is done instead; it
    /// waits, or fails with a message that names the cause.
    fn plan(&self, view: &UploadView) -> ControlFlow<Step, UploadPlan>;

    /// What has to be done, or waited for, before the PVC of an attempt is made; asked at every look until the CR has ended.
    /// `None`: nothing.
    fn ready(&self, view: &UploadView, plan: &UploadPlan, exposing: &Exposing<'_>) -> Option<Step>;

    /// The PVC of an attempt, of that name: in the namespace of Velero, owned by the CR.
    fn claim(&self, view: &UploadView, plan: &UploadPlan, name: &str) -> Value;

    /// What has to be done about the PV that this PVC names, if there is one, before the hosting pod is made. `None`: nothing.
    fn volume(
        &self,
        view: &UploadView,
        plan: &UploadPlan,
        exposing: &Exposing<'_>,
        claim: &Claim,
        volume: Option<&Volume>,
    ) -> Option<Step>;

    /// The CR has ended, and pods, PVCs and PVs are gone: what else has to go, or is waited for, also where the plan is missing or
    /// cannot be read. `None`: nothing is left.
    fn remove(&self, view: &UploadView) -> Option<Step>;
}

/// For messages.
pub(super) const KNOWN: &str = "CSI and Local are";

/// The exposer of a `spec.snapshotType`; `None`: it is not known.
pub(super) fn known(snapshot_type: &str) -> Option<&'static dyn Exposer> {
    match snapshot_type {
        names::CSI => Some(&Csi),
        names::LOCAL => Some(&Local),
        _ => None,
    }
}

/// The same of a CR that was begun, whose plan says the type, or is to be removed: of a type that is not known, what a
/// VolumeSnapshot of Velero leaves goes.
pub(super) fn exposer(snapshot_type: &str) -> &'static dyn Exposer {
    known(snapshot_type).unwrap_or(&Csi)
}

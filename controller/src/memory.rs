//! What the controller remembers of one CR from look to look.

use crate::apply::Applied;
use crate::reconcile::Write;
use wherry_api::Time;
use wherry_api::api::{ApiError, Refusal};

/// What the controller knows that no object says: it is lost with the process, and limits run anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Admission has let it through.
    pub admitted: bool,
    /// When cancel or deletion was first seen.
    pub cancel_since: Option<Time>,
    /// Since when the node of its pod has had no agent.
    pub agent_gone_since: Option<Time>,
    /// Until then an object may appear that a lost request was to make.
    pub unsure_until: Option<Time>,
    /// Something of the name that was to be made is there, and no list by our label has it: PVCs and pods are looked for by
    /// name, too.
    pub by_name: bool,
    /// The namespace of Velero is being deleted: nothing can be made in it any more.
    pub closed: bool,
    /// The cluster was not as it had been seen: the next look is at the server alone.
    pub doubt: bool,
    /// When it was looked at the server for pods and PVCs, too, or first looked at all.
    pub seen_at: Option<Time>,
    /// When the CR itself was read from the server, or it was first looked at.
    pub cr_seen_at: Option<Time>,
    /// The server has said that the first VolumeSnapshot, of the uid that the plan names, is gone: that never changes.
    pub first_gone: bool,
    /// And likewise its content.
    pub first_content_gone: bool,
}

/// What the server says of a create in a namespace that is being deleted (its admission plugin NamespaceLifecycle).
const TERMINATED: &str = "because it is being terminated";

impl Memory {
    /// Notes why a write was not done.
    pub fn note_refusal(&mut self, error: &ApiError) {
        self.closed |= error.refusal == Refusal::Forbidden && error.message.contains(TERMINATED);
    }

    /// Notes what became of a write.
    pub fn note(&mut self, write: &Write, applied: Applied) {
        self.by_name |= matches!(write, Write::Create { .. }) && applied == Applied::LookAgain;
    }
}

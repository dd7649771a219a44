//! Every Event of controller and agent: its reason, what it says, and the object itself. Events are for people; nothing rests on one.

use crate::Time;
use crate::api::Key;
use crate::metrics::By;
use serde_json::{Value, json};

/// A reason of Events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// In `reason`.
    pub word: &'static str,
    /// Type Warning instead of Normal.
    pub warning: bool,
    /// When it is said.
    pub when: &'static str,
}

/// Makes a constant of each line, and the list of all of them.
macro_rules! reasons {
    ($($constant:ident = $by:ident, $word:literal, $warning:literal, $when:literal;)*) => {
        $(
            #[doc = $when]
            pub const $constant: Reason = Reason { word: $word, warning: $warning, when: $when };
        )*
        /// All of them, and who says them.
        pub const REASONS: &[(By, Reason)] = &[$((By::$by, $constant)),*];
    };
}

reasons! {
    COMPLETED = Agent, "Completed", false, "An upload has its snapshot: what it was based on, bytes, engine and why that one.";
    DATA_DONE = Agent, "DataDone", false, "The volume of a download is written and closed; the controller gives it to its PVC.";
    FAILED = Both, "Failed", true, "The CR has failed, with the text of status.message.";
    DEADLINE_AT_RISK = Controller, "DeadlineAtRisk", true,
        "75 % of the setting itemTimeout have passed since creation, and the CR has not ended.";
    REFUSED = Controller, "Refused", true,
        "A quota or an admission policy refuses what has to be made or changed for the CR; it is tried again until prepareTimeout.";
    UNSCHEDULABLE = Controller, "Unschedulable", true,
        "No node takes the hosting pod: attach limits, taints, no node with an agent; in the scheduler's words.";
    NO_AGENT = Controller, "NoAgent", true,
        "For two minutes no agent has answered where the CR is, or, if it is on no node yet, anywhere.";
    LEFTOVERS = Controller, "Leftovers", true,
        "The CR ended more than five minutes ago, and not all that was made for it is gone; it is tried again without end.";
    FORGETTING_ON_HOLD = Controller, "ForgettingOnHold", true,
        "Of a BackupStorageLocation: so many of its backups are missing that nothing is forgotten until somebody has looked.";
    JOB_REFUSED = Controller, "JobRefused", true,
        "Of a BackupStorageLocation: a Job that forgets or collects has found something that a human has to mend first.";
    JOB_FAILED = Controller, "JobFailed", true,
        "Of a BackupStorageLocation: a Job that forgets or collects has failed, or left no result; the next one tries again.";
    GC_OVERDUE = Controller, "GcOverdue", true,
        "Of a BackupStorageLocation: no gc of its repository has succeeded for the setting gcOverdue, nor for twice gcInterval; said once a day.";
}

/// Characters of a message that the API server takes.
const LONGEST: usize = 1000;

/// Who says it, and where from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// `wherry-agent` or `wherry-controller`.
    pub component: &'a str,
    /// The node; empty for the controller.
    pub host: &'a str,
}

/// The Event of that name about an object with that uid.
#[must_use]
pub fn event(name: &str, about: &Key, uid: &str, of: Source<'_>, reason: Reason, message: &str, now: Time) -> Value {
    let message: String = message.chars().take(LONGEST).collect();
    let kind = if reason.warning { "Warning" } else { "Normal" };
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name, "namespace": about.namespace },
        "type": kind, "reason": reason.word, "message": message, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        "source": { "component": of.component, "host": of.host },
        "involvedObject": {
            "apiVersion": about.kind.api_version(), "kind": about.kind.word(), "namespace": about.namespace,
            "name": about.name, "uid": uid,
        },
    })
}

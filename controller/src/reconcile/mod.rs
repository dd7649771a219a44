//! What is done next about one CR: a pure function of what is observed. No client, no clock, no memory.
//!
//! One step is one write at most. After it, and after anything else that changes, the cluster is looked at anew; so a
//! step that was applied without its answer, or twice, or by two controllers at once, leads to the same end.
//! `controller/docs/states.md` has the table of states.

mod base;
mod build;
mod csi;
mod csi_removal;
mod download;
mod download_removal;
mod exposer;
mod exposing;
mod local;
mod unreadable;
mod upload;
mod view;

pub(crate) use base::base_of;
pub(crate) use build::place;
pub(crate) use csi::{doubt, is_let_go};
pub(crate) use unreadable::{is_held, is_of};
pub use unreadable::{is_ours, unreadable};
pub use view::{Agent, DownloadView, Host, Limits, UploadView};

use serde_json::Value;
use std::fmt;
use wherry_api::api::{Guard, Key};
use wherry_api::{Meta, Time};

/// What one waits for that could begin, if admission let it.
pub(crate) const QUEUED: &str = "queued";

/// What is done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Not ours, or a copy that a restore made: never touched.
    Ignore,
    /// Done with it: nothing of ours is left.
    Nothing,
    /// Somebody else's turn. Look again when something changes, at the latest at `until`.
    Wait {
        /// For what; goes into Events and the log.
        why: String,
        /// When this decision may change although nothing else does.
        until: Option<Time>,
        /// The watches tell of what is waited for.
        told: bool,
    },
    /// One write.
    Do(Action, Write),
}

impl Step {
    /// The action, or what is done in place of one.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Ignore => "ignore".to_owned(),
            Self::Nothing => "nothing".to_owned(),
            Self::Wait { why, .. } => format!("wait: {why}"),
            Self::Do(action, _) => action.to_string(),
        }
    }

    fn wait(why: impl Into<String>) -> Self {
        Self::Wait { why: why.into(), until: None, told: false }
    }

    /// The same, for something of which the watches tell: it need not be looked for again and again.
    fn told(self) -> Self {
        match self {
            Self::Wait { why, until, .. } => Self::Wait { why, until, told: true },
            step => step,
        }
    }

    /// The same, but looked at again by then.
    fn no_later_than(self, time: Option<Time>) -> Self {
        match (self, time) {
            (Self::Wait { why, until, told }, Some(time)) => {
                Self::Wait { why, until: Some(until.map_or(time, |until| until.min(time))), told }
            }
            (step, _) => step,
        }
    }

    fn wait_until(why: impl Into<String>, until: Time) -> Self {
        Self::Wait { why: why.into(), until: Some(until), told: false }
    }
}

/// The writes that there are, named as in the tables of the design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The finalizer goes on the DataUpload.
    Finalizer,
    /// Accepted, with the plan.
    Accept,
    /// The first VolumeSnapshotContent becomes Retain and gets our label.
    RetainContent,
    /// A second VolumeSnapshotContent of the same storage snapshot.
    MakeContent,
    /// Its VolumeSnapshot.
    MakeSnapshot,
    /// The first VolumeSnapshot goes.
    DropSnapshot,
    /// The first VolumeSnapshotContent goes, without effect on the storage.
    DropContent,
    /// The PVC of this attempt.
    MakeClaim,
    /// The PV of that PVC becomes Delete and gets our label.
    MarkVolume,
    /// A PV of our own, of the place where the volume to be read lies.
    MakeVolume,
    /// The hosting pod.
    MakePod,
    /// Prepared, with node and node label.
    Prepare,
    /// The volume is published on another node now: node and node label follow.
    MoveNode,
    /// The next attempt: the PVC of this one may still be in use on a lost node.
    NextAttempt,
    /// The written PV becomes Retain and gets the marks of the one who gets it.
    KeepVolume,
    /// The hosting pod goes.
    RemovePod,
    /// The PVC of an attempt goes.
    RemoveClaim,
    /// Such a PV goes; what it stands for stays.
    RemoveVolume,
    /// The written PV is given to the target.
    GiveVolume,
    /// The PV gets its policy back and loses our marks.
    UnmarkVolume,
    /// Completed, finalizer and node label off.
    Complete,
    /// Failed.
    Fail,
    /// Canceled.
    Cancel,
    /// A PV of ours becomes Delete, so that it goes with its PVC.
    DoomVolume,
    /// A PV that was there before its PVC becomes Retain and loses our marks: what it holds is not ours to delete.
    SpareVolume,
    /// The second VolumeSnapshotContent becomes Retain: it must not take the storage snapshot with it.
    SpareContent,
    /// The second VolumeSnapshotContent becomes Delete again: it has the last word.
    DoomContent,
    /// The first VolumeSnapshotContent becomes Delete: it has the last word.
    DoomFirstContent,
    /// The second VolumeSnapshot is marked as base of the next backup: with its content it stays.
    KeepBase,
    /// The VolumeSnapshot of the base before goes, and the storage snapshot with it.
    DropBase,
    /// The second VolumeSnapshot goes.
    RemoveSnapshot,
    /// The second VolumeSnapshotContent goes.
    RemoveContent,
    /// Finalizer and node label off.
    Release,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One call that changes the cluster. Patches and deletions rest on the object as it was seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Make an object.
    Create {
        /// Which.
        key: Key,
        /// All of it.
        object: Value,
    },
    /// A merge patch.
    Patch {
        /// Of which object.
        key: Key,
        /// What it rests on.
        guard: Guard,
        /// RFC 7386; `apply` adds uid and resourceVersion of the guard.
        patch: Value,
    },
    /// Delete an object.
    Delete {
        /// Which.
        key: Key,
        /// What it rests on.
        guard: Guard,
    },
}

fn guard(meta: &Meta) -> Guard {
    Guard { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }
}

fn patch(action: Action, key: Key, meta: &Meta, patch: Value) -> Step {
    Step::Do(action, Write::Patch { key, guard: guard(meta), patch })
}

fn delete(action: Action, key: Key, meta: &Meta) -> Step {
    Step::Do(action, Write::Delete { key, guard: guard(meta) })
}

fn create(action: Action, key: Key, object: Value) -> Step {
    Step::Do(action, Write::Create { key, object })
}

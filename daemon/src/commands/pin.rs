//! `wherry pin` and `wherry unpin`

use crate::context::Context;
use crate::exit::Exit;
use crate::select::{self, SnapSpec};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeSet;
use wherry_repo::{Repository, SnapshotId};

#[derive(Serialize)]
struct View {
    snapshot: String,
    volume: String,
    /// It is now.
    pinned: bool,
    /// By this run.
    changed: bool,
}

/// Pins snapshots.
pub(super) fn pin(context: &Context, snaps: &[SnapSpec]) -> Result<Exit> {
    change(context, snaps, "pin", true, Repository::pin)
}

/// Ends their pins.
pub(super) fn unpin(context: &Context, snaps: &[SnapSpec]) -> Result<Exit> {
    change(context, snaps, "unpin", false, Repository::unpin)
}

/// All names are resolved before anything is changed. Each snapshot is changed once, in the order of the command line.
fn change(
    context: &Context,
    snaps: &[SnapSpec],
    what: &str,
    pinned: bool,
    change: impl Fn(&Repository, &SnapshotId) -> wherry_repo::Result<bool>,
) -> Result<Exit> {
    let (repository, _turn) = context.open_to_write(what)?;
    let list = repository.snapshots(None)?;
    let summaries = select::summaries(&list);
    let meant = snaps.iter().map(|spec| spec.resolve(&summaries)).collect::<wherry_repo::Result<Vec<_>>>()?;
    let mut seen = BTreeSet::new();
    let mut views = Vec::new();
    for summary in meant.into_iter().filter(|s| seen.insert(s.id)) {
        let changed = change(&repository, &summary.id)?;
        views.push(View { snapshot: summary.id.to_string(), volume: summary.volume.clone(), pinned, changed });
    }
    context.output.result(&views, || {
        let line = |view: &View| {
            let what = match (view.pinned, view.changed) {
                (true, true) => "is pinned",
                (true, false) => "was pinned before",
                (false, true) => "is not pinned any more",
                (false, false) => "was not pinned",
            };
            format!("{} of {} {what}\n", view.snapshot, view.volume)
        };
        views.iter().map(line).collect()
    })?;
    Ok(super::snapshots::damage(&list))
}

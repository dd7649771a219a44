//! `wherry pin` and `wherry unpin`

use crate::context::{Context, certain, resolve};
use crate::exit::Exit;
use crate::select::{self, SnapSpec};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeSet;
use wherry_repo::{ErrorKind, Repository, SnapshotId, storage};

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
    let mut list = repository.snapshots(None)?;
    let summaries = select::summaries(&list);
    let meant = snaps.iter().map(|spec| match (spec, resolve(&repository, &list, &summaries, spec)) {
        // Its record may be lost or damaged, and somebody gives it up.
        (SnapSpec::Id(id), Err(e))
            if !pinned
                && (e.kind() == ErrorKind::NoSnapshot || spec.damaged(&list).is_some())
                && repository.is_pinned(id)? =>
        {
            Ok((*id, "a volume that is not known".to_owned()))
        }
        (_, found) => {
            let summary = found?;
            certain(&repository, &list, &summary.id, spec)?;
            Ok((summary.id, summary.volume.clone()))
        }
    });
    let meant = meant.collect::<wherry_repo::Result<Vec<_>>>()?;
    let mut seen = BTreeSet::new();
    let mut views = Vec::new();
    for (id, volume) in meant.into_iter().filter(|(id, _)| seen.insert(*id)) {
        let changed = change(&repository, &id)?;
        views.push(View { snapshot: id.to_string(), volume, pinned, changed });
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
    // As `forget` of it: that it is damaged is known.
    list.damaged.retain(|(key, _)| !storage::keys::parse_snap(key).is_some_and(|(_, id)| seen.contains(&id)));
    Ok(super::snapshots::damage(&list))
}

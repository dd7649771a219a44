//! `wherry unforget`

use crate::cli::UnforgetArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::select;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct View {
    snapshot: String,
    volume: String,
    /// It was forgotten, and is not any more.
    unforgotten: bool,
}

/// Takes back what was forgotten. All names are resolved before anything is changed.
pub(crate) fn run(context: &Context, args: UnforgetArgs) -> anyhow::Result<Exit> {
    let UnforgetArgs { snaps } = args;
    let (repository, _turn) = context.open_to_write("unforget")?;
    let summaries = select::summaries(&repository.snapshots(None)?);
    let meant = snaps.iter().map(|spec| spec.resolve(&summaries)).collect::<wherry_repo::Result<Vec<_>>>()?;
    let mut views = Vec::new();
    let mut seen = BTreeSet::new();
    for summary in meant.into_iter().filter(|s| seen.insert(s.id)) {
        let unforgotten = repository.unforget(&summary.id)?;
        views.push(View { snapshot: summary.id.to_string(), volume: summary.volume.clone(), unforgotten });
    }
    context.output.result(&views, || {
        let line = |view: &View| {
            let what = if view.unforgotten { "is back" } else { "was not forgotten" };
            format!("{} of {} {what}\n", view.snapshot, view.volume)
        };
        views.iter().map(line).collect()
    })?;
    Ok(Exit::Done)
}

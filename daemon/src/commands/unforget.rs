//! `wherry unforget`

use crate::cli::UnforgetArgs;
use crate::context::{Context, resolve};
use crate::exit::Exit;
use crate::select::{self, SnapSpec};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct View {
    snapshot: String,
    /// Null when its record cannot be read.
    volume: Option<String>,
    /// It was forgotten, and is not any more.
    unforgotten: bool,
}

/// Takes back what was forgotten. All names are resolved before anything is changed.
pub(crate) fn run(context: &Context, args: UnforgetArgs) -> anyhow::Result<Exit> {
    let UnforgetArgs { snaps } = args;
    let (repository, _turn) = context.open_to_write("unforget")?;
    let list = repository.snapshots(None)?;
    let summaries = select::summaries(&list);
    let of = |spec: &SnapSpec| match spec.damaged(&list) {
        Some(id) => Ok((id, None)),
        None => resolve(&repository, &list, &summaries, spec).map(|summary| (summary.id, Some(summary.volume.clone()))),
    };
    let meant = snaps.iter().map(of).collect::<wherry_repo::Result<Vec<_>>>()?;
    let mut views = Vec::new();
    let mut seen = BTreeSet::new();
    for (id, volume) in meant.into_iter().filter(|(id, _)| seen.insert(*id)) {
        let unforgotten = repository.unforget(&id)?;
        views.push(View { snapshot: id.to_string(), volume, unforgotten });
    }
    context.output.result(&views, || {
        let line = |view: &View| {
            let what = if view.unforgotten { "is back" } else { "was not forgotten" };
            let volume = view.volume.as_deref().unwrap_or("a volume that is not known");
            format!("{} of {volume} {what}\n", view.snapshot)
        };
        views.iter().map(line).collect()
    })?;
    Ok(Exit::Done)
}

//! `wherry job gc`: `wherry gc` on the repository of a location.

use super::forget::REASON;
use super::{Job, Outcome};
use crate::cli::JobGcArgs;
use crate::commands::gc::collect;
use crate::output::size;
use anyhow::Result;
use wherry_api::job::{Collecting, State};
use wherry_repo::{CollectOptions, Collected};

pub(super) fn run(job: &Job<'_>, args: &JobGcArgs) -> Result<Outcome> {
    let store = match job.open()? {
        Ok((_, store)) => store,
        Err(refused) => return Ok(refused),
    };
    let repository = &store.repository;
    let turn = repository.begin_writing("gc")?;
    let default = CollectOptions::default();
    // What a Job has forgotten is made final by the Job that looks whether its backup is still gone.
    let grace = args.grace.map_or(default.grace, |grace| grace.0);
    let options = CollectOptions { grace, spared_reason: Some(REASON), ..default };
    let context = job.context.for_job(store.url.clone(), job.context.budget, job.context.cancel.clone())?;
    let (report, _) = collect(&context, repository, Some(turn), options)?;
    let state = if report.failed.packs > 0 { State::Failed } else { State::Done };
    Ok(Outcome {
        state,
        message: text(&report),
        repository: Some(repository.id().to_string()),
        collecting: Some(numbers(&report)),
        ..Outcome::default()
    })
}

fn numbers(report: &Collected) -> Collecting {
    Collecting {
        live_bytes: report.live.bytes,
        condemned_bytes: report.condemned.bytes + report.thin.bytes,
        deleted_bytes: report.swept.bytes,
        deleted_packs: report.swept.packs,
        failed_packs: report.failed.packs,
        settled: report.settled,
        waiting: report.waiting.len() as u64,
    }
}

fn text(report: &Collected) -> String {
    let mut text = format!("deleted {}, {} stay", size(report.swept.bytes), size(report.live.bytes));
    let condemned = report.condemned.bytes + report.thin.bytes;
    if condemned > 0 {
        text += &format!(", {} are condemned", size(condemned));
    }
    if let Some(waiting) = report.waiting.first() {
        text += &format!(", waits for {} backups, the first on host {}", report.waiting.len(), waiting.host);
    }
    if report.failed.packs > 0 {
        text += &format!(", {} packs could not be deleted: the next gc tries again", report.failed.packs);
    }
    text
}

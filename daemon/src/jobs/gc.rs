//! `wherry job gc`: `wherry gc` on the repository of a location.

use super::forget::REASON;
use super::{Job, Outcome};
use crate::cli::JobGcArgs;
use crate::commands::gc::collect;
use crate::output::{count, size};
use anyhow::Result;
use wherry_api::job::{Collecting, JobKind, State};
use wherry_repo::{CollectOptions, Collected};

pub(super) fn run(job: &Job<'_>, args: &JobGcArgs) -> Result<Outcome> {
    let store = match job.open(JobKind::Gc)? {
        Ok((_, store)) => store,
        Err(refused) => return Ok(refused),
    };
    let repository = &store.repository;
    let default = CollectOptions::default();
    // What a Job has forgotten is made final by the Job that looks whether its backup is still gone.
    let grace = args.grace.map_or(default.grace, |grace| grace.0);
    let options = CollectOptions { grace, spared_reason: Some(REASON), ..default };
    let context = job.context.for_job(store.url.clone(), job.context.budget, job.context.cancel.clone())?;
    let (report, _) = collect(&context, repository, None, options)?;
    Ok(Outcome {
        state: state(&report),
        message: text(&report),
        repository: Some(repository.id().to_string()),
        collecting: Some(numbers(&report)),
        ..Outcome::default()
    })
}

/// How it ended. What others do may keep each run from its end, and then somebody has to hear of that.
fn state(report: &Collected) -> State {
    match (report.failed.packs, report.completed) {
        (0, true) => State::Done,
        (0, false) => State::Unfinished,
        _ => State::Failed,
    }
}

/// One that goes on with what another has begun may end before it has looked at anything.
fn has_looked(report: &Collected) -> bool {
    report.all.packs > 0 || report.completed
}

fn numbers(report: &Collected) -> Collecting {
    Collecting {
        live_bytes: has_looked(report).then_some(report.live.bytes),
        condemned_bytes: report.condemned.bytes + report.thin.bytes,
        deleted_bytes: report.swept.bytes,
        deleted_packs: report.swept.packs,
        failed_packs: report.failed.packs,
        settled: report.settled,
        waiting: report.waiting.len() as u64,
    }
}

fn text(report: &Collected) -> String {
    let mut text = format!("deleted {}", size(report.swept.bytes));
    if has_looked(report) {
        text += &format!(", {} stay", size(report.live.bytes));
    }
    let condemned = report.condemned.bytes + report.thin.bytes;
    if condemned > 0 {
        text += &format!(", {} are condemned", size(condemned));
    }
    if let Some(waiting) = report.waiting.first() {
        let (name, host, pid) = (&waiting.name, &waiting.host, waiting.pid);
        let of = format!("the first of volume {name:?}, pid {pid} on host {host}");
        text += &format!(", waits for {}, {of}", count(report.waiting.len() as u64, "backup"));
    }
    if report.overtaken {
        text += ", other collectors came first each time";
    }
    if report.unopened.packs > 0 {
        let packs = count(report.unopened.packs, "pack");
        text += &format!(", {packs} turned out to be damaged: run `wherry check --read-data`");
    }
    if report.failed.packs > 0 {
        text += &format!(", {} could not be deleted: the next gc tries again", count(report.failed.packs, "pack"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_repo::{Packed, SessionId, Waiting};

    /// Nothing has been deleted where each run ends so: none of these is a success.
    #[test]
    fn a_run_that_only_waited_or_came_too_late_is_not_done() {
        let with = |report: Collected| (state(&report), text(&report));
        let done = Collected { completed: true, ..Collected::default() };
        assert_eq!(with(done.clone()), (State::Done, "deleted 0 B, 0 B stay".to_owned()));
        let waiting = Waiting {
            session: SessionId::new([1; 16]),
            name: "vm".into(),
            host: "node".into(),
            pid: 7,
            silent: std::time::Duration::ZERO,
        };
        let waits = Collected { generation: Some(1), waiting: vec![waiting], ..Collected::default() };
        let said = "deleted 0 B, waits for 1 backup, the first of volume \"vm\", pid 7 on host node";
        assert_eq!(with(waits.clone()), (State::Unfinished, said.to_owned()));
        // What stays it does not know: that is not nothing.
        assert_eq!((numbers(&waits).live_bytes, numbers(&done).live_bytes), (None, Some(0)));
        // It has sealed what was left by another run before that.
        assert_eq!(state(&Collected { completed: true, ..waits }), State::Done);
        let (ended, said) = with(Collected { overtaken: true, ..Collected::default() });
        assert!(ended == State::Unfinished && said.contains("other collectors came first"), "{said}");
        let failed = Packed { packs: 1, bytes: 5 };
        for completed in [false, true] {
            let report = Collected { failed, completed, ..Collected::default() };
            assert_eq!(state(&report), State::Failed);
        }
    }
}

//! One task from its first look to its last word, on a thread of its own, and beside it a watch: it keeps the work going as long
//! as this process runs at all, tells how far it is, and takes over credentials that were replaced.

use super::report::Report;
use super::store::Store;
use super::verdict::{Task, Verdict, Why, verdict};
use super::{Agent, download, upload};
use crate::exit::one_line;
use crate::progress::Meter;
use crate::signals::Cancel;
use anyhow::Result;
use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wherry_api::api::{ApiError, Kind, Refusal};
use wherry_api::{Phase, Time};
use wherry_repo::ErrorKind;

/// The work goes on for so long after each turn of the watch. A process that was stopped for longer (SIGSTOP, a machine that
/// slept) does not go on when it wakes: others may have taken over. It looks anew.
const LEASE: Duration = Duration::from_secs(30);
/// The watch turns so often.
const TURN: Duration = Duration::from_secs(1);
/// Progress is told this often at most.
const PROGRESS: Duration = Duration::from_secs(10);
/// Credentials are looked at this often.
const REFRESH: Duration = Duration::from_secs(60);
/// The pause before what may pass is tried again, doubled each time up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// What the work and its watch share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// How far it is.
    meter: Mutex<Option<Meter>>,
    /// What it works with.
    store: Mutex<Option<Arc<Store>>>,
}

/// What the work is given.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) task: &'a Task,
    pub(crate) cancel: &'a Cancel,
    pub(crate) report: &'a Report<'a>,
    shared: &'a Shared,
}

/// How work can be asked to end, and why it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handle {
    pub(crate) cancel: Cancel,
    why: Arc<Mutex<Option<Why>>>,
}

impl Handle {
    /// Asks; the first reason counts, but that a cancel goes before a pod that goes.
    pub(crate) fn end(&self, why: Why) {
        let mut known = self.why.lock();
        if known.is_none() || (why == Why::Canceled && *known == Some(Why::PodGoes)) {
            *known = Some(why);
        }
        drop(known);
        self.cancel.ask(match why {
            Why::Canceled => "it was canceled",
            Why::PodGoes => "the hosting pod goes",
            Why::Over => "it is over, or another agent's",
        });
    }
}

/// What has become of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An upload has a snapshot.
    Saved(upload::Saved),
    /// A download's volume is written.
    Written(download::Written),
}

impl Job<'_> {
    /// The work has begun to move data.
    pub(crate) fn moves(&self, meter: Meter) {
        *self.shared.meter.lock() = Some(meter);
    }

    /// The work has opened that.
    pub(crate) fn opened(&self, store: &Arc<Store>) {
        *self.shared.store.lock() = Some(Arc::clone(store));
    }
}

/// Does it all. Whatever happens, the CR is looked at again afterwards.
pub(crate) fn run(agent: &Agent, task: &Task, handle: &Handle) {
    if let Err(e) = work(agent, task, handle) {
        tracing::warn!(cr = %task.name, "{}", one_line(&e));
    }
    agent.close_indexes();
}

fn work(agent: &Agent, task: &Task, handle: &Handle) -> Result<()> {
    // What the watch of the API server showed may be old.
    let Some(cr) = agent.get(task.kind, &task.name)? else { return Ok(()) };
    let pod = agent.get(Kind::Pod, &task.object())?;
    let now = verdict(&agent.node, task.kind, &cr, |_| pod.as_ref());
    let report = Report::new(agent, task, cr);
    match now {
        Verdict::Cancel(found) if found.uid == task.uid && found.attempt == task.attempt => {
            Report::new(agent, &found, report.cr()).cancel();
            return Ok(());
        }
        Verdict::Move(found) if found == *task => {}
        _ => return Ok(()),
    }
    let begins = report.phase() == Phase::Prepared;
    if begins && !report.begin() {
        return Ok(());
    }
    tracing::info!(cr = %task.name, attempt = task.attempt, "{}", if begins { "begins" } else { "goes on" });
    let shared = Shared::default();
    let job = Job { agent, task, cancel: &handle.cancel, report: &report, shared: &shared };
    let outcome = watched(&job, || patiently(&job));
    // Nothing is open any more.
    match outcome {
        Ok(Outcome::Saved(saved)) => {
            let upload::Saved { snapshot_id, total, incremental, message } = saved;
            report.completed(&snapshot_id, total, incremental, &message);
        }
        Ok(Outcome::Written(written)) => report.data_done(&written.done, written.total, &written.message),
        Err(e) if agent.leaving.load(Ordering::Relaxed) || handle.cancel.is_over() => {
            tracing::info!(cr = %task.name, "let go: {}", one_line(&e));
        }
        Err(e) => match *handle.why.lock() {
            Some(Why::Canceled) => report.cancel(),
            Some(Why::PodGoes | Why::Over) => tracing::info!(cr = %task.name, "let go: {}", one_line(&e)),
            None => report.fail(&one_line(&e)),
        },
    }
    Ok(())
}

/// Tries again what may pass, until Velero would have given up.
fn patiently(job: &Job<'_>) -> Result<Outcome> {
    let mut pause = FIRST;
    loop {
        let outcome = match job.task.kind {
            Kind::DataUpload => upload::run(job).map(Outcome::Saved),
            _ => download::run(job).map(Outcome::Written),
        };
        let error = match outcome {
            Err(e) if may_pass(&e) && !job.cancel.is_cancelled() && job.agent.now() < deadline(job) => e,
            outcome => return outcome,
        };
        let error = one_line(&error);
        tracing::warn!(cr = %job.task.name, "{error}; it is tried again");
        let said: String = format!("tried again: {error}").chars().take(1000).collect();
        if let Err(e) = job.report.once(&json!({ "status": { "message": said } })) {
            tracing::debug!("{e}");
        }
        let end = Instant::now() + pause;
        while Instant::now() < end {
            job.cancel.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// When the item that the CR belongs to has timed out.
fn deadline(job: &Job<'_>) -> Time {
    let created = job.report.cr()["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    let timeout = job.agent.settings.lock().as_ref().map(|settings| settings.item_timeout).unwrap_or_default();
    created.unwrap_or_else(|| job.agent.now()).after(timeout)
}

/// Storage or API server may answer otherwise in a while: they were away, full, or their credentials had expired.
fn may_pass(error: &anyhow::Error) -> bool {
    let of_api = |e: &ApiError| !matches!(e.refusal, Refusal::Invalid);
    let of_storage = |e: &wherry_repo::Error| {
        matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Denied | ErrorKind::Full | ErrorKind::Conflict)
    };
    error.chain().any(|cause| cause.downcast_ref().is_some_and(of_api) || cause.downcast_ref().is_some_and(of_storage))
}

/// Works with the watch beside it.
fn watched<T>(job: &Job<'_>, work: impl FnOnce() -> T) -> T {
    job.cancel.go_on_for(LEASE);
    std::thread::scope(|scope| {
        let (done, ended) = bounded::<()>(0);
        scope.spawn(move || {
            let (mut told, mut refreshed, mut last) = (Instant::now(), Instant::now(), None);
            while ended.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout) {
                if !job.cancel.go_on_for(LEASE) {
                    tracing::warn!(cr = %job.task.name, "this process was stopped for too long: looks anew");
                    return;
                }
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    tell(job, &mut last);
                }
                if refreshed.elapsed() >= REFRESH {
                    refreshed = Instant::now();
                    refresh(job);
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn tell(job: &Job<'_>, last: &mut Option<(u64, Option<u64>)>) {
    let Some(read) = job.shared.meter.lock().as_ref().map(Meter::read) else { return };
    if *last == Some(read) {
        return;
    }
    let (done, total) = read;
    let mut progress = json!({ "bytesDone": done });
    if let Some(total) = total {
        progress["totalBytes"] = json!(total);
    }
    match job.report.once(&json!({ "status": { "progress": progress } })) {
        Ok(true) => *last = Some(read),
        Ok(false) => {}
        Err(e) => tracing::debug!("{e}"),
    }
}

fn refresh(job: &Job<'_>) {
    let Some(store) = job.shared.store.lock().clone() else { return };
    match store.refresh(job.agent) {
        Ok(true) => tracing::info!(cr = %job.task.name, "other credentials are used from now on"),
        Ok(false) => {}
        Err(e) => tracing::warn!(cr = %job.task.name, "credentials were not looked at: {}", one_line(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_repo::Error;

    #[test]
    fn what_may_pass_is_tried_again() {
        let of = |kind| may_pass(&anyhow::Error::from(Error::new(kind, "x")));
        assert!(of(ErrorKind::Unavailable) && of(ErrorKind::Denied) && of(ErrorKind::Full));
        assert!(!of(ErrorKind::Invalid) && !of(ErrorKind::Corrupt) && !of(ErrorKind::NoSnapshot));
        let api = |refusal| may_pass(&anyhow::Error::from(ApiError::new(refusal, "get", "x".to_owned())));
        assert!(api(Refusal::Unavailable) && api(Refusal::Forbidden) && !api(Refusal::Invalid));
    }

    #[test]
    fn a_cancel_goes_before_a_pod_that_goes() {
        let handle = Handle::default();
        handle.end(Why::PodGoes);
        handle.end(Why::Canceled);
        handle.end(Why::Over);
        assert_eq!(*handle.why.lock(), Some(Why::Canceled));
        assert!(handle.cancel.is_cancelled());
    }
}

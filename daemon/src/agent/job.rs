//! One task from its first look to its last word, on a thread of its own.

use super::host::NotPublished;
use super::report::{AGAIN, Noted, Report};
use super::store::Store;
use super::verdict::{Task, Verdict, Why};
use super::watch::watched;
use super::{Agent, download, upload};
use crate::backup::kind;
use crate::exit::{caught, one_line};
use crate::progress::Meter;
use crate::signals::Cancel;
use crate::tree::restore::OfTarget;
use anyhow::Result;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wherry_api::api::{ApiError, Kind, Refusal};
use wherry_api::metrics::{DATA_SECONDS, DOWNLOAD, RETRIES, UPLOAD};
use wherry_api::{Phase, Time, names};
use wherry_repo::{Error, ErrorKind};

/// The pause before what may pass is tried again, doubled each time up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

/// What the work and its watch share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// How far it is.
    pub(super) meter: Mutex<Option<Meter>>,
    /// What it works with.
    pub(super) store: Mutex<Option<Arc<Store>>>,
    /// Its session in the repository.
    pub(super) session: Mutex<Option<String>>,
}

/// What the work is given.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) task: &'a Task,
    pub(crate) cancel: &'a Cancel,
    pub(crate) report: &'a Report<'a>,
    pub(super) shared: &'a Shared,
}

/// Why work ends whose CR has gone on without it.
const ANOTHERS: &str = "the CR has ended, or is another attempt's";

/// How work can be asked to end, and why it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handle {
    pub(crate) cancel: Cancel,
    why: Arc<Mutex<Option<Why>>>,
}

impl Handle {
    /// Asks, and what was read of a volume may still be sent for so long when that is let go.
    pub(crate) fn leave(&self, sends: Duration) {
        self.cancel.sends_for(sends);
        self.end(Why::Over);
    }

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

/// The word for a kind of CR in labels of metrics.
pub(crate) fn word(kind: Kind) -> &'static str {
    if kind == Kind::DataUpload { UPLOAD } else { DOWNLOAD }
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

    /// The session of the work is in the CR from now on, or from when the API server takes it: without it the next process
    /// knows no session to end, and sends again what this one has stored.
    pub(crate) fn has_session(&self, session: String) {
        let patch = json!({
            "metadata": { "annotations": { wherry_api::names::SESSION: session } },
            "status": { "progress": { "bytesDone": 0 } },
        });
        *self.shared.session.lock() = Some(session);
        // Changed by others meanwhile, it is written on top of that.
        let noted = match self.note(&patch) {
            Ok(Noted::NotYet) => self.note(&patch),
            noted => noted,
        };
        match noted {
            Ok(Noted::Written) => {}
            Ok(_) => tracing::info!("the session is not in the CR yet, which has changed"),
            Err(e) => tracing::warn!("the session is not in the CR yet: {e}"),
        }
    }

    /// One write that may be left out. Where the CR is another attempt's by now, the work is to end.
    pub(crate) fn note(&self, patch: &Value) -> Result<Noted, ApiError> {
        let noted = self.report.once(patch);
        if matches!(noted, Ok(Noted::Others)) {
            self.cancel.ask(ANOTHERS);
        }
        noted
    }
}

/// Does it all. Whatever happens, the CR is looked at again afterwards.
pub(crate) fn run(agent: &Agent, task: &Task, handle: &Handle) {
    let fail = |error: anyhow::Error| {
        // What it had begun beside itself ends, too.
        handle.cancel.ask("it panicked");
        failed(agent, task, &one_line(&error))
    };
    if let Err(e) = guarded(|| work(agent, task, handle), fail) {
        tracing::warn!("{}", one_line(&e));
    }
    agent.indexes.close();
}

/// Works; where that panics, `failed` says so of its CR. It is nobody else's business: the other work of this process goes on,
/// and this one would panic again.
fn guarded(work: impl FnOnce() -> Result<()>, failed: impl FnOnce(anyhow::Error) -> Result<()>) -> Result<()> {
    let mut worked = None;
    caught(|| {
        worked = Some(work());
        Ok(())
    })
    .or_else(failed)?;
    worked.unwrap_or(Ok(()))
}

/// Failed, whatever the work had come to.
fn failed(agent: &Agent, task: &Task, why: &str) -> Result<()> {
    if let Some((cr, _)) = agent.look(task)? {
        Report::new(agent, task, cr).fail(why);
    }
    Ok(())
}

fn work(agent: &Agent, task: &Task, handle: &Handle) -> Result<()> {
    // What the watch of the API server showed may be old.
    let Some((cr, now)) = agent.look(task)? else { return Ok(()) };
    let report = Report::new(agent, task, cr);
    match now {
        Verdict::Cancel(found) if found.uid == task.uid && found.attempt == task.attempt => {
            canceled(agent, &found, &Report::new(agent, &found, report.cr()));
            return Ok(());
        }
        Verdict::Move(found) if found == *task => {}
        _ => return Ok(()),
    }
    let begins = report.phase() == Phase::Prepared;
    if begins && !report.begin() {
        return Ok(());
    }
    tracing::info!(attempt = task.attempt, "{}", if begins { "begins" } else { "goes on" });
    let shared = Shared::default();
    let job = Job { agent, task, cancel: &handle.cancel, report: &report, shared: &shared };
    let start = Instant::now();
    let outcome = watched(&job, || patiently(&job));
    agent.around.metrics.observe(&DATA_SECONDS, &[word(task.kind)], start.elapsed().as_secs_f64());
    // Nothing is open any more.
    match outcome {
        Ok(Outcome::Saved(saved)) => report.completed(&saved),
        Ok(Outcome::Written(written)) => report.data_done(&written.done, written.total, &written.message),
        Err(e) if agent.leaving.load(Ordering::Relaxed) || handle.cancel.is_over() => {
            tracing::info!("let go: {}", one_line(&e));
        }
        Err(e) => match *handle.why.lock() {
            Some(Why::Canceled) => canceled(agent, task, &report),
            // The pod may go, and the volume with it, before the watch of the API server says so.
            None if report.stands() => report.fail(&one_line(&e)),
            Some(Why::PodGoes | Why::Over) | None => tracing::info!("let go: {}", one_line(&e)),
        },
    }
    Ok(())
}

/// The last word about what was canceled. An upload whose snapshot stands is Completed all the same: the commit came first.
fn canceled(agent: &Agent, task: &Task, report: &Report<'_>) {
    let committed = match task.kind {
        Kind::DataUpload => upload::committed(agent, task, &report.cr()),
        _ => Ok(None),
    };
    match committed {
        Ok(Some(saved)) => return report.completed(&saved),
        Ok(None) => {}
        Err(e) => tracing::info!("whether there is a snapshot is not known: {}", one_line(&e)),
    }
    report.cancel();
}

/// Tries again what may pass, until Velero would have given up.
fn patiently(job: &Job<'_>) -> Result<Outcome> {
    let mut pause = FIRST;
    let mut unpublished = None;
    loop {
        // That of the try before is not what this one fails at.
        job.shared.store.lock().take();
        let outcome = match job.task.kind {
            Kind::DataUpload => upload::run(job).map(Outcome::Saved),
            _ => download::run(job).map(Outcome::Written),
        };
        let outcome = outcome.map_err(|e| named(job, e));
        let error = match outcome {
            Err(e) if !job.cancel.is_cancelled() && job.agent.now() < deadline(job) => e,
            outcome => return outcome,
        };
        if error.chain().any(|cause| cause.is::<NotPublished>()) {
            let since = *unpublished.get_or_insert_with(Instant::now);
            if since.elapsed() >= prepare_timeout(job) {
                return Err(error);
            }
        } else if may_pass(&error) {
            unpublished = None;
        } else {
            return Err(error);
        }
        let error = one_line(&error);
        tracing::warn!("{error}; it is tried again");
        job.agent.around.metrics.add(&RETRIES, &[word(job.task.kind)], 1.0);
        let said: String = format!("{AGAIN}{error}").chars().take(1000).collect();
        if let Err(e) = job.note(&json!({ "status": { "message": said } })) {
            tracing::debug!("{e}");
        }
        rest(job, pause)?;
        // Another attempt may run by now, of which this one must end nothing.
        while !is_current(job)? {
            rest(job, pause)?;
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// An error, and as whom the storage was asked that denied something under way: its credentials may have expired.
fn named(job: &Job<'_>, error: anyhow::Error) -> anyhow::Error {
    match &*job.shared.store.lock() {
        Some(store) if kind(&error) == Some(ErrorKind::Denied) => error.context(store.whose.clone()),
        _ => error,
    }
}

/// Waits, unless the work is to end.
fn rest(job: &Job<'_>, pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        job.cancel.check()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether the CR is still the task's, and its pod runs; `false`: nobody knows.
///
/// # Errors
/// `Cancelled` when it is not.
fn is_current(job: &Job<'_>) -> Result<bool> {
    match job.agent.look(job.task) {
        Ok(Some((_, Verdict::Move(found)))) if found == *job.task => Ok(true),
        Ok(_) => Err(Error::new(ErrorKind::Cancelled, ANOTHERS).into()),
        Err(e) => {
            tracing::debug!("{e}");
            Ok(false)
        }
    }
}

/// How long a volume may not be published yet.
fn prepare_timeout(job: &Job<'_>) -> Duration {
    job.agent.settings.lock().as_ref().map(|settings| settings.prepare_timeout).unwrap_or_default()
}

/// When the item that the CR belongs to has timed out.
fn deadline(job: &Job<'_>) -> Time {
    let timeout = job.agent.settings.lock().as_ref().map(|settings| settings.item_timeout).unwrap_or_default();
    since(&job.report.cr()).unwrap_or_else(|| job.agent.now()).after(timeout)
}

/// Since when that counts, as the controller has it: of one that Velero has made, its creation, as Velero counts; of an upload of a local
/// volume, which somebody else has made and no one gives up, not the time in the queue.
pub(crate) fn since(cr: &Value) -> Option<Time> {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Time>().ok());
    let created = time(&cr["metadata"]["creationTimestamp"]);
    if cr["spec"]["snapshotType"] == names::LOCAL {
        created.max(time(&cr["status"]["acceptedTimestamp"]))
    } else {
        created
    }
}

/// Storage or API server may answer otherwise in a while: they were away, full, or their credentials had expired; and who else has
/// the repository or the volume, as an agent that is about to end, lets it go. Else not so the volume: one that is full stays full,
/// and a user who waits for hours does not hear why.
fn may_pass(error: &anyhow::Error) -> bool {
    if error.chain().any(|cause| cause.is::<OfTarget>()) {
        return false;
    }
    let of_api = |e: &ApiError| !matches!(e.refusal, Refusal::Invalid);
    let of_storage = |e: &wherry_repo::Error| {
        use ErrorKind::{Busy, Conflict, Denied, Full, Unavailable};
        matches!(e.kind(), Unavailable | Denied | Full | Conflict | Busy)
    };
    error.chain().any(|cause| cause.downcast_ref().is_some_and(of_api) || cause.downcast_ref().is_some_and(of_storage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_the_queue_is_not_that_of_a_local_volume() {
        let cr = |of: &str, accepted: Value| {
            let (created, accepted) = (json!(Time(1000)), json!({ "acceptedTimestamp": accepted }));
            json!({ "metadata": { "creationTimestamp": created }, "spec": { "snapshotType": of }, "status": accepted })
        };
        assert_eq!(since(&cr(names::LOCAL, json!(Time(15_400)))), Some(Time(15_400)));
        assert_eq!(since(&cr(names::LOCAL, json!(null))), Some(Time(1000)));
        assert_eq!(since(&cr(names::CSI, json!(Time(15_400)))), Some(Time(1000)));
        // A DataDownload has none.
        assert_eq!(since(&json!({ "metadata": { "creationTimestamp": Time(7) } })), Some(Time(7)));
    }

    /// The work of one volume panics; that of another one goes on.
    #[test]
    fn a_panic_is_told_of_its_own_cr_and_ends_nothing_else() {
        let (go, goes) = crossbeam_channel::bounded::<()>(0);
        let other = std::thread::spawn(move || {
            goes.recv().unwrap();
            guarded(|| Ok(()), |e| panic!("{e}"))
        });
        let mut said = String::new();
        let bug = || -> Result<()> { panic!("planted") };
        let done = guarded(bug, |e| {
            said = one_line(&e);
            Ok(())
        });
        done.unwrap();
        assert!(said.contains("a bug in wherry: planted"), "{said}");
        go.send(()).unwrap();
        other.join().unwrap().unwrap();
        let plain = guarded(|| Err(Error::invalid("plain").into()), |e| panic!("it is no bug: {e}"));
        assert_eq!(plain.unwrap_err().to_string(), "plain");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let of = |kind| may_pass(&anyhow::Error::from(Error::new(kind, "x")));
        assert!(of(ErrorKind::Unavailable) && of(ErrorKind::Denied) && of(ErrorKind::Full));
        assert!(of(ErrorKind::Conflict) && of(ErrorKind::Busy));
        assert!(!of(ErrorKind::Invalid) && !of(ErrorKind::Corrupt) && !of(ErrorKind::NoSnapshot));
        let full = || Error::new(ErrorKind::Full, "x").with_source(OfTarget(std::io::ErrorKind::StorageFull.into()));
        assert!(!may_pass(&anyhow::Error::from(full()).context("while restoring")));
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

//! What runs beside the work of a task. One thread keeps the work going as long as this process runs at all, and does nothing
//! else; the other one tells how far it is and takes over credentials that were replaced. That one asks the API server, which may
//! be silent: the work goes on meanwhile.

use super::job::Job;
use super::report::Noted;
use crate::exit::one_line;
use crate::progress::Meter;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wherry_api::names;
use wherry_repo::as_here;

/// The work goes on for so long after each turn of the watch, at least. A process that was stopped for longer (SIGSTOP, a machine that
/// slept) does not go on when it wakes: others may have taken over. It looks anew. Not less: a machine may be that busy.
const SHORTEST: Duration = Duration::from_secs(3);
/// And at most, however long the controller waits.
const LONGEST: Duration = Duration::from_secs(30);
/// The threads turn so often.
const TURN: Duration = Duration::from_secs(1);
/// Progress is told this often at most.
const PROGRESS: Duration = Duration::from_secs(10);
/// Credentials are looked at this often.
const REFRESH: Duration = Duration::from_secs(60);

/// How long the work goes on without a turn: not as long as the controller waits for this agent after a cancel (`cancelTimeout`), by three
/// quarters; then it writes Canceled in its place, and nothing may be written for the CR any more.
fn lease(cancel_timeout: Duration) -> Duration {
    (cancel_timeout * 3 / 4).clamp(SHORTEST, LONGEST)
}

/// Works with both beside it.
pub(super) fn watched<T>(job: &Job<'_>, work: impl FnOnce() -> T) -> T {
    // Settings are live, and known by the time that anything is worked on.
    let lease = || job.agent.settings.lock().as_ref().map_or(SHORTEST, |settings| lease(settings.cancel_timeout));
    job.cancel.go_on_for(lease());
    let goes_on = || {
        let goes_on = job.cancel.go_on_for(lease());
        if !goes_on {
            tracing::warn!("this process was stopped for too long: looks anew");
        }
        goes_on
    };
    let (mut told, mut refreshed, mut last) = (Instant::now(), Instant::now(), None);
    let tells = || {
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            tell(job, &mut last);
        }
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            refresh(job);
        }
    };
    beside(TURN, goes_on, tells, work)
}

/// Works, and beside it does both at each turn, neither waiting for the other; the first until it is `false`.
fn beside<T>(
    turn: Duration,
    mut goes_on: impl FnMut() -> bool + Send,
    mut tells: impl FnMut() + Send,
    work: impl FnOnce() -> T,
) -> T {
    let waits = |ended: &Receiver<()>| ended.recv_timeout(turn) == Err(RecvTimeoutError::Timeout);
    std::thread::scope(|scope| {
        // Dropped at the end of the work, also where it panics.
        let (_done, ended) = bounded::<()>(0);
        let of_other = ended.clone();
        scope.spawn(as_here(move || while waits(&ended) && goes_on() {}));
        scope.spawn(as_here(move || {
            while waits(&of_other) {
                tells();
            }
        }));
        work()
    })
}

fn tell(job: &Job<'_>, last: &mut Option<(u64, Option<u64>)>) {
    let read = job.shared.meter.lock().as_ref().map(Meter::read);
    let session = job.shared.session.lock().clone();
    let Some(patch) = news(&job.report.cr(), session.as_deref(), read, *last) else { return };
    match job.note(&patch) {
        Ok(Noted::Written) => *last = read,
        Ok(_) => {}
        Err(e) => tracing::debug!("{e}"),
    }
}

/// What the CR does not say yet: the session of this run, and how far it is, unless that is as it was.
fn news(
    cr: &Value,
    session: Option<&str>,
    read: Option<(u64, Option<u64>)>,
    last: Option<(u64, Option<u64>)>,
) -> Option<Value> {
    let mut patch = json!({});
    if let Some(session) = session.filter(|session| cr["metadata"]["annotations"][names::SESSION] != **session) {
        patch["metadata"] = json!({ "annotations": { names::SESSION: session } });
    }
    if let Some((done, total)) = read.filter(|_| read != last) {
        patch["status"] = json!({ "progress": { "bytesDone": done } });
        if let Some(total) = total {
            patch["status"]["progress"]["totalBytes"] = json!(total);
        }
    }
    patch.as_object().is_some_and(|patch| !patch.is_empty()).then_some(patch)
}

fn refresh(job: &Job<'_>) {
    let Some(store) = job.shared.store.lock().clone() else { return };
    match store.refresh(&job.agent.around) {
        Ok(true) => tracing::info!("other credentials are used from now on"),
        Ok(false) => {}
        Err(e) => tracing::warn!("credentials were not looked at: {}", one_line(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// The work goes on while the API server says nothing.
    #[test]
    fn who_tells_holds_up_nobody_who_keeps_the_work_going() {
        let turns = AtomicU32::new(0);
        let (asking, asks) = bounded::<()>(1);
        let (answer, answered) = bounded::<()>(0);
        let goes_on = || turns.fetch_add(1, Ordering::Relaxed) < 1_000_000;
        let tells = || {
            let _ = asking.try_send(());
            let _ = answered.recv();
        };
        let work = || {
            asks.recv().unwrap();
            let (before, begin) = (turns.load(Ordering::Relaxed), Instant::now());
            while turns.load(Ordering::Relaxed) < before + 3 && begin.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            drop(answer);
            turns.load(Ordering::Relaxed) - before
        };
        assert!(beside(Duration::from_millis(1), goes_on, tells, work) >= 3, "nobody keeps it going");
    }

    /// Else one that was stopped and woken goes on with a CR that is Canceled by then.
    #[test]
    fn the_work_ends_before_the_controller_cancels_in_its_place() {
        let settings = wherry_api::Settings::parse(&std::collections::BTreeMap::new()).unwrap();
        assert_eq!(lease(settings.cancel_timeout), Duration::from_secs(6));
        // A storage that says nothing: the last request of the work, then the look back, and its last request.
        assert!(wherry_repo::storage::LAST_REQUEST * 2 + super::super::upload::LOOK_BACK < settings.cancel_timeout);
        for seconds in [4, 5, 8, 20, 40, 3600] {
            let timeout = Duration::from_secs(seconds);
            // The turn before the stop may be so old.
            assert!(lease(timeout) + TURN <= timeout, "{seconds}");
            assert!(lease(timeout) > TURN * 2, "{seconds}");
        }
        assert_eq!((lease(Duration::ZERO), lease(Duration::from_secs(3600))), (SHORTEST, LONGEST));
    }

    #[test]
    fn a_session_is_told_until_the_cr_has_it() {
        let cr = |session: &str| json!({ "metadata": { "annotations": { names::SESSION: session } } });
        let told = json!({ "metadata": { "annotations": { names::SESSION: "s2" } } });
        let at = Some((7, Some(9)));
        assert_eq!(news(&json!({}), Some("s2"), None, None).unwrap(), told);
        assert_eq!(news(&cr("s1"), Some("s2"), at, at).unwrap(), told);
        assert_eq!(news(&cr("s2"), Some("s2"), at, at), None);
        assert_eq!(news(&cr("s1"), None, None, None), None);
        let both = news(&cr("s1"), Some("s2"), at, None).unwrap();
        assert_eq!(both["metadata"], told["metadata"]);
        assert_eq!(both["status"]["progress"], json!({ "bytesDone": 7, "totalBytes": 9 }));
        assert_eq!(news(&cr("s2"), Some("s2"), Some((8, None)), at).unwrap()["status"]["progress"]["bytesDone"], 8);
    }
}

//! One CR: looked at and acted on, until it is somebody else's turn.

use crate::api::{ApiError, Key, Refusal};
use crate::apply::{Applied, apply};
use crate::kube_api::KubeApi;
use crate::observe::{self, Memory, ObserveError, View};
use crate::queue::Ended;
use crate::reconcile::{Action, Limits, Step, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch::Receiver;
use wherry_api::Time;

/// Steps in a row before others get their turn. An upload has 17 and some of removal.
const STEPS: u32 = 60;
/// So often is looked again at once when the cluster was not as it had been.
const SURPRISES: u32 = 3;

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "this is the one place of the controller that asks the operating system")]
pub(crate) fn time() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// What is fixed for one piece of work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) api: KubeApi,
    pub(crate) limits: Limits,
    pub(crate) cr: Key,
    /// Says when to stop: no write is begun after that.
    pub(crate) stop: Receiver<bool>,
}

/// What an answer means for the CR.
enum Answer {
    Done,
    /// Look again at once.
    Surprise,
    /// What was to be made will never be taken.
    Impossible(String),
    Failed(ApiError),
}

fn answer(result: Result<Applied, ApiError>, write: &Write) -> Answer {
    match result {
        Ok(Applied::Done) => Answer::Done,
        Ok(Applied::LookAgain) => Answer::Surprise,
        // Only of what we make ourselves. A patch that is refused has met an object of others that changed its shape.
        Err(e) if e.refusal == Refusal::Invalid && matches!(write, Write::Create { .. }) => {
            Answer::Impossible(e.to_string())
        }
        Err(e) => Answer::Failed(e),
    }
}

impl Work {
    /// Goes on with the CR as far as it can. What is remembered is for the next time.
    pub(crate) async fn go_on(&self, memory: &mut Memory) -> Ended {
        let mut surprises = 0;
        for _ in 0..STEPS {
            if *self.stop.borrow() {
                return Ended::Waits(None);
            }
            let mut view = match observe::look(&self.api, &self.cr, &self.limits, time(), *memory).await {
                Ok(Some(view)) => view,
                Ok(None) => return Ended::Settled,
                Err(e) => return self.failed(&e),
            };
            view.remember(memory);
            let (action, write) = match view.next_step() {
                Step::Ignore | Step::Nothing => return Ended::Settled,
                Step::Wait { why, until } => {
                    tracing::debug!("{}: waits: {why}", self.cr);
                    return Ended::Waits(until.map(|until| until_then(until, time())));
                }
                Step::Do(action, write) => (action, write),
            };
            match self.act(&view, action, &write).await {
                Answer::Done => surprises = 0,
                Answer::Surprise if surprises < SURPRISES => surprises += 1,
                Answer::Surprise | Answer::Impossible(_) => return Ended::Failed(None),
                Answer::Failed(e) => {
                    let asked = e.retry_after;
                    self.failed(&ObserveError::Api(e));
                    return Ended::Failed(asked);
                }
            }
        }
        Ended::Waits(Some(Duration::ZERO))
    }

    async fn act(&self, view: &View, action: Action, write: &Write) -> Answer {
        tracing::info!("{}: {action}", self.cr);
        let answer = answer(apply(&self.api, write).await, write);
        let Answer::Impossible(message) = &answer else { return answer };
        tracing::warn!("{}: {action}: {message}", self.cr);
        match view.refused(message) {
            Some(Step::Do(_, write)) => match apply(&self.api, &write).await {
                Ok(Applied::Done) => Answer::Done,
                Ok(Applied::LookAgain) => Answer::Surprise,
                Err(e) => Answer::Failed(e),
            },
            _ => answer,
        }
    }

    fn failed(&self, error: &ObserveError) -> Ended {
        tracing::warn!("{}: {error}", self.cr);
        match error {
            ObserveError::Api(e) => Ended::Failed(e.retry_after),
            ObserveError::Undecodable(_) => Ended::Failed(None),
        }
    }
}

fn until_then(until: Time, now: Time) -> Duration {
    // A second more: times are whole seconds, and the decision is to be another one then.
    Duration::from_secs(u64::try_from(until.0.saturating_sub(now.0)).unwrap_or(0).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Guard, Kind};
    use serde_json::json;

    #[test]
    fn what_is_done_about_an_answer() {
        let key = Key::new(Kind::Pod, "velero", "a");
        let create = Write::Create { key: key.clone(), object: json!({}) };
        let guard = Guard { uid: "u".to_owned(), resource_version: "1".to_owned() };
        let patch = Write::Patch { key, guard, patch: json!({}) };
        let failed = |refusal| Err(ApiError::new(refusal, "create", "m".to_owned()));
        assert!(matches!(answer(Ok(Applied::Done), &create), Answer::Done));
        assert!(matches!(answer(Ok(Applied::LookAgain), &create), Answer::Surprise));
        assert!(matches!(answer(failed(Refusal::Invalid), &create), Answer::Impossible(_)));
        assert!(matches!(answer(failed(Refusal::Invalid), &patch), Answer::Failed(_)));
        for refusal in [Refusal::Forbidden, Refusal::Busy, Refusal::Unavailable] {
            assert!(matches!(answer(failed(refusal), &create), Answer::Failed(_)), "{refusal:?}");
        }
    }

    #[test]
    fn a_decision_that_changes_by_itself_is_looked_at_after_it_did() {
        assert_eq!(until_then(Time(110), Time(100)), Duration::from_secs(11));
        assert_eq!(until_then(Time(90), Time(100)), Duration::from_secs(1));
    }
}

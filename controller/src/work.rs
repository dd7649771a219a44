//! One CR: looked at and acted on, until it is somebody else's turn.

use crate::apply::Applied;
use crate::glance::{Glance, Own};
use crate::mirror::Mirror;
use crate::observe::{Memory, ObserveError, View};
use crate::queue::Ended;
use crate::reconcile::{Action, Limits, QUEUED, Step, Write, unreadable};
use crate::tell::Said;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch::Receiver;
use wherry_api::Time;
use wherry_api::api::{ApiError, Key, Refusal};
use wherry_api::events::REFUSED;
use wherry_api::kube_api::KubeApi;

/// Steps in a row before others get their turn. An upload has 17 and some of removal.
const STEPS: u32 = 60;
/// So often is looked again at once when the cluster was not as it had been.
const SURPRISES: u32 = 3;
/// The server ends what it does for a request after 60 s: later, nothing appears that a lost one was to make.
pub(crate) const UNSURE: Duration = Duration::from_secs(65);

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
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) limits: Limits,
    pub(crate) cr: Key,
    /// Its uid.
    pub(crate) uid: String,
    /// To whoever sends Events.
    pub(crate) told: UnboundedSender<Said>,
    /// Says when to stop: no write is begun after that.
    pub(crate) stop: Receiver<bool>,
    /// Until when no other replica acts, and so no write is begun after that. `None`: another one may.
    pub(crate) held: Receiver<Option<Instant>>,
}

/// How work on a CR ended, for the loop.
#[derive(Debug)]
pub(crate) struct Done {
    /// uid of the CR.
    pub(crate) uid: String,
    pub(crate) memory: Memory,
    /// What was written.
    pub(crate) own: Own,
    pub(crate) ended: Ended,
    pub(crate) reached: Reached,
}

/// What the CR came to, whatever the watch still says.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Reached {
    /// It is Accepted now.
    pub(crate) accepted: bool,
    /// It waits for admission alone.
    pub(crate) ready: bool,
    /// It is Canceled now.
    pub(crate) canceled: bool,
}

/// What an answer means for the CR.
enum Answer {
    Done,
    /// Look again at once.
    Surprise,
    /// What was to be made will never be taken.
    Impossible(String),
    /// It is not taken now: by a quota, an admission policy, or for want of a right.
    Forbidden(ApiError),
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
        Err(e) if e.refusal == Refusal::Forbidden => Answer::Forbidden(e),
        Err(e) => Answer::Failed(e),
    }
}

fn is_create(write: &Write) -> bool {
    matches!(write, Write::Create { .. })
}

/// What is done where something could not be made: the CR fails, at once or when it has waited for too long, whatever kept it
/// from being made; a webhook that answers with an error does, too. So does what may not be changed while the volume is exposed: it keeps
/// a place. Later the data may be whole already, and only its last marks be denied. `None`: it waits.
fn instead(view: &View, write: &Write, answer: &Answer) -> Option<Step> {
    match answer {
        Answer::Impossible(message) => view.refused(message),
        Answer::Forbidden(e) if is_create(write) || view.is_accepted() => view.forbidden(&e.to_string()),
        Answer::Failed(e) if is_create(write) => view.forbidden(&e.to_string()),
        _ => None,
    }
}

impl Work {
    /// Neither is this process to end, nor may another one act.
    fn may_act(&self) -> bool {
        !*self.stop.borrow() && self.held.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Goes on with the CR as far as it can. What is remembered is for the next time.
    pub(crate) async fn go_on(&self, mut memory: Memory) -> Done {
        let mut reached = Reached::default();
        let glance = Glance::new(&self.api, &self.mirror, &self.cr);
        let ended = self.go_on_until(&glance, &mut memory, &mut reached).await;
        Done { uid: self.uid.clone(), memory, own: glance.own(), ended, reached }
    }

    async fn go_on_until(&self, glance: &Glance<'_, KubeApi>, memory: &mut Memory, reached: &mut Reached) -> Ended {
        let mut surprises = 0;
        for _ in 0..STEPS {
            if !self.may_act() {
                return Ended::Waits(None);
            }
            let (view, step) = match glance.decide(&self.cr, &self.limits, time(), memory).await {
                Ok(Some(decided)) => decided,
                Ok(None) => return Ended::Settled,
                Err(ObserveError::UndecodableCr { object, reason }) => {
                    return self.give_up(glance, &object, &reason, memory).await;
                }
                Err(e) => return self.failed(&e),
            };
            let (action, write) = match step {
                Step::Ignore | Step::Nothing => return Ended::Settled,
                Step::Wait { why, until, told } => {
                    tracing::debug!("{}: waits: {why}", self.cr);
                    reached.ready = why == QUEUED;
                    let until = until.map(|until| until_then(until, time()));
                    return if told { Ended::Told(until) } else { Ended::Waits(until) };
                }
                Step::Do(action, write) => (action, write),
            };
            if let Some(until) = unsure(memory.unsure_until, action, time()) {
                tracing::debug!("{}: waits: what a lost request was to make may still appear", self.cr);
                return Ended::Waits(Some(until));
            }
            // The look took its time.
            if !self.may_act() {
                return Ended::Waits(None);
            }
            match self.act(glance, &view, action, &write, memory).await {
                Answer::Done => {
                    surprises = 0;
                    reached.accepted |= action == Action::Accept;
                    // What is to be removed has time: others may wait to be Canceled.
                    if action == Action::Cancel {
                        reached.canceled = true;
                        return Ended::Waits(Some(Duration::ZERO));
                    }
                }
                Answer::Surprise if surprises < SURPRISES => surprises += 1,
                Answer::Surprise => return self.blocked(glance, &view, &write, memory).await,
                Answer::Impossible(_) => return Ended::Failed(None),
                Answer::Forbidden(e) | Answer::Failed(e) => return self.failed(&ObserveError::Api(e)),
            }
        }
        Ended::Waits(Some(Duration::ZERO))
    }

    /// Writes; where that fails the CR, and stands, people are told.
    async fn apply(
        &self,
        glance: &Glance<'_, KubeApi>,
        write: &Write,
        memory: &mut Memory,
    ) -> Result<Applied, ApiError> {
        let applied = glance.apply(write, memory).await;
        if let (Ok(Applied::Done), Some(said)) = (&applied, Said::of(write, &self.uid)) {
            let _ = self.told.send(said);
        }
        applied
    }

    async fn act(
        &self,
        glance: &Glance<'_, KubeApi>,
        view: &View,
        action: Action,
        write: &Write,
        memory: &mut Memory,
    ) -> Answer {
        tracing::info!("{}: {action}", self.cr);
        let applied = self.apply(glance, write, memory).await;
        match &applied {
            Ok(applied) => memory.note(write, *applied),
            Err(e) => memory.note_refusal(e),
        }
        let answer = answer(applied, write);
        match &answer {
            Answer::Impossible(message) => tracing::warn!("{}: {action}: {message}", self.cr),
            Answer::Forbidden(e) => {
                let (about, uid, message) = (self.cr.clone(), self.uid.clone(), format!("{action}: {e}"));
                // Nobody sends it where the process ends.
                let _ = self.told.send(Said { about, uid, reason: REFUSED, message });
            }
            Answer::Failed(e) if is_create(write) && e.refusal == Refusal::Unavailable => {
                memory.unsure_until = Some(time().after(UNSURE));
            }
            _ => {}
        }
        match instead(view, write, &answer) {
            Some(Step::Do(_, write)) if self.may_act() => match self.apply(glance, &write, memory).await {
                Ok(Applied::Done) => Answer::Done,
                Ok(Applied::LookAgain) => Answer::Surprise,
                Err(e) => Answer::Failed(e),
            },
            _ => answer,
        }
    }

    /// What was to be made is there again and again, and is not ours: it is not waited for longer than for anything else.
    async fn blocked(&self, glance: &Glance<'_, KubeApi>, view: &View, write: &Write, memory: &mut Memory) -> Ended {
        let Write::Create { key, .. } = write else { return Ended::Failed(None) };
        let said = format!("{key} is there, and this object does not own it: remove it, so that it can be made anew");
        tracing::warn!("{}: {said}", self.cr);
        match view.forbidden(&said) {
            Some(Step::Do(_, write)) if self.may_act() => match self.apply(glance, &write, memory).await {
                Ok(_) => Ended::Waits(Some(Duration::ZERO)),
                Err(e) => self.failed(&ObserveError::Api(e)),
            },
            _ => Ended::Failed(None),
        }
    }

    /// A CR of ours that nobody can read fails, saying so, rather than to wait until Velero's timeout.
    async fn give_up(&self, glance: &Glance<'_, KubeApi>, object: &Value, reason: &str, memory: &mut Memory) -> Ended {
        tracing::warn!("{}: {reason}", self.cr);
        let Some(write) = unreadable(&self.cr, object, &self.limits, reason, time()) else { return Ended::Settled };
        if !self.may_act() {
            return Ended::Waits(None);
        }
        match self.apply(glance, &write, memory).await {
            Ok(_) => Ended::Waits(None),
            Err(e) => self.failed(&ObserveError::Api(e)),
        }
    }

    fn failed(&self, error: &ObserveError) -> Ended {
        tracing::warn!("{}: {error}", self.cr);
        match error {
            ObserveError::Api(e) => Ended::Failed(e.retry_after),
            ObserveError::Undecodable(_) | ObserveError::UndecodableCr { .. } => Ended::Failed(None),
        }
    }
}

/// The end of a CR waits until nothing of it can appear any more: then nobody would remove it. So long.
fn unsure(until: Option<Time>, action: Action, now: Time) -> Option<Duration> {
    let until = until.filter(|until| matches!(action, Action::Release | Action::Complete) && *until > now)?;
    Some(until_then(until, now))
}

/// `now` is the second that has begun, so that after this `until` has come. Never at once: a clock that was set back must not
/// make it turn.
fn until_then(until: Time, now: Time) -> Duration {
    Duration::from_secs(u64::try_from(until.0.saturating_sub(now.0)).unwrap_or(0).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{DownloadView, Host};
    use serde_json::json;
    use std::collections::BTreeMap;
    use wherry_api::api::{Guard, Kind};
    use wherry_api::client::{Access, Client, Token};
    use wherry_api::{DataDownload, Phase, Settings};

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
        assert!(matches!(answer(failed(Refusal::Forbidden), &create), Answer::Forbidden(_)));
        assert!(matches!(answer(failed(Refusal::Forbidden), &patch), Answer::Forbidden(_)));
        for refusal in [Refusal::Busy, Refusal::Unavailable] {
            assert!(matches!(answer(failed(refusal), &create), Answer::Failed(_)), "{refusal:?}");
        }
    }

    /// A webhook that is down makes the server answer 500, which tells nobody whether it was done.
    #[test]
    fn whatever_keeps_something_from_being_made_is_said_in_time() {
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let mut cr = DataDownload::default();
        (cr.status.phase, cr.status.accepted_timestamp) = (Phase::Accepted, Some(Time(100)));
        let view_in = |phase: Phase, now: Time| {
            let mut cr = cr.clone();
            (cr.status.phase, cr.metadata.creation_timestamp) = (phase, Some(Time(90)));
            View::Download(Box::new(DownloadView {
                now,
                limits: limits.clone(),
                admitted: true,
                cancel_since: None,
                cr,
                target: None,
                claims: Vec::new(),
                volumes: Vec::new(),
                pods: Vec::new(),
                attachments: Vec::new(),
                class: None,
                host: Host::default(),
            }))
        };
        let view = |now: Time| view_in(Phase::Accepted, now);
        let late = Time(100).after(limits.prepare);
        let key = Key::new(Kind::Pod, "velero", "a");
        let create = Write::Create { key: key.clone(), object: json!({}) };
        let patch = Write::Patch {
            key,
            guard: Guard { uid: String::new(), resource_version: String::new() },
            patch: json!({}),
        };
        for refusal in [Refusal::Unavailable, Refusal::Busy, Refusal::Forbidden] {
            let failed =
                |write: &Write| answer(Err(ApiError::new(refusal, "create Pod", "webhook down".to_owned())), write);
            assert_eq!(instead(&view(Time(late.0 - 1)), &create, &failed(&create)), None, "{refusal:?}");
            let Some(Step::Do(Action::Fail, Write::Patch { patch: said, .. })) =
                instead(&view(late), &create, &failed(&create))
            else {
                panic!("{refusal:?}: it goes on waiting");
            };
            assert_eq!(said["status"]["message"], "not prepared within 1800 s: create Pod: webhook down");
            // What is changed, too, if it is not allowed, and the volume not exposed yet.
            assert_eq!(instead(&view(Time(late.0 - 1)), &patch, &failed(&patch)), None, "{refusal:?}");
            let changed = instead(&view(late), &patch, &failed(&patch));
            assert_eq!(changed.is_some(), refusal == Refusal::Forbidden, "{refusal:?}");
            let end = Time(90).after(limits.item);
            assert!(instead(&view_in(Phase::InProgress, end), &create, &failed(&create)).is_some(), "{refusal:?}");
            assert_eq!(instead(&view_in(Phase::InProgress, end), &patch, &failed(&patch)), None, "{refusal:?}");
        }
    }

    #[test]
    fn nothing_is_let_go_while_something_of_it_may_appear() {
        let (until, now) = (Some(Time(165)), Time(100));
        for action in [Action::Release, Action::Complete] {
            assert_eq!(unsure(until, action, now), Some(Duration::from_secs(65)));
            assert_eq!(unsure(until, action, Time(165)), None);
            assert_eq!(unsure(None, action, now), None);
        }
        assert_eq!(unsure(until, Action::RemovePod, now), None);
    }

    #[test]
    fn nothing_is_begun_once_another_one_may_act_or_this_one_is_to_end() {
        let access = Access {
            server: "https://127.0.0.1:1".to_owned(),
            authorities: Vec::new(),
            token: Token::Fixed(String::new()),
        };
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let (ask, stop) = tokio::sync::watch::channel(false);
        let (hold, held) = tokio::sync::watch::channel(None);
        let cr = Key::new(Kind::DataUpload, "velero", "a");
        let (api, told) = (KubeApi::new(Client::new(access).unwrap()), tokio::sync::mpsc::unbounded_channel().0);
        let work = Work { api, mirror: Arc::default(), limits, cr, uid: String::new(), told, stop, held };
        assert!(!work.may_act());
        hold.send(Some(Instant::now() + Duration::from_secs(3600))).unwrap();
        assert!(work.may_act());
        hold.send(Some(Instant::now())).unwrap();
        assert!(!work.may_act());
        hold.send(Some(Instant::now() + Duration::from_secs(3600))).unwrap();
        ask.send(true).unwrap();
        assert!(!work.may_act());
    }

    #[test]
    fn a_decision_that_changes_by_itself_is_looked_at_when_it_does() {
        assert_eq!(until_then(Time(110), Time(100)), Duration::from_secs(10));
        assert_eq!(until_then(Time(90), Time(100)), Duration::from_secs(1));
        // Canceled at the end of a second, seen in it: within ten seconds with those that the writes take.
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let (seen, pause) = (Time(100), until_then(Time(100).after(limits.cancel), Time(100)));
        assert!(seen.after(pause) >= seen.after(limits.cancel) && pause <= Duration::from_secs(8), "{pause:?}");
    }
}

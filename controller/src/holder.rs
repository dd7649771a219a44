//! Keeps the Lease: waits for it, renews it, and says until when it is ours.

use crate::apply::{Applied, apply};
use crate::lease::{Elector, GIVE_UP, RENEW, Turn, is_given_back};
use crate::reconcile::Write;
use crate::run::{RETRY, RunError, in_time};
use crate::work::time;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch::{Receiver, Sender, channel};
use wherry_api::api::{Api, ApiError, guarded};
use wherry_api::health::Beat;
use wherry_api::kube_api::KubeApi;
use wherry_api::watch::{Seen, Selection, follow_as};

/// One that waits for the Lease and gets no answer for so long ends: it may have been started with what the server does
/// not take any more, and only a start reads that anew.
pub(crate) const NO_ANSWER: Duration = Duration::from_secs(300);

/// The Lease and how long it is ours.
pub(crate) struct Holder {
    api: KubeApi,
    elector: Elector,
    /// As our last write left it.
    lease: Option<Value>,
    /// Until when no other replica can act, by the last time it was renewed. `None`: it is not ours.
    held: Sender<Option<Instant>>,
    /// When the server answered last.
    answered: Instant,
    /// Where probes are answered while it waits: one that waits is as ready as it gets.
    beat: Option<Arc<Beat>>,
}

impl Holder {
    pub(crate) fn new(api: KubeApi, namespace: &str, identity: &str, beat: Option<Arc<Beat>>) -> Self {
        let elector = Elector::new(namespace, identity);
        Self { api, elector, lease: None, held: channel(None).0, answered: Instant::now(), beat }
    }

    /// Until when no other replica can act, now and later.
    pub(crate) fn held(&self) -> Receiver<Option<Instant>> {
        self.held.subscribe()
    }

    /// Until it is ours; `false`: it is to end.
    pub(crate) async fn wait(&mut self, mut stop: Receiver<bool>) -> Result<bool, RunError> {
        let mut seen = None;
        loop {
            if *stop.borrow() {
                return Ok(false);
            }
            let begin = Instant::now();
            if self.renew().await {
                return Ok(true);
            }
            // It may be free, and nobody would tell of it again.
            let pause = if self.answered < begin { RETRY } else { RENEW };
            if let Some(beat) = &self.beat {
                beat.beat(self.answered.elapsed() < GIVE_UP);
            }
            if self.answered.elapsed() > NO_ANSWER {
                return Err(RunError::NoAnswer);
            }
            // One that was given back is taken at once: meanwhile nobody acts, and a cancel would wait.
            let seen = seen.get_or_insert_with(|| self.follow());
            let free = async {
                loop {
                    match seen.recv().await {
                        Some(Seen::Changed(_, true)) => break,
                        // Given back before the watch began. One that is gone was not: its holder may act for a while.
                        Some(Seen::Listed(_, leases)) if leases.contains(&true) => break,
                        Some(_) => {}
                        None => std::future::pending().await,
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = free => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Tells of each change of it whether it was given back, until nobody listens any more.
    fn follow(&self) -> UnboundedReceiver<Seen<bool>> {
        let key = self.elector.key();
        let of = Selection { kind: key.kind, namespace: key.namespace, label: String::new(), name: key.name };
        let (to, seen) = unbounded_channel();
        tokio::spawn(follow_as(self.api.clone(), of, None, to, |_, lease| is_given_back(&lease)));
        seen
    }

    /// Makes, takes or renews it. `false`: it is not ours, or nobody knows.
    pub(crate) async fn renew(&mut self) -> bool {
        // The time before the request: what the server did later than that is on the safe side.
        let begin = Instant::now();
        match in_time(self.try_renew(begin)).await {
            Ok(ours) => {
                self.answered = begin;
                self.held.send_replace(ours.then(|| begin + GIVE_UP));
                ours
            }
            Err(e) => {
                tracing::warn!("{e}");
                self.lease = None;
                false
            }
        }
    }

    async fn try_renew(&mut self, now: Instant) -> Result<bool, ApiError> {
        let key = self.elector.key();
        let lease = match self.lease.take() {
            Some(lease) => Some(lease),
            None => self.api.get(&key).await?,
        };
        match self.elector.turn(lease.as_ref(), now, time()) {
            Turn::Theirs(who) => {
                tracing::debug!("{who} acts");
                Ok(false)
            }
            Turn::Write(Write::Patch { guard, patch, .. }) => {
                self.lease = Some(self.api.patch(&key, &guarded(&patch, &guard)).await?);
                Ok(true)
            }
            Turn::Write(write) => apply(&self.api, &write).await.map(|applied| applied == Applied::Done),
        }
    }

    /// No other replica can act yet.
    pub(crate) fn is_held(&self) -> bool {
        self.held.borrow().is_some_and(|until| Instant::now() < until)
    }

    pub(crate) async fn release(&self) {
        let given = async {
            if let Ok(Some(lease)) = self.api.get(&self.elector.key()).await
                && let Some(write) = self.elector.release(&lease)
            {
                let _ = apply(&self.api, &write).await;
            }
        };
        // Without it the next one waits a little longer.
        let _ = tokio::time::timeout(Duration::from_secs(5), given).await;
    }
}

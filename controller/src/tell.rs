//! Events: sent one after the other, beside the loop, which waits for none of them. An Event that is lost is no harm.

use crate::reconcile::Write;
use crate::run::in_time;
use crate::work::time;
use std::collections::BTreeSet;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch::Receiver;
use wherry_api::Phase;
use wherry_api::api::{Api, Key, Kind, Refusal};
use wherry_api::events::{FAILED, Reason, Source, event};
use wherry_api::kube_api::KubeApi;

/// More than that are not kept in mind; then one may be sent again, and meets itself by its name.
const KEPT: usize = 10_000;

/// An Event that is due.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    /// The CR.
    pub(crate) about: Key,
    /// Its uid.
    pub(crate) uid: String,
    /// Why.
    pub(crate) reason: Reason,
    /// The text.
    pub(crate) message: String,
}

impl Said {
    /// The name of the Event: that of the CR, and what makes it one for each reason, whoever sends it.
    fn name(&self) -> String {
        let uid: String = self.uid.chars().take(8).collect();
        format!("{}.{uid}.{}", self.about.name, self.reason.word.to_lowercase())
    }

    /// What a write that was done is to people, if it is one that fails the CR.
    pub(crate) fn of(write: &Write, uid: &str) -> Option<Self> {
        let Write::Patch { key, patch, .. } = write else { return None };
        let status = &patch["status"];
        let failed =
            status["phase"] == Phase::Failed.as_str() && matches!(key.kind, Kind::DataUpload | Kind::DataDownload);
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        failed.then(|| Self { about: key.clone(), uid: uid.to_owned(), reason: FAILED, message })
    }
}

/// Sends what comes, each reason of each CR once, as long as no other replica may act.
pub(crate) async fn tell(api: KubeApi, mut due: UnboundedReceiver<Said>, held: Receiver<Option<Instant>>) {
    let mut sent = BTreeSet::new();
    while let Some(said) = due.recv().await {
        if sent.len() >= KEPT {
            sent.clear();
        }
        if !sent.insert((said.uid.clone(), said.reason.word)) {
            continue;
        }
        if !held.borrow().is_some_and(|until| Instant::now() < until) {
            continue;
        }
        let Said { about, uid, reason, message } = &said;
        tracing::info!("{about}: Event {}: {message}", reason.word);
        let name = said.name();
        let of = Source { component: "wherry-controller", host: "" };
        let object = event(&name, about, uid, of, *reason, message, time());
        match in_time(api.create(&Key::new(Kind::Event, &about.namespace, &name), &object)).await {
            Ok(_) => {}
            Err(e) if e.refusal == Refusal::Exists => {}
            Err(e) => tracing::debug!("{e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wherry_api::api::Guard;

    #[test]
    fn a_write_that_fails_a_cr_is_told_with_its_message() {
        let patch = |kind: Kind, phase: &str| Write::Patch {
            key: Key::new(kind, "velero", "a"),
            guard: Guard { uid: "u".to_owned(), resource_version: "1".to_owned() },
            patch: json!({ "status": { "phase": phase, "message": "no room" } }),
        };
        let said = Said::of(&patch(Kind::DataUpload, "Failed"), "0123456789").unwrap();
        assert_eq!((said.reason, said.message.as_str()), (FAILED, "no room"));
        assert_eq!(said.name(), "a.01234567.failed");
        assert_eq!(Said::of(&patch(Kind::DataUpload, "Canceled"), "u"), None);
        assert_eq!(Said::of(&patch(Kind::Pod, "Failed"), "u"), None);
    }
}

//! Who of those that wait may begin now: what the loop knows of all CRs, and which nodes have an agent.

use super::{Loop, in_time};
use crate::admission::{self, Active, Waiting};
use crate::known::Known;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::cluster::Pod;
use wherry_api::decode::decode_all;
use wherry_api::settings::Settings;
use wherry_api::{Phase, Time, names};

/// It is reckoned anew after so long, if nothing changes before: agents come and go.
const RECKON: Duration = Duration::from_secs(15);
/// Agents that nobody told of are asked for again after so long; those that are known count so long for who may begin.
const ASK: Duration = Duration::from_secs(5);

impl Loop {
    /// Where a place may have become free: who may begin is reckoned anew, and looked at at once.
    pub(super) async fn let_begin(&mut self) {
        let is_known = self.admission.as_ref().is_some_and(|(since, _)| since.elapsed() < RECKON);
        let Some(settings) = self.settings.clone().filter(|_| !is_known) else { return };
        let waits = |(key, known): &(&Key, &Known)| {
            known.ours && known.queued && !self.unready.contains(key) && !self.accepted.contains(key)
        };
        if !self.known.iter().any(|one| waits(&one)) {
            self.admission = Some((Instant::now(), BTreeSet::new()));
            return;
        }
        let found = self.admitted(None, &settings).await;
        for (key, _) in self.known.iter().filter(|(_, known)| known.queued && found.contains(&known.uid)) {
            self.queue.changed(key, Instant::now());
        }
        self.admission = Some((Instant::now(), found));
    }

    /// uids of those that may begin; with one of the unready ones, if that is to be looked at.
    pub(super) async fn admitted(&mut self, of: Option<&Key>, settings: &Settings) -> BTreeSet<String> {
        let ours = || self.known.iter().filter(|(_, known)| known.ours);
        let begins = |key: &Key| self.work.values().any(|(other, admitted)| other == key && *admitted);
        let waiting: Vec<Waiting> = ours()
            .filter(|(key, known)| known.queued && !begins(key) && !self.accepted.contains(key))
            .filter(|(key, _)| Some(*key) == of || !self.unready.contains(key))
            .map(|(key, known)| Waiting {
                uid: known.uid.clone(),
                work: known.work,
                // One that is not ready, for whatever reason, keeps nobody waiting.
                deadline: match self.unready.contains(key) {
                    true => Time(i64::MAX),
                    false => known.created.unwrap_or_default().after(settings.item_timeout),
                },
                nodes: None,
            })
            .collect();
        let active: Vec<Active> = ours()
            .filter(|(key, known)| match known.phase {
                Phase::New => begins(key) || self.accepted.contains(key),
                _ => !known.phase.is_terminal(),
            })
            .map(|(_, known)| Active {
                work: known.work,
                node: Some(known.node.clone()).filter(|node| !node.is_empty()),
                nodes: None,
            })
            .collect();
        let nodes = self.nodes().await;
        admission::admit(&waiting, &active, &nodes, settings)
    }

    /// Nodes whose agent answers; none if nobody says.
    async fn nodes(&mut self) -> BTreeSet<String> {
        self.agents_within(ASK).await.unwrap_or_default()
    }

    /// The same, as it was not longer ago than that. `None`: nobody says.
    pub(super) async fn agents_within(&mut self, age: Duration) -> Option<BTreeSet<String>> {
        if let Some((_, nodes)) = self.agents.as_ref().filter(|(since, _)| since.elapsed() < age) {
            return Some(nodes.clone());
        }
        // Each of hundreds that could not begin would wait for its own.
        if self.agents_unsaid.is_some_and(|since| since.elapsed() < ASK) {
            return None;
        }
        let pods: Result<Vec<Value>, ApiError> =
            in_time(self.api.list(Kind::Pod, &self.options.namespace, &[(names::AGENT_LABEL, "true")])).await;
        let nodes: BTreeSet<String> = match pods {
            Ok(pods) => {
                let (pods, _): (Vec<Pod>, _) = decode_all(Kind::Pod.word(), &pods);
                let answers = |pod: &Pod| {
                    let ready = pod.status.conditions.iter().find(|condition| condition.kind == "Ready");
                    !pod.metadata.is_going() && ready.is_none_or(|ready| ready.status == "True")
                };
                pods.into_iter().filter(answers).map(|pod| pod.spec.node_name).filter(|node| !node.is_empty()).collect()
            }
            Err(e) => {
                tracing::warn!("{e}");
                self.agents_unsaid = Some(Instant::now());
                return None;
            }
        };
        self.figures.agents(&nodes);
        self.agents = Some((Instant::now(), nodes.clone()));
        Some(nodes)
    }
}

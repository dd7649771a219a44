//! The node of an attempt, and its agent.

use crate::memory::Memory;
use crate::observe::ObserveError;
use crate::reconcile::{Agent, Host};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::cluster::{Node, Pod};
use wherry_api::decode::{decode, decode_all};
use wherry_api::{Time, names};

/// The node where an attempt is: that of its pod of that name. Where the pod is gone, the one that `status.node` says: an agent may have
/// begun there, and a pod that somebody takes away by force ends nothing on a node that nobody reaches. Empty: none yet.
pub(crate) fn current_node<'a>(name: &str, pods: &'a [Pod], said: &'a str) -> &'a str {
    let pod = pods.iter().find(|pod| pod.metadata.name == name);
    pod.map_or(said, |pod| pod.spec.node_name.as_str())
}

/// Looks at a node, and at its agent in that namespace.
///
/// # Errors
/// Those of the API; a Node that cannot be read.
pub(crate) async fn host<A: Api>(
    api: &A,
    namespace: &str,
    node_name: &str,
    memory: Memory,
    now: Time,
) -> Result<Host, ObserveError> {
    if node_name.is_empty() {
        return Ok(Host::default());
    }
    let Some(node) = api.get(&Key::new(Kind::Node, "", node_name)).await? else {
        return Ok(Host { gone: true, ..Host::default() });
    };
    let node: Node = decode(Kind::Node.word(), &node)?;
    let ready = node.status.conditions.iter().find(|condition| condition.kind == "Ready");
    let agents = api.list(Kind::Pod, namespace, &[(names::AGENT_LABEL, "true")]).await?;
    let (agents, _): (Vec<Pod>, _) = decode_all(Kind::Pod.word(), &agents);
    let agent = match agents.iter().find(|agent| agent.spec.node_name == node_name) {
        None => Agent::Gone(memory.agent_gone_since.unwrap_or(now)),
        Some(agent) => match agent.status.conditions.iter().find(|condition| condition.kind == "Ready") {
            Some(condition) if condition.status != "True" => Agent::Silent,
            _ => Agent::Ready,
        },
    };
    Ok(Host {
        gone: node.spec.taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service"),
        not_ready_since: ready.filter(|c| c.status != "True").map(|c| c.last_transition_time.unwrap_or(now)),
        agent,
    })
}

//! The Job that is made, and the Event that is written.

use crate::reconcile::place;
use serde_json::{Value, json};
use wherry_api::api::{Key, Kind};
use wherry_api::events::{self, Reason, Source};
use wherry_api::job::{self, JobKind};
use wherry_api::settings::JOB_CPU;
use wherry_api::{Settings, Time, names};

/// Of what a Job may use so much is what its process reckons with; the rest is for what it cannot reckon.
const SHARE: (u64, u64) = (3, 4);
/// A pod that fails is tried again so often.
const TRIES: u32 = 2;

/// Name of a Job: from the one before it, so that two controllers make one.
pub(super) fn name(kind: JobKind, repository: &str, after: Option<Time>) -> String {
    let repository: String = repository.chars().take(12).collect();
    format!("wherry-{kind}-{repository}-{}", after.map_or(0, |after| after.0))
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs())
}

/// The Job. Nothing in it is secret: credentials and key are read by the process itself, as its account.
pub(super) fn job(
    namespace: &str,
    kind: JobKind,
    location: &str,
    repository: &str,
    after: Option<Time>,
    settings: &Settings,
) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "wherry", "app.kubernetes.io/component": "job",
        job::JOB: kind.word(), job::REPOSITORY: repository, names::EXCLUDE: "true",
    });
    let annotations = json!({ job::LOCATION: location });
    let mut command = vec![
        "/usr/bin/wherry".to_owned(),
        "--no-cache".to_owned(),
        format!("--memory={}", settings.job_memory / SHARE.1 * SHARE.0),
        "job".to_owned(),
        kind.word().to_owned(),
        format!("--namespace={namespace}"),
        format!("--location={location}"),
    ];
    match kind {
        JobKind::Forget => {
            command.push(format!("--delay={}", seconds(settings.forget_delay)));
            command.push(format!("--missing-for={}", seconds(settings.missing_for)));
        }
        JobKind::Gc => command.push(format!("--grace={}", seconds(settings.gc_grace))),
    }
    let memory = settings.job_memory.to_string();
    let mut limits = json!({ "memory": memory });
    if !settings.job_cpu.is_empty() {
        limits["cpu"] = json!(settings.job_cpu);
    }
    let mut container = json!({
        "name": "job", "image": settings.hosting_image, "imagePullPolicy": "IfNotPresent", "command": command,
        "resources": { "requests": { "cpu": format!("{JOB_CPU}m"), "memory": memory }, "limits": limits },
        // Where it left no result, its last words are in the pod.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    if !settings.job_env.0.is_empty() {
        container["env"] = json!(settings.job_env);
    }
    let mut pod = json!({
        "restartPolicy": "Never",
        "serviceAccountName": job::ACCOUNT,
        "containers": [container],
        "volumes": [{ "name": "tmp", "emptyDir": {} }],
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
    });
    // Nobody of the node. Where the cluster gives each namespace users of its own, a pod that names another is refused.
    if let Some(user) = settings.job_user {
        (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) = (json!(user), json!(user));
    }
    place(&mut pod, &settings.pull_secrets, &settings.job_tolerations, &settings.job_node_selector);
    let mut pod_labels = labels.clone();
    settings.job_labels.iter().for_each(|(key, value)| pod_labels[key] = json!(value));
    let mut spec = json!({
        "backoffLimit": TRIES,
        "template": { "metadata": { "labels": pod_labels, "annotations": annotations }, "spec": pod },
    });
    if !settings.job_timeout.is_zero() {
        spec["activeDeadlineSeconds"] = json!(settings.job_timeout.as_secs());
    }
    json!({
        "apiVersion": Kind::Job.api_version(), "kind": Kind::Job.word(),
        "metadata": {
            "name": name(kind, repository, after), "namespace": namespace, "labels": labels, "annotations": annotations,
        },
        "spec": spec,
    })
}

/// An Event of a location. Its name says what was said and when: a second controller does not say it again.
pub(super) fn event(namespace: &str, location: &str, uid: &str, reason: Reason, message: &str, now: Time) -> Value {
    let name = format!("{location}.{}.{:x}", reason.word.to_lowercase(), now.0);
    let of = Source { component: "wherry-controller", host: "" };
    events::event(&name, &Key::new(Kind::Location, namespace, location), uid, of, reason, message, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_job_has_limits_and_nothing_secret() {
        let settings = Settings::parse(&BTreeMap::from([("jobMemory".to_owned(), "1Gi".to_owned())])).unwrap();
        let job = job("velero", JobKind::Forget, "default", &"ab".repeat(16), Some(Time(7)), &settings);
        assert_eq!(job["metadata"]["name"], "wherry-forget-abababababab-7");
        let pod = &job["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let memory = (1_u64 << 30).to_string();
        let asked = json!({ "requests": { "cpu": "50m", "memory": memory }, "limits": { "memory": memory } });
        assert_eq!(container["resources"], asked);
        let command: Vec<&str> =
            container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert!(command.contains(&"--memory=805306368") && command.contains(&"--delay=604800s"), "{command:?}");
        assert!(container.get("env").is_none() && pod["serviceAccountName"] == "wherry-jobs");
        assert!(pod.get("tolerations").is_none() && pod.get("imagePullSecrets").is_none());
        assert_eq!(
            (&pod["securityContext"]["runAsUser"], &pod["securityContext"]["runAsNonRoot"]),
            (&json!(65532), &json!(true))
        );
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 86_400);
        let untimed = Settings::parse(&BTreeMap::from([("jobTimeout".to_owned(), "0".to_owned())])).unwrap();
        assert!(super::job("v", JobKind::Gc, "d", "r", None, &untimed)["spec"].get("activeDeadlineSeconds").is_none());
    }

    /// What the bucket is reached with from the agents is of no use unless it is reached with it from Jobs, too.
    #[test]
    fn a_job_gets_what_settings_say_of_its_pod() {
        let data = [
            ("jobEnv", r#"[{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}]"#),
            ("jobLabels", r#"{"azure.workload.identity/use": "true"}"#),
            ("jobTolerations", r#"[{"operator": "Exists"}]"#),
            ("jobNodeSelector", r#"{"disk": "ssd"}"#),
            ("jobUser", ""),
            ("jobCpu", "1.5"),
            ("pullSecrets", "one, two"),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let job = job("velero", JobKind::Gc, "default", "r", None, &Settings::parse(&data).unwrap());
        let template = &job["spec"]["template"];
        let pod = &template["spec"];
        let labels = template["metadata"]["labels"].as_object().unwrap();
        assert!(labels["azure.workload.identity/use"] == "true" && labels[job::JOB] == "gc", "{labels:?}");
        // The watch of Jobs goes by its own.
        assert!(job["metadata"]["labels"].get("azure.workload.identity/use").is_none());
        assert_eq!(pod["containers"][0]["resources"]["limits"]["cpu"], "1.5");
        assert_eq!(pod["containers"][0]["env"][0]["value"], "http://proxy.example:3128");
        assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
        assert_eq!((&pod["nodeSelector"]["disk"], &pod["imagePullSecrets"][1]["name"]), (&json!("ssd"), &json!("two")));
        assert_eq!(
            pod["securityContext"],
            json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } })
        );
    }
}

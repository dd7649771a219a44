//! ValidatingAdmissionPolicies that deny what is made for a CR: it waits, says so in their words, and goes on once they are gone.

use crate::Stage;
use crate::replicas::Replica;
use crate::rights::USER;
use crate::scenes::{assert_clean, scene};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::kube_api::{path, path_of};
use wherry_tests::cluster::{Who, World};
use wherry_tests::hosted::PATIENCE;
use wherry_tests::kube::Kube;

const ROOT: &str = "/apis/admissionregistration.k8s.io/v1";
/// Kinds, and what they are called in paths.
const POLICY: (&str, &str) = ("ValidatingAdmissionPolicy", "validatingadmissionpolicies");
const BINDING: (&str, &str) = ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings");
const NAME: &str = "owners";
/// What it says to whoever it denies.
const WORDS: &str = "here nothing is made without an owner that pays for it";

/// A policy in force. Dropped, it is gone, and nothing is denied any more.
struct Policy<'a> {
    kube: &'a Kube,
    /// What it denies, tried; nothing comes of that.
    probe: Box<dyn Fn() -> Result<Value, ApiError> + 'a>,
}

impl<'a> Policy<'a> {
    /// Nothing of that kind is made in Velero's namespace by our names. `reason` is of those that a policy may give: each is
    /// another code.
    fn on_creation(kube: &'a Kube, kind: Kind, reason: &str) -> Self {
        let probe = Box::new(move || {
            let spec = match kind {
                Kind::Pod => {
                    json!({ "containers": [{ "name": "c", "image": "none" }], "automountServiceAccountToken": false })
                }
                _ => json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1" } } }),
            };
            let (version, word) = (kind.api_version(), kind.word());
            let object =
                json!({ "apiVersion": version, "kind": word, "metadata": { "name": "wherry-probe" }, "spec": spec });
            let path = format!("{}?dryRun=All", path(kind, "velero"));
            kube.ask(Method::POST, &path, Some(("application/json", object.to_string().into_bytes())))
        });
        Self::deny(kube, kind, "CREATE", "!object.metadata.name.startsWith('wherry-')", reason, probe)
    }

    /// The controller changes no VolumeSnapshotContent; of those there must be this one.
    fn on_contents(kube: &'a Kube, content: &str) -> Self {
        let controller = kube.account("velero", "wherry-controller");
        let path = format!("{}?dryRun=All", path_of(&Key::new(Kind::VolumeSnapshotContent, "", content)));
        let probe = Box::new(move || {
            let body = json!({ "metadata": { "labels": { "a": "b" } } }).to_string().into_bytes();
            let body = Some(("application/merge-patch+json", body));
            kube.wait(controller.client().send("try", Method::PATCH, &path, body))
        });
        let others = format!("request.userInfo.username != '{USER}'");
        Self::deny(kube, Kind::VolumeSnapshotContent, "UPDATE", &others, "Invalid", probe)
    }

    fn deny(
        kube: &'a Kube,
        kind: Kind,
        verb: &str,
        allowed: &str,
        reason: &str,
        probe: Box<dyn Fn() -> Result<Value, ApiError> + 'a>,
    ) -> Self {
        let this = Self { kube, probe };
        let plural = path(kind, "velero").rsplit('/').next().unwrap().to_owned();
        let version = kind.api_version();
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let rule = json!({ "apiGroups": [group], "apiVersions": ["v1"], "operations": [verb], "resources": [plural] });
        let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": "velero" } });
        let validation = json!({ "expression": allowed, "message": WORDS, "reason": reason });
        let constraints = json!({ "namespaceSelector": here, "resourceRules": [rule] });
        this.make(POLICY, json!({ "matchConstraints": constraints, "validations": [validation] }));
        this.make(BINDING, json!({ "policyName": NAME, "validationActions": ["Deny"] }));
        let begin = Instant::now();
        // The server sees it a moment later.
        while !this.denies() {
            assert!(begin.elapsed() < PATIENCE, "it is not in force: {:?}", (this.probe)());
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    fn denies(&self) -> bool {
        (self.probe)().is_err_and(|e| e.to_string().contains(WORDS))
    }

    fn make(&self, (kind, plural): (&str, &str), spec: Value) {
        let version = ROOT.trim_start_matches("/apis/");
        let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": NAME }, "spec": spec });
        let body = Some(("application/json", object.to_string().into_bytes()));
        self.kube.ask(Method::POST, &format!("{ROOT}/{plural}"), body).unwrap();
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        for (_, plural) in [BINDING, POLICY] {
            let _ = self.kube.ask(Method::DELETE, &format!("{ROOT}/{plural}/{NAME}"), None);
        }
        // Whoever has the stage next makes what it denied.
        let begin = Instant::now();
        while self.denies() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The message of the Event `Refused` of a CR.
fn refused(kube: &Kube, cr: &Key) -> Option<String> {
    let uid = kube.wait(kube.admin().get(cr)).unwrap()?["metadata"]["uid"].clone();
    let events = kube.wait(kube.admin().list(Kind::Event, &cr.namespace, &[])).unwrap();
    let of = |event: &&Value| event["reason"] == "Refused" && event["involvedObject"]["uid"] == uid;
    Some(events.iter().find(of)?["message"].as_str().unwrap().to_owned())
}

#[test]
fn what_a_policy_denies_is_made_once_that_is_gone() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    let mut policy = Some(Policy::on_creation(kube, Kind::Pod, "Invalid"));
    let world = World::on(stage.empty(), scene(false, (false, false)));
    let replica = Replica::start(&stage.real, "velero", "denied");
    let mut said = String::new();
    let outcome = world.play_with(|world| {
        if let Some(refused) = policy.as_ref().and_then(|_| refused(kube, &world.cr)) {
            let cr = world.server.get(&world.cr).unwrap();
            assert_eq!(cr["status"]["phase"], "Accepted", "{cr:#}");
            let pods = world.server.all(Kind::Pod);
            assert!(!pods.iter().any(|(key, _)| key.name.starts_with("wherry-")), "{pods:#?}");
            said = refused;
            policy = None;
        }
        world.agent_turn()
    });
    assert!(said.contains("422: pods \"wherry-") && said.contains(WORDS), "{said:?}\n{}", replica.log());
    assert_clean(&outcome, "denied, and then not");
    assert_eq!(outcome.phase, "Completed", "{}", replica.log());
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

/// With a prepare timeout of 2 s, and the policy for as long: how the CR ends is said in its words, after that code; and what was made
/// before is gone.
fn fails<'a>(stage: &'a Stage, download: bool, policy: impl FnOnce(&'a Kube) -> Policy<'a>, code: &str) {
    let kube = &stage.real.kube;
    let server = stage.empty();
    let settings = json!({ "metadata": { "name": "wherry" }, "data": { "prepareTimeout": "2s" } });
    server.create(Who::Velero, &Key::new(Kind::ConfigMap, "velero", "wherry"), &settings);
    let world = World::on(server, scene(download, (false, false)));
    let (server, cr) = (Arc::clone(&world.server), world.cr.clone());
    let _policy = policy(kube);
    let replica = Replica::start(&stage.real, "velero", "denied");
    let outcome = world.play();
    assert_clean(&outcome, "denied for too long");
    let status = server.get(&cr).unwrap()["status"].clone();
    let message = status["message"].as_str().unwrap_or_default();
    let begins = "not prepared within 2 s: ";
    assert!(
        status["phase"] == "Failed" && message.starts_with(begins) && message.contains(WORDS),
        "{status}\n{}",
        replica.log()
    );
    // Events are sent beside all else.
    let begin = Instant::now();
    while !refused(kube, &cr).is_some_and(|said| said.contains(code) && said.contains(WORDS)) {
        assert!(begin.elapsed() < PATIENCE, "{:?}\n{}", refused(kube, &cr), replica.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

#[test]
fn what_a_policy_denies_for_too_long_fails_the_cr_in_its_words() {
    let denied = |kube| Policy::on_creation(kube, Kind::Claim, "RequestEntityTooLarge");
    fails(&Stage::enter(), true, denied, "413: persistentvolumeclaims \"");
}

#[test]
fn so_does_a_change_that_a_policy_denies() {
    let denied = |kube| Policy::on_contents(kube, "snapcontent-1");
    fails(&Stage::enter(), false, denied, "422: volumesnapshotcontents.snapshot.storage.k8s.io \"snapcontent-1\"");
}

//! The five verbs give the same answers on the real server and in the model, so what is proven with the model holds.

use crate::Stage;
use serde_json::{Value, json};
use std::sync::Arc;
use wherry_api::api::{Api, Guard, Key, Kind, Refusal};
use wherry_tests::cluster::{Client, Server, Who};

/// What there is to compare of an object after a call.
fn seen(server: &Server, key: &Key) -> Value {
    server.get(key).map_or(Value::Null, |object| {
        let meta = &object["metadata"];
        json!({
            "finalizers": meta["finalizers"], "labels": meta["labels"], "going": meta["deletionTimestamp"].is_string(),
            "spec": object["spec"]["cancel"], "policy": object["spec"]["persistentVolumeReclaimPolicy"],
            "phase": object["status"]["phase"],
        })
    })
}

fn upload(name: &str) -> Value {
    json!({
        "apiVersion": "velero.io/v2alpha1", "kind": "DataUpload", "metadata": { "name": name, "namespace": "velero" },
        "spec": {
            "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "data", "backupStorageLocation": "default",
            "operationTimeout": "10m0s", "datamover": "wherry",
        },
    })
}

fn claim(name: &str, storage: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "namespace": "velero" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": storage } } },
    })
}

fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "4096" },
            "persistentVolumeReclaimPolicy": "Delete", "csi": { "driver": "lab.csi", "volumeHandle": "v" },
        },
    })
}

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "velero" },
        "spec": { "containers": [{ "name": "hold", "image": image }] },
    })
}

/// One server, and what was answered on it.
struct Side {
    server: Arc<Server>,
    client: Client,
    answers: Vec<String>,
}

impl Side {
    fn new(server: Server) -> Self {
        let server = Arc::new(server);
        let client = Client::new(&server, Who::Agent, None);
        Self { server, client, answers: Vec::new() }
    }

    fn guard(&self, key: &Key) -> Guard {
        let object = self.server.get(key).unwrap_or_default();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Guard { uid: text("uid"), resource_version: text("resourceVersion") }
    }

    fn note(&mut self, what: &str, key: &Key, answer: Result<(), wherry_api::api::ApiError>) {
        let answer = match answer {
            Ok(()) => "done".to_owned(),
            Err(e) => format!("{:?}", e.refusal),
        };
        self.answers.push(format!("{what} {key}: {answer}; {}", seen(&self.server, key)));
    }

    fn create(&mut self, what: &str, key: &Key, object: &Value) {
        let answer = now(self.client.create(key, object)).map(drop);
        self.note(what, key, answer);
    }

    fn patch(&mut self, what: &str, key: &Key, guard: &Guard, patch: &Value) {
        let mut patch = patch.clone();
        if !patch["metadata"].is_object() {
            patch["metadata"] = json!({});
        }
        patch["metadata"]["uid"] = json!(guard.uid);
        patch["metadata"]["resourceVersion"] = json!(guard.resource_version);
        let answer = now(self.client.patch(key, &patch)).map(drop);
        self.note(what, key, answer);
    }

    fn delete(&mut self, what: &str, key: &Key, guard: &Guard) {
        let answer = now(self.client.delete(key, guard));
        self.note(what, key, answer);
    }
}

/// Both kinds of client answer without waiting.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a client that waits"),
    }
}

/// Every answer that the controller's steps can meet.
fn all_calls(side: &mut Side) {
    let cr = Key::new(Kind::DataUpload, "velero", "one");
    let none = Guard { uid: "none".to_owned(), resource_version: "1".to_owned() };
    side.patch("of what is not there", &cr, &none, &json!({ "spec": { "cancel": true } }));
    side.delete("of what is not there", &cr, &none);
    side.create("first", &cr, &upload("one"));
    side.create("again", &cr, &upload("one"));
    let first = side.guard(&cr);
    side.patch("finalizer", &cr, &first, &json!({ "metadata": { "finalizers": ["wherry.io/cleanup"] } }));
    side.patch("stale", &cr, &first, &json!({ "spec": { "cancel": true } }));
    side.delete("stale", &cr, &first);
    let second = side.guard(&cr);
    let other = Guard { uid: "another".to_owned(), ..second.clone() };
    side.patch("of another uid", &cr, &other, &json!({ "spec": { "cancel": true } }));
    side.delete("of another uid", &cr, &other);
    side.patch("status", &cr, &second, &json!({ "status": { "phase": "Accepted" } }));
    let third = side.guard(&cr);
    side.patch("unknown phase", &cr, &third, &json!({ "status": { "phase": "Elsewhere" } }));
    side.patch("nothing new", &cr, &third, &json!({ "status": { "phase": "Accepted" } }));
    side.delete("held by a finalizer", &cr, &third);
    let going = side.guard(&cr);
    side.create("while it goes", &cr, &upload("one"));
    let more = json!({ "metadata": { "finalizers": ["wherry.io/cleanup", "wherry.io/more"] } });
    side.patch("another finalizer while it goes", &cr, &going, &more);
    let going = side.guard(&cr);
    side.delete("while it goes", &cr, &going);
    side.patch("finalizer off", &cr, &going, &json!({ "metadata": { "finalizers": [] } }));
    side.create("once more", &cr, &upload("one"));
    side.patch("with what was before", &cr, &going, &json!({ "spec": { "cancel": true } }));

    let one = Key::new(Kind::Claim, "velero", "one");
    side.create("of no size", &one, &claim("one", "0"));
    side.create("claim", &one, &claim("one", "1"));
    let guard = side.guard(&one);
    let status = json!({ "metadata": { "labels": { "a": "b" } }, "status": { "phase": "Bound" } });
    side.patch("status with the rest", &one, &guard, &status);
    let guard = side.guard(&one);
    side.patch("what cannot be changed", &one, &guard, &json!({ "spec": { "accessModes": ["ReadOnlyMany"] } }));
    let guard = side.guard(&one);
    side.delete("protected", &one, &guard);
    let mut elsewhere = claim("one", "1");
    elsewhere["metadata"]["namespace"] = json!("none");
    side.create("in no namespace", &Key::new(Kind::Claim, "none", "one"), &elsewhere);

    let one = Key::new(Kind::Volume, "", "one");
    side.create("volume", &one, &volume("one"));
    let guard = side.guard(&one);
    side.patch("policy", &one, &guard, &json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } }));
    let guard = side.guard(&one);
    side.delete("protected", &one, &guard);

    let one = Key::new(Kind::Pod, "velero", "one");
    side.create("without an image", &one, &pod("one", ""));
    side.create("pod", &one, &pod("one", "wherry:test"));
    let guard = side.guard(&one);
    side.delete("not on a node yet", &one, &guard);
}

#[test]
fn the_model_answers_as_the_real_server() {
    let stage = Stage::enter();
    let (mut real, mut model) = (Side::new(stage.empty()), Side::new(Server::default()));
    all_calls(&mut real);
    all_calls(&mut model);
    let differ: Vec<String> = real
        .answers
        .iter()
        .zip(&model.answers)
        .filter(|(real, model)| real != model)
        .map(|(real, model)| format!("real:  {real}\nmodel: {model}"))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
    // What the answers are, of the calls that everything rests on.
    let answered = |what: &str, refusal: &str| {
        let found = real.answers.iter().find(|answer| answer.starts_with(what)).unwrap();
        assert!(found.contains(&format!(": {refusal};")), "{found}");
    };
    answered("of what is not there", "NotFound");
    answered("again", "Exists");
    answered("stale", "Conflict");
    answered("with what was before", "Conflict");
    answered("while it goes", "Exists");
}

#[test]
fn a_path_that_is_not_served_is_no_missing_object() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    for path in ["/apis/velero.io/v9/namespaces/velero/datauploads/one", "/apis/none.io/v1/namespaces/velero/x/one"] {
        let error = kube.ask(reqwest::Method::GET, path, None).unwrap_err();
        assert_eq!(error.refusal, Refusal::Unavailable, "{error}");
    }
    let key = Key::new(Kind::DataUpload, "velero", "one");
    assert_eq!(kube.wait(kube.admin().get(&key)), Ok(None));
}

#[test]
fn long_lists_come_whole_and_by_label() {
    let stage = Stage::enter();
    let server = stage.empty();
    for n in 0..8 {
        let key = Key::new(Kind::ConfigMap, "app", &format!("map-{n}"));
        let labels = if n % 6 == 0 { json!({ "wherry.io/cr-uid": "u" }) } else { json!({}) };
        server.create(Who::Velero, &key, &json!({ "metadata": { "name": key.name, "labels": labels } }));
    }
    let kube = &stage.real.kube;
    let api = kube.admin().clone().with_pages_of(3);
    let names = |labels: &[(&str, &str)]| {
        let all = kube.wait(api.list(Kind::ConfigMap, "app", labels)).unwrap();
        all.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), (0..8).map(|n| format!("map-{n}")).collect::<Vec<_>>());
    assert_eq!(names(&[("wherry.io/cr-uid", "u")]), ["map-0", "map-6"]);
    assert_eq!(names(&[("wherry.io/cr-uid", "u"), ("a", "b")]), [""; 0]);
}

//! The Lease of the controllers, where one of them stands still.

use crate::replicas::Replica;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::kube_api::{path, path_of};
use wherry_controller::lease::{GIVE_UP, RENEW};
use wherry_tests::cluster::real::deployed;
use wherry_tests::hosted::PATIENCE;

const NAMESPACE: &str = "slept";

/// Which token a request was made with: each process has one of its own.
fn token(event: &Value) -> String {
    event["user"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap_or_default().to_owned()
}

/// Given back right after another one has looked at it, it is taken in less than half of the time after which that would look again: whoever
/// cancels meanwhile waits for it.
#[test]
fn a_lease_that_is_given_back_is_taken_at_once() {
    let (real, namespace) = (&crate::real(), "given-back");
    real.kube.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n"));
    real.kube.apply(&deployed("wherry-controller", namespace));
    let first = Replica::start(real, namespace, "first");
    first.wait_for("acts in namespace given-back");
    let second = Replica::start(real, namespace, "second");
    second.wait_for("first_");
    let looked = Instant::now();
    let (output, log) = first.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    second.wait_for("acts in namespace given-back");
    assert!(looked.elapsed() < RENEW / 2, "taken after {:?}: {}", looked.elapsed(), second.log());
    let (output, log) = second.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

/// Stopped until others took its Lease for free, and woken: it ends, and writes nothing more.
#[test]
fn a_controller_that_slept_through_its_lease_writes_nothing_more() {
    let real = &crate::real();
    let kube = &real.kube;
    kube.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"));
    kube.apply(&deployed("wherry-controller", NAMESPACE));
    let requests = |after: usize| {
        let user = format!("system:serviceaccount:{NAMESPACE}:wherry-controller");
        kube.audit(after).into_iter().filter(move |event| event["user"]["username"] == user.as_str())
    };
    let send = |method: reqwest::Method, media: &str, path: &str, body: &Value| {
        kube.ask(method, path, Some((media, body.to_string().into_bytes()))).unwrap()
    };
    // There is no such VolumeSnapshot: whoever acts says so.
    let upload = |name: &str| {
        let csi =
            json!({ "volumeSnapshot": "none", "storageClass": "lab", "snapshotClass": "lab", "driver": "lab.csi" });
        let spec = json!({
            "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": NAMESPACE, "sourcePVC": name,
            "csiSnapshot": csi, "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        let object = json!({
            "apiVersion": Kind::DataUpload.api_version(), "kind": "DataUpload", "metadata": { "name": name }, "spec": spec,
        });
        send(reqwest::Method::POST, "application/json", &path(Kind::DataUpload, NAMESPACE), &object);
    };
    let failed = |name: &str, by: &Replica| {
        let (key, begin) = (Key::new(Kind::DataUpload, NAMESPACE, name), Instant::now());
        while kube.wait(kube.admin().get(&key)).unwrap().unwrap_or_default()["status"]["phase"] != "Failed" {
            assert!(begin.elapsed() < PATIENCE, "{name}: {}", by.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };

    let first = Replica::start(real, NAMESPACE, "first");
    upload("before");
    failed("before", &first);
    let sleeper = requests(0).map(|event| token(&event)).find(|id| !id.is_empty()).expect("each token has an id");
    let second = Replica::start(real, NAMESPACE, "second");
    second.wait_for("first_");
    let signal = |to: &Replica, signal: Signal| {
        kill_process(Pid::from_raw(i32::try_from(to.pid()).unwrap()).unwrap(), signal).unwrap();
    };
    signal(&first, Signal::STOP);
    let asleep = Instant::now();
    // So that the other one need not be waited for as long: it holds for a second.
    let lease = path_of(&Key::new(Kind::Lease, NAMESPACE, "wherry-controller"));
    let short = json!({ "spec": { "leaseDurationSeconds": 1 } });
    send(reqwest::Method::PATCH, "application/merge-patch+json", &lease, &short);
    second.wait_for("acts in namespace slept");
    upload("meanwhile");
    failed("meanwhile", &second);
    // By its own clock it may act no more: before that it would have to ask first.
    std::thread::sleep((GIVE_UP + Duration::from_secs(1)).saturating_sub(asleep.elapsed()));
    // There is work to do when it wakes, and nobody else does it.
    signal(&second, Signal::STOP);
    upload("after");
    let before = kube.audited();
    signal(&first, Signal::CONT);
    let (output, log) = first.wait();
    assert!(!output.status.success() && log.contains("Lease"), "{output:?}\n{log}");
    signal(&second, Signal::CONT);
    failed("after", &second);
    let written: Vec<Value> = requests(before)
        .filter(|event| token(event) == sleeper && !["get", "list", "watch"].iter().any(|verb| event["verb"] == *verb))
        .collect();
    assert!(written.is_empty(), "{written:#?}");
    let (output, log) = second.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

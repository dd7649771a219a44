//! `wherry-controller drain`, with the rights that are deployed.

use crate::real;
use crate::replicas::Replica;
use serde_json::{Value, json};
use std::process::{Command, Output};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::job;
use wherry_api::kube_api::{path, path_of};
use wherry_api::names;
use wherry_tests::binary::controller_bin;
use wherry_tests::cluster::real::{Real, deployed};

const NAMESPACE: &str = "drained";

fn drain(real: &Real, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, real.kube.token(NAMESPACE, "wherry-controller")).unwrap();
    let mut command = Command::new(controller_bin());
    command.args(["drain", "--namespace", NAMESPACE, "--server", &real.kube.url(), "--ca-file"]);
    command.arg(real.kube.authorities()).arg("--token-file").arg(token).args(arguments);
    command.env_clear().output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn work_is_canceled_and_what_is_left_is_said() {
    let real = real();
    let kube = &real.kube;
    let send = |method: reqwest::Method, path: &str, media: &str, body: &Value| {
        kube.ask(method, path, Some((media, body.to_string().into_bytes()))).unwrap_or_else(|e| panic!("{e}: {body}"))
    };
    let create = |kind: Kind, mut object: Value| {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.word());
        object["metadata"]["namespace"] = json!(NAMESPACE);
        send(reqwest::Method::POST, &path(kind, NAMESPACE), "application/json", &object)
    };
    let get = |kind: Kind, name: &str| {
        kube.wait(kube.admin().get(&Key::new(kind, NAMESPACE, name))).unwrap().unwrap_or_default()
    };
    kube.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"));
    kube.apply(&deployed("wherry-controller", NAMESPACE));
    let output = drain(&real, &[]);
    assert!(!output.status.success() && said(&output).contains("there is no ConfigMap wherry"), "{output:?}");
    // A key of another version keeps nobody from uninstalling.
    let settings = json!({ "maxActive": "3", "ofTheFuture": "1" });
    create(Kind::ConfigMap, json!({ "metadata": { "name": "wherry" }, "data": settings }));

    // One that nobody works on, as there is no agent; one of another mover; a PVC of a CR that is gone.
    let spec = |datamover: &str| {
        json!({
            "datamover": datamover, "snapshotID": "x", "sourceNamespace": "app", "snapshotSize": 1,
            "targetVolume": { "pvc": "none", "namespace": "app", "pv": "" }, "backupStorageLocation": "default",
            "operationTimeout": "10m0s",
        })
    };
    create(Kind::DataDownload, json!({ "metadata": { "name": "ours" }, "spec": spec("wherry") }));
    let theirs = create(Kind::DataDownload, json!({ "metadata": { "name": "theirs" }, "spec": spec("velero") }));
    let labels = json!({ names::CR_UID: "gone", names::VELERO_NAMESPACE: NAMESPACE });
    let claim = json!({
        "metadata": { "name": "wherry-gone-1", "labels": labels },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1" } } },
    });
    create(Kind::Claim, claim);
    // A Job that has ended, and one of somebody else.
    let job = |name: &str, labels: Value| {
        let container = json!({ "name": "job", "image": "none" });
        let pod = json!({ "restartPolicy": "Never", "containers": [container] });
        json!({ "metadata": { "name": name, "labels": labels }, "spec": { "template": { "spec": pod } } })
    };
    create(Kind::Job, job("wherry-gc-0", json!({ job::JOB: "gc" })));
    create(Kind::Job, job("theirs", json!({})));

    // A kept base.
    let labels = json!({ names::CR_UID: "gone", names::VELERO_NAMESPACE: NAMESPACE, names::BASE: "p" });
    let spec = json!({ "source": { "volumeSnapshotContentName": "wherry-gone" } });
    create(Kind::VolumeSnapshot, json!({ "metadata": { "name": "wherry-gone", "labels": labels }, "spec": spec }));

    // Without a controller nobody removes anything, and that is what it says.
    let output = drain(&real, &["--timeout", "0s"]);
    // By this code the hook of the chart knows that once more would only take as long.
    assert_eq!(output.status.code(), Some(i32::from(wherry_controller::drain::LEFT)), "{output:?}");
    let text = said(&output);
    assert!(!output.status.success(), "{text}");
    for part in [
        "DataDownload drained/ours (New)",
        "PersistentVolumeClaim drained/wherry-gone-1",
        "Job drained/wherry-gc-0",
        "No controller acts",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(text.contains("VolumeSnapshot drained/wherry-gone: dropped"), "{text}");
    assert_eq!(get(Kind::VolumeSnapshot, "wherry-gone"), Value::Null);
    let data = get(Kind::ConfigMap, "wherry")["data"].clone();
    assert_eq!(data, json!({ "maxActive": "3", "ofTheFuture": "1", "pause": "true" }));

    let claim = Key::new(Kind::Claim, NAMESPACE, "wherry-gone-1");
    let unprotected = json!({ "metadata": { "finalizers": null } });
    send(reqwest::Method::PATCH, &path_of(&claim), "application/merge-patch+json", &unprotected);
    send(reqwest::Method::DELETE, &path_of(&claim), "application/json", &json!({}));
    let replica = Replica::start(&real, NAMESPACE, "only");
    replica.wait_for("acts in namespace drained");
    let output = drain(&real, &["--timeout", "5m"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}\n{}", replica.log());
    assert!(text.contains("nothing of wherry is left but Secret wherry-repository"), "{text}");
    assert!(get(Kind::Job, "wherry-gc-0").is_null());
    assert_eq!(get(Kind::Job, "theirs")["metadata"]["name"], "theirs");
    let ours = get(Kind::DataDownload, "ours");
    assert_eq!(ours["status"]["phase"], "Canceled");
    assert!(ours["status"]["message"].as_str().unwrap().contains("wherry-controller drain"), "{ours}");
    assert_eq!(get(Kind::DataDownload, "theirs")["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"]);
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

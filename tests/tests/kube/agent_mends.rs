//! The agent where others are late, silent or gone: kubelet, storage, API server, the process itself.

use crate::agent::{MIB, disk, noise, snapshot_of, uploaded};
use crate::metrics::{ask, samples};
use crate::{stand, stand_on};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Kind};
use wherry_api::{Settings, names};
use wherry_tests::hosted::{Agent, PATIENCE, Stand};
use wherry_tests::seaweed::Seaweed;
use wherry_tests::server::free_ports;
use wherry_tests::volumes::Loop;

/// Another rate of uploads and downloads (bytes a second), for agents that are started afterwards.
fn rate(stand: &Stand, bytes: u64) {
    let rate = bytes.to_string();
    let patch = json!({ "data": { "uploadRate": rate, "downloadRate": rate } });
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &patch);
}

/// Until that holds.
#[track_caller]
fn until(agent: &Agent, what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// After a reboot the API server says that a pod runs before its kubelet has published anything.
#[test]
fn a_volume_that_is_published_late_is_waited_for() {
    let stand = stand("agent-late");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let hosted = stand.upload("device", "Block", 32 * MIB);
    // What a driver leaves there: the file that the device is bound to.
    let (node, link) = stand.places(&hosted);
    fs::create_dir_all(node.parent().unwrap()).unwrap();
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(&node, b"").unwrap();
    std::os::unix::fs::symlink(&node, &link).unwrap();
    let files = stand.upload("files", "Filesystem", 32 * MIB);
    let at = stand.root().join(format!("pods/{}/volumes/kubernetes.io~csi/{}/mount", files.pod_uid, files.pv));
    fs::create_dir_all(&at).unwrap();
    let canceled = stand.upload("canceled", "Block", 32 * MIB);
    for hosted in [&hosted, &files, &canceled] {
        stand.prepared(hosted);
        let waits = |cr: &serde_json::Value| {
            cr["status"]["message"]
                .as_str()
                .is_some_and(|said| said.starts_with("tried again: the volume is not published"))
        };
        let cr = stand.when(hosted, &agent, "it is waited for", waits);
        assert_eq!(cr["status"]["phase"], "InProgress");
    }
    // What is there after a reboot of the node of a driver that binds nothing: by now its number is that of another volume.
    let foreign = Loop::new(&disk(&stand, "foreign", 32, 5), &[]);
    let number = rustix::fs::stat(foreign.path()).unwrap().st_rdev;
    let device = rustix::fs::FileType::BlockDevice;
    fs::remove_file(&node).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &node, device, rustix::fs::Mode::RUSR, number).unwrap();
    let unbound =
        |cr: &serde_json::Value| cr["status"]["message"].as_str().is_some_and(|said| said.contains("has not bound"));
    let bound = stand.bound(&hosted);
    fs::create_dir_all(bound.parent().unwrap()).unwrap();
    fs::write(&bound, b"").unwrap();
    stand.when(&hosted, &agent, "it waits for the kubelet", unbound);
    // The reason of a cancel is not what it was tried again for.
    stand.patch(&canceled.key, &json!({ "spec": { "cancel": true } }));
    assert_eq!(stand.until(&canceled, &agent, &["Canceled"])["status"]["message"], "spec.cancel was set");
    fs::remove_file(&node).unwrap();
    fs::remove_file(&link).unwrap();
    let _device = stand.publish(&hosted, &file);
    stand.until(&hosted, &agent, &["Completed"]);
    stand.mount(&files, 32);
    stand.until(&files, &agent, &["Completed"]);
    agent.end();
}

/// One key opens the repositories of all locations: with another one of them a new key would be made for nothing but loss.
#[test]
fn no_key_is_made_for_a_second_location_where_that_of_the_first_is_gone() {
    let stand = stand("agent-key");
    let [port] = free_ports();
    let health = format!("127.0.0.1:{port}");
    let agent = stand.agent_with(&[], &["--health", &health]);
    let missing = || samples(&ask(&health, "/metrics").unwrap().1)["wherry_key_missing"];
    let file = disk(&stand, "disk", 32, 4);
    let elsewhere = json!({ "bucket": "velero", "prefix": "agent-key-other" });
    stand.location("other", json!({ "objectStorage": elsewhere }));
    uploaded(&stand, &agent, "first", &file);
    let secret = stand.key(Kind::Secret, "wherry-repository");
    let key = stand.get(&secret);
    // A backup of Velero's namespace would put it into the bucket, beside what it opens.
    for object in [&key, &stand.get(&stand.key(Kind::ConfigMap, "wherry-repositories"))] {
        assert_eq!(object["metadata"]["labels"][names::EXCLUDE], "true", "{}", object["metadata"]);
    }
    stand.delete(&secret, true);
    let to_other = |name: &str| {
        let hosted = stand.upload(name, "Block", 32 * MIB);
        stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": "other" } }));
        let device = stand.publish(&hosted, &file);
        stand.prepared(&hosted);
        (hosted, device)
    };
    let (hosted, _device) = to_other("lost");
    let cr = stand.until(&hosted, &agent, &["Failed"]);
    let message = cr["status"]["message"].as_str().unwrap();
    assert!(message.contains("no new key was made") && message.contains("default"), "{message}");
    assert!(stand.get(&secret).is_null(), "a key was made");
    assert_eq!(missing(), 1.0);
    // With it the second location gets its repository.
    stand.create(Kind::Secret, json!({ "metadata": { "name": "wherry-repository" }, "data": key["data"] }));
    // The alert ends, although nothing is backed up meanwhile.
    let begin = Instant::now();
    while missing() > 0.0 {
        assert!(begin.elapsed() < PATIENCE, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let (hosted, _device) = to_other("found");
    stand.until(&hosted, &agent, &["Completed"]);
    agent.end();
}

/// Nobody but who installs wherry makes the Secret; the agent fills one that is empty, once.
#[test]
fn a_key_is_put_into_a_secret_that_is_there_and_never_changed() {
    let stand = stand("agent-fills");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let secret = stand.key(Kind::Secret, "wherry-repository");
    stand.delete(&secret, true);
    let hosted = stand.upload("none", "Block", 32 * MIB);
    let _device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let cr = stand.until(&hosted, &agent, &["Failed"]);
    let message = cr["status"]["message"].as_str().unwrap();
    let next = "kubectl -n agent-fills create secret generic wherry-repository";
    assert!(message.contains("there is no Secret wherry-repository") && message.contains(next), "{message}");
    assert!(stand.get(&secret).is_null(), "a Secret was made");
    // As that command makes it: it says nothing of itself.
    let made = stand.create(Kind::Secret, json!({ "metadata": { "name": "wherry-repository" }, "type": "Opaque" }));
    uploaded(&stand, &agent, "first", &file);
    let filled = stand.get(&secret);
    assert_eq!(filled["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(filled["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(filled["immutable"], true);
    let of_agent = stand.kube.account("agent-fills", "wherry-agent");
    let other = json!({ "stringData": { "key": "other" } });
    assert!(stand.kube.wait(of_agent.patch(&secret, &other)).is_err(), "the key can be overwritten");
    // What is applied without a key leaves it; what replaces all of it is refused.
    let empty =
        include_str!("../../../controller/deploy/key.yaml").replace("namespace: velero", "namespace: agent-fills");
    let send = |method, query, media| {
        let path = format!("/api/v1/namespaces/agent-fills/secrets/wherry-repository{query}");
        stand.kube.ask(method, &path, Some((media, empty.clone().into_bytes())))
    };
    let applied = send(Method::PATCH, "?fieldManager=kubectl&force=true", "application/apply-patch+yaml").unwrap();
    assert_eq!(applied["data"], filled["data"]);
    assert!(applied["metadata"]["annotations"]["argocd.argoproj.io/sync-options"].is_string(), "{applied}");
    send(Method::PUT, "", "application/yaml").unwrap_err();
    assert_eq!(stand.repository_key(), filled["data"]["key"]);
    uploaded(&stand, &agent, "second", &file);
    agent.end();
}

/// The agent dies between the commit and its word, and a cancel comes meanwhile: the commit came first.
#[test]
fn a_commit_is_reported_although_a_cancel_came_meanwhile() {
    let stand = stand("agent-late-cancel");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let hosted = stand.upload("up", "Block", 32 * MIB);
    let _device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let first = stand.until(&hosted, &agent, &["Completed"]);
    agent.end();
    let status = json!({ "phase": "InProgress", "snapshotID": null, "message": null });
    stand.patch(&hosted.key, &json!({ "spec": { "cancel": true }, "status": status }));
    let agent = stand.agent();
    let cr = stand.until(&hosted, &agent, &["Completed", "Canceled"]);
    assert_eq!(cr["status"]["phase"], "Completed", "{}", cr["status"]);
    assert_eq!(snapshot_of(&cr), snapshot_of(&first));
    assert_eq!(cr["status"]["progress"]["totalBytes"], 32 * MIB);
    agent.end();
}

/// Whoever unmounts a volume does not wait for a storage.
#[test]
fn a_volume_is_let_go_while_the_storage_says_nothing() {
    let seaweed = Arc::new(Seaweed::start());
    let stand = stand_on(seaweed.clone(), "agent-silent");
    rate(&stand, 100_000);
    let agent = stand.agent();
    let file = disk(&stand, "disk", 128, 120);
    let hosted = stand.upload("up", "Block", 128 * MIB);
    let device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    stand.when(&hosted, &agent, "a session", |cr| cr["metadata"]["annotations"][names::SESSION].is_string());
    until(&agent, "the device is not open", || agent.has_open(device.node()));
    seaweed.send(Signal::STOP);
    stand.patch(&hosted.key, &json!({ "spec": { "cancel": true } }));
    let cr = stand.canceled(&hosted, &agent);
    assert!(!agent.has_open(device.node()), "{}", agent.log());
    assert_eq!(cr["status"]["message"], "spec.cancel was set");
    seaweed.send(Signal::CONT);
    agent.end();
}

/// Stopped for as long as a controller waits for it after a cancel, it takes nothing up when it wakes: it writes nothing to a volume
/// that others have by then, and looks at what is left anew.
#[test]
fn one_that_slept_for_long_takes_nothing_up() {
    let stand = stand("agent-slept");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 64, 56);
    let id = snapshot_of(&uploaded(&stand, &agent, "first", &file)).to_string();
    agent.end();
    rate(&stand, 100_000);
    let agent = stand.agent();
    // First: what a restore reads is charged ahead, and who comes later waits for that.
    let small = disk(&stand, "small", 16, 12);
    fs::File::options()
        .write(true)
        .open(&small)
        .and_then(|file| {
            use std::os::unix::fs::FileExt;
            file.write_all_at(&noise(21, 12 * MIB), 0)
        })
        .unwrap();
    let up = stand.upload("up", "Block", 16 * MIB);
    let _up = stand.publish(&up, &small);
    stand.prepared(&up);
    stand.when(&up, &agent, "a session", |cr| cr["metadata"]["annotations"][names::SESSION].is_string());
    let target = stand.path("target");
    fs::write(&target, noise(3, 64 * MIB)).unwrap();
    let down = stand.download("down", "Block", 64 * MIB, &id);
    let device = stand.publish(&down, &target);
    stand.prepared(&down);
    until(&agent, "the target is not open", || agent.has_open(device.node()));
    agent.send(Signal::STOP);
    let ended = json!({ "status": { "phase": "Canceled", "message": "the agent was silent" } });
    let ended = stand.patch(&down.key, &ended);
    stand.delete(&stand.key(Kind::Pod, &down.object), false);
    // What was on its way to the disk has come there.
    std::thread::sleep(Settings::parse(&BTreeMap::new()).unwrap().cancel_timeout);
    let before = fs::read(&target).unwrap();
    agent.send(Signal::CONT);
    until(&agent, "the target is open still", || !agent.has_open(device.node()));
    assert!(fs::read(&target).unwrap() == before, "the target was written to");
    let cr = stand.get(&down.key);
    assert_eq!(cr["metadata"]["resourceVersion"], ended["metadata"]["resourceVersion"], "{cr:#}");
    agent.says("this process was stopped for too long");
    stand.until(&up, &agent, &["Completed"]);
    agent.end();
}

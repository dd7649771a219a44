//! A cluster of ordinary age: thousands of objects that are none of the controller's business cost it neither memory nor requests.

use crate::replicas::Replica;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use wherry_api::api::{Api, Key, Kind};
use wherry_tests::cluster::real::Real;
use wherry_tests::hosted::PATIENCE;
use wherry_tests::kube::Kube;

/// CRs that are over, half of them another mover's, and PVs of others.
const OVER: usize = 2000;
const VOLUMES: usize = 600;
/// Ended, and still held: each is looked at, and let go after a look at all PVs.
const HELD: usize = 24;
/// What others wrote into each object (bytes), so that what keeps them is seen. It is what makes real ones large.
const LARGE: usize = 12 << 10;
/// The most that the controller may ever have had in memory (KiB); its limit in `deploy/controller.yaml` is 128 MiB.
const MOST: u64 = 48 << 10;
/// And with nothing of all this there: the figure of an idle controller.
const IDLE: u64 = 30 << 10;

fn upload(name: &str, datamover: &str, finalizers: &[&str]) -> Value {
    json!({
        "apiVersion": "velero.io/v2alpha1", "kind": "DataUpload",
        "metadata": {
            "name": name, "namespace": "velero", "finalizers": finalizers, "annotations": { "others": "x".repeat(LARGE) },
        },
        "spec": {
            "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": name, "backupStorageLocation": "default",
            "operationTimeout": "10m0s", "datamover": datamover,
        },
        "status": { "phase": "Failed", "message": "m", "completionTimestamp": "2026-01-01T00:00:00Z" },
    })
}

fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": { "others": "x".repeat(LARGE) } },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "csi": { "driver": "others.csi", "volumeHandle": name },
            "claimRef": { "namespace": "app", "name": name },
        },
    })
}

/// Makes them, several at a time.
fn make(kube: &Kube, all: impl Iterator<Item = (Key, Value)>) {
    kube.wait(async {
        let mut making = JoinSet::new();
        for (key, object) in all {
            if making.len() >= 16 {
                making.join_next().await.unwrap().unwrap();
            }
            let api = kube.admin().clone();
            making.spawn(async move { api.create(&key, &object).await.unwrap() });
        }
        while let Some(made) = making.join_next().await {
            made.unwrap();
        }
    });
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: u32, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Requests of the controller's account that the server has answered: lists of PVs, and all.
fn lists_of_volumes(kube: &Kube) -> usize {
    let user = "system:serviceaccount:velero:wherry-controller";
    let is = |event: &&Value| {
        event["user"]["username"] == user
            && event["verb"] == "list"
            && event["objectRef"]["resource"] == "persistentvolumes"
    };
    // Those by our label are not of all.
    kube.audit(0).iter().filter(is).filter(|event| !event["requestURI"].to_string().contains("labelSelector")).count()
}

#[test]
fn a_cluster_of_ordinary_age_does_not_fill_the_memory() {
    // A server of its own: PVs are of the cluster, and scenes take all of them for theirs.
    let kube = Arc::new(Kube::start());
    let real = Real::new(Arc::clone(&kube));
    let idle = Replica::start(&real, "velero", "idle");
    let begin = Instant::now();
    let user = "system:serviceaccount:velero:wherry-controller";
    let watches = || kube.audit(0).iter().filter(|e| e["verb"] == "watch" && e["user"]["username"] == user).count();
    while watches() < 8 {
        assert!(begin.elapsed() < PATIENCE, "not all is watched:\n{}", idle.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let rests = memory(idle.pid(), "VmRSS");
    eprintln!("idle, with nothing in the cluster: {rests} KiB");
    assert!(rests <= IDLE, "idle: {rests} KiB");
    assert!(idle.end().0.status.success());

    let ours = |n: usize| if n.is_multiple_of(2) { "wherry" } else { "velero" };
    let over = (0..OVER).map(|n| (format!("over-{n}"), ours(n), vec![]));
    let held = (0..HELD).map(|n| (format!("held-{n}"), "wherry", vec![wherry_api::names::FINALIZER]));
    make(
        &kube,
        over.chain(held).map(|(name, datamover, finalizers)| {
            (Key::new(Kind::DataUpload, "velero", &name), upload(&name, datamover, &finalizers))
        }),
    );
    let volumes = (0..VOLUMES).map(|n| format!("others-{n}"));
    make(&kube, volumes.map(|name| (Key::new(Kind::Volume, "", &name), volume(&name))));

    let replica = Replica::start(&real, "velero", "aged");
    let begin = Instant::now();
    let held = |name: &str| {
        let key = Key::new(Kind::DataUpload, "velero", name);
        let object = kube.wait(kube.admin().get(&key)).unwrap().unwrap();
        object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
    };
    for n in 0..HELD {
        while held(&format!("held-{n}")) {
            assert!(begin.elapsed() < PATIENCE, "held-{n} is not let go:\n{}", replica.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let (peak, now) = (memory(replica.pid(), "VmHWM"), memory(replica.pid(), "VmRSS"));
    eprintln!("{OVER} CRs that are over, {VOLUMES} PVs of others: at most {peak} KiB, now {now} KiB");
    assert!(peak <= MOST, "{peak} KiB at most, {now} KiB now");
    // Each was let go after a look at all PVs, in pages, and after no more than that.
    let lists = lists_of_volumes(&kube);
    let pages = VOLUMES.div_ceil(200);
    assert!(lists >= HELD * pages && lists <= 2 * HELD * pages, "{lists} lists of PVs");
    assert!(replica.end().0.status.success());
}

/// Nothing is open before there is work: neither a repository nor its index.
#[test]
fn an_idle_agent_is_small() {
    let stand = crate::stand("agent-idle");
    let agent = stand.agent();
    let user = "system:serviceaccount:agent-idle:wherry-agent";
    let begin = Instant::now();
    let watches =
        || stand.kube.audit(0).iter().filter(|e| e["verb"] == "watch" && e["user"]["username"] == user).count();
    while watches() < 3 {
        assert!(begin.elapsed() < PATIENCE, "not all is watched:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let rests = memory(agent.pid(), "VmRSS");
    eprintln!("idle agent: {rests} KiB");
    assert!(rests <= 40 << 10, "idle: {rests} KiB");
    agent.end();
}

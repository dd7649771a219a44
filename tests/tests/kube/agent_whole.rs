//! Controller and agent, both as executables, from New to the end; Kubernetes, the CSI side and the kubelet are played.

use crate::agent::noise;
use crate::local::Rights;
use crate::replicas::Replica;
use crate::{Stage, seaweed};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wherry_api::api::Kind;
use wherry_api::{SnapshotId, names};
use wherry_tests::cluster::{Content, Scene, Who, World};
use wherry_tests::hosted::{Agent, Device, Hosted, LocalDevice, NODE, Stand};
use wherry_tests::volumes::Loop;

/// Bytes of the volumes of the scenes.
const SIZE: u64 = 4096;

/// What is published for a pod, by a CSI driver or as a local volume.
enum Shown {
    Csi(Device),
    Local(LocalDevice, #[expect(dead_code, reason = "held as long as it is published")] Loop),
}

impl Shown {
    fn node(&self) -> &Path {
        match self {
            Self::Csi(device) => device.node(),
            Self::Local(device, _) => device.node(),
        }
    }
}

/// The kubelet of the node, and what the volumes hold.
struct Kubelet<'a> {
    stand: &'a Stand,
    agent: &'a Agent,
    /// By uid of the pod.
    published: BTreeMap<String, Shown>,
    /// By name of the PV.
    files: BTreeMap<String, PathBuf>,
}

impl Kubelet<'_> {
    fn turn(&mut self, world: &mut World) -> bool {
        let mut acted = false;
        let mut alive = Vec::new();
        for (key, pod) in world.server.all(Kind::Pod) {
            let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (uid, claim) = (text("/metadata/uid"), text("/spec/volumes/0/persistentVolumeClaim/claimName"));
            alive.push(uid.clone());
            let claim = world.server.get(&wherry_api::api::Key::new(Kind::Claim, "velero", &claim));
            let pv = claim.and_then(|claim| claim["spec"]["volumeName"].as_str().map(ToOwned::to_owned));
            let here = text("/spec/nodeName") == NODE && key.name.starts_with("wherry-");
            let Some(pv) = pv.filter(|_| here && !self.published.contains_key(&uid)) else { continue };
            let file = self.stand.path(&pv);
            if !file.exists() {
                let old = world.storage.volumes.get(&pv) == Some(&Content::Old);
                fs::write(&file, noise(if old { 1 } else { 2 }, SIZE)).unwrap();
            }
            let hosted = Hosted {
                key: world.cr.clone(),
                uid: String::new(),
                object: key.name.clone(),
                pod_uid: uid.clone(),
                pv: pv.clone(),
            };
            // A PV of ours is of a local volume; what a driver provisions has another name.
            let shown = match pv.starts_with("wherry-") {
                true => {
                    let device = Loop::new(&file, &[]);
                    Shown::Local(self.stand.publish_local(&hosted, device.path(), device.path()), device)
                }
                false => Shown::Csi(self.stand.publish(&hosted, &file)),
            };
            self.files.insert(pv, file);
            self.published.insert(uid, shown);
            acted = true;
        }
        // Of a pod that is gone nothing stays published; the agent must have let go before.
        let gone: Vec<String> = self.published.keys().filter(|uid| !alive.contains(uid)).cloned().collect();
        for uid in gone {
            let device = self.published.remove(&uid).unwrap();
            assert!(!self.agent.has_open(device.node()), "the pod is gone, and its device open: {}", self.agent.log());
        }
        let Some(cr) = world.server.get(&world.cr) else { return acted };
        if let Some(id) = cr["status"]["snapshotID"].as_str().and_then(|id| id.parse::<SnapshotId>().ok()) {
            let uid = cr["metadata"]["uid"].as_str().unwrap().to_owned();
            if world.repository.of(&uid).is_none() {
                world.repository.committed.push((uid, id));
            }
        }
        if let Some(done) = cr["metadata"]["annotations"][names::DATA_DONE].as_str() {
            let volume = serde_json::from_str::<Value>(done).unwrap()["volume"].as_str().unwrap().to_owned();
            // By what is there, not by what is said.
            let whole = fs::read(&self.files[&volume]).unwrap() == noise(2, SIZE);
            let content = if whole { Content::Whole } else { Content::Half };
            world.storage.volumes.entry(volume).and_modify(|held| *held = content);
        }
        acted
    }
}

#[test]
fn uploads_and_a_download_by_both_executables() {
    let stage = Stage::enter();
    // First of all: the objects of scenes go away with them, and these are made for both.
    drop(stage.empty());
    let stand = Stand::in_scenes(Arc::clone(&stage.real), seaweed());
    let replica = Replica::start(&stage.real, "velero", "both");
    replica.wait_for("acts in namespace velero");
    let agent = stand.agent();
    let mut id = String::new();
    let _rights = Rights::given(&stage);
    for (download, local) in [(false, false), (true, false), (false, true)] {
        let scene = Scene { download, retain: false, wait_for_consumer: false, local, beside: false };
        let world = World::on(stage.empty(), scene);
        if download {
            // Not accepted before the played PV controller acts, so the agent sees this one.
            let spec = json!({ "spec": { "snapshotID": id, "sourceNamespace": "app" } });
            world.server.patch(Who::Velero, &world.cr, &spec);
        }
        let mut kubelet = Kubelet { stand: &stand, agent: &agent, published: BTreeMap::new(), files: BTreeMap::new() };
        let outcome = world.play_with(|world| {
            let acted = kubelet.turn(world);
            if let Some((_, found)) = world.repository.committed.first() {
                id = found.to_string();
            }
            acted
        });
        assert!(outcome.violations.is_empty(), "{scene:?}: {}\n{}", outcome.violations.join("\n"), agent.log());
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {}", agent.log());
    }
    agent.end();
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    // What no scene takes away.
    for (kind, name) in
        [(Kind::Location, "default"), (Kind::Secret, "cloud-credentials"), (Kind::Secret, "wherry-repository")]
    {
        stand.delete(&stand.key(kind, name), true);
    }
}

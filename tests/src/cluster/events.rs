//! What others do to the cluster of a run, at a write.

use super::*;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        let server = &self.server;
        let namespace = self.invariants.scene.namespace();
        let target = Key::new(Kind::Claim, namespace, "data");
        match event {
            Event::Cancel => {
                if server.get(&self.cr).is_some() {
                    let patch = json!({ "spec": { "cancel": true }, "status": { "message": "timed out" } });
                    server.patch(Who::Velero, &self.cr, &patch);
                }
            }
            Event::Delete => server.delete(Who::Velero, &self.cr),
            Event::SourceGone => {
                server.delete(Who::Velero, &Key::new(Kind::VolumeSnapshot, namespace, "velero-data-x"));
                if server.get(&Key::new(Kind::Volume, "", LOCAL_VOLUME)).is_some() {
                    server.delete(Who::Velero, &target);
                }
            }
            Event::TargetGone => server.delete(Who::Velero, &target),
            Event::TargetReplaced => {
                let Some(object) = server.get(&target) else { return };
                let mut object = Value::clone(&object);
                server.delete(Who::Velero, &target);
                server.finish(Who::Velero, &target, "kubernetes.io/pvc-protection");
                object["metadata"] = json!({ "name": "data" });
                object["spec"]["volumeName"] = Value::Null;
                object["status"] = json!({});
                server.create(Who::Velero, &target, &object);
            }
            Event::TargetMisfits => {
                if server.get(&target).is_some() {
                    let patch = json!({ "spec": { "volumeAttributesClassName": "of no volume" } });
                    server.patch(Who::Velero, &target, &patch);
                }
            }
            Event::AgentStops => {
                self.agent.silent = true;
                let agent = Key::new(Kind::Pod, "velero", &format!("agent-{}", self.agent.node));
                let conditions = json!([{ "type": "Ready", "status": "False" }]);
                server.patch(Who::System, &agent, &json!({ "status": { "conditions": conditions } }));
            }
            Event::NodeLost | Event::NodeLostForLong | Event::NodeLostPodsForced => {
                self.gone_at = (event != Event::NodeLostForLong).then(|| self.now.after(Duration::from_secs(3600)));
                let lost = json!([{ "type": "Ready", "status": "Unknown", "lastTransitionTime": self.now }]);
                let node = Key::new(Kind::Node, "", "n1");
                server.patch(Who::System, &node, &json!({ "status": { "conditions": lost } }));
                if event == Event::NodeLostPodsForced {
                    self.force_pods();
                }
                self.agent = AgentProcess::start("n2");
            }
            Event::NodeDeleted => {
                server.delete(Who::System, &Key::new(Kind::Node, "", "n1"));
                self.force_pods();
                self.agent = AgentProcess::start("n2");
            }
            Event::NodeDrained => {
                let node = Key::new(Kind::Node, "", "n1");
                server.patch(Who::System, &node, &json!({ "spec": { "unschedulable": true } }));
                for pod in self.our_pods().iter().filter(|pod| self.runs_on_n1(pod)) {
                    server.delete(Who::System, pod);
                }
                self.agent = AgentProcess::start("n2");
            }
            Event::PodFails => {
                for pod in self.our_pods() {
                    server.patch(Who::System, &pod, &json!({ "status": { "phase": "Failed" } }));
                }
            }
            Event::ClaimGoing => server.delete(Who::Velero, &self.our_claim()),
            Event::ClaimGone => {
                for pod in self.our_pods() {
                    server.delete(Who::Velero, &pod);
                }
                server.delete(Who::Velero, &self.our_claim());
                while volumes::kubelet(server) || volumes::detach(server) || volumes::protection(server) {}
                // Released, and deleted by the driver.
                for _ in 0..2 {
                    volumes::pv_controller(server, &mut self.storage);
                }
            }
            Event::NamespaceGoes => {
                server.close("velero");
                server.delete(Who::Velero, &self.cr);
                let ours = |key: &Key| key.namespace == "velero" && key.name.starts_with("wherry-");
                for kind in [Kind::Pod, Kind::Claim, Kind::VolumeSnapshot] {
                    for (key, _) in server.all(kind).into_iter().filter(|(key, _)| ours(key)) {
                        server.delete(Who::System, &key);
                    }
                }
            }
            Event::LabelsGone => {
                for key in self.our_pods().iter().chain([&self.our_claim()]) {
                    if server.get(key).is_some() {
                        server.patch(Who::Velero, key, &json!({ "metadata": { "labels": { names::CR_UID: null } } }));
                    }
                }
            }
            Event::SnapshotHeld => {
                let snapshot = Key::new(Kind::VolumeSnapshot, namespace, "velero-data-x");
                if server.get(&snapshot).is_some_and(|object| !snapshots::is_going(&object)) {
                    server.hold(Who::Velero, &snapshot, "somebody/holds");
                }
            }
            Event::OldVolume => {
                let key = self.our_claim();
                let Some(claim) = server.get(&key) else { return };
                let uid = &claim["metadata"]["uid"];
                let has_one = server.all(Kind::Volume).iter().any(|(_, pv)| pv["spec"]["claimRef"]["uid"] == *uid);
                if has_one || snapshots::is_going(&claim) {
                    return;
                }
                // As Kubernetes binds what is Available: in one patch claimRef and the annotation, and then the PVC.
                self.storage.taken = true;
                self.storage.volumes.insert(TAKEN_VOLUME.to_owned(), Content::Old);
                let object = json!({
                    "metadata": { "name": TAKEN_VOLUME, "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" } },
                    "spec": {
                        "claimRef": { "namespace": key.namespace, "name": key.name, "uid": uid },
                        "persistentVolumeReclaimPolicy": if self.invariants.scene.retain { "Retain" } else { "Delete" },
                        "storageClassName": "lab", "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
                        "volumeMode": "Block", "csi": { "driver": "lab.csi", "volumeHandle": TAKEN_VOLUME },
                    },
                    "status": { "phase": "Bound" },
                });
                server.create(Who::System, &Key::new(Kind::Volume, "", TAKEN_VOLUME), &object);
                let bound = json!({ "spec": { "volumeName": TAKEN_VOLUME }, "status": { "phase": "Bound" } });
                server.patch(Who::System, &key, &bound);
            }
            Event::MoverRenamed => self.limits.datamovers = vec!["another".to_owned()],
            Event::PlanBroken => {
                if server.get(&self.cr).is_some_and(|cr| cr["metadata"]["annotations"][names::PLAN].is_string()) {
                    let patch = json!({ "metadata": { "annotations": { names::PLAN: "{" } } });
                    server.patch(Who::Velero, &self.cr, &patch);
                }
            }
        }
    }
}

//! More than one node: agents of each, and pods that are moved from one to the other as the controller does it.

use super::{Agent, Device, Hosted, NODE, Stand};
use crate::binary::wherry_bin;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use wherry_api::api::Kind;
use wherry_api::names;

impl Stand {
    /// Makes the hosting pod on a node, which runs; gives its uid.
    pub fn pod_on(&self, node: &str, hosted: &Hosted) -> String {
        let container = json!({ "name": "hold", "image": "wherry:test" });
        let spec = json!({ "nodeName": node, "containers": [container], "automountServiceAccountToken": false });
        let metadata = json!({ "name": hosted.object, "labels": { names::CR_UID: hosted.uid } });
        let pod = self.create(Kind::Pod, json!({ "metadata": metadata, "spec": spec }));
        self.status(&self.key(Kind::Pod, &hosted.object), &json!({ "phase": "Running" }));
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// The controller says that the volume is prepared on a node.
    pub fn prepared_on(&self, node: &str, hosted: &Hosted) {
        let metadata = json!({ "labels": { names::NODE: node } });
        self.patch(&hosted.key, &json!({ "metadata": metadata, "status": { "phase": "Prepared", "node": node } }));
    }

    /// What is not prepared yet gets its pod on another node.
    pub fn moved_to(&self, node: &str, hosted: &mut Hosted) {
        self.delete(&self.key(Kind::Pod, &hosted.object), false);
        hosted.pod_uid = self.pod_on(node, hosted);
    }

    /// What the controller does where the node of an upload at work is lost: another attempt elsewhere, with a PVC and a pod of
    /// its own. What was on the lost node stays.
    pub fn next_attempt(&self, node: &str, hosted: &Hosted, file: &Path) -> (Hosted, Device) {
        let cr = self.get(&hosted.key);
        let mut plan: Value =
            serde_json::from_str(cr["metadata"]["annotations"][names::PLAN].as_str().unwrap()).unwrap();
        let attempt = plan["attempt"].as_u64().unwrap() + 1;
        plan["attempt"] = json!(attempt);
        let object = names::of_attempt(&hosted.uid, u32::try_from(attempt).unwrap());
        let pv = format!("{}-{attempt}", hosted.pv);
        let claim = self.get(&self.key(Kind::Claim, &hosted.object));
        let mut spec = claim["spec"].clone();
        spec["volumeName"] = json!(pv);
        self.create(Kind::Claim, json!({ "metadata": { "name": object }, "spec": spec }));
        let bound = json!({ "phase": "Bound", "capacity": claim["status"]["capacity"] });
        self.status(&self.key(Kind::Claim, &object), &bound);
        let mut next = Hosted { object, pv, ..hosted.clone() };
        next.pod_uid = self.pod_on(node, &next);
        let device = self.publish(&next, file);
        let metadata = json!({ "labels": { names::NODE: node }, "annotations": { names::PLAN: plan.to_string() } });
        self.patch(&next.key, &json!({ "metadata": metadata, "status": { "node": node } }));
        (next, device)
    }

    /// Starts the agent of a node by that command, with more flags. What lies on a node lies in a folder of its own.
    pub fn agent_of(&self, node: &str, by: &[&str], more: &[&str]) -> Agent {
        let here = |name: &str| self.path(&if node == NODE { name.to_owned() } else { format!("{node}-{name}") });
        let token = here("token");
        fs::write(&token, self.kube.token(&self.namespace, "wherry-agent")).unwrap();
        let file = here("agent.log");
        let log = fs::File::options().create(true).append(true).open(&file).unwrap();
        // Whatever ends this process ends it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(by)
            .arg(wherry_bin())
            .args(["agent", "--node", node, "--namespace", &self.namespace])
            .args(["--server", &self.kube.url(), "--ca-file"])
            .arg(self.kube.authorities())
            .arg("--token-file")
            .arg(token)
            .arg("--state-dir")
            .arg(here("state"))
            .arg("--cache-dir")
            .arg(here("cache"))
            .args(more)
            .args((self.namespace == "velero").then(|| format!("--kubelet-root={}", self.root().display())))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Agent { child, log: file }
    }
}

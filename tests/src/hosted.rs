//! A node with an agent on a real API server: CRs as the controller leaves them when a volume is prepared, and a kubelet that is
//! played by a folder: real loop devices and mounts at the places where the kubelet publishes them. Root is needed.

use crate::cluster::real::{Real, deployed};
use crate::home::Home;
use crate::kube::Kube;
use crate::seaweed::{ACCESS_KEY, SECRET_KEY, Seaweed};
use crate::volumes::Loop;
use parking_lot::Mutex;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wherry_api::api::{Api, Key, Kind};
use wherry_api::kube_api::{path, path_of};
use wherry_api::{DownloadPlan, Time, UploadPlan, names};
use wherry_repo::{Clock, Storage, System};

#[path = "hosted_local.rs"]
mod local;
#[path = "hosted_nodes.rs"]
mod nodes;
#[path = "hosted_promise.rs"]
mod promise;

pub use local::LocalDevice;

/// Whatever is waited for comes, on a machine however slow; else the test ends by this.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The node.
pub const NODE: &str = "n1";

/// The Secret that the key is put into, as it is deployed.
const KEY: &str = include_str!("../../controller/deploy/key.yaml");

fn of_namespace(yaml: &str, namespace: &str) -> String {
    yaml.replace("namespace: velero", &format!("namespace: {namespace}"))
}

/// A namespace of Velero of its own, a bucket, and the folder that plays the kubelet.
#[derive(Debug)]
pub struct Stand {
    /// The API server.
    pub kube: Arc<Kube>,
    /// The storage.
    pub seaweed: Arc<Seaweed>,
    /// The namespace, and the prefix in the bucket.
    pub namespace: String,
    folder: TempDir,
    mounts: Mutex<Vec<PathBuf>>,
    /// Whoever asks for the server meanwhile gets this one, and starts no other.
    _real: Arc<Real>,
}

/// When a storage took its snapshot whose clock is an hour ahead: else files that a test makes were too new to be taken over.
fn ahead() -> Time {
    Time(System::default().now().seconds() + 3600)
}

/// A prepared CR.
#[derive(Debug, Clone)]
pub struct Hosted {
    /// The CR.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// Name of pod and PVC.
    pub object: String,
    /// uid of the pod.
    pub pod_uid: String,
    /// Name of the PV.
    pub pv: String,
}

/// A device that is published; dropped, it is gone.
#[derive(Debug)]
pub struct Device {
    // In this order: the one on top first.
    _lock: Option<Loop>,
    _bound: Bound,
    device: Loop,
    node: PathBuf,
}

/// A device that the kubelet has bound.
#[derive(Debug)]
pub struct Bound(PathBuf);

impl Bound {
    /// That of a node at this place.
    pub fn new(node: &Path, at: PathBuf) -> Self {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::File::create(&at).unwrap();
        run("mount", &["--bind", node.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.0).status();
    }
}

impl Device {
    /// The node that the agent opens.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The device itself.
    pub fn path(&self) -> &Path {
        self.device.path()
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Stand {
    /// A new namespace with accounts, rights, settings, credentials and a BackupStorageLocation `default`.
    pub fn new(real: Arc<Real>, seaweed: Arc<Seaweed>, namespace: &str) -> Self {
        let this = Self::bare(real, seaweed, namespace);
        let kube = &this.kube;
        kube.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n"));
        let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: default\n  namespace: ";
        kube.apply(&format!("{account}{namespace}\n"));
        kube.apply(&deployed("wherry-agent", namespace));
        kube.apply(&deployed("wherry-jobs", namespace));
        let data = json!({ "kubeletRoot": this.root().display().to_string() });
        this.create(Kind::ConfigMap, json!({ "metadata": { "name": "wherry" }, "data": data }));
        this.furnish();
        this
    }

    fn bare(real: Arc<Real>, seaweed: Arc<Seaweed>, namespace: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("wherry-stand-").tempdir().unwrap();
        let (kube, namespace) = (Arc::clone(&real.kube), namespace.to_owned());
        Self { kube, seaweed, namespace, folder, mounts: Mutex::default(), _real: real }
    }

    /// In the namespace of the scenes, which has the accounts and their rights; ConfigMaps go with each scene, so agents are
    /// told of the kubelet by their command.
    pub fn in_scenes(real: Arc<Real>, seaweed: Arc<Seaweed>) -> Self {
        let this = Self::bare(real, seaweed, "velero");
        this.furnish();
        this
    }

    fn furnish(&self) {
        fs::create_dir(self.root()).unwrap();
        let keys = format!("[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n");
        let metadata = json!({ "name": "cloud-credentials" });
        self.create(Kind::Secret, json!({ "metadata": metadata, "stringData": { "cloud": keys } }));
        self.kube.apply(&of_namespace(KEY, &self.namespace));
        self.location("default", json!({}));
    }

    /// Makes a BackupStorageLocation, which has these parts otherwise.
    pub fn location(&self, name: &str, other: Value) {
        let mut spec = json!({
            "provider": "aws", "objectStorage": { "bucket": "velero", "prefix": self.namespace },
            "config": { "s3Url": self.seaweed.endpoint(), "region": "us-east-1", "s3ForcePathStyle": "true" },
            "credential": { "name": "cloud-credentials", "key": "cloud" },
        });
        for (key, value) in other.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.create(Kind::Location, json!({ "metadata": { "name": name }, "spec": spec }));
    }

    /// The root of the kubelet.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("kubelet")
    }

    /// A path for scratch files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn send(&self, method: Method, path: &str, media: &str, body: &Value) -> Value {
        let answer = self.kube.ask(method, path, Some((media, body.to_string().into_bytes())));
        answer.unwrap_or_else(|e| panic!("{e}: {body:#}"))
    }

    /// Makes an object in the namespace.
    pub fn create(&self, kind: Kind, mut object: Value) -> Value {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.word());
        object["metadata"]["namespace"] = json!(self.namespace);
        self.send(Method::POST, &path(kind, &self.namespace), "application/json", &object)
    }

    /// The key of an object in the namespace.
    pub fn key(&self, kind: Kind, name: &str) -> Key {
        Key::new(kind, &self.namespace, name)
    }

    /// An object; null if there is none.
    pub fn get(&self, key: &Key) -> Value {
        self.kube.wait(self.kube.admin().get(key)).unwrap().unwrap_or_default()
    }

    /// A merge patch.
    pub fn patch(&self, key: &Key, patch: &Value) -> Value {
        self.send(Method::PATCH, &path_of(key), "application/merge-patch+json", patch)
    }

    /// Deletes an object: a pod as its kubelet does it, or, `gently`, as a drain does.
    pub fn delete(&self, key: &Key, gently: bool) {
        let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if key.kind == Kind::Pod && !gently {
            options["gracePeriodSeconds"] = json!(0);
        }
        self.send(Method::DELETE, &path_of(key), "application/json", &options);
    }

    pub(crate) fn status(&self, key: &Key, status: &Value) -> Value {
        let path = format!("{}/status", path_of(key));
        self.send(Method::PATCH, &path, "application/merge-patch+json", &json!({ "status": status }))
    }

    /// A DataUpload whose volume is prepared: of that mode, and so many bytes.
    pub fn upload(&self, name: &str, mode: &str, bytes: u64) -> Hosted {
        self.upload_by(name, mode, bytes, |_| {})
    }

    /// The same with a plan that is changed in that.
    pub fn upload_by(&self, name: &str, mode: &str, bytes: u64, change: impl FnOnce(&mut UploadPlan)) -> Hosted {
        let csi = json!({ "volumeSnapshot": "x", "storageClass": "lab", "snapshotClass": "lab", "driver": "lab.csi" });
        let spec = json!({
            "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "data",
            "csiSnapshot": csi, "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        let labels =
            json!({ "velero.io/backup-name": "b", "velero.io/backup-uid": "b-uid", "velero.io/pvc-uid": "u-1" });
        self.hosted(Kind::DataUpload, name, spec, labels, mode, bytes, |uid| {
            let mut plan = UploadPlan {
                version: 1,
                cr_uid: uid.to_owned(),
                attempt: 1,
                snapshot_uid: format!("snapshot-{name}"),
                content: format!("content-{name}"),
                content_uid: format!("content-uid-{name}"),
                snapshot_handle: format!("handle-{name}"),
                driver: "lab.csi".into(),
                source_handle: Some("volume-1".into()),
                restore_size: Some(bytes),
                snapshot_time: Some(ahead()),
                source_volume_mode: mode.into(),
                source_uid: Some("u-1".into()),
                ..UploadPlan::default()
            };
            change(&mut plan);
            plan.print()
        })
    }

    /// The VolumeSnapshot of an upload, bound to a content of that name. Contents are of the cluster, which scenes have to
    /// themselves: none is made.
    pub fn snapshot(&self, hosted: &Hosted, content: &str) {
        let name = names::object(&hosted.uid);
        let source = json!({ "source": { "volumeSnapshotContentName": content } });
        self.create(Kind::VolumeSnapshot, json!({ "metadata": { "name": name }, "spec": source }));
        let ready = json!({ "boundVolumeSnapshotContentName": content, "readyToUse": true });
        self.status(&self.key(Kind::VolumeSnapshot, &name), &ready);
    }

    /// A DataDownload likewise.
    pub fn download(&self, name: &str, mode: &str, bytes: u64, snapshot: &str) -> Hosted {
        let spec = json!({
            "datamover": "wherry", "snapshotID": snapshot, "sourceNamespace": "app", "snapshotSize": bytes,
            "targetVolume": { "pvc": "data", "namespace": "app", "pv": "" },
            "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        self.hosted(Kind::DataDownload, name, spec, json!({}), mode, bytes, |uid| {
            DownloadPlan { version: 1, cr_uid: uid.to_owned(), attempt: 1, target_uid: "t".into() }.print()
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what both kinds differ in")]
    fn hosted(
        &self,
        kind: Kind,
        name: &str,
        spec: Value,
        labels: Value,
        mode: &str,
        bytes: u64,
        plan: impl FnOnce(&str) -> String,
    ) -> Hosted {
        let cr = self.create(kind, json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }));
        let uid = cr["metadata"]["uid"].as_str().unwrap().to_owned();
        let object = names::of_attempt(&uid, 1);
        let pv = format!("pv-{name}");
        let claim = json!({
            "metadata": { "name": object }, "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": "lab", "volumeName": pv,
                "resources": { "requests": { "storage": bytes.to_string() } },
            },
        });
        self.create(Kind::Claim, claim);
        let bound = json!({ "phase": "Bound", "capacity": { "storage": bytes.to_string() } });
        self.status(&self.key(Kind::Claim, &object), &bound);
        let key = self.key(kind, name);
        let mut hosted = Hosted { key, uid: uid.clone(), object, pod_uid: String::new(), pv };
        hosted.pod_uid = self.pod(&hosted);
        let metadata = json!({
            "labels": { names::NODE: NODE }, "annotations": { names::PLAN: plan(&uid) },
            "finalizers": [names::FINALIZER],
        });
        // Nothing lies where the agent looks until it is published: it sees the CR only then.
        self.patch(&hosted.key, &json!({ "metadata": metadata, "status": { "phase": "Accepted" } }));
        hosted
    }

    /// Makes the hosting pod, which runs; gives its uid.
    pub fn pod(&self, hosted: &Hosted) -> String {
        self.pod_on(NODE, hosted)
    }

    /// The controller says that the volume is prepared.
    pub fn prepared(&self, hosted: &Hosted) {
        self.prepared_on(NODE, hosted);
    }

    /// Where the kubelet has the device of a pod, and where it links to it.
    pub fn places(&self, hosted: &Hosted) -> (PathBuf, PathBuf) {
        let Hosted { pod_uid, pv, .. } = hosted;
        let node = format!("plugins/kubernetes.io/csi/volumeDevices/publish/{pv}/{pod_uid}");
        (self.root().join(node), self.root().join(format!("pods/{pod_uid}/volumeDevices/kubernetes.io~csi/{pv}")))
    }

    /// Where the kubelet binds the device of a pod.
    pub fn bound(&self, hosted: &Hosted) -> PathBuf {
        let Hosted { pod_uid, pv, .. } = hosted;
        self.root().join(format!("plugins/kubernetes.io/csi/volumeDevices/{pv}/dev/{pod_uid}"))
    }

    /// Publishes a file as the device of a pod, by a driver that makes a node for it; the kubelet binds that, with its loop device
    /// on top.
    pub fn publish(&self, hosted: &Hosted, file: &Path) -> Device {
        let device = Loop::new(file, &[]);
        let (node, link) = self.places(hosted);
        fs::create_dir_all(node.parent().unwrap()).unwrap();
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let stat = rustix::fs::stat(device.path()).unwrap();
        let [major, minor] = [rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)].map(|n| n.to_string());
        run("mknod", &[node.to_str().unwrap(), "b", &major, &minor]);
        std::os::unix::fs::symlink(&node, link).unwrap();
        let bound = Bound::new(&node, self.bound(hosted));
        let lock = Some(Loop::new(bound.path(), &[]));
        Device { _lock: lock, _bound: bound, device, node }
    }

    /// Mounts a new ext4 filesystem of so many MiB as the volume of a pod; gives the path.
    pub fn mount(&self, hosted: &Hosted, mib: u64) -> PathBuf {
        let Hosted { pod_uid, pv, .. } = hosted;
        let image = self.path(&format!("{pod_uid}.ext4"));
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).unwrap();
        let image = image.display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image]);
        let at = self.root().join(format!("pods/{pod_uid}/volumes/kubernetes.io~csi/{pv}/mount"));
        fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", "loop", &image, at.to_str().unwrap()]);
        self.mounts.lock().push(at.clone());
        at
    }

    /// Waits until the CR has one of these phases, and gives it.
    #[track_caller]
    pub fn until(&self, hosted: &Hosted, agent: &Agent, phases: &[&str]) -> Value {
        let is = |cr: &Value| phases.iter().any(|phase| cr["status"]["phase"] == *phase);
        self.when(hosted, agent, &format!("{phases:?}"), is)
    }

    /// Waits until that holds of the CR, and gives it.
    #[track_caller]
    pub fn when(&self, hosted: &Hosted, agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let cr = self.get(&hosted.key);
            if holds(&cr) {
                return cr;
            }
            let ended = ["Completed", "Failed", "Canceled"].iter().any(|phase| cr["status"]["phase"] == *phase);
            assert!(!ended && begin.elapsed() < PATIENCE, "{what}: {:#}\n{}", cr["status"], agent.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The repository, as somebody has it who has the bucket and the key alone.
    pub fn outside(&self) -> Home {
        let url = format!("s3://velero/{}/plugins/wherry", self.namespace);
        let home = Home::new().at(url, &self.seaweed.variables());
        let secret = self.kube.ask(Method::GET, &path_of(&self.key(Kind::Secret, "wherry-repository")), None).unwrap();
        home.write("key", wherry_api::base64::decode(secret["data"]["key"].as_str().unwrap()).unwrap());
        home
    }

    /// The key of the repositories as the Secret has it; null where it has none.
    pub fn repository_key(&self) -> Value {
        self.get(&self.key(Kind::Secret, "wherry-repository"))["data"]["key"].clone()
    }

    /// The storage of the repository.
    pub fn storage(&self) -> Arc<dyn Storage> {
        self.seaweed.open(&format!("velero/{}/plugins/wherry", self.namespace))
    }

    /// Sizes of all objects below that.
    pub fn stored(&self, below: &str) -> Vec<u64> {
        let mut sizes = Vec::new();
        let listed = self.storage().list(below, &mut |listed| {
            sizes.push(listed.size);
            Ok(())
        });
        listed.unwrap();
        sizes
    }

    /// Starts an agent.
    pub fn agent(&self) -> Agent {
        self.agent_by(&[])
    }

    /// Starts an agent by that command.
    pub fn agent_by(&self, by: &[&str]) -> Agent {
        self.agent_with(by, &[])
    }

    /// The same with more flags.
    pub fn agent_with(&self, by: &[&str], more: &[&str]) -> Agent {
        self.agent_of(NODE, by, more)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        for at in self.mounts.get_mut() {
            // Lazily if a failed test still holds it.
            let quiet = |args: &[&str]| {
                Command::new("umount").args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
            };
            let at = at.display().to_string();
            let _ = quiet(&[&at]) || quiet(&["-l", &at]);
        }
    }
}

/// A running agent; dropped, it is killed.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it, and those before it, have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Until it, or one before it, has logged that.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "{text:?} is not in its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub fn end(self) {
        self.send(Signal::TERM);
        self.ends();
    }

    /// Waits for its end, which it was told before; a second signal would not let it end well.
    #[track_caller]
    pub fn ends(mut self) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.log());
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has a file open at that path.
    pub fn has_open(&self, path: &Path) -> bool {
        let wanted = rustix::fs::stat(path).unwrap();
        let folder = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(folder).unwrap().flatten().any(|entry| {
            // One that is closed meanwhile is not open.
            rustix::fs::stat(entry.path()).is_ok_and(|stat| match wanted.st_rdev {
                0 => stat.st_dev == wanted.st_dev,
                device => stat.st_rdev == device,
            })
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

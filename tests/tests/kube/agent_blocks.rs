//! Changed blocks: what the service of a driver says is read of a Block volume, and when it is not believed. The service is
//! played, over TLS; API server, account, tokens and rights are real.

use crate::agent::{noise, snapshot_of};
use crate::stand;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_api::api::Kind;
use wherry_api::{UploadPlan, labels, names};
use wherry_tests::block_service::{BLOCK, BlockService, Call, Fault};
use wherry_tests::home::Home;
use wherry_tests::hosted::{Agent, Stand};
use wherry_tests::kube::Kube;

const MIB: u64 = 1 << 20;
/// Bytes of the disk.
const DISK: u64 = 32 * MIB;
/// Bytes at its beginning that are no zeros; the rest was never written.
const WRITTEN: u64 = 8 * MIB;

/// Which versions are served is of the cluster: who changes them has it alone.
static SERVED: RwLock<()> = RwLock::new(());

/// The custom resource, with the versions that are served. Its versions differ in nothing.
fn crd(served: &[&str]) -> Value {
    let text = json!({ "type": "string" });
    let spec = json!({
        "type": "object", "required": ["address", "audience", "caCert"],
        "properties": { "address": text, "audience": text, "caCert": { "type": "string", "format": "byte" } },
    });
    let schema = json!({ "openAPIV3Schema": {
        "type": "object", "required": ["spec"], "properties": { "spec": spec },
    } });
    let versions = ["v1alpha1", "v1beta1"].map(|name| {
        json!({ "name": name, "served": served.contains(&name), "storage": name == "v1alpha1", "schema": schema })
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "snapshotmetadataservices.cbt.storage.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-csi/external-snapshot-metadata/pull/2" },
        },
        "spec": {
            "group": "cbt.storage.k8s.io", "scope": "Cluster", "versions": versions,
            "names": {
                "kind": "SnapshotMetadataService", "plural": "snapshotmetadataservices", "singular": "snapshotmetadataservice",
            },
        },
    })
}

/// Makes it so that these versions are served, and only they.
fn serve(kube: &Kube, served: &[&str]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let one = format!("{path}/snapshotmetadataservices.cbt.storage.k8s.io");
    let body = |media| Some((media, crd(served).to_string().into_bytes()));
    if kube.ask(Method::GET, &one, None).is_ok() {
        kube.ask(Method::PATCH, &one, body("application/merge-patch+json")).unwrap();
    } else {
        kube.ask(Method::POST, path, body("application/json")).unwrap();
    }
    let is_so = || {
        let groups = kube.ask(Method::GET, "/apis", None).unwrap();
        let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "cbt.storage.k8s.io");
        let Some(versions) = group.and_then(|group| group["versions"].as_array()) else { return false };
        let said: Vec<&str> = versions.iter().filter_map(|version| version["version"].as_str()).collect();
        said.len() == served.len() && served.iter().all(|version| said.contains(version) && answers(kube, version))
    };
    while !is_so() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn answers(kube: &Kube, version: &str) -> bool {
    kube.ask(Method::GET, &format!("/apis/cbt.storage.k8s.io/{version}/snapshotmetadataservices"), None).is_ok()
}

/// Nobody serves any as long as this is held, but who holds it; what others left is gone.
pub fn none_served(kube: &Kube) -> RwLockWriteGuard<'static, ()> {
    let alone = SERVED.write();
    let one = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", names::METADATA_SERVICES);
    let _ = kube.ask(Method::DELETE, &one, None);
    while kube.ask(Method::GET, &one, None).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    alone
}

/// A node whose driver offers the service, and one disk.
struct Lab {
    _served: Option<RwLockReadGuard<'static, ()>>,
    agent: Agent,
    service: BlockService,
    stand: Stand,
    file: PathBuf,
    driver: String,
    count: AtomicU64,
}

impl Lab {
    fn new(name: &str) -> Self {
        let served = SERVED.read();
        let lab = Self { _served: Some(served), ..Self::alone(name) };
        serve(&lab.stand.kube, &["v1alpha1", "v1beta1"]);
        lab.offer(&lab.driver, "v1beta1", lab.service.spec());
        lab
    }

    /// Without the custom resource.
    fn alone(name: &str) -> Self {
        let stand = stand(name);
        let service = BlockService::start(stand.kube.clone(), &format!("audience-{name}"));
        let file = stand.path("disk");
        let disk = fs::File::create(&file).unwrap();
        disk.write_all_at(&noise(7, WRITTEN), 0).unwrap();
        disk.set_len(DISK).unwrap();
        let (agent, driver) = (stand.agent(), format!("{name}.csi"));
        Self { _served: None, agent, service, stand, file, driver, count: AtomicU64::new(0) }
    }

    /// Says where the service of a driver is.
    fn offer(&self, driver: &str, version: &str, spec: Value) {
        let object = json!({
            "apiVersion": format!("cbt.storage.k8s.io/{version}"), "kind": "SnapshotMetadataService",
            "metadata": { "name": driver }, "spec": spec,
        });
        let path = format!("/apis/cbt.storage.k8s.io/{version}/snapshotmetadataservices");
        let body = Some(("application/json", object.to_string().into_bytes()));
        self.stand.kube.ask(Method::POST, &path, body).unwrap();
    }

    /// Another byte in so many blocks of the disk, none beside another.
    fn change(&self, blocks: u64) {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let disk = fs::File::options().write(true).open(&self.file).unwrap();
        for block in 0..blocks {
            disk.write_all_at(&[n as u8 + 1], (4 * block + n % 4) * 4 * BLOCK + 77).unwrap();
        }
    }

    /// Backs the disk up; gives the CR at its end.
    fn upload(&self, name: &str) -> Value {
        self.upload_by(name, |_| {})
    }

    fn upload_by(&self, name: &str, change: impl FnOnce(&mut UploadPlan)) -> Value {
        let bytes = fs::metadata(&self.file).unwrap().len();
        let (mut handle, mut volume) = (String::new(), String::new());
        let hosted = self.stand.upload_by(name, "Block", bytes, |plan| {
            plan.driver.clone_from(&self.driver);
            change(plan);
            handle.clone_from(&plan.snapshot_handle);
            volume = plan.source_handle.clone().unwrap_or_default();
        });
        self.service.has(&handle, &volume, &self.file);
        self.stand.snapshot(&hosted, &handle);
        let device = self.stand.publish(&hosted, &self.file);
        self.stand.prepared(&hosted);
        let cr = self.stand.until(&hosted, &self.agent, &["Completed"]);
        assert!(!self.agent.has_open(device.node()), "the device is open still");
        cr
    }

    /// The snapshot equals one for which all of the disk was read; gives how many bytes were read for it.
    #[track_caller]
    fn is_whole(&self, home: &Home, cr: &Value) -> u64 {
        let shown = |id: &str| home.run(&["show", id, "--json"]).ok().json();
        let whole = home.run(&["backup", self.file.to_str().unwrap(), "--name", "whole", "--parent", "none", "--json"]);
        let whole = shown(whole.ok().json()["snapshot"].as_str().unwrap());
        let snapshot = shown(&snapshot_of(cr).session);
        assert_eq!(snapshot["root"], whole["root"], "{}: it is another disk", cr["status"]["message"]);
        assert_eq!(snapshot["size"], whole["size"]);
        snapshot["read"].as_u64().unwrap_or_else(|| panic!("{snapshot:#}"))
    }
}

fn message(cr: &Value) -> &str {
    cr["status"]["message"].as_str().unwrap()
}

#[track_caller]
fn says(cr: &Value, words: &str) {
    assert!(message(cr).contains(words), "{words:?} is not in {:?}", message(cr));
}

fn starts(calls: &[Call]) -> Vec<u64> {
    calls.iter().map(|call| call.start).collect()
}

#[test]
fn only_what_has_changed_is_read() {
    let lab = Lab::new("blocks-changed");
    let first = lab.upload("first");
    says(&first, "; by allocated blocks; ");
    let home = lab.stand.outside();
    let chunk = chunk(&home, &first);
    assert_eq!(lab.is_whole(&home, &first), WRITTEN);
    let call = |base: Option<&str>, target: &str| Call { base: base.map(Into::into), target: target.into(), start: 0 };
    assert_eq!(lab.service.calls(), [call(None, "handle-first")]);

    lab.change(3);
    let second = lab.upload("second");
    says(&second, &format!("; by changed blocks since {}; ", snapshot_of(&first).session));
    assert_eq!(lab.is_whole(&home, &second), 3 * chunk);
    assert_eq!(lab.service.calls(), [call(Some("handle-first"), "handle-second")]);
    assert_eq!(second["status"]["progress"]["totalBytes"], DISK);

    // Nothing has changed, and the driver says so.
    let third = lab.upload("third");
    says(&third, &format!("; by changed blocks since {}; ", snapshot_of(&second).session));
    assert_eq!(lab.is_whole(&home, &third), 0);

    // What was written and is zero now is read, and is zero.
    let disk = fs::File::options().write(true).open(&lab.file).unwrap();
    disk.write_all_at(&vec![0; MIB as usize], 2 * MIB).unwrap();
    let fourth = lab.upload("fourth");
    says(&fourth, "; by changed blocks since ");
    assert_eq!(lab.is_whole(&home, &fourth), MIB);
    home.run(&["restore", &snapshot_of(&fourth).session, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(&lab.file).unwrap(), "it is another disk");
    let tags = home.run(&["show", &snapshot_of(&fourth).session, "--json"]).ok().json()["tags"].clone();
    assert_eq!(
        (&tags[labels::VOLUME_HANDLE], &tags[labels::SNAPSHOT_HANDLE]),
        (&json!("volume-1"), &json!("handle-fourth"))
    );

    // A word of the operator goes before that of the driver.
    let settings = lab.stand.key(Kind::ConfigMap, "wherry");
    lab.stand.patch(&settings, &json!({ "data": { "readAll": "true" } }));
    lab.agent.end();
    let lab = Lab { agent: lab.stand.agent(), ..lab };
    lab.service.calls();
    let fifth = lab.upload("fifth");
    says(&fifth, "; everything is read: the setting readAll is on; ");
    assert_eq!((lab.is_whole(&home, &fifth), lab.service.calls().len()), (DISK, 0));

    // Not for long, and for nobody else: the token is in no log, and in no object.
    assert!(!lab.agent.log().contains("eyJ"), "a token is in the log: {}", lab.agent.log());
    lab.agent.end();
}

/// Bytes of a chunk of that snapshot.
fn chunk(home: &Home, cr: &Value) -> u64 {
    home.run(&["show", &snapshot_of(cr).session, "--json"]).ok().json()["chunk_size"].as_u64().unwrap()
}

#[test]
fn streams_that_break_go_on_and_wrong_answers_are_thrown_away() {
    let lab = Lab::new("blocks-faults");
    let first = lab.upload("first");
    let home = lab.stand.outside();
    let chunk = chunk(&home, &first);
    lab.service.calls();
    let everything = "; everything is read: ";
    for (n, (fault, words, calls)) in [
        (Fault::Cut(1), "; by changed blocks since ", vec![0, 1, 2, 3]),
        (Fault::Expire(2), "; by changed blocks since ", vec![0, 2]),
        (Fault::BaseGone, "; by allocated blocks, not by changed ones: the driver gives none since ", vec![0]),
        (Fault::Descending, everything, vec![0]),
        (Fault::DeltaDescending, everything, vec![0]),
        (Fault::Overlapping, everything, vec![0]),
        (Fault::Beyond, everything, vec![0]),
        (Fault::Empty, everything, vec![0]),
        (Fault::Capacity, everything, vec![0]),
        (Fault::TwoCapacities, everything, vec![0]),
        (Fault::Silent, everything, vec![0]),
        (Fault::NoToken, everything, vec![]),
        (Fault::Unimplemented, everything, vec![]),
        (Fault::Cut(0), everything, vec![0, 0, 0, 0, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        // Two ranges in a message, so four messages.
        lab.change(8);
        lab.service.set(Some(fault));
        let cr = lab.upload(&format!("upload-{n}"));
        lab.service.set(None);
        says(&cr, words);
        let read = lab.is_whole(&home, &cr);
        let reads = match fault {
            Fault::Cut(1) | Fault::Expire(_) => read == 8 * chunk,
            Fault::BaseGone => (WRITTEN..DISK).contains(&read),
            _ => read == DISK,
        };
        assert!(reads, "{fault:?}: {read} bytes were read");
        let asked = lab.service.calls();
        assert_eq!(asked.len(), calls.len(), "{fault:?}: {asked:?}");
        // Each call goes on behind the last range of the one before.
        let ends: Vec<u64> = starts(&asked);
        assert!(ends.first().is_none_or(|first| *first == 0), "{fault:?}: {asked:?}");
        if calls.iter().any(|start| *start > 0) {
            assert!(ends.is_sorted_by(|a, b| a < b) && ends.iter().all(|end| end % BLOCK == 0), "{fault:?}: {asked:?}");
        }
        let why = match fault {
            Fault::Descending | Fault::DeltaDescending | Fault::Overlapping => "comes after one that ends at",
            Fault::Beyond => "and the volume at",
            Fault::Empty => "a range of 0 bytes",
            Fault::Capacity | Fault::TwoCapacities => "and the device has 33554432",
            Fault::Silent => "it says nothing",
            Fault::NoToken => "Unauthenticated: the token is not taken",
            Fault::Unimplemented => "Unimplemented: the driver has no SnapshotMetadata service",
            Fault::Cut(0) => "Unavailable: the stream is cut",
            Fault::BaseGone => "NotFound: there is no snapshot",
            Fault::Cut(_) | Fault::Expire(_) | Fault::Hang => "by changed blocks",
        };
        says(&cr, why);
    }
    lab.agent.end();
}

/// Whoever cancels does not wait for a driver.
#[test]
fn a_driver_that_says_nothing_keeps_no_cancel_waiting() {
    let lab = Lab::new("blocks-hang");
    lab.service.set(Some(Fault::Hang));
    let hosted = lab.stand.upload_by("hangs", "Block", DISK, |plan| plan.driver.clone_from(&lab.driver));
    lab.stand.snapshot(&hosted, "handle-hangs");
    let device = lab.stand.publish(&hosted, &lab.file);
    lab.stand.prepared(&hosted);
    lab.stand.when(&hosted, &lab.agent, "the driver is asked", |_| !lab.service.calls().is_empty());
    lab.stand.patch(&hosted.key, &json!({ "spec": { "cancel": true } }));
    lab.stand.until(&hosted, &lab.agent, &["Canceled"]);
    assert!(!lab.agent.has_open(device.node()), "the device is open still");
    lab.agent.end();
}

#[test]
fn a_delta_is_asked_for_only_since_the_same_volume() {
    let lab = Lab::new("blocks-bases");
    let other = format!("other-{}", lab.driver);
    lab.offer(&other, "v1alpha1", lab.service.spec());
    let first = lab.upload("first");
    let home = lab.stand.outside();
    let volume = snapshot_of(&first).volume;
    let not = "; by allocated blocks, not by changed ones: snapshot ";
    // No delta is asked for, whatever would come of it.
    let allocated = |name: &str, change: &dyn Fn(&mut UploadPlan), words: &str| {
        lab.change(2);
        lab.service.calls();
        let cr = lab.upload_by(name, change);
        says(&cr, words);
        let calls = lab.service.calls();
        assert!(calls.len() == 1 && calls[0].base.is_none(), "{name}: {calls:?}");
        assert!(lab.is_whole(&home, &cr) < DISK);
        cr
    };
    let cr = allocated("other-driver", &|plan| plan.driver.clone_from(&other), not);
    says(&cr, &format!("is of driver {}, and this is driver {other}", lab.driver));
    // It goes on from there once more.
    let cr = allocated("driver-back", &|_| {}, not);
    says(&cr, &format!("is of driver {other}, and this is"));
    let cr = allocated("other-volume", &|plan| plan.source_handle = Some("volume-2".into()), not);
    says(&cr, "is of volume volume-1, and this is volume volume-2");
    let cr = allocated("no-volume", &|plan| plan.source_handle = None, not);
    says(&cr, "cannot be told to be of the same volume");
    let cr = allocated("after-no-volume", &|_| {}, not);
    says(&cr, "does not say of which volume it is");
    // A PVC that was made anew under the same name.
    let cr = allocated("other-claim", &|plan| plan.source_uid = Some("u-2".into()), "; by allocated blocks; ");
    assert_ne!(snapshot_of(&cr).volume, volume);
    says(&cr, "first snapshot of the volume");
    // Volumes grow.
    fs::File::options().write(true).open(&lab.file).unwrap().set_len(DISK + 8 * MIB).unwrap();
    let cr = allocated("resized", &|_| {}, not);
    says(&cr, &format!("has {DISK} bytes, and the volume {}", DISK + 8 * MIB));
    lab.change(2);
    says(&lab.upload("resized-again"), "; by changed blocks since ");

    // By the name alone it would be the same volume.
    let by_hand = |tags: [(&str, &str); 4]| {
        let tags = tags.map(|(key, value)| format!("--tag={key}={value}"));
        let args =
            [&["backup", lab.file.to_str().unwrap(), "--name", &volume], &tags.each_ref().map(String::as_str)[..]];
        home.run(&args.concat()).ok();
    };
    let driver = lab.driver.as_str();
    let (of, at) = ((labels::DRIVER, driver), (labels::SNAPSHOT_HANDLE, "handle-first"));
    by_hand([(labels::CLUSTER, "another"), of, (labels::VOLUME_HANDLE, "volume-1"), at]);
    let cr = allocated("other-cluster", &|_| {}, not);
    says(&cr, "is of cluster another, and this is cluster ");
    by_hand([of, (labels::VOLUME_HANDLE, "volume-1"), at, (labels::PVC, "data")]);
    says(&allocated("no-cluster", &|_| {}, not), "does not say of which cluster it is");
    by_hand([(labels::CLUSTER, "x"), of, (labels::VOLUME_HANDLE, "volume-1"), (labels::PVC, "data")]);
    says(&allocated("no-handle", &|_| {}, not), "does not say of which storage snapshot it is");
    lab.agent.end();
}

/// What the repository has lost of the parent is read, whether the driver names it or not.
#[test]
fn what_the_parent_has_lost_is_read() {
    let lab = Lab::new("blocks-lost");
    let first = lab.upload("first");
    let home = lab.stand.outside();
    let storage = lab.stand.storage();
    let mut lost = Vec::new();
    let listed = storage.list("packs/", &mut |listed| {
        lost.push(listed.key.clone());
        Ok(())
    });
    listed.unwrap();
    assert!(!lost.is_empty());
    for key in &lost {
        storage.delete(key).unwrap();
    }
    lab.change(2);
    let second = lab.upload("second");
    says(&second, &format!("; by changed blocks since {}; ", snapshot_of(&first).session));
    home.run(&["check", &snapshot_of(&second).session, "--read-data"]).ok();
    assert_eq!(lab.is_whole(&home, &second), WRITTEN);
    lab.agent.end();
}

#[test]
fn the_service_is_found_in_either_version_or_said_to_be_missing() {
    let _alone = SERVED.write();
    let lab = Lab::alone("blocks-versions");
    let kube = &lab.stand.kube;
    serve(kube, &["v1alpha1"]);
    let cr = lab.upload("missing");
    says(&cr, &format!("; everything is read: the cluster has no SnapshotMetadataService {}", lab.driver));
    lab.offer(&lab.driver, "v1alpha1", lab.service.spec());
    lab.change(2);
    says(&lab.upload("alpha"), "; by changed blocks since ");
    serve(kube, &["v1beta1"]);
    lab.change(2);
    let beta = lab.upload("beta");
    says(&beta, "; by changed blocks since ");
    let home = lab.stand.outside();
    lab.is_whole(&home, &beta);
    serve(kube, &["v1alpha1", "v1beta1"]);

    // Whoever has not the certificate that the object names is not the service.
    let stranger = BlockService::start(kube.clone(), "stranger");
    let mut spec = lab.service.spec();
    spec["caCert"] = stranger.spec()["caCert"].clone();
    let untrusted = format!("untrusted-{}", lab.driver);
    lab.offer(&untrusted, "v1beta1", spec);
    let cr = lab.upload_by("untrusted", |plan| plan.driver.clone_from(&untrusted));
    says(&cr, "; everything is read: ");
    says(&cr, "certificate");
    // One that takes only tokens for others.
    let mut spec = lab.service.spec();
    spec["audience"] = json!("somebody-else");
    let mistaken = format!("mistaken-{}", lab.driver);
    lab.offer(&mistaken, "v1beta1", spec);
    let cr = lab.upload_by("mistaken", |plan| plan.driver.clone_from(&mistaken));
    says(&cr, "; everything is read: ");
    says(&cr, "Unauthenticated");
    assert_eq!(lab.is_whole(&home, &cr), DISK);
    lab.agent.end();
}

//! Kept bases on the real server: the mark, the drop, the owner, and which drivers list changed blocks.

use crate::Stage;
use crate::agent_blocks::none_served;
use crate::scenes::{assert_clean, scene};
use serde_json::{Value, json};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::names;
use wherry_controller::observe::lists_changed_blocks;
use wherry_tests::cluster::{Event, How, World};

const KINDS: [(bool, bool); 2] = [(false, false), (true, true)];

#[test]
fn the_newest_one_is_kept_whatever_fails() {
    let stage = Stage::enter();
    let outcome = World::on(stage.empty(), scene(false, KINDS[0])).keeping("always").run();
    assert_clean(&outcome, "alone");
    assert_eq!((outcome.phase.as_str(), outcome.writes), ("Completed", 18), "{:#?}", outcome.steps);
    // The mark, the drop, and what comes after.
    for (n, how) in [(16, How::ReplyLost), (17, How::Twice), (18, How::NotApplied)] {
        let outcome =
            World::on(stage.empty().remembered(), scene(false, KINDS[1])).keeping("always").fail(n, how).run();
        assert_clean(&outcome, &format!("write {n} {how:?}"));
        assert_eq!(outcome.phase, "Completed", "{:#?}", outcome.steps);
    }
    for event in [Event::Cancel, Event::Delete] {
        let outcome =
            World::on(stage.empty().remembered(), scene(false, KINDS[0])).keeping("always").at(11, event).run();
        assert_clean(&outcome, &format!("{event:?}"));
    }
}

#[test]
fn the_sweep_drops_one_whose_claim_is_gone() {
    let stage = Stage::enter();
    let mut world = World::on(stage.empty(), scene(false, KINDS[0])).keeping("always");
    while world.turn() {}
    assert_eq!((world.sweep(), world.storage.snapshots.len()), (0, 1));
    let claim = Key::new(Kind::Claim, "app", "data");
    world.server.delete(wherry_tests::cluster::Who::Velero, &claim);
    world.server.finish(wherry_tests::cluster::Who::System, &claim, "kubernetes.io/pvc-protection");
    assert_eq!((world.sweep(), world.storage.snapshots.len()), (1, 0));
}

fn definition(versions: &[(&str, bool)]) -> Value {
    let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    let versions = versions
        .iter()
        .enumerate()
        .map(|(n, (name, served))| json!({ "name": name, "served": served, "storage": n == 0, "schema": schema }));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        // A group of Kubernetes' own wants the word of its reviewers.
        "metadata": {
            "name": names::METADATA_SERVICES,
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/4082" },
        },
        "spec": {
            "group": "cbt.storage.k8s.io", "scope": "Cluster", "versions": versions.collect::<Vec<_>>(),
            "names": {
                "kind": "SnapshotMetadataService", "listKind": "SnapshotMetadataServiceList",
                "plural": "snapshotmetadataservices", "singular": "snapshotmetadataservice",
            },
        },
    })
}

/// With the account that is deployed, and a server that has no such kind at first.
#[test]
fn whichever_version_is_served_is_asked() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    let _alone = none_served(kube);
    let api = kube.account("velero", "wherry-controller");
    let lists = |driver: &str| kube.wait(lists_changed_blocks(&api, driver)).unwrap();
    let send = |method: reqwest::Method, path: &str, media: &str, body: &Value| {
        kube.ask(method, path, Some((media, body.to_string().into_bytes())))
    };
    assert!(!lists("lab.csi"));
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let of_it = format!("{path}/{}", names::METADATA_SERVICES);
    let admin = kube.admin();
    for (kind, versions) in [
        (Kind::MetadataServiceAlpha, &[("v1alpha1", true)][..]),
        (Kind::MetadataServiceBeta, &[("v1beta1", true), ("v1alpha1", true)]),
        (Kind::MetadataServiceBeta, &[("v1beta1", true), ("v1alpha1", false)]),
    ] {
        kube.define(&definition(versions));
        let key = Key::new(kind, "", "lab.csi");
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.word(), "metadata": { "name": "lab.csi" },
            "spec": { "address": "lab:50051" },
        });
        // It is served a moment after its definition is there.
        let begin = std::time::Instant::now();
        while let Err(e) = kube.wait(admin.create(&key, &object)) {
            assert!(begin.elapsed().as_secs() < 60, "{e}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(lists("lab.csi") && !lists("other.csi"), "{versions:?}");
        send(reqwest::Method::DELETE, &of_it, "application/json", &json!({})).unwrap();
        while kube.ask(reqwest::Method::GET, &of_it, None).is_ok() {
            assert!(begin.elapsed().as_secs() < 60, "the definition does not go");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    assert!(!lists("lab.csi"));
}

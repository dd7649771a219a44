//! The rights that are deployed, asked of the real authorizer.

use crate::Stage;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeSet;
use wherry_api::api::{Api, Guard, Key, Kind, Refusal};
use wherry_tests::cluster::{Event, Scene, World};
use wherry_tests::kube::Kube;

pub const USER: &str = "system:serviceaccount:velero:wherry-controller";
const AGENT: &str = "system:serviceaccount:velero:wherry-agent";
const JOBS: &str = "system:serviceaccount:velero:wherry-jobs";
const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// Group and resource of all that a cluster of ours has, and of what nobody should touch.
const RESOURCES: [(&str, &str); 28] = [
    ("velero.io", "datauploads"),
    ("velero.io", "datadownloads"),
    ("velero.io", "backups"),
    ("velero.io", "restores"),
    ("velero.io", "backupstoragelocations"),
    ("", "pods"),
    ("", "pods/exec"),
    ("", "pods/ephemeralcontainers"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "configmaps"),
    ("", "secrets"),
    ("", "events"),
    ("", "nodes"),
    ("", "nodes/proxy"),
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "serviceaccounts/token"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("cbt.storage.k8s.io", "snapshotmetadataservices"),
    ("coordination.k8s.io", "leases"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("snapshot.storage.k8s.io", "volumesnapshots"),
    ("snapshot.storage.k8s.io", "volumesnapshotcontents"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
];

pub fn may(kube: &Kube, user: &str, namespace: &str, (group, resource): (&str, &str), verb: &str, name: &str) -> bool {
    let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": { "user": user, "groups": ["system:serviceaccounts", "system:authenticated"], "resourceAttributes": {
            "namespace": namespace, "group": group, "resource": resource, "subresource": sub, "verb": verb, "name": name,
        } },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let answer = kube.ask(Method::POST, path, Some(("application/json", review.to_string().into_bytes()))).unwrap();
    answer["status"]["allowed"] == true
}

/// `NAMESPACE RESOURCE VERB` of all that is allowed for objects of any name.
pub fn allowed(kube: &Kube, user: &str, namespace: &str) -> BTreeSet<String> {
    let all = RESOURCES.iter().flat_map(|resource| VERBS.iter().map(move |verb| (*resource, *verb)));
    all.filter(|(resource, verb)| may(kube, user, namespace, *resource, verb, ""))
        .map(|((_, resource), verb)| format!("{resource} {verb}"))
        .collect()
}

pub fn set(rights: &[&str]) -> BTreeSet<String> {
    let one = |right: &&str| {
        let (resource, verbs) = right.split_once(' ').unwrap();
        verbs.split(' ').map(|verb| format!("{resource} {verb}")).collect::<Vec<_>>()
    };
    rights.iter().flat_map(one).collect()
}

#[test]
fn the_controller_may_do_what_it_does_and_nothing_else() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    // What it may do in every namespace: no write to a PVC, no list and no watch of PVCs, pods or VolumeSnapshots.
    let everywhere = set(&[
        "persistentvolumeclaims get",
        "nodes get",
        "volumesnapshots get delete",
        "volumesnapshotcontents get list create patch delete",
        "persistentvolumes get list patch",
        "storageclasses get",
        "volumeattachments list",
        "snapshotmetadataservices get",
    ]);
    assert_eq!(allowed(kube, USER, ""), everywhere);
    assert_eq!(allowed(kube, USER, "app"), everywhere);
    let mut there = everywhere;
    there.extend(set(&[
        "datauploads get list watch patch",
        "datadownloads get list watch patch",
        "pods get list watch create delete",
        "persistentvolumeclaims get list watch create delete",
        "volumesnapshots get list watch create patch delete",
        "backups list watch",
        "backupstoragelocations list watch",
        "jobs list watch create delete",
        "configmaps create",
        "leases create",
        "events create",
    ]));
    assert_eq!(allowed(kube, USER, "velero"), there);
    for (resource, name, verbs) in [
        (("", "configmaps"), "wherry", &["get", "create", "patch"][..]),
        (("", "configmaps"), "wherry-jobs", &["get", "create"]),
        (("", "configmaps"), "wherry-repositories", &["get", "create"]),
        (("", "configmaps"), "wherry-deleting", &["get", "create", "patch"]),
        (("coordination.k8s.io", "leases"), "wherry-controller", &["create", "get", "list", "watch", "patch"]),
        (("", "secrets"), "wherry-repository", &[]),
        (
            ("apiextensions.k8s.io", "customresourcedefinitions"),
            "snapshotmetadataservices.cbt.storage.k8s.io",
            &["get"],
        ),
    ] {
        let of_name: Vec<&str> =
            VERBS.into_iter().filter(|verb| may(kube, USER, "velero", resource, verb, name)).collect();
        let mut expected = verbs.to_vec();
        expected.sort_by_key(|verb| VERBS.iter().position(|v| v == verb));
        assert_eq!(of_name, expected, "{resource:?} {name}");
    }
}

#[test]
fn an_agent_may_do_what_it_does_and_nothing_else() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    // Nothing in other namespaces, and of the cluster one name, and who tells changed blocks.
    let everywhere = set(&["snapshotmetadataservices get"]);
    assert_eq!(allowed(kube, AGENT, ""), everywhere);
    assert_eq!(allowed(kube, AGENT, "app"), everywhere);
    let there = set(&[
        "snapshotmetadataservices get",
        "volumesnapshots get",
        "datauploads get list watch patch",
        "datadownloads get list watch patch",
        "backups get",
        "backupstoragelocations get",
        "pods get list watch",
        "persistentvolumeclaims get",
        "configmaps create",
        "secrets get",
        "events create",
    ]);
    assert_eq!(allowed(kube, AGENT, "velero"), there);
    for (namespace, resource, name, verbs) in [
        ("velero", ("", "configmaps"), "wherry", &["get", "create"][..]),
        ("velero", ("", "configmaps"), "wherry-repositories", &["get", "create", "patch"]),
        ("", ("", "namespaces"), "kube-system", &["get"]),
        // The key is put into a Secret that is there. Who makes Secrets has every token of the namespace.
        ("velero", ("", "secrets"), "wherry-repository", &["get", "patch"]),
        ("velero", ("", "secrets"), "cloud-credentials", &["get"]),
        // Of no account but its own.
        ("velero", ("", "serviceaccounts/token"), "wherry-agent", &["create"]),
        ("velero", ("", "serviceaccounts/token"), "wherry-controller", &[]),
        ("app", ("", "serviceaccounts/token"), "wherry-agent", &[]),
    ] {
        let verbs_of = VERBS.into_iter().filter(|verb| may(kube, AGENT, namespace, resource, verb, name));
        assert_eq!(verbs_of.collect::<Vec<_>>(), verbs, "{resource:?} {name}");
    }
    let api = kube.account("velero", "wherry-agent");
    let token = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": { "name": "token", "annotations": { "kubernetes.io/service-account.name": "wherry-controller" } },
    });
    let error = kube.wait(api.create(&Key::new(Kind::Secret, "velero", "token"), &token)).unwrap_err();
    assert_eq!(error.refusal, Refusal::Forbidden, "{error}");
    for path in ["/api/v1/namespaces/velero/secrets", "/api/v1/pods?watch=1&timeoutSeconds=1", "/api/v1/nodes"] {
        let error = kube.wait(api.client().send("ask", Method::GET, path, None)).unwrap_err();
        assert_eq!(error.refusal, Refusal::Forbidden, "{path}: {error}");
    }
}

#[test]
fn a_job_may_read_what_it_decides_by_and_write_its_result() {
    let stage = Stage::enter();
    let kube = &stage.real.kube;
    assert_eq!(allowed(kube, JOBS, ""), BTreeSet::new());
    assert_eq!(allowed(kube, JOBS, "app"), BTreeSet::new());
    let there =
        set(&["backups list", "datadownloads list", "backupstoragelocations get", "secrets get", "configmaps create"]);
    assert_eq!(allowed(kube, JOBS, "velero"), there);
    for (namespace, resource, name, verbs) in [
        ("velero", ("", "configmaps"), "wherry", &["create"][..]),
        ("velero", ("", "configmaps"), "wherry-repositories", &["get", "create"]),
        ("velero", ("", "configmaps"), "wherry-deleting", &["get", "create"]),
        ("velero", ("", "configmaps"), "wherry-jobs", &["get", "create", "patch"]),
        ("", ("", "namespaces"), "kube-system", &["get"]),
    ] {
        let verbs_of = VERBS.into_iter().filter(|verb| may(kube, JOBS, namespace, resource, verb, name));
        assert_eq!(verbs_of.collect::<Vec<_>>(), verbs, "{resource:?} {name}");
    }
}

/// Not only by the word of a review.
#[test]
fn requests_beyond_them_are_refused() {
    let stage = Stage::enter();
    let server = stage.empty();
    let kube = &stage.real.kube;
    let claim = Key::new(Kind::Claim, "app", "data");
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data", "namespace": "app" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1" } } },
    });
    let api = kube.account("velero", "wherry-controller");
    let refused = |answer: Result<(), wherry_api::api::ApiError>| {
        let error = answer.unwrap_err();
        assert_eq!(error.refusal, Refusal::Forbidden, "{error}");
    };
    refused(kube.wait(api.create(&claim, &object)).map(drop));
    server.create(wherry_tests::cluster::Who::Velero, &claim, &object);
    let seen = kube.wait(api.get(&claim)).unwrap().unwrap();
    let guard = Guard {
        uid: seen["metadata"]["uid"].as_str().unwrap().to_owned(),
        resource_version: seen["metadata"]["resourceVersion"].as_str().unwrap().to_owned(),
    };
    refused(kube.wait(api.patch(&claim, &json!({ "metadata": { "labels": { "a": "b" } } }))).map(drop));
    refused(kube.wait(api.delete(&claim, &guard)));
    // That is an addition, for local volumes: see `local`.
    let volume = Key::new(Kind::Volume, "", "wherry-x-1");
    refused(kube.wait(api.create(&volume, &json!({ "metadata": { "name": volume.name } }))).map(drop));
    for kind in [Kind::Claim, Kind::Pod, Kind::VolumeSnapshot] {
        refused(kube.wait(api.list(kind, "", &[])).map(drop));
    }
    for path in ["/api/v1/secrets", "/api/v1/namespaces/velero/secrets", "/api/v1/pods?watch=1&timeoutSeconds=1"] {
        refused(kube.wait(api.client().send("ask", Method::GET, path, None)).map(drop));
    }
}

/// What the loop and the Jobs need and these scenes do not, and the PV of a source that is still there.
const OF_OTHERS: [&str; 25] = [
    "snapshotmetadataservices get",
    "configmaps patch",
    "configmaps create",
    "backups list",
    "backups watch",
    "backupstoragelocations list",
    "backupstoragelocations watch",
    "jobs list",
    "jobs watch",
    "jobs create",
    "jobs delete",
    "events create",
    "datauploads watch",
    "datadownloads watch",
    "pods watch",
    "persistentvolumeclaims watch",
    "volumesnapshots watch",
    "datauploads list",
    "datadownloads list",
    "volumesnapshots list",
    "leases create",
    "leases get",
    "leases patch",
    "configmaps get",
    "persistentvolumes get",
];

#[test]
fn what_is_granted_is_used() {
    let stage = Stage::enter();
    for (download, event) in [(false, None), (true, None), (false, Some(Event::PlanBroken))] {
        let scene = Scene { download, retain: true, wait_for_consumer: true, local: false, beside: false };
        let world = World::on(stage.empty(), scene);
        let outcome = event.into_iter().fold(world, |world, event| world.at(5, event)).run();
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    }
    let scene = Scene { download: false, retain: false, wait_for_consumer: false, local: false, beside: false };
    let outcome = World::on(stage.empty(), scene).keeping("always").run();
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    let kube = &stage.real.kube;
    let used: BTreeSet<String> = kube
        .audit(0)
        .iter()
        .filter(|event| event["user"]["username"] == USER && event["responseStatus"]["code"] != 403)
        .map(|event| {
            let text = |pointer: &str| event.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
            format!("{} {}", text("/objectRef/resource"), text("/verb"))
        })
        .collect();
    let mut granted = allowed(kube, USER, "");
    granted.extend(allowed(kube, USER, "velero"));
    let unused: Vec<&String> =
        granted.iter().filter(|right| !used.contains(*right) && !OF_OTHERS.contains(&right.as_str())).collect();
    assert!(unused.is_empty(), "granted and not used: {unused:?}; used: {used:#?}");
}

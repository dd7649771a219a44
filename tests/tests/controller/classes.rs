//! Settings by storage class, as the objects show them; and hosting pods that admission has changed.

use crate::{assert_clean, scenes};
use serde_json::{Value, json};
use wherry_api::api::{Key, Kind};
use wherry_api::{UploadPlan, WaitForNode, names};
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::{DOWNLOAD, Server, UPLOAD, Who, World, WorldView};

/// A class beside that of the source.
fn fast(world: &World, mode: &str) {
    let class = json!({
        "metadata": { "name": "fast" }, "provisioner": "lab.csi", "reclaimPolicy": "Delete", "volumeBindingMode": mode,
    });
    world.server.create(Who::Velero, &Key::new(Kind::StorageClass, "", "fast"), &class);
}

/// What the first attempt at the CR has of that kind.
fn made(world: &World, kind: Kind, cr: (Kind, &str)) -> Value {
    let cr = world.server.get(&Key::new(cr.0, "velero", cr.1)).unwrap();
    let name = names::of_attempt(cr["metadata"]["uid"].as_str().unwrap(), 1);
    world.server.get(&Key::new(kind, "velero", &name)).map(|object| Value::clone(&object)).unwrap_or_default()
}

const BACKUP: (Kind, &str) = (Kind::DataUpload, UPLOAD);
const RESTORE: (Kind, &str) = (Kind::DataDownload, DOWNLOAD);

#[test]
fn the_claim_of_an_upload_is_as_the_class_of_its_source_has_it() {
    let settings = [
        ("backupStorageClass.lab", "fast"),
        ("backupReadOnly.lab", "true"),
        ("backupAnnotations.lab", "{\"csi.example/copy\": \"shallow\"}"),
        ("backupAnnotations.fast", "{\"wrong\": \"class\"}"),
    ];
    // The class of our PVC waits for its pod, that of the source does not, and the other way round.
    for (scene, mode) in [(scenes(false)[0], "WaitForFirstConsumer"), (scenes(false)[2], "Immediate")] {
        let world = World::new(scene).set(&settings);
        fast(&world, mode);
        let outcome = world.run();
        assert_clean(&outcome, mode);
        assert_eq!(outcome.phase, "Completed", "{mode}: {:#?}", outcome.steps);
    }
    let world = World::new(scenes(false)[0]).set(&settings);
    fast(&world, "Immediate");
    let world = world.run_to(10);
    let claim = made(&world, Kind::Claim, BACKUP);
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadOnlyMany"]));
    assert_eq!(claim["metadata"]["annotations"], json!({ "csi.example/copy": "shallow" }));
    let pod = made(&world, Kind::Pod, BACKUP);
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"], true, "{pod}");

    let world = World::new(scenes(false)[0]).set(&[("backupReadOnly.other", "true")]).run_to(10);
    let claim = made(&world, Kind::Claim, BACKUP);
    assert_eq!(
        (&claim["spec"]["storageClassName"], &claim["spec"]["accessModes"]),
        (&json!("lab"), &json!(["ReadWriteOnce"]))
    );
    assert!(made(&world, Kind::Pod, BACKUP)["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"].is_null());
}

/// Who makes room on a node takes neither the pod that keeps a volume published for one of less weight, nor to save a node.
#[test]
fn a_hosting_pod_has_its_priority_and_is_not_moved_to_save_a_node() {
    for (scene, writes, cr) in [(scenes(false)[0], 10, BACKUP), (scenes(true)[0], 3, RESTORE)] {
        for (settings, class) in [(&[][..], Value::Null), (&[("hostingPriorityClass", "high")][..], json!("high"))] {
            let pod = made(&World::new(scene).set(settings).run_to(writes), Kind::Pod, cr);
            let annotation = &pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"];
            assert_eq!((&pod["spec"]["priorityClassName"], annotation), (&class, &json!("false")), "{scene:?}: {pod}");
        }
    }
}

/// A restore whose target nobody uses yet.
fn unused() -> World {
    let world = World::new(scenes(true)[2]);
    let target = Key::new(Kind::Claim, "app", "data");
    let patch = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": null } } });
    world.server.patch(Who::Velero, &target, &patch);
    world
}

#[test]
fn a_restore_waits_for_a_node_as_long_as_its_class_says() {
    let run = |settings: &[(&str, &str)]| {
        let outcome = unused().set(settings).run();
        assert_clean(&outcome, &format!("{settings:?}"));
        let waited = outcome.steps.iter().any(|step| step.contains("has a node yet"));
        (outcome.phase, waited)
    };
    assert_eq!(run(&[]), ("Failed".to_owned(), true));
    assert_eq!(run(&[("waitForNode.lab", "never")]), ("Completed".to_owned(), false));
    assert_eq!(run(&[("waitForNode.other", "never")]), ("Failed".to_owned(), true));
    assert_eq!(run(&[("waitForNode", "10m")]), ("Completed".to_owned(), true));
    // Nothing is prepared meanwhile, so it may be longer than the prepare timeout.
    assert_eq!(run(&[("waitForNode", "31m")]), ("Completed".to_owned(), true));
    assert_eq!(run(&[("waitForNode", "5h")]), ("Failed".to_owned(), true));
    // To the second, and the pod that comes in time is heeded.
    let Some(WorldView::Download(mut view)) = unused().set(&[("waitForNode", "10m")]).run_to(0).look() else {
        panic!()
    };
    let begin = view.cr.metadata.creation_timestamp.max(view.target.as_ref().unwrap().metadata.creation_timestamp);
    let begin = begin.unwrap();
    assert_eq!(*view.limits.wait_for_node.of("lab"), WaitForNode::For(std::time::Duration::from_secs(600)));
    view.now = wherry_api::Time(begin.0 + 599);
    let Step::Wait { until, .. } = view.next_step() else { panic!("{:?}", view.next_step()) };
    assert_eq!(until, Some(wherry_api::Time(begin.0 + 600)));
    view.now = wherry_api::Time(begin.0 + 600);
    assert!(matches!(view.next_step(), Step::Do(Action::Accept, _)), "{:?}", view.next_step());
    let world = World::new(scenes(true)[2]).set(&[("waitForNode", "never")]).run_to(2);
    let claim = made(&world, Kind::Claim, RESTORE);
    assert_eq!(claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "n1");
}

/// It is not accepted, and so has no place: workloads that are never started keep nobody waiting. It ends when Velero has given up, by a
/// cancel, and not before.
#[test]
fn a_restore_that_waits_for_a_node_takes_no_place() {
    let Some(WorldView::Download(view)) = unused().run_to(0).look() else { panic!("no view") };
    let of = |change: &dyn Fn(&mut wherry_controller::reconcile::DownloadView)| {
        let mut view = (*view).clone();
        change(&mut view);
        view.next_step()
    };
    let waits = |step: Step| match step {
        Step::Wait { why, told, .. } => (why, told),
        other => panic!("{other:?}"),
    };
    let why = "no pod that uses PVC app/data has a node yet".to_owned();
    for admitted in [true, false] {
        assert_eq!(waits(of(&|view| view.admitted = admitted)).0, why);
    }
    // At first it is looked for often; no watch tells of it.
    let created = view.cr.metadata.creation_timestamp.unwrap();
    let later = |seconds: i64| wherry_api::Time(created.0 + seconds);
    assert_eq!(waits(of(&|view| view.now = later(1))), (why.clone(), false));
    assert_eq!(waits(of(&|view| view.now = later(31 * 60))), (why.clone(), true));
    let cancel = of(&|view| (view.now, view.cr.spec.cancel) = (later(60), true));
    assert!(matches!(cancel, Step::Do(Action::Cancel, _)), "{cancel:?}");
    assert_eq!(waits(of(&|view| view.now = later(14_399))), (why, true));
    let Step::Do(Action::Fail, Write::Patch { patch, .. }) = of(&|view| view.now = later(14_400)) else { panic!() };
    let said = "not done within the item timeout of 14400 s: no pod that uses PVC app/data has a node yet";
    assert_eq!(patch["status"]["message"], said);
    // Once it has one, it waits for admission, and is accepted with it.
    let placed = |view: &mut wherry_controller::reconcile::DownloadView| {
        let annotations = &mut view.target.as_mut().unwrap().metadata.annotations;
        annotations.insert("volume.kubernetes.io/selected-node".to_owned(), "n1".to_owned());
    };
    let step = of(&|view| {
        placed(view);
        view.admitted = false;
    });
    assert_eq!(waits(step), ("queued".to_owned(), true));
    assert!(matches!(of(&placed), Step::Do(Action::Accept, _)));
}

/// As an admission plugin does it, to what is made.
fn changed(step: Step, pointer: &str, value: &Value) -> Step {
    match step {
        Step::Do(Action::MakePod, Write::Create { key, mut object }) => {
            if object.pointer(pointer).is_none() {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                object.pointer_mut(parent).unwrap()[field] = json!({});
            }
            *object.pointer_mut(pointer).unwrap() = value.clone();
            Step::Do(Action::MakePod, Write::Create { key, object })
        }
        step => step,
    }
}

#[test]
fn a_pod_that_comes_back_changed_is_refused_and_says_what_to_do() {
    let tampers: [fn(&Server, Step) -> Step; 3] = [
        |_, step| changed(step, "/spec/securityContext", &json!({ "fsGroup": 1_000_740_000 })),
        |_, step| changed(step, "/spec/containers/0/securityContext/seLinuxOptions", &json!({ "level": "s0:c27,c4" })),
        |_, step| changed(step, "/spec/containers/0/securityContext/seLinuxOptions", &Value::Null),
    ];
    for download in [false, true] {
        for (n, tamper) in tampers.into_iter().enumerate() {
            let scene = scenes(download)[0];
            let outcome = World::new(scene).tampered(tamper).run();
            assert_clean(&outcome, &format!("{scene:?}, {n}"));
            assert_eq!(outcome.phase, "Failed", "{scene:?}, {n}: {:#?}", outcome.steps);
            assert!(outcome.steps.iter().any(|step| step == "RemovePod"), "{:#?}", outcome.steps);
            assert!(!outcome.steps.iter().any(|step| step == "Prepare"), "{:#?}", outcome.steps);
        }
    }
    // What is of the pod alone, and overruled by the container, changes nothing.
    let level: fn(&Server, Step) -> Step =
        |_, step| changed(step, "/spec/securityContext", &json!({ "seLinuxOptions": { "level": "s0:c27,c4" } }));
    assert_eq!(World::new(scenes(false)[0]).tampered(level).run().phase, "Completed");

    let mut world = World::new(scenes(false)[0]).set(&[("hostingScc", "wherry-hosting")]).tampered(tampers[0]);
    let mut scc = None;
    while world.turn() {
        let pod = made(&world, Kind::Pod, BACKUP);
        scc = scc.or(pod["metadata"]["annotations"][names::REQUIRED_SCC].as_str().map(str::to_owned));
    }
    assert_eq!(scc.as_deref(), Some("wherry-hosting"));
    let cr = world.server.get(&Key::new(Kind::DataUpload, "velero", UPLOAD)).unwrap();
    let message = cr["status"]["message"].as_str().unwrap();
    for part in ["fsGroup 1000740000", "SCC wherry-hosting", "hostingScc", "openshift.io/required-scc"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

/// The PVC of a class that waits for its pod goes where the pod does: a driver whose snapshots are at one place can make it there alone.
#[test]
fn the_pod_of_an_unbound_claim_goes_where_the_source_can_be_used() {
    let terms = json!([{ "matchExpressions": [{ "key": "topology.lab/node", "operator": "In", "values": ["n2"] }] }]);
    let made = |scene: usize, writes: usize, topology: Value| {
        let Some(WorldView::Upload(mut view)) = World::new(scenes(false)[scene]).run_to(writes).look() else {
            panic!()
        };
        let uid = view.cr.metadata.uid.clone();
        let mut plan = UploadPlan::parse(view.cr.metadata.annotation(names::PLAN), &uid).unwrap();
        plan.topology = Some(topology).filter(|topology| !topology.is_null());
        view.cr.metadata.annotations.insert(names::PLAN.to_owned(), plan.print());
        match view.next_step() {
            Step::Do(Action::MakePod, Write::Create { object, .. }) => object["spec"]["affinity"].clone(),
            other => panic!("{other:?}"),
        }
    };
    let required = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let zonal = json!({ "required": { "nodeSelectorTerms": terms } });
    let affinity = made(2, 8, zonal.clone());
    assert_eq!(affinity.pointer(required), Some(&terms), "{affinity}");
    assert!(affinity["podAffinity"].is_object(), "{affinity}");
    // Where it says nothing, and where a PV says it itself, as before.
    for (scene, writes, topology) in [(2, 8, Value::Null), (2, 8, json!({})), (0, 9, zonal)] {
        let affinity = made(scene, writes, topology);
        assert_eq!(affinity["nodeAffinity"], Value::Null, "{affinity}");
    }
}

//! What those may do who own the source or the target, or may write an annotation: none of it costs others a place, a snapshot or a PV.

use crate::{assert_clean, scenes};
use serde_json::{Value, json};
use wherry_api::api::{Key, Kind};
use wherry_api::{UploadPlan, names};
use wherry_tests::cluster::{Event, Outcome, Scene, Who, World};

/// Of what is left only the VolumeSnapshot that somebody holds may be there.
#[track_caller]
fn assert_let_go(mut outcome: Outcome, of: &str) -> Outcome {
    outcome.violations.retain(|said| said != "I1: at the end: content false, VolumeSnapshot true, {}");
    assert_clean(&outcome, of);
    outcome
}

/// A finalizer of others on Velero's VolumeSnapshot keeps that object alone: not the upload, not the storage snapshot.
#[test]
fn a_snapshot_that_others_hold_keeps_nothing_from_its_end() {
    // How its PVC is bound is nothing to the snapshots.
    for scene in [scenes(false)[0], scenes(false)[1]] {
        for slow in [false, true] {
            let world = World::new(scene).at(0, Event::SnapshotHeld);
            let outcome = if slow { world.slow_others().run() } else { world.run() };
            let outcome = assert_let_go(outcome, &format!("{scene:?}, held, slow {slow}"));
            assert_eq!(outcome.phase, "Completed", "{scene:?}, held: {:#?}", outcome.steps);
        }
        for after in 0..=17 {
            for end in [Event::Cancel, Event::Delete, Event::PlanBroken] {
                let outcome = World::new(scene).at(0, Event::SnapshotHeld).at(after, end).run();
                assert_let_go(outcome, &format!("{scene:?}, held, {end:?} after {after}"));
            }
            // And where it comes later than the upload.
            let outcome = World::new(scene).at(after, Event::SnapshotHeld).run();
            let outcome = assert_let_go(outcome, &format!("{scene:?}, held after {after}"));
            assert_eq!(outcome.phase, "Completed", "{scene:?}, held after {after}: {:#?}", outcome.steps);
        }
        let outcome = World::new(scene).keeping("always").at(0, Event::SnapshotHeld).run();
        assert_clean(&outcome, &format!("{scene:?}, held and kept"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}, held and kept: {:#?}", outcome.steps);
    }
}

/// The selector of the target is its owner's text: what it says never takes the place of our labels on the PV.
#[test]
fn labels_of_ours_in_the_selector_of_the_target_never_reach_the_volume() {
    for scene in scenes(true) {
        let world = World::new(scene);
        let target = Key::new(Kind::Claim, if scene.beside { "velero" } else { "app" }, "data");
        let labels = json!({
            names::CR_UID: "x", names::VELERO_NAMESPACE: "y", names::AGENT_LABEL: "true", "team": "a",
        });
        // Its owner makes it anew before the restore has begun.
        let mut claim = Value::clone(&world.server.get(&target).unwrap());
        world.server.delete(Who::Velero, &target);
        world.server.finish(Who::Velero, &target, "kubernetes.io/pvc-protection");
        let annotations = claim["metadata"]["annotations"].clone();
        claim["metadata"] = json!({ "name": "data", "annotations": annotations });
        for (name, value) in labels.as_object().unwrap() {
            claim["spec"]["selector"]["matchLabels"][name] = value.clone();
        }
        world.server.create(Who::Velero, &target, &claim);
        let server = world.server.clone();
        let outcome = world.run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
        let (_, volume) = server.all(Kind::Volume).remove(0);
        let expected = json!({ "velero.io/dynamic-pv-restore": "app.data.x", "team": "a" });
        assert_eq!(volume["metadata"]["labels"], expected, "{scene:?}: {volume}");
    }
}

/// A VolumeSnapshot of others with its content, which stands for `h9`.
fn others(world: &mut World) -> [Key; 2] {
    world.storage.snapshots.insert("h9".to_owned());
    let snapshot = Key::new(Kind::VolumeSnapshot, "app", "theirs");
    let content = Key::new(Kind::VolumeSnapshotContent, "", "snapcontent-9");
    let status = json!({ "boundVolumeSnapshotContentName": content.name, "readyToUse": true });
    let spec = json!({ "source": { "persistentVolumeClaimName": "theirs" } });
    let object = json!({ "metadata": { "name": "theirs" }, "spec": spec, "status": status });
    world.server.create(Who::Velero, &snapshot, &object);
    let uid = world.server.get(&snapshot).unwrap()["metadata"]["uid"].clone();
    let spec = json!({
        "deletionPolicy": "Delete", "driver": "lab.csi", "source": { "volumeHandle": "v9" },
        "volumeSnapshotRef": { "namespace": "app", "name": "theirs", "uid": uid },
    });
    let status = json!({ "snapshotHandle": "h9", "readyToUse": true, "restoreSize": 4096 });
    let object = json!({ "metadata": { "name": content.name }, "spec": spec, "status": status });
    world.server.create(Who::Velero, &content, &object);
    [snapshot, content]
}

/// The upload, with a plan that was changed after so many writes, and then that event.
fn forged(scene: Scene, after: usize, forge: fn(&mut UploadPlan, &Value), event: Option<Event>) {
    let mut world = World::new(scene).run_to(after);
    let theirs = others(&mut world);
    let cr = world.server.get(&world.cr).unwrap();
    let uid = cr["metadata"]["uid"].as_str().unwrap();
    let mut plan = UploadPlan::parse(cr["metadata"]["annotations"][names::PLAN].as_str(), uid).unwrap();
    forge(&mut plan, &world.server.get(&theirs[1]).unwrap());
    let patch = json!({ "metadata": { "annotations": { names::PLAN: plan.print() } } });
    world.server.patch(Who::Velero, &world.cr, &patch);
    let spec = |server: &wherry_tests::cluster::Server| {
        theirs
            .clone()
            .map(|key| server.get(&key).map(|object| (object["spec"].clone(), object["metadata"]["labels"].clone())))
    };
    let (server, before, key) = (world.server.clone(), spec(&world.server), world.cr.clone());
    let outcome = match event {
        Some(event) => world.at(after, event).run(),
        None => world.run(),
    };
    let of = format!("{scene:?}, forged after {after}, {event:?}: {:#?}", outcome.steps);
    assert_eq!(spec(&server), before, "{of}");
    let named: Vec<String> = server.all(Kind::VolumeSnapshotContent).into_iter().map(|(key, _)| key.name).collect();
    assert!(!named.iter().any(|name| name.starts_with("wherry-")), "{of}: {named:?}");
    match event {
        None => {
            assert_eq!(outcome.phase, "Failed", "{of}");
            let said = server.get(&key).unwrap()["status"]["message"].as_str().unwrap().to_owned();
            assert!(said.contains("snapcontent-") && said.contains(names::PLAN), "{said}");
        }
        Some(_) => assert_eq!(outcome.phase, "Canceled", "{of}"),
    }
}

/// Who may write one DataUpload has no snapshot of others marked, deleted or read by it.
#[test]
fn a_plan_that_names_a_snapshot_of_others_is_not_believed() {
    let whole = |plan: &mut UploadPlan, theirs: &Value| {
        plan.content = "snapcontent-9".to_owned();
        plan.content_uid = theirs["metadata"]["uid"].as_str().unwrap().to_owned();
        plan.snapshot_handle = "h9".to_owned();
    };
    let handle = |plan: &mut UploadPlan, _: &Value| plan.snapshot_handle = "h9".to_owned();
    let driver = |plan: &mut UploadPlan, _: &Value| plan.driver = "another.csi".to_owned();
    for scene in scenes(false) {
        for forge in [whole as fn(&mut UploadPlan, &Value), handle, driver] {
            for event in [None, Some(Event::Cancel)] {
                forged(scene, 2, forge, event);
                forged(scene, 3, forge, event);
            }
        }
    }
}

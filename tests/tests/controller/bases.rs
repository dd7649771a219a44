//! Kept bases: whatever fails, of a Completed upload its storage snapshot stays and that of the one before goes; of one that
//! failed, or was canceled, the one before stays.

use crate::{assert_clean, scenes};
use serde_json::json;
use wherry_api::api::{Guard, Key, Kind};
use wherry_api::names;
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::invariants::violates;
use wherry_tests::cluster::{BEFORE, Event, How, Tamper, UPLOAD, Who, World};

/// Writes of an upload when nothing goes wrong: keeping instead of removing, and the base before.
const WRITES: usize = 18;
const WAYS: [How; 3] = [How::NotApplied, How::ReplyLost, How::Twice];

/// Every write of a run fails in every way, each in one kind of class.
fn each_failure(mut run: impl FnMut(&str, World)) {
    for n in 1..=WRITES + 1 {
        for (which, how) in WAYS.into_iter().enumerate() {
            let scene = scenes(false)[(n + which) % 4];
            run(&format!("{scene:?}, write {n} {how:?}"), World::new(scene).keeping("always").fail(n, how));
        }
    }
}

fn text(world: &World, kind: Kind, namespace: &str, name: &str, pointer: &str) -> String {
    let object = world.server.get(&Key::new(kind, namespace, name)).unwrap_or_default();
    object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// Names of the kept VolumeSnapshots.
fn kept(world: &World) -> Vec<String> {
    let all = world.server.all(Kind::VolumeSnapshot);
    let marked = |object: &serde_json::Value| object["metadata"]["labels"][names::BASE].is_string();
    all.into_iter().filter(|(_, object)| marked(object)).map(|(key, _)| key.name).collect()
}

/// An upload at its end, with its base.
fn ended() -> World {
    let mut world = World::new(scenes(false)[0]).keeping("always");
    while world.turn() {}
    let own = names::object(&text(&world, Kind::DataUpload, "velero", UPLOAD, "/metadata/uid"));
    assert_eq!(kept(&world), [own]);
    assert_eq!(world.storage.snapshots.iter().collect::<Vec<_>>(), ["h1"]);
    world
}

#[test]
fn the_newest_one_is_kept_and_the_one_before_goes() {
    for scene in scenes(false) {
        let outcome = World::new(scene).keeping("always").run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!((outcome.phase.as_str(), outcome.writes), ("Completed", WRITES), "{scene:?}: {:#?}", outcome.steps);
        let outcome = World::new(scene).keeping("never").run();
        assert_clean(&outcome, &format!("{scene:?}, never"));
        // None of its own, and the one before is of no use any more.
        assert_eq!(outcome.writes, WRITES, "{:#?}", outcome.steps);
    }
}

#[test]
fn auto_is_what_the_driver_says_in_whichever_version_is_served() {
    let ends_with = |served: &[(&str, bool)], driver: &str| {
        let mut world = World::new(scenes(false)[0]).keeping("auto");
        let versions: Vec<_> = served.iter().map(|(name, on)| json!({ "name": name, "served": on })).collect();
        if !served.is_empty() {
            let definition = Key::new(Kind::CustomResource, "", names::METADATA_SERVICES);
            let object = json!({ "metadata": { "name": definition.name }, "spec": { "versions": versions } });
            world.server.create(Who::System, &definition, &object);
        }
        // A server has both, where it serves both.
        for (kind, version) in [(Kind::MetadataServiceBeta, "v1beta1"), (Kind::MetadataServiceAlpha, "v1alpha1")] {
            if served.contains(&(version, true)) {
                world.server.create(
                    Who::System,
                    &Key::new(kind, "", driver),
                    &json!({ "metadata": { "name": driver } }),
                );
            }
        }
        while world.turn() {}
        world.storage.snapshots.len()
    };
    assert_eq!(ends_with(&[], "lab.csi"), 0);
    assert_eq!(ends_with(&[("v1beta1", true)], "lab.csi"), 1);
    assert_eq!(ends_with(&[("v1alpha1", true), ("v1beta1", true)], "lab.csi"), 1);
    assert_eq!(ends_with(&[("v1alpha1", true)], "lab.csi"), 1);
    assert_eq!(ends_with(&[("v1alpha1", true), ("v1beta1", false)], "lab.csi"), 1);
    assert_eq!(ends_with(&[("v1alpha1", true), ("v1beta1", true)], "other.csi"), 0);
    assert_eq!(ends_with(&[("v9", true)], "lab.csi"), 0);
}

#[test]
fn each_write_fails_in_each_way() {
    each_failure(|of, world| {
        let outcome = world.run();
        assert_clean(&outcome, of);
        assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
        assert!(outcome.writes <= WRITES + 1, "{of}: {} writes", outcome.writes);
    });
    each_failure(|of, world| assert_clean(&world.slow_others().run(), &format!("{of}, others slow")));
}

/// Each write fails in one of the ways: in which one goes on with the point.
#[test]
fn cancel_and_deletion_at_every_point_with_a_failure_of_every_write() {
    let scene = scenes(false)[0];
    for event in [Event::Cancel, Event::Delete] {
        for after in 0..=WRITES {
            for n in 1..=WRITES + 1 {
                let how = WAYS[(n + after) % 3];
                let outcome = World::new(scene).keeping("always").fail(n, how).at(after, event).run();
                assert_clean(&outcome, &format!("write {n} {how:?}, {event:?} after {after}"));
            }
        }
    }
}

#[test]
fn a_second_controller_one_write_behind() {
    each_failure(|of, world| {
        let outcome = world.with_second().run();
        assert_clean(&outcome, of);
        assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
    });
    for event in [Event::Cancel, Event::Delete] {
        for after in 0..=WRITES {
            let world = World::new(scenes(false)[0]).keeping("always").with_second();
            assert_clean(&world.at(after, event).run(), &format!("{event:?} after {after}"));
        }
    }
}

#[test]
fn one_goes_when_its_backup_does() {
    // By its owner, whether a controller runs or not.
    let mut world = ended();
    world.server.delete(Who::Velero, &Key::new(Kind::DataUpload, "velero", UPLOAD));
    while world.turn() {}
    assert!(world.storage.snapshots.is_empty() && kept(&world).is_empty());
}

#[test]
fn the_sweep_drops_what_is_over_and_nothing_else() {
    let mut world = ended();
    assert_eq!(world.sweep(), 0);
    assert_eq!(world.storage.snapshots.len(), 1);

    // The PVC goes, or another one has its name.
    let claim = Key::new(Kind::Claim, "app", "data");
    let mut world = ended();
    let object = serde_json::Value::clone(&world.server.get(&claim).unwrap());
    world.server.delete(Who::Velero, &claim);
    world.server.finish(Who::System, &claim, "kubernetes.io/pvc-protection");
    let spec = object["spec"].clone();
    world.server.create(Who::Velero, &claim, &json!({ "metadata": { "name": "data" }, "spec": spec }));
    assert_eq!(world.sweep(), 1);
    assert!(world.storage.snapshots.is_empty());

    // The setting, for another class and then for this one.
    let mut world = ended().set(&[("keepBase", "always"), ("keepBase.other", "never")]);
    assert_eq!(world.sweep(), 0);
    let mut world = world.set(&[("keepBase.lab", "never")]);
    assert_eq!(world.sweep(), 1);
    assert!(world.storage.snapshots.is_empty());

    // Auto, and the driver has no service any more.
    let mut world = ended().set(&[("keepBase", "auto")]);
    assert_eq!(world.sweep(), 1);

    // What it is the base of cannot be read.
    let mut world = ended();
    let own = Key::new(Kind::VolumeSnapshot, "velero", &kept(&world)[0]);
    world.server.patch(Who::Velero, &own, &json!({ "metadata": { "annotations": { names::BASE_OF: "{" } } }));
    assert_eq!(world.sweep(), 1);
    assert!(world.storage.snapshots.is_empty());
}

/// Two uploads of one volume at once: the later one ends first, and the earlier one, which ends afterwards, is no base.
#[test]
fn the_later_backup_has_it_whichever_ends_first() {
    let world = World::new(scenes(false)[0]).keeping("always");
    let before = Key::new(Kind::VolumeSnapshot, "velero", &kept(&world)[0]);
    let said =
        world.server.get(&before).unwrap()["metadata"]["annotations"][names::BASE_OF].as_str().unwrap().to_owned();
    let mut later: serde_json::Value = serde_json::from_str(&said).unwrap();
    later["completed"] = json!("2099-01-01T00:00:00Z");
    let patch = json!({ "metadata": { "annotations": { names::BASE_OF: later.to_string() } } });
    let mut world = world;
    world.server.patch(Who::Velero, &before, &patch);
    while world.turn() {}
    assert_eq!(kept(&world).first(), Some(&before.name));
    assert_eq!(kept(&world).len(), 1);
    assert_eq!(world.storage.snapshots.iter().collect::<Vec<_>>(), ["h0"]);
    // Its own sweep finds nothing to do either.
    assert_eq!(world.sweep(), 0);
    world.server.delete(Who::Velero, &Key::new(Kind::DataUpload, "velero", BEFORE));
    while world.turn() {}
    assert!(world.storage.snapshots.is_empty());
}

#[track_caller]
fn caught(invariant: &str, tamper: Tamper) {
    let violations = World::new(scenes(false)[0]).keeping("always").tampered(tamper).run().violations;
    assert!(violates(&violations, invariant), "{violations:#?}");
}

fn guard(object: &serde_json::Value) -> Guard {
    let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    Guard { uid: text("uid"), resource_version: text("resourceVersion") }
}

fn policy(object: &serde_json::Value) -> &str {
    object["spec"]["deletionPolicy"].as_str().unwrap()
}

#[test]
fn i9_sees_its_faults() {
    // The one before is left, although there is another one.
    caught("I9: at the end", |_, step| match &step {
        Step::Do(Action::DropBase, _) => Step::Nothing,
        _ => step,
    });
    // Its own is let go.
    caught("I9: at the end", |_, step| match &step {
        Step::Do(Action::KeepBase, Write::Patch { key, guard, .. }) => {
            Step::Do(Action::RemoveSnapshot, Write::Delete { key: key.clone(), guard: guard.clone() })
        }
        _ => step,
    });
    // Retain: nobody would remove the storage snapshot any more.
    caught("I9: VolumeSnapshot velero/", |server, step| match &step {
        Step::Do(Action::DropBase, _) => {
            let is_ours = |name: &str| name.starts_with("wherry-");
            let all = server.all(Kind::VolumeSnapshotContent);
            let mut all = all.into_iter().filter(|(key, object)| is_ours(&key.name) && policy(object) == "Delete");
            let Some((key, object)) = all.next() else { return step };
            let patch = json!({ "spec": { "deletionPolicy": "Retain" } });
            Step::Do(Action::SpareContent, Write::Patch { key, guard: guard(&object), patch })
        }
        _ => step,
    });
    // The one before goes first, and then its own upload fails.
    caught("I9: the base before went", |server, step| match &step {
        Step::Do(Action::MakeClaim, _) => {
            let marked = |object: &serde_json::Value| object["metadata"]["labels"][names::BASE].is_string();
            let all = server.all(Kind::VolumeSnapshot);
            let Some((key, object)) = all.into_iter().find(|(_, object)| marked(object)) else { return step };
            Step::Do(Action::DropBase, Write::Delete { key, guard: guard(&object) })
        }
        _ => step,
    });
}

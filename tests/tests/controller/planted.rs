//! Each invariant sees the fault it is for.

use crate::scenes;
use serde_json::{Value, json};
use wherry_api::api::{Guard, Key, Kind};
use wherry_api::names::BEING_DELETED;
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::invariants::violates;
use wherry_tests::cluster::{Event, Server, Tamper, UPLOAD, World};

fn guard(server: &Server, key: &Key) -> Guard {
    let object = server.get(key).unwrap();
    let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    Guard { uid: text("uid"), resource_version: text("resourceVersion") }
}

fn patch(server: &Server, key: Key, patch: Value) -> Step {
    Step::Do(Action::Accept, Write::Patch { guard: guard(server, &key), key, patch })
}

fn delete(server: &Server, key: Key) -> Step {
    Step::Do(Action::Accept, Write::Delete { guard: guard(server, &key), key })
}

fn is(step: &Step, action: Action) -> bool {
    matches!(step, Step::Do(found, _) if *found == action)
}

/// The upload or download runs with the fault, and the invariant says so; without it there is nothing to say.
#[track_caller]
fn caught(invariant: &str, download: bool, event: Option<(usize, Event)>, tamper: Tamper) {
    let world = || {
        let world = World::new(scenes(download)[0]);
        event.iter().fold(world, |world, (after, event)| world.at(*after, *event))
    };
    assert!(world().run().violations.is_empty());
    let violations = world().tampered(tamper).run().violations;
    assert!(violates(&violations, invariant), "{violations:#?}");
}

#[test]
fn i1_the_storage_snapshot_goes_too_early() {
    caught("I1", false, None, |server, step| match is(&step, Action::RetainContent) {
        true => delete(server, Key::new(Kind::VolumeSnapshot, "app", "velero-data-x")),
        false => step,
    });
}

#[test]
fn i1_the_storage_snapshot_is_left() {
    caught("I1: at the end", false, None, |_, mut step| {
        if let Step::Do(Action::MakeContent, Write::Create { object, .. }) = &mut step {
            object["spec"]["deletionPolicy"] = json!("Retain");
        }
        // What would mend it.
        if is(&step, Action::DoomContent) { Step::Nothing } else { step }
    });
}

#[test]
fn i2_a_content_goes_before_it_shows_the_handle() {
    caught("I2: VolumeSnapshotContent", false, None, |server, mut step| match &mut step {
        Step::Do(Action::MakeSnapshot, Write::Create { key, .. }) => {
            delete(server, Key::new(Kind::VolumeSnapshotContent, "", &key.name))
        }
        Step::Do(Action::MakeContent, Write::Create { object, .. }) => {
            object["spec"]["source"]["snapshotHandle"] = json!("unknown to the driver");
            step
        }
        _ => step,
    });
}

#[test]
fn i2_two_contents_have_the_last_word() {
    caught("I2: two contents", false, None, |server, step| match is(&step, Action::MakeSnapshot) {
        true => {
            let first = Key::new(Kind::VolumeSnapshotContent, "", "snapcontent-1");
            patch(server, first, json!({ "spec": { "deletionPolicy": "Delete" } }))
        }
        false => step,
    });
}

#[test]
fn i2_the_first_content_goes_before_ours_shows_the_handle() {
    caught("I2: the first content went", false, None, |server, mut step| {
        let first = Key::new(Kind::VolumeSnapshotContent, "", "snapcontent-1");
        if let Step::Do(Action::MakeContent, Write::Create { object, .. }) = &mut step {
            object["spec"]["source"]["snapshotHandle"] = json!("unknown to the driver");
        }
        match is(&step, Action::MakeSnapshot) && server.get(&first).is_some() {
            // A content that is bound goes only with the annotation.
            true => match server.get(&first).unwrap()["metadata"]["annotations"][BEING_DELETED].is_string() {
                true => delete(server, first),
                false => patch(server, first, json!({ "metadata": { "annotations": { BEING_DELETED: "yes" } } })),
            },
            false => step,
        }
    });
}

#[test]
fn i3_a_volume_is_anybodys() {
    caught("I3", true, None, |server, step| match &step {
        Step::Do(Action::GiveVolume, Write::Patch { key, .. }) => {
            patch(server, key.clone(), json!({ "spec": { "claimRef": null } }))
        }
        _ => step,
    });
}

#[test]
fn i3_a_mark_is_left_on_the_restored_volume() {
    caught("I3: the restored PV has our marks", true, None, |_, mut step| {
        if let Step::Do(Action::UnmarkVolume, Write::Patch { patch, .. }) = &mut step {
            patch["metadata"]["annotations"] = json!({});
        }
        step
    });
}

#[test]
fn i3_the_restored_volume_has_another_policy() {
    caught("I3: the restored PV has not its policy", true, None, |_, mut step| {
        if let Step::Do(Action::UnmarkVolume, Write::Patch { patch, .. }) = &mut step {
            patch["spec"] = json!({});
        }
        step
    });
}

#[test]
fn i4_the_target_gets_a_volume_that_is_not_whole() {
    caught("I4: the target is bound", true, None, |server, step| match is(&step, Action::Prepare) {
        true => {
            let target = server.get(&Key::new(Kind::Claim, "app", "data")).unwrap();
            let (volume, _) = server.all(Kind::Volume).remove(0);
            let claim = json!({ "namespace": "app", "name": "data", "uid": target["metadata"]["uid"] });
            patch(server, volume, json!({ "spec": { "claimRef": claim } }))
        }
        false => step,
    });
}

#[test]
fn i5_a_phase_goes_back() {
    caught("I5: phase", false, None, |_, mut step| {
        if let Step::Do(Action::Prepare, Write::Patch { patch, .. }) = &mut step {
            patch["status"]["phase"] = json!("New");
        }
        step
    });
}

#[test]
fn i5_an_end_without_a_message() {
    caught("I5: Canceled without", false, Some((5, Event::Cancel)), |_, mut step| {
        if let Step::Do(Action::Cancel, Write::Patch { patch, .. }) = &mut step {
            patch["status"]["message"] = json!("");
        }
        step
    });
}

#[test]
fn i5_completed_without_a_snapshot() {
    caught("I5: Completed", false, None, |_, mut step| {
        if let Step::Do(Action::Prepare, Write::Patch { patch, .. }) = &mut step {
            patch["status"]["phase"] = json!("Completed");
        }
        step
    });
}

#[test]
fn i6_two_snapshots_are_reported() {
    caught("I6", false, None, |_, mut step| {
        if let Step::Do(Action::Prepare, Write::Patch { patch, .. }) = &mut step {
            patch["status"]["snapshotID"] = json!("wherry1/ab/00/v");
        }
        step
    });
}

#[test]
fn i7_something_is_left() {
    for action in [Action::RemovePod, Action::RemoveClaim, Action::RemoveSnapshot] {
        let tamper: Tamper = match action {
            Action::RemovePod => |server, step| released(server, step, Action::RemovePod),
            Action::RemoveClaim => |server, step| released(server, step, Action::RemoveClaim),
            _ => |server, step| released(server, step, Action::RemoveSnapshot),
        };
        caught("I7", false, None, tamper);
    }
}

fn released(server: &Server, step: Step, action: Action) -> Step {
    match is(&step, action) {
        true => patch(
            server,
            Key::new(Kind::DataUpload, "velero", UPLOAD),
            json!({ "metadata": { "finalizers": [], "labels": { "wherry.io/node": null } } }),
        ),
        false => step,
    }
}

#[test]
fn i7_the_finalizer_is_left() {
    caught("I7: the finalizer", false, None, |_, step| if is(&step, Action::Release) { Step::Nothing } else { step });
}

#[test]
fn i7_something_is_written_elsewhere() {
    caught("I7: patch of PersistentVolumeClaim app/data", true, None, |server, step| {
        match is(&step, Action::MakePod) {
            true => {
                let labels = json!({ "metadata": { "labels": { "a": "b" } } });
                match server.get(&Key::new(Kind::Claim, "app", "data")).unwrap()["metadata"]["labels"]["a"].is_string()
                {
                    true => step,
                    false => patch(server, Key::new(Kind::Claim, "app", "data"), labels),
                }
            }
            false => step,
        }
    });
}

#[test]
fn i8_a_cr_of_another_mover_is_written() {
    caught("I8", false, None, |server, step| {
        let others = Key::new(Kind::DataUpload, "velero", "others");
        let touched = server.get(&others).unwrap()["metadata"]["finalizers"].is_array();
        match is(&step, Action::Finalizer) && !touched {
            true => patch(server, others, json!({ "metadata": { "finalizers": ["x"] } })),
            false => step,
        }
    });
}

//! Uploads of local volumes, by the second exposer: the same points of death, and what is refused. Nothing of the source is ever
//! written (I3, I7), and nothing of ours is left.

use crate::{assert_clean, local_scenes};
use serde_json::json;
use wherry_api::api::{Guard, Key, Kind};
use wherry_api::names;
use wherry_controller::reconcile::{Action, Step, UploadView, Write};
use wherry_tests::cluster::{Event, How, Tamper, Who, World, WorldView};

/// Writes of one when nothing goes wrong.
const WRITES: usize = 12;
/// So many until it is Completed.
const COMPLETED: usize = 8;

fn failures() -> impl Iterator<Item = (usize, How)> {
    (1..=WRITES + 1).flat_map(|n| [How::NotApplied, How::ReplyLost, How::Twice].map(|how| (n, how)))
}

#[test]
fn it_ends_with_twelve_writes_whichever_of_them_fails() {
    for scene in local_scenes() {
        let outcome = World::new(scene).run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!((outcome.phase.as_str(), outcome.writes), ("Completed", WRITES), "{:#?}", outcome.steps);
        for (n, how) in failures() {
            for (second, slow) in [(false, false), (true, false), (false, true)] {
                let of = format!("{scene:?}, write {n} {how:?}, second {second}, others slow {slow}");
                let mut world = World::new(scene).fail(n, how);
                world = if second { world.with_second() } else { world };
                let outcome = if slow { world.slow_others() } else { world }.run();
                assert_clean(&outcome, &of);
                assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
                assert!(second || outcome.writes <= WRITES + 1, "{of}: {} writes", outcome.writes);
            }
        }
    }
}

#[test]
fn it_may_be_canceled_or_deleted_at_every_point() {
    let scene = local_scenes()[0];
    for after in 0..=WRITES {
        // With a failure about then, too: earlier ones are mended, and later ones are those of the removal.
        let about = failures().filter(|(n, _)| (after..after + 4).contains(n));
        for (n, how) in [(0, How::Twice)].into_iter().chain(about) {
            for event in [Event::Cancel, Event::Delete] {
                let of = format!("{event:?} after {after}, write {n} {how:?}");
                let outcome = World::new(scene).fail(n, how).at(after, event).run();
                assert_clean(&outcome, &of);
                match (event, outcome.phase.as_str()) {
                    (Event::Delete, "") | (Event::Cancel, "Canceled") => {}
                    // The commit came first.
                    (Event::Cancel, "Completed") if after + 1 >= COMPLETED => {}
                    (_, phase) => panic!("{of}: {phase:?}"),
                }
            }
        }
    }
}

/// The place may be another's as soon as its PVC is gone: what is read from then on must not be reported.
#[test]
fn a_source_that_goes_fails_what_is_not_completed() {
    for after in 0..=WRITES {
        let outcome = World::new(local_scenes()[0]).at(after, Event::SourceGone).run();
        let of = format!("source gone after {after}");
        assert_clean(&outcome, &of);
        let expected = if after < COMPLETED - 1 { &["Failed"][..] } else { &["Completed", "Failed"] };
        assert!(expected.contains(&outcome.phase.as_str()), "{of}: {}", outcome.phase);
    }
}

#[test]
fn others_may_interfere_at_every_point() {
    for event in [
        Event::NodeLost,
        Event::NodeLostForLong,
        Event::NodeDrained,
        Event::AgentStops,
        Event::PodFails,
        Event::ClaimGoing,
        Event::ClaimGone,
        Event::LabelsGone,
        Event::PlanBroken,
        Event::MoverRenamed,
    ] {
        // Before the first write it is nobody's of ours then.
        for after in usize::from(event == Event::MoverRenamed)..=WRITES {
            let outcome = World::new(local_scenes()[0]).at(after, event).run();
            let of = format!("{event:?} after {after}");
            assert_clean(&outcome, &of);
            let here = matches!(event, Event::PodFails | Event::ClaimGone | Event::LabelsGone);
            let expected: &[&str] = match (event, after < COMPLETED) {
                (_, true) if here => &["Completed"],
                // As with a cancel, where the agent was quicker.
                (Event::MoverRenamed, true) => &["Canceled", "Completed"],
                // There is no other node that has it, and a PVC that a pod uses does not go.
                (_, true) => &["Failed", "Completed"],
                (_, false) => &["Completed"],
            };
            assert!(expected.contains(&outcome.phase.as_str()), "{of}: {:?}: {:#?}", outcome.phase, outcome.steps);
        }
    }
}

#[test]
fn one_that_was_torn_away_leaves_nothing_for_long() {
    for scene in local_scenes() {
        for after in 0..=WRITES {
            let mut world = World::new(scene).run_to(after);
            world.lose_cr();
            let of = format!("{scene:?}, torn away after {after}");
            assert_eq!(world.sweep_leaks(), [], "{of}");
            assert_clean(&world.judged(), &of);
        }
    }
}

/// What is said of one whose source is like that.
fn refused(change: impl FnOnce(&mut UploadView)) -> String {
    let world = World::new(local_scenes()[0]).run_to(1);
    let Some(WorldView::Upload(mut view)) = world.look() else { panic!("no DataUpload") };
    change(&mut view);
    match view.next_step() {
        Step::Do(Action::Fail, Write::Patch { patch, .. }) => patch["status"]["message"].as_str().unwrap().to_owned(),
        step => panic!("{}", step.name()),
    }
}

#[test]
fn what_is_no_local_volume_is_refused_by_name() {
    let spec = |change: fn(&mut wherry_api::cluster::VolumeSpec)| {
        refused(move |view| change(&mut view.source_volume.as_mut().unwrap().spec))
    };
    for (said, expected) in [
        (refused(|view| view.source = None), "PVC app/data is not there"),
        (refused(|view| view.source_volume = None), "PV local-1, which PVC app/data names, is not there"),
        (refused(|view| view.source.as_mut().unwrap().spec.volume_name.clear()), "PVC app/data is not bound"),
        (spec(|spec| spec.claim_ref.as_mut().unwrap().uid = "another".to_owned()), "is not bound to it"),
        (
            spec(|spec| (spec.local, spec.csi) = (None, serde_json::from_str(r#"{"driver": "d.csi"}"#).unwrap())),
            "PV local-1 is of CSI driver d.csi",
        ),
        (spec(|spec| (spec.local, spec.host_path) = (None, Some(json!({ "path": "/a" })))), "is a hostPath"),
        (spec(|spec| spec.local = None), "PV local-1 has no spec.local"),
        (spec(|spec| spec.node_affinity = None), "has no nodeAffinity"),
        (spec(|spec| spec.capacity.clear()), "PV local-1 says no capacity"),
        (
            spec(|spec| {
                spec.volume_mode = None;
                spec.local.as_mut().unwrap().fs_type = Some("ext4".to_owned());
            }),
            "would be mounted a second time",
        ),
        (refused(|view| view.cr.spec.snapshot_type = "Tape".to_owned()), "\"Tape\" is not known; CSI and Local are"),
    ] {
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        assert!(!said.contains("  "), "{said:?}");
    }
}

/// Some make PVs of directories with an empty type.
#[test]
fn an_empty_type_of_filesystem_is_none() {
    let Some(WorldView::Upload(mut view)) = World::new(local_scenes()[0]).run_to(1).look() else {
        panic!("no DataUpload")
    };
    let spec = &mut view.source_volume.as_mut().unwrap().spec;
    (spec.volume_mode, spec.local.as_mut().unwrap().fs_type) = (None, Some(String::new()));
    assert!(matches!(view.next_step(), Step::Do(Action::Accept, _)), "{}", view.next_step().name());
}

/// The next step after so many writes, and so long after the DataUpload was made.
fn later(world: &World, seconds: i64, change: impl FnOnce(&mut UploadView)) -> Step {
    let Some(WorldView::Upload(mut view)) = world.look() else { panic!("no DataUpload") };
    view.now = wherry_api::Time(view.cr.metadata.creation_timestamp.unwrap().0 + seconds);
    change(&mut view);
    view.next_step()
}

fn failed(step: Step) -> String {
    match step {
        Step::Do(Action::Fail, Write::Patch { patch, .. }) => patch["status"]["message"].as_str().unwrap().to_owned(),
        step => panic!("{}", step.name()),
    }
}

/// Nobody cancels one that was made by hand.
#[test]
fn an_agent_that_never_begins_is_not_waited_for_forever() {
    let world = World::new(local_scenes()[0]).run_to(6);
    assert!(matches!(later(&world, 4 * 3600 - 1, |_| {}), Step::Wait { .. }));
    let said = failed(later(&world, 4 * 3600, |_| {}));
    assert!(said.contains("item timeout of 14400 s: the agent of node n1 has not begun"), "{said}");
    // Nor does its time in the queue count, for which nobody else waits.
    let queued = |view: &mut UploadView| view.cr.status.accepted_timestamp = Some(view.now);
    assert!(matches!(later(&world, 9 * 3600, queued), Step::Wait { .. }));
    // Once it has begun it keeps the time itself.
    let begun = |view: &mut UploadView| view.cr.status.phase = wherry_api::Phase::InProgress;
    assert!(matches!(later(&world, 4 * 3600, begun), Step::Wait { .. }));
}

#[test]
fn a_pod_that_does_not_run_says_that_its_volume_may_be_a_device() {
    let pending = |view: &mut UploadView| view.pods[0].status.phase = "Pending".to_owned();
    let said = failed(later(&of_files().run_to(5), 4 * 3600, pending));
    assert!(said.contains("does not run") && said.contains("if the path of the local volume is a device"), "{said}");
    assert!(!said.contains("  "), "{said}");
    let said = failed(later(&World::new(local_scenes()[0]).run_to(5), 4 * 3600, pending));
    assert!(said.contains("does not run") && !said.contains("is a device"), "{said}");
}

/// Whoever has deleted it reads why it is waited for.
#[test]
fn a_pv_that_goes_is_named_as_what_it_is() {
    let world = World::new(local_scenes()[0]).run_to(4);
    let waits = |change: &dyn Fn(&mut wherry_api::cluster::Volume)| {
        later(&world, 0, |view| {
            let volume = view.volumes.iter_mut().find(|volume| volume.metadata.name.starts_with("wherry-")).unwrap();
            volume.metadata.deletion_timestamp = Some(view.now);
            change(volume);
        })
        .name()
    };
    assert!(!waits(&|_| {}).contains("PVC that is gone"), "{}", waits(&|_| {}));
    let other = waits(&|volume| volume.spec.claim_ref.as_mut().unwrap().uid = "another".to_owned());
    assert!(other.contains(", of a PVC that is gone, is going"), "{other}");
}

/// The plan says what was begun: what is exposed, and what goes afterwards, also where somebody changes the type.
#[test]
fn a_type_that_is_changed_later_leaves_nothing_behind() {
    for after in 2..=WRITES {
        let world = World::new(local_scenes()[0]).run_to(after);
        world.server.patch(Who::Velero, &world.cr, &json!({ "spec": { "snapshotType": "CSI" } }));
        let outcome = world.run();
        assert_clean(&outcome, &format!("changed to CSI after {after}"));
        assert_eq!(outcome.phase, "Completed", "after {after}: {:#?}", outcome.steps);
    }
    for after in 2..=17 {
        let world = World::new(crate::scenes(false)[0]).run_to(after);
        world.server.patch(Who::Velero, &world.cr, &json!({ "spec": { "snapshotType": names::LOCAL } }));
        let outcome = world.run();
        assert_clean(&outcome, &format!("changed to Local after {after}"));
        assert_eq!(outcome.phase, "Completed", "after {after}: {:#?}", outcome.steps);
    }
}

/// The DataUpload with that in its plan, and perhaps in another phase: so may whoever writes annotations have it.
fn rewritten(world: &World, changes: &[(&str, &str)], phase: Option<&str>) {
    let cr = world.server.get(&world.cr).unwrap();
    let mut plan = cr["metadata"]["annotations"][names::PLAN].as_str().unwrap().to_owned();
    for (from, to) in changes {
        assert!(plan.contains(from), "{plan}");
        plan = plan.replace(from, to);
    }
    world.server.patch(Who::Velero, &world.cr, &json!({ "metadata": { "annotations": { names::PLAN: plan } } }));
    if let Some(phase) = phase {
        world.server.patch(Who::Velero, &world.cr, &json!({ "status": { "phase": phase } }));
    }
}

/// Whoever may write annotations gets no path read that no PV has, at no time, and by no other attempt.
#[test]
fn a_path_that_the_source_has_not_is_not_exposed() {
    let path = ("/dev/disk/by-id/a", "/etc");
    let node = (r#""n1""#, r#""n2""#);
    let mode = (r#""Block""#, r#""Filesystem""#);
    let next = (r#""attempt":1"#, r#""attempt":2"#);
    for change in [path, node, mode] {
        for after in 2..COMPLETED {
            for phase in [None, Some("Prepared"), Some("InProgress")] {
                // Before the PV is made the same attempt does, too.
                for changes in [&[change][..], &[change, next]].into_iter().skip(usize::from(after >= 4)) {
                    // The phases that there were are not gone back to.
                    let phase = phase.filter(|_| after < 6);
                    let of = format!("{changes:?} after {after}, phase {phase:?}");
                    let world = World::new(local_scenes()[0]).run_to(after);
                    rewritten(&world, changes, phase);
                    let outcome = world.run();
                    assert_clean(&outcome, &of);
                    assert_eq!(outcome.phase, "Failed", "{of}: {:#?}", outcome.steps);
                    let made = outcome.steps.iter().filter(|step| *step == "MakeVolume").count();
                    assert_eq!(made, usize::from(after >= 4), "{of}: {:#?}", outcome.steps);
                }
            }
        }
    }
}

#[test]
fn a_source_pv_that_was_made_anew_elsewhere_is_not_exposed() {
    for (after, phase) in [(2, None), (3, None), (2, Some("InProgress")), (3, Some("Prepared"))] {
        let world = World::new(local_scenes()[0]).run_to(after);
        let key = Key::new(Kind::Volume, "", "local-1");
        world.server.patch(Who::Velero, &key, &json!({ "spec": { "local": { "path": "/dev/disk/by-id/b" } } }));
        rewritten(&world, &[], phase);
        let outcome = world.run();
        assert_clean(&outcome, &format!("after {after}, {phase:?}"));
        assert_eq!(outcome.phase, "Failed", "after {after}, {phase:?}: {:#?}", outcome.steps);
        assert!(!outcome.steps.iter().any(|step| step == "MakeVolume"), "{:#?}", outcome.steps);
    }
}

/// Read-only, of the same place and node, kept by Retain, for one PVC by uid, and in no backup of Velero.
#[test]
fn the_pv_that_is_made_is_of_the_same_place_and_for_nobody_else() {
    let world = World::new(local_scenes()[0]).run_to(5);
    let all = world.server.all(Kind::Volume);
    let (key, volume) = all.iter().find(|(key, _)| key.name != "local-1").unwrap();
    let source = world.server.get(&Key::new(Kind::Volume, "", "local-1")).unwrap();
    for field in ["local", "nodeAffinity", "volumeMode"] {
        assert_eq!(volume["spec"][field], source["spec"][field], "{field}");
    }
    let spec = &volume["spec"];
    assert_eq!((&spec["accessModes"], &spec["storageClassName"]), (&json!(["ReadOnlyMany"]), &json!("")));
    assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(volume["metadata"]["labels"][names::EXCLUDE], "true");
    let pod = world.server.get(&Key::new(Kind::Pod, "velero", &key.name)).unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"], true);
    let claim = world.server.get(&Key::new(Kind::Claim, "velero", &key.name)).unwrap();
    assert_eq!(claim["spec"]["storageClassName"], "", "the default class would provision");
    assert_eq!(spec["claimRef"]["uid"], claim["metadata"]["uid"]);
}

/// What is read is of volumeMode Filesystem; nobody has acted.
fn of_files() -> World {
    let world = World::new(local_scenes()[0]);
    let key = Key::new(Kind::Volume, "", "local-1");
    world.server.patch(Who::Velero, &key, &json!({ "spec": { "volumeMode": "Filesystem" } }));
    world
}

/// A device that nothing says to be one: the kubelet must not mount it a second time.
#[test]
fn a_pv_for_files_cannot_be_mounted_where_it_is_a_device() {
    let world = of_files().run_to(5);
    let all = world.server.all(Kind::Volume);
    let (_, volume) = all.iter().find(|(key, _)| key.name != "local-1").unwrap();
    let expected = json!({ "path": "/dev/disk/by-id/a", "fsType": "wherry-directory-only" });
    assert_eq!((&volume["spec"]["volumeMode"], &volume["spec"]["local"]), (&json!("Filesystem"), &expected));
    let outcome = world.run();
    assert_clean(&outcome, "Filesystem");
    assert_eq!(outcome.phase, "Completed", "{:#?}", outcome.steps);
}

/// The kubelet runs fsck and mkfs where its pod does not say readOnly.
#[test]
fn the_pod_is_read_only_whatever_its_pvc_says() {
    let writable: Tamper = |_, mut step| {
        if let Step::Do(Action::MakeClaim, Write::Create { object, .. }) = &mut step {
            object["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
        }
        step
    };
    let world = World::new(local_scenes()[0]).tampered(writable).run_to(5);
    let (_, pod) = world.server.all(Kind::Pod).into_iter().find(|(key, _)| key.name.starts_with("wherry-")).unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"], true);

    let outcome = World::new(local_scenes()[0])
        .tampered(|_, mut step| {
            if let Step::Do(Action::MakePod, Write::Create { object, .. }) = &mut step {
                object["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = json!(null);
            }
            step
        })
        .run();
    assert_clean(&outcome, "a pod that may write");
    assert_eq!(outcome.phase, "Failed", "{:#?}", outcome.steps);
    assert!(!outcome.steps.iter().any(|step| step == "Prepare"), "{:#?}", outcome.steps);
}

#[test]
fn the_invariants_see_a_fault_in_each_part() {
    let caught = |words: &str, tamper: Tamper| {
        let violations = World::new(local_scenes()[0]).tampered(tamper).run().violations;
        assert!(violations.iter().any(|violation| violation.contains(words)), "{words}: {violations:#?}");
    };
    caught("is without claimRef", |_, mut step| {
        if let Step::Do(Action::MakeVolume, Write::Create { object, .. }) = &mut step {
            object["spec"]["claimRef"]["uid"] = json!("");
        }
        step
    });
    caught("may take along what it stands for", |_, mut step| {
        if let Step::Do(Action::MakeVolume, Write::Create { object, .. }) = &mut step {
            object["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
        }
        step
    });
    // With the source's own PV in the place of the one that was made.
    caught("which is the source's, was written", |server, step| match step {
        Step::Do(Action::MakePod, _) => {
            let key = Key::new(Kind::Volume, "", "local-1");
            let source = server.get(&key).unwrap();
            let text = |field: &str| source["metadata"][field].as_str().unwrap().to_owned();
            let guard = Guard { uid: text("uid"), resource_version: text("resourceVersion") };
            let patch = json!({ "spec": { "persistentVolumeReclaimPolicy": "Retain" } });
            Step::Do(Action::MarkVolume, Write::Patch { key, guard, patch })
        }
        step => step,
    });
    caught("I7: PersistentVolume ", |_, step| match step {
        Step::Do(Action::RemoveVolume, _) => Step::Nothing,
        step => step,
    });
}

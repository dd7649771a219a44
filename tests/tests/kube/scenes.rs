//! The scenes of the cluster in memory on the real server: invariants I1 to I8, and the number of writes.

use crate::Stage;
use serde_json::json;
use std::sync::Arc;
use wherry_api::api::{Key, Kind};
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::invariants::violates;
use wherry_tests::cluster::{Content, Event, How, Outcome, Scene, Who, World};

const KINDS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

pub fn scene(download: bool, (retain, wait_for_consumer): (bool, bool)) -> Scene {
    Scene { download, retain, wait_for_consumer, local: false, beside: false }
}

fn writes(scene: Scene) -> usize {
    if scene.download { 12 } else { 17 }
}

#[track_caller]
pub fn assert_clean(outcome: &Outcome, of: &str) {
    assert!(outcome.violations.is_empty(), "{of}: {}\nsteps: {:#?}", outcome.violations.join("\n"), outcome.steps);
}

#[test]
fn uploads_and_downloads_complete_with_the_writes_of_the_design() {
    let stage = Stage::enter();
    for kind in KINDS {
        for download in [false, true] {
            let scene = scene(download, kind);
            let outcome = World::on(stage.empty(), scene).run();
            assert_clean(&outcome, &format!("{scene:?}"));
            assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
            assert_eq!(outcome.writes, writes(scene), "{scene:?}: {:#?}", outcome.steps);
        }
    }
}

/// As the real server took it: it may do nothing, and nothing in it changes the volume. Where it runs is for settings to say.
#[test]
fn a_hosting_pod_has_no_rights_and_is_placed_by_settings() {
    let stage = Stage::enter();
    for download in [false, true] {
        let settings = [
            ("hostingTolerations", r#"[{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}]"#),
            ("hostingNodeSelector", r#"{"disk": "ssd"}"#),
            ("hostingResources", r#"{"limits": {"memory": "32Mi"}}"#),
            ("pullSecrets", "one,two"),
        ];
        let world = World::on(stage.empty(), scene(download, KINDS[0])).set(&settings);
        let world = world.run_to(if download { 3 } else { 10 });
        let all = world.server.all(Kind::Pod);
        let (_, pod) = all.iter().find(|(key, _)| key.name.starts_with("wherry-")).expect("a hosting pod");
        let spec = &pod["spec"];
        assert!(spec["securityContext"].as_object().is_none_or(serde_json::Map::is_empty), "{spec}");
        assert_eq!(spec["automountServiceAccountToken"], false);
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(spec[field].is_null(), "{field}: {spec}");
        }
        let hold = &spec["containers"][0];
        let context = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
            "seLinuxOptions": { "type": "spc_t" },
        });
        assert_eq!(hold["securityContext"], context);
        assert_eq!(hold["imagePullPolicy"], "IfNotPresent");
        assert_eq!(hold["resources"]["limits"]["memory"], "32Mi");
        assert_eq!(spec["imagePullSecrets"], json!([{ "name": "one" }, { "name": "two" }]));
        assert_eq!(spec["nodeSelector"], json!({ "disk": "ssd" }));
        let tolerations = spec["tolerations"].as_array().unwrap();
        assert!(tolerations.iter().any(|one| one["key"] == "dedicated"), "{tolerations:?}");
        assert_clean(&world.run(), &format!("download {download}"));
    }
}

/// The steps are those of the model: what the states page says holds on a real server.
#[test]
fn the_model_takes_the_same_steps() {
    let stage = Stage::enter();
    for download in [false, true] {
        let scene = scene(download, KINDS[3]);
        let named = |outcome: Outcome| -> Vec<String> {
            outcome.steps.into_iter().filter(|step| !step.starts_with("wait")).collect()
        };
        let (real, model) = (World::on(stage.empty(), scene).run(), World::new(scene).run());
        assert_eq!(named(real), named(model), "{scene:?}");
    }
}

/// What comes beside a write that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// After so many writes.
    At(usize, Event),
    /// One write behind.
    SecondController,
}

/// One write fails in one way.
fn fails(stage: &Stage, scene: Scene, n: usize, how: How, beside: Beside) {
    let of = format!("{scene:?}, write {n} {how:?}, beside {beside:?}");
    let world = World::on(stage.empty().remembered(), scene).fail(n, how);
    let world = match beside {
        Beside::Nothing => world,
        Beside::At(after, event) => world.at(after, event),
        Beside::SecondController => world.with_second(),
    };
    let outcome = world.run();
    assert_clean(&outcome, &of);
    let expected: &[&str] = match beside {
        Beside::At(_, Event::Delete) => &[""],
        // It may have come too late.
        Beside::At(..) => &["Canceled", "Completed"],
        _ => &["Completed"],
    };
    assert!(expected.contains(&outcome.phase.as_str()), "{of}: {} {:#?}", outcome.phase, outcome.steps);
    if beside == Beside::Nothing {
        assert!(outcome.writes <= writes(scene) + 1, "{of}: {} writes", outcome.writes);
    }
}

const WAYS: [How; 3] = [How::NotApplied, How::ReplyLost, How::Twice];

/// A sample: every second write fails, each in one of the three ways, in one of the kinds. All are in the model's suite, and with
/// `WHERRY_TEST_ALL=1` here: every write, in each way, alone, with a second controller, and with cancel and deletion at each point.
#[test]
fn every_second_write_fails_once() {
    let stage = Stage::enter();
    if std::env::var("WHERRY_TEST_ALL").is_ok_and(|all| all == "1") {
        return every_write_fails(&stage);
    }
    for download in [false, true] {
        for n in (1..=writes(scene(download, KINDS[0]))).filter(|n| n % 2 == usize::from(download)) {
            let how = WAYS[(n + usize::from(download)) % 3];
            fails(&stage, scene(download, KINDS[n % 4]), n, how, Beside::Nothing);
        }
    }
}

/// First with what comes right after the write, then with what comes at any other point.
fn every_write_fails(stage: &Stage) {
    let begin = std::time::Instant::now();
    let mut points = 0;
    for first in [true, false] {
        for download in [false, true] {
            let all = writes(scene(download, KINDS[0]));
            for n in 1..=all {
                let at = (0..=all).filter(|after| (*after == n) == first);
                let mut besides: Vec<Beside> =
                    at.flat_map(|after| [Event::Cancel, Event::Delete].map(|event| Beside::At(after, event))).collect();
                if first {
                    besides.extend([Beside::Nothing, Beside::SecondController]);
                }
                for (turn, beside) in besides.into_iter().enumerate() {
                    for how in WAYS {
                        // An event comes in other kinds at each of its points.
                        fails(stage, scene(download, KINDS[(n + turn / 2) % 4]), n, how, beside);
                        points += 1;
                    }
                }
                eprintln!("download {download}, write {n}: {points} points in {} s", begin.elapsed().as_secs());
            }
        }
    }
}

#[test]
fn cancel_and_deletion() {
    let stage = Stage::enter();
    for download in [false, true] {
        // Accepted, prepared, at work, in removal.
        let points = if download { [1, 3, 5, 9] } else { [2, 5, 11, 14] };
        for (n, after) in points.into_iter().enumerate() {
            for event in [Event::Cancel, Event::Delete] {
                let scene = scene(download, KINDS[(n + 1) % 4]);
                let of = format!("{scene:?}, {event:?} after {after}");
                let outcome = World::on(stage.empty().remembered(), scene).at(after, event).run();
                assert_clean(&outcome, &of);
                let expected = match (event, n) {
                    (Event::Delete, _) => "",
                    (_, 3) => "Completed",
                    _ => "Canceled",
                };
                assert_eq!(outcome.phase, expected, "{of}: {:#?}", outcome.steps);
            }
        }
    }
}

/// Each write of the takeover is the last one before the namespace of the source goes, and its VolumeSnapshot with it: one that
/// can be found owns the storage snapshot all the time, and nothing does at the end.
#[test]
fn the_source_may_go_while_its_snapshot_is_taken_over() {
    let stage = Stage::enter();
    for retain in [false, true] {
        for after in 2..=7 {
            let scene = scene(false, (retain, false));
            let of = format!("{scene:?}, source gone after {after}");
            let outcome = World::on(stage.empty().remembered(), scene).at(after, Event::SourceGone).run();
            assert_clean(&outcome, &of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
        }
    }
}

/// On a node that is lost something may still write: from the pod on another attempt with a volume of its own takes over.
#[test]
fn a_node_may_be_lost() {
    let stage = Stage::enter();
    for download in [false, true] {
        // Prepared, at work, done.
        let points = if download { [4, 5, 7] } else { [11, 12, 14] };
        for (n, after) in points.into_iter().enumerate() {
            let scene = scene(download, KINDS[n]);
            let of = format!("{scene:?}, node lost after {after}");
            let outcome = World::on(stage.empty().remembered(), scene).at(after, Event::NodeLost).run();
            assert_clean(&outcome, &of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
            assert_eq!(outcome.steps.iter().any(|step| step == "NextAttempt"), n < 2, "{of}: {:#?}", outcome.steps);
        }
    }
}

/// Nothing is made for a target that is gone, or that has a volume already, and the object says so.
#[test]
fn a_target_that_is_missing_or_bound_gets_nothing() {
    let stage = Stage::enter();
    for bound in [false, true] {
        let mut world = World::on(stage.empty(), scene(true, KINDS[0]));
        let (server, cr) = (Arc::clone(&world.server), world.cr.clone());
        if bound {
            let target = Key::new(Kind::Claim, "app", "data");
            let theirs = json!({
                "claimRef": { "namespace": "app", "name": "data", "uid": server.get(&target).unwrap()["metadata"]["uid"] },
                "capacity": { "storage": "4096" }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                "storageClassName": "lab", "persistentVolumeReclaimPolicy": "Delete",
                "csi": { "driver": "lab.csi", "volumeHandle": "theirs" },
            });
            let object = json!({ "metadata": { "name": "theirs" }, "spec": theirs });
            server.create(Who::System, &Key::new(Kind::Volume, "", "theirs"), &object);
            let patch = json!({ "spec": { "volumeName": "theirs" }, "status": { "phase": "Bound" } });
            server.patch(Who::System, &target, &patch);
            world.storage.volumes.insert("theirs".to_owned(), Content::Whole);
        } else {
            world = world.at(0, Event::TargetGone);
        }
        let outcome = world.run();
        assert_clean(&outcome, &format!("bound {bound}"));
        assert_eq!(outcome.phase, "Failed", "bound {bound}: {:#?}", outcome.steps);
        let message = server.get(&cr).unwrap()["status"]["message"].as_str().unwrap_or_default().to_owned();
        let said = if bound { "PVC app/data is bound to PV theirs" } else { "PVC app/data is not there" };
        assert!(message.starts_with(said), "{message:?}");
        assert!(!outcome.steps.iter().any(|step| step == "MakeClaim"), "{:#?}", outcome.steps);
    }
}

#[test]
fn a_second_controller_one_write_behind_does_no_harm() {
    let stage = Stage::enter();
    for download in [false, true] {
        let scene = scene(download, KINDS[usize::from(download)]);
        let outcome = World::on(stage.empty(), scene).with_second().run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
    }
}

/// The invariants see a fault on a real server, too: here our content lets the storage snapshot live.
#[test]
fn a_planted_fault_is_seen() {
    let stage = Stage::enter();
    let world = World::on(stage.empty().remembered(), scene(false, KINDS[0]));
    let world = world.tampered(|_, mut step| match &mut step {
        Step::Do(Action::MakeContent, Write::Create { object, .. }) => {
            object["spec"]["deletionPolicy"] = json!("Retain");
            step
        }
        // What would mend it.
        Step::Do(Action::DoomContent, _) => Step::Nothing,
        _ => step,
    });
    let violations = world.run().violations;
    assert!(violates(&violations, "I1: at the end"), "{violations:#?}");
}

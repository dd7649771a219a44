//! The scenes of the cluster in memory on the real server: invariants I1 to I8, and the number of writes.

use crate::Stage;
use serde_json::json;
use wherry_api::api::Kind;
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::invariants::violates;
use wherry_tests::cluster::{Event, How, Outcome, Scene, World};

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
    for download in [false, true] {
        let stage = Stage::enter();
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

/// A sample: every second write fails, each in one of the three ways, in one of the kinds. All are in the model's suite.
#[test]
fn every_second_write_fails_once() {
    let ways = [How::NotApplied, How::ReplyLost, How::Twice];
    for download in [false, true] {
        let all = writes(scene(download, KINDS[0]));
        for n in (1..=all).filter(|n| n % 2 == usize::from(download)) {
            let stage = Stage::enter();
            let (scene, how) = (scene(download, KINDS[n % 4]), ways[(n + usize::from(download)) % 3]);
            let of = format!("{scene:?}, write {n} {how:?}");
            let outcome = World::on(stage.empty().remembered(), scene).fail(n, how).run();
            assert_clean(&outcome, &of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
            assert!(outcome.writes <= writes(scene) + 1, "{of}: {} writes", outcome.writes);
        }
    }
}

#[test]
fn cancel_and_deletion() {
    for download in [false, true] {
        // Accepted, prepared, at work, in removal.
        let points = if download { [1, 3, 5, 9] } else { [2, 5, 11, 14] };
        for (n, after) in points.into_iter().enumerate() {
            for event in [Event::Cancel, Event::Delete] {
                let stage = Stage::enter();
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

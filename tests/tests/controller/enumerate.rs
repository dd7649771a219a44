//! Points of death.

use crate::{assert_clean, local_scenes, scenes};
use serde_json::json;
use std::time::Duration;
use wherry_tests::cluster::{Content, Event, How, Scene, Who, World};

/// Writes of one CR when nothing goes wrong.
fn writes(scene: Scene) -> usize {
    if scene.download { 12 } else { 17 }
}

const WAYS: [How; 3] = [How::NotApplied, How::ReplyLost, How::Twice];

/// Every write of a run fails in every way.
fn each_failure(scene: Scene, mut run: impl FnMut(&str, World)) {
    for n in 1..=writes(scene) + 1 {
        for how in WAYS {
            run(&format!("{scene:?}, write {n} {how:?}"), World::new(scene).fail(n, how));
        }
    }
}

fn all_scenes() -> Vec<Scene> {
    [scenes(false), scenes(true)].concat()
}

#[test]
fn alone_it_ends_with_the_writes_of_the_design() {
    for scene in all_scenes() {
        let outcome = World::new(scene).run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
        // PVs of policy Delete need no patch to go: the label is what costs the write, so it is the same for both.
        assert_eq!(outcome.writes, writes(scene), "{scene:?}: {:#?}", outcome.steps);
    }
}

#[test]
fn a_failing_write_costs_one_more_and_nothing_else() {
    for scene in all_scenes() {
        each_failure(scene, |of, world| {
            let outcome = world.run();
            assert_clean(&outcome, of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
            assert!(outcome.writes <= writes(scene) + 1, "{of}: {} writes", outcome.writes);
        });
    }
}

#[test]
fn others_may_be_slow() {
    for scene in all_scenes() {
        each_failure(scene, |of, world| {
            let outcome = world.slow_others().run();
            assert_clean(&outcome, of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
        });
        for event in [Event::Cancel, Event::Delete, Event::NodeLost] {
            for after in 0..=writes(scene) {
                let outcome = World::new(scene).at(after, event).slow_others().run();
                assert_clean(&outcome, &format!("{scene:?}, {event:?} after {after}, others slow"));
            }
        }
    }
}

#[test]
fn a_second_controller_one_write_behind_does_no_harm() {
    for scene in all_scenes() {
        let outcome = World::new(scene).with_second().run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
        each_failure(scene, |of, world| {
            let outcome = world.with_second().run();
            assert_clean(&outcome, of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
        });
        for event in [Event::Cancel, Event::Delete] {
            for after in 0..=writes(scene) {
                let outcome = World::new(scene).at(after, event).with_second().run();
                assert_clean(&outcome, &format!("{scene:?}, {event:?} after {after}"));
            }
        }
    }
}

/// The watches are behind, by more than a step or by more than all there are: what rests on them does no harm, and nothing waits
/// for ever.
#[test]
fn the_mirror_may_be_behind() {
    for by in [0, 1, 7, 1000] {
        for scene in all_scenes() {
            let outcome = World::new(scene).behind(by).run();
            assert_clean(&outcome, &format!("{scene:?}, {by} behind"));
            assert_eq!(outcome.phase, "Completed", "{scene:?}, {by} behind: {:#?}", outcome.steps);
        }
    }
    for by in [1, 1000] {
        for scene in [scenes(false)[0], scenes(true)[3]] {
            each_failure(scene, |of, world| {
                let of = format!("{of}, {by} behind");
                let outcome = world.behind(by).run();
                assert_clean(&outcome, &of);
                assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
            });
        }
    }
}

/// Source and target in Velero's own namespace, of which the mirror has what is ours alone: that it lacks them says nothing.
#[test]
fn source_and_target_may_be_in_the_namespace_that_is_followed() {
    for scene in [scenes(false)[0], scenes(false)[3], scenes(true)[0], scenes(true)[3], local_scenes()[0]] {
        let scene = Scene { beside: true, ..scene };
        for by in [0, 1000] {
            let of = format!("{scene:?}, {by} behind");
            let outcome = World::new(scene).behind(by).run();
            assert_clean(&outcome, &of);
            assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
            for after in 0..=writes(scene) {
                let outcome = World::new(scene).behind(by).at(after, Event::Cancel).run();
                assert_clean(&outcome, &format!("{of}, cancel after {after}"));
            }
        }
    }
}

/// And whatever happens meanwhile.
#[test]
fn the_mirror_may_be_behind_whatever_happens() {
    let events = [
        Event::Cancel,
        Event::Delete,
        Event::SourceGone,
        Event::NodeLost,
        Event::NodeLostPodsForced,
        Event::NodeDeleted,
        Event::NodeDrained,
        Event::PodFails,
        Event::ClaimGoing,
        Event::LabelsGone,
        Event::PlanBroken,
    ];
    for scene in [scenes(false)[0], scenes(true)[3]] {
        let targets: &[Event] = if scene.download { &[Event::TargetGone, Event::TargetReplaced] } else { &[] };
        for event in events.iter().chain(targets).filter(|event| !scene.download || **event != Event::SourceGone) {
            // Once the target has the volume, what becomes of that is its owner's policy.
            let last = if targets.contains(event) { 10 } else { writes(scene) };
            for after in 0..=last {
                for by in [1, 1000] {
                    let outcome = World::new(scene).behind(by).at(after, *event).run();
                    let of = format!("{scene:?}, {event:?} after {after}, {by} behind");
                    assert_clean(&outcome, &of);
                    // One without phase was deleted, and all of it is gone.
                    let ended = ["Completed", "Failed", "Canceled", ""].contains(&outcome.phase.as_str());
                    assert!(ended, "{of}: {} {:#?}", outcome.phase, outcome.steps);
                }
            }
        }
        for after in 0..=writes(scene) {
            let outcome = World::new(scene).behind(3).with_second().at(after, Event::Cancel).run();
            assert_clean(&outcome, &format!("{scene:?}, cancel after {after}, a second controller"));
        }
    }
}

/// What all of a CR takes of the API server, and that one that only waits takes nothing. Here it is looked at whenever anybody
/// has acted, on a server whenever something of it changes: there it is less (suite `kube`).
#[test]
fn what_is_asked_of_the_server() {
    for scene in all_scenes() {
        let outcome = World::new(scene).behind(0).run();
        assert_clean(&outcome, &format!("{scene:?}"));
        let all = outcome.reads + writes(scene);
        assert!(all <= 95, "{scene:?}: {} reads, {} writes", outcome.reads, writes(scene));
    }
    for download in [false, true] {
        // Prepared: it waits for its agent.
        let mut world = World::new(scenes(download)[0]).behind(0).run_to(if download { 4 } else { 11 });
        world.look_again(1);
        let (asked, _) = world.look_again(20);
        // Of the target and of the PV nobody tells.
        assert_eq!(asked, if download { 2 * 20 } else { 0 }, "download {download}");
    }
}

/// Of the cancel the watch tells nothing: the CR itself is read at the looks of one that waits, and not each time.
#[test]
fn a_cancel_is_seen_though_the_watch_is_silent() {
    for download in [false, true] {
        let mut world = World::new(scenes(download)[0]).behind(0).run_to(if download { 4 } else { 11 });
        world.pass(Duration::from_secs(15));
        world.look_again(1);
        world.server.patch(Who::Velero, &world.cr, &json!({ "spec": { "cancel": true } }));
        world.pass(Duration::from_secs(14));
        let (asked, _) = world.look_again(1);
        // What is shared for 15 s is read anew.
        assert!(asked <= 2, "download {download}: {asked}");
        assert_eq!(world.server.get(&world.cr).unwrap()["status"]["phase"], "Prepared", "download {download}");
        for _ in 0..2 {
            world.pass(Duration::from_secs(10));
            world.look_again(1);
        }
        assert_eq!(world.server.get(&world.cr).unwrap()["status"]["phase"], "Canceled", "download {download}");
    }
}

/// The driver keeps the storage snapshot for a volume that somebody else made from it.
#[test]
fn one_that_waits_for_a_driver_has_all_volumes_listed_once() {
    let mut world = World::new(scenes(false)[0]).behind(0);
    world.storage.clones_hold = true;
    world.storage.volumes.insert("others".to_owned(), Content::Clone("h1".to_owned()));
    while world.turn() {}
    let upload = world.server.get(&world.cr).unwrap();
    assert_eq!(upload["status"]["phase"], "Completed", "{upload:#}");
    assert!(upload["metadata"]["finalizers"].is_array(), "{upload:#}");
    world.look_again(1);
    let (asked, lists) = world.look_again(20);
    assert_eq!(lists, 0, "{asked} reads");
}

/// What a cancel may come to. Before an upload is committed, and a restore PVC deleted, it is Canceled.
fn check_canceled(scene: Scene, after: usize, phase: &str, of: &str) {
    let too_late = if scene.download { 9 } else { 12 };
    match phase {
        "Canceled" => {}
        "Completed" if after >= too_late => {}
        _ => panic!("{of}: {phase}"),
    }
}

#[test]
fn cancel_at_every_point() {
    for scene in all_scenes() {
        for after in 0..=writes(scene) {
            let of = format!("{scene:?}, cancel after {after}");
            let outcome = World::new(scene).at(after, Event::Cancel).run();
            assert_clean(&outcome, &of);
            check_canceled(scene, after, &outcome.phase, &of);
        }
    }
}

#[test]
fn cancel_at_every_point_with_every_failure() {
    for scene in [scenes(false)[0], scenes(false)[3], scenes(true)[0], scenes(true)[3]] {
        for after in 0..=writes(scene) {
            each_failure(scene, |of, world| {
                let outcome = world.at(after, Event::Cancel).run();
                assert_clean(&outcome, &format!("{of}, cancel after {after}"));
                assert!(["Canceled", "Completed"].contains(&outcome.phase.as_str()), "{of}: {}", outcome.phase);
            });
        }
    }
}

#[test]
fn deletion_of_the_object_at_every_point_with_every_failure() {
    for scene in [scenes(false)[0], scenes(false)[3], scenes(true)[0], scenes(true)[3]] {
        for after in 0..=writes(scene) {
            each_failure(scene, |of, world| {
                let outcome = world.at(after, Event::Delete).run();
                assert_clean(&outcome, &format!("{of}, deleted after {after}"));
                assert_eq!(outcome.phase, "", "{of}, deleted after {after}: the object is still there");
            });
        }
    }
}

#[test]
fn a_silent_agent_is_not_waited_for_after_a_cancel() {
    for scene in all_scenes() {
        let started = if scene.download { 5 } else { 12 };
        for after in [started - 1, started] {
            let world = World::new(scene).at(after, Event::AgentStops).at(after, Event::Cancel);
            let outcome = world.run();
            assert_clean(&outcome, &format!("{scene:?} after {after}"));
            assert_eq!(outcome.phase, "Canceled", "{scene:?} after {after}");
        }
    }
}

#[test]
fn the_source_may_go_at_every_point() {
    for scene in scenes(false) {
        for after in 0..=writes(scene) {
            for then in [None, Some(Event::Cancel), Some(Event::Delete)] {
                let mut world = World::new(scene).at(after, Event::SourceGone);
                if let Some(event) = then {
                    world = world.at(after + 1, event);
                }
                let outcome = world.run();
                let of = format!("{scene:?}, source gone after {after}, then {then:?}");
                // Before the first content is kept by Retain, the storage snapshot goes with the namespace, but for a class of
                // policy Retain.
                let early = |v: &str| !scene.retain && after < 3 && v.starts_with("I1: ") && !v.contains("at the end");
                let violations: Vec<&String> = outcome.violations.iter().filter(|v| !early(v)).collect();
                assert!(violations.is_empty(), "{of}: {violations:#?} {:#?}", outcome.steps);
                if then.is_none() && after < 2 {
                    assert_eq!(outcome.phase, "Failed", "{of}");
                } else if then.is_none() && after >= 3 {
                    assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
                }
            }
        }
    }
}

#[test]
fn the_target_may_go_or_be_replaced_at_every_point() {
    for scene in scenes(true) {
        for event in [Event::TargetGone, Event::TargetReplaced] {
            for after in 0..=writes(scene) {
                let outcome = World::new(scene).at(after, event).run();
                let of = format!("{scene:?}, {event:?} after {after}");
                // From then on the volume is the target's, and what becomes of it is its owner's policy.
                let given = after >= 11;
                let violations: Vec<&String> = outcome
                    .violations
                    .iter()
                    .filter(|v| !(given && (v.starts_with("I7: ") || v.starts_with("I3"))))
                    .collect();
                assert!(violations.is_empty(), "{of}: {violations:#?} {:#?}", outcome.steps);
                assert!(["Failed", "Completed"].contains(&outcome.phase.as_str()), "{of}: {}", outcome.phase);
            }
        }
    }
}

#[test]
fn a_driver_that_keeps_snapshots_with_clones_and_one_that_never_gets_ready() {
    for scene in scenes(false) {
        let mut world = World::new(scene);
        world.storage.clones_hold = true;
        let outcome = world.run();
        assert_clean(&outcome, &format!("{scene:?}, clones hold"));
        assert_eq!(outcome.phase, "Completed");
        let mut world = World::new(scene);
        world.storage.never_ready = true;
        let outcome = world.run();
        assert_clean(&outcome, &format!("{scene:?}, never ready"));
        assert_eq!(outcome.phase, "Failed");
    }
}

#[test]
fn a_node_may_be_lost_at_every_point() {
    for scene in all_scenes() {
        for after in 0..=writes(scene) {
            for then in [None, Some(Event::Cancel), Some(Event::Delete)] {
                let mut world = World::new(scene).at(after, Event::NodeLost);
                if let Some(event) = then {
                    world = world.at(after + 2, event);
                }
                let outcome = world.run();
                let of = format!("{scene:?}, node lost after {after}, then {then:?}");
                assert_clean(&outcome, &of);
                if then.is_none() {
                    assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
                }
                // From the pod to the end of the work, what is on the lost node may still be written to: another PVC.
                let (published, done) = if scene.download { (4, 5) } else { (11, 12) };
                if then.is_none() && (published..=done).contains(&after) {
                    assert!(outcome.steps.iter().any(|step| step == "NextAttempt"), "{of}: {:#?}", outcome.steps);
                }
            }
        }
    }
}

#[test]
fn a_silent_agent_is_waited_for_as_long_as_velero_waits() {
    for scene in all_scenes() {
        let done = if scene.download { 6 } else { 13 };
        for after in 0..=writes(scene) {
            let outcome = World::new(scene).at(after, Event::AgentStops).run();
            let of = format!("{scene:?}, agent silent after {after}");
            assert_clean(&outcome, &of);
            let expected = if after < done { "Failed" } else { "Completed" };
            assert_eq!(outcome.phase, expected, "{of}: {:#?}", outcome.steps);
        }
    }
}

#[test]
fn a_lost_node_that_nobody_declares_gone_ends_what_waits_for_it() {
    for scene in all_scenes() {
        for after in 0..=writes(scene) {
            let outcome = World::new(scene).at(after, Event::NodeLostForLong).run();
            let of = format!("{scene:?}, node lost for long after {after}");
            assert_clean(&outcome, &of);
            // D6 to D8: the volume is whole, and may still be attached there. All others go on elsewhere, or have ended.
            let waits = scene.download && (6..9).contains(&after);
            let expected = if waits { "Failed" } else { "Completed" };
            assert_eq!(outcome.phase, expected, "{of}: {:#?}", outcome.steps);
        }
    }
}

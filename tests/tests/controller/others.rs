//! What others do to what is ours: other hands, drains, evictions, later versions, unreadable plans.

use crate::{assert_clean, local_scenes, scenes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wherry_api::api::{Key, Kind};
use wherry_api::{DownloadPlan, Phase, Settings, Time, UploadPlan, names};
use wherry_controller::glance::Glance;
use wherry_controller::mirror::Mirror;
use wherry_controller::observe::Memory;
use wherry_controller::reconcile::{Action, Step, Write};
use wherry_tests::cluster::{Client, Content, DOWNLOAD, Event, Outcome, Scene, UPLOAD, Who, World, WorldView};

fn all_scenes() -> Vec<Scene> {
    [scenes(false), scenes(true)].concat()
}

fn writes(scene: Scene) -> usize {
    if scene.download { 12 } else { 17 }
}

/// The event at every point, in every scene.
fn at_every_point(event: Event, check: impl Fn(Scene, usize, &str, &Outcome)) {
    for scene in all_scenes() {
        for after in 0..=writes(scene) {
            let outcome = World::new(scene).at(after, event).run();
            let of = format!("{scene:?}, {event:?} after {after}");
            assert_clean(&outcome, &of);
            check(scene, after, &of, &outcome);
        }
    }
}

#[test]
fn a_volume_that_nothing_kept_is_not_given_away() {
    at_every_point(Event::ClaimGone, |scene, after, of, outcome| {
        // Written, and nothing keeps it: the one moment when somebody else's deletion costs the restore.
        let expected = if scene.download && after == 6 { "Failed" } else { "Completed" };
        assert_eq!(outcome.phase, expected, "{of}: {:#?}", outcome.steps);
    });
    // The driver has deleted the volume, and its PV is still there to be given away.
    for scene in scenes(true) {
        let outcome = World::new(scene).at(6, Event::ClaimGone).slow_others().run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Failed", "{scene:?}: {:#?}", outcome.steps);
    }
}

#[test]
fn a_claim_that_others_delete_under_the_pod_ends_it() {
    at_every_point(Event::ClaimGoing, |scene, after, of, outcome| {
        assert!(["Failed", "Completed"].contains(&outcome.phase.as_str()), "{of}: {}", outcome.phase);
        if scene.download && (6..=7).contains(&after) {
            assert_eq!(outcome.phase, "Failed", "{of}");
        }
    });
    for scene in scenes(true) {
        for after in 6..=7 {
            let outcome = World::new(scene).at(after, Event::ClaimGoing).at(after, Event::Cancel).run();
            assert_clean(&outcome, &format!("{scene:?} after {after}"));
            assert_eq!(outcome.phase, "Canceled", "{scene:?} after {after}");
        }
    }
}

/// What was begun on a node that nobody reaches may go on there, also when nothing is left of the pod: its PVC gets no other pod.
#[test]
fn an_attempt_whose_pod_vanishes_with_its_node_is_not_gone_on_with() {
    for event in [Event::NodeLostPodsForced, Event::NodeDeleted] {
        for scene in all_scenes() {
            let begun = if scene.download { 4..=5 } else { 11..=12 };
            let again = begun.clone().map(|after| (after, true));
            for (after, behind) in (0..=writes(scene)).map(|after| (after, false)).chain(again) {
                let mut world = World::new(scene).at(after, event);
                if behind {
                    world = world.behind(0);
                }
                let (server, key) = (world.server.clone(), world.cr.clone());
                let outcome = world.run();
                let of = format!("{scene:?}, {event:?} after {after}, by watches: {behind}");
                assert_clean(&outcome, &of);
                assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
                if !begun.contains(&after) {
                    continue;
                }
                let next = outcome.steps.iter().position(|step| step == "NextAttempt");
                let next = next.unwrap_or_else(|| panic!("{of}: {:#?}", outcome.steps));
                let made = outcome.steps[..next].iter().filter(|step| *step == "MakePod").count();
                assert_eq!(made, 1, "{of}: {:#?}", outcome.steps);
                // And no more attempts than that: the new one is not taken for lost because the last one was.
                let cr = server.get(&key).unwrap();
                let plan: Value =
                    serde_json::from_str(cr["metadata"]["annotations"][names::PLAN].as_str().unwrap()).unwrap();
                assert_eq!(plan["attempt"], 2, "{of}: {:#?}", outcome.steps);
            }
        }
    }
}

/// One that is reached again within its time goes on with what was begun there.
#[test]
fn an_attempt_whose_pod_was_taken_away_goes_on_when_its_node_is_ready_again() {
    for download in [false, true] {
        let mut world = World::new(scenes(download)[0]).run_to(if download { 5 } else { 12 });
        let (server, key) = (world.server.clone(), world.cr.clone());
        let uid = server.get(&key).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let pod = Key::new(Kind::Pod, "velero", &names::of_attempt(&uid, 1));
        let node = Key::new(Kind::Node, "", "n1");
        let is = |status: &str, at: &Value| {
            let conditions = json!([{ "type": "Ready", "status": status, "lastTransitionTime": at }]);
            server.patch(Who::System, &node, &json!({ "status": { "conditions": conditions } }));
        };
        let since = server.get(&key).unwrap()["metadata"]["creationTimestamp"].clone();
        is("Unknown", &since);
        server.delete(Who::System, &pod);
        server.finish(Who::System, &pod, "model/kubelet");
        let step = world.look().unwrap().next_step();
        let Step::Wait { why, until: Some(_), told: false } = &step else { panic!("{step:?}") };
        assert!(why.contains("node n1 is not ready"), "{why}");
        is("True", &since);
        let step = world.look().unwrap().next_step();
        assert!(matches!(step, Step::Do(Action::MakePod, _)), "{step:?}");
        while world.turn() {}
        let cr = server.get(&key).unwrap();
        assert_eq!(cr["status"]["phase"], "Completed", "{cr:#}");
        assert!(cr["metadata"]["annotations"][names::PLAN].as_str().unwrap().contains("\"attempt\":1"), "{cr:#}");
    }
}

#[test]
fn a_drained_node_does_not_get_the_pod_again() {
    at_every_point(Event::NodeDrained, |_, _, of, outcome| {
        assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
    });
}

#[test]
fn an_evicted_pod_is_made_again() {
    at_every_point(Event::PodFails, |_, _, of, outcome| {
        assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
    });
}

#[test]
fn a_target_that_goes_slowly_after_it_was_given_the_volume() {
    for scene in scenes(true) {
        for event in [Event::TargetGone, Event::TargetReplaced] {
            let outcome = World::new(scene).at(10, event).slow_others().run();
            assert_clean(&outcome, &format!("{scene:?}, {event:?}"));
            assert_eq!(outcome.phase, "Failed", "{scene:?}, {event:?}");
        }
    }
}

#[test]
fn a_volume_that_the_target_is_bound_to_loses_our_marks_when_the_restore_fails() {
    for scene in scenes(true) {
        let mut world = World::new(scene).run_to(10);
        let target = Key::new(Kind::Claim, "app", "data");
        world.server.patch(Who::Velero, &target, &json!({ "metadata": { "finalizers": ["somebody/holds"] } }));
        world.server.delete(Who::Velero, &target);
        while world.turn() {}
        let (_, volume) = world.server.all(Kind::Volume).remove(0);
        let policy = if scene.retain { "Retain" } else { "Delete" };
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], policy, "{scene:?}: {volume}");
        assert!(!volume["metadata"].to_string().contains("wherry.io/"), "{scene:?}: {volume}");
        let cr = world.server.get(&world.cr).unwrap();
        assert_eq!(cr["status"]["phase"], "Failed");
        assert!(!cr["metadata"]["finalizers"].to_string().contains("wherry.io"));
    }
}

/// A target that is never bound to the volume that it was given: whoever waits no longer leaves it to the target.
#[test]
fn a_restore_whose_target_never_binds_ends_all_the_same() {
    for scene in scenes(true) {
        for (event, phase) in [(None, "Failed"), (Some(Event::Cancel), "Canceled"), (Some(Event::Delete), "")] {
            let world = World::new(scene).at(9, Event::TargetMisfits);
            let server = world.server.clone();
            let target = Key::new(Kind::Claim, "app", "data");
            let outcome = match event {
                Some(event) => world.at(10, event).run(),
                None => world.run(),
            };
            let of = format!("{scene:?}, {event:?}");
            assert_clean(&outcome, &of);
            assert_eq!(outcome.phase, phase, "{of}: {:#?}", outcome.steps);
            // Kept for the target, in all it is.
            let (claim, volume) = (server.get(&target).unwrap(), server.all(Kind::Volume).remove(0).1);
            assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"], "{of}: {volume}");
            assert_eq!(claim["spec"]["volumeName"], serde_json::Value::Null, "{of}: {claim}");
            let policy = if scene.retain { "Retain" } else { "Delete" };
            assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], policy, "{of}: {volume}");
            assert!(!volume["metadata"].to_string().contains("wherry.io/"), "{of}: {volume}");
            let Some(cr) = server.get(&Key::new(Kind::DataDownload, "velero", DOWNLOAD)) else { continue };
            let said = cr["status"]["message"].as_str().unwrap();
            assert!(said.contains("is given to PVC app/data, but they are not bound"), "{of}: {said}");
            assert!(
                said.starts_with(if event.is_some() { "timed out; PV " } else { "not done within " }),
                "{of}: {said}"
            );
        }
    }
}

#[test]
fn cancel_and_then_the_source_goes_at_every_pair_of_points() {
    for scene in scenes(false) {
        for first in 0..=writes(scene) {
            for second in first..=first + 8 {
                for cancel in [Event::Cancel, Event::Delete] {
                    let outcome = World::new(scene).at(first, cancel).at(second, Event::SourceGone).run();
                    let of = format!("{scene:?}, {cancel:?} after {first}, source gone after {second}");
                    assert_clean(&outcome, &of);
                }
            }
        }
    }
}

#[test]
fn a_plan_that_cannot_be_read_fails_and_leaves_nothing() {
    at_every_point(Event::PlanBroken, |_, _, of, outcome| {
        assert!(["Failed", "Completed"].contains(&outcome.phase.as_str()), "{of}: {}", outcome.phase);
    });
    // The namespace of the source is gone, too: the kept content is found by its label alone.
    for scene in scenes(false) {
        for after in 3..=writes(scene) {
            let outcome = World::new(scene).at(after, Event::PlanBroken).at(after, Event::SourceGone).run();
            assert_clean(&outcome, &format!("{scene:?} after {after}"));
        }
    }
}

#[test]
fn what_a_later_version_has_begun_is_left_to_it() {
    for scene in all_scenes() {
        let (kind, name) = if scene.download { (Kind::DataDownload, DOWNLOAD) } else { (Kind::DataUpload, UPLOAD) };
        let key = Key::new(kind, "velero", name);
        for after in [2, 5, 6] {
            let world = World::new(scene).run_to(after);
            let cr = world.server.get(&key).unwrap();
            for annotation in [names::PLAN, names::DATA_DONE] {
                let Some(text) = cr["metadata"]["annotations"][annotation].as_str() else { continue };
                let later = text.replace("\"version\":1", "\"version\":9");
                let body = |text: &str| json!({ "metadata": { "annotations": { annotation: text } } });
                world.server.patch(Who::Velero, &key, &body(&later));
                for phase in [Phase::Accepted, Phase::Prepared, Phase::InProgress, Phase::Failed, Phase::Canceled] {
                    if phase.is_terminal() && annotation == names::DATA_DONE {
                        continue;
                    }
                    world.server.patch(Who::Velero, &key, &json!({ "status": { "phase": phase } }));
                    let step = world.look().unwrap().next_step();
                    let waits = |step: &Step| matches!(step, Step::Wait { why, .. } if why.contains("version 9"));
                    let of = format!("{scene:?}, {annotation} after {after}, {phase:?}");
                    assert!(waits(&step), "{of}: {step:?}");
                    // A cancel needs no plan as long as no agent has begun; what was made is that version's to remove.
                    let mut view = world.look().unwrap();
                    match &mut view {
                        WorldView::Upload(view) => view.cr.spec.cancel = true,
                        WorldView::Download(view) => view.cr.spec.cancel = true,
                    }
                    let step = view.next_step();
                    match phase {
                        Phase::Accepted | Phase::Prepared if annotation == names::PLAN => {
                            assert!(matches!(step, Step::Do(Action::Cancel, _)), "{of}: {step:?}");
                        }
                        // Its volume is written: it is that version's to be given away.
                        Phase::Accepted | Phase::Prepared => assert!(waits(&step), "{of}: {step:?}"),
                        _ => assert!(waits(&step), "{of}: {step:?}"),
                    }
                }
                world.server.patch(Who::Velero, &key, &body(text));
            }
        }
    }
}

/// An agent that answers and has no place for it, or is stuck, is not waited for longer than Velero waits.
#[test]
fn an_agent_that_never_begins_is_not_waited_for_forever() {
    for download in [false, true] {
        let world = World::new(scenes(download)[0]).run_to(if download { 4 } else { 11 });
        let later = |seconds: i64, begun: bool| {
            let mut view = world.look().unwrap();
            let phase = if begun { Phase::InProgress } else { Phase::Prepared };
            match &mut view {
                WorldView::Upload(view) => {
                    (view.now, view.cr.status.phase) =
                        (Time(view.cr.metadata.creation_timestamp.unwrap().0 + seconds), phase);
                }
                WorldView::Download(view) => {
                    (view.now, view.cr.status.phase) =
                        (Time(view.cr.metadata.creation_timestamp.unwrap().0 + seconds), phase);
                }
            }
            view.next_step()
        };
        let Step::Wait { until: Some(_), told: true, .. } = later(14_399, false) else {
            panic!("{:?}", later(14_399, false))
        };
        let Step::Do(Action::Fail, Write::Patch { patch, .. }) = later(14_400, false) else { panic!("it waits") };
        let said = patch["status"]["message"].as_str().unwrap();
        assert!(
            said.starts_with("not done within the item timeout of 14400 s: the agent of node n1 has not begun"),
            "{said}"
        );
        // Once it has begun it keeps the time itself.
        assert!(matches!(later(14_400, true), Step::Wait { .. }));
    }
}

/// Velero has given it up, also where it did not say so: what is stored then, no backup names.
#[test]
fn an_upload_that_was_never_let_begin_ends_with_the_item_timeout() {
    let Some(WorldView::Upload(view)) = World::new(scenes(false)[0]).run_to(1).look() else { panic!("no view") };
    let later = |seconds: i64, admitted: bool, handle: bool| {
        let mut view = view.clone();
        (view.now, view.admitted) = (Time(view.cr.metadata.creation_timestamp.unwrap().0 + seconds), admitted);
        if !handle {
            view.first_content.as_mut().unwrap().status.snapshot_handle = None;
        }
        (view.now, view.next_step())
    };
    assert!(matches!(later(14_399, true, true).1, Step::Do(Action::Accept, _)));
    for (admitted, handle) in [(false, true), (true, false), (false, false)] {
        let (now, step) = later(14_399, admitted, handle);
        let Step::Wait { until: Some(until), .. } = step else { panic!("{admitted}, {handle}: {step:?}") };
        assert_eq!(until, Time(now.0 + 1), "{admitted}, {handle}");
    }
    for (admitted, handle) in [(true, true), (false, true), (true, false), (false, false)] {
        let (_, step) = later(14_400, admitted, handle);
        let Step::Do(Action::Fail, Write::Patch { patch, .. }) = step else { panic!("{admitted}, {handle}: {step:?}") };
        let said = patch["status"]["message"].as_str().unwrap();
        assert!(said.starts_with("not begun within the item timeout of 14400 s"), "{said}");
    }
    // One that Velero has not made has its time from when it is begun.
    let Some(WorldView::Upload(mut view)) = World::new(local_scenes()[0]).run_to(1).look() else { panic!("no view") };
    view.now = Time(view.now.0 + 5 * 3600);
    assert!(matches!(view.next_step(), Step::Do(Action::Accept, _)), "{:?}", view.next_step());
}

/// The answer of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the model answers at once"),
    }
}

/// The watch of pods may be ahead of that of CRs: what is known of the newest attempt is not taken for what an earlier one left.
#[test]
fn an_old_plan_does_not_hit_a_newer_attempt() {
    for (download, writes) in [(false, 11), (false, 12), (true, 4), (true, 5)] {
        let of = format!("download {download}, {writes} writes");
        let mut world = World::new(scenes(download)[0]).run_to(writes);
        let (server, key) = (world.server.clone(), world.cr.clone());
        let old = server.get(&key).unwrap();
        let uid = old["metadata"]["uid"].as_str().unwrap().to_owned();
        server.delete(Who::System, &Key::new(Kind::Node, "", "n1"));
        let newest = Key::new(Kind::Pod, "velero", &names::of_attempt(&uid, 2));
        let (mut turns, earlier) = (0, Key::new(Kind::Pod, "velero", &names::of_attempt(&uid, 1)));
        while server.get(&newest).is_none() || server.get(&earlier).is_some() {
            assert!(world.turn() && turns < 100, "{of}: no second attempt");
            turns += 1;
        }
        let mirror = Mirror::default();
        mirror.listed(key.kind, &[Value::clone(&old)]);
        for kind in [Kind::Pod, Kind::Claim, Kind::VolumeSnapshot] {
            let made: Vec<Value> = server
                .all(kind)
                .into_iter()
                .filter(|(key, _)| key.name.contains(&uid))
                .map(|(_, object)| Value::clone(&object))
                .collect();
            mirror.listed(kind, &made);
        }
        let (api, mut memory) = (Client::new(&server, Who::Controller, None), Memory::default());
        let glance = Glance::new(&api, &mirror, &key);
        let limits = wherry_controller::reconcile::Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let time = Time(old["metadata"]["creationTimestamp"].as_str().unwrap().parse::<Time>().unwrap().0 + 60);
        let (_, step) = now(glance.decide(&key, &limits, time, &mut memory)).unwrap().unwrap();
        if let Step::Do(_, Write::Delete { key, .. }) = &step {
            assert!(!key.name.ends_with("-2"), "{of}: {step:?}");
        }
    }
}

#[test]
fn the_largest_known_size_is_asked_for_and_none_at_all_fails() {
    let look = || match World::new(scenes(false)[0]).run_to(1).look() {
        Some(WorldView::Upload(view)) => view,
        other => panic!("{other:?}"),
    };
    let size = |step: &Step| match step {
        Step::Do(Action::Accept, Write::Patch { patch, .. }) => {
            let uid = look().cr.metadata.uid;
            UploadPlan::parse(patch["metadata"]["annotations"][names::PLAN].as_str(), &uid).unwrap().restore_size
        }
        other => panic!("{other:?}"),
    };
    let mut view = look();
    assert_eq!(size(&view.next_step()), Some(4096));
    let mut source = wherry_api::cluster::Claim::default();
    source.spec.resources.requests.insert("storage".to_owned(), "1e6".to_owned());
    view.source = Some(source);
    assert_eq!(size(&view.next_step()), Some(1_000_000));
    let mut volume = wherry_api::cluster::Volume::default();
    volume.spec.capacity.insert("storage".to_owned(), "1Gi".to_owned());
    view.source_volume = Some(volume);
    assert_eq!(size(&view.next_step()), Some(1 << 30));

    let mut view = look();
    view.first_content.as_mut().unwrap().status.restore_size = None;
    assert!(matches!(view.next_step(), Step::Do(Action::Fail, _)), "{:?}", view.next_step());
}

#[test]
fn a_restore_of_no_known_size_fails() {
    let Some(WorldView::Download(mut view)) = World::new(scenes(true)[0]).look() else { panic!("no view") };
    assert!(matches!(view.next_step(), Step::Do(Action::Accept, _)));
    view.cr.spec.snapshot_size = 0;
    view.target.as_mut().unwrap().spec.resources.requests.clear();
    assert!(matches!(view.next_step(), Step::Do(Action::Fail, _)), "{:?}", view.next_step());
}

#[test]
fn the_next_attempt_is_not_pinned_to_the_node_that_was_lost() {
    let mut world = World::new(scenes(true)[2]).run_to(4);
    let late = Time(0);
    let node = Key::new(Kind::Node, "", "n1");
    let conditions = json!([{ "type": "Ready", "status": "Unknown", "lastTransitionTime": late }]);
    world.server.patch(Who::System, &node, &json!({ "status": { "conditions": conditions } }));
    while world.turn() {}
    let uid = world.server.get(&world.cr).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let plan = world.server.get(&world.cr).unwrap()["metadata"]["annotations"][names::PLAN].as_str().map(str::to_owned);
    assert_eq!(DownloadPlan::parse(plan.as_deref(), &uid).unwrap().attempt, 2);
    let claim = world.server.get(&Key::new(Kind::Claim, "velero", &names::of_attempt(&uid, 2))).unwrap();
    let selected = &claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"];
    assert_ne!(*selected, "n1", "{claim}");
}

#[test]
fn what_was_begun_ends_when_the_setting_does_not_name_its_mover_any_more() {
    for scene in all_scenes() {
        // Before the first write nothing was begun, and it is somebody else's.
        for after in 1..=writes(scene) {
            let outcome = World::new(scene).at(after, Event::MoverRenamed).run();
            let of = format!("{scene:?}, renamed after {after}");
            assert_clean(&outcome, &of);
            // An agent that moves data is not told, and may be done before the controller ends it.
            let done = if scene.download { 9 } else { 11 };
            let expected = if after < done { "Canceled" } else { "Completed" };
            assert_eq!(outcome.phase, expected, "{of}: {:#?}", outcome.steps);
            let said = outcome.steps.iter().any(|step| step == "Cancel");
            assert_eq!(said, after < done, "{of}");
        }
        let before = World::new(scene).at(0, Event::MoverRenamed).run();
        assert_eq!((before.phase.as_str(), before.writes), ("", 0), "{scene:?}");
    }
}

#[test]
fn an_end_says_why_and_not_what_was_tried_last() {
    let Some(WorldView::Upload(mut view)) = World::new(scenes(false)[0]).run_to(12).look() else { panic!("no view") };
    view.cr.spec.cancel = true;
    view.cancel_since = Some(Time(view.now.0 - 3600));
    for (message, said) in [
        ("tried again: the storage does not answer", "spec.cancel was set"),
        ("", "spec.cancel was set"),
        ("timed out", "timed out"),
    ] {
        view.cr.status.message = message.to_owned();
        let Step::Do(Action::Cancel, Write::Patch { patch, .. }) = view.next_step() else { panic!("no cancel") };
        assert_eq!(patch["status"]["message"], said, "{message:?}");
    }
}

#[test]
fn labels_that_others_take_off_our_objects_keep_nothing_from_its_end() {
    at_every_point(Event::LabelsGone, |_, _, of, outcome| {
        assert_eq!(outcome.phase, "Completed", "{of}: {:#?}", outcome.steps);
    });
    for scene in all_scenes() {
        for after in 0..=writes(scene) {
            let outcome = World::new(scene).at(after, Event::LabelsGone).at(after, Event::Cancel).run();
            assert_clean(&outcome, &format!("{scene:?}, labels gone and canceled after {after}"));
        }
    }
}

#[test]
fn after_the_last_attempt_there_is_none() {
    for download in [false, true] {
        let world = World::new(scenes(download)[0]).run_to(if download { 4 } else { 11 });
        let uid = world.server.get(&world.cr).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut view = world.look().unwrap();
        let (cr, pods, claims, host, now) = match &mut view {
            WorldView::Upload(view) => {
                (&mut view.cr.metadata, &mut view.pods, &mut view.claims, &mut view.host, view.now)
            }
            WorldView::Download(view) => {
                (&mut view.cr.metadata, &mut view.pods, &mut view.claims, &mut view.host, view.now)
            }
        };
        let plan = cr.annotations[names::PLAN].replace("\"attempt\":1", &format!("\"attempt\":{}", u32::MAX));
        cr.annotations.insert(names::PLAN.to_owned(), plan);
        pods[0].metadata.name = names::of_attempt(&uid, u32::MAX);
        claims[0].metadata.name = names::of_attempt(&uid, u32::MAX);
        host.not_ready_since = Some(Time(now.0 - 3600));
        let Step::Do(Action::Fail, Write::Patch { patch, .. }) = view.next_step() else {
            panic!("{:?}", view.next_step())
        };
        let said = patch["status"]["message"].as_str().unwrap();
        assert!(said.contains("after attempt 4294967295 of annotation wherry.io/plan there is none"), "{said}");
    }
}

/// Nothing can be made there any more, so no pair that was not there yet gets the last word on the storage snapshot.
#[test]
fn a_namespace_that_goes_takes_all_with_it() {
    for scene in all_scenes() {
        for after in 1..=writes(scene) {
            for source_goes in [None, Some(after), Some(after + 1)] {
                let world = World::new(scene).at(after, Event::NamespaceGoes);
                let mut outcome = match source_goes.filter(|_| !scene.download) {
                    Some(at) => world.at(at, Event::SourceGone).run(),
                    None => world.run(),
                };
                let of = format!("{scene:?}, namespace goes after {after}, source after {source_goes:?}");
                // What is deleted under our hands may be gone before its CR is done.
                outcome.violations.retain(|v| !v.starts_with("I1: ") || v.contains("at the end"));
                assert_clean(&outcome, &of);
                assert_eq!(outcome.phase, "", "{of}: {:#?}", outcome.steps);
            }
        }
    }
}

#[test]
fn a_target_that_is_missing_or_bound_already_is_never_written_to() {
    let Some(WorldView::Download(view)) = World::new(scenes(true)[0]).look() else { panic!("no view") };
    let failed = |step: Step| match step {
        Step::Do(Action::Fail, Write::Patch { patch, .. }) => {
            patch["status"]["message"].as_str().map(str::to_owned).unwrap()
        }
        other => panic!("{other:?}"),
    };
    // Velero makes it after this object: it is waited for.
    let mut missing = view.clone();
    missing.target = None;
    let Step::Wait { until: Some(until), .. } = missing.next_step() else { panic!("{:?}", missing.next_step()) };
    missing.now = until;
    let said = failed(missing.next_step());
    assert!(said.starts_with("PVC app/data is not there"), "{said}");

    let mut bound = view;
    bound.target.as_mut().unwrap().spec.volume_name = "pv-9".to_owned();
    let said = failed(bound.next_step());
    assert!(said.starts_with("PVC app/data is bound to PV pv-9"), "{said}");
}
/// The driver ends what it had begun for a PVC that is gone: nothing but its claimRef says whose the PV is. It is looked for
/// before the CR is let go, and where a driver keeps the snapshot for it, as long as that is waited for.
#[test]
fn a_volume_whose_claim_went_while_it_was_provisioned_goes_too() {
    for scene in scenes(false) {
        for clones_hold in [false, true] {
            let mut world = World::new(scene).run_to(5);
            let uid = world.server.get(&world.cr).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
            let snapshot = world.storage.snapshots.first().unwrap().clone();
            world.storage.volumes.insert("pvc-late".to_owned(), Content::Clone(snapshot));
            world.storage.clones_hold = clones_hold;
            let claim =
                json!({ "namespace": "velero", "name": names::of_attempt(&uid, 1), "uid": "of one that is gone" });
            let volume = json!({
                "metadata": { "name": "pvc-late" },
                "spec": {
                    "claimRef": claim, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "lab",
                    "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
                    "csi": { "driver": "lab.csi", "volumeHandle": "pvc-late" },
                },
            });
            world.server.create(Who::System, &Key::new(Kind::Volume, "", "pvc-late"), &volume);
            let server = world.server.clone();
            let outcome = world.at(5, Event::Cancel).run();
            assert_clean(&outcome, &format!("{scene:?}, clones hold: {clones_hold}"));
            assert_eq!(outcome.phase, "Canceled", "{scene:?}: {:#?}", outcome.steps);
            assert!(server.get(&Key::new(Kind::Volume, "", "pvc-late")).is_none(), "{scene:?}: {:#?}", outcome.steps);
        }
    }
}

//! A PVC of ours is bound to a PV that was Available: neither the scheduler nor the PV controller asks what it is to be made from.
//! That the PV and what it holds stay is an invariant, I3.

use crate::{assert_clean, scenes};
use wherry_tests::cluster::{Event, How, Scene, World};

/// The PVC is there, and no volume was made for it.
fn after(scene: Scene) -> usize {
    if scene.download { 2 } else { 8 }
}

/// It has nothing of the snapshot. An acknowledged backup would be one of somebody else's data.
#[test]
fn an_upload_reads_no_volume_that_was_there_before() {
    for scene in scenes(false) {
        for more in [None, Some(Event::Cancel), Some(Event::Delete), Some(Event::SourceGone), Some(Event::NodeLost)] {
            let mut world = World::new(scene).at(after(scene), Event::OldVolume);
            if let Some(more) = more {
                world = world.at(after(scene), more);
            }
            let outcome = world.run();
            let of = format!("{scene:?}, {more:?}");
            assert_clean(&outcome, &of);
            let spared = outcome.steps.iter().any(|step| step == "SpareVolume");
            assert!(spared || scene.retain, "{of}: {:#?}", outcome.steps);
            let ends = if matches!(more, Some(Event::Cancel | Event::Delete)) { "Canceled" } else { "Failed" };
            assert_eq!(outcome.last_phase, ends, "{of}: {:#?}", outcome.steps);
        }
    }
}

/// Whatever write is lost or done twice on the way.
#[test]
fn an_upload_lets_it_be_whatever_fails() {
    for scene in scenes(false) {
        for n in after(scene) + 1..after(scene) + 12 {
            for how in [How::NotApplied, How::ReplyLost, How::Twice] {
                let outcome = World::new(scene).at(after(scene), Event::OldVolume).fail(n, how).run();
                assert_clean(&outcome, &format!("{scene:?}, write {n} {how:?}"));
                assert_eq!(outcome.last_phase, "Failed", "{scene:?}, write {n} {how:?}: {:#?}", outcome.steps);
            }
        }
    }
}

/// A download may use it, as any PVC may. It is not to be deleted for that.
#[test]
fn a_download_takes_it_and_deletes_it_never() {
    for scene in scenes(true) {
        for cancel in 0..14 {
            let outcome = World::new(scene).at(after(scene), Event::OldVolume).at(cancel, Event::Cancel).run();
            assert_clean(&outcome, &format!("{scene:?}, cancel after {cancel}"));
        }
        let outcome = World::new(scene).at(after(scene), Event::OldVolume).run();
        assert_clean(&outcome, &format!("{scene:?}"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}: {:#?}", outcome.steps);
    }
}

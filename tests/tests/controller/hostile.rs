//! What those may do who own the source or the target, or may write an annotation: none of it costs others a place, a snapshot or a PV.

use crate::{assert_clean, scenes};
use serde_json::{Value, json};
use wherry_api::api::{Key, Kind};
use wherry_api::names;
use wherry_tests::cluster::{Who, World};

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

//! What is left where a CR was torn away is found and removed, and nothing else.

use crate::{assert_clean, scenes};
use serde_json::json;
use wherry_api::api::{Key, Kind};
use wherry_api::names;
use wherry_tests::cluster::{Event, Who, World};

#[test]
fn a_cr_that_was_torn_away_leaves_nothing_for_long() {
    for download in [false, true] {
        let all = if download { 12 } else { 17 };
        for scene in scenes(download) {
            for after in 0..=all {
                for source_gone in [false, true] {
                    let mut world = World::new(scene).run_to(after);
                    if source_gone && !download {
                        world = world.at(0, Event::SourceGone);
                        world.turn();
                    }
                    world.lose_cr();
                    let of = format!("{scene:?}, torn away after {after}, source gone {source_gone}");
                    assert_eq!(world.sweep_leaks(), [], "{of}");
                    let mut outcome = world.judged();
                    // Nothing was marked yet: Velero's snapshot is Velero's. Once the volume is given it is the target's.
                    let early = !download && after < 3;
                    outcome.violations.retain(|v| !(early && v.starts_with("I1")));
                    assert_clean(&outcome, &of);
                }
            }
        }
    }
}

/// At every point of a run that goes on, with a base and without: not a write.
#[test]
fn what_has_an_owner_is_left_alone() {
    for download in [false, true] {
        let all = if download { 12 } else { 17 };
        for after in 0..=all {
            let mut world = World::new(scenes(download)[0]).run_to(after);
            let before: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| world.server.all(kind)).collect();
            assert_eq!(world.sweep_leaks(), []);
            let now: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| world.server.all(kind)).collect();
            assert_eq!(now, before, "after {after}");
        }
    }
    let mut world = World::new(scenes(false)[0]).keeping("always");
    while world.turn() {}
    assert_eq!(world.sweep_leaks(), []);
    assert_eq!(world.storage.snapshots.len(), 1);
}

/// Names like those of ours, of PVCs of others in the namespace of Velero, and a class that keeps what was deleted.
#[test]
fn volumes_of_others_are_left_alone_whatever_they_are_called() {
    let mut world = World::new(scenes(false)[0]);
    while world.turn() {}
    let mut all = Vec::new();
    for (n, claim, there) in [
        (0, "wherry-cache-0".to_owned(), true),
        (1, "wherry-restore-1".to_owned(), false),
        (2, names::of_attempt("01234567-89ab-4cde-8123-456789abcdef", 1), true),
    ] {
        let key = Key::new(Kind::Claim, "velero", &claim);
        if there {
            let spec = json!({
                "accessModes": ["ReadWriteOnce"], "storageClassName": "lab", "volumeName": format!("pv-{n}"),
                "resources": { "requests": { "storage": "1Gi" } },
            });
            world.server.create(Who::Velero, &key, &json!({ "metadata": { "name": claim }, "spec": spec }));
        }
        let uid = world.server.get(&key).map_or(json!("gone"), |claim| claim["metadata"]["uid"].clone());
        let volume = Key::new(Kind::Volume, "", &format!("pv-{n}"));
        let spec = json!({
            "claimRef": { "namespace": "velero", "name": claim, "uid": uid }, "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "lab", "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Filesystem", "csi": { "driver": "lab.csi", "volumeHandle": format!("pv-{n}") },
        });
        world.server.create(Who::System, &volume, &json!({ "metadata": { "name": volume.name }, "spec": spec }));
        all.push(volume);
    }
    while world.turn() {}
    let before: Vec<_> = all.iter().map(|key| world.server.get(key).unwrap()).collect();
    assert_eq!(world.sweep_leaks(), []);
    let now: Vec<_> = all.iter().map(|key| world.server.get(key).unwrap()).collect();
    assert_eq!(now, before);
}

/// What a lost request makes after its CR was let go: the DataUpload is there, Completed.
#[test]
fn a_content_that_came_too_late() {
    let mut world = World::new(scenes(false)[0]);
    while world.turn() {}
    let uid = world.server.get(&world.cr).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let name = names::object(&uid);
    world.storage.snapshots.insert("h9".to_owned());
    let content = json!({
        "metadata": {
            "name": name, "labels": { names::CR_UID: uid, names::VELERO_NAMESPACE: "velero" },
            "finalizers": ["snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"],
        },
        "spec": {
            "deletionPolicy": "Delete", "driver": "lab.csi", "source": { "snapshotHandle": "h9" },
            "volumeSnapshotRef": { "namespace": "velero", "name": name },
        },
    });
    let key = Key::new(Kind::VolumeSnapshotContent, "", &name);
    world.server.create(Who::Velero, &key, &content);
    // Of another install.
    let mut theirs = content.clone();
    theirs["spec"]["source"]["snapshotHandle"] = json!("h8");
    theirs["metadata"] =
        json!({ "name": "theirs", "labels": { names::CR_UID: "gone", names::VELERO_NAMESPACE: "other" } });
    let other = Key::new(Kind::VolumeSnapshotContent, "", "theirs");
    world.server.create(Who::Velero, &other, &theirs);
    assert_eq!(world.sweep_leaks(), []);
    assert!(world.server.get(&key).is_none() && world.server.get(&other).is_some());
    assert!(world.storage.snapshots.is_empty(), "{:?}", world.storage.snapshots);
}

/// Its PVC went while the driver was making it, and the CR is over: by the claimRef alone it is found.
#[test]
fn a_volume_that_is_done_when_its_cr_is_over() {
    for download in [false, true] {
        for scene in scenes(download) {
            let mut world = World::new(scene);
            world.storage.slow = true;
            while world.storage.making.is_empty() {
                let acted = world.turn();
                assert!(acted || !world.storage.making.is_empty(), "{scene:?}: nothing is being made");
            }
            assert!(world.server.all(Kind::Volume).is_empty(), "{scene:?}");
            world = world.at(0, Event::Cancel);
            while world.turn() {}
            assert!(!world.server.get(&world.cr).unwrap()["metadata"].to_string().contains("wherry.io/cleanup"));
            world.storage.slow = false;
            while world.turn() {}
            // Of policy Delete it goes by itself.
            assert_eq!(world.server.all(Kind::Volume).len(), usize::from(scene.retain), "{scene:?}");
            assert_eq!(world.sweep_leaks(), [], "{scene:?}");
            let outcome = world.judged();
            assert_clean(&outcome, &format!("{scene:?}"));
            assert_eq!(outcome.phase, "Canceled", "{scene:?}");
        }
    }
}

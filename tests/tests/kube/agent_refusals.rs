//! What the agent does not do, and how it says so: always by Failed with a message, and before the first byte.

use crate::agent::{MIB, disk, noise, snapshot_of, uploaded};
use crate::stand;
use serde_json::{Value, json};
use std::fs;
use wherry_api::SnapshotId;
use wherry_api::api::Kind;
use wherry_api::names;
use wherry_tests::hosted::{Agent, Hosted, Stand};

#[track_caller]
fn fails(stand: &Stand, agent: &Agent, hosted: &Hosted, words: &str) -> Value {
    stand.prepared(hosted);
    let cr = stand.until(hosted, agent, &["Failed"]);
    let message = cr["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert!(
        cr["status"]["completionTimestamp"].is_string() && cr["status"]["snapshotID"].is_null(),
        "{}",
        cr["status"]
    );
    cr
}

#[test]
fn a_volume_that_is_not_what_it_should_be_fails_before_the_first_byte() {
    let stand = stand("agent-volume");
    // What is not published is waited for so long.
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "prepareTimeout": "1s" } }));
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);

    let hosted = stand.upload("unpublished", "Block", 32 * MIB);
    fails(&stand, &agent, &hosted, "not published");

    // The device of another volume, by a link that leads to it.
    let other = stand.upload("other", "Block", 32 * MIB);
    let device = stand.publish(&other, &file);
    let hosted = stand.upload("elsewhere", "Block", 32 * MIB);
    let (_, link) = stand.places(&hosted);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(device.node(), &link).unwrap();
    fails(&stand, &agent, &hosted, "and not to");

    for (name, size, words) in [("small", 64 * MIB, "are needed"), ("large", 8 * MIB, "another one")] {
        let hosted = stand.upload(name, "Block", size);
        // One that is too large must be it by more than a driver rounds up.
        let sparse = stand.path(name);
        let length = if name == "small" { 32 * MIB } else { 3 << 30 };
        fs::File::create(&sparse).and_then(|file| file.set_len(length)).unwrap();
        let _device = stand.publish(&hosted, &sparse);
        fails(&stand, &agent, &hosted, words);
    }

    // An empty folder of the node in place of a filesystem.
    let hosted = stand.upload("unmounted", "Filesystem", 32 * MIB);
    let at = stand.root().join(format!("pods/{}/volumes/kubernetes.io~csi/{}/mount", hosted.pod_uid, hosted.pv));
    fs::create_dir_all(&at).unwrap();
    fails(&stand, &agent, &hosted, "no volume is mounted there");

    // Nothing was sent anywhere: not even a repository was made.
    assert_eq!(stand.stored("").len(), 0);
    assert!(stand.repository_key().is_null(), "no key was made");
    agent.end();
}

#[test]
fn a_target_that_is_not_what_it_should_be_is_not_written() {
    let stand = stand("agent-target");
    // What is not published is waited for so long.
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "prepareTimeout": "1s" } }));
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file)).to_string();
    let old = noise(3, 16 * MIB);
    let target = stand.path("target");
    fs::write(&target, &old).unwrap();

    let hosted = stand.download("small", "Block", 16 * MIB, &id);
    let device = stand.publish(&hosted, &target);
    fails(&stand, &agent, &hosted, "are needed");
    drop(device);
    assert!(fs::read(&target).unwrap() == old, "it was written to");

    // A folder of the node: it would be filled.
    let hosted = stand.download("unmounted", "Filesystem", 32 * MIB, &id);
    let at = stand.root().join(format!("pods/{}/volumes/kubernetes.io~csi/{}/mount", hosted.pod_uid, hosted.pv));
    fs::create_dir_all(&at).unwrap();
    fails(&stand, &agent, &hosted, "no volume is mounted there");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);

    // A disk into a filesystem.
    let hosted = stand.download("other-mode", "Filesystem", 32 * MIB, &id);
    let at = stand.mount(&hosted, 32);
    fails(&stand, &agent, &hosted, "that of a disk");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 1, "lost+found");
    agent.end();
}

/// A filesystem that has less room than its volume should have stays full: nobody waits for hours until that passes.
#[test]
fn a_target_without_room_fails_and_says_so() {
    let stand = stand("agent-room");
    let agent = stand.agent();
    let up = stand.upload("up", "Filesystem", 64 * MIB);
    let from = stand.mount(&up, 64);
    fs::write(from.join("large"), noise(5, 24 * MIB)).unwrap();
    stand.prepared(&up);
    let id = snapshot_of(&stand.until(&up, &agent, &["Completed"])).to_string();
    let down = stand.download("down", "Filesystem", 64 * MIB, &id);
    stand.mount(&down, 16);
    fails(&stand, &agent, &down, "No space left on device");
    agent.end();
}

#[test]
fn a_snapshot_that_is_none_of_this_volume_is_refused() {
    let stand = stand("agent-snapshot");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file));
    let target = stand.path("target");
    fs::File::create(&target).and_then(|file| file.set_len(32 * MIB)).unwrap();
    let with = |change: &dyn Fn(&mut SnapshotId)| {
        let mut other = id.clone();
        change(&mut other);
        other.to_string()
    };
    let other_namespace = with(&|id| id.volume = id.volume.replace(".app.", ".secret."));
    let gone = with(&|id| id.session = "0123456789abcdef0123456789abcdef".to_owned());
    let elsewhere = with(&|id| id.repository = "00000000-0000-4000-8000-000000000000".to_owned());
    for (name, id, words) in [
        ("empty", String::new(), "snapshotID is empty"),
        ("foreign", "k1234".to_owned(), "is not one of wherry"),
        ("namespace", other_namespace, "it is refused"),
        ("gone", gone, "there is no snapshot"),
        ("elsewhere", elsewhere, "the snapshot is in repository"),
    ] {
        let hosted = stand.download(name, "Block", 32 * MIB, &id);
        let _device = stand.publish(&hosted, &target);
        let cr = fails(&stand, &agent, &hosted, words);
        assert!(cr["metadata"]["annotations"][names::DATA_DONE].is_null());
    }
    assert!(fs::read(&target).unwrap().iter().all(|byte| *byte == 0), "it was written to");
    agent.end();
}

#[test]
fn a_location_that_is_not_as_it_was_is_an_error() {
    let stand = stand("agent-location");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 4);
    let fail_at = |name: &str, location: &str, words: &str| {
        let hosted = stand.upload(name, "Block", 32 * MIB);
        stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": location } }));
        let _device = stand.publish(&hosted, &file);
        fails(&stand, &agent, &hosted, words)
    };
    fail_at("missing", "nowhere", "there is no BackupStorageLocation \"nowhere\"");
    stand.location("read-only", json!({ "accessMode": "ReadOnly" }));
    fail_at("read-only", "read-only", "is ReadOnly");
    stand.location("unknown", json!({ "provider": "other", "config": {} }));
    fail_at("unknown", "unknown", "is not known");
    assert_eq!(stand.stored("").len(), 0);

    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file)).to_string();
    // From a location that is only read it is restored all the same.
    let hosted = stand.download("down", "Block", 32 * MIB, &id);
    stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": "read-only" } }));
    let target = stand.path("target");
    fs::File::create(&target).and_then(|file| file.set_len(32 * MIB)).unwrap();
    let device = stand.publish(&hosted, &target);
    stand.prepared(&hosted);
    stand.when(&hosted, &agent, "data-done", |cr| cr["metadata"]["annotations"][names::DATA_DONE].is_string());
    drop(device);
    assert!(fs::read(&target).unwrap() == fs::read(&file).unwrap());

    // Its repository was replaced by another one: known is the first.
    let repositories = stand.key(Kind::ConfigMap, "wherry-repositories");
    let known = stand.get(&repositories)["data"]["default"].as_str().unwrap().to_owned();
    let other = known.replacen(&snapshot_id(&id).repository, "00000000-0000-4000-8000-000000000000", 1);
    assert_ne!(known, other);
    stand.patch(&repositories, &json!({ "data": { "default": other } }));
    fail_at("another", "default", "it is another one");
    stand.patch(&repositories, &json!({ "data": { "default": known } }));

    // No key, and a repository: none is made.
    let secret = stand.key(Kind::Secret, "wherry-repository");
    let key = stand.get(&secret);
    stand.delete(&secret, true);
    fail_at("no-key", "default", "no new key was made");
    assert!(stand.get(&secret).is_null());
    let wrong = json!({ "metadata": { "name": "wherry-repository" }, "stringData": { "key": "0".repeat(64) } });
    stand.create(Kind::Secret, wrong);
    fail_at("wrong-key", "default", "does not open the repository");
    stand.delete(&secret, true);
    let again = json!({ "metadata": { "name": "wherry-repository" }, "data": key["data"] });
    stand.create(Kind::Secret, again);
    uploaded(&stand, &agent, "again", &file);

    // It is gone: nothing is made in its place.
    let storage = stand.storage();
    let mut keys = Vec::new();
    let listed = storage.list("", &mut |listed| {
        keys.push(listed.key);
        Ok(())
    });
    listed.unwrap();
    keys.iter().for_each(|key| storage.delete(key).unwrap());
    fail_at("gone", "default", "is gone");
    assert_eq!(stand.stored("").len(), 0);
    agent.end();
}

fn snapshot_id(text: &str) -> SnapshotId {
    text.parse().unwrap()
}

/// Credentials that are missing may come: it is tried again until Velero would have given up.
#[test]
fn missing_credentials_are_waited_for_and_then_said() {
    let stand = stand("agent-credentials");
    let file = disk(&stand, "disk", 32, 4);
    stand.location("nobody", json!({ "credential": { "name": "none", "key": "cloud" } }));
    let agent = stand.agent();
    let hosted = stand.upload("waits", "Block", 32 * MIB);
    stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": "nobody" } }));
    let _device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let cr = stand.when(&hosted, &agent, "a word", |cr| cr["status"]["message"].as_str().is_some());
    let message = cr["status"]["message"].as_str().unwrap();
    assert!(message.contains("there is no Secret none") && cr["status"]["phase"] == "InProgress", "{message}");
    let good = stand.get(&stand.key(Kind::Secret, "cloud-credentials"));
    stand.create(Kind::Secret, json!({ "metadata": { "name": "none" }, "data": good["data"] }));
    stand.until(&hosted, &agent, &["Completed"]);
    agent.end();

    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "itemTimeout": "1s" } }));
    stand.patch(&stand.key(Kind::Secret, "none"), &json!({ "stringData": { "cloud": "[default]\n" } }));
    let agent = stand.agent();
    let hosted = stand.upload("gives-up", "Block", 32 * MIB);
    stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": "nobody" } }));
    let _device = stand.publish(&hosted, &file);
    let cr = fails(&stand, &agent, &hosted, "there is no profile");
    let message = cr["status"]["message"].as_str().unwrap();
    assert!(message.contains("credentials of Secret none (key \"cloud\")"), "{message}");
    agent.end();
}

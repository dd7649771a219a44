//! BackupStorageLocations of every provider, as Velero's plugins are told of them: one upload and one download each, and the Jobs
//! that forget and collect, on servers that speak their protocols. And what becomes of a location that is led elsewhere and back.

use crate::agent::{MIB, disk, snapshot_of, uploaded};
use crate::stand;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use wherry_api::api::Kind;
use wherry_api::job::{Collecting, Forgetting, JobResult, State};
use wherry_api::names;
use wherry_repo::Storage;
use wherry_tests::clouds::{ACCOUNT, ACCOUNT_KEY, Azurite, FakeGcs};
use wherry_tests::hosted::{Agent, Hosted, Stand};
use wherry_tests::jobs::{store_in, unstore_from};

const SIZE: u64 = 32 * MIB;

/// Backs up to a location; gives the CR at its end.
fn to(stand: &Stand, agent: &Agent, location: &str, name: &str, file: &Path, phase: &str) -> Value {
    let hosted = stand.upload(name, "Block", SIZE);
    leads_to(stand, &hosted, location);
    let _device = stand.publish(&hosted, file);
    stand.prepared(&hosted);
    stand.until(&hosted, agent, &[phase])
}

fn leads_to(stand: &Stand, hosted: &Hosted, location: &str) {
    stand.patch(&hosted.key, &json!({ "spec": { "backupStorageLocation": location } }));
}

/// A folder below the prefix of a location.
type Beside<'a> = &'a dyn Fn(&str) -> Arc<dyn Storage>;

/// Jobs of a location.
struct Jobs<'a> {
    stand: &'a Stand,
    location: &'a str,
    by: &'a [&'a str],
}

impl Jobs<'_> {
    #[track_caller]
    fn run(&self, kind: &str, args: &[&str]) -> JobResult {
        let result = self.stand.job_by(self.by, kind, self.location, args).ok();
        assert_eq!(result.state, State::Done, "{}: {result:?}", self.location);
        result
    }

    /// How many snapshots are kept, wait and are forgotten now, and the backups that are missing.
    #[track_caller]
    fn forget(&self, args: &[&str]) -> ([u64; 3], usize) {
        let Forgetting { kept, waiting, forgotten, missing, .. } = self.run("forget", args).forgetting.unwrap();
        ([kept, waiting, forgotten], missing.len())
    }

    #[track_caller]
    fn gc(&self) -> Collecting {
        self.run("gc", &["--grace", "0s"]).collecting.unwrap()
    }
}

/// There and back, while the Jobs look: a backup is missing when it is not in the bucket, and not when it is.
fn moves(stand: &Stand, agent: &Agent, location: &str, by: &[&str], beside: Beside<'_>) {
    let file = disk(stand, location, SIZE / MIB, 4);
    let cr = to(stand, agent, location, &format!("up-{location}"), &file, "Completed");
    let jobs = Jobs { stand, location, by };
    stand.available(location);
    let backups = beside("backups");
    // Another backup is there all the time, and what a listing by a wrong prefix would show as well.
    store_in(&*backups, "b2", "b2-uid");
    store_in(&*beside("backups-old"), "b", "b-uid");
    store_in(&*backups, "b", "b-uid");
    assert_eq!(jobs.forget(&[]), ([1, 0, 0], 0), "{location}: it is there");
    // Its name, and somebody else's.
    store_in(&*backups, "b", "another-uid");
    assert_eq!(jobs.forget(&[]), ([0, 1, 0], 1), "{location}: it is another one");
    unstore_from(&*backups, "b");
    assert_eq!(jobs.forget(&[]), ([0, 1, 0], 1), "{location}: it is not there");
    let collected = jobs.gc();
    assert!(collected.live_bytes > Some(4 * MIB) && collected.deleted_bytes == 0, "{location}: {collected:?}");
    comes_back(stand, agent, location, &file, &cr);

    // Missing for long enough, it goes.
    assert_eq!(jobs.forget(&["--missing-for", "0s", "--delay", "0s"]).0, [0, 0, 1], "{location}");
    jobs.forget(&[]);
    let deleted: u64 = (0..2).map(|_| jobs.gc().deleted_bytes).sum();
    assert!(deleted > 4 * MIB, "{location}: {deleted}");
    let mut packs = 0;
    let listed = beside("plugins/wherry").list("packs/", &mut |_| {
        packs += 1;
        Ok(())
    });
    listed.unwrap();
    assert_eq!(packs, 0, "{location}");
}

/// A restore of what was uploaded.
fn comes_back(stand: &Stand, agent: &Agent, location: &str, file: &Path, cr: &Value) {
    let target = stand.path(&format!("target-{location}"));
    fs::File::create(&target).and_then(|file| file.set_len(SIZE)).unwrap();
    let hosted = stand.download(&format!("down-{location}"), "Block", SIZE, &snapshot_of(cr).to_string());
    leads_to(stand, &hosted, location);
    let device = stand.publish(&hosted, &target);
    stand.prepared(&hosted);
    stand.when(&hosted, agent, "data-done", |cr| cr["metadata"]["annotations"][names::DATA_DONE].is_string());
    drop(device);
    // What the controller does then: what is being restored would be kept.
    stand.patch(&hosted.key, &json!({ "status": { "phase": "Completed" } }));
    assert!(fs::read(&target).unwrap() == fs::read(file).unwrap(), "it is another disk");
}

#[test]
fn azure_and_google_are_backed_up_to_restored_from_and_forgotten_in() {
    let (azure, google) = (Azurite::start(), FakeGcs::start());
    azure.make("velero");
    google.make("velero");
    let stand = stand("agent-providers");
    let [(_, emulator)]: [_; 1] = google.variables().try_into().unwrap();
    let emulator = format!("STORAGE_EMULATOR_HOST={emulator}");
    let by = ["env", &emulator];
    let agent = stand.agent_by(&by);

    let secret = |name: &str, text: String| {
        stand.create(Kind::Secret, json!({ "metadata": { "name": name }, "stringData": { "cloud": text } }));
        json!({ "name": name, "key": "cloud" })
    };
    let endpoint = azure.variables().into_iter().find(|(name, _)| *name == "AZURE_STORAGE_ENDPOINT").unwrap().1;
    let config = json!({
        "storageAccount": ACCOUNT, "storageAccountURI": endpoint, "storageAccountKeyEnvVar": "MY_KEY", "resourceGroup": "of Velero",
    });
    let credential = secret("azure", format!("MY_KEY={ACCOUNT_KEY}\n"));
    let deep = json!({ "bucket": "velero", "prefix": "of/many" });
    stand.location(
        "azure",
        json!({ "provider": "velero.io/azure", "config": config, "credential": credential, "objectStorage": deep }),
    );
    moves(&stand, &agent, "azure", &[], &|folder| azure.open(&format!("velero/of/many/{folder}")));

    // The server is not shown any.
    let credential = secret("google", "{}".to_owned());
    let whole = json!({ "bucket": "velero" });
    stand.location(
        "google",
        json!({ "provider": "velero.io/gcp", "config": {}, "credential": credential, "objectStorage": whole }),
    );
    moves(&stand, &agent, "google", &by, &|folder| google.open(&format!("velero/{folder}")));

    // A wish that cannot be met is not passed over.
    let config = json!({ "kmsKeyName": "projects/p/locations/l/keyRings/r/cryptoKeys/k" });
    stand.location("wish", json!({ "provider": "velero.io/gcp", "config": config, "credential": credential }));
    let file = stand.path("azure");
    let cr = to(&stand, &agent, "wish", "wish", &file, "Failed");
    let message = cr["status"]["message"].as_str().unwrap();
    assert!(message.contains("\"kmsKeyName\" is refused"), "{message}");
    agent.end();
}

/// Where a location leads back to a place that it knows, a repository that vanished there is missed, and none is made.
#[test]
fn a_location_that_is_led_away_and_back_misses_what_vanished() {
    let stand = stand("agent-led-back");
    let agent = stand.agent();
    let file = disk(&stand, "disk", SIZE / MIB, 4);
    uploaded(&stand, &agent, "first", &file);
    let location = stand.key(Kind::Location, "default");
    let lead = |prefix: &str| stand.patch(&location, &json!({ "spec": { "objectStorage": { "prefix": prefix } } }));
    lead("agent-led-away");
    uploaded(&stand, &agent, "second", &file);
    lead("agent-led-back");
    uploaded(&stand, &agent, "third", &file);
    let recorded = stand.get(&stand.key(Kind::ConfigMap, "wherry-repositories"))["data"]["default"].clone();
    let recorded: Value = serde_json::from_str(recorded.as_str().unwrap()).unwrap();
    assert!(recorded["location"].as_str().unwrap().contains("agent-led-back"), "{recorded}");
    assert_eq!(recorded["earlier"].as_array().unwrap().len(), 1, "{recorded}");

    // Led to where it was second, and nothing is there any more.
    lead("agent-led-away");
    let storage = stand.seaweed.open("velero/agent-led-away/plugins/wherry");
    let mut keys = Vec::new();
    let listed = storage.list("", &mut |listed| {
        keys.push(listed.key);
        Ok(())
    });
    listed.unwrap();
    assert!(!keys.is_empty());
    keys.iter().for_each(|key| storage.delete(key).unwrap());
    let cr = to(&stand, &agent, "default", "fourth", &file, "Failed");
    let message = cr["status"]["message"].as_str().unwrap();
    assert!(message.contains("is gone") && message.contains("Nothing is made in its place"), "{message}");
    agent.end();
}

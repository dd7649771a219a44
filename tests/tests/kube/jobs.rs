//! Forgetting and gc: the Jobs themselves as processes with the account that is deployed, on a real API server and a real S3 server,
//! and the controller that makes them.

use crate::agent::{disk, snapshot_of, uploaded};
use crate::agent_nodes::by_proxy;
use crate::replicas::Replica;
use crate::stand;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use wherry_api::SnapshotId;
use wherry_api::api::Kind;
use wherry_api::job::{Forgetting, JobResult, State};
use wherry_repo::storage::Key as ObjectKey;
use wherry_tests::cluster::real::deployed;
use wherry_tests::faulty_s3::{Fault, Rule};
use wherry_tests::home::Home;
use wherry_tests::hosted::PATIENCE;
use wherry_tests::jobs::{FUTURE, PAST};

/// Ids of the snapshots that nobody has forgotten.
fn visible(home: &Home) -> BTreeSet<String> {
    let list = home.run(&["snapshots", "--json"]).ok().json();
    let list = list.as_array().unwrap_or_else(|| panic!("{list}")).clone();
    list.iter().map(|snapshot| snapshot["snapshot"].as_str().unwrap().to_owned()).collect()
}

fn set<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

fn found(result: &JobResult) -> Forgetting {
    assert_eq!(result.state, State::Done, "{result:?}");
    result.forgetting.clone().unwrap()
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "it does not come: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// F3, F4, F11: what an agent has stored goes with its backup, and not without.
#[test]
fn a_deleted_backup_is_forgotten_and_the_bucket_shrinks() {
    let stand = stand("jobs-deleted");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 16, 8);
    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file)).session;
    agent.end();
    let home = stand.outside();
    stand.available("default");
    stand.store("b", "b-uid");
    let forget = |args: &[&str]| found(&stand.job("forget", args).ok());
    let there = forget(&[]);
    assert_eq!((there.kept, there.waiting, there.forgotten, there.missing.len()), (1, 0, 0, 0));

    // Gone, and nobody saw it: it waits, and is there again.
    stand.unstore("b");
    let gone = forget(&[]);
    assert_eq!((gone.kept, gone.waiting, gone.forgotten, gone.missing.len()), (0, 1, 0, 1));
    let again = forget(&[]);
    assert_eq!(again.missing, gone.missing, "the first absence counts");
    stand.store("b", "b-uid");
    assert_eq!((forget(&[]).kept, forget(&[]).missing.len()), (1, 0));

    // Seen Deleting: at once, and once.
    stand.unstore("b");
    stand.seen_deleting("b-uid");
    assert_eq!((forget(&[]).forgotten, visible(&home)), (1, BTreeSet::new()));
    assert_eq!(forget(&[]).forgotten, 0);
    // It comes back within the delay.
    stand.store("b", "b-uid");
    assert_eq!((forget(&[]).undone, visible(&home)), (1, set([&id])));
    // What a human has forgotten is his.
    home.run(&["forget", &id]).ok();
    assert_eq!((forget(&[]).undone, visible(&home)), (0, BTreeSet::new()));
    home.run(&["unforget", &id]).ok();

    // And is pinned, whatever becomes of its backup.
    stand.unstore("b");
    home.run(&["pin", &id]).ok();
    assert_eq!((forget(&[]).pinned, visible(&home)), (1, set([&id])));
    home.run(&["unpin", &id]).ok();

    let before: u64 = stand.stored("packs/").iter().sum();
    assert!(before > 8 << 20, "{before}");
    assert_eq!(forget(&["--delay", "0s"]).forgotten, 1);
    // Its delay is over, and its backup is back before anybody has looked again: gc does not decide on that.
    stand.store("b", "b-uid");
    assert_eq!(stand.job("gc", &["--grace", "0s"]).ok().state, State::Done);
    assert_eq!((forget(&[]).undone, visible(&home)), (1, set([&id])));
    stand.unstore("b");
    assert_eq!(forget(&["--delay", "0s"]).forgotten, 1);
    // Seen once more to be gone, it goes for good.
    assert_eq!(forget(&[]).forgotten, 0);
    let deleted: u64 = (0..2)
        .map(|_| {
            let result = stand.job("gc", &["--grace", "0s"]).ok();
            assert_eq!((result.state, result.last_done), (State::Done, Some(result.at)), "{result:?}");
            result.collecting.unwrap().deleted_bytes
        })
        .sum();
    let after: u64 = stand.stored("packs/").iter().sum();
    assert!(deleted >= before && after == 0, "of {before} bytes {after} are left, {deleted} were deleted");
    // Both results are kept for the controller.
    let kept = stand.get(&stand.key(Kind::ConfigMap, "wherry-jobs"));
    let keys: Vec<&String> = kept["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["forget.default", "gc.default"]);
}

/// F10, F12, F14.
#[test]
fn names_that_come_again_restores_and_two_at_once() {
    let stand = stand("jobs-several");
    let (repository, home) = stand.repository();
    let old = stand.snapshot_of(&home, "b", "uid-old", FUTURE);
    let new = stand.snapshot_of(&home, "b", "uid-new", FUTURE);
    // Made by hand: nobody's backup.
    let by_hand = home.run(&["backup", &home.text("data-uid-old"), "--name", "own", "--json"]).ok().json();
    let by_hand = by_hand["snapshot"].as_str().unwrap().to_owned();
    stand.store("b", "uid-new");
    let forget = || found(&stand.job("forget", &["--missing-for", "0s"]).ok());
    let first = forget();
    assert_eq!((first.forgotten, first.kept, visible(&home)), (1, 2, set([&new, &by_hand])), "{old} is not alive");

    // F12: a restore runs from a backup that is gone.
    let read = stand.snapshot_of(&home, "c", "uid-c", PAST);
    let snapshot = SnapshotId { repository, session: read.clone(), volume: "volume".into() }.to_string();
    let spec = json!({
        "datamover": "wherry", "snapshotID": snapshot, "sourceNamespace": "app", "snapshotSize": 1,
        "targetVolume": { "pvc": "data", "namespace": "app", "pv": "" },
        "backupStorageLocation": "default", "operationTimeout": "10m0s",
    });
    stand.create(Kind::DataDownload, json!({ "metadata": { "name": "r" }, "spec": spec }));
    for phase in [Value::Null, json!("Prepared"), json!("InProgress")] {
        if phase.is_string() {
            stand.patch(&stand.key(Kind::DataDownload, "r"), &json!({ "status": { "phase": phase } }));
        }
        assert_eq!((forget().forgotten, visible(&home)), (0, set([&new, &by_hand, &read])), "{phase}");
    }
    stand.patch(&stand.key(Kind::DataDownload, "r"), &json!({ "status": { "phase": "Completed" } }));
    assert_eq!((forget().forgotten, visible(&home)), (1, set([&new, &by_hand])));

    // F14: expired ones, and two Jobs for them.
    for n in 0..4 {
        stand.snapshot_of(&home, &format!("d{n}"), &format!("uid-d{n}"), PAST);
    }
    let args = ["--no-cache", "job", "forget", "--location", "default", "--namespace", &stand.namespace];
    let both = [stand.begin_job(&args), stand.begin_job(&args)].map(|job| found(&stand.end_job(job).ok()));
    assert_eq!(both[0].forgotten + both[1].forgotten, 4, "{both:?}");
    assert_eq!(visible(&home), set([&new, &by_hand]));
    assert_eq!(forget().forgotten, 0);
}

/// F6: most of `backups/` is gone. Nothing goes without a human's word, and that is about what was missing then.
#[test]
fn an_emptied_bucket_takes_nothing() {
    let stand = stand("jobs-emptied");
    let (_, home) = stand.repository();
    let all: Vec<String> = (0..7)
        .map(|n| {
            let (name, uid) = (format!("b{n}"), format!("uid-{n}"));
            stand.store(&name, &uid);
            stand.snapshot_of(&home, &name, &uid, FUTURE)
        })
        .collect();
    let expired = stand.snapshot_of(&home, "old", "uid-old", PAST);
    let everything: BTreeSet<String> = all.iter().chain([&expired]).cloned().collect();
    for n in 0..6 {
        stand.unstore(&format!("b{n}"));
    }
    let forget = || stand.job("forget", &["--missing-for", "0s"]).ok();
    let held = forget();
    let found_then = held.forgetting.clone().unwrap();
    assert_eq!((held.state, found_then.held, found_then.forgotten), (State::OnHold, 6, 0), "{held:?}");
    assert_eq!((held.last_done, visible(&home)), (None, everything.clone()));
    assert!(held.message.contains("annotate --overwrite backupstoragelocation default"), "{}", held.message);

    let say = |time: &str| {
        let annotations = json!({ "wherry.io/missing-accepted": time });
        stand.patch(&stand.key(Kind::Location, "default"), &json!({ "metadata": { "annotations": annotations } }));
    };
    // No word: none that can be read, one from before, one about what is still to come.
    for time in ["all", PAST, FUTURE] {
        say(time);
        assert_eq!((forget().state, visible(&home)), (State::OnHold, everything.clone()), "{time}");
    }
    // What the message says to do.
    let word = held.message.split("wherry.io/missing-accepted=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    say(&word);
    assert_eq!((found(&forget()).forgotten, visible(&home)), (7, set([&all[6]])));
}

/// F7 and F8: a location that leads elsewhere, or is not as it should be. Nothing is written, nothing is made.
#[test]
fn a_location_that_is_not_as_it_was_is_refused() {
    let stand = stand("jobs-refused");
    let (repository, home) = stand.repository();
    let expired = stand.snapshot_of(&home, "old", "uid-old", PAST);
    let location = stand.key(Kind::Location, "default");
    let (objects, storage) = (stand.stored("").len(), stand.storage());
    let refused = |words: &str| {
        for kind in ["forget", "gc"] {
            let result = stand.job(kind, &[]).ok();
            assert!(result.state == State::Refused && result.message.contains(words), "{words:?}: {result:?}");
            assert_eq!(result.last_done, None);
        }
        assert_eq!(stand.stored("").len(), objects);
        assert_eq!(visible(&home), set([&expired]));
    };
    stand.patch(&location, &json!({ "status": { "phase": "Unavailable" } }));
    refused("\"Unavailable\", not Available");
    stand.patch(&location, &json!({ "status": { "phase": "Available" }, "spec": { "accessMode": "ReadOnly" } }));
    refused("ReadOnly");
    let prefix = |prefix: &str| json!({ "spec": { "accessMode": null, "objectStorage": { "prefix": prefix } } });
    stand.patch(&location, &prefix("elsewhere"));
    refused("no repository was ever used at s3://velero/elsewhere/plugins/wherry");
    stand.patch(&location, &prefix(&stand.namespace));

    let repositories = stand.key(Kind::ConfigMap, "wherry-repositories");
    let record = |id: &str| {
        let place = format!("s3://velero/{}/plugins/wherry", stand.namespace);
        let text = json!({ "repository": id, "location": place }).to_string();
        stand.patch(&repositories, &json!({ "data": { "default": text } }));
    };
    record(&"0".repeat(32));
    refused("it is another one");
    record(&repository);

    let key = ObjectKey::new("repo.json").unwrap();
    let body = storage.get(&key).unwrap();
    storage.delete(&key).unwrap();
    for kind in ["forget", "gc"] {
        let result = stand.job(kind, &[]).ok();
        assert!(result.state == State::Refused && result.message.contains("is gone"), "{result:?}");
    }
    storage.create(&key, body).unwrap();

    let secret = stand.key(Kind::Secret, "wherry-repository");
    let kept = stand.get(&secret);
    stand.delete(&secret, true);
    refused("there is no Secret wherry-repository");
    assert!(stand.get(&secret).is_null(), "a key was made");
    stand.create(Kind::Secret, json!({ "metadata": { "name": "wherry-repository" }, "data": kept["data"] }));

    // A storage that does not answer is another matter: the Job fails, and says so.
    stand.create(
        Kind::Secret,
        json!({ "metadata": { "name": "wrong" }, "stringData": { "cloud": "[default]\naws_access_key_id=a\naws_secret_access_key=b\n" } }),
    );
    stand.patch(&location, &json!({ "spec": { "credential": { "name": "wrong", "key": "cloud" } } }));
    let failed = stand.job("forget", &[]);
    let result = failed.result.unwrap();
    assert!(failed.code != Some(0) && result.state == State::Failed, "{result:?}");
    assert!(result.message.contains("credentials of Secret wrong"), "{result:?}");
    stand.patch(&location, &json!({ "spec": { "credential": { "name": "cloud-credentials", "key": "cloud" } } }));

    assert_eq!((found(&stand.job("forget", &[]).ok()).forgotten, visible(&home)), (1, BTreeSet::new()));
}

/// F8: a listing that breaks off is asked for again, and one that cannot be had is none: nothing goes by what is missing in it, and
/// when the absence of a backup began stays known.
#[test]
fn a_listing_that_breaks_off_says_nothing() {
    let stand = stand("jobs-cut");
    let (_, home) = stand.repository();
    stand.store("there", "uid-there");
    let there = stand.snapshot_of(&home, "there", "uid-there", FUTURE);
    let gone = stand.snapshot_of(&home, "gone", "uid-gone", FUTURE);
    let absent = found(&stand.job("forget", &[]).ok());
    assert_eq!((absent.kept, absent.waiting, absent.missing.len()), (1, 1, 1), "{absent:?}");

    let proxy = by_proxy(&stand);
    let listing = Rule { method: "GET", path: "backups", skip: 0, times: 2, fault: Fault::CutReply };
    proxy.inject(listing);
    let again = found(&stand.job("forget", &[]).ok());
    assert_eq!(proxy.hits()["cut-reply"], 2);
    assert_eq!((again.kept, again.waiting, again.forgotten, &again.missing), (1, 1, 0, &absent.missing), "{again:?}");

    // Whatever is missing would go at once.
    let at_once = ["--missing-for", "0s"];
    proxy.inject(Rule { times: u32::MAX, fault: Fault::Refuse(403), ..listing });
    let failed = stand.job("forget", &at_once);
    let result = failed.result.unwrap();
    assert!(failed.code != Some(0) && result.state == State::Failed, "{result:?}");
    assert!(result.message.contains("backups"), "{result:?}");
    assert_eq!(visible(&home), set([&there, &gone]));

    proxy.heal();
    let waits = found(&stand.job("forget", &[]).ok());
    assert_eq!((waits.waiting, &waits.missing), (1, &absent.missing), "the first absence counts");
    assert_eq!((found(&stand.job("forget", &at_once).ok()).forgotten, visible(&home)), (1, set([&there])));
}

/// The controller makes the Jobs, one after the other; what they find is said of the location.
#[test]
fn the_controller_has_jobs_made_and_says_what_they_find() {
    let real = &crate::real();
    let stand = stand("jobs-made");
    stand.kube.apply(&deployed("wherry-controller", &stand.namespace));
    let (repository, home) = stand.repository();
    for n in 0..6 {
        stand.snapshot_of(&home, &format!("b{n}"), &format!("uid-{n}"), FUTURE);
    }
    // A location without a repository gets none.
    stand.location("empty", json!({ "objectStorage": { "bucket": "velero", "prefix": "empty" } }));
    stand.available("empty");
    let settings =
        json!({ "data": { "missingFor": "0s", "forgetDelay": "1h", "gcGrace": "0s", "jobMemory": "256Mi" } });
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &settings);
    stand.create(Kind::Backup, json!({ "metadata": { "name": "going" }, "spec": {} }));
    let replica = Replica::start(real, &stand.namespace, "only");

    let of = |kind: &str| {
        let jobs = stand.jobs();
        let is = |job: &&Value| job["metadata"]["labels"]["wherry.io/job"] == kind;
        jobs.iter().find(is).cloned()
    };
    let job = until("a Job that forgets", || of("forget"));
    assert_eq!(stand.jobs().len(), 1, "one at a time");
    assert_eq!(job["metadata"]["labels"]["wherry.io/repository"], repository.as_str());
    assert_eq!(job["metadata"]["annotations"]["wherry.io/location"], "default");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["image"], &container["resources"]["limits"]["memory"]),
        (&json!("wherry:test"), &json!("268435456"))
    );
    let result = stand.run_job(&job).ok();
    assert_eq!((result.state, visible(&home).len()), (State::OnHold, 6), "{result:?}");
    let events = || {
        let list = wherry_api::api::Api::list(stand.kube.admin(), Kind::Event, &stand.namespace, &[]);
        stand.kube.wait(list).unwrap()
    };
    let event = until("an Event", || events().into_iter().find(|event| event["reason"] == "ForgettingOnHold"));
    let location = stand.get(&stand.key(Kind::Location, "default"));
    assert_eq!(event["involvedObject"]["uid"], location["metadata"]["uid"]);
    assert!(event["message"].as_str().unwrap().contains("missing-accepted="), "{event}");

    let job = until("a gc", || of("gc"));
    let result = stand.run_job(&job).ok();
    assert_eq!(result.state, State::Done, "{result:?}");

    // A Backup that is being deleted is remembered, although it is gone at once.
    let going = stand.key(Kind::Backup, "going");
    let uid = stand.get(&going)["metadata"]["uid"].as_str().unwrap().to_owned();
    stand.patch(&going, &json!({ "status": { "phase": "Deleting" } }));
    stand.delete(&going, true);
    let deleting = stand.key(Kind::ConfigMap, "wherry-deleting");
    until("the Backup in wherry-deleting", || stand.get(&deleting)["data"][&uid].as_str().map(drop));
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    assert_eq!(stand.jobs().len(), 2, "of the location without a repository none: {log}");
}

//! How work of the agent ends, or goes on: cancel, deletion, drain, kill, stop, rollout.

use crate::agent::{MIB, disk, noise, snapshot_of, uploaded};
use crate::agent_nodes::{by_proxy, until};
use crate::{seaweed, stand, stand_on};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use wherry_api::api::Kind;
use wherry_api::{Settings, names};
use wherry_repo::storage::LAST_REQUEST;
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::hosted::{Agent, Device, Hosted, Stand};

/// Another rate of uploads (bytes a second; 0: none); an agent that runs takes it within a minute.
fn rate(stand: &Stand, bytes: u64) {
    set(stand, "uploadRate", bytes);
}

fn set(stand: &Stand, key: &str, value: u64) {
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { key: value.to_string() } }));
}

/// An upload of a volume that is published.
fn published(stand: &Stand, name: &str) -> (Hosted, Device) {
    let file = disk(stand, &format!("{name}.disk"), 128, 120);
    let hosted = stand.upload(name, "Block", 128 * MIB);
    let device = stand.publish(&hosted, &file);
    (hosted, device)
}

/// It is prepared, will take for ever, and has begun: its session stands.
fn begun(stand: &Stand, agent: &Agent, hosted: &Hosted) {
    stand.prepared(hosted);
    let cr = stand.when(hosted, agent, "a session", |cr| cr["metadata"]["annotations"][names::SESSION].is_string());
    assert_eq!(cr["status"]["phase"], "InProgress");
}

/// Both of an upload.
fn slow(stand: &Stand, agent: &Agent, name: &str) -> (Hosted, Device) {
    let (hosted, device) = published(stand, name);
    begun(stand, agent, &hosted);
    (hosted, device)
}

/// The same, and the device is open: that is done anew after the session has begun.
fn slow_and_open(stand: &Stand, agent: &Agent, name: &str) -> (Hosted, Device) {
    let (hosted, device) = slow(stand, agent, name);
    stand.when(&hosted, agent, "the device is open", |_| agent.has_open(device.node()));
    (hosted, device)
}

fn snapshots(stand: &Stand) -> usize {
    stand.outside().snapshots()
}

#[test]
fn what_is_canceled_lets_go_and_says_so() {
    let stand = stand("agent-cancel");
    rate(&stand, 100_000);
    let agent = stand.agent();
    let (hosted, device) = slow_and_open(&stand, &agent, "canceled");
    stand.patch(&hosted.key, &json!({ "spec": { "cancel": true }, "status": { "message": "timed out" } }));
    let cr = stand.canceled(&hosted, &agent);
    assert_eq!(cr["status"]["message"], "timed out", "Velero's own word is kept");
    assert!(cr["status"]["completionTimestamp"].is_string());
    assert!(!agent.has_open(device.node()));

    let (hosted, device) = slow_and_open(&stand, &agent, "deleted");
    stand.delete(&hosted.key, true);
    let cr = stand.canceled(&hosted, &agent);
    assert_eq!(cr["status"]["message"], "the object was deleted");
    assert!(!agent.has_open(device.node()));
    assert_eq!(snapshots(&stand), 0);
    agent.end();
}

#[test]
fn a_download_that_is_canceled_lets_go() {
    let stand = stand("agent-cancel-down");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 128, 120);
    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file)).to_string();
    agent.end();
    set(&stand, "downloadRate", 100_000);
    let agent = stand.agent();
    let hosted = stand.download("down", "Block", 128 * MIB, &id);
    let target = stand.path("target");
    fs::File::create(&target).and_then(|file| file.set_len(128 * MIB)).unwrap();
    let device = stand.publish(&hosted, &target);
    stand.prepared(&hosted);
    stand.when(&hosted, &agent, "InProgress", |cr| cr["status"]["phase"] == "InProgress");
    stand.patch(&hosted.key, &json!({ "spec": { "cancel": true } }));
    let cr = stand.canceled(&hosted, &agent);
    assert_eq!(cr["status"]["message"], "spec.cancel was set");
    assert!(cr["metadata"]["annotations"][names::DATA_DONE].is_null());
    assert!(!agent.has_open(device.node()));
    agent.end();
}

/// The pod goes, the volume has to be let go, and the next pod's volume is gone on with.
#[test]
fn a_drain_is_no_end() {
    let stand = stand("agent-drain");
    rate(&stand, 4_000_000);
    let agent = stand.agent();
    let (mut hosted, device) = slow_and_open(&stand, &agent, "up");
    let pod = stand.key(Kind::Pod, &hosted.object);
    stand.delete(&pod, true);
    let cr = stand.promised(&hosted, &agent, "a drained volume is let go", |_| !agent.has_open(device.node()));
    assert_eq!(cr["status"]["phase"], "InProgress");
    agent.says("the hosting pod goes");
    drop(device);
    stand.delete(&pod, false);
    hosted.pod_uid = stand.pod(&hosted);
    // Not published yet when the pod is said to run would be a failure: so it is published first.
    let _device = stand.publish(&hosted, &stand.path("up.disk"));
    let cr = stand.until(&hosted, &agent, &["Completed"]);
    restores(&stand, &cr, "up.disk");
    assert_eq!(snapshots(&stand), 1);
    agent.end();
}

fn restores(stand: &Stand, cr: &Value, file: &str) {
    let home = stand.outside();
    home.run(&["restore", &snapshot_of(cr).session, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(stand.path(file)).unwrap(), "it is another disk");
}

/// Killed, and started again where it cannot see whether the first one lives, as in another pod.
#[test]
fn a_killed_upload_goes_on_and_sends_nothing_again() {
    let stand = stand("agent-kill");
    rate(&stand, 20_000_000);
    // What is mounted later is not seen there.
    let (hosted, device) = published(&stand, "up");
    let elsewhere = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"];
    let first = stand.agent_by(&elsewhere);
    begun(&stand, &first, &hosted);
    let begin = std::time::Instant::now();
    let packs = || stand.stored("packs/").iter().sum::<u64>();
    while packs() < 40 * MIB {
        assert!(begin.elapsed() < wherry_tests::hosted::PATIENCE, "nothing is stored: {}", first.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    first.kill();
    let before = packs();
    assert!(before < 118 * MIB, "it was nearly over: {before}");
    assert_eq!(stand.get(&hosted.key)["status"]["phase"], "InProgress");
    rate(&stand, 0);
    let second = stand.agent_by(&elsewhere);
    let cr = stand.until(&hosted, &second, &["Completed"]);
    assert!(!second.has_open(device.node()));
    let shown = stand.outside().run(&["show", &snapshot_of(&cr).session, "--json"]).ok().json();
    let after = packs();
    // All of the noise, once, and what frames it.
    assert!(after < 126 * MIB, "{before} bytes were stored before, {after} after: {shown}");
    assert!(cr["status"]["message"].as_str().unwrap().contains("went on after an interruption"), "{}", cr["status"]);
    restores(&stand, &cr, "up.disk");
}

/// A snapshot that was committed for this CR is reported, and not made twice.
#[test]
fn what_is_committed_is_reported_once() {
    let stand = stand("agent-committed");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 32, 8);
    let hosted = stand.upload("up", "Block", 32 * MIB);
    let _device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let first = snapshot_of(&stand.until(&hosted, &agent, &["Completed"]));
    agent.end();
    // As if the agent had died between the commit and its word; what is read now would be another snapshot.
    fs::write(&file, noise(5, 32 * MIB)).unwrap();
    stand.patch(&hosted.key, &json!({ "status": { "phase": "InProgress", "snapshotID": null, "message": null } }));
    let agent = stand.agent();
    let cr = stand.until(&hosted, &agent, &["Completed"]);
    assert_eq!(snapshot_of(&cr), first);
    assert!(cr["status"]["message"].as_str().unwrap().contains("committed before"), "{}", cr["status"]);
    assert_eq!(snapshots(&stand), 1);
    agent.end();
}

/// Stopped, it counts as silent; others end its CR. Woken, it writes nothing more.
#[test]
fn one_that_was_stopped_and_woken_writes_nothing_more() {
    let stand = stand("agent-stop");
    rate(&stand, 8_000_000);
    let agent = stand.agent();
    let (hosted, device) = slow_and_open(&stand, &agent, "up");
    agent.send(Signal::STOP);
    let ended = json!({ "status": { "phase": "Canceled", "message": "the agent was silent" } });
    let ended = stand.patch(&hosted.key, &ended);
    stand.delete(&stand.key(Kind::Pod, &hosted.object), false);
    std::thread::sleep(Settings::parse(&BTreeMap::new()).unwrap().cancel_timeout);
    agent.send(Signal::CONT);
    stand.promised(&hosted, &agent, "one that woke lets go", |_| !agent.has_open(device.node()));
    agent.says("let go: ");
    // Its session is ended, or gc would wait for it for hours: nobody comes after.
    let session = ended["metadata"]["annotations"][names::SESSION].as_str().unwrap();
    let mut fences = 0;
    let listed = stand.storage().list("snap/", &mut |listed| {
        fences += usize::from(listed.key.as_str().ends_with(session));
        Ok(())
    });
    listed.unwrap();
    assert_eq!(fences, 1, "{ended:#}");
    // It is idle when it has taken, and done, something that came later.
    rate(&stand, 0);
    let other = stand.upload("other", "Block", 128 * MIB);
    let _other = stand.publish(&other, &stand.path("up.disk"));
    stand.prepared(&other);
    stand.until(&other, &agent, &["Completed"]);
    let cr = stand.get(&hosted.key);
    assert_eq!(cr["metadata"]["resourceVersion"], ended["metadata"]["resourceVersion"], "{cr:#}");
    assert_eq!(snapshots(&stand), 1, "that of the other one");
    agent.end();
}

/// Old and new agent of a node are never at work at once.
#[test]
fn a_rollout_goes_on_when_the_old_one_has_gone() {
    let stand = stand("agent-rollout");
    rate(&stand, 6_000_000);
    let old = stand.agent();
    let (hosted, device) = slow_and_open(&stand, &old, "up");
    rate(&stand, 0);
    let new = stand.agent();
    new.says("another agent of this node runs");
    assert_eq!(stand.get(&hosted.key)["status"]["phase"], "InProgress");
    old.send(Signal::TERM);
    stand.promised(&hosted, &old, "an agent that ends lets go", |_| !old.has_open(device.node()));
    old.ends();
    let cr = stand.until(&hosted, &new, &["Completed"]);
    restores(&stand, &cr, "up.disk");
    new.end();
}

/// Until as many packs are on their way as ever will be, and whoever reads waits for them.
fn stuck(agent: &Agent, proxy: &FaultyS3) -> usize {
    let (mut open, mut turns) = (0, 0);
    until(agent, "packs are on their way", || proxy.open("PUT", "/packs/") >= 2);
    while turns < 40 {
        let now = proxy.open("PUT", "/packs/");
        turns = if now == open { turns + 1 } else { 0 };
        open = now;
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    open
}

/// What was read of a volume by the time that an agent is told to end is stored, however slow the storage is, and the volume is let go
/// of all the same: the next agent sends none of it again.
fn seals(name: &str, mode: &str) {
    let stand = stand_on(seaweed(), name);
    let proxy = by_proxy(&stand);
    proxy.inject(Rule::every("PUT", "/packs/", Fault::Hold));
    let old = stand.agent_with(&[], &["--memory=320M"]);
    let hosted = stand.upload("up", mode, 128 * MIB);
    let (device, open) = match mode {
        "Block" => {
            let device = stand.publish(&hosted, &disk(&stand, "up.disk", 128, 120));
            let open = device.node().to_owned();
            (Some(device), open)
        }
        _ => {
            let at = stand.mount(&hosted, 160);
            fs::write(at.join("large"), noise(7, 100 * MIB)).unwrap();
            for n in 0..400 {
                fs::write(at.join(format!("small-{n}")), noise(n, 50_000)).unwrap();
            }
            (None, at)
        }
    };
    stand.prepared(&hosted);
    let held = stuck(&old, &proxy);
    assert!(old.has_open(&open));
    let announced = proxy.bytes("PUT", "/packs/");
    old.send(Signal::TERM);
    stand.promised(&hosted, &old, "an agent that ends lets go", |_| !old.has_open(&open));
    // A request that is under way when the work is over has so long, and has to have longer here.
    std::thread::sleep(LAST_REQUEST * 2);
    proxy.heal();
    proxy.release();
    old.ends();
    let (packs, stored) = (stand.stored("packs/"), stand.stored("packs/").iter().sum::<u64>());
    assert!(packs.len() > held, "{packs:?}: that which was being filled is not there, {held} were on their way");
    assert!(stored > announced, "{stored} of {announced} bytes are stored");
    assert_eq!(stand.get(&hosted.key)["status"]["phase"], "InProgress");

    let new = stand.agent();
    let cr = stand.until(&hosted, &new, &["Completed"]);
    let all = stand.stored("packs/").iter().sum::<u64>();
    assert!(all < 126 * MIB, "{stored} bytes were stored before, {all} after");
    match device {
        Some(_) => restores(&stand, &cr, "up.disk"),
        None => {
            let home = stand.outside();
            home.run(&["restore", &snapshot_of(&cr).session, &home.text("back")]).ok();
            assert!(fs::read(home.path("back/large")).unwrap() == noise(7, 100 * MIB), "it is another file");
            assert!(fs::read(home.path("back/small-399")).unwrap() == noise(399, 50_000), "it is another file");
        }
    }
    new.end();
}

#[test]
fn packs_of_a_disk_are_sealed_when_an_agent_ends() {
    seals("agent-seals", "Block");
}

#[test]
fn packs_of_files_are_sealed_when_an_agent_ends() {
    seals("agent-seals-files", "Filesystem");
}

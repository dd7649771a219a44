//! Agents of two nodes on one location.

use crate::agent::{MIB, disk, snapshot_of};
use crate::{seaweed, stand_on};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wherry_api::api::Kind;
use wherry_api::names;
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::hosted::{Agent, Device, Hosted, PATIENCE, Stand};
use wherry_tests::seaweed::{ACCESS_KEY, RENEWED};

/// Backs up and restores through a proxy from now on.
pub fn by_proxy(stand: &Stand) -> FaultyS3 {
    let proxy = FaultyS3::start(stand.seaweed.port());
    let config = json!({ "s3Url": format!("http://127.0.0.1:{}", proxy.port()) });
    stand.patch(&stand.key(Kind::Location, "default"), &json!({ "spec": { "config": config } }));
    proxy
}

/// Until that holds.
#[track_caller]
pub fn until(agent: &Agent, what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "it does not come: {what}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Keys of the storage that say how a session ended.
fn outcomes(stand: &Stand, session: &str) -> usize {
    let mut found = 0;
    let listed = stand.storage().list("snap/", &mut |object| {
        found += usize::from(object.key.as_str().ends_with(session));
        Ok(())
    });
    listed.unwrap();
    found
}

/// The node of an upload at work is lost, and its agent only sleeps: another one goes on elsewhere, and what the first one still
/// does when it wakes comes to nothing.
#[test]
fn the_session_of_a_lost_node_is_fenced() {
    let stand = stand_on(seaweed(), "agent-lost");
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "uploadRate": "4000000" } }));
    let (first, file) = (stand.agent(), disk(&stand, "disk", 64, 56));
    let hosted = stand.upload("up", "Block", 64 * MIB);
    let device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let session = |cr: &serde_json::Value| cr["metadata"]["annotations"][names::SESSION].as_str().map(str::to_owned);
    let old = session(&stand.when(&hosted, &first, "a session", |cr| session(cr).is_some())).unwrap();
    first.send(Signal::STOP);
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &json!({ "data": { "uploadRate": "0" } }));

    let second = stand.agent_of("n2", &[], &[]);
    let (next, _other) = stand.next_attempt("n2", &hosted, &file);
    let cr = stand.until(&next, &second, &["Completed"]);
    let home = stand.outside();
    let id = snapshot_of(&cr).session;
    assert!(id != old && session(&cr).as_ref() != Some(&old), "{cr:#}");
    // The key that the sleeper would commit by is taken: by a fence, as there is one snapshot.
    assert_eq!((outcomes(&stand, &old), home.snapshots()), (1, 1));

    first.send(Signal::CONT);
    until(&first, "it lets go", || !first.has_open(device.node()));
    first.says("let go: ");
    assert_eq!(home.snapshots(), 1);
    assert_eq!(stand.get(&hosted.key)["metadata"]["resourceVersion"], cr["metadata"]["resourceVersion"]);
    home.run(&["restore", &id, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(&file).unwrap(), "it is another disk");
    first.end();
    second.end();
}

/// Both find an empty place at the same time.
#[test]
fn first_uploads_of_two_nodes_make_one_key_and_one_repository() {
    let stand = stand_on(seaweed(), "agent-two");
    let proxy = by_proxy(&stand);
    for method in ["GET", "PUT"] {
        proxy.inject(Rule { method, path: "/repo.json", skip: 0, times: 2, fault: Fault::Hold });
    }
    let agents = [stand.agent(), stand.agent_of("n2", &[], &[])];
    let mut files = Vec::new();
    let mut all = Vec::new();
    for (n, node) in ["n1", "n2"].into_iter().enumerate() {
        let file = disk(&stand, &format!("disk-{n}"), 16 + n as u64, 4 + n as u64);
        let mut hosted = stand.upload(&format!("up-{n}"), "Block", (16 + n as u64) * MIB);
        stand.moved_to(node, &mut hosted);
        let device = stand.publish(&hosted, &file);
        stand.prepared_on(node, &hosted);
        files.push(file);
        all.push((hosted, device));
    }
    for (method, what) in [("GET", "both look for a repository"), ("PUT", "both make one")] {
        until(&agents[0], what, || proxy.open(method, "/repo.json") == 2);
        proxy.release();
    }
    let ids: Vec<_> = all
        .iter()
        .zip(&agents)
        .map(|((hosted, _), agent)| snapshot_of(&stand.until(hosted, agent, &["Completed"])))
        .collect();
    assert_eq!(ids[0].repository, ids[1].repository, "{ids:?}");
    let home = stand.outside();
    assert_eq!(home.snapshots(), 2);
    for (id, file) in ids.iter().zip(&files) {
        home.run(&["restore", &id.session, &home.text("back"), "--force"]).ok();
        assert!(fs::read(home.path("back")).unwrap() == fs::read(file).unwrap(), "{id} is another disk");
    }
    for agent in agents {
        agent.end();
    }
}

/// An upload of so many MiB, with data on so many, into a storage that refuses it: it is InProgress, and what it says by then.
fn tried_again(stand: &Stand, size: u64, data: u64) -> (Agent, PathBuf, Hosted, Device, String) {
    let (agent, file) = (stand.agent(), disk(stand, "disk", size, data));
    let hosted = stand.upload("up", "Block", size * MIB);
    let device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let said = |cr: &serde_json::Value| cr["status"]["message"].as_str().unwrap_or_default().to_owned();
    let cr = stand.when(&hosted, &agent, "a message", |cr| !said(cr).is_empty());
    assert_eq!(cr["status"]["phase"], "InProgress");
    (agent, file, hosted, device, said(&cr))
}

/// Completed, and it restores.
fn ends_whole(stand: &Stand, agent: Agent, hosted: &Hosted, file: &Path) {
    let cr = stand.until(hosted, &agent, &["Completed"]);
    let home = stand.outside();
    home.run(&["restore", &snapshot_of(&cr).session, &home.text("back")]).ok();
    assert!(fs::read(home.path("back")).unwrap() == fs::read(file).unwrap(), "it is another disk");
    agent.end();
}

/// Credentials that expire while packs are sent: it is said whose they are, and the upload goes on with those that its Secret has
/// next. What was stored before is not sent again.
#[test]
fn credentials_that_expire_under_way_are_taken_anew() {
    let stand = stand_on(seaweed(), "agent-expired");
    let proxy = by_proxy(&stand);
    // The first pack is stored.
    proxy.inject(Rule { skip: 1, ..Rule::every("PUT", "/packs/", Fault::ExpiredToken(ACCESS_KEY)) });
    let (agent, file, hosted, _device, message) = tried_again(&stand, 48, 36);
    for word in ["tried again", "Secret cloud-credentials", "packs/", "ExpiredToken", "renew the session token"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    let (key, secret) = RENEWED;
    let renewed = format!("[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n");
    let renewed = json!({ "stringData": { "cloud": renewed } });
    stand.patch(&stand.key(Kind::Secret, "cloud-credentials"), &renewed);
    ends_whole(&stand, agent, &hosted, &file);
    let stored: u64 = stand.stored("packs/").iter().sum();
    assert!((36 * MIB..42 * MIB).contains(&stored), "{stored} bytes");
}

/// A bucket that is full may have room again: it is said, and tried again.
#[test]
fn a_bucket_that_is_full_is_waited_for() {
    let stand = stand_on(seaweed(), "agent-full");
    let proxy = by_proxy(&stand);
    proxy.inject(Rule::every("PUT", "/packs/", Fault::Refuse(507)));
    let (agent, file, hosted, _device, message) = tried_again(&stand, 16, 8);
    assert!(message.contains("tried again") && message.contains("room") && message.contains("packs/"), "{message}");
    proxy.heal();
    ends_whole(&stand, agent, &hosted, &file);
}

//! The agent itself: volumes that are published by a played kubelet, a real storage, its own account and rights.

use crate::stand;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use wherry_api::api::Kind;
use wherry_api::{DataDone, SnapshotId, names};
use wherry_tests::hosted::{Agent, Stand};

pub const MIB: u64 = 1 << 20;

/// Bytes that are nowhere alike.
pub fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes as usize);
    while (out.len() as u64) < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out
}

/// A disk of so many MiB, of which the first ones are noise, and one near the end.
pub fn disk(stand: &Stand, name: &str, mib: u64, noisy: u64) -> std::path::PathBuf {
    let path = stand.path(name);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&noise(7, noisy * MIB)).unwrap();
    file.set_len(mib * MIB).unwrap();
    file.seek(SeekFrom::Start((mib - 1) * MIB)).unwrap();
    file.write_all(&noise(9, MIB / 2)).unwrap();
    path
}

pub fn snapshot_of(cr: &Value) -> SnapshotId {
    cr["status"]["snapshotID"].as_str().unwrap().parse().unwrap()
}

/// Backs up a device with that content; gives the CR at its end.
pub fn uploaded(stand: &Stand, agent: &Agent, name: &str, file: &Path) -> Value {
    let hosted = stand.upload(name, "Block", fs::metadata(file).unwrap().len());
    let device = stand.publish(&hosted, file);
    stand.prepared(&hosted);
    let cr = stand.until(&hosted, agent, &["Completed"]);
    assert!(!agent.has_open(device.node()), "the device is open still");
    cr
}

fn bytes(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Names, kinds, modes, times and contents of all that is below a folder, but for what every new ext4 has.
pub fn tree(root: &Path) -> Vec<String> {
    let list = std::process::Command::new("find")
        .args([".", "-path", "./lost+found", "-prune", "-o", "-printf", "%P %y %m %U %G %T@ %s %l\\n"])
        .current_dir(root)
        .output()
        .unwrap();
    let mut lines: Vec<String> = String::from_utf8(list.stdout).unwrap().lines().map(ToOwned::to_owned).collect();
    // Sizes of folders are the filesystem's.
    lines.iter_mut().filter(|line| line.split(' ').nth(1) == Some("d")).for_each(|line| {
        let mut fields: Vec<&str> = line.split(' ').collect();
        fields[6] = "-";
        *line = fields.join(" ");
    });
    let sums = "find . -path ./lost+found -prune -o -type f -exec sha256sum {} +";
    let sums = std::process::Command::new("sh").args(["-c", sums]).current_dir(root).output().unwrap();
    lines.extend(String::from_utf8(sums.stdout).unwrap().lines().map(ToOwned::to_owned));
    lines.sort();
    lines
}

#[test]
fn a_device_is_uploaded_and_restores_with_bucket_and_key_alone() {
    let stand = stand("agent-upload");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 96, 40);
    let first = uploaded(&stand, &agent, "first", &file);
    let status = &first["status"];
    assert_eq!(status["progress"], json!({ "totalBytes": 96 * MIB, "bytesDone": 96 * MIB }));
    assert!(status["startTimestamp"].is_string() && status["completionTimestamp"].is_string(), "{status}");
    assert!(status["message"].as_str().unwrap().starts_with("first snapshot of the volume: "), "{status}");
    let id = snapshot_of(&first);
    let cluster = stand.kube.wait(wherry_api::api::Api::get(
        stand.kube.admin(),
        &wherry_api::api::Key::new(Kind::Namespace, "", "kube-system"),
    ));
    let cluster = cluster.unwrap().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(id.volume, format!("{cluster}.app.data.u-1"));

    let home = stand.outside();
    home.run(&["restore", &id.session, &home.text("back")]).ok();
    assert!(bytes(&home.path("back")) == bytes(&file), "it is another disk");
    let shown = home.run(&["show", &id.session, "--json"]).ok().json();
    let tags = &shown["tags"];
    for (tag, value) in [
        ("backup", "b"),
        ("backup-uid", "b-uid"),
        ("cluster", cluster.as_str()),
        ("cr-uid", first["metadata"]["uid"].as_str().unwrap()),
        ("namespace", "app"),
        ("pvc", "data"),
        ("pvc-uid", "u-1"),
        ("velero-namespace", "agent-upload"),
    ] {
        assert_eq!(tags[tag], value, "{tag}: {tags}");
    }

    // The next one is built upon it, and only what changed is new.
    let mut change = fs::File::options().write(true).open(&file).unwrap();
    change.seek(SeekFrom::Start(3 * MIB)).unwrap();
    change.write_all(&noise(11, MIB)).unwrap();
    let second = uploaded(&stand, &agent, "second", &file);
    let message = second["status"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("based on {}", id.session)), "{message}");
    assert_eq!(second["status"]["incrementalBytes"], MIB);
    let id = snapshot_of(&second);
    home.run(&["restore", &id.session, &home.text("back"), "--force"]).ok();
    assert!(bytes(&home.path("back")) == bytes(&file), "it is another disk");

    // Two writes, and one for the session; more is progress alone.
    let user = "system:serviceaccount:agent-upload:wherry-agent";
    let patches = stand.kube.audit(0).into_iter().filter(|event| {
        event["user"]["username"] == user && event["verb"] == "patch" && event["objectRef"]["name"] == "second"
    });
    let patches: Vec<Value> = patches.filter(|event| event["responseStatus"]["code"] == 200).collect();
    assert!((3..=8).contains(&patches.len()), "{patches:#?}");
    let events = stand.kube.wait(wherry_api::api::Api::list(stand.kube.admin(), Kind::Event, "agent-upload", &[]));
    let events = events.unwrap();
    assert!(events.iter().any(|event| event["reason"] == "Completed" && event["message"] == message), "{events:#?}");
    let log = agent.log();
    assert!(!log.contains("panicked") && !log.contains(wherry_tests::seaweed::SECRET_KEY), "{log}");
    agent.end();
}

/// Of a Backup with a long name the label has 57 bytes and a hash: its owner has all of it.
#[test]
fn when_a_backup_with_a_long_name_expires_is_in_its_snapshots() {
    let stand = stand("agent-long");
    let (name, expiration) = ("long-".repeat(14) + "name", "2030-01-01T00:00:00Z");
    let backup = json!({ "metadata": { "name": name }, "spec": {}, "status": { "expiration": expiration } });
    let uid = stand.create(Kind::Backup, backup)["metadata"]["uid"].clone();
    let file = disk(&stand, "disk", 8, 2);
    let hosted = stand.upload("up", "Block", 8 * MIB);
    let label = format!("{}abcdef", &name[..57]);
    let owner = json!({ "apiVersion": "velero.io/v1", "kind": "Backup", "name": name, "uid": uid, "controller": true });
    let labels = json!({ "velero.io/backup-name": label, "velero.io/backup-uid": uid });
    let metadata = json!({ "labels": labels, "ownerReferences": [owner] });
    stand.patch(&stand.key(Kind::DataUpload, "up"), &json!({ "metadata": metadata }));
    let _device = stand.publish(&hosted, &file);
    stand.prepared(&hosted);
    let agent = stand.agent();
    let id = snapshot_of(&stand.until(&hosted, &agent, &["Completed"]));
    let tags = &stand.outside().run(&["show", &id.session, "--json"]).ok().json()["tags"];
    assert_eq!((&tags["backup"], &tags["expires"]), (&json!(label), &json!(expiration)), "{tags}");
    agent.end();
}

#[test]
fn a_device_is_restored_over_what_it_held() {
    let stand = stand("agent-download");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 64, 20);
    let id = snapshot_of(&uploaded(&stand, &agent, "up", &file)).to_string();
    // Zero is never assumed, neither behind the disk's end, where the volume is larger.
    let target = stand.path("target");
    fs::write(&target, noise(3, 80 * MIB)).unwrap();
    let hosted = stand.download("down", "Block", 80 * MIB, &id);
    let device = stand.publish(&hosted, &target);
    stand.prepared(&hosted);
    let cr = stand.when(&hosted, &agent, "data-done", |cr| cr["metadata"]["annotations"][names::DATA_DONE].is_string());
    assert!(!agent.has_open(device.node()), "the device is open still");
    let done = DataDone::parse(cr["metadata"]["annotations"][names::DATA_DONE].as_str(), &hosted.uid).unwrap();
    assert_eq!((done.attempt, done.volume.as_str(), done.bytes), (1, "pv-down", 64 * MIB));
    assert_eq!(cr["status"]["phase"], "InProgress", "the controller completes it");
    assert_eq!(cr["status"]["progress"]["bytesDone"], 64 * MIB);
    drop(device);
    let (target, disk) = (fs::read(&target).unwrap(), fs::read(&file).unwrap());
    assert!(target[..disk.len()] == disk, "it is another disk");
    assert!(target[disk.len()..].iter().all(|byte| *byte == 0), "bytes of somebody else are behind it");
    agent.end();
}

pub fn fill(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/one"), noise(1, 3 * MIB)).unwrap();
    fs::write(root.join("a/b/two"), b"two").unwrap();
    fs::hard_link(root.join("a/b/two"), root.join("two-again")).unwrap();
    std::os::unix::fs::symlink("a/one", root.join("link")).unwrap();
    std::os::unix::fs::chown(root.join("a/b/two"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::chown(root, Some(77), Some(88)).unwrap();
}

#[test]
fn a_filesystem_is_uploaded_and_restored() {
    let stand = stand("agent-files");
    let agent = stand.agent();
    let up = stand.upload("up", "Filesystem", 64 * MIB);
    let from = stand.mount(&up, 64);
    fill(&from);
    stand.prepared(&up);
    let cr = stand.until(&up, &agent, &["Completed"]);
    assert!(!agent.has_open(&from), "the filesystem is in use still");
    assert_eq!(cr["status"]["progress"]["totalBytes"], 64 * MIB, "that of the volume, not of its files");
    let id = snapshot_of(&cr).to_string();

    // Files of an unchanged volume are not read again.
    let again = stand.upload("again", "Filesystem", 64 * MIB);
    let pods = stand.root().join("pods");
    let at = pods.join(&again.pod_uid).join("volumes/kubernetes.io~csi/pv-again/mount");
    fs::create_dir_all(&at).unwrap();
    let bound = std::process::Command::new("mount").arg("--bind").arg(&from).arg(&at).status().unwrap();
    assert!(bound.success());
    stand.prepared(&again);
    let cr = stand.until(&again, &agent, &["Completed"]);
    let unbound = std::process::Command::new("umount").arg(&at).status().unwrap();
    assert!(unbound.success(), "the agent lets nobody unmount");
    assert_eq!(cr["status"]["incrementalBytes"], 0, "{}", cr["status"]);

    let down = stand.download("down", "Filesystem", 64 * MIB, &id);
    let to = stand.mount(&down, 64);
    // A volume that was used before.
    fs::create_dir(to.join("old")).unwrap();
    fs::write(to.join("old/file"), b"old").unwrap();
    fs::write(to.join("link"), b"in the way").unwrap();
    stand.prepared(&down);
    stand.when(&down, &agent, "data-done", |cr| cr["metadata"]["annotations"][names::DATA_DONE].is_string());
    assert!(!agent.has_open(&to), "the filesystem is in use still");
    assert_eq!(tree(&to), tree(&from));
    assert!(!to.parent().unwrap().read_dir().unwrap().any(|entry| entry.unwrap().file_name() != "mount"));
    agent.end();
}

/// With one place for two volumes the older one has it first, whatever their names say. And a setting of another version
/// keeps the agent from nothing.
#[test]
fn the_oldest_volume_has_the_only_place() {
    let stand = stand("agent-place");
    let settings = json!({ "data": { "slotsPerNode": "1", "ofTheFuture": "1" } });
    stand.patch(&stand.key(Kind::ConfigMap, "wherry"), &settings);
    let file = disk(&stand, "disk", 16, 4);
    let mut volumes = Vec::new();
    for name in ["older", "newer"] {
        let hosted = stand.upload(name, "Block", 16 * MIB);
        let device = stand.publish(&hosted, &file);
        stand.prepared(&hosted);
        volumes.push((hosted, device));
        // Times of creation are in whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let agent = stand.agent();
    agent.says("key \"ofTheFuture\": there is no such setting");
    for (hosted, _device) in &volumes {
        stand.until(hosted, &agent, &["Completed"]);
    }
    // In the order in which they were written.
    let mut begun: Vec<String> = Vec::new();
    for event in stand.kube.audit(0) {
        let is = event["user"]["username"] == "system:serviceaccount:agent-place:wherry-agent"
            && (&event["verb"], &event["objectRef"]["resource"]) == (&json!("patch"), &json!("datauploads"));
        let name = event["objectRef"]["name"].as_str().unwrap_or_default().to_owned();
        if is && !begun.contains(&name) {
            begun.push(name);
        }
    }
    assert_eq!(begun, ["older", "newer"], "{}", agent.log());
    agent.end();
}

/// A hosting pod does nothing, and ends at once.
#[test]
fn hold_waits_for_its_end() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::process::ExitStatusExt;
    for (signal, handled) in [(Signal::TERM, true), (Signal::INT, true), (Signal::KILL, false)] {
        // It looks at no file: a configuration that cannot be read is none of its business.
        let mut child = std::process::Command::new(wherry_tests::binary::wherry_bin())
            .arg("hold")
            .env_clear()
            .env("WHERRY_REPOSITORY", "nonsense://")
            .spawn()
            .unwrap();
        let handles = || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
            u64::from_str_radix(&caught, 16).unwrap() & (1 << (15 - 1)) != 0
        };
        while !handles() {
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal().is_some()), (handled.then_some(0), !handled));
    }
}

#[test]
fn its_help_says_how_it_is_run() {
    let output = std::process::Command::new(wherry_tests::binary::wherry_bin()).args(["agent", "--help"]).output();
    let help = String::from_utf8(output.unwrap().stdout).unwrap();
    for option in [
        "--node",
        "--namespace",
        "--server",
        "--ca-file",
        "--token-file",
        "--kubelet-root",
        "--state-dir",
        "--health",
        "--memory",
        "--cache-dir",
        "--engine",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

//! What controller and agent say of themselves: scraped from the executables, compared with the catalogue, with the audit log of the
//! API server and with what was really done. And their Events.

use crate::agent::{MIB, disk, noise, snapshot_of, uploaded};
use crate::agent_nodes::until;
use crate::replicas::Replica;
use crate::{real, stand};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::kube_api::path;
use wherry_api::metrics::{By, Type, of};
use wherry_tests::cluster::real::deployed;
use wherry_tests::hosted::{Agent, PATIENCE, Stand};
use wherry_tests::kube::Kube;
use wherry_tests::server::free_ports;

/// Status and body of a path; none if nobody answers yet.
pub fn ask(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until that answers with success.
#[track_caller]
pub fn until_ok(address: &str, path: &str, log: impl Fn() -> String) -> String {
    let begin = Instant::now();
    loop {
        match ask(address, path) {
            Some((200, body)) => return body,
            answer => assert!(begin.elapsed() < PATIENCE, "{path}: {answer:?}\n{}", log()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All samples: a series as it is printed, and its number.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, n)| (series.to_owned(), n.parse().unwrap()))
        .collect()
}

/// The catalogue and what is served are the same, both ways.
fn compare_with_catalogue(text: &str, by: By) {
    let wanted: BTreeSet<String> = of(by)
        .map(|metric| {
            let word = match metric.kind {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram(_) => "histogram",
            };
            format!("# TYPE {} {word}", metric.name)
        })
        .collect();
    let served: BTreeSet<String> =
        text.lines().filter(|line| line.starts_with("# TYPE")).map(ToOwned::to_owned).collect();
    assert_eq!(served, wanted);
    let names: BTreeSet<String> = samples(text)
        .keys()
        .map(|series| series.split('{').next().unwrap())
        .map(|name| {
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
        })
        .collect();
    let wanted: BTreeSet<String> = of(by).map(|metric| metric.name.to_owned()).collect();
    assert_eq!(names, wanted, "each has a sample from the start, and none is of another name");
}

/// Requests by verb, as the server has them: those that were answered, and watches that have begun.
fn audited(kube: &Kube, account: &str) -> BTreeMap<String, f64> {
    let user = format!("system:serviceaccount:{account}");
    let mut verbs = BTreeMap::new();
    for event in kube.audit(0).iter().filter(|event| event["user"]["username"] == user.as_str()) {
        let verb = event["verb"].as_str().unwrap();
        let stage = if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        if event["stage"] == stage {
            *verbs.entry(verb.to_owned()).or_default() += 1.0;
        }
    }
    verbs
}

fn requests(text: &str) -> BTreeMap<String, f64> {
    let mut verbs = BTreeMap::new();
    for (series, n) in
        samples(text).iter().filter(|(series, n)| series.starts_with("wherry_api_requests_total") && **n > 0.0)
    {
        let verb = series.split("verb=\"").nth(1).unwrap().split('"').next().unwrap();
        *verbs.entry(verb.to_owned()).or_default() += n;
    }
    verbs
}

/// What is asked goes on all the time, so both are looked at until they agree.
#[track_caller]
fn requests_are_those_of_the_audit_log(kube: &Kube, account: &str, address: &str) {
    let begin = Instant::now();
    loop {
        let (before, text) = (audited(kube, account), ask(address, "/metrics").unwrap().1);
        if before == requests(&text) && before.values().sum::<f64>() > 5.0 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "the server answered {before:?}, and counted are {:?}", requests(&text));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reasons and messages of all Events of a CR.
pub fn events(kube: &Kube, namespace: &str, name: &str) -> BTreeMap<String, String> {
    let all = kube.ask(reqwest::Method::GET, &path(Kind::Event, namespace), None).unwrap();
    let of = all["items"].as_array().unwrap().iter().filter(|event| event["involvedObject"]["name"] == name);
    of.map(|event| (event["reason"].as_str().unwrap().to_owned(), event["message"].as_str().unwrap().to_owned()))
        .collect()
}

/// The message of the Event of a CR with that reason: it comes after the status, so it is waited for.
pub fn event(stand: &Stand, agent: &Agent, name: &str, reason: &str) -> String {
    let found = || events(&stand.kube, &stand.namespace, name).remove(reason);
    until(agent, &format!("Event {reason} of {name}"), || found().is_some());
    found().unwrap()
}

#[test]
fn the_agent_counts_what_it_did() {
    let stand = stand("agent-metrics");
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let agent = stand.agent_with(&[], &["--health", &address]);
    until_ok(&address, "/readyz", || agent.log());
    let at_start = ask(&address, "/metrics").unwrap().1;
    compare_with_catalogue(&at_start, By::Agent);
    let at_start = samples(&at_start);

    let file = disk(&stand, "disk", 96, 40);
    let first = uploaded(&stand, &agent, "first", &file);
    let after_first = samples(&ask(&address, "/metrics").unwrap().1);
    let number = |name: &str| after_first[name];
    let (read, skipped) = (number("wherry_upload_read_bytes_total"), number("wherry_upload_skipped_bytes_total"));
    assert_eq!(read + skipped, (96 * MIB) as f64);
    assert_eq!(number("wherry_upload_changed_bytes_total"), first["status"]["incrementalBytes"].as_f64().unwrap());
    let packs: u64 = stand.stored("packs/").iter().sum();
    let stored = number("wherry_upload_stored_bytes_total");
    // Noise does not compress; packs hold the nodes of the map too, which are metadata.
    assert!(stored >= (40 * MIB) as f64 && stored <= packs as f64, "{stored} of {packs}");
    let message = first["status"]["message"].as_str().unwrap();
    let engine = if message.contains("ring engine") { "ring" } else { "threads" };
    assert_eq!(number(&format!("wherry_volumes_moved_total{{kind=\"upload\",engine=\"{engine}\"}}")), 1.0, "{message}");
    let mut why = message.split(" engine (").nth(1).unwrap().split([';', ':', ')']);
    let why = match why.next().unwrap() {
        "io_uring works here" => "works",
        "no io_uring" => "no-ring",
        why => panic!("{why}: {message}"),
    };
    let chosen = |all: &BTreeMap<String, f64>| -> Vec<String> {
        let is = |(series, n): &(&String, &f64)| series.starts_with("wherry_engine_info{") && **n != 0.0;
        all.iter().filter(is).map(|(series, n)| format!("{series} {n}")).collect()
    };
    let wanted = format!("wherry_engine_info{{engine=\"{engine}\",why=\"{why}\"}} 1");
    // From its start on, whatever it has moved.
    assert_eq!(chosen(&at_start), [wanted.as_str()]);
    assert_eq!(chosen(&after_first), [wanted.as_str()], "{message}");
    assert_eq!(number("wherry_data_seconds_count{kind=\"upload\"}"), 1.0);
    assert_eq!(event(&stand, &agent, "first", "Completed"), message);

    // The second one has nothing new, and the restore writes all.
    let second = uploaded(&stand, &agent, "second", &file);
    let id = snapshot_of(&second);
    let target = disk(&stand, "target", 96, 0);
    let hosted = stand.download("back", "Block", 96 * MIB, &id.to_string());
    let device = stand.publish(&hosted, &target);
    stand.prepared(&hosted);
    stand.when(&hosted, &agent, "data-done", |cr| {
        cr["metadata"]["annotations"][wherry_api::names::DATA_DONE].is_string()
    });
    drop(device);
    let after = samples(&ask(&address, "/metrics").unwrap().1);
    assert_eq!(after["wherry_upload_changed_bytes_total"], number("wherry_upload_changed_bytes_total"));
    assert_eq!(after["wherry_upload_stored_bytes_total"], stored);
    let both = after["wherry_upload_read_bytes_total"] + after["wherry_upload_skipped_bytes_total"];
    assert_eq!(both, (2 * 96 * MIB) as f64);
    assert_eq!(after["wherry_download_bytes_total"], (96 * MIB) as f64);
    assert_eq!(after["wherry_key_missing"], 0.0);

    // Of a file with a hole only the rest is read.
    let hosted = stand.upload("tree", "Filesystem", 64 * MIB);
    let at = stand.mount(&hosted, 64);
    let mut file = std::fs::File::create(at.join("sparse")).unwrap();
    file.write_all(&noise(3, 3 * MIB)).unwrap();
    file.set_len(11 * MIB).unwrap();
    drop(file);
    stand.prepared(&hosted);
    stand.until(&hosted, &agent, &["Completed"]);
    let tree = samples(&ask(&address, "/metrics").unwrap().1);
    let more = |name: &str| tree[name] - after[name];
    assert_eq!(more("wherry_upload_read_bytes_total"), (3 * MIB) as f64);
    assert_eq!(more("wherry_upload_skipped_bytes_total"), (8 * MIB) as f64);
    requests_are_those_of_the_audit_log(&stand.kube, "agent-metrics:wherry-agent", &address);
    agent.end();
}

#[test]
fn the_controller_counts_what_there_is_and_says_what_is_wrong() {
    let real = real();
    let kube = &real.kube;
    kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: figures\n");
    kube.apply(&deployed("wherry-controller", "figures"));
    let create = |kind: Kind, mut object: Value| {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.word());
        object["metadata"]["namespace"] = json!("figures");
        let body = object.to_string().into_bytes();
        kube.ask(reqwest::Method::POST, &path(kind, "figures"), Some(("application/json", body))).unwrap()
    };
    let settings = |data: Value| {
        let body = json!({ "data": data }).to_string().into_bytes();
        let path = format!("{}/wherry", path(Kind::ConfigMap, "figures"));
        kube.ask(reqwest::Method::PATCH, &path, Some(("application/merge-patch+json", body))).unwrap();
    };
    // Three quarters of so little are over at once.
    create(
        Kind::ConfigMap,
        json!({ "metadata": { "name": "wherry" }, "data": { "itemTimeout": "1s", "pause": "true" } }),
    );
    let upload = |name: &str, status: Value| {
        let csi =
            json!({ "volumeSnapshot": "none", "storageClass": "lab", "snapshotClass": "lab", "driver": "lab.csi" });
        let spec = json!({
            "datamover": "wherry", "snapshotType": "CSI", "sourceNamespace": "figures", "sourcePVC": name,
            "csiSnapshot": csi, "backupStorageLocation": "default", "operationTimeout": "10m0s",
        });
        create(Kind::DataUpload, json!({ "metadata": { "name": name }, "spec": spec, "status": status }));
    };
    upload("done", json!({ "phase": "Completed", "completionTimestamp": "2026-01-01T00:00:00Z" }));
    upload("bad", json!({ "phase": "Failed", "message": "m", "completionTimestamp": "2026-01-01T00:00:00Z" }));

    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let replica = Replica::start_with(&real, "figures", "only", &["--image", "w", "--health", &address]);
    let body = until_ok(&address, "/readyz", || replica.log());
    assert_eq!(body, "");
    compare_with_catalogue(&ask(&address, "/metrics").unwrap().1, By::Controller);
    let until = |series: &str, wanted: f64| {
        let begin = Instant::now();
        loop {
            let found = samples(&ask(&address, "/metrics").unwrap().1)[series];
            if found == wanted {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{series} is {found}, not {wanted}\n{}", replica.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    until("wherry_controller_acts", 1.0);
    until("wherry_settings_good", 1.0);
    until("wherry_paused", 1.0);
    until("wherry_crs{kind=\"upload\",phase=\"Completed\"}", 1.0);
    until("wherry_volumes_failing", 1.0);
    until("wherry_last_completed_timestamp_seconds{kind=\"upload\"}", 1_767_225_600.0);
    until("wherry_oldest_completed_timestamp_seconds{of=\"all\"}", 1_767_225_600.0);

    // It is paused, so this one waits; its VolumeSnapshot is not there, so that one fails.
    let spec = json!({
        "datamover": "wherry", "snapshotID": "wherry1/a/b/c.figures.data.u", "sourceNamespace": "figures",
        "snapshotSize": 1, "targetVolume": { "pvc": "none", "namespace": "figures", "pv": "" }, "backupStorageLocation": "default",
        "operationTimeout": "10m0s",
    });
    create(Kind::DataDownload, json!({ "metadata": { "name": "waits" }, "spec": spec }));
    upload("fails", json!({}));
    until("wherry_crs{kind=\"download\",phase=\"New\"}", 1.0);
    until("wherry_crs_deadline_at_risk{kind=\"download\"}", 1.0);
    until("wherry_crs_ended_total{kind=\"upload\",result=\"Failed\"}", 1.0);
    until("wherry_volumes_failing", 2.0);
    let begin = Instant::now();
    let (late, failed) = loop {
        let (late, failed) = (events(kube, "figures", "waits"), events(kube, "figures", "fails"));
        if late.contains_key("DeadlineAtRisk") && failed.contains_key("Failed") {
            break (late, failed);
        }
        assert!(begin.elapsed() < PATIENCE, "{late:?} {failed:?}\n{}", replica.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(late["DeadlineAtRisk"].contains("item timeout (1 s)"), "{late:?}");
    let key = Key::new(Kind::DataUpload, "figures", "fails");
    let cr = kube.wait(kube.admin().get(&key)).unwrap().unwrap();
    assert_eq!(failed["Failed"], cr["status"]["message"].as_str().unwrap());
    requests_are_those_of_the_audit_log(kube, "figures:wherry-controller", &address);
    // The scheduler finds no node for a pod of a CR that waits.
    let waits = kube.wait(kube.admin().get(&Key::new(Kind::DataDownload, "figures", "waits"))).unwrap().unwrap();
    let spec = json!({
        "serviceAccountName": "wherry-controller", "automountServiceAccountToken": false,
        "containers": [{ "name": "c", "image": "wherry:test" }],
    });
    let labels = json!({ wherry_api::names::CR_UID: waits["metadata"]["uid"] });
    create(Kind::Pod, json!({ "metadata": { "name": "hosts", "labels": labels }, "spec": spec }));
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "exceed max volume count",
    });
    let body = json!({ "status": { "conditions": [condition] } }).to_string().into_bytes();
    let status = format!("{}/hosts/status", path(Kind::Pod, "figures"));
    kube.ask(reqwest::Method::PATCH, &status, Some(("application/merge-patch+json", body))).unwrap();
    let until_said = |reason: &str| {
        let begin = Instant::now();
        loop {
            let said = events(kube, "figures", "waits");
            if let Some(said) = said.get(reason) {
                return said.clone();
            }
            assert!(begin.elapsed() < PATIENCE, "no {reason}: {said:?}\n{}", replica.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    assert_eq!(until_said("Unschedulable"), "no node takes pod hosts: exceed max volume count");
    // What changes in the settings is seen within the minute, and so is what cannot be used.
    // A key of another version is said, and the others are heeded.
    settings(json!({ "pause": "false", "ofTheFuture": "1" }));
    until("wherry_paused", 0.0);
    until("wherry_settings_good", 0.0);
    replica.wait_for("key \"ofTheFuture\": there is no such setting");
    settings(json!({ "maxActive": "many" }));
    replica.wait_for("key \"maxActive\"");
    until("wherry_settings_good", 0.0);
    // There is none in this namespace, and two minutes are over by now, or soon.
    until("wherry_crs_without_agent{kind=\"download\"}", 1.0);
    assert!(until_said("NoAgent").starts_with("no agent answers on any node: "));
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

#[test]
fn the_readme_says_what_to_do_about_each_warning() {
    let readme = include_str!("../../../README.md");
    let rows: Vec<&str> =
        readme.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 3).collect();
    let mut words = BTreeSet::new();
    for (_, reason) in wherry_api::events::REASONS {
        assert!(words.insert(reason.word), "{} stands twice", reason.word);
        let is_there = rows.iter().any(|row| row.starts_with(&format!("| `{}` |", reason.word)));
        assert_eq!(is_there, reason.warning, "{}", reason.word);
    }
}

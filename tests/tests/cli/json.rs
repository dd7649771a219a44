//! The shape of every `--json` result. A field may be added; one that goes or changes its type breaks programs.

use super::harness::{Home, PATIENCE, shape};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};

fn of(home: &Home, args: &[&str]) -> Value {
    shape(&home.run(&[args, &["--json"]].concat()).ok().json())
}

#[test]
fn init_probe_and_config() {
    let home = Home::new();
    let init = json!({
        "repository": "string", "location": "string", "chunk_size": "int", "single_writer": "bool",
        "key_file": "string", "finished": "bool",
    });
    assert_eq!(of(&home, &["init"]), init);
    let mut probe = of(&home, &["probe"]);
    let checks = probe["checks"].take();
    assert!(checks.as_array().unwrap().len() >= 5, "{checks}");
    let check = json!({ "name": "string", "need": "string", "failed": "null" });
    assert!(checks.as_array().unwrap().iter().all(|c| *c == check), "{checks}");
    let probed = json!({ "location": "string", "usable": "bool", "many_writers": "bool", "checks": null });
    assert_eq!(probe, probed);
    let config = json!({
        "files": [], "repo": "string", "credential": "string", "cache_dir": "string", "memory": "int",
        "pack_size": "int", "workers": "int", "engine": "string",
    });
    assert_eq!(of(&home, &["config", "check"]), config);
}

#[test]
fn snapshots() {
    let home = Home::with_repository();
    let image = home.write("a.raw", "content");
    let backup = json!({
        "snapshot": "string", "volume": "string", "parent": "null", "size": "int", "read": "int", "hole": "int",
        "zero": "int", "unchanged": "int", "known": "int", "new": "int", "stored": "int", "metadata": "int",
        "seconds": "float", "engine": "string", "root": "string", "resumed": "bool", "run": "string",
        "changed_blocks": "null", "engine_reason": "string",
    });
    assert_eq!(of(&home, &["backup", &image, "--name", "vm", "--tag", "a=b"]), backup);
    let mut snapshot = json!({
        "snapshot": "string", "volume": "string", "time": "string", "ended": "string", "size": "int",
        "chunk_size": "int", "chunks": "int", "parent": "null", "tags": { "a": "string" }, "root": "string", "kind": "string",
        "partial": "bool", "resumed": "bool", "forgotten": "bool", "pinned": "bool", "due": "null",
        "verified": "null", "damaged": "null", "read": "int", "hole": "int", "zero": "int", "unchanged": "int", "known": "int", "new": "int",
        "stored": "int", "metadata": "int", "engine": "string", "host": "string", "source": "string",
        "run": "string", "version": "string", "origin": "null",
    });
    assert_eq!(of(&home, &["snapshots"]), json!([snapshot]));
    assert_eq!(of(&home, &["show", "latest"]), snapshot);
    assert_eq!(of(&home, &["snapshots", "--forgotten"]), json!([]));
    let decision = json!({
        "snapshot": "string", "volume": "string", "time": "string", "keep": "bool", "reasons": ["string"],
        "dropped": "null", "forgotten": "bool",
    });
    let pin = json!([{ "snapshot": "string", "volume": "string", "pinned": "bool", "changed": "bool" }]);
    assert_eq!(of(&home, &["pin", "latest"]), pin);
    assert_eq!(of(&home, &["unpin", "latest"]), pin);
    assert_eq!(of(&home, &["forget", "--keep-last", "1"]), json!([decision]));

    let id = home.run(&["snapshots", "--json"]).ok().json()[0]["snapshot"].as_str().unwrap().to_owned();
    home.run(&["forget", &id, "-q"]).ok();
    snapshot["due"] = "string".into();
    assert_eq!(of(&home, &["snapshots", "--forgotten"]), json!([snapshot]));
    let unforget = json!([{ "snapshot": "string", "volume": "string", "unforgotten": "bool" }]);
    assert_eq!(of(&home, &["unforget", &id]), unforget);
    let restore = json!({
        "snapshot": "string", "volume": "string", "target": "string", "size": "int", "written": "int",
        "seconds": "float", "engine": "string", "root": "string", "delta": "bool", "verified": "bool",
        "dry_run": "bool", "resumed": "bool", "partial": "bool", "untouched": "int", "engine_reason": "string",
    });
    assert_eq!(of(&home, &["restore", "latest", "out.raw"]), restore);
}

/// A folder that something is mounted at; unmounted when this is dropped.
struct At(String);

impl Drop for At {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).output();
    }
}

#[test]
fn mount() {
    let home = Home::with_repository();
    home.backup("vm", b"content");
    std::fs::create_dir(home.path("mnt")).unwrap();
    let mut report = json!({ "mountpoint": "string", "repository": "string", "pid": "int", "log": "null" });
    // Its standard error is a pipe, which takes messages as long as it is in the foreground.
    let at = At(home.text("mnt"));
    let mut running = home.spawn(&["mount", "mnt", "--foreground", "--json"]);
    let mut line = String::new();
    BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(shape(&serde_json::from_str(&line).unwrap()), report);
    running.send(rustix::process::Signal::TERM);
    running.end().ok();

    let background = home.run(&["mount", "mnt", "--json"]).ok().json();
    report["log"] = "string".into();
    assert_eq!(shape(&background), report);
    drop(at);
    // It had nothing to say, and takes its log away at its end.
    let start = std::time::Instant::now();
    while std::path::Path::new(background["log"].as_str().unwrap()).exists() {
        assert!(start.elapsed() < PATIENCE, "it did not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn stats_and_keys() {
    let home = Home::with_repository();
    home.backup("vm", b"content");
    let mut stats = of(&home, &["stats"]);
    let objects = stats["objects"].take();
    for kind in ["config", "idx", "keys", "meta", "packs", "repo.json", "sess", "snap"] {
        // Of these only the map of a small disk has its whole top in the record.
        if kind != "meta" && kind != "idx" {
            assert_eq!(objects[kind], json!({ "count": "int", "bytes": "int" }), "{kind} in {objects}");
        }
    }
    let expected = json!({
        "repository": "string", "location": "string", "chunk_size": "int", "single_writer": "bool", "volumes": "int",
        "snapshots": "int", "forgotten": "int", "partial": "int", "damaged": "int", "size": "int", "objects": null,
        "trees": "int", "files": "int", "directories": "int", "others": "int", "missing": "int", "unsettled": "int",
        "stored": "int",
    });
    assert_eq!(stats, expected);

    let slot = json!({ "slot": "string", "kind": "string", "created": "string", "current": "bool" });
    assert_eq!(of(&home, &["key", "list"]), json!([slot]));
    let added = of(&home, &["key", "add", "--new-key-file", "second"]);
    assert_eq!(added, json!({ "added": "string", "removed": "null", "key_file": "string" }));
}

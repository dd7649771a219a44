//! `wherry bench`: what it gives and what it leaves, never how fast anything is.

use super::harness::Home;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::seaweed::Seaweed;

const QUICK: [&str; 5] = ["bench", "--seconds", "0.05", "--size", "40M"];
const PROCESSOR: [&str; 7] =
    ["chunk-id", "compress-lz4", "decompress-lz4", "compress-zstd-3", "decompress-zstd-3", "seal", "open"];

/// Every file and folder below.
fn listing(dir: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(listing(&path));
        }
        all.insert(path);
    }
    all
}

/// The rows of the processor are there, for one thread and for all.
fn assert_rows(json: &Value, more: &[&str]) {
    let rows = json["rows"].as_array().unwrap();
    for row in rows {
        assert!(row["bytes_per_second"].as_f64().unwrap() > 0.0 && row["bytes"].as_u64().unwrap() > 0, "{row}");
        assert!(row["threads"].as_u64().unwrap() >= 1, "{row}");
    }
    let named = |name: &str| rows.iter().filter(|row| row["name"] == name).collect::<Vec<_>>();
    let all = std::thread::available_parallelism().unwrap().get().min(2);
    for name in PROCESSOR {
        assert_eq!(named(name).len(), all, "{name}: {json}");
        assert_eq!(named(name)[0]["threads"], 1);
    }
    for name in more {
        assert_eq!(named(name).len(), 1, "{name}: {json}");
    }
    assert_eq!(rows.len(), PROCESSOR.len() * all + more.len(), "{json}");
}

#[test]
fn every_row_has_its_figures_and_nothing_is_left() {
    let home = Home::with_repository();
    let before = listing(&home.path("repo"));
    // No password, no key, no cache.
    let ran = home.run_bare(&[&QUICK[..], &["--repo", "repo", "--json"]].concat()).ok();
    assert_eq!(listing(&home.path("repo")), before);
    assert!(!home.path("cache").exists());
    let json = ran.json();
    assert_eq!(json["location"], "repo");
    assert_rows(&json, &["storage-write", "storage-read"]);
    let names: Vec<_> = json["latencies"].as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["storage-create", "storage-get", "storage-list"]);
    for latency in json["latencies"].as_array().unwrap() {
        assert!(latency["seconds"].as_f64().unwrap() > 0.0 && latency["requests"].as_u64().unwrap() >= 3, "{latency}");
    }
    let text = home.run(&[&QUICK[..], &["--memory", "64M"]].concat()).ok().stdout;
    for word in ["PROCESSOR", "1 THREAD", "zstd:3: decompress", "STORAGE", "write", "create a small object", "B/s"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert_eq!(listing(&home.path("repo")), before);
    home.run(&["check"]).ok();
}

#[test]
fn without_a_repository_the_machine_is_measured_and_the_rest_is_said_to_be_left_out() {
    let home = Home::new();
    let ran = home.run_bare(&[&QUICK[..], &["--json"]].concat()).ok();
    let json = ran.json();
    assert_rows(&json, &[]);
    assert_eq!((&json["location"], &json["latencies"]), (&Value::Null, &Value::Array(Vec::new())));
    let text = home.run_bare(&QUICK).ok().stdout;
    assert!(text.contains("storage was not measured") && text.contains("--repo"), "{text}");
    // A repository that is not there is a mistake, and nothing is made of it.
    let line = home.run(&QUICK).fails(10);
    assert!(line.contains("wherry init"), "{line}");
    assert!(!home.path("repo").exists());
    for wrong in [&["bench", "--seconds", "0"][..], &["bench", "--seconds", "inf"], &["bench", "--size", "1000K"]] {
        home.run(wrong).fails(2);
    }
}

#[test]
fn a_storage_that_is_read_only_is_said_to_be_that() {
    let home = Home::with_repository();
    // As the process sees it alone, the repository is on a filesystem that cannot be written to.
    const READ_ONLY: &str = r#"set -e; mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@""#;
    let command = home.command();
    let mut ro = Command::new("unshare");
    ro.args(["--mount", "sh", "-c", READ_ONLY, "sh"]).arg(home.path("repo")).arg(command.get_program()).args(QUICK);
    home.prepare(&mut ro);
    let before = listing(&home.path("repo"));
    let line = home.ran(ro.arg("--repo").arg(home.path("repo")).output().unwrap()).fails(12);
    assert!(line.contains("cannot be measured") && line.contains("read-write"), "{line}");
    assert_eq!(listing(&home.path("repo")), before);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let home = Home::with_repository();
    let before = listing(&home.path("repo"));
    let has = |what: &str| {
        let inside = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
        let mut made = inside(home.path("repo/probe")).flat_map(|run| inside(run.path()));
        made.any(|object| object.file_name().to_str().unwrap().starts_with(what))
    };
    for (row, signal, code) in [("small-", Signal::INT, 130), ("pack-", Signal::TERM, 143)] {
        let mut bench = home.spawn(&["bench", "--seconds", "60", "--size", "2G"]);
        bench.until(row, || has(row));
        bench.send(signal);
        let line = bench.end().ends(code);
        assert!(line.contains("is removed"), "{line}");
        assert_eq!(listing(&home.path("repo")), before, "{row}");
    }
}

#[test]
fn an_s3_server_is_measured_and_a_failure_leaves_nothing_there() {
    let home = Home::new();
    let server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let s3 = |args: &[&str]| {
        let mut command = home.command();
        command.envs(server.variables()).env("WHERRY_REPOSITORY", "s3://measured/x").args(args).stdin(Stdio::null());
        command.args(["--s3-endpoint", &format!("http://127.0.0.1:{}", proxy.port())]);
        home.ran(command.output().unwrap())
    };
    s3(&["init"]).ok();
    let json = s3(&[&QUICK[..], &["--json"]].concat()).ok().json();
    assert_rows(&json, &["storage-write", "storage-read"]);
    let left = || {
        let mut all = Vec::new();
        let listed = server.open("measured/x").list("probe/", &mut |found| {
            all.push(found.key);
            Ok(())
        });
        listed.unwrap();
        all
    };
    assert_eq!(left(), []);
    // No key may be read: not by this user.
    proxy.inject(Rule::every("GET", "/pack-", Fault::Refuse(403)));
    let line = s3(&QUICK).ends(12);
    assert!(line.contains("cannot be measured") && line.contains("s3://measured/x"), "{line}");
    assert!(proxy.hits().values().sum::<u64>() > 0, "no read was refused");
    assert_eq!(left(), []);
}

//! The flags of `backup` and of the commands that list: what they do, and what they refuse.

use super::harness::{Home, Ran};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::Instant;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;

fn backup(home: &Home, args: &[&str]) -> Value {
    home.run(&[&["backup", "--json"], args].concat()).ok().json()
}

#[test]
fn the_chunk_size_is_what_init_was_told() {
    for (args, size) in [
        (&["init"][..], 256 << 10),
        (&["init", "--chunk-size", "64K"], UNIT),
        (&["init", "--chunk-size", "4M"], 4 << 20),
    ] {
        let home = Home::new();
        assert_eq!(home.run(&[args, &["--json"]].concat()).ok().json()["chunk_size"], size);
        let image = home.write("a.raw", noise(1, 5 << 20));
        backup(&home, &[&image, "--name", "a"]);
        let shown = home.run(&["show", "latest", "--json"]).ok().json();
        assert_eq!((&shown["chunk_size"], &shown["chunks"]), (&size.into(), &(5usize << 20).div_ceil(size).into()));
    }
    for wrong in ["32K", "8M", "96K", "0", "x"] {
        let home = Home::new();
        home.run(&["init", "--chunk-size", wrong]).fails(2);
        assert!(!home.path("repo").exists() && !home.path("key").exists(), "{wrong}");
    }
}

#[test]
fn the_parent_is_the_one_that_was_named() {
    let home = Home::with_small_chunks();
    let image = home.write("vm.raw", noise(1, 8 * UNIT));
    let first = backup(&home, &[&image, "--name", "vm"]);
    assert_eq!(first["parent"], Value::Null, "there is none yet");
    let first = first["snapshot"].as_str().unwrap();
    let second = backup(&home, &[&image, "--name", "vm"]);
    assert_eq!(second["parent"], first, "auto is the default");
    let second = second["snapshot"].as_str().unwrap();
    for (parent, taken) in [("auto", second), (first, first), (&first[..12], first), ("latest:vm", second)] {
        let json = backup(&home, &[&image, "--name", "vm", "--parent", parent]);
        assert_eq!(json["parent"], taken, "{parent}");
        assert_eq!((&json["unchanged"], &json["new"]), (&(8 * UNIT).into(), &0.into()), "{parent}");
        home.run(&["forget", json["snapshot"].as_str().unwrap(), "-q"]).ok();
    }
    let json = backup(&home, &[&image, "--name", "vm", "--parent", "none"]);
    assert_eq!((&json["parent"], &json["unchanged"], &json["known"]), (&Value::Null, &0.into(), &(8 * UNIT).into()));
}

#[test]
fn a_parent_that_cannot_be_one_is_refused_and_says_why() {
    let home = Home::with_small_chunks();
    let image = home.write("vm.raw", noise(1, 2 * UNIT));
    let mine = home.backup("vm", b"mine");
    let other = home.backup("other", b"other");
    let gone = home.backup("vm", b"gone");
    home.run(&["forget", &gone, "-q"]).ok();
    let before = home.tree("repo/snap").len();
    let refused = |parent: &str| home.run(&["backup", &image, "--name", "vm", "--parent", parent]);
    for (parent, words) in [(&other, ["another volume", "\"other\""]), (&gone, ["forgotten", "unforget"])] {
        for parent in [&parent[..], &parent[..16]] {
            let line = refused(parent).ends(2);
            assert!(line.contains(&parent[..16]) && words.iter().all(|w| line.contains(w)), "{line}");
        }
    }
    assert!(refused(&"0".repeat(32)).ends(14).contains("no snapshot"));
    refused("0123456789ab").ends(14);
    refused("latest:none").ends(14);
    refused("latest").ends(2);
    refused("zz").fails(2);
    assert_eq!(home.tree("repo/snap").len(), before);
    refused(&mine).ok();
}

#[test]
fn compression_is_the_one_that_was_named() {
    let home = Home::with_small_chunks();
    let text = b"as compressible as text is. ".repeat(40_000);
    let image = home.write("text", &text);
    let stored = |method: &[&str]| {
        let repo = home.text(&format!("of-{}", method.join("-").replace(':', "-")));
        let run = |args: &[&str]| -> Value {
            let ran: Ran = home.command().args(args).args(["--json", "--repo", &repo]).output().unwrap().into();
            ran.ok().json()
        };
        run(&["init"]);
        let stored = run(&[&["backup", &image, "--name", "text"], method].concat())["stored"].as_u64().unwrap();
        let ran: Ran = home.command().args(["cat", "latest", "--repo", &repo]).output().unwrap().into();
        assert!(ran.ok().stdout.as_bytes() == text, "{method:?}");
        stored
    };
    let none = stored(&["--compression", "none"]);
    let lz4 = stored(&["--compression", "lz4"]);
    let zstd = stored(&["--compression", "zstd"]);
    let best = stored(&["--compression", "zstd:19"]);
    assert_eq!(stored(&[]), lz4, "lz4 is the default");
    assert!(none > text.len() as u64 && lz4 < none / 4 && zstd < lz4 && best < lz4, "{none} {lz4} {zstd} {best}");
    for wrong in ["gzip", "zstd:0", "zstd:20", "zstd:", "zstd:x", "LZ4", ""] {
        let line = home.run(&["backup", &image, "--name", "text", "--compression", wrong]).fails(2);
        assert!(line.contains("zstd:19"), "{line}");
    }
}

#[test]
fn the_name_of_a_volume_is_the_hosts_and_the_last_part_of_the_path() {
    let home = Home::with_small_chunks();
    fs::create_dir(home.path("images")).unwrap();
    home.write("images/vm 1.raw", "content");
    let json = backup(&home, &["./images/vm 1.raw"]);
    assert_eq!(json["volume"], format!("{}.vm 1.raw", wherry_repo::host_name()));
    home.write("images/a:b", "content");
    let line = home.run(&["backup", "images/a:b"]).fails(2);
    assert!(line.contains("a:b") && line.contains("--name"), "{line}");
    let mut child = home.command().args(["backup", "-", "--name", "stream"]).stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    Ran::from(child.wait_with_output().unwrap()).ok();
}

#[test]
fn the_last_line_names_the_snapshot() {
    let home = Home::with_small_chunks();
    let image = home.write("vm.raw", noise(1, 3 * UNIT));
    for _ in 0..2 {
        let ran = home.run(&["backup", &image, "--name", "vm"]).ok();
        let id = home.run(&["snapshots", "--json"]).ok().json();
        let id = id.as_array().unwrap().last().unwrap()["snapshot"].as_str().unwrap().to_owned();
        assert!(ran.stdout.ends_with(&format!("\nsnapshot {id}\n")), "{}", ran.stdout);
        assert_eq!(ran.stdout.matches("snapshot ").count(), 1, "{}", ran.stdout);
    }
}

#[test]
fn limits_hold() {
    let home = Home::with_small_chunks();
    home.write("vm.raw", noise(1, 4 << 20));
    for (limit, rate) in [("--limit-read", "2M"), ("--limit-upload", "2M")] {
        let start = Instant::now();
        let json = backup(&home, &["vm.raw", "--name", &limit[2..], "--parent", "none", limit, rate, "--no-cache"]);
        // A tenth of a second's worth may pass at once.
        assert!(start.elapsed().as_secs_f64() >= 1.9 - 0.11, "{limit}: {:?}", start.elapsed());
        assert_eq!(json["read"], 4 << 20);
        assert!(json["seconds"].as_f64().unwrap() >= 1.9 - 0.11, "{json}");
    }
    for wrong in ["0x", "fast", "-1", "1.5M"] {
        home.run(&["backup", "vm.raw", "--limit-read", wrong]).fails(2);
        home.run(&["backup", "vm.raw", "--limit-upload", wrong]).fails(2);
    }
}

#[test]
fn snapshots_are_listed_by_volume_by_tags_and_when_forgotten() {
    let home = Home::with_small_chunks();
    let image = home.write("x.raw", "content");
    let made = |name: &str, tags: &[&str]| {
        let tags: Vec<_> = tags.iter().flat_map(|tag| ["--tag", tag]).collect();
        backup(&home, &[&[&image, "--name", name], &tags[..]].concat())["snapshot"].as_str().unwrap().to_owned()
    };
    let a = made("a", &["cluster=prod", "disk=1"]);
    let b = made("b", &["cluster=prod"]);
    let c = made("b", &["cluster=test"]);
    let d = made("b", &[]);
    home.run(&["forget", &d, "-q"]).ok();
    let listed = |args: &[&str]| {
        let json = home.run(&[&["snapshots", "--json"], args].concat()).ok().json();
        json.as_array().unwrap().iter().map(|s| s["snapshot"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), [&a[..], &b, &c]);
    assert_eq!(listed(&["--name", "b"]), [&b[..], &c]);
    assert_eq!(listed(&["--tag", "cluster=prod"]), [&a[..], &b]);
    assert_eq!(listed(&["--tag", "cluster=prod", "--tag", "disk=1"]), [&a[..]]);
    assert_eq!(listed(&["--tag", "cluster=prod", "--name", "b"]), [&b[..]]);
    assert_eq!(listed(&["--tag", "cluster=pro"]), [""; 0]);
    assert_eq!(listed(&["--forgotten"]), [&d[..]]);
    assert_eq!(listed(&["--forgotten", "--name", "a"]), [""; 0]);
    let text = home.run(&["snapshots", "--name", "a"]).ok().stdout;
    assert!(text.contains("cluster=prod disk=1") && text.contains(&a[..8]) && !text.contains(&b[..8]), "{text}");
    let text = home.run(&["snapshots", "--forgotten"]).ok().stdout;
    assert!(text.contains("GOES AFTER") && text.contains(&d[..8]) && !text.contains(&a[..8]), "{text}");
    home.run(&["snapshots", "--tag", "cluster"]).fails(2);
}

#[test]
fn what_lies_beyond_the_end_of_a_disk_is_refused() {
    let home = Home::with_small_chunks();
    home.backup("vm", b"ten bytes.");
    let cat = |args: &[&str]| home.run(&[&["cat", "latest"], args].concat());
    assert_eq!(cat(&["--offset", "4", "--length", "5"]).ok().stdout, "bytes");
    assert_eq!(cat(&["--offset", "4", "--length", "1T"]).ok().stdout, "bytes.");
    assert_eq!(cat(&["--offset", "10"]).ok().stdout, "", "the end itself");
    for offset in ["11", "1T"] {
        let line = cat(&["--offset", offset]).fails(2);
        assert!(line.contains("ends at byte 10"), "{line}");
    }
}

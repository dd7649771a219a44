//! Repositories of newer versions, and damaged ones: which commands still work, and how the others end.

use super::harness::Home;
use std::fs;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{Components, Credential, Repository, System};

/// A repository with a snapshot of "content", and the snapshot's id.
fn home() -> (Home, String) {
    let home = Home::with_repository();
    let id = home.backup("vm", b"content");
    (home, id)
}

/// Publishes a configuration that asks for a feature nobody knows.
fn add_feature(home: &Home, set: &str) {
    let mut key = fs::read(home.path("key")).unwrap();
    key.truncate(key.trim_ascii_end().len());
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let system = Arc::new(System::default());
    let components = Components { storage, clock: system.clone(), rng: system };
    let repository = Repository::open(components, &Credential::KeyFile(key.into())).unwrap();
    let feature = || vec!["flux-capacitor".to_owned()];
    let change = |config: &mut wherry_repo::format::clear::Config| match set {
        "read" => config.read = feature(),
        "write" => config.write = feature(),
        _ => config.gc = feature(),
    };
    repository.publish_config(1, change).unwrap();
}

/// With arguments that would do. The first ones only read.
fn commands(id: &str) -> (Vec<Vec<&str>>, Vec<Vec<&str>>) {
    let reads = vec![
        vec!["snapshots"],
        vec!["show", id],
        vec!["cat", id],
        vec!["check", "--read-data"],
        vec!["stats"],
        vec!["key", "list"],
        vec!["restore", id, "out.raw", "--force"],
        vec!["forget", id, "--dry-run"],
    ];
    let writes = vec![
        vec!["backup", "vm.raw", "--name", "vm"],
        vec!["forget", id],
        vec!["unforget", id],
        vec!["pin", id],
        vec!["unpin", id],
        vec!["key", "add", "--new-key-file", "second"],
        vec!["upgrade"],
        vec!["repair"],
        vec!["key", "rotate", "--slot-key-file", "second"],
        vec!["key", "passwd", "--new-key-file", "third"],
        vec!["gc"],
    ];
    (reads, writes)
}

/// More of them, also with this repository as the second one; `fine` is one that all can read.
fn others(id: &str) -> Vec<Vec<&str>> {
    let this = ["--repo", "fine", "--key-file", "fine.key"];
    let fine = ["--to", "fine", "--to-key-file", "fine.key"];
    vec![
        vec!["ls", id],
        vec!["find", id],
        vec!["diff", id, id],
        vec!["dump", id],
        vec!["gc", "--dry-run"],
        vec!["mount", "mnt"],
        [&["copy"], &fine[..]].concat(),
        [&["copy", "--to", "repo", "--to-key-file", "key"], &this[..]].concat(),
        vec!["repair", "--from", "fine", "--from-key-file", "fine.key"],
        [&["repair", "--from", "repo", "--from-key-file", "key"], &this[..]].concat(),
    ]
}

/// The second repository, with something to copy.
fn second(home: &Home) {
    home.run(&["init", "-q", "--repo", "fine", "--key-file", "fine.key"]).ok();
    home.run(&["backup", "vm.raw", "--name", "vm", "--repo", "fine", "--key-file", "fine.key"]).ok();
    fs::create_dir_all(home.path("mnt")).unwrap();
}

#[test]
fn a_newer_format_ends_everything_with_15() {
    let (home, id) = home();
    second(&home);
    let line = fs::read_to_string(home.path("repo/repo.json")).unwrap();
    let newer = line.replace("\"format\":1", "\"format\":2");
    let at = newer.find("\"crc\":\"").unwrap() + 7;
    let zeroed = format!("{}00000000{}", &newer[..at], &newer[at + 8..]);
    let crc = format!("{:08x}", wherry_repo::format::clear::checksum(zeroed.as_bytes()));
    fs::write(home.path("repo/repo.json"), zeroed.replacen("00000000", &crc, 1)).unwrap();
    let before = home.tree("repo");
    let (reads, writes) = commands(&id);
    for args in reads.iter().chain(&writes).chain(&others(&id)) {
        let line = home.run(args).ends(15);
        assert!(line.contains("format 2") && line.contains("newer wherry"), "{args:?}: {line}");
    }
    assert_eq!(home.tree("repo"), before);
}

#[test]
fn an_unknown_feature_for_readers_ends_everything_with_15() {
    let (home, id) = home();
    second(&home);
    add_feature(&home, "read");
    let before = home.tree("repo");
    let (reads, writes) = commands(&id);
    for args in reads.iter().chain(&writes).chain(&others(&id)) {
        let line = home.run(args).ends(15);
        assert!(line.contains("flux-capacitor") && line.contains("newer wherry"), "{args:?}: {line}");
    }
    assert_eq!(home.tree("repo"), before);
}

#[test]
fn an_unknown_feature_for_writers_ends_writing_with_15_and_reading_works() {
    let (home, id) = home();
    add_feature(&home, "write");
    let before = home.tree("repo");
    let (reads, writes) = commands(&id);
    for args in &writes {
        let line = home.run(args).ends(15);
        assert!(line.contains("flux-capacitor") && line.contains("newer wherry"), "{args:?}: {line}");
    }
    for args in &reads {
        home.run(args).ok();
    }
    assert_eq!(fs::read(home.path("out.raw")).unwrap(), b"content");
    assert_eq!(home.tree("repo"), before);
}

#[test]
fn an_unknown_feature_for_collectors_is_nobody_elses_business() {
    let (home, id) = home();
    // There is something to collect.
    let gone = home.backup("other", &[7; 100_000]);
    home.run(&["forget", &gone, "--delay", "0s"]).ok();
    add_feature(&home, "gc");
    let before = home.tree("repo");
    for args in [&["gc", "--grace", "0s", "--fence-after", "0s"][..], &["gc", "--dry-run"]] {
        let line = home.run(args).ends(15);
        assert!(line.contains("flux-capacitor") && line.contains("newer wherry"), "{line}");
    }
    assert_eq!(home.tree("repo"), before);
    let (reads, writes) = commands(&id);
    for args in reads.iter().chain(writes.iter().filter(|args| **args != ["gc"])) {
        home.run(args).ok();
    }
    assert_eq!(fs::read(home.path("out.raw")).unwrap(), b"content");
}

#[test]
fn a_damaged_record_hides_no_other_snapshot() {
    let (home, id) = home();
    let (second, other) = (home.backup("vm", b"second"), home.backup("other", b"other"));
    let record = home.tree("repo/snap").into_keys().find(|p| p.ends_with(&second)).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&record, bytes).unwrap();
    let ran = home.run(&["snapshots", "--json"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    let json = ran.json();
    let listed: Vec<_> = json.as_array().unwrap().iter().map(|s| s["snapshot"].as_str().unwrap()).collect();
    assert_eq!(listed, [&id, &other]);
    assert!(ran.stderr.contains(&second) && ran.stderr.contains("wherry check"), "{}", ran.stderr);
    let ran = home.run(&["snapshots", "--name", "other"]);
    assert_eq!(ran.code, 0, "another volume's record is none of its business: {}", ran.stderr);
    assert!(home.run(&["cat", &second]).code == 13);
    assert_eq!(home.run(&["cat", "latest:other"]).ok().stdout, "other");
}

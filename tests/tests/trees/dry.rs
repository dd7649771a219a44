//! `restore --dry-run` of a directory tells what the same command then does, and does none of it.

use super::{backup, files, has};
use crate::harness::Home;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use wherry_tests::small::noise;
use wherry_tests::trees::{Facts, Listing, assert_same, change, grow, list};

/// What a dry run says of each path, without the slash that it begins with.
fn told(report: &Value) -> BTreeMap<Vec<u8>, String> {
    let path = |change: &Value| match change["path_hex"].as_str() {
        Some(hex) => (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect(),
        None => change["path"].as_str().unwrap().as_bytes().to_vec(),
    };
    let all = report["changes"].as_array().into_iter().flatten();
    all.map(|c| (path(c)[1..].to_vec(), c["change"].as_str().unwrap().to_owned())).collect()
}

/// How each path differs in what a restore sets.
fn differ(before: &Listing, after: &Listing) -> BTreeMap<Vec<u8>, &'static str> {
    let metadata = |f: &Facts| (f.mode, f.owner, f.modified, f.attributes.clone(), f.flags);
    let how = |path: &Vec<u8>| match (before.get(path), after.get(path)) {
        (None, _) => Some("added"),
        (_, None) => Some("removed"),
        (Some(a), Some(b)) if a.kind != b.kind => Some("content"),
        (Some(a), Some(b)) => (metadata(a) != metadata(b)).then_some("metadata"),
    };
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    paths.into_iter().filter_map(|path| Some((path.clone(), how(path)?))).collect()
}

#[test]
fn a_dry_run_tells_what_the_restore_then_does() {
    for seed in 40..42 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        backup(&home, "tree", &[]);
        home.run(&["restore", "latest:t", "out", "-q"]).ok();
        change(&home.path("out"), seed, 40);
        let before = list(&home.path("out"));
        let args = ["restore", "latest:t", "out", "--delta", "--delete", "--json"];
        let dry = home.run(&[&args[..], &["--dry-run"]].concat()).ok().json();
        assert_same(&list(&home.path("out")), &before, "nothing is written");
        let report = home.run(&args).ok().json();
        let after = list(&home.path("out"));
        for count in ["files", "kept", "directories", "others", "links", "removed", "skipped", "size"] {
            assert_eq!(dry[count], report[count], "seed {seed}, {count}");
        }
        let (told, differ) = (told(&dry), differ(&before, &after));
        let shown = |path: &[u8]| path.escape_ascii().to_string();
        for (path, how) in &differ {
            let above = |told: &Vec<u8>| path.starts_with(told) && path.get(told.len()) == Some(&b'/');
            let is_below = *how == "removed" && told.iter().any(|(path, how)| how != "metadata" && above(path));
            let said = told.get(path);
            assert!(
                is_below || said.is_some_and(|said| said == how || said == "content"),
                "seed {seed}: {} {how}: {said:?}",
                shown(path)
            );
        }
        // Of what has several names nothing tells where they are: it is made anew. Nothing else is told that stays.
        let several = |all: &Listing, path: &Vec<u8>| {
            all.get(path).is_some_and(|f| all.values().filter(|g| g.inode == f.inode).count() > 1)
        };
        let linked = |path: &Vec<u8>| several(&before, path) || several(&after, path);
        for path in told.keys().filter(|path| before.contains_key(*path) && !differ.contains_key(*path)) {
            assert!(linked(path), "seed {seed}: {} {} stays: {:?}", shown(path), told[path], before[path]);
        }
    }
}

#[test]
fn a_dry_run_asks_for_the_same_leave_and_fetches_nothing_that_is_there() {
    let home = Home::with_repository();
    let large = noise(1, 3 << 20);
    files(&home.path("tree"), &[("a", b"small"), ("b", b"also small"), ("large", &large)]);
    backup(&home, "tree", &[]);
    let dry = |flags: &[&str]| home.run(&[&["restore", "latest:t", "out", "--dry-run", "--json"], flags].concat());
    let whole = dry(&[]).ok().json();
    let size = whole["size"].as_u64().unwrap();
    assert_eq!((&whole["written"], &whole["fetched"], &whole["files"]), (&size.into(), &size.into(), &3.into()));
    assert!(!home.path("out").exists());
    home.run(&["restore", "latest:t", "out", "-q"]).ok();
    has(&dry(&[]).fails(2), &["not empty", "--delta"]);
    // A byte of the large one, and one of two that share a chunk, which then comes whole.
    let mut bytes = large.clone();
    bytes[2 << 20] ^= 1;
    fs::write(home.path("out/large"), bytes).unwrap();
    fs::write(home.path("out/b"), "else small").unwrap();
    fs::write(home.path("out/extra"), "x").unwrap();
    let delta = dry(&["--delta"]).ok().json();
    assert_eq!((&delta["files"], &delta["kept"], &delta["removed"]), (&2.into(), &1.into(), &0.into()), "{delta}");
    let (written, fetched) = (delta["written"].as_u64().unwrap(), delta["fetched"].as_u64().unwrap());
    assert_eq!(written, size - 5);
    assert!((15..3 << 20).contains(&fetched), "{delta}");
    let text = home.run(&["restore", "latest:t", "out", "--dry-run", "--delta", "--delete"]).ok().stdout;
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains(" /")).take_while(|line| !line.starts_with("would")).collect();
    let changed: BTreeSet<_> = lines.into_iter().collect();
    assert_eq!(changed, ["m /", "M /b", "M /large", "- /extra"].into(), "{text}");
    has(&text, &["would write", "would remove 1 names", "nothing was written of snapshot"]);
    let never = dry(&["--overwrite", "never"]).ok().json();
    assert_eq!((&never["files"], &never["skipped"], &never["written"]), (&0.into(), &3.into(), &0.into()), "{never}");
    let part = dry(&["--force", "/large"]).ok().json();
    assert_eq!((&part["files"], &part["size"]), (&1.into(), &(3 << 20).into()), "{part}");
}

//! A policy of some volumes or tags decides about those alone, and what is much for one volume is refused.

use super::harness::Home;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use wherry_tests::small::noise;

/// How many snapshots each volume has that nobody asked to forget.
fn left(home: &Home) -> BTreeMap<String, usize> {
    let list = home.run(&["snapshots", "--json"]).ok().json();
    let mut left = BTreeMap::new();
    for snapshot in list.as_array().unwrap() {
        *left.entry(snapshot["volume"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    left
}

fn backup(home: &Home, volume: &str, tag: &str, version: u32) -> String {
    let image = home.write("disk.raw", format!("{volume} {tag} {version}").as_bytes());
    let ran = home.run(&["backup", &image, "--name", volume, "--tag", tag, "--json"]).ok();
    ran.json()["snapshot"].as_str().unwrap().to_owned()
}

fn of(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(volume, count)| ((*volume).to_owned(), *count)).collect()
}

#[test]
fn a_policy_with_a_name_or_a_tag_decides_about_those_alone() {
    let home = Home::with_repository();
    let mut tagged = Vec::new();
    for version in 0..3 {
        for volume in ["a", "b"] {
            tagged.push(backup(&home, volume, "kind=daily", version));
        }
    }
    let by_hand = backup(&home, "a", "kind=hand", 9);
    assert_eq!(left(&home), of(&[("a", 4), ("b", 3)]));
    let ids = |json: &Value, goes: bool| -> Vec<String> {
        let of_it = json.as_array().unwrap().iter().filter(|view| view["keep"] == !goes);
        of_it.map(|view| view["snapshot"].as_str().unwrap().to_owned()).collect()
    };

    // A dry run says what goes, changes nothing, and speaks of no other volume.
    let json = home.run(&["forget", "--keep-last", "1", "--name", "b", "--dry-run", "--json"]).ok().json();
    assert_eq!(ids(&json, false), [&tagged[5][..]]);
    assert_eq!(ids(&json, true).len(), 2);
    assert_eq!(left(&home), of(&[("a", 4), ("b", 3)]));

    // The newest with the tag stays, although there is a newer one without it, and that one is left alone.
    let json = home.run(&["forget", "--keep-last", "1", "--name", "a", "--tag", "kind=daily", "--json"]).ok().json();
    assert_eq!((ids(&json, false), ids(&json, true).len()), (vec![tagged[4].clone()], 2));
    assert!(!json.to_string().contains(&by_hand), "it has another tag: {json}");
    assert_eq!(left(&home), of(&[("a", 2), ("b", 3)]));

    // Per volume: each keeps its own newest.
    let json = home.run(&["forget", "--keep-last", "1", "--tag", "kind=daily", "--json"]).ok().json();
    let mut kept = ids(&json, false);
    kept.sort();
    let mut newest = vec![tagged[4].clone(), tagged[5].clone()];
    newest.sort();
    assert_eq!((kept, ids(&json, true).len()), (newest, 2));
    assert_eq!(left(&home), of(&[("a", 2), ("b", 1)]));

    // What fits nothing is no error and drops nothing.
    home.run(&["forget", "--keep-last", "1", "--tag", "kind=weekly"]).ok();
    assert_eq!(left(&home), of(&[("a", 2), ("b", 1)]));
}

#[test]
fn most_of_all_is_dropped_by_force_alone_and_a_dry_run_says_so() {
    let home = Home::with_repository();
    for version in 0..12 {
        backup(&home, "a", "kind=daily", version);
    }
    let policy = ["forget", "--keep-last", "1"];
    let says = "11 of the 12 snapshots";
    let dry = home.run(&[&policy[..], &["--dry-run"]].concat()).ok();
    assert!(dry.stderr.contains(says) && dry.stderr.contains("refused without --force"), "{}", dry.stderr);
    assert_eq!(dry.stdout.matches("would go").count(), 11, "{}", dry.stdout);
    let line = home.run(&policy).fails(2);
    assert!(line.contains(says) && line.contains("add --force"), "{line}");
    assert_eq!(left(&home), of(&[("a", 12)]));
    let dry = home.run(&[&policy[..], &["--dry-run", "--force"]].concat()).ok();
    assert!(!dry.stderr.contains("refused"), "{}", dry.stderr);
    home.run(&[&policy[..], &["--force"]].concat()).ok();
    assert_eq!(left(&home), of(&[("a", 1)]));
}

/// A check, a policy and `gc` every night: what is left is never the damaged one alone.
#[test]
fn what_a_check_has_found_damaged_takes_no_place_of_an_intact_one() {
    let home = Home::with_repository();
    let old = home.backup("h", &noise(1, 1 << 20));
    let before: Vec<_> = home.tree("repo/packs").into_keys().collect();
    let new = home.backup("h", &noise(2, 1 << 20));
    let pack = home.tree("repo/packs").into_keys().find(|pack| !before.contains(pack)).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&pack, bytes).unwrap();
    assert_eq!(home.run(&["check", "--read-data"]).code, 13);

    // Nor does a dry run of a restore say nothing of it.
    let dry = home.run(&["restore", &new, &home.text("out"), "--dry-run"]).ok();
    assert!(dry.stderr.contains(&format!("wherry check {new}")) && dry.stderr.contains("13"), "{}", dry.stderr);
    let dry = home.run(&["restore", &old, &home.text("out"), "--dry-run"]).ok();
    assert!(!dry.stderr.contains("damaged"), "{}", dry.stderr);

    let policy = ["forget", "--keep-last", "1", "--name", "h", "--delay", "0s", "--json"];
    let decided = |json: &Value| -> Vec<(String, String)> {
        let text = |view: &Value| (view["snapshot"].as_str().unwrap().to_owned(), view["reasons"].to_string());
        json.as_array().unwrap().iter().map(text).collect()
    };
    let want = [(new.clone(), r#"["damaged"]"#.to_owned()), (old.clone(), r#"["last"]"#.to_owned())];
    assert_eq!(decided(&home.run(&[&policy[..], &["--dry-run"]].concat()).ok().json()), want);
    assert_eq!(decided(&home.run(&policy).ok().json()), want);
    home.run(&["gc", "--grace", "0s", "--fence-after", "0s"]);
    home.run(&["restore", &old, &home.text("out"), "-q"]).ok();
    assert!(fs::read(home.path("out")).unwrap() == noise(1, 1 << 20));

    // What is noted that nobody can read keeps nobody from what the policy says.
    for note in home.tree("repo/checked").into_keys() {
        fs::write(note, "junk").unwrap();
    }
    let ran = home.run(&[&policy[..], &["--dry-run"]].concat()).ok();
    assert!(ran.stderr.contains("is damaged"), "{}", ran.stderr);
    assert_eq!(decided(&ran.json()), [(new, r#"["last"]"#.to_owned()), (old, "[]".to_owned())]);
}

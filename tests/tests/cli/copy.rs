//! `wherry copy` from outside: two repositories with keys of their own, what is said, and what is refused.

use super::harness::{Home, Ran, shape};
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;
const MIB: usize = 1 << 20;

/// A home with two repositories; the second one is in the folder `other`, its key in the file `other.key`.
fn home() -> Home {
    let home = Home::with_small_chunks();
    home.run(&["init", "-q", "--repo", "other", "--key-file", "other.key"]).ok();
    home
}

const TO: [&str; 4] = ["--to", "other", "--to-key-file", "other.key"];

fn copy(home: &Home, args: &[&str]) -> Ran {
    home.run(&[&["copy"], &TO[..], args].concat())
}

/// Runs a command on the second repository.
fn there(home: &Home, args: &[&str]) -> Ran {
    home.run(&[args, &["--repo", "other", "--key-file", "other.key"]].concat())
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    report["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v["snapshot"].as_str().unwrap(), v["state"].as_str().unwrap()))
        .collect()
}

#[test]
fn without_a_key_of_its_own_the_other_repository_opens_with_that_of_this_one() {
    let home = Home::with_small_chunks();
    home.run(&["init", "-q", "--repo", "same"]).ok();
    let id = home.backup("vm", &noise(1, MIB));
    let report = home.run(&["copy", "--to", "same", "--json"]).ok().json();
    assert_eq!(states(&report), [(&id[..], "copied")]);
}

#[test]
fn everything_is_copied_once_and_restores_from_the_copy() {
    let home = home();
    let mut disk = noise(1, 9 * MIB + 700);
    disk[MIB..2 * MIB].fill(0);
    let first = home.backup("vm", &disk);
    disk[5 * MIB] ^= 1;
    let second = home.backup("vm", &disk);
    fs::create_dir_all(home.path("tree/sub")).unwrap();
    home.write("tree/sub/file", noise(2, 100_000));
    home.write("tree/small", "small");
    let tree = home.run(&["backup", "tree", "--name", "home", "--tag", "a=b", "--json"]).ok().json();
    let tree = tree["snapshot"].as_str().unwrap();

    let report = copy(&home, &["--json"]).ok().json();
    let of_one = json!({
        "snapshot": "string", "volume": "string", "time": "string", "state": "string", "copy": "string", "parent": "null",
        "partial": "bool", "forgotten": "bool", "size": "int", "read": "int", "unchanged": "int", "known": "int",
        "new": "int", "stored": "int", "metadata": "int", "error": "null",
    });
    assert_eq!(shape(&report["snapshots"][0]), of_one);
    let mut whole = shape(&report);
    whole["snapshots"] = Value::Null;
    let expected = json!({
        "source": "string", "target": "string", "to": "string", "snapshots": null, "copied": "int", "present": "int",
        "failed": "int", "gone": "int", "read": "int", "stored": "int", "metadata": "int", "seconds": "float",
    });
    assert_eq!(whole, expected);
    assert_eq!(states(&report), [(&first[..], "copied"), (&second, "copied"), (tree, "copied")]);
    let change = &report["snapshots"][1];
    assert_eq!((&change["read"], &change["new"]), (&UNIT.into(), &UNIT.into()), "{change}");
    assert_eq!(change["parent"], report["snapshots"][0]["copy"]);

    there(&home, &["restore", change["copy"].as_str().unwrap(), "out.raw"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == disk);
    there(&home, &["restore", "latest:home", "out"]).ok();
    assert_eq!(fs::read(home.path("out/sub/file")).unwrap(), noise(2, 100_000));
    there(&home, &["check", "--read-data"]).ok();
    let shown = there(&home, &["show", "latest:home", "--json"]).ok().json();
    let mine = home.run(&["show", tree, "--json"]).ok().json();
    for field in ["time", "tags", "host", "source", "size", "volume", "engine"] {
        assert_eq!(shown[field], mine[field], "{field}");
    }
    assert_eq!(shown["origin"], json!({ "repository": report["source"], "snapshot": tree }));
    assert_eq!(mine["origin"], Value::Null);
    let text = there(&home, &["show", "latest:home"]).ok().stdout;
    assert!(text.contains(&format!("{tree} of the repository {}", report["source"].as_str().unwrap())), "{text}");

    // Again, with nothing kept of what the target has: it is in the target.
    fs::remove_dir_all(home.path("cache")).unwrap();
    let before = home.tree("other/packs").len();
    let again = copy(&home, &["--json"]).ok().json();
    assert_eq!((&again["copied"], &again["present"], &again["stored"]), (&0.into(), &3.into(), &0.into()), "{again}");
    // A disk that did not change costs no data, with no cache either.
    let third = home.backup("vm", &disk);
    let report = copy(&home, &["--json", "--no-cache", &third]).ok().json();
    assert_eq!((&report["copied"], &report["read"], &report["stored"]), (&1.into(), &0.into(), &0.into()), "{report}");
    assert_eq!(home.tree("other/packs").len(), before);
    let text = copy(&home, &[]).ok().stdout;
    assert!(text.contains("was there") && text.contains("0 copied, 4 were there, 0 failed"), "{text}");
}

#[test]
fn which_ones_are_copied_is_said_by_name_tag_or_snapshot() {
    let home = home();
    let image = home.write("a.raw", noise(3, 2 * UNIT));
    let made = |name: &str, tag: &str| {
        let json = home.run(&["backup", &image, "--name", name, "--tag", tag, "--json"]).ok().json();
        json["snapshot"].as_str().unwrap().to_owned()
    };
    let (a, b, gone) = (made("a", "x=1"), made("b", "x=2"), made("a", "x=3"));
    home.run(&["forget", &gone, "-q"]).ok();
    let of = |args: &[&str]| -> Vec<String> {
        let report = copy(&home, &[&["--json"], args].concat()).ok().json();
        states(&report).into_iter().map(|(id, _)| id.to_owned()).collect()
    };
    assert_eq!(of(&["--tag", "x=2"]), [&b[..]]);
    assert_eq!(of(&["--name", "a"]), [&a[..]], "what is forgotten is not copied");
    assert_eq!(of(&[&gone[..12], "latest:b"]), [&b[..], &gone], "unless it is named");
    assert_eq!(of(&["--name", "c"]), [""; 0]);
    assert_eq!(of(&[]), [&a[..], &b]);
    // What was forgotten at the target is there until it is gone for good.
    let copied =
        there(&home, &["snapshots", "--name", "b", "--json"]).ok().json()[0]["snapshot"].as_str().unwrap().to_owned();
    there(&home, &["forget", &copied, "-q"]).ok();
    let report = copy(&home, &["--json", &b]).ok().json();
    assert_eq!((states(&report)[0].1, &report["snapshots"][0]["forgotten"]), ("present", &true.into()));
}

#[test]
fn what_cannot_be_copied_is_refused_before_anything_is_written() {
    let home = home();
    home.backup("vm", &noise(4, UNIT));
    home.write("empty", "");
    home.write("wrong.key", "0123456789abcdef".repeat(4));
    let before = (home.tree("repo"), home.tree("other"));
    for (args, code, words) in [
        (&["copy"][..], 2, &["--to"][..]),
        (&["copy", "--to", "repo", "--to-key-file", "key"], 2, &["is the repository that is copied from"]),
        (&["copy", "--to", "other"], 12, &["--to-password-file", "--to-key-file", "WHERRY_TO_PASSWORD"]),
        (&["copy", "--to", "other", "--to-key-file", "wrong.key"], 12, &["wrong key file"]),
        (&["copy", "--to", "other", "--to-key-file", "none"], 12, &["none"]),
        (&["copy", "--to", "other", "--to-key-file", "a", "--to-password-file", "b"], 2, &["at once"]),
        (&["copy", "--to", "nowhere", "--to-key-file", "other.key"], 10, &["nowhere", "wherry init"]),
        (&["copy", "--to", "ftp://x/y", "--to-key-file", "other.key"], 2, &["ftp://x/y"]),
        (&["copy", "--to", "other", "--to-key-file", "other.key", "latest:none"], 14, &["none"]),
        (&["copy", "--to", "other", "--to-password", "hunter2"], 2, &["--to-password"]),
    ] {
        let line = home.run(args).ends(code);
        assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
    }
    assert!((home.tree("repo"), home.tree("other")) == before);
    // The environment, where the password wins over the key file, as for the other repository.
    let with = |name: &str, value: &str| {
        let mut command = home.command();
        command.env("WHERRY_TO_KEY_FILE", "other.key").env(name, value).args(["copy", "--to", "other"]);
        Ran::from(command.output().unwrap())
    };
    let line = with("WHERRY_TO_PASSWORD", "guess").ends(12);
    assert!(line.contains("password") && !line.contains("guess"), "{line}");
    with("X", "").ok();
}

#[test]
fn a_damaged_snapshot_is_not_copied_and_all_others_are() {
    let home = home();
    let good = home.backup("good", &noise(5, 3 * UNIT));
    let packs = home.tree("repo/packs");
    let bad = home.backup("bad", &noise(6, 3 * UNIT));
    for (path, mut bytes) in home.tree("repo/packs").into_iter().filter(|(path, _)| !packs.contains_key(path)) {
        bytes[300] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let ran = copy(&home, &["--json"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    let report = ran.json();
    assert_eq!(states(&report), [(&good[..], "copied"), (&bad, "failed")]);
    assert!(report["snapshots"][1]["error"].as_str().unwrap().contains("cannot be read"), "{report}");
    assert_eq!(report["snapshots"][1]["copy"], Value::Null);
    let listed = there(&home, &["snapshots", "--json"]).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "a damaged snapshot looks whole at the target");
    there(&home, &["check", "--read-data"]).ok();
    let ran = copy(&home, &[]);
    assert!(ran.code == 13 && ran.stdout.contains("FAILED"), "{}", ran.stdout);
}

#[test]
fn a_record_that_cannot_be_read_is_damage_whichever_repository_has_it() {
    let home = home();
    let made = ["a", "b"].map(|name| home.backup(name, &noise(8, UNIT)));
    copy(&home, &["--name", "a"]).ok();
    let flip = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    for path in home.tree("other/snap").keys() {
        flip(path);
    }
    let ran = copy(&home, &["--name", "b"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    assert!(ran.stderr.contains("in other, which is copied into"), "{}", ran.stderr);
    assert!(ran.stdout.contains("1 copied"), "{}", ran.stdout);
    // By its id, as everywhere else.
    let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(&made[0])).unwrap();
    flip(&record);
    let line = copy(&home, &[&made[0]]).ends(13);
    assert!(line.contains("cannot be read"), "{line}");
}

#[test]
fn a_killed_copy_goes_on_and_sends_nothing_twice() {
    let home = home();
    let disk = noise(7, 48 * MIB);
    home.backup("vm", &disk);
    let mut command = home.command();
    command.args(["copy"]).args(TO).args(["--limit-upload", "16M", "--memory", "64M", "--compression", "none"]);
    let mut running = home.started(command.stdout(Stdio::null()).spawn().unwrap());
    running.until("a pack is there", || home.tree("other/packs").len() >= 2);
    assert!(!running.kill(), "it had ended before");
    let stored: usize = home.tree("other/packs").values().map(Vec::len).sum();
    assert_eq!(there(&home, &["snapshots", "--json"]).ok().json(), json!([]));
    let report = copy(&home, &["--json", "--compression", "none"]).ok().json();
    let sent = report["stored"].as_u64().unwrap() as usize;
    assert!(sent + stored < disk.len() + disk.len() / 8, "{sent} after {stored}");
    there(&home, &["restore", "latest", "out.raw"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == disk);
    there(&home, &["check", "--read-data"]).ok();
}

//! `key rotate`, `upgrade` and `repair` from outside.

use super::harness::{Home, Ran, shape};
use serde_json::{Value, json};
use std::fs;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;

fn features(home: &Home) -> (Value, Value) {
    let newest = home.tree("repo/config").into_iter().max().unwrap().1;
    let json: Value = serde_json::from_slice(&newest).unwrap();
    (json["read"].clone(), json["gc"].clone())
}

#[test]
fn rotated_keys_open_old_and_new_with_every_slot() {
    let home = Home::with_small_chunks();
    let old = home.backup("vm", &noise(1, 3 * UNIT));
    home.run(&["key", "add", "--new-key-file", "second"]).ok();
    let secret = home.write("pw", "correct horse battery staple");
    home.run(&["key", "add", "--new-password-file", &secret]).ok();
    let before = home.tree("repo");
    for args in [
        &["key", "rotate"][..],
        &["key", "rotate", "--slot-key-file", "second"],
        &["key", "rotate", "--slot-password-file", "pw"],
        &["key", "rotate", "--slot-key-file", "second", "--slot-key-file", "key"],
    ] {
        let line = home.run(args).ends(2);
        assert!(
            line.contains("key slot") && line.contains("--slot-key-file") && line.contains("nothing was changed"),
            "{line}"
        );
    }
    home.run(&["key", "rotate", "--rewrite", "--slot-key-file", "second"]).ends(2);
    home.run(&["key", "rotate", "--slot-key-file", "none"]).ends(12);
    assert!(home.tree("repo") == before);

    let all = ["key", "rotate", "--slot-key-file", "second", "--slot-password-file", "pw"];
    let report = home.run(&[&all[..], &["--json"]].concat()).ok().json();
    assert_eq!(shape(&report), json!({ "epoch": "int", "slots": ["string", "string", "string"], "left_out": [] }));
    assert_eq!(report["epoch"], 1);
    assert_eq!(features(&home), (json!(["epochs"]), json!([])));
    let new = home.backup("vm", &noise(2, 3 * UNIT));
    let text = home.run(&all).ok().stdout;
    assert!(text.contains("key epoch 2") && text.matches("opens old and new").count() == 3, "{text}");
    let newest = home.backup("vm", &noise(3, 3 * UNIT));
    for credential in [&["--key-file", "key"][..], &["--key-file", "second"], &["--password-file", "pw"]] {
        for (id, seed) in [(&old, 1), (&new, 2), (&newest, 3)] {
            let _ = fs::remove_file(home.path("out"));
            home.run(&[&["restore", id, "out"], credential].concat()).ok();
            assert!(fs::read(home.path("out")).unwrap() == noise(seed, 3 * UNIT), "{credential:?} {seed}");
        }
    }
    home.run(&["check", "--read-data"]).ok();
    home.run(&["key", "passwd", "--new-key-file", "third"]).ok();
    home.run(&["cat", &newest, "--key-file", "third"]).ok();
}

#[test]
fn an_upgrade_asks_nothing_and_is_done_once() {
    let home = Home::with_repository();
    let id = home.backup("vm", b"content");
    let report = home.run(&["upgrade", "--json"]).ok().json();
    let feature = json!({ "feature": "string", "set": "string" });
    let expected = json!({ "repository": "string", "minor": "int", "added": null, "features": null });
    let mut of = shape(&report);
    assert!(of["added"].as_array().unwrap().iter().all(|view| *view == feature), "{of}");
    assert_eq!(report["added"], report["features"]);
    (of["added"], of["features"]) = (Value::Null, Value::Null);
    assert_eq!(of, expected);
    assert_eq!(features(&home), (json!(["tree", "tree-map", "epochs"]), json!(["pin"])));
    let before = home.tree("repo");
    let text = home.run(&["upgrade"]).ok().stdout;
    assert!(text.contains("nothing to add"), "{text}");
    assert!(home.tree("repo") == before);
    assert_eq!(home.run(&["cat", &id]).ok().stdout, "content");
    let other = Home::with_repository();
    let text = other.run(&["upgrade"]).ok().stdout;
    assert!(text.contains("added tree: versions that do not know it refuse to open"), "{text}");
    assert!(text.contains("added pin: ") && text.contains("delete nothing"), "{text}");
}

#[test]
fn a_repair_makes_the_index_again_and_no_damage_look_mended() {
    let home = Home::with_small_chunks();
    let good = home.backup("good", &noise(4, 4 * UNIT));
    let packs = home.tree("repo/packs");
    let bad = home.backup("bad", &noise(5, 4 * UNIT));
    let report = home.run(&["repair", "--json"]).ok().json();
    let index = json!({
        "segments": "int", "damaged": [], "packs": "int", "rebuilt": "int", "chunks": "int", "unreadable": [],
    });
    assert_eq!(shape(&report["index"]), index);
    assert_eq!((&report["check"]["clean"], &report["index"]["rebuilt"]), (&true.into(), &0.into()));

    // A segment that is damaged and one that is gone.
    let segments: Vec<_> = home.tree("repo/idx").into_keys().collect();
    fs::write(&segments[0], b"junk").unwrap();
    fs::remove_file(&segments[1]).unwrap();
    assert_eq!(home.run(&["check"]).code, 13);
    let ran = home.run(&["repair"]).ok();
    assert!(ran.stdout.contains("1 damaged and replaced; 2 of 2 packs named anew (8 chunks)"), "{}", ran.stdout);
    home.run(&["check", "--read-data"]).ok();
    // A new cache finds all of it by the segments.
    fs::remove_dir_all(home.path("cache")).unwrap();
    let image = home.write("again", noise(4, 4 * UNIT));
    let json = home.run(&["backup", &image, "--name", "other", "--json"]).ok().json();
    assert_eq!((&json["known"], &json["new"]), (&(4 * UNIT).into(), &0.into()), "{json}");

    // What is lost is named, and stays so.
    let lost = home.tree("repo/packs").into_keys().find(|path| !packs.contains_key(path)).unwrap();
    fs::remove_file(&lost).unwrap();
    for _ in 0..2 {
        let ran = home.run(&["repair", "--json"]);
        assert_eq!(ran.code, 13, "{}", ran.stderr);
        let hit = &ran.json()["check"]["damages"][0]["hits"][0];
        assert_eq!((&hit["snapshot"], &hit["bytes"]), (&bad.clone().into(), &(4 * UNIT).into()), "{hit}");
    }
    let ran = home.run(&["repair"]);
    assert!(
        ran.code == 13 && ran.stdout.contains("next backup") && ran.stdout.contains("stays damaged"),
        "{}",
        ran.stdout
    );
    assert_eq!(home.run(&["restore", &bad, "out.raw"]).code, 13);
    home.run(&["restore", &good, "good.out"]).ok();
    // And a backup that still finds it heals the snapshot that was hit (W8).
    home.backup("bad", &noise(5, 4 * UNIT));
    home.run(&["repair", "--read-data"]).ok();
    let _ = fs::remove_file(home.path("out.raw"));
    home.run(&["restore", &bad, "out.raw"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == noise(5, 4 * UNIT));
}

#[test]
fn a_repair_promises_nothing_where_nothing_is_lost() {
    let home = Home::with_small_chunks();
    let gone = home.backup("vm", &noise(6, 4 * UNIT));
    home.backup("vm", &noise(7, 4 * UNIT));
    home.run(&["forget", &gone, "--delay", "0s", "-q"]).ok();
    home.run(&["gc", "--grace", "0s", "--fence-after", "0s"]).ok();
    let list = home.path("repo/gc/gen/00000001");
    let mut bytes = fs::read(&list).unwrap();
    bytes[40] ^= 1;
    fs::write(&list, bytes).unwrap();
    let ran = home.run(&["repair"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    assert!(ran.stdout.contains("backups and `wherry gc` refuse to work"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("What is lost"), "{}", ran.stdout);
    // The way out it names takes what it says that it takes.
    for words in ["that are not forgotten", "`wherry unforget` the others first", "`wherry pin` the copies"] {
        assert!(ran.stdout.contains(words), "{}", ran.stdout);
    }
}

#[test]
fn who_may_not_write_repairs_and_upgrades_nothing() {
    let home = Home::with_repository();
    home.run(&["repair", "surplus"]).fails(2);
    home.run(&["upgrade", "surplus"]).fails(2);
    let bare = |args: &[&str]| Ran::from(home.bare().args(args).args(["--repo", "repo"]).output().unwrap());
    for args in [&["repair"][..], &["upgrade"], &["key", "rotate"]] {
        assert!(bare(args).ends(12).contains("no password"));
        home.run(&[args, &["--repo", "nowhere"]].concat()).ends(10);
    }
}

//! Pinned snapshots: what keeps them, what shows them, and how they are let go.

use super::harness::Home;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Ids of the snapshots that are not forgotten, oldest first, with whether each is pinned.
fn listed(home: &Home) -> Vec<(String, bool)> {
    let list = home.run(&["snapshots", "--json"]).ok().json();
    let view = |s: &serde_json::Value| (s["snapshot"].as_str().unwrap().to_owned(), s["pinned"].as_bool().unwrap());
    list.as_array().unwrap().iter().map(view).collect()
}

#[test]
fn a_pinned_snapshot_stays_whatever_is_forgotten_until_it_is_unpinned() {
    let home = Home::with_repository();
    let ids = [1, 2, 3].map(|n| home.backup("vm", format!("version {n}").as_bytes()));
    let [a, b, c] = ids.each_ref();
    let ran = home.run(&["pin", a, &a[..8], "--json"]).ok();
    assert_eq!(ran.json(), json!([{ "snapshot": a, "volume": "vm", "pinned": true, "changed": true }]));
    assert!(home.run(&["pin", a]).ok().stdout.contains("was pinned before"));
    assert_eq!(listed(&home), [(a.clone(), true), (b.clone(), false), (c.clone(), false)]);
    let text = home.run(&["snapshots"]).ok().stdout;
    assert_eq!(text.matches("pinned").count(), 1, "{text}");
    assert_eq!(home.run(&["show", a, "--json"]).ok().json()["pinned"], true);
    assert!(home.run(&["show", a]).ok().stdout.contains("pinned      yes\n"));

    // By name: all or nothing, and what to do is said.
    let line = home.run(&["forget", b, a]).fails(2);
    assert!(line.contains(&format!("wherry unpin {a}")) && line.contains("nothing was forgotten"), "{line}");
    home.run(&["forget", a, "--dry-run"]).fails(2);
    assert_eq!(listed(&home).len(), 3);

    // By a policy.
    let ran = home.run(&["forget", "--keep-last", "1", "--dry-run"]).ok();
    let rows: Vec<_> = ran.stdout.lines().skip(1).map(|line| line.split("  ").last().unwrap().trim()).collect();
    assert_eq!(rows, ["last", "no rule keeps it", "pinned"], "{}", ran.stdout);
    let json = home.run(&["forget", "--keep-last", "1", "--json"]).ok().json();
    let of = |n: usize| (&json[n]["keep"], &json[n]["reasons"], &json[n]["dropped"], &json[n]["forgotten"]);
    assert_eq!(of(0), (&true.into(), &json!(["last"]), &json!(null), &false.into()));
    assert_eq!(of(1), (&false.into(), &json!([]), &json!("unmatched"), &true.into()));
    assert_eq!(of(2), (&true.into(), &json!(["pinned"]), &json!(null), &false.into()));
    assert_eq!(listed(&home), [(a.clone(), true), (c.clone(), false)]);

    let line = home.run(&["pin", b]).fails(2);
    assert!(line.contains("forgotten") && line.contains("wherry unforget"), "{line}");
    assert!(home.run(&["unpin", a]).ok().stdout.contains("not pinned any more"));
    assert!(home.run(&["unpin", a]).ok().stdout.contains("was not pinned"));
    let json = home.run(&["forget", a, "--json"]).ok().json();
    assert_eq!((&json[0]["dropped"], &json[0]["forgotten"]), (&json!("named"), &true.into()));
    assert_eq!(listed(&home), [(c.clone(), false)]);
    home.run(&["check"]).ok();
}

#[test]
fn what_cannot_be_pinned_is_refused_and_nothing_is_written() {
    let home = Home::with_repository();
    let id = home.backup("vm", b"content");
    let before = home.tree("repo");
    for what in ["pin", "unpin"] {
        home.run(&[what, &id, &"0".repeat(32)]).fails(14);
        home.run(&[what, &id, "latest:other"]).fails(14);
        home.run(&[what, "abc"]).fails(2);
        home.run(&[what]).fails(2);
    }
    assert_eq!(home.tree("repo"), before);
}

/// One bit of a pin or its end is another one.
fn spoil(home: &Home, id: &str, part: &str) -> PathBuf {
    let at = home.path(&format!("repo/pin/{id}/00000000-{part}"));
    let mut bytes = fs::read(&at).unwrap();
    bytes[20] ^= 1;
    fs::write(&at, bytes).unwrap();
    at
}

/// What a check says of the one pin that is damaged.
#[track_caller]
fn advice(home: &Home, id: &str, part: &str) -> String {
    let ran = home.run(&["check", "--json"]);
    assert_eq!(ran.code, 13, "{}", ran.stderr);
    let damages = ran.json()["damages"].as_array().unwrap().clone();
    let [damage] = &damages[..] else { panic!("{damages:?}") };
    assert_eq!(damage["object"], format!("pin/{id}/00000000-{part}"));
    damage["advice"].as_str().unwrap().to_owned()
}

#[test]
fn check_names_a_pin_that_is_damaged_and_the_snapshot_stays_pinned() {
    let home = Home::with_repository();
    let id = home.backup("vm", b"content");
    home.run(&["pin", &id]).ok();
    spoil(&home, &id, "pinned");
    let said = advice(&home, &id, "pinned");
    assert!(said.contains("counts as pinned") && said.contains("`wherry unpin`, then `wherry pin`"), "{said}");
    assert_eq!(listed(&home), [(id.clone(), true)]);
    home.run(&["forget", &id]).fails(2);
    // As check says.
    home.run(&["unpin", &id]).ok();
    home.run(&["check"]).ok();
    home.run(&["pin", &id]).ok();
    home.run(&["check"]).ok();
    assert_eq!(listed(&home), [(id.clone(), true)]);
}

/// Damage drops no pin, and its key is taken for ever: the way out is to take the object away.
#[test]
fn the_end_of_a_pin_that_is_damaged_has_a_way_out() {
    let home = Home::with_repository();
    let id = home.backup("vm", b"content");
    for what in ["pin", "unpin"] {
        home.run(&[what, &id]).ok();
    }
    let at = spoil(&home, &id, "unpinned");
    assert_eq!(listed(&home), [(id.clone(), true)]);
    home.run(&["forget", &id]).ends(2);
    let said = home.run(&["unpin", &id]).ends(13);
    for said in [said, advice(&home, &id, "unpinned")] {
        assert!(said.contains("bring the object back from a copy of the repository, or move it away"), "{said}");
        assert!(said.contains("wherry unpin"), "{said}");
    }
    fs::rename(&at, home.path("aside")).unwrap();
    home.run(&["unpin", &id]).ok();
    home.run(&["check"]).ok();
    home.run(&["forget", &id]).ok();
}

/// It keeps `gc` from deleting anything until somebody gives it up.
#[test]
fn a_pinned_snapshot_whose_record_is_damaged_can_be_given_up() {
    for is_pin_damaged in [false, true] {
        let home = Home::with_repository();
        let id = home.backup("vm", b"content");
        home.backup("other", b"other");
        home.run(&["pin", &id]).ok();
        let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(&id)).unwrap();
        let mut bytes = fs::read(&record).unwrap();
        bytes[20] ^= 1;
        fs::write(&record, bytes).unwrap();
        if is_pin_damaged {
            spoil(&home, &id, "pinned");
        }
        let line = home.run(&["gc"]).ends(13);
        assert!(line.contains(&format!("wherry forget {id}")), "{line}");
        let line = home.run(&["forget", &id]).ends(2);
        assert!(line.contains(&format!("wherry unpin {id}")), "{line}");
        // It cannot be pinned, and by the beginning of its id it is not told from others.
        home.run(&["pin", &id]).ends(13);
        for what in ["forget", "unpin"] {
            let line = home.run(&[what, &id[..8]]).ends(13);
            assert!(line.contains("all 32 digits") && line.contains(&format!("wherry forget {id}")), "{line}");
        }
        let ran = home.run(&["unpin", &id, "--json"]).ok();
        assert_eq!((&ran.json()[0]["snapshot"], &ran.json()[0]["changed"]), (&json!(id), &json!(true)));
        home.run(&["forget", &id, "--delay", "0s"]).ok();
        home.run(&["gc"]).ok();
        home.run(&["check"]).ok();
    }
}

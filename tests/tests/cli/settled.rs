//! Forgets that are damaged: what is said of them, and that the way out which is named is one.

use super::harness::Home;
use std::fs;
use wherry_tests::small::noise;

const MIB: usize = 1 << 20;
const AT_ONCE: [&str; 5] = ["gc", "--grace", "0s", "--fence-after", "0s"];

/// One bit of an object is another one.
fn spoil(home: &Home, object: &str) {
    let at = home.path(&format!("repo/{object}"));
    let mut bytes = fs::read(&at).unwrap();
    bytes[20] ^= 1;
    fs::write(&at, bytes).unwrap();
}

fn forget(home: &Home, id: &str) {
    home.run(&["forget", id, "--delay", "0s", "-q"]).ok();
}

/// What a check finds damaged.
#[track_caller]
fn damaged(home: &Home) -> Vec<String> {
    let ran = home.run(&["check", "--json"]);
    let found: Vec<_> = ran.json()["damages"].as_array().unwrap().clone();
    assert_eq!(ran.code, if found.is_empty() { 0 } else { 13 }, "{}", ran.stderr);
    found.iter().map(|damage| damage["object"].as_str().unwrap().to_owned()).collect()
}

/// Its record went with a collector, and its pack stayed, as another snapshot needed it. Then nobody can read any more that it was forgotten
/// for good: its session has no outcome, and what is left of it is kept.
#[test]
fn a_verdict_that_is_damaged_when_the_record_is_gone_is_given_up_by_its_id() {
    let home = Home::with_repository();
    let disk = noise(1, 3 * MIB);
    let first = home.backup("vm", &disk);
    let second = home.backup("vm", &disk);
    let third = home.backup("other", &noise(2, MIB));
    let packs = |home: &Home| home.tree("repo/packs").len();
    let before = packs(&home);
    forget(&home, &first);
    home.run(&AT_ONCE).ok();
    assert!(!home.tree("repo/snap").into_keys().any(|path| path.ends_with(&first)), "its record is gone");
    assert_eq!(packs(&home), before, "its pack is needed");
    spoil(&home, &format!("forget/{first}/00000000-settled"));
    forget(&home, &second);
    for _ in 0..3 {
        home.run(&AT_ONCE).ok();
    }
    assert_eq!(packs(&home), before, "nobody knows that it may go");
    assert_eq!(damaged(&home), [format!("forget/{first}/00000000-settled")]);

    // As check says. Nothing but the whole id will do.
    home.run(&["forget", &first[..12]]).ends(14);
    assert!(home.run(&["forget", &first, "--dry-run"]).ok().stdout.contains("would be given up"));
    let said = home.run(&["forget", &first]).ok().stdout;
    assert!(said.contains(&format!("{first} is given up: ")), "{said}");
    assert!(home.run(&["forget", &first]).ok().stdout.contains("was given up before"));
    // Asked for with a delay, it can go sooner.
    forget(&home, &first);
    home.run(&AT_ONCE).ok();
    assert!(packs(&home) < before, "its pack is gone");
    assert_eq!(damaged(&home), [""; 0]);
    home.run(&["forget", &first]).ends(14);
    home.run(&["check", "--read-data"]).ok();
    assert!(home.run(&["snapshots"]).ok().stdout.contains(&third[..8]));
}

/// What became of it can be read, and that alone counts.
#[test]
fn a_damaged_forget_that_was_settled_is_no_damage() {
    for undone in [false, true] {
        let home = Home::with_repository();
        let id = home.backup("vm", b"content");
        home.backup("vm", b"other content");
        forget(&home, &id);
        match undone {
            true => drop(home.run(&["unforget", &id]).ok()),
            false => drop(home.run(&AT_ONCE).ok()),
        }
        spoil(&home, &format!("forget/{id}/00000000-asked"));
        assert_eq!(damaged(&home), [""; 0], "undone: {undone}");
        home.run(&["repair"]).ok();
        assert_eq!(home.run(&["show", &id]).code, if undone { 0 } else { 14 });
    }
}

/// It can neither become final nor be read, and each of the ways out ends that.
#[test]
fn a_damaged_forget_that_is_not_settled_is_named_until_it_is() {
    for back in [true, false] {
        let home = Home::with_repository();
        let id = home.backup("vm", b"content");
        home.backup("vm", b"other content");
        home.run(&["forget", &id]).ok();
        spoil(&home, &format!("forget/{id}/00000000-asked"));
        for _ in 0..2 {
            assert_eq!(damaged(&home), [format!("forget/{id}/00000000-asked")]);
            home.run(&AT_ONCE).ok();
        }
        match back {
            true => drop(home.run(&["unforget", &id]).ok()),
            false => {
                forget(&home, &id);
                assert_eq!(damaged(&home), [""; 0], "there is another one, which can be read");
                home.run(&AT_ONCE).ok();
            }
        }
        assert_eq!(damaged(&home), [""; 0], "back: {back}");
        let listed = home.run(&["snapshots", "--json"]).ok().json();
        assert_eq!(listed.as_array().unwrap().len(), if back { 2 } else { 1 });
    }
}

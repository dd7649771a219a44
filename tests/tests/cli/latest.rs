//! `latest` beside records that cannot be read, and after clocks that were wrong: what may be older than the newest is never given for it.

use super::harness::Home;
use std::fs;
use std::sync::Arc;
use wherry_repo::storage::Local;
use wherry_repo::{Components, Credential, ParentChoice, Repository, System, WriterOptions};
use wherry_tests::small::{Ahead, backup_with, components, index, options};

/// Spoils the record of a snapshot.
fn damage(home: &Home, id: &str) {
    let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(id)).unwrap();
    fs::write(record, "damaged").unwrap();
}

#[test]
fn latest_is_13_where_a_record_that_may_be_newer_cannot_be_read() {
    let home = Home::with_repository();
    let (old, new) = (home.backup("vm", b"old"), home.backup("vm", b"new"));
    damage(&home, &new);
    for args in [
        &["restore", "latest:vm", "out", "-q"][..],
        &["restore", "latest", "out", "-q"],
        &["cat", "latest:vm", "-q"],
        &["show", "latest:vm"],
        &["check", "latest:vm"],
    ] {
        let line = home.run(args).ends(13);
        for word in [&old, &new, "cannot be read", "by its id", "wherry forget"] {
            assert!(line.contains(word), "{args:?}: {word:?} is not in {line}");
        }
    }
    assert!(!home.path("out").exists());
    assert_eq!(home.run(&["cat", &old]).ok().stdout, "old");
    // What is built upon is no answer to anybody: an older parent costs time.
    let ran =
        home.run(&["backup", &home.write("image", "third"), "--name", "vm", "--parent", "latest:vm", "--json"]).ok();
    assert!(ran.stderr.contains(&new) && ran.json()["parent"] == old.as_str(), "{ran:?}");
    // Of two that are not built one upon the other nobody knows which is newer.
    home.run(&["cat", "latest:vm", "-q"]).ends(13);
    home.run(&["forget", &new, "-q"]);
    assert_eq!(home.run(&["cat", "latest:vm"]).ok().stdout, "third");
}

#[test]
fn latest_is_told_where_the_damaged_one_is_older_or_another_volume_s() {
    let home = Home::with_repository();
    let (old, _) = (home.backup("vm", b"old"), home.backup("vm", b"new"));
    let other = home.backup("other", b"content");
    // The next one was built upon it.
    damage(&home, &old);
    assert_eq!(home.run(&["cat", "latest:vm"]).ok().stdout, "new");
    damage(&home, &other);
    assert_eq!(home.run(&["cat", "latest:vm"]).ok().stdout, "new");
    // Nothing of that volume can be read, which is not the same as that there is none.
    let line = home.run(&["cat", "latest:other"]).fails(13);
    assert!(line.contains(&other) && line.contains("other"), "{line}");
    home.run(&["cat", "latest:none"]).fails(14);
    let line = home.run(&["cat", "latest"]).fails(13);
    assert!(line.contains(&other), "{line}");
}

const YEAR: i64 = 365 * 86_400 * 1_000_000_000;

/// A backup by a host with such a clock, on this parent; gives the id.
fn backup_at(home: &Home, ahead: i64, content: &[u8], parent: Option<&str>) -> String {
    let key = fs::read_to_string(home.path("key")).unwrap().trim().as_bytes().to_vec();
    let clock = Arc::new(Ahead(ahead));
    let storage = Arc::new(Local::new(home.path("repo"), false));
    let parts = Components { clock, rng: Arc::new(System::default()), ..components(storage) };
    let repository = Repository::open(parts, &Credential::KeyFile(key.into())).unwrap();
    let parent = parent.map_or(ParentChoice::None, |id| ParentChoice::Snapshot(id.parse().unwrap()));
    let options = WriterOptions { parent, ..options("p") };
    backup_with(&repository, index(), &options, content).unwrap().id.to_string()
}

/// Each command that takes `latest` names both, and does nothing; by its id each is there.
#[track_caller]
fn is_open(home: &Home, both: [&str; 2], says: &str) {
    for args in [
        &["restore", "latest:p", "out", "-q"][..],
        &["restore", "latest", "out", "-q"],
        &["cat", "latest:p"],
        &["show", "latest:p"],
        &["ls", "latest:p"],
        &["check", "latest:p"],
        &["diff", both[0], "latest:p"],
        &["pin", "latest:p"],
        &["forget", "latest:p"],
    ] {
        let line = home.run(args).fails(2);
        for word in [both[0], both[1], says, "could be", "by its id"] {
            assert!(line.contains(word), "{args:?}: {word:?} is not in {line}");
        }
    }
    assert!(!home.path("out").exists());
    for id in both {
        home.run(&["show", id]).ok();
    }
    // What is built upon costs time and no data.
    let image = home.write("image", "third");
    home.run(&["backup", &image, "--name", "p", "--parent", "latest:p", "--json"]).ok();
    home.run(&["backup", &image, "--name", "p", "--json"]).ok();
}

#[test]
fn latest_after_one_from_the_future_names_both() {
    for built_upon_it in [false, true] {
        let home = Home::with_repository();
        let ahead = backup_at(&home, YEAR, b"p1", None);
        // The only one is the newest, whatever its time.
        assert_eq!(home.run(&["cat", "latest:p"]).ok().stdout, "p1");
        let right = backup_at(&home, 0, b"p2", built_upon_it.then_some(&ahead));
        is_open(&home, [&ahead, &right], "which has not come yet");
    }
}

#[test]
fn latest_that_has_a_time_to_come_is_not_told_beside_others() {
    let home = Home::with_repository();
    let right = backup_at(&home, 0, b"p1", None);
    let ahead = backup_at(&home, YEAR, b"p2", None);
    // What was forgotten may not be meant.
    home.run(&["forget", &right]).ok();
    assert_eq!(home.run(&["cat", "latest:p"]).ok().stdout, "p2");
    home.run(&["unforget", &right]).ok();
    is_open(&home, [&ahead, &right], "which has not come yet");
    home.run(&["forget", &ahead]).ok();
    assert_eq!(home.run(&["cat", "latest:p"]).ok().stdout, "third");
}

#[test]
fn latest_that_another_one_was_built_upon_by_a_clock_that_was_behind_names_both() {
    let home = Home::with_repository();
    let before = backup_at(&home, 0, b"p1", None);
    let between = backup_at(&home, -2 * YEAR, b"p2", Some(&before));
    let behind = backup_at(&home, -YEAR, b"p3", Some(&between));
    home.run(&["forget", &between]).ok();
    is_open(&home, [&before, &behind], "made after it");
    // The next one is newer than all of them.
    assert_eq!(home.run(&["cat", "latest:p"]).ok().stdout, "third");
    // An older one that nothing was built upon is no doubt.
    backup_at(&home, -YEAR, b"p4", None);
    assert_eq!(home.run(&["cat", "latest:p"]).ok().stdout, "third");
}

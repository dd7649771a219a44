//! `latest` beside records that cannot be read: what may be older than the newest is never given for it.

use super::harness::Home;
use std::fs;

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

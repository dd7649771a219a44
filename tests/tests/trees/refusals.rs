//! What is refused before anything is done.

use super::{backup, files, has};
use crate::harness::Home;
use std::fs;
use wherry_tests::trees::{assert_same, list};

fn home() -> Home {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("a", b"1"), ("d/b", b"2")]);
    home
}

#[test]
fn flags_of_the_other_kind_are_refused_when_backing_up() {
    let home = home();
    home.write("disk", vec![1; 4096]);
    home.write("list", "0 4096\n");
    for flags in [
        &["--exclude", "x"][..],
        &["--exclude-caches"],
        &["--exclude-if-present", "x"],
        &["--all-filesystems"],
        &["--ignore-inode"],
        &["--force-read"],
    ] {
        let line = home.run(&[&["backup", "disk", "--name", "x"], flags].concat()).fails(2);
        has(&line, &[flags[0], "directories"]);
    }
    has(&home.run(&["backup", "tree", "--changed-blocks", "list"]).fails(2), &["--changed-blocks", "directory"]);
    has(&home.run(&["backup", "tree/none", "--name", "x"]).fails(2), &["tree/none", "does not exist"]);
    for memory in ["64M", "127M"] {
        let line = home.run(&["backup", "tree", "--name", "x", "--memory", memory]).fails(2);
        has(&line, &["--memory", memory, "128M"]);
    }
    home.run(&["backup", "tree", "--name", "x", "--memory", "128M", "-q"]).ok();
    assert_eq!(home.snapshots(), 1);
}

#[test]
fn flags_of_the_other_kind_are_refused_when_restoring() {
    let home = home();
    home.backup("disk", &[1; 4096]);
    backup(&home, "tree", &[]);
    for flags in [&["a"][..], &["--overwrite", "never"], &["--delete"], &["--numeric-ids"]] {
        let line = home.run(&[&["restore", "latest:disk", "out"], flags].concat()).fails(2);
        has(&line, &["directories", "disk"]);
    }
    has(&home.run(&["restore", "latest:t", "out", "a", "--delete"]).fails(2), &["--delete", "PATH"]);
    for path in ["none", "a/below", "d/c", "/d/b/"] {
        let ran = home.run(&["restore", "latest:t", "out", path]);
        if path == "/d/b/" {
            ran.ok();
            assert_eq!(fs::read(home.path("out/d/b")).unwrap(), b"2");
            assert!(!home.path("out/a").exists());
        } else {
            has(&ran.fails(2), &[path, "no such path"]);
            assert!(!home.path("out").exists(), "{path}");
        }
    }
}

#[test]
fn a_target_that_is_something_else_or_not_empty_is_left_alone() {
    let home = home();
    backup(&home, "tree", &[]);
    home.write("file", "x");
    let line = home.run(&["restore", "latest:t", "file"]).fails(2);
    has(&line, &["file", "directory"]);
    assert_eq!(fs::read(home.path("file")).unwrap(), b"x");
    files(&home.path("full"), &[("there", b"x"), ("a", b"mine")]);
    let before = list(&home.path("full"));
    let line = home.run(&["restore", "latest:t", "full"]).fails(2);
    has(&line, &["full", "not empty", "--overwrite", "--force"]);
    assert_same(&list(&home.path("full")), &before, "refused");
    // The refused one is no interrupted one: it is refused again.
    home.run(&["restore", "latest:t", "full"]).fails(2);
    let dry = home.run(&["restore", "latest:t", "new", "--dry-run", "--json"]).ok().json();
    assert_eq!((&dry["dry_run"], &dry["size"], &dry["written"]), (&true.into(), &2.into(), &2.into()), "{dry}");
    assert!(!home.path("new").exists());
}

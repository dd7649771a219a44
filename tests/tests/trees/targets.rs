//! What becomes of names that are in the target already.

use super::{backup, comes_back, files, has, restore};
use crate::harness::Home;
use std::fs;
use std::os::unix::fs::symlink;
use wherry_tests::trees::{assert_same, list, set_times};

/// A tree with a snapshot, and a target with names of all sorts.
fn home() -> Home {
    let home = Home::with_repository();
    files(
        &home.path("tree"),
        &[("older", b"old"), ("newer", b"new"), ("d/in", b"in"), ("both", b"dir"), ("link", b"data")],
    );
    for name in ["older", "newer", "d/in", "both", "link"] {
        set_times(&home.path("tree").join(name), 2_000_000, 0);
    }
    backup(&home, "tree", &[]);
    files(
        &home.path("full"),
        &[("older", b"theirs"), ("newer", b"theirs"), ("extra", b"x"), ("d/extra", b"y"), ("both", b"z")],
    );
    files(&home.path("outside"), &[("kept", b"kept")]);
    symlink(home.path("outside/kept"), home.path("full/link")).unwrap();
    set_times(&home.path("full/older"), 3_000_000, 0);
    set_times(&home.path("full/newer"), 1_000_000, 0);
    home
}

fn read(home: &Home, name: &str) -> String {
    String::from_utf8(fs::read(home.path("full").join(name)).unwrap()).unwrap()
}

#[test]
fn never_leaves_what_is_there() {
    let home = home();
    let report = restore(&home, "full", &["--overwrite", "never"]);
    assert!(report["skipped"].as_u64().unwrap() >= 4, "{report}");
    let ran = home.run(&["restore", "latest:t", "full", "--overwrite", "never", "--dry-run"]).ok();
    has(&ran.stderr, &["left as it is: older (something of this name is there)"]);
    let now = ["older", "newer", "extra", "d/extra", "d/in", "both", "link"].map(|name| read(&home, name));
    assert_eq!(now, ["theirs", "theirs", "x", "y", "in", "z", "kept"]);
    assert!(home.path("full/link").is_symlink());
}

#[test]
fn if_newer_replaces_what_is_older() {
    let home = home();
    restore(&home, "full", &["--overwrite", "if-newer"]);
    let now = ["older", "newer", "extra", "d/extra", "d/in"].map(|name| read(&home, name));
    assert_eq!(now, ["theirs", "new", "x", "y", "in"]);
    assert_eq!(fs::read(home.path("outside/kept")).unwrap(), b"kept");
}

#[test]
fn what_of_the_snapshot_is_not_there_in_the_end_is_said() {
    for mode in ["never", "if-newer"] {
        let home = home();
        // A directory where the snapshot has a file, and the other way round.
        fs::remove_file(home.path("full/older")).unwrap();
        files(&home.path("full"), &[("older/x", b"theirs")]);
        let args = ["restore", "latest:t", "full", "--overwrite", mode];
        let ran = home.run(&args);
        assert_eq!(ran.code, 3, "{mode}: {ran:?}");
        has(&ran.stderr, &["not restored: older: a directory is in the place of something else"]);
        assert_eq!(read(&home, "older/x"), "theirs");
        fs::remove_dir_all(home.path("full/older")).unwrap();
        home.run(&args).ok();
        assert_eq!(read(&home, "older"), "old");
        fs::remove_dir_all(home.path("full/d")).unwrap();
        fs::write(home.path("full/d"), "theirs").unwrap();
        let ran = home.run(&args);
        assert_eq!(ran.code, 3, "{mode}: {ran:?}");
        has(&ran.stderr, &["not restored: d"]);
        assert_eq!(read(&home, "d"), "theirs");
    }
}

/// Whoever may write beside the target must not choose what file root writes to.
#[test]
fn a_note_that_leads_elsewhere_is_not_followed() {
    let home = home();
    for name in [".new.wherry-restore.new", ".new.wherry-restore", ".full.wherry-restore.new", ".full.wherry-restore"] {
        symlink(home.path("outside/kept"), home.path(name)).unwrap();
    }
    restore(&home, "new", &[]);
    restore(&home, "full", &["--overwrite", "always"]);
    assert_eq!(fs::read(home.path("outside/kept")).unwrap(), b"kept");
    assert_same(&list(&home.path("new")), &list(&home.path("tree")), "with links where the note is");
}

#[test]
fn always_replaces_and_delete_removes_the_rest() {
    for flags in [&["--overwrite", "always"][..], &["--force"]] {
        let home = home();
        restore(&home, "full", flags);
        let now = ["older", "newer", "extra", "d/extra", "d/in", "both", "link"].map(|name| read(&home, name));
        assert_eq!(now, ["old", "new", "x", "y", "in", "dir", "data"], "{flags:?}");
        assert!(!home.path("full/link").is_symlink(), "the link is replaced, not followed");
        assert_eq!(fs::read(home.path("outside/kept")).unwrap(), b"kept");
        let report = restore(&home, "full", &[flags, &["--delete"]].concat());
        assert_eq!(report["removed"], 2, "{report}");
        assert_same(&list(&home.path("full")), &list(&home.path("tree")), "with --delete");
    }
}

#[test]
fn a_link_where_a_directory_should_be_is_not_followed() {
    for flags in [&["--overwrite", "never"][..], &["--overwrite", "always", "--delete"]] {
        let home = home();
        fs::remove_dir_all(home.path("full/d")).unwrap();
        symlink(home.path("outside"), home.path("full/d")).unwrap();
        let ran = home.run(&[&["restore", "latest:t", "full"], flags].concat());
        assert!(ran.code == 0 || ran.code == 3, "{ran:?}");
        let names: Vec<_> = fs::read_dir(home.path("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"], "{flags:?}");
        if flags.contains(&"always") {
            assert_same(&list(&home.path("full")), &list(&home.path("tree")), "the link gave way");
        }
    }
}

#[test]
fn parts_come_with_what_is_above_them() {
    let home = Home::with_repository();
    files(
        &home.path("tree"),
        &[("a/b/c/file", b"1"), ("a/b/other", b"2"), ("a/x", b"3"), ("y", b"4"), ("a b/\u{e9}", b"5")],
    );
    std::os::unix::fs::chown(home.path("tree/a/b"), Some(5), Some(6)).unwrap();
    set_times(&home.path("tree/a/b"), -5, 7);
    backup(&home, "tree", &[]);
    restore(&home, "out", &["a/b/c", "y", "a b/\u{e9}"]);
    let (got, all) = (list(&home.path("out")), list(&home.path("tree")));
    let wanted = ["", "a", "a b", "a b/\u{e9}", "a/b", "a/b/c", "a/b/c/file", "y"];
    assert_eq!(got.keys().map(|path| String::from_utf8_lossy(path)).collect::<Vec<_>>(), wanted);
    for path in &wanted[1..] {
        let (got, all) = (&got[path.as_bytes()], &all[path.as_bytes()]);
        assert!(got.is_copy_of(all), "{path}: {got:?} {all:?}");
    }
}

#[test]
fn the_root_alone_and_a_deep_tree_come_back() {
    let home = Home::with_repository();
    fs::create_dir(home.path("tree")).unwrap();
    set_times(&home.path("tree"), -1, 999_999_999);
    backup(&home, "tree", &[]);
    comes_back(&home, "tree", "nothing but the root");
    let deep = std::iter::repeat_n("d", 600).collect::<Vec<_>>().join("/");
    fs::create_dir_all(home.path("tree").join(&deep)).unwrap();
    fs::write(home.path("tree").join(&deep).join("end"), b"end").unwrap();
    let report = backup(&home, "tree", &[]);
    assert_eq!((&report["directories"], &report["files"]), (&601.into(), &1.into()));
    comes_back(&home, "tree", "a deep one");
    // The source itself is a target like others.
    let line = home.run(&["restore", "latest:t", "tree"]).fails(2);
    has(&line, &["not empty"]);
}

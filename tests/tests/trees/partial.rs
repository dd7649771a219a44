//! What cannot be read is named, and the snapshot is partial: shown as such, never `latest`, never a parent.

use super::{files, has};
use crate::harness::{Home, Ran};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use wherry_tests::binary::wherry_bin;
use wherry_tests::nolinks::NoLinks;

const NOBODY: u32 = 65_534;

/// A home in which nobody has a repository, and the executable where nobody may come to it.
fn home() -> Home {
    let home = Home::new();
    chown(home.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::copy(wherry_bin(), home.path("wherry")).unwrap();
    run(&home, &["init", "-q"]).ok();
    home
}

/// Runs as nobody.
#[track_caller]
fn run(home: &Home, args: &[&str]) -> Ran {
    let mut command = Command::new("setpriv");
    home.prepare(&mut command);
    command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(home.path("wherry"));
    home.ran(command.args(args).output().unwrap())
}

/// Ended with code 3 and a result.
#[track_caller]
fn partly(ran: &Ran) -> Value {
    assert_eq!(ran.code, 3, "stdout: {}\nstderr: {}", ran.stdout, ran.stderr);
    ran.json()
}

fn set_mode(home: &Home, path: &str, mode: u32) {
    fs::set_permissions(home.path(path), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn what_cannot_be_read_is_named_and_makes_the_snapshot_partial() {
    let home = home();
    files(
        &home.path("tree"),
        &[("open", b"1"), ("shut", b"2"), ("d/x", b"3"), ("d/y", b"4"), ("e/z", b"5"), ("f/g/h", b"6")],
    );
    set_mode(&home, "tree/shut", 0o600);
    set_mode(&home, "tree/d", 0o700);
    // Names without a way to what they are of.
    set_mode(&home, "tree/e", 0o744);
    let ran = run(&home, &["backup", "tree", "--name", "t", "--json"]);
    let report = partly(&ran);
    assert_eq!((&report["partial"], &report["missing"]), (&true.into(), &3.into()), "{report}");
    let missing = report["missing_paths"].as_array().unwrap();
    let of = |key: &str| missing.iter().map(|m| m[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(of("path").iter().map(|path| path.trim_start_matches('/')).collect::<Vec<_>>(), ["d", "e/z", "shut"]);
    assert!(missing.iter().all(|m| m["errno"] == 13), "{report}");
    for path in ["d", "e/z", "shut"] {
        has(&ran.stderr, &[path, "cannot be read and is missing"]);
    }
    let partial = report["snapshot"].as_str().unwrap();

    // There is no newest one.
    run(&home, &["restore", "latest:t", "out"]).fails(14);
    has(&run(&home, &["restore", partial, "out"]).fails(2), &["partial", "--allow-partial"]);
    assert!(!home.path("out").exists());
    // Nobody may not give files to root either, so what is missing alone is looked at by root.
    let ran = home.run(&["restore", partial, "out", "--allow-partial", "--json"]);
    let restored = partly(&ran);
    assert_eq!((&restored["partial"], &restored["missing"]), (&true.into(), &3.into()), "{restored}");
    assert_eq!(restored["refused"], 0, "{restored}");
    assert_eq!(fs::read(home.path("out/open")).unwrap(), b"1");
    assert_eq!(fs::read(home.path("out/f/g/h")).unwrap(), b"6");
    assert!(!home.path("out/shut").exists() && !home.path("out/e/z").exists());
    assert!(home.path("out/d").is_dir() && fs::read_dir(home.path("out/d")).unwrap().next().is_none());
    let listed = run(&home, &["snapshots", "--json"]).ok().json();
    assert_eq!(listed[0]["partial"], true, "{listed}");

    // Never a parent; a whole one is the newest, also when a partial one comes after it.
    ["tree/shut", "tree/d", "tree/e"].iter().for_each(|path| set_mode(&home, path, 0o755));
    let whole = run(&home, &["backup", "tree", "--name", "t", "--json"]).ok().json();
    assert_eq!((&whole["parent"], &whole["missing"]), (&Value::Null, &0.into()), "{whole}");
    set_mode(&home, "tree/shut", 0o600);
    let later = partly(&run(&home, &["backup", "tree", "--name", "t", "--json"]));
    assert_eq!((&later["parent"], &later["missing"]), (&whole["snapshot"], &1.into()), "{later}");
    let restored = home.run(&["restore", "latest:t", "whole", "--json"]).ok().json();
    assert_eq!(restored["snapshot"], whole["snapshot"]);
    assert_eq!(fs::read(home.path("whole/shut")).unwrap(), b"2");
    home.run(&["check", "--read-data", "-q"]).ok();
}

/// What a snapshot only failed to see must not go.
#[test]
fn nothing_is_removed_by_a_list_that_is_not_whole() {
    let home = Home::with_repository();
    let source = NoLinks::mount();
    // Longer than a tree can hold: this filesystem takes them.
    let long = "n".repeat(300);
    files(source.path(), &[("a", b"1"), ("d/in", b"2"), ("d/sub/in", b"2")]);
    fs::write(source.path().join("d").join(&long), b"3").unwrap();
    let text = source.path().to_str().unwrap();
    let below = partly(&home.run(&["backup", text, "--name", "t", "--json"]));
    assert_eq!(below["missing_paths"][0]["errno"], 36, "{below}");
    fs::write(source.path().join(&long), b"4").unwrap();
    let root = partly(&home.run(&["backup", text, "--name", "t", "--json"]));
    assert_eq!(root["missing"], 2, "{root}");
    let restore = |id: &Value| {
        files(&home.path("out"), &[("extra", b"x"), ("d/extra", b"y"), ("d/sub/extra", b"y"), ("e/extra", b"z")]);
        let flags = ["out", "--allow-partial", "--overwrite", "always", "--delete", "--json"];
        let args = [&["restore", id.as_str().unwrap()], &flags[..]].concat();
        let (dry, ran) = (home.run(&[&args[..], &["--dry-run"]].concat()), home.run(&args));
        assert_eq!(dry.code, ran.code, "{dry:?}");
        if ran.code == 3 {
            let counts = |ran: &Ran| ["removed", "missing", "skipped", "files"].map(|count| ran.json()[count].clone());
            assert_eq!(counts(&dry), counts(&ran), "as was said before");
        }
        ran
    };
    let before = |names: &[&str]| names.iter().all(|name| home.path("out").join(name).exists());
    // Of the whole directory nothing can be said: it is refused before anything is done.
    has(&restore(&root["snapshot"]).fails(2), &["--delete", "could not be read"]);
    assert!(before(&["extra", "d/extra", "e/extra"]) && !before(&["a"]));
    // Below, the one directory keeps what it has.
    let report = partly(&restore(&below["snapshot"]));
    assert_eq!(report["removed"], 3, "{report}");
    assert!(
        before(&["a", "d/in", "d/extra", "d/sub/in", "d/sub/extra"])
            && !home.path("out/extra").exists()
            && !home.path("out/e").exists()
    );
}

#[test]
fn what_nobody_may_not_do_is_named_and_the_rest_is_restored() {
    let home = home();
    files(&home.path("tree"), &[("mine", b"1"), ("roots", b"2"), ("suid", b"3"), ("d/x", b"4")]);
    for path in ["tree", "tree/mine", "tree/d", "tree/d/x"] {
        chown(home.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    set_mode(&home, "tree/suid", 0o4755);
    let node = rustix::fs::makedev(1, 3);
    let path = home.path("tree/null");
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::CharacterDevice, mode, node).unwrap();
    run(&home, &["backup", "tree", "--name", "t"]).ok();
    let ran = run(&home, &["restore", "latest:t", "out", "--json"]);
    let report = partly(&ran);
    let refused: Vec<_> = report["refused_paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(report["refused"], refused.len(), "{report}");
    for path in ["roots", "suid", "null"] {
        assert!(refused.iter().any(|line| line.starts_with(path)), "{path}: {refused:?}");
    }
    assert!(!refused.iter().any(|line| line.starts_with("mine") || line.starts_with("d")), "{refused:?}");
    for (path, bytes) in [("mine", b"1"), ("roots", b"2"), ("suid", b"3"), ("d/x", b"4")] {
        assert_eq!(fs::read(home.path("out").join(path)).unwrap(), bytes);
    }
    let mode = fs::metadata(home.path("out/suid")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "a set-id bit with another owner than it was given to");
}

#[test]
fn a_file_that_may_not_be_read_by_whom_it_was_restored_is_not_said_to_be_verified() {
    let home = home();
    files(&home.path("tree"), &[("open", b"1"), ("secret", b"2"), ("d/x", b"3")]);
    for path in ["tree", "tree/open", "tree/secret", "tree/d", "tree/d/x"] {
        chown(home.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    run(&home, &["backup", "tree", "--name", "t"]).ok();
    set_mode(&home, "tree/secret", 0o200);
    // Root may read it.
    let mut command = home.command();
    command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
    home.ran(command.args(["backup", "tree", "--name", "t", "--json"]).output().unwrap()).ok();
    let ran = run(&home, &["restore", "latest:t", "out", "--verify", "--json"]);
    let report = partly(&ran);
    assert_eq!((&report["unread"], &report["verified"]), (&1.into(), &false.into()), "{report}");
    let refused = report["refused_paths"].as_array().unwrap();
    assert!(refused.len() == 1 && refused[0].as_str().unwrap().starts_with("secret: reading it back"), "{report}");
    assert_eq!(fs::read(home.path("out/secret")).unwrap(), b"2");
    assert_eq!(fs::metadata(home.path("out/secret")).unwrap().permissions().mode() & 0o7777, 0o200);
}

/// As `ls` and `find` write them: no name passes for another one, and none gets at the terminal.
#[test]
fn names_that_are_refused_or_left_are_written_as_everywhere() {
    let home = home();
    let names: [(&[u8], &str); 5] = [
        ("\u{fc}n\u{ef}".as_bytes(), "\u{fc}n\u{ef}"),
        (b"new\nline", "new\\x0aline"),
        (b"quote\"'\\", "quote\"'\\\\"),
        ("gnp\u{202e}exe".as_bytes(), "gnp\\xe2\\x80\\xaeexe"),
        (b"\xff", "\\xff"),
    ];
    fs::create_dir(home.path("tree")).unwrap();
    for (name, _) in names {
        fs::write(home.path("tree").join(OsStr::from_bytes(name)), b"1").unwrap();
    }
    chown(home.path("tree"), Some(NOBODY), Some(NOBODY)).unwrap();
    run(&home, &["backup", "tree", "--name", "t", "-q"]).ok();
    let found = run(&home, &["find", "latest:t"]).ok().stdout;
    let listed = run(&home, &["ls", "latest:t"]).ok().stdout;
    // They are root's, and nobody may not make such files.
    let refused = run(&home, &["restore", "latest:t", "out"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let left = run(&home, &["restore", "latest:t", "out", "--overwrite", "never"]);
    for (_, shown) in names {
        assert!(found.lines().any(|line| line == format!("/{shown}")), "{found}");
        assert!(listed.lines().any(|line| line.ends_with(&format!(" {shown}"))), "{listed}");
        has(&refused.stderr, &[&format!("not restored: {shown}: its owner")]);
        has(&left.stderr, &[&format!("left as it is: {shown} (")]);
    }
}

/// What could not be read differs from nothing: nobody knows.
#[test]
fn what_was_not_read_is_not_compared() {
    let home = home();
    files(
        &home.path("tree"),
        &[
            ("open", b"1"),
            ("changed", b"2"),
            ("gone", b"3"),
            ("shut", b"4"),
            ("d/x", b"5"),
            ("e/z", b"6"),
            ("f/g", b"7"),
        ],
    );
    let shut = [("tree/shut", 0o600), ("tree/d", 0o700), ("tree/e", 0o744)];
    shut.iter().for_each(|(path, mode)| set_mode(&home, path, *mode));
    let backup = || run(&home, &["backup", "tree", "--name", "t", "--json"]);
    let partial = partly(&backup())["snapshot"].as_str().unwrap().to_owned();
    shut.iter().for_each(|(path, _)| set_mode(&home, path, 0o755));
    fs::write(home.path("tree/changed"), b"other").unwrap();
    fs::remove_file(home.path("tree/gone")).unwrap();
    files(&home.path("tree"), &[("new/a", b"8")]);
    let whole = backup().ok().json()["snapshot"].as_str().unwrap().to_owned();
    let same = ["? /d", "? /e/z", "? /shut", "M /changed", "m /", "m /e"];
    for (pair, more) in [
        ([&partial, &whole], ["+ /new", "+ /new/a", "- /gone"]),
        ([&whole, &partial], ["+ /gone", "- /new", "- /new/a"]),
    ] {
        let ran = run(&home, &["diff", pair[0], pair[1]]);
        assert_eq!(ran.code, 3, "{ran:?}");
        has(&ran.stderr, &["could not be read when it was made is not compared"]);
        let mut lines: Vec<_> = ran.stdout.lines().collect();
        has(lines.pop().unwrap(), &["1 with other content", "2 with other metadata", "3 not compared"]);
        lines.sort_unstable();
        let mut wanted = [&same[..], &more].concat();
        wanted.sort_unstable();
        assert_eq!(lines, wanted, "{pair:?}");
        let said = partly(&run(&home, &["diff", pair[0], pair[1], "--json"]));
        let counts = ["content", "metadata", "unreadable"].map(|count| said[count].as_u64().unwrap());
        assert_eq!(counts, [1, 2, 3], "{said}");
        assert_eq!(said["added"].as_u64().unwrap() + said["removed"].as_u64().unwrap(), 3, "{said}");
        let unread = said["changes"].as_array().unwrap().iter().filter(|change| change["change"] == "unreadable");
        assert_eq!(unread.count(), 3, "{said}");
    }
}

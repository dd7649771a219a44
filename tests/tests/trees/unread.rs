//! Which files are taken over unread, and that no change is missed.

use super::{MARGIN, age, backup, comes_back, files, has};
use crate::harness::Home;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use wherry_tests::small::noise;
use wherry_tests::trees::{list, set_times};

/// Bytes that a run read, and files that it took over unread.
fn work(report: &serde_json::Value) -> (u64, u64) {
    (report["read"].as_u64().unwrap(), report["files_unread"].as_u64().unwrap())
}

#[test]
fn only_what_changed_is_read_again() {
    /// Longer than what shares a chunk, so that none of them is stored anew to let go of a chunk.
    const LEN: u64 = 70_000;
    let home = Home::with_repository();
    let names = ["changed", "replaced", "touched", "owned", "moved", "same", "below/same", "below/grown"];
    for (n, name) in names.into_iter().enumerate() {
        files(&home.path("tree"), &[(name, &noise(n as u64, LEN as usize))]);
    }
    let large = noise(77, 5 << 20);
    files(&home.path("tree"), &[("large", &large), ("empty", b"")]);
    let all = names.len() as u64 * LEN + large.len() as u64;
    age();
    let first = backup(&home, "tree", &[]);
    assert_eq!((work(&first), first["size"].as_u64().unwrap()), ((all, 0), all), "{first}");
    assert_eq!((&first["files"], &first["directories"], &first["others"]), (&10.into(), &2.into(), &0.into()));

    let second = backup(&home, "tree", &[]);
    assert_eq!(work(&second), (0, 9), "{second}");
    assert_eq!((&second["parent"], &second["root"]), (&first["snapshot"], &first["root"]));

    let at = |name: &str| home.path("tree").join(name);
    let meta = |name: &str| at(name).symlink_metadata().unwrap();
    // Size and time as they were: only the ctime tells.
    let before = meta("changed");
    File::options().write(true).open(at("changed")).unwrap().write_all_at(&noise(100, 10), 70).unwrap();
    set_times(&at("changed"), before.mtime(), before.mtime_nsec());
    // Likewise, and another inode.
    let before = meta("replaced");
    fs::write(at("new"), noise(101, LEN as usize)).unwrap();
    set_times(&at("new"), before.mtime(), before.mtime_nsec());
    fs::rename(at("new"), at("replaced")).unwrap();
    assert_ne!(meta("replaced").ino(), before.ino());
    // The same content: read, and found unchanged.
    set_times(&at("touched"), 1_000_000_000, 1);
    std::os::unix::fs::chown(at("owned"), Some(12), Some(13)).unwrap();
    // Under another path there is nothing to compare with.
    fs::rename(at("moved"), at("below/moved")).unwrap();
    fs::write(at("below/grown"), noise(102, 2 * LEN as usize)).unwrap();
    let third = backup(&home, "tree", &[]);
    assert_eq!(work(&third), (7 * LEN, 3), "{third}");
    comes_back(&home, "tree", "after changes");

    let fourth = backup(&home, "tree", &[]);
    assert_eq!(fourth["root"], third["root"]);
    let forced = backup(&home, "tree", &["--force-read"]);
    assert_eq!(work(&forced), (all + LEN, 0), "{forced}");
    assert_eq!((&forced["root"], &forced["stored"]), (&third["root"], &0.into()));
    let alone = backup(&home, "tree", &["--parent", "none"]);
    assert_eq!((work(&alone), &alone["parent"]), ((all + LEN, 0), &serde_json::Value::Null), "{alone}");
    let of_first = backup(&home, "tree", &["--parent", first["snapshot"].as_str().unwrap()]);
    assert_eq!((work(&of_first), &of_first["parent"]), ((7 * LEN, 3), &first["snapshot"]), "{of_first}");
    assert_eq!(of_first["root"], third["root"]);
}

#[test]
fn what_was_made_within_the_margin_is_read_again() {
    let home = Home::with_repository();
    // A run that comes too late to see them young says nothing, and another one is made.
    for n in 0..50 {
        let begin = Instant::now();
        files(&home.path("tree"), &[("a", format!("one {n}").as_bytes()), ("b", b"two"), ("c", b"")]);
        backup(&home, "tree", &[]);
        let is_young = begin.elapsed() < MARGIN;
        let again = backup(&home, "tree", &[]);
        if is_young {
            assert_eq!(again["files_unread"], 0, "{again}");
            return;
        }
    }
    panic!("no backup of two files began within {MARGIN:?}");
}

#[test]
fn names_of_one_inode_are_read_once() {
    let home = Home::with_repository();
    let bytes = noise(5, 300_000);
    files(&home.path("tree"), &[("a/one", &bytes), ("b/x", b"x")]);
    fs::hard_link(home.path("tree/a/one"), home.path("tree/b/two")).unwrap();
    fs::hard_link(home.path("tree/a/one"), home.path("tree/three")).unwrap();
    // One name is outside: it is counted by the inode, and never met.
    fs::hard_link(home.path("tree/a/one"), home.path("outside")).unwrap();
    let report = backup(&home, "tree", &[]);
    assert_eq!(work(&report), (300_001, 0), "{report}");
    comes_back(&home, "tree", "hard links");
    fs::remove_file(home.path("tree/a/one")).unwrap();
    backup(&home, "tree", &[]);
    comes_back(&home, "tree", "without the first of them");
}

/// An ext4 image with this directory in it.
fn image(home: &Home, name: &str, from: &Path) {
    let file = home.path(name);
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let output = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(from).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_inode_number_counts_unless_told_not_to() {
    let home = Home::with_repository();
    let names: Vec<_> = (0..12).map(|n| format!("d/file-{n}")).collect();
    names.iter().for_each(|name| files(&home.path("from"), &[(name, &noise(1, 1000))]));
    image(&home, "one", &home.path("from"));
    // mke2fs keeps the times, and gives other numbers when there is more.
    (0..40).for_each(|n| files(&home.path("from"), &[(&format!("d/a-pad-{n}"), b"x")]));
    image(&home, "other", &home.path("from"));
    age();
    // In a namespace of mounts of its own, so nothing is left mounted.
    let on = |image: &str, command: &str| {
        let script = format!("mount -o ro,loop {image} at && exec {command}");
        fs::create_dir_all(home.path("at")).unwrap();
        let mut unshare = Command::new("unshare");
        home.prepare(&mut unshare);
        unshare.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
        let output = unshare.args(["--mount", "sh", "-c", &script]).output().unwrap();
        home.ran(output).ok()
    };
    let wherry = wherry_tests::binary::wherry_bin();
    let run = |image: &str, flags: &str| {
        let exclude = "--exclude a-pad-* --exclude lost+found";
        on(image, &format!("{} backup at --name t --json {exclude} {flags}", wherry.display())).json()
    };
    let facts = |image: &str| {
        let paths: Vec<_> = names.iter().map(|name| format!("at/{name}")).collect();
        let text = on(image, &format!("stat --printf='%i|%y|%z|%n\\n' {}", paths.join(" "))).stdout;
        text.lines()
            .map(|line| line.split_once('|').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap())
            .collect::<Vec<_>>()
    };
    let (one, other) = (facts("one"), facts("other"));
    assert_eq!(one.len(), names.len());
    assert!(one.iter().zip(&other).all(|(a, b)| a.1 == b.1), "times differ: {one:?} {other:?}");
    let equal = one.iter().zip(&other).filter(|(a, b)| a.0 == b.0).count() as u64;
    assert!(equal < 12, "no inode number differs");
    let first = run("one", "");
    assert_eq!(work(&first), (12_000, 0), "{first}");
    let id = first["snapshot"].as_str().unwrap();
    let told = run("other", &format!("--ignore-inode --parent {id}"));
    assert_eq!(work(&told), (0, 12), "{told}");
    let untold = run("other", &format!("--parent {id}"));
    assert_eq!(work(&untold), ((12 - equal) * 1000, equal), "{untold}");
}

#[test]
fn excluded_names_are_not_there() {
    let home = Home::with_repository();
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n";
    files(
        &home.path("tree"),
        &[
            ("keep", b"1"),
            ("a.tmp", b"2"),
            ("d/b.tmp", b"3"),
            ("d/keep.tmp", b"4"),
            ("cache/CACHEDIR.TAG", tag),
            ("cache/x", b"5"),
            ("no/CACHEDIR.TAG", b"something else"),
            ("no/y", b"6"),
            ("left/.nobackup", b""),
            ("left/deep/z", b"7"),
            ("anchored", b"8"),
            ("d/anchored", b"9"),
        ],
    );
    backup(
        &home,
        "tree",
        &[
            "--exclude",
            "*.tmp",
            "--exclude",
            "!keep.tmp",
            "--exclude",
            "/anchored",
            "--exclude-caches",
            "--exclude-if-present",
            ".nobackup",
        ],
    );
    home.run(&["restore", "latest:t", "copy"]).ok();
    let names: Vec<_> = list(&home.path("copy")).into_keys().map(|path| String::from_utf8(path).unwrap()).collect();
    let wanted = [
        "",
        "cache",
        "cache/CACHEDIR.TAG",
        "d",
        "d/anchored",
        "d/keep.tmp",
        "keep",
        "left",
        "left/.nobackup",
        "no",
        "no/CACHEDIR.TAG",
        "no/y",
    ];
    assert_eq!(names, wanted);
    let line = home.run(&["backup", "tree", "--exclude", "a\nb", "--name", "t"]).fails(2);
    has(&line, &["--exclude", "one pattern a time"]);
}

#[test]
fn the_last_files_of_a_chunk_are_stored_anew() {
    let home = Home::with_repository();
    // A chunk of less than 32 KiB does not end, so the first sixteen share one.
    for n in 0..20_u64 {
        files(&home.path("tree"), &[(&format!("{n:02}"), &noise(n, 2048))]);
    }
    age();
    backup(&home, "tree", &[]);
    (1..20).for_each(|n| fs::remove_file(home.path("tree").join(format!("{n:02}"))).unwrap());
    let second = backup(&home, "tree", &[]);
    assert_eq!(work(&second), (0, 1), "{second}");
    let third = backup(&home, "tree", &[]);
    assert_eq!((work(&third), &third["new"]), ((2048, 0), &2048.into()), "little of its chunk is used: {third}");
    let fourth = backup(&home, "tree", &[]);
    assert_eq!(work(&fourth), (0, 1), "{fourth}");
    comes_back(&home, "tree", "in a chunk of its own");
}

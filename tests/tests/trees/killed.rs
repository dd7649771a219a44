//! kill -9 of a backup and of a restore; the same command again goes on.

use super::{backup, files};
use crate::harness::{Home, PATIENCE, Running};
use std::fs;
use wherry_tests::fuse::Held;
use wherry_tests::small::noise;
use wherry_tests::trees::{assert_same, list};

const MIB: usize = 1 << 20;

/// Many small files, some large ones, and names of one inode far from each other.
fn grow(home: &Home) {
    for n in 0..1500_u64 {
        let path = format!("d{}/{n}", n % 40);
        files(&home.path("tree"), &[(&path, &noise(n, (n % 5000) as usize))]);
    }
    for n in 0..8 {
        files(&home.path("tree"), &[(&format!("d{}/large{n}", 5 * n), &noise(1 << 20 | n, 4 * MIB))]);
        let (from, to) = (format!("tree/d{}/large{n}", 5 * n), format!("tree/d{}/name{n}", 39 - n));
        fs::hard_link(home.path(&from), home.path(&to)).unwrap();
    }
}

/// How many names are below a directory that is being written.
fn names(home: &Home) -> usize {
    let folders = fs::read_dir(home.path("out")).into_iter().flatten().flatten();
    folders.map(|folder| 1 + fs::read_dir(folder.path()).map_or(0, Iterator::count)).sum()
}

#[test]
fn a_killed_restore_shows_only_whole_files_and_goes_on() {
    let home = Home::with_repository();
    grow(&home);
    backup(&home, "tree", &[]);
    let source = list(&home.path("tree"));
    let mut hits = 0;
    for after in [1, 400, 1000, 1450] {
        let mut running = home.spawn(&["restore", "latest:t", "out", "-q"]);
        while names(&home) < after && running.runs() {}
        let ended = running.kill();
        hits += usize::from(!ended);
        let there = list(&home.path("out"));
        let mut begun = 0;
        for (path, facts) in &there {
            let name = path.rsplit(|&b| b == b'/').next().unwrap();
            if name.starts_with(b".wherry-") {
                begun += 1;
                continue;
            }
            let wanted = source.get(path).unwrap_or_else(|| panic!("{}: from nowhere", path.escape_ascii()));
            if matches!(facts.kind, wherry_tests::trees::Kind::File(..)) {
                assert_eq!((&facts.kind, facts.modified), (&wanted.kind, wanted.modified), "{}", path.escape_ascii());
            }
        }
        println!("killed with {} names, {begun} under way, ended before: {ended}", there.len());
        if !ended {
            let again = home.run(&["restore", "latest:t", "out", "--json"]).ok().json();
            // Killed before it had made a name, there is nothing to go on with.
            assert!(there.len() == 1 || again["resumed"] == true, "{again}");
        }
        assert_same(&list(&home.path("out")), &source, &format!("killed after {after}"));
        // Whole and not interrupted, it is somebody's now.
        home.run(&["restore", "latest:t", "out"]).fails(2);
        fs::remove_dir_all(home.path("out")).unwrap();
    }
    assert!(hits >= 3, "{hits} of 4 were hit");
}

#[test]
fn what_a_restore_was_writing_when_it_was_killed_goes_away() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("one", &noise(9, 48 * MIB))]);
    backup(&home, "tree", &[]);
    let under_way = || fs::read_dir(home.path("out")).is_ok_and(|mut names| names.next().is_some());
    let mut running = home.spawn(&["restore", "latest:t", "out", "-q"]);
    while !under_way() && running.runs() {}
    assert!(!running.kill(), "48 MiB were restored before a name was seen");
    let names: Vec<_> = fs::read_dir(home.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.len() == 1 && names[0].to_str().unwrap().starts_with(".wherry-"), "{names:?}");
    let again = home.run(&["restore", "latest:t", "out", "--json"]).ok().json();
    assert_eq!(again["resumed"], true, "{again}");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "after a kill");
}

/// Kills a restore to `out` that has made a directory and waits for its data.
fn kill_waiting(home: &Home, restore: &mut std::process::Command) {
    waiting(home, restore, |running| assert!(!running.kill()));
}

/// A restore to `out` that has made a directory and waits for its data: what then becomes of it.
fn waiting(home: &Home, restore: &mut std::process::Command, then: impl FnOnce(Running<'_>)) {
    let packs = home.tree("repo/packs").into_keys();
    let held: Vec<Held> = packs.map(|pack| Held::over(&pack)).collect();
    let mut running = home.started(restore.spawn().unwrap());
    running.until("a directory", || home.path("out/d").exists());
    then(running);
    drop(held);
}

/// A part is no whole that goes on, and what it ends with is not the end of the whole.
#[test]
fn a_restore_of_a_part_is_another_restore() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/one", b"1"), ("d/two", b"2")]);
    backup(&home, "tree", &[]);
    let args = |paths: &[&'static str]| [&["restore", "latest:t", "out", "--json"], paths].concat();
    let cases =
        [(&[][..], &["d/one"][..]), (&["d/one"], &[]), (&["d/one"], &["d/two"]), (&["d/one", "d/two"], &["d/one"])];
    for (first, other) in cases {
        kill_waiting(&home, home.command().args(args(first)));
        assert!(home.run(&args(other)).fails(2).contains("not empty"), "{other:?} went on with {first:?}");
        // In any order, and however they are written.
        let again: Vec<_> = first.iter().rev().map(|path| format!("/{path}")).collect();
        let again: Vec<_> = args(&[]).into_iter().map(str::to_owned).chain(again).collect();
        let again = home.run(&again).ok().json();
        assert_eq!(again["resumed"], true, "{again}");
        fs::remove_dir_all(home.path("out")).unwrap();
    }
}

/// Each would remove what the other one is writing.
#[test]
fn a_directory_is_the_target_of_one_restore_at_a_time() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/one", b"1"), ("d/two", b"2")]);
    backup(&home, "tree", &[]);
    let args = ["restore", "latest:t", "out", "--json"];
    waiting(&home, home.command().args(args), |running| {
        for other in [&args[..], &["restore", "latest:t", "out", "d/one", "--overwrite", "always"]] {
            let line = home.spawn(other).end_within(PATIENCE / 5).fails(11);
            assert!(line.contains("out") && line.contains("in use") && line.contains("same command"), "{line}");
        }
        home.run(&[&args[..], &["--dry-run"]].concat()).ok();
        // Killed, it leaves nothing that keeps the next one out.
        assert!(!running.kill());
    });
    let again = home.run(&args).ok().json();
    assert_eq!(again["resumed"], true, "{again}");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "gone on with");
}

/// What it had finished has other owners than this one would give.
#[test]
fn another_way_to_name_owners_is_another_restore() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/one", b"1")]);
    backup(&home, "tree", &[]);
    for (first, other) in [(&["--numeric-ids"][..], &[][..]), (&[], &["--numeric-ids"])] {
        let args = |flags: &[&'static str]| [&["restore", "latest:t", "out", "--json"], flags].concat();
        kill_waiting(&home, home.command().args(args(first)));
        assert!(home.run(&args(other)).fails(2).contains("not empty"), "{other:?} went on with {first:?}");
        let again = home.run(&args(first)).ok().json();
        assert_eq!(again["resumed"], true, "{again}");
        assert_same(&list(&home.path("out")), &list(&home.path("tree")), "gone on with");
        fs::remove_dir_all(home.path("out")).unwrap();
    }
}

/// What it had finished lacks what it was not allowed to do.
#[test]
fn a_restore_of_another_user_is_another_restore() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("d/one", b"1")]);
    std::os::unix::fs::chown(home.path("tree/d/one"), Some(7), Some(7)).unwrap();
    backup(&home, "tree", &[]);
    let nobody = Some(65_534);
    std::os::unix::fs::chown(home.path(""), nobody, nobody).unwrap();
    let owned = std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(home.path("repo")).status();
    assert!(owned.unwrap().success());
    fs::copy(wherry_tests::binary::wherry_bin(), home.path("wherry")).unwrap();
    std::os::unix::fs::chown(home.path("key"), nobody, nobody).unwrap();
    let args = ["restore", "latest:t", "out", "--json"];
    let mut command = std::process::Command::new("setpriv");
    home.prepare(&mut command);
    command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key"));
    command.env("WHERRY_CACHE_DIR", home.path("nobodys")).args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(home.path("wherry")).args(args);
    kill_waiting(&home, &mut command);
    assert!(home.run(&args).fails(2).contains("not empty"), "root went on with what nobody could not do");
    let again = home.ran(command.output().unwrap());
    assert_eq!((again.code, &again.json()["resumed"]), (3, &true.into()), "{again:?}");
}

#[test]
fn a_killed_backup_leaves_no_snapshot_and_goes_on() {
    let home = Home::with_repository();
    grow(&home);
    // Slow enough that the first pack is there long before the last.
    let mut running = home.spawn(&["backup", "tree", "--name", "t", "-q", "--memory", "128M", "--limit-upload", "8M"]);
    running.until("a pack", || !home.tree("repo/packs").is_empty());
    assert!(!running.kill());
    assert_eq!(home.snapshots(), 0);
    let half = home.sizes().1;
    let report = backup(&home, "tree", &["--memory", "128M"]);
    assert_eq!(report["resumed"], true, "{report}");
    let source = list(&home.path("tree"));
    let stored = report["stored"].as_u64().unwrap();
    println!("{half} bytes stored by the killed run, {stored} by the next");
    assert!(report["known"].as_u64().unwrap() > 0, "nothing of the killed run was used: {report}");
    home.run(&["restore", "latest:t", "out", "-q"]).ok();
    assert_same(&list(&home.path("out")), &source, "after a kill");
    home.run(&["check", "--read-data", "-q"]).ok();
}

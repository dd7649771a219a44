//! Backups of standard input.

use super::harness::{Home, Ran};
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;

/// Backs up what is piped in.
fn piped(home: &Home, content: &[u8], args: &[&str]) -> Ran {
    let mut command = home.command();
    let mut child = command.args(["backup", "-"]).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_stream_of_any_length_restores() {
    let home = Home::with_small_chunks();
    // Several reads of the pipeline, the last one full, short by a byte, and a byte long.
    let many = 3 << 20;
    for len in [0, 1, UNIT - 1, UNIT, UNIT + 1, 5 * UNIT + 37_856, many - 1, many, many + 1] {
        for zeros in [0, 1, UNIT - 1, UNIT, 2 * UNIT + 7, 20 * UNIT + 3] {
            let mut disk = noise(len as u64, len);
            disk.resize(len + zeros, 0);
            let report = piped(&home, &disk, &["--name", "pipe", "--json"]).ok().json();
            assert_eq!((&report["size"], &report["hole"]), (&disk.len().into(), &0.into()), "{len} and {zeros} zeros");
            let id = report["snapshot"].as_str().unwrap();
            home.run(&["restore", id, "out.raw", "--force", "-q"]).ok();
            let restored = fs::read(home.path("out.raw")).unwrap();
            assert!(restored == disk, "{} bytes restored of {len} and {zeros} zeros", restored.len());
            fs::remove_file(home.path("out.raw")).unwrap();
        }
    }
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_stream_that_is_not_as_long_as_was_said_leaves_no_snapshot() {
    let home = Home::with_small_chunks();
    let disk = noise(3, 3 * UNIT);
    let sized = |content: &[u8]| piped(&home, content, &["--name", "pipe", "--size", "192K", "--json"]);
    assert_eq!(sized(&disk).ok().json()["size"], disk.len());
    let before = home.run(&["snapshots", "--json"]).ok().stdout;
    for len in [0, 1, UNIT, disk.len() - 1] {
        let line = sized(&disk[..len]).ends(1);
        for word in ["standard input ended", "--size", &len.to_string(), &disk.len().to_string()] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
    // One that does not end is not waited for.
    let mut command = home.command();
    let args = ["backup", "-", "--name", "pipe", "--size", "192K"];
    let mut child = command.args(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    while stdin.write_all(&disk).is_ok() {}
    let line = Ran::from(child.wait_with_output().unwrap()).ends(1);
    assert!(line.contains("goes on") && line.contains(&disk.len().to_string()) && line.contains("--size"), "{line}");

    assert_eq!(home.run(&["snapshots", "--json"]).ok().stdout, before);
    home.run(&["restore", "latest:pipe", "out.raw", "-q"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == disk);
    fs::create_dir(home.path("folder")).unwrap();
    for source in ["out.raw", "folder", "none"] {
        let line = home.run(&["backup", source, "--name", "x", "--size", "192K"]).fails(2);
        assert!(line.contains("--size") && line.contains("standard input"), "{line}");
    }
    // What a command puts there that failed itself.
    home.run(&["backup", "-", "--name", "pipe", "--size", ""]).fails(2);
}

#[test]
fn a_stream_that_is_shorter_than_the_snapshot_before_is_told() {
    let home = Home::with_small_chunks();
    let disk = noise(4, 4 * UNIT);
    let told = |content: &[u8], args: &[&str]| {
        let ran = piped(&home, content, &[&["--name", "pipe", "--json"], args].concat()).ok();
        let warned: Vec<String> = ran.stderr.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect();
        (ran.json()["snapshot"].as_str().unwrap().to_owned(), warned)
    };
    assert_eq!(told(&disk[..UNIT], &[]).1, [""; 0]);
    assert_eq!(told(&disk, &["--parent", "none"]).1, [""; 0]);
    assert_eq!(told(&disk, &[]).1, [""; 0]);
    let half = &disk[..2 * UNIT];
    // That it builds on none says nothing about what was there before.
    for args in [&[][..], &["--parent", "none"]] {
        let (id, warned) = told(half, args);
        let [line] = &warned[..] else { panic!("{warned:?}") };
        for word in [&half.len().to_string(), &disk.len().to_string(), &format!("wherry forget {id}"), "--size"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        home.run(&["forget", &id, "-q"]).ok();
    }
    // Whoever says how long it is knows.
    assert_eq!(told(half, &["--size", "128K"]).1, [""; 0]);
    // No more and no less than the one before.
    assert_eq!(told(half, &[]).1, [""; 0]);
}

#[test]
fn a_password_command_takes_nothing_of_the_stream() {
    let home = Home::new();
    fs::write(home.path("password"), "correct horse").unwrap();
    // As `ssh vault cat password` does, it reads what there is on its standard input.
    let greedy = ["--repo", "repo", "--password-command", "cat >taken; cat password"];
    let piped = |args: &[&str], content: &[u8]| {
        let mut command = home.bare();
        let mut child = command.args(args).args(greedy).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        Ran::from(child.wait_with_output().unwrap()).ok()
    };
    piped(&["init", "-q"], &[]);
    let disk = noise(1, 3 << 20);
    piped(&["backup", "-", "--name", "pipe"], &disk);
    piped(&["restore", "latest", "out.raw"], &[]);
    assert!(fs::read(home.path("out.raw")).unwrap() == disk);
    assert_eq!(fs::read(home.path("taken")).unwrap(), b"");
}

#[test]
fn a_failed_upload_ends_a_backup_that_waits_for_its_source() {
    // So much that one pack is full, and nothing more; and more than that, so that some threads find the failure when they
    // put a chunk, and the others wait for what never comes.
    for len in [9 << 20, 30 << 20] {
        let home = Home::with_small_chunks();
        // No pack can be stored: a file is where its folder belongs.
        fs::create_dir_all(home.path("repo/packs")).unwrap();
        (0..256).for_each(|n| fs::write(home.path(&format!("repo/packs/{n:02x}")), "").unwrap());
        let mut command = home.command();
        command.args(["backup", "-", "--name", "pipe", "--memory", "64M"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It stays open; the writing ends early when the reader is gone.
        let writing = std::thread::spawn(move || (stdin.write_all(&noise(1, len)), stdin));
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        drop(writing.join().unwrap());
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert!(ended, "it waited for its standard input: {}", ran.stderr);
        assert!(ran.code != 0 && ran.stderr.lines().last().unwrap().contains("packs/"), "{}: {}", ran.code, ran.stderr);
        assert!(!home.tree("repo/sess").is_empty(), "it ended before it read anything");
    }
}

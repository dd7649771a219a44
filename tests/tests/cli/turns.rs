//! Repositories for one process at a time: writers take turns, readers do not wait.

use super::harness::{Home, Ran};
use super::signals::Endless;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use wherry_tests::nolinks::NoLinks;
use wherry_tests::seaweed::Seaweed;

/// A place for a repository, and how a process gets there.
struct Place<'a> {
    home: &'a Home,
    repo: String,
    server: Option<&'a Seaweed>,
}

impl Place<'_> {
    fn command(&self) -> Command {
        let mut command = self.home.command();
        command.env("WHERRY_REPOSITORY", &self.repo);
        if let Some(server) = self.server {
            command.envs(server.variables());
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.command().args(args).output().unwrap().into()
    }
}

#[test]
fn a_storage_without_create_if_absent_is_refused_unless_for_one_process_at_a_time() {
    let home = Home::new();
    let nolinks = NoLinks::mount();
    let place = Place { home: &home, repo: nolinks.path().join("repo").to_str().unwrap().into(), server: None };
    let line = place.run(&["init"]).fails(2);
    assert!(line.contains(&place.repo) && line.contains("--single-writer"), "{line}");
    assert!(line.contains("several writers") && line.contains("nothing was made"), "{line}");
    assert!(line.len() < 800, "it says the same more than once: {line}");
    assert!(!home.path("key").exists(), "a key was made for a repository that was not");
    assert_eq!(files(nolinks.path()), 0, "something was made");

    let probed = place.run(&["probe", "--json"]);
    assert_eq!(
        (probed.code, &probed.json()["usable"], &probed.json()["many_writers"]),
        (1, &true.into(), &false.into())
    );

    assert_eq!(place.run(&["init", "--single-writer", "--json"]).ok().json()["single_writer"], true);
    let image = home.write("a.raw", "content");
    place.run(&["backup", &image, "--name", "a"]).ok();
    assert_eq!(place.run(&["cat", "latest"]).ok().stdout, "content");
    place.run(&["check", "--read-data"]).ok();
}

/// Files below a folder.
fn files(folder: &Path) -> usize {
    let below = |path: &Path| if path.is_dir() { files(path) } else { 1 };
    fs::read_dir(folder).map_or(0, |entries| entries.map(|entry| below(&entry.unwrap().path())).sum())
}

/// Every command that writes, with arguments that would do.
fn writers(place: &Place<'_>, id: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split(' ').map(|w| w.replace("ID", id)).collect::<Vec<_>>();
    let slots = place.run(&["key", "list", "--json"]).ok().json();
    let slot = slots.as_array().unwrap().iter().find(|s| s["current"] == false).unwrap()["slot"].as_str().unwrap();
    let remove = format!("key remove {slot}");
    let lines =
        ["backup a.raw --name other", "forget ID", "forget --keep-last 1", "unforget ID", "key add --new-key-file n"];
    lines.into_iter().chain([remove.as_str(), "key passwd --new-key-file m"]).map(words).collect()
}

/// Objects of sessions.
fn sessions(place: &Place<'_>) -> u64 {
    place.run(&["stats", "--json"]).ok().json()["objects"]["sess"]["count"].as_u64().unwrap()
}

fn writers_take_turns(place: &Place<'_>) {
    let home = place.home;
    place.run(&["init", "--single-writer"]).ok();
    let image = home.write("a.raw", "content");
    let id =
        place.run(&["backup", &image, "--name", "a", "--json"]).ok().json()["snapshot"].as_str().unwrap().to_owned();
    place.run(&["key", "add", "--new-key-file", "second"]).ok();
    place.run(&["forget", &id]).ok();
    place.run(&["unforget", &id]).ok();
    let before = place.run(&["snapshots", "--json"]).ok().json();
    let (writers, before_it) = (writers(place, &id), sessions(place));

    let endless = Endless::start_with(home, place.command(), "endless");
    let me = format!("pid {} on host {}", endless.pid(), wherry_repo::host_name());
    // On S3 the place it keeps is a session, too.
    let all = before_it + if place.server.is_some() { 2 } else { 1 };
    let start = Instant::now();
    while sessions(place) < all {
        assert!(start.elapsed() < Duration::from_secs(60), "no session was opened");
        std::thread::sleep(Duration::from_millis(20));
    }
    for args in &writers {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let line = place.run(&args).ends(11);
        for word in [&*me, "backup of \"endless\"", "--single-writer", "wait until it has ended", " s"] {
            assert!(line.contains(word), "{args:?}: {word:?} is not in {line}");
        }
    }
    // Nobody waits who only reads.
    for args in [
        &["snapshots"][..],
        &["show", &id],
        &["cat", &id],
        &["check"],
        &["stats"],
        &["key", "list"],
        &["restore", &id, "out.raw"],
        &["forget", "--keep-last", "1", "--dry-run"],
    ] {
        place.run(args).ok();
    }
    assert_eq!(place.run(&["snapshots", "--json"]).ok().json(), before, "somebody who was refused has written");
    assert!(!home.path("n").exists() && !home.path("m").exists(), "a key was made for nothing");

    // A process that is gone, however it went, keeps nobody out.
    endless.send(Signal::KILL);
    endless.code();
    for args in &writers {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        place.run(&args).ok();
    }
}

#[test]
fn in_a_directory_by_a_lock() {
    let home = Home::new();
    let place = Place { home: &home, repo: home.text("repo"), server: None };
    writers_take_turns(&place);
    assert!(Path::new(&place.repo).join("_lock").exists());
}

#[test]
fn on_s3_by_sessions() {
    let home = Home::new();
    let server = Seaweed::start();
    let place = Place { home: &home, repo: "s3://turns/x".into(), server: Some(&server) };
    writers_take_turns(&place);
}

#[test]
fn where_several_may_write_they_do() {
    let home = Home::with_repository();
    let endless = Endless::start(&home);
    let id = home.backup("vm", b"content");
    home.run(&["forget", &id]).ok();
    home.run(&["unforget", &id]).ok();
    home.run(&["key", "add", "--new-key-file", "second"]).ok();
    endless.send(Signal::INT);
    assert_eq!(endless.end().code, 130);
    assert!(!home.path("repo/_lock").exists());
}

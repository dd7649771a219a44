//! The chunk index saves uploads, and nothing but speed is lost with it.

use super::harness::{Home, Ran};
use super::signals::Endless;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use wherry_tests::small::noise;

const SIZE: usize = 16 << 20;

/// A repository with a snapshot of a disk, `vm`.
fn home() -> Home {
    let home = Home::with_repository();
    home.backup("vm", &noise(1, SIZE));
    home
}

fn backup(home: &Home, args: &[&str]) -> (Value, String) {
    let ran = home.run(&[&["backup", "vm.raw", "--json"], args].concat()).ok();
    (ran.json(), ran.stderr)
}

/// All of it is known, and less than a hundredth is stored again.
fn assert_known(home: &Home, args: &[&str]) -> String {
    let before = home.sizes().0;
    let (json, said) = backup(home, args);
    assert_eq!(
        (&json["known"], &json["new"], &json["unchanged"]),
        (&SIZE.into(), &0.into(), &0.into()),
        "{args:?} {json}"
    );
    let grown = home.sizes().0 - before;
    assert!(grown < SIZE as u64 / 100, "{args:?}: {grown} bytes more for {SIZE}");
    said
}

#[test]
fn a_disk_that_is_there_is_not_stored_again_under_another_name_or_without_a_parent() {
    let home = home();
    let variants = [&["--name", "other"][..], &["--name", "vm", "--parent", "none"]];
    for args in variants {
        let said = assert_known(&home, args);
        assert!(!said.contains("rebuilt"), "{said}");
    }
    home.run(&["forget", "latest:other", "-q"]).ok();
    // The cache is gone: it is made again from the repository, and that takes its time, which is said.
    for (n, args) in variants.into_iter().enumerate() {
        fs::remove_dir_all(home.path("cache")).unwrap();
        let said = assert_known(&home, args);
        let line =
            said.lines().find(|l| l.contains("the chunk index was rebuilt in ")).unwrap_or_else(|| panic!("{said}"));
        let seconds = line.split("rebuilt in ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(seconds.parse::<f64>().is_ok() && line.contains(" s "), "{n}: {line}");
        home.run(&["forget", "latest:other", "-q"]);
    }
    // The cache of another repository.
    let stranger = self::home();
    fs::remove_dir_all(home.path("cache")).unwrap();
    for args in variants {
        let cache = stranger.text("cache");
        assert_known(&home, &[args, &["--cache-dir", &cache]].concat());
        home.run(&["forget", "latest:other", "-q"]);
    }
    stranger.run(&["backup", "vm.raw", "--name", "third"]).ok();
    home.run(&["check", "--read-data"]).ok();
    assert!(fs::read(home.path("vm.raw")).unwrap() == noise(1, SIZE));
    home.run(&["restore", "latest:vm", "out.raw"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == noise(1, SIZE));
}

#[test]
fn the_second_process_on_a_cache_goes_without_it_says_so_and_builds_on_the_parent() {
    let home = home();
    let endless = Endless::start(&home);
    let mut disk = noise(1, SIZE);
    disk[..1 << 20].copy_from_slice(&noise(2, 1 << 20));
    home.write("vm.raw", &disk);
    let (json, said) = backup(&home, &["--name", "vm"]);
    assert!(said.contains("works without the chunk index"), "{said}");
    assert_eq!((&json["unchanged"], &json["new"]), (&(SIZE - (1 << 20)).into(), &(1 << 20).into()));
    endless.send(Signal::INT);
    assert_eq!(endless.end().code, 130);
    home.run(&["restore", "latest:vm", "out.raw"]).ok();
    assert!(fs::read(home.path("out.raw")).unwrap() == disk);
    // The first one's index takes in what the second one stored.
    let said = assert_known(&home, &["--name", "other"]);
    assert!(!said.contains("without the chunk index"), "{said}");
}

#[test]
fn two_that_run_at_once_both_succeed() {
    let home = home();
    let start = |volume: &str| home.command().args(["backup", "vm.raw", "--name", volume, "--json"]).spawn().unwrap();
    let children = [start("vm"), start("other")];
    for child in children {
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.ok().json()["size"], SIZE);
    }
    home.run(&["check", "--read-data"]).ok();
    for volume in ["vm", "other"] {
        home.run(&["restore", &format!("latest:{volume}"), "out.raw", "--force"]).ok();
        assert!(fs::read(home.path("out.raw")).unwrap() == noise(1, SIZE));
    }
}

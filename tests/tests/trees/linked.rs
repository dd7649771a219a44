//! Hard links beyond what memory holds.

use super::{backup, has};
use crate::harness::Home;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Inodes, each with a name in two directories: with paths of more than a thousand bytes more than fit into the least memory.
const INODES: usize = 3500;

/// The two directories.
fn folders() -> [String; 2] {
    ["a", "b"].map(|top| [top, &"d".repeat(250), &"e".repeat(250), &"f".repeat(250)].join("/"))
}

fn name(n: usize) -> String {
    format!("{n:0250}")
}

/// All names are there with what they had; gives how many have no other one.
fn alone(copy: &Path) -> u64 {
    let mut alone = 0;
    for n in 0..INODES {
        for folder in folders() {
            let path = copy.join(folder).join(name(n));
            assert_eq!(fs::read(&path).unwrap(), n.to_string().as_bytes(), "{path:?}");
            alone += u64::from(fs::metadata(&path).unwrap().nlink() == 1);
        }
    }
    alone
}

#[test]
fn links_that_do_not_fit_into_memory_become_files_and_that_is_said() {
    let home = Home::with_repository();
    for folder in folders() {
        fs::create_dir_all(home.path("tree").join(folder)).unwrap();
    }
    for n in 0..INODES {
        let [first, second] = folders().map(|folder| home.path("tree").join(folder).join(name(n)));
        fs::write(&first, n.to_string()).unwrap();
        fs::hard_link(first, second).unwrap();
    }
    backup(&home, "tree", &[]);
    let dry = home.run(&["restore", "latest:t", "copy", "--memory", "64M", "--json", "--dry-run"]);
    let ran = home.run(&["restore", "latest:t", "copy", "--memory", "64M", "--json"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!((dry.code, &dry.json()["unlinked"]), (3, &ran.json()["unlinked"]), "as was said before");
    has(&ran.stderr, &["hard links", "--memory"]);
    let (apart, unlinked) = (alone(&home.path("copy")), ran.json()["unlinked"].as_u64().unwrap());
    assert!(apart > 0 && apart < 2 * INODES as u64, "{apart}");
    // Each of them has a further name, and that is one for itself too.
    assert_eq!(2 * unlinked, apart);

    let mut dump = home.command().args(["dump", "latest:t", "--memory", "64M"]).spawn().unwrap();
    fs::create_dir(home.path("unpacked")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-xp", "-f", "-", "-C"]).arg(home.path("unpacked")).stdin(dump.stdout.take().unwrap());
    assert!(tar.stderr(Stdio::inherit()).status().unwrap().success());
    let dumped = home.ran(dump.wait_with_output().unwrap());
    assert_eq!(dumped.code, 3, "{}", dumped.stderr);
    has(&dumped.stderr, &["hard links", "have further names that are files of their own"]);
    assert!(alone(&home.path("unpacked")) > 0);

    fs::remove_dir_all(home.path("copy")).unwrap();
    let whole = home.run(&["restore", "latest:t", "copy", "--json"]).ok().json();
    assert_eq!((&whole["unlinked"], alone(&home.path("copy"))), (&0.into(), 0), "{whole}");
}

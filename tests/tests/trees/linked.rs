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

/// An overlay shows a file with the number that it has in its layer, and layers may lie on several filesystems: which of them
/// an inode is of tells it from another one of that number.
#[test]
fn links_in_an_overlay_of_two_filesystems_are_links() {
    let home = Home::with_repository();
    // In a namespace of mounts of its own, so nothing is left mounted. Both layers are made alike, so numbers are met twice.
    const SCRIPT: &str = r#"set -e
        mkdir layers all
        mount -t tmpfs none layers && mkdir layers/1 layers/2
        for n in 1 2; do
            mount -t tmpfs none layers/$n
            mkdir layers/$n/both layers/$n/only-$n
            for name in a b; do
                printf %s "$n$name" > layers/$n/both/$name-$n
                ln layers/$n/both/$name-$n layers/$n/only-$n/$name
                touch -d @1000000000 layers/$n/both/$name-$n
            done
            mkfifo layers/$n/both/fifo-$n && ln layers/$n/both/fifo-$n layers/$n/only-$n/fifo
        done
        mount -t overlay none -o xino=off,lowerdir=layers/1:layers/2 all
        stat -c '%n %i %d %h' all/both/* >&2
        sleep 2.1
        "$WHERRY" backup all --name t --json
        "$WHERRY" restore latest:t copy --json >&2
        "$WHERRY" backup all --name t --json"#;
    let mut unshare = Command::new("unshare");
    home.prepare(&mut unshare);
    home.point_to_repository(&mut unshare);
    unshare.env("WHERRY", wherry_tests::binary::wherry_bin());
    let ran = home.ran(unshare.args(["--mount", "sh", "-c", SCRIPT]).output().unwrap()).ok();
    let copy = home.path("copy");
    let number = |path: String| fs::metadata(copy.join(path)).unwrap().ino();
    for n in [1, 2] {
        for name in ["a", "b"] {
            let path = copy.join(format!("both/{name}-{n}"));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{n}{name}"));
            assert_eq!(fs::metadata(&path).unwrap().nlink(), 2, "{path:?}: {ran:?}");
            assert_eq!(number(format!("both/{name}-{n}")), number(format!("only-{n}/{name}")), "{name}: {ran:?}");
        }
        assert_eq!(number(format!("both/fifo-{n}")), number(format!("only-{n}/fifo")), "{ran:?}");
    }
    // Whatever filesystem it is on, it is not another one that is mounted there.
    let reports: Vec<serde_json::Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&reports[0]["files"], &reports[0]["boundaries"]), (&8.into(), &0.into()), "{reports:?}");
    assert_eq!(reports[1]["files_unread"], 4, "they have the same numbers again: {reports:?}");
}

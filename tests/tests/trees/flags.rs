//! Immutable and append-only inodes: there and back, over what is there already, and where they may not be set.

use super::{backup, has};
use crate::harness::Home;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use wherry_tests::trees::{Listing, assert_same, flag, grow, list};
use wherry_tests::volumes::Volume;

const IMMUTABLE: u32 = 0x10;
const APPEND: u32 = 0x20;

/// Inodes with one of the flags.
fn flagged(listing: &Listing, flag: u32) -> usize {
    listing.values().filter(|facts| facts.flags & flag != 0).count()
}

/// A filesystem of its own, with a random tree that has flags in it: what cannot be removed goes with the filesystem.
fn volume(seed: u64) -> Volume {
    let volume = Volume::ext4(640);
    let tree = volume.path().join("tree");
    fs::create_dir(&tree).unwrap();
    grow(&tree, seed);
    flag(&tree, seed);
    volume
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn random_flags_come_back_also_over_what_has_flags() {
    for seed in 30..34 {
        let home = Home::with_repository();
        let volume = volume(seed);
        let (tree, out) = (volume.path().join("tree"), volume.path().join("out"));
        backup(&home, text(&tree), &[]);
        let source = list(&tree);
        assert!(flagged(&source, IMMUTABLE) > 5 && flagged(&source, APPEND) > 5, "seed {seed}");
        let restore = |flags: &[&str]| -> Value {
            let all = [&["restore", "latest:t", text(&out), "--json"], flags].concat();
            let report = home.run(&all).ok().json();
            assert_eq!(report["refused"], 0, "seed {seed}, {flags:?}: {report}");
            report
        };
        restore(&[]);
        assert_same(&list(&out), &source, &format!("seed {seed}"));
        for flags in [&["--overwrite", "always"][..], &["--delta"], &["--delta", "--verify", "--delete"]] {
            // Flags on other inodes than before, and names that the snapshot does not have.
            flag(&out, seed + 1000);
            restore(flags);
            assert_same(&list(&out), &source, &format!("seed {seed}, {flags:?}"));
        }
        for name in ["extra", "extra folder/in it"] {
            let path = out.join(name);
            // Root itself makes no name in a directory with a flag.
            chattr("-ia", path.parent().unwrap().parent().unwrap_or(&out));
            chattr("-ia", &out);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            chattr("+i", &path);
        }
        chattr("+a", &out.join("extra folder"));
        let report = restore(&["--force", "--delete"]);
        assert_eq!(report["removed"], 3, "seed {seed}: {report}");
        assert_same(&list(&out), &source, &format!("seed {seed}, --delete"));
    }
}

fn chattr(how: &str, path: &Path) {
    let _ = Command::new("chattr").arg(how).arg(path).stderr(std::process::Stdio::null()).status();
}

#[test]
fn what_may_not_be_set_or_replaced_is_named_and_the_rest_is_there() {
    let home = Home::with_repository();
    let volume = Volume::ext4(32);
    let (tree, out) = (volume.path().join("tree"), volume.path().join("out"));
    for root in [&tree, &out] {
        fs::create_dir(root).unwrap();
    }
    for name in ["plain", "immutable", "append", "theirs"] {
        fs::write(tree.join(name), name).unwrap();
    }
    chattr("+i", &tree.join("immutable"));
    chattr("+a", &tree.join("append"));
    backup(&home, text(&tree), &[]);
    // What is there cannot go, nor can what the snapshot does not have.
    for name in ["theirs", "extra"] {
        fs::write(out.join(name), "as it was").unwrap();
        chattr("+i", &out.join(name));
    }
    let without = |flags: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-linux_immutable", "--inh-caps=-linux_immutable"]);
        command.arg(wherry_tests::binary::wherry_bin()).args(["restore", "latest:t", text(&out)]).args(flags);
        home.prepare(&mut command);
        home.point_to_repository(&mut command);
        home.ran(command.output().unwrap())
    };
    for mode in ["--force", "--delta"] {
        let ran = without(&[mode, "--delete", "--json"]);
        assert_eq!(ran.code, 3, "{}", ran.stderr);
        let report = ran.json();
        let mut refused: Vec<_> =
            report["refused_paths"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        refused.sort_unstable();
        let of: Vec<_> = refused.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(of, ["append", "extra", "immutable", "theirs"], "{mode}: {refused:?}");
        has(&refused.join("\n"), &["immutable: its inode flags", "extra: removing it", "theirs: giving it its name"]);
        for name in ["plain", "immutable", "append"] {
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), name, "{mode}");
        }
        assert_eq!(fs::read_to_string(out.join("theirs")).unwrap(), "as it was", "{mode}");
        let names = fs::read_dir(&out).unwrap().count();
        assert_eq!(names, 5, "{mode}: no temporary name is left");
    }
    // Who may do all of it goes on from there.
    home.run(&["restore", "latest:t", text(&out), "--delta", "--delete"]).ok();
    assert_same(&list(&out), &list(&tree), "by who may");
}

//! Packs that are there and shorter than they were, as a loss of power leaves files: no new snapshot rests on what they lost.

use super::harness::Home;
use std::fs;
use wherry_tests::small::noise;

const UNIT: usize = 64 << 10;
const MIB: usize = 1 << 20;
/// What is cut, and how many halves of it stay.
const CUTS: [(&[&str], u64); 5] =
    [(&["packs"], 0), (&["packs"], 1), (&["meta"], 0), (&["meta"], 1), (&["packs", "meta"], 0)];

/// Cuts all objects of these folders of a repository to so many halves.
#[track_caller]
fn cut(home: &Home, repository: &str, folders: &[&str], halves: u64) {
    for folder in folders {
        let objects = home.tree(&format!("{repository}/{folder}"));
        assert!(!objects.is_empty(), "there is nothing in {folder}");
        for (path, bytes) in objects {
            fs::File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 / 2 * halves).unwrap();
        }
    }
}

#[track_caller]
fn assert_disk(home: &Home, access: &[&str], snapshot: &str, disk: &[u8]) {
    let output = home.command().args(access).args(["cat", snapshot]).output().unwrap();
    assert!(output.status.success() && output.stdout == disk, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_directory_that_is_backed_up_again_is_whole_although_packs_were_cut() {
    for (folders, halves) in CUTS {
        let home = Home::with_small_chunks();
        fs::create_dir_all(home.path("dir/sub")).unwrap();
        // Small ones that share a chunk, one of some pieces, one of a list of them, and a disk.
        for n in 0..20 {
            home.write(&format!("dir/small-{n}"), noise(100 + n, 3000));
        }
        home.write("dir/middle", noise(1, 3 * MIB));
        home.write("dir/sub/large", noise(2, 12 * MIB));
        home.write("dir/sub/vm.raw", noise(3, 5 * MIB));
        let dir = home.tree("dir");
        let backup = || {
            let report = home.run(&["backup", "dir", "--name", "dir", "--json"]).ok().json();
            report["snapshot"].as_str().unwrap().to_owned()
        };
        backup();
        cut(&home, "repo", folders, halves);
        let second = backup();
        home.run(&["restore", &second, "out"]).ok();
        let out = home.tree("out").into_iter();
        let out: Vec<_> =
            out.map(|(path, bytes)| (path.strip_prefix(home.path("out")).unwrap().to_owned(), bytes)).collect();
        assert!(dir.len() == out.len(), "{folders:?} {halves}");
        for ((path, bytes), (name, restored)) in dir.iter().zip(out) {
            assert!(path.ends_with(&name) && *bytes == restored, "{folders:?} {halves}: {}", name.display());
        }
    }
}

#[test]
fn a_disk_that_is_backed_up_again_is_whole_although_packs_were_cut() {
    for (folders, halves) in CUTS {
        for list in [false, true] {
            let home = Home::with_small_chunks();
            let disk = noise(1, 300 * UNIT + 1000);
            home.backup("vm", &disk);
            cut(&home, "repo", folders, halves);
            let list_of_nothing = home.write("list", "");
            let mut args = vec!["backup", "vm.raw", "--name", "vm", "--json"];
            if list {
                args.extend(["--changed-blocks", &list_of_nothing]);
            }
            let report = home.run(&args).ok().json();
            assert_disk(&home, &[], report["snapshot"].as_str().unwrap(), &disk);
            if folders == ["packs"] {
                let (read, size) = (report["read"].as_u64().unwrap(), disk.len() as u64);
                assert!(report["new"].as_u64().unwrap() > size / 3, "what was cut is stored anew: {report}");
                assert!(read == size || list && halves == 1 && read > size / 3, "{report}");
            }
        }
    }
}

#[test]
fn a_copy_does_not_rest_on_packs_that_were_cut_there() {
    for (folders, halves) in CUTS {
        let home = Home::with_small_chunks();
        home.run(&["init", "-q", "--repo", "other", "--key-file", "other.key"]).ok();
        let copy = || home.run(&["copy", "--to", "other", "--to-key-file", "other.key", "--json"]).ok().json();
        let disk = noise(1, 300 * UNIT + 1000);
        home.backup("vm", &disk);
        copy();
        cut(&home, "other", folders, halves);
        home.backup("vm", &disk);
        let report = copy();
        let made = report["snapshots"].as_array().unwrap().iter().filter(|made| made["state"] == "copied");
        let made: Vec<_> = made.map(|made| made["copy"].as_str().unwrap()).collect();
        let [second] = made[..] else { panic!("{report}") };
        assert_disk(&home, &["--repo", "other", "--key-file", "other.key"], second, &disk);
    }
}

/// Of a pack in which nothing is left nobody says that it holds what is intact.
#[test]
fn check_does_not_say_of_a_pack_that_is_empty_that_the_rest_of_it_is_intact() {
    for (halves, keeps) in [(0, false), (1, true)] {
        let home = Home::with_small_chunks();
        home.backup("vm", &noise(1, 300 * UNIT));
        cut(&home, "repo", &["packs"], halves);
        let report = home.run(&["check", "--json"]);
        assert_eq!(report.code, 13, "{report:?}");
        let advice = report.json()["damages"][0]["advice"].as_str().unwrap().to_owned();
        assert_eq!(advice.contains("leave it where it is"), keeps, "{advice}");
        assert!(advice.contains("the next backup of each volume stores anew"), "{advice}");
    }
}

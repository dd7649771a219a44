//! Damage that is known is never denied, the way in that is lost is named by its right name, and what is not lost is given.

use super::{Kept, MIB, has, restores};
use std::fs;
use std::path::{Path, PathBuf};
use wherry_tests::home::Home;
use wherry_tests::small::noise;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The objects below a folder of the repository.
fn objects(home: &Home, folder: &str) -> Vec<PathBuf> {
    let all: Vec<_> = home.tree(&format!("repo/{folder}")).into_keys().collect();
    assert!(!all.is_empty(), "there is nothing in {folder}");
    all
}

#[test]
fn noted_damage_is_looked_at_by_every_check_until_it_is_gone() {
    let kept = Kept::new();
    let (home, id) = (&kept.home, kept.id.as_str());
    let pack = objects(home, "packs").remove(0);
    let sound = fs::read(&pack).unwrap();
    home.run(&["check"]).ok();
    flip(&pack, sound.len() / 2);
    // Nobody knows it yet, and that data was not read is said.
    has(&home.run(&["check"]).ok().stdout, &["not read"]);
    assert_eq!(home.run(&["check", "--read-data", "-q"]).code, 13);
    let name = pack.file_name().unwrap().to_str().unwrap();
    for args in [&["check"][..], &["check", id], &["repair"]] {
        let ran = home.run(args);
        assert_eq!(ran.code, 13, "{args:?}: {ran:?}");
        has(&ran.stdout, &["DAMAGED", name, id, "1 snapshot is hit"]);
    }
    let json = home.run(&["check", "--json"]).json();
    assert_eq!((&json["clean"], json["damages"].as_array().unwrap().len()), (&false.into(), 1), "{json}");
    let line = home.run(&["restore", id, "out", "-q"]).ends(13);
    has(&line, &["wherry check --read-data", "wherry mount", "conv=noerror,sync", id]);
    assert!(!line.contains("wherry check`"), "{line}");

    let listed = home.run(&["snapshots"]).ok().stdout;
    has(&listed, &["DAMAGED, found", "damaged"]);
    assert!(!listed.contains("whole"), "{listed}");
    assert_eq!(home.run(&["stats", "--json"]).ok().json()["damaged"], 1);

    // Brought back from a copy: the same check finds that out, and takes the note away.
    fs::write(&pack, &sound).unwrap();
    home.run(&["check"]).ok();
    let listed = home.run(&["snapshots"]).ok().stdout;
    assert!(listed.contains("whole") && !listed.contains("DAMAGED"), "{listed}");
    assert_eq!(home.run(&["stats", "--json"]).ok().json()["damaged"], 0);
    kept.is_whole();
}

#[test]
fn a_lost_way_in_is_damage_and_named() {
    let kept = Kept::new();
    let home = &kept.home;
    for (folder, words) in [
        ("keys", &["each key slot below keys/", "is gone", "copy of the repository"][..]),
        ("repo.json", &["holds objects of a repository", "no repo.json", "copy of the repository"]),
    ] {
        fs::rename(home.path("repo").join(folder), home.path("aside")).unwrap();
        for args in [&["snapshots"][..], &["restore", &kept.id, "out"], &["check"]] {
            has(&home.run(args).fails(13), words);
        }
        assert!([1, 13].contains(&home.run(&["init", "-q"]).code));
        assert!(!home.path("repo").join(folder).exists(), "{folder} was made again");
        fs::rename(home.path("aside"), home.path("repo").join(folder)).unwrap();
    }
    kept.is_whole();
}

#[test]
fn a_damaged_newest_configuration_keeps_from_writing_until_repair_and_from_nothing_else() {
    let kept = Kept::new();
    let (home, id) = (&kept.home, kept.id.as_str());
    home.run(&["pin", id]).ok();
    let config = home.path("repo/config/00000001");
    let sound = fs::read(&config).unwrap();

    // Nothing is left of it: what it said cannot be known.
    fs::write(&config, b"").unwrap();
    let line = home.run(&["snapshots"]).fails(13);
    has(&line, &["config/00000001", "config/00000000 counts again", "wherry upgrade", "put it back from a copy"]);

    fs::write(&config, &sound).unwrap();
    flip(&config, 20);
    let before = home.tree("repo/config");
    let ran = home.run(&["restore", id, "out"]).ok();
    has(&ran.stderr, &["WARN", "config/00000001 is damaged", "wherry repair"]);
    assert!(fs::read(home.path("out")).unwrap() == kept.disk);
    let ran = home.run(&["check", "--json"]);
    let damage = &ran.json()["damages"][0];
    assert_eq!((ran.code, &damage["object"], &damage["kind"]), (13, &"config/00000001".into(), &"config".into()));
    has(damage["advice"].as_str().unwrap(), &["wherry repair"]);
    for args in [&["backup", "kept.raw", "--name", "kept"][..], &["forget", id], &["unpin", id], &["gc"]] {
        has(&home.run(args).ends(13), &["config/00000001", "wherry repair"]);
    }
    assert!(home.tree("repo/config") == before, "something was written");

    let ran = home.run(&["repair", "--json"]).ok();
    assert_eq!(ran.json()["config"], "config/00000002", "{ran:?}");
    // The damaged one is named still; it counts for nothing, and nobody can do anything about it.
    for args in [&["check"][..], &["repair"]] {
        let said = home.run(args).ok().stdout;
        has(&said, &["DAMAGED   config/00000001", "nothing is to be done", "a newer configuration counts"]);
        assert!(!said.contains("next backup"), "{said}");
    }
    assert_eq!(home.run(&["check", "--json"]).ok().json()["clean"], true);
    let next = home.backup("kept", &noise(2, MIB));
    restores(home, &next, &noise(2, MIB));
    has(&home.run(&["forget", id]).ends(2), &["pinned"]);
}

#[test]
fn a_lost_record_of_a_pinned_snapshot_is_damage() {
    let kept = Kept::new();
    let (home, id) = (&kept.home, kept.id.as_str());
    let other = home.backup("other", b"other");
    home.run(&["pin", id]).ok();
    home.run(&["check"]).ok();
    let record = objects(home, "snap").into_iter().find(|path| path.ends_with(id)).unwrap();
    let sound = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    for args in [&["check"][..], &["check", "--read-data"], &["repair"]] {
        let ran = home.run(args);
        assert_eq!(ran.code, 13, "{args:?}: {ran:?}");
        has(&ran.stdout, &["DAMAGED", &format!("pin/{id}/"), "record is gone", "copy of the repository"]);
    }
    // Of another snapshot it says nothing.
    home.run(&["check", &other]).ok();
    // The next backup of the volume takes its session for one that was left, and no collector takes what it needs.
    home.backup("kept", b"something else");
    let packs = objects(home, "packs");
    for _ in 0..2 {
        let line = home.run(&["gc", "--grace", "0s", "--fence-after", "0s", "-q"]).fails(13);
        has(&line, &[&format!("pin/{id}/"), "record is gone", &format!("wherry unpin {id}")]);
    }
    assert!(packs.iter().all(|pack| pack.exists()));
    assert_eq!(home.run(&["check", "-q"]).code, 13);
    fs::write(&record, sound).unwrap();
    home.run(&["check"]).ok();
    kept.is_whole_with(3);
    // Who gives it up says so.
    fs::remove_file(&record).unwrap();
    home.run(&["unpin", id]).ok();
    home.run(&["check"]).ok();
}

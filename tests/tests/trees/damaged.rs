//! A damaged pack takes from a restore what it held and nothing else, and each of that is named.

use super::{backup, comes_back, files, has};
use crate::harness::{Home, Ran};
use fuser::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wherry_tests::nolinks::NoLinks;
use wherry_tests::small::noise;
use wherry_tests::trees::{assert_same, list};

/// A repository of a tree: large files, small ones that share chunks, one with two names.
struct World {
    home: Home,
    names: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self::with(Home::with_repository())
    }

    fn with(home: Home) -> Self {
        let mut names = Vec::new();
        for n in 0..12 {
            names.push(format!("d/{n}"));
            files(&home.path("tree"), &[(&names[n], &noise(n as u64, 300_000))]);
        }
        for n in 12..60 {
            names.push(format!("small/{}/{n}", n % 3));
            files(&home.path("tree"), &[(&names[n], &noise(n as u64, 3000))]);
        }
        fs::hard_link(home.path("tree/d/5"), home.path("tree/d/further")).unwrap();
        names.push("d/further".to_owned());
        backup(&home, "tree", &[]);
        Self { home, names }
    }

    /// The one object below a folder of the repository.
    fn object(&self, folder: &str) -> PathBuf {
        object_in(&self.home, &self.home.path("repo"), folder)
    }

    fn restore(&self, flags: &[&str]) -> Ran {
        self.home.run(&[&["restore", "latest:t", "out", "--json"], flags].concat())
    }

    /// What is in the target is what was there; what is not is named; nothing else is there. Gives what is named.
    #[track_caller]
    fn all_but_the_named(&self, ran: &Ran) -> BTreeSet<String> {
        assert_eq!(ran.code, 13, "{ran:?}");
        let result = ran.json();
        let named: BTreeSet<String> =
            result["lost_paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()).collect();
        assert_eq!(result["lost"], named.len(), "{result}");
        let last = ran.stderr.lines().last().unwrap();
        has(last, &["wherry: ", "not restored whole", "wherry check --read-data"]);
        let mut left = 0;
        for name in &self.names {
            let is_named = named.contains(name)
                || named.iter().any(|n| n == "./" || n.ends_with('/') && name.starts_with(n.as_str()));
            match fs::read(self.home.path("out").join(name)) {
                Ok(bytes) => {
                    assert!(bytes == fs::read(self.home.path("tree").join(name)).unwrap(), "{name} is wrong");
                    assert!(!named.contains(name), "{name} is there, and named");
                    left += 1;
                }
                Err(_) => assert!(is_named, "{name} is neither there nor named: {result}"),
            }
        }
        for name in &named {
            has(&ran.stderr, &[&format!("{name}: ")]);
        }
        assert_eq!(self.home.tree("out").len(), left, "something else is in the target");
        named
    }
}

/// The one object below a folder of a repository, wherever that lies.
fn object_in(home: &Home, repository: &Path, folder: &str) -> PathBuf {
    let mut all = home.tree(repository.join(folder).to_str().unwrap()).into_keys();
    let object = all.next().unwrap();
    assert!(all.next().is_none(), "{folder} has more than one");
    object
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_chunk_takes_its_files_and_no_others_and_the_rest_comes_when_it_is_there_again() {
    let world = World::new();
    let home = &world.home;
    let pack = world.object("packs");
    let sound = fs::read(&pack).unwrap();
    // Steps shorter than a large file, as threads make the order: each is hit, that with two names too; and one that small files share.
    let mut seen = BTreeSet::new();
    for at in (1..16).map(|n| sound.len() * n / 16).chain([sound.len() - 50_000]) {
        flip(&pack, at);
        let named = world.all_but_the_named(&world.restore(&[]));
        assert!(!named.is_empty() && named.len() <= 48, "{named:?}");
        seen.extend(named);
        fs::write(&pack, &sound).unwrap();
        if at == sound.len() / 4 {
            // What the run left open, it finishes.
            let result = world.restore(&[]);
            assert_eq!((result.code, &result.json()["resumed"]), (0, &Value::Bool(true)), "{result:?}");
            assert_same(&list(&home.path("out")), &list(&home.path("tree")), "after the damage was undone");
        }
        fs::remove_dir_all(home.path("out")).unwrap();
    }
    assert!(seen.iter().any(|name| name.starts_with("small/")), "no shared chunk was hit: {seen:?}");
    assert!(seen.contains("d/5") && seen.contains("d/further"), "the file with two names was not hit: {seen:?}");
}

#[test]
fn what_is_in_the_target_stays_where_the_snapshot_has_lost_it() {
    let world = World::new();
    let home = &world.home;
    let pack = world.object("packs");
    let sound = fs::read(&pack).unwrap();
    flip(&pack, sound.len() / 4);
    let lost = world.all_but_the_named(&world.restore(&[])).into_iter().next().unwrap();
    fs::remove_dir_all(home.path("out")).unwrap();
    for flags in [&["--delta"][..], &["--force"], &["--force", "--delete"], &["--delta", "--verify"]] {
        // Of the same size, as a comparison may keep it; and one that the snapshot does not have. The lost one may be d/0.
        files(&home.path("out"), &[("d/0", b"old"), (&lost, &noise(99, 300_000)), ("strange", b"mine")]);
        let ran = world.restore(flags);
        assert_eq!(ran.code, 13, "{flags:?}: {ran:?}");
        let result = ran.json();
        assert_eq!(result["lost_paths"][0], lost.as_str(), "{flags:?}: {result}");
        assert_eq!((&result["removed"], &result["verified"]), (&0.into(), &false.into()), "{flags:?}");
        assert!(fs::read(home.path("out").join(&lost)).unwrap() == noise(99, 300_000), "{flags:?}");
        assert_eq!(fs::read(home.path("out/strange")).unwrap(), b"mine", "{flags:?}");
        for name in world.names.iter().filter(|name| **name != lost) {
            let same = fs::read(home.path("out").join(name)).ok() == fs::read(home.path("tree").join(name)).ok();
            assert!(same, "{flags:?}: {name}");
        }
        fs::remove_dir_all(home.path("out")).unwrap();
    }
}

#[test]
fn a_damaged_part_of_the_tree_takes_what_is_below_it_and_nothing_else() {
    let world = World::new();
    let pack = world.object("meta");
    let sound = fs::read(&pack).unwrap();
    let mut parts = 0;
    for n in 1..16 {
        flip(&pack, sound.len() * n / 16);
        let ran = world.restore(&[]);
        // Without the top there is no way to anything; some bytes of the pack nobody reads.
        let is_partly = ran.code == 13 && !ran.stdout.is_empty();
        assert!(is_partly || [0, 13].contains(&ran.code), "{ran:?}");
        if ran.code == 0 {
            assert_same(&list(&world.home.path("out")), &list(&world.home.path("tree")), "nothing was said to be lost");
        }
        if is_partly {
            let named = world.all_but_the_named(&ran);
            parts += usize::from(!named.contains("./"));
        }
        fs::write(&pack, &sound).unwrap();
        let _ = fs::remove_dir_all(world.home.path("out"));
    }
    assert!(parts > 0, "no directory was hit");
}

/// A disk of this machine says of a bad sector that it cannot read it now, and of no other one.
#[test]
fn a_bad_sector_takes_what_lies_in_it_and_nothing_else() {
    let mount = NoLinks::mount();
    let repository = mount.path().join("repo");
    let home = Home::new().at(repository.to_str().unwrap(), &[]);
    home.run(&["init", "-q", "--single-writer"]).ok();
    let world = World::with(home);
    let home = &world.home;
    let pack = object_in(home, &repository, "packs");
    let len = fs::metadata(&pack).unwrap().len() as usize;
    for n in 1..8 {
        mount.spoil(&pack, len * n / 8..len * n / 8 + 4096, true);
        let named = world.all_but_the_named(&world.restore(&[]));
        assert!(!named.is_empty() && named.len() <= 48, "{named:?}");
        if n == 4 {
            for args in [&["dump", "latest:t"][..], &["cat", "latest:t", named.first().unwrap()]] {
                assert_eq!(home.command().args(args).output().unwrap().status.code(), Some(13), "{args:?}");
            }
        }
        mount.heal(&pack);
        fs::remove_dir_all(home.path("out")).unwrap();
    }
}

/// Neither does one that it does not open, or of which it cannot tell how long it is.
#[test]
fn a_pack_that_a_disk_does_not_open_takes_what_it_held_and_nothing_else() {
    let mount = NoLinks::mount();
    let repository = mount.path().join("repo");
    let home = Home::new().at(repository.to_str().unwrap(), &[]);
    home.run(&["init", "-q", "--single-writer"]).ok();
    let mut world = World::with(home);
    let pack = object_in(&world.home, &repository, "packs");
    world.names.push("later".to_owned());
    files(&world.home.path("tree"), &[("later", &noise(61, 300_000))]);
    backup(&world.home, "tree", &[]);
    let home = &world.home;
    let key = pack.strip_prefix(&repository).unwrap().to_str().unwrap();
    let (io, unclean, many) = (Errno::EIO, Errno::from_i32(117), Errno::EMFILE);
    // How `gc` ends: it reads no data, and of what seems empty it looks for all in other packs.
    let ways: [(fn(&NoLinks, &Path, Errno), Errno, i32); 3] =
        [(NoLinks::shut, io, 0), (NoLinks::hide, io, 13), (NoLinks::hide, unclean, 13)];
    for (way, errno, collected) in ways {
        way(&mount, &pack, errno);
        let named = world.all_but_the_named(&world.restore(&[]));
        assert!(!named.contains("later") && named.contains("d/5"), "{named:?}");
        fs::remove_dir_all(home.path("out")).unwrap();
        let checked = home.run(&["check", "--json"]);
        assert_eq!(checked.code, 13, "{checked:?}");
        let damages = checked.json()["damages"].clone();
        assert_eq!((damages.as_array().unwrap().len(), &damages[0]["object"]), (1, &key.into()), "{damages}");
        assert_eq!(damages[0]["hits"].as_array().unwrap().len(), 2, "{damages}");
        assert_eq!(home.run(&["gc", "--grace", "0s"]).code, collected);
        mount.heal(&pack);
        comes_back(home, "tree", "the disk was plugged in anew");
        home.run(&["check", "--read-data"]).ok();
    }
    // That says nothing of the pack.
    for way in [NoLinks::shut, NoLinks::hide] {
        way(&mount, &pack, many);
        assert_eq!(world.restore(&[]).code, 1);
        assert_eq!(home.run(&["check"]).code, 1);
        mount.heal(&pack);
        let _ = fs::remove_dir_all(home.path("out"));
    }
    comes_back(home, "tree", "there are files to spare again");
    // What a backup takes over is not in there.
    mount.hide(&pack, io);
    backup(home, "tree", &[]);
    comes_back(home, "tree", "a pack is hidden");
}

/// A sector is read with the others of its page, so there are many nodes.
#[test]
fn a_bad_sector_among_directories_takes_what_is_below_it_and_nothing_else() {
    const FOLDERS: usize = 8;
    const NAMES: usize = 400;
    let mount = NoLinks::mount();
    let repository = mount.path().join("repo");
    let home = Home::new().at(repository.to_str().unwrap(), &[]);
    home.run(&["init", "-q", "--single-writer"]).ok();
    let name = |folder: usize, n: usize| format!("{folder}/{n:0>100}");
    for n in 0..FOLDERS * NAMES {
        files(&home.path("tree"), &[(&name(n % FOLDERS, n / FOLDERS), b"")]);
    }
    backup(&home, "tree", &[]);
    let pack = object_in(&home, &repository, "meta");
    // Another tree to compare with, which has no node in common: what is lost is not found in it.
    assert!(
        Command::new("find").arg(home.path("tree")).args(["-exec", "touch", "{}", "+"]).status().unwrap().success()
    );
    let after = home.run(&["backup", "tree", "--name", "t2", "--json"]).ok().json();
    let after = after["snapshot"].as_str().unwrap();
    let len = fs::metadata(&pack).unwrap().len() as usize;
    let (mut parts, mut codes) = (0, BTreeSet::new());
    for sector in [1, 3, 5, 7] {
        mount.spoil(&pack, len * sector / 8..len * sector / 8 + 512, true);
        let ran = home.run(&["restore", "latest:t", "out", "--json"]);
        assert!([0, 13].contains(&ran.code), "{ran:?}");
        if ran.code == 13 && !ran.stdout.is_empty() {
            let result = ran.json();
            let named: Vec<_> = result["lost_paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            assert!(!named.is_empty(), "{result}");
            for folder in 0..FOLDERS {
                let is_named = named.iter().any(|name| *name == "./" || *name == format!("{folder}/"));
                let there = (0..NAMES).filter(|n| home.path("out").join(name(folder, *n)).exists()).count();
                assert!(is_named || there == NAMES, "{there} of {folder}: {result}");
            }
            parts += usize::from(!named.contains(&"./"));
        }
        let commands =
            [&["ls", "-R", "latest:t"][..], &["find", "latest:t"], &["dump", "latest:t"], &["diff", "latest:t", after]];
        for args in commands {
            let code = home.command().args(args).output().unwrap().status.code();
            assert!([Some(0), Some(13)].contains(&code), "{args:?}: {code:?}");
            codes.extend((code == Some(13)).then_some(args[0]));
        }
        mount.heal(&pack);
        let _ = fs::remove_dir_all(home.path("out"));
    }
    assert!(parts > 0, "no directory was hit");
    assert_eq!(codes.len(), 4, "{codes:?}");
}

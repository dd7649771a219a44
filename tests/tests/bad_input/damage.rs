//! Each kind of object, cut at several places and flipped at several: what is lost is named, what is not is there, and
//! nothing wrong comes out.

use super::{Kept, MIB, UNIT, has};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use wherry_tests::home::{Home, PATIENCE};
use wherry_tests::small::noise;

/// A change to the bytes of an object.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// So many eightieths of it are left.
    Cut(usize),
    /// One bit at so many eightieths.
    Flip(usize),
}

const HARM: [Harm; 7] =
    [Harm::Cut(0), Harm::Cut(1), Harm::Cut(40), Harm::Cut(79), Harm::Flip(0), Harm::Flip(37), Harm::Flip(79)];

impl Harm {
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let at = |n: usize| bytes.len() * n / 80;
        match self {
            Self::Cut(n) => bytes.truncate(at(n)),
            Self::Flip(n) => {
                let at = at(n);
                bytes[at] ^= 0x20;
            }
        }
        bytes
    }
}

/// The objects below a folder of the repository, by their keys.
fn objects(home: &Home, folder: &str) -> Vec<PathBuf> {
    let all = home.tree(&format!("repo/{folder}"));
    assert!(!all.is_empty(), "there is nothing in {folder}");
    all.into_keys().collect()
}

fn key(home: &Home, path: &Path) -> String {
    path.strip_prefix(home.path("repo")).unwrap().to_str().unwrap().to_owned()
}

/// What the damage of an object of each kind keeps from being done.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    /// The repository does not open.
    All,
    /// Bytes of the snapshot cannot be read.
    Data,
    /// Nothing: other objects hold the truth.
    Nothing,
}

#[test]
fn every_kind_of_object_cut_or_flipped_is_13_or_goes_on_and_no_wrong_byte_comes_out() {
    let kept = Kept::new();
    let home = &kept.home;
    // One volume more, with a forget, so that there is every kind of object.
    let other = home.backup("other", &noise(3, MIB));
    home.run(&["forget", &other, "-q"]).ok();
    let record = objects(home, "snap").into_iter().find(|path| path.ends_with(&kept.id)).unwrap();
    let of_kept = |folder: &str| objects(home, folder).into_iter().find(|p| key(home, p).contains(&kept.id)).unwrap();
    let kinds = [
        (home.path("repo/repo.json"), Lost::All),
        (home.path("repo/config/00000000"), Lost::All),
        (home.path("repo/keys/0000000000000000"), Lost::All),
        (of_kept("packs"), Lost::Data),
        (of_kept("meta"), Lost::Data),
        (record, Lost::Data),
        (of_kept("idx"), Lost::Nothing),
        (of_kept("sess"), Lost::Nothing),
        (objects(home, "forget").remove(0), Lost::Nothing),
    ];
    // What checks have read is noted: that is all they may write.
    let all_but_notes = || {
        let mut tree = home.tree("repo");
        tree.retain(|path, _| !path.starts_with(home.path("repo/checked")));
        tree
    };
    let before = all_but_notes();
    for (path, lost) in &kinds {
        let (name, bytes) = (key(home, path), &before[path]);
        let mut hit = 0;
        for harm in HARM {
            fs::write(path, harm.of(bytes)).unwrap();
            hit += usize::from(is_13_or_equal(&kept, &name, *lost, harm));
        }
        // Bytes that nobody reads, such as those behind the last chunk, may be lost without loss; most are not.
        assert!(*lost == Lost::Nothing || hit >= HARM.len() / 2, "{name}: only {hit} kept from restoring");
        fs::write(path, bytes).unwrap();
    }
    assert!(all_but_notes() == before, "reading changed something");
    kept.is_whole();
}

/// `check` and `restore` beside a damaged object; whether it kept from restoring.
fn is_13_or_equal(kept: &Kept, name: &str, lost: Lost, harm: Harm) -> bool {
    let home = &kept.home;
    let check = home.run(&["check", "--read-data", "--json"]);
    assert_eq!(check.code, 13, "{name} {harm:?}: {check:?}");
    if lost == Lost::All {
        let object = name.split('/').next().unwrap().trim_end_matches(".json");
        let line = check.fails(13);
        let cause = ["damaged", "configuration", "slot"].iter().any(|word| line.contains(word));
        assert!(cause && line.contains("put it back from a copy"), "{name} {harm:?}: {line}");
        has(
            &line,
            &[if object == "keys" {
                "key slot"
            } else if object == "repo" {
                "identity"
            } else {
                "configuration"
            }],
        );
        has(&home.run(&["backup", "kept.raw", "--name", "kept"]).ends(13), &["damaged"]);
    } else {
        let json = check.json();
        let named = json["damages"].as_array().unwrap().iter().find(|damage| damage["object"] == name).cloned();
        let damage = named.unwrap_or_else(|| panic!("{name} {harm:?} is not named: {json}"));
        if lost == Lost::Nothing {
            assert_eq!(damage["hits"], Value::Array(vec![]), "{name} {harm:?}");
        }
    }
    let out = home.path("out");
    let ran = home.run(&["restore", &kept.id, "out"]);
    let failed = ran.code != 0;
    if failed {
        assert!(lost != Lost::Nothing, "{name} {harm:?}: {ran:?}");
        let line = ran.ends(13);
        let next = line.contains("wherry check") || line.contains("put it back");
        assert!(next && (lost == Lost::All || line.contains(name.rsplit('/').next().unwrap())), "{name}: {line}");
    } else {
        assert!(fs::read(&out).unwrap() == kept.disk, "{name} {harm:?}: wrong bytes were restored");
    }
    let _ = fs::remove_file(out);
    let _ = fs::remove_file(home.path(".out.wherry-restore"));
    failed
}

#[test]
fn a_backup_beside_damage_is_whole_and_does_not_build_on_it() {
    let kept = Kept::new();
    let home = &kept.home;
    let mut disk = kept.disk.clone();
    disk[..UNIT].copy_from_slice(&noise(4, UNIT));
    for (n, folder) in ["packs", "meta", "snap", "idx", "sess"].into_iter().enumerate() {
        let path = objects(home, folder).into_iter().find(|path| key(home, path).contains(&kept.id)).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, Harm::Cut(40).of(&bytes)).unwrap();
        fs::remove_dir_all(home.path("cache")).unwrap();
        let id = home.backup("kept", &disk);
        fs::write(&path, bytes).unwrap();
        // With the damage gone, all is clean: nothing was left out because of it.
        super::restores(home, &id, &disk);
        kept.is_whole_with(n + 2);
    }
}

#[test]
fn a_missing_pack_is_13_for_check_which_names_what_is_hit_and_for_restore() {
    let kept = Kept::new();
    let home = &kept.home;
    for folder in ["packs", "meta"] {
        let path = objects(home, folder).remove(0);
        let name = key(home, &path);
        fs::rename(&path, home.path("aside")).unwrap();
        let check = home.run(&["check"]);
        assert_eq!(check.code, 13, "{check:?}");
        has(&check.stdout, &[&name, "it is gone", "kept", &kept.id, "next backup"]);
        assert!(check.stdout.contains("bytes 0 to") || check.stdout.contains("nothing of it can be read"));
        let json = home.run(&["check", "--json"]).json();
        let ranges = json["damages"][0]["hits"][0]["ranges"].as_array().unwrap().clone();
        assert!(ranges.iter().all(|range| range["length"].as_u64().unwrap() > 0) && !ranges.is_empty(), "{ranges:?}");
        has(&home.run(&["restore", &kept.id, "out"]).ends(13), &[&name, "there is no object", "wherry check"]);
        let _ = fs::remove_file(home.path("out"));
        let _ = fs::remove_file(home.path(".out.wherry-restore"));
        fs::rename(home.path("aside"), path).unwrap();
    }
    kept.is_whole();
}

/// The newest record cannot be read: `latest` would be an older one, which is nowhere taken for it.
#[test]
fn latest_beside_a_record_that_cannot_be_read_is_13_wherever_it_is_said() {
    let kept = Kept::new();
    let home = &kept.home;
    let newest = home.backup("kept", &noise(7, MIB));
    let record = objects(home, "snap").into_iter().find(|path| key(home, path).contains(&newest)).unwrap();
    let whole = fs::read(&record).unwrap();
    fs::write(&record, Harm::Cut(40).of(&whole)).unwrap();
    for latest in ["latest", "latest:kept"] {
        for args in [
            &["restore", latest, "out"][..],
            &["show", latest],
            &["forget", latest],
            &["pin", latest],
            &["unpin", latest],
        ] {
            let line = home.run(args).fails(13);
            has(&line, &["cannot be told", &newest, &kept.id, "name it by its id"]);
        }
    }
    assert!(!home.path("out").exists());
    // Nothing was changed, and what is named by its id is meant.
    for what in ["pin", "unpin"] {
        let ran = home.run(&[what, &kept.id]);
        assert_eq!((ran.code, ran.stdout.contains(&kept.id)), (13, true), "{ran:?}");
    }
    fs::write(&record, whole).unwrap();
    kept.is_whole_with(2);
    assert!(home.run(&["show", "latest", "--json"]).ok().stdout.contains(&newest));
    // Both records: then there is none, and it is not as if nobody had backed up.
    for path in objects(home, "snap") {
        fs::write(&path, b"x").unwrap();
    }
    has(&home.run(&["restore", "latest:kept", "out"]).fails(13), &["no whole snapshot", "is damaged"]);
}

/// What is read whole is not brought into memory before it is known that it can be: nor is a pipe waited at.
#[test]
fn an_object_of_a_wild_length_and_a_pipe_in_place_of_one_are_damage() {
    let kept = Kept::new();
    let home = &kept.home;
    let other = home.backup("other", &noise(3, MIB));
    let long = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(8 << 40).unwrap();
    let record = objects(home, "snap").into_iter().find(|path| path.ends_with(&other)).unwrap();
    let whole = fs::read(&record).unwrap();
    long(&record);
    let check = home.run(&["check"]);
    assert!(check.code == 13 && check.stdout.contains(&key(home, &record)), "{check:?}");
    let listed = home.run(&["snapshots"]);
    assert!(
        listed.code == 13 && listed.stdout.contains(&kept.id[..8]) && !listed.stdout.contains(&other[..8]),
        "{listed:?}"
    );
    has(&home.run(&["gc", "--grace", "0s"]).fails(13), &[&other, "nothing that is written there is longer"]);
    fs::write(&record, &whole).unwrap();
    for folder in ["idx", "sess", "packs"] {
        let object = objects(home, folder).remove(0);
        let whole = fs::read(&object).unwrap();
        long(&object);
        let check = home.run(&["check", "--read-data"]);
        assert!(check.code == 13 && check.stdout.contains(&key(home, &object)), "{folder}: {check:?}");
        fs::write(&object, whole).unwrap();
    }
    let path = home.path("repo/repo.json");
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    has(&home.spawn(&["snapshots"]).end_within(PATIENCE).fails(13), &["no regular file stands there"]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, whole).unwrap();
    kept.is_whole_with(2);
}

//! A sector that cannot be read, in one object of a repository on a disk of this machine: everything that does not need the
//! object works, and what does says so.

use super::{disk, key, refused};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use wherry_repo::storage::{Local, Storage, keys};
use wherry_repo::{CheckOptions, Error, ErrorKind, Key, PackKind, ReadData, Repository, SessionId, Snapshot};
use wherry_tests::binary::wherry_bin;
use wherry_tests::meddling::{Call, Fate, Meddling, unavailable};
use wherry_tests::nolinks::NoLinks;
use wherry_tests::small::*;
use wherry_tests::trees::{assert_same, list};

/// Two volumes with two snapshots each, in maps of more than one level; two ways in; one forgotten and had back, another one pinned; a run that
/// was ended; what a check has noted.
fn fixture(local: bool) -> (std::sync::Arc<Meddling>, Vec<(Snapshot, Vec<u8>)>) {
    let (memory, repository) = in_memory();
    repository.add_slot(&password(), CHEAP).unwrap();
    let mut snapshots = Vec::new();
    for (seed, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let mut disk = vec![0; 140 * UNIT];
        for n in [0, 1, 130, 139] {
            disk[n * UNIT..][..UNIT].copy_from_slice(&noise(100 * seed + n as u64, UNIT));
        }
        snapshots.push((backup(&repository, name, &disk).unwrap(), disk));
    }
    repository.forget(&snapshots[1].0.id, Duration::ZERO, "test").unwrap();
    repository.unforget(&snapshots[1].0.id).unwrap();
    assert!(repository.pin(&snapshots[2].0.id).unwrap());
    repository.end_session(snapshots[2].0.volume, SessionId::new([7; 16]), "test").unwrap();
    let keep = CheckOptions { read_data: Some(ReadData::default()), keep: true, ..CheckOptions::default() };
    assert_eq!(repository.check(&keep, &|_, _, _| Ok(())).unwrap().damages, []);
    (Meddling::new(memory, local), snapshots)
}

fn spoil(storage: &Meddling, key: &Key) {
    let spoiled = key.to_string();
    storage.meddle(move |call, name| match call == Call::Read && name == spoiled {
        true => Fate::Fails(unavailable()),
        false => Fate::Done,
    });
}

/// What does not work beside this object, which cannot be read.
fn round(storage: &std::sync::Arc<Meddling>, snapshots: &[(Snapshot, Vec<u8>)], key: &Key) -> Result<(), String> {
    let told = |what: &'static str| move |e: Error| format!("{what}: {e}");
    let must = |holds: bool, what: &str| holds.then_some(()).ok_or_else(|| what.to_owned());
    let pack = keys::parse_pack(key);
    let repository = Repository::open(components(storage.clone()), &password()).map_err(told("open"))?;
    let list = repository.snapshots(None).map_err(told("list"))?;
    let damaged = list.damaged.iter().map(|(damaged, _)| damaged).eq(keys::parse_snap(key).map(|_| key));
    must(damaged, "the list of what is damaged")?;
    for (snapshot, disk) in snapshots {
        let is_it = *key == keys::snap(&snapshot.volume, &snapshot.id);
        must(list.snapshots.iter().any(|s| s.id == snapshot.id) != is_it, "the list of snapshots")?;
        if pack.is_none() && !is_it {
            must(restore(&repository, snapshot).map_err(told("restore"))? == *disk, "what was restored")?;
        }
    }
    // Nobody can read that a forget was taken back.
    let hidden = list.snapshots.iter().filter(|s| !list.is_visible(&s.id)).count();
    must(hidden == usize::from(key.as_str().ends_with("-settled")), "what is hidden")?;
    let index = index();
    index.synchronise(&repository, true).map_err(told("index"))?;
    for (name, (_, disk)) in ["a", "b"].into_iter().zip(&snapshots[2..]) {
        let next = backup_with(&repository, index.clone(), &options(name), disk).map_err(told("backup"))?;
        // Nobody reads data to back up what is there; `check` finds it.
        if pack.is_none_or(|pack| pack.kind == PackKind::Meta) {
            must(restore(&repository, &next).map_err(told("restore the new one"))? == *disk, "the new one")?;
        }
    }
    Ok(())
}

#[test]
fn one_unreadable_object_keeps_nobody_from_the_others() {
    let (storage, snapshots) = fixture(true);
    let way_in = |key: &Key| key.as_str() == "repo.json" || key.as_str().starts_with(keys::CONFIG);
    let all = keys_of(&*storage.inner);
    let (mut kinds, mut failed) = (BTreeSet::new(), Vec::new());
    for key in all.iter().filter(|key| !way_in(key)) {
        spoil(&storage, key);
        kinds.insert(key.as_str().split('/').next().unwrap());
        failed.extend(round(&storage, &snapshots, key).err().map(|what| format!("{key}: {what}")));
        // The next round begins with what was there.
        storage.leave_alone();
        keys_of(&*storage.inner).iter().filter(|key| !all.contains(key)).for_each(|made| storage.delete(made).unwrap());
    }
    assert_eq!(failed, [""; 0]);
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["checked", "forget", "idx", "keys", "meta", "packs", "pin", "sess", "snap"]
    );
}

/// What does not answer over a network is not damaged: nothing may be built on its absence.
#[test]
fn over_a_network_it_is_an_error() {
    let (storage, snapshots) = fixture(false);
    let repository = Repository::open(components(storage.clone()), &password()).unwrap();
    for key in keys_of(&*storage.inner) {
        spoil(&storage, &key);
        let failed = match key.as_str().split('/').next().unwrap() {
            "snap" | "forget" if !key.as_str().ends_with("-asked") => refused(repository.snapshots(None)),
            "keys" if key == keys::slot(0) => refused(Repository::open(components(storage.clone()), &password())),
            "idx" => refused(index().synchronise(&repository, true)),
            "meta" => refused(snapshots.iter().try_for_each(|(s, _)| restore(&repository, s).map(drop))),
            _ => continue,
        };
        assert_eq!(failed.kind(), ErrorKind::Unavailable, "{key}: {failed}");
    }
}

/// A root that somebody else has made: its name is made durable with the first object.
#[test]
fn the_name_of_a_root_that_was_there_is_made_durable() {
    let mount = NoLinks::mount();
    let root = mount.path().join("repo");
    fs::create_dir(&root).unwrap();
    assert!(!mount.is_durable(mount.path()));
    let local = Local::new(&root, true);
    local.list("", &mut |_| Ok(())).unwrap();
    assert!(!mount.is_durable(mount.path()), "readers write nothing");
    local.create(&key("a/b"), "1".into()).unwrap();
    assert!(mount.is_durable(mount.path()) && mount.is_durable(&root));
}

struct Home {
    folder: tempfile::TempDir,
    mount: NoLinks,
}

impl Home {
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(wherry_bin());
        command.env_clear().env("HOME", self.folder.path()).env("WHERRY_CACHE_DIR", self.folder.path().join("cache"));
        command.env("WHERRY_REPOSITORY", self.mount.path().join("repo")).env("WHERRY_KEY_FILE", self.path("key"));
        command.args(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The only file below a folder of the repository for which this holds.
    fn object(&self, folder: &str, is: impl Fn(&Path) -> bool) -> PathBuf {
        let mut found = Vec::new();
        let mut folders = vec![self.mount.path().join("repo").join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.extend(is(&path).then_some(path)) }
            }
        }
        assert_eq!(found.len(), 1, "{folder}: {found:?}");
        found.remove(0)
    }
}

/// Nodes are read with their whole pack when that is asked for often. A sector of it that none of them is in takes none.
#[test]
fn a_bad_sector_at_the_end_of_a_pack_takes_no_part_of_the_tree() {
    let home = Home { folder: tempfile::tempdir().unwrap(), mount: NoLinks::mount() };
    home.ok(&["init", "--single-writer"]);
    let tree = home.path("tree");
    fs::create_dir(&tree).unwrap();
    for n in 0..20_000 {
        fs::write(tree.join(format!("{n:0>100}")), "").unwrap();
    }
    home.ok(&["backup", &home.text("tree"), "--name", "t"]);
    let pack = home.object("meta", |_| true);
    let len = pack.metadata().unwrap().size() as usize;
    home.mount.spoil(&pack, len - 512..len, true);
    home.ok(&["restore", "latest:t", &home.text("out")]);
    assert_same(&list(&home.path("out")), &list(&tree), "beside a bad sector");
}

/// What of a disk is lost ends its restore, which says how the rest is to be had.
#[test]
fn a_bad_sector_below_a_disk_names_the_way_to_the_rest() {
    let home = Home { folder: tempfile::tempdir().unwrap(), mount: NoLinks::mount() };
    home.ok(&["init", "--single-writer"]);
    fs::write(home.path("image"), disk(1, 9)).unwrap();
    home.ok(&["backup", &home.text("image"), "--name", "vm"]);
    home.mount.spoil(&home.object("packs", |_| true), 1000..1512, true);
    let failed = home.run(&["restore", "latest", &home.text("out")]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(13), "{said}");
    assert!(said.contains("dd if=DIR/by-id/") && said.contains("wherry check --read-data"), "{said}");
}

#[test]
fn the_executable_works_beside_an_unreadable_object() {
    let home = Home { folder: tempfile::tempdir().unwrap(), mount: NoLinks::mount() };
    home.ok(&["init", "--single-writer"]);
    let backup = |seed: u64, name: &str| {
        let content = disk(seed, 3);
        fs::write(home.path("image"), &content).unwrap();
        let json = home.ok(&["backup", &home.text("image"), "--name", name, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        (report["snapshot"].as_str().unwrap().to_owned(), content)
    };
    let restores = |(id, content): &(String, Vec<u8>)| {
        let _ = fs::remove_file(home.path("out"));
        home.ok(&["restore", id, &home.text("out")]);
        assert!(fs::read(home.path("out")).unwrap() == *content);
    };
    let (first, second) = (backup(1, "vm"), backup(2, "vm"));

    // The record of a snapshot.
    let record = home.object("snap", |path| path.ends_with(&second.0));
    assert!(record.metadata().unwrap().size() > 0);
    home.mount.spoil(&record, 0..usize::MAX, true);
    assert!(fs::read(&record).is_err(), "it answers EIO");
    restores(&first);
    let failed = home.run(&["restore", &second.0, &home.text("other")]);
    assert_eq!(failed.status.code(), Some(13), "{}", String::from_utf8_lossy(&failed.stderr));
    let third = backup(3, "vm");
    restores(&third);
    // It says what it could not look at, and does the rest.
    let forgot = home.run(&["forget", &first.0]);
    assert_eq!(forgot.status.code(), Some(13), "{}", String::from_utf8_lossy(&forgot.stderr));
    assert!(home.ok(&["unforget", &first.0]).contains("is back"));
    let checked = home.run(&["check"]);
    assert_eq!(checked.status.code(), Some(13));
    assert!(String::from_utf8_lossy(&checked.stdout).contains(&second.0), "check names it");
    home.mount.heal(&record);
    restores(&second);

    // What became of a forget: the snapshot stays hidden, as long as nobody can read that it was taken back.
    let settled = home.object("forget", |path| path.ends_with("00000000-settled"));
    home.mount.spoil(&settled, 0..usize::MAX, true);
    restores(&first);
    restores(&backup(4, "vm"));
    home.mount.heal(&settled);

    // A segment of the index.
    let segment = home.object("idx", |path| path.file_name().unwrap().to_str().unwrap().starts_with(&first.0));
    home.mount.spoil(&segment, 0..usize::MAX, true);
    fs::remove_dir_all(home.path("cache")).unwrap();
    restores(&backup(5, "vm"));
    home.mount.heal(&segment);

    // The first way in, beside another one.
    home.ok(&["key", "add", "--new-key-file", &home.text("key2")]);
    let slot = home.object("keys", |path| path.ends_with("0000000000000000"));
    home.mount.spoil(&slot, 0..usize::MAX, true);
    let failed = home.run(&["snapshots"]);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("one slot cannot be read"), "{failed:?}");
    home.ok(&["snapshots", "--key-file", &home.text("key2")]);
    home.mount.heal(&slot);
    restores(&first);
}

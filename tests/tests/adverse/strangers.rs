//! Objects under keys that look like ours and are not: left alone and ignored (`repo/docs/format.md`, "Keys").

use super::disk;
use std::fs;
use std::process::Command;
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{CheckOptions, Key, Repository};
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::*;

/// One of each kind, for a snapshot that exists. Higher numbers than ours, so that they would count.
fn strange_keys(snapshot: &str, volume: &str) -> Vec<Key> {
    let keys = [
        "config/7".to_owned(),
        "config/latest".to_owned(),
        "keys/1".to_owned(),
        format!("snap/{volume}/1"),
        format!("snap/{volume}/{snapshot}/1"),
        format!("forget/{snapshot}/0-asked"),
        format!("forget/{snapshot}/0-settled"),
        format!("sess/{snapshot}/seen-5"),
        format!("sess/{snapshot}/left"),
        format!("idx/{snapshot}-9"),
        "gc/gen/5".to_owned(),
        "gc/gen/5-sealed".to_owned(),
        "packs/00/1".to_owned(),
        "meta/00/1".to_owned(),
        "checked/packs/1".to_owned(),
        format!("checked/packs/{snapshot}-1"),
        format!("checked/snaps/{snapshot}/1"),
        "elsewhere".to_owned(),
    ];
    keys.into_iter().map(|text| Key::new(text).unwrap()).collect()
}

fn works(repository: &Repository, disk: &[u8], what: &str) {
    let list = repository.snapshots(None).unwrap();
    assert!(list.damaged.is_empty() && list.visible().count() == list.snapshots.len(), "{what}: {list:?}");
    let snapshot = list.snapshots.last().unwrap();
    assert!(restore(repository, snapshot).unwrap() == disk, "{what}");
    let index = index();
    index.synchronise(repository, true).unwrap();
    let next = backup_with(repository, index, &options("vm"), disk).unwrap();
    assert_eq!((next.record.stats.new, next.record.parent), (0, Some(snapshot.id)), "{what}");
    assert!(repository.forget(&next.id, std::time::Duration::ZERO, "test").unwrap(), "{what}");
    assert!(repository.unforget(&next.id).unwrap(), "{what}");
    let report = repository.check(&CheckOptions::default(), &|_, _, _| Ok(())).unwrap();
    assert_eq!(report.damages, [], "{what}");
}

#[test]
fn strange_objects_change_nothing() {
    let (storage, repository) = in_memory();
    let disk = disk(1, 3);
    let snapshot = backup(&repository, "vm", &disk).unwrap();
    let copy = || {
        let copy = std::sync::Arc::new(Memory::default());
        keys_of(&*storage).iter().for_each(|key| copy.create(key, storage.get(key).unwrap()).unwrap());
        copy
    };
    let strangers = strange_keys(&snapshot.id.to_string(), &snapshot.volume.to_string());
    // One at a time, then all at once.
    let each = strangers.iter().map(std::slice::from_ref);
    for some in each.chain([&strangers[..]]) {
        let copy = copy();
        some.iter().for_each(|key| copy.create(key, "strange".into()).unwrap());
        let what = format!("{some:?}");
        let repository =
            Repository::open(components(copy.clone()), &password()).unwrap_or_else(|e| panic!("{what}: {e}"));
        works(&repository, &disk, &what);
        assert!(some.iter().all(|key| copy.get(key).unwrap() == "strange"), "they are left alone");
    }
}

/// The executable looks at the configuration before it opens the repository.
#[test]
fn the_executable_ignores_them_too() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(wherry_bin());
        command.env_clear().env("HOME", home.path()).env("WHERRY_CACHE_DIR", home.path().join("cache")).args(args);
        command.env("WHERRY_REPOSITORY", home.path().join("repo")).env("WHERRY_KEY_FILE", home.path().join("key"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["init"]);
    fs::write(home.path().join("repo/config/7"), "strange").unwrap();
    fs::write(home.path().join("disk"), disk(2, 1)).unwrap();
    run(&["backup", &home.path().join("disk").display().to_string(), "--name", "vm"]);
    run(&["check"]);
}

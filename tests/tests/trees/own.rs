//! What a run works with lies where something is restored or backed up: repository, key, password, cache. None of it goes, and
//! nothing is written into it.

use super::dry::says_the_same;
use super::{backup, files, has};
use crate::harness::{Home, Ran};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A tree, and the repository in it.
fn within() -> Home {
    let home = Home::new();
    files(&home.path("srv"), &[("www/index", b"1"), ("x", b"2"), ("backup/note", b"3")]);
    let repository = home.text("srv/backup/repo");
    let home = home.at(repository, &[]);
    home.run(&["init", "-q"]).ok();
    home
}

/// Restores after a dry run, which says the same; gives the code and what was said.
#[track_caller]
fn both(home: &Home, bound: &[(&Path, &Path)], args: &[&str]) -> (i32, Value, String) {
    let run = |more: &[&str]| {
        let args = [&["restore", "--json"], args, more].concat();
        home.ran(home.command_with_bound(bound).args(args).output().unwrap())
    };
    let (dry, real): (Ran, Ran) = (run(&["--dry-run"]), run(&[]));
    let (code, said) = says_the_same("the target", &dry, &real);
    (code, said, real.stderr)
}

/// The objects of the repository, but for those of runs that come and go.
fn objects(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = home.tree("srv/backup/repo").into_iter();
    all.filter(|(path, _)| !path.starts_with(home.path("srv/backup/repo/sess"))).collect()
}

/// The repository opens, is sound, has so many snapshots, and the newest of the tree comes back.
#[track_caller]
fn is_whole(home: &Home, snapshots: usize) {
    assert_eq!(home.snapshots(), snapshots);
    home.run(&["check", "--read-data", "-q"]).ok();
    home.run(&["restore", "latest:t", "again", "-q"]).ok();
    assert_eq!(fs::read(home.path("again/x")).unwrap(), b"2");
    fs::remove_dir_all(home.path("again")).unwrap();
}

#[test]
fn a_repository_that_the_snapshot_does_not_have_is_not_removed() {
    let home = within();
    let backed = home.run(&["backup", "srv", "--name", "t", "--exclude", "/backup"]).ok();
    assert!(!backed.stderr.contains("repository that is written to"), "{}", backed.stderr);
    symlink("srv/backup/repo", home.path("link")).unwrap();
    fs::create_dir(home.path("bound")).unwrap();
    let (at, above) = (home.path("bound"), home.path("srv/backup"));
    let by_mount = [(above.as_path(), at.as_path())];
    let ways: [(&[(&Path, &Path)], &str); 3] = [(&[], "srv/backup/repo"), (&[], "link"), (&by_mount, "bound/repo")];
    for (bound, repository) in ways {
        files(&home.path("srv"), &[("extra/y", b"4"), ("backup/note", b"3")]);
        let before = objects(&home);
        let (code, said, stderr) =
            both(&home, bound, &["latest:t", "srv", "--force", "--delete", "--repo", repository]);
        assert_eq!((code, &said["removed"]), (0, &3.into()), "{repository}: {said}");
        has(&stderr, &["left as it is: backup/repo (it is the repository in use)"]);
        let changes = said["changes"].as_array().unwrap();
        assert!(!changes.iter().any(|change| change["path"] == "/backup"), "{said}");
        assert!(!home.path("srv/extra").exists() && !home.path("srv/backup/note").exists());
        assert!(objects(&home) == before, "{repository}");
        is_whole(&home, 1);
    }
}

#[test]
fn a_repository_that_the_snapshot_has_is_not_rolled_back() {
    let home = within();
    let backed = home.run(&["backup", "srv", "--name", "t", "--json"]).ok();
    has(&backed.stderr, &["WARN", "backup/repo", "the repository that is written to", "--exclude /backup/repo"]);
    let old = backed.json()["snapshot"].as_str().unwrap().to_owned();
    home.backup("vm", &[1; 4096]);
    backup(&home, "srv", &[]);
    let before = objects(&home);
    for flags in [&["--force", "--delete"][..], &["--delta"], &["--overwrite", "never"], &["--force", "backup/repo"]] {
        let (code, _, stderr) = both(&home, &[], &[&[&old, "srv"], flags].concat());
        assert_eq!(code, 3, "{flags:?}: {stderr}");
        has(&stderr, &["not restored: backup/repo: it is the repository in use"]);
        assert!(objects(&home) == before, "{flags:?}");
    }
    is_whole(&home, 3);
    // Elsewhere it is restored as any other directory; also where a directory of the repository in use is bound to.
    home.run(&["restore", &old, "out", "-q"]).ok();
    assert!(home.path("out/backup/repo/keys").is_dir());
    // The check has noted what it has read.
    let before = objects(&home);
    let (packs, at) = (home.path("srv/backup/repo/packs"), home.path("out/www"));
    let (code, _, stderr) = both(&home, &[(&packs, &at)], &[&old, "out", "--force", "--delete"]);
    assert_eq!(code, 3, "{stderr}");
    has(&stderr, &["not restored: www: it is the repository in use"]);
    assert!(objects(&home) == before);
}

#[test]
fn what_opens_the_repository_and_its_cache_stay() {
    let home = Home::with_repository();
    files(&home.path("tree"), &[("a", b"1")]);
    backup(&home, "tree", &[]);
    files(&home.path("out"), &[("d/password", b"correct horse"), ("cache/extra", b"5")]);
    fs::copy(home.path("key"), home.path("out/d/key")).unwrap();
    home.run(&["key", "add", "--new-password-file", "out/d/password"]).ok();
    symlink("out/d/key", home.path("link")).unwrap();
    let cases = [
        (["--key-file", "out/d/key"], "d/key", "the key file in use"),
        (["--key-file", "link"], "d/key", "the key file in use"),
        (["--password-file", "out/d/password"], "d/password", "the password file in use"),
        (["--cache-dir", "out/cache"], "cache", "the cache directory in use"),
    ];
    let there = |path: &str| {
        let at = home.path("out").join(path);
        home.tree("out").into_iter().filter(|(path, _)| path.starts_with(&at)).collect::<Vec<_>>()
    };
    for (flags, path, is) in cases {
        files(&home.path("out"), &[("d/extra", b"6"), ("extra/x", b"7")]);
        let before = there(path);
        let (code, _, stderr) = both(&home, &[], &[&["latest:t", "out", "--force", "--delete"][..], &flags].concat());
        assert_eq!(code, 0, "{stderr}");
        has(&stderr, &[&format!("left as it is: {path} (it is {is})")]);
        assert!(!before.is_empty() && there(path) == before, "{flags:?}");
        assert!(!home.path("out/d/extra").exists() && !home.path("out/extra").exists());
        // Only what is in use stays.
        let others = ["d/key", "d/password", "cache"].into_iter().filter(|other| *other != path);
        assert!(others.into_iter().all(|other| !home.path("out").join(other).exists()), "{flags:?}");
        fs::remove_dir_all(home.path("out")).unwrap();
        files(&home.path("out"), &[("d/password", b"correct horse"), ("cache/extra", b"5")]);
        fs::copy(home.path("key"), home.path("out/d/key")).unwrap();
    }
    // The snapshot has others in their place, and one under two names.
    files(&home.path("tree"), &[("d/key", b"another"), ("d/password", b"another"), ("first", b"8"), ("cache", b"9")]);
    fs::remove_file(home.path("tree/d/password")).unwrap();
    fs::hard_link(home.path("tree/d/key"), home.path("tree/d/password")).unwrap();
    backup(&home, "tree", &[]);
    for (flags, path, is) in cases {
        let before = there(path);
        let (code, _, stderr) = both(&home, &[], &[&["latest:t", "out", "--force", "--delete"][..], &flags].concat());
        assert_eq!(code, 3, "{stderr}");
        has(&stderr, &[&format!("not restored: {path}: it is {is}")]);
        assert!(!before.is_empty() && there(path) == before, "{flags:?}");
        fs::remove_dir_all(home.path("out")).unwrap();
        files(&home.path("out"), &[("d/password", b"correct horse"), ("cache/extra", b"5")]);
        fs::copy(home.path("key"), home.path("out/d/key")).unwrap();
    }
}

#[test]
fn nothing_is_restored_into_the_repository() {
    let home = within();
    backup(&home, "srv", &["--exclude", "/backup"]);
    home.backup("vm", &[1; 4096]);
    symlink("srv/backup/repo", home.path("link")).unwrap();
    fs::create_dir(home.path("bound")).unwrap();
    let bound = [(home.path("srv/backup/repo"), home.path("bound"))];
    let before = objects(&home);
    let repo = home.text("srv/backup/repo");
    for snapshot in ["latest:t", "latest:vm"] {
        for target in
            ["srv/backup/repo", "srv/backup/repo/new", "srv/backup/repo/packs", "link", "link/new/deep", "bound/new"]
        {
            for mode in [&[][..], &["--force"], &["--delta"], &["--dry-run"]] {
                let bound = bound.iter().map(|(from, at)| (from.as_path(), at.as_path())).collect::<Vec<_>>();
                let mut command = home.command_with_bound(&bound);
                let line = home.ran(command.args(["restore", snapshot, target]).args(mode).output().unwrap()).fails(2);
                has(&line, &[target, "the repository in use", &repo, "name a target outside of it"]);
            }
        }
        let line = home.run(&["restore", snapshot, "key", "--force"]).fails(2);
        has(&line, &["key", "the key file in use"]);
    }
    let line = home.run(&["restore", "latest:t", "srv/backup/repo", "--overwrite", "never"]).fails(2);
    has(&line, &["srv/backup/repo", "the repository in use"]);
    assert!(objects(&home) == before);
    is_whole(&home, 2);
    // Beside it is no place of its own.
    home.run(&["restore", "latest:vm", "srv/backup/disk", "-q"]).ok();
}

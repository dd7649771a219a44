//! What does not open: wrong or no credentials, no repository, one that was not finished, one of a newer version.

use super::{COMMANDS, Kept, has, home_behind, restores, with_files};
use std::fs;
use std::sync::Arc;
use wherry_repo::format::clear::{self, Config};
use wherry_repo::storage::Local;
use wherry_repo::{Credential, Repository, storage::keys};
use wherry_tests::faulty_s3::{Fault, Rule};
use wherry_tests::home::Home;
use wherry_tests::small::components;

#[test]
fn a_wrong_password_or_key_is_12_for_every_command_and_harms_nothing() {
    let kept = Kept::new();
    let home = &kept.home;
    with_files(home);
    home.run(&["key", "add", "--new-password-file", &home.write("pw", "correct horse\n"), "-q"]).ok();
    home.write("other", "fedcba9876543210".repeat(4));
    home.write("wrong", "incorrect horse\n");
    let before = home.tree("repo");
    for args in COMMANDS {
        let key = home.command().args(args).args(["--key-file", "other"]).output().unwrap();
        has(&home.ran(key).ends(12), &["wrong key file", "this repository", "try another"]);
    }
    // Each costs an Argon2id: of the commands that write one each.
    for args in [&["backup", "image", "--name", "x"][..], &["restore", "latest", "out"], &["forget", "latest"]] {
        let mut command = home.command();
        let password = command.env_remove("WHERRY_KEY_FILE").args(args).args(["--password-file", "wrong", "-q"]);
        let line = home.ran(password.output().unwrap()).ends(12);
        has(&line, &["wrong password", "this repository", "try another"]);
        assert!(!line.contains("incorrect horse"), "{line}");
    }
    assert!(!home.path("out").exists() && home.tree("repo") == before);
    kept.is_whole();
}

#[test]
fn without_credential_and_terminal_every_command_is_12_and_says_how_to_give_one() {
    let kept = Kept::new();
    with_files(&kept.home);
    for args in COMMANDS {
        let mut command = kept.home.command();
        let line = kept.home.ran(command.env_remove("WHERRY_KEY_FILE").args(args).output().unwrap()).ends(12);
        has(&line, &["no password", "--password-file", "--key-file", "WHERRY_PASSWORD", "terminal"]);
    }
    // Nor is there one to make a repository with.
    let other = kept.home.bare().args(["init", "--repo", "new"]).output().unwrap();
    has(&kept.home.ran(other).ends(12), &["--key-file"]);
    assert!(!kept.home.path("new").exists());
    kept.is_whole();
}

#[test]
fn no_repository_is_10_for_every_command_and_none_is_made() {
    let kept = Kept::new();
    let home = &kept.home;
    with_files(home);
    fs::create_dir(home.path("empty")).unwrap();
    for place in ["none", "empty", "key", "key/below"] {
        for args in COMMANDS {
            let line = home.run(&[args, &["--repo", place]].concat()).ends(10);
            has(&line, &[place, "there is no repository", "wherry init"]);
        }
    }
    has(&home.run(&["init", "--repo", "key/below"]).ends(10), &["key/below", "Not a directory", "check the path"]);
    assert!(!home.path("none").exists() && !home.path("out").exists());
    assert_eq!(fs::read_dir(home.path("empty")).unwrap().count(), 0);
    kept.is_whole();
}

/// Killed at each of the objects that it makes, on S3, where a killed process leaves what it has sent.
#[test]
fn an_init_that_was_killed_at_any_object_is_finished_by_the_next() {
    for (n, object) in ["repo.json", "keys/", "config/"].into_iter().enumerate() {
        let (proxy, home) = home_behind(&format!("half-{n}"));
        proxy.inject(Rule::every("PUT", object, Fault::Hold));
        let mut init = home.spawn(&["init", "--chunk-size", "64K"]);
        init.until("the object is sent", || proxy.open("PUT", object) > 0);
        assert!(!init.kill(), "it ended although {object} was not acknowledged");
        proxy.heal();
        let line = home.run(&["snapshots"]).ends(10);
        has(&line, &["s3://half-", "wherry init"]);
        has(&line, if n == 0 { &["there is no repository"] } else { &["begun and not finished"] });

        let ran = home.run(&["init", "--chunk-size", "64K", "--json"]).ok();
        assert_eq!(ran.json()["finished"], n > 0);
        let id = home.backup("vm", b"content");
        restores(&home, &id, b"content");
        home.run(&["check", "--read-data"]).ok();
        has(&home.run(&["init"]).fails(1), &["there is a repository", "not touched"]);
    }
}

fn every_command_is_15(kept: &Kept, words: &[&str]) {
    let before = kept.home.tree("repo");
    for args in COMMANDS {
        has(&kept.home.run(args).ends(15), words);
    }
    assert!(kept.home.tree("repo") == before, "something was written");
}

#[test]
fn a_newer_format_is_15_and_nothing_is_written() {
    let kept = Kept::new();
    with_files(&kept.home);
    let path = kept.home.path("repo/repo.json");
    let old = fs::read_to_string(&path).unwrap();
    // A field that this version does not know, too; the checksum is made as every version makes it.
    let zeroed = old.replace("\"format\":1", "\"format\":2,\"later\":[1]");
    let at = zeroed.find("\"crc\":\"").unwrap() + 7;
    let zeroed = [&zeroed[..at], "00000000", &zeroed[at + 8..]].concat();
    fs::write(
        &path,
        [&zeroed[..at], &format!("{:08x}", clear::checksum(zeroed.as_bytes())), &zeroed[at + 8..]].concat(),
    )
    .unwrap();
    every_command_is_15(&kept, &["format 2", "this build knows 1", "newer wherry"]);
    kept.home.run(&["init"]).fails(1);
    // Damage is not taken for a newer version.
    fs::write(&path, old.replace("\"format\":1", "\"format\":2")).unwrap();
    has(&kept.home.run(&["snapshots"]).ends(13), &["repo", "identity is damaged"]);
    fs::write(&path, old).unwrap();
    kept.is_whole();
}

/// Gives a repository a further configuration, as an upgrade by a later version does.
fn upgrade(home: &Home, n: u32, change: impl FnOnce(&mut Config)) {
    let key = Credential::KeyFile(fs::read_to_string(home.path("key")).unwrap().trim().as_bytes().to_vec().into());
    let storage = Arc::new(Local::new(home.path("repo"), false));
    Repository::open(components(storage), &key).unwrap().publish_config(n, change).unwrap();
}

#[test]
fn features_that_are_not_known_keep_from_reading_writing_or_only_collecting() {
    let kept = Kept::new();
    let home = &kept.home;
    with_files(home);
    upgrade(home, 1, |config| config.gc = vec!["later-gc".into()]);
    home.run(&["backup", "image", "--name", "x"]).ok();
    kept.is_whole_with(2);

    upgrade(home, 2, |config| config.write = vec!["later-write".into()]);
    let before = home.tree("repo");
    for args in [
        &["backup", "image", "--name", "x"][..],
        &["forget", "latest:x"],
        &["forget", &kept.id],
        &["unforget", &kept.id],
        &["key", "add", "--new-key-file", "second"],
    ] {
        has(&home.run(args).ends(15), &["later-write", "may read but not write", "newer wherry"]);
    }
    assert!(home.tree("repo") == before, "something was written");
    kept.is_whole_with(2);

    upgrade(home, 3, |config| config.read = vec!["later-read".into()]);
    every_command_is_15(&kept, &["later-read", "newer wherry"]);
    fs::remove_file(home.path("repo").join(keys::config(3).as_str())).unwrap();
    upgrade(home, 4, |config| config.suite = "later-suite".into());
    every_command_is_15(&kept, &["later-suite", "newer wherry"]);
    fs::remove_file(home.path("repo").join(keys::config(4).as_str())).unwrap();
    kept.is_whole_with(2);
}

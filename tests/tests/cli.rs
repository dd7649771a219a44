//! The executable from outside: exit codes, what goes to which stream, the shape of the JSON, the text of the help.
#![forbid(unsafe_code)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/caches.rs"]
mod caches;
#[path = "cli/changed.rs"]
mod changed;
#[path = "cli/check.rs"]
mod check;
#[path = "cli/copy.rs"]
mod copy;
#[path = "cli/counters.rs"]
mod counters;
#[path = "cli/cut.rs"]
mod cut;
#[path = "cli/diff.rs"]
mod diff;
#[path = "cli/features.rs"]
mod features;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/gc.rs"]
mod gc;
#[path = "cli/harness.rs"]
mod harness;
#[path = "cli/heal.rs"]
mod heal;
#[path = "cli/inherit.rs"]
mod inherit;
#[path = "cli/json.rs"]
mod json;
#[path = "cli/keys.rs"]
mod keys;
#[path = "cli/latest.rs"]
mod latest;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/options.rs"]
mod options;
#[path = "cli/pins.rs"]
mod pins;
#[path = "cli/policy.rs"]
mod policy;
#[path = "cli/readers.rs"]
mod readers;
#[path = "cli/rewrite.rs"]
mod rewrite;
#[path = "cli/settled.rs"]
mod settled;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/smeared.rs"]
mod smeared;
#[path = "cli/stream.rs"]
mod stream;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/turns.rs"]
mod turns;
#[path = "cli/unreadable.rs"]
mod unreadable;
#[path = "cli/unwritten.rs"]
mod unwritten;
#[path = "cli/upkeep.rs"]
mod upkeep;

use harness::Home;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Compares with a file of `tests/cli/golden`; UPDATE_GOLDEN=1 writes it.
#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} is another; if that is right: UPDATE_GOLDEN=1 scripts/test help_is");
}

#[test]
fn help_is_golden() {
    let home = Home::new();
    for (name, args) in [
        ("help.txt", &["--help"][..]),
        ("help-short.txt", &["-h"]),
        ("help-backup.txt", &["backup", "--help"]),
        ("help-restore.txt", &["restore", "-h"]),
        ("help-forget.txt", &["forget", "-h"]),
        ("help-config-check.txt", &["config", "check", "-h"]),
    ] {
        let ran = home.run_bare(args).ok();
        assert_eq!(ran.stderr, "");
        golden(name, &ran.stdout);
    }
}

#[test]
fn version_names_the_build() {
    let ran = Home::new().run_bare(&["--version"]).ok();
    assert!(ran.stdout.starts_with(&format!("wherry {}", env!("CARGO_PKG_VERSION"))), "{}", ran.stdout);
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""));
}

#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let home = Home::with_repository();
    for (args, words) in [
        (&["bacup"][..], &["bacup", "'backup'", "wherry --help"][..]),
        (&["backup"], &["SOURCE", "wherry backup --help"]),
        (&["backup", "x", "--nam", "y"], &["--nam", "--name"]),
        (&["backup", "-"], &["--name"]),
        (&["backup", "x", "--name", "a/b"], &["a/b"]),
        (&["backup", "x", "--name", "a\nb"], &["control"]),
        (&["backup", "x", "--name", ".."], &[".."]),
        (&["backup", ".", "--name", "x", "--changed-blocks", "l"], &["--changed-blocks", "directory"]),
        (&["backup", "x", "--password", "hunter2"], &["--password"]),
        (&["restore", "zzz", "x"], &["zzz"]),
        (&["cat", "abc"], &["abc", "4"]),
        (&["stats", "--memory", "63M"], &["64M"]),
        (&["stats", "--memory", "lots"], &["lots"]),
        (&["stats", "--config", "none.toml"], &["none.toml"]),
        (&["forget"], &["--keep-daily"]),
        (&["forget", "abcd", "--keep-last", "1"], &["--keep-"]),
        (&["forget", "--keep-last", "0"], &["nothing to forget by"]),
        (&["init", "--chunk-size", "100K"], &["102400"]),
        (&["init", "--repo", "ftp://x/y"], &["ftp://x/y"]),
        (&["stats", "--password-file", "a", "--key-file", "b"], &["at once"]),
        (&["check", "--sample", "10%"], &["--read-data"]),
    ] {
        let line = home.run(args).fails(2);
        assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
    }
    let line = home.run_bare(&["stats"]).fails(2);
    assert!(line.contains("--repo") && line.contains("WHERRY_REPOSITORY"), "{line}");
    let ran = home.run_bare::<&str>(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""));
    assert!(ran.stderr.contains("Usage: wherry"), "{}", ran.stderr);
}

#[test]
fn no_repository_is_10_and_comes_before_the_password() {
    let home = Home::new();
    for args in [&["snapshots"][..], &["stats"], &["key", "list"], &["cat", "latest"], &["forget", "--keep-last", "1"]]
    {
        let line = home.bare().args(args).args(["--repo", "repo"]).output().map(harness::Ran::from).unwrap().fails(10);
        assert!(line.contains("repo") && line.contains("wherry init"), "{line}");
    }
    assert!(!home.path("repo").exists(), "looking for a repository made one");
}

#[test]
fn init_makes_the_key_and_never_touches_what_is_there() {
    let home = Home::new();
    let ran = home.run(&["init"]).ok();
    assert!(ran.stdout.contains("keep a copy"), "{}", ran.stdout);
    let key = fs::read(home.path("key")).unwrap();
    assert_eq!(fs::metadata(home.path("key")).unwrap().permissions().mode() & 0o777, 0o600);

    let before = home.tree("repo");
    assert!(!before.keys().any(|path| path.to_str().unwrap().contains("probe")), "{before:?}");
    let line = home.run(&["init"]).fails(1);
    assert!(line.contains("not touched"), "{line}");
    let other = home.command().args(["init", "--key-file", "other"]).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(!home.path("other").exists(), "a key was made for a repository that was not");
    assert_eq!(home.tree("repo"), before);
    assert_eq!(fs::read(home.path("key")).unwrap(), key);
}

#[test]
fn a_half_made_repository_is_finished() {
    let home = Home::with_repository();
    fs::remove_dir_all(home.path("repo/config")).unwrap();
    let line = home.run(&["snapshots"]).fails(10);
    assert!(line.contains("wherry init"), "{line}");
    // Its key slot is there: another key must not open, nor be made.
    let line = home.run(&["init", "--key-file", "other"]).fails(12);
    assert!(line.contains("other") && !home.path("other").exists(), "{line}");
    let ran = home.run(&["init", "--json"]).ok();
    assert_eq!((&ran.json()["finished"], &ran.json()["key_file"]), (&Value::Bool(true), &Value::Null));
    home.run(&["snapshots"]).ok();

    fs::remove_dir_all(home.path("repo/config")).unwrap();
    fs::remove_dir_all(home.path("repo/keys")).unwrap();
    home.run(&["init", "--key-file", "other"]).ok();
    home.run(&["snapshots", "--key-file", "other"]).ok();
}

#[test]
fn unknown_keys_of_the_configuration_are_named_with_their_file() {
    let home = Home::with_repository();
    let file = home.write("c.toml", "memory = '128M'\n\ncompresion = 'zstd'\n");
    for args in [&["stats", "--config", &file][..], &["config", "check", "--config", &file]] {
        let line = home.run(args).fails(2);
        assert!(line.contains("c.toml:3") && line.contains("compresion"), "{line}");
    }
    fs::create_dir_all(home.path(".config/wherry")).unwrap();
    home.write(".config/wherry/config.toml", "memory = '128M'");
    let ran = home.run(&["config", "check", "--json"]).ok();
    assert_eq!(ran.json()["memory"], 128 << 20);
    assert_eq!(ran.json()["files"][0], home.text(".config/wherry/config.toml"));
}

#[test]
fn snapshots_are_named_without_guessing() {
    let home = Home::with_repository();
    assert!(home.run(&["cat", "latest"]).fails(14).contains("no snapshot"), "none at all");
    let a = home.backup("vm1", b"first");
    let b = home.backup("vm1", b"second");
    assert_eq!(home.run(&["cat", "latest"]).ok().stdout, "second");
    home.backup("vm2", b"other");
    let line = home.run(&["cat", "latest"]).fails(2);
    assert!(line.contains("latest:vm1") && line.contains("latest:vm2"), "{line}");
    assert_eq!(home.run(&["cat", "latest:vm1"]).ok().stdout, "second");
    assert_eq!(home.run(&["cat", &a]).ok().stdout, "first");
    assert_eq!(home.run(&["cat", &a[..12]]).ok().stdout, "first");
    let line = home.run(&["cat", "latest:vm3"]).fails(14);
    assert!(line.contains("vm1, vm2"), "{line}");
    home.run(&["show", &"0".repeat(32)]).fails(14);

    home.run(&["forget", &b, "-q"]).ok();
    assert_eq!(home.run(&["cat", "latest:vm1"]).ok().stdout, "first", "a forgotten one is not the latest");
    assert_eq!(home.run(&["cat", &b]).ok().stdout, "second", "and has its id until it is gone");
}

#[test]
fn a_policy_says_why_and_stops_before_too_much() {
    let home = Home::with_repository();
    let ids: Vec<_> = (0..12).map(|n| home.backup("vm", format!("version {n}").as_bytes())).collect();
    let newest = ids.last().unwrap();
    let ran = home.run(&["forget", "--keep-last", "1", "--dry-run"]).ok();
    assert!(ran.stdout.contains("would go") && ran.stdout.contains("last"), "{}", ran.stdout);
    let line = home.run(&["forget", "--keep-last", "1"]).fails(2);
    assert!(line.contains("11 of the 12") && line.contains("--force"), "{line}");
    let listed = |args: &[&str]| {
        let json = home.run(args).ok().json();
        json.as_array().unwrap().iter().map(|s| s["snapshot"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["snapshots", "--json"]), ids, "neither a dry run nor a refusal changes anything");

    let ran = home.run(&["forget", "--keep-last", "1", "--force", "--json"]).ok();
    assert_eq!(ran.json().as_array().unwrap().iter().filter(|d| d["forgotten"] == true).count(), 11);
    assert!(listed(&["snapshots", "--json"]).iter().eq([newest]));
    assert_eq!(listed(&["snapshots", "--json", "--forgotten"]), ids[..11]);
    home.run(&[&["unforget"][..], &ids[..11].iter().map(String::as_str).collect::<Vec<_>>()].concat()).ok();
    assert_eq!(listed(&["snapshots", "--json"]), ids);
    assert_eq!(listed(&["snapshots", "--json", "--name", "other"]), [""; 0]);
    // A name that was mistyped does not look like work that is done.
    let ran = home.run(&["forget", "--keep-last", "1", "--name", "other"]).ok();
    assert!(ran.stderr.contains("no snapshot of volume \"other\"") && ran.stderr.contains("are vm"), "{}", ran.stderr);
    let ran = home.run(&["forget", "--keep-last", "1", "--name", "vm", "--tag", "a=b"]).ok();
    assert!(ran.stderr.contains("no snapshot of volume \"vm\" with tag a=b"), "{}", ran.stderr);
    assert_eq!(listed(&["snapshots", "--json"]), ids);
    // Ten may always go, however many stay.
    let ran = home.run(&["forget", "--keep-last", "2", "--json"]).ok();
    assert_eq!(ran.json().as_array().unwrap().iter().filter(|d| d["forgotten"] == true).count(), 10);
    assert_eq!(listed(&["snapshots", "--json"]), ids[10..]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::with_repository();
    home.backup("vm", &vec![b'x'; 8 << 20]);
    for args in [&["completions", "bash"][..], &["cat", "latest"], &["--help"]] {
        let mut child = home.command().args(args).spawn().unwrap();
        let mut first = [0];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[test]
fn what_is_of_another_kind_is_not_said_to_be_built_upon() {
    let home = Home::with_repository();
    home.backup("x", b"disk");
    fs::create_dir(home.path("tree")).unwrap();
    let disk = home.path("x.raw");
    for source in [&home.path("tree"), &disk] {
        let ran = home.run(&["backup", source.to_str().unwrap(), "--name", "x", "--json"]).ok();
        assert_eq!(ran.json()["parent"], Value::Null, "{source:?}");
        assert!(ran.stderr.contains("not built upon"), "{}", ran.stderr);
    }
    let ran = home.run(&["backup", disk.to_str().unwrap(), "--name", "x"]).ok();
    assert!(!ran.stdout.contains("built on none") && !ran.stderr.contains("not built upon"), "{ran:?}");
}

/// What a command found or did not do is told by its exit code also where nobody reads its result.
#[test]
fn the_exit_code_stays_where_nobody_reads_the_result() {
    let home = Home::with_repository();
    let id = home.backup("vm", &vec![b'x'; 1 << 20]);
    fs::create_dir_all(home.path("tree/d")).unwrap();
    home.run(&["backup", "tree", "--name", "tree", "-q"]).ok();
    fs::create_dir_all(home.path("full")).unwrap();
    home.write("full/d", "a file where the snapshot has a directory");
    let pack = home.tree("repo/packs").into_keys().find(|path| path.to_str().unwrap().contains(&id)).unwrap();
    fs::write(pack, "damaged").unwrap();
    let unread = |args: &[&str], code: i32| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for format in [&[][..], &["--json"]] {
            let output = home.command().args(args).args(format).stdout(writer.try_clone().unwrap()).output().unwrap();
            let ran = harness::Ran::from(output);
            assert_eq!(ran.code, code, "{args:?} {format:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("standard output"), "{}", ran.stderr);
        }
    };
    unread(&["stats"], 0);
    unread(&["check", "--read-data"], 13);
    for mode in [&[][..], &["--dry-run"]] {
        unread(&[&["restore", "latest:tree", "full", "--overwrite", "never"], mode].concat(), 3);
    }
    let record = home.tree("repo/snap").into_keys().find(|path| path.ends_with(&id)).unwrap();
    fs::write(record, "damaged").unwrap();
    for args in [&["snapshots"][..], &["forget", "--keep-last", "1", "--dry-run"]] {
        unread(args, 13);
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let home = Home::with_repository();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = home.command().arg("stats").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("standard output"));
}

#[test]
fn completions_for_other_shells() {
    let home = Home::new();
    for shell in ["zsh", "fish"] {
        let script = home.run_bare(&["completions", shell]).ok().stdout;
        assert!(script.contains("snapshots") && script.contains("keep-daily"), "{shell}");
    }
}

#[test]
fn every_log_line_names_the_run_that_the_snapshot_names() {
    let home = Home::with_repository();
    let image = home.write("a.raw", "content");
    for (format, parse) in [("json", true), ("text", false)] {
        let ran = home.run(&["backup", &image, "--name", format, "-vv", "--log-format", format, "--json"]).ok();
        let run = ran.json()["run"].as_str().unwrap().to_owned();
        assert_eq!(run.len(), 16);
        assert!(ran.stderr.lines().count() >= 2, "{}", ran.stderr);
        for line in ran.stderr.lines() {
            match parse {
                true => assert_eq!(serde_json::from_str::<Value>(line).unwrap()["run"], run.as_str(), "{line}"),
                false => assert_eq!(line.split_whitespace().nth(2), Some(&*run), "{line}"),
            }
        }
        let shown = home.run(&["show", &format!("latest:{format}"), "--json"]).ok().json();
        assert_eq!(shown["run"], run.as_str());
    }
}

#[test]
fn the_last_line_of_a_failed_run_is_a_log_line_where_those_are_json() {
    let home = Home::with_repository();
    for more in [&[][..], &["-q"], &["-vv"]] {
        let ran = home.run(&[&["cat", "latest", "--log-format", "json"], more].concat());
        assert_eq!(ran.code, 14, "{}", ran.stderr);
        let lines: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert_eq!((&last["level"], last["run"].as_str().unwrap().len()), (&"ERROR".into(), 16), "{last}");
        assert!(last["message"].as_str().unwrap().contains("no snapshot"), "{last}");
        assert!(lines.iter().all(|line| line["run"] == last["run"]), "{}", ran.stderr);
        assert_eq!(lines.len() > 1, more == ["-vv"], "{}", ran.stderr);
    }
    let line = home.run(&["cat", "latest", "--log-format", "text"]).fails(14);
    assert!(line.contains("no snapshot"), "{line}");
}

//! Disks that are full, under the repository, under the cache and under a target; filesystems that lack what a
//! repository needs.

use super::{Kept, MIB, has, restores};
use std::fs;
use std::path::Path;
use std::process::Command;
use wherry_tests::home::Home;
use wherry_tests::nolinks::NoLinks;
use wherry_tests::small::noise;
use wherry_tests::volumes::{Volume, fill};

/// Leaves so many bytes free.
fn leave(filler: &Path, free: u64) {
    fill(filler);
    let file = fs::OpenOptions::new().write(true).open(filler).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - free).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_full_disk_under_the_repository_says_how_much_is_missing_and_with_room_the_same_command_succeeds() {
    let volume = Volume::ext4(96);
    let repository = volume.path().join("repo");
    let kept = Kept::begin(Home::new().at(repository.to_str().unwrap(), &[]));
    let home = &kept.home;
    let disk = noise(5, 40 * MIB);
    home.write("disk", &disk);
    let filler = volume.path().join("filler");
    let args = ["backup", "disk", "--name", "vm", "--memory", "64M"];
    // Room for some packs, for not even one, and for no byte at all.
    for free in [20 * MIB as u64, MIB as u64, 0] {
        leave(&filler, free);
        let line = home.run(&args).ends(1);
        has(
            &line,
            &["no space is left in", repository.to_str().unwrap(), "bytes were to be written", "bytes are free"],
        );
        has(&line, &["make room there", "again"]);
        assert_eq!(home.snapshots(), 1);
        // Reading needs no room there.
        kept.is_whole();
        fs::remove_file(&filler).unwrap();
    }
    let ran = home.run(&[&args[..], &["--json"]].concat()).ok();
    assert_eq!(ran.json()["resumed"], true, "what had been stored was not used");
    restores(home, "latest:vm", &disk);
    kept.is_whole_with(2);
    assert_eq!(fs::read_dir(repository.join("_tmp")).map_or(0, Iterator::count), 0, "half-made objects are left");
}

/// Collecting garbage is what makes room, so it needs none where anything was condemned before.
#[test]
fn garbage_is_collected_on_a_disk_that_is_wholly_full() {
    let volume = Volume::ext4(64);
    let repository = volume.path().join("repo");
    let home = Home::new().at(repository.to_str().unwrap(), &[]);
    home.run(&["init"]).ok();
    let goes = home.backup("vm", &noise(8, 20 * MIB));
    let disk = noise(9, 3 * MIB);
    home.backup("vm", &disk);
    home.run(&["forget", &goes, "--delay", "0s"]).ok();
    home.run(&["gc"]).ok();
    let filler = volume.path().join("filler");
    leave(&filler, 0);
    // By the newest object no time has passed since.
    let line = home.run(&["gc", "--grace", "1h"]).ends(1);
    has(&line, &["no space is left in", repository.to_str().unwrap(), "room has to be made"]);
    let ran = home.run(&["gc", "--grace", "0s", "--json"]).ok().json();
    assert!(ran["deleted"]["bytes"].as_u64().unwrap() > 20 * MIB as u64, "{ran}");
    fs::remove_file(&filler).unwrap();
    restores(&home, "latest:vm", &disk);
    home.run(&["check", "--read-data"]).ok();
}

/// What is sealed anew takes its room twice until the old packs are deleted. Where there is not enough for all of it each run does a part, and leaves
/// backups as much as it takes.
#[test]
fn what_has_no_room_to_be_sealed_anew_at_once_is_so_by_several_runs() {
    let volume = Volume::ext4(96);
    let repository = volume.path().join("repo");
    let home = Home::new().at(repository.to_str().unwrap(), &[]);
    home.run(&["init"]).ok();
    let disk = noise(11, 56 * MIB);
    home.write("disk", &disk);
    home.run(&["backup", "disk", "--name", "vm", "--memory", "64M"]).ok();
    home.run(&["key", "rotate"]).ok();
    let free = || {
        let stat = rustix::fs::statvfs(volume.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    // Within the grace nothing comes free.
    let before = free();
    let args = ["gc", "--rewrite", "--memory", "64M", "--json"];
    let first = home.run(&args).ok().json();
    assert!(
        first["rewritten"]["packs"].as_u64() > Some(0) && first["rewritten"]["left"]["packs"].as_u64() > Some(0),
        "{first}"
    );
    assert!(free() >= before * 2 / 5, "{} of {before}", free());
    home.backup("small", &noise(12, MIB));
    for run in 0.. {
        let ran = home.run(&[&args[..], &["--grace", "0s", "--fence-after", "0s"]].concat()).ok().json();
        if ran["rewritten"]["left"]["packs"] == 0 {
            break;
        }
        assert!(run < 12 && ran["rewritten"]["packs"].as_u64() > Some(0), "run {run}: {ran}");
    }
    home.run(&["gc", "--grace", "0s", "--fence-after", "0s"]).ok();
    assert!(free() >= before * 9 / 10, "{} of {before}", free());
    restores(&home, "latest:vm", &disk);
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn an_init_on_a_full_disk_says_so_and_with_room_the_same_command_succeeds() {
    let volume = Volume::ext4(64);
    let place = volume.path();
    let home = Home::new().at(place.join("repo").to_str().unwrap(), &[]);
    leave(&place.join("filler"), 0);
    has(&home.run(&["init"]).ends(1), &[place.to_str().unwrap(), "no space is left", "make room"]);
    fs::remove_file(place.join("filler")).unwrap();
    home.run(&["init"]).ok();
    let id = home.backup("vm", b"content");
    restores(&home, &id, b"content");
}

#[test]
fn a_full_disk_under_the_cache_is_a_warning_that_says_how_much_is_missing() {
    let kept = Kept::new();
    let volume = Volume::tmpfs(4 << 20);
    let cache = volume.path().join("cache");
    let disk = noise(6, 24 * MIB);
    kept.home.write("disk", &disk);
    let filler = volume.path().join("filler");
    leave(&filler, 16 << 10);
    let backup = |name: &str| {
        let args = ["backup", "disk", "--name", name, "--json", "--cache-dir", cache.to_str().unwrap()];
        kept.home.run(&args).ok()
    };
    let ran = backup("vm");
    has(&ran.stderr, &["the disk of the cache in", cache.to_str().unwrap(), "is full", "MiB are missing"]);
    restores(&kept.home, "latest:vm", &disk);
    kept.is_whole_with(2);
    fs::remove_file(filler).unwrap();
    let ran = backup("other");
    assert!(!ran.stderr.contains("full"), "{}", ran.stderr);
    assert_eq!(ran.json()["new"], 0, "the cache was not rebuilt");
    kept.is_whole_with(3);
}

#[test]
fn a_full_disk_under_the_target_is_an_error_and_with_room_the_same_command_goes_on() {
    let kept = Kept::new();
    let volume = Volume::ext4(32);
    let (out, filler) = (volume.path().join("out"), volume.path().join("filler"));
    let args = ["restore", &kept.id, out.to_str().unwrap()];
    leave(&filler, 3 * MIB as u64);
    let line = kept.home.run(&args).ends(1);
    has(&line, &[out.to_str().unwrap(), "No space left on device", "make room", "again"]);
    fs::remove_file(filler).unwrap();
    kept.home.run(&args).ok();
    assert!(fs::read(out).unwrap() == kept.disk);
    kept.is_whole();
}

#[test]
fn a_filesystem_without_links_is_refused_unless_there_is_one_writer() {
    let nolinks = NoLinks::mount();
    let place = nolinks.path().join("repo");
    let home = Home::new().at(place.to_str().unwrap(), &[]);
    let line = home.run(&["init"]).ends(2);
    has(&line, &[place.to_str().unwrap(), "nothing was made", "--single-writer"]);
    assert!(!home.path("key").exists(), "a key was made for nothing");
    has(&home.run(&["snapshots"]).fails(10), &["there is no repository"]);

    home.run(&["init", "--single-writer", "--chunk-size", "64K"]).ok();
    let disk = noise(7, 2 * MIB + 5);
    let id = home.backup("vm", &disk);
    restores(&home, &id, &disk);
    home.run(&["check", "--read-data"]).ok();
}

/// A user that nobody else is: so many threads it may have, those of all its processes together.
const USER: u32 = 61_847;

/// Some work needs a thread of its own, and says so; of what is done by several fewer do.
#[test]
fn with_few_threads_a_command_does_its_work_or_says_so_and_leaves_nothing_open() {
    let kept = Kept::new();
    let home = &kept.home;
    home.write("disk", noise(41, 9 * MIB));
    for n in 0..300 {
        fs::create_dir_all(home.path("tree")).unwrap();
        home.write(&format!("tree/{n}"), noise(n, 5000));
    }
    fs::copy(wherry_tests::binary::wherry_bin(), home.path("wherry")).unwrap();
    let of_user = |path: &str| {
        let status = Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(home.path(path)).status();
        assert!(status.unwrap().success());
    };
    of_user("");
    let run = |threads: usize, args: &[&str]| {
        let mut command = Command::new("setpriv");
        home.prepare(&mut command);
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()];
        command.env("WHERRY_REPOSITORY", home.path("repo")).env("WHERRY_KEY_FILE", home.path("key")).args(ids);
        command.args(["prlimit", &format!("--nproc={threads}")]).arg(home.path("wherry")).args(args);
        home.ran(command.arg("--no-cache").output().unwrap())
    };
    let mut ended = std::collections::BTreeMap::new();
    for threads in (1..16).chain([20, 24, 32]) {
        for args in [
            &["backup", "disk", "--name", "vm", "--memory", "64M"][..],
            &["backup", "tree", "--name", "t", "--memory", "128M"],
            &["restore", "latest:kept", "out", "--force"],
            &["restore", "latest:t", "outs", "--overwrite", "always"],
            &["cat", "latest:kept"],
            &["check", "--read-data"],
            &["snapshots"],
        ] {
            let ran = run(threads, args);
            let what = format!("{threads} threads, {args:?}: {} {}", ran.code, ran.stderr);
            assert!(!ran.stderr.contains("bug") && !ran.stderr.contains("panicked"), "{what}");
            match ran.code {
                0 => {}
                // Of what was never stored.
                14 if args.contains(&"latest:t") => {}
                1 => assert!(["thread", "Resource temporarily"].iter().any(|why| ran.stderr.contains(why)), "{what}"),
                _ => panic!("{what}"),
            }
            *ended.entry((args[..2.min(args.len())].join(" "), ran.code)).or_insert(0) += 1;
        }
    }
    println!("{ended:?}");
    for code in [0, 1] {
        assert!(ended.contains_key(&("backup disk".to_owned(), code)), "{ended:?}");
    }
    let text = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let outcomes: Vec<String> = home.tree("repo/snap").into_keys().map(text).collect();
    for open in home.tree("repo/sess").into_keys().filter(|path| path.ends_with("open")) {
        let session = text(open.parent().unwrap().to_owned());
        assert!(outcomes.contains(&session), "session {session} is open");
    }
    home.run(&["check", "--read-data"]).ok();
    kept.restores();
}

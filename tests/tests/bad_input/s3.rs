//! An S3 server that refuses, stalls and cuts connections: what passes is tried again and nothing is doubled, what
//! stays ends the command in bounded time with a clear error.

use super::{Kept, MIB, has, home_behind, restores};
use rustix::io::Errno;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wherry_tests::faulty_s3::{Chaos, Conditions, Fault, FaultyS3, Rule};
use wherry_tests::home::{Home, PATIENCE, Running};
use wherry_tests::seaweed::{Extras, Seaweed, variables_for};
use wherry_tests::small::noise;

/// A mount by a process in the foreground; it goes with this.
pub(super) struct Mounted<'a> {
    pub(super) path: PathBuf,
    pub(super) running: Option<Running<'a>>,
}

impl<'a> Mounted<'a> {
    /// Mounts all snapshots, with these further arguments.
    pub(super) fn start(home: &'a Home, args: &[&str]) -> Self {
        let path = home.path("mnt");
        let _ = fs::create_dir(&path);
        let mut running = home.spawn(&[&["mount", path.to_str().unwrap(), "--foreground"], args].concat());
        let mut line = String::new();
        BufReader::new(running.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mount = Self { path, running: Some(running) };
        assert!(line.starts_with("mounted "), "{line:?}");
        mount
    }

    pub(super) fn disk(&self, volume: &str) -> PathBuf {
        self.path.join("by-volume").join(volume).join("latest/disk.raw")
    }

    /// SIGTERM ends it.
    pub(super) fn end(mut self) {
        let mut running = self.running.take().unwrap();
        running.send(rustix::process::Signal::TERM);
        assert_eq!(running.end().code, 0);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.running.take().is_some() {
            // Killed by now; what it leaves in the tree of folders is dead.
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.path).output();
        }
    }
}

/// Backs up, changes, backs up, restores, checks, mounts: everything there is to do, and twice what a snapshot is.
fn everything(kept: &Kept, args: &[&str]) {
    let home = &kept.home;
    let mut disk = noise(20, 12 * MIB);
    for round in 0..2 {
        disk[..MIB].copy_from_slice(&noise(21 + round, MIB));
        home.write("disk", &disk);
        let ran = home.run(&[&["backup", "disk", "--name", "vm", "--memory", "64M", "--json"], args].concat()).ok();
        let id = ran.json()["snapshot"].as_str().unwrap().to_owned();
        let _ = fs::remove_file(home.path("out"));
        home.run(&[&["restore", &id, "out", "--verify"], args].concat()).ok();
        assert!(fs::read(home.path("out")).unwrap() == disk, "round {round}");
    }
    home.run(&[&["check", "--read-data"], args].concat()).ok();
    let mount = Mounted::start(home, args);
    assert!(fs::read(mount.disk("vm")).unwrap() == disk);
    mount.end();
}

#[test]
fn what_passes_is_tried_again_and_nothing_is_doubled() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 1..=2 {
        let (proxy, home) = home_behind(&format!("chaos-{seed}"));
        let faults = vec![
            Fault::Refuse(500),
            Fault::Refuse(503),
            Fault::Refuse(429),
            Fault::Refuse(409),
            Fault::Refuse(412),
            Fault::NoBackend,
            Fault::ApplyAndRefuse(500),
            Fault::ApplyAndRefuse(409),
            Fault::LoseReply,
            Fault::DropRequest,
            Fault::CutRequest,
            Fault::CutReply,
        ];
        proxy.chaos(Some(Chaos { seed, per_mille: 120, puts_per_mille: 120, faults }));
        // Six faults in a row hit one request in three hundred thousand.
        let kept = Kept::begin(home);
        everything(&kept, &[]);
        println!("seed {seed}: {} requests, hit {:?}", proxy.requests(), proxy.hits());
        kinds.extend(proxy.hits().into_keys());
        proxy.chaos(None);
        kept.is_whole_with(3);
    }
    assert!(kinds.len() >= 6, "{kinds:?}");
}

#[test]
fn stalls_are_noticed_and_tried_again() {
    let (proxy, kept) = Kept::behind("stalls");
    let stalls = [
        ("PUT", "/packs/", Fault::Stall),
        ("PUT", "/snap/", Fault::Stall),
        ("PUT", "/sess/", Fault::StallReply),
        ("GET", "/packs/", Fault::StallReply),
        ("GET", "/snap/", Fault::Stall),
        ("GET", "list-type", Fault::StallReply),
    ];
    for (method, path, fault) in stalls {
        proxy.inject(Rule { method, path, skip: 1, times: 1, fault });
    }
    let start = Instant::now();
    // A request on which nothing moves is given up after a sixth of it.
    everything(&kept, &["--retry-for", "18s"]);
    println!("{:?} for {:?}", start.elapsed(), proxy.hits());
    assert_eq!(proxy.hits().values().sum::<u64>(), stalls.len() as u64, "{:?}", proxy.hits());
    kept.is_whole_with(3);
}

/// What hits every request that matches, what is run meanwhile, and how that must end.
struct Case {
    method: &'static str,
    path: &'static str,
    fault: Fault,
    commands: &'static [&'static str],
    code: i32,
    words: &'static [&'static str],
}

const ALL: &[&str] = &["init", "backup", "restore", "check", "mount"];
const READERS: &[&str] = &["restore", "check"];
const WRITERS: &[&str] = &["init", "backup"];
const GAVE_UP: &[&str] = &["gave up after", "attempts", "s3://"];

fn cases() -> Vec<Case> {
    let case = |method, path, fault, commands, code, words| Case { method, path, fault, commands, code, words };
    vec![
        case("", "", Fault::Refuse(403), ALL, 12, &["HTTP 403", "check the credentials", "AWS_ACCESS_KEY_ID"]),
        case("PUT", "", Fault::Refuse(403), WRITERS, 12, &["HTTP 403", "check the credentials"]),
        case("GET", "/packs/", Fault::Refuse(403), READERS, 12, &["HTTP 403", "/packs/", "check the credentials"]),
        case("", "", Fault::NoSuchBucket, &["backup", "restore", "check", "mount"], 10, &["no repository", "s3://"]),
        case("PUT", "", Fault::NoSuchBucket, WRITERS, 10, &["NoSuchBucket", "make the bucket"]),
        case("GET", "list-type", Fault::NoSuchBucket, ALL, 10, &["NoSuchBucket", "make the bucket"]),
        case("GET", "list-type", Fault::Refuse(404), ALL, 10, &["HTTP 404", "make the bucket"]),
        case("PUT", "", Fault::Refuse(404), WRITERS, 10, &["HTTP 404", "make the bucket"]),
        case("GET", "/packs/", Fault::Refuse(404), &["restore"], 13, &["HTTP 404", "/packs/", "wherry check"]),
        case("", "", Fault::NoBackend, ALL, 1, &["gave up after", "404 page not found", "what stands before it"]),
        case("PUT", "", Fault::Refuse(409), WRITERS, 1, GAVE_UP),
        case("PUT", "", Fault::Refuse(412), WRITERS, 1, GAVE_UP),
        case("", "", Fault::Refuse(429), ALL, 1, GAVE_UP),
        case("", "", Fault::Refuse(500), ALL, 1, GAVE_UP),
        case("PUT", "/packs/", Fault::Refuse(500), &["backup"], 1, GAVE_UP),
        case("GET", "/packs/", Fault::Refuse(500), READERS, 1, GAVE_UP),
        case("", "", Fault::Refuse(503), ALL, 1, GAVE_UP),
        case("PUT", "/packs/", Fault::Refuse(507), &["backup"], 1, &["HTTP 507", "make room"]),
        case("", "", Fault::Stall, ALL, 1, &["gave up after", "no byte went either way"]),
        case("", "", Fault::DropRequest, ALL, 1, GAVE_UP),
        case("PUT", "", Fault::CutRequest, WRITERS, 1, GAVE_UP),
        case("PUT", "/packs/", Fault::CutRequest, &["backup"], 1, GAVE_UP),
        case("GET", "", Fault::CutReply, ALL, 1, GAVE_UP),
        case("GET", "/packs/", Fault::CutReply, READERS, 1, GAVE_UP),
        case("GET", "/packs/", Fault::StallReply, READERS, 1, &["gave up after", "no byte went either way"]),
    ]
}

/// Runs one command behind a proxy of its own that hits all it is told to.
fn ends_like(kept: &Kept, case: &Case, number: usize, command: &str) {
    let proxy = FaultyS3::start(super::server().port());
    proxy.inject(Rule::every(case.method, case.path, case.fault));
    let home = Home::new();
    let repository = match command {
        "init" => format!("s3://permanent/new-{number}"),
        _ => "s3://permanent/x".to_owned(),
    };
    let home = home.at(repository, &variables_for(proxy.port()));
    fs::copy(kept.home.path("key"), home.path("key")).unwrap();
    home.write("disk", noise(30, 2 * MIB));
    let _ = fs::create_dir(home.path("mnt"));
    let args: &[&str] = match command {
        "init" => &["init"],
        "backup" => &["backup", "disk", "--name", "vm"],
        "restore" => &["restore", "latest", "out"],
        "check" => &["check", "--read-data"],
        _ => &["mount", "mnt"],
    };
    let start = Instant::now();
    let ran = home.spawn(&[args, &["--retry-for", "2s"]].concat()).end_within(PATIENCE);
    let what = format!("{:?} on {:?} {:?}: {command}: {ran:?}", case.fault, case.method, case.path);
    println!("{:.1} s {what}", start.elapsed().as_secs_f64());
    assert_eq!(ran.code, case.code, "{what}");
    let line = ran.ends(case.code);
    assert!(case.words.iter().all(|word| line.contains(word)), "{:?} not in {what}", case.words);
    assert!(proxy.hits().values().sum::<u64>() > 0, "nothing was hit: {what}");
}

#[test]
fn what_stays_ends_in_bounded_time_with_a_clear_error() {
    let (_proxy, kept) = Kept::behind("permanent");
    let cases = cases();
    let runs: Vec<_> =
        cases.iter().flat_map(|case| case.commands.iter().map(move |command| (case, *command))).collect();
    let next = AtomicUsize::new(0);
    // They wait most of the time.
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                while let Some((case, command)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    ends_like(&kept, case, next.load(Ordering::Relaxed), command);
                }
            });
        }
    });
    kept.is_whole();
}

/// For a second nobody is behind it: what it then says is nothing that the storage said.
#[test]
fn an_ingress_that_knows_no_way_is_no_storage_without_the_object() {
    let (proxy, kept) = Kept::behind("ingress");
    let home = &kept.home;
    // And what the storage itself says is looked at once more before a pack is called lost.
    for (method, path, fault) in [
        ("GET", "/packs/", Fault::NoBackend),
        ("GET", "/snap/", Fault::NoBackend),
        ("HEAD", "repo.json", Fault::NoBackend),
        ("GET", "/packs/", Fault::Refuse(404)),
    ] {
        proxy.inject(Rule { method, path, skip: 0, times: 1, fault });
        let _ = fs::remove_file(home.path("out"));
        home.run(&["restore", &kept.id, "out"]).ok();
        assert!(proxy.is_spent(), "{method} {path}");
    }
    // A way in that others know of is not there any more when that is said.
    home.run(&["key", "add", "--new-key-file", "other"]).ok();
    let slots = || home.run(&["key", "list", "--json"]).ok().json().as_array().unwrap().clone();
    let added = slots().into_iter().find(|slot| slot["current"] != true).unwrap()["slot"].as_str().unwrap().to_owned();
    proxy.inject(Rule::next("DELETE", Fault::Refuse(404)));
    has(&home.run(&["key", "remove", &added]).ends(1), &[&added, "is still there"]);
    proxy.inject(Rule::next("DELETE", Fault::NoBackend));
    home.run(&["key", "remove", &added]).ok();
    assert!(proxy.is_spent() && slots().len() == 1, "{:?}", slots());
    kept.is_whole();
}

#[test]
fn a_mount_whose_storage_fails_answers_with_an_error_and_goes_on_when_it_is_back() {
    let (proxy, kept) = Kept::behind("mounted");
    let mount = Mounted::start(&kept.home, &["--retry-for", "2s"]);
    let disk = mount.disk("kept");
    let (io, denied) = (Errno::IO, Errno::ACCESS);
    for (fault, errno) in
        [(Fault::Refuse(500), io), (Fault::Refuse(403), denied), (Fault::StallReply, io), (Fault::DropRequest, io)]
    {
        proxy.inject(Rule::every("GET", "/packs/", fault));
        let start = Instant::now();
        let error = fs::read(&disk).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{fault:?}");
        assert!(start.elapsed() < PATIENCE, "{fault:?}: {:?}", start.elapsed());
        assert!(fs::read_dir(mount.path.join("by-volume")).unwrap().count() > 0, "names are there");
        proxy.heal();
    }
    wait_for(|| fs::read(&disk).is_ok_and(|read| read == kept.disk));
    mount.end();
    kept.is_whole();
}

/// Until this holds.
#[track_caller]
pub(super) fn wait_for(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn wrong_credentials_and_places_are_told_at_once() {
    let (_proxy, kept) = Kept::behind("wrong");
    let home = &kept.home;
    let with =
        |name: &str, value: &str, args: &[&str]| home.ran(home.command().env(name, value).args(args).output().unwrap());
    let backup = ["backup", "key", "--name", "x", "--retry-for", "2s"];
    for args in [&["snapshots"][..], &backup, &["restore", "latest", "out"], &["check"], &["init"]] {
        has(&with("AWS_ACCESS_KEY_ID", "nobody", args).ends(12), &["HTTP 403", "check the credentials"]);
        let line = with("AWS_SECRET_ACCESS_KEY", "not the right secret", args).ends(12);
        has(&line, &["HTTP 403", "check the credentials"]);
        assert!(!line.contains("not the right secret"), "{line}");
        has(&with("AWS_PROFILE", "none", &[args, &["--s3-profile", "none"]].concat()).ends(12), &["none", "profile"]);
    }
    for (endpoint, words) in [
        ("localhost:9000", &["localhost:9000", "http(s)://"][..]),
        ("ftp://localhost", &["ftp://localhost", "http(s)://"]),
        ("http://", &["names no host"]),
        ("https://user:hidden@host", &["must not hold credentials"]),
        ("http://host:99999", &["http://host:99999", "no valid host or port"]),
        ("http://host:abc", &["no valid host or port"]),
        ("http://a b", &["no valid host or port"]),
        ("http://[::1", &["no valid host or port"]),
    ] {
        has(&with("AWS_ENDPOINT_URL", endpoint, &["snapshots"]).fails(2), words);
        let line = home.run(&["snapshots", "--s3-endpoint", endpoint]).fails(2);
        has(&line, words);
        assert!(!line.contains("hidden"), "{line}");
    }
    for address in ["http://127.0.0.1:1", "http://[::1]:1"] {
        let line = home.run(&["snapshots", "--s3-endpoint", address, "--s3-virtual-host"]).fails(2);
        has(&line, &[address, "is an address"]);
    }
    has(&home.run(&["snapshots", "--s3-region", "a b\nc"]).fails(2), &["no name of a region"]);
    // Nobody listens there.
    let line = home.run(&["snapshots", "--s3-endpoint", "http://127.0.0.1:1", "--retry-for", "1s"]).ends(1);
    has(&line, &["gave up after", "onnection refused"]);
    restores(home, "latest", &kept.disk);
    kept.is_whole();
}

#[test]
fn a_server_without_create_if_absent_is_refused_unless_there_is_one_writer() {
    // Open: a request whose condition was taken out is no longer what was signed.
    let server = Seaweed::start_with(&Extras { open: true, ..Extras::default() });
    for (bucket, conditions) in [("overwrites", Conditions::Ignored), ("knows-none", Conditions::Refused)] {
        let proxy = FaultyS3::start(server.port());
        let home = Home::new().at(format!("s3://{bucket}/x"), &variables_for(proxy.port()));
        // The same server serves many when it is passed everything: what follows is for the lack of this alone.
        home.run(&["probe"]).ok();
        proxy.conditions(conditions);
        let ran = home.run(&["probe"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        has(&ran.stdout, &["create-if-absent", "FAILED", "fit for one writer at a time", "init --single-writer"]);
        let report = home.run(&["probe", "--json"]).json();
        assert_eq!((&report["usable"], &report["many_writers"]), (&true.into(), &false.into()), "{report}");
        let line = home.run(&["init"]).ends(2);
        has(&line, &[bucket, "cannot serve several writers", "nothing was made", "--single-writer"]);
        assert!(!home.path("key").exists(), "a key was made for nothing");
        has(&home.run(&["snapshots"]).fails(10), &["there is no repository"]);

        home.run(&["init", "--single-writer", "--chunk-size", "64K"]).ok();
        let disk = noise(33, 3 * MIB + 5);
        let id = home.backup("vm", &disk);
        // One process at a time, indeed.
        proxy.inject(Rule::every("PUT", "/packs/", Fault::Hold));
        home.write("disk", noise(34, 2 * MIB));
        let mut running = home.spawn(&["backup", "disk", "--name", "vm"]);
        running.until("a pack that is held", || proxy.open("PUT", "/packs/") > 0);
        has(&home.run(&["backup", "disk", "--name", "other"]).ends(11), &["backup of \"vm\""]);
        proxy.heal();
        proxy.release();
        running.end().ok();
        restores(&home, &id, &disk);
        restores(&home, "latest", &noise(34, 2 * MIB));
        home.run(&["check", "--read-data"]).ok();
        assert_eq!(home.snapshots(), 2);
    }
}

//! Bad input ends in a clear error, and nothing is lost: the real executable, real filesystems and devices, a real S3
//! server. [`table::ROWS`] says which test shows which row. Needs root, /dev/fuse, loop devices and
//! `WHERRY_TEST_SEAWEED`, which `scripts/test` provides.
#![forbid(unsafe_code)]

#[path = "bad_input/access.rs"]
mod access;
#[path = "bad_input/clock.rs"]
mod clock;
#[path = "bad_input/damage.rs"]
mod damage;
#[path = "bad_input/names.rs"]
mod names;
#[path = "bad_input/noted.rs"]
mod noted;
#[path = "bad_input/room.rs"]
mod room;
#[path = "bad_input/s3.rs"]
mod s3;
#[path = "bad_input/settings.rs"]
mod settings;
#[path = "bad_input/signals.rs"]
mod signals;
#[path = "bad_input/sources.rs"]
mod sources;
#[path = "bad_input/table.rs"]
mod table;
#[path = "bad_input/targets.rs"]
mod targets;
#[path = "bad_input/tls.rs"]
mod tls;
#[path = "bad_input/unplugged.rs"]
mod unplugged;

use std::fs;
use std::sync::OnceLock;
use wherry_tests::faulty_s3::FaultyS3;
use wherry_tests::home::Home;
use wherry_tests::seaweed::{Seaweed, variables_for};
use wherry_tests::small::noise;

const MIB: usize = 1 << 20;
/// Chunk size of the repositories of these tests in bytes.
const UNIT: usize = 64 << 10;

/// A repository with a snapshot that was acknowledged: whatever a test does, it stays as it is.
struct Kept {
    home: Home,
    /// The id of the snapshot.
    id: String,
    disk: Vec<u8>,
}

impl Kept {
    fn new() -> Self {
        Self::begin(Home::new())
    }

    /// Makes the repository of a home, and the snapshot.
    fn begin(home: Home) -> Self {
        home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
        // Data, zeros, a tail that fills no sector, and more than one leaf of the map.
        let mut disk = noise(1, 9 * MIB + 700);
        disk[MIB..2 * MIB].fill(0);
        let id = home.backup("kept", &disk);
        Self { home, id, disk }
    }

    /// On an S3 server behind a proxy that passes everything on, in a bucket of its own.
    fn behind(bucket: &str) -> (FaultyS3, Self) {
        let (proxy, home) = home_behind(bucket);
        (proxy, Self::begin(home))
    }

    /// The repository is clean, there are so many snapshots, and the first one restores as it was.
    #[track_caller]
    fn is_whole_with(&self, snapshots: usize) {
        let ran = self.home.run(&["check", "--read-data"]).ok();
        assert!(ran.stdout.contains("no damage found"), "{}", ran.stdout);
        assert_eq!(self.home.snapshots(), snapshots);
        self.restores();
    }

    /// Likewise, with no other snapshot.
    #[track_caller]
    fn is_whole(&self) {
        self.is_whole_with(1);
    }

    #[track_caller]
    fn restores(&self) {
        restores(&self.home, &self.id, &self.disk);
    }
}

/// This snapshot restores to exactly this disk.
#[track_caller]
fn restores(home: &Home, snap: &str, disk: &[u8]) {
    let out = home.path("restored");
    let _ = fs::remove_file(&out);
    home.run(&["restore", snap, out.to_str().unwrap()]).ok();
    assert!(fs::read(&out).unwrap() == disk, "{snap} restores as something else");
    fs::remove_file(&out).unwrap();
}

/// The line has the thing, the cause and the next step in it.
#[track_caller]
fn has(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
}

/// One server for all tests of this file; each uses a bucket of its own. It ends with this process.
fn server() -> &'static Seaweed {
    static SERVER: OnceLock<Seaweed> = OnceLock::new();
    SERVER.get_or_init(Seaweed::start)
}

/// A home whose repository is to be in a bucket behind a proxy of its own.
fn home_behind(bucket: &str) -> (FaultyS3, Home) {
    let proxy = FaultyS3::start(server().port());
    let home = Home::new().at(format!("s3://{bucket}/x"), &variables_for(proxy.port()));
    (proxy, home)
}

/// Every kind of command that needs a repository; those that need a file find it in [`with_files`].
const COMMANDS: [&[&str]; 20] = [
    &["snapshots"],
    &["stats"],
    &["show", "latest"],
    &["cat", "latest"],
    &["backup", "image", "--name", "x"],
    &["restore", "latest", "out"],
    &["check"],
    &["check", "--read-data", "latest"],
    &["mount", "mnt"],
    &["forget", "latest"],
    &["forget", "--keep-last", "1"],
    &["unforget", "latest"],
    &["pin", "latest"],
    &["unpin", "latest"],
    &["repair"],
    &["upgrade"],
    &["key", "rotate", "--slot-key-file", "second"],
    &["gc"],
    &["key", "list"],
    &["key", "add", "--new-key-file", "second"],
];

fn with_files(home: &Home) {
    home.write("image", noise(2, 3 * UNIT));
    home.write("second", "0123456789abcdef".repeat(4));
    let _ = fs::create_dir(home.path("mnt"));
}

//! Storage over real things: folders on real filesystems, a real S3 server, and that server behind a proxy that breaks
//! requests. Needs root, /dev/fuse and `WHERRY_TEST_SEAWEED`, which `scripts/test` provides.

#[path = "storage/clouds.rs"]
mod clouds;
#[path = "storage/faults.rs"]
mod faults;
#[path = "storage/filesystems.rs"]
mod filesystems;
#[path = "storage/races.rs"]
mod races;

use std::sync::{Arc, OnceLock};
use wherry_repo::storage::conformance::{self, Options, Report};
use wherry_repo::storage::{Local, Memory, Storage};
use wherry_repo::{Clock, Key, Result, System};
use wherry_tests::seaweed::Seaweed;

type Open<'a> = &'a dyn Fn() -> Result<Arc<dyn Storage>>;

/// One server for all tests of this file; each uses a bucket of its own. It ends with this process.
fn server() -> &'static Seaweed {
    static SERVER: OnceLock<Seaweed> = OnceLock::new();
    SERVER.get_or_init(Seaweed::start)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Rounds with bodies of 32 MiB: losers upload too, 16 x 32 MiB a round. WHERRY_TEST_LARGE_ROUNDS=100 for the whole of it.
fn large_rounds(usual: u32) -> u32 {
    std::env::var("WHERRY_TEST_LARGE_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap())
}

fn failed(report: &Report) -> Vec<String> {
    report.failed().map(|check| format!("{}: {}", check.name, check.failed.as_deref().unwrap_or_default())).collect()
}

/// The whole suite, and nothing is left behind.
fn conforms(open: Open<'_>, options: &Options) {
    let report = conformance::run(open, options).unwrap();
    assert_eq!(failed(&report), Vec::<String>::new());
    assert!(report.many_writers());
    let mut left = 0;
    open()
        .unwrap()
        .list("", &mut |_| {
            left += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(left, 0, "objects left behind");
}

#[test]
fn conformance_memory() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::default());
    conforms(&|| Ok(Arc::clone(&memory)), &Options::FULL);
}

#[test]
fn conformance_local() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { large_rounds: large_rounds(10), ..Options::FULL };
    conforms(&|| Ok(Arc::new(Local::new(folder.path(), false))), &options);
}

#[test]
fn conformance_s3() {
    let options = Options { large_rounds: large_rounds(3), ..Options::FULL };
    let server = server();
    conforms(&|| Ok(server.open("conformance/a/b")), &options);
    // A bucket's root, and the sizes of a probe.
    conforms(&|| Ok(server.open("conformance-root")), &Options::SHORT);
}

/// A server says what time it is without anything being written: it runs on this machine, so it is now.
#[test]
fn a_server_says_what_time_it_is() {
    let storage = server().open("what-time/a");
    // A bucket is made with its first object.
    storage.create(&key("one"), "x".into()).unwrap();
    let clock = System::default();
    let before = clock.now().seconds();
    let told = storage.time().unwrap().expect("an answer without a date").seconds();
    let after = clock.now().seconds();
    assert!((before..=after).contains(&told), "{told} is not from {before} to {after}");
    let mut found = Vec::new();
    let listed = storage.list("", &mut |object| {
        found.push(object.key);
        Ok(())
    });
    listed.unwrap();
    assert_eq!(found, [key("one")]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Local::new(folder.path(), false).time().unwrap(), None, "files are stamped by the host");
}

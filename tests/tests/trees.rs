//! `wherry backup DIR` and `wherry restore` of a directory with the real executable: what comes back is what was there,
//! what is read again, what is refused, what is left after a kill. Needs root.
#![forbid(unsafe_code)]

#[path = "trees/changing.rs"]
mod changing;
#[path = "trees/damaged.rs"]
mod damaged;
#[path = "trees/delta.rs"]
mod delta;
#[path = "trees/dry.rs"]
mod dry;
#[path = "trees/engines.rs"]
mod engines;
#[path = "trees/flags.rs"]
mod flags;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "cli/harness.rs"]
mod harness;
#[path = "trees/images.rs"]
mod images;
#[path = "trees/killed.rs"]
mod killed;
#[path = "trees/linked.rs"]
mod linked;
#[path = "trees/memory.rs"]
mod memory;
#[path = "trees/own.rs"]
mod own;
#[path = "trees/partial.rs"]
mod partial;
#[path = "trees/quirks.rs"]
mod quirks;
#[path = "trees/refusals.rs"]
mod refusals;
#[path = "trees/same.rs"]
mod same;
#[path = "trees/targets.rs"]
mod targets;
#[path = "trees/unread.rs"]
mod unread;
#[path = "trees/verify.rs"]
mod verify;

use harness::Home;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use wherry_tests::trees::{assert_same, list};

/// A file whose ctime is not older than this when a backup begins is read by the next one again.
const MARGIN: Duration = Duration::from_secs(2);

/// Waits until the margin has gone by for everything that was made until now.
fn age() {
    // A ctime is of the kernel's coarse clock: a tick more.
    std::thread::sleep(MARGIN + Duration::from_millis(50));
}

/// A backup that works, as JSON.
#[track_caller]
fn backup(home: &Home, source: &str, flags: &[&str]) -> Value {
    home.run(&[&["backup", source, "--name", "t", "--json"], flags].concat()).ok().json()
}

/// A restore of the newest snapshot that works, as JSON.
#[track_caller]
fn restore(home: &Home, target: &str, flags: &[&str]) -> Value {
    home.run(&[&["restore", "latest:t", target, "--json"], flags].concat()).ok().json()
}

/// Restores the newest snapshot to a new place, and compares with its source; then the copy goes.
#[track_caller]
fn comes_back(home: &Home, source: &str, what: &str) {
    restore(home, "copy", &[]);
    assert_same(&list(&home.path("copy")), &list(&home.path(source)), what);
    fs::remove_dir_all(home.path("copy")).unwrap();
}

/// Makes a directory with these files, and those above them.
fn files(root: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

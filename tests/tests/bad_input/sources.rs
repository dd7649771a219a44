//! Sources of a backup that cannot be read, or do not stay as they are. No snapshot comes of them.

use super::{Kept, MIB, has};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::noise;
use wherry_tests::volumes::Loop;

#[test]
fn what_is_no_disk_or_not_there_is_refused() {
    let kept = Kept::new();
    let home = &kept.home;
    std::os::unix::fs::symlink("nowhere", home.path("dangling")).unwrap();
    for (source, words) in [
        ("none", &["none", "does not exist"][..]),
        ("none/below", &["none/below", "does not exist"]),
        ("dangling", &["dangling", "does not exist"]),
        ("key/below", &["key/below", "does not exist"]),
        ("/dev/null", &["/dev/null", "block device"]),
        ("", &["SOURCE", "empty"]),
    ] {
        let line = home.run(&["backup", source, "--name", "x"]).ends(2);
        assert!(words.iter().all(|word| line.contains(word)), "{source:?}: {line}");
    }
    kept.is_whole();
}

#[test]
fn a_source_that_may_not_be_read_is_named() {
    let kept = Kept::new();
    let home = &kept.home;
    let image = home.write("image", "secret content");
    fs::set_permissions(&image, PermissionsExt::from_mode(0o600)).unwrap();
    // The other user may not come to where this executable lies.
    fs::copy(wherry_bin(), home.path("wherry")).unwrap();
    let mut command = Command::new("setpriv");
    home.prepare(&mut command);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(home.path("wherry"));
    let ran = home.ran(command.args(["backup", &image, "--repo", "other", "--no-cache"]).output().unwrap());
    has(&ran.fails(1), &["no permission to open", &image, "ermission denied", "run as root"]);
    kept.is_whole();
}

/// Changes the source while it is read; the backup must end like this.
fn changed_meanwhile(kept: &Kept, source: &str, change: impl FnOnce(), words: &[&str]) {
    let home = &kept.home;
    let sessions = home.tree("repo/sess").len();
    let args = ["backup", source, "--name", "x", "--memory", "64M", "--limit-read", "16M"];
    let mut running = home.spawn(&args);
    running.until("a session", || home.tree("repo/sess").len() > sessions);
    change();
    let line = running.end().ends(1);
    has(&line, words);
    has(&line, &[source]);
    kept.is_whole();
}

#[test]
fn a_source_that_shrinks_or_grows_leaves_no_snapshot() {
    let kept = Kept::new();
    let home = &kept.home;
    // So much that some is unread, whatever is read ahead, when the session has begun.
    let disk = noise(8, 48 * MIB);
    let set_len = |len: usize| {
        File::options().write(true).open(home.path("disk")).unwrap().set_len(len as u64).unwrap();
    };
    for len in [40 * MIB + 4096, 56 * MIB] {
        let file = home.write("disk", &disk);
        let [was, now] = [disk.len(), len].map(|n| n.to_string());
        changed_meanwhile(&kept, &file, || set_len(len), &["changed", &was, &now]);
        home.write("disk", &disk);
        let device = Loop::new(&home.path("disk"), &[]);
        let change = || {
            set_len(len);
            device.resize();
        };
        changed_meanwhile(&kept, device.text(), change, &["changed", &was, &now]);
    }
}

#[test]
fn a_source_that_cannot_be_read_in_places_leaves_no_snapshot() {
    let kept = Kept::new();
    let home = &kept.home;
    home.write("disk", noise(9, 8 * MIB));
    let device = Loop::new(&home.path("disk"), &["--direct-io=on"]);
    // The device is as large as before: what is behind the end of its file fails as a bad sector does.
    File::options().write(true).open(home.path("disk")).unwrap().set_len(5 * MIB as u64).unwrap();
    for engine in ["ring", "threads"] {
        let line = home.run(&["backup", device.text(), "--name", "x", "--engine", engine]).ends(1);
        has(&line, &[device.text(), "read of", "Input/output error", "check the device"]);
    }
    kept.is_whole();
    // The same command, when it can be read again.
    home.write("disk", noise(9, 8 * MIB));
    home.run(&["backup", device.text(), "--name", "x"]).ok();
    super::restores(home, "latest:x", &noise(9, 8 * MIB));
}

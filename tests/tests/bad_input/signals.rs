//! SIGINT and SIGTERM for what `cli/signals.rs` and `mount.rs` leave out: a restore, a mount under way, a backup to S3.

use super::{Kept, MIB, has, s3::Mounted};
use rustix::process::Signal;
use std::fs;
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::home::Running;
use wherry_tests::small::noise;

/// A restore in whose middle reads of packs wait.
fn held<'a>(proxy: &FaultyS3, kept: &'a Kept) -> Running<'a> {
    let came = proxy.came("GET", "/packs/");
    proxy.inject(Rule { skip: 1, ..Rule::every("GET", "/packs/", Fault::Hold) });
    let mut running = kept.home.spawn(&["restore", "latest:vm", "out", "--memory", "64M"]);
    // One has passed.
    running.until("a read under way", || proxy.came("GET", "/packs/") > came + 1);
    running
}

#[test]
fn a_restore_ends_cleanly_at_the_first_signal_and_at_once_at_the_second() {
    let (proxy, kept) = Kept::behind("signals");
    let home = &kept.home;
    let disk = noise(70, 32 * MIB);
    home.backup("vm", &disk);
    for (signal, code, name) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM")] {
        let mut running = held(&proxy, &kept);
        running.send(signal);
        running.says("ends cleanly");
        proxy.heal();
        proxy.release();
        let line = running.end().ends(code);
        has(&line, &["ended by", name, "same command again"]);
        let report = home.run(&["restore", "latest:vm", "out", "--json"]).ok().json();
        assert_eq!(report["resumed"], true);
        assert!(fs::read(home.path("out")).unwrap() == disk);
        fs::remove_file(home.path("out")).unwrap();

        // What it waits for never comes.
        let mut running = held(&proxy, &kept);
        running.send(signal);
        running.says("ends cleanly");
        running.send(signal);
        assert_eq!(running.end().code, code);
        proxy.heal();
        proxy.release();
        home.run(&["restore", "latest:vm", "out"]).ok();
        assert!(fs::read(home.path("out")).unwrap() == disk);
        fs::remove_file(home.path("out")).unwrap();
    }
    kept.is_whole_with(2);
}

#[test]
fn a_backup_to_s3_ends_cleanly_at_the_first_signal_and_at_once_at_the_second() {
    let (proxy, kept) = Kept::behind("signals-backup");
    let home = &kept.home;
    let mut disk = Vec::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for twice in [false, true] {
            // Other content each time: what the run before had stored is not sent again.
            disk = noise(71 + 2 * code as u64 + u64::from(twice), 32 * MIB);
            home.write("disk", &disk);
            let came = proxy.came("PUT", "/packs/");
            proxy.inject(Rule::every("PUT", "/packs/", Fault::Hold));
            let mut running = home.spawn(&["backup", "disk", "--name", "vm", "--memory", "64M"]);
            running.until("a pack under way", || proxy.came("PUT", "/packs/") > came);
            running.send(signal);
            running.says("ends cleanly");
            if twice {
                running.send(signal);
                assert_eq!(running.end().code, code);
                proxy.heal();
                proxy.release();
            } else {
                proxy.heal();
                proxy.release();
                has(&running.end().ends(code), &["ended by", "same command again", "not sent twice"]);
            }
            assert_eq!(home.snapshots(), 1);
        }
    }
    home.run(&["backup", "disk", "--name", "vm"]).ok();
    super::restores(home, "latest:vm", &disk);
    kept.is_whole_with(2);
}

#[test]
fn a_mount_ends_at_either_signal_and_leaves_nothing_mounted() {
    let kept = Kept::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut mount = Mounted::start(&kept.home, &[]);
        assert!(fs::read(mount.disk("kept")).unwrap() == kept.disk);
        let mut running = mount.running.take().unwrap();
        running.send(signal);
        assert_eq!(running.end().code, 0);
        assert_eq!(fs::read_dir(&mount.path).unwrap().count(), 0);
    }
    kept.is_whole();
}

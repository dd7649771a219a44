//! Block devices as the source of a backup.

use super::{ENGINES, MIB, UNIT, device, disk, has, home, put, same};
use crate::harness::{Home, Ran};
use serde_json::json;
use std::fs::{self, File};
use std::process::{Command, Stdio};

fn cat(home: &Home, snap: &str) -> Vec<u8> {
    let output = home.command().args(["cat", snap]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    output.stdout
}

fn snapshots(home: &Home) -> usize {
    home.run(&["snapshots", "--json"]).ok().json().as_array().unwrap().len()
}

#[test]
fn a_device_is_backed_up_by_both_engines_and_in_both_sizes_of_sector() {
    let home = home();
    for (sector, size) in [("512", 2 * MIB + 3 * 512), ("4096", 2 * MIB + 4096)] {
        let content = disk(size as u64, size);
        let source = device(&home, "disk", size, 0, &["--sector-size", sector]);
        put(source.path(), 0, &content);
        for engine in ENGINES {
            let args = ["backup", source.text(), "--name", sector, "--engine", engine, "--parent", "none", "--json"];
            let report = home.run(&args).ok().json();
            let seen = ["size", "read", "hole", "engine"].map(|field| report[field].clone());
            assert_eq!(seen, [json!(size), json!(size), json!(0), json!(engine)], "{sector}");
            has(report["engine_reason"].as_str().unwrap(), &["asked for"]);
            same(&cat(&home, &format!("latest:{sector}")), &content, sector);
        }
    }
}

#[test]
fn a_source_that_is_mounted_writable_warns() {
    let home = home();
    let device = device(&home, "disk", 8 * MIB, 0, &[]);
    super::sh("mkfs.ext4", &["-q", "-F", device.text()]);
    let place = home.text("mounted");
    fs::create_dir(&place).unwrap();
    struct Mounted(String);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let warned = |options: &str, source: &str| {
        super::sh("mount", &["-o", options, device.text(), &place]);
        let _mounted = Mounted(place.clone());
        let ran = home.run(&["backup", source, "--name", "vm"]).ok();
        let warning = ran.stderr.lines().find(|line| line.contains("mounted writable")).map(str::to_owned);
        if let Some(warning) = &warning {
            has(warning, &[device.text(), &place, "back up a snapshot of it"]);
        }
        warning.is_some()
    };
    for source in [device.text(), &home.text("disk")] {
        assert!(warned("rw", source), "{source}");
        assert!(!warned("ro", source), "{source}");
    }
    let ran = home.run(&["backup", device.text(), "--name", "vm"]).ok();
    assert!(!ran.stderr.contains("mounted"), "{}", ran.stderr);
}

/// Unchanged means read, not believed.
#[test]
fn one_byte_changed_behind_an_unchanged_time_is_found() {
    let home = home();
    let mut content = disk(3, 4 * MIB);
    let image = home.write("image", &content);
    let source = device(&home, "disk", content.len(), 0, &[]);
    put(source.path(), 0, &content);
    for (source, name) in [(image.as_str(), "file"), (source.text(), "device")] {
        home.run(&["backup", source, "--name", name]).ok();
        let before = fs::metadata(source).unwrap();
        content[3 * UNIT + 1] ^= 1;
        put(source.as_ref(), 0, &content[..4 * UNIT]);
        let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
        File::options().write(true).open(source).unwrap().set_times(times).unwrap();
        assert_eq!(fs::metadata(source).unwrap().modified().unwrap(), before.modified().unwrap());
        let report = home.run(&["backup", source, "--name", name, "--json"]).ok().json();
        assert_eq!(report["new"].as_u64().unwrap() + report["known"].as_u64().unwrap(), UNIT as u64, "{report}");
        same(&cat(&home, &format!("latest:{name}")), &content, name);
        put(image.as_ref(), 0, &content);
        put(home.path("disk").as_ref(), 0, &content);
    }
}

/// The command that gives the password runs when the source is open and nothing of it has been read: what it does to the
/// source happens under way, on every machine.
fn backup_while(home: &Home, source: &str, engine: &str, happens: &str) -> Ran {
    let command = format!("{happens}; echo secret");
    let mut backup = home.bare();
    backup.args(["backup", source, "--name", "vm", "--repo", "repo", "--engine", engine]);
    backup.args(["--password-command", &command]).stdin(Stdio::null()).output().unwrap().into()
}

#[test]
fn a_source_that_changes_its_size_or_fails_gives_no_snapshot() {
    let home = home();
    home.write("password", "secret\n");
    home.run(&["key", "add", "--new-password-file", "password"]).ok();
    let size = 4 * MIB;
    for engine in ENGINES {
        for (now, resize, words) in [
            (size / 2, true, &["changed its size", "4194304", "2097152", "snapshot of it"][..]),
            (2 * size, true, &["changed its size", "4194304", "8388608"]),
            // Its file is cut and the device does not know: reads behind the end fail.
            (size / 2, false, &["read of", "failed", "Input/output error"]),
        ] {
            let source = device(&home, "disk", size, 7, &["--direct-io=on"]);
            let cut = format!("truncate -s {now} disk");
            let happens = if resize { format!("{cut}; losetup -c {}", source.text()) } else { cut };
            let ran = backup_while(&home, source.text(), engine, &happens);
            assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{engine}, {happens}: {}", ran.stderr);
            let last = ran.stderr.lines().last().unwrap();
            has(last, &[&[source.text()], words].concat());
            assert_eq!(snapshots(&home), 0, "{engine}, {happens}");
        }
    }
    // With nothing happening it works: it was not the password.
    let source = device(&home, "disk", size, 7, &[]);
    backup_while(&home, source.text(), "auto", "true").ok();
    assert_eq!(snapshots(&home), 1);
}

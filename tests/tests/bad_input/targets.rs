//! Targets of a restore that are refused before a byte is written, and those that fail on the way.

use super::{Kept, MIB, has, s3::wait_for};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use wherry_tests::home::Home;
use wherry_tests::small::noise;
use wherry_tests::volumes::Loop;

/// A file of so many bytes without a byte in it.
fn blank(home: &Home, name: &str, len: usize) -> std::path::PathBuf {
    let path = home.path(name);
    File::create(&path).unwrap().set_len(len as u64).unwrap();
    path
}

#[track_caller]
fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mount that goes with this.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(device: &str, at: &'a Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        sh("mount", &["-o", options, device, at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// With and without --force it is refused like this, and its bytes stay as they are.
#[track_caller]
fn refused(kept: &Kept, target: &str, code: i32, words: &[&str]) {
    let before = fs::read(target).unwrap();
    for force in [&[][..], &["--force"], &["--delta"], &["--dry-run", "--force"]] {
        let args = [&["restore", &kept.id, target], force].concat();
        let line = kept.home.run(&args).fails(code);
        has(&line, words);
        has(&line, &[target]);
    }
    assert!(fs::read(target).unwrap() == before, "{target} was written to");
}

#[test]
fn devices_that_are_small_mounted_held_or_read_only_are_refused_whatever_is_forced() {
    let kept = Kept::new();
    let home = &kept.home;
    let need = kept.disk.len().to_string();
    {
        let small = Loop::new(&blank(home, "small", 9 * MIB), &[]);
        refused(&kept, small.text(), 2, &["too small", &(9 * MIB).to_string(), &need]);
    }
    let file = blank(home, "large", 12 * MIB);
    {
        let device = Loop::new(&file, &["--read-only"]);
        refused(&kept, device.text(), 2, &["read-only"]);
    }
    let device = Loop::new(&file, &[]);
    refused(&kept, file.to_str().unwrap(), 11, &["in use", device.text(), "run again"]);
    let hold = || File::options().read(true).custom_flags(rustix::fs::OFlags::EXCL.bits() as i32).open(device.path());
    {
        let _held = hold().unwrap();
        refused(&kept, device.text(), 11, &["in use", "exclusively", "close it and run again"]);
    }
    // What was closed may still be open in a process that another test is just starting.
    wait_for(|| hold().is_ok());
    sh("mkfs.ext4", &["-q", "-F", device.text()]);
    let at = home.path("mounted");
    for options in ["rw", "ro"] {
        let _mount = Mounted::new(device.text(), &at, options);
        let before = fs::read(&file).unwrap();
        for force in [&[][..], &["--force"], &["--delta"]] {
            let line = kept.home.run(&[&["restore", &kept.id, device.text()], force].concat()).fails(11);
            has(&line, &[device.text(), "mounted at", at.to_str().unwrap(), "unmount"]);
        }
        assert!(fs::read(&file).unwrap() == before);
    }
    kept.is_whole();
}

#[test]
fn a_device_that_others_are_built_on_is_refused_whatever_is_forced() {
    let kept = Kept::new();
    let home = &kept.home;
    let below = Loop::new(&blank(home, "below", 12 * MIB), &["--partscan"]);
    let above = Loop::new(&blank(home, "above", 12 * MIB), &[]);
    // Not every kernel has a device mapper. A loop device plays what is built on the other one: of both, the process sees
    // below /sys what it would see then.
    let sys = |device: &Loop| Path::new("/sys/devices/virtual/block").join(device.path().file_name().unwrap());
    fs::create_dir_all(home.path("mapped/dm")).unwrap();
    home.write("mapped/dev", fs::read(sys(&above).join("dev")).unwrap());
    home.write("mapped/dm/name", "vg-vm1\n");
    fs::create_dir(home.path("holders")).unwrap();
    std::os::unix::fs::symlink(sys(&above), home.path("holders/above")).unwrap();
    let (mapped, holders) = ((home.path("mapped"), sys(&above)), home.path("holders"));
    let run = |held: &Path, args: &[&str]| {
        let mut command = home.command_with_bound(&[(&mapped.0, &mapped.1), (&holders, &held.join("holders"))]);
        home.ran(command.args(args).output().unwrap())
    };
    let name = format!("{} (vg-vm1)", above.text());
    let before = fs::read(below.path()).unwrap();
    let refused = |held: &Path, target: &str, why: &str| {
        for force in [&[][..], &["--force"], &["--delta"], &["--dry-run", "--force"]] {
            let line = run(held, &[&["restore", &kept.id, target], force].concat()).fails(11);
            has(&line, &[target, "in use", &name, why, "run again"]);
        }
        assert!(fs::read(below.path()).unwrap() == before, "{target} was written to");
    };
    refused(&sys(&below), below.text(), "is built on it");
    assert!(!run(&sys(&below), &["backup", below.text(), "--name", "held"]).ok().stderr.contains("WARN"));
    sh("addpart", &[below.text(), "1", "2048", "8192"]);
    let partition = format!("{}p1", below.text());
    let part = sys(&below).join(Path::new(&partition).file_name().unwrap());
    refused(&part, &partition, "is built on it");
    refused(&part, below.text(), "is built on it");

    sh("mkfs.ext4", &["-q", "-F", above.text()]);
    let at = home.path("mounted");
    let mount = Mounted::new(above.text(), &at, "rw");
    for (held, target) in [(sys(&below), below.text()), (part.clone(), &partition), (part, below.text())] {
        refused(&held, target, &format!("is mounted at {}", at.display()));
        let ran = run(&held, &["backup", target, "--name", "held"]).ok();
        has(&ran.stderr, &["WARN", &name, at.to_str().unwrap(), "may not fit together"]);
    }
    drop(mount);
    kept.is_whole_with(5);
    // Nothing else was in the way.
    home.run(&["restore", &kept.id, below.text(), "--force"]).ok();
}

#[test]
fn what_is_not_empty_is_refused_until_it_is_forced() {
    let kept = Kept::new();
    let home = &kept.home;
    let refused = |target: &str, words: &[&str]| {
        let before = fs::read(target).unwrap();
        let line = home.run(&["restore", &kept.id, target]).fails(2);
        has(&line, words);
        has(&line, &[target, "not empty", "--force", "--delta"]);
        assert!(fs::read(target).unwrap() == before);
    };
    let old = home.write("old", noise(8, MIB));
    refused(&old, &["1.0 MiB"]);
    home.run(&["restore", &kept.id, &old, "--force"]).ok();
    assert!(fs::read(&old).unwrap() == kept.disk);

    let file = blank(home, "disk", 12 * MIB);
    let device = Loop::new(&file, &[]);
    let raw = File::options().write(true).open(device.path()).unwrap();
    for at in [0, 12 * MIB as u64 - 1] {
        raw.write_all_at(&[1], at).unwrap();
        raw.sync_all().unwrap();
        refused(device.text(), &["it holds data"]);
        raw.write_all_at(&[0], at).unwrap();
        raw.sync_all().unwrap();
    }
    drop(raw);
    sh("mkfs.ext4", &["-q", "-F", device.text()]);
    refused(device.text(), &["ext2/3/4"]);
    let ran = home.run(&["restore", &kept.id, device.text(), "--force", "--verify"]).ok();
    has(&ran.stdout, &[device.text(), "which is larger, as they are"]);
    assert!(fs::read(&file).unwrap()[..kept.disk.len()] == kept.disk);
    kept.is_whole();
}

#[test]
fn what_is_no_disk_is_refused() {
    let kept = Kept::new();
    let home = &kept.home;
    fs::create_dir(home.path("folder")).unwrap();
    sh("mkfifo", &[&home.text("fifo")]);
    for (target, words) in [
        ("folder", &["is a directory", "name a file or a block device"][..]),
        ("fifo", &["neither a file nor a block device"]),
        ("/dev/null", &["neither a file nor a block device"]),
        ("none/disk", &["none/disk cannot be made", "folder none", "make it first"]),
        ("key/disk", &["key/disk cannot be made", "folder"]),
    ] {
        for force in [&[][..], &["--force"]] {
            has(&home.run(&[&["restore", &kept.id, target], force].concat()).fails(2), words);
        }
    }
    assert!(!home.path("none").exists() && fs::read_dir(home.path("folder")).unwrap().count() == 0);
    kept.is_whole();
}

#[test]
fn a_file_that_may_not_be_written_is_refused() {
    let kept = Kept::new();
    let home = &kept.home;
    let file = blank(home, "disk", 16 * MIB);
    sh("mkfs.ext4", &["-q", "-F", file.to_str().unwrap()]);
    let device = Loop::new(&file, &[]);
    let at = home.path("mounted");
    let _mount = Mounted::new(device.text(), &at, "rw");
    fs::write(at.join("old"), "x").unwrap();
    // Not unmounted before: another test's process with mounts of its own may hold it a moment longer, writable.
    sh("mount", &["-o", "remount,ro", at.to_str().unwrap()]);
    let inside = at.join("old");
    has(&home.run(&["restore", &kept.id, inside.to_str().unwrap(), "--force"]).fails(2), &["mounted/old", "read-only"]);
    let new = at.join("new");
    let line = home.run(&["restore", &kept.id, new.to_str().unwrap()]).ends(2);
    has(&line, &[new.to_str().unwrap(), "cannot be made", "ead-only"]);
    kept.is_whole();
}

#[test]
fn a_device_that_fails_on_the_way_ends_the_restore_with_the_place() {
    let kept = Kept::new();
    let home = &kept.home;
    let file = blank(home, "disk", 12 * MIB);
    let device = Loop::new(&file, &["--direct-io=on"]);
    // Reads of what is not there fail as those of a bad medium do; so that the look at its ends does not, they stay.
    File::options().write(true).open(&file).unwrap().set_len(4 * MIB as u64).unwrap();
    let line = home.run(&["restore", &kept.id, device.text(), "--force"]).ends(1);
    has(&line, &[device.text(), "Input/output error", "at 9437184"]);
    kept.is_whole();
}

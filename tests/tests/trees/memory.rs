//! The memory that a tree of many small files takes at most: backed up, unchanged, checked, listed, dumped, mounted and
//! restored. How many files is in `WHERRY_TREES_FILES`; a fifth of them is in one directory.

use crate::harness::{Home, PATIENCE, Ran, Running};
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wherry_tests::trees::{assert_same, list};

const CEILING: u64 = 256 << 20;
/// Files of the ordinary run; 2 000 000 and 500 000 more in one directory are the long one.
const FILES: usize = 12_500;

/// The most memory that a process which is still running ever had resident.
fn high_water(running: &mut Running) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", running.child().id())).ok()?;
    // One that has ended has no such line.
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

/// Runs a command to its end; gives what it left and the most memory it had resident. Without `keep` nothing is kept of
/// what it writes to standard output.
fn measured(home: &Home, args: &[&str], keep: bool) -> (Ran, u64) {
    let mut command = home.command();
    command.args(args).args(["--memory", "256M"]);
    if !keep {
        command.stdout(Stdio::null());
    }
    let mut running = home.started(command.spawn().unwrap());
    let mut peak = 0;
    while running.runs() {
        peak = high_water(&mut running).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    (running.end_within(PATIENCE), peak)
}

/// Ten files a directory, and a directory with a fifth of all.
fn grow(root: &Path, count: usize) {
    let wide = count / 5;
    fs::create_dir_all(root.join("wide")).unwrap();
    for n in 0..count {
        let folder = if n < wide { root.join("wide") } else { root.join(format!("{:x}", n / 10)) };
        if n >= wide && (n % 10 == 0 || n == wide) {
            fs::create_dir_all(&folder).unwrap();
        }
        let content = [b"content ", n.to_string().as_bytes()].concat();
        fs::write(folder.join(format!("a file of some kind {n}")), content).unwrap();
    }
}

/// Names below a directory that are no directories, and bytes of them, each looked at as `find -printf %s` does.
fn walked(root: &Path) -> (usize, u64) {
    let (mut count, mut bytes, mut folders) = (0, 0, vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let mut take = |entry: DirEntry| match entry.metadata().unwrap() {
            meta if meta.is_dir() => folders.push(entry.path()),
            meta => (count, bytes) = (count + 1, bytes + meta.len()),
        };
        fs::read_dir(folder).unwrap().for_each(|entry| take(entry.unwrap()));
    }
    (count, bytes)
}

/// What is mounted there goes with it.
struct Point(PathBuf);

impl Drop for Point {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

fn mounted(home: &Home, wanted: (usize, u64)) -> u64 {
    let point = Point(home.path("mnt"));
    fs::create_dir(&point.0).unwrap();
    let mut running = home.spawn(&["mount", "mnt", "--foreground", "--memory", "256M"]);
    let top = point.0.join("by-volume/t/latest/files");
    running.until("the mount shows the tree", || top.exists());
    assert_eq!(walked(&top), wanted);
    let peak = high_water(&mut running).unwrap();
    assert_eq!(fs::read(top.join("wide/a file of some kind 7")).unwrap(), b"content 7");
    assert!(Command::new("umount").arg(&point.0).status().unwrap().success());
    running.end().ok();
    peak
}

#[test]
fn many_small_files_stay_below_the_ceiling() {
    let given = std::env::var("WHERRY_TREES_FILES").ok();
    let count = given.map_or(FILES, |count| count.parse().expect("WHERRY_TREES_FILES is a number"));
    let home = Home::with_repository();
    grow(&home.path("tree"), count);
    let wanted = walked(&home.path("tree"));
    assert_eq!(wanted.0, count);
    let backup: &[&str] = &["backup", "tree", "--name", "t", "--json", "-q"];
    for (what, args) in [
        ("first", backup),
        ("unchanged", backup),
        ("check", &["check", "--json", "-q"]),
        ("find", &["find", "latest:t", "--json"]),
        ("dump", &["dump", "latest:t", "-q"]),
        ("restore", &["restore", "latest:t", "out", "--json", "-q"]),
        ("mount", &[]),
    ] {
        let start = Instant::now();
        let peak = if what == "mount" {
            mounted(&home, wanted)
        } else {
            let (ran, peak) = measured(&home, args, !["find", "dump"].contains(&what));
            let ran = ran.ok();
            if ["first", "unchanged", "restore"].contains(&what) {
                assert_eq!(ran.json()["files"], count, "{what}");
            }
            peak
        };
        println!("{what}: {count} files, {} MiB, {:.1} s", peak >> 20, start.elapsed().as_secs_f64());
        assert!(peak > 0 && peak <= CEILING, "{what}: {} MiB with {count} files", peak >> 20);
    }
    // Each is named by its number, so none stands for another.
    assert_eq!(fs::read(home.path("out/wide/a file of some kind 7")).unwrap(), b"content 7");
    assert_same(&list(&home.path("out")), &list(&home.path("tree")), "restored");
}

//! `wherry restore`, and backups of devices, with the real executable on real loop devices: what is refused and left
//! alone, what is written and no further, what goes on after an interruption. Needs root, loop devices and /dev/fuse.
#![forbid(unsafe_code)]

#[path = "restore/cancelled.rs"]
mod cancelled;
#[allow(dead_code, reason = "each suite uses its part")]
#[path = "cli/harness.rs"]
mod harness;
#[path = "restore/modes.rs"]
mod modes;
#[path = "restore/partitioned.rs"]
mod partitioned;
#[path = "restore/refusals.rs"]
mod refusals;
#[path = "restore/resume.rs"]
mod resume;
#[path = "restore/sources.rs"]
mod sources;

use harness::{Home, Ran};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use wherry_tests::small::{UNIT, noise};
use wherry_tests::volumes::Loop;

const MIB: usize = 1 << 20;
const ENGINES: [&str; 2] = ["ring", "threads"];

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository with chunks of 64 KiB.
fn home() -> Home {
    let home = Home::new();
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    home
}

/// A disk of so many bytes, of which every third chunk is zero, beginning with the second.
fn disk(seed: u64, size: usize) -> Vec<u8> {
    let mut disk = noise(seed, size);
    disk.chunks_mut(UNIT).skip(1).step_by(3).for_each(|chunk| chunk.fill(0));
    disk
}

/// A file of so many bytes, each of them this one, that is all on the disk.
fn file(home: &Home, name: &str, size: usize, byte: u8) -> PathBuf {
    home.write(name, vec![byte; size]);
    File::open(home.path(name)).unwrap().sync_all().unwrap();
    home.path(name)
}

/// A loop device of so many bytes, each of them this one.
fn device(home: &Home, name: &str, size: usize, byte: u8, args: &[&str]) -> Loop {
    Loop::new(&file(home, name, size, byte), args)
}

/// Writes to a device or file, and waits until it is there.
fn put(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// What must not differ, without printing megabytes when it does.
#[track_caller]
fn same(got: &[u8], want: &[u8], what: &str) {
    let first = got.iter().zip(want).position(|(a, b)| a != b);
    assert!(got == want, "{what}: {} and {} bytes, the first that differs is {first:?}", got.len(), want.len());
}

#[track_caller]
fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn wait<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &str, at: PathBuf) -> Self {
        Self::with("rw", device, at)
    }

    /// Then nothing writes to the device meanwhile but what is tested.
    fn read_only(device: &str, at: PathBuf) -> Self {
        Self::with("ro", device, at)
    }

    fn with(options: &str, device: &str, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        sh("mount", &["-o", options, device, at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Every name in the folder and in those below, but for what the cache holds besides notes.
fn names(home: &Home) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![home.path("")];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.retain(|path| !path.starts_with(home.path("cache")) || path.starts_with(home.path("cache/restores")));
    found.sort();
    found
}

/// Bytes written to a device so far, as the kernel counts them.
fn written_to(device: &Loop) -> u64 {
    let name = device.path().file_name().unwrap().to_str().unwrap();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    stat.split_ascii_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
}

/// Runs a restore that must be refused with this code; the target, and everything beside it, stays as it is. Gives the
/// line that says why.
#[track_caller]
fn refused(home: &Home, args: &[&str], code: i32, target: &Path) -> String {
    let (names_before, before) = (names(home), fs::read(target).ok());
    let line = home.run(&[&["restore"], args].concat()).fails(code);
    assert!(fs::read(target).ok() == before, "{target:?} was written to: {line}");
    assert_eq!(names(home), names_before, "something was left behind: {line}");
    line
}

/// A restore that works, as JSON.
#[track_caller]
fn restored(home: &Home, args: &[&str]) -> serde_json::Value {
    home.run(&[&["restore"], args, &["--json"]].concat()).ok().json()
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

/// Runs with standard input.
fn with_input(home: &Home, args: &[&str], input: &[u8]) -> Ran {
    use std::io::Write;
    let mut child = home.command().args(args).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap().into()
}

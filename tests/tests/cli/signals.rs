//! How SIGINT, SIGTERM and SIGHUP end a backup.

use super::harness::{Home, Ran};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use wherry_tests::binary::wherry_bin;
use wherry_tests::faulty_s3::{Fault, FaultyS3, Rule};
use wherry_tests::seaweed::Seaweed;
use wherry_tests::small::noise;

const MIB: usize = 1 << 20;

/// A command that does not end by itself.
pub struct Endless<'a> {
    home: &'a Home,
    /// Held open.
    _stdin: Option<ChildStdin>,
    child: Option<Child>,
}

impl<'a> Endless<'a> {
    /// A backup of a standard input that does not end.
    pub fn start(home: &'a Home) -> Self {
        Self::start_named(home, "endless")
    }

    /// Likewise, of this volume.
    pub fn start_named(home: &'a Home, volume: &str) -> Self {
        let endless = Self::start_with(home, home.command(), volume);
        endless.wait_for_session(0);
        endless
    }

    /// Likewise; the repository may be anywhere, and the session may not be open yet when this returns.
    pub fn start_with(home: &'a Home, mut command: Command, volume: &str) -> Self {
        let mut child = command.args(["backup", "-", "--name", volume]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Until the reader goes away. Zeros store nothing, however long it takes.
        std::thread::spawn(move || while stdin.write_all(&[0; 65536]).is_ok() {});
        Self { home, _stdin: None, child: Some(child) }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Until the backup has something to lose: more open sessions than before.
    fn wait_for_session(&self, before: usize) {
        let start = Instant::now();
        while open_sessions(self.home) <= before {
            assert!(start.elapsed() < Duration::from_secs(60), "no session was opened");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn send(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub fn code(mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// As [`Self::end`], but it must not take long.
    fn soon(mut self) -> Ran {
        let start = Instant::now();
        while self.child.as_mut().unwrap().try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end()
    }

    pub fn end(mut self) -> Ran {
        // The stdin stays open meanwhile.
        self.child.take().unwrap().wait_with_output().unwrap().into()
    }
}

impl Drop for Endless<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sessions that are neither committed nor fenced nor left.
fn open_sessions(home: &Home) -> usize {
    let ended = |id: &std::ffi::OsStr| {
        home.path("repo/sess").join(id).join("left").exists()
            || std::fs::read_dir(home.path("repo/snap"))
                .is_ok_and(|volumes| volumes.flatten().any(|volume| volume.path().join(id).exists()))
    };
    let sessions = std::fs::read_dir(home.path("repo/sess")).into_iter().flatten().flatten();
    sessions.filter(|session| session.path().join("open").exists() && !ended(&session.file_name())).count()
}

#[test]
fn the_first_signal_ends_cleanly_and_says_how_to_go_on() {
    let home = Home::with_repository();
    for (signal, code, name) in
        [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM"), (Signal::HUP, 129, "SIGHUP")]
    {
        // Whoever started the tests may ignore SIGHUP, and what they start would, too.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP").arg(wherry_bin());
        home.prepare(&mut command);
        home.point_to_repository(&mut command);
        let endless = Endless::start_with(&home, command, "endless");
        endless.wait_for_session(0);
        endless.send(signal);
        let ran = endless.soon();
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        assert!(last.starts_with("wherry: ") && last.contains(name) && last.contains("same command again"), "{last}");
    }
    assert_eq!(home.run(&["snapshots", "--json"]).ok().json().as_array().unwrap().len(), 0, "no snapshot is left");
}

#[test]
fn the_second_signal_ends_at_once() {
    let home = Home::new();
    let server = Seaweed::start();
    let proxy = FaultyS3::start(server.port());
    let s3 = |args: &[&str]| {
        let mut command = home.command();
        command.envs(server.variables()).env("WHERRY_REPOSITORY", "s3://second-signal/x").args(args);
        command.args(["--s3-endpoint", &format!("http://127.0.0.1:{}", proxy.port())]);
        command
    };
    Ran::from(s3(&["init"]).output().unwrap()).ok();
    // No pack is ever acknowledged: a clean end takes a quarter of an hour of trying again.
    proxy.inject(Rule { method: "PUT", path: "packs/", skip: 0, times: u32::MAX, fault: Fault::Stall });
    home.write("noise", noise(1, 4 * MIB));
    let child = s3(&["backup", "noise", "--name", "slow"]).spawn().unwrap();
    let mut slow = Endless { home: &home, _stdin: None, child: Some(child) };
    let start = Instant::now();
    while proxy.hits().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "no pack was sent");
        std::thread::sleep(Duration::from_millis(10));
    }
    slow.send(Signal::INT);
    // It says that it has seen the first.
    let child = slow.child.as_mut().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("another one ends at once") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the first signal ended it");
    }
    assert!(child.try_wait().unwrap().is_none(), "what it has stored is not acknowledged yet");
    slow.send(Signal::INT);
    assert_eq!(slow.soon().code, 130);
}

/// A backup of `disk` by standard input, in so little memory that its buffers are known: 8 MiB to read into. It is held by
/// `limit`; this returns when so many bytes have been taken from the pipe. The end of the disk never comes.
fn held<'a>(home: &'a Home, limit: &str, disk: &[u8], bytes: usize) -> Endless<'a> {
    let mut command = home.command();
    let mut child = command.args(SLOW).args([limit, "1K"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let held = Endless { home, _stdin: None, child: Some(child) };
    let (tell, pumped) = std::sync::mpsc::channel();
    let disk = disk.to_vec();
    std::thread::spawn(move || {
        disk.chunks(1 << 16).all(|part| stdin.write_all(part).is_ok() && tell.send(part.len()).is_ok());
        while stdin.write_all(&[0]).is_ok() {}
    });
    let mut sum = 0;
    while sum < bytes {
        sum += pumped.recv_timeout(Duration::from_secs(60)).unwrap();
    }
    held
}

const SLOW: [&str; 6] = ["backup", "-", "--name", "slow", "--memory", "64M"];

#[test]
fn a_signal_ends_a_backup_that_waits_for_its_limit_of_reading() {
    let home = Home::with_repository();
    // Six buffers of a MiB are full: at this rate the first one takes a quarter of an hour.
    let limited = held(&home, "--limit-read", &noise(1, 16 * MIB), 7 * MIB);
    limited.send(Signal::INT);
    let ran = limited.soon();
    assert_eq!((ran.code, ran.stdout.as_str()), (130, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("same command again"), "{}", ran.stderr);
    assert_eq!(home.tree("repo/snap").len(), 1, "it did not fence itself");
    home.write("noise", noise(1, 4 * MIB));
    let json = home.run(&["backup", "noise", "--name", "slow", "--json"]).ok().json();
    assert_eq!(json["read"], 4 * MIB);
    home.run(&["check", "--read-data"]).ok();
}

#[test]
fn what_waits_for_the_limit_of_sending_when_a_signal_comes_is_stored_and_found_again() {
    let home = Home::with_repository();
    let disk = noise(3, 24 * MIB);
    // Of these at most 8 MiB are in buffers, and some in the pipe: the rest is in two packs of 8 MiB. One is full and has
    // not gone out.
    let limited = held(&home, "--limit-upload", &disk, 20 * MIB);
    assert_eq!(home.sizes().1, 0, "the limit does not hold");
    limited.send(Signal::INT);
    let ran = limited.soon();
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    let stored = home.sizes().1;
    assert!(stored >= 11 * MIB as u64, "{stored} bytes are left");

    home.write("disk", &disk);
    let again = std::fs::File::open(home.path("disk")).unwrap();
    let ran: Ran = home.command().args(SLOW).arg("--json").stdin(again).output().unwrap().into();
    let json = ran.ok().json();
    assert_eq!(json["resumed"], true);
    assert!(json["known"].as_u64().unwrap() >= 11 * MIB as u64, "{json}");
    let both = home.sizes().1;
    assert!(both <= disk.len() as u64 * 101 / 100 + (64 << 10), "{both} bytes for {}", disk.len());
}

#[test]
fn a_signal_ends_a_backup_that_waits_for_its_source() {
    let home = Home::with_repository();
    // Nothing comes from standard input, and nothing ends it.
    let mut child = home.command().args(["backup", "-", "--name", "stalled"]).stdin(Stdio::piped()).spawn().unwrap();
    let stalled = Endless { home: &home, _stdin: child.stdin.take(), child: Some(child) };
    stalled.wait_for_session(0);
    stalled.send(Signal::INT);
    assert_eq!(stalled.end().code, 130);
}

#[test]
fn a_signal_ends_a_cat_whose_reader_has_stopped() {
    let home = Home::with_repository();
    let id = home.backup("vm", &noise(5, 4 * MIB));
    let before = open_sessions(&home);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // Nobody reads on after the first byte, and the pipe is soon full.
        let mut child = home.command().args(["cat", &id]).stdin(Stdio::null()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let stalled = Endless { home: &home, _stdin: None, child: Some(child) };
        stalled.send(signal);
        assert_eq!(stalled.soon().code, code);
        assert_eq!(open_sessions(&home), before, "its session is gone");
    }
}

#[test]
fn a_command_that_has_nothing_to_lose_ends_at_once() {
    let home = Home::with_repository();
    // It waits for its password until somebody writes to the pipe.
    assert!(Command::new("mkfifo").arg(home.path("pipe")).status().unwrap().success());
    let pipe = OpenOptions::new().read(true).write(true).open(home.path("pipe")).unwrap();
    let mut command = home.bare();
    command.args(["stats", "--repo", "repo", "--password-command", "echo started >&2; cat pipe"]);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    let waiting = Endless { home: &home, _stdin: None, child: Some(child) };
    waiting.send(Signal::INT);
    // Not its output: the password command still holds that open.
    assert_eq!(waiting.code(), Some(130));
    drop(pipe);
}

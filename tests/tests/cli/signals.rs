//! How SIGINT and SIGTERM end a backup.

use super::harness::{Home, Ran};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// A command that does not end by itself.
struct Endless<'a> {
    home: &'a Home,
    /// Held open.
    _stdin: Option<ChildStdin>,
    child: Option<Child>,
}

impl<'a> Endless<'a> {
    /// A backup of a standard input that does not end.
    fn start(home: &'a Home) -> Self {
        let before = home.tree("repo/sess").len();
        let mut command = home.command();
        let mut child = command.args(["backup", "-", "--name", "endless"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Until the reader goes away. Zeros store nothing, however long it takes.
        std::thread::spawn(move || while stdin.write_all(&[0; 65536]).is_ok() {});
        let endless = Self { home, _stdin: None, child: Some(child) };
        endless.wait_for_session(before);
        endless
    }

    /// Until the backup has something to lose: more records of sessions than before.
    fn wait_for_session(&self, before: usize) {
        let start = Instant::now();
        while self.home.tree("repo/sess").len() <= before {
            assert!(start.elapsed() < Duration::from_secs(60), "no session was opened");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    fn code(mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    fn end(mut self) -> Ran {
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

#[test]
fn the_first_signal_ends_cleanly_and_says_how_to_go_on() {
    let home = Home::with_repository();
    for (signal, code, name) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM")] {
        let endless = Endless::start(&home);
        endless.send(signal);
        let ran = endless.end();
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
        let last = ran.stderr.lines().last().unwrap();
        assert!(last.starts_with("wherry: ") && last.contains(name) && last.contains("same command again"), "{last}");
    }
    assert_eq!(home.run(&["snapshots", "--json"]).ok().json().as_array().unwrap().len(), 0, "no snapshot is left");
}

#[test]
fn the_second_signal_ends_at_once() {
    let home = Home::with_repository();
    // What it has stored goes out at a byte a second: the clean end takes for ever.
    std::fs::write(home.path("noise"), wherry_tests::small::noise(1, 4 << 20)).unwrap();
    let mut command = home.command();
    let mut child = command.args(["backup", "noise", "--name", "slow", "--limit-upload", "1"]).spawn().unwrap();
    // Its first log line comes when it has long been listening to signals.
    let mut first = [0];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    let start = Instant::now();
    // Signals that come at once are one; so they are sent until there is nobody to take one.
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the second signal did not end it");
        let _ = kill_process(Pid::from_child(&child), Signal::INT);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(code, Some(130));
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
fn a_command_that_has_nothing_to_lose_ends_at_once() {
    let home = Home::with_repository();
    // It waits for its password until standard input ends.
    let mut command = home.bare();
    command.args(["stats", "--repo", "repo", "--password-command", "echo started >&2; cat"]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take();
    let mut first = [0];
    child.stderr.as_mut().unwrap().read_exact(&mut first).unwrap();
    let waiting = Endless { home: &home, _stdin: stdin, child: Some(child) };
    waiting.send(Signal::INT);
    // Not its output: the password command still holds that open.
    assert_eq!(waiting.code(), Some(130));
}

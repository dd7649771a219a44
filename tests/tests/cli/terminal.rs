//! What happens on a terminal: passwords are asked for and not shown, and a bar tells how far a backup is. The terminal
//! is one of `script` (util-linux).

use super::harness::{Home, Ran};
use parking_lot::Mutex;
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::noise;

const SECRET: &str = "correct horse battery staple";

/// The executable on a terminal of 80 columns.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<Vec<u8>>>,
    /// Seen before the last answer.
    read: usize,
}

impl Terminal {
    /// `args` have no characters that mean something to the shell.
    fn run(home: &Home, args: &str) -> Self {
        Self::of(home, &format!("exec '{}' {args}", wherry_bin().display()))
    }

    /// A line of the shell.
    fn of(home: &Home, line: &str) -> Self {
        let mut script = Command::new("/usr/bin/script");
        home.prepare(&mut script);
        let line = format!("tty; stty cols 80 rows 24; {line}");
        script.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        let variables =
            [("SHELL", "/bin/sh"), ("TERM", "xterm"), ("PATH", "/usr/bin:/bin"), ("WHERRY_REPOSITORY", "repo")];
        let mut script = script.envs(variables).stdin(Stdio::piped()).spawn().unwrap();
        let (keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                into.lock().extend_from_slice(&bytes[..len]);
            }
        });
        Self { script, keys, seen, read: 0 }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock()).into_owned()
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}: {}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types an answer when this question has come and what is typed is not shown.
    fn answer(&mut self, question: &str, answer: &str) {
        self.type_at(question, format!("{answer}\n").as_bytes());
    }

    /// Likewise, with these keys.
    fn type_at(&mut self, question: &str, keys: &[u8]) {
        let read = self.read;
        self.wait(question, || self.screen()[read..].contains(question));
        let terminal = self.screen().lines().next().unwrap().trim().to_owned();
        let noctty = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
        let terminal = OpenOptions::new().read(true).custom_flags(noctty).open(terminal).unwrap();
        self.wait("the echo to be off", || !tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO));
        self.read = self.screen().len();
        self.keys.write_all(keys).unwrap();
    }

    /// Its exit code and all that was seen.
    fn end(mut self) -> (i32, String) {
        let code = self.script.wait().unwrap().code().unwrap();
        drop(self.keys);
        let seen = self.seen.clone();
        // The thread ends with the pipe.
        let start = Instant::now();
        while Arc::strong_count(&self.seen) > 2 {
            assert!(start.elapsed() < Duration::from_secs(60), "the screen does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let screen = String::from_utf8_lossy(&seen.lock()).into_owned();
        assert!(!screen.contains("horse"), "a password is on the screen: {screen}");
        (code, screen)
    }
}

#[test]
fn a_password_is_asked_for_twice_to_set_it_and_once_to_use_it() {
    let home = Home::new();
    let mut terminal = Terminal::run(&home, "init");
    terminal.answer("New password of repo: ", SECRET);
    terminal.answer("The same again: ", SECRET);
    let (code, screen) = terminal.end();
    assert!(code == 0 && screen.contains("made repository"), "{code} {screen}");

    let mut terminal = Terminal::run(&home, "stats");
    terminal.answer("Password of repo: ", SECRET);
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert_eq!(screen.matches("assword").count(), 1, "{screen}");

    let mut terminal = Terminal::run(&home, "stats");
    terminal.answer("Password of repo: ", "wrong horse");
    let (code, screen) = terminal.end();
    assert!(code == 12 && screen.contains("wherry: "), "{code} {screen}");

    // The password is the one that was typed.
    let typed = home.bare().args(["stats", "--repo", "repo"]).env("WHERRY_PASSWORD", SECRET).output().unwrap();
    Ran::from(typed).ok();
}

#[test]
fn a_signal_at_a_prompt_leaves_the_terminal_as_it_was() {
    let home = Home::with_repository();
    for (keys, code) in [(&b"\x03"[..], 130), (b"", 143)] {
        let shows = "stty -a | tr ' ;' '\\n\\n' | grep -x -e echo -e -echo";
        let exe = wherry_bin();
        let exe = exe.display();
        let line = format!("trap : INT; echo \"pid $$\"; '{exe}' snapshots; echo \"ended with $?\"; {shows}");
        let mut terminal = Terminal::of(&home, &line);
        terminal.type_at("Password of repo: ", keys);
        if keys.is_empty() {
            let shell = terminal.screen().lines().find_map(|line| line.trim().strip_prefix("pid ").map(str::to_owned));
            let killed = Command::new("pkill").args(["-TERM", "-P", &shell.unwrap()]).status().unwrap();
            assert!(killed.success());
        }
        let (_, screen) = terminal.end();
        let lines: Vec<&str> = screen.lines().map(str::trim).collect();
        assert!(lines.contains(&&*format!("ended with {code}")), "{screen}");
        assert_eq!(lines.last(), Some(&"echo"), "{screen}");
        assert!(!screen.contains("ends cleanly"), "{screen}");
    }
}

#[test]
fn two_passwords_that_differ_set_none() {
    let home = Home::new();
    let mut terminal = Terminal::run(&home, "init");
    terminal.answer("New password of repo: ", SECRET);
    terminal.answer("The same again: ", "correct horse battery stable");
    let (code, screen) = terminal.end();
    assert!(code == 12 && screen.contains("differ"), "{code} {screen}");
    assert!(!home.path("repo").exists(), "a repository was made");

    let home = Home::with_repository();
    let slots = || home.run(&["key", "list"]).ok().stdout;
    let before = slots();
    let mut terminal = Terminal::run(&home, "key add --key-file key");
    terminal.answer("New password: ", SECRET);
    terminal.answer("The same again: ", "another horse");
    let (code, screen) = terminal.end();
    assert!(code == 12 && screen.contains("differ"), "{code} {screen}");
    assert_eq!(slots(), before);
    let mut terminal = Terminal::run(&home, "key add --key-file key");
    terminal.answer("New password: ", SECRET);
    terminal.answer("The same again: ", SECRET);
    assert_eq!(terminal.end().0, 0);
    assert_ne!(slots(), before);
}

#[test]
fn a_bar_shows_the_rate_and_the_time_that_is_left() {
    let home = Home::with_repository();
    home.write("disk", noise(1, 8 << 20));
    let terminal = Terminal::run(&home, "backup disk --name vm --key-file key --limit-read 4M");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    let bars: Vec<_> = screen.split(['\r', '\n']).filter(|line| line.contains("backup [")).collect();
    assert!(
        bars.iter().any(|bar| bar.contains("% of 8.0 MiB, ") && bar.contains("MiB/s, 00:0") && bar.contains(" left")),
        "{bars:?}"
    );
    // The bar goes away, the result stays.
    assert!(screen.trim_end().lines().last().unwrap().contains("snapshot "), "{screen}");

    let quiet = Terminal::run(&home, "backup disk --name vm --key-file key --limit-read 4M -q");
    let (code, screen) = quiet.end();
    assert!(code == 0 && !screen.contains("backup ["), "{screen}");
}

#[test]
fn without_a_terminal_there_are_plain_lines() {
    let home = Home::with_repository();
    home.write("disk", noise(1, 2 << 20));
    // Twelve seconds: a line comes every ten.
    let ran = home.run(&["backup", "disk", "--name", "vm", "--limit-read", "170K"]).ok();
    let line = ran.stderr.lines().find(|l| l.contains("backup: ")).unwrap_or_else(|| panic!("no line: {}", ran.stderr));
    assert!(line.contains("% of 2.0 MiB, ") && line.contains("/s, "), "{line}");
    assert!(!ran.stderr.contains(['\r', '\u{1b}']), "{:?}", ran.stderr);
}

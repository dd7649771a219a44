//! Runs the real executable in a home of its own: nothing of the caller's environment reaches it, and whatever it is
//! given, it neither panics nor shows a secret.

use crate::binary::wherry_bin;
use crate::seaweed;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A home, a place for a repository, a key file that `init` makes.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    /// Where the repository is: a path or a URL.
    repository: String,
    /// Besides those that every command gets.
    variables: Vec<(&'static str, String)>,
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl From<Output> for Ran {
    #[track_caller]
    fn from(output: Output) -> Self {
        let ran = Self {
            code: output.status.code().unwrap_or(-1),
            // A disk goes there, too.
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        for bad in ["panicked", "RUST_BACKTRACE", "wherry: bug", seaweed::SECRET_KEY] {
            assert!(!ran.stderr.contains(bad) && !ran.stdout.contains(bad), "{bad:?} is in {ran:?}");
        }
        ran
    }
}

impl Ran {
    /// It ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// It ended with this code, nothing on standard output and one line on standard error; gives the line.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {}", self.stderr);
        self.ends(code)
    }

    /// Likewise, after any number of log lines.
    #[track_caller]
    pub fn ends(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "a failed command prints no result");
        let line = self.stderr.lines().last().unwrap_or_default();
        line.strip_prefix("wherry: ").unwrap_or_else(|| panic!("the line does not name wherry: {line}")).to_owned()
    }

    /// The one value on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "not one value on one line: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// With nothing in it; the repository is to be in the folder `repo`.
    pub fn new() -> Self {
        // Other users may pass through it: what keeps them out is what the tests look at.
        let others = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        let dir = tempfile::Builder::new().permissions(others).tempdir().unwrap();
        let repository = dir.path().join("repo").to_str().unwrap().to_owned();
        Self { dir, repository, variables: Vec::new() }
    }

    /// With a repository that the key file opens.
    pub fn with_repository() -> Self {
        let home = Self::new();
        home.run(&["init", "-q"]).ok();
        home
    }

    /// With one of chunks of 64 KiB: a leaf of a map is soon full.
    pub fn with_small_chunks() -> Self {
        let home = Self::new();
        home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
        home
    }

    /// The same with another place for the repository, and further variables.
    #[must_use]
    pub fn at(mut self, repository: impl Into<String>, variables: &[(&'static str, String)]) -> Self {
        self.repository = repository.into();
        self.variables.extend_from_slice(variables);
        self
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// The executable, with no arguments yet: no repository, no credentials, nothing to read, no terminal.
    pub fn bare(&self) -> Command {
        let mut command = Command::new(wherry_bin());
        self.prepare(&mut command);
        command
    }

    /// Gives a command the surroundings of [`Self::bare`].
    pub fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("TZ", "UTC")
            // For fusermount3, umount and what a test starts in place of wherry.
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Two threads of a test must not wait for each other's cache folder, which is /var/cache for root.
            .env("WHERRY_CACHE_DIR", self.path("cache"))
            .envs(self.variables.iter().map(|(name, value)| (*name, value)));
    }

    /// The executable, with repository and key.
    pub fn command(&self) -> Command {
        let mut command = self.bare();
        self.point_to_repository(&mut command);
        command
    }

    /// Gives a command the repository and its key.
    pub fn point_to_repository(&self, command: &mut Command) {
        command.env("WHERRY_REPOSITORY", &self.repository).env("WHERRY_KEY_FILE", self.path("key"));
    }

    /// As [`Self::command`], for a process that sees other things at some paths: each second one is, for it alone, what
    /// is at the first. Needs root.
    pub fn command_with_bound(&self, bound: &[(&Path, &Path)]) -> Command {
        const BIND: &str =
            r#"set -e; while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done; shift; exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BIND, "sh"]);
        command.args(bound.iter().flat_map(|(from, at)| [from, at])).arg("--").arg(wherry_bin());
        self.prepare(&mut command);
        self.point_to_repository(&mut command);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.ran(self.command().args(args).output().unwrap())
    }

    /// Likewise, without repository and key.
    #[track_caller]
    pub fn run_bare<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.ran(self.bare().args(args).output().unwrap())
    }

    /// What a run of [`Self::command`] left. It does not show the key.
    #[track_caller]
    pub fn ran(&self, output: Output) -> Ran {
        let ran = Ran::from(output);
        if let Ok(key) = fs::read_to_string(self.path("key"))
            && key.trim().len() >= 32
        {
            assert!(!ran.stderr.contains(key.trim()) && !ran.stdout.contains(key.trim()), "the key is in {ran:?}");
        }
        ran
    }

    /// Starts a command in the background.
    pub fn spawn<S: AsRef<OsStr>>(&self, args: &[S]) -> Running<'_> {
        self.started(self.command().args(args).spawn().unwrap())
    }

    /// A command that has been started.
    pub fn started(&self, child: Child) -> Running<'_> {
        Running { home: self, child: Some(child), said: String::new() }
    }

    /// A snapshot of a small image; gives its id.
    #[track_caller]
    pub fn backup(&self, volume: &str, content: &[u8]) -> String {
        let image = self.write(&format!("{volume}.raw"), content);
        let ran = self.run(&["backup", &image, "--name", volume, "--json"]).ok();
        ran.json()["snapshot"].as_str().unwrap().to_owned()
    }

    /// How many snapshots there are that nobody asked to forget.
    #[track_caller]
    pub fn snapshots(&self) -> usize {
        self.run(&["snapshots", "--json"]).ok().json().as_array().unwrap().len()
    }

    /// Bytes of all files of the repository, and of its data packs.
    pub fn sizes(&self) -> (u64, u64) {
        let tree = self.tree("repo");
        let sum = |below: &Path| tree.iter().filter(|(p, _)| p.starts_with(below)).map(|(_, b)| b.len() as u64).sum();
        (sum(&self.path("repo")), sum(&self.path("repo/packs")))
    }

    /// Every file below a folder of it, and what is in it.
    pub fn tree(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                // What a process removes meanwhile is not there.
                if path.is_dir() {
                    walk(&path, into)
                } else if let Ok(bytes) = fs::read(&path) {
                    into.insert(path, bytes);
                }
            }
        }
        let mut tree = BTreeMap::new();
        walk(&self.path(name), &mut tree);
        tree
    }
}

/// A command in the background; killed when this is dropped.
#[derive(Debug)]
pub struct Running<'a> {
    home: &'a Home,
    child: Option<Child>,
    /// Standard error so far, as far as it was waited for.
    said: String,
}

impl Running<'_> {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    /// Sends a signal.
    pub fn send(&mut self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(self.child()), signal).unwrap();
    }

    /// Kills it, and tells whether it had ended well before.
    pub fn kill(mut self) -> bool {
        self.child().kill().unwrap();
        self.child.take().unwrap().wait().unwrap().success()
    }

    /// Whether it is running still.
    pub fn runs(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Waits until this holds; it must not end before.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            if !self.runs() {
                let output = self.child.take().unwrap().wait_with_output().unwrap();
                panic!("it ended before {what}: {}{:?}", self.said, self.home.ran(output));
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until this is on standard error.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        let stderr = self.child.as_mut().unwrap().stderr.as_mut().unwrap();
        let mut byte = [0];
        let mut raw = std::mem::take(&mut self.said).into_bytes();
        while !String::from_utf8_lossy(&raw).contains(text) {
            let n = stderr.read(&mut byte).unwrap();
            assert_eq!(n, 1, "it ended without saying {text:?}: {}", String::from_utf8_lossy(&raw));
            raw.push(byte[0]);
        }
        self.said = String::from_utf8(raw).unwrap();
    }

    /// Waits for its end, which must come within this time.
    #[track_caller]
    pub fn end_within(mut self, time: Duration) -> Ran {
        let start = Instant::now();
        let mut child = self.child.take().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        fn read(from: &mut Option<impl Read>) -> Vec<u8> {
            let mut all = Vec::new();
            from.as_mut().map(|from| from.read_to_end(&mut all));
            all
        }
        let (status, stdout, stderr) = std::thread::scope(|scope| {
            let stdout = scope.spawn(|| read(&mut stdout));
            let stderr = scope.spawn(|| read(&mut stderr));
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status);
                }
                if start.elapsed() > time {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            (status, stdout.join().unwrap(), stderr.join().unwrap())
        });
        let stderr = [self.said.as_bytes(), &stderr].concat();
        let text = String::from_utf8_lossy(&stderr);
        let status = status.unwrap_or_else(|| panic!("it did not end within {time:?}: {text}"));
        self.home.ran(Output { status, stdout, stderr })
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(self) -> Ran {
        self.end_within(PATIENCE)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A JSON value with every leaf replaced by the name of its type: what a program may rely on.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) => if number.is_f64() { "float" } else { "int" }.into(),
        Value::String(_) => "string".into(),
        Value::Array(all) => all.iter().map(shape).collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
    }
}

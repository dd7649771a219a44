//! Runs the real executable in a home of its own: nothing of the caller's environment reaches it.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use wherry_tests::binary::wherry_bin;

/// A home, a place for a repository, a key file that `init` makes.
pub struct Home {
    dir: TempDir,
}

/// What a run left.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
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
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "a failed command prints no result");
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {}", self.stderr);
        let line = self.stderr.trim_end();
        line.strip_prefix("wherry: ").unwrap_or_else(|| panic!("the line does not name wherry: {line}")).to_owned()
    }

    /// As [`Self::fails`], for a command that may have logged what it did before.
    #[track_caller]
    pub fn fails_after_work(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "a failed command prints no result");
        let line = self.stderr.lines().last().unwrap_or_default();
        line.strip_prefix("wherry: ").unwrap_or_else(|| panic!("the line does not name wherry: {line}")).to_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "not one value on one line: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With a repository that the key file opens.
    pub fn with_repository() -> Self {
        let home = Self::new();
        home.run(&["init", "-q"]).ok();
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

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
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Two threads of a test must not wait for each other's cache folder, which is /var/cache for root.
            .env("WHERRY_CACHE_DIR", self.path("cache"));
    }

    /// The executable, with repository and key.
    pub fn command(&self) -> Command {
        let mut command = self.bare();
        command.env("WHERRY_REPOSITORY", self.path("repo")).env("WHERRY_KEY_FILE", self.path("key"));
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.command().args(args).output().unwrap().into()
    }

    pub fn run_bare<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.bare().args(args).output().unwrap().into()
    }

    /// A snapshot of a small image; gives its id.
    pub fn backup(&self, volume: &str, content: &[u8]) -> String {
        let image = self.write(&format!("{volume}.raw"), content);
        let ran = self.run(&["backup", &image, "--name", volume, "--json"]).ok();
        ran.json()["snapshot"].as_str().unwrap().to_owned()
    }

    /// Bytes of all files of the repository, and of its data packs.
    pub fn sizes(&self) -> (u64, u64) {
        let tree = self.tree("repo");
        let sum = |below: &Path| tree.iter().filter(|(p, _)| p.starts_with(below)).map(|(_, b)| b.len() as u64).sum();
        (sum(&self.path("repo")), sum(&self.path("repo/packs")))
    }

    /// Every file below the repository, and what is in it.
    pub fn tree(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, into) } else { drop(into.insert(path.clone(), fs::read(path).unwrap())) }
            }
        }
        let mut tree = BTreeMap::new();
        walk(&self.path(name), &mut tree);
        tree
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

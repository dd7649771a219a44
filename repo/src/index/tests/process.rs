//! Two processes on one cache directory. A second process is this test binary, started again with `child` as its only
//! test; it is told what to do by the environment and goes on when its standard input ends.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

const ROLE: &str = "WHERRY_TEST_INDEX_ROLE";
const DIR: &str = "WHERRY_TEST_INDEX_DIR";

/// A second process; killed when the test ends, however it does.
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    pub(super) fn start(role: &str, dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "index::tests::process::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// The next line it says.
    pub(super) fn says(&mut self) -> String {
        for line in self.lines.by_ref() {
            let line = line.expect("line");
            if let Some((_, said)) = line.split_once("child says: ") {
                return said.to_owned();
            }
        }
        panic!("the second process ended without a word")
    }

    pub(super) fn tell(&mut self) {
        self.stdin.as_mut().expect("stdin").write_all(b"\n").expect("tell");
    }

    /// Lets it go on to its end.
    pub(super) fn end(mut self) {
        drop(self.stdin.take());
        assert!(self.child.wait().expect("wait").success());
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child says: {line}").expect("say");
    out.flush().expect("say");
}

#[test]
#[ignore = "a part of other tests: run by them in a second process"]
fn child() {
    let (Ok(role), Some(dir)) = (std::env::var(ROLE), std::env::var_os(DIR)) else { return };
    let dir = PathBuf::from(dir);
    match role.as_str() {
        "hold" => hold(&dir),
        "fill" => super::crash::fill(&dir),
        other => panic!("no role {other}"),
    }
}

/// Says `ready`, waits to be told, opens, says how that went, holds the index until standard input ends.
fn hold(dir: &Path) {
    say("ready");
    let mut stdin = std::io::stdin().lock();
    stdin.read_line(&mut String::new()).expect("wait");
    let index = match ChunkIndex::open(&options(dir)) {
        Ok((index, opened)) => {
            say(&format!("{opened:?}"));
            Some(index)
        }
        Err(error) => {
            say(&format!("{:?} {error}", error.kind()));
            None
        }
    };
    stdin.read_to_end(&mut Vec::new()).expect("wait");
    if let Some(index) = index {
        insert(&index, 1).expect("insert");
    }
}

#[test]
fn a_second_holder_is_told_so() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (index, _) = open(dir.path());
    insert(&index, 0).expect("insert");
    // In the same process, and in another.
    let error = ChunkIndex::open(&options(dir.path())).expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(ChunkIndex::destroy(dir.path(), &REPOSITORY).expect_err("held").kind(), ErrorKind::Busy);
    let mut second = Process::start("hold", dir.path());
    assert_eq!(second.says(), "ready");
    second.tell();
    assert!(second.says().starts_with("Busy "));
    second.end();
    assert_eq!(found(&index, 0), 100);
    drop(index);

    let mut second = Process::start("hold", dir.path());
    second.says();
    second.tell();
    assert_eq!(second.says(), "Reused");
    assert_eq!(ChunkIndex::open(&options(dir.path())).expect_err("held").kind(), ErrorKind::Busy);
    second.end();
    let (index, opened) = open(dir.path());
    assert_eq!((opened, found(&index, 0), found(&index, 1)), (Opened::Reused, 100, 100));
}

#[test]
fn of_racing_processes_one_gets_it() {
    let root = tempfile::tempdir().expect("tempdir");
    // Nothing there; an index; one that must be dropped first.
    for (round, before) in ["nothing", "index", "junk", "nothing", "index", "junk"].into_iter().enumerate() {
        let dir = root.path().join(round.to_string());
        match before {
            "index" => insert(&open(&dir).0, 0).expect("insert"),
            "junk" => {
                std::fs::create_dir_all(database(&dir)).expect("mkdir");
                std::fs::write(database(&dir).join("CURRENT"), b"junk").expect("write");
            }
            _ => {}
        }
        let mut processes: Vec<_> = (0..4).map(|_| Process::start("hold", &dir)).collect();
        processes.iter_mut().for_each(|p| assert_eq!(p.says(), "ready"));
        processes.iter_mut().for_each(Process::tell);
        let said: Vec<_> = processes.iter_mut().map(Process::says).collect();
        let busy = said.iter().filter(|s| s.starts_with("Busy ")).count();
        assert_eq!(busy, 3, "{before}: {said:?}");
        processes.into_iter().for_each(Process::end);
        let (index, opened) = open(&dir);
        assert_eq!((opened, found(&index, 1)), (Opened::Reused, 100), "{before}: {said:?}");
        assert_eq!(found(&index, 0), if before == "index" { 100 } else { 0 });
    }
}

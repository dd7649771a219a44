//! Processes that are run to their end, and what kills and stops them.

use super::Soak;
use crate::faulty_s3::{Fault, Rule};
use crate::small::splitmix;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process that may be killed.
#[derive(Debug)]
pub(super) struct Running {
    pid: Pid,
    what: &'static str,
    /// Until when it is stopped.
    stopped: Option<Instant>,
    killed: bool,
    /// Whoever still runs then hangs.
    until: Instant,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None`: by a signal.
    pub(super) code: Option<i32>,
    /// The killer did it.
    pub(super) killed: bool,
    /// What it printed, where that is one value.
    pub(super) json: Value,
    /// The last line of its standard error.
    pub(super) line: String,
}

/// Codes that nothing here explains: no repository, no access, damage, a version that is too new; a panic has 101.
const NEVER: [i32; 5] = [10, 12, 13, 15, 101];

/// So long no command takes, however often it is hit and whatever else the machine does; the time in which it was stopped does not count.
const HANGS: Duration = Duration::from_secs(600);

/// What a server that answers nothing costs is a sixth of this.
const RETRY: [&str; 2] = ["--retry-for", "60s"];

impl Soak {
    /// Runs a command; `what` is its name for the killer, `cache` its folder for the index.
    pub(super) fn run(&self, what: &'static str, cache: &str, args: &[&str]) -> Ended {
        let out = self.home.path(&format!("out-{:?}", std::thread::current().id()));
        let (stdout, stderr) = (out.with_extension("stdout"), out.with_extension("stderr"));
        let mut command = self.home.command();
        command.args(args).args(RETRY).env("WHERRY_CACHE_DIR", self.home.path(cache));
        command.stdout(File::create(&stdout).expect("a file")).stderr(File::create(&stderr).expect("a file"));
        let mut child = {
            // With the lock, so that nobody misses it.
            let mut running = self.running.lock();
            let child = command.spawn().expect("wherry starts");
            let until = Instant::now() + HANGS;
            running.push(Running { pid: Pid::from_child(&child), what, stopped: None, killed: false, until });
            child
        };
        let pid = Pid::from_child(&child);
        // It is not reaped before it is off the list: no other process has its number then.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(pid), options).expect("a child of this process").is_none() {
            self.end_what_hangs(pid, args);
            std::thread::sleep(Duration::from_millis(10));
        }
        let Running { killed, until, .. } = {
            let mut running = self.running.lock();
            let at = running.iter().position(|running| running.pid == pid).expect("it was put there");
            running.swap_remove(at)
        };
        let ran = (Instant::now() + HANGS).saturating_duration_since(until);
        self.at_most(format!("s at most of {what}"), ran.as_secs());
        let code = child.wait().expect("it has ended").code();
        let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        let ended = Ended {
            code,
            killed: killed && code.is_none(),
            json: serde_json::from_str(&text(&stdout)).unwrap_or_default(),
            line: text(&stderr).lines().last().unwrap_or_default().to_owned(),
        };
        self.note(what, args, &ended);
        ended
    }

    /// A mount is to end when the soak does, everything else by itself.
    fn end_what_hangs(&self, pid: Pid, args: &[&str]) {
        let mut running = self.running.lock();
        let Some(it) = running.iter_mut().find(|running| running.pid == pid) else { return };
        if it.what == "mount" && !self.is_over() {
            it.until = Instant::now() + HANGS;
        }
        if it.until <= Instant::now() && !it.killed {
            it.killed = kill_process(pid, Signal::KILL).is_ok();
            self.wrong(format!("{args:?} hangs: it ran for more than {} s", HANGS.as_secs()));
        }
    }

    fn note(&self, what: &str, args: &[&str], ended: &Ended) {
        match ended.code {
            Some(0) => {}
            None if ended.killed => self.count(format!("kills of {what}"), 1),
            None => self.wrong(format!("{args:?} was ended by a signal that is not ours: {}", ended.line)),
            Some(code) => {
                *self.ends.lock().entry(format!("{what} ended with {code}: {}", alike(&ended.line))).or_default() += 1;
                if NEVER.contains(&code) && what != "restore" {
                    self.wrong(format!("{args:?} ended with {code}: {}", ended.line));
                }
            }
        }
    }
}

/// A line without what differs from run to run, and not too long.
fn alike(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let long = word.chars().filter(|c| c.is_ascii_digit()).count() > 3 || word.len() > 30;
        if long { "_" } else { word }
    });
    words.collect::<Vec<_>>().join(" ").chars().take(160).collect()
}

/// A commit that is done, and whose answer does not come: long enough to end its process before it can say a word of it.
const COMMITTED: Rule = Rule { method: "PUT", path: "/snap/", skip: 0, times: 1, fault: Fault::StallReply };

/// How far such a commit has come.
enum Trap {
    None,
    Set,
    /// Its request came then.
    Sprung(Instant),
}

/// Kills a random process every now and then, or stops one for longer than any grace, or all backups when one of them has just committed.
pub(super) fn kill(soak: &Soak, seed: u64) {
    let mut state = seed;
    let mut next = Instant::now();
    let mut trap = Trap::None;
    while !soak.is_over() {
        std::thread::sleep(Duration::from_millis(20));
        let mut running = soak.running.lock();
        wake(&mut running, false);
        match trap {
            Trap::Set if soak.faulty.is_spent() => trap = Trap::Sprung(Instant::now()),
            Trap::Sprung(at) if at.elapsed() > Duration::from_millis(500) => {
                for it in running.iter_mut().filter(|it| it.what == "backup") {
                    it.killed |= kill_process(it.pid, Signal::KILL).is_ok();
                }
                trap = Trap::None;
            }
            _ => {}
        }
        if next.elapsed() == Duration::ZERO || Instant::now() < next || running.is_empty() {
            continue;
        }
        next = Instant::now() + Duration::from_millis(400 + splitmix(&mut state) % 2600);
        if matches!(trap, Trap::None) && splitmix(&mut state).is_multiple_of(8) {
            soak.faulty.heal();
            soak.faulty.inject(COMMITTED);
            trap = Trap::Set;
            continue;
        }
        let at = (splitmix(&mut state) % running.len() as u64) as usize;
        let it = &mut running[at];
        // A mount is one process for the whole time, and a collector the slowest of all: they are to get something done, too.
        let odds = match it.what {
            "mount" => 10,
            "gc" => 3,
            _ => 1,
        };
        if !splitmix(&mut state).is_multiple_of(odds) {
            continue;
        }
        if splitmix(&mut state).is_multiple_of(3) && it.what != "mount" {
            if it.stopped.is_none() && kill_process(it.pid, Signal::STOP).is_ok() {
                let time = Duration::from_millis(500 + splitmix(&mut state) % 12_000);
                it.stopped = Some(Instant::now() + time);
                it.until += time;
                drop(running);
                soak.count("stops", 1);
            }
        } else if kill_process(it.pid, Signal::KILL).is_ok() {
            it.killed = true;
        }
    }
    soak.faulty.heal();
    // Whoever runs still ends by itself.
    wake(&mut soak.running.lock(), true);
}

fn wake(running: &mut [Running], all: bool) {
    for it in running {
        if it.stopped.is_some_and(|until| all || until <= Instant::now()) {
            let _ = kill_process(it.pid, Signal::CONT);
            it.stopped = None;
        }
    }
}

//! Many processes on one repository, and everything that can happen to them: writers, forget, two collectors, restores, a
//! check, an open mount; behind them a real S3 server whose answers a proxy spoils, and a killer. What is asked is simple:
//! every snapshot that was acknowledged and that nobody asked to forget restores, bit for bit.

mod actors;
mod ledger;
mod process;

use crate::faulty_s3::{Chaos, Fault, FaultyS3};
use crate::home::Home;
use crate::seaweed::{Seaweed, variables_for};
use crate::small::splitmix;
use ledger::Ledger;
use parking_lot::Mutex;
use process::Running;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Writers, each with a volume of its own.
const WRITERS: usize = 4;

/// How long a soak goes on.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// At least so long.
    pub least: Duration,
    /// Then until everything has happened, but no longer than this.
    pub most: Duration,
}

impl Length {
    /// At least half an hour.
    pub fn is_long(&self) -> bool {
        self.least >= Duration::from_secs(1800)
    }
}

/// What must have happened for a soak to mean something.
const NEEDED: [&str; 18] = [
    "snapshots",
    "strangers",
    "forgotten",
    "packs deleted",
    "restores",
    "restores from the mount",
    "checks",
    "kills of backup",
    "kills of gc",
    "stops",
    "PUT hit by refuse",
    "PUT hit by apply-and-refuse",
    "PUT hit by lose-reply",
    "PUT hit by drop-request",
    "PUT hit by cut-request",
    "PUT hit by cut-reply",
    "PUT hit by stall",
    "PUT hit by stall-reply",
];

/// What must have happened besides in one of half an hour. That a pack is copied takes a volume that has lost most of it bit by bit,
/// which did not come about in the first eight minutes of a soak on a busy machine. That one is rescued takes a
/// backup that leans on it just before it is condemned: one in some minutes, and without any nothing is shown of the second mark.
const NEEDED_OF_LONG: [&str; 6] =
    ["unforgotten", "packs repacked", "packs rescued", "kills of forget", "kills of restore", "runs fenced"];

/// What is kept of a soak: a column, and the counter it is of, or all whose names begin so, with a space at the end.
const RECORD: [(&str, &str); 15] = [
    ("promises", "promises"),
    ("restored", "promises that were restored"),
    ("strangers", "strangers"),
    ("forgotten", "forgotten"),
    ("taken back", "unforgotten"),
    ("collections", "collections"),
    ("packs deleted", "packs deleted"),
    ("repacked", "packs repacked"),
    ("rescued", "packs rescued"),
    ("runs fenced", "runs fenced"),
    ("checks", "checks"),
    ("kills", "kills of "),
    ("stops", "stops"),
    ("faults", "fault "),
    ("of PUTs", "PUT hit by "),
];

/// What a soak showed.
#[derive(Debug)]
pub struct Outcome {
    /// How often what happened.
    pub counters: BTreeMap<String, u64>,
    /// How often which command ended with which code and last line, but for 0.
    pub ends: BTreeMap<String, u64>,
    /// What must not be.
    pub wrong: Vec<String>,
}

/// The head of the table of soaks in `repo/docs/concurrency-results.md`.
pub fn record_head() -> String {
    let columns: Vec<_> = RECORD.iter().map(|(column, _)| *column).collect();
    format!("| day | minutes | seed | {} |", columns.join(" | "))
}

impl Outcome {
    /// Its line there, but for the day.
    pub fn record(&self, minutes: u64, seed: u64) -> String {
        let sum = |of: &str| -> u64 {
            let is_of = |name: &str| name == of || of.ends_with(' ') && name.starts_with(of);
            self.counters.iter().filter(|(name, _)| is_of(name)).map(|(_, count)| count).sum()
        };
        let columns: Vec<_> = RECORD.iter().map(|(_, of)| sum(of).to_string()).collect();
        format!("| {minutes} | {seed} | {} |", columns.join(" | "))
    }

    /// What did not happen although it is what a soak is for; of a long one more is asked.
    pub fn lacking(&self, is_long: bool) -> Vec<&'static str> {
        let more = if is_long { &NEEDED_OF_LONG[..] } else { &[] };
        NEEDED.iter().chain(more).copied().filter(|name| !self.counters.contains_key(*name)).collect()
    }

    /// The counters and ends, for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, count) in &self.counters {
            let _ = writeln!(text, "{count:8}  {name}");
        }
        for (end, count) in &self.ends {
            let _ = writeln!(text, "{count:8}  {end}");
        }
        text
    }
}

/// What all actors share.
#[derive(Debug)]
struct Soak {
    home: Home,
    faulty: FaultyS3,
    ledger: Ledger,
    /// What may be killed.
    running: Mutex<Vec<Running>>,
    counters: Mutex<BTreeMap<String, u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Soak {
    fn count(&self, what: impl Into<String>, by: u64) {
        if by > 0 {
            *self.counters.lock().entry(what.into()).or_default() += by;
        }
    }

    /// The greatest value there was.
    fn at_most(&self, what: String, value: u64) {
        let mut counters = self.counters.lock();
        let most = counters.entry(what).or_default();
        *most = value.max(*most);
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().push(what);
    }

    /// Spoils answers from now on, by this seed, or none.
    fn spoil(&self, seed: Option<u64>) {
        self.faulty.chaos(seed.map(|seed| Chaos { seed, per_mille: 12, puts_per_mille: 48, faults: faults() }));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits, but not beyond the end.
    fn pause(&self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time && !self.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn outcome(&self) -> Outcome {
        let mut counters = self.counters.lock().clone();
        counters.extend(self.faulty.hits().into_iter().map(|(fault, count)| (format!("fault {fault}"), count)));
        let puts = self.faulty.put_hits().into_iter().filter(|(_, count)| *count > 0);
        counters.extend(puts.map(|(fault, count)| (format!("PUT hit by {fault}"), count)));
        Outcome { counters, ends: self.ends.lock().clone(), wrong: self.wrong.lock().clone() }
    }
}

/// Runs a soak on a server of its own. `say` gets a line now and then.
///
/// # Panics
/// When the server cannot be started.
pub fn soak(seed: u64, length: Length, say: &(dyn Fn(String) + Sync)) -> Outcome {
    let server = Seaweed::start();
    let faulty = FaultyS3::start(server.port());
    let home = Home::new().at("s3://soak/repo", &variables_for(faulty.port()));
    home.run(&["init", "-q", "--chunk-size", "64K"]).ok();
    let soak = Soak {
        home,
        faulty,
        ledger: Ledger::default(),
        running: Mutex::default(),
        counters: Mutex::default(),
        ends: Mutex::default(),
        wrong: Mutex::default(),
        over: AtomicBool::new(false),
    };
    soak.spoil(Some(seed));
    let mut state = seed;
    let mut seed = || splitmix(&mut state);
    std::thread::scope(|scope| {
        let (soak, start) = (&soak, Instant::now());
        for n in 0..WRITERS {
            let seed = seed();
            scope.spawn(move || actors::write(soak, n, seed));
        }
        let rest = [actors::forget, actors::collect, actors::collect, actors::restore, actors::restore, actors::check];
        for actor in rest.into_iter().chain([actors::mount as fn(&Soak, u64), process::kill]) {
            let seed = seed();
            scope.spawn(move || actor(soak, seed));
        }
        let mut told = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = soak.outcome();
            let is_done = start.elapsed() >= length.least && now.lacking(length.is_long()).is_empty();
            if is_done || start.elapsed() >= length.most || !now.wrong.is_empty() {
                break;
            }
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                say(format!("{} s\n{}", start.elapsed().as_secs(), now.text()));
            }
        }
        soak.over.store(true, Ordering::Relaxed);
    });
    soak.spoil(None);
    actors::verify(&soak);
    soak.outcome()
}

/// Those that a client can get over. One that stalls takes as long as the client's patience, a sixth of `--retry-for`.
fn faults() -> Vec<Fault> {
    use Fault::*;
    vec![
        Refuse(503),
        Refuse(500),
        ApplyAndRefuse(500),
        ApplyAndRefuse(503),
        LoseReply,
        LoseReply,
        DropRequest,
        CutRequest,
        CutReply,
        Stall,
        StallReply,
    ]
}

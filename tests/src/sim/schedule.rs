//! Who goes on, and what becomes of its call.

use crate::small::splitmix;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use wherry_repo::Timestamp;
use wherry_repo::storage::Memory;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// It fails and has no effect.
    Fails,
    /// It has its effect, and fails all the same.
    ReplyLost,
    /// It fails, and has its effect later.
    Delayed,
}

/// A write that is on its way.
pub(super) type Late = Box<dyn FnOnce(&Memory) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// From this time on.
    Ready(Duration),
    /// Until somebody has told this.
    Waits(&'static str),
    Done,
}

/// Where a scene holds an actor: before its first call that begins so, and has that in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    pub(super) actor: usize,
    pub(super) begin: &'static str,
    pub(super) has: &'static str,
    /// What the others hear when it has come so far.
    pub(super) tells: &'static str,
    /// What it waits for; nothing where empty.
    pub(super) until: &'static str,
}

struct State {
    random: u64,
    faults: u64,
    time: Duration,
    turn: usize,
    actors: Vec<Status>,
    late: Vec<(u64, Late)>,
    steps: u64,
    trace: blake3::Hasher,
    told: Option<Vec<String>>,
    silent: Silent,
    /// Before which calls actors like to be silent.
    points: Vec<Point>,
    /// How often they may yet be there. None before somebody has committed: until then nothing can be lost.
    stalls: u32,
    has_commit: bool,
    cases: BTreeMap<&'static str, u64>,
    /// Of a scene: where actors are held, each once, and what was told.
    gates: Vec<Gate>,
    told_so_far: BTreeSet<&'static str>,
    /// All that were left waited for what nobody told.
    is_stuck: bool,
}

/// One actor at a time goes on.
pub(super) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schedule")
    }
}

/// So long nobody is silent on purpose: longer than any grace, the last one also than the seven days after which a reader is
/// given up (V4).
const SILENCES: [u64; 5] = [60, 15 * 60, 3 * 3600, 40 * 3600, 9 * 86_400];

/// From here on a silence is longer than most sessions live without a sign of life.
const LONG: usize = 2;

/// How long actors are silent in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// Up to 40 hours; but whoever collects or forgets, before it decides, for a quarter of an hour: the others go on meanwhile.
    Others,
    /// Up to 40 hours, all of them.
    All,
    /// Up to nine days, all of them. So the others have to go slowly, else nobody is left who does anything meanwhile.
    Days,
}

impl Silent {
    /// Before something is decided, as places in [`SILENCES`].
    fn before_it_decides(self, tidies: bool) -> [usize; 4] {
        match (self, tidies) {
            (Self::Others | Self::All, false) => [1, 2, 2, 3],
            (Self::Others, true) => [1; 4],
            (Self::All, true) => [1, 1, 2, 3],
            (Self::Days, _) => [2, 3, 4, 4],
        }
    }

    /// At any time, of [`SILENCES`].
    fn at_any_time(self) -> u64 {
        if self == Self::Days { 5 } else { 4 }
    }
}

/// A kind of calls: how they begin, and what else is in them.
type Point = (&'static str, &'static str);

/// Calls that decide something: who is silent right before one of them knows less than it thinks when it goes on. Each
/// seed has two of them, and where actors are silent for days [`READS`] besides.
const POINTS: [Point; 12] = [
    ("create snap/", ""),
    ("create sess/", "/open"),
    ("create sess/", "/seen-"),
    ("list gc/gen/", ""),
    ("create gc/gen/", ""),
    ("create gc/gen/", "-sealed"),
    ("list packs/", ""),
    ("list sess/", ""),
    ("list snap/", ""),
    ("list forget/", ""),
    ("create packs/", ""),
    ("create forget/", "-settled"),
];

/// A reader has been let in.
const READS: Point = ("range packs/", "");

/// So often a seed's points make actors silent.
const STALLS: u32 = 6;

/// Wall time, for a clock that is right.
pub(super) fn wall(time: Duration) -> Timestamp {
    Timestamp(1_780_000_000_000_000_000 + time.as_nanos() as i64)
}

impl State {
    fn below(&mut self, n: u64) -> u64 {
        splitmix(&mut self.random) % n
    }

    /// Chooses who goes on; time passes where nobody can.
    fn choose(&mut self) {
        let ready = |state: &Self| -> Vec<usize> {
            let is_ready = |status: &Status| match status {
                Status::Ready(from) => *from <= state.time,
                Status::Waits(what) => state.is_stuck || state.told_so_far.contains(what),
                Status::Done => false,
            };
            state.actors.iter().enumerate().filter(|(_, status)| is_ready(status)).map(|(n, _)| n).collect()
        };
        let mut found = ready(self);
        if found.is_empty() {
            let times = self.actors.iter().filter_map(|status| match status {
                Status::Ready(from) => Some(*from),
                Status::Waits(_) | Status::Done => None,
            });
            match times.min() {
                Some(next) => self.time = next,
                // The script of a scene is wrong: all go on, and it is told.
                None if self.actors.iter().any(|status| *status != Status::Done) => self.is_stuck = true,
                None => return,
            }
            found = ready(self);
        }
        self.turn = found[self.below(found.len() as u64) as usize];
    }

    fn count(&mut self, case: &'static str, by: u64) {
        if by > 0 {
            *self.cases.entry(case).or_default() += by;
        }
    }
}

/// The part of one actor; its turn passes to another one when it ends.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    schedule: &'a Schedule,
    number: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.schedule.state.lock();
        state.actors[self.number] = Status::Done;
        state.choose();
        self.schedule.changed.notify_all();
    }
}

impl Schedule {
    pub(super) fn new(seed: u64, faults: u64, silent: Silent) -> Self {
        let told = std::env::var_os("WHERRY_SIM_TRACE").map(|_| Vec::new());
        let mut random = seed ^ 0xC0FF_EE00;
        let mut point = || POINTS[(splitmix(&mut random) % POINTS.len() as u64) as usize];
        let mut points = vec![point(), point()];
        // Who decided by what it did not know does harm when it ends.
        if splitmix(&mut random).is_multiple_of(2) {
            points[1] = POINTS[0];
        }
        if silent == Silent::Days {
            points.push(READS);
        }
        let state = State {
            random,
            faults,
            silent,
            points,
            stalls: STALLS,
            has_commit: false,
            time: Duration::from_secs(1000),
            turn: 0,
            actors: Vec::new(),
            late: Vec::new(),
            steps: 0,
            trace: blake3::Hasher::new(),
            told,
            cases: BTreeMap::new(),
            gates: Vec::new(),
            told_so_far: BTreeSet::new(),
            is_stuck: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// So many actors are to come.
    pub(super) fn begin(&self, actors: usize) {
        let mut state = self.state.lock();
        state.actors = vec![Status::Ready(Duration::ZERO); actors];
        state.choose();
    }

    pub(super) fn enter(&self, number: usize) -> Turn<'_> {
        self.wait(&mut self.state.lock(), number);
        Turn { schedule: self, number }
    }

    fn wait(&self, state: &mut MutexGuard<'_, State>, number: usize) {
        while state.turn != number {
            self.changed.wait(state);
        }
    }

    /// Whose turn it is, and so who calls: a process may have several threads, of which each is an actor, or works for one.
    pub(super) fn turn(&self) -> usize {
        self.state.lock().turn
    }

    pub(super) fn time(&self) -> Duration {
        self.state.lock().time
    }

    /// Time passes where nobody else is there.
    pub(super) fn pass(&self, time: Duration) {
        self.state.lock().time += time;
    }

    pub(super) fn count(&self, case: &'static str, by: u64) {
        self.state.lock().count(case, by);
    }

    /// An actor sleeps.
    pub(super) fn sleep(&self, number: usize, time: Duration) {
        let mut state = self.state.lock();
        state.actors[number] = Status::Ready(state.time + time);
        state.choose();
        self.changed.notify_all();
        self.wait(&mut state, number);
    }

    /// An actor sleeps as one does on a machine that is busy: so long at least, and up to a hundred times as long.
    pub(super) fn doze(&self, number: usize, time: Duration) {
        let longer = self.state.lock().below(100) as u32;
        self.sleep(number, time * (1 + longer));
    }

    /// Holds an actor there.
    pub(super) fn hold(&self, gate: Gate) {
        self.state.lock().gates.push(gate);
    }

    /// Says that something has come so far.
    pub(super) fn tell(&self, what: &'static str) {
        self.state.lock().told_so_far.insert(what);
    }

    /// An actor waits until that was told.
    pub(super) fn until(&self, number: usize, what: &'static str) {
        let mut state = self.state.lock();
        state.actors[number] = Status::Waits(what);
        state.choose();
        self.changed.notify_all();
        self.wait(&mut state, number);
    }

    /// Whether all that were left waited for what nobody told.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.lock().is_stuck
    }

    /// An actor is about to call: others may come first. Then its call is on. `tidies`: it collects or forgets.
    pub(super) fn call(&self, number: usize, tidies: bool, memory: &Memory, what: &str, is_write: bool) -> Fate {
        let mut state = self.state.lock();
        let mut from = state.time;
        let is_point = state.has_commit
            && state.stalls > 0
            && state.points.iter().any(|(begin, has)| what.starts_with(begin) && what.contains(has));
        if is_point && state.below(2) == 0 {
            state.stalls -= 1;
            let likely = state.silent.before_it_decides(tidies);
            let which = likely[state.below(4) as usize];
            from += Duration::from_secs(SILENCES[which]);
            state.count("a process was silent before it decided", 1);
            state.count(
                "who collects or forgets was silent for hours before it decided",
                (tidies && which >= LONG).into(),
            );
        } else if state.below(400) == 0 {
            let most = state.silent.at_any_time();
            let which = state.below(most) as usize;
            from += Duration::from_secs(SILENCES[which]);
            state.count("a process was silent", 1);
        }
        state.actors[number] = Status::Ready(from);
        let is_here = |gate: &Gate| gate.actor == number && what.starts_with(gate.begin) && what.contains(gate.has);
        if let Some(at) = state.gates.iter().position(is_here) {
            let gate = state.gates.remove(at);
            state.told_so_far.insert(gate.tells);
            if !gate.until.is_empty() {
                state.actors[number] = Status::Waits(gate.until);
            }
        }
        let passed = state.below(1500);
        state.time += Duration::from_millis(passed);
        state.choose();
        self.changed.notify_all();
        self.wait(&mut state, number);
        state.steps += 1;
        let now = state.steps;
        let (due, late): (Vec<_>, Vec<_>) = std::mem::take(&mut state.late).into_iter().partition(|(at, _)| *at <= now);
        state.late = late;
        state.count("a delayed call took effect", due.len() as u64);
        let fate = match (state.below(1000) < state.faults, state.below(3)) {
            (false, _) => Fate::Done,
            (true, 1) if is_write => Fate::ReplyLost,
            (true, 2) if is_write => Fate::Delayed,
            (true, _) => Fate::Fails,
        };
        match fate {
            Fate::Done => {}
            Fate::ReplyLost => state.count("a lost reply", 1),
            Fate::Fails | Fate::Delayed => state.count("a fault", 1),
        }
        state.has_commit |= fate == Fate::Done && what.starts_with("create snap/");
        let line = format!("{now} {number} {what} {fate:?}\n");
        state.trace.update(line.as_bytes());
        if let Some(told) = &mut state.told {
            told.push(line);
        }
        drop(state);
        // The clock of the storage is asked for.
        due.into_iter().for_each(|(_, late)| late(memory));
        fate
    }

    /// Has its effect some calls later.
    pub(super) fn later(&self, late: Late) {
        let mut state = self.state.lock();
        let at = state.steps + 1 + state.below(120);
        state.late.push((at, late));
    }

    /// All that is on its way arrives, and everybody is silent for long.
    pub(super) fn quiet(&self, memory: &Memory) {
        let late = std::mem::take(&mut self.state.lock().late);
        late.into_iter().for_each(|(_, late)| late(memory));
        self.pass(Duration::from_secs(400 * 3600));
    }

    /// Cases, calls, and their hash.
    pub(super) fn told(&self) -> (BTreeMap<&'static str, u64>, u64, String) {
        let state = self.state.lock();
        if let Some(told) = &state.told {
            print!("{}", told.concat());
        }
        (state.cases.clone(), state.steps, state.trace.finalize().to_hex().to_string())
    }
}

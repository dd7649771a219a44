//! The storage as one process sees it.

use super::actors::Process;
use super::deletes::Deletes;
use super::planted::{How, Memories, Planted};
use super::schedule::{Fate, Schedule, wall};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail, keys};
use wherry_repo::{Error, ErrorKind, Result, SessionId, Timestamp};

/// Readers are given up after that (V4).
const READER_SILENT: Duration = Duration::from_secs(7 * 86_400);

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writes,
    Collects,
    Forgets,
    Reads,
    Checks,
    Rotates,
    Heals,
}

/// Sessions that were adopted, and what must not be of them.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// Their successors have passed A2.
    passed: HashSet<SessionId>,
    /// They have created their outcome all the same.
    pub(super) ended_later: HashSet<SessionId>,
    /// Who was taken for silent, and was not.
    pub(super) hasty: Vec<String>,
}

/// Sessions as an actor has listed them.
#[derive(Debug)]
struct Heard {
    /// When.
    at: Timestamp,
    /// The last sign of life of each.
    last: HashMap<SessionId, Timestamp>,
}

/// Readers that have been let in, and what became of their notes.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Whose note it is that stands.
    notes: HashMap<SessionId, usize>,
    /// Those whose notes a collector took away while they were reading (V4).
    cleared: HashSet<usize>,
    /// Those of them that have made another one.
    returned: HashSet<usize>,
}

impl Readers {
    /// An actor begins to read something, or has ended.
    pub(super) fn begin(&mut self, actor: usize) {
        self.notes.retain(|_, of| *of != actor);
        self.cleared.remove(&actor);
        self.returned.remove(&actor);
    }

    /// It has made a note.
    fn enter(&mut self, id: SessionId, actor: usize) {
        self.notes.insert(id, actor);
        if self.cleared.contains(&actor) {
            self.returned.insert(actor);
        }
    }

    /// Whether a collector has taken its note since then.
    pub(super) fn was_cleared(&self, actor: usize) -> bool {
        self.cleared.contains(&actor)
    }

    /// Whether it has made another one since.
    pub(super) fn has_returned(&self, actor: usize) -> bool {
        self.returned.contains(&actor)
    }
}

/// Of one actor, for one life of its process.
pub(super) struct Seen {
    pub(super) memory: Arc<Memory>,
    pub(super) schedule: Arc<Schedule>,
    actor: usize,
    pub(super) role: Role,
    /// Of a writer, what it backs up.
    pub(super) volume: Option<String>,
    planted: Arc<Planted>,
    pub(super) memories: Mutex<Memories>,
    adopted: Arc<Mutex<Adopted>>,
    readers: Arc<Mutex<Readers>>,
    deletes: Arc<Deletes>,
    /// Whom a process ends was silent for so long.
    silent_for: Duration,
    heard: Mutex<Option<Heard>>,
    /// So many calls the process lives yet.
    life: Mutex<u64>,
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seen({})", self.actor)
    }
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Unavailable, "no answer")
}

impl Seen {
    /// What a process sees that begins now, and lives for so many calls.
    pub(super) fn new(process: &Process<'_>, life: u64) -> Self {
        let sim = process.sim;
        Self {
            memory: sim.memory.clone(),
            schedule: sim.schedule.clone(),
            actor: process.actor,
            role: process.role,
            volume: process.volume.clone(),
            planted: sim.planted.clone(),
            memories: Mutex::new(Memories::new(&sim.memory, wall(sim.schedule.time()))),
            adopted: sim.adopted.clone(),
            readers: sim.readers.clone(),
            deletes: sim.deletes.clone(),
            silent_for: process.silent_for,
            heard: Mutex::default(),
            life: Mutex::new(life),
        }
    }

    fn fate(&self, what: &str, key: &str, is_write: bool) -> Result<Fate> {
        {
            let mut life = self.life.lock();
            match *life {
                0 => return Err(no_answer()),
                1 => self.schedule.count("a process died", 1),
                _ => {}
            }
            *life -= 1;
            if *life == 0 {
                return Err(no_answer());
            }
        }
        let tidies = matches!(self.role, Role::Collects | Role::Forgets);
        Ok(self.schedule.call(self.schedule.turn(), tidies, &self.memory, &format!("{what} {key}"), is_write))
    }

    fn read<T>(&self, what: &str, key: &str, read: impl FnOnce(&Memory) -> Result<T>) -> Result<T> {
        match self.fate(what, key, false)? {
            Fate::Done => read(&self.memory),
            _ => Err(no_answer()),
        }
    }

    fn write(&self, what: &str, key: &Key, write: impl FnOnce(&Memory) -> Result<()> + Send + 'static) -> Result<()> {
        match self.fate(what, key.as_str(), true)? {
            Fate::Done => write(&self.memory),
            Fate::ReplyLost => write(&self.memory).and(Err(no_answer())),
            Fate::Fails => Err(no_answer()),
            Fate::Delayed => {
                self.schedule.later(Box::new(move |memory| drop(write(memory))));
                Err(no_answer())
            }
        }
    }

    /// Who was first where a run is to end.
    fn raced(&self, key: &Key, done: &Result<()>) {
        if keys::parse_snap(key).is_none() {
            return;
        }
        let conflict = matches!(done, Err(e) if e.kind() == ErrorKind::Conflict);
        self.adopts(key, done.is_ok(), conflict);
        match (self.role == Role::Collects, conflict) {
            (true, true) => self.schedule.count("commit won", 1),
            (true, false) if done.is_ok() => self.schedule.count("fence won", 1),
            _ => {}
        }
    }
}

impl Seen {
    /// Whoever is about to be ended, or whose note is to go, was silent for so long when sessions were listed. Its signs of life
    /// since then nobody has heard of; that it gave some is no reason to end it.
    fn is_silent(&self, id: &SessionId, so_long: Duration) {
        let heard = self.heard.lock();
        let Some((at, last)) = heard.as_ref().and_then(|heard| Some((heard.at, *heard.last.get(id)?))) else { return };
        let silent = Duration::from_nanos(u64::try_from(at.0.saturating_sub(last.0)).unwrap_or(0));
        if silent < so_long && self.planted.is_none() {
            let text =
                format!("actor {} ends session {id}, which was silent for {silent:?} of {so_long:?}", self.actor);
            self.adopted.lock().hasty.push(text);
        }
    }

    /// Invariant 8: whoever was adopted does not commit after its successor has heard that it cannot.
    fn adopts(&self, key: &Key, done: bool, conflict: bool) {
        let Some((_, id)) = keys::parse_snap(key) else { return };
        let mut adopted = self.adopted.lock();
        match self.memories.lock().own == Some(id) {
            true if done && adopted.passed.contains(&id) => drop(adopted.ended_later.insert(id)),
            false if self.role == Role::Writes && (done || conflict) => drop(adopted.passed.insert(id)),
            _ => {}
        }
    }
}

impl Storage for Seen {
    fn location(&self) -> String {
        "simulated".into()
    }

    fn lanes(&self) -> usize {
        1
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.read("get", key.as_str(), |memory| match self.planted.get(self, key) {
            Some(other) => Ok(other),
            None => self.planted.place(self, key, memory).get(key),
        })
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.read("range", key.as_str(), |memory| self.planted.place(self, key, memory).get_range(key, range))
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.read("tail", key.as_str(), |memory| self.planted.place(self, key, memory).get_tail(key, len))
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.read("head", key.as_str(), |memory| memory.head(key))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        if let Some((_, id)) = keys::parse_snap(key)
            && self.memories.lock().own != Some(id)
            && self.memory.head(key).is_err()
        {
            self.is_silent(&id, self.silent_for);
        }
        let (of, how) = (key.clone(), self.planted.create(self, key, &body));
        let done = self.write("create", key, move |memory| match how {
            How::Create => memory.create(&of, body),
            How::Overwrite => memory.overwrite(&of, body),
            How::Nothing => Ok(()),
            How::Lie => match memory.create(&of, body) {
                Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
                done => done,
            },
        });
        if done.is_ok() && key.as_str().starts_with(keys::META) {
            self.schedule.count("a node was stored", 1);
        }
        self.raced(key, &done);
        if let (Role::Reads, true, Some((id, "open"))) = (self.role, done.is_ok(), keys::parse_session(key)) {
            self.readers.lock().enter(id, self.actor);
        }
        done
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        let of = key.clone();
        self.write("overwrite", key, move |memory| memory.overwrite(&of, body))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut found = Vec::new();
        let mut at = Timestamp(0);
        self.read("list", prefix, |memory| {
            at = wall(self.schedule.time());
            memory.list(prefix, &mut |object| {
                found.push(object);
                Ok(())
            })
        })?;
        if prefix == keys::SESS {
            let mut last = HashMap::new();
            for object in &found {
                if let Some((id, _)) = keys::parse_session(&object.key) {
                    last.entry(id).and_modify(|last| *last = object.modified.max(*last)).or_insert(object.modified);
                }
            }
            *self.heard.lock() = Some(Heard { at, last });
        }
        self.planted.list(self, prefix, &mut found);
        found.into_iter().try_for_each(visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let (of, readers, schedule) = (key.clone(), self.readers.clone(), self.schedule.clone());
        let collects = self.role == Role::Collects;
        if let (true, Some((id, "open"))) = (collects, keys::parse_session(key))
            && self.readers.lock().notes.contains_key(&id)
        {
            self.is_silent(&id, READER_SILENT);
        }
        self.deletes.asked(self.actor, key);
        self.write("delete", key, move |memory| {
            if let Some((id, "open")) = keys::parse_session(&of) {
                let mut readers = readers.lock();
                if let Some(actor) = readers.notes.remove(&id).filter(|_| collects) {
                    readers.cleared.insert(actor);
                    schedule.count("reader cleared", 1);
                }
            }
            memory.delete(&of)
        })
    }
}

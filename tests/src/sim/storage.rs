//! The storage as one process sees it.

use super::planted::{How, Memories, Planted};
use super::schedule::{Fate, Schedule};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail, keys};
use wherry_repo::{Error, ErrorKind, Result, SessionId};

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Writes,
    Collects,
    Forgets,
    Reads,
}

/// Sessions that were adopted, and what must not be of them.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// Their successors have passed A2.
    passed: HashSet<SessionId>,
    /// They have created their outcome all the same.
    pub(super) ended_later: HashSet<SessionId>,
}

/// Of one actor, for one life of its process.
pub(super) struct Seen {
    pub(super) memory: Arc<Memory>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) actor: usize,
    pub(super) role: Role,
    /// Of a writer, what it backs up.
    pub(super) volume: Option<String>,
    pub(super) planted: Arc<Planted>,
    pub(super) memories: Mutex<Memories>,
    pub(super) adopted: Arc<Mutex<Adopted>>,
    /// So many calls the process lives yet.
    pub(super) life: Mutex<u64>,
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
        Ok(self.schedule.call(self.actor, &self.memory, &format!("{what} {key}"), is_write))
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
        self.read("get", key.as_str(), |memory| self.planted.get(self, key).map_or_else(|| memory.get(key), Ok))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.read("range", key.as_str(), |memory| memory.get_range(key, range))
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.read("tail", key.as_str(), |memory| memory.get_tail(key, len))
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.read("head", key.as_str(), |memory| memory.head(key))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let (of, how) = (key.clone(), self.planted.create(self, key));
        let done = self.write("create", key, move |memory| match how {
            How::Create => memory.create(&of, body),
            How::Overwrite => memory.overwrite(&of, body),
            How::Nothing => Ok(()),
            How::Lie => match memory.create(&of, body) {
                Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
                done => done,
            },
        });
        self.raced(key, &done);
        done
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        let of = key.clone();
        self.write("overwrite", key, move |memory| memory.overwrite(&of, body))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let mut found = Vec::new();
        self.read("list", prefix, |memory| {
            memory.list(prefix, &mut |object| {
                found.push(object);
                Ok(())
            })
        })?;
        self.planted.list(self, prefix, &mut found);
        found.into_iter().try_for_each(visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let of = key.clone();
        self.write("delete", key, move |memory| memory.delete(&of))
    }
}

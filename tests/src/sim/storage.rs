//! The storage as one process sees it.

use super::schedule::{Fate, Schedule};
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail, keys};
use wherry_repo::{Error, ErrorKind, Result};

/// Of one actor, for one life of its process.
pub(super) struct Seen {
    pub(super) memory: Arc<Memory>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) actor: usize,
    /// It only reads and condemns: whose creates of outcomes are fences.
    pub(super) collects: bool,
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
        match (self.collects, conflict) {
            (true, true) => self.schedule.count("commit won", 1),
            (true, false) if done.is_ok() => self.schedule.count("fence won", 1),
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
        self.read("get", key.as_str(), |memory| memory.get(key))
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
        let of = key.clone();
        let done = self.write("create", key, move |memory| memory.create(&of, body));
        self.raced(key, &done);
        done
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        let of = key.clone();
        self.write("overwrite", key, move |memory| memory.overwrite(&of, body))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.read("list", prefix, |memory| memory.list(prefix, visit))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let of = key.clone();
        self.write("delete", key, move |memory| memory.delete(&of))
    }
}

//! A storage in memory of which a power cut takes what has a name and was not acknowledged: on a local disk an object is seen from its
//! rename on, and durable when its folder is, or when somebody asks for that.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use wherry_repo::storage::{Key, Listed, Memory, Storage, Tail};
use wherry_repo::{Error, ErrorKind, Result, Timestamp};

type Others = Box<dyn FnOnce() + Send>;

/// The storage.
pub struct Fleeting {
    memory: Arc<Memory>,
    /// Seen by everybody, and not durable.
    named: Mutex<BTreeSet<Key>>,
    /// The next create of a key that ends or begins so stops between the name and the answer, while others do this.
    stop: Mutex<Option<(&'static str, Others)>>,
    refuses: Mutex<bool>,
}

impl fmt::Debug for Fleeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleeting").field("named", &self.named).finish_non_exhaustive()
    }
}

impl Fleeting {
    /// Over these objects.
    pub fn new(memory: Arc<Memory>) -> Arc<Self> {
        let (named, stop, refuses) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { memory, named, stop, refuses })
    }

    /// The next create of a key that has `part` in it gets its name. Then `others` do what they do, and it never hears that it is durable.
    pub fn stop_at(&self, part: &'static str, others: impl FnOnce() + Send + 'static) {
        *self.stop.lock() = Some((part, Box::new(others)));
    }

    /// From now on nothing is made durable that was not acknowledged: the disk says no.
    pub fn refuse(&self) {
        *self.refuses.lock() = true;
    }

    /// What was not durable is gone.
    pub fn cut_power(&self) {
        for key in std::mem::take(&mut *self.named.lock()) {
            self.memory.delete(&key).unwrap();
        }
    }
}

impl Storage for Fleeting {
    fn location(&self) -> String {
        "fleeting".into()
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.memory.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.memory.get_range(key, range)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.memory.get_tail(key, len)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.memory.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        match self.memory.create(key, body) {
            // Whoever hears that it is there acts on it.
            Err(e) if e.kind() == ErrorKind::Conflict => {
                self.named.lock().remove(key);
                return Err(e);
            }
            created => created?,
        }
        let Some((_, others)) = self.stop.lock().take_if(|(part, _)| key.as_str().contains(*part)) else {
            return Ok(());
        };
        self.named.lock().insert(key.clone());
        others();
        Err(Error::new(ErrorKind::Unavailable, "its process was ended").with_object(key))
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.memory.overwrite(key, body)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.memory.list(prefix, visit)
    }

    fn make_durable(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        for key in keys {
            if *self.refuses.lock() {
                return Err(Error::new(ErrorKind::Unavailable, "Input/output error").with_object(&key));
            }
            self.named.lock().remove(&key);
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.named.lock().remove(key);
        self.memory.delete(key)
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        self.memory.time()
    }
}

//! Where objects live. [`Storage`] is the narrow contract the repository needs; everything above it trusts these
//! sentences and nothing else. `conformance` holds the tests of them, offered to users as `wherry probe`.

pub mod conformance;
pub mod keys;
mod local;
mod memory;
mod metered;
pub(crate) mod object;
mod retry;

use crate::clock::Timestamp;
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use rustix::io::Errno;
use std::error::Error as _;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use keys::Key;
pub use local::{Local, Lock};
pub use memory::Memory;
pub use metered::{Counters, Metered, Verb};
pub use object::{Encryption, Environment, S3Options};
pub use retry::{LAST_REQUEST, Over, Retries, Retrying};

/// One object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// When the storage last wrote it, by the storage's clock. For liveness only.
    pub modified: Timestamp,
}

/// The end of an object, and how long the whole is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last bytes: as many as asked for, or all there are.
    pub bytes: Bytes,
    /// Length in bytes of the whole object.
    pub size: u64,
}

/// An object store, blocking; share it between threads, each call is independent.
///
/// What the repository assumes (see `docs/concurrency.md`): a create is atomic and happens for one caller only; what
/// was acknowledged is durable, whole, and seen by every get and list that begins later, from any host; nobody else
/// deletes. **Any call may have taken effect although it failed.** What is seen need not be durable before
/// [`make_durable`](Self::make_durable).
///
/// Errors: [`NotFound`](crate::ErrorKind::NotFound) no such object; [`Conflict`](crate::ErrorKind::Conflict) the key
/// exists; [`Denied`](crate::ErrorKind::Denied) credentials are refused; [`Full`](crate::ErrorKind::Full) no space;
/// [`Unavailable`](crate::ErrorKind::Unavailable) everything that may pass.
pub trait Storage: Send + Sync + Debug {
    /// How a user names this place; without secrets.
    fn location(&self) -> String;

    /// True when it is a disk of this machine or looks like one: a read that fails there will not succeed in a minute.
    fn is_local(&self) -> bool {
        false
    }

    /// Requests that are worth having under way at once where many small objects are read; 1: one thread after the other
    /// asks, always in the same order.
    fn lanes(&self) -> usize {
        16
    }

    /// The whole object. [`Corrupt`](crate::ErrorKind::Corrupt) where it is longer than one of its kind can be.
    fn get(&self, key: &Key) -> Result<Bytes>;

    /// Bytes `range.start..range.end` of an object, exactly; an object that ends before is
    /// [`Corrupt`](crate::ErrorKind::Corrupt).
    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// The last `len` bytes, or the whole object where it is shorter.
    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail>;

    /// Length and age of an object.
    fn head(&self, key: &Key) -> Result<Listed>;

    /// Creates the object if the key is absent, else [`Conflict`](crate::ErrorKind::Conflict). Ok means durable. `body` is
    /// not held on to: writers have few buffers.
    fn create(&self, key: &Key, body: Bytes) -> Result<()>;

    /// Writes the object whether or not it exists. For heartbeats alone.
    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()>;

    /// Calls `visit` for each object whose key begins with `prefix`, in no particular order. The prefix ends with `/`
    /// or is empty, and is matched by whole path segments. An error of `visit` ends the listing and is returned.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()>;

    /// Removes an object; one that is not there counts as removed.
    fn delete(&self, key: &Key) -> Result<()>;

    /// Makes durable what was found and not created by this process: who wrote it may still be about to, or have died before. Called
    /// before anything is done that rests on such objects; what is gone meanwhile is no error. By default what is seen is durable.
    fn make_durable(&self, _keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        Ok(())
    }

    /// What time it is by the clock that says when objects were written, looked up without writing anything. `None` where that
    /// is not told: a directory has no clock but that of the host, which stamps its files.
    fn time(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    /// Bytes that may still be written here; `None` where nobody says.
    fn free(&self) -> Option<u64> {
        None
    }

    /// Keeps out every other process that locks this storage until the lock is dropped or this process ends, however it
    /// ends. `holder` is what they are told. `None` where the storage has no such lock.
    /// [`Busy`](crate::ErrorKind::Busy) when another process holds it; the text is that one's `holder`.
    fn lock(&self, _holder: &str) -> Result<Option<Lock>> {
        Ok(None)
    }
}

/// Settings of [`open`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How to reach S3; certificates are those of every provider.
    pub s3: S3Options,
    /// No other process writes to this storage, which may then lack create-if-absent. A repository's configuration says
    /// so; it can be read without.
    pub single_writer: bool,
    /// How long to try again what may pass.
    pub retries: Retries,
    /// A request over a network fails when for so long no byte has gone either way; by default 45 s. A server may need
    /// this long to store a pack after its last byte.
    pub patience: Option<Duration>,
    /// When a storage over a network is not waited for any more.
    pub over: Over,
    /// Counts every request.
    pub counters: Arc<Counters>,
    /// Where the variables of the providers' tools come from.
    pub env: Environment,
}

/// Opens the storage a user names: a path, `file:///path`, `s3://bucket/prefix`, `az://container/prefix` or
/// `gs://bucket/prefix`. Nothing is read or made yet.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Storage>> {
    let metered = |inner| Arc::new(Metered::new(inner, Arc::clone(&options.counters)));
    let local = |path: &str| -> Result<Arc<dyn Storage>> {
        if path.is_empty() {
            return Err(Error::invalid("the repository's path is empty: give --repo a path, or s3://bucket/prefix"));
        }
        Ok(metered(Arc::new(Local::new(path, options.single_writer))))
    };
    type Open = fn(&str, &Options, retry::Policy) -> Result<Arc<dyn Storage>>;
    let remote = |open: Open, place: &str| -> Result<Arc<dyn Storage>> {
        let policy = retry::Policy::system(options.retries, options.over.clone());
        Ok(Arc::new(Retrying::with_pages(metered(open(place, options, policy.clone())?), policy)))
    };
    if let Some(path) = folder_of(url) {
        return local(path);
    }
    match url.split_once("://").unwrap_or_default() {
        ("s3", place) => remote(object::open_s3, place),
        ("az", place) => remote(object::open_azure, place),
        ("gs", place) => remote(object::open_google, place),
        (scheme, place) => {
            // It may hold a password.
            let shown = if place.contains('@') { scheme } else { url };
            Err(Error::invalid(format!(
                "{shown} is no storage; use a path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix"
            )))
        }
    }
}

/// The folder of this machine that a user names as a storage, if it is one.
pub fn folder_of(url: &str) -> Option<&str> {
    match url.split_once("://") {
        None => Some(url),
        Some(("file", path)) => Some(path).filter(|path| path.starts_with('/')),
        Some(_) => None,
    }
}

/// True when the error says that an object is not as it should be, and will not be in a minute either; others may pass.
pub(crate) fn is_damage(storage: &dyn Storage, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::NotFound => true,
        // A sector that a local disk cannot read. Too many open files, or a server that is away, say nothing of an object.
        ErrorKind::Unavailable => storage.is_local() && errno(error).is_some_and(local::is_of_medium),
        _ => false,
    }
}

/// What the system said, where it was asked.
fn errno(error: &Error) -> Option<Errno> {
    let mut cause = error.source();
    while let Some(e) = cause {
        if let Some(errno) = e.downcast_ref().and_then(Errno::from_io_error) {
            return Some(errno);
        }
        cause = e.source();
    }
    None
}

/// The prefix of a listing is made of whole segments.
fn check_prefix(prefix: &str) -> Result<()> {
    let whole = match prefix.strip_suffix('/') {
        Some(folder) => Key::new(folder).is_ok(),
        None => prefix.is_empty(),
    };
    if whole {
        Ok(())
    } else {
        Err(Error::invalid(format!("{prefix:?} can not be listed: no prefix of whole segments")))
    }
}

/// A range lies inside an object of `size` bytes.
fn check_range(key: &Key, range: &Range<u64>, size: u64) -> Result<()> {
    if range.start > range.end {
        return Err(Error::invalid(format!("bytes {range:?} of {key} end before they begin")));
    }
    if range.end > size { Err(too_short(key, range, size)) } else { Ok(()) }
}

/// An object is not longer than one of its kind can be: what is damaged in its length is not brought into memory.
fn check_size(key: &Key, size: u64) -> Result<()> {
    let most = keys::most(key);
    if size <= most {
        return Ok(());
    }
    let text = format!("{key} is {size} bytes long, and nothing that is written there is longer than {most}");
    Err(Error::corrupt(text).with_object(key))
}

fn too_short(key: &Key, range: &Range<u64>, size: u64) -> Error {
    let Range { start, end } = range;
    Error::corrupt(format!("{key} ends after {size} bytes, but its bytes {start} to {end} are needed")).with_object(key)
}

fn conflict(key: &Key) -> Error {
    Error::new(ErrorKind::Conflict, format!("{key} exists already")).with_object(key)
}

//! Trying again, and finding out what a failed call did.
//!
//! Only [`ErrorKind::Unavailable`] is tried again. Reads, deletes and overwrites are simply repeated. A create is not:
//! whenever its outcome is unclear, and on every [`ErrorKind::Conflict`] (it may be the echo of our own request, or a
//! storage's word for "others are trying, too"), the object is read back. Equal content is ours: done. Other content is
//! a conflict. No object proves nothing: the same bytes are sent again. Where such an attempt is followed by an error of any other
//! kind, that says that the create may have been done all the same ([`Error::is_unclear`]).
//!
//! Content is equal when length and all bytes are, or for bodies over 1 MiB the last 64 KiB: those are packs and index
//! segments, whose ends are unique. So two callers that create the same key with equal bytes both succeed; who must
//! know which of them won writes something of its own into the body.

use super::{Key, Listed, Lock, Storage, Tail};
use crate::clock::{Clock, Rng, System, Timestamp, random};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bodies up to this size are compared whole.
const WHOLE: usize = 1 << 20;
/// So much is compared of the ends of larger ones.
const END: usize = 64 << 10;
/// Whether the work is over is looked at so often.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// A request that is under way when the work is over gets so long: what it sends need not be sent again then.
pub const LAST_REQUEST: Duration = Duration::from_secs(3);

/// An attempt that took longer was not silent: making a connection, and twice the patience with what then moves or not.
const SILENT: Duration = Duration::from_secs(100);

/// How long and how often to try.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// No new attempt begins when attempts and the pauses between them took this much time. One that took longer than a server is
    /// waited for without a sign of life was moving something: of it no more counts than that, and never more than a third of this.
    pub total: Duration,
    /// Mean pause before the second attempt; it doubles each time.
    pub first: Duration,
    /// The longest mean pause.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { total: Duration::from_secs(300), first: Duration::from_millis(200), longest: Duration::from_secs(20) }
    }
}

/// Says when the work that uses a storage is over: then nothing is tried again, and a request that is under way is given up
/// after some seconds. By default it never is.
#[derive(Clone, Default)]
pub struct Over(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl fmt::Debug for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Over({})", self.is_over())
    }
}

impl Over {
    /// As soon as `over` says so; it is asked often, and by many threads.
    pub fn when(over: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(over)))
    }

    /// Whether it is.
    pub(super) fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|over| over())
    }

    /// Whether it can ever be.
    pub(super) fn is_watched(&self) -> bool {
        self.0.is_some()
    }
}

/// A policy with what it needs: how long to wait, a clock to wait by, randomness to spread the waiting.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) settings: Retries,
    pub(super) over: Over,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rng: Arc<dyn Rng>,
}

impl Policy {
    /// By the clock and the randomness of the operating system.
    pub(super) fn system(settings: Retries, over: Over) -> Self {
        let system = Arc::new(System::default());
        Self { settings, over, clock: system.clone(), rng: system }
    }

    /// Calls `attempt` until it succeeds, fails for good, or time is up.
    pub(super) fn run<T>(&self, doing: &str, name: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut pauses = self.pauses(doing, name);
        loop {
            let begin = self.clock.monotonic();
            match attempt() {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    pauses.charge(self.clock.monotonic().saturating_sub(begin));
                    pauses.pause(error)?;
                }
                done => return done,
            }
        }
    }

    fn pauses<'a>(&'a self, doing: &'a str, name: &'a str) -> Pauses<'a> {
        Pauses { policy: self, doing, name, begin: self.clock.monotonic(), spent: Duration::ZERO, failures: 0 }
    }
}

/// The pauses between the attempts of one call.
struct Pauses<'a> {
    policy: &'a Policy,
    doing: &'a str,
    name: &'a str,
    begin: Duration,
    /// What counts of the time since then.
    spent: Duration,
    failures: u32,
}

impl Pauses<'_> {
    /// An attempt took so long, and failed.
    fn charge(&mut self, took: Duration) {
        let counts = if took > SILENT { SILENT.min(self.policy.settings.total / 3) } else { took };
        self.spent = self.spent.saturating_add(counts);
    }

    /// Waits before the next attempt; gives the error back when there is to be none.
    fn pause(&mut self, error: Error) -> Result<()> {
        let Policy { settings, over, clock, rng } = self.policy;
        self.failures += 1;
        if over.is_over() {
            return Err(self.not_again(error));
        }
        let left = settings.total.saturating_sub(self.spent);
        if left.is_zero() {
            let Self { doing, name, failures, .. } = self;
            let seconds = clock.monotonic().saturating_sub(self.begin).as_secs_f64();
            return Err(error
                .context(format!(
                    "{doing} {name}: gave up after {failures} attempts in {seconds:.0} s (--retry-for allows more)"
                ))
                .advise("see that the storage can be reached and answers, and run the same command again"));
        }
        let doubled = settings.first.saturating_mul(1u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
        let spread = f64::from(u32::from_le_bytes(random(&**rng)?)) / f64::from(u32::MAX);
        let pause = doubled.min(settings.longest).mul_f64(0.5 + spread).min(left);
        self.spent = self.spent.saturating_add(pause);
        tracing::warn!(
            doing = self.doing, object = self.name, attempt = self.failures, pause_ms = pause.as_millis() as u64, %error,
            "storage does not answer as it should, trying again"
        );
        if !over.is_watched() {
            clock.sleep(pause);
            return Ok(());
        }
        let end = clock.monotonic() + pause;
        loop {
            if over.is_over() {
                return Err(self.not_again(error));
            }
            match end.saturating_sub(clock.monotonic()) {
                Duration::ZERO => return Ok(()),
                left => clock.sleep(left.min(LOOK)),
            }
        }
    }

    fn not_again(&self, error: Error) -> Error {
        let Self { doing, name, .. } = self;
        error.context(format!("{doing} {name}: is not tried again, as the work is over"))
    }
}

/// What stands under a key, compared with what was to be created.
enum Found {
    Ours,
    Other,
    Nothing,
}

/// A [`Storage`] that tries again what may pass, see the module.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Storage>,
    policy: Policy,
    /// Its listings come in pages, and it tries each of them again itself. Once more around that would take that time anew.
    has_pages: bool,
}

impl Retrying {
    /// Tries again what fails in `inner`.
    pub fn new(inner: Arc<dyn Storage>, settings: Retries, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self { inner, policy: Policy { settings, over: Over::default(), clock, rng }, has_pages: false }
    }

    /// The same for a storage whose listings come in pages: it has this policy, too, and tries each page again itself.
    pub(super) fn with_pages(inner: Arc<dyn Storage>, policy: Policy) -> Self {
        Self { inner, policy, has_pages: true }
    }

    fn find(&self, key: &Key, body: &Bytes) -> Result<Found> {
        let len = if body.len() <= WHOLE { body.len() } else { END };
        match self.inner.get_tail(key, len as u64) {
            Ok(found) if found.size == body.len() as u64 && found.bytes == body[body.len() - len..] => Ok(Found::Ours),
            Ok(_) => Ok(Found::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    /// One attempt to create, after an attempt of unclear outcome if `unclear` is set.
    fn create_once(&self, key: &Key, body: &Bytes, unclear: bool) -> Result<()> {
        if unclear {
            match self.find(key, body)? {
                Found::Ours => return Ok(()),
                Found::Other => return Err(super::conflict(key)),
                Found::Nothing => {}
            }
        }
        match self.inner.create(key, body.clone()) {
            Err(error) if error.kind() == ErrorKind::Conflict => match self.find(key, body).map_err(Error::unclear)? {
                Found::Ours => Ok(()),
                Found::Other => Err(error),
                Found::Nothing => {
                    let text = format!("{key} was refused as a conflict, but nothing is there in {}", self.location());
                    Err(Error::new(ErrorKind::Unavailable, text).with_object(key))
                }
            },
            done => done,
        }
    }

    fn run<T>(&self, doing: &str, key: &Key, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        self.policy.run(doing, key.as_str(), attempt)
    }
}

impl Storage for Retrying {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    fn lock(&self, holder: &str) -> Result<Option<Lock>> {
        self.inner.lock(holder)
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.run("get", key, || self.inner.get(key))
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.run("get", key, || {
            let bytes = self.inner.get_range(key, range.clone())?;
            match range.end - range.start {
                len if bytes.len() as u64 == len => Ok(bytes),
                len => {
                    Err(Error::new(ErrorKind::Unavailable, format!("{} of {len} bytes came", bytes.len()))
                        .with_object(key))
                }
            }
        })
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.run("get", key, || {
            let tail = self.inner.get_tail(key, len)?;
            match len.min(tail.size) {
                len if tail.bytes.len() as u64 == len => Ok(tail),
                len => {
                    let came = format!("{} of {len} bytes came", tail.bytes.len());
                    Err(Error::new(ErrorKind::Unavailable, came).with_object(key))
                }
            }
        })
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.run("head", key, || self.inner.head(key))
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let mut unclear = false;
        self.run("create", key, || {
            let outcome = self.create_once(key, &body, unclear);
            let outcome = outcome.map_err(|e| if unclear && e.kind() != ErrorKind::Conflict { e.unclear() } else { e });
            unclear = true;
            outcome
        })
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.run("overwrite", key, || self.inner.overwrite(key, body.clone()))
    }

    /// Tries again only while nothing has been visited: no object may be visited twice.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        if self.has_pages {
            return self.inner.list(prefix, visit);
        }
        let mut visited = Ok(());
        let listed = self.policy.run("list", prefix, || {
            let mut any = false;
            let outcome = self.inner.list(prefix, &mut |found| {
                any = true;
                visit(found)
            });
            if !any && outcome.is_err() {
                return outcome;
            }
            visited = outcome;
            Ok(())
        });
        listed.and(visited)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.run("delete", key, || self.inner.delete(key))
    }

    fn make_durable(&self, keys: &mut dyn Iterator<Item = Key>) -> Result<()> {
        self.inner.make_durable(keys)
    }

    fn time(&self) -> Result<Option<Timestamp>> {
        if self.has_pages {
            return self.inner.time();
        }
        self.policy.run("ask", "what time it is", || self.inner.time())
    }
}

#[cfg(test)]
mod tests;

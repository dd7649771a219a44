//! A reader's session, rules V1 to V5 of `docs/concurrency.md`: while its `open` stands, collectors keep what the
//! snapshot needs, also when somebody forgets it for good meanwhile.

use crate::format::records::{Beat, Process, SessionKind, SessionOpen};
use crate::id::SessionId;
use crate::repository::Snapshot;
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result, clock};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// A reader that has not seen its `open` for this long (it stalled, or its machine slept) looks for it before it reads
/// on. Collectors wait for days.
const UNSEEN: Duration = Duration::from_secs(3600);

/// The end of a session waits no longer than this for a sign of life that is under way.
const PATIENCE: Duration = Duration::from_secs(10);

/// One snapshot that is being read. Give it a sign of life about once a minute; dropped, it takes its note away.
#[derive(Debug)]
pub struct ReadSession {
    repository: Repository,
    snapshot: Snapshot,
    state: Mutex<State>,
    /// When `open` was there last (nanoseconds of the wall clock); `i64::MIN` when reading must not go on.
    seen: AtomicI64,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Its `open` was created, and its `beat` since.
    Open { id: SessionId, beaten: bool },
    /// V1 is yet to be passed.
    Gone {
        /// What was created and may still stand.
        left: Option<SessionId>,
    },
    /// V5: it could not be created; collectors know nothing of this reader.
    Alone {
        /// What kept it from that may pass.
        may_pass: bool,
    },
    /// The snapshot turned out to be forgotten for good.
    Refused {
        /// What was created and may still stand.
        left: Option<SessionId>,
    },
    /// Ended.
    Closed,
}

impl ReadSession {
    /// V1. Where nothing can be written it goes on without a session, and says so (V5). Errors: `NoSnapshot` when the
    /// snapshot is forgotten for good; `Unavailable` when the storage does not answer.
    pub fn open(repository: &Repository, snapshot: &Snapshot) -> Result<Self> {
        let session = Self {
            repository: repository.clone(),
            snapshot: snapshot.clone(),
            state: Mutex::new(State::Gone { left: None }),
            seen: AtomicI64::new(i64::MIN),
        };
        session.enter(&mut session.state.lock())?;
        Ok(session)
    }

    /// What it reads.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    fn now(&self) -> i64 {
        self.repository.clock().now().0
    }

    /// V1. After an error it is yet to be passed.
    fn enter(&self, state: &mut State) -> Result<()> {
        let created = self.create();
        self.repository.reached(&created);
        let created = match created {
            // It would not answer whoever reads either.
            Err(e) if self.repository.is_silence(&e) => return Err(e),
            created => created,
        };
        self.leave(state);
        *state = match created {
            Ok(id) => State::Open { id, beaten: false },
            // Any other reason: what is there can still be read, and is verified. Only a collector that ends its grace
            // meanwhile can take it away, and then that is an error, never wrong bytes.
            Err(e) => {
                if !self.repository.told_alone() {
                    tracing::info!(
                        "reads without a session, so what is forgotten for good meanwhile may go while it is read: {e}"
                    );
                }
                State::Alone { may_pass: !matches!(e.kind(), ErrorKind::Denied | ErrorKind::Unsupported) }
            }
        };
        // Never before `open` is there: a collector that did not see it has made the snapshot final earlier.
        self.refuse_final(state)?;
        self.seen.store(self.now(), Ordering::Relaxed);
        Ok(())
    }

    /// V1, what comes after `open`.
    fn refuse_final(&self, state: &mut State) -> Result<()> {
        let forget = self.repository.forget_of(&self.snapshot.id);
        self.repository.reached(&forget);
        let gone = match forget {
            Ok(forget) => forget.is_some_and(|forget| forget.is_final()),
            Err(e) => {
                self.leave(state);
                return Err(e);
            }
        };
        if !gone {
            return Ok(());
        }
        self.leave(state);
        let left = if let State::Gone { left } = state { *left } else { None };
        *state = State::Refused { left };
        self.seen.store(i64::MIN, Ordering::Relaxed);
        Err(self.refused())
    }

    fn create(&self) -> Result<SessionId> {
        self.repository.was_writable()?;
        let id = SessionId::new(clock::random(self.repository.rng())?);
        let open = SessionOpen {
            kind: SessionKind::Read,
            volume: self.snapshot.volume,
            name: self.snapshot.record.name.clone(),
            parent: Some(self.snapshot.id),
            adopts: Vec::new(),
            process: Process::current(),
            started: self.repository.clock().now(),
            nonce: self.repository.nonce()?,
        };
        self.repository.create(&keys::session(&id, "open"), &open).map(|_| id)
    }

    fn refused(&self) -> Error {
        let (id, name) = (self.snapshot.id, &self.snapshot.record.name);
        let text = format!("snapshot {id} of {name:?} was forgotten for good; `wherry snapshots` shows what there is");
        Error::new(ErrorKind::NoSnapshot, text)
    }

    /// V4: a sign of life. When a collector has taken this reader for dead, or it could not begin as it should for a reason
    /// that may pass, it starts again with V1. Errors: `NoSnapshot` when it is too late for that; what the storage says.
    pub fn beat(&self) -> Result<()> {
        self.look(&mut self.state.lock())
    }

    fn look(&self, state: &mut State) -> Result<()> {
        let id = match state {
            State::Open { id, beaten } => {
                *beaten = true;
                *id
            }
            State::Gone { .. } | State::Alone { may_pass: true } => return self.enter(state),
            State::Refused { .. } => return Err(self.refused()),
            State::Alone { may_pass: false } | State::Closed => {
                self.seen.store(self.now(), Ordering::Relaxed);
                return Ok(());
            }
        };
        let key = keys::session(&id, "beat");
        let beat = Beat { at: self.repository.clock().now() };
        let storage = self.repository.storage();
        let told = storage.overwrite(&key, self.repository.sealed(&key, &beat)?);
        self.repository.reached(&told);
        let seen = storage.head(&keys::session(&id, "open"));
        self.repository.reached(&seen);
        match seen {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::warn!("this reader was taken for dead, for it was silent for too long; it starts again");
                // Nothing is read before that has gone well, also not by those who ask when it has failed in passing.
                self.seen.store(i64::MIN, Ordering::Relaxed);
                self.leave(state);
                self.enter(state)
            }
            seen => {
                seen?;
                self.seen.store(self.now(), Ordering::Relaxed);
                told
            }
        }
    }

    /// Before each read: fails when the snapshot is not kept for this reader any more.
    pub(crate) fn admit(&self) -> Result<()> {
        let is_fresh = || self.now().abs_diff(self.seen.load(Ordering::Relaxed)) < UNSEEN.as_nanos() as u64;
        if is_fresh() {
            return Ok(());
        }
        let mut state = self.state.lock();
        if is_fresh() {
            return Ok(());
        }
        match self.look(&mut state) {
            // No sign of life could be given, but `open` was seen: so it was not too late.
            Err(e) if e.kind() != ErrorKind::NoSnapshot && is_fresh() => Ok(()),
            looked => looked,
        }
    }

    /// Before it is said that something is lost (V4): looks for the note whenever it was seen last. Who was stalled within a request hears
    /// that it comes too late, and the own clock may have stood still as well.
    pub(crate) fn admit_anew(&self) -> Result<()> {
        let mut state = self.state.lock();
        let State::Open { id, .. } = &*state else { return self.look(&mut state) };
        // Without a sign of life: there may be much that is lost.
        let seen = self.repository.storage().head(&keys::session(id, "open"));
        self.repository.reached(&seen);
        match seen {
            Ok(_) => {
                self.seen.store(self.now(), Ordering::Relaxed);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound => self.look(&mut state),
            Err(e) => Err(e),
        }
    }

    /// The end: takes the note away. What fails of it is left to collectors.
    pub fn close(&self) {
        // Whoever holds it for long waits for a storage that does not answer.
        let Some(mut state) = self.state.try_lock_for(PATIENCE) else { return };
        let is_refused = matches!(*state, State::Refused { .. });
        self.leave(&mut state);
        *state = if is_refused { State::Refused { left: None } } else { State::Closed };
    }

    /// Takes the note away, if there is one.
    fn leave(&self, state: &mut State) {
        let (id, beaten) = match std::mem::replace(state, State::Gone { left: None }) {
            State::Open { id, beaten } => (id, beaten),
            State::Gone { left: Some(id) } | State::Refused { left: Some(id) } => (id, true),
            _ => return,
        };
        // `open` last: what is left without it would mean nothing to anybody.
        for part in if beaten { &["beat", "open"][..] } else { &["open"] } {
            // Of many that end not each should wait for an answer.
            let is_tried = !self.repository.is_out_of_reach();
            let deleted = is_tried.then(|| self.repository.storage().delete(&keys::session(&id, part)));
            if let Some(deleted) = &deleted {
                self.repository.reached(deleted);
            }
            match deleted {
                Some(Ok(())) => continue,
                Some(Err(e)) => tracing::debug!("the note of this reader stays until somebody removes it: {e}"),
                None => {}
            }
            *state = State::Gone { left: Some(id) };
            return;
        }
    }
}

impl Drop for ReadSession {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;

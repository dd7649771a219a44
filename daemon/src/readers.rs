//! The snapshots this process reads. Each has a session in the repository, so that collectors keep what it needs, and a
//! thread gives signs of life for all of them.

use crate::exit::{complain, of_kind};
use crate::signals::Cancel;
use crate::threads;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use wherry_repo::{Error, ErrorKind, ReadSession, Repository, Result, Snapshot};

/// Signs of life come this often; a reader that was silent for days is taken for dead.
const BEAT: Duration = Duration::from_secs(60);

/// A signal is looked for this often while standard output is written.
const LOOK: Duration = Duration::from_millis(50);

/// So long after a signal the process may end by itself.
const GRACE: Duration = Duration::from_secs(1);

type Sessions = Arc<Mutex<Vec<Weak<ReadSession>>>>;

/// All sessions of readers of this process; dropped, it ends them.
pub struct Readers {
    repository: Repository,
    sessions: Sessions,
    /// Gone with this, and so is the thread.
    _stop: Sender<()>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Readers({} sessions)", self.sessions.lock().len())
    }
}

impl Readers {
    /// None yet.
    pub fn start(repository: &Repository) -> Result<Self> {
        let sessions = Sessions::default();
        let (stop, stopped) = bounded::<()>(0);
        let beating = sessions.clone();
        let beats = move || {
            let mut told = false;
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                told = beat(&beating, told);
            }
        };
        let thread = std::thread::Builder::new().name("signs of life".to_owned()).spawn(beats);
        thread.map_err(|e| Error::new(ErrorKind::Unavailable, "threads cannot be started").with_source(e))?;
        Ok(Self { repository: repository.clone(), sessions, _stop: stop })
    }

    /// Begins to read a snapshot; the session ends when the last one lets go of it. Errors: `NoSnapshot` when it is
    /// forgotten for good.
    pub fn open(&self, snapshot: &Snapshot) -> Result<Arc<ReadSession>> {
        let session = Arc::new(ReadSession::open(&self.repository, snapshot)?);
        let mut sessions = self.sessions.lock();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        Ok(session)
    }

    /// Does work that writes to standard output. Whoever reads that may have stopped, and the storage may not answer: a
    /// signal ends the process all the same. The sessions are all there is to tidy.
    pub fn until_a_signal<T>(&self, cancel: &Cancel, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (done, ended) = bounded::<()>(0);
            if let Err(e) = threads::one(scope, || self.end_at_a_signal(cancel, ended)) {
                tracing::debug!("a signal is waited for by nobody: {e}");
            }
            let _done = done;
            work()
        })
    }

    /// Returns when the other side of `ended` is gone.
    fn end_at_a_signal(&self, cancel: &Cancel, ended: Receiver<()>) {
        while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if cancel.is_cancelled() && ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                self.end();
                let error = cancel.error();
                complain(&error.to_string());
                std::process::exit(of_kind(error.kind(), cancel) as i32);
            }
        }
    }

    /// Ends all sessions, whoever has them.
    pub fn end(&self) {
        let sessions = std::mem::take(&mut *self.sessions.lock());
        sessions.iter().filter_map(Weak::upgrade).for_each(|session| session.close());
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.end();
    }
}

/// A sign of life of each session. An error is told once until all goes well again; returns whether one was.
fn beat(sessions: &Sessions, told: bool) -> bool {
    let beating: Vec<_> = sessions.lock().iter().filter_map(Weak::upgrade).collect();
    let mut failed = false;
    for session in beating {
        match session.beat() {
            Ok(()) => {}
            // Whoever reads meets the same error. It stays so: once is enough.
            Err(e) if e.kind() == ErrorKind::NoSnapshot => {
                tracing::error!("{e}");
                sessions.lock().retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&session)));
            }
            Err(e) => {
                if !(told || failed) {
                    tracing::warn!("no sign of life could be given: {e}");
                }
                failed = true;
            }
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_repo::index::ChunkIndex;
    use wherry_repo::storage::{Memory, Storage};
    use wherry_repo::{
        CommitInfo, Components, Credential, InitOptions, PasswordCost, SnapshotWriter, System, WriterOptions,
    };

    #[test]
    fn what_is_forgotten_for_good_is_told_once() {
        let (storage, system) = (Arc::new(Memory::default()), Arc::new(System::default()));
        let components = Components { storage: storage.clone(), clock: system.clone(), rng: system };
        let mut options = InitOptions::default();
        options.password_cost = PasswordCost::new(8, 1);
        let credential = Credential::Password("x".to_owned().into());
        let repository = Repository::init(components, &options, &credential).unwrap();
        let snapshots = ["gone", "kept"].map(|name| {
            let options = WriterOptions { name: name.into(), ..WriterOptions::default() };
            let index = Arc::new(ChunkIndex::in_memory(1 << 20));
            SnapshotWriter::start(&repository, index, &options).unwrap().commit(CommitInfo::default()).unwrap()
        });
        let readers = Readers::start(&repository).unwrap();
        let sessions = snapshots.each_ref().map(|snapshot| readers.open(snapshot).unwrap());
        assert!(!beat(&readers.sessions, false));
        assert_eq!(readers.sessions.lock().len(), 2);
        let mut keys = Vec::new();
        let listed = storage.list("sess/", &mut |listed| {
            keys.push(listed.key);
            Ok(())
        });
        listed.unwrap();
        keys.iter().for_each(|key| storage.delete(key).unwrap());
        repository.forget(&snapshots[0].id, Duration::ZERO, "test").unwrap();
        assert!(repository.settle(&snapshots[0].id).unwrap());
        assert!(!beat(&readers.sessions, false), "it is told in another way");
        assert_eq!(readers.sessions.lock().len(), 1, "the next one has nothing to say of it");
        assert_eq!(sessions[0].beat().unwrap_err().kind(), ErrorKind::NoSnapshot);
        sessions[1].beat().unwrap();
    }
}

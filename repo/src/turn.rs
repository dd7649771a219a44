//! Writers of a repository for one process at a time. The rules T1 to T4 of `docs/concurrency.md`.

use crate::format::records::{Beat, Process, SessionKind, SessionOpen};
use crate::id::{SessionId, VolumeId};
use crate::session::{OpenSession, SILENT, open_sessions};
use crate::storage::{Lock, keys};
use crate::{Error, ErrorKind, Repository, Result, Timestamp, clock};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::time::Duration;

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(60);

/// This process writes, and of those that ask first no other does. Ends when it is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn {
    repository: Repository,
    _lock: Option<Lock>,
    /// The session that holds the place where the storage has no lock.
    session: Option<SessionId>,
    /// When the last sign of life was given, by the monotonic clock.
    beaten: Mutex<Duration>,
}

impl Turn {
    /// A sign of life about once a minute, to be called now and then by what may take long: who is silent for long loses the turn
    /// where the storage has no lock. `Busy` when that has happened: another process may write by now.
    pub fn beat_when_due(&self) -> Result<()> {
        let now = self.repository.clock().monotonic();
        let mut beaten = self.beaten.lock();
        if now.saturating_sub(*beaten) < BEAT {
            return Ok(());
        }
        *beaten = now;
        self.beat()
    }

    fn beat(&self) -> Result<()> {
        let Some(id) = &self.session else { return Ok(()) };
        let key = keys::session(id, "beat");
        let sealed = self.repository.sealed(&key, &Beat { at: self.repository.clock().now() })?;
        let storage = self.repository.storage();
        storage.overwrite(&key, sealed)?;
        match storage.head(&keys::session(id, "open")) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let text = "this process gave no sign of life for so long that others took it for dead, and may be writing: \
                            run the command again";
                Err(Error::new(ErrorKind::Busy, text))
            }
            seen => seen.map(drop),
        }
    }
}

impl Repository {
    /// Asks whether this process may write, before it does. `what` it is about to do is what others are told.
    ///
    /// Where several may write at once that is always so. Else this is the one turn until the result is dropped. Errors:
    /// [`ErrorKind::Unsupported`] a feature this build must not write beside, [`ErrorKind::Busy`] another process writes.
    pub fn begin_writing(&self, what: &str) -> Result<Turn> {
        self.check_writable()?;
        let beaten = Mutex::new(self.clock().monotonic());
        let mut turn = Turn { repository: self.clone(), _lock: None, session: None, beaten };
        if !self.is_single_writer() {
            return Ok(turn);
        }
        let process = Process::current();
        let now = self.clock().now();
        let holder = format!("{what} {} {} {}", process.host, process.pid, now.0);
        match self.storage().lock(&holder) {
            Ok(Some(lock)) => turn._lock = Some(lock), // T1
            Ok(None) => {
                let id = open(self, what, process, now)?; // T2
                turn.session = Some(id);
                // Silence is measured by the storage's clock: with one of ours that is hours ahead who works would be dead.
                let now = self.storage().head(&keys::session(&id, "open"))?.modified;
                stop_for_others(self, turn.session, now)?;
            }
            Err(e) if e.kind() == ErrorKind::Busy => return Err(self.busy(&held_by(&e.to_string(), now), None)),
            Err(e) => return Err(e),
        }
        Ok(turn)
    }

    fn busy(&self, who: &str, dead_in: Option<i64>) -> Error {
        let next = match dead_in {
            None => "wait until it has ended; its end, also by a kill, lets the next one in".to_owned(),
            Some(nanos) => format!(
                "wait until it has ended; should its machine be lost, it counts as dead in {}, unless it gives a sign of \
                 life until then",
                span(nanos)
            ),
        };
        let text = format!(
            "the repository at {} is for one process at a time (--single-writer), and {who} is writing to it: {next}",
            self.storage().location()
        );
        Error::new(ErrorKind::Busy, text)
    }
}

/// T2: takes a place among the sessions. It reads and writes nothing, so collectors need not wait for it (V2).
fn open(repository: &Repository, what: &str, process: Process, started: Timestamp) -> Result<SessionId> {
    let id = SessionId::new(clock::random(repository.rng())?);
    let open = SessionOpen {
        kind: SessionKind::Read,
        volume: VolumeId::new([0; 16]),
        name: what.into(),
        parent: None,
        adopts: Vec::new(),
        process,
        started,
        nonce: repository.nonce()?,
    };
    repository.create(&keys::session(&id, "open"), &open)?;
    Ok(id)
}

/// Whether a session keeps a place, or writes a snapshot; those that read one do not matter.
fn writes(session: &OpenSession) -> bool {
    match session.open.kind {
        SessionKind::Write => true,
        SessionKind::Read => session.open.parent.is_none(),
    }
}

/// T3: an error when some other process that lives has a place. Places of dead ones are cleared.
pub(crate) fn stop_for_others(repository: &Repository, own: Option<SessionId>, now: Timestamp) -> Result<()> {
    for session in
        open_sessions(repository, &HashSet::new(), now)?.into_iter().filter(|s| Some(s.id) != own && writes(s))
    {
        let OpenSession { open, last, dead, .. } = &session;
        if !dead {
            let Process { host, pid, .. } = &open.process;
            let who = told(&what(open), host, &pid.to_string(), now.0.saturating_sub(open.started.0));
            let left = (SILENT.as_nanos() as i64).saturating_sub(now.0.saturating_sub(last.0));
            return Err(repository.busy(&who, Some(left)));
        }
        if open.kind == SessionKind::Read {
            session.clear(repository);
        }
    }
    Ok(())
}

fn what(open: &SessionOpen) -> String {
    match open.kind {
        SessionKind::Write => format!("backup of {:?}", open.name),
        SessionKind::Read => open.name.clone(),
    }
}

/// `what host pid started` of a lock file, for people.
pub(crate) fn held_by(line: &str, now: Timestamp) -> String {
    let mut words = line.rsplitn(4, ' ');
    match (words.next().and_then(|t| t.parse::<i64>().ok()), words.next(), words.next(), words.next()) {
        (Some(started), Some(pid), Some(host), Some(what)) => told(what, host, pid, now.0.saturating_sub(started)),
        _ => "another process".to_owned(),
    }
}

fn told(what: &str, host: &str, pid: &str, nanos: i64) -> String {
    format!("another process ({what}, pid {pid} on host {host}, for {})", span(nanos))
}

/// A length of time for people; the first two units of it.
fn span(nanos: i64) -> String {
    let seconds = nanos.max(0) / 1_000_000_000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

impl Drop for Turn {
    /// T4.
    fn drop(&mut self) {
        let Some(id) = self.session.take() else { return };
        // `open` last: what is left without it would mean nothing to anybody.
        let delete = |part| self.repository.storage().delete(&keys::session(&id, part));
        if let Err(e) = delete("beat").and_then(|()| delete("open")) {
            tracing::warn!("the turn was not given back, others wait until this process has ended: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Local, Memory, Storage};
    use crate::{Clock, Components, Credential, InitOptions, PasswordCost, System};
    use std::sync::Arc;

    /// Now, and so much later.
    #[derive(Debug)]
    struct Later(Mutex<Duration>);

    impl Clock for Later {
        fn now(&self) -> Timestamp {
            Timestamp(System::default().now().0 + self.0.lock().as_nanos() as i64)
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock()
        }

        fn sleep(&self, _: Duration) {}
    }

    fn password() -> Credential {
        Credential::Password("x".to_owned().into())
    }

    fn components(storage: &Arc<dyn Storage>, later: Duration) -> Components {
        Components {
            storage: storage.clone(),
            clock: Arc::new(Later(Mutex::new(later))),
            rng: Arc::new(System::default()),
        }
    }

    fn repository(storage: &Arc<dyn Storage>, single_writer: bool) -> Repository {
        let password_cost = PasswordCost { memory_kib: 8, passes: 1 };
        let options = InitOptions { single_writer, password_cost, ..InitOptions::default() };
        Repository::init(components(storage, Duration::ZERO), &options, &password()).unwrap()
    }

    fn sessions(repository: &Repository) -> usize {
        repository.list(keys::SESS).unwrap().len()
    }

    #[test]
    fn one_at_a_time_with_a_lock_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let local = || -> Arc<dyn Storage> { Arc::new(Local::new(dir.path(), true)) };
        let memory: Arc<dyn Storage> = Arc::new(Memory::default());
        for (storage, again) in [(local(), local()), (memory.clone(), memory)] {
            let first = repository(&storage, true);
            let second = Repository::open(components(&again, Duration::ZERO), &password()).unwrap();
            let turn = first.begin_writing("forget").unwrap();
            let held = sessions(&first);
            for _ in 0..2 {
                let error = second.begin_writing("key add").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Busy);
                let (me, text) = (std::process::id(), error.to_string());
                let host = crate::host_name();
                for word in [format!("(forget, pid {me} on host {host}, for"), "--single-writer".into(), "wait".into()]
                {
                    assert!(text.contains(&word), "{word:?} is not in {text}");
                }
            }
            assert_eq!(sessions(&first), held, "who was refused leaves nothing behind");
            drop(turn);
            assert_eq!(sessions(&first), 0);
            let _turn = second.begin_writing("key add").unwrap();
        }
    }

    #[test]
    fn where_many_may_write_nobody_waits() {
        let storage: Arc<dyn Storage> = Arc::new(Memory::default());
        let repository = repository(&storage, false);
        let _one = repository.begin_writing("forget").unwrap();
        let _two = repository.begin_writing("forget").unwrap();
        assert_eq!(sessions(&repository), 0);
    }

    #[test]
    fn a_place_of_a_dead_process_is_free_and_one_of_a_lost_machine_after_two_hours() {
        let clock = Arc::new(Later(Mutex::default()));
        let storage: Arc<dyn Storage> = Arc::new(Memory::new(clock.clone()));
        let first = repository(&storage, true);
        let here = Process::current();
        let gone = Process { start: here.start + 1, ..here.clone() };
        let dead = open(&first, "forget", gone, first.clock().now()).unwrap();
        drop(first.begin_writing("key add").unwrap());
        assert!(!first.list(keys::SESS).unwrap().contains(&keys::session(&dead, "open")), "it is cleared");

        let elsewhere = Process { host: "far".into(), boot: "other".into(), ..here };
        open(&first, "forget", elsewhere, first.clock().now()).unwrap();
        let text = first.begin_writing("key add").unwrap_err().to_string();
        assert!(text.contains("on host far") && text.contains("counts as dead in 1 h 59 min"), "{text}");
        // By the storage's clock, whatever that of the one who asks says.
        let later = |minutes: u64| {
            *clock.0.lock() = Duration::from_secs(60 * minutes);
            let repository =
                Repository::open(components(&storage, Duration::from_secs(minutes % 7 * 3600)), &password());
            repository.unwrap().begin_writing("key add").map(drop)
        };
        assert_eq!(later(0).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(later(6).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(later(118).unwrap_err().kind(), ErrorKind::Busy);
        later(122).unwrap();
        assert_eq!(sessions(&first), 0);
    }

    #[test]
    fn who_was_taken_for_dead_is_told_at_its_next_sign_of_life() {
        let storage: Arc<dyn Storage> = Arc::new(Memory::default());
        repository(&storage, true);
        let clock = Arc::new(Later(Mutex::default()));
        let components = Components { clock: clock.clone(), ..components(&storage, Duration::ZERO) };
        let first = Repository::open(components, &password()).unwrap();
        let turn = first.begin_writing("gc").unwrap();
        turn.beat_when_due().unwrap();
        assert_eq!(sessions(&first), 1, "it has just begun");
        *clock.0.lock() += BEAT;
        turn.beat_when_due().unwrap();
        assert_eq!(sessions(&first), 2, "a sign of life");
        // What another process does with a place in which nobody has been seen for long.
        let id = turn.session.unwrap();
        ["beat", "open"].iter().for_each(|part| storage.delete(&keys::session(&id, part)).unwrap());
        let _other = first.begin_writing("forget").unwrap();
        turn.beat_when_due().unwrap();
        *clock.0.lock() += BEAT;
        assert_eq!(turn.beat_when_due().unwrap_err().kind(), ErrorKind::Busy);
        drop(turn);
        assert_eq!(sessions(&first), 1, "it leaves nothing behind, and the other one's place stands");
    }

    #[test]
    fn holders_are_told_in_words() {
        let second = 1_000_000_000;
        let now = Timestamp(7200 * second);
        let line = format!("backup of \"a b\" host7 42 {}", 60 * second);
        let text = held_by(&line, now);
        assert_eq!(text, "another process (backup of \"a b\", pid 42 on host host7, for 1 h 59 min)");
        for odd in ["", "x", "a b c d", "  "] {
            assert_eq!(held_by(odd, now), "another process");
        }
        assert_eq!([span(-5), span(61 * second), span(90_000 * second)], ["0 s", "1 min 1 s", "1 d 1 h"]);
    }
}

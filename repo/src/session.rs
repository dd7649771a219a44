//! One writer's run, as `docs/concurrency.md` orders its steps: open, bars, seen, parent, then decisions. W, A, R and C
//! below are the numbers of that document.

mod listed;
mod others;
mod read;

use listed::{Listed, list_packs};
pub(crate) use others::{OpenSession, open_sessions};
use others::{dead_sessions, fence_dead};
pub use read::ReadSession;

use crate::format::records::{
    Beat, Fence, Generation, Outcome, Process, Seen, SessionKind, SessionOpen, SnapshotRecord, Sweep,
};
use crate::id::{Location, PackId, SessionId, SnapshotId, VolumeId};
use crate::repository::{Snapshot, SnapshotList};
use crate::storage::keys;
use crate::{Error, ErrorKind, Repository, Result, Timestamp, clock};
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Which snapshot a new one is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParentChoice {
    /// The newest whole one of the volume that nobody asked to forget.
    Auto,
    /// None: everything is looked up in the index.
    None,
    /// This one.
    Snapshot(SnapshotId),
}

/// A session of another machine counts as dead when it gave no sign of life for so long. Liveness only: a session that
/// is fenced wrongly loses its run, never data.
pub(crate) const SILENT: Duration = Duration::from_secs(2 * 3600);

/// A session that may decide and commit.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) repository: Repository,
    pub(crate) id: SessionId,
    pub(crate) volume: VolumeId,
    pub(crate) name: String,
    pub(crate) parent: Option<Snapshot>,
    /// Dead sessions that left packs, which may be used.
    pub(crate) adopts: Vec<SessionId>,
    pub(crate) started: Timestamp,
    /// Bytes of all that was written so far and is no data pack, but for the beat.
    pub(crate) metadata: AtomicU64,
    /// Bytes of the beat, which is one object however often it is written.
    beat: AtomicU64,
    bars: RwLock<Bars>,
    /// The generation of the last acknowledged `seen`.
    seen: AtomicU32,
    tracked: Mutex<HashSet<PackId>>,
    /// The packs that were there when it began; `None`: too many to keep.
    listed: Option<Listed>,
    /// Packs that a check has found damaged.
    damaged: HashSet<PackId>,
}

/// Packs no hit may name, whatever says so: the union of every condemned list read so far.
#[derive(Debug, Default)]
struct Bars {
    generation: u32,
    packs: HashSet<PackId>,
}

impl Session {
    /// W1 to W8. Opens sessions until one has a parent that stays. Gives also the packs of chunks that dead sessions left.
    pub(crate) fn start(repository: &Repository, name: &str, choice: &ParentChoice) -> Result<(Self, Vec<PackId>)> {
        const TRIES: usize = 8;
        repository.check_writable()?;
        let volume = repository.volume_id(name);
        let mut written = 0;
        for _ in 0..TRIES {
            let list = repository.snapshots(Some(volume))?;
            let parent = choose_parent(repository, &list, choice)?;
            let adopts = dead_sessions(repository, volume, &list)?;
            if let Some(opened) = Self::open(repository, volume, name, parent, adopts, &mut written)? {
                return Ok(opened);
            }
        }
        let text = format!(
            "snapshots of {name:?} are forgotten faster than one can be built upon; try again or use --parent none"
        );
        Err(Error::new(ErrorKind::Conflict, text))
    }

    /// One try; `None` when the parent is being forgotten: a parent is never exchanged inside a session. `written` are
    /// the bytes of the records of all tries.
    fn open(
        repository: &Repository,
        volume: VolumeId,
        name: &str,
        parent: Option<Snapshot>,
        adopts: Vec<SessionId>,
        written: &mut u64,
    ) -> Result<Option<(Self, Vec<PackId>)>> {
        let id = SessionId::new(clock::random(repository.rng())?);
        let started = repository.clock().now();
        let open = SessionOpen {
            kind: SessionKind::Write,
            volume,
            name: name.into(),
            parent: parent.as_ref().map(|p| p.id),
            adopts: adopts.clone(),
            process: Process::current(),
            started,
            nonce: repository.nonce()?,
        };
        *written += repository.create(&keys::session(&id, "open"), &open)?; // W2
        let mut session = Self {
            repository: repository.clone(),
            id,
            volume,
            name: name.into(),
            parent,
            adopts: Vec::new(),
            started,
            metadata: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            bars: RwLock::default(),
            seen: AtomicU32::new(0),
            tracked: Mutex::default(),
            listed: None,
            damaged: HashSet::new(),
        };
        let begun = session.begin(adopts, written);
        Ok(session.or_leave(begun)?.map(|left| (session, left)))
    }

    /// A2 to W8 of a session that is open. The packs that dead ones left; `None` when its parent is being forgotten.
    fn begin(&mut self, adopts: Vec<SessionId>, written: &mut u64) -> Result<Option<Vec<PackId>>> {
        self.adopts = fence_dead(&self.repository, self.volume, adopts, written)?; // A2
        let generation = self.read_bars()?; // W3
        *written += self.put_seen(generation)?; // W4
        if let Some(parent) = &self.parent {
            let hidden = self.repository.forget_of(&parent.id)?.is_some_and(|f| f.hides()); // W5
            let gone = match self.repository.read::<Outcome>(&keys::snap(&self.volume, &parent.id)) {
                Ok(_) => false, // W6
                Err(e) if self.repository.is_damage(&e) => true,
                Err(e) => return Err(e),
            };
            if hidden || gone {
                *written += self.fence("its parent was being forgotten")?.unwrap_or(0);
                return Ok(None);
            }
        }
        self.metadata.store(*written, Ordering::Relaxed);
        let (listed, left) = list_packs(&self.repository, &self.adopts)?; // W8
        self.listed = listed;
        self.adopts.retain(|dead| left.iter().any(|pack| pack.session == *dead));
        self.damaged = damaged_packs(&self.repository);
        Ok(Some(left))
    }

    /// What fails before there is work that could be gone on with ends the session: collectors on other machines would wait for
    /// it for hours. A storage that does not answer takes no Fence either.
    pub(crate) fn or_leave<T>(&self, made: Result<T>) -> Result<T> {
        if let Err(e) = &made
            && e.kind() != ErrorKind::Unavailable
            && let Err(e) = self.leave()
        {
            tracing::debug!("session {} stays open: {e}", self.id);
        }
        made
    }

    /// W3, R1 to R3: reads the lists it lacks and installs them as bars. Returns the newest generation.
    fn read_bars(&self) -> Result<u32> {
        let known = self.bars.read().generation;
        let mut newest = known;
        let mut condemned = Vec::new();
        let numbers = || -> Result<Vec<u32>> {
            let mut found: Vec<u32> =
                self.repository.list(keys::GEN)?.iter().filter_map(keys::parse_generation).map(|(n, _)| n).collect();
            found.retain(|n| *n > known);
            found.sort_unstable();
            found.dedup();
            Ok(found)
        };
        let gap = |found: &[u32]| (known + 1..).zip(found).find(|(n, found)| n != *found).map(|(n, _)| n);
        // The pages of a list need not be one instant (P2): what is missing twice in a row is missing.
        let mut missing = None;
        let found = loop {
            let found = numbers()?;
            match gap(&found) {
                None => break found,
                Some(n) if missing == Some(n) => {
                    let key = keys::generation(n);
                    let text = format!(
                        "{key} is gone: bring it back from a copy of the repository; no backup may begin without it"
                    );
                    return Err(Error::corrupt(text).with_object(key));
                }
                another => missing = another,
            }
        };
        // Side by side, and not all of a long chain in memory at once.
        let found: Vec<_> = found.into_iter().map(|n| (n, keys::generation(n))).collect();
        for part in found.chunks(64) {
            for ((n, _), list) in part.iter().zip(self.repository.read_many::<_, Generation>(part)) {
                let (list, _) = list.map_err(|e| {
                    // M5: without the list a backup could refer to what will be deleted.
                    match self.repository.is_damage(&e) {
                        true => e.advise("bring it back from a copy of the repository: no backup may begin without it"),
                        false => e,
                    }
                })?;
                condemned.extend(list.condemned);
                newest = newest.max(*n);
            }
        }
        // Workers hold the read half while they turn a hit into a slot, so none is in between after this line.
        let mut bars = self.bars.write();
        bars.packs.extend(condemned);
        bars.generation = newest.max(bars.generation);
        Ok(bars.generation)
    }

    /// W4, R5. Nobody else writes this key: when it exists, an earlier try that failed has written it.
    fn put_seen(&self, generation: u32) -> Result<u64> {
        let seen = Seen { generation, volume: Some(self.volume) };
        let key = keys::seen(&self.id, generation);
        let written = match self.repository.create(&key, &seen) {
            Err(e) if e.kind() == ErrorKind::Conflict && self.repository.read::<Seen>(&key)? == seen => 0,
            created => created?,
        };
        self.seen.fetch_max(generation, Ordering::Relaxed);
        Ok(written)
    }

    /// D2: true when a hit at this place may become a slot; its pack is then tracked. Own packs are always allowed.
    pub(crate) fn may_hit(&self, at: &Location) -> bool {
        if at.pack.session == self.id {
            return true;
        }
        let bars = self.bars.read();
        if bars.packs.contains(&at.pack) || !self.is_listed(at) {
            return false;
        }
        self.tracked.lock().insert(at.pack);
        true
    }

    /// D1: true when a slot of the parent may be taken over: its pack was there when the session began and reaches that far, and
    /// no check has found it damaged.
    pub(crate) fn is_listed(&self, at: &Location) -> bool {
        !self.damaged.contains(&at.pack) && self.listed.as_ref().is_none_or(|listed| listed.holds(at))
    }

    /// R1 to R5, and a sign of life. An error of kind `Conflict` means the session is over: start another one, which
    /// adopts what this one stored.
    pub(crate) fn beat(&self) -> Result<()> {
        self.raise()?;
        // Not before: whoever cannot hear of lists would be waited for as long as it runs, and nothing deleted meanwhile.
        let key = keys::session(&self.id, "beat");
        let beat = Beat { at: self.repository.clock().now() };
        let sealed = self.repository.sealed(&key, &beat)?;
        let len = sealed.len() as u64;
        self.repository.storage().overwrite(&key, sealed)?;
        self.beat.store(len, Ordering::Relaxed);
        Ok(())
    }

    /// R1 to R5.
    fn raise(&self) -> Result<()> {
        let newest = self.read_bars()?;
        match self.outcome()? {
            Some(Outcome::Fence(fence)) => return Err(self.lost(&fence.reason)),
            Some(Outcome::Snapshot(_)) => return Ok(()),
            None => {}
        }
        // Not with the bars: the steps after a list was read may have failed the last time.
        if newest == self.seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bars = self.bars.read();
        let hit = self.tracked.lock().iter().any(|pack| bars.packs.contains(pack));
        let own = bars.packs.iter().any(|pack| pack.session == self.id);
        drop(bars);
        if hit || own {
            // R4 by starting over: the source is read again and everything stored so far is found again.
            let reason = format!("generation {newest} condemned packs this run refers to");
            return match self.fence(&reason)? {
                // The commit was first: whatever it refers to, the collector waits for it (G9).
                None => Ok(()),
                Some(_) => Err(self.lost(&reason)),
            };
        }
        let len = self.put_seen(newest)?;
        self.metadata.fetch_add(len, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of all objects this run has left in the storage so far that are no data packs.
    pub(crate) fn written(&self) -> u64 {
        self.metadata.load(Ordering::Relaxed) + self.beat.load(Ordering::Relaxed)
    }

    /// N3: gives the run up. The next run of the volume adopts what it stored.
    pub(crate) fn leave(&self) -> Result<()> {
        self.fence("it was given up by its own process").map(drop)
    }

    fn lost(&self, reason: &str) -> Error {
        let text =
            format!("this run of {:?} was ended ({reason}); run it again: what it stored is not sent twice", self.name);
        Error::new(ErrorKind::Conflict, text)
    }

    fn outcome(&self) -> Result<Option<Outcome>> {
        match self.repository.read(&keys::snap(&self.volume, &self.id)) {
            Ok(outcome) => Ok(Some(outcome)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Ends the session without a snapshot, see [`fence`].
    pub(crate) fn fence(&self, reason: &str) -> Result<Option<u64>> {
        fence(&self.repository, self.volume, self.id, reason)
    }

    /// C1 to C4: the only commit point. Every pack the record leads to is acknowledged.
    pub(crate) fn commit(&self, record: SnapshotRecord) -> Result<Snapshot> {
        self.repository.check_writable()?;
        let key = keys::snap(&self.volume, &self.id);
        let outcome = Outcome::Snapshot(Box::new(record));
        let sealed = self.repository.sealed(&key, &outcome)?;
        let record_size = sealed.len() as u64;
        // The request may have been carried out, or will be: its answer is what is missing.
        let unknown = |e: Error| {
            e.context(format!("whether snapshot {} of {:?} was committed is not known", self.id, self.name))
                .advise("`wherry snapshots` shows it if it was; the next run of the volume settles it")
        };
        match self.repository.storage().create(&key, sealed) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Conflict => match self.outcome().map_err(unknown)? {
                Some(theirs) if theirs == outcome => {}
                Some(Outcome::Fence(fence)) => return Err(self.lost(&fence.reason)),
                _ => {
                    return Err(Error::internal(format!(
                        "another snapshot stands under the key of session {}",
                        self.id
                    )));
                }
            },
            Err(e) if e.is_unclear() => return Err(unknown(e)),
            Err(e) => return Err(e),
        }
        match outcome {
            Outcome::Snapshot(record) => {
                Ok(Snapshot { id: self.id, volume: self.volume, record: *record, record_size })
            }
            Outcome::Fence(_) => Err(Error::internal("a fence was committed")),
        }
    }
}

impl Repository {
    /// A2 for one session of whose process the caller knows that it works no more, although nobody else could tell: its
    /// next run need not wait for two hours of silence. `false`: it had committed before, and its snapshot stands.
    ///
    /// # Errors
    /// When the storage does not answer.
    pub fn end_session(&self, volume: VolumeId, id: SessionId, reason: &str) -> Result<bool> {
        Ok(fence(self, volume, id, reason)?.is_some())
    }

    /// G8: publishes a condemned list. `Conflict` when the number is taken.
    pub fn publish_generation(&self, n: u32, list: &Generation) -> Result<()> {
        self.create(&keys::generation(n), list).map(drop)
    }

    /// The condemned list of generation n. For collectors and tests.
    ///
    /// # Errors
    /// `NotFound` when there is none of this number, `Corrupt` when it cannot be read.
    pub fn generation(&self, n: u32) -> Result<Generation> {
        self.read(&keys::generation(n))
    }

    /// Publishes a delete set (G12). For collectors and tests.
    ///
    /// # Errors
    /// `Conflict` when there is one of this number.
    pub fn publish_sweep(&self, n: u32, sweep: &Sweep) -> Result<()> {
        self.create(&keys::sealed(n), sweep).map(drop)
    }

    /// The delete set of generation n. For collectors and tests.
    ///
    /// # Errors
    /// As [`Self::generation`].
    pub fn sweep(&self, n: u32) -> Result<Sweep> {
        self.read(&keys::sealed(n))
    }
}

/// Creates a Fence on a session's key; the bytes that took (none when somebody else had fenced it), or `None` when the
/// session has committed already.
pub(crate) fn fence(repository: &Repository, volume: VolumeId, id: SessionId, reason: &str) -> Result<Option<u64>> {
    let key = keys::snap(&volume, &id);
    let fence = Fence { reason: reason.into(), at: repository.clock().now(), nonce: repository.nonce()? };
    match repository.create(&key, &Outcome::Fence(fence)) {
        Ok(written) => Ok(Some(written)),
        Err(e) if e.kind() == ErrorKind::Conflict => match repository.read(&key)? {
            Outcome::Snapshot(_) => Ok(None),
            Outcome::Fence(_) => Ok(Some(0)),
        },
        Err(e) => Err(e),
    }
}

/// W1.
fn choose_parent(repository: &Repository, list: &SnapshotList, choice: &ParentChoice) -> Result<Option<Snapshot>> {
    if *choice == ParentChoice::None {
        return Ok(None);
    }
    for (key, error) in &list.damaged {
        tracing::warn!("{key} cannot be read and is not built upon: {error}");
    }
    match choice {
        ParentChoice::Snapshot(id) => match list.snapshots.iter().find(|s| s.id == *id) {
            Some(parent) if !list.is_visible(id) => {
                Err(cannot_be_parent(id, &format!("it is forgotten (`wherry unforget {}` takes that back)", parent.id)))
            }
            Some(parent) if parent.record.partial => {
                Err(cannot_be_parent(id, "it is partial: some of it was unreadable"))
            }
            Some(parent) => Ok(Some(parent.clone())),
            None => match repository.snapshots(None)?.snapshots.into_iter().find(|s| s.id == *id) {
                Some(other) => Err(cannot_be_parent(id, &format!("it is of another volume ({:?})", other.record.name))),
                None => Err(Error::new(ErrorKind::NoSnapshot, format!("there is no snapshot {id}"))),
            },
        },
        _ => Ok(list.visible().filter(|s| !s.record.partial).last().cloned()),
    }
}

fn cannot_be_parent(id: &SnapshotId, why: &str) -> Error {
    Error::invalid(format!("snapshot {id} cannot be built upon: {why}; use --parent auto, or name another one"))
}

/// W8: the packs that checks have found damaged. Not to know them is how it was before they were looked at, and no reason to make
/// no backup.
fn damaged_packs(repository: &Repository) -> HashSet<PackId> {
    match repository.damaged_packs() {
        Ok(damaged) => {
            if !damaged.is_empty() {
                let packs = damaged.len();
                tracing::info!(packs, "checks found damaged packs: what is needed of them is stored anew");
            }
            damaged
        }
        Err(e) => {
            tracing::warn!("which packs are damaged is not known, so this backup may refer to some: {e}");
            HashSet::new()
        }
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;

//! Collecting garbage: rules G and I of `docs/concurrency.md`, whose names the functions here bear.
//!
//! 1. What there is: packs, forgets, sessions, snapshots, in this order (`lists`).
//! 2. What of it is referred to: one bit for each chunk and node (`packs`, `mark`).
//! 3. Packs with little that is are copied (`copy`), those of older key epochs are sealed anew where that is asked for
//!    (`rewrite`), and a list condemns them together with those nobody refers to.
//! 4. Every session that writes must have seen the list, ended, or been fenced (`wait`).
//! 5. What came meanwhile is marked too, and what it needs is taken out of the list: the delete set (`generation`).
//! 6. After a grace exactly that is deleted (`sweep`), and index segments are put together (`compact`).
//!
//! It can be ended at any moment and begun again anywhere. Nothing but the chain of lists is taken over from a run that was
//! ended, so any number of collectors may run at once.

mod compact;
mod copy;
mod generation;
mod intact;
mod lists;
mod mark;
mod packs;
mod report;
mod rewrite;
mod sessions;
mod sweep;
mod wait;

pub(crate) use generation::missing_generation;
pub use report::{Collected, Packed, Waiting};

use crate::format::records::Beat;
use crate::id::{PackId, SessionId};
use crate::storage::{Storage, keys};
use crate::turn::{Turn, stop_for_others};
use crate::{Error, ErrorKind, Repository, Result, Timestamp, clock};
use generation::Chain;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// How garbage is collected.
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// Says what would be condemned, and writes nothing at all.
    pub dry_run: bool,
    /// Packs are deleted no sooner than this after their delete set was sealed, by the storage's clock: for readers that
    /// hold no session.
    pub grace: Duration,
    /// A session that writes and gave no sign of life for so long is ended. One whose process is certainly gone is at once.
    pub fence_after: Duration,
    /// Sessions that live are waited for no longer than this; the next run goes on.
    pub patience: Duration,
    /// Requests to the storage under way at once.
    pub threads: usize,
    /// Bytes of memory for marks and look-ups; packs that are filled not counted.
    pub memory: u64,
    /// Longest pack that is written in bytes.
    pub pack_size: usize,
    /// Bytes that are copied by one run at most.
    pub copy_most: u64,
    /// What is sealed under older key epochs is sealed anew.
    pub rewrite: bool,
    /// Bytes that are sealed anew by one run at most; the next one goes on.
    pub rewrite_most: u64,
    /// Forgets whose reason begins so are not made final: whoever asked for them looks once more before that.
    pub spared_reason: Option<&'static str>,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            grace: Duration::from_secs(24 * 3600),
            fence_after: Duration::from_secs(2 * 3600),
            patience: Duration::from_secs(5 * 60),
            threads: 8,
            memory: 64 << 20,
            pack_size: 32 << 20,
            copy_most: 8 << 30,
            rewrite: false,
            rewrite_most: 64 << 30,
            spared_reason: None,
        }
    }
}

/// What a collector is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectStep {
    /// Lists what there is; counted in packs.
    Lists,
    /// Marks; counted in bytes of chunks and nodes that are referred to, of all that packs have.
    Mark,
    /// Copies; counted in bytes.
    Copy,
    /// Waits for sessions; counted in those that are waited for.
    Wait,
    /// Deletes; counted in bytes.
    Sweep,
    /// Puts index segments together; counted in segments.
    Compact,
}

/// How far a collector is: a step, what is done of it and its total. It is called now and then, also while waiting, from any
/// thread; an error it returns ends the run, and the next one goes on.
pub type CollectWatch<'a> = &'a (dyn Fn(CollectStep, u64, u64) -> Result<()> + Sync);

/// So often a run begins anew when other collectors come before it.
const TRIES: usize = 5;

impl Repository {
    /// Collects garbage. Whoever calls it has a turn ([`begin_collecting`](Self::begin_collecting)).
    ///
    /// Errors: `Unsupported` a feature this build must not delete beside; `Corrupt` when anything cannot be read that leads
    /// to what is kept: then nothing is condemned, and the error names the object; `Invalid` when memory does not suffice.
    pub fn collect(&self, options: &CollectOptions, watch: CollectWatch<'_>) -> Result<Collected> {
        self.check_collectable()?;
        if options.rewrite {
            self.keys().learn()?;
        }
        let mut report = Collected::default();
        if options.dry_run {
            // Of two that look at the same objects the one without effects must not see another plan.
            let at = self.storage().time()?.unwrap_or_else(|| self.clock().now());
            let now = Now { at, since: self.clock().monotonic() };
            let run = Run::new(self, options, watch, now);
            let looked = run.look(&mut report);
            return looked.map(|()| report).map_err(|e| if self.is_damage(&e) { lost(e) } else { e });
        }
        let lead = match Lead::open(self) {
            // Not even that fits. What was sealed before makes room.
            Err(full) if full.kind() == ErrorKind::Full => {
                let now = self.newest_time(watch)?;
                self.make_room(full, now, options, watch, &mut report)?;
                Lead::open(self)?
            }
            lead => lead?,
        };
        let run = Run::new(self, options, watch, lead.now);
        lead.clear_others(&run)?;
        match run.generations(&mut report) {
            // What was sealed before makes room.
            Err(e) if e.kind() == ErrorKind::Full => {
                run.sweep(&mut report)?;
                return Err(e);
            }
            done => done?,
        }
        run.sweep(&mut report)?;
        run.compact(&mut report)?;
        Ok(report)
    }

    /// [`begin_writing`](Self::begin_writing) for whoever collects. Where the note of a turn has no room it deletes first what was sealed
    /// before (T2); how much that was is the second value.
    pub fn begin_collecting(
        &self,
        what: &str,
        options: &CollectOptions,
        watch: CollectWatch<'_>,
    ) -> Result<(Turn, Packed)> {
        self.check_collectable()?;
        let full = match self.begin_writing(what) {
            // A storage that has a lock needs no note.
            Err(full) if full.kind() == ErrorKind::Full && self.storage().lock(what)?.is_none() => full,
            turn => return Ok((turn?, Packed::default())),
        };
        let now = self.newest_time(watch)?;
        // Where nothing is written the newest object gets no older: whoever died would be waited for for ever.
        stop_for_others(self, None, self.storage().time()?.unwrap_or(now.at))?;
        let mut report = Collected::default();
        self.make_room(full, now, options, watch, &mut report)?;
        Ok((self.begin_writing(what)?, report.swept))
    }

    /// G13 where nothing can be written.
    fn make_room(
        &self,
        full: Error,
        now: Now,
        options: &CollectOptions,
        watch: CollectWatch<'_>,
        report: &mut Collected,
    ) -> Result<()> {
        Run::new(self, options, watch, now).sweep(report)?;
        if report.swept.packs == 0 {
            return Err(full.advise(
                "nothing that was condemned before is to be deleted yet, so room has to be made by other means",
            ));
        }
        tracing::warn!("the storage was full; {} packs that were condemned before are deleted", report.swept.packs);
        Ok(())
    }

    /// What time it is by the storage's clock, where nothing can be written: its newest object says it, which is not later than it
    /// is. So nothing is deleted too soon, and nobody taken for dead who is not.
    fn newest_time(&self, watch: CollectWatch<'_>) -> Result<Now> {
        let (mut newest, mut listed) = (Timestamp(i64::MIN), 0u64);
        self.storage().list("", &mut |object| {
            newest = newest.max(object.modified);
            listed += 1;
            if listed.is_multiple_of(1000) { watch(CollectStep::Lists, listed, 0) } else { Ok(()) }
        })?;
        // An object from the future, of a clock that was wrong, must not let a grace end early.
        Ok(Now { at: newest.min(self.clock().now()), since: self.clock().monotonic() })
    }
}

impl Repository {
    /// What time it is by the storage's clock: that of an object which is written, looked at and removed, as a collector has it.
    pub fn storage_time(&self) -> Result<Timestamp> {
        Ok(Lead::open(self)?.now.at)
    }
}

/// What all steps share.
struct Run<'a> {
    repository: &'a Repository,
    options: &'a CollectOptions,
    watch: CollectWatch<'a>,
    now: Now,
    /// Packs that this run has found damaged: no mark but the next takes them for intact.
    damaged: Mutex<BTreeSet<PackId>>,
    /// Of those, what this try has found, and their bytes; none of one that lost its own index and maybe nothing else.
    unopened: Mutex<BTreeMap<PackId, Option<u64>>>,
    /// Copies of chunks of damaged packs that were opened: the pack, and the place in it.
    opened: Mutex<HashSet<(PackId, u32)>>,
}

/// How long before `now` something was written; none where it seems to come later.
fn since(now: Timestamp, modified: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(now.0.saturating_sub(modified.0)).unwrap_or(0))
}

/// What became of a try.
enum Tried<T> {
    Done(T),
    /// Another collector came before: all that was computed is thrown away.
    Overtaken,
    /// Likewise, as packs have turned out to be damaged: the next mark knows of them.
    Damaged,
}

impl<'a> Run<'a> {
    fn new(repository: &'a Repository, options: &'a CollectOptions, watch: CollectWatch<'a>, now: Now) -> Self {
        let (damaged, unopened, opened) = Default::default();
        Self { repository, options, watch, now, damaged, unopened, opened }
    }
}

impl Run<'_> {
    fn storage(&self) -> &dyn Storage {
        self.repository.storage()
    }

    /// The time by the storage's clock.
    fn now(&self) -> Timestamp {
        let passed = self.repository.clock().monotonic().saturating_sub(self.now.since);
        Timestamp(self.now.at.0.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long ago something was written.
    fn age(&self, modified: Timestamp) -> Duration {
        since(self.now(), modified)
    }

    /// What a run would do, without effects.
    fn look(&self, report: &mut Collected) -> Result<()> {
        let chain = self.list_generations()?;
        self.read_lists(&chain)?;
        report.unsealed = chain.unsealed();
        self.settle_due(report)?;
        loop {
            let lists = self.lists(&chain)?;
            self.plan(lists, report)?;
            if !self.learn(false, report)? {
                return self.await_grace(&chain, report);
            }
        }
    }

    /// G0 to G12: the generation that others left, then one of our own.
    fn generations(&self, report: &mut Collected) -> Result<()> {
        let mut tries = 0;
        while tries < TRIES {
            let chain = self.list_generations()?;
            match self.generation(&chain, report) {
                Ok(Tried::Done(())) => return Ok(()),
                // It comes to an end: each such try knows of more packs than the one before.
                Ok(Tried::Damaged) => {
                    tracing::info!("packs have turned out to be damaged, and this run begins anew");
                    continue;
                }
                Ok(Tried::Overtaken) => tracing::info!("another collector came before this one, which begins anew"),
                // What it was about to read may have been deleted by another collector, as it should.
                Err(e) if self.repository.is_damage(&e) => {
                    if self.list_generations()? == chain {
                        return Err(lost(e));
                    }
                    tracing::info!("another collector deleted what this one was about to read, which begins anew");
                }
                Err(e) => return Err(e),
            }
            tries += 1;
        }
        report.overtaken = true;
        Ok(())
    }

    fn generation(&self, chain: &Chain, report: &mut Collected) -> Result<Tried<()>> {
        self.read_lists(chain)?;
        if let Some(n) = chain.unsealed() {
            tracing::info!("goes on with generation {n}, which another run published");
            if !self.finish(n, report)? {
                return Ok(Tried::Done(()));
            }
        }
        self.settle_due(report)?;
        self.clear_readers(report)?;
        self.fence_left(report)?;
        let chain = self.list_generations()?;
        if chain.unsealed().is_some() {
            return Ok(Tried::Overtaken);
        }
        let lists = self.lists(&chain)?;
        let plan = self.plan(lists, report)?;
        let list = match self.copy_packs(plan, report)? {
            Tried::Done(Some(list)) => list,
            Tried::Done(None) => {
                report.completed = true;
                return Ok(Tried::Done(()));
            }
            Tried::Overtaken => return Ok(Tried::Overtaken),
            Tried::Damaged => return Ok(Tried::Damaged),
        };
        let Some(n) = self.publish(&chain, list)? else { return Ok(Tried::Overtaken) };
        self.finish(n, report)?;
        Ok(Tried::Done(()))
    }

    /// G9 to G12 of generation n; false when it ends with sessions that are waited for.
    fn finish(&self, n: u32, report: &mut Collected) -> Result<bool> {
        (report.generation, report.sealed) = (Some(n), false);
        let list = self.repository.generation(n)?;
        if !self.wait(n, report)? {
            return Ok(false);
        }
        let sweep = self.mark_again(n, &list, report)?;
        report.rescued += (list.condemned.len() - sweep.len()) as u64;
        self.seal(n, sweep)?;
        (report.sealed, report.completed) = (true, true);
        Ok(true)
    }
}

/// An error about what is lost is damage, whatever the storage calls it.
fn lost(e: Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => {
            let object = e.object().unwrap_or_default().to_owned();
            e.instead(format!("{object} is gone and is needed; nothing was deleted: run `wherry check`"))
                .with_object(object)
        }
        _ => e.advise("nothing was deleted: run `wherry check`"),
    }
}

/// A moment by the storage's clock, and what this process's monotonic clock said then.
#[derive(Clone, Copy, Debug)]
struct Now {
    at: Timestamp,
    since: Duration,
}

/// The note that a collector is at work, which decides nothing. It says what time it is by the storage's clock.
#[derive(Debug)]
struct Lead<'a> {
    repository: &'a Repository,
    id: SessionId,
    now: Now,
}

impl<'a> Lead<'a> {
    fn open(repository: &'a Repository) -> Result<Self> {
        let id = SessionId::new(clock::random(repository.rng())?);
        let mut tries = 0;
        loop {
            repository.create(&keys::lead(&id), &Beat { at: repository.clock().now() })?;
            match repository.storage().head(&keys::lead(&id)) {
                // Only now: nothing is to seem older than it is.
                Ok(object) => {
                    let now = Now { at: object.modified, since: repository.clock().monotonic() };
                    return Ok(Self { repository, id, now });
                }
                // Another collector took it for one that was left.
                Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Removes what ended runs left, and says of others that they are at work.
    fn clear_others(&self, run: &Run<'_>) -> Result<()> {
        let mut others = Vec::new();
        run.storage().list(keys::LEAD, &mut |object| {
            others.extend(keys::parse_lead(&object.key).filter(|id| *id != self.id).map(|_| object));
            Ok(())
        })?;
        for object in others {
            if run.age(object.modified) >= run.options.fence_after {
                run.storage().delete(&object.key)?;
            } else {
                tracing::info!("another collector seems to be at work, which does no harm");
            }
        }
        Ok(())
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.repository.storage().delete(&keys::lead(&self.id)) {
            tracing::debug!("the note of this collector stays until another one removes it: {e}");
        }
    }
}

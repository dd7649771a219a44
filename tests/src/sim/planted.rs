//! Faults of the protocol, planted without a change to the code that runs: the storage lies to one kind of actor about what
//! the step rests on, or does not do what the step asks for. What the actor then does is what a build without the step does.
//!
//! The table in `repo/docs/concurrency-results.md`, "Results of the simulation", says what each does; the names in the comments here
//! are those of its rules.

use super::schedule::wall;
use super::storage::{Role, Seen};
use crate::small::password;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use wherry_repo::format::records::{Generation, Sweep};
use wherry_repo::storage::{Key, Listed, Memory, Storage, keys};
use wherry_repo::{Components, PackId, Repository, Result, SessionId, Timestamp, VolumeId};

/// A step that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plant {
    /// W3: lists are read before `open` is created.
    ListsBeforeOpen,
    /// W3: lists before the newest one bar nothing.
    OlderListsBarNothing,
    /// W3, D2, R3: no list bars anything.
    NothingIsBarred,
    /// W7: a session whose parent is refused takes another one: to collectors it has none.
    ParentIsExchanged,
    /// W8: a hit counts whether its pack was listed or not.
    UnlistedIsThere,
    /// R2: a list bars no pack of the session that reads it.
    OwnIsNotBarred,
    /// R3: a list bars nothing before the `seen` of it is there.
    BarsAfterSeen,
    /// R3, R4: a raise replaces nothing.
    RaiseReplacesNothing,
    /// W5: whether the parent is forgotten is not looked at.
    ParentUnchecked,
    /// D3, C1: packs count before they are stored, and whoever was to store them died after the commit.
    PacksCountUnstored,
    /// D4: nodes are a stranger's: to collectors a session that has them has no parent.
    NodesOfStrangers,
    /// D5: rows are visible before their packs are stored, which comes to pass before the commit.
    RowsBeforePacks,
    /// C2: a commit overwrites.
    CommitOverwrites,
    /// A2: an adopted session gets no Fence.
    AdoptionUnfenced,
    /// A4: what a dead session had from its parent is taken over: to collectors whoever adopts it has no parent.
    SlotsAreAdopted,
    /// F2, F3: `settled` is overwritten.
    SettledTwice,
    /// G2, G3: sessions are listed before forgets.
    SessionsBeforeForgets,
    /// G3, G5: parents of open sessions are no roots of the first mark.
    FirstMarkWithoutParents,
    /// G5: a hint into a pack that is gone is believed, and nothing is looked for by its id.
    StaleHintsCount,
    /// G5, V8: a mark does not know what checks have found damaged.
    DamageIsUnknown,
    /// G6: packs of open sessions are condemned.
    OpenIsCondemned,
    /// G1, G6: packs are listed after sessions, and those of sessions that nobody listed are condemned.
    UnknownIsCondemned,
    /// G7: copies count before they are stored, and are lost; what is read back of them was never there.
    CopiesUnstored,
    /// G8, G12: a list, and a delete set, is overwritten.
    ListOverwritten,
    /// G9: sessions are not waited for.
    NobodyIsWaitedFor,
    /// G9: silent sessions are passed over, and get no Fence.
    SilentArePassedOver,
    /// G9: a Fence overwrites.
    FenceOverwrites,
    /// N1: a Fence is deleted when the generation that waited for its session is sealed.
    FencesGo,
    /// G1: packs of delete sets that are still there count as there.
    SweptIsThere,
    /// G9: a Fence that found a Snapshot is told as one that took.
    CommitIsTakenForFence,
    /// G10, G11: what was committed since the list is no root of the second mark: nothing is rescued.
    NothingIsRescued,
    /// G10: parents of open sessions are no roots of the second mark.
    SecondMarkWithoutParents,
    /// G13: all that was condemned is deleted, also what was rescued.
    SweepTheList,
    /// V1: whether a snapshot is forgotten is not looked at after `open` was created.
    ReaderUnchecked,
    /// V4: a reader whose `open` was removed makes it anew, and does not look whether it comes too late.
    ReturnedUnchecked,
    /// V2: snapshots that are read are no roots.
    ReadersAreNoRoots,
    /// V3: a reader does not find what was moved since it began.
    MovedIsLost,
    /// V6: a check does not look whether what it misses was of a snapshot that is gone for good.
    ForgottenIsDamage,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 38] = [
        Self::ListsBeforeOpen,
        Self::OlderListsBarNothing,
        Self::NothingIsBarred,
        Self::ParentIsExchanged,
        Self::UnlistedIsThere,
        Self::OwnIsNotBarred,
        Self::BarsAfterSeen,
        Self::RaiseReplacesNothing,
        Self::ParentUnchecked,
        Self::PacksCountUnstored,
        Self::NodesOfStrangers,
        Self::RowsBeforePacks,
        Self::CommitOverwrites,
        Self::AdoptionUnfenced,
        Self::SlotsAreAdopted,
        Self::SettledTwice,
        Self::SessionsBeforeForgets,
        Self::FirstMarkWithoutParents,
        Self::StaleHintsCount,
        Self::DamageIsUnknown,
        Self::OpenIsCondemned,
        Self::UnknownIsCondemned,
        Self::CopiesUnstored,
        Self::ListOverwritten,
        Self::NobodyIsWaitedFor,
        Self::SilentArePassedOver,
        Self::FenceOverwrites,
        Self::FencesGo,
        Self::SweptIsThere,
        Self::CommitIsTakenForFence,
        Self::NothingIsRescued,
        Self::SecondMarkWithoutParents,
        Self::SweepTheList,
        Self::ReaderUnchecked,
        Self::ReturnedUnchecked,
        Self::ReadersAreNoRoots,
        Self::MovedIsLost,
        Self::ForgottenIsDamage,
    ];
}

/// What a write becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// What was asked for.
    Create,
    /// What is there is lost.
    Overwrite,
    /// Acknowledged, and not done.
    Nothing,
    /// What is there stays, and the caller hears that its own took.
    Lie,
}

/// The faults of one simulation, and what they need.
pub(super) struct Planted {
    plants: Vec<Plant>,
    /// A repository with the same keys, which makes records that say what the fault wants.
    twin: Repository,
    memory: Arc<Memory>,
    /// Sessions that a collector passed over.
    passed: Mutex<HashSet<SessionId>>,
    /// Fences that collectors have created.
    fences: Mutex<Vec<Key>>,
    /// Sessions of readers.
    readers: Mutex<HashSet<SessionId>>,
    /// Sessions of writers.
    writers: Mutex<BTreeMap<SessionId, VolumeId>>,
    /// Copies that collectors believe to have stored.
    copies: Memory,
    /// Sessions that lean on more than their `open` says.
    leaning: Mutex<HashSet<SessionId>>,
    /// All packs that anybody has stored, or was to store.
    packs: Mutex<BTreeMap<Key, Listed>>,
    /// Packs that writers believe to have stored.
    pending: Mutex<Vec<(SessionId, Key, Bytes)>>,
}

impl fmt::Debug for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Planted({:?})", self.plants)
    }
}

/// What one life of a process remembers of its own calls.
#[derive(Debug, Default)]
pub(super) struct Memories {
    /// When the process began.
    began: Option<Timestamp>,
    pub(super) own: Option<SessionId>,
    has_seen: bool,
    /// The newest generation when the process began.
    newest: u32,
    /// What was listed last.
    listed: String,
    /// It was listed for a mark.
    marks: bool,
    /// A collector has published its list.
    has_published: bool,
    /// A collector has sealed its delete set, or found it sealed.
    has_sealed: bool,
    /// A reader has made its `open` anew.
    has_returned: bool,
    /// What sessions there were when a collector listed packs.
    sessions: Vec<Listed>,
    /// What sessions there were before that, when it listed generations.
    earlier: Vec<Listed>,
}

/// The newest generation, and when it was published if it has no delete set.
fn newest(memory: &Memory) -> (u32, Option<Timestamp>) {
    let (mut newest, mut sealed) = ((0, Timestamp(0)), 0);
    let listed = memory.list(keys::GEN, &mut |object| {
        match keys::parse_generation(&object.key) {
            Some((n, true)) => sealed = sealed.max(n),
            Some((n, false)) => newest = newest.max((n, object.modified)),
            None => {}
        }
        Ok(())
    });
    debug_assert!(listed.is_ok());
    (newest.0, (newest.0 > sealed).then_some(newest.1))
}

/// All objects of sessions.
fn sessions(memory: &Memory) -> Vec<Listed> {
    let mut found = Vec::new();
    let listed = memory.list(keys::SESS, &mut |object| {
        found.push(object);
        Ok(())
    });
    debug_assert!(listed.is_ok());
    found
}

/// When the last session was opened.
fn last_opened(memory: &Memory) -> Timestamp {
    let mut sessions = sessions(memory);
    sessions.retain(|object| matches!(keys::parse_session(&object.key), Some((_, "open"))));
    sessions.iter().map(|object| object.modified).max().unwrap_or(Timestamp(0))
}

impl Memories {
    /// A process begins.
    pub(super) fn new(memory: &Memory, now: Timestamp) -> Self {
        Self { newest: newest(memory).0, began: Some(now), ..Self::default() }
    }
}

impl Planted {
    /// `components` are of a copy of the repository.
    pub(super) fn new(plants: &[Plant], components: Components, memory: Arc<Memory>) -> Result<Self> {
        let twin = Repository::open(components, &password())?;
        let (passed, fences, readers, writers, copies) = Default::default();
        let (leaning, packs, pending) = Default::default();
        let plants = plants.to_vec();
        Ok(Self { plants, twin, memory, passed, fences, readers, writers, copies, leaning, packs, pending })
    }

    /// No step is left out.
    pub(super) fn is_none(&self) -> bool {
        self.plants.is_empty()
    }

    fn has(&self, plant: Plant) -> bool {
        self.plants.contains(&plant)
    }

    /// An actor is about to create an object.
    pub(super) fn create(&self, seen: &Seen, key: &Key, body: &Bytes) -> How {
        let mut memories = seen.memories.lock();
        if let Some((id, part)) = keys::parse_session(key) {
            match part {
                "open" => {
                    let is_another = memories.own.is_some_and(|own| own != id);
                    memories.has_returned |= is_another;
                    memories.own = Some(id);
                    if self.has(Plant::NodesOfStrangers) || is_another && self.has(Plant::ParentIsExchanged) {
                        self.leaning.lock().insert(id);
                    }
                    match &seen.volume {
                        Some(name) => drop(self.writers.lock().insert(id, self.twin.volume_id(name))),
                        None => drop(self.readers.lock().insert(id)),
                    }
                }
                _ => memories.has_seen |= part.starts_with("seen-"),
            }
        }
        if let Some(pack) = keys::parse_pack(key) {
            let listed = Listed { key: key.clone(), size: body.len() as u64, modified: wall(seen.schedule.time()) };
            self.packs.lock().insert(key.clone(), listed);
            if seen.role == Role::Writes && self.has(Plant::RowsBeforePacks) {
                self.pending.lock().push((pack.session, key.clone(), body.clone()));
                return How::Nothing;
            }
        }
        if keys::parse_pack(key).is_some() && seen.role == Role::Writes && self.has(Plant::PacksCountUnstored) {
            return How::Nothing;
        }
        if keys::parse_pack(key).is_some() && seen.role == Role::Collects && self.has(Plant::CopiesUnstored) {
            return match self.copies.overwrite(key, body.clone()) {
                Ok(()) => How::Nothing,
                Err(_) => How::Create,
            };
        }
        if let Some((_, id)) = keys::parse_snap(key) {
            if seen.role == Role::Collects && self.has(Plant::FencesGo) && seen.memory.head(key).is_err() {
                self.fences.lock().push(key.clone());
            }
            let own = memories.own == Some(id);
            if own {
                self.store_pending(&id, &seen.memory);
            }
            if let (Role::Writes, false, true, Some(own)) =
                (seen.role, own, self.has(Plant::SlotsAreAdopted), memories.own)
            {
                self.leaning.lock().insert(own);
            }
            return match seen.role {
                Role::Writes if own && self.has(Plant::CommitOverwrites) => How::Overwrite,
                Role::Writes if !own && self.has(Plant::AdoptionUnfenced) => How::Nothing,
                Role::Collects if self.has(Plant::FenceOverwrites) => How::Overwrite,
                Role::Collects if self.has(Plant::CommitIsTakenForFence) => How::Lie,
                Role::Collects if self.has(Plant::SilentArePassedOver) => {
                    self.passed.lock().insert(id);
                    How::Nothing
                }
                _ => How::Create,
            };
        }
        let is_settled = keys::parse_forget(key).is_some_and(|(_, _, settled)| settled);
        let list = keys::parse_generation(key);
        memories.has_published |= matches!(list, Some((_, false)));
        memories.has_sealed |= matches!(list, Some((_, true)));
        if matches!(list, Some((_, true))) {
            // By whom is all one: nobody should.
            self.fences.lock().drain(..).for_each(|fence| drop(seen.memory.delete(&fence)));
        }
        let is_list = list.is_some();
        let overwrites = is_settled && self.has(Plant::SettledTwice) || is_list && self.has(Plant::ListOverwritten);
        if overwrites { How::Overwrite } else { How::Create }
    }

    /// Where an actor finds an object: a collector the copies it believes to have stored.
    pub(super) fn place<'a>(&'a self, seen: &Seen, key: &Key, memory: &'a Memory) -> &'a Memory {
        if seen.role == Role::Collects && self.copies.head(key).is_ok() { &self.copies } else { memory }
    }

    /// An actor gets an object: another one in its place.
    pub(super) fn get(&self, seen: &Seen, key: &Key) -> Option<Bytes> {
        if let Some((n, false)) = keys::parse_generation(key)
            && seen.role == Role::Writes
        {
            let (has_seen, own) = {
                let memories = seen.memories.lock();
                (memories.has_seen, memories.own)
            };
            if let Some(own) = own.filter(|_| self.has(Plant::OwnIsNotBarred)) {
                return self.list_without(&seen.memory, n, |pack| pack.session == own);
            }
            let is_unseen = own.is_some_and(|own| seen.memory.head(&keys::seen(&own, n)).is_err());
            let is_early = has_seen && is_unseen && self.has(Plant::BarsAfterSeen);
            let is_old = self.has(Plant::OlderListsBarNothing) && n < newest(&seen.memory).0;
            let is_late = has_seen && self.has(Plant::RaiseReplacesNothing);
            let is_empty = self.has(Plant::NothingIsBarred) || is_old || is_late || is_early;
            return is_empty.then(|| self.empty_list(n)).flatten();
        }
        if let Some((n, true)) = keys::parse_generation(key)
            && seen.role == Role::Collects
            && (self.has(Plant::SweptIsThere) || self.has(Plant::StaleHintsCount))
            && !seen.memories.lock().has_published
        {
            // It may have been made before.
            let _ = self.twin.publish_sweep(n, &Sweep { packs: Vec::new(), nonce: [0; 16] });
            return self.memory.get(&keys::sealed(n)).ok();
        }
        if let Some((n, true)) = keys::parse_generation(key)
            && seen.role == Role::Collects
            && self.has(Plant::SweepTheList)
            && seen.memories.lock().has_sealed
        {
            return self.list_as_set(&seen.memory, n);
        }
        let has_ended = self.has(Plant::OpenIsCondemned) || self.has(Plant::UnknownIsCondemned);
        let is_open = seen.role == Role::Collects && has_ended && seen.memory.head(key).is_err();
        (is_open && keys::parse_snap(key).is_some()).then(|| self.memory.get(key).ok()).flatten()
    }

    /// A list that condemns nothing.
    fn empty_list(&self, n: u32) -> Option<Bytes> {
        let list = Generation {
            condemned: Vec::new(),
            roots: Vec::new(),
            dead: Vec::new(),
            nonce: [0; 16],
            moved: Vec::new(),
        };
        // It may have been made before.
        let _ = self.twin.publish_generation(n, &list);
        self.memory.get(&keys::generation(n)).ok()
    }

    /// A list that does not condemn these.
    fn list_without(&self, memory: &Memory, n: u32, is: impl Fn(&PackId) -> bool) -> Option<Bytes> {
        let key = keys::generation(n);
        self.memory.overwrite(&key, memory.get(&key).ok()?).ok()?;
        let mut list = self.twin.generation(n).ok()?;
        list.condemned.retain(|pack| !is(pack));
        self.memory.delete(&key).ok()?;
        self.twin.publish_generation(n, &list).ok()?;
        self.memory.get(&key).ok()
    }

    /// What a session believes to have stored is stored, before it commits or ends.
    fn store_pending(&self, id: &SessionId, memory: &Memory) {
        let mut pending = self.pending.lock();
        for (_, key, body) in pending.extract_if(.., |(of, ..)| of == id) {
            let stored = memory.create(&key, body);
            debug_assert!(stored.is_ok());
        }
    }

    /// A delete set that has all of its list.
    fn list_as_set(&self, memory: &Memory, n: u32) -> Option<Bytes> {
        self.memory.overwrite(&keys::generation(n), memory.get(&keys::generation(n)).ok()?).ok()?;
        let packs = self.twin.generation(n).ok()?.condemned;
        // It may have been made before.
        let _ = self.twin.publish_sweep(n, &Sweep { packs, nonce: [0; 16] });
        self.memory.get(&keys::sealed(n)).ok()
    }

    /// An actor has listed this.
    pub(super) fn list(&self, seen: &Seen, prefix: &str, found: &mut Vec<Listed>) {
        let mut memories = seen.memories.lock();
        // The roots of a mark are listed as forgets, sessions, snapshots; who is waited for as sessions, snapshots.
        let is_root = match prefix {
            keys::SESS => memories.listed == keys::FORGET,
            keys::SNAP => memories.listed == keys::SESS && memories.marks,
            _ => false,
        };
        memories.marks = is_root;
        memories.listed = prefix.to_owned();
        let is_pack = prefix.starts_with(keys::PACKS) || prefix.starts_with(keys::META);
        let are_there = match seen.role {
            Role::Writes => self.has(Plant::UnlistedIsThere),
            Role::Collects => self.has(Plant::StaleHintsCount) && !memories.has_published,
            Role::Forgets | Role::Reads | Role::Checks | Role::Rotates | Role::Heals => false,
        };
        if is_pack && are_there {
            let packs = self.packs.lock();
            let gone = packs.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
            let there: HashSet<Key> = found.iter().map(|object| object.key.clone()).collect();
            found.extend(gone.filter(|(key, _)| !there.contains(*key)).map(|(_, listed)| listed.clone()));
            found.sort_by(|a, b| a.key.cmp(&b.key));
        }
        // A copy has a segment, or is found by its own index.
        let finds = is_pack || prefix.starts_with(keys::IDX);
        if finds && matches!(seen.role, Role::Reads | Role::Checks) && self.has(Plant::MovedIsLost) {
            found.retain(|object| memories.began.is_none_or(|began| object.modified <= began));
        }
        match seen.role {
            Role::Writes => {
                if prefix == keys::GEN && !memories.has_seen && self.has(Plant::ListsBeforeOpen) {
                    let newest = memories.newest;
                    found.retain(|object| keys::parse_generation(&object.key).is_none_or(|(n, _)| n <= newest));
                }
                if prefix.starts_with(keys::FORGET) && prefix != keys::FORGET && self.has(Plant::ParentUnchecked) {
                    found.clear();
                }
            }
            Role::Reads => {
                let is_unchecked =
                    self.has(Plant::ReaderUnchecked) || memories.has_returned && self.has(Plant::ReturnedUnchecked);
                if prefix.starts_with(keys::FORGET) && prefix != keys::FORGET && is_unchecked {
                    found.clear();
                }
            }
            Role::Collects => {
                if prefix == keys::PACKS && self.has(Plant::SessionsBeforeForgets) {
                    memories.sessions = sessions(&seen.memory);
                }
                let is_first = is_root && newest(&seen.memory).1.is_none();
                if prefix == keys::SESS && is_first && self.has(Plant::SessionsBeforeForgets) {
                    found.clone_from(&memories.sessions);
                }
                if prefix.starts_with(keys::CHECKED) && self.has(Plant::DamageIsUnknown) {
                    found.clear();
                }
                if prefix == keys::GEN {
                    memories.earlier = sessions(&seen.memory);
                }
                if self.has(Plant::UnknownIsCondemned) && is_first {
                    match prefix {
                        keys::SESS => found.clone_from(&memories.earlier),
                        _ => {
                            let known = &memories.earlier;
                            self.have_ended(&seen.memory, found, |id| {
                                !known.iter().any(|o| keys::parse_session(&o.key).is_some_and(|(of, _)| of == *id))
                            });
                        }
                    }
                }
                self.collects(&seen.memory, prefix, is_root, found);
            }
            Role::Checks => {
                if prefix.starts_with(keys::FORGET) && prefix != keys::FORGET && self.has(Plant::ForgottenIsDamage) {
                    found.clear();
                }
            }
            Role::Forgets | Role::Rotates | Role::Heals => {}
        }
    }

    fn collects(&self, memory: &Memory, prefix: &str, is_root: bool, found: &mut Vec<Listed>) {
        let (_, published) = newest(memory);
        let without_parents = match published {
            Some(_) => self.has(Plant::SecondMarkWithoutParents),
            None => self.has(Plant::FirstMarkWithoutParents),
        };
        if prefix == keys::SESS && is_root && without_parents {
            found.clear();
        }
        if prefix == keys::SESS && is_root {
            // To a mark it is all one whether it does not see such a session, or sees one without a parent: its packs stay (G6).
            let leaning = self.leaning.lock();
            found.retain(|object| keys::parse_session(&object.key).is_none_or(|(id, _)| !leaning.contains(&id)));
        }
        if prefix == keys::SESS && self.has(Plant::ReadersAreNoRoots) {
            let readers = self.readers.lock();
            found.retain(|object| keys::parse_session(&object.key).is_none_or(|(id, _)| !readers.contains(&id)));
        }
        if prefix == keys::SESS && !is_root && published.is_some() && self.has(Plant::NobodyIsWaitedFor) {
            self.all_have_seen(found, |id| !self.readers.lock().contains(id));
        }
        if prefix == keys::SESS && !is_root && self.has(Plant::SilentArePassedOver) {
            self.all_have_seen(found, |id| self.passed.lock().contains(id));
        }
        if prefix == keys::SNAP && is_root {
            if let Some(published) = published
                && self.has(Plant::NothingIsRescued)
            {
                // But for what a session may have for its parent: that its record is missing is seen, and nothing deleted.
                let opened = last_opened(memory);
                found.retain(|object| object.modified <= published.max(opened));
            }
            if published.is_none() && self.has(Plant::OpenIsCondemned) {
                self.have_ended(memory, found, |_| true);
            }
        }
    }

    /// Sessions look as if they had taken every list into account.
    fn all_have_seen(&self, found: &mut Vec<Listed>, is: impl Fn(&SessionId) -> bool) {
        let open = found.iter().filter_map(|object| match keys::parse_session(&object.key) {
            Some((id, "open")) if is(&id) => Some(Listed { key: keys::seen(&id, u32::MAX), ..object.clone() }),
            _ => None,
        });
        let more: Vec<Listed> = open.collect();
        found.extend(more);
    }

    /// These open sessions look as if they had a Fence.
    fn have_ended(&self, memory: &Memory, found: &mut Vec<Listed>, is: impl Fn(&SessionId) -> bool) {
        for (id, volume) in self.writers.lock().iter().filter(|(id, _)| is(id)) {
            let key = keys::snap(volume, id);
            if memory.head(&key).is_ok() || self.twin.end_session(*volume, *id, "planted").is_err() {
                continue;
            }
            found.extend(self.memory.head(&key));
        }
    }
}

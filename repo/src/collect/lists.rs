//! What there is: G1 to G4 in their order, and the roots of a mark.

use super::CollectStep;
use super::Run;
use super::generation::Chain;
use super::packs::{Pack, Packs};
use super::report::Collected;
use super::sessions::Noted;
use super::wait::without_open;
use crate::forget::ListedForgets;
use crate::format::records::{Outcome, SessionOpen};
use crate::id::{PackId, SessionId, SnapshotId, VolumeId};
use crate::newest::{Made, witnesses};
use crate::storage::{Key, Listed, keys};
use crate::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A kind of which there are more packs is listed folder by folder, several at once.
const MANY: usize = 10_000;

/// A snapshot, without what it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) volume: VolumeId,
    pub(super) made: Made,
    /// It is gone for good, and a root for the sake of a session alone.
    pub(super) is_final: bool,
}

/// Everything that was listed.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) packs: Packs,
    pub(super) roots: Roots,
}

/// What decides what is referred to.
#[derive(Debug)]
pub(super) struct Roots {
    /// G2.
    finals: HashSet<SnapshotId>,
    /// G3.
    sessions: Vec<Noted>,
    /// G4: sessions that have an outcome.
    outcomes: HashSet<SessionId>,
    snapshots: HashMap<SnapshotId, Root>,
    /// Those that are gone for good and whose records cannot be read. The records stay: each may be a Fence, whose session would commit
    /// if its key were free (N1).
    spoiled: HashSet<SnapshotId>,
    /// Sessions that have ended without a snapshot, of late.
    left: HashSet<SessionId>,
    /// Snapshots without a record that nobody had asked to forget, and what was built upon each.
    orphaned: BTreeMap<SnapshotId, SnapshotId>,
}

/// An outcome object.
type Named = ((VolumeId, SnapshotId), Key);

/// What is to become of a forget that is not settled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Its delay is not over.
    Later,
    /// It is, and whoever asked for it keeps it to himself.
    Left,
    /// It is to be made final.
    Now,
}

/// G4.
struct Outcomes {
    /// Who has one.
    outcomes: HashSet<SessionId>,
    /// Those of them that are snapshots.
    snapshots: HashMap<SnapshotId, Root>,
    /// See [`Roots`].
    spoiled: HashSet<SnapshotId>,
}

impl Run<'_> {
    /// G1 to G4.
    pub(super) fn lists(&self, chain: &Chain) -> Result<Lists> {
        // Before records are listed: what is named was committed, and its record there.
        let named = self.named(chain)?;
        let swept = self.swept(chain)?;
        let packs = self.list_packs(swept)?;
        let roots = self.roots(packs.sessions())?;
        self.are_there(named, &roots)?;
        Ok(Lists { packs, roots })
    }

    /// The snapshots that were committed for certain, and what says so: pins without an end, and the newest list of a collector.
    fn named(&self, chain: &Chain) -> Result<Vec<(Key, SnapshotId)>> {
        let roots = match chain.newest {
            0 => Vec::new(),
            n => self.repository.generation(n)?.roots,
        };
        let roots = roots.into_iter().map(|id| (keys::generation(chain.newest), id));
        let pins = self.repository.list(keys::PIN)?.into_iter().filter_map(|key| match keys::parse_pin(&key) {
            Some((id, _, false)) => Some((key, id)),
            _ => None,
        });
        Ok(roots.chain(pins).collect())
    }

    /// What was committed, also what another one was built upon, goes only by a forget: where a record is gone without one it may
    /// be brought back, so what it needs is not condemned. That its session got a Fence since, as if it had come to no end, is no matter.
    fn are_there(&self, mut named: Vec<(Key, SnapshotId)>, roots: &Roots) -> Result<()> {
        for (parent, built) in &roots.orphaned {
            let volume = roots.snapshots.get(built).map(|root| root.volume);
            named.extend(volume.map(|volume| (keys::snap(&volume, built), *parent)));
        }
        for (key, id) in named {
            if roots.snapshots.contains_key(&id) || roots.finals.contains(&id) {
                continue;
            }
            let is_pin = keys::parse_pin(&key).is_some();
            // Forgotten and its record taken, or the pin ended, since that was written.
            if self.repository.forget_of(&id)?.is_some() || (is_pin && !self.repository.is_pinned(&id)?) {
                continue;
            }
            let how = if is_pin { "unpin" } else { "forget" };
            let text = format!("{key} names snapshot {id}, whose record is gone although nobody has forgotten it");
            let next = format!("bring it back from a copy of the repository, or give it up: `wherry {how} {id}`");
            return Err(Error::corrupt(text).with_object(key).advise(&next));
        }
        Ok(())
    }

    /// G10: packs come last, so that those of a snapshot that was just committed are among them.
    pub(super) fn lists_again(&self, n: u32) -> Result<Lists> {
        // By what is condemned already nobody's outcome is asked for.
        let roots = self.roots(HashSet::new())?;
        let mut chain = self.list_generations()?;
        // What another collector sealed in between is the end of this try, and must not look like damage.
        chain.sealed.retain(|sealed, _| *sealed < n);
        let swept = self.swept(&chain)?;
        Ok(Lists { packs: self.list_packs(swept)?, roots })
    }

    /// G2 to G4. `writers` are sessions whose outcomes are to be known although nothing but packs may be left of them.
    fn roots(&self, writers: HashSet<SessionId>) -> Result<Roots> {
        let forgets = self.list_forgets()?;
        let sessions = self.list_sessions()?;
        let listed = self.list_snapshots()?;
        let finals = self.finals(&forgets, writers, &sessions, &listed)?;
        self.hold_finals(&forgets, &finals, &listed)?;
        let Outcomes { mut outcomes, snapshots, spoiled } = self.read_snapshots(listed, &finals)?;
        // The record of one that is gone for good may be gone too; that it is Final is its outcome then.
        outcomes.extend(&finals);
        // What it builds on and writes is not known: it may need anything.
        let lost = |noted: &&Noted| noted.may_write() && !outcomes.contains(&noted.id);
        if let Some(noted) = sessions.iter().find(lost) {
            return Err(without_open(noted));
        }
        // Left, but not for long: whoever comes after them may still want their packs.
        let left = |noted: &&Noted| {
            let ended = outcomes.contains(&noted.id) && !snapshots.contains_key(&noted.id);
            ended && noted.silent < self.options.grace
        };
        let left = sessions.iter().filter(left).map(|noted| noted.id).collect();
        let built = snapshots.iter().filter(|(_, root)| !root.is_final);
        let mut orphaned: BTreeMap<SnapshotId, SnapshotId> =
            built.filter_map(|(id, root)| Some((root.made.parent?, *id))).collect();
        orphaned.retain(|parent, _| !snapshots.contains_key(parent) && !spoiled.contains(parent));
        for id in forgets.all() {
            orphaned.remove(&id);
        }
        if self.options.dry_run {
            outcomes.extend(sessions.iter().filter(|noted| self.is_left(noted)).map(|noted| noted.id));
        }
        Ok(Roots { finals, sessions, outcomes, snapshots, spoiled, left, orphaned })
    }

    /// G1.
    pub(super) fn list_packs(&self, swept: Vec<u64>) -> Result<Packs> {
        let mut found = Vec::new();
        self.each_pack(&mut |id, size| {
            found.push(Pack::new(id, size));
            // Before the list itself takes more.
            Packs::have_room(found.len(), self.options.memory / 2)
        })?;
        // What of a chunk is left when it is packed, so that most packs need room only once.
        let chunk = u64::from(self.repository.chunk_size()) / 2;
        let mut packs = Packs::new(found, swept, chunk, self.options.memory / 2)?;
        packs.set_damaged(&self.repository.damaged_packs_for_certain()?);
        packs.set_damaged(&*self.damaged.lock());
        Ok(packs)
    }

    /// Calls `visit` with the name and the size of each pack there is. One may come twice.
    pub(super) fn each_pack(&self, visit: &mut dyn FnMut(PackId, u64) -> Result<()>) -> Result<()> {
        let mut listed = 0;
        let mut visit = |id, size| {
            listed += 1;
            if listed % 1000 == 0 {
                (self.watch)(CollectStep::Lists, listed, 0)?;
            }
            visit(id, size)
        };
        for prefix in [keys::PACKS, keys::META] {
            let (mut seen, mut is_long) = (0, false);
            let done = self.storage().list(prefix, &mut |object| {
                seen += 1;
                if seen > MANY {
                    is_long = true;
                    return Err(Error::internal("a listing goes on in parts"));
                }
                keys::parse_pack(&object.key).map_or(Ok(()), |id| visit(id, object.size))
            });
            if !is_long {
                done?;
                continue;
            }
            // Page after page of millions would take hours.
            let folders: Vec<String> = (0..=u8::MAX).map(|folder| format!("{prefix}{folder:02x}/")).collect();
            for part in folders.chunks(self.options.threads.max(1)) {
                let list = |folder: &String| {
                    let mut packs = Vec::new();
                    self.storage().list(folder, &mut |object| {
                        packs.extend(keys::parse_pack(&object.key).map(|id| (id, object.size)));
                        Ok(())
                    })?;
                    Ok(packs)
                };
                let lists = crate::side::each(self.options.threads, part, list)?;
                lists.into_iter().flatten().try_for_each(|(id, size)| visit(id, size))?;
            }
        }
        Ok(())
    }

    /// G2. What became of them is read when it is known of whom that matters: it never changes, and of all that ever went it would take
    /// longer than all else.
    fn list_forgets(&self) -> Result<ListedForgets> {
        self.repository.listed_forgets(keys::FORGET)
    }

    /// The Final ones, of `wanted` and of those that have a record or a session, or that a session was to build upon. A run without
    /// effects takes those for final that it would make so.
    fn finals(
        &self,
        forgets: &ListedForgets,
        mut wanted: HashSet<SnapshotId>,
        sessions: &[Noted],
        listed: &[Named],
    ) -> Result<HashSet<SnapshotId>> {
        wanted.extend(listed.iter().map(|((_, id), _)| *id));
        wanted.extend(sessions.iter().map(|noted| noted.id));
        wanted.extend(sessions.iter().filter_map(|noted| noted.open.as_ref()?.parent));
        let mut finals = HashSet::new();
        for (n, (id, forget)) in self.repository.verdicts(forgets, |id| wanted.contains(id))?.into_iter().enumerate() {
            if self.options.dry_run {
                (self.watch)(CollectStep::Lists, n as u64, 0)?;
            }
            if forget.is_unclear() {
                tracing::warn!(
                    "whether snapshot {id} is gone for good cannot be read, and what is there of it is kept: `wherry forget {id}` \
                     gives it up"
                );
            }
            let is_due = || Ok(forget.is_pending() && self.due_of(&id, forget.k)? == Due::Now);
            let due = || Ok::<_, Error>(is_due()? && !self.repository.is_pinned(&id)?);
            if forget.is_final() || (self.options.dry_run && due()?) {
                finals.insert(id);
            }
        }
        Ok(finals)
    }

    /// What is deleted because a snapshot is gone for good stays so after a power cut: whoever made it final may not have been told yet. Of
    /// one whose record is gone that was done before the record went.
    fn hold_finals(&self, forgets: &ListedForgets, finals: &HashSet<SnapshotId>, listed: &[Named]) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let ids: HashSet<SnapshotId> = listed.iter().map(|((_, id), _)| *id).filter(|id| finals.contains(id)).collect();
        self.storage().make_durable(&mut forgets.settlements(|id| ids.contains(id)))
    }

    /// Whether a forget that is not settled is to be made final, by the storage's clock. One that cannot be read is not.
    fn due_of(&self, id: &SnapshotId, k: u32) -> Result<Due> {
        let Some((asked, due)) = self.repository.unless_damaged(id, self.repository.asked_at(id, k))? else {
            return Ok(Due::Later);
        };
        let spared = self.options.spared_reason.is_some_and(|reason| asked.reason.starts_with(reason));
        Ok(match (self.now() >= due, spared) {
            (false, _) => Due::Later,
            (true, true) => Due::Left,
            (true, false) => Due::Now,
        })
    }

    /// F3, for all whose delay is over; without effects only those are counted that are left to others. Of those that are settled
    /// nothing is read.
    pub(super) fn settle_due(&self, report: &mut Collected) -> Result<()> {
        report.left_forgets = 0;
        let forgets = self.list_forgets()?;
        let unsettled = forgets.unsettled();
        let forgets = self.repository.verdicts(&forgets, |id| unsettled.contains(id))?;
        for (n, (id, forget)) in forgets.into_iter().enumerate() {
            (self.watch)(CollectStep::Lists, n as u64, 0)?;
            if !forget.is_pending() {
                continue;
            }
            let due = self.due_of(&id, forget.k)?;
            report.left_forgets += u64::from(due == Due::Left);
            if due != Due::Now || self.options.dry_run {
                continue;
            }
            match self.repository.settle_at(&id, self.now()) {
                Ok(settled) => report.settled += u64::from(settled),
                // It stays a root; or it was taken back and asked for anew, with another delay.
                Err(e) if self.repository.is_damage(&e) || e.kind() == ErrorKind::Invalid => {
                    tracing::warn!("the forget of snapshot {id} is left as it is: {e}");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// G4.
    fn list_snapshots(&self) -> Result<Vec<Named>> {
        let mut found = Vec::new();
        self.storage().list(keys::SNAP, &mut |Listed { key, .. }| {
            found.extend(keys::parse_snap(&key).map(|name| (name, key)));
            Ok(())
        })?;
        Ok(found)
    }

    /// Who has an outcome, and the snapshots among them.
    fn read_snapshots(&self, found: Vec<Named>, finals: &HashSet<SnapshotId>) -> Result<Outcomes> {
        let (mut snapshots, mut spoiled) = (HashMap::new(), HashSet::new());
        for part in found.chunks(256) {
            for (((volume, id), _), outcome) in part.iter().zip(self.repository.read_many::<_, Outcome>(part)) {
                match outcome {
                    Ok((Outcome::Snapshot(record), _)) => {
                        let made = Made::new(*id, &record);
                        snapshots.insert(*id, Root { volume: *volume, made, is_final: finals.contains(id) });
                    }
                    Ok((Outcome::Fence(_), _)) => {}
                    // Removed by another collector.
                    Err(e) if e.kind() == ErrorKind::NotFound && finals.contains(id) => {}
                    // Nobody wants it any more; unless a session leans on it.
                    Err(e) if self.repository.is_damage(&e) && finals.contains(id) => {
                        spoiled.insert(*id);
                    }
                    Err(e) if self.repository.is_damage(&e) => {
                        let text =
                            format!("bring it back from a copy of the repository, or give it up: `wherry forget {id}`");
                        return Err(e.advise(&text));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        let outcomes = found.into_iter().map(|((_, id), _)| id).collect();
        Ok(Outcomes { outcomes, snapshots, spoiled })
    }
}

impl Roots {
    /// The sessions without an outcome.
    fn open(&self) -> impl Iterator<Item = (&Noted, &SessionOpen)> {
        let open = self.sessions.iter().filter(|noted| !self.outcomes.contains(&noted.id));
        open.filter_map(|noted| Some((noted, noted.open.as_ref()?)))
    }

    /// G5: what a mark begins with, the newest first: of a chunk that is in two places, the one that the next snapshots
    /// refer to is then marked already when it is looked for by its id. Those that are gone for good come last, so that what
    /// they pass over was visited for those that need it whole.
    pub(super) fn all(&self) -> Result<Vec<Root>> {
        let mut roots: BTreeMap<SnapshotId, Root> = BTreeMap::new();
        roots.extend(self.snapshots.iter().filter(|(id, _)| !self.finals.contains(*id)));
        for (noted, open) in self.open() {
            let Some(parent) = open.parent else { continue };
            match self.snapshots.get(&parent) {
                Some(root) => drop(roots.insert(parent, *root)),
                // The session may have passed W5 and W6 before, and leans on what the record led to.
                None if self.spoiled.contains(&parent) => {
                    let text =
                        format!("the record of snapshot {parent}, which session {} needs, cannot be read", noted.id);
                    return Err(Error::corrupt(text)
                        .with_object(keys::snap(&open.volume, &parent))
                        .advise("end that session, or wait for its end"));
                }
                // Its record was removed: the session cannot pass W5 or V1.
                None if self.finals.contains(&parent) => {}
                None => {
                    let text = format!("snapshot {parent}, which session {} needs, has no record", noted.id);
                    return Err(Error::corrupt(text).with_object(keys::snap(&open.volume, &parent)));
                }
            }
        }
        let mut roots: Vec<Root> = roots.into_values().collect();
        roots.sort_unstable_by_key(|root| (root.is_final, std::cmp::Reverse((root.made.started, root.made.id))));
        Ok(roots)
    }

    /// G6: packs of these sessions may be condemned.
    pub(super) fn may_condemn(&self) -> impl Fn(&SessionId) -> bool + '_ {
        let mut spared = self.left.clone();
        spared.extend(self.open().flat_map(|(_, open)| &open.adopts));
        move |session| self.outcomes.contains(session) && !spared.contains(session)
    }

    /// Snapshots that are gone for good and are no roots: their records may go with the sweep (G13).
    pub(super) fn dead(&self, roots: &[Root]) -> Vec<SnapshotId> {
        let roots: HashSet<SnapshotId> = roots.iter().map(|root| root.made.id).collect();
        let mut volumes: HashMap<VolumeId, Vec<Made>> = HashMap::new();
        for root in self.snapshots.values() {
            volumes.entry(root.volume).or_default().push(root.made);
        }
        let kept: HashSet<SnapshotId> = volumes.values().flat_map(|all| witnesses(all)).collect();
        let goes = |id: &&SnapshotId| self.finals.contains(*id) && !roots.contains(*id) && !kept.contains(*id);
        let mut dead: Vec<SnapshotId> = self.snapshots.keys().filter(goes).copied().collect();
        dead.sort_unstable();
        dead
    }
}

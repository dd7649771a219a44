//! Collectors: rules G, and who deletes.

use super::state::{
    CHUNKS, Collector, Forget, Generation, NONE, PACKS, Packs, Places, READER, Register, SESSIONS, Sessions, State,
    Step, bit, bits, chunks_at, owner, place, session_bit,
};
use super::{Action, Event, Protocol};

impl Protocol {
    /// The three lists before the list of snapshots, in the order of the rules.
    fn lists(&self, j: u8) -> [Action; 3] {
        let (packs, forgets, sessions) = (Action::ListPacks(j), Action::ListForgets(j), Action::ListSessions(j));
        match (self.rules.packs_before_sessions, self.rules.forgets_before_sessions) {
            (true, true) => [packs, forgets, sessions],
            (true, false) => [packs, sessions, forgets],
            (false, true) => [forgets, sessions, packs],
            (false, false) => [sessions, forgets, packs],
        }
    }

    /// A name for a copy that was never used.
    fn copy_name(&self, st: &State) -> Option<u8> {
        (PACKS as u8 - self.bounds.copies..PACKS as u8).find(|p| st.storage.ever & bit(*p) == 0)
    }

    pub(super) fn collector_actions(&self, st: &State, j: u8, out: &mut Vec<Action>) {
        let (storage, k) = (&st.storage, &st.collectors[usize::from(j)]);
        match k.step {
            Step::Start => {
                let newest = storage.generations[..usize::from(storage.newest)].last();
                let sealed = newest.is_none_or(|g| g.sealed.is_some());
                if !sealed {
                    out.push(Action::TakeOver(j));
                }
                if (sealed || !self.rules.one_chain) && storage.newest < self.bounds.generations {
                    out.push(self.lists(j)[0]);
                }
                return; // it remembers nothing: nothing to crash
            }
            Step::Second => out.push(self.lists(j)[1]),
            Step::Third => out.push(self.lists(j)[2]),
            Step::Snapshots => out.push(Action::ListSnapshots(j)),
            Step::Publish => {
                if self.copy_name(st).is_some() {
                    out.extend(bits(k.sparse).map(|p| Action::CopyPack(j, p)));
                }
                let free = storage.newest < self.bounds.generations || self.rules.one_chain;
                if k.condemned != 0 || k.dead != 0 {
                    out.extend(free.then_some(Action::Publish(j)));
                }
            }
            Step::Wait => {
                let seen = |s: u8| storage.seen[usize::from(s)];
                let late = |s: u8| match seen(s) {
                    Some(n) => n < k.generation,
                    None => self.rules.unseen_are_waited_for,
                };
                let pending = bits(storage.open.into()).any(late);
                if !pending || !self.rules.silent_are_fenced {
                    out.push(Action::Wait(j));
                }
                // Who was silent in some earlier list is fenced, whatever it has done since.
                let known = (1..=self.bounds.writers)
                    .filter(|s| storage.open & session_bit(*s) != 0 || storage.snapshot(*s).is_some());
                out.extend(known.map(|s| Action::Fence(j, s)));
            }
            Step::ForgetsAgain => out.push(Action::ListForgets(j)),
            Step::SessionsAgain => out.push(Action::ListSessions(j)),
            Step::SnapshotsAgain => out.push(Action::ListSnapshots(j)),
            Step::Seal => out.push(Action::Seal(j)),
        }
        out.push(Action::Crash(j));
    }

    pub(super) fn collector_step(&self, st: &mut State, action: Action) {
        let j = action.actor() as usize - 4;
        let mut k = st.collectors[j];
        let storage = &mut st.storage;
        match action {
            Action::ListPacks(_) => {
                if k.step == Step::Start {
                    k.generation = storage.newest;
                }
                k.packs = storage.packs & !if self.rules.swept_is_absent { storage.swept(storage.newest) } else { 0 };
                k.step = next(k.step);
            }
            Action::ListForgets(_) => {
                if k.step == Step::Start {
                    k.generation = storage.newest;
                }
                k.finals = storage.finals();
                k.step = next(k.step);
            }
            Action::ListSessions(_) => {
                if k.step == Step::Start {
                    k.generation = storage.newest;
                }
                k.sessions = storage.open | if st.reader.pinned().is_some() { session_bit(READER) } else { 0 };
                k.step = next(k.step);
            }
            Action::ListSnapshots(_) => {
                let done = if k.step == Step::Snapshots { self.mark(st, &mut k) } else { self.mark_again(st, &mut k) };
                if done.is_none() {
                    k = Collector::IDLE; // it cannot read a root: it reports damage
                }
            }
            Action::CopyPack(_, p) => {
                let marked = chunks_at(k.marks, p);
                if marked == st.storage.chunks[usize::from(p)] {
                    st.event = Some(Event::FullMoved);
                }
                if let Some(copy) = self.copy_name(st)
                    && self.rules.publish_after_copies
                {
                    st.storage.create_pack(copy, marked);
                }
                k.sparse &= !bit(p);
                k.condemned |= bit(p);
                k.moved |= k.marks & places_of(p);
                if k.sparse == 0 {
                    k.marks = 0;
                }
            }
            Action::Publish(_) if self.rules.one_chain && storage.newest != k.generation => {
                st.event = Some(Event::Overtaken);
                k = Collector::IDLE;
            }
            Action::Publish(_) => {
                let Collector { condemned, moved, roots, dead, .. } = k;
                storage.generations[usize::from(storage.newest)] =
                    Generation { condemned, moved, roots, dead, sealed: None };
                storage.newest += 1;
                st.event = (condemned != 0).then_some(Event::Condemned);
                k = Collector { step: Step::Wait, generation: storage.newest, ..Collector::IDLE };
            }
            Action::TakeOver(_) => {
                let newest = storage.newest;
                k = Collector { step: Step::Wait, generation: newest, ..Collector::IDLE };
                let alive = st.collectors.iter().any(|other| other.step >= Step::Wait && other.generation == newest);
                st.event = Some(if alive { Event::TakenOverAlive } else { Event::TakenOver });
            }
            Action::Fence(_, s) => match storage.snap[usize::from(s)] {
                Register::Snapshot(_) if self.rules.fence_creates => st.event = Some(Event::CommitWon),
                _ => storage.settle_session(s, Register::Fence),
            },
            Action::Wait(_) if !self.rules.second_mark => {
                k.sweep = storage.generations[usize::from(k.generation) - 1].condemned;
                k.step = Step::Seal;
            }
            Action::Wait(_) => k.step = Step::ForgetsAgain,
            Action::Seal(_) => {
                let generation = &mut storage.generations[usize::from(k.generation) - 1];
                if generation.sealed.is_some() && self.rules.sealed_once {
                    st.event = Some(Event::SealedBefore);
                } else {
                    generation.sealed = Some(k.sweep);
                    st.event = (k.sweep != generation.condemned).then_some(Event::Rescued);
                }
                k = Collector::IDLE;
            }
            _ => {
                st.event = self.bounds.crash_events.then_some(Event::Crashed(k.step));
                k = Collector::IDLE;
            }
        }
        st.collectors[j] = k;
    }

    /// The snapshots to be walked; `None` when one of them cannot be.
    fn roots(&self, st: &State, k: &Collector, sessions: Sessions) -> Option<Sessions> {
        let storage = &st.storage;
        let committed = (0..SESSIONS as u8).filter(|x| storage.snapshot(*x).is_some());
        let mut roots = committed.fold(0, |set, x| set | session_bit(x)) & !k.finals;
        let parents = bits((k.sessions & sessions & storage.open).into()).map(|s| storage.parent[usize::from(s)]);
        let read = if k.sessions & sessions & session_bit(READER) == 0 { None } else { st.reader.pinned() };
        for x in parents.filter(|x| *x != NONE).chain(read) {
            if storage.snapshot(x).is_some() {
                roots |= session_bit(x);
            } else if storage.forget[usize::from(x)] != Forget::Final {
                return None;
            }
        }
        Some(roots)
    }

    /// A pack among `packs` that holds chunk `c`.
    fn copy(&self, st: &State, packs: Packs, c: u8) -> Option<u8> {
        let mut copies = bits(packs).filter(|p| st.storage.holds(*p, c));
        if self.bounds.last_copy { copies.last() } else { copies.next() }
    }

    /// G5, (l): whether this collector passes over what root `x` misses of the pack `hint`, some of which are `swept`.
    fn passes_over(&self, k: &Collector, swept: Packs, x: u8, hint: u8) -> bool {
        let is_final = k.finals & session_bit(x) != 0;
        (is_final || !self.rules.only_final_is_passed_over) && swept & bit(hint) != 0
    }

    /// The places of the chunks of snapshot `x` among the packs that were listed, or in `late` ones, which are asked for, and whether
    /// anything was passed over; `None` when a chunk is not to be found.
    fn places(&self, st: &State, k: &Collector, late: Packs, swept: Packs, x: u8) -> Option<(Places, bool)> {
        let (hints, packs) = (st.storage.snapshot(x)?, k.packs);
        let (mut places, mut passed) = (0, false);
        for c in (0..CHUNKS as u8).filter(|c| hints[usize::from(*c)] != NONE) {
            let hint = hints[usize::from(c)];
            if (packs | late) & bit(hint) != 0 {
                places |= place(hint, c);
            } else if self.rules.stale_hints_by_id {
                match self.copy(st, packs, c) {
                    Some(copy) => places |= place(copy, c),
                    None if self.passes_over(k, swept, x, hint) => passed = true,
                    None => return None,
                }
            }
        }
        Some((places, passed))
    }

    /// G5, G6.
    fn mark(&self, st: &mut State, k: &mut Collector) -> Option<()> {
        let mut walked = if self.rules.parents_are_roots { !0 } else { session_bit(READER) };
        if !self.rules.readers_are_roots {
            walked &= !session_bit(READER);
        }
        let roots = self.roots(st, k, walked)?;
        // Stored since, or not listed for another reason; in no delete set that this collector knows.
        let swept = if self.rules.swept_is_absent { st.storage.swept(k.generation) } else { 0 };
        let late = st.storage.packs & !k.packs & !swept;
        let mut marks = 0;
        for x in bits(roots.into()) {
            let (places, passed) = self.places(st, k, late, swept, x)?;
            marks |= places;
            if passed {
                st.event = Some(Event::PassedOver);
            }
        }
        if bits(late).any(|p| chunks_at(marks, p) != 0) {
            st.event = Some(Event::LatePack);
        }
        if pinned_by_reader(st, k, walked) {
            st.event = Some(Event::ReaderPinned);
        }
        let storage = &st.storage;
        let (mut condemned, mut sparse) = (0, 0);
        for p in bits(k.packs).filter(|p| !self.spared(st, k, owner(*p))) {
            match chunks_at(marks, p) {
                0 => condemned |= bit(p),
                marked if marked != storage.chunks[usize::from(p)] || self.bounds.seal_anew => sparse |= bit(p),
                _ => {}
            }
        }
        let keep = if self.rules.parents_keep_records { roots } else { 0 };
        let records = (0..SESSIONS as u8).filter(|x| storage.snapshot(*x).is_some());
        let dead = records.fold(0, |set, x| set | session_bit(x)) & k.finals & !keep;
        let sparse = if self.bounds.copies > 0 { sparse } else { 0 };
        let marks = bits(sparse).fold(0, |set, p| set | marks & places_of(p));
        *k = Collector {
            step: Step::Publish,
            generation: k.generation,
            condemned,
            sparse,
            marks,
            roots,
            dead,
            ..Collector::IDLE
        };
        Some(())
    }

    /// G6: packs of this session are left alone.
    fn spared(&self, st: &State, k: &Collector, session: u8) -> bool {
        let storage = &st.storage;
        if session == NONE {
            return false;
        }
        if storage.snap[usize::from(session)] == Register::Empty {
            return if k.sessions & session_bit(session) != 0 {
                self.rules.open_sessions_keep_packs
            } else {
                self.rules.unknown_sessions_keep_packs
            };
        }
        let mut open = bits((k.sessions & storage.open).into());
        self.rules.adopted_sessions_keep_packs && open.any(|s| storage.adopts[usize::from(s)] == session)
    }

    /// G11.
    fn mark_again(&self, st: &mut State, k: &mut Collector) -> Option<()> {
        let list = st.storage.generations[usize::from(k.generation) - 1];
        let mut walked = if self.rules.second_mark_parents { !0 } else { session_bit(READER) };
        if !self.rules.readers_are_roots {
            walked &= !session_bit(READER);
        }
        let roots = self.roots(st, k, walked)?;
        if pinned_by_reader(st, k, walked) {
            st.event = Some(Event::ReaderPinned);
        }
        let storage = &st.storage;
        let swept = if self.rules.swept_is_absent { storage.swept(k.generation - 1) } else { 0 };
        let packs = storage.packs & !swept;
        let mut rescued = 0;
        for x in bits((roots & !list.roots).into()) {
            let hints = storage.snapshot(x)?;
            for c in (0..CHUNKS as u8).filter(|c| hints[usize::from(*c)] != NONE) {
                let hint = hints[usize::from(c)];
                if packs & bit(hint) != 0 {
                    if list.condemned & bit(hint) != 0 && list.moved & place(hint, c) == 0 {
                        rescued |= bit(hint);
                    }
                } else if self.rules.last_copy_is_rescued && self.copy(st, packs & !list.condemned, c).is_none() {
                    match self.copy(st, packs & list.condemned, c) {
                        Some(last) => rescued |= bit(last),
                        None if self.passes_over(k, swept, x, hint) => {}
                        None => return None,
                    }
                }
            }
        }
        *k = Collector {
            step: Step::Seal,
            generation: k.generation,
            sweep: list.condemned & !rescued,
            ..Collector::IDLE
        };
        Some(())
    }

    pub(super) fn sweep_actions(&self, st: &State, out: &mut Vec<Action>) {
        let storage = &st.storage;
        let sealed = storage.generations[..usize::from(storage.newest)].iter().filter(|g| g.sealed.is_some());
        let doomed = match self.rules.delete_set_is_swept {
            true => storage.swept(storage.newest),
            false => sealed.clone().fold(0, |set, g| set | g.condemned),
        };
        // In order: which of several doomed packs goes first makes no difference.
        out.extend(bits(doomed & storage.packs).next().map(Action::Sweep));
        if self.bounds.fence_left {
            out.extend(
                (1..=self.bounds.writers).filter(|s| storage.open & session_bit(*s) != 0).map(Action::FenceLeft),
            );
        }
        let dead = sealed.fold(0, |set, g| set | g.dead);
        out.extend(bits(dead.into()).filter(|x| storage.snapshot(*x).is_some()).map(Action::RemoveRecord));
        if !self.rules.fences_stay {
            let fenced = |s: &u8| storage.snap[usize::from(*s)] == Register::Fence;
            out.extend((1..SESSIONS as u8).filter(fenced).map(Action::RemoveFence));
        }
    }

    pub(super) fn sweep_step(&self, st: &mut State, action: Action) {
        let storage = &mut st.storage;
        match action {
            Action::Sweep(p) => {
                storage.packs &= !bit(p);
                let moved = storage.generations.iter().any(|g| g.moved & places_of(p) != 0);
                st.event = Some(if moved { Event::Relocated } else { Event::Swept });
            }
            Action::RemoveRecord(x) => {
                storage.snap[usize::from(x)] = Register::Removed;
                st.event = Some(Event::RecordRemoved);
            }
            Action::RemoveFence(s) => storage.snap[usize::from(s)] = Register::Empty,
            Action::FenceLeft(s) => {
                storage.settle_session(s, Register::Fence);
                st.event = Some(Event::FencedLeft);
            }
            _ => {}
        }
    }
}

fn next(step: Step) -> Step {
    match step {
        Step::Start => Step::Second,
        Step::Second => Step::Third,
        Step::Third => Step::Snapshots,
        Step::ForgetsAgain => Step::SessionsAgain,
        _ => Step::SnapshotsAgain,
    }
}

fn places_of(p: u8) -> Places {
    (0..CHUNKS as u8).fold(0, |set, c| set | place(p, c))
}

/// Whether a listed reader holds a snapshot that is Final.
fn pinned_by_reader(st: &State, k: &Collector, walked: Sessions) -> bool {
    let listed = k.sessions & walked & session_bit(READER) != 0;
    listed && st.reader.pinned().is_some_and(|x| k.finals & session_bit(x) != 0 && st.storage.snapshot(x).is_some())
}

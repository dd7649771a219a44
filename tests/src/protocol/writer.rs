//! Writing sessions: rules W, D, R, A and C.

use super::state::{
    At, CHUNKS, Forget, NONE, Packs, Register, SESSIONS, Slot, State, Storage, bit, bits, own_pack, owner, session_bit,
};
use super::{Action, Event, Protocol};

impl Protocol {
    /// Packs that session `s` must not use for hits.
    fn barred(&self, st: &State, s: u8) -> Packs {
        let storage = &st.storage;
        if !self.rules.hits_are_barred {
            return !storage.packs;
        }
        let known = st.writers[usize::from(s) - 1].known;
        let upto = if self.rules.bars_before_seen { known } else { storage.seen[usize::from(s)].unwrap_or(0) };
        let lists = &storage.generations[..usize::from(upto)];
        if self.rules.all_lists_bar {
            lists.iter().fold(0, |set, g| set | g.condemned)
        } else {
            lists.last().map_or(0, |g| g.condemned)
        }
    }

    /// What `choose_parent` may have chosen, at some time, with whom to adopt.
    fn open_actions(&self, st: &State, s: u8, out: &mut Vec<Action>) {
        let storage = &st.storage;
        // Sids are alike: they are used in turn.
        if s > 1 && st.writers[usize::from(s) - 2].at == At::Idle {
            return;
        }
        let parents = (0..SESSIONS as u8).filter(|x| storage.committed & session_bit(*x) != 0);
        for parent in parents.chain([NONE]) {
            out.push(Action::OpenSession { s, parent, adopts: NONE });
            if self.bounds.adopt {
                out.extend((1..s).map(|adopts| Action::OpenSession { s, parent, adopts }));
            }
        }
    }

    pub(super) fn writer_actions(&self, st: &State, s: u8, out: &mut Vec<Action>) {
        let w = &st.writers[usize::from(s) - 1];
        match w.at {
            At::Idle if self.rules.generations_after_open => self.open_actions(st, s, out),
            At::Idle => out.push(Action::ListGenerations(s)),
            At::Early => self.open_actions(st, s, out),
            At::Opened if w.adopts != NONE => out.push(Action::Adopt(s)),
            At::Opened | At::Adopted => out.push(Action::ListGenerations(s)),
            At::Listed => out.push(Action::PutSeen(s)),
            At::Seen => out.push(Action::CheckParent(s)),
            At::Active => self.decisions(st, s, out),
            At::Refused => out.push(Action::GiveUp(s)),
            At::Done => {}
        }
        if self.bounds.give_up && !matches!(w.at, At::Idle | At::Early | At::Refused | At::Done) {
            out.push(Action::GiveUp(s));
        }
    }

    fn decisions(&self, st: &State, s: u8, out: &mut Vec<Action>) {
        let (storage, w, r) = (&st.storage, &st.writers[usize::from(s) - 1], &self.rules);
        // A fenced session cannot commit: only what it still puts into the storage matters.
        let fenced = storage.snap[usize::from(s)] == Register::Fence && r.commit_creates && r.fences_stay;
        if w.slots.iter().any(|slot| *slot != Slot::Undecided) {
            out.push(Action::Commit(s));
        }
        if !fenced {
            if storage.newest > w.known {
                out.push(Action::Raise(s));
            }
            if storage.seen[usize::from(s)] != Some(w.known) {
                out.push(Action::PutSeen(s));
            }
        }
        for c in (0..self.bounds.slots).filter(|c| w.slots[usize::from(*c)] == Slot::Undecided) {
            if storage.ever & bit(own_pack(s, c)) == 0 {
                out.push(Action::UploadPack(s, c));
                if !r.commit_after_packs {
                    out.push(Action::UsePending(s, c));
                }
            }
            if fenced {
                continue;
            }
            let has = |x: u8| storage.snapshot(x).is_some_and(|hints| hints[usize::from(c)] != NONE);
            if has(w.parent) {
                out.push(Action::UseParentSlot(s, c));
            }
            let hits = storage.ever & !self.barred(st, s);
            out.extend(bits(hits).filter(|p| storage.holds(*p, c) && owner(*p) != s).map(|p| Action::UseHit(s, c, p)));
            if !r.rows_after_packs {
                let sending = |d: &u8| storage.open & session_bit(*d) != 0 && storage.ever & bit(own_pack(*d, c)) == 0;
                out.extend(
                    (1..SESSIONS as u8)
                        .filter(|d| *d != s)
                        .filter(sending)
                        .map(|d| Action::UseHit(s, c, own_pack(d, c))),
                );
            }
            if !r.nodes_of_parent_only {
                let live = |x: &u8| *x != w.parent && has(*x) && storage.forget[usize::from(*x)] == Forget::No;
                out.extend((0..SESSIONS as u8).filter(live).map(|x| Action::UseNode(s, c, x)));
            }
            // Its hits would be barred and tracked like any other; what nobody looks after is what it had from its parent.
            if !r.adoption_takes_packs_only
                && w.adopts != NONE
                && matches!(st.writers[usize::from(w.adopts) - 1].slots[usize::from(c)], Slot::Parent(_))
            {
                out.push(Action::UseDeadSlot(s, c));
            }
        }
    }

    pub(super) fn writer_step(&self, st: &mut State, s: u8, action: Action) {
        let r = self.rules;
        let i = usize::from(s);
        match action {
            Action::OpenSession { parent, adopts, .. } => {
                st.storage.open |= session_bit(s);
                st.storage.parent[i] = parent;
                st.storage.adopts[i] = adopts;
                let w = st.writer(s);
                w.at = if w.at == At::Early { At::Listed } else { At::Opened };
                w.parent = parent;
                w.adopts = adopts;
            }
            Action::Adopt(_) => self.adopt(st, s),
            Action::ListGenerations(_) => {
                let newest = st.storage.newest;
                let w = st.writer(s);
                w.known = newest;
                w.at = if w.at == At::Idle { At::Early } else { At::Listed };
            }
            Action::PutSeen(_) => {
                let w = st.writer(s);
                let known = w.known;
                if w.at == At::Listed {
                    let check = w.parent != NONE && r.parent_checked_after_open;
                    w.at = if check { At::Seen } else { At::Active };
                }
                // `sess/` of a session with outcome means nothing any more.
                if st.storage.open & session_bit(s) != 0 {
                    st.storage.seen[i] = Some(known);
                }
            }
            Action::CheckParent(_) => self.check_parent(st, s),
            Action::UseParentSlot(_, c) => {
                let parent = st.writer(s).parent;
                if let Some(hints) = st.storage.snapshot(parent) {
                    st.writer(s).slots[usize::from(c)] = Slot::Parent(hints[usize::from(c)]);
                }
            }
            Action::UseNode(_, c, x) => {
                if let Some(hints) = st.storage.snapshot(x) {
                    st.writer(s).slots[usize::from(c)] = Slot::Parent(hints[usize::from(c)]);
                }
            }
            Action::UseDeadSlot(_, c) => {
                let dead = st.writer(s).adopts;
                let slot = st.writer(dead).slots[usize::from(c)];
                st.writer(s).slots[usize::from(c)] = slot;
            }
            Action::UseHit(_, c, p) => st.writer(s).slots[usize::from(c)] = Slot::Hit(p),
            Action::UsePending(_, c) => st.writer(s).slots[usize::from(c)] = Slot::Own(own_pack(s, c)),
            Action::UploadPack(_, c) => {
                st.storage.create_pack(own_pack(s, c), 1 << c);
                st.writer(s).slots[usize::from(c)] = Slot::Own(own_pack(s, c));
            }
            Action::Raise(_) => self.raise(st, s),
            Action::Commit(_) => self.commit(st, s),
            _ => {
                if st.storage.snap[i] == Register::Empty {
                    st.storage.settle_session(s, Register::Fence);
                }
                self.done(st, s);
            }
        }
    }

    fn adopt(&self, st: &mut State, s: u8) {
        let w = st.writer(s);
        w.at = At::Adopted;
        let dead = w.adopts;
        let at = st.writer(dead).at;
        match st.storage.snap[usize::from(dead)] {
            Register::Empty => {
                st.event = Some(Event::AdoptedAt(at));
                if self.rules.adoption_fences {
                    st.storage.settle_session(dead, Register::Fence);
                }
            }
            Register::Fence => {}
            Register::Snapshot(_) | Register::Removed => st.event = Some(Event::NothingToResume),
        }
    }

    fn check_parent(&self, st: &mut State, s: u8) {
        let parent = st.writer(s).parent;
        let storage = &st.storage;
        let forget = storage.forget[usize::from(parent)];
        let refused = forget == Forget::Final
            || (forget.asked() && self.rules.asked_parent_is_refused)
            || storage.snapshot(parent).is_none();
        let other = (0..SESSIONS as u8).find(|x| {
            storage.snapshot(*x).is_some() && matches!(storage.forget[usize::from(*x)], Forget::No | Forget::Undone)
        });
        if refused {
            st.event = Some(Event::ParentRefused);
        }
        let w = st.writer(s);
        w.at = At::Active;
        if refused && self.rules.refused_parent_ends_session {
            w.at = At::Refused;
        } else if refused {
            w.parent = other.unwrap_or(NONE);
        }
    }

    fn raise(&self, st: &mut State, s: u8) {
        let Storage { newest, generations, .. } = st.storage;
        let w = st.writer(s);
        let skipped = usize::from(w.known)..usize::from(newest);
        let lists = &generations
            [if self.rules.raise_reads_all_lists { skipped } else { usize::from(newest) - 1..usize::from(newest) }];
        let condemned = lists.iter().fold(0, |set, g| set | g.condemned);
        w.known = newest;
        let mut replaced = false;
        for slot in &mut w.slots {
            if matches!(*slot, Slot::Hit(p) if condemned & bit(p) != 0) && self.rules.raise_replaces {
                *slot = Slot::Undecided;
                replaced = true;
            }
        }
        if replaced {
            st.event = Some(Event::Replaced);
        }
    }

    fn commit(&self, st: &mut State, s: u8) {
        let w = *st.writer(s);
        let mut hints = [NONE; CHUNKS];
        for (hint, slot) in hints.iter_mut().zip(w.slots) {
            *hint = match slot {
                Slot::Undecided => NONE,
                Slot::Parent(p) | Slot::Hit(p) | Slot::Own(p) => p,
            };
        }
        match st.storage.snap[usize::from(s)] {
            Register::Fence if self.rules.commit_creates => st.event = Some(Event::FenceWon),
            _ => {
                st.storage.settle_session(s, Register::Snapshot(hints));
                st.storage.committed |= session_bit(s);
                let adopted = |slot: &Slot| matches!(*slot, Slot::Hit(p) if owner(p) == w.adopts);
                if st.writers.iter().any(|other| other.adopts == s && other.at > At::Opened) {
                    st.event = Some(Event::CommittedTwice);
                } else if w.adopts != NONE && w.slots.iter().any(adopted) {
                    st.event = Some(Event::Adopted);
                }
            }
        }
        self.done(st, s);
    }

    /// The process ends and forgets everything; what a mutant would take over stays.
    fn done(&self, st: &mut State, s: u8) {
        let w = st.writer(s);
        w.at = At::Done;
        w.parent = NONE;
        w.adopts = NONE;
        w.known = 0;
        if self.rules.adoption_takes_packs_only {
            w.slots = [Slot::Undecided; super::state::SLOTS];
        }
    }
}

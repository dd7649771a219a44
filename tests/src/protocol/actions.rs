//! The actions, who may take them when, and the properties.

use super::state::{
    At, CHUNKS, Collector, Forget, GENERATIONS, Generation, NONE, PACKS, Reader, Register, SESSIONS, SLOTS, Slot,
    State, Storage, Writer, session_bit,
};
use super::{Event, Rules, cases, state};
use stateright::{Model, Property};

/// One storage operation, or one decision. Numbers: session or snapshot, chunk, pack; collector first where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "`function` says what performs each; the rules are in concurrency.md")]
pub enum Action {
    OpenSession {
        s: u8,
        parent: u8,
        adopts: u8,
    },
    Adopt(u8),
    ListGenerations(u8),
    PutSeen(u8),
    CheckParent(u8),
    UseParentSlot(u8, u8),
    UseHit(u8, u8, u8),
    UploadPack(u8, u8),
    Raise(u8),
    Commit(u8),
    GiveUp(u8),
    /// Mutant: a reference to a pack whose upload is not acknowledged.
    UsePending(u8, u8),
    /// Mutant: a node of a stranger.
    UseNode(u8, u8, u8),
    /// Mutant: a slot of the adopted session.
    UseDeadSlot(u8, u8),
    OpenRead(u8),
    CheckRead,
    ClearRead,
    OpenReadAgain,
    CloseRead,
    AskForget(u8),
    Undo(u8),
    Settle(u8),
    ListPacks(u8),
    ListForgets(u8),
    ListSessions(u8),
    ListSnapshots(u8),
    CopyPack(u8, u8),
    Publish(u8),
    TakeOver(u8),
    Fence(u8, u8),
    FenceLeft(u8),
    Wait(u8),
    Seal(u8),
    Crash(u8),
    Sweep(u8),
    RemoveRecord(u8),
    /// Mutant: a fence is deleted.
    RemoveFence(u8),
}

impl Action {
    /// The function that performs it: file below `repo/src`, and name. `None`: a crash, or what only a mutant does.
    pub fn function(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::OpenSession { .. } => ("session.rs", "open"),
            Self::CheckParent(_) => ("session.rs", "begin"),
            Self::Adopt(_) => ("session/others.rs", "fence_dead"),
            Self::ListGenerations(_) => ("session.rs", "read_bars"),
            Self::PutSeen(_) => ("session.rs", "put_seen"),
            Self::UseParentSlot(..) => ("writer/map.rs", "parent_slot"),
            Self::UseHit(..) => ("session.rs", "may_hit"),
            Self::UploadPack(..) => ("writer/uploads.rs", "store"),
            Self::Raise(_) => ("session.rs", "beat"),
            Self::Commit(_) => ("session.rs", "commit"),
            Self::GiveUp(_) => ("writer/store.rs", "abandon"),
            Self::OpenRead(_) => ("session/read.rs", "enter"),
            Self::CheckRead => ("session/read.rs", "refuse_final"),
            Self::ClearRead => ("collect/sessions.rs", "clear_readers"),
            Self::OpenReadAgain => ("session/read.rs", "look"),
            Self::CloseRead => ("session/read.rs", "close"),
            Self::AskForget(_) => ("forget.rs", "forget"),
            Self::Undo(_) => ("forget.rs", "undo"),
            Self::Settle(_) => ("forget.rs", "settle"),
            Self::ListPacks(_) => ("collect/lists.rs", "list_packs"),
            Self::ListForgets(_) => ("collect/lists.rs", "list_forgets"),
            Self::ListSessions(_) => ("collect/sessions.rs", "list_sessions"),
            Self::ListSnapshots(_) => ("collect/lists.rs", "list_snapshots"),
            Self::CopyPack(..) => ("collect/copy.rs", "copy_packs"),
            Self::Publish(_) => ("collect/generation.rs", "publish"),
            Self::TakeOver(_) => ("collect.rs", "generations"),
            Self::Fence(..) => ("collect/wait.rs", "fence"),
            Self::FenceLeft(_) => ("collect/wait.rs", "fence_left"),
            Self::Wait(_) => ("collect/wait.rs", "wait"),
            Self::Seal(_) => ("collect/generation.rs", "seal"),
            Self::Sweep(_) => ("collect/sweep.rs", "sweep"),
            Self::RemoveRecord(_) => ("collect/sweep.rs", "remove_records"),
            Self::Crash(_)
            | Self::UsePending(..)
            | Self::UseNode(..)
            | Self::UseDeadSlot(..)
            | Self::RemoveFence(_) => return None,
        })
    }

    /// Who acts: writers 1 to 3, collectors 4 and 5, users 6, whoever deletes or settles 7.
    pub fn actor(self) -> u32 {
        match self {
            Self::OpenSession { s, .. }
            | Self::Adopt(s)
            | Self::ListGenerations(s)
            | Self::PutSeen(s)
            | Self::CheckParent(s)
            | Self::UseParentSlot(s, _)
            | Self::UseHit(s, ..)
            | Self::UploadPack(s, _)
            | Self::Raise(s)
            | Self::Commit(s)
            | Self::GiveUp(s)
            | Self::UsePending(s, _)
            | Self::UseNode(s, ..)
            | Self::UseDeadSlot(s, _) => u32::from(s),
            Self::ListPacks(j)
            | Self::ListForgets(j)
            | Self::ListSessions(j)
            | Self::ListSnapshots(j)
            | Self::CopyPack(j, _)
            | Self::Publish(j)
            | Self::TakeOver(j)
            | Self::Fence(j, _)
            | Self::Wait(j)
            | Self::Seal(j)
            | Self::Crash(j) => 4 + u32::from(j),
            Self::OpenRead(_)
            | Self::CheckRead
            | Self::OpenReadAgain
            | Self::CloseRead
            | Self::AskForget(_)
            | Self::Undo(_) => 6,
            Self::ClearRead
            | Self::Settle(_)
            | Self::FenceLeft(_)
            | Self::Sweep(_)
            | Self::RemoveRecord(_)
            | Self::RemoveFence(_) => 7,
        }
    }
}

/// A snapshot of another volume, in the place of session 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Second {
    /// There is none.
    None,
    /// It shares nothing with snapshot 0.
    Apart,
    /// It has chunk 0 by a hint into the pack of snapshot 0.
    Shares,
}

/// How large a world is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Writing sessions, at most 3.
    pub writers: u8,
    /// Collectors, at most 2.
    pub collectors: u8,
    /// Generations, at most 3.
    pub generations: u8,
    /// Packs that collectors write, at most 3; 0: no repack.
    pub copies: u8,
    /// Chunks of the writers' disks, at most 2.
    pub slots: u8,
    /// Forgets of one snapshot, at most 2.
    pub asks: u8,
    /// Forgets may be undone.
    pub undo: bool,
    /// A session may adopt another.
    pub adopt: bool,
    /// A session may give up.
    pub give_up: bool,
    /// There is a reader.
    pub reader: bool,
    /// Whether a second snapshot is there from the start.
    pub second: Second,
    /// Of several copies of a chunk a collector takes the last, not the first.
    pub last_copy: bool,
    /// Packs of which all is referred to may be moved too.
    pub seal_anew: bool,
    /// Sessions that write may be fenced at any time, also when no list waits for them.
    pub fence_left: bool,
    /// Crashes of collectors are events (each storage state then exists once for each step they crashed in).
    pub crash_events: bool,
}

impl Bounds {
    /// One writer, one collector, one generation, and nothing else.
    pub const SMALL: Self = Self {
        writers: 1,
        collectors: 1,
        generations: 1,
        copies: 0,
        slots: 1,
        asks: 1,
        undo: false,
        adopt: false,
        give_up: false,
        reader: false,
        second: Second::None,
        last_copy: false,
        seal_anew: false,
        fence_left: false,
        crash_events: false,
    };
}

/// The protocol, with the steps that are taken, in a world of that size, after a history.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// The steps taken.
    pub rules: Rules,
    /// The world.
    pub bounds: Bounds,
    /// A history that every run begins with.
    pub prefix: Vec<Action>,
}

/// The property that matters.
pub const LOST: &str = "what was committed and is not Final is there and whole";
/// Its like for readers.
pub const UNSERVED: &str = "what a reader was let in for is there";
/// A2.
pub const TWICE: &str = "an adopted session does not commit any more";
/// All that must always hold.
pub const ALWAYS: &[&str] = &[LOST, UNSERVED, TWICE];

impl Protocol {
    fn start(&self) -> State {
        let mut storage = Storage {
            packs: 0,
            ever: 0,
            chunks: [0; PACKS],
            snap: [Register::Empty; SESSIONS],
            committed: session_bit(0),
            open: 0,
            parent: [NONE; SESSIONS],
            adopts: [NONE; SESSIONS],
            seen: [None; SESSIONS],
            forget: [Forget::No; SESSIONS],
            generations: [Generation::default(); GENERATIONS],
            newest: 0,
        };
        let wide = usize::from(self.bounds.slots) == SLOTS;
        storage.create_pack(0, if wide { 0b111 } else { 0b101 });
        storage.snap[0] = Register::Snapshot([0, if wide { 0 } else { NONE }, 0]);
        match self.bounds.second {
            Second::None => {}
            Second::Apart => {
                let pack = state::own_pack(3, 1);
                storage.create_pack(pack, 0b010);
                storage.snap[3] = Register::Snapshot([NONE, pack, NONE]);
                storage.committed |= session_bit(3);
            }
            Second::Shares => {
                storage.snap[3] = Register::Snapshot([0, NONE, NONE]);
                storage.committed |= session_bit(3);
            }
        }
        let idle = Writer { at: At::Idle, parent: NONE, adopts: NONE, known: 0, slots: [Slot::Undecided; SLOTS] };
        State {
            storage,
            writers: [idle; SESSIONS - 1],
            reader: Reader::Idle,
            collectors: [Collector::IDLE; 2],
            event: None,
        }
    }

    /// Whether `action` is among the possible ones.
    pub fn possible(&self, state: &State, action: Action) -> bool {
        let mut out = Vec::new();
        self.actions(state, &mut out);
        out.contains(&action)
    }

    fn user_actions(&self, st: &State, out: &mut Vec<Action>) {
        let storage = &st.storage;
        for x in 0..SESSIONS as u8 {
            let forget = storage.forget[usize::from(x)];
            if storage.snapshot(x).is_some() {
                let again = forget == Forget::Undone && self.bounds.asks > 1;
                if (forget == Forget::No && self.bounds.asks > 0) || again {
                    out.push(Action::AskForget(x));
                }
                if self.bounds.reader && st.reader == Reader::Idle {
                    out.push(Action::OpenRead(x));
                }
            }
            if forget != Forget::No {
                // As seen in a list that may be old: who comes late learns what was decided.
                out.push(Action::Settle(x));
                if self.bounds.undo {
                    out.push(Action::Undo(x));
                }
            }
        }
        match st.reader {
            Reader::Opened(_) => out.extend([Action::CheckRead, Action::ClearRead]),
            Reader::Reading(_) => out.extend([Action::CloseRead, Action::ClearRead]),
            Reader::Cleared(_) => out.push(Action::OpenReadAgain),
            Reader::Idle | Reader::Closed => {}
        }
    }

    fn user_step(&self, st: &mut State, action: Action) {
        let storage = &mut st.storage;
        match action {
            Action::AskForget(x) => {
                let forget = &mut storage.forget[usize::from(x)];
                if *forget == Forget::Undone {
                    st.event = Some(Event::AskedAgain);
                    *forget = Forget::AskedAgain;
                } else {
                    *forget = Forget::Asked;
                }
            }
            Action::Undo(x) | Action::Settle(x) => {
                let undo = matches!(action, Action::Undo(_));
                let forget = &mut storage.forget[usize::from(x)];
                match (*forget, undo) {
                    (Forget::Asked, true) => *forget = Forget::Undone,
                    (Forget::AskedAgain, true) => *forget = Forget::UndoneAgain,
                    (Forget::Asked | Forget::AskedAgain, false) => *forget = Forget::Final,
                    (Forget::Final, true) if !self.rules.settled_once => *forget = Forget::Undone,
                    (Forget::Final, true) => st.event = Some(Event::FinalWon),
                    (Forget::Undone | Forget::UndoneAgain, false) => st.event = Some(Event::UndoWon),
                    _ => {}
                }
            }
            Action::OpenRead(x) => st.reader = Reader::Opened(x),
            Action::CheckRead => {
                let Some(x) = st.reader.pinned() else { return };
                let gone = storage.forget[usize::from(x)] == Forget::Final;
                st.reader = if gone && self.rules.reader_checks {
                    st.event = Some(Event::ReaderRefused);
                    Reader::Closed
                } else {
                    Reader::Reading(x)
                };
            }
            Action::ClearRead => {
                let Some(x) = st.reader.pinned() else { return };
                st.event = Some(Event::ReaderCleared);
                st.reader = Reader::Cleared(x);
            }
            Action::OpenReadAgain => {
                let Reader::Cleared(x) = st.reader else { return };
                let again = self.rules.cleared_reader_checks;
                st.reader = if again { Reader::Opened(x) } else { Reader::Reading(x) };
            }
            _ => st.reader = Reader::Closed,
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = self.start();
        for action in &self.prefix {
            assert!(self.possible(&state, *action), "{action:?} is not possible in {state:?}");
            state = self.next_state(&state, *action).unwrap_or(state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        for s in 1..=self.bounds.writers {
            self.writer_actions(state, s, out);
        }
        self.user_actions(state, out);
        for j in 0..self.bounds.collectors {
            self.collector_actions(state, j, out);
        }
        self.sweep_actions(state, out);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut st = before.clone();
        st.event = None;
        match action.actor() {
            s @ 1..=3 => self.writer_step(&mut st, s as u8, action),
            4 | 5 => self.collector_step(&mut st, action),
            6 => self.user_step(&mut st, action),
            _ if matches!(action, Action::Settle(_) | Action::ClearRead) => self.user_step(&mut st, action),
            _ => self.sweep_step(&mut st, action),
        }
        st.collectors[..usize::from(self.bounds.collectors)].sort_unstable();
        (st != *before).then_some(st)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(LOST, |_, s: &State| s.nothing_is_lost()),
            Property::always(UNSERVED, |_, s: &State| s.readers_are_served()),
            Property::always(TWICE, |_, s: &State| s.event != Some(Event::CommittedTwice)),
        ];
        all.extend(cases::properties());
        all
    }
}

const _: () = assert!(PACKS * CHUNKS <= 32, "places fit");

//! What the storage holds and what each actor remembers.

use super::Event;

/// Packs that can ever be written.
pub const PACKS: usize = 10;
/// Writing sessions. Session 0 has committed before the run starts.
pub const SESSIONS: usize = 4;
/// Generations that can be published.
pub const GENERATIONS: usize = 3;
/// Chunks: 0 and 1 lie on every disk, 2 only on the one of snapshot 0.
pub const CHUNKS: usize = 3;
/// Chunks a session writes at most.
pub const SLOTS: usize = 2;
/// No session, no pack.
pub const NONE: u8 = 15;
/// The place of the read session in a [`Sessions`] set.
pub const READER: u8 = 7;

/// A set of packs, by bit.
pub type Packs = u16;
/// A set of sessions, by bit.
pub type Sessions = u8;
/// A set of places (pack, chunk), by bit.
pub type Places = u32;

/// The set of one element.
pub fn bit(i: u8) -> u16 {
    1 << i
}

/// The set of one session.
pub fn session_bit(s: u8) -> Sessions {
    1 << s
}

/// The elements of a set.
pub fn bits(set: u16) -> impl Iterator<Item = u8> {
    (0..16).filter(move |i| set & bit(*i) != 0)
}

/// The place of chunk `c` in pack `p`.
pub fn place(p: u8, c: u8) -> Places {
    1 << (usize::from(p) * CHUNKS + usize::from(c))
}

/// The chunks of pack `p` among `places`.
pub fn chunks_at(places: Places, p: u8) -> u8 {
    ((places >> (usize::from(p) * CHUNKS)) & 0b111) as u8
}

/// The value of the key `snap/<vid>/<sid>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Register {
    /// No object.
    Empty,
    /// The session will never commit.
    Fence,
    /// Committed: the pack that each chunk's slot hints at, or [`NONE`] where the disk has a hole.
    Snapshot([u8; CHUNKS]),
    /// The record of a Final snapshot, deleted.
    Removed,
}

/// The records below `forget/<sid>/`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forget {
    /// None.
    No,
    /// 1-asked.
    Asked,
    /// 1-asked, 1-settled = Undone.
    Undone,
    /// Also 2-asked.
    AskedAgain,
    /// Also 2-settled = Undone.
    UndoneAgain,
    /// The highest settled is Final.
    Final,
}

impl Forget {
    /// Asked and not settled.
    pub fn asked(self) -> bool {
        matches!(self, Self::Asked | Self::AskedAgain)
    }
}

/// `gc/gen/<n>` and `gc/gen/<n>-sealed`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Generation {
    /// Packs to be deleted unless rescued.
    pub condemned: Packs,
    /// Chunks of condemned packs that were copied.
    pub moved: Places,
    /// Snapshots the first mark has walked.
    pub roots: Sessions,
    /// Snapshots whose record goes.
    pub dead: Sessions,
    /// The delete set, when sealed.
    pub sealed: Option<Packs>,
}

/// All objects.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Storage {
    /// Packs there are.
    pub packs: Packs,
    /// Packs there have ever been: whatever names one of them is as stale as can be.
    pub ever: Packs,
    /// What each pack holds.
    pub chunks: [u8; PACKS],
    /// Outcomes.
    pub snap: [Register; SESSIONS],
    /// Sessions that have committed, as their users were told.
    pub committed: Sessions,
    /// `sess/<sid>/open` of sessions without outcome.
    pub open: Sessions,
    /// Its parent.
    pub parent: [u8; SESSIONS],
    /// Its adopted session.
    pub adopts: [u8; SESSIONS],
    /// The highest `sess/<sid>/seen-<n>`.
    pub seen: [Option<u8>; SESSIONS],
    /// Forgets, by snapshot.
    pub forget: [Forget; SESSIONS],
    /// `gc/gen/1` .. `gc/gen/<newest>`.
    pub generations: [Generation; GENERATIONS],
    /// How many there are.
    pub newest: u8,
}

/// Where a writer stands: the step it has just finished.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum At {
    /// Nothing yet.
    Idle,
    /// Only in a mutant: lists read, not open.
    Early,
    /// Open.
    Opened,
    /// The dead session is fenced.
    Adopted,
    /// Lists read.
    Listed,
    /// `seen` written.
    Seen,
    /// The parent is checked; decisions are taken.
    Active,
    /// The parent was refused.
    Refused,
    /// Over.
    Done,
}

/// A chunk reference of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// Not decided yet, or again.
    Undecided,
    /// T1: the parent's hint.
    Parent(u8),
    /// T2: a hit in a foreign pack, tracked.
    Hit(u8),
    /// Uploaded.
    Own(u8),
}

/// What the process of a writing session remembers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Writer {
    /// Its last step.
    pub at: At,
    /// Its parent.
    pub parent: u8,
    /// The session it adopts.
    pub adopts: u8,
    /// The newest list it has read; 0: there was none.
    pub known: u8,
    /// Its decisions.
    pub slots: [Slot; SLOTS],
}

/// Where a reader stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reader {
    /// Nothing yet.
    Idle,
    /// Its session is open on this snapshot.
    Opened(u8),
    /// It reads.
    Reading(u8),
    /// It was silent for so long that its `open` was removed, and has not looked since.
    Cleared(u8),
    /// Over.
    Closed,
}

impl Reader {
    /// The snapshot its session pins.
    pub fn pinned(self) -> Option<u8> {
        match self {
            Self::Opened(x) | Self::Reading(x) => Some(x),
            Self::Idle | Self::Cleared(_) | Self::Closed => None,
        }
    }
}

/// The step a collector takes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// G0 and the first of the lists.
    Start,
    /// The second list.
    Second,
    /// The third.
    Third,
    /// G4 and the mark.
    Snapshots,
    /// G7, G8.
    Publish,
    /// G9.
    Wait,
    /// G10, forgets.
    ForgetsAgain,
    /// G10, sessions.
    SessionsAgain,
    /// G10, snapshots, and the mark.
    SnapshotsAgain,
    /// G12.
    Seal,
}

/// What a collector remembers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Collector {
    /// Its next step.
    pub step: Step,
    /// Before G8: the newest generation when it began. After: the one it works on.
    pub generation: u8,
    /// Listed packs.
    pub packs: Packs,
    /// Listed snapshots that are Final.
    pub finals: Sessions,
    /// Listed sessions.
    pub sessions: Sessions,
    /// The list it will publish.
    pub condemned: Packs,
    /// Packs worth copying.
    pub sparse: Packs,
    /// Marked places of sparse packs.
    pub marks: Places,
    /// Copied chunks.
    pub moved: Places,
    /// Roots of the mark.
    pub roots: Sessions,
    /// Records it will give up.
    pub dead: Sessions,
    /// The delete set it will seal.
    pub sweep: Packs,
}

impl Collector {
    /// A collector that has just started, or started again after a crash: it remembers nothing.
    pub const IDLE: Self = Self {
        step: Step::Start,
        generation: 0,
        packs: 0,
        finals: 0,
        sessions: 0,
        condemned: 0,
        sparse: 0,
        marks: 0,
        moved: 0,
        roots: 0,
        dead: 0,
        sweep: 0,
    };
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The objects.
    pub storage: Storage,
    /// Sessions 1 to 3.
    pub writers: [Writer; SESSIONS - 1],
    /// The read session.
    pub reader: Reader,
    /// Sorted: collectors are alike.
    pub collectors: [Collector; 2],
    /// What the last action was a case of.
    pub event: Option<Event>,
}

/// Who wrote pack `p`; [`NONE`]: a collector. Names are used once: two for each session, the rest for copies.
pub fn owner(p: u8) -> u8 {
    match p {
        0 => 0,
        1..=6 => p.div_ceil(2),
        _ => NONE,
    }
}

/// The pack into which session `s` uploads chunk `c`.
pub fn own_pack(s: u8, c: u8) -> u8 {
    2 * s - 1 + c
}

impl Storage {
    /// Whether pack `p` holds (or held) chunk `c`.
    pub fn holds(&self, p: u8, c: u8) -> bool {
        self.chunks[usize::from(p)] & (1 << c) != 0
    }

    /// Creates a pack.
    pub fn create_pack(&mut self, p: u8, chunks: u8) {
        self.packs |= bit(p);
        self.ever |= bit(p);
        self.chunks[usize::from(p)] = chunks;
    }

    /// Creates or (in mutants) overwrites an outcome. `sess/<sid>` has no meaning any more and may go.
    pub fn settle_session(&mut self, s: u8, outcome: Register) {
        let i = usize::from(s);
        self.snap[i] = outcome;
        self.open &= !session_bit(s);
        self.parent[i] = NONE;
        self.adopts[i] = NONE;
        self.seen[i] = None;
    }

    /// The slots of snapshot `x`, when its record is there.
    pub fn snapshot(&self, x: u8) -> Option<[u8; CHUNKS]> {
        match self.snap.get(usize::from(x)) {
            Some(Register::Snapshot(hints)) => Some(*hints),
            _ => None,
        }
    }

    /// Snapshots that are Final.
    pub fn finals(&self) -> Sessions {
        (0..SESSIONS as u8)
            .filter(|x| self.forget[usize::from(*x)] == Forget::Final)
            .fold(0, |set, x| set | session_bit(x))
    }

    /// Packs in the delete sets of generations 1 to `upto`.
    pub fn swept(&self, upto: u8) -> Packs {
        self.generations[..usize::from(upto)].iter().filter_map(|g| g.sealed).fold(0, |a, b| a | b)
    }

    /// Whether every chunk of snapshot `x` lies in some pack.
    pub fn whole(&self, x: u8) -> bool {
        self.snapshot(x).is_none_or(|hints| {
            (0..CHUNKS as u8).all(|c| hints[usize::from(c)] == NONE || bits(self.packs).any(|p| self.holds(p, c)))
        })
    }
}

impl State {
    /// What was committed and is not Final is there and whole.
    pub fn nothing_is_lost(&self) -> bool {
        let st = &self.storage;
        (0..SESSIONS as u8)
            .filter(|x| st.committed & session_bit(*x) != 0)
            .all(|x| st.forget[usize::from(x)] == Forget::Final || (st.snapshot(x).is_some() && st.whole(x)))
    }

    /// What a reader that was let in reads is there.
    pub fn readers_are_served(&self) -> bool {
        match self.reader {
            Reader::Reading(x) => self.storage.whole(x),
            _ => true,
        }
    }

    /// All that must always hold.
    pub fn holds(&self) -> bool {
        self.nothing_is_lost() && self.readers_are_served() && self.event != Some(Event::CommittedTwice)
    }

    /// The writer of session `s`.
    pub fn writer(&mut self, s: u8) -> &mut Writer {
        &mut self.writers[usize::from(s) - 1]
    }
}

//! What may happen, and how a history is drawn.

use proptest::prelude::*;

/// Volumes: one of few chunks, one of several leaves, one of three levels.
pub(super) const VOLUMES: [&str; 3] = ["small", "Middle of /dev/sd?", "large"];

/// A history, as it is printed when it fails.
#[derive(Clone, Debug)]
pub struct History {
    pub(super) seed: u64,
    /// The first index is a database on disk.
    pub(super) database: bool,
    pub(super) ops: Vec<Op>,
}

impl History {
    /// Operations in it.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True when nothing happens.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}, index on disk: {}", self.seed, self.database)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op:?}"))
    }
}

/// Where a write begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In this page, modulo their number.
    Page(u16),
    /// One page before this page: at the edge of a leaf, or of a node above.
    Edge(u16),
    /// So many bytes before the end of the disk.
    End(u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    /// Pages that do not compress; equal seeds, equal pages.
    Noise(u8),
    /// Pages that compress.
    Text(u8),
    Zero,
    /// A few bytes in the midst of a page.
    Few(u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    Nothing,
    /// Pages and bytes.
    Pages(u16, u16),
    More(u16, u16),
    Less(u16, u16),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Parent {
    Auto,
    None,
    Given(u8),
}

/// How a run works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) volume: usize,
    pub(super) parent: Parent,
    /// log2 of the chunk size over that of 64 KiB.
    pub(super) class: Option<u8>,
    pub(super) compression: u8,
    pub(super) pack_kib: usize,
    pub(super) buffers: usize,
    pub(super) uploads: usize,
    pub(super) checkpoint: usize,
    pub(super) threads: usize,
    /// Draws the order of the chunks.
    pub(super) order: u64,
    /// Of eight unchanged runs so many are taken over unread.
    pub(super) inherit: u8,
    pub(super) index: usize,
    /// Says now and then how far it is.
    pub(super) advance: bool,
    /// Somebody asks to forget the parent while the session opens.
    pub(super) race: bool,
}

/// A request of a run that fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) read: bool,
    pub(super) prefix: &'static str,
    pub(super) skip: u32,
    pub(super) applied: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Commit,
    Drop,
    Abandon,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Write {
        volume: usize,
        place: Place,
        pages: u8,
        fill: Fill,
    },
    Resize {
        volume: usize,
        size: Size,
    },
    /// A whole run without a stop.
    Backup(Setup, Option<Trouble>),
    /// A run that puts everything and gives up.
    GiveUp(Setup),
    /// A run whose steps other operations come between; there are two.
    Start {
        slot: usize,
        setup: Setup,
    },
    Feed {
        slot: usize,
        windows: u8,
    },
    Beat {
        slot: usize,
    },
    End {
        slot: usize,
        end: End,
    },
    Forget {
        which: u8,
        hours: u16,
    },
    Unforget {
        which: u8,
    },
    Settle {
        which: u8,
    },
    Pass {
        minutes: u32,
    },
    PutBack {
        minutes: u32,
    },
    Reopen,
    LoseIndex {
        which: usize,
        how: u8,
    },
    ForeignRows {
        which: usize,
        snapshot: u8,
    },
    LosePack {
        which: u16,
        meta: bool,
    },
    BringBack,
    /// An index segment is lost, which takes nothing but time.
    LoseSegment {
        which: u16,
    },
    /// A list; of all data packs, or of those that no snapshot needs.
    Condemn {
        draw: u64,
        any: bool,
    },
    /// Deletes what is condemned and needed by nobody, as a collector does.
    Sweep,
    AddSlot,
    RemoveSlot {
        which: u8,
    },
    Verify,
    Check,
}

fn setups() -> impl Strategy<Value = Setup> {
    let parents = prop_oneof![
        6 => Just(Parent::Auto),
        1 => Just(Parent::None),
        2 => any::<u8>().prop_map(Parent::Given),
    ];
    let classes = prop_oneof![6 => Just(None), 1 => (0u8..3).prop_map(Some)];
    let first = (0usize..3, parents, classes, 0u8..4, prop_oneof![Just(130), Just(256), Just(1024)], 2usize..4);
    let inherit = prop_oneof![3 => Just(0u8), 1 => 1u8..8, 2 => Just(8)];
    let second = (0usize..3, 1usize..4, 1usize..3, any::<u64>(), inherit, 0usize..2, any::<bool>(), 0u8..12);
    (first, second).prop_map(|(first, second)| {
        let (volume, parent, class, compression, pack_kib, buffers) = first;
        let (uploads, checkpoint, threads, order, inherit, index, advance, race) = second;
        let race = race == 0;
        Setup {
            volume,
            parent,
            class,
            compression,
            pack_kib,
            buffers,
            uploads,
            checkpoint,
            threads,
            order,
            inherit,
            index,
            advance,
            race,
        }
    })
}

fn troubles() -> impl Strategy<Value = Trouble> {
    let writes = prop_oneof![
        3 => Just("packs/"),
        1 => Just("meta/"),
        1 => Just("idx/"),
        2 => Just("snap/"),
        1 => Just("sess/"),
    ];
    prop_oneof![
        4 => (writes, 0u32..3, any::<bool>())
            .prop_map(|(prefix, skip, applied)| Trouble { read: false, prefix, skip, applied }),
        1 => (0u32..3).prop_map(|skip| Trouble { read: true, prefix: "meta/", skip, applied: false }),
    ]
}

fn writes() -> impl Strategy<Value = Op> {
    let places = prop_oneof![
        4 => any::<u16>().prop_map(Place::Page),
        2 => prop_oneof![Just(1u16), Just(128), Just(256), Just(16_384)].prop_map(Place::Edge),
        2 => (1u8..5).prop_map(Place::End),
    ];
    let fills = prop_oneof![
        3 => (0u8..12).prop_map(Fill::Noise),
        3 => (0u8..12).prop_map(Fill::Text),
        1 => Just(Fill::Zero),
        2 => any::<u8>().prop_map(Fill::Few),
    ];
    (0usize..3, places, 1u8..9, fills).prop_map(|(volume, place, pages, fill)| Op::Write { volume, place, pages, fill })
}

fn sizes() -> impl Strategy<Value = Size> {
    let bytes = || prop_oneof![2 => Just(0u16), 3 => any::<u16>()];
    prop_oneof![
        1 => Just(Size::Nothing),
        2 => (prop_oneof![0u16..10, 125u16..140, 250u16..300, 16_380u16..16_400], bytes())
            .prop_map(|(pages, bytes)| Size::Pages(pages, bytes)),
        3 => (0u16..20, bytes()).prop_map(|(pages, bytes)| Size::More(pages, bytes)),
        3 => (0u16..20, bytes()).prop_map(|(pages, bytes)| Size::Less(pages, bytes)),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let ends = || prop_oneof![5 => Just(End::Commit), 1 => Just(End::Drop), 2 => Just(End::Abandon)];
    let works = prop_oneof![
        16 => writes(),
        4 => (0usize..3, sizes()).prop_map(|(volume, size)| Op::Resize { volume, size }),
        9 => setups().prop_map(|setup| Op::Backup(setup, None)),
        3 => (setups(), troubles()).prop_map(|(setup, trouble)| Op::Backup(setup, Some(trouble))),
        2 => setups().prop_map(Op::GiveUp),
        4 => (0usize..2, setups()).prop_map(|(slot, setup)| Op::Start { slot, setup }),
        6 => (0usize..2, 1u8..6).prop_map(|(slot, windows)| Op::Feed { slot, windows }),
        1 => (0usize..2).prop_map(|slot| Op::Beat { slot }),
        4 => (0usize..2, ends()).prop_map(|(slot, end)| Op::End { slot, end }),
    ];
    let events = prop_oneof![
        3 => (any::<u8>(), prop_oneof![Just(0u16), 0u16..300]).prop_map(|(which, hours)| Op::Forget { which, hours }),
        2 => any::<u8>().prop_map(|which| Op::Unforget { which }),
        3 => any::<u8>().prop_map(|which| Op::Settle { which }),
        2 => prop_oneof![Just(1u32), Just(90), Just(200), Just(20_000)].prop_map(|minutes| Op::Pass { minutes }),
        1 => prop_oneof![Just(1u32), Just(90), Just(9_000)].prop_map(|minutes| Op::PutBack { minutes }),
        1 => Just(Op::Reopen),
        2 => (0usize..2, 0u8..4).prop_map(|(which, how)| Op::LoseIndex { which, how }),
        1 => (0usize..2, any::<u8>()).prop_map(|(which, snapshot)| Op::ForeignRows { which, snapshot }),
        2 => (any::<u16>(), prop::bool::weighted(0.25)).prop_map(|(which, meta)| Op::LosePack { which, meta }),
        1 => Just(Op::BringBack),
        1 => any::<u16>().prop_map(|which| Op::LoseSegment { which }),
        5 => (any::<u64>(), prop::bool::weighted(0.7)).prop_map(|(draw, any)| Op::Condemn { draw, any }),
        2 => Just(Op::Sweep),
        1 => Just(Op::AddSlot),
        1 => any::<u8>().prop_map(|which| Op::RemoveSlot { which }),
        1 => Just(Op::Verify),
        1 => Just(Op::Check),
    ];
    prop_oneof![47 => works, 27 => events]
}

/// Histories of up to this many operations.
pub fn histories(most: usize) -> impl Strategy<Value = History> {
    let ops = prop::collection::vec(ops(), 1..most);
    (any::<u64>(), prop::bool::weighted(0.1), ops).prop_map(|(seed, database, ops)| History { seed, database, ops })
}

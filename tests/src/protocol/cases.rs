//! The hard cases: what an action turned out to be, and the properties that say that a search came upon it.

use super::state::{At, Step};
use super::{Protocol, State};
use stateright::Property;

/// What the last action was a case of. A part of the state, so that every hard case can be asserted to be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Event {
    /// A list with packs was published.
    Condemned,
    /// A delete set lacks a pack of its list.
    Rescued,
    /// A pack was deleted.
    Swept,
    /// A pack whose chunks live on in a copy was deleted.
    Relocated,
    /// The record of a Final snapshot was deleted.
    RecordRemoved,
    /// A commit found a Fence.
    FenceWon,
    /// A Fence found the commit.
    CommitWon,
    /// A session committed that another had adopted: must never be.
    CommittedTwice,
    /// A session that adopted another committed a hit in a pack of it.
    Adopted,
    /// A dead session was fenced by its successor after this step.
    AdoptedAt(At),
    /// The session to be adopted had committed.
    NothingToResume,
    /// A Final came too late.
    UndoWon,
    /// An undo came too late.
    FinalWon,
    /// A snapshot was asked to be forgotten again after an undo.
    AskedAgain,
    /// A session ended since its parent is being forgotten.
    ParentRefused,
    /// A raise found hits in condemned packs.
    Replaced,
    /// A list was taken over from a collector that stopped.
    TakenOver,
    /// A list was taken over from a collector that goes on.
    TakenOverAlive,
    /// A generation's number was taken.
    Overtaken,
    /// A generation was sealed already.
    SealedBefore,
    /// A reader came too late.
    ReaderRefused,
    /// A pack was spared since a reader needs it.
    ReaderPinned,
    /// The `open` of a reader that was silent was removed.
    ReaderCleared,
    /// A mark came to a pack that was stored after it had listed packs.
    LatePack,
    /// What a Final root misses of a swept pack was passed over.
    PassedOver,
    /// A session that writes was fenced although no list waits for it.
    FencedLeft,
    /// A pack was moved of which all is referred to.
    FullMoved,
    /// A collector stopped before this step.
    Crashed(Step),
}

macro_rules! cases {
    ($($name:literal = $event:expr,)*) => {
        /// The hard cases by name.
        pub const CASES: &[(&str, Event)] = &[$(($name, $event)),*];

        pub(super) fn properties() -> Vec<Property<Protocol>> {
            vec![$(Property::sometimes($name, |_, s: &State| s.event == Some($event))),*]
        }
    };
}

cases! {
    "condemned" = Event::Condemned,
    "rescued" = Event::Rescued,
    "swept" = Event::Swept,
    "relocated" = Event::Relocated,
    "record removed" = Event::RecordRemoved,
    "fence won" = Event::FenceWon,
    "commit won" = Event::CommitWon,
    "adopted" = Event::Adopted,
    "adopted after open" = Event::AdoptedAt(At::Opened),
    "adopted after adoption" = Event::AdoptedAt(At::Adopted),
    "adopted after lists" = Event::AdoptedAt(At::Listed),
    "adopted after seen" = Event::AdoptedAt(At::Seen),
    "adopted while active" = Event::AdoptedAt(At::Active),
    "adopted after refusal" = Event::AdoptedAt(At::Refused),
    "nothing to resume" = Event::NothingToResume,
    "undo won" = Event::UndoWon,
    "final won" = Event::FinalWon,
    "asked again" = Event::AskedAgain,
    "parent refused" = Event::ParentRefused,
    "raise with replacement" = Event::Replaced,
    "taken over" = Event::TakenOver,
    "taken over alive" = Event::TakenOverAlive,
    "overtaken" = Event::Overtaken,
    "sealed before" = Event::SealedBefore,
    "reader refused" = Event::ReaderRefused,
    "reader pinned" = Event::ReaderPinned,
    "reader cleared" = Event::ReaderCleared,
    "late pack" = Event::LatePack,
    "passed over" = Event::PassedOver,
    "fenced without a list" = Event::FencedLeft,
    "full pack moved" = Event::FullMoved,
    "crash before second list" = Event::Crashed(Step::Second),
    "crash before third list" = Event::Crashed(Step::Third),
    "crash before snapshots" = Event::Crashed(Step::Snapshots),
    "crash before publish" = Event::Crashed(Step::Publish),
    "crash before wait" = Event::Crashed(Step::Wait),
    "crash before forgets again" = Event::Crashed(Step::ForgetsAgain),
    "crash before sessions again" = Event::Crashed(Step::SessionsAgain),
    "crash before snapshots again" = Event::Crashed(Step::SnapshotsAgain),
    "crash before seal" = Event::Crashed(Step::Seal),
}

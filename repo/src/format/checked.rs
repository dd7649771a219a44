//! The records of checks: what they have read, and how it stands with each snapshot. `docs/format.md`, section "What checks
//! have read".

use super::records::{Kind, Record};
use crate::Timestamp;
use crate::id::{PackId, SnapshotId};
use minicbor::{Decode, Encode};

/// `checked/packs/<c>-<k>`: packs that checks have read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Readings {
    /// Those of the same time together.
    #[n(0)]
    pub groups: Vec<ReadTogether>,
}

/// Packs of which all chunks were opened by checks that began at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReadTogether {
    /// When the check began.
    #[n(0)]
    pub at: Timestamp,
    /// Each chunk was intact.
    #[n(1)]
    pub intact: Vec<PackId>,
    /// Some chunk was not.
    #[n(2)]
    pub damaged: Vec<PackId>,
}

impl Readings {
    /// Most packs of one record.
    pub const MOST: usize = 1 << 16;

    /// Packs of all groups.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.intact.len() + group.damaged.len()).sum()
    }

    /// True when it names no pack.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `checked/snaps/<c>`: how it stands with snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct States {
    /// Each snapshot once.
    #[n(0)]
    pub snapshots: Vec<Checked>,
}

/// How it stands with one snapshot, as a check found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Checked {
    /// The snapshot.
    #[n(0)]
    pub snapshot: SnapshotId,
    /// When the check began that says so.
    #[n(1)]
    pub said: Timestamp,
    /// Since then each of its packs was read and was intact; `None`: some was not read yet.
    #[n(2)]
    pub verified: Option<Timestamp>,
    /// Damage was found that hits it.
    #[n(3)]
    pub damaged: bool,
}

impl Record for Readings {
    const KIND: Kind = Kind::Readings;

    fn fault(&self) -> Option<&'static str> {
        (self.len() > Self::MOST).then_some("it names too many packs")
    }
}

impl Record for States {
    const KIND: Kind = Kind::States;

    fn fault(&self) -> Option<&'static str> {
        let both = |state: &Checked| state.damaged && state.verified.is_some();
        self.snapshots.iter().any(both).then_some("a snapshot is verified and damaged")
    }
}

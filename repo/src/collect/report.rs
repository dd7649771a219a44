//! What a collector did, or would do.

use crate::id::SessionId;
use std::time::Duration;

/// A number of packs, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Packs.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Packed {
    pub(super) fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// A session that a collector waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub session: SessionId,
    /// The volume it writes.
    pub name: String,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// How long ago it gave a sign of life.
    pub silent: Duration,
}

/// What a run of a collector did; of one without effects, what it would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The generation that was published or gone on with last.
    pub generation: Option<u32>,
    /// Its delete set is sealed.
    pub sealed: bool,
    /// This run sealed a delete set, or found nothing to condemn. Else it only waited for sessions, or other collectors came
    /// before it: where each run ends so, nothing is ever deleted.
    pub completed: bool,
    /// A generation that stands without a delete set; in a run without effects.
    pub unsealed: Option<u32>,
    /// Other collectors came before this one again and again; nothing is wrong.
    pub overtaken: bool,
    /// Forgets that became final.
    pub settled: u64,
    /// Forgets whose delay is over, and that are left to whoever asked for them.
    pub left_forgets: u64,
    /// Packs that there are, those in delete sets not counted.
    pub all: Packed,
    /// Of them, what snapshots and sessions refer to.
    pub live: Packed,
    /// Of the bytes of those, what is referred to.
    pub live_bytes: u64,
    /// Without a reference, but of sessions that are under way or have left no trace.
    pub spared: Packed,
    /// Condemned without a reference.
    pub condemned: Packed,
    /// Condemned with little in them that is referred to, which was copied.
    pub thin: Packed,
    /// Chunks that were copied, and their bytes.
    pub copied: Packed,
    /// Packs of older key epochs of which something is referred to; in a run that seals such anew.
    pub old: Packed,
    /// Of those, left as they are, as something in them does not open: a later run does not seal them anew either.
    pub damaged: Packed,
    /// Found damaged by this run, which nobody had noted: what that hits says a check.
    pub unopened: Packed,
    /// Of those of older epochs, condemned as all that is referred to was sealed anew.
    pub rewritten: Packed,
    /// Chunks and nodes that were sealed anew, and their bytes.
    pub resealed: Packed,
    /// Condemned packs that turned out to be needed.
    pub rescued: u64,
    /// Sessions that are waited for.
    pub waiting: Vec<Waiting>,
    /// Sessions that were silent for too long and were ended, by volume.
    pub fenced: Vec<(SessionId, String)>,
    /// Deleted.
    pub swept: Packed,
    /// In a delete set, but not yet for so long as the grace is.
    pub graced: Packed,
    /// Could not be deleted; the next run tries again.
    pub failed: Packed,
    /// Records of snapshots that were removed.
    pub records: u64,
    /// Notes of sessions that were removed.
    pub sessions: u64,
    /// Index segments that were put together or dropped.
    pub segments: u64,
}

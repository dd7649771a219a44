//! Healing from another repository (M7 of `docs/concurrency.md`): what snapshots refer to and no pack has is taken from one that
//! has the same content. Ids are keyed, so nothing there has the name it has here: plain content is read there, named with the
//! keys of this repository, and taken only if that is the name of something wanted. Where it was found there does not matter.
//!
//! Chunks are read where the damaged snapshot has them, of the snapshot there that is the same or of the same volume, and else by
//! their kind and length. Nodes of maps and trees are made again as a copy of the whole snapshot would make them, which is then
//! not committed.

mod chunks;
mod nodes;
mod verify;

pub use nodes::NodeHeal;

use crate::check::Wanted;
use crate::codec::{Compression, Packer};
use crate::copy::origin;
use crate::id::{PackKind, ShortId};
use crate::pack::Piece;
use crate::sealer::Sealer;
use crate::storage::keys;
use crate::{CopyOptions, Error, ErrorKind, ReadSession, Repository, Result, Snapshot, SnapshotList, Timestamp};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How it is healed.
#[derive(Clone, Debug)]
pub struct HealOptions {
    /// How chunks are packed, and how many threads read.
    pub copy: CopyOptions,
    /// Nothing is stored: it is only said what could be.
    pub dry_run: bool,
}

/// Is told of bytes that were read; an error ends it.
pub type HealWatch<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);

/// What became of what was wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// Chunks that are there again; with `dry_run`, that could be.
    pub chunks: u64,
    /// Bytes of their plaintexts.
    pub bytes: u64,
    /// Packs that were stored for them.
    pub packs: u64,
}

/// A snapshot of the other repository, as a source of what is wanted here.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The snapshot there.
    pub snapshot: Snapshot,
    /// It holds the same as one that is damaged here: a copy of it, or the original.
    pub is_same: bool,
    /// It is of the same volume as one that is damaged here, by name and kind.
    pub is_akin: bool,
}

/// Takes the chunks that are wanted. Drop it without [`finish`](Self::finish) and what was not stored yet is not.
pub struct Heal<'a> {
    repository: &'a Repository,
    options: &'a HealOptions,
    wanted: &'a Wanted,
    began: Timestamp,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    /// What is still to be found.
    open: HashMap<(u8, ShortId), u32>,
    /// What was looked at: the other repository's names.
    tried: HashSet<(u8, ShortId)>,
    sealer: Option<Sealer<'a>>,
    /// What was taken could not be stored.
    is_broken: bool,
    healed: Healed,
}

impl std::fmt::Debug for Heal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Heal({} chunks wanted)", self.wanted.chunks.len())
    }
}

/// So many of the other's names are kept (about 40 bytes each); what is forgotten is read again.
const MOST_TRIED: usize = 1 << 20;

/// The snapshots of the other repository in the order in which they are asked: the same ones, those of the same volumes from the
/// nearest in time on, and with `all` the others.
pub fn candidates(
    repository: &Repository,
    wanted: &Wanted,
    source: &Repository,
    listed: &SnapshotList,
    all: bool,
) -> Vec<Candidate> {
    let damaged: Vec<_> = wanted.snapshots.values().map(|of| &of.snapshot).collect();
    let origins: HashSet<_> = damaged.iter().map(|s| origin(repository, s)).collect();
    let mut found: Vec<(u8, i64, Candidate)> = Vec::new();
    // What somebody has asked to forget is there until it is gone.
    for snapshot in &listed.snapshots {
        let is_same = origins.contains(&origin(source, snapshot));
        let akin = damaged.iter().filter(|mine| {
            mine.record.name == snapshot.record.name && mine.record.tree.is_some() == snapshot.record.tree.is_some()
        });
        let far = akin.map(|mine| mine.record.started.0.abs_diff(snapshot.record.started.0)).min();
        let rank = match (is_same, far.is_some()) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) if all => 2,
            (false, false) => continue,
        };
        let far_away = far.map_or(i64::MAX, |far| i64::try_from(far).unwrap_or(i64::MAX));
        found.push((rank, far_away, Candidate { snapshot: snapshot.clone(), is_same, is_akin: far.is_some() }));
    }
    found.sort_by_key(|(rank, far, candidate)| (*rank, *far, candidate.snapshot.id));
    found.into_iter().map(|(.., candidate)| candidate).collect()
}

/// Likewise those of which the nodes of maps and trees that are wanted can be made again: the same ones, and as many of the same
/// volumes as `akin` says, if a disk has the size and the chunk size of one that is damaged.
pub fn node_candidates(
    repository: &Repository,
    wanted: &Wanted,
    source: &Repository,
    listed: &SnapshotList,
    akin: usize,
) -> Vec<Candidate> {
    let damaged: Vec<_> = wanted.snapshots.values().filter(|of| of.nodes).map(|of| &of.snapshot).collect();
    let origins: HashSet<_> = damaged.iter().map(|s| origin(repository, s)).collect();
    let fits = |theirs: &Snapshot| {
        damaged.iter().any(|mine| {
            let shape = |s: &Snapshot| (s.record.tree.is_none()).then_some((s.record.size, s.record.class));
            mine.record.name == theirs.record.name && shape(mine) == shape(theirs)
        })
    };
    let mut left = akin;
    let mut found = candidates(repository, wanted, source, listed, false);
    found.retain_mut(|candidate| {
        candidate.is_same = origins.contains(&origin(source, &candidate.snapshot));
        let takes = candidate.is_same || (left > 0 && fits(&candidate.snapshot));
        left -= usize::from(takes && !candidate.is_same);
        takes
    });
    found
}

impl<'a> Heal<'a> {
    /// Begins; nothing is stored before something is found.
    ///
    /// # Errors
    /// A feature that this build must not write beside.
    pub fn start(repository: &'a Repository, wanted: &'a Wanted, options: &'a HealOptions) -> Result<Self> {
        if !options.dry_run {
            repository.check_writable()?;
        }
        let (open, began) = (wanted.chunks.clone(), repository.clock().now());
        let state = State { open, tried: HashSet::new(), sealer: None, is_broken: false, healed: Healed::default() };
        Ok(Self { repository, options, wanted, began, state: Mutex::new(state) })
    }

    /// Chunks that were not found yet.
    pub fn missing(&self) -> u64 {
        self.state.lock().open.len() as u64
    }

    /// Takes from the snapshot that `session` reads what it has of what is wanted, and gives how many chunks. What cannot be read
    /// there is left out. `scan`: looks at all of it, not only at what is in the same place of a disk.
    ///
    /// # Errors
    /// What either storage says when it does not answer; no room here; what `watch` says.
    pub fn take_from(&self, session: Arc<ReadSession>, scan: bool, watch: HealWatch<'_>) -> Result<u64> {
        let before = self.missing();
        if before > 0 {
            chunks::take(self, session, scan, watch)?;
        }
        Ok(before - self.missing())
    }

    /// True when what the other repository calls so was not looked at yet, and may be something wanted.
    fn is_new(&self, name: (u8, ShortId)) -> bool {
        let mut state = self.state.lock();
        if state.tried.len() >= MOST_TRIED {
            state.tried.clear();
        }
        state.tried.insert(name)
    }

    fn is_broken(&self) -> bool {
        self.state.lock().is_broken
    }

    fn is_open(&self, name: &(u8, ShortId)) -> bool {
        self.state.lock().open.contains_key(name)
    }

    /// Takes a chunk if it is wanted: its name under the keys of this repository says so, and nothing else does.
    fn offer(&self, class: u8, plain: &[u8]) -> Result<()> {
        let id = self.repository.keys().ids.chunk(class, plain);
        let name = (class, id.short());
        if !self.is_open(&name) {
            return Ok(());
        }
        let mut packer = Packer::new(self.options.copy.writer.compression, plain.len())?;
        let (codec, packed) = packer.pack(plain)?;
        let piece = Piece { id, class, codec, plain: plain.len() as u32, packed };
        let mut state = self.state.lock();
        // Another thread may have had it.
        if state.open.get(&name) != Some(&piece.plain) {
            return Ok(());
        }
        if !self.options.dry_run {
            let sealer = match &mut state.sealer {
                Some(sealer) => sealer,
                none => {
                    let size = self.options.copy.writer.pack_size;
                    none.insert(Sealer::start(
                        self.repository,
                        size,
                        "a repair's, for what it has from another repository",
                    )?)
                }
            };
            if let Err(e) = sealer.put(PackKind::Data, &piece) {
                state.is_broken = true;
                return Err(e);
            }
        }
        state.open.remove(&name);
        state.healed.chunks += 1;
        state.healed.bytes += plain.len() as u64;
        Ok(())
    }

    /// Stores what is open, reads all of it back, and notes that. Only now anything is healed.
    ///
    /// # Errors
    /// `Corrupt` when the storage does not give what was stored: the pack is noted as damaged, and nothing of it counts. What `watch`
    /// says, which is asked for each pack that is read.
    pub fn finish(self, watch: HealWatch<'_>) -> Result<Healed> {
        let State { sealer, mut healed, .. } = self.state.into_inner();
        if let Some(mut sealer) = sealer {
            let stored = sealer.finish();
            let packs = verify::read_back(self.repository, self.began, sealer.stored(), stored, watch)?;
            healed.packs = packs;
        }
        Ok(healed)
    }
}

/// What was found damaged must be noted before anything is stored: a collector keeps what was healed of a damaged pack because of
/// that note alone (G5). It counts what the notes of all checks say together, and so does this; where the note of one that began
/// later says that such a pack is intact, the damage is noted once more (M7).
///
/// # Errors
/// The damage could not be noted, or what is noted cannot be read.
pub fn admit(repository: &Repository, report: &crate::CheckReport) -> Result<()> {
    let refused = |why: String, kind| {
        let text = format!("what is damaged could not be noted in the repository ({why})");
        Error::new(kind, text).advise("nothing more was healed: it would not last; run it again when that works")
    };
    if let Some(why) = &report.not_kept {
        return Err(refused(why.clone(), ErrorKind::Invalid));
    }
    let hit = report.damages.iter().filter(|damage| !damage.missing && !damage.hits.is_empty());
    let packs = hit.filter_map(|damage| keys::parse_pack(&damage.object)).filter(|pack| pack.kind == PackKind::Data);
    match repository.hold_damaged(&packs.collect()) {
        Err(e) if e.kind() == ErrorKind::Cancelled => Err(e),
        held => held.map_err(|e| refused(e.to_string(), e.kind())),
    }
}

impl Default for HealOptions {
    fn default() -> Self {
        let writer = crate::WriterOptions { compression: Compression::Lz4, ..crate::WriterOptions::default() };
        Self { copy: CopyOptions { writer, threads: 2, fetch: 1 << 20, run: String::new() }, dry_run: false }
    }
}

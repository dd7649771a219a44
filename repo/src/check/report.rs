//! What a check found.

use crate::Timestamp;
use crate::format::tree::FOLDER;
use crate::id::{PackKind, SnapshotId, VolumeId};
use crate::storage::{Key, keys};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a check found. The same repository gives the same report, whatever the threads did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// Snapshots whose maps or trees were followed.
    pub snapshots: u64,
    /// Records and clear objects opened.
    pub records: u64,
    /// Packs whose index was opened, those of map nodes included.
    pub packs: u64,
    /// Map nodes and tree nodes opened.
    pub nodes: u64,
    /// Chunks that the snapshots refer to, each counted once.
    pub chunks: u64,
    /// Bytes they take in the storage.
    pub data_bytes: u64,
    /// Bytes of packs that were read to open chunks.
    pub read_bytes: u64,
    /// What was not read, and why.
    pub not_read: Vec<NotRead>,
    /// What was read is noted in the repository.
    pub kept: bool,
    /// Why it is not, although that was asked for.
    pub not_kept: Option<String>,
    /// Data packs that no snapshot refers to: of runs under way or broken off, or of forgotten snapshots.
    pub unused_packs: u64,
    /// Bytes of them.
    pub unused_bytes: u64,
    /// Chunks that are not where the maps say, since that pack is gone or they are damaged in it, and were found by their ids: no
    /// damage to a snapshot.
    pub moved_chunks: u64,
    /// Likewise map nodes and tree nodes whose pack is gone.
    pub moved_nodes: u64,
    /// Those of the snapshots that are trees of directories.
    pub trees: u64,
    /// What is damaged, by key.
    pub damages: Vec<Damage>,
}

impl CheckReport {
    /// True when nothing is damaged as far as was looked, but what is [superseded](Damage::is_superseded).
    pub fn is_clean(&self) -> bool {
        self.damages.iter().all(Damage::is_superseded)
    }

    /// True when a pack could be read at first and then could not: whether what snapshots need of it is intact this check does not
    /// know, and what it says of them is the least that is damaged.
    pub fn is_unclear(&self) -> bool {
        self.damages.iter().any(|damage| damage.unclear)
    }
}

/// Chunks that a check left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRead {
    /// Why.
    pub reason: NotReadReason,
    /// In so many packs.
    pub packs: u64,
    /// Bytes in the storage, of chunks that snapshots refer to.
    pub bytes: u64,
}

/// Why chunks were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReadReason {
    /// Nobody asked for it.
    NotAsked,
    /// The pack was read, or written, later than was asked for.
    Younger,
    /// The pack is not in the sample.
    Sample,
    /// The pack's own index could be read at first, and then could not: what is in it was not looked at. It is among the damages.
    Failed,
}

/// One object that is damaged or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its key.
    pub object: Key,
    /// What it is.
    pub kind: DamageKind,
    /// It is not there at all.
    pub missing: bool,
    /// A pack that was cut so that nothing is left in it.
    pub empty: bool,
    /// It could be read at first and then could not: who has no hit here may be hit all the same.
    pub unclear: bool,
    /// Of a pack: how it stands with what is lost and another one was named for.
    pub copies: Copies,
    /// What is wrong with it.
    pub what: String,
    /// The snapshots that it hits, by volume and time. None: every snapshot can be restored in spite of it.
    pub hits: Vec<Hit>,
}

impl Damage {
    /// A configuration in whose place a newer one counts. Nothing is lost, and nothing is to be done: no object takes the place of it,
    /// and nobody removes it.
    pub fn is_superseded(&self) -> bool {
        self.kind == DamageKind::Config && keys::parse_config(&self.object).is_some()
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self.kind {
            DamageKind::Pack | DamageKind::Map if self.unclear => {
                "whether all that the snapshots need of it is intact is not known, for it could be read at first and then could not: see \
                 to the storage, and run `wherry check --read-data` again"
            }
            DamageKind::Pack | DamageKind::Map if self.hits.is_empty() => match self.copies {
                Copies::None | Copies::Lost => {
                    "nothing is lost: all that the snapshots need of it was read and is intact"
                }
                Copies::Damaged => {
                    "what is damaged in it is damaged in another object, too, which is named here with the snapshots that need it: \
                     bring the object back from a copy of the repository, either of them is enough"
                }
                Copies::Unknown => {
                    "what is in it nobody can tell: it may be what the snapshots need that are hit by an object that is gone; bring \
                     the object back from a copy of the repository"
                }
            },
            DamageKind::Pack if self.copies == Copies::Lost => {
                "`wherry gc` had moved what was in it to another object, and deleted it rightly; it is that one which is damaged or gone, \
                 and which one it was is not known: from a copy of the repository bring back what is named here, and else all below \
                 `packs/` that is there and not here, but this one; or restore another snapshot; the next backup of each volume \
                 stores anew what is missing; until then, or until the snapshots that need it are given up (`wherry forget`), \
                 `wherry gc` deletes nothing"
            }
            DamageKind::Map if self.copies == Copies::Lost => {
                "`wherry gc` had moved what was in it to another object, and deleted it rightly; it is that one which is damaged or gone, \
                 and which one it was is not known: from a copy of the repository bring back what is named here, and else all below \
                 `meta/` that is there and not here, but this one; or restore another snapshot; the next backup of each volume \
                 writes its map or tree anew; until then, or until the snapshots that need it are given up (`wherry forget`), \
                 `wherry gc` deletes nothing"
            }
            DamageKind::Pack if self.missing || self.empty => {
                "restore another snapshot, or bring the object back from a copy of the repository; the next backup of \
                 each volume stores anew what is missing; until it is there again, or the snapshots that need it are given up (`wherry \
                 forget`), `wherry gc` deletes nothing"
            }
            DamageKind::Pack => {
                "restore another snapshot, or bring the object back from a copy of the repository; leave it where it is, for \
                 all else in it is intact: the next backup of each volume stores anew what it needs of it"
            }
            DamageKind::Map => {
                "restore another snapshot, or bring the object back from a copy of the repository; the next backup of \
                 each volume writes its map or tree anew; until it is there again, or the snapshots that need it are given up (`wherry \
                 forget`), `wherry gc` deletes nothing"
            }
            DamageKind::Snapshot => {
                "restore another snapshot of the volume, or bring the object back from a copy of the repository; the \
                 next backup does not build on it"
            }
            DamageKind::Config => "nothing is lost, and nothing is to be done: a newer configuration counts",
            DamageKind::Newest => {
                "nothing is lost: what it said is known; nothing is written until `wherry repair` has written the next one"
            }
            DamageKind::KeySlot => {
                "nothing is lost as long as another way in is intact: make one with `wherry key add` and remove this \
                 one with `wherry key remove`"
            }
            DamageKind::Epoch => {
                "bring the object back from a copy of the repository; with another way in that still opens make new ones, \
                 `wherry key add`, and remove the others"
            }
            DamageKind::Pin if keys::parse_pin(&self.object).is_some_and(|(.., unpinned)| unpinned) => {
                "nothing is lost: the snapshot counts as pinned; to end that, bring the object back from a copy of the repository, or \
                 move it away and run `wherry unpin` again, with the id that is between the slashes"
            }
            DamageKind::Pin => {
                "nothing is lost: the snapshot counts as pinned; `wherry unpin`, then `wherry pin`, with the id that is between the \
                 slashes, makes another pin"
            }
            DamageKind::Pinned => {
                "bring the record back from a copy of the repository: the snapshot cannot be restored without it, and `wherry gc` \
                 deletes nothing until then; or give it up with `wherry unpin` and its id"
            }
            DamageKind::Gone => {
                "bring the record back from a copy of the repository: the snapshot cannot be restored without it, and `wherry gc` \
                 deletes nothing until then; or give it up with `wherry forget` and its id"
            }
            DamageKind::Session => {
                "nothing is lost: at most, a run that was broken off sends again what it had stored; where `wherry gc` does not \
                 work because of it, `wherry repair` ends that run"
            }
            DamageKind::Index => "nothing is lost: backups read the packs' own indexes in its place",
            DamageKind::Forget if keys::parse_forget(&self.object).is_some_and(|(.., settled)| settled) => {
                "whether the snapshot is gone for good cannot be read: it stays hidden, and what is there of it is kept; bring the \
                 object back from a copy of the repository, or give the snapshot up with `wherry forget` and its id, which \
                 is between the slashes"
            }
            DamageKind::Forget => {
                "nothing is lost: the snapshot is hidden and kept; `wherry unforget` and its id, which is between the slashes, \
                 takes the forget back"
            }
            DamageKind::Checked => {
                "nothing is lost but when some packs or snapshots were checked last, and what was found damaged then: until all is \
                 read anew `wherry gc` may refuse to delete; `wherry check --read-data` of everything does that, and removes the \
                 object"
            }
            DamageKind::Generation if keys::parse_generation(&self.object).is_some_and(|(_, sealed)| sealed) => {
                "nothing is lost and backups go on, but `wherry gc` refuses to work: bring the object back from a copy of the \
                 repository; where there is none `wherry copy` takes all snapshots into a new one that are not forgotten \
                 (`wherry unforget` the others first), and no pins (`wherry pin` the copies)"
            }
            DamageKind::Generation => {
                "nothing is lost, but backups and `wherry gc` refuse to work: bring the object back from a copy of the \
                 repository; where there is none `wherry copy` takes all snapshots into a new one that are not forgotten \
                 (`wherry unforget` the others first), and no pins (`wherry pin` the copies)"
            }
        }
    }
}

/// How it stands with a damaged pack and what is lost of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Nothing is known to be in it that is lost, but for what its own hits say.
    #[default]
    None,
    /// A damaged copy is in it.
    Damaged,
    /// Its own index cannot be read, so that what was in a pack that is gone may be in it.
    Unknown,
    /// It is gone as a collector had moved what was in it, and no copy of that is known.
    Lost,
}

/// What a damaged object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Settings.
    Config,
    /// The settings that count. What they said is known all the same, else the repository had not opened.
    Newest,
    /// A way in.
    KeySlot,
    /// A key epoch, for the ways in that are older than it.
    Epoch,
    /// Part of a session.
    Session,
    /// Part of the index.
    Index,
    /// A snapshot's record.
    Snapshot,
    /// A forget or what became of it.
    Forget,
    /// A pin or its end.
    Pin,
    /// The record of a pinned snapshot, which is gone; the object is the pin.
    Pinned,
    /// The record of a snapshot, which is gone; the object is the list of a collector that names it, or the record itself.
    Gone,
    /// A list of a collector.
    Generation,
    /// What checks have read.
    Checked,
    /// Chunks.
    Pack,
    /// Map nodes.
    Map,
}

impl DamageKind {
    fn of(key: &Key) -> Self {
        let is = |prefix| key.as_str().starts_with(prefix);
        match keys::parse_pack(key).map(|id| id.kind) {
            Some(PackKind::Data) => Self::Pack,
            Some(PackKind::Meta) => Self::Map,
            None if keys::parse_epoch(key).is_some() => Self::Epoch,
            None if is(keys::KEYS) => Self::KeySlot,
            None if is(keys::SESS) => Self::Session,
            None if is(keys::IDX) => Self::Index,
            None if is(keys::SNAP) => Self::Snapshot,
            None if is(keys::FORGET) => Self::Forget,
            None if is(keys::PIN) => Self::Pin,
            None if is(keys::GEN) => Self::Generation,
            None if is(keys::CHECKED) => Self::Checked,
            None => Self::Config,
        }
    }
}

/// What damage does to one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its volume.
    pub volume: VolumeId,
    /// The volume's name; unknown when no other record of the volume tells it.
    pub name: Option<String>,
    /// The snapshot's time; unknown when its record cannot be read.
    pub time: Option<Timestamp>,
    /// True when nothing of the snapshot can be read.
    pub whole: bool,
    /// Bytes of the volume, or of the files of a tree, that cannot be read; 0 when its size is not known.
    pub bytes: u64,
    /// Where they are in a volume, ascending; the first ones where there are very many.
    pub ranges: Vec<Range<u64>>,
    /// Ranges that are left out of `ranges`.
    pub more: u64,
    /// Of a tree: what cannot be read, in the order of the tree; the first ones where there are very many.
    pub paths: Vec<LostPath>,
    /// Paths that are left out of `paths`.
    pub more_paths: u64,
    /// Entries of a tree that cannot be read, those that no path can name included.
    pub entries: u64,
}

/// An entry of a tree that damage hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostPath {
    /// Names from the root on with `/` between them, as they are; empty: the root.
    pub path: Vec<u8>,
    /// Its own content, or its extended attributes, cannot be read as a whole.
    pub itself: bool,
    /// Of a directory: so many entries below it cannot be read since the part of its list is lost that names them.
    pub below: u64,
}

/// Ranges kept for one snapshot and object.
const MOST_RANGES: usize = 1000;

/// Ranges that are pushed in ascending order; neighbours become one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    pub(super) bytes: u64,
    pub(super) kept: Vec<Range<u64>>,
    pub(super) more: u64,
    /// Where the last range that was not kept ends.
    end: u64,
}

impl Ranges {
    pub(super) fn push(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        let full = self.kept.len() >= MOST_RANGES;
        match self.kept.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if !full => self.kept.push(range),
            _ => {
                self.more += u64::from(self.end != range.start);
                self.end = range.end;
            }
        }
    }
}

/// Paths kept for one snapshot and object, and bytes of them.
const MOST_PATHS: usize = 200;
const MOST_PATH_BYTES: usize = 16 << 10;

/// Paths that are pushed in the order of the tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    pub(super) bytes: u64,
    pub(super) kept: Vec<LostPath>,
    pub(super) more: u64,
    pub(super) entries: u64,
    /// The root's own list is lost.
    pub(super) whole: bool,
    kept_bytes: usize,
    /// The last one that was not kept.
    last: Option<Vec<u8>>,
}

impl Paths {
    /// The entry at `path` itself is hit, by so many bytes of its content.
    pub(super) fn entry(&mut self, path: &[u8], bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.kept.last_mut().filter(|last| self.last.is_none() && last.path == path) {
            Some(last) => {
                self.entries += u64::from(!last.itself);
                last.itself = true;
            }
            None if self.last.as_deref() == Some(path) => {}
            None => {
                self.entries = self.entries.saturating_add(1);
                self.push(LostPath { path: path.to_vec(), itself: true, below: 0 });
            }
        }
    }

    /// A part of the list of the directory at `path` is lost.
    pub(super) fn below(&mut self, path: &[u8], entries: u64, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries = self.entries.saturating_add(entries);
        // What is below it, behind another lost part, may stand between.
        match self.kept.iter_mut().rev().find(|kept| kept.path == path) {
            Some(kept) => kept.below = kept.below.saturating_add(entries),
            None if self.last.as_deref() == Some(path) => {}
            None => self.push(LostPath { path: path.to_vec(), itself: false, below: entries }),
        }
    }

    fn push(&mut self, lost: LostPath) {
        let bytes = self.kept_bytes.saturating_add(lost.path.len());
        if self.last.is_none() && self.kept.len() < MOST_PATHS && bytes <= MOST_PATH_BYTES {
            self.kept_bytes = bytes;
            self.kept.push(lost);
        } else {
            self.more += 1;
            self.last = Some(lost.path);
        }
    }
}

/// What of one snapshot is lost with one object: ranges of a volume, or paths of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    pub(super) ranges: Ranges,
    pub(super) paths: Paths,
}

/// Collects damage from all threads.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<BTreeMap<Key, Found>>);

#[derive(Debug, Default)]
struct Found {
    missing: bool,
    empty: bool,
    /// Where the key does not say it.
    kind: Option<DamageKind>,
    unclear: bool,
    copies: Copies,
    whole: BTreeSet<String>,
    /// Ordinals and classes.
    parts: BTreeMap<u32, u8>,
}

impl Findings {
    /// The object is damaged as a whole.
    pub(super) fn whole(&self, key: &Key, what: impl Into<String>) {
        self.0.lock().entry(key.clone()).or_default().whole.insert(what.into());
    }

    /// The same, of another kind than its key says.
    pub(super) fn of_kind(&self, key: &Key, kind: DamageKind, what: impl Into<String>) {
        self.whole(key, what);
        self.0.lock().entry(key.clone()).or_default().kind = Some(kind);
    }

    /// The object, of which that was found, could be read before: what is in it was not looked at, or not by what it is.
    pub(super) fn unclear(&self, key: &Key) {
        self.0.lock().entry(key.clone()).or_default().unclear = true;
    }

    /// A chunk or node of a pack does not verify.
    pub(super) fn part(&self, key: &Key, ordinal: u32, class: u8) {
        self.0.lock().entry(key.clone()).or_default().parts.insert(ordinal, class);
    }

    /// The object is gone.
    pub(super) fn missing(&self, key: &Key) {
        self.0.lock().entry(key.clone()).or_default().missing = true;
    }

    /// How it stands with a damaged pack and what is lost of others.
    pub(super) fn copies(&self, key: &Key, copies: Copies) {
        self.0.lock().entry(key.clone()).or_default().copies = copies;
    }

    /// Nothing is left in the pack.
    pub(super) fn empty(&self, key: &Key) {
        self.0.lock().entry(key.clone()).or_default().empty = true;
    }

    pub(super) fn into_damages(self, mut hits: BTreeMap<Key, Vec<Hit>>) -> Vec<Damage> {
        let damage = |(object, found): (Key, Found)| {
            let hits = hits.remove(&object).unwrap_or_default();
            // What a collector removed while it was looked at is no damage: no snapshot needs it.
            if found.missing && hits.is_empty() {
                return None;
            }
            let kind = found.kind.unwrap_or_else(|| DamageKind::of(&object));
            let (what, Found { missing, empty, unclear, copies, .. }) = (found.describe(kind), found);
            Some(Damage { kind, missing, empty, unclear, copies, what, hits, object })
        };
        self.0.into_inner().into_iter().filter_map(damage).collect()
    }
}

impl Found {
    fn describe(&self, kind: DamageKind) -> String {
        /// Ordinals named at most.
        const NAMED: usize = 8;
        let mut said: Vec<String> = self.whole.iter().cloned().collect();
        if self.missing {
            said.insert(0, "it is gone".into());
        }
        if !self.parts.is_empty() {
            let what = match kind {
                DamageKind::Map if self.parts.values().all(|class| *class >= FOLDER) => "tree node",
                DamageKind::Map => "map node",
                _ => "chunk",
            };
            let named: Vec<String> = self.parts.keys().take(NAMED).map(u32::to_string).collect();
            let more = match self.parts.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let (s, verb) = if self.parts.len() == 1 { ("", "does") } else { ("s", "do") };
            said.push(format!("{what}{s} {}{more} in it {verb} not verify", named.join(", ")));
        }
        said.join("; ")
    }
}

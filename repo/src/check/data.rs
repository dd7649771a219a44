//! Step 4: chunks.

use super::choice::{choose, left_out};
use super::ledger::Ledger;
use super::maps::Suspects;
use super::packs::{Packs, State, Used};
use super::{CheckStep, NotRead, NotReadReason, Piece, Run};
use crate::elsewhere::Copy;
use crate::format::tree::{ATTRIBUTES, FOLDER, Ref, Set};
use crate::id::PackId;
use crate::storage::keys;
use crate::{ErrorKind, Result};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest request (bytes), but for a chunk that is longer.
const WINDOW: u64 = 4 << 20;
/// Chunks with no more than this between them (bytes) are read together.
const GAP: u64 = 64 << 10;

/// What reading chunks showed.
#[derive(Default)]
pub(super) struct Data {
    pub(super) read_bytes: u64,
    pub(super) not_read: Vec<NotRead>,
    /// Chunks that do not verify, as the index of their pack or a slot describes them.
    pub(super) bad: HashSet<(PackId, u64)>,
}

/// A pack to be read.
struct Job {
    id: PackId,
    /// The chunks to open; `None`: all that its index names.
    pieces: Option<Vec<Piece>>,
    /// Bytes, for the watch.
    size: u64,
    /// Bytes of what snapshots refer to, where that is to be read.
    wanted: u64,
}

/// Opens what was asked for, and `suspects` in any case; `ledger` is told what was read.
pub(super) fn examine(
    run: &Run<'_>,
    packs: &Packs<'_>,
    suspects: Suspects,
    ledger: Option<&Ledger<'_>>,
) -> Result<Data> {
    let mut jobs: Vec<Job> = Vec::new();
    for (id, pieces) in suspects {
        let mut pieces: Vec<Piece> = pieces.into_values().collect();
        pieces.sort_unstable_by_key(|p| (p.at.offset, p.print()));
        let size = pieces.iter().map(|p| u64::from(p.at.len)).sum();
        jobs.push(Job { id, pieces: Some(pieces), size, wanted: 0 });
    }
    // What a record that cannot be read may have said of packs that nobody refers to, only a look into them can say.
    let reads_all = run.options.read_data.is_some_and(|read| read.share >= 1.0);
    // Who notes nothing, or looks at a part, removes no record: then nothing hangs on it.
    let is_whole = run.options.keep && run.options.snapshots.is_empty();
    let all = reads_all && is_whole && ledger.is_some_and(Ledger::has_lost);
    let (good, rest): (Vec<Used>, Vec<Used>) = packs.used(all).into_iter().partition(|p| p.state == State::Good);
    // Of a pack with a damaged index only what is referred to is read: where that is intact, or nothing, nobody else would note it.
    let unread = rest.iter().filter(|pack| all && pack.state == State::Damaged);
    unread.for_each(|pack| ledger.into_iter().for_each(|ledger| ledger.note(&pack.id, false, false)));
    let (wanted, mut not_read) = match run.options.read_data {
        None => (Vec::new(), left_out(&good, NotReadReason::NotAsked).into_iter().collect()),
        Some(read) => choose(run, good, read)?,
    };
    let job = |pack: Used| Job { id: pack.id, pieces: None, size: pack.size, wanted: pack.bytes };
    jobs.extend(wanted.into_iter().map(job));
    let (done, total) = (AtomicU64::new(0), jobs.iter().map(|job| job.size).sum());
    let read_bytes = AtomicU64::new(0);
    let (failed_packs, failed_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let found = run.each(&jobs, |job| {
        let reader = Reader { run, id: &job.id, read_bytes: &read_bytes };
        let bad = match &job.pieces {
            Some(pieces) => reader.open(pieces),
            None => match packs.pieces(&job.id) {
                Ok((pieces, _)) => reader.open(&pieces),
                Err(e) => Err(e),
            },
        };
        let whole = ledger.filter(|_| job.pieces.is_none());
        let bad = match bad {
            Ok(bad) => {
                // Of a pack whose index is of no use all was opened that anybody refers to.
                let noted = if bad.is_empty() { whole } else { ledger };
                noted.into_iter().for_each(|ledger| ledger.note(&job.id, bad.is_empty(), true));
                bad
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                packs.lose(&job.id);
                run.findings.missing(&keys::pack(&job.id));
                Vec::new()
            }
            Err(e) if run.is_damage(&e) => {
                // It was intact a moment ago: the storage does not give the same bytes twice.
                run.findings.whole(&keys::pack(&job.id), e.message());
                run.findings.unclear(&keys::pack(&job.id));
                whole.into_iter().for_each(|ledger| ledger.note(&job.id, false, false));
                failed_packs.fetch_add(1, Ordering::Relaxed);
                failed_bytes.fetch_add(job.wanted, Ordering::Relaxed);
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        let done = done.fetch_add(job.size, Ordering::Relaxed) + job.size;
        (run.watch)(CheckStep::Data, done, total)?;
        Ok(bad.into_iter().map(|print| (job.id, print)).collect::<Vec<_>>())
    })?;
    let bad = found.into_iter().flatten().collect();
    let (packs, bytes) = (failed_packs.into_inner(), failed_bytes.into_inner());
    not_read.extend((packs > 0).then_some(NotRead { reason: NotReadReason::Failed, packs, bytes }));
    Ok(Data { read_bytes: read_bytes.into_inner(), not_read, bad })
}

/// Whether a chunk in `pack` verifies.
pub(super) fn opens(run: &Run<'_>, pack: &PackId, piece: &Piece) -> Result<bool> {
    let reader = Reader { run, id: pack, read_bytes: &AtomicU64::new(0) };
    match reader.open(std::slice::from_ref(piece)) {
        Ok(bad) => Ok(bad.is_empty()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            run.findings.missing(&keys::pack(pack));
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Opens a copy of a map node or tree node.
///
/// # Errors
/// It is damaged or gone; what the storage says.
pub(super) fn open_node(run: &Run<'_>, node: &Piece, copy: &Copy) -> Result<()> {
    let (opener, start) = (run.repository.opener(), u64::from(copy.at.offset));
    let range = start..start + u64::from(copy.at.len);
    let sealed = run.storage().get_range(&keys::pack(&copy.pack), range)?;
    if node.class < FOLDER {
        return opener.node(&node.id, node.class - 128, &copy.at, &sealed).map(drop);
    }
    let to = Ref { id: node.id, class: node.class, plain: copy.plain };
    opener.tree_node(&to, &copy.at, &sealed).map(drop)
}

/// Opens chunks of one pack.
struct Reader<'a> {
    run: &'a Run<'a>,
    id: &'a PackId,
    read_bytes: &'a AtomicU64,
}

impl Reader<'_> {
    /// [`Piece::print`] of those that do not verify. The pieces ascend by offset.
    fn open(&self, mut pieces: &[Piece]) -> Result<Vec<u64>> {
        let mut bad = Vec::new();
        let (mut scratch, mut plain) = (Vec::new(), Vec::new());
        while let Some(first) = pieces.first() {
            let start = u64::from(first.at.offset);
            let mut end = first.end();
            let mut count = 1;
            while let Some(next) = pieces.get(count) {
                if u64::from(next.at.offset) > end + GAP || next.end() - start > WINDOW {
                    break;
                }
                end = end.max(next.end());
                count += 1;
            }
            let (window, rest) = pieces.split_at(count);
            self.window(window, start..end, &mut bad, &mut scratch, &mut plain)?;
            pieces = rest;
        }
        Ok(bad)
    }

    fn window(
        &self,
        pieces: &[Piece],
        range: std::ops::Range<u64>,
        bad: &mut Vec<u64>,
        scratch: &mut Vec<u8>,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let bytes = match self.run.storage().get_range(&keys::pack(self.id), range.clone()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(e),
            // A part may still be readable.
            Err(e) if self.run.is_damage(&e) && pieces.len() > 1 => {
                return pieces.iter().try_for_each(|p| {
                    self.window(std::slice::from_ref(p), u64::from(p.at.offset)..p.end(), bad, scratch, plain)
                });
            }
            Err(e) if self.run.is_damage(&e) => {
                pieces.iter().for_each(|p| self.damaged(p, bad));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.read_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
        let opener = self.run.repository.opener();
        for piece in pieces {
            let from = (u64::from(piece.at.offset) - range.start) as usize;
            let sealed = &bytes[from..from + piece.at.len as usize];
            plain.resize(piece.plain as usize, 0);
            let open = opener.chunk(&piece.id, piece.class, &piece.at, sealed, scratch, plain);
            match open.and_then(|_| if piece.class == ATTRIBUTES { Set::decode(plain).map(drop) } else { Ok(()) }) {
                Ok(()) => {}
                Err(e) if self.run.is_damage(&e) => self.damaged(piece, bad),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn damaged(&self, piece: &Piece, bad: &mut Vec<u64>) {
        self.run.findings.part(&keys::pack(self.id), piece.at.ordinal, piece.class);
        bad.push(piece.print());
    }
}

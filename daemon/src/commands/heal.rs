//! `wherry repair --from`: what is lost is taken from another repository.

use super::check::{self, DamageView};
use crate::backup::{BEAT, Beating, TRIES};
use crate::cli::RepairArgs;
use crate::context::Context;
use crate::credential::Second;
use crate::output::{self, size};
use crate::readers::Readers;
use anyhow::Result;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wherry_repo::heal::{self, Candidate};
use wherry_repo::{
    CheckReport, CopyOptions, Error, ErrorKind, Heal, HealOptions, Hit, NodeHeal, ReadData, Repository, Snapshot,
    SnapshotCopy, SnapshotId, SnapshotList, Turn, Wanted, WriterOptions,
};

/// Snapshots there that are copied for the nodes of one that is not the same, each of which is read as a whole.
const AKIN: usize = 3;

/// The result as `--json` shows it; sizes are in bytes.
#[derive(Serialize)]
pub(super) struct View {
    /// The repository that was taken from.
    repository: String,
    from: String,
    dry_run: bool,
    /// What snapshots refer to and no pack had; below lost nodes only what could be seen when those were there again.
    wanted: Amount,
    /// What is there again, and was read back; with `dry_run`, what could be.
    healed: Amount,
    missing: Amount,
    /// `wanted` and `missing` are more than that: `--memory` did not suffice to name all of it.
    is_partial: bool,
    /// The last look could not read all it had read before: what of `missing` is there again it does not know.
    #[serde(skip)]
    is_unclear: bool,
    /// Packs that were stored.
    packs: u64,
    /// The damage that hit snapshots before.
    lost: Vec<DamageView>,
    snapshots: Vec<SnapshotView>,
    /// The snapshots there that were read.
    read: Vec<ReadView>,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Amount {
    chunks: u64,
    /// Parts of maps and trees.
    nodes: u64,
}

/// A snapshot that was hit.
#[derive(Serialize)]
struct SnapshotView {
    snapshot: String,
    volume: Option<String>,
    /// `healed`, `partly`, `damaged`, or `forgotten`: it was so for good meanwhile; with `dry_run` always `damaged`.
    state: &'static str,
    /// Bytes that could not be read.
    before: u64,
    /// Bytes that cannot be read now; where is said by `check`.
    after: u64,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct ReadView {
    snapshot: String,
    volume: String,
    /// Chunks that were taken from it.
    chunks: u64,
    /// It was copied for its nodes.
    nodes: bool,
}

/// The other repository.
pub(super) struct From<'a> {
    context: &'a Context,
    place: String,
    source: Repository,
    all: bool,
    dry_run: bool,
    read: ReadData,
}

impl<'a> From<'a> {
    /// Opens it; `None` when none is named.
    pub(super) fn open(context: &'a Context, args: RepairArgs) -> Result<Option<Self>> {
        let RepairArgs { read_data, from, all, dry_run, credential, s3 } = args;
        let Some(place) = from else { return Ok(None) };
        let credential = credential.is_given().then(|| Second::From.source(credential.flags())).transpose()?;
        if s3.from_s3_skip_verify {
            tracing::warn!("--from-s3-skip-verify: the server's certificate is not checked");
        }
        let s3 = s3.over(&context.settings.s3);
        let source = context.open_other(Second::From, &place, &s3, credential.as_ref(), None)?;
        let share = if read_data { 1.0 } else { 0.0 };
        Ok(Some(Self { context, place, source, all, dry_run, read: ReadData { share, max_age: None } }))
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Refuses the repository that is repaired itself; to be asked before anything is written there.
    pub(super) fn check_other(&self, repository: &Repository) -> Result<()> {
        if self.source.id() != repository.id() {
            return Ok(());
        }
        let text = format!(
            "{} is the repository that is repaired, or a mirror of it (uuid {}): name another one; from a mirror, copy the objects \
             that are damaged, under the names that `wherry check` says",
            self.place,
            repository.id()
        );
        Err(Error::invalid(text).into())
    }

    /// Takes from it what is lost, and gives what is so after that.
    pub(super) fn heal(&self, repository: &Repository, turn: Option<&Turn>) -> Result<(View, CheckReport)> {
        let (before, mut wanted) = check::find_wanted(self.context, repository, Some(self.read), turn)?;
        if !self.dry_run {
            heal::admit(repository, &before)?;
        }
        let listed = self.source.snapshots(None)?;
        for (key, error) in &listed.damaged {
            tracing::warn!("{key} of {} cannot be read: {error}", self.place);
        }
        let work = Work { from: self, repository, turn, readers: Readers::start(&self.source)?, listed };
        let (mut healed, mut packs, mut read) = (Amount::default(), 0, Vec::new());
        let first_nodes = wanted.nodes();
        let again = || check::find_wanted(self.context, repository, Some(self.read), turn);
        if first_nodes > 0 && !self.dry_run {
            (healed.nodes, packs) = work.nodes(&wanted, &mut read)?;
            let (report, later) = again()?;
            // It may have found more damage.
            heal::admit(repository, &report)?;
            if !report.is_unclear() {
                healed.chunks += wanted.found_since(&later);
            }
            wanted = later;
        }
        let (after, missing, is_partial) = loop {
            let taken = work.chunks(&wanted, &mut read)?;
            packs += taken.packs;
            if self.dry_run {
                healed.chunks = taken.chunks;
                let chunks = wanted.chunks() - taken.chunks;
                break (before.clone(), Amount { chunks, nodes: first_nodes }, wanted.is_partial());
            }
            // What is there again is what is found, not what was sent.
            let (after, later) = again()?;
            let found = wanted.found_since(&later);
            // Of a look that could not read all it read before, what it does not find lost may be lost.
            let unclear = if after.is_unclear() { found } else { 0 };
            healed.chunks += found - unclear;
            if !wanted.is_partial() || taken.chunks == 0 {
                let missing = Amount { chunks: later.chunks() + unclear, nodes: later.nodes() };
                break (after, missing, later.is_partial());
            }
            heal::admit(repository, &after)?;
            wanted = later;
        };
        let listed = if self.dry_run { SnapshotList::default() } else { repository.snapshots(None)? };
        let there = listed.snapshots.iter().map(|snapshot| snapshot.id).collect();
        let view = View {
            repository: self.source.id().to_string(),
            from: self.place.clone(),
            dry_run: self.dry_run,
            wanted: Amount { chunks: healed.chunks + missing.chunks, nodes: first_nodes.max(missing.nodes) },
            healed,
            missing,
            is_partial,
            is_unclear: after.is_unclear(),
            packs,
            lost: before.damages.iter().filter(|d| !d.hits.is_empty()).map(DamageView::new).collect(),
            snapshots: snapshots(&before, &after, &there),
            read,
        };
        Ok((view, after))
    }
}

/// What one run works with.
struct Work<'a> {
    from: &'a From<'a>,
    repository: &'a Repository,
    turn: Option<&'a Turn>,
    readers: Readers,
    listed: SnapshotList,
}

impl Work<'_> {
    fn options(&self) -> wherry_repo::Result<CopyOptions> {
        let writer = WriterOptions { compression: wherry_repo::Compression::Lz4, ..WriterOptions::default() };
        let snapshots = &self.listed.snapshots;
        let longest = snapshots.iter().filter_map(Snapshot::chunk_size).max().unwrap_or(0);
        let has_trees = snapshots.iter().any(|s| s.record.tree.is_some());
        super::copy::options(self.from.context, has_trees, longest, writer, [&self.from.source, self.repository])
    }

    fn watch<'w>(
        &'w self,
        progress: &'w crate::progress::Progress,
    ) -> impl Fn(u64) -> wherry_repo::Result<()> + Sync + 'w {
        move |bytes| {
            progress.add(bytes);
            self.turn.map_or(Ok(()), Turn::beat_when_due)?;
            self.from.context.cancel.check()
        }
    }

    /// Makes lost nodes again, as far as there are snapshots that have the same; gives how many are there again, and
    /// the packs that were stored.
    fn nodes(&self, wanted: &Wanted, read: &mut Vec<ReadView>) -> Result<(u64, u64)> {
        let (from, mut missing, mut packs) = (self.from, wanted.nodes(), 0);
        let akin = if from.all { usize::MAX } else { AKIN };
        let options = self.options()?;
        let index = from.context.index_within(self.repository, from.context.budget.index / 2)?;
        for candidate in heal::node_candidates(self.repository, wanted, &from.source, &self.listed, akin) {
            let snapshot = &candidate.snapshot;
            let progress = from.context.progress("heal", None);
            let watch = self.watch(&progress);
            for attempt in 1.. {
                let Some(session) = self.open(snapshot)? else { break };
                let copy = match SnapshotCopy::start(session, self.repository, index.clone(), None, &options) {
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                        tracing::warn!("snapshot {} of {} cannot be read: {e}", snapshot.id, from.place);
                        break;
                    }
                    copy => NodeHeal::new(self.repository, copy?),
                };
                let _beating = Beating::start(copy.pulse(), BEAT)?;
                match copy.run(&watch) {
                    Err(e) if e.kind() == ErrorKind::Conflict && attempt < TRIES => {
                        tracing::warn!("{e}; starting over")
                    }
                    done => {
                        let (stored, lost) = done?;
                        packs += stored;
                        if let Some(e) = lost {
                            tracing::warn!("snapshot {} of {} cannot be read as a whole: {e}", snapshot.id, from.place);
                        }
                        break;
                    }
                }
            }
            read.push(ReadView {
                snapshot: snapshot.id.to_string(),
                volume: snapshot.record.name.clone(),
                chunks: 0,
                nodes: true,
            });
            missing = wanted.missing_nodes(self.repository)?;
            if missing == 0 {
                break;
            }
        }
        index.flush().unwrap_or_else(|e| tracing::debug!("the chunk index was not flushed: {e}"));
        Ok((wanted.nodes() - missing, packs))
    }

    /// `None`: it was forgotten for good since it was listed.
    fn open(&self, snapshot: &Snapshot) -> wherry_repo::Result<Option<Arc<wherry_repo::ReadSession>>> {
        match self.readers.open(snapshot) {
            Err(e) if e.kind() == ErrorKind::NoSnapshot => Ok(None),
            session => session.map(Some),
        }
    }

    /// Takes chunks. What was taken is stored and read back whatever ended it.
    fn chunks(&self, wanted: &Wanted, read: &mut Vec<ReadView>) -> Result<heal::Healed> {
        if wanted.chunks() == 0 {
            return Ok(heal::Healed::default());
        }
        let options = HealOptions { copy: self.options()?, dry_run: self.from.dry_run };
        let healing = Heal::start(self.repository, wanted, &options)?;
        let candidates = heal::candidates(self.repository, wanted, &self.from.source, &self.listed, self.from.all);
        let taken = self.each(&healing, &candidates, read);
        let beat = |_| {
            self.turn.map_or(Ok(()), Turn::beat_when_due)?;
            // Who was asked to stop while it took reads back what was stored all the same; a second time it does not.
            if taken.is_err() { Ok(()) } else { self.from.context.cancel.check() }
        };
        let healed = healing.finish(&beat);
        taken?;
        Ok(healed?)
    }

    fn each(&self, healing: &Heal<'_>, candidates: &[Candidate], read: &mut Vec<ReadView>) -> Result<()> {
        let progress = self.from.context.progress("heal", None);
        let watch = self.watch(&progress);
        // What is in the same place first: that is cheap.
        for scan in [false, true] {
            for Candidate { snapshot, .. } in candidates.iter().filter(|_| !scan || self.from.all) {
                if healing.missing() == 0 {
                    return Ok(());
                }
                if scan && snapshot.record.tree.is_some() {
                    continue;
                }
                let Some(session) = self.open(snapshot)? else { continue };
                let chunks = healing.take_from(session, scan, &watch)?;
                if chunks > 0 || !scan {
                    let (snapshot, volume) = (snapshot.id.to_string(), snapshot.record.name.clone());
                    read.push(ReadView { snapshot, volume, chunks, nodes: false });
                }
            }
        }
        Ok(())
    }
}

/// Each snapshot that was hit before or is hit now. `there`: those that are not forgotten for good.
fn snapshots(before: &CheckReport, after: &CheckReport, there: &BTreeSet<SnapshotId>) -> Vec<SnapshotView> {
    let sum = |report: &CheckReport| {
        let mut all: BTreeMap<SnapshotId, (Hit, u64)> = BTreeMap::new();
        for hit in report.damages.iter().flat_map(|damage| &damage.hits) {
            all.entry(hit.snapshot).or_insert_with(|| (hit.clone(), 0)).1 += hit.bytes;
        }
        all
    };
    let is_unclear = after.is_unclear();
    let (before, after) = (sum(before), sum(after));
    let mut all: Vec<_> = before.keys().chain(after.keys().filter(|id| !before.contains_key(*id))).copied().collect();
    let place = |id: &SnapshotId| before.get(id).or(after.get(id));
    all.sort_by_key(|id| place(id).map(|(hit, _)| (hit.name.clone(), hit.time, *id)));
    let view = |id: SnapshotId| {
        let (hit, _) = place(&id)?;
        let (then, now) = (before.get(&id), after.get(&id));
        // Nothing is healed by a look that could not read all it read before: what was lost counts as lost.
        let unseen = then.filter(|(_, then)| is_unclear && now.is_none_or(|(_, now)| now < then));
        let now = unseen.or(now);
        let state = match (then, now) {
            _ if !there.contains(&id) && !after.contains_key(&id) => "forgotten",
            (_, None) => "healed",
            (Some((_, then)), Some((_, now))) if now < then => "partly",
            _ => "damaged",
        };
        Some(SnapshotView {
            snapshot: id.to_string(),
            volume: hit.name.clone(),
            state,
            before: then.map_or(0, |(_, bytes)| *bytes),
            after: now.map_or(0, |(_, bytes)| *bytes),
            text: now.map(|(hit, _)| check::describe(hit)).unwrap_or_default(),
        })
    };
    all.into_iter().filter_map(view).collect()
}

impl View {
    /// What was taken, and from whom; what is left says the check behind it.
    pub(super) fn text(&self) -> String {
        let count = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let amount = |of: &Amount| match (self.wanted.nodes, count(of.chunks, "chunk", "chunks")) {
            (0, chunks) => chunks,
            (_, chunks) => {
                format!("{chunks} and {}", count(of.nodes, "part of a map or tree", "parts of maps and trees"))
            }
        };
        let (wanted, healed, missing) = (amount(&self.wanted), amount(&self.healed), amount(&self.missing));
        let more = "more is lost than --memory allows to name at once: run it again with more, or with --from another repository\n";
        let mut text = match self.dry_run {
            false => {
                format!(
                    "from      {}: lost before: {wanted}; there again: {healed}; still lost: {missing}\n",
                    self.from
                )
            }
            true => format!(
                "from      {}: lost: {wanted}; could be taken: {healed}; nothing was stored{}\n",
                self.from,
                if self.wanted.nodes > 0 {
                    ", and whether parts of maps and trees can be made again is seen by doing it"
                } else {
                    ""
                }
            ),
        };
        if self.is_partial {
            text += "          ";
            text += more;
        }
        if self.is_unclear {
            text += "          a pack could be read at first and then could not, see below: what was lost there counts as lost; run it again\n";
        }
        for view in self.snapshots.iter().filter(|_| !self.dry_run) {
            let SnapshotView { snapshot, volume, state, before, after, .. } = view;
            let volume = volume.as_deref().map_or_else(|| "a volume whose name is not known".to_owned(), output::shown);
            text += &match *state {
                "forgotten" => {
                    format!("  gone    {volume}, snapshot {snapshot}: it was forgotten for good meanwhile\n")
                }
                "healed" => format!("  healed  {volume}, snapshot {snapshot}: {} can be read again\n", size(*before)),
                "partly" => format!(
                    "  partly  {volume}, snapshot {snapshot}: {} can be read again, {} cannot\n",
                    size(before - after),
                    size(*after)
                ),
                _ => format!("  DAMAGED {}\n", view.text),
            };
        }
        text
    }
}

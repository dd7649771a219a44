//! `wherry snapshots`

use crate::cli::SnapshotsArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use crate::select;
use crate::tree::path::{escaped, joined};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use wherry_repo::{Checked, Repository, Snapshot, SnapshotId, SnapshotList, TreeInfo};

/// A snapshot as `--json` shows it. The names are those of `wherry backup --json`; sizes are in bytes.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) snapshot: String,
    pub(super) volume: String,
    /// `disk`, or `tree` of a directory.
    pub(super) kind: &'static str,
    pub(super) time: String,
    ended: String,
    pub(super) size: u64,
    /// None of the tree of a directory.
    chunk_size: Option<u64>,
    chunks: u64,
    parent: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    root: String,
    pub(super) partial: bool,
    resumed: bool,
    pub(super) forgotten: bool,
    pub(super) pinned: bool,
    /// Since then all of it was read by checks and is intact; null: not all of it was read yet, or
    /// that is not known.
    verified: Option<String>,
    /// When a check found damage that hits it, if the last one did.
    damaged: Option<String>,
    #[serde(skip)]
    pub(super) verified_local: String,
    /// When a forgotten one may go for good; null also where that cannot be read.
    due: Option<String>,
    #[serde(skip)]
    due_local: String,
    read: u64,
    hole: u64,
    zero: u64,
    unchanged: u64,
    known: u64,
    pub(super) new: u64,
    stored: u64,
    metadata: u64,
    engine: String,
    host: String,
    source: String,
    run: String,
    version: String,
    /// What it is a copy of; null when it was made here.
    pub(super) origin: Option<OriginView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tree: Option<TreeView>,
}

/// The original of a copy.
#[derive(Debug, Serialize)]
pub(super) struct OriginView {
    /// The uuid of the repository it was made in.
    pub(super) repository: String,
    /// Its id there.
    pub(super) snapshot: String,
}

/// What the snapshot of a directory has besides.
#[derive(Debug, Serialize)]
pub(super) struct TreeView {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) others: u64,
    /// Entries that could not be looked at or read.
    pub(super) missing: u64,
    /// The first of them.
    pub(super) first_missing: Vec<MissingView>,
    /// Files that changed each time they were read.
    pub(super) unsettled: u64,
    pub(super) filesystem: String,
    /// What was left out, as it was asked for.
    pub(super) excluded: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct MissingView {
    #[serde(flatten)]
    pub(super) path: PathView,
    /// A number of Linux, and what it means.
    errno: u32,
    pub(super) error: String,
}

/// A path in a tree: as text, and in hexadecimal digits where it is not UTF-8.
#[derive(Debug, Serialize)]
pub(super) struct PathView {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// For people.
    #[serde(skip)]
    pub(super) shown: String,
}

impl PathView {
    /// Of a path without a leading `/`.
    pub(super) fn new(path: &[u8]) -> Self {
        let bytes = joined(&[path.to_vec()]);
        let shown = escaped(&bytes);
        match String::from_utf8(bytes) {
            Ok(path) => Self { path, path_hex: None, shown },
            Err(e) => {
                let hex = e.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
                Self { path: shown.clone(), path_hex: Some(hex), shown }
            }
        }
    }
}

impl TreeView {
    fn new(tree: TreeInfo) -> Self {
        let missing = tree.first_missing.iter().map(|missing| MissingView {
            path: PathView::new(&missing.path),
            errno: missing.errno,
            error: i32::try_from(missing.errno)
                .map_or_else(|_| "unknown".to_owned(), |errno| io::Error::from_raw_os_error(errno).to_string()),
        });
        Self {
            files: tree.files,
            directories: tree.folders,
            others: tree.others,
            missing: tree.missing,
            first_missing: missing.collect(),
            unsettled: tree.unsettled,
            filesystem: tree.filesystem,
            excluded: tree.excluded,
        }
    }
}

/// What is known of all snapshots besides their records.
pub(super) struct Known {
    pins: BTreeSet<SnapshotId>,
    /// `None`: it cannot be read.
    checked: Option<BTreeMap<SnapshotId, Checked>>,
}

impl Known {
    pub(super) fn read(repository: &Repository) -> wherry_repo::Result<Self> {
        Ok(Self { pins: repository.pins()?, ..Self::of_checks(repository) })
    }

    /// Without pins.
    pub(super) fn of_checks(repository: &Repository) -> Self {
        // What there is can be listed and restored without.
        let checked = repository.checked().inspect_err(|e| tracing::warn!("what checks have noted is not known: {e}"));
        Self { pins: BTreeSet::new(), checked: checked.ok() }
    }

    /// Whether the last check that looked found damage that hits it.
    pub(super) fn is_damaged(&self, id: &SnapshotId) -> bool {
        self.checked.as_ref().and_then(|checked| checked.get(id)).is_some_and(|checked| checked.damaged)
    }
}

/// When all of a snapshot was read last, for people.
fn verified(checked: Option<&Checked>) -> String {
    match checked {
        Some(Checked { damaged: true, said, .. }) => format!("DAMAGED, found {}", output::local_time(*said)),
        Some(Checked { verified: Some(at), .. }) => output::local_time(*at),
        _ => "never".to_owned(),
    }
}

impl View {
    pub(super) fn new(
        repository: &Repository,
        list: &SnapshotList,
        Known { pins, checked }: &Known,
        snapshot: &Snapshot,
    ) -> wherry_repo::Result<Self> {
        let (record, metadata) = (snapshot.record.clone(), snapshot.metadata());
        let stats = record.stats;
        let forgotten = !list.is_visible(&snapshot.id);
        let is_known = checked.is_some();
        let checked = checked.as_ref().and_then(|checked| checked.get(&snapshot.id));
        let due = if forgotten { repository.forget_due(&snapshot.id)? } else { None };
        Ok(Self {
            snapshot: snapshot.id.to_string(),
            volume: record.name,
            kind: if record.tree.is_some() { "tree" } else { "disk" },
            time: output::utc_time(record.started),
            ended: output::utc_time(record.ended),
            size: record.size,
            chunk_size: snapshot.chunk_size(),
            chunks: record.chunks,
            parent: record.parent.map(|id| id.to_string()),
            tags: record.tags,
            root: record.root.to_string(),
            partial: record.partial,
            resumed: record.resumed,
            forgotten,
            pinned: pins.contains(&snapshot.id),
            verified: checked.and_then(|checked| checked.verified).map(output::utc_time),
            damaged: checked.filter(|checked| checked.damaged).map(|checked| output::utc_time(checked.said)),
            verified_local: if is_known { verified(checked) } else { "unknown".to_owned() },
            due: due.map(output::utc_time),
            due_local: due.map_or_else(|| "unknown".to_owned(), output::local_time),
            read: stats.read,
            hole: stats.hole,
            zero: stats.zero,
            unchanged: stats.unchanged,
            known: stats.known,
            new: stats.new,
            stored: stats.stored,
            metadata,
            engine: record.engine,
            host: record.host,
            source: record.source,
            run: record.run,
            version: record.version,
            origin: record.origin.map(|origin| OriginView {
                repository: origin.repository.to_string(),
                snapshot: origin.snapshot.to_string(),
            }),
            tree: record.tree.map(TreeView::new),
        })
    }

    pub(super) fn tags(&self) -> String {
        self.tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }
}

/// Lists the snapshots, oldest first.
pub(crate) fn run(context: &Context, args: SnapshotsArgs) -> anyhow::Result<Exit> {
    let SnapshotsArgs { filter, forgotten } = args;
    let repository = context.open_repository()?;
    let volume = filter.name.as_ref().map(|name| repository.volume_id(name.as_str()));
    let list = repository.snapshots(volume)?;
    let known = Known::read(&repository)?;
    let summaries = select::summaries(&list);
    let mut views = Vec::new();
    for (snapshot, summary) in list.snapshots.iter().zip(&summaries) {
        if summary.forgotten == forgotten && filter.admits(summary) {
            views.push((View::new(&repository, &list, &known, snapshot)?, snapshot.record.started));
        }
    }
    let digits = select::unique_digits(summaries.iter().map(|s| s.id));
    let shown: Vec<_> = views.iter().map(|(view, _)| view).collect();
    context.output.result(&shown, || {
        let last = if forgotten { "GOES AFTER" } else { "TAGS" };
        let mut table = Table::new(&[
            ("ID", Side::Left),
            ("TIME", Side::Left),
            ("VOLUME", Side::Left),
            ("KIND", Side::Left),
            ("SIZE", Side::Right),
            ("NEW", Side::Right),
            ("VERIFIED", Side::Left),
            ("STATE", Side::Left),
            (last, Side::Left),
        ]);
        for (view, time) in &views {
            table.row([
                view.snapshot.chars().take(digits).collect(),
                output::local_time(*time),
                view.volume.clone(),
                view.kind.to_owned(),
                output::size(view.size),
                output::size(view.new),
                view.verified_local.clone(),
                state(view),
                if forgotten { view.due_local.clone() } else { view.tags() },
            ]);
        }
        table.render()
    })?;
    Ok(damage(&list))
}

fn state(view: &View) -> String {
    let known = [(view.partial, "partial"), (view.damaged.is_some(), "damaged")];
    let mut words: Vec<_> = known.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
    if words.is_empty() {
        words.push("whole");
    }
    words.extend(view.pinned.then_some("pinned"));
    words.join(", ")
}

/// Names the records that could not be read. They are damage, whatever else was found.
pub(super) fn damage(list: &SnapshotList) -> Exit {
    for (key, error) in &list.damaged {
        tracing::error!(object = key.as_str(), "a snapshot's record cannot be read; run `wherry check`: {error}");
    }
    if list.damaged.is_empty() { Exit::Done } else { Exit::Damage }
}

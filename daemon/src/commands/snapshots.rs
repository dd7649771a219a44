//! `wherry snapshots`

use crate::cli::SnapshotsArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use crate::select;
use serde::Serialize;
use std::collections::BTreeMap;
use wherry_repo::{Repository, Snapshot, SnapshotList};

/// A snapshot as `--json` shows it. The names are those of `wherry backup --json`; sizes are in bytes.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) snapshot: String,
    pub(super) volume: String,
    pub(super) time: String,
    ended: String,
    pub(super) size: u64,
    chunk_size: u64,
    chunks: u64,
    parent: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    root: String,
    pub(super) partial: bool,
    resumed: bool,
    pub(super) forgotten: bool,
    /// When a forgotten one may go for good.
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
}

impl View {
    pub(super) fn new(repository: &Repository, list: &SnapshotList, snapshot: &Snapshot) -> wherry_repo::Result<Self> {
        let (record, metadata) = (snapshot.record.clone(), snapshot.metadata());
        let stats = record.stats;
        let forgotten = !list.is_visible(&snapshot.id);
        let due = if forgotten { repository.forget_due(&snapshot.id)? } else { None };
        Ok(Self {
            snapshot: snapshot.id.to_string(),
            volume: record.name,
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
            due: due.map(output::utc_time),
            due_local: due.map(output::local_time).unwrap_or_default(),
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
    let summaries = select::summaries(&list);
    let mut views = Vec::new();
    for (snapshot, summary) in list.snapshots.iter().zip(&summaries) {
        if summary.forgotten == forgotten && filter.admits(summary) {
            views.push((View::new(&repository, &list, snapshot)?, snapshot.record.started));
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
            ("SIZE", Side::Right),
            ("NEW", Side::Right),
            ("STATE", Side::Left),
            (last, Side::Left),
        ]);
        for (view, time) in &views {
            table.row([
                view.snapshot.chars().take(digits).collect(),
                output::local_time(*time),
                view.volume.clone(),
                output::size(view.size),
                output::size(view.new),
                if view.partial { "partial" } else { "whole" }.to_owned(),
                if forgotten { view.due_local.clone() } else { view.tags() },
            ]);
        }
        table.render()
    })?;
    Ok(damage(&list))
}

/// Names the records that could not be read. They are damage, whatever else was found.
pub(super) fn damage(list: &SnapshotList) -> Exit {
    for (key, error) in &list.damaged {
        tracing::error!(object = key.as_str(), "a snapshot's record cannot be read; run `wherry check`: {error}");
    }
    if list.damaged.is_empty() { Exit::Done } else { Exit::Damage }
}

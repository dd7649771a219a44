//! What the result of a backup says of a disk and of a directory alike.

use crate::output;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::Snapshot;

/// As `--json` shows it.
#[derive(Serialize)]
pub(super) struct Saved {
    pub(super) snapshot: String,
    pub(super) volume: String,
    pub(super) parent: Option<String>,
    pub(super) size: u64,
    pub(super) read: u64,
    pub(super) hole: u64,
    pub(super) zero: u64,
    pub(super) unchanged: u64,
    pub(super) known: u64,
    pub(super) new: u64,
    pub(super) stored: u64,
    pub(super) metadata: u64,
    pub(super) seconds: f64,
    pub(super) engine: String,
    pub(super) root: String,
    pub(super) resumed: bool,
    pub(super) run: String,
}

impl Saved {
    /// Of a snapshot by a run that began at `start`.
    pub(super) fn new(snapshot: &Snapshot, start: Instant) -> Self {
        let record = &snapshot.record;
        let stats = record.stats;
        Self {
            snapshot: snapshot.id.to_string(),
            volume: record.name.clone(),
            parent: record.parent.map(|id| id.to_string()),
            size: record.size,
            read: stats.read,
            hole: stats.hole,
            zero: stats.zero,
            unchanged: stats.unchanged,
            known: stats.known,
            new: stats.new,
            stored: stats.stored,
            metadata: snapshot.metadata(),
            seconds: start.elapsed().as_secs_f64(),
            engine: record.engine.clone(),
            root: record.root.to_string(),
            resumed: record.resumed,
            run: record.run.clone(),
        }
    }

    /// The text: what is said of this kind alone stands behind the first line and before the last two.
    pub(super) fn text(&self, found: Vec<String>, rest: Vec<String>) -> String {
        let parent = self.parent.as_ref().map_or("none", |id| &id[..8]);
        let mut lines = vec![format!("volume    {} ({}), built on {parent}", self.volume, output::size(self.size))];
        lines.extend(found);
        let (stored, metadata) = (output::size(self.stored), output::size(self.metadata));
        lines.push(format!("stored    {stored} of data, {metadata} of metadata"));
        lines.extend(rest);
        if self.resumed {
            lines.push("resumed   what an interrupted run had stored was used".to_owned());
        }
        lines.push(format!("snapshot {}", self.snapshot));
        lines.join("\n")
    }
}

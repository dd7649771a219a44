//! `wherry diff` of directories

use super::names::{Lines, text};
use super::opened::ended;
use crate::context::Context;
use crate::exit::Exit;
use crate::readers::Readers;
use crate::tree::compare::{Change, Compare};
use crate::tree::path::{TreePath, escaped};
use anyhow::Result;
use serde::Serialize;
use wherry_repo::format::tree::Entry;
use wherry_repo::{Repository, Snapshot, TreeReader};

/// A path that differs, as `--json` shows it.
#[derive(Serialize)]
pub(super) struct Shown {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl Shown {
    /// Of a change.
    pub(super) fn new(change: Change, path: &TreePath) -> Self {
        let (path, path_hex) = text(&path.bytes());
        Self { change: shown(change).1, path, path_hex }
    }
}

/// A line of text about it.
pub(super) fn line(change: Change, path: &TreePath) -> String {
    format!("{} {}\n", shown(change).0, escaped(&path.bytes()))
}

/// How a change is shown: letter, word.
fn shown(change: Change) -> (char, &'static str) {
    match change {
        Change::Added => ('+', "added"),
        Change::Removed => ('-', "removed"),
        Change::Content => ('M', "content"),
        Change::Metadata => ('m', "metadata"),
        Change::Unreadable => ('?', "unreadable"),
    }
}

/// Says which paths differ.
pub(super) fn run(context: &Context, repository: &Repository, [old, new]: [&Snapshot; 2]) -> Result<Exit> {
    // The sessions are ended by a signal too.
    let _armed = context.cancel.arm("");
    let readers = Readers::start(repository)?;
    let budget = &context.budget;
    repository.limit_tree_nodes(budget.nodes.max(8 << 20));
    let sides = [TreeReader::within(readers.open(old)?)?, TreeReader::within(readers.open(new)?)?];
    let is_json = context.output.is_json();
    let mut lines = Lines::new(context);
    if is_json {
        lines.add(&format!("{{\"old\":\"{}\",\"new\":\"{}\",\"changes\":[", old.id, new.id))?;
    }
    // Added, removed, content, metadata, unreadable.
    let mut counts = [0u64; 5];
    let mut tell = |change: Change, path: &TreePath, _: &Entry| -> Result<()> {
        context.cancel.check()?;
        if is_json {
            let comma = if counts == [0; 5] { "" } else { "," };
            lines.add(&format!("{comma}{}", serde_json::to_string(&Shown::new(change, path))?))?;
        } else {
            lines.add(&line(change, path))?;
        }
        counts[change as usize] += 1;
        Ok(())
    };
    let compare = Compare::new(sides.each_ref(), budget.chunk_cache, budget.downloads);
    let failed = readers.until_a_signal(&context.cancel, || compare.run(&mut tell))?;
    let [added, removed, content, metadata, unread] = counts;
    let unreadable = unread + failed.count;
    let not_compared = if unreadable > 0 { format!(", {unreadable} not compared") } else { String::new() };
    lines.add(&match is_json {
        true => format!(
            "],\"added\":{added},\"removed\":{removed},\"content\":{content},\"metadata\":{metadata},\"unreadable\":{unreadable}}}\n"
        ),
        false => format!("# {added} added, {removed} removed, {content} with other content, {metadata} with other metadata{not_compared}\n"),
    })?;
    lines.end()?;
    let exit = ended(failed);
    let partial = old.record.partial || new.record.partial;
    if partial {
        tracing::warn!("a snapshot is partial: what could not be read when it was made is not compared");
    }
    Ok(if partial && exit == Exit::Done { Exit::Partial } else { exit })
}

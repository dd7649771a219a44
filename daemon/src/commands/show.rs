//! `wherry show`

use super::snapshots::{Known, TreeView, View};
use crate::cli::ShowArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};

/// Shows everything that is recorded of a snapshot.
pub(crate) fn run(context: &Context, args: ShowArgs) -> anyhow::Result<Exit> {
    let ShowArgs { snap } = args;
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    let list = repository.snapshots(Some(snapshot.volume))?;
    let view = View::new(&repository, &list, &Known::read(&repository)?, &snapshot)?;
    context.output.result(&view, || {
        let mut table = Table::new(&[("SNAPSHOT", Side::Left), (&view.snapshot, Side::Left)]);
        let record = &snapshot.record;
        let stats = &record.stats;
        let size = |bytes: u64| format!("{} ({bytes})", output::size(bytes));
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        let rows = [("volume", view.volume.clone()), ("kind", view.kind.to_owned())];
        let disk = [
            ("chunk size", snapshot.chunk_size().map_or_else(|| "none".to_owned(), output::size)),
            ("chunks", record.chunks.to_string()),
        ];
        let rest = [
            ("time", output::local_time(record.started)),
            ("ended", output::local_time(record.ended)),
            ("size", size(record.size)),
            ("parent", record.parent.map_or_else(|| "none".to_owned(), |id| id.to_string())),
            ("tags", view.tags()),
            ("partial", yes(record.partial)),
            ("forgotten", yes(view.forgotten)),
            ("pinned", yes(view.pinned)),
            ("verified", view.verified_local.clone()),
            ("read", size(stats.read)),
            ("hole", size(stats.hole)),
            ("zero", size(stats.zero)),
            ("unchanged", size(stats.unchanged)),
            ("known", size(stats.known)),
            ("new", size(stats.new)),
            ("stored", size(stats.stored)),
            ("metadata", size(snapshot.metadata())),
            ("root", record.root.to_string()),
            ("resumed", yes(record.resumed)),
            ("engine", record.engine.clone()),
            ("source", record.source.clone()),
            ("host", record.host.clone()),
            ("run", record.run.clone()),
            ("version", record.version.clone()),
        ];
        let origin = view
            .origin
            .as_ref()
            .map(|origin| ("copy of", format!("{} of the repository {}", origin.snapshot, origin.repository)));
        let of_kind = match &view.tree {
            None => disk.to_vec(),
            Some(tree) => of_tree(tree),
        };
        for (name, value) in rows.into_iter().chain(of_kind).chain(rest).chain(origin) {
            table.row([name.to_owned(), value]);
        }
        let mut text = table.render();
        if let Some(tree) = &view.tree {
            text.push_str(&missing(tree));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Missing paths that text shows; JSON shows all that the record has.
const SHOWN: usize = 20;

fn of_tree(tree: &TreeView) -> Vec<(&'static str, String)> {
    let left_out = if tree.excluded.is_empty() { "nothing".to_owned() } else { tree.excluded.join(" ") };
    vec![
        ("files", tree.files.to_string()),
        ("directories", tree.directories.to_string()),
        ("others", tree.others.to_string()),
        ("missing", tree.missing.to_string()),
        ("unsettled", tree.unsettled.to_string()),
        ("filesystem", tree.filesystem.clone()),
        ("left out", left_out),
    ]
}

/// The first of what could not be read when the snapshot was made.
fn missing(tree: &TreeView) -> String {
    let shown = tree.first_missing.iter().take(SHOWN);
    let mut lines: Vec<_> =
        shown.map(|missing| format!("missing  {}: {}\n", missing.path.shown, missing.error)).collect();
    let more = tree.missing.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("missing  {more} more\n"));
    }
    lines.concat()
}

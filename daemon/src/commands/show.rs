//! `wherry show`

use super::snapshots::View;
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
    let view = View::new(&repository, &list, &snapshot)?;
    context.output.result(&view, || {
        let mut table = Table::new(&[("SNAPSHOT", Side::Left), (&view.snapshot, Side::Left)]);
        let record = &snapshot.record;
        let stats = &record.stats;
        let size = |bytes: u64| format!("{} ({bytes})", output::size(bytes));
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        let rows = [
            ("volume", view.volume.clone()),
            ("time", output::local_time(record.started)),
            ("ended", output::local_time(record.ended)),
            ("size", size(record.size)),
            ("chunk size", output::size(snapshot.chunk_size())),
            ("chunks", record.chunks.to_string()),
            ("parent", record.parent.map_or_else(|| "none".to_owned(), |id| id.to_string())),
            ("tags", view.tags()),
            ("partial", yes(record.partial)),
            ("forgotten", yes(view.forgotten)),
            ("read", size(stats.read)),
            ("hole", size(stats.hole)),
            ("zero", size(stats.zero)),
            ("unchanged", size(stats.unchanged)),
            ("known", size(stats.known)),
            ("new", size(stats.new)),
            ("stored", size(stats.stored)),
            ("metadata", size(stats.metadata)),
            ("root", record.root.to_string()),
            ("resumed", yes(record.resumed)),
            ("engine", record.engine.clone()),
            ("source", record.source.clone()),
            ("host", record.host.clone()),
            ("run", record.run.clone()),
            ("version", record.version.clone()),
        ];
        for (name, value) in rows {
            table.row([name.to_owned(), value]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}

//! `wherry repair`

use super::check;
use crate::cli::RepairArgs;
use crate::context::Context;
use crate::exit::Exit;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::{Error, Key, ReadData, Rebuilt};

#[derive(Serialize)]
struct Report {
    index: IndexView,
    /// What is so after the repair.
    check: check::View,
}

/// What became of the index.
#[derive(Serialize)]
struct IndexView {
    /// Segments that were read.
    segments: u64,
    /// Segments that could not be; new ones have taken their place.
    damaged: Vec<ObjectView>,
    /// Data packs there are.
    packs: u64,
    /// Those that no segment had named.
    rebuilt: u64,
    /// Chunks in them.
    chunks: u64,
    /// Packs that could not be taken in.
    unreadable: Vec<ObjectView>,
}

#[derive(Serialize)]
struct ObjectView {
    object: String,
    what: String,
}

impl ObjectView {
    fn all(found: &[(Key, Error)]) -> Vec<Self> {
        found.iter().map(|(key, e)| Self { object: key.to_string(), what: e.to_string() }).collect()
    }
}

impl From<&Rebuilt> for IndexView {
    fn from(done: &Rebuilt) -> Self {
        Self {
            segments: done.segments,
            damaged: ObjectView::all(&done.damaged),
            packs: done.packs,
            rebuilt: done.rebuilt,
            chunks: done.chunks,
            unreadable: ObjectView::all(&done.unreadable),
        }
    }
}

/// Makes the index again where it is lacking, and says what is damaged for good.
pub(crate) fn run(context: &Context, args: RepairArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let RepairArgs { read_data } = args;
    let (repository, turn) = context.open_to_write("repair")?;
    let _armed = context.cancel.arm("what was made again stays; run it again");
    let done = repository.rebuild_index(&|_, _| turn.beat_when_due().and_then(|()| context.cancel.check()))?;
    let found = check::examine(context, &repository, Vec::new(), read_data.then(ReadData::default))?;
    let report = Report { index: (&done).into(), check: check::View::new(&found, start.elapsed().as_secs_f64()) };
    context.output.result(&report, || {
        let IndexView { segments, damaged, packs, rebuilt, chunks, .. } = &report.index;
        let mut text = format!(
            "index     {segments} segments read, {} damaged and replaced; {rebuilt} of {packs} packs named anew ({chunks} chunks)\n{}",
            damaged.len(),
            check::text(&found)
        );
        if !found.is_clean() {
            text.push_str(
                "\nWhat is lost comes back when the next backup of a volume still finds it at its source; a snapshot that is hit \
                 stays damaged until then.",
            );
        }
        text
    })?;
    Ok(if found.is_clean() { Exit::Done } else { Exit::Damage })
}

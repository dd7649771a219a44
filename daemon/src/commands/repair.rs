//! `wherry repair`

use super::check;
use crate::cli::RepairArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::{Error, Key, LostSession, ReadData, Rebuilt};

#[derive(Serialize)]
struct Report {
    index: IndexView,
    /// Backups of which nobody can tell what they write.
    sessions: Vec<SessionView>,
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

/// A session whose note is damaged or gone.
#[derive(Serialize)]
struct SessionView {
    session: String,
    /// Seconds since its last sign of life.
    silent: u64,
    /// It was ended. Else it may still be at work.
    ended: bool,
}

impl From<&LostSession> for SessionView {
    fn from(lost: &LostSession) -> Self {
        Self { session: lost.id.to_string(), silent: lost.silent.as_secs(), ended: lost.ended }
    }
}

impl SessionView {
    fn describe(&self) -> String {
        let Self { session, silent, ended } = self;
        let silent = output::duration(*silent);
        match ended {
            true => {
                format!("ended     session {session}, whose note was damaged: it gave no sign of life for {silent}\n")
            }
            false => format!(
                "alive     session {session}, whose note is damaged, gave a sign of life {silent} ago: no gc runs beside it; run \
                 `wherry repair` again two hours after its end\n"
            ),
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
    let sessions: Vec<_> = repository.end_lost_sessions()?.iter().map(SessionView::from).collect();
    let found = check::examine(context, &repository, Vec::new(), read_data.then(ReadData::default))?;
    let report =
        Report { index: (&done).into(), sessions, check: check::View::new(&found, start.elapsed().as_secs_f64()) };
    context.output.result(&report, || {
        let IndexView { segments, damaged, packs, rebuilt, chunks, .. } = &report.index;
        let mut text = format!(
            "index     {segments} segments read, {} damaged and replaced; {rebuilt} of {packs} packs named anew ({chunks} chunks)\n",
            damaged.len(),
        );
        text.extend(report.sessions.iter().map(SessionView::describe));
        text += &check::text(&found);
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

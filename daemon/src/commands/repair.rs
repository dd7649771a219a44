//! `wherry repair`

use super::{check, heal};
use crate::cli::RepairArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use serde::Serialize;
use std::time::Instant;
use wherry_repo::{CheckReport, Damage, DamageKind, Error, Key, LostSession, ReadData, Rebuilt};

#[derive(Serialize)]
struct Report {
    /// The configuration that has taken the place of a damaged one.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    index: IndexView,
    /// Backups of which nobody can tell what they write.
    sessions: Vec<SessionView>,
    /// What was taken from another repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<heal::View>,
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

/// Makes the index again where it is lacking, takes what is lost from another repository, and says what is damaged for good.
pub(crate) fn run(context: &Context, args: RepairArgs) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let read_data = args.read_data.then(ReadData::default);
    let from = heal::From::open(context, args)?;
    let mut config = None;
    let (repository, turn) = match from.as_ref().is_some_and(heal::From::is_dry) {
        true => (context.open_repository()?, None),
        false => {
            // Nobody takes a turn before that; what is written is the same, whoever does it.
            config = context.open_repository()?.replace_config()?.map(|key| key.to_string());
            context.open_to_write("repair").map(|(repository, turn)| (repository, Some(turn)))?
        }
    };
    if let Some(from) = &from {
        from.check_other(&repository)?;
    }
    let _armed = context.cancel.arm("what was made again stays; run it again");
    let (mut done, mut sessions) = (Rebuilt::default(), Vec::new());
    if let Some(turn) = &turn {
        done = repository.rebuild_index(&|_, _| turn.beat_when_due().and_then(|()| context.cancel.check()))?;
        sessions = repository.end_lost_sessions()?.iter().map(SessionView::from).collect();
    }
    let (from, found) = match &from {
        Some(from) => from.heal(&repository, turn.as_ref()).map(|(view, found)| (Some(view), found))?,
        None => (None, check::examine(context, &repository, Vec::new(), read_data)?),
    };
    let check = check::View::new(&found, start.elapsed().as_secs_f64());
    let report = Report { config, index: (&done).into(), sessions, from, check };
    context.output.result(&report, || {
        let mut text = String::new();
        if let Some(config) = &report.config {
            text += &format!("config    the newest configuration was damaged: {config} says what it said, and has taken its place\n");
        }
        if turn.is_some() {
            let IndexView { segments, damaged, packs, rebuilt, chunks, .. } = &report.index;
            text += &format!(
                "index     {segments} segments read, {} damaged and replaced; {rebuilt} of {packs} packs named anew ({chunks} chunks)\n",
                damaged.len(),
            );
        }
        text.extend(report.sessions.iter().map(SessionView::describe));
        text.extend(report.from.iter().map(heal::View::text));
        text += &check::text(&found);
        if found.damages.iter().any(|damage| damage.unclear || !damage.hits.is_empty()) {
            text.push_str(
                "\nWhat is lost comes back when the next backup of a volume still finds it at its source, or with --from, from \
                 another repository that has it; a snapshot that is hit stays damaged until then.",
            );
        }
        text
    })?;
    // Where lost data was to come back, what is damaged and hits nobody is no failure: what lies there was taken from elsewhere.
    let done = if report.from.is_some() { is_whole(&found) } else { found.is_clean() };
    Ok(if done { Exit::Done } else { Exit::Damage })
}

/// All that snapshots refer to is there, as far as was looked, and all else is intact.
fn is_whole(found: &CheckReport) -> bool {
    let harmless = |damage: &Damage| {
        let is_pack = matches!(damage.kind, DamageKind::Pack | DamageKind::Map);
        damage.is_superseded() || is_pack && damage.hits.is_empty() && !damage.unclear
    };
    found.damages.iter().all(harmless)
}

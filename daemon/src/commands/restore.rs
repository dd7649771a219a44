//! `wherry restore`

use crate::cli::RestoreArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::restore::{Chunks, Marker, Restore, compare};
use anyhow::Result;
use rustix::fs::Access;
use rustix::io::Errno;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use wherry_block::{BufferPool, Sink, SinkOptions, Source, TargetKind, inspect_target};
use wherry_repo::{Error, ErrorKind, Snapshot, SnapshotReader};

#[derive(Serialize)]
struct Report {
    snapshot: String,
    volume: String,
    target: String,
    size: u64,
    written: u64,
    seconds: f64,
    engine: &'static str,
    root: String,
    delta: bool,
    verified: bool,
    dry_run: bool,
    resumed: bool,
    partial: bool,
}

/// What is done to the target.
struct Plan {
    create: bool,
    /// Compare first and write what differs.
    delta: bool,
    resumed: bool,
}

/// Restores a disk.
pub(crate) fn run(context: &Context, args: RestoreArgs) -> Result<Exit> {
    let start = Instant::now();
    let RestoreArgs { snap, target, force, delta, verify, dry_run, allow_partial } = args;
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    let partial = snapshot.record.partial;
    if partial && !allow_partial {
        let text = format!(
            "snapshot {} is partial: some of its data could not be read; --allow-partial restores what there is",
            snapshot.id
        );
        return Err(Error::invalid(text).into());
    }
    let reader = SnapshotReader::open(&repository, &snapshot)?;
    let marker = || context.restore_marker(&target, &snapshot);
    let plan = admit(&target, &snapshot, force, delta, &marker)?;
    let budget = context.budget;
    let unit = reader.chunk_size();
    let depth = budget.depth(unit.max(4096));
    let pool = BufferPool::new(unit as usize, depth)?;
    let engine = context.settings.engine.into();
    let options = SinkOptions { engine, depth: depth.min(64) };
    let _armed = context.cancel.arm("run the same command again: it goes on from what is there");
    let differing = |what: &'static str| -> Result<Chunks> {
        let progress = context.progress(what, Some(reader.size()));
        let source = Source::open(&target, engine)?;
        compare(&source, &reader, &pool, depth.min(64), budget.workers, &progress, &context.cancel)
    };
    let only = match plan.delta && !plan.create {
        true => Some(differing("compare")?),
        false => None,
    };
    let written = match &only {
        Some(only) => only.count() * unit,
        None => snapshot.record.chunks * unit,
    };
    let mut engine_name = "none";
    if !dry_run {
        if plan.create {
            marker()?.set()?;
        }
        let sink = match plan.create {
            true => Sink::create(&target, reader.size(), options, &pool)?,
            false => Sink::open(&target, reader.size(), options, &pool)?,
        };
        let marker = marker()?;
        marker.set()?;
        let whole = sink.geometry().size;
        if whole > reader.size() {
            let rest = output::size(whole - reader.size());
            tracing::warn!("{} is larger than the snapshot: its last {rest} are left as they are", target.display());
        }
        let progress = context.progress("restore", Some(reader.size()));
        let work = Restore {
            reader: &reader,
            sink: &sink,
            pool: &pool,
            fetchers: if context.is_remote() { budget.downloads } else { budget.downloads.min(budget.workers * 2) },
            fetch_bytes: 2 << 20,
            only: only.as_ref(),
            progress: &progress,
            cancel: &context.cancel,
        };
        work.run()?;
        engine_name = sink.engine().name;
        drop((progress, sink));
        if verify {
            let wrong = differing("verify")?;
            if let Some(first) = wrong.runs(0, reader.chunk_count()).next() {
                let text = format!(
                    "{} does not hold what was written: {} chunks differ, the first at byte {}; the medium is faulty or somebody else writes to it",
                    target.display(),
                    wrong.count(),
                    first.start * unit
                );
                return Err(Error::corrupt(text).into());
            }
        }
        marker.clear();
    }
    let record = &snapshot.record;
    let report = Report {
        snapshot: snapshot.id.to_string(),
        volume: record.name.clone(),
        target: target.display().to_string(),
        size: record.size,
        written: written.min(record.size),
        seconds: start.elapsed().as_secs_f64(),
        engine: engine_name,
        root: record.root.to_string(),
        delta: plan.delta,
        verified: verify && !dry_run,
        dry_run,
        resumed: plan.resumed,
        partial,
    };
    context.output.result(&report, || {
        let what = if dry_run { "would write" } else { "wrote" };
        let mut lines = vec![format!(
            "{what} {} of {} to {} in {:.1} s",
            output::size(report.written),
            output::size(report.size),
            report.target,
            report.seconds
        )];
        if report.resumed {
            lines.push("went on after an interruption: what was there already was compared".to_owned());
        }
        if report.verified {
            lines.push("verified: everything was read back from the medium".to_owned());
        }
        lines.push(format!("restored snapshot {}", report.snapshot));
        lines.join("\n")
    })?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Refuses, before anything is written, what must not be written to.
fn admit(
    target: &Path,
    snapshot: &Snapshot,
    force: bool,
    delta: bool,
    marker: &dyn Fn() -> wherry_repo::Result<Marker>,
) -> Result<Plan> {
    let name = target.display();
    let state = inspect_target(target)?;
    if let Some(by) = state.busy {
        return Err(
            Error::new(ErrorKind::Busy, format!("{name} is in use: {by}; unmount or close it and run again")).into()
        );
    }
    let need = snapshot.record.size;
    let refuse = |why: String| -> Result<Plan> { Err(Error::invalid(why).into()) };
    let (read_only, contents) = match state.kind {
        TargetKind::Missing => {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let why = match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) if folder.is_dir() => return Ok(Plan { create: true, delta, resumed: false }),
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {
                    format!("there is no folder {}; make it first", folder.display())
                }
                Err(errno) => format!("the folder {} cannot be written to: {errno}", folder.display()),
            };
            return refuse(format!("{name} cannot be made: {why}"));
        }
        TargetKind::Directory => return refuse(format!("{name} is a directory: name a file or a block device")),
        TargetKind::Other => return refuse(format!("{name} is neither a file nor a block device")),
        TargetKind::Device { size, .. } if size < need => {
            return refuse(format!("{name} is too small: it holds {size} bytes, the snapshot has {need}"));
        }
        TargetKind::Device { read_only, contents, .. } => (read_only, contents),
        TargetKind::File { size, read_only } => {
            (read_only, (size > 0).then(|| format!("a file of {}", output::size(size))))
        }
    };
    if read_only {
        return refuse(format!("{name} is read-only"));
    }
    let resumed = contents.is_some() && marker()?.is_set();
    match contents {
        Some(what) if !(force || delta || resumed) => refuse(format!(
            "{name} is not empty: it holds {what}; --force overwrites it, --delta writes only what differs"
        )),
        _ => Ok(Plan { create: false, delta: delta || resumed, resumed }),
    }
}

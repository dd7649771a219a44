//! `wherry restore`

use super::snapshots::Known;
use crate::cli::RestoreArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output;
use crate::own::Own;
use crate::readers::Readers;
use crate::restore::{DiskRestore, Marker, Seen};
use crate::tree::view::is_damage;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wherry_block::{EngineInfo, Source, TargetKind, inspect_target};
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
    /// Bytes behind the snapshot's end, on a larger device.
    untouched: u64,
    engine_reason: String,
}

/// What is done to the target.
struct Plan {
    create: bool,
    /// Bytes of a larger device that are left as they are.
    untouched: u64,
    /// Compare first and write what differs.
    delta: bool,
    resumed: bool,
    /// What is on the target: see [`Seen::checksums`].
    before: Vec<(u64, u32)>,
}

/// Restores a disk.
pub(crate) fn run(context: &Context, args: RestoreArgs) -> Result<Exit> {
    let start = Instant::now();
    if args.target.as_os_str() == "-" {
        let text = "a restore writes to a device, a file or a directory: `wherry cat SNAP` writes a disk to standard output, `wherry \
                    dump SNAP` a directory as a tar archive; for a file of this name write ./-";
        return Err(Error::invalid(text).into());
    }
    let own = Arc::new(Own::of(&context.settings));
    own.refuse(&args.target)?;
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &args.snap)?;
    let partial = snapshot.record.partial;
    if partial && !args.allow_partial {
        let text = format!(
            "snapshot {} is partial: some of its data could not be read; --allow-partial restores what there is",
            snapshot.id
        );
        return Err(Error::invalid(text).into());
    }
    if args.dry_run && Known::of_checks(&repository).is_damaged(&snapshot.id) {
        let id = snapshot.id;
        tracing::warn!(
            "a check has found snapshot {id} damaged: a restore of it ends with exit code 13; `wherry check {id}` says what is lost"
        );
    }
    if snapshot.record.tree.is_some() {
        return super::restore_tree::run(context, &repository, &snapshot, &args, &own);
    }
    if let Some(flag) = args.tree_only() {
        return Err(Error::invalid(format!("{flag} is for directories, and the snapshot is that of a disk")).into());
    }
    let RestoreArgs { target, force, delta, verify, dry_run, .. } = args;
    // The session is ended by a signal too.
    let _armed = context.cancel.arm("run the same command again: it goes on from what is there");
    let readers = Readers::start(&repository)?;
    let reader = Arc::new(SnapshotReader::within(readers.open(&snapshot)?)?);
    let marker = || context.restore_marker(&target, &snapshot);
    let plan = admit(&target, &reader, force, delta, &marker)?;
    let unit = reader.chunk_size();
    let work = DiskRestore::new(context, &reader, &target)?;
    let only = match plan.delta && !plan.create {
        true => Some(work.differing("compare", true)?),
        false => None,
    };
    let written = match &only {
        Some(only) => only.count() * unit,
        None => snapshot.record.chunks * unit,
    };
    // A signal that came until now came before anything was touched.
    context.cancel.check()?;
    let mut engine_used = EngineInfo::only("none", "a dry run writes nothing");
    let mut from_medium = false;
    if !dry_run {
        // Before the target is touched: a file gets its size when it is opened.
        let begun = marker()?.over(&plan.before);
        begun.set();
        let sink = work.sink(plan.create, false).inspect_err(|_| {
            if !plan.resumed {
                begun.clear();
            }
        })?;
        // A file that was made is known by more than its name now.
        let marker = marker()?.over(&plan.before);
        marker.set();
        let progress = context.progress("restore", Some(reader.size()));
        work.fill(&sink, only.as_ref(), &progress).map_err(|e| match is_damage(&e) {
            true => end_at_damage(e, &marker, &snapshot, &target),
            false => e,
        })?;
        engine_used = sink.engine();
        drop((progress, sink));
        if verify {
            from_medium = Source::open(&target, context.settings.engine.into())?.is_from_medium();
            let wrong = work.differing("verify", false)?;
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
        engine: engine_used.name,
        root: record.root.to_string(),
        delta: plan.delta,
        verified: from_medium,
        dry_run,
        resumed: plan.resumed,
        partial,
        untouched: plan.untouched,
        engine_reason: engine_used.why,
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
        let moved = repository.found_elsewhere();
        if moved > 0 {
            lines.push(format!("{moved} chunks or map nodes were not where the map says, and were found by their ids"));
        }
        if report.untouched > 0 {
            let does = if dry_run { "would leave" } else { "left" };
            let rest = output::size(report.untouched);
            lines.push(format!("{does} the last {rest} of {}, which is larger, as they are", report.target));
        }
        if report.resumed {
            lines.push("went on after an interruption: what was there already was compared".to_owned());
        }
        if report.partial {
            lines.push("the snapshot is partial: what could not be read when it was made is missing".to_owned());
        }
        if report.verified {
            lines.push("verified: everything was read back from the medium".to_owned());
        }
        if verify && !dry_run && !report.verified {
            lines.push(format!(
                "NOT verified: {} is read through the page cache only (no O_DIRECT, or in memory), or one of its own (ZFS); \
                 what was read back says nothing of a medium",
                report.target
            ));
        }
        let did = if dry_run { "nothing was written of" } else { "restored" };
        lines.push(format!("{did} snapshot {}", report.snapshot));
        lines.join("\n")
    })?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Damage ends the restore of a disk, which would have a hole that nothing tells from data: where the rest is to be had all the
/// same, its error says. Whoever has got it like that uses the target, and not all use can be seen: the same command does not go
/// on by itself.
fn end_at_damage(error: anyhow::Error, marker: &Marker, snapshot: &Snapshot, target: &Path) -> anyhow::Error {
    marker.clear();
    let (size, name) = (snapshot.record.size, target.display());
    // `sync` fills the last block up. A device has whole sectors, and no room for more.
    let block = if size.is_multiple_of(4096) { "4K" } else { "512" };
    let cut = match target.is_file() && !size.is_multiple_of(512) {
        true => format!("; truncate -s {size} {name}"),
        false => String::new(),
    };
    let rest = format!(
        "`wherry mount DIR`, and `dd if=DIR/by-id/{}/disk.raw of={name} bs={block} conv=noerror,sync{cut}`, bring all the rest, with \
         zeros for what is lost; when `wherry repair --from` has brought that back, the same command with --delta goes on",
        snapshot.id
    );
    error.downcast::<Error>().map_or_else(|e| e, |e| e.advise(&rest).into())
}

/// Refuses, before anything is written, what must not be written to.
fn admit(
    target: &Path,
    reader: &Arc<SnapshotReader>,
    force: bool,
    delta: bool,
    marker: &dyn Fn() -> Result<Marker>,
) -> Result<Plan> {
    let name = target.display();
    let state = inspect_target(target)?;
    if let Some(by) = state.busy {
        return Err(
            Error::new(ErrorKind::Busy, format!("{name} is in use: {by}; unmount or close it and run again")).into()
        );
    }
    let need = reader.size();
    let refuse = |why: String| -> Result<Plan> { Err(Error::invalid(why).into()) };
    let (read_only, contents, untouched) = match state.kind {
        TargetKind::Missing { refused: Some(why) } => return refuse(format!("{name} cannot be made: {why}")),
        TargetKind::Missing { refused: None } => {
            return Ok(Plan { create: true, untouched: 0, delta, resumed: false, before: Vec::new() });
        }
        TargetKind::Directory => return refuse(format!("{name} is a directory: name a file or a block device")),
        TargetKind::Other => return refuse(format!("{name} is neither a file nor a block device")),
        TargetKind::Device { size, .. } if size < need => {
            return refuse(format!("{name} is too small: it holds {size} bytes, the snapshot has {need}"));
        }
        TargetKind::Device { size, read_only, contents } => {
            (read_only, contents.map(|what| format!("it holds {what}")), size - need)
        }
        TargetKind::File { size, read_only } => {
            (read_only, (size > 0).then(|| format!("it is a file of {}", output::size(size))), 0)
        }
    };
    if read_only {
        return refuse(format!("{name} is read-only"));
    }
    let marker = marker()?;
    let mut resumed = contents.is_some() && marker.is_set();
    let ways = "--force overwrites it, --delta writes only what differs";
    if let Some(what) = contents
        && !(force || delta || resumed)
    {
        return refuse(format!("{name} is not empty: {what}; {ways}"));
    }
    let seen = match Seen::on(target, need + untouched, reader) {
        // A bad sector of what is written over anyway comes back by that. What of the snapshot cannot be read is said when it
        // is to be written.
        Err(_) if force || delta || !resumed => Seen::default(),
        seen => seen?,
    };
    let foreign = match resumed.then(|| seen.foreign(reader, &marker.before())).transpose() {
        // What is lost of the snapshot is said where it is written.
        Err(_) if force || delta => None,
        foreign => foreign?.flatten(),
    };
    if let Some(at) = foreign {
        if !(force || delta) {
            return refuse(format!(
                "{name} is not empty, and was written to since the restore to it was interrupted: what is at byte {at} is neither \
                 of the snapshot nor what was there before; {ways}"
            ));
        }
        // Nothing is gone on with: it is begun anew.
        resumed = false;
    }
    Ok(Plan { create: false, untouched, delta: delta || resumed, resumed, before: seen.checksums() })
}

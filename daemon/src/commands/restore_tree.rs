//! `wherry restore` of a directory

use super::diff_tree;
use super::names::Lines;
use crate::cli::{OverwriteArg, RestoreArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, ReaderGone};
use crate::own::Own;
use crate::readers::Readers;
use crate::restore::{FETCH, Marker, fetchers};
use crate::tree::dir::Root;
use crate::tree::fetch::{Told, TreeRestore, Whole, left_out, run_number};
use crate::tree::path::{TreePath, escaped};
use crate::tree::rehearse::Rehearsal;
use crate::tree::restore::{NAMED, Options, Overwrite, Report, Restorer, Target, shown_path};
use crate::tree::select::Select;
use anyhow::Result;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;
use wherry_repo::format::tree::{Entry, What};
use wherry_repo::{Error, Repository, Snapshot, TreeReader};

#[derive(Serialize)]
struct Shown {
    snapshot: String,
    volume: String,
    target: String,
    size: u64,
    written: u64,
    seconds: f64,
    root: String,
    dry_run: bool,
    resumed: bool,
    partial: bool,
    files: u64,
    directories: u64,
    others: u64,
    links: u64,
    removed: u64,
    skipped: u64,
    delta: bool,
    /// Everything was read back from the medium, and is what was written.
    verified: bool,
    /// Files that were read back through the page cache, as their filesystem reads in no other way.
    unverified: u64,
    /// Files that `--verify` did not read: they were left as they are, or this user may not read them.
    unread: u64,
    /// Files that held what the snapshot says already.
    kept: u64,
    /// Bytes of data that were asked of the repository: what requests spanned, as they came over the wire. Of a dry run:
    /// bytes of the files, outside of holes, that the target does not have.
    fetched: u64,
    /// What the system refused, the first thousand in `refused_paths`.
    refused: u64,
    refused_paths: Vec<String>,
    missing: u64,
    /// What the repository has lost, so that it was not restored whole, the first thousand in `lost_paths`: files that were
    /// left out, and directories (with `/` at the end) of which names or attributes are lost.
    lost: u64,
    lost_paths: Vec<String>,
    /// Files of which further names may be files of their own, for want of memory: at most so many.
    unlinked: u64,
    /// What a dry run would change, the first thousand paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<diff_tree::Shown>,
}

/// Restores a directory, or parts of it.
pub(super) fn run(
    context: &Context,
    repository: &Repository,
    snapshot: &Snapshot,
    args: &RestoreArgs,
    own: &Arc<Own>,
) -> Result<Exit> {
    let start = Instant::now();
    let refuse = |why: String| -> Result<Exit> { Err(Error::invalid(why).into()) };
    let paths: Vec<_> = args.paths.iter().map(|path| TreePath::new(path.as_bytes())).collect();
    let select = Select::new(&paths);
    if args.delete && !select.is_whole() {
        return refuse("--delete with a PATH would remove what was not asked for: leave one of them out".to_owned());
    }
    // The session is ended by a signal too.
    let _armed = context.cancel.arm("run the same command again: it goes on from what is there");
    let readers = Readers::start(repository)?;
    repository.limit_tree_nodes(context.budget.nodes.max(8 << 20));
    repository.limit_lookups(context.budget.index / 2);
    let reader = TreeReader::within(readers.open(snapshot)?)?;
    for path in &paths {
        found(&reader, path)?;
    }
    if args.delete && reader.root().missing.is_some() {
        let text = "the list of the directory itself could not be read when the snapshot was made: --delete would remove \
                    what the snapshot only failed to see; leave it out";
        return refuse(text.to_owned());
    }
    let partial = snapshot.record.partial;
    context.cancel.check()?;
    let existed = args.target.exists();
    if !existed && let Some(why) = wherry_block::not_a_device(&args.target)? {
        return refuse(format!("{} cannot be made: {why}", args.target.display()));
    }
    let target = if args.dry_run { Target::there(&args.target)? } else { Some(Target::open(&args.target)?) };
    // Also while the marker is taken away at the end.
    let _held = target.as_ref().filter(|_| !args.dry_run).map(Target::hold).transpose()?;
    let user = rustix::process::geteuid().as_raw();
    let parts = if select.is_whole() { String::new() } else { parts(&paths) };
    // The marker tells a restore that began in an empty directory from one that was allowed to overwrite.
    let marker = |began: &str| {
        // Another mode is another restore: what one may overwrite the other may not.
        let (mode, ids) = (args.overwrite, if args.numeric_ids { "numeric" } else { "named" });
        let over = args.force || args.delta;
        let root = format!("{} {began}, {mode:?}, force {over}, {ids}, user {user}{parts}", snapshot.record.root);
        Marker::new(&args.target, &context.state_dir(), &snapshot.id, &root)
    };
    let (run, empty) = match &target {
        Some(target) => {
            let run = run_number(snapshot, target.identity()?);
            (run, target.is_empty(run)?)
        }
        None => (0, true),
    };
    let into_empty = marker("into an empty directory")?;
    let into_full = marker("over what was there")?;
    // Also when it is empty still: what it was writing lies there under temporary names.
    let goes_on = into_empty.is_set();
    let resumed = goes_on || into_full.is_set();
    if !(empty || resumed || args.force || args.delta || args.overwrite.is_some()) {
        return refuse(format!(
            "{} is not empty: --overwrite never keeps what is there, if-newer replaces what is older, --force or \
             --overwrite always replaces everything, --delta what differs",
            args.target.display()
        ));
    }
    let began_empty = empty || goes_on;
    let overwrite = match args.overwrite {
        Some(OverwriteArg::Never) => Overwrite::Never,
        Some(OverwriteArg::IfNewer) => Overwrite::IfNewer,
        Some(OverwriteArg::Always) => Overwrite::Always,
        None if args.force || args.delta || resumed => Overwrite::Always,
        None => Overwrite::Never,
    };
    // What an earlier run wrote over is not written again if it is right.
    let compare = args.delta || !began_empty && resumed;
    let root = select.is_whole() || !existed;
    let links = context.budget.first_names();
    let (told, report, changes);
    if let Some(target) = target.filter(|_| !args.dry_run) {
        if began_empty { &into_empty } else { &into_full }.set();
        let options = Options {
            overwrite,
            delete: args.delete,
            numeric_ids: args.numeric_ids,
            // Temporary files of an earlier run, also of one that left no marker.
            resume: true,
            // What was refused to another user is refused again, and counted again.
            trust_names: goes_on && user == 0,
            compare,
            distrust: args.verify,
            own: Arc::clone(own),
            ..Options::new(run)
        };
        let mut restorer = Restorer::start(target, options)?;
        let progress = context.progress("restore", select.is_whole().then_some(snapshot.record.size));
        let work = TreeRestore {
            reader: &reader,
            select: &select,
            root,
            fetchers: fetchers(context),
            fetch_bytes: FETCH,
            read_back: args.verify,
            links,
            progress: &progress,
            cancel: &context.cancel,
        };
        told = work.run_around_damage(&mut restorer)?;
        let is_sound = told.wrong.count == 0 && restorer.report().lost.count == 0;
        if args.delete && is_sound {
            restorer.prune(&Whole { tree: &reader, cancel: &context.cancel })?;
        }
        report = restorer.finish()?;
        changes = Vec::new();
        drop(progress);
        if let Some(first) = told.wrong.first.first() {
            let text = format!(
                "{} does not hold what was written: {} files differ when they are read back, the first is {}; the medium is \
                 faulty or somebody else writes to it. Those that are new did not get their names; what was there before is \
                 there still and may be wrong: restore to another place, or give the same command again (with --verify) \
                 on a sound medium",
                args.target.display(),
                told.wrong.count,
                escaped(first)
            );
            return Err(Error::corrupt(text).into());
        }
        // Once what is lost is there again, the same command goes on.
        if report.lost.count == 0 {
            into_empty.clear();
            into_full.clear();
        }
    } else {
        let rehearsal = Rehearsal {
            reader: &reader,
            select: &select,
            root,
            untouched: empty,
            run,
            trust_names: goes_on && user == 0,
            distrust: args.verify,
            overwrite,
            compare,
            delete: args.delete,
            numeric_ids: args.numeric_ids,
            links,
            own,
            cancel: &context.cancel,
        };
        (told, report, changes) = readers.until_a_signal(&context.cancel, || rehearse(context, &rehearsal, args))?;
    }
    let left = left_out(&report, began_empty, overwrite);
    let is_whole = !partial && told.missing == 0 && told.apart == 0 && report.refused.list.count == 0 && !left;
    let exit = if is_whole { Exit::Done } else { Exit::Partial };
    let lost = report.lost.clone();
    show(context, snapshot, args, Outcome { told, report, changes, resumed, seconds: start.elapsed().as_secs_f64() })?;
    lost.first.first().map_or(Ok(exit), |first| Err(lost_error(args, lost.count, first)))
}

/// What a marker says of the paths that are wanted, in whatever order they were given.
fn parts(paths: &[TreePath]) -> String {
    let mut paths: Vec<_> = paths.iter().map(TreePath::bytes).collect();
    paths.sort();
    paths.dedup();
    format!(", paths {}", blake3::hash(&paths.join(&0)).to_hex())
}

/// Ends a restore that left something out.
fn lost_error(args: &RestoreArgs, count: u64, first: &[u8]) -> anyhow::Error {
    let kept = if args.delete { "; as names may be among it, --delete removed nothing" } else { "" };
    Error::corrupt(format!(
        "{count} files or directories were not restored whole, the first is {}; all else was: each is named above, and what \
         had the name of a file before is there still{kept}; `wherry check --read-data` says what is damaged, `wherry repair \
         --from` takes it from a copy of the repository, and then the same command goes on",
        escaped(first)
    ))
    .into()
}

/// Says what a restore would do. Paths that would change are lines of the text; the first of them are for the JSON.
fn rehearse(
    context: &Context,
    rehearsal: &Rehearsal<'_>,
    args: &RestoreArgs,
) -> Result<(Told, Report, Vec<diff_tree::Shown>)> {
    // It may be that of a restore that began in another filesystem.
    let target = if args.target.exists() { Some(Root::open(&args.target, true)?) } else { None };
    let (is_json, mut changes, mut lines) = (context.output.is_json(), Vec::new(), Lines::new(context));
    // Whether the snapshot is whole is for the exit code, also where nobody reads the lines.
    let written = |written: Result<()>| match written {
        Err(e) if e.is::<ReaderGone>() => Ok(()),
        written => written,
    };
    let (told, report) = rehearsal.run(target.as_ref(), &mut |change, path| {
        match is_json {
            true if changes.len() < NAMED => changes.push(diff_tree::Shown::new(change, path)),
            true => {}
            false => written(lines.add(&diff_tree::line(change, path)))?,
        }
        Ok(())
    })?;
    written(lines.end())?;
    Ok((told, report, changes))
}

/// Fails unless the snapshot has this path.
fn found(reader: &TreeReader, path: &TreePath) -> Result<()> {
    let mut at = reader.root().clone();
    for name in path.names() {
        let below = match &at.what {
            What::Folder { below, .. } => *below,
            _ => None,
        };
        let entry = below.map(|below| reader.find(&below, name)).transpose()?.flatten();
        match entry {
            Some((_, Entry::Known(known))) => at = *known,
            _ => return Err(Error::invalid(format!("{path}: the snapshot has no such path")).into()),
        }
    }
    Ok(())
}

struct Outcome {
    told: Told,
    report: Report,
    /// Of a dry run.
    changes: Vec<diff_tree::Shown>,
    resumed: bool,
    seconds: f64,
}

fn show(context: &Context, snapshot: &Snapshot, args: &RestoreArgs, outcome: Outcome) -> Result<()> {
    let Outcome { told, report, changes, resumed, seconds } = outcome;
    let record = &snapshot.record;
    let shown = Shown {
        snapshot: snapshot.id.to_string(),
        volume: record.name.clone(),
        target: args.target.display().to_string(),
        size: told.bytes,
        written: report.bytes,
        seconds,
        root: record.root.to_string(),
        dry_run: args.dry_run,
        resumed,
        partial: record.partial,
        files: report.files,
        directories: report.directories,
        others: report.others,
        links: report.links,
        removed: report.removed,
        skipped: report.skipped.count,
        delta: args.delta,
        verified: args.verify && !args.dry_run && told.cached + told.unread + report.lost.count == 0,
        unverified: told.cached,
        unread: told.unread,
        kept: report.kept,
        fetched: told.fetched,
        refused: report.refused.list.count,
        refused_paths: report.refused.list.first.iter().map(ToString::to_string).collect(),
        missing: told.missing,
        lost: report.lost.count,
        lost_paths: report.lost.first.iter().map(|path| escaped(path)).collect(),
        unlinked: told.apart,
        changes,
    };
    for refused in &shown.refused_paths {
        tracing::warn!("not restored: {refused}");
    }
    for skipped in report.skipped.first.iter().take(20) {
        tracing::info!("left as it is: {} ({})", shown_path(&skipped.path), skipped.why);
    }
    context.output.result(&shown, || {
        let mut lines = vec![match args.dry_run {
            true => format!(
                "would write {} to {}: {} files, {} directories, {} others, {} further names; {} are not there yet",
                output::size(shown.written),
                shown.target,
                shown.files,
                shown.directories,
                shown.others,
                shown.links,
                output::size(shown.fetched)
            ),
            false => format!(
                "wrote {} to {} in {:.1} s: {} files, {} directories, {} others, {} further names",
                output::size(shown.written),
                shown.target,
                shown.seconds,
                shown.files,
                shown.directories,
                shown.others,
                shown.links
            ),
        }];
        let would = |did: &'static str, would: &'static str| if shown.dry_run { would } else { did };
        if shown.resumed && !shown.dry_run {
            lines.push("went on after an interruption".to_owned());
        }
        if shown.kept > 0 {
            lines.push(format!("{} files were as in the snapshot already", shown.kept));
        }
        if shown.skipped > 0 {
            lines.push(format!("{} {} names as they are", would("left", "would leave"), shown.skipped));
        }
        if shown.removed > 0 {
            let removed = would("removed", "would remove");
            lines.push(format!("{removed} {} names that the snapshot does not have", shown.removed));
        }
        if shown.missing > 0 {
            lines.push(format!("{} could not be read when the snapshot was made, and are missing", shown.missing));
        }
        if shown.unlinked > 0 {
            lines.push(format!(
                "up to {} files have further names that are files of their own: give more --memory to have them linked",
                shown.unlinked
            ));
        }
        if shown.refused > 0 {
            lines.push(format!("{} were refused by the system: see above", shown.refused));
        }
        if shown.verified {
            lines.push("verified: the data of every file was read back from the medium".to_owned());
        }
        if shown.unverified > 0 {
            lines.push(format!(
                "NOT verified: {} files are on a filesystem that is read through the page cache only (no O_DIRECT, or in \
                 memory); what was read back says nothing of a medium",
                shown.unverified
            ));
        }
        if shown.unread > 0 {
            lines.push(format!(
                "NOT verified: {} files were not read back: they were left as they are, or this user may not read them",
                shown.unread
            ));
        }
        if shown.lost > 0 {
            lines.push(format!("LOST: {} were not restored whole, as the repository is damaged: see above", shown.lost));
        }
        let did = if shown.lost > 0 { "restored what is left of" } else { "restored" };
        lines.push(format!("{} snapshot {}", would(did, "nothing was written of"), shown.snapshot));
        lines.join("\n")
    })
}

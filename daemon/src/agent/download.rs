//! The data of a DataDownload: from a snapshot into the published volume.

use super::begun::Mark;
use super::host::{Expected, Plugin, Published};
use super::job::Job;
use super::store::{Store, Use};
use super::upload::{capacity, claim};
use crate::context::Context;
use crate::output::size;
use crate::readers::Readers;
use crate::restore::{DiskRestore, FETCH, fetchers};
use crate::tree::fetch::{TreeRestore, Whole, left_out, run_number};
use crate::tree::path::escaped;
use crate::tree::restore::{Options, Overwrite, Restorer, Target};
use crate::tree::select::Select;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use wherry_api::api::Kind;
use wherry_api::decode::decode;
use wherry_api::metrics::{DOWNLOAD, MOVED, RESTORED};
use wherry_api::{DataDone, DataDownload, SnapshotId};
use wherry_block::EngineInfo;
use wherry_repo::{Error, Repository, Snapshot, SnapshotReader, TreeReader};

/// A volume that is whole.
#[derive(Debug)]
pub(crate) struct Written {
    /// The annotation.
    pub(crate) done: String,
    /// Bytes of the snapshot.
    pub(crate) total: u64,
    pub(crate) message: String,
}

fn wrong(text: String) -> anyhow::Error {
    Error::invalid(text).into()
}

/// Writes the volume, makes it durable and closes it.
pub(super) fn run(job: &Job<'_>) -> Result<Written> {
    let Job { agent, task, cancel, report, .. } = job;
    let cr: DataDownload = decode(Kind::DataDownload.word(), &report.cr())?;
    let id: SnapshotId = cr.spec.snapshot_id.parse()?;
    let wanted = &cr.spec.source_namespace;
    if id.namespace() != Some(wanted.as_str()) {
        return Err(wrong(format!(
            "spec.snapshotID names a volume of namespace {:?}, and spec.sourceNamespace is {wanted:?}: it is refused",
            id.namespace().unwrap_or_default()
        )));
    }
    let claim = claim(agent, task)?;
    let pv = &claim.spec.volume_name;
    let block = claim.spec.volume_mode.as_deref() == Some("Block");
    let root = agent.kubelet_root();
    let published = || match block {
        true => Published::device(&root, Plugin::Csi, &task.pod_uid, pv),
        false => Published::filesystem(&root, Plugin::Csi, &task.pod_uid, pv),
    };
    // First of all: nothing is asked of a storage for what is not published. And let go of again: whoever waits for a storage
    // keeps nobody from unmounting the volume.
    drop(published()?);

    let budget = agent.budget().each;
    let opening = agent.context.for_job(String::new(), budget, (*cancel).clone())?;
    let store = Arc::new(Store::open(&agent.around, &cr.spec.backup_storage_location, Use::Read, cancel, &opening)?);
    job.opened(&store);
    let repository = &store.repository;
    if repository.id().to_string() != id.repository {
        return Err(wrong(format!(
            "the snapshot is in repository {}, and BackupStorageLocation {} leads to {}",
            id.repository,
            cr.spec.backup_storage_location,
            repository.id()
        )));
    }
    repository.limit_nodes(budget.nodes);
    repository.limit_lookups(budget.index);
    let context = opening.for_job(store.url.clone(), budget, (*cancel).clone())?;
    let snapshot = find(repository, &id)?;
    let readers = Readers::start(repository)?;
    let mark = Mark::new(agent, task);
    let published = published()?;
    let shown = || published.shown().to_owned();
    let (message, engine) = match (block, snapshot.record.tree.is_some()) {
        (true, false) => {
            // Before the first byte.
            let expected = Expected { least: snapshot.record.size, capacity: capacity(&claim) };
            published.source(context.settings.engine.into(), &expected).with_context(shown)?;
            let (message, engine) = disk(job, &context, &readers, &snapshot, &published, &mark).with_context(shown)?;
            agent.has_engine(&engine);
            (message, engine.name)
        }
        (false, true) => {
            repository.limit_tree_nodes(budget.nodes.max(8 << 20));
            repository.limit_lookups(budget.index / 2);
            let message = tree(job, &context, &readers, &snapshot, &published, &mark).with_context(shown)?;
            // Files are written one by one.
            (message, "threads")
        }
        (true, true) => return Err(wrong("the snapshot is that of a directory, and the PVC of mode Block".to_owned())),
        (false, false) => {
            return Err(wrong("the snapshot is that of a disk, and the PVC of mode Filesystem".to_owned()));
        }
    };
    drop(published);
    mark.clear();
    let total = snapshot.record.size;
    agent.around.metrics.add(&RESTORED, &[], total as f64);
    agent.around.metrics.add(&MOVED, &[DOWNLOAD, engine], 1.0);
    let (cr_uid, volume) = (task.uid.clone(), pv.clone());
    let done = DataDone { version: wherry_api::plan::VERSION, cr_uid, attempt: task.attempt, volume, bytes: total };
    Ok(Written { done: done.print(), total, message })
}

fn find(repository: &Repository, id: &SnapshotId) -> Result<Snapshot> {
    let list = repository.snapshots(Some(repository.volume_id(&id.volume)))?;
    let session = &id.session;
    let found = list.snapshots.iter().find(|s| s.id.to_string() == *session && s.record.name == id.volume);
    let found = found.ok_or_else(|| {
        let damaged = list.damaged.iter().find(|(key, _)| key.as_str().contains(session.as_str()));
        match damaged {
            Some((_, e)) => wrong(format!("the record of snapshot {session} cannot be read: {e}")),
            None => wrong(format!("there is no snapshot {session} of volume {:?}: it was forgotten", id.volume)),
        }
    })?;
    if found.record.partial {
        return Err(wrong(format!("snapshot {session} is partial: some of the volume could not be read then")));
    }
    Ok(found.clone())
}

fn disk(
    job: &Job<'_>,
    context: &Context,
    readers: &Readers,
    snapshot: &Snapshot,
    published: &Published,
    mark: &Mark,
) -> Result<(String, EngineInfo)> {
    let reader = SnapshotReader::within(readers.open(snapshot)?)?;
    let target = published.path();
    let work = DiskRestore::new(context, &reader, &target)?;
    let only = if mark.is_set() { Some(work.differing("compare", true)?) } else { None };
    job.cancel.check()?;
    mark.set();
    let sink = work.sink(false, true)?;
    let progress = context.progress("restore", Some(reader.size()));
    job.moves(progress.meter());
    // A volume may be larger than the disk, and hold bytes of somebody else. `fill` makes it durable.
    let mut behind = Some(reader.size());
    while let Some(at) = behind {
        job.cancel.check()?;
        behind = sink.zero_behind(at)?;
    }
    work.fill(&sink, only.as_ref(), &progress)?;
    let engine = sink.engine();
    drop((progress, sink));
    let resumed = if only.is_some() { ", went on after an interruption" } else { "" };
    let all = size(snapshot.record.size);
    let message = format!("snapshot {}: {all}, {} engine ({}){resumed}", snapshot.id, engine.name, engine.why);
    Ok((message, engine))
}

fn tree(
    job: &Job<'_>,
    context: &Context,
    readers: &Readers,
    snapshot: &Snapshot,
    published: &Published,
    mark: &Mark,
) -> Result<String> {
    let reader = TreeReader::within(readers.open(snapshot)?)?;
    let target = Target::open(&published.path())?;
    let run = run_number(snapshot, target.identity()?);
    // A volume may hold old files, and a new filesystem has some of its own: all that the snapshot has not goes.
    let options = Options {
        overwrite: Overwrite::Always,
        delete: true,
        numeric_ids: true,
        resume: true,
        compare: mark.is_set(),
        ..Options::new(run)
    };
    mark.set();
    let mut restorer = Restorer::start(target, options)?;
    let progress = context.progress("restore", Some(snapshot.record.size));
    job.moves(progress.meter());
    let select = Select::new(&[]);
    let work = TreeRestore {
        reader: &reader,
        select: &select,
        root: true,
        fetchers: fetchers(context),
        fetch_bytes: FETCH,
        read_back: false,
        links: context.budget.first_names(),
        progress: &progress,
        cancel: job.cancel,
    };
    let told = work.run(&mut restorer)?;
    job.cancel.check()?;
    restorer.prune(&Whole { tree: &reader, cancel: job.cancel })?;
    job.cancel.check()?;
    let report = restorer.finish()?;
    drop(progress);
    let refused = report.refused.list.count;
    if refused > 0 {
        let first = report.refused.list.first.first().map(ToString::to_string).unwrap_or_default();
        return Err(wrong(format!("{refused} names could not be restored as they were, the first: {first}")));
    }
    if let Some(skipped) = report.skipped.first.first().filter(|_| left_out(&report, false, Overwrite::Always)) {
        let path = escaped(&skipped.path);
        return Err(wrong(format!("{path} was not restored: something else is in its place ({:?})", skipped.why)));
    }
    if told.missing > 0 {
        return Err(wrong(format!(
            "{} names of the snapshot have no content: they could not be read then",
            told.missing
        )));
    }
    if told.apart > 0 {
        let text = format!("{} files would lose links to each other: give the agent more --memory", told.apart);
        return Err(wrong(text));
    }
    let files = report.files + report.kept;
    let engine = "threads engine (files are written one by one)";
    Ok(format!("snapshot {}: {files} files, {}, {engine}", snapshot.id, size(told.bytes)))
}

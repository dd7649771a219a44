//! The data of a DataUpload: from the published volume into a snapshot.

use super::Agent;
use super::blocks::{Blocks, Question, blocks};
use super::host::{Expected, HEADER, Plugin, Published};
use super::job::Job;
use super::store::{Store, Use};
use super::verdict::Task;
use crate::backup::{DiskRuns, Order};
use crate::output::size;
use crate::signals::Cancel;
use crate::tree::backup::{Counts, TreeRuns};
use crate::tree::dir::Root;
use crate::tree::exclude::Exclude;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wherry_api::api::Kind;
use wherry_api::cluster::Claim;
use wherry_api::decode::decode;
use wherry_api::metrics::{BY_BLOCKS, CHANGED, MOVED, READ, SKIPPED, STORED, UPLOAD};
use wherry_api::quantity::quantity;
use wherry_api::{DataUpload, LocalVolume, SnapshotId, UploadPlan, labels, names};
use wherry_block::EngineInfo;
use wherry_repo::{Error, ParentChoice, Repository, Snapshot, TreeInfo};

/// How a snapshot came about that is not this process's.
const BEFORE: &str = "it was committed before";
/// The storage is asked so long for the snapshot of what was canceled. A request that is under way has three seconds more, and those
/// of the work itself had as many before: where the storage says nothing at all it is over before the controller cancels in its place.
pub(super) const LOOK_BACK: Duration = Duration::from_secs(1);

/// A snapshot, as the CR tells it.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) snapshot_id: String,
    /// Size of the volume in bytes.
    pub(crate) total: u64,
    /// Bytes that the parent has not.
    pub(crate) incremental: u64,
    pub(crate) message: String,
}

/// What kept the snapshot of this CR, if that was made before; else makes it.
pub(super) fn run(job: &Job<'_>) -> Result<Saved> {
    let Job { agent, task, cancel, report, .. } = job;
    cancel.only_sends(false);
    let cr: DataUpload = decode(Kind::DataUpload.word(), &report.cr())?;
    let plan = UploadPlan::parse(cr.metadata.annotation(names::PLAN), &task.uid)?;
    let claim = claim(agent, task)?;
    let root = agent.kubelet_root();
    let block = plan.source_volume_mode == "Block";
    let pv = &claim.spec.volume_name;
    let plugin = plan.local.as_ref().map_or(Plugin::Csi, |local| Plugin::Local { path: &local.path });
    // Each time anew, and let go of once the source itself is open: also a descriptor that only names it would keep the
    // kubelet from unmounting the volume.
    let published = || match block {
        true => Published::device(&root, plugin, &task.pod_uid, pv),
        false => Published::filesystem(&root, plugin, &task.pod_uid, pv),
    };
    // First of all: nothing is asked of a storage for what is not published.
    let shown = published()?.shown().to_owned();
    let capacity = capacity(&claim);
    let least = plan.restore_size.unwrap_or_default().saturating_sub(HEADER);
    let expected = match &plan.local {
        None => Expected { least, capacity },
        // What a local PV says is what somebody has written into it; it is told by its path, and all there is is read.
        Some(_) => Expected { least: 1, capacity: None },
    };
    let engine = agent.context.settings.engine.into();
    let size = match block {
        true => Some(published()?.source(engine, &expected)?.geometry().size),
        false => None,
    };

    let budget = agent.budget().each;
    let opening = agent.context.for_job(String::new(), budget, (*cancel).clone())?;
    let store = Arc::new(Store::open(&agent.around, &cr.spec.backup_storage_location, Use::Write, cancel, &opening)?);
    job.opened(&store);
    let repository = &store.repository;
    repository.limit_nodes(budget.nodes);
    repository.limit_lookups(budget.index);
    let context = opening.for_job(store.url.clone(), budget, (*cancel).clone())?;
    let (cluster, spec) = (agent.around.cluster()?, &cr.spec);
    let (name, pvc_uid) = volume(&cluster, &cr, &plan);
    // The process before this one is gone (the lock), or its node is taken for lost: it commits nothing from now on, and what it
    // stored is used.
    let found = before(repository, &cr, &name, "another agent goes on with this DataUpload")?;
    let total = |snapshot: &Snapshot| match block {
        true => snapshot.record.size,
        // Of a directory the record counts bytes of files, of which there may be more than a volume has room for.
        false => capacity.unwrap_or(least),
    };
    if let Some(snapshot) = found {
        return Ok(told(repository.id().to_string(), &snapshot, total(&snapshot), BEFORE));
    }
    let index = agent.index(&context, repository)?;
    // Only now: what is asked about is there as long as this CR has not ended.
    let asked = match size {
        Some(_) if plan.local.is_some() => Some(Blocks::Nothing("a local volume has no changed blocks".to_owned())),
        Some(size) => {
            let question = Question { repository, name: &name, cluster: &cluster, plan: &plan, size };
            Some(blocks(agent, question, cancel)?)
        }
        None => None,
    };
    let of = name.clone();
    let order = Order {
        name,
        parent: ParentChoice::Auto,
        compression: wherry_repo::Compression::Lz4,
        tags: tags(job, &cr, &plan, &cluster, &pvc_uid)?,
        source: format!("{}/{} ({})", spec.source_namespace, spec.source_pvc, of_what(&plan)),
        limit_read: None,
        begun: &|session, meter| {
            job.has_session(session.to_string());
            // Only then: the watch beside would write at the same time.
            job.moves(meter);
        },
    };
    let (snapshot, how) = match asked {
        Some(asked) => {
            let (changed, allocated) = asked.hints();
            let runs = DiskRuns { context: &context, repository, index: &index, order, changed, allocated };
            let saved = runs.run(|| published()?.source(engine, &expected)).with_context(|| shown.clone())?;
            let (by, counted) = asked.told(saved.list.and_then(|list| list.reason).as_deref());
            agent.around.metrics.add(&BY_BLOCKS, &[counted], 1.0);
            agent.has_engine(&saved.engine);
            let how = format!("{by}; {} engine ({})", saved.engine.name, saved.engine.why);
            (saved.snapshot, how)
        }
        None => {
            let (repository, exclude, scratch) = (repository, Exclude::default(), context.state_dir());
            // A clone of a volume has the inodes of the volume.
            let (ignore_inode, force_read) = (false, false);
            let (context, index) = (&context, &index);
            let runs =
                TreeRuns { context, repository, index, order, exclude, own: None, scratch, ignore_inode, force_read };
            let open = || {
                let published = published()?;
                if let Some(local) = &plan.local {
                    not_emptied(repository, &of, local, &published.path())?;
                }
                Ok(Root::open(&published.path(), false)?)
            };
            let saved = runs.run(open).with_context(|| shown.clone())?;
            whole(saved)?
        }
    };
    count(agent, &snapshot);
    Ok(told(repository.id().to_string(), &snapshot, total(&snapshot), &how))
}

/// A snapshot that this process made, in the metrics.
fn count(agent: &Agent, snapshot: &Snapshot) {
    let (record, stats) = (&snapshot.record, &snapshot.record.stats);
    let skipped = record.size.saturating_sub(stats.read);
    for (metric, bytes) in
        [(&READ, stats.read), (&SKIPPED, skipped), (&CHANGED, stats.known + stats.new), (&STORED, stats.stored)]
    {
        agent.around.metrics.add(metric, &[], bytes as f64);
    }
    agent.around.metrics.add(&MOVED, &[UPLOAD, record.engine.as_str()], 1.0);
}

/// A disk that did not come back with its node leaves the empty directory that it is mounted at, which is as good a directory as any.
/// An error where the volume's last whole snapshot has anything.
fn not_emptied(repository: &Repository, name: &str, local: &LocalVolume, at: &Path) -> Result<()> {
    let path = &local.path;
    let listed = || format!("cannot list {path}");
    if std::fs::read_dir(at).with_context(listed)?.next().transpose().with_context(listed)?.is_some() {
        return Ok(());
    }
    let all = repository.snapshots(Some(repository.volume_id(name)))?.snapshots;
    // One of a disk that could not be read any more says nothing of what was on it.
    let whole = all.iter().filter(|snapshot| !snapshot.record.partial);
    let Some(last) = whole.max_by_key(|snapshot| snapshot.record.started) else { return Ok(()) };
    let count = |tree: &TreeInfo| (tree.files + tree.folders + tree.others).saturating_sub(1);
    let had = last.record.tree.as_ref().map_or(0, count);
    if had == 0 {
        return Ok(());
    }
    let text = format!(
        "{path} is empty, and in snapshot {} of the same volume it has {had} files and directories: it looks as if its disk were \
         not mounted",
        last.id
    );
    let next = "see on the node whether it is, and mount it; where all was deleted on purpose, make a file in it: then it is taken";
    Err(Error::invalid(text).advise(next).into())
}

/// An error unless all of the volume could be read.
fn whole((snapshot, counts, found): (Snapshot, Counts, EngineInfo)) -> Result<(Snapshot, String)> {
    if snapshot.record.partial {
        let first = counts.named.first().map_or_else(String::new, |missing| {
            let why = std::io::Error::from_raw_os_error(missing.errno.cast_signed());
            format!(", the first is {}: {why}", crate::tree::path::escaped(&missing.path))
        });
        let text = format!(
            "{} files or directories of the volume could not be read{first}; snapshot {} has the rest, and is not reported",
            counts.missing, snapshot.id
        );
        return Err(Error::invalid(text).into());
    }
    let unsettled = match counts.unsettled {
        0 => String::new(),
        files => format!(", {files} changed each time they were read"),
    };
    let engine = &snapshot.record.engine;
    // Each thread that reads has a ring of its own, and its log says why if it has none.
    let why = if *engine == found.name { found.why.as_str() } else { "nobody read small files by a ring" };
    let how = format!("{} files, {} of them unread{unsettled}, {engine} engine ({why})", counts.files, counts.kept);
    Ok((snapshot, how))
}

/// The snapshot of a CR that was canceled, if it stands; if not, no agent that is still at work commits one any more.
pub(super) fn committed(agent: &Agent, task: &Task, cr: &Value) -> Result<Option<Saved>> {
    let cr: DataUpload = decode(Kind::DataUpload.word(), cr)?;
    if cr.metadata.annotation(names::SESSION).is_none() {
        // Nothing was ever begun.
        return Ok(None);
    }
    let plan = UploadPlan::parse(cr.metadata.annotation(names::PLAN), &task.uid)?;
    // A storage that does not answer is not waited for: whoever cancels wants an end.
    let patience = Cancel::default();
    patience.go_on_for(LOOK_BACK);
    let budget = agent.budget().each;
    let context = agent.context.for_job(String::new(), budget, patience.clone())?;
    let store = Store::open(&agent.around, &cr.spec.backup_storage_location, Use::Read, &patience, &context)?;
    let (name, _) = volume(&agent.around.cluster()?, &cr, &plan);
    let Some(snapshot) = before(&store.repository, &cr, &name, "this DataUpload was canceled")? else {
        return Ok(None);
    };
    let total = match plan.source_volume_mode == "Block" {
        true => snapshot.record.size,
        // The PVC may be gone by now.
        false => claim(agent, task).ok().and_then(|claim| capacity(&claim)).or(plan.restore_size).unwrap_or_default(),
    };
    Ok(Some(told(store.repository.id().to_string(), &snapshot, total, BEFORE)))
}

/// The name of the volume in the repository, and the uid of its PVC.
fn volume(cluster: &str, cr: &DataUpload, plan: &UploadPlan) -> (String, String) {
    let pvc_uid = plan.source_uid.clone().or_else(|| cr.metadata.label(names::PVC_UID).map(ToOwned::to_owned));
    let pvc_uid = pvc_uid.unwrap_or_else(|| "unknown".to_owned());
    (labels::volume(cluster, &cr.spec.source_namespace, &cr.spec.source_pvc, &pvc_uid), pvc_uid)
}

/// Ends the session that the CR names, and gives the snapshot that was committed for it before that.
fn before(repository: &Repository, cr: &DataUpload, name: &str, why: &str) -> Result<Option<Snapshot>> {
    let volume = repository.volume_id(name);
    if let Some(session) = cr.metadata.annotation(names::SESSION)
        && let Ok(session) = session.parse()
    {
        repository.end_session(volume, session, why)?;
    }
    let of_cr = |s: &Snapshot| s.record.tags.get(labels::CR_UID) == Some(&cr.metadata.uid) && !s.record.partial;
    Ok(repository.snapshots(Some(volume))?.snapshots.into_iter().find(of_cr))
}

/// The PVC of the attempt.
pub(super) fn claim(agent: &Agent, task: &Task) -> Result<Claim> {
    let name = task.object();
    let object = agent.around.get(Kind::Claim, &name)?;
    let object = object.ok_or_else(|| Error::invalid(format!("PVC {name} is gone")))?;
    let claim: Claim = decode(Kind::Claim.word(), &object)?;
    if claim.spec.volume_name.is_empty() {
        return Err(Error::invalid(format!("PVC {name} is not bound")).into());
    }
    Ok(claim)
}

/// Bytes that the driver says the volume has.
pub(super) fn capacity(claim: &Claim) -> Option<u64> {
    claim.status.capacity.get("storage").and_then(|text| quantity(text)).filter(|bytes| *bytes > 0)
}

fn told(repository: String, snapshot: &Snapshot, total: u64, how: &str) -> Saved {
    let record = &snapshot.record;
    let stats = record.stats;
    let on = record.parent.map_or_else(|| "first snapshot of the volume".to_owned(), |id| format!("based on {id}"));
    let new = stats.known + stats.new;
    // What the session before had stored is there already: its bytes are in none of these but what has changed.
    let resumed = match record.resumed {
        true => ", went on after an interruption (stored: since then)",
        false => "",
    };
    // Also of one that was committed before: its tags say it.
    let live = match record.tags.get(labels::CONSISTENCY).is_some_and(|is| is == labels::LIVE) {
        true => "; read live, without a snapshot: crash-consistent at best, and only if nothing was written meanwhile",
        false => "",
    };
    Saved {
        snapshot_id: SnapshotId { repository, session: snapshot.id.to_string(), volume: record.name.clone() }
            .to_string(),
        total,
        incremental: new,
        message: format!(
            "{on}: read {}, changed {}, stored {}; {how}{resumed}{live}",
            size(stats.read),
            size(new),
            size(stats.stored)
        ),
    }
}

/// What is read, in the record of the snapshot.
fn of_what(plan: &UploadPlan) -> String {
    match &plan.local {
        Some(local) => format!("live, {}", local.path),
        None => plan.snapshot_handle.clone(),
    }
}

/// Whose the snapshot is.
fn tags(
    job: &Job<'_>,
    cr: &DataUpload,
    plan: &UploadPlan,
    cluster: &str,
    pvc_uid: &str,
) -> Result<BTreeMap<String, String>> {
    let meta = &cr.metadata;
    let backup = meta.label(names::BACKUP_NAME).unwrap_or_default();
    let mut tags = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            tags.insert(key.to_owned(), value.to_owned());
        }
    };
    add(labels::CLUSTER, cluster);
    add(labels::VELERO_NAMESPACE, &job.agent.around.namespace);
    add(labels::BACKUP, backup);
    add(labels::BACKUP_UID, meta.label(names::BACKUP_UID).unwrap_or_default());
    add(labels::CR_UID, &job.task.uid);
    add(labels::NAMESPACE, &cr.spec.source_namespace);
    add(labels::PVC, &cr.spec.source_pvc);
    add(labels::PVC_UID, pvc_uid);
    add(labels::SNAPSHOT_HANDLE, &plan.snapshot_handle);
    add(labels::DRIVER, &plan.driver);
    add(labels::SNAPSHOT_TIME, &plan.snapshot_time.map(|at| at.to_string()).unwrap_or_default());
    add(labels::VOLUME_HANDLE, plan.source_handle.as_deref().unwrap_or_default());
    if let Some(local) = &plan.local {
        add(labels::CONSISTENCY, labels::LIVE);
        add(labels::LOCAL_PATH, &local.path);
    }
    let uid = meta.label(names::BACKUP_UID).unwrap_or_default();
    // A label may be cut, and then there is no Backup of that name.
    let owner = meta.owner_references.iter().find(|owner| owner.kind == "Backup" && owner.uid == uid);
    let name = owner.map_or(backup, |owner| &owner.name);
    if !name.is_empty() {
        let object = job.agent.around.get(Kind::Backup, name)?.unwrap_or_default();
        add(labels::EXPIRES, object["status"]["expiration"].as_str().unwrap_or_default());
    }
    Ok(tags)
}

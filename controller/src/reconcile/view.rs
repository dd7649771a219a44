//! What is observed of one CR: everything that a decision may rest on.

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use wherry_api::cluster::{Attachment, Claim, Pod, StorageClass, Volume};
use wherry_api::names::AGAIN;
use wherry_api::{
    ByClass, DataDownload, DataUpload, DownloadPlan, KeepBase, Meta, Settings, Time, UploadPlan, VolumeSnapshot,
    VolumeSnapshotContent, WaitForNode, names,
};

/// Settings that decisions rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Values of `spec.datamover` that mean us.
    pub datamovers: Vec<String>,
    /// Accepted for longer is Failed.
    pub prepare: Duration,
    /// Velero waits so long from creation.
    pub item: Duration,
    /// A silent agent is not waited for any longer after a cancel.
    pub cancel: Duration,
    /// Not ready for longer, a node is taken for lost, and an agent whose pod is gone for lost too.
    pub node_lost: Duration,
    /// Image of hosting pods.
    pub hosting_image: String,
    /// Priority class of hosting pods; empty: none.
    pub hosting_priority_class: String,
    /// Secrets with which that image is pulled.
    pub pull_secrets: Vec<String>,
    /// Tolerations of hosting pods.
    pub hosting_tolerations: Vec<Value>,
    /// Labels of nodes on which they may run.
    pub hosting_node_selector: BTreeMap<String, String>,
    /// Their resources.
    pub hosting_resources: Value,
    /// SecurityContextConstraints that hosting pods must get; empty: any.
    pub hosting_scc: String,
    /// Whether storage snapshots are kept, by class of the source PVC.
    pub keep_base: ByClass<KeepBase>,
    /// The class of our PVC, by that of the source; empty: the same.
    pub backup_storage_class: ByClass<String>,
    /// Whether our PVC is read-only, by class of the source.
    pub backup_read_only: ByClass<bool>,
    /// Annotations of our PVC, by class of the source.
    pub backup_annotations: ByClass<BTreeMap<String, String>>,
    /// Whether a restore waits for the node of the target's pod, by class of the target.
    pub wait_for_node: ByClass<WaitForNode>,
}

impl Limits {
    /// The class of the PVC that an upload of a volume of that class makes.
    pub(crate) fn class_for<'a>(&'a self, source: &'a str) -> &'a str {
        Some(self.backup_storage_class.of(source).as_str()).filter(|class| !class.is_empty()).unwrap_or(source)
    }
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            datamovers: settings.datamovers.clone(),
            prepare: settings.prepare_timeout,
            item: settings.item_timeout,
            cancel: settings.cancel_timeout,
            node_lost: settings.node_lost_timeout,
            hosting_image: settings.hosting_image.clone(),
            hosting_priority_class: settings.hosting_priority_class.clone(),
            pull_secrets: settings.pull_secrets.clone(),
            hosting_tolerations: settings.hosting_tolerations.clone(),
            hosting_node_selector: settings.hosting_node_selector.clone(),
            hosting_resources: settings.hosting_resources.clone(),
            hosting_scc: settings.hosting_scc.clone(),
            keep_base: settings.keep_base.clone(),
            backup_storage_class: settings.backup_storage_class.clone(),
            backup_read_only: settings.backup_read_only.clone(),
            backup_annotations: settings.backup_annotations.clone(),
            wait_for_node: settings.wait_for_node.clone(),
        }
    }
}

/// The node on which the pod of the current attempt runs, or ran: somebody may have taken it away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// The Node object is gone, or has the taint out-of-service: nothing runs there any more.
    pub gone: bool,
    /// Not ready since then.
    pub not_ready_since: Option<Time>,
    /// Its agent.
    pub agent: Agent,
}

/// The agent of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agent {
    /// Its pod is ready, or nothing else is known.
    #[default]
    Ready,
    /// Its pod is there and does not answer.
    Silent,
    /// It has no pod on that node since then.
    Gone(Time),
}

impl Host {
    /// Nothing that was begun on the node is waited for any more; a PVC in use there may still be written to.
    pub(super) fn is_lost(&self, now: Time, limit: Duration) -> Option<&'static str> {
        if self.gone {
            return Some("its node is gone");
        }
        if self.not_ready_since.is_some_and(|since| since.after(limit) <= now) {
            return Some("its node is not ready for too long");
        }
        match self.agent {
            Agent::Gone(since) if since.after(limit) <= now => Some("its node has no agent any more"),
            _ => None,
        }
    }

    /// When [`is_lost`](Self::is_lost) may change although nothing else does.
    pub(super) fn lost_at(&self, limit: Duration) -> Option<Time> {
        let agent = match self.agent {
            Agent::Gone(since) => Some(since.after(limit)),
            _ => None,
        };
        [self.not_ready_since.map(|since| since.after(limit)), agent].into_iter().flatten().min()
    }
}

/// All that is observed of one DataUpload.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadView {
    /// The time of this look.
    pub now: Time,
    /// Settings.
    pub limits: Limits,
    /// Admission has let it through; only asked of one that is New.
    pub admitted: bool,
    /// When cancel or deletion was first seen. After a restart that is later than it was: the limit runs anew.
    pub cancel_since: Option<Time>,
    /// The namespace of Velero is being deleted: nothing can be made in it any more.
    pub closed: bool,
    /// The DataUpload.
    pub cr: DataUpload,
    /// There is a plan, and the snapshots were looked at: what is not there of those that it names by uid is gone for good.
    pub snapshots_seen: bool,
    /// The VolumeSnapshot that `spec` names; none if it is gone or held by others alone, or another one of that name than that of the
    /// plan.
    pub first: Option<VolumeSnapshot>,
    /// The content that the plan names, before there is a plan that of the VolumeSnapshot, also when that is gone.
    pub first_content: Option<VolumeSnapshotContent>,
    /// The content that the plan names is not the one that the plan and the DataUpload are of. A plan is an annotation, and not believed:
    /// nothing is done to that content, and the plan counts as one that cannot be read.
    pub doubt: Option<String>,
    /// Our VolumeSnapshot.
    pub pair: Option<VolumeSnapshot>,
    /// Our VolumeSnapshotContent.
    pub pair_content: Option<VolumeSnapshotContent>,
    /// Our PVCs, of every attempt.
    pub claims: Vec<Claim>,
    /// PVs that have our label or are for one of those PVCs, whether it is still there or not.
    pub volumes: Vec<Volume>,
    /// Our pods, of every attempt.
    pub pods: Vec<Pod>,
    /// The live PVC of the source's name; only looked at before there is a plan, and when the upload is Completed and its PVC gone;
    /// of a local volume until it has ended.
    pub source: Option<Claim>,
    /// Its PV; only looked at before there is a plan, and of a local volume until it is Prepared, and while the PV of
    /// the attempt is not there.
    pub source_volume: Option<Volume>,
    /// The driver lists changed blocks; only looked at when the upload is Completed, and where the setting keepBase rests on it.
    pub changed_blocks: bool,
    /// Kept VolumeSnapshots of other uploads of the same source PVC; only looked at when this one is Completed.
    pub bases: Vec<VolumeSnapshot>,
    /// The storage class of our PVC.
    pub class: Option<StorageClass>,
    /// The node of the current attempt.
    pub host: Host,
}

/// All that is observed of one DataDownload.
#[derive(Debug, Clone, PartialEq)]
pub struct DownloadView {
    /// The time of this look.
    pub now: Time,
    /// Settings.
    pub limits: Limits,
    /// Admission has let it through; only asked of one that is New.
    pub admitted: bool,
    /// When cancel or deletion was first seen.
    pub cancel_since: Option<Time>,
    /// The DataDownload.
    pub cr: DataDownload,
    /// The live PVC of that name; may be another one than that of the plan.
    pub target: Option<Claim>,
    /// Our PVCs, of every attempt.
    pub claims: Vec<Claim>,
    /// PVs that have our label, are for one of those PVCs, or are the one that data-done names.
    pub volumes: Vec<Volume>,
    /// Our pods, of every attempt.
    pub pods: Vec<Pod>,
    /// Attachments of those PVs.
    pub attachments: Vec<Attachment>,
    /// The storage class of the target.
    pub class: Option<StorageClass>,
    /// The node of the current attempt.
    pub host: Host,
}

/// Whether PVCs of the class are bound only when a pod uses them.
pub(super) fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Why somebody wants a CR to end; what Velero says of it itself, with `spec.cancel`, is kept. Taken for that is not what an
/// agent said of a try that failed.
fn said(cancel: bool, cr: &Meta, message: &str, datamover: &str, limits: &Limits) -> String {
    let theirs = Some(message).filter(|said| !said.is_empty() && !said.starts_with(AGAIN));
    match (cancel, theirs) {
        (true, Some(theirs)) => theirs.to_owned(),
        (true, None) => "spec.cancel was set".to_owned(),
        (false, _) if cr.is_going() => "the object was deleted".to_owned(),
        (false, _) if limits.disown(datamover) => {
            format!("setting datamovers does not name {datamover:?} any more")
        }
        (false, _) => "it was to end".to_owned(),
    }
}

impl Limits {
    /// Whether a CR is of wherry. One with our finalizer is for removal, whatever the setting says by now.
    pub(crate) fn are_for(&self, datamover: &str, cr: &Meta) -> bool {
        !self.disown(datamover) || cr.has_finalizer(names::FINALIZER)
    }

    /// Whether it was begun, and is nobody's any more by the setting: it is to end.
    pub(crate) fn disown(&self, datamover: &str) -> bool {
        !self.datamovers.iter().any(|ours| ours == datamover)
    }
}

impl UploadView {
    pub(super) fn uid(&self) -> &str {
        &self.cr.metadata.uid
    }

    pub(super) fn plan(&self) -> Result<UploadPlan, wherry_api::plan::PlanError> {
        UploadPlan::parse(self.cr.metadata.annotation(names::PLAN), self.uid())
    }

    /// The same, unless there is [`doubt`](Self::doubt).
    pub(super) fn believed(&self) -> Result<UploadPlan, Option<wherry_api::plan::PlanError>> {
        self.plan().map_err(Some).and_then(|plan| if self.doubt.is_some() { Err(None) } else { Ok(plan) })
    }

    /// Somebody wants it to end.
    pub(crate) fn is_canceled(&self) -> bool {
        let spec = &self.cr.spec;
        spec.cancel || self.cr.metadata.is_going() || self.limits.disown(&spec.datamover)
    }

    /// Why.
    pub(super) fn why_canceled(&self) -> String {
        let (cr, spec) = (&self.cr.metadata, &self.cr.spec);
        said(spec.cancel, cr, &self.cr.status.message, &spec.datamover, &self.limits)
    }
}

impl DownloadView {
    pub(super) fn uid(&self) -> &str {
        &self.cr.metadata.uid
    }

    pub(super) fn plan(&self) -> Result<DownloadPlan, wherry_api::plan::PlanError> {
        DownloadPlan::parse(self.cr.metadata.annotation(names::PLAN), self.uid())
    }

    /// Somebody wants it to end.
    pub(crate) fn is_canceled(&self) -> bool {
        let spec = &self.cr.spec;
        spec.cancel || self.cr.metadata.is_going() || self.limits.disown(&spec.datamover)
    }

    /// Why.
    pub(super) fn why_canceled(&self) -> String {
        let (cr, spec) = (&self.cr.metadata, &self.cr.spec);
        said(spec.cancel, cr, &self.cr.status.message, &spec.datamover, &self.limits)
    }
}

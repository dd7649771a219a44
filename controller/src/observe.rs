//! Looks at everything that a decision about one CR rests on.

use crate::apply::Applied;
use crate::reconcile::{Agent, DownloadView, Host, Limits, Step, UploadView, Write};
use serde::de::DeserializeOwned;
use serde_json::Value;
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal};
use wherry_api::cluster::{Claim, Node, Pod, StorageClass, Volume};
use wherry_api::decode::{Undecodable, decode, decode_all};
use wherry_api::plan::PlanError;
use wherry_api::{
    DataDone, DataDownload, DataUpload, DownloadPlan, KeepBase, Meta, Phase, Time, UploadPlan, VolumeSnapshot,
    VolumeSnapshotContent, names,
};

/// What the controller knows that no object says: it is lost with the process, and limits run anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Admission has let it through.
    pub admitted: bool,
    /// When cancel or deletion was first seen.
    pub cancel_since: Option<Time>,
    /// Since when the node of its pod has had no agent.
    pub agent_gone_since: Option<Time>,
    /// Until then an object may appear that a lost request was to make.
    pub unsure_until: Option<Time>,
    /// Something of the name that was to be made is there, and no list by our label has it: PVCs and pods are looked for by
    /// name, too.
    pub by_name: bool,
    /// The namespace of Velero is being deleted: nothing can be made in it any more.
    pub closed: bool,
}

/// What the server says of a create in a namespace that is being deleted (its admission plugin NamespaceLifecycle).
const TERMINATED: &str = "because it is being terminated";

impl Memory {
    /// Notes why a write was not done.
    pub fn note_refusal(&mut self, error: &ApiError) {
        self.closed |= error.refusal == Refusal::Forbidden && error.message.contains(TERMINATED);
    }

    /// Notes what became of a write.
    pub fn note(&mut self, write: &Write, applied: Applied) {
        self.by_name |= matches!(write, Write::Create { .. }) && applied == Applied::LookAgain;
    }
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A call failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// An object that the decision needs cannot be read.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// The CR itself cannot be read.
    #[error("{reason}")]
    UndecodableCr {
        /// As it is.
        object: Box<Value>,
        /// Which field, and what is wrong with it.
        reason: String,
    },
}

/// All that is observed of one CR.
#[derive(Debug, Clone, PartialEq)]
pub enum View {
    /// Of a DataUpload.
    Upload(Box<UploadView>),
    /// Of a DataDownload.
    Download(Box<DownloadView>),
}

impl View {
    /// What is done next.
    #[must_use]
    pub fn next_step(&self) -> Step {
        match self {
            Self::Upload(view) => view.next_step(),
            Self::Download(view) => view.next_step(),
        }
    }

    /// The server will never take what the next step would make: the CR fails, saying why. `None`: it has ended already.
    #[must_use]
    pub fn refused(&self, message: &str) -> Option<Step> {
        match self {
            Self::Upload(view) => view.refused(message),
            Self::Download(view) => view.refused(message),
        }
    }

    /// The server does not take it now: the CR waits, in phase Accepted no longer than the prepare timeout. `None`: it
    /// waits.
    #[must_use]
    pub fn forbidden(&self, message: &str) -> Option<Step> {
        match self {
            Self::Upload(view) => view.forbidden(message),
            Self::Download(view) => view.forbidden(message),
        }
    }

    /// Notes what no object says, for the next look; a cancel counts from the first look that saw it.
    pub fn remember(&mut self, memory: &mut Memory) {
        let (now, canceled, agent) = match self {
            Self::Upload(view) => (view.now, view.is_canceled(), view.host.agent),
            Self::Download(view) => (view.now, view.is_canceled(), view.host.agent),
        };
        if canceled {
            let since = Some(*memory.cancel_since.get_or_insert(now));
            match self {
                Self::Upload(view) => view.cancel_since = since,
                Self::Download(view) => view.cancel_since = since,
            }
        }
        memory.agent_gone_since = match agent {
            Agent::Gone(since) => Some(since),
            _ => None,
        };
    }
}

/// Looks at the CR of that key, a DataUpload or DataDownload, and at all around it. `None`: it is gone.
pub async fn look<A: Api>(
    api: &A,
    cr: &Key,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<Option<View>, ObserveError> {
    Ok(match cr.kind {
        Kind::DataUpload => {
            upload(api, &cr.namespace, &cr.name, limits, now, memory).await?.map(|view| View::Upload(Box::new(view)))
        }
        _ => download(api, &cr.namespace, &cr.name, limits, now, memory)
            .await?
            .map(|view| View::Download(Box::new(view))),
    })
}

/// Of attempts so many are looked for by name, from the current one down.
const ATTEMPTS: u32 = 3;

/// Whether the CR owns an object.
fn is_owned(object: &Value, cr: &Meta) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == cr.uid.as_str()))
}

struct Looker<'a, A> {
    api: &'a A,
}

impl<A: Api> Looker<'_, A> {
    async fn get<T: DeserializeOwned>(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, ObserveError> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.api.get(&Key::new(kind, namespace, name)).await? {
            Some(object) => Ok(Some(decode(kind.word(), &object)?)),
            None => Ok(None),
        }
    }

    async fn cr<T: DeserializeOwned>(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<T>, ObserveError> {
        let Some(object) = self.api.get(&Key::new(kind, namespace, name)).await? else { return Ok(None) };
        match decode(kind.word(), &object) {
            Ok(cr) => Ok(Some(cr)),
            Err(e) => Err(ObserveError::UndecodableCr { object: Box::new(object), reason: e.to_string() }),
        }
    }

    /// PVCs or pods of all attempts that have our label. `by_name`: as somebody may have taken that off, those that the CR owns
    /// and that have the name of an attempt, too.
    async fn of_attempts<T: DeserializeOwned>(
        &self,
        kind: Kind,
        cr: &Meta,
        by_name: Option<u32>,
    ) -> Result<Vec<T>, ObserveError> {
        let labels = [(names::CR_UID, cr.uid.as_str())];
        let mut objects = self.api.list(kind, &cr.namespace, &labels).await?;
        if let Some(last) = by_name {
            for attempt in (last.saturating_sub(ATTEMPTS - 1).max(1)..=last).rev() {
                let key = Key::new(kind, &cr.namespace, &names::of_attempt(&cr.uid, attempt));
                if objects.iter().any(|object| object["metadata"]["name"] == key.name.as_str()) {
                    continue;
                }
                objects.extend(self.api.get(&key).await?.filter(|object| is_owned(object, cr)));
            }
        }
        objects.iter().map(|object| Ok(decode(kind.word(), object)?)).collect()
    }

    /// PVs with our label, for a PVC of ours, or of that name. PVs that cannot be read are nobody's of ours.
    async fn volumes(&self, cr: &Meta, named: &str) -> Result<Vec<Volume>, ObserveError> {
        let objects: Vec<Value> = self.api.list(Kind::Volume, "", &[]).await?;
        let (all, _): (Vec<Volume>, _) = decode_all(Kind::Volume.word(), &objects);
        let is_ours = |volume: &Volume| {
            let claim = volume.spec.claim_ref.as_ref();
            volume.metadata.label(names::CR_UID) == Some(cr.uid.as_str())
                || (!named.is_empty() && volume.metadata.name == named)
                || claim
                    .is_some_and(|claim| claim.namespace == cr.namespace && names::is_of_attempt(&claim.name, &cr.uid))
        };
        Ok(all.into_iter().filter(is_ours).collect())
    }

    /// The first content, found by our label alone: where the plan cannot be read.
    async fn kept_content(&self, cr: &Meta) -> Result<Option<VolumeSnapshotContent>, ObserveError> {
        let objects = self.api.list(Kind::VolumeSnapshotContent, "", &[(names::CR_UID, cr.uid.as_str())]).await?;
        let (all, _) = decode_all::<VolumeSnapshotContent>(Kind::VolumeSnapshotContent.word(), &objects);
        let ours = names::object(&cr.uid);
        Ok(all.into_iter().find(|content| content.metadata.name != ours))
    }

    /// The content of a VolumeSnapshot that is gone, found by what it says it is of: a class of policy Retain keeps it, and with
    /// it the storage snapshot, when the namespace of the source goes.
    async fn orphaned_content(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<VolumeSnapshotContent>, ObserveError> {
        if name.is_empty() {
            return Ok(None);
        }
        let objects = self.api.list(Kind::VolumeSnapshotContent, "", &[]).await?;
        let (all, _) = decode_all::<VolumeSnapshotContent>(Kind::VolumeSnapshotContent.word(), &objects);
        let of = |content: &VolumeSnapshotContent| {
            let of = &content.spec.volume_snapshot_ref;
            // One that was never bound stands for nothing that a driver made for it.
            of.namespace == namespace && of.name == name && !of.uid.is_empty()
        };
        Ok(all.into_iter().find(of))
    }

    /// Kept VolumeSnapshots of that source PVC, but for that of the CR. One that cannot be read is nobody's of ours.
    async fn bases(&self, cr: &Meta, pvc_uid: &str) -> Result<Vec<VolumeSnapshot>, ObserveError> {
        let objects = self.api.list(Kind::VolumeSnapshot, &cr.namespace, &[(names::BASE, pvc_uid)]).await?;
        let (mut all, _) = decode_all::<VolumeSnapshot>(Kind::VolumeSnapshot.word(), &objects);
        all.retain(|snapshot| snapshot.metadata.name != names::object(&cr.uid));
        Ok(all)
    }

    async fn host(
        &self,
        cr: &Meta,
        attempt: Option<u32>,
        pods: &[Pod],
        memory: Memory,
        now: Time,
    ) -> Result<Host, ObserveError> {
        let name = attempt.map(|attempt| names::of_attempt(&cr.uid, attempt));
        let pod = pods.iter().find(|pod| Some(&pod.metadata.name) == name.as_ref() && !pod.spec.node_name.is_empty());
        let Some(pod) = pod else { return Ok(Host::default()) };
        let node_name = pod.spec.node_name.as_str();
        let node: Option<Node> = self.get(Kind::Node, "", node_name).await?;
        let Some(node) = node else { return Ok(Host { gone: true, ..Host::default() }) };
        let ready = node.status.conditions.iter().find(|condition| condition.kind == "Ready");
        let agents = self.api.list(Kind::Pod, &cr.namespace, &[(names::AGENT_LABEL, "true")]).await?;
        let (agents, _): (Vec<Pod>, _) = decode_all(Kind::Pod.word(), &agents);
        let agent = match agents.iter().find(|agent| agent.spec.node_name == node_name) {
            None => Agent::Gone(memory.agent_gone_since.unwrap_or(now)),
            Some(agent) => match agent.status.conditions.iter().find(|condition| condition.kind == "Ready") {
                Some(condition) if condition.status != "True" => Agent::Silent,
                _ => Agent::Ready,
            },
        };
        Ok(Host {
            gone: node.spec.taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service"),
            not_ready_since: ready.filter(|c| c.status != "True").and_then(|c| c.last_transition_time),
            agent,
        })
    }
}

/// Whether the driver lists changed blocks: it has a SnapshotMetadataService, of either version that there is.
///
/// # Errors
/// Those of the API. Where this account may not look, the driver lists none: what rests on it is speed alone.
pub async fn lists_changed_blocks<A: Api>(api: &A, driver: &str) -> Result<bool, ApiError> {
    let look = async || {
        // A kind that is not served is a path without an answer: this says which versions are.
        let definition =
            api.get(&Key::new(Kind::CustomResource, "", names::METADATA_SERVICES)).await?.unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
        let is_served = |kind: Kind| versions.iter().any(|one| one["name"] == kind.names().1 && one["served"] == true);
        match [Kind::MetadataServiceBeta, Kind::MetadataServiceAlpha].into_iter().find(|kind| is_served(*kind)) {
            Some(kind) => Ok(api.get(&Key::new(kind, "", driver)).await?.is_some()),
            None => Ok::<_, ApiError>(false),
        }
    };
    match look().await {
        Err(e) if e.refusal == Refusal::Forbidden => {
            tracing::warn!(
                "{e}: taken for a driver that lists no changed blocks; apply the rights of controller/deploy"
            );
            Ok(false)
        }
        answer => answer,
    }
}

/// Looks at one DataUpload and all around it. `None`: it is gone.
pub async fn upload<A: Api>(
    api: &A,
    namespace: &str,
    name: &str,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<Option<UploadView>, ObserveError> {
    match (Looker { api }).cr::<DataUpload>(Kind::DataUpload, namespace, name).await? {
        Some(cr) => upload_of(api, cr, limits, now, memory).await.map(Some),
        None => Ok(None),
    }
}

/// Looks at all around a DataUpload.
pub(crate) async fn upload_of<A: Api>(
    api: &A,
    cr: DataUpload,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<UploadView, ObserveError> {
    let look = Looker { api };
    let ours = names::object(&cr.metadata.uid);
    let pair_content: Option<VolumeSnapshotContent> = look.get(Kind::VolumeSnapshotContent, "", &ours).await?;
    let plan = UploadPlan::parse(cr.metadata.annotation(names::PLAN), &cr.metadata.uid);
    let unreadable = matches!(&plan, Err(e) if !matches!(e, PlanError::Missing(_)));
    let plan = plan.ok();
    let kept = if unreadable { look.kept_content(&cr.metadata).await? } else { None };
    let csi = cr.spec.csi_snapshot.clone().unwrap_or_default();
    let from = cr.spec.source_namespace.as_str();
    let first: Option<VolumeSnapshot> = look.get(Kind::VolumeSnapshot, from, &csi.volume_snapshot).await?;
    let first = first.filter(|first| match (&plan, &kept) {
        (Some(plan), _) => plan.snapshot_uid == first.metadata.uid,
        (None, Some(kept)) => kept.spec.volume_snapshot_ref.uid == first.metadata.uid,
        // The takeover is done, so this is another one of that name.
        (None, None) => !unreadable || pair_content.is_none(),
    });
    let first_content = match &plan {
        _ if kept.is_some() => kept,
        Some(plan) => {
            let content: Option<VolumeSnapshotContent> =
                look.get(Kind::VolumeSnapshotContent, "", &plan.content).await?;
            content.filter(|content| content.metadata.uid == plan.content_uid)
        }
        // A plan that cannot be read is found by its label, above: by name it may be another one since.
        None if first.is_none() && !unreadable => look.orphaned_content(from, &csi.volume_snapshot).await?,
        None => {
            let bound = first.as_ref().map_or("", |first| first.status.bound_volume_snapshot_content_name.as_str());
            let content: Option<VolumeSnapshotContent> = look.get(Kind::VolumeSnapshotContent, "", bound).await?;
            // Only the one that is bound to it, too: a static VolumeSnapshot can name any.
            content.filter(|content| {
                Some(content.spec.volume_snapshot_ref.uid.as_str()) == first.as_ref().map(|f| f.metadata.uid.as_str())
            })
        }
    };
    // What removal does not find is left behind.
    let by_name = memory.by_name || cr.status.phase.is_terminal();
    let by_name = by_name.then(|| plan.as_ref().map_or(1, |plan| plan.attempt));
    let pods: Vec<Pod> = look.of_attempts(Kind::Pod, &cr.metadata, by_name).await?;
    let claims: Vec<Claim> = look.of_attempts(Kind::Claim, &cr.metadata, by_name).await?;
    let ended = cr.status.phase == Phase::Completed && cr.metadata.has_finalizer(names::FINALIZER);
    let settles = ended && pods.is_empty() && claims.is_empty();
    // Settings may have changed since it was made.
    let made = claims.iter().find_map(|claim| claim.spec.storage_class_name.as_deref());
    let class_name = made.unwrap_or_else(|| limits.class_for(&csi.storage_class)).to_owned();
    let (mut changed_blocks, mut bases) = (false, Vec::new());
    let (source, source_volume) = match &plan {
        Some(plan) if settles && plan.source_uid.is_some() => {
            bases = look.bases(&cr.metadata, plan.source_uid.as_deref().unwrap_or_default()).await?;
            if *limits.keep_base.of(&plan.storage_class) == KeepBase::Auto {
                changed_blocks = lists_changed_blocks(api, &plan.driver).await?;
            }
            (look.get::<Claim>(Kind::Claim, from, &cr.spec.source_pvc).await?, None)
        }
        Some(_) => (None, None),
        None => {
            let source: Option<Claim> = look.get(Kind::Claim, from, &cr.spec.source_pvc).await?;
            let name = source.as_ref().map_or("", |source| source.spec.volume_name.as_str());
            let volume = look.get(Kind::Volume, "", name).await?;
            (source, volume)
        }
    };
    Ok(UploadView {
        now,
        limits: limits.clone(),
        admitted: memory.admitted,
        cancel_since: memory.cancel_since,
        closed: memory.closed,
        pair: look.get(Kind::VolumeSnapshot, &cr.metadata.namespace, &ours).await?,
        pair_content,
        claims,
        volumes: look.volumes(&cr.metadata, "").await?,
        changed_blocks,
        bases,
        class: look.get::<StorageClass>(Kind::StorageClass, "", &class_name).await?,
        host: look.host(&cr.metadata, plan.as_ref().map(|plan| plan.attempt), &pods, memory, now).await?,
        first,
        first_content,
        pods,
        source,
        source_volume,
        cr,
    })
}

/// Looks at one DataDownload and all around it. `None`: it is gone.
pub async fn download<A: Api>(
    api: &A,
    namespace: &str,
    name: &str,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<Option<DownloadView>, ObserveError> {
    match (Looker { api }).cr::<DataDownload>(Kind::DataDownload, namespace, name).await? {
        Some(cr) => download_of(api, cr, limits, now, memory).await.map(Some),
        None => Ok(None),
    }
}

/// Looks at all around a DataDownload.
pub(crate) async fn download_of<A: Api>(
    api: &A,
    cr: DataDownload,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<DownloadView, ObserveError> {
    let look = Looker { api };
    let plan = DownloadPlan::parse(cr.metadata.annotation(names::PLAN), &cr.metadata.uid).ok();
    let done = DataDone::parse(cr.metadata.annotation(names::DATA_DONE), &cr.metadata.uid).ok();
    let to = &cr.spec.target_volume;
    let target: Option<Claim> = look.get(Kind::Claim, &to.namespace, &to.pvc).await?;
    let class_name = target.as_ref().and_then(|target| target.spec.storage_class_name.clone()).unwrap_or_default();
    // A PVC that is not found counts as deleted once the volume is written, and what removal does not find is left behind.
    let by_name = memory.by_name || done.is_some() || cr.status.phase.is_terminal();
    let by_name = by_name.then(|| plan.as_ref().map_or(1, |plan| plan.attempt));
    let pods: Vec<Pod> = look.of_attempts(Kind::Pod, &cr.metadata, by_name).await?;
    let volumes = look.volumes(&cr.metadata, done.as_ref().map_or("", |done| done.volume.as_str())).await?;
    let (attachments, _) = decode_all::<wherry_api::cluster::Attachment>(
        Kind::Attachment.word(),
        &api.list(Kind::Attachment, "", &[]).await?,
    );
    let of_ours = |name: &str| volumes.iter().any(|volume| volume.metadata.name == name);
    Ok(DownloadView {
        now,
        limits: limits.clone(),
        admitted: memory.admitted,
        cancel_since: memory.cancel_since,
        target,
        claims: look.of_attempts(Kind::Claim, &cr.metadata, by_name).await?,
        attachments: attachments.into_iter().filter(|a| of_ours(&a.spec.source.persistent_volume_name)).collect(),
        class: look.get::<StorageClass>(Kind::StorageClass, "", &class_name).await?,
        host: look.host(&cr.metadata, plan.as_ref().map(|plan| plan.attempt), &pods, memory, now).await?,
        volumes,
        pods,
        cr,
    })
}

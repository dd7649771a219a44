//! Looks at everything that a decision about one CR rests on.

use crate::host::{current_node, host};
pub use crate::memory::Memory;
use crate::reconcile::{Action, Agent, DownloadView, Host, Limits, Step, UploadView, doubt, is_let_go};
use serde::de::DeserializeOwned;
use serde_json::Value;
use wherry_api::api::{Api, ApiError, Key, Kind, Refusal};
use wherry_api::cluster::{Claim, Pod, StorageClass, Volume};
use wherry_api::decode::{Undecodable, decode, decode_all};
use wherry_api::plan::PlanError;
use wherry_api::{
    DataDone, DataDownload, DataUpload, DownloadPlan, KeepBase, Meta, Phase, Time, UploadPlan, VolumeSnapshot,
    VolumeSnapshotContent, names,
};

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

    /// The volume is being exposed: no agent has begun.
    pub(crate) fn is_accepted(&self) -> bool {
        let phase = match self {
            Self::Upload(view) => &view.cr.status.phase,
            Self::Download(view) => &view.cr.status.phase,
        };
        *phase == Phase::Accepted
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
        if let Self::Upload(view) = self
            && view.snapshots_seen
        {
            // Of one that is remembered as gone nobody is asked, so that it stays so; else this is what a look at it said.
            memory.first_gone = view.first.is_none();
            memory.first_content_gone = view.first_content.is_none();
        }
        memory.agent_gone_since = match agent {
            Agent::Gone(since) => Some(since),
            _ => None,
        };
    }
}

/// How far PVs are looked for: a cluster may have thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Those that our PVCs and data-done name, and of a CR that has ended those with our label.
    Named,
    /// All of the cluster: one whose PVC went while it was being provisioned is found by its claimRef alone.
    Whole,
}

impl View {
    /// It is New: not accepted yet.
    pub(crate) fn is_new(&self) -> bool {
        match self {
            Self::Upload(view) => view.cr.status.phase == Phase::New,
            Self::Download(view) => view.cr.status.phase == Phase::New,
        }
    }

    /// An agent may have begun with it.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Upload(view) => !view.cr.status.node.is_empty(),
            Self::Download(view) => !view.cr.status.node.is_empty(),
        }
    }

    /// It is Completed, Failed or Canceled.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Upload(view) => view.cr.status.phase.is_terminal(),
            Self::Download(view) => view.cr.status.phase.is_terminal(),
        }
    }

    /// What comes next rests on there being no other PV of ours: the CR is let go, or waits and may wait for just that one, as
    /// a driver that keeps a snapshot while a volume made from it is there.
    fn needs_whole(&self) -> bool {
        let left = match self {
            Self::Upload(view) => !view.pods.is_empty() || !view.claims.is_empty() || !view.volumes.is_empty(),
            Self::Download(view) => !view.pods.is_empty() || !view.claims.is_empty(),
        };
        match self.next_step() {
            Step::Do(Action::Release | Action::Complete, _) => true,
            Step::Wait { .. } => self.has_ended() && !left,
            _ => false,
        }
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
    let (look, namespace, name) = (Looker { api }, cr.namespace.as_str(), cr.name.as_str());
    Ok(match cr.kind {
        Kind::DataUpload => match look.cr::<DataUpload>(cr.kind, namespace, name).await? {
            Some(cr) => Some(upload_of(api, cr, limits, now, memory).await?),
            None => None,
        },
        _ => match look.cr::<DataDownload>(cr.kind, namespace, name).await? {
            Some(cr) => Some(download_of(api, cr, limits, now, memory).await?),
            None => None,
        },
    })
}

/// Looks at all around a DataUpload, as far as the next step rests on it.
pub(crate) async fn upload_of<A: Api>(
    api: &A,
    cr: DataUpload,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<View, ObserveError> {
    let look = async |reach| {
        upload_within(api, cr.clone(), limits, now, memory, reach).await.map(|view| View::Upload(Box::new(view)))
    };
    match look(Reach::Named).await? {
        view if view.needs_whole() => look(Reach::Whole).await,
        view => Ok(view),
    }
}

/// Looks at all around a DataDownload, as far as the next step rests on it.
pub(crate) async fn download_of<A: Api>(
    api: &A,
    cr: DataDownload,
    limits: &Limits,
    now: Time,
    memory: Memory,
) -> Result<View, ObserveError> {
    let look = async |reach| {
        download_within(api, cr.clone(), limits, now, memory, reach).await.map(|view| View::Download(Box::new(view)))
    };
    match look(Reach::Named).await? {
        view if view.needs_whole() => look(Reach::Whole).await,
        view => Ok(view),
    }
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
    async fn volumes(
        &self,
        cr: &Meta,
        named: &str,
        claims: &[Claim],
        ended: bool,
        reach: Reach,
    ) -> Result<Vec<Volume>, ObserveError> {
        let is_ours = |object: &Value| {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            object["metadata"]["labels"][names::CR_UID] == cr.uid.as_str()
                || (!named.is_empty() && text("/metadata/name") == named)
                || (text("/spec/claimRef/namespace") == cr.namespace
                    && names::is_of_attempt(text("/spec/claimRef/name"), &cr.uid))
        };
        let objects = match reach {
            Reach::Whole => self.api.list_where(Kind::Volume, "", is_ours).await?,
            Reach::Named => {
                let mut objects = match ended {
                    true => self.api.list(Kind::Volume, "", &[(names::CR_UID, cr.uid.as_str())]).await?,
                    false => Vec::new(),
                };
                let of_claims = claims.iter().map(|claim| claim.spec.volume_name.as_str());
                for name in of_claims.chain([named]).filter(|name| !name.is_empty()) {
                    if objects.iter().all(|object| object["metadata"]["name"] != name) {
                        objects.extend(self.api.get(&Key::new(Kind::Volume, "", name)).await?);
                    }
                }
                // A PVC may name one that is not for it.
                objects.retain(is_ours);
                objects
            }
        };
        Ok(decode_all(Kind::Volume.word(), &objects).0)
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
        let named = |object: &Value| {
            let of = &object["spec"]["volumeSnapshotRef"];
            of["namespace"] == namespace && of["name"] == name
        };
        let objects = self.api.list_where(Kind::VolumeSnapshotContent, "", named).await?;
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

async fn upload_within<A: Api>(
    api: &A,
    cr: DataUpload,
    limits: &Limits,
    now: Time,
    memory: Memory,
    reach: Reach,
) -> Result<UploadView, ObserveError> {
    let look = Looker { api };
    let plan = UploadPlan::parse(cr.metadata.annotation(names::PLAN), &cr.metadata.uid);
    let mut view = UploadView {
        now,
        limits: limits.clone(),
        admitted: memory.admitted,
        cancel_since: memory.cancel_since,
        closed: memory.closed,
        cr,
        snapshots_seen: false,
        first: None,
        first_content: None,
        doubt: None,
        pair: None,
        pair_content: None,
        claims: Vec::new(),
        volumes: Vec::new(),
        pods: Vec::new(),
        source: None,
        source_volume: None,
        changed_blocks: false,
        bases: Vec::new(),
        class: None,
        host: Host::default(),
    };
    // Only what the next step rests on is asked for.
    let (cr, ended) = (&view.cr, view.cr.status.phase.is_terminal());
    if !cr.metadata.has_finalizer(names::FINALIZER) || (!ended && view.is_canceled()) {
        return Ok(view);
    }
    // What removal does not find is left behind.
    let by_name = (memory.by_name || ended).then(|| plan.as_ref().map_or(1, |plan| plan.attempt));
    view.pods = look.of_attempts(Kind::Pod, &cr.metadata, by_name).await?;
    if ended && !view.pods.is_empty() {
        return Ok(view);
    }
    view.claims = look.of_attempts(Kind::Claim, &cr.metadata, by_name).await?;
    view.volumes = look.volumes(&cr.metadata, "", &view.claims, ended, reach).await?;
    let csi = cr.spec.csi_snapshot.clone().unwrap_or_default();
    if ended {
        if !view.claims.is_empty() || !view.volumes.is_empty() {
            return Ok(view);
        }
    } else if let Ok(plan) = &plan {
        let current = names::of_attempt(&cr.metadata.uid, plan.attempt);
        let claim = view.claims.iter().find(|claim| claim.metadata.name == current);
        if let Some(claim) = claim.filter(|claim| claim.spec.volume_name.is_empty()) {
            // Settings may have changed since it was made.
            let made = claim.spec.storage_class_name.as_deref();
            let class = made.unwrap_or_else(|| limits.class_for(&csi.storage_class));
            view.class = look.get::<StorageClass>(Kind::StorageClass, "", class).await?;
        }
        let node = current_node(&current, &view.pods, &cr.status.node);
        view.host = host(api, &cr.metadata.namespace, node, memory, now).await?;
        if view.is_settled(plan) && plan.local.is_none() {
            return Ok(view);
        }
    }
    let of_plan = plan.as_ref().ok().map(UploadPlan::snapshot_type);
    if of_plan.unwrap_or(cr.spec.snapshot_type.as_str()) == names::LOCAL {
        // There are no snapshots of it; what is read is the source itself.
        if !ended {
            view.source = look.get(Kind::Claim, &cr.spec.source_namespace, &cr.spec.source_pvc).await?;
            let name = view.source.as_ref().map_or("", |source| source.spec.volume_name.as_str());
            // Where the PV of the attempt is still to be made, that rests on what the source's says.
            let current = plan.as_ref().ok().map(|plan| names::of_attempt(&cr.metadata.uid, plan.attempt));
            let is_made = view.volumes.iter().any(|volume| Some(&volume.metadata.name) == current.as_ref());
            if matches!(cr.status.phase, Phase::New | Phase::Accepted) || !is_made {
                view.source_volume = look.get(Kind::Volume, "", name).await?;
            }
        }
        return Ok(view);
    }
    let ours = names::object(&cr.metadata.uid);
    // Before there is a plan there is no pair: once there is one, it is looked at.
    let may_have_pair = ended || !matches!(plan, Err(PlanError::Missing(_)));
    let pair_name = if may_have_pair { ours.as_str() } else { "" };
    let pair_content: Option<VolumeSnapshotContent> = look.get(Kind::VolumeSnapshotContent, "", pair_name).await?;
    let content_name =
        plan.as_ref().ok().filter(|_| !memory.first_content_gone).map_or("", |plan| plan.content.as_str());
    let named: Option<VolumeSnapshotContent> = look.get(Kind::VolumeSnapshotContent, "", content_name).await?;
    let named = named.filter(|content| plan.as_ref().is_ok_and(|plan| content.metadata.uid == plan.content_uid));
    let doubt = plan.as_ref().ok().zip(named.as_ref()).and_then(|(plan, content)| doubt(cr, plan, content));
    let unreadable = doubt.is_some() || matches!(&plan, Err(e) if !matches!(e, PlanError::Missing(_)));
    let plan = plan.ok().filter(|_| doubt.is_none());
    let kept = if unreadable { look.kept_content(&cr.metadata).await? } else { None };
    let from = cr.spec.source_namespace.as_str();
    let first_name = if memory.first_gone && plan.is_some() { "" } else { csi.volume_snapshot.as_str() };
    let first: Option<VolumeSnapshot> = look.get(Kind::VolumeSnapshot, from, first_name).await?;
    let first = first.filter(|first| !is_let_go(first)).filter(|first| match (&plan, &kept) {
        (Some(plan), _) => plan.snapshot_uid == first.metadata.uid,
        (None, Some(kept)) => kept.spec.volume_snapshot_ref.uid == first.metadata.uid,
        // The takeover is done, so this is another one of that name.
        (None, None) => !unreadable || pair_content.is_none(),
    });
    let first_content = match &plan {
        _ if kept.is_some() => kept,
        Some(_) => named,
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
    let pair: Option<VolumeSnapshot> = look.get(Kind::VolumeSnapshot, &cr.metadata.namespace, pair_name).await?;
    match &plan {
        Some(plan) if cr.status.phase == Phase::Completed && plan.source_uid.is_some() => {
            view.bases = look.bases(&cr.metadata, plan.source_uid.as_deref().unwrap_or_default()).await?;
            if *limits.keep_base.of(&plan.storage_class) == KeepBase::Auto {
                view.changed_blocks = lists_changed_blocks(api, &plan.driver).await?;
            }
            view.source = look.get(Kind::Claim, from, &cr.spec.source_pvc).await?;
        }
        None if !ended => {
            view.source = look.get(Kind::Claim, from, &cr.spec.source_pvc).await?;
            let name = view.source.as_ref().map_or("", |source| source.spec.volume_name.as_str());
            view.source_volume = look.get(Kind::Volume, "", name).await?;
        }
        _ => {}
    }
    let snapshots_seen = plan.is_some();
    Ok(UploadView { snapshots_seen, first, first_content, doubt, pair, pair_content, ..view })
}

async fn download_within<A: Api>(
    api: &A,
    cr: DataDownload,
    limits: &Limits,
    now: Time,
    memory: Memory,
    reach: Reach,
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
    let claims: Vec<Claim> = look.of_attempts(Kind::Claim, &cr.metadata, by_name).await?;
    let named = done.as_ref().map_or("", |done| done.volume.as_str());
    let volumes = look.volumes(&cr.metadata, named, &claims, cr.status.phase.is_terminal(), reach).await?;
    // They are asked about only once the volume is written and its pod is gone.
    let pod = plan.as_ref().map(|plan| names::of_attempt(&cr.metadata.uid, plan.attempt));
    let given = |volume: &Volume| {
        let of = |claim: &Claim| volume.spec.claim_ref.as_ref().is_some_and(|of| of.uid == claim.metadata.uid);
        volume.metadata.name == named && target.as_ref().is_some_and(of)
    };
    let may_be_attached = done.is_some()
        && pods.iter().all(|one| Some(&one.metadata.name) != pod.as_ref())
        // It has been let go before it was given to the target, whose own pod may have it by now.
        && !volumes.iter().any(given);
    let attachments = if may_be_attached {
        let of_ours = |object: &Value| {
            let name = object.pointer("/spec/source/persistentVolumeName").and_then(Value::as_str);
            name.is_some_and(|name| volumes.iter().any(|volume| volume.metadata.name == name))
        };
        api.list_where(Kind::Attachment, "", of_ours).await?
    } else {
        Vec::new()
    };
    let (attachments, _) = decode_all::<wherry_api::cluster::Attachment>(Kind::Attachment.word(), &attachments);
    // Once the volume is written, nothing rests on where that was.
    let is_written = done.as_ref().zip(plan.as_ref()).is_some_and(|(done, plan)| done.attempt == plan.attempt);
    let said = if is_written || cr.status.phase.is_terminal() { "" } else { &cr.status.node };
    let node = pod.as_ref().map_or("", |pod| current_node(pod, &pods, said));
    let host = host(api, &cr.metadata.namespace, node, memory, now).await?;
    Ok(DownloadView {
        now,
        limits: limits.clone(),
        admitted: memory.admitted,
        cancel_since: memory.cancel_since,
        target,
        claims,
        attachments,
        class: look.get::<StorageClass>(Kind::StorageClass, "", &class_name).await?,
        host,
        volumes,
        pods,
        cr,
    })
}

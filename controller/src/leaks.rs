//! What nobody removes any more: our objects whose CR is gone, or has ended and let go of them. It is finished or removed by the
//! very decisions that removal makes, for a CR made up of the uid that their label says, with a plan that cannot be read.

use crate::apply::{Applied, apply};
use crate::observe::{self, Memory, ObserveError};
use crate::reconcile::{Action, Limits, Step};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wherry_api::api::{Api, ApiError, Key, Kind};
use wherry_api::cluster::BOUND_BY_CONTROLLER;
use wherry_api::download::DataDownloadSpec;
use wherry_api::upload::{CsiSnapshot, DataUploadSpec};
use wherry_api::watch::key_of;
use wherry_api::{DataDownload, DataUpload, Meta, Phase, Time, names};

/// Writes for one CR in one sweep.
const STEPS: usize = 30;
/// What is made for CRs, and what is marked.
const KINDS: [Kind; 5] = [Kind::Pod, Kind::Claim, Kind::VolumeSnapshot, Kind::VolumeSnapshotContent, Kind::Volume];

/// What a sweep came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Writes that were made.
    pub writes: usize,
    /// What is left: it waits for somebody else.
    pub left: Vec<Key>,
}

/// Removes what nobody owns any more in a namespace of Velero, as far as it can be done now.
///
/// # Errors
/// Those of the API; what is left is looked at the next time.
pub async fn leaks<A: Api>(
    api: &A,
    namespace: &str,
    limits: &Limits,
    now: Time,
    may_write: impl Fn() -> Result<(), ApiError>,
) -> Result<Found, ObserveError> {
    let mut found = Found::default();
    let orphaned = orphans(api, namespace).await?;
    if orphaned.is_empty() {
        return Ok(found);
    }
    for (uid, objects) in orphaned {
        tracing::info!(
            "{uid}: its DataUpload or DataDownload is gone, or has ended, and {} objects are left",
            objects.len()
        );
        may_write()?;
        // One that cannot be removed keeps no other from it.
        if let Err(e) = remove(api, namespace, &uid, &objects, limits, now, &may_write, &mut found.writes).await {
            tracing::warn!("{uid}, left over: {e}");
        }
    }
    found.left = orphans(api, namespace).await?.into_values().flat_map(BTreeMap::into_keys).collect();
    Ok(found)
}

/// Removes what was made for one CR, as far as it can be done now.
#[expect(clippy::too_many_arguments, reason = "what a sweep knows, and one CR of it")]
async fn remove<A: Api>(
    api: &A,
    namespace: &str,
    uid: &str,
    objects: &Objects,
    limits: &Limits,
    now: Time,
    may_write: &impl Fn() -> Result<(), ApiError>,
    writes: &mut usize,
) -> Result<(), ObserveError> {
    let datamover = limits.datamovers.first().cloned().unwrap_or_default();
    let kinds: BTreeSet<Kind> = objects.keys().map(|key| key.kind).collect();
    for _ in 0..STEPS {
        let step = match of_upload(&kinds, objects) {
            true => {
                let mut cr = upload(namespace, uid, objects);
                cr.spec.datamover.clone_from(&datamover);
                observe::upload_of(api, cr, limits, now, Memory::default()).await?.next_step()
            }
            false => {
                let mut cr = download(namespace, uid, objects);
                cr.spec.datamover.clone_from(&datamover);
                observe::download_of(api, cr, limits, now, Memory::default()).await?.next_step()
            }
        };
        match step {
            Step::Do(Action::Release | Action::Complete, _) => break,
            Step::Do(action, write) => {
                may_write()?;
                tracing::info!("{uid}, left over: {action}");
                *writes += 1;
                if apply(api, &write).await? == Applied::LookAgain {
                    break;
                }
            }
            Step::Wait { why, .. } => {
                tracing::info!("{uid}, left over: waits: {why}");
                break;
            }
            Step::Ignore | Step::Nothing => break,
        }
    }
    Ok(())
}

type Objects = BTreeMap<Key, Value>;

/// By uid of the CR that they were made for.
async fn orphans<A: Api>(api: &A, namespace: &str) -> Result<BTreeMap<String, Objects>, ApiError> {
    // Those first: a CR that is not there afterwards is gone.
    let mut all: BTreeMap<String, Objects> = BTreeMap::new();
    for kind in KINDS {
        let objects = match kind {
            // One whose PVC went while it was being made has no label. Of a large cluster nearly all are none of ours.
            Kind::Volume => api.list_where(kind, "", |object| cr_of(kind, object, namespace).is_some()).await?,
            _ => api.list(kind, namespace, &[(names::VELERO_NAMESPACE, namespace)]).await?,
        };
        for object in objects {
            if let Some(uid) = cr_of(kind, &object, namespace) {
                if kind == Kind::Volume && is_anothers(api, &object, namespace, &uid).await? {
                    continue;
                }
                all.entry(uid).or_default().insert(key_of(kind, &object), object);
            }
        }
    }
    if all.is_empty() {
        return Ok(all);
    }
    for kind in [Kind::DataUpload, Kind::DataDownload] {
        let of_ours = |cr: &Value| cr["metadata"]["uid"].as_str().is_some_and(|uid| all.contains_key(uid));
        for cr in api.list_where(kind, namespace, of_ours).await? {
            let text = |pointer: &str| cr.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let uid = text("/metadata/uid");
            let held =
                cr["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|f| f == names::FINALIZER));
            if held || !Phase::from(text("/status/phase")).is_terminal() {
                all.remove(uid);
            } else if let Some(objects) = all.get_mut(uid) {
                // Its base needs the CR to be there, and it is. What was listed may be of a moment before the mark.
                let pair = Key::new(Kind::VolumeSnapshot, namespace, &names::object(uid));
                let content = Key::new(Kind::VolumeSnapshotContent, "", &pair.name);
                if objects.contains_key(&pair) || objects.contains_key(&content) {
                    let now = api.get(&pair).await?.unwrap_or_default();
                    if now["metadata"]["labels"][names::BASE].is_string() {
                        objects.remove(&pair);
                        objects.remove(&content);
                    }
                }
            }
        }
    }
    all.retain(|_, objects| !objects.is_empty());
    Ok(all)
}

/// uid of the CR that an object was made for, or marked.
pub(crate) fn cr_of(kind: Kind, object: &Value, namespace: &str) -> Option<String> {
    let labels = &object["metadata"]["labels"];
    if labels[names::VELERO_NAMESPACE] == namespace {
        return labels[names::CR_UID].as_str().map(ToOwned::to_owned);
    }
    let claim = &object["spec"]["claimRef"];
    // One that was there before its PVC was let be.
    let was_there = object["metadata"]["annotations"][BOUND_BY_CONTROLLER].is_string();
    let ours = kind == Kind::Volume && claim["namespace"] == namespace && !was_there;
    names::cr_of_attempt(claim["name"].as_str().filter(|_| ours)?).map(ToOwned::to_owned)
}

/// A PV without our label that a PVC uses which the CR does not own.
async fn is_anothers<A: Api>(api: &A, volume: &Value, namespace: &str, uid: &str) -> Result<bool, ApiError> {
    if volume["metadata"]["labels"][names::CR_UID] == uid {
        return Ok(false);
    }
    let of = &volume["spec"]["claimRef"];
    let key = Key::new(Kind::Claim, namespace, of["name"].as_str().unwrap_or_default());
    let Some(claim) = api.get(&key).await? else { return Ok(false) };
    let owners = claim["metadata"]["ownerReferences"].as_array();
    let owned = owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid));
    Ok(claim["metadata"]["uid"] == of["uid"] && !owned)
}

/// A PV that changed hands is of a download, and so is what has nothing to do with a snapshot.
fn of_upload(kinds: &BTreeSet<Kind>, objects: &Objects) -> bool {
    let given = |object: &Value| object["metadata"]["annotations"][names::TARGET_UID].is_string();
    let snapshot = kinds.contains(&Kind::VolumeSnapshot) || kinds.contains(&Kind::VolumeSnapshotContent);
    snapshot && !objects.values().any(given)
}

fn meta(namespace: &str, uid: &str) -> Meta {
    Meta {
        namespace: namespace.to_owned(),
        uid: uid.to_owned(),
        finalizers: vec![names::FINALIZER.to_owned()],
        // A plan was made, and nobody knows it any more.
        annotations: BTreeMap::from([(names::PLAN.to_owned(), String::new())]),
        ..Meta::default()
    }
}

/// An upload that has ended, of which the first VolumeSnapshot may still be there.
fn upload(namespace: &str, uid: &str, objects: &Objects) -> DataUpload {
    let first =
        objects.iter().find(|(key, _)| key.kind == Kind::VolumeSnapshotContent && key.name != names::object(uid));
    let text = |field: &str| {
        let text = first.and_then(|(_, content)| content["spec"]["volumeSnapshotRef"][field].as_str());
        text.unwrap_or_default().to_owned()
    };
    let csi = CsiSnapshot { volume_snapshot: text("name"), ..CsiSnapshot::default() };
    let mut cr = DataUpload {
        metadata: meta(namespace, uid),
        spec: DataUploadSpec {
            source_namespace: text("namespace"),
            csi_snapshot: Some(csi),
            ..DataUploadSpec::default()
        },
        ..DataUpload::default()
    };
    cr.status.phase = Phase::Canceled;
    cr
}

/// A download that has ended, of which the target may have been given its volume.
fn download(namespace: &str, uid: &str, objects: &Objects) -> DataDownload {
    let given = objects.values().find(|object| {
        let claim = object["spec"]["claimRef"]["name"].as_str().unwrap_or_default();
        object["metadata"]["annotations"][names::TARGET_UID].is_string() && !names::is_of_attempt(claim, uid)
    });
    let text = |field: &str| {
        let text = given.and_then(|volume| volume["spec"]["claimRef"][field].as_str());
        text.unwrap_or_default().to_owned()
    };
    let mut spec = DataDownloadSpec::default();
    (spec.target_volume.namespace, spec.target_volume.pvc) = (text("namespace"), text("name"));
    let mut cr = DataDownload { metadata: meta(namespace, uid), spec, ..DataDownload::default() };
    cr.status.phase = Phase::Canceled;
    cr
}

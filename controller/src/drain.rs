//! `wherry-controller drain`: ends all work, and waits until nothing of it is left. Run before wherry is removed. It pauses,
//! cancels, drops kept bases and deletes Jobs; what was made for CRs is removed by the controller that acts, which has to run
//! meanwhile.

use crate::known::Known;
use crate::lease::NAME as LEASE;
use crate::reconcile::Limits;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, ApiError, Guard, Key, Kind, Refusal, guarded};
use wherry_api::job;
use wherry_api::kube_api::KubeApi;
use wherry_api::names;
use wherry_api::settings::{CONFIG_MAP, Settings};
use wherry_api::watch::key_of;

/// Exit code of the process for [`DrainError::Left`]: of all others the next try may help. The chart's Job knows it.
pub const LEFT: u8 = 3;
/// It looks again after so long.
const AGAIN: Duration = Duration::from_secs(2);
/// What is left is said again after so long.
const SAY: Duration = Duration::from_secs(30);
/// What Velero shows of a CR that was canceled by this.
const MESSAGE: &str = "canceled by wherry-controller drain: wherry is to be removed";
/// Of what is left so many are named.
const NAMED: usize = 20;

/// Why it did not end with nothing left.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The API server did not do something.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Without it nothing can be paused.
    #[error(
        "there is no ConfigMap {CONFIG_MAP} in namespace {0}: make one, with data {{pause: \"true\"}}, so that nothing new is begun"
    )]
    NoSettings(String),
    /// It cannot be read.
    #[error("{0}; mend it first: whose CRs are wherry's is not known")]
    Settings(String),
    /// Time is over.
    #[error("after {} s there is left: {}. {}", .waited.as_secs(), .left.join(", "), .advice)]
    Left {
        /// How long it waited.
        waited: Duration,
        /// What.
        left: Vec<String>,
        /// What to do.
        advice: &'static str,
    },
}

/// How long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Work under way may go on so long before it is canceled.
    pub wait: Duration,
    /// Then so long for all to be gone.
    pub timeout: Duration,
}

/// What there is of ours.
#[derive(Debug, Default)]
struct There {
    /// CRs that have not ended and that nobody has canceled.
    going_on: Vec<(Key, Guard)>,
    /// Jobs, also those that have ended: nobody else would take them away.
    jobs: Vec<(Key, Guard)>,
    /// CRs and objects that hold something still.
    left: Vec<String>,
    /// Kept bases that nobody has dropped yet.
    bases: Vec<(Key, Guard)>,
}

/// Pauses, waits, cancels, and waits until nothing is left; says what it does.
pub async fn drain(api: &KubeApi, namespace: &str, times: Times, say: impl Fn(&str)) -> Result<(), DrainError> {
    let limits = pause(api, namespace).await?;
    say("paused: nothing new is begun until setting pause is \"false\" again");
    let (begin, mut said) = (Instant::now(), None::<Instant>);
    let mut cancels = None;
    loop {
        let there = look(api, namespace, &limits).await?;
        // What is under way and may go on may need them.
        let droppable = there.going_on.is_empty() || begin.elapsed() >= times.wait;
        for (key, guard) in there.bases.iter().filter(|_| droppable) {
            match api.delete(key, guard).await {
                Ok(()) => say(&format!("{key}: dropped, the storage snapshot that was kept for the next backup")),
                Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // One that runs leaves nothing half done: the next one goes on.
        for (key, guard) in there.jobs.iter().filter(|_| droppable) {
            match api.delete(key, guard).await {
                Ok(()) => say(&format!("{key}: deleted")),
                Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if there.left.is_empty() {
            say(
                "nothing of wherry is left but Secret wherry-repository, its ConfigMaps and Lease, and what is in the buckets",
            );
            return Ok(());
        }
        if begin.elapsed() >= times.wait {
            let since = *cancels.get_or_insert_with(Instant::now);
            for (key, guard) in &there.going_on {
                let patch = json!({ "spec": { "cancel": true }, "status": { "message": MESSAGE } });
                match api.patch(key, &guarded(&patch, guard)).await {
                    Ok(_) => say(&format!("{key}: canceled")),
                    // Changed meanwhile: looked at again.
                    Err(e) if matches!(e.refusal, Refusal::Conflict | Refusal::NotFound) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            if since.elapsed() >= times.timeout {
                return Err(DrainError::Left {
                    waited: begin.elapsed(),
                    left: there.left,
                    advice: advice(api, namespace).await,
                });
            }
        }
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            said = Some(Instant::now());
            say(&format!("waits for {}", there.left.join(", ")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What helps, by whether anybody does the work.
async fn advice(api: &KubeApi, namespace: &str) -> &'static str {
    let lease = api.get(&Key::new(Kind::Lease, namespace, LEASE)).await;
    let holder =
        lease.ok().flatten().map(|lease| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned());
    match holder.as_deref() {
        None | Some("") => {
            "No controller acts, and it is what removes them: start Deployment wherry-controller, and try again"
        }
        Some(_) => "The log of Deployment wherry-controller says what keeps them; try again",
    }
}

async fn pause(api: &KubeApi, namespace: &str) -> Result<Limits, DrainError> {
    let key = Key::new(Kind::ConfigMap, namespace, CONFIG_MAP);
    let map = api.get(&key).await?.ok_or_else(|| DrainError::NoSettings(namespace.to_owned()))?;
    let data: BTreeMap<String, String> = serde_json::from_value(map["data"].clone()).unwrap_or_default();
    // A key that is no setting keeps nobody from uninstalling.
    let read = Settings::lenient(&data);
    let (settings, _) = read
        .map_err(|wrong| DrainError::Settings(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    if !settings.pause {
        api.patch(&key, &json!({ "data": { "pause": "true" } })).await?;
    }
    Ok(Limits::from(&settings))
}

async fn look(api: &KubeApi, namespace: &str, limits: &Limits) -> Result<There, DrainError> {
    let mut there = There::default();
    for kind in [Kind::DataUpload, Kind::DataDownload] {
        let read = |object: Value| Some((key_of(kind, &object), Known::of(kind, object)));
        for (key, known) in api.list_as(kind, namespace, "", read).await?.objects {
            there.add(key, known, limits);
        }
    }
    for kind in [Kind::Pod, Kind::Claim, Kind::VolumeSnapshot] {
        let made = api.list_all(kind, namespace, names::CR_UID).await?.objects;
        there.left.extend(made.iter().map(|object| key_of(kind, object).to_string()));
        there
            .bases
            .extend(made.iter().filter(|object| is_base(object)).map(|object| (key_of(kind, object), guard(object))));
    }
    for kind in [Kind::VolumeSnapshotContent, Kind::Volume] {
        let selector = format!("{},{}={namespace}", names::CR_UID, names::VELERO_NAMESPACE);
        let made = api.list_all(kind, "", &selector).await?.objects;
        there.left.extend(made.iter().map(|object| key_of(kind, object).to_string()));
    }
    for object in api.list_all(Kind::Job, namespace, job::JOB).await?.objects {
        let key = key_of(Kind::Job, &object);
        there.left.push(key.to_string());
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        there.jobs.push((key, Guard { uid: text("uid"), resource_version: text("resourceVersion") }));
    }
    let more = there.left.len().saturating_sub(NAMED);
    if more > 0 {
        there.left.truncate(NAMED);
        there.left.push(format!("{more} more"));
    }
    Ok(there)
}

/// A kept base that nobody has dropped yet.
fn is_base(object: &Value) -> bool {
    let meta = &object["metadata"];
    meta["labels"][names::BASE].is_string() && meta["deletionTimestamp"].is_null()
}

fn guard(object: &Value) -> Guard {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Guard { uid: text("uid"), resource_version: text("resourceVersion") }
}

impl There {
    fn add(&mut self, key: Key, mut known: Known, limits: &Limits) {
        known.judge(limits);
        if !known.ours || known.over {
            return;
        }
        self.left.push(format!("{key} ({})", known.phase.as_str()));
        if !known.phase.is_terminal() && !known.ending {
            self.going_on.push((key, Guard { uid: known.uid, resource_version: known.version }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_canceled_and_what_holds_something_is_waited_for() {
        let limits = Limits::from(&Settings::parse(&BTreeMap::new()).unwrap());
        let seen = |phase: &str, finalizers: &[&str], cancel: bool, datamover: &str| {
            let object = json!({
                "metadata": { "name": "a", "namespace": "v", "uid": "u", "resourceVersion": "7", "finalizers": finalizers },
                "spec": { "datamover": datamover, "cancel": cancel }, "status": { "phase": phase },
            });
            let mut there = There::default();
            there.add(key_of(Kind::DataUpload, &object), Known::of(Kind::DataUpload, object), &limits);
            (there.going_on.len(), there.left.len())
        };
        let ours = limits.datamovers[0].as_str();
        assert_eq!(seen("InProgress", &[names::FINALIZER], false, ours), (1, 1));
        assert_eq!(seen("New", &[], false, ours), (1, 1));
        assert_eq!(seen("InProgress", &[names::FINALIZER], true, ours), (0, 1));
        assert_eq!(seen("Completed", &[names::FINALIZER], false, ours), (0, 1));
        assert_eq!(seen("Completed", &[], false, ours), (0, 0));
        assert_eq!(seen("InProgress", &[], false, "velero"), (0, 0));
        // Begun under a name that the setting does not have any more: the controller cancels it by itself.
        assert_eq!(seen("InProgress", &[names::FINALIZER], false, "earlier"), (0, 1));
    }
}

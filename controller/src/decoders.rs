//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers. Each reads as the crate itself does; what must hold of that is said there.

use crate::jobs;
use crate::jobs::decide::{Job, Location};
use crate::known::Known;
use serde_json::Value;
use wherry_api::api::{Api, ApiError, Kind};
use wherry_api::{BackupStorageLocation, Time};

/// A Job; `None`: it is none of ours.
pub fn job(object: &Value) -> Option<Job> {
    jobs::job_of(object)
}

/// A location, by the ConfigMaps with what is recorded of all.
pub fn location(location: &BackupStorageLocation, repositories: &Value, results: &Value) -> Location {
    jobs::location_of(location, repositories, results)
}

/// Notes Backups that are being deleted in the ConfigMap of those; `true`: there was something to be noted.
///
/// # Errors
/// Those of the API.
pub async fn note_deleting(api: &impl Api, namespace: &str, backups: &[Value], now: Time) -> Result<bool, ApiError> {
    let mut deleting = jobs::deleting::Deleting::default();
    backups.iter().for_each(|backup| deleting.see(backup, now));
    if !deleting.is_due() {
        return Ok(false);
    }
    deleting.write(api, namespace, now).await.map(|()| true)
}

/// Why no node takes a pod.
pub fn unschedulable(pod: &Value) -> Option<String> {
    crate::figures::unschedulable(pod)
}

/// uid of the CR that an object was made for, or marked.
pub fn cr_of(kind: Kind, object: &Value, namespace: &str) -> Option<String> {
    crate::leaks::cr_of(kind, object, namespace)
}

/// Of a CR: whether it can be read, whether it is over, and the print of all that a decision may rest on.
pub fn known(kind: Kind, object: &Value) -> (bool, bool, u64) {
    let known = Known::of(kind, object.clone());
    (known.readable, known.over, known.print)
}

/// Whether nothing is ever done about a CR any more.
pub fn is_over(object: &Value) -> bool {
    Known::is_over(object)
}

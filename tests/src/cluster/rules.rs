//! What the API server refuses, as far as our objects can run into it. `tests/tests/kube/verbs.rs` holds it against a
//! real one.

use serde_json::Value;
use wherry_api::Phase;
use wherry_api::api::Kind;

/// Namespaces that there are.
pub(super) const NAMESPACES: [&str; 2] = ["velero", "app"];

/// Kinds whose status has a path of its own: what is written to it beside the rest is dropped.
pub(super) fn has_status(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::DataUpload | Kind::DataDownload | Kind::StorageClass | Kind::Attachment | Kind::Lease | Kind::ConfigMap
    )
}

/// The object and its status, where that is apart.
pub(super) fn split(kind: Kind, object: &Value) -> (Value, Option<Value>) {
    let mut object = object.clone();
    let status = object.as_object_mut().filter(|_| has_status(kind)).and_then(|fields| fields.remove("status"));
    (object, status.filter(|status| status.as_object().is_some_and(|fields| !fields.is_empty())))
}

/// The finalizer that a new object of the kind gets.
pub(super) fn protection(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Claim => Some("kubernetes.io/pvc-protection"),
        Kind::Volume => Some("kubernetes.io/pv-protection"),
        _ => None,
    }
}

/// The phase that a new object of the kind has.
pub(super) fn first_phase(kind: Kind) -> Option<&'static str> {
    matches!(kind, Kind::Claim | Kind::Volume | Kind::Pod).then_some("Pending")
}

fn finalizers(object: &Value) -> Vec<&Value> {
    object["metadata"]["finalizers"].as_array().map(|all| all.iter().collect()).unwrap_or_default()
}

/// Why an object cannot be made, or become, what it is to be.
pub(super) fn invalid(kind: Kind, before: Option<&Value>, after: &Value) -> Option<&'static str> {
    if let Some(before) = before {
        if before["metadata"]["uid"] != after["metadata"]["uid"] {
            return Some("metadata.uid is immutable");
        }
        let known = finalizers(before);
        if before["metadata"]["deletionTimestamp"].is_string() && finalizers(after).iter().any(|f| !known.contains(f)) {
            return Some("no new finalizers can be added if the object is being deleted");
        }
    }
    match kind {
        Kind::DataUpload | Kind::DataDownload => {
            let phase = after["status"]["phase"].as_str().unwrap_or_default();
            matches!(Phase::from(phase), Phase::Other(_)).then_some("status.phase is not supported")
        }
        Kind::Claim => {
            let of = |object: &Value, field: &str| object["spec"][field].clone();
            let kept = ["accessModes", "volumeMode", "storageClassName", "dataSource", "selector"];
            if let Some(before) = before {
                let bound = of(before, "volumeName");
                let moved = bound.is_string() && bound != of(after, "volumeName");
                let changed = kept.iter().any(|field| of(before, field) != of(after, field));
                return (moved || changed).then_some("spec is immutable after creation");
            }
            let storage = after["spec"]["resources"]["requests"]["storage"].as_str();
            storage.is_none_or(|storage| storage.starts_with('0')).then_some("must be greater than zero")
        }
        Kind::Volume => {
            let source = |object: &Value| object["spec"]["csi"].clone();
            before.is_some_and(|before| source(before) != source(after)).then_some("the source is immutable")
        }
        Kind::Pod => {
            let image = after.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default();
            image.is_empty().then_some("spec.containers[0].image: Required value")
        }
        _ => None,
    }
}

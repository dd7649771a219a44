//! Reading objects as they come from the API server: one that cannot be read must not keep the others away.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object whose fields have not the types they should have. Others of the list go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {namespace}/{name} cannot be read: {reason}")]
pub struct Undecodable {
    /// `kind` of the object, or what was asked for.
    pub kind: String,
    /// Its namespace; empty if it has none or does not say.
    pub namespace: String,
    /// Its name; empty if it does not say.
    pub name: String,
    /// Which field, and what is wrong with it.
    pub reason: String,
}

/// Reads one object. Unknown fields are passed over, missing ones and `null` have their default.
pub fn decode<T: DeserializeOwned>(kind: &str, object: &Value) -> Result<T, Undecodable> {
    serde_path_to_error::deserialize(object).map_err(|e| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Undecodable { kind: kind.to_owned(), namespace: text("namespace"), name: text("name"), reason: e.to_string() }
    })
}

/// Reads a list, each object by itself.
pub fn decode_all<T: DeserializeOwned>(kind: &str, objects: &[Value]) -> (Vec<T>, Vec<Undecodable>) {
    let mut read = Vec::new();
    let mut wrong = Vec::new();
    for object in objects {
        match decode(kind, object) {
            Ok(object) => read.push(object),
            Err(e) => wrong.push(e),
        }
    }
    (read, wrong)
}

/// For `deserialize_with`: `null` is the default. Go writes `null` for empty maps and lists.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDownload, DataUpload, Phase, Time, VolumeSnapshotContent};
    use serde_json::json;

    fn upload() -> Value {
        json!({
            "apiVersion": "velero.io/v2alpha1", "kind": "DataUpload",
            "metadata": { "name": "b-1", "namespace": "velero", "uid": "u1", "resourceVersion": "7",
                "labels": { "velero.io/backup-name": "b" }, "annotations": null, "creationTimestamp": "2026-11-22T18:42:56Z" },
            "spec": { "backupStorageLocation": "default", "datamover": "wherry", "operationTimeout": "10m0s",
                "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "data",
                "csiSnapshot": { "driver": "lab.csi", "snapshotClass": "lab", "storageClass": "lab",
                    "volumeSnapshot": "velero-data-x" } },
            "status": { "progress": {} }
        })
    }

    #[test]
    fn an_upload_as_velero_makes_it() {
        let read: DataUpload = decode("DataUpload", &upload()).unwrap();
        assert_eq!(read.status.phase, Phase::New);
        assert_eq!(read.spec.csi_snapshot.unwrap().volume_snapshot, "velero-data-x");
        assert_eq!((read.spec.source_pvc.as_str(), read.spec.cancel), ("data", false));
        assert_eq!(read.metadata.creation_timestamp, Some("2026-11-22T18:42:56Z".parse::<Time>().unwrap()));
    }

    #[test]
    fn fields_have_veleros_names() {
        let download = json!({
            "metadata": { "name": "r-1", "namespace": "velero", "uid": "u", "resourceVersion": "1",
                "labels": {}, "annotations": {}, "finalizers": [] },
            "spec": { "targetVolume": { "pvc": "p", "namespace": "n" }, "backupStorageLocation": "default",
                "datamover": "wherry", "snapshotID": "wherry1/a/b/c.n.p.u", "sourceNamespace": "n",
                "dataMoverConfig": { "WriteSparseFiles": "false" }, "cancel": true, "operationTimeout": "10m0s",
                "snapshotSize": 10 },
            "status": { "phase": "InProgress", "message": "m", "acceptedTimestamp": "2026-11-22T18:42:56Z",
                "startTimestamp": "2026-11-22T18:42:57Z", "completionTimestamp": null,
                "progress": { "totalBytes": 10, "bytesDone": 3 }, "node": "n1" }
        });
        let read: DataDownload = decode("DataDownload", &download).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), download);
        let upload: DataUpload = decode("DataUpload", &upload()).unwrap();
        let again: DataUpload = decode("DataUpload", &serde_json::to_value(&upload).unwrap()).unwrap();
        assert_eq!(again, upload);
    }

    #[test]
    fn unknown_missing_and_null_fields_do_no_harm() {
        let mut object = upload();
        object["spec"]["parentSnapshot"] = json!("auto");
        object["spec"]["csiSnapshot"] = Value::Null;
        object["status"] = json!({ "phase": "Later", "nodeOS": "linux", "dataMoverResult": null, "progress": null });
        let read: DataUpload = decode("DataUpload", &object).unwrap();
        assert_eq!((read.spec.csi_snapshot, read.status.phase), (None, Phase::Other("Later".to_owned())));
        for empty in [json!({}), json!({ "metadata": null, "spec": null, "status": null })] {
            assert_eq!(decode::<DataUpload>("DataUpload", &empty).unwrap(), DataUpload::default());
            assert!(decode::<VolumeSnapshotContent>("VolumeSnapshotContent", &empty).is_ok());
        }
    }

    #[test]
    fn one_that_cannot_be_read_keeps_no_other_away() {
        let mut bad = upload();
        bad["spec"]["cancel"] = json!("perhaps");
        let list = [bad, upload(), json!(7), json!({ "spec": "none" }), json!({ "status": { "phase": 3 } }), upload()];
        let (read, wrong) = decode_all::<DataUpload>("DataUpload", &list);
        assert_eq!((read.len(), wrong.len()), (2, 4));
        let said = wrong[0].to_string();
        assert!(
            said.starts_with("DataUpload velero/b-1 cannot be read: ")
                && said.contains("spec.cancel: ")
                && said.contains("perhaps"),
            "{said}"
        );
    }
}

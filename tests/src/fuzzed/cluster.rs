//! What stands in a cluster: annotations, results of Jobs, objects of the API and texts within them.

use crate::block_service::base64;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::str::FromStr;
use wherry::decoders as of_wherry;
use wherry_api::cluster::{Attachment, Claim, Node, Pod, StorageClass, Volume};
use wherry_api::decode::decode;
use wherry_api::job::{Collecting, Forgetting, JobKind, JobResult, State};
use wherry_api::quantity::quantity;
use wherry_api::{
    Base, DataDone, DataDownload, DownloadPlan, LocalVolume, Meta, SnapshotId, Time, UploadPlan, names, plan,
};

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("what was read can be written")
}

/// A uid, a line end, an annotation of the object that has it.
pub(super) fn plans(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let (uid, text) = text.split_once('\n').unwrap_or(("", text));
    let is_right = |version: u32, cr_uid: &str| version == plan::VERSION && cr_uid == uid;
    let mut found = false;
    if let Ok(base) = Base::parse(Some(text), uid) {
        found = true;
        assert!(is_right(base.version, &base.cr_uid), "{base:?} is not for {uid:?}");
        assert_eq!(Base::parse(Some(&base.print()), uid), Ok(base));
    }
    if let Ok(plan) = UploadPlan::parse(Some(text), uid) {
        found = true;
        let is_local = plan.version == plan::LOCAL_VERSION && plan.cr_uid == uid;
        assert!(
            if plan.local.is_some() { is_local } else { is_right(plan.version, &plan.cr_uid) },
            "{plan:?}, {uid:?}"
        );
        assert_eq!(UploadPlan::parse(Some(&json(&plan)), uid), Ok(plan));
    }
    if let Ok(plan) = DownloadPlan::parse(Some(text), uid) {
        found = true;
        assert!(is_right(plan.version, &plan.cr_uid), "{plan:?} is not for {uid:?}");
        assert_eq!(DownloadPlan::parse(Some(&json(&plan)), uid), Ok(plan));
    }
    if let Ok(done) = DataDone::parse(Some(text), uid) {
        found = true;
        assert!(is_right(done.version, &done.cr_uid), "{done:?} is not for {uid:?}");
        assert_eq!(DataDone::parse(Some(&json(&done)), uid), Ok(done));
    }
    found
}

pub(super) fn job_result(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(result) = JobResult::parse(text) else { return false };
    assert_eq!(JobResult::parse(&json(&result)).expect("what was written can be read"), result);
    true
}

/// Objects of the API, and texts within them.
pub(super) fn objects(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut found = wherry_api::time::parse_duration(text).is_ok();
    found |= is_quantity(text) | is_base64(text) | is_name(text);
    if let Ok(time) = Time::from_str(text) {
        found = true;
        assert_eq!(Time::from_str(&time.to_string()).ok(), Some(time));
    }
    if let Ok(id) = SnapshotId::from_str(text) {
        found = true;
        assert_eq!(SnapshotId::from_str(&id.to_string()).ok(), Some(id));
    }
    if let Ok(object) = serde_json::from_str(text) {
        found |= again::<wherry_api::DataUpload>("DataUpload", &object);
        found |= again::<wherry_api::DataDownload>("DataDownload", &object);
        found |= again::<wherry_api::VolumeSnapshot>("VolumeSnapshot", &object);
        found |= again::<wherry_api::VolumeSnapshotContent>("VolumeSnapshotContent", &object);
        found |= again::<wherry_api::BackupStorageLocation>("BackupStorageLocation", &object);
        found |= again::<Claim>("PersistentVolumeClaim", &object);
        found |= again::<Volume>("PersistentVolume", &object);
        found |= again::<Pod>("Pod", &object);
        found |= again::<Node>("Node", &object);
        found |= again::<StorageClass>("StorageClass", &object);
        found |= again::<Attachment>("VolumeAttachment", &object);
        as_it_is(&object);
    }
    found
}

/// What is asked of an object as it is says the same as all of it when it is read.
fn as_it_is(object: &Value) {
    let ((unknown, created), uid) = of_wherry::turn(object);
    assert_eq!(unknown, created.is_none(), "one that says when it was made has its turn first");
    if let Ok(Meta { uid: read, creation_timestamp, .. }) = decode("", &object["metadata"]) {
        assert_eq!((created, uid), (creation_timestamp, read));
    }
    let since = of_wherry::since(object);
    assert!(since >= created, "{since:?} is before it was made, {created:?}");
    if let Some(session) = of_wherry::restored(object)
        && let Ok(DataDownload { spec, status, .. }) = decode("", object)
    {
        assert!(!status.phase.is_terminal(), "one that has ended reads nothing");
        assert_eq!(SnapshotId::from_str(&spec.snapshot_id).ok().map(|id| id.session), Some(session));
    }
    let deleting = |now: i64| of_wherry::deleting(object, Time(now));
    let all = deleting(i64::MIN);
    assert!(all.iter().all(|uid| !uid.is_empty() && object["data"][uid].is_string()), "{all:?}");
    let mut times = all.iter().filter_map(|uid| object["data"][uid].as_str()?.parse().ok());
    if let Some(Time(at)) = times.next() {
        let (then, later) = (deleting(at), deleting(at + 86_400));
        assert!(!then.is_empty() && then.is_superset(&later) && all.is_superset(&then), "{all:?} {then:?} {later:?}");
        assert!(deleting(i64::MAX).is_empty(), "what was seen long ago counts");
    }
}

/// Reads an object as one of this kind, and what it was read as once more.
fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(kind: &str, object: &Value) -> bool {
    let Ok(read) = decode::<T>(kind, object) else { return false };
    let written = serde_json::to_value(&read).expect("what was read can be written");
    assert_eq!(decode::<T>(kind, &written).as_ref(), Ok(&read), "it is read as another");
    true
}

fn is_quantity(text: &str) -> bool {
    let Some(bytes) = quantity(text) else { return false };
    assert_eq!(quantity(&bytes.to_string()), Some(bytes), "{text:?} is {bytes} bytes");
    // Without what stands behind its point it is no more, and with one more before it it is no less.
    let (whole, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if let Some(next) = whole.parse::<u128>().ok().and_then(|whole| whole.checked_add(1)) {
        let least = quantity(&format!("{whole}{unit}"));
        assert!(least.is_some_and(|least| least <= bytes), "{text:?} is {bytes} bytes");
        let most = quantity(&format!("{next}{unit}"));
        assert!(most.is_none_or(|most| bytes <= most), "{text:?} is {bytes} bytes");
    }
    true
}

fn is_base64(text: &str) -> bool {
    let Some(bytes) = wherry_api::base64::decode(text) else { return false };
    let digits: String = text.chars().filter(|c| !c.is_ascii_whitespace() && *c != '=').collect();
    assert_eq!(base64(&bytes).trim_end_matches('='), digits, "{text:?} is {bytes:?}");
    !bytes.is_empty()
}

/// Names of what is made for CRs: that of an attempt leads back to its CR, and is nobody else's.
fn is_name(text: &str) -> bool {
    let Some(uid) = names::cr_of_attempt(text) else { return names::is_made(text) };
    assert!(names::is_made(text) && names::is_of_attempt(text, uid), "{text:?} is of {uid:?}");
    assert!(!names::is_of_attempt(text, &uid[1..]) && !names::is_of_attempt(text, &format!("{uid}-1")), "{text:?}");
    let number = text.rsplit('-').next().and_then(|number| number.parse().ok());
    for attempt in [number, Some(1), Some(u32::MAX)].into_iter().flatten() {
        let name = names::of_attempt(uid, attempt);
        assert_eq!(names::cr_of_attempt(&name), Some(uid), "{name:?}");
        assert!(number != Some(attempt) || text.len() >= name.len(), "{text:?} is said as {name:?}");
    }
    assert!(names::is_made(&names::object(uid)), "{uid:?}");
    true
}

const UPLOAD: &str = r#"{"metadata":{"name":"a","namespace":"v","uid":"u","resourceVersion":"7","labels":{"velero.io/backup-name":"b"},"annotations":{"k":"v"},"finalizers":["f"],"creationTimestamp":"2026-11-26T13:00:00Z","deletionTimestamp":"2026-11-26T14:00:00Z"},"spec":{"snapshotType":"CSI","csiSnapshot":{"volumeSnapshot":"s","storageClass":"c","snapshotClass":"d","driver":"e"},"sourcePVC":"p","sourceNamespace":"n","backupStorageLocation":"l","datamover":"wherry","dataMoverConfig":{"k":"v"},"cancel":true,"operationTimeout":"10m0s"},"status":{"phase":"Prepared","snapshotID":"i","message":"m","acceptedTimestamp":"2026-11-26T13:00:01Z","startTimestamp":"2026-11-26T13:00:02Z","completionTimestamp":null,"progress":{"totalBytes":9,"bytesDone":3},"incrementalBytes":2,"node":"o"}}"#;
const DOWNLOAD: &str = r#"{"metadata":{"name":"a"},"spec":{"targetVolume":{"pvc":"p","namespace":"n"},"backupStorageLocation":"l","datamover":"wherry","snapshotID":"i","sourceNamespace":"n","dataMoverConfig":{"k":"v"},"cancel":true,"operationTimeout":"10m0s","snapshotSize":10},"status":{"phase":"Later","message":"m","acceptedTimestamp":"2026-11-26T13:00:01Z","progress":{"totalBytes":9,"bytesDone":3},"node":"o"}}"#;
const SNAPSHOT: &str = r#"{"metadata":{"name":"s"},"spec":{"volumeSnapshotClassName":"c"},"status":{"boundVolumeSnapshotContentName":"t","readyToUse":true,"restoreSize":"1Gi","error":{"message":"m"}}}"#;
const CONTENT: &str = r#"{"spec":{"deletionPolicy":"Delete","driver":"d","volumeSnapshotClassName":"c","source":{"volumeHandle":"v"},"sourceVolumeMode":"Block","volumeSnapshotRef":{"namespace":"n","name":"s","uid":"u"}},"status":{"snapshotHandle":"h","restoreSize":9,"creationTime":1700000000000000000,"readyToUse":true,"error":{"message":"m"}}}"#;
const LOCATION: &str = r#"{"spec":{"provider":"aws","config":{"region":"r"},"credential":{"name":"s","key":"k"},"objectStorage":{"bucket":"b","prefix":"p","caCert":"UEVN","caCertRef":{"name":"s","key":"k"}},"accessMode":"ReadOnly"},"status":{"phase":"Available","message":"m"}}"#;

const CLAIM: &str = r#"{"metadata":{"name":"c","namespace":"n"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"s","volumeAttributesClassName":"a","volumeMode":"Block","volumeName":"v","selector":{"matchLabels":{"k":"v"}}},"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}"#;
const VOLUME: &str = r#"{"metadata":{"name":"v"},"spec":{"persistentVolumeReclaimPolicy":"Retain","claimRef":{"namespace":"n","name":"c","uid":"u"},"capacity":{"storage":"1Gi"},"nodeAffinity":{"required":{}},"volumeMode":"Block","local":{"path":"/mnt/a","fsType":"ext4"},"csi":{"driver":"d"},"hostPath":{"path":"/"}},"status":{"phase":"Bound"}}"#;
const POD: &str = r#"{"metadata":{"name":"p"},"spec":{"nodeName":"o","securityContext":{"fsGroup":7,"seLinuxOptions":{"type":"spc_t"}},"containers":[{"name":"c","securityContext":{}}],"volumes":[{"persistentVolumeClaim":{"claimName":"c","readOnly":true}}]},"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"m","lastTransitionTime":"2026-11-26T13:00:00Z"}]}}"#;
const NODE: &str = r#"{"metadata":{"name":"o"},"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service"}]},"status":{"conditions":[{"type":"Ready","status":"Unknown","lastTransitionTime":"2026-11-26T13:00:00Z"}]}}"#;
const CLASS: &str = r#"{"metadata":{"name":"s"},"reclaimPolicy":"Retain","volumeBindingMode":"WaitForFirstConsumer"}"#;
const ATTACHMENT: &str = r#"{"metadata":{"name":"a"},"spec":{"nodeName":"o","source":{"persistentVolumeName":"v"}}}"#;
const DELETING: &str = r#"{"metadata":{"name":"wherry-deleting"},"data":{"u":"2026-11-26T13:00:00Z","t":"2026-10-26T13:00:00Z","no":"time"}}"#;
const OF_VOLUME: &str = r#"{"metadata":{"uid":"u","creationTimestamp":"2026-11-26T13:00:00Z"},"spec":{"snapshotType":"Local"},"status":{"acceptedTimestamp":"2026-11-26T14:00:00Z"}}"#;

fn annotations() -> Vec<(&'static str, String)> {
    let uid = || "uid".to_owned();
    let of_snapshot = UploadPlan {
        version: plan::VERSION,
        cr_uid: uid(),
        attempt: 1,
        snapshot_uid: "su".into(),
        content: "c".into(),
        content_uid: "cu".into(),
        snapshot_handle: "h".into(),
        driver: "d".into(),
        source_handle: Some("v".into()),
        snapshot_class: Some("k".into()),
        restore_size: Some(1 << 30),
        snapshot_time: Some(Time(1_800_000_000)),
        topology: Some(serde_json::json!({ "required": {} })),
        source_uid: Some("p".into()),
        ..UploadPlan::default()
    };
    let of_volume = UploadPlan {
        version: plan::LOCAL_VERSION,
        cr_uid: uid(),
        attempt: 2,
        local: Some(LocalVolume { volume: "pv".into(), path: "/mnt/a".into() }),
        ..UploadPlan::default()
    };
    let download = DownloadPlan { version: plan::VERSION, cr_uid: uid(), attempt: 1, target_uid: "t".into() };
    let done = DataDone { version: plan::VERSION, cr_uid: uid(), attempt: 1, volume: "pv".into(), bytes: 7 };
    let completed = Time(1_800_000_000);
    let (cr, pvc) = ("a".to_owned(), "p".to_owned());
    let base = Base { version: plan::VERSION, cr_uid: uid(), completed, cr, pvc, ..Base::default() };
    vec![
        ("upload", of_snapshot.print()),
        ("upload-local", of_volume.print()),
        ("download", download.print()),
        ("done", done.print()),
        ("base", base.print()),
    ]
}

fn results() -> [(&'static str, String); 2] {
    let at = Time(1_800_000_000);
    let missing = [("gone".to_owned(), Time(1_700_000_000))].into();
    let forgetting = JobResult {
        forgetting: Some(Forgetting { kept: 1, held: 7, missing, ..Forgetting::default() }),
        ..JobResult::new(JobKind::Forget, at, State::OnHold, "many are missing".into())
    };
    let collecting = JobResult {
        repository: Some("r".into()),
        last_done: Some(at),
        first: Some(at),
        collecting: Some(Collecting { live_bytes: Some(9), deleted_packs: 2, ..Collecting::default() }),
        ..JobResult::new(JobKind::Gc, at, State::Done, String::new())
    };
    [("forgetting", forgetting.print()), ("collecting", collecting.print())]
}

pub(super) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let plans = annotations().into_iter().map(|(name, text)| ("plans", name, ["uid", &text].join("\n").into_bytes()));
    let results = results().into_iter().map(|(name, text)| ("job_result", name, text.into_bytes()));
    let texts = [
        ("upload", UPLOAD),
        ("download", DOWNLOAD),
        ("snapshot", SNAPSHOT),
        ("content", CONTENT),
        ("location", LOCATION),
        ("claim", CLAIM),
        ("volume", VOLUME),
        ("pod", POD),
        ("node", NODE),
        ("class", CLASS),
        ("attachment", ATTACHMENT),
        ("deleting", DELETING),
        ("upload-local", OF_VOLUME),
        ("time", "2026-11-26T13:00:00Z"),
        ("quantity", "1.5Gi"),
        ("duration", "4h0m10s"),
        ("base64", "Zm9v\nYg=="),
        ("name", "wherry-01234567-89ab-cdef-0123-456789abcdef-12"),
        ("snapshot-id", "wherry1/a/b/c.n.p.u"),
    ];
    let texts = texts.into_iter().map(|(name, text)| ("kubernetes_objects", name, text.as_bytes().to_vec()));
    plans.chain(results).chain(texts).collect()
}

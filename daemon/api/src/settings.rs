//! ConfigMap `wherry`: every setting, its default and its unit.

use crate::by_class::{ByClass, KeepBase, WaitForNode, annotations, class, is_class, keep_base, split, wait_for_node};
use crate::pods::{Env, env, labels, own_labels, resources, secrets, tolerations, user};
use crate::quantity::quantity;
use crate::time::parse_duration;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Name of the ConfigMap, in the namespace of Velero.
pub const CONFIG_MAP: &str = "wherry";

/// What a Job asks for, in thousandths of a CPU.
pub const JOB_CPU: u64 = 50;

/// One key of the ConfigMap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// In `data`.
    pub key: &'static str,
    /// What holds when it is missing.
    pub default: &'static str,
    /// What the text is: a count, a duration of Go, percent, bytes a second, names.
    pub unit: &'static str,
    /// What it does.
    pub about: &'static str,
    /// `KEY.CLASS` says it for the volumes of one StorageClass, `KEY` for all others.
    pub by_class: bool,
}

const fn entry(key: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Entry {
    Entry { key, default, unit, about, by_class: false }
}

const fn by_class(key: &'static str, default: &'static str, unit: &'static str, about: &'static str) -> Entry {
    Entry { key, default, unit, about, by_class: true }
}

/// All keys. Any other is an error: a typing mistake must not go unseen.
pub const ENTRIES: &[Entry] = &[
    entry("datamovers", "wherry", "names, separated by commas", "values of spec.datamover that mean wherry"),
    entry("pause", "false", "true or false", "nothing new is accepted, and no Job is made; what is under way goes on"),
    entry("maxActive", "10", "count", "DataUploads and DataDownloads that are Accepted to InProgress at once"),
    entry(
        "slotsPerNode",
        "4",
        "count",
        "the same on one node, as far as the agent's --memory goes; more than before when nothing runs there",
    ),
    entry(
        "restoreShare",
        "50",
        "percent",
        "of the places (maxActive, or all slots where those are fewer) that restores get while backups wait too",
    ),
    entry(
        "backupShare",
        "25",
        "percent",
        "of the same places, that backups get while restores wait too; no more than restores leave",
    ),
    entry(
        "itemTimeout",
        "4h0m0s",
        "duration",
        "Velero's default-item-operation-timeout, from creation; orders the queue",
    ),
    entry("prepareTimeout", "30m0s", "duration", "Accepted for longer is Failed"),
    entry("cancelTimeout", "8s", "duration", "from 4s on; a silent agent is not waited for any longer after a cancel"),
    entry("nodeLostTimeout", "5m0s", "duration", "not ready for longer, a node is taken for lost"),
    entry("uploadRate", "0", "bytes per second and node", "0: no limit"),
    entry("downloadRate", "0", "bytes per second and node", "0: no limit"),
    entry(
        "readAll",
        "false",
        "true or false",
        "all of each Block volume is read, whatever its driver says has changed",
    ),
    entry("kubeletRoot", "/var/lib/kubelet", "path", "root directory of the kubelet on the nodes"),
    entry("hostingImage", "", "image", "image of hosting pods and Jobs; empty: that of the controller"),
    entry("pullSecrets", "", "names, or empty", "Secrets with which the image of hosting pods and Jobs is pulled"),
    entry("hostingPriorityClass", "", "name", "priority class of hosting pods; empty: none"),
    entry("hostingTolerations", "[]", "JSON list of tolerations", "of hosting pods"),
    entry("hostingNodeSelector", "{}", "JSON object of texts", "labels of nodes on which hosting pods may run"),
    entry(
        "hostingResources",
        r#"{"limits": {"cpu": "5m", "memory": "16Mi"}, "requests": {"cpu": "5m", "memory": "16Mi"}}"#,
        "JSON object of resources",
        "of hosting pods",
    ),
    entry(
        "hostingScc",
        "",
        "name",
        "on OpenShift, the SecurityContextConstraints that hosting pods must get (openshift.io/required-scc); empty: any",
    ),
    by_class(
        "keepBase",
        "auto",
        "auto, always or never",
        "the newest backup's storage snapshot of a volume is kept; auto: where the driver lists changed blocks",
    ),
    by_class("backupStorageClass", "", "name", "class of the PVC that an upload reads; empty: that of the source PVC"),
    by_class("backupReadOnly", "false", "true or false", "that PVC is asked for as ReadOnlyMany, and mounted so"),
    by_class("backupAnnotations", "{}", "JSON object of texts", "annotations of that PVC"),
    by_class(
        "waitForNode",
        "always",
        "always, never or duration",
        "a restore into a class of WaitForFirstConsumer (the target's class counts) waits until a pod that uses the PVC has a node",
    ),
    entry("forgetInterval", "1h0m0s", "duration", "between two Jobs that forget, of one repository; 0: none is made"),
    entry("gcInterval", "24h0m0s", "duration", "between two gc of one repository; 0: none is made"),
    entry(
        "gcOverdue",
        "96h0m0s",
        "duration",
        "an Event says that no gc has succeeded for so long, and for twice gcInterval; 0: never",
    ),
    entry("forgetDelay", "168h0m0s", "duration", "a snapshot that was forgotten can be brought back for so long"),
    entry(
        "missingFor",
        "336h0m0s",
        "duration",
        "a backup may be missing for so long before its snapshots are forgotten",
    ),
    entry("gcGrace", "24h0m0s", "duration", "packs are deleted no sooner than this after their deletion was decided"),
    entry("jobEnv", "[]", "JSON list of variables", "environment of Jobs, such as HTTPS_PROXY and NO_PROXY"),
    entry("jobLabels", "{}", "JSON object of texts", "labels of the pods of Jobs, such as a workload identity wants"),
    entry("jobTolerations", "[]", "JSON list of tolerations", "of the pods of Jobs"),
    entry("jobNodeSelector", "{}", "JSON object of texts", "labels of nodes on which Jobs may run"),
    entry(
        "jobUser",
        "65532",
        "id of a user, or empty",
        "as whom Jobs run; empty: as the cluster says, as on OpenShift",
    ),
    entry("jobMemory", "512Mi", "quantity", "limit of the memory of a Job, at least 128Mi"),
    entry("jobCpu", "", "CPUs, or empty", "limit of the CPU of a Job, such as 2 or 500m, at least 50m; empty: none"),
    entry(
        "jobTimeout",
        "24h0m0s",
        "duration",
        "a Job that runs for longer is ended, the next one goes on; 0: no limit",
    ),
    entry("jobHistory", "3", "count", "Jobs of each kind and repository that are kept after their end"),
];

/// The settings as they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `datamovers`.
    pub datamovers: Vec<String>,
    /// `pause`.
    pub pause: bool,
    /// `maxActive`.
    pub max_active: usize,
    /// `slotsPerNode`.
    pub slots_per_node: usize,
    /// `restoreShare`, percent.
    pub restore_share: usize,
    /// `backupShare`, percent.
    pub backup_share: usize,
    /// `itemTimeout`.
    pub item_timeout: Duration,
    /// `prepareTimeout`.
    pub prepare_timeout: Duration,
    /// `cancelTimeout`, 4 s at least.
    pub cancel_timeout: Duration,
    /// `nodeLostTimeout`.
    pub node_lost_timeout: Duration,
    /// `uploadRate`, bytes a second; 0: no limit.
    pub upload_rate: u64,
    /// `downloadRate`, bytes a second; 0: no limit.
    pub download_rate: u64,
    /// `readAll`.
    pub read_all: bool,
    /// `kubeletRoot`.
    pub kubelet_root: String,
    /// `hostingImage`.
    pub hosting_image: String,
    /// `pullSecrets`.
    pub pull_secrets: Vec<String>,
    /// `hostingPriorityClass`.
    pub hosting_priority_class: String,
    /// `hostingTolerations`, core/v1 `Toleration`.
    pub hosting_tolerations: Vec<Value>,
    /// `hostingNodeSelector`.
    pub hosting_node_selector: BTreeMap<String, String>,
    /// `hostingResources`, core/v1 `ResourceRequirements`.
    pub hosting_resources: Value,
    /// `hostingScc`.
    pub hosting_scc: String,
    /// `keepBase`, by class of the source PVC.
    pub keep_base: ByClass<KeepBase>,
    /// `backupStorageClass`, by class of the source PVC; empty: that one.
    pub backup_storage_class: ByClass<String>,
    /// `backupReadOnly`, by class of the source PVC.
    pub backup_read_only: ByClass<bool>,
    /// `backupAnnotations`, by class of the source PVC.
    pub backup_annotations: ByClass<BTreeMap<String, String>>,
    /// `waitForNode`, by class of the target PVC.
    pub wait_for_node: ByClass<WaitForNode>,
    /// `forgetInterval`; zero: never.
    pub forget_interval: Duration,
    /// `gcInterval`; zero: never.
    pub gc_interval: Duration,
    /// `gcOverdue`; zero: never.
    pub gc_overdue: Duration,
    /// `forgetDelay`.
    pub forget_delay: Duration,
    /// `missingFor`.
    pub missing_for: Duration,
    /// `gcGrace`.
    pub gc_grace: Duration,
    /// `jobEnv`, core/v1 `EnvVar`.
    pub job_env: Env,
    /// `jobLabels`.
    pub job_labels: BTreeMap<String, String>,
    /// `jobTolerations`, core/v1 `Toleration`.
    pub job_tolerations: Vec<Value>,
    /// `jobNodeSelector`.
    pub job_node_selector: BTreeMap<String, String>,
    /// `jobUser`; none: the cluster says.
    pub job_user: Option<u32>,
    /// `jobMemory`, bytes.
    pub job_memory: u64,
    /// `jobCpu`, a quantity; empty: no limit.
    pub job_cpu: String,
    /// `jobTimeout`.
    pub job_timeout: Duration,
    /// `jobHistory`.
    pub job_history: usize,
}

/// A key of the ConfigMap that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ConfigMap {CONFIG_MAP}, key {key:?}: {reason}")]
pub struct BadSetting {
    /// Which.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Settings {
    /// Reads `data` as a process does that has to work with it: keys that are no setting are left out, and said. They are of a newer version
    /// (an upgrade replaces the ConfigMap at once, and the agents node by node), or typing mistakes, for which nothing stops.
    ///
    /// # Errors
    /// What is wrong with the settings that there are.
    pub fn lenient(data: &BTreeMap<String, String>) -> Result<(Self, Vec<BadSetting>), Vec<BadSetting>> {
        let (mut known, mut foreign) = (BTreeMap::new(), Vec::new());
        for (key, value) in data {
            match unknown(key) {
                Some(reason) => foreign.push(BadSetting { key: key.clone(), reason }),
                None => drop(known.insert(key.clone(), value.clone())),
            }
        }
        match Self::parse(&known) {
            Ok(settings) => Ok((settings, foreign)),
            Err(wrong) => Err(foreign.into_iter().chain(wrong).collect()),
        }
    }

    /// Reads `data` of the ConfigMap. All that is wrong is said at once, by key.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Vec<BadSetting>> {
        let mut read = Reader { data, wrong: Vec::new() };
        for (key, reason) in data.keys().filter_map(|key| Some((key, unknown(key)?))) {
            read.wrong.push(BadSetting { key: key.clone(), reason });
        }
        let settings = Self {
            datamovers: read.get("datamovers", names),
            pause: read.get("pause", truth),
            max_active: read.get("maxActive", count),
            slots_per_node: read.get("slotsPerNode", count),
            restore_share: read.get("restoreShare", percent),
            backup_share: read.get("backupShare", percent),
            item_timeout: read.get("itemTimeout", duration),
            prepare_timeout: read.get("prepareTimeout", duration),
            cancel_timeout: read.get("cancelTimeout", cancel),
            node_lost_timeout: read.get("nodeLostTimeout", duration),
            upload_rate: read.get("uploadRate", number),
            download_rate: read.get("downloadRate", number),
            read_all: read.get("readAll", truth),
            kubelet_root: read.get("kubeletRoot", path),
            hosting_image: read.get("hostingImage", any),
            pull_secrets: read.get("pullSecrets", secrets),
            hosting_priority_class: read.get("hostingPriorityClass", any),
            hosting_tolerations: read.get("hostingTolerations", tolerations),
            hosting_node_selector: read.get("hostingNodeSelector", labels),
            hosting_resources: read.get("hostingResources", resources),
            hosting_scc: read.get("hostingScc", any),
            keep_base: read.get_by_class("keepBase", keep_base),
            backup_storage_class: read.get_by_class("backupStorageClass", class),
            backup_read_only: read.get_by_class("backupReadOnly", truth),
            backup_annotations: read.get_by_class("backupAnnotations", annotations),
            wait_for_node: read.get_by_class("waitForNode", wait_for_node),
            forget_interval: read.get("forgetInterval", interval),
            gc_interval: read.get("gcInterval", interval),
            gc_overdue: read.get("gcOverdue", duration),
            forget_delay: read.get("forgetDelay", duration),
            missing_for: read.get("missingFor", duration),
            gc_grace: read.get("gcGrace", duration),
            job_env: read.get("jobEnv", env),
            job_labels: read.get("jobLabels", own_labels),
            job_tolerations: read.get("jobTolerations", tolerations),
            job_node_selector: read.get("jobNodeSelector", labels),
            job_user: read.get("jobUser", user),
            job_memory: read.get("jobMemory", memory),
            job_cpu: read.get("jobCpu", cpu),
            job_timeout: read.get("jobTimeout", interval),
            job_history: read.get("jobHistory", count),
        };
        if settings.restore_share + settings.backup_share > 100 {
            read.wrong.push(BadSetting {
                key: "restoreShare".to_owned(),
                reason: "with backupShare it is more than 100 percent".to_owned(),
            });
        }
        if read.wrong.is_empty() { Ok(settings) } else { Err(read.wrong) }
    }
}

/// Why there is no such setting.
fn unknown(key: &str) -> Option<String> {
    if ENTRIES.iter().any(|entry| entry.key == key) {
        return None;
    }
    match split(key) {
        Some((of, class)) if ENTRIES.iter().any(|entry| entry.by_class && entry.key == of) => {
            (!is_class(class)).then(|| format!("{class:?} is no name that a StorageClass can have"))
        }
        Some((of, _)) if ENTRIES.iter().any(|entry| entry.key == of) => {
            let those =
                ENTRIES.iter().filter(|entry| entry.by_class).map(|entry| entry.key).collect::<Vec<_>>().join(", ");
            Some(format!("{of} is the same for all storage classes; those that may differ: {those}"))
        }
        _ => {
            let known = ENTRIES.iter().map(|entry| entry.key).collect::<Vec<_>>().join(", ");
            Some(format!("there is no such setting; known: {known}"))
        }
    }
}

struct Reader<'a> {
    data: &'a BTreeMap<String, String>,
    wrong: Vec<BadSetting>,
}

impl Reader<'_> {
    fn get<T: Default>(&mut self, key: &str, read: fn(&str) -> Result<T, String>) -> T {
        let default = ENTRIES.iter().find(|entry| entry.key == key).map_or("", |entry| entry.default);
        let text = self.data.get(key).map_or(default, |text| text.trim());
        self.read(key, text, read)
    }

    fn read<T: Default>(&mut self, key: &str, text: &str, read: fn(&str) -> Result<T, String>) -> T {
        read(text).unwrap_or_else(|reason| {
            self.wrong.push(BadSetting { key: key.to_owned(), reason });
            T::default()
        })
    }

    fn get_by_class<T: Default>(&mut self, key: &str, read: fn(&str) -> Result<T, String>) -> ByClass<T> {
        let other = self.get(key, read);
        let mut of = BTreeMap::new();
        for (name, text) in self.data {
            // A class of no possible name is said already.
            if let Some((_, class)) = split(name).filter(|(of, class)| *of == key && is_class(class)) {
                of.insert(class.to_owned(), self.read(name, text.trim(), read));
            }
        }
        ByClass { other, of }
    }
}

fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err(format!("{text:?} is not an absolute path")) }
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(|name| ["", "velero", "velero-fs", "velero-block"].contains(&name.as_str())) {
        return Err(format!("{text:?} has an empty name or one of Velero's own data movers"));
    }
    Ok(names)
}

fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

fn count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=10_000).contains(n))
        .ok_or_else(|| format!("{text:?} is no count from 1 to 10000"))
}

fn percent(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n <= 100).ok_or_else(|| format!("{text:?} is no percentage from 0 to 100"))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no whole number of bytes"))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

/// An agent that was stopped and woken ends its work three quarters of it later, and no sooner than in 3 s: that is to be over
/// when Canceled is written in its place.
fn cancel(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < Duration::from_secs(4) => {
            Err(format!("{text:?} is less than 4s: an agent that answers may need as long to end its work"))
        }
        timeout => Ok(timeout),
    }
}

/// Of something that would otherwise be done again and again.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    match interval.as_secs() {
        1..60 => Err(format!("{text:?} is less than a minute")),
        0 if !interval.is_zero() => Err(format!("{text:?} is less than a minute")),
        _ => Ok(interval),
    }
}

/// A process of ours needs some, whatever it does.
fn memory(text: &str) -> Result<u64, String> {
    quantity(text).filter(|bytes| *bytes >= 128 << 20).ok_or_else(|| format!("{text:?} is no quantity from 128Mi on"))
}

/// No less than a Job asks for: the API server takes no limit below the request.
fn cpu(text: &str) -> Result<String, String> {
    let millis = match text.strip_suffix('m') {
        Some(millis) => quantity(millis),
        None => quantity(&format!("{text}e3")),
    };
    match text.is_empty() || millis.is_some_and(|millis| millis >= JOB_CPU) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no number of CPUs from 50m on, such as 2, 0.5 or 500m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_defaults_are_what_the_table_says() {
        let written = ENTRIES.iter().map(|entry| (entry.key, entry.default)).collect::<Vec<_>>();
        let settings = Settings::parse(&data(&[])).unwrap();
        assert_eq!(Settings::parse(&data(&written)).unwrap(), settings);
        assert_eq!(settings.prepare_timeout, Duration::from_secs(1800));
        assert_eq!((settings.max_active, settings.datamovers.as_slice()), (10, &["wherry".to_owned()][..]));
    }

    #[test]
    fn each_key_has_an_effect() {
        let other = |entry: &Entry| match entry.unit {
            "true or false" => "true",
            "count" | "percent" | "bytes per second and node" => "7",
            "duration" => "77s",
            "path" => "/other",
            "quantity" => "777Mi",
            "auto, always or never" => "always",
            "always, never or duration" => "77s",
            "JSON object of texts" => "{\"a\": \"b\"}",
            "JSON list of tolerations" => "[{\"operator\": \"Exists\"}]",
            "JSON list of variables" => "[{\"name\": \"A\", \"value\": \"b\"}]",
            "JSON object of resources" => "{}",
            "id of a user, or empty" => "",
            "CPUs, or empty" => "2",
            _ => "other",
        };
        for entry in ENTRIES {
            let changed = Settings::parse(&data(&[(entry.key, other(entry))])).unwrap();
            assert_ne!(changed, Settings::parse(&data(&[])).unwrap(), "{} changes nothing", entry.key);
            if entry.by_class {
                let of_class = format!("{}.fast.example", entry.key);
                let of_class = Settings::parse(&data(&[(&of_class, other(entry))])).unwrap();
                assert!(of_class != changed && of_class != Settings::parse(&data(&[])).unwrap(), "{}", entry.key);
            }
        }
    }

    #[test]
    fn a_class_may_have_its_own() {
        let read = |pairs: &[(&str, &str)]| Settings::parse(&data(pairs));
        let settings = read(&[("keepBase", "never"), ("keepBase.fast", "always"), ("keepBase.a.b", " auto ")]).unwrap();
        let of = |class: &str| *settings.keep_base.of(class);
        assert_eq!((of("fast"), of("a.b")), (KeepBase::Always, KeepBase::Auto));
        assert_eq!((of("slow"), of("")), (KeepBase::Never, KeepBase::Never));
        for (key, value, said) in [
            ("keepBase.fast", "yes", "\"yes\" is none of auto, always, never"),
            ("keepBase.Fast", "always", "\"Fast\" is no name that a StorageClass can have"),
            ("keepBase.", "always", "\"\" is no name that a StorageClass can have"),
            ("maxActive.fast", "3", "maxActive is the same for all storage classes"),
            ("keepbase.fast", "always", "there is no such setting"),
        ] {
            let wrong = read(&[(key, value)]).unwrap_err();
            assert_eq!((wrong.len(), wrong[0].key.as_str()), (1, key));
            assert!(wrong[0].reason.starts_with(said), "{}", wrong[0]);
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_by_key() {
        let bad = data(&[
            ("maxactive", "3"),
            ("maxActive", "0"),
            ("pause", "yes"),
            ("prepareTimeout", "30"),
            ("cancelTimeout", "3999ms"),
            ("restoreShare", "101"),
            ("kubeletRoot", "var"),
            ("datamovers", "wherry,velero"),
            ("uploadRate", "-1"),
            ("gcInterval", "59s"),
            ("forgetInterval", "1ms"),
            ("jobMemory", "64Mi"),
            ("jobCpu", "49m"),
        ]);
        let mut keys: Vec<String> = Settings::parse(&bad).unwrap_err().into_iter().map(|e| e.key).collect();
        keys.sort();
        let mut expected: Vec<&String> = bad.keys().collect();
        expected.sort();
        assert_eq!(keys.iter().collect::<Vec<_>>(), expected);
        assert!(Settings::parse(&data(&[("cancelTimeout", "4s")])).is_ok());
        for (text, good) in [("2", true), ("0.05", true), ("50m", true), ("0.04", false), ("0", false), ("2Gi", false)]
        {
            assert_eq!(Settings::parse(&data(&[("jobCpu", text)])).is_ok(), good, "{text}");
        }
        // Keys of another version stop nobody; a value that cannot be used does, and all is named.
        let newer = [("maxActive", "7"), ("ofTheFuture", "1"), ("maxActive.fast", "3"), ("keepBase./", "auto")];
        let (read, foreign) = Settings::lenient(&data(&newer)).unwrap();
        assert_eq!(read, Settings::parse(&data(&[("maxActive", "7")])).unwrap());
        let keys = |wrong: &[BadSetting]| wrong.iter().map(|bad| bad.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&foreign), ["keepBase./", "maxActive.fast", "ofTheFuture"]);
        assert_eq!(keys(&Settings::parse(&data(&newer)).unwrap_err()), keys(&foreign));
        let wrong = Settings::lenient(&data(&[("maxActive", "x"), ("ofTheFuture", "1")])).unwrap_err();
        assert_eq!(keys(&wrong), ["ofTheFuture", "maxActive"]);
        let both = Settings::parse(&data(&[("restoreShare", "60"), ("backupShare", "60")])).unwrap_err();
        assert_eq!(both[0].key, "restoreShare");
    }
}

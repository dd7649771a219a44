//! Backups in the bucket and in the cluster as Velero keeps them, snapshots of them in the repository beside, and a kubelet for Jobs:
//! what it would run is run as a process, as the account of Jobs.

use crate::binary::wherry_bin;
use crate::home::Home;
use crate::hosted::Stand;
use bytes::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wherry_api::Time;
use wherry_api::api::Kind;
use wherry_api::job::JobResult;
use wherry_repo::Storage;
use wherry_repo::storage::Key as ObjectKey;

/// A time that is long past, and one that is far away.
pub const PAST: &str = "2020-01-01T00:00:00Z";
/// See [`PAST`].
pub const FUTURE: &str = "2220-01-01T00:00:00Z";

/// What a Job left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed; `None`: no result.
    pub result: Option<JobResult>,
    /// Its log.
    pub log: String,
}

impl Ended {
    /// The result of one that ended well.
    #[track_caller]
    pub fn ok(self) -> JobResult {
        assert_eq!(self.code, Some(0), "{}", self.log);
        self.result.unwrap_or_else(|| panic!("no result: {}", self.log))
    }
}

/// A backup below `backups/` of a location, as Velero leaves it there.
pub fn store_in(backups: &dyn Storage, backup: &str, uid: &str) {
    let object = json!({ "kind": "Backup", "metadata": { "name": backup, "uid": uid } });
    let put = |name: String, text: String| {
        backups.overwrite(&ObjectKey::new(format!("{backup}/{name}")).unwrap(), Bytes::from(text)).unwrap();
    };
    put("velero-backup.json".to_owned(), object.to_string());
    put(format!("{backup}.tar.gz"), "x".to_owned());
}

/// Takes it out again.
pub fn unstore_from(backups: &dyn Storage, backup: &str) {
    let mut keys = Vec::new();
    let listed = backups.list(&format!("{backup}/"), &mut |object| {
        keys.push(object.key);
        Ok(())
    });
    listed.unwrap();
    assert!(!keys.is_empty(), "there is no backup {backup}");
    keys.iter().for_each(|key| backups.delete(key).unwrap());
}

impl Stand {
    /// A repository beside the backups, as an agent would have left it: with its key, and recorded. Gives its uuid and who opens
    /// it from outside.
    pub fn repository(&self) -> (String, Home) {
        let url = format!("s3://velero/{}/plugins/wherry", self.namespace);
        let home = Home::new().at(url.as_str(), &self.seaweed.variables());
        let made = home.run(&["init", "--json", "--chunk-size", "64K"]).ok().json();
        let key = fs::read_to_string(home.path("key")).unwrap();
        self.patch(&self.key(Kind::Secret, "wherry-repository"), &json!({ "stringData": { "key": key } }));
        let id = made["repository"].as_str().unwrap().to_owned();
        let recorded = json!({ "repository": id, "location": url }).to_string();
        let map = json!({ "metadata": { "name": "wherry-repositories" }, "data": { "default": recorded } });
        self.create(Kind::ConfigMap, map);
        self.available("default");
        (id, home)
    }

    /// Velero has found the location.
    pub fn available(&self, location: &str) {
        self.patch(&self.key(Kind::Location, location), &json!({ "status": { "phase": "Available" } }));
    }

    /// Id of the cluster.
    pub fn cluster(&self) -> String {
        let namespace = self.get(&wherry_api::api::Key::new(Kind::Namespace, "", "kube-system"));
        namespace["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A snapshot of a backup of this cluster, with data of its own; gives its id.
    pub fn snapshot_of(&self, home: &Home, backup: &str, uid: &str, expires: &str) -> String {
        let seed = backup.bytes().chain(uid.bytes()).fold(1469_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let mut state = seed | 1;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let data: Vec<u8> = noise.take(32 << 10).flatten().collect();
        let file = home.write(&format!("data-{uid}"), data);
        let tags = [
            format!("cluster={}", self.cluster()),
            format!("velero-namespace={}", self.namespace),
            format!("backup={backup}"),
            format!("backup-uid={uid}"),
            format!("expires={expires}"),
        ];
        let mut args = vec!["backup", &file, "--name", "volume", "--json"];
        tags.iter().for_each(|tag| args.extend(["--tag", tag]));
        let saved = home.run(&args).ok().json();
        saved["snapshot"].as_str().unwrap_or_else(|| panic!("{saved}")).to_owned()
    }

    /// A backup in the bucket.
    pub fn store(&self, backup: &str, uid: &str) {
        store_in(&*self.backups(), backup, uid);
    }

    /// Takes it out again.
    pub fn unstore(&self, backup: &str) {
        unstore_from(&*self.backups(), backup);
    }

    fn backups(&self) -> Arc<dyn Storage> {
        self.seaweed.open(&format!("velero/{}/backups", self.namespace))
    }

    /// The controller has seen that one in phase Deleting.
    pub fn seen_deleting(&self, uid: &str) {
        let map = json!({ "metadata": { "name": "wherry-deleting" }, "data": { uid: Time(wherry_repo::Clock::now(&wherry_repo::System::default()).seconds()) } });
        self.create(Kind::ConfigMap, map);
    }

    /// A Job's process, which runs.
    pub fn begin_job(&self, args: &[&str]) -> Child {
        self.begin_job_by(&[], args)
    }

    /// The same by that command.
    pub fn begin_job_by(&self, by: &[&str], args: &[&str]) -> Child {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let token = self.path(&format!("token-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&token, self.kube.token(&self.namespace, "wherry-jobs")).unwrap();
        // Whatever ends this process ends it.
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(by)
            .arg(wherry_bin())
            .args(args)
            .args(["--server", &self.kube.url(), "--ca-file"])
            .arg(self.kube.authorities())
            .arg("--token-file")
            .arg(token)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TMPDIR", self.path("."))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Its end.
    #[track_caller]
    pub fn end_job(&self, child: Child) -> Ended {
        let output = child.wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!log.contains("wherry: bug"), "{log}");
        let text = String::from_utf8(output.stdout).unwrap();
        let result = text.lines().last().map(|line| JobResult::parse(line).unwrap_or_else(|e| panic!("{e}: {text}")));
        Ended { code: output.status.code(), result, log }
    }

    /// Runs a Job for location `default` to its end.
    #[track_caller]
    pub fn job(&self, kind: &str, args: &[&str]) -> Ended {
        self.job_by(&[], kind, "default", args)
    }

    /// Runs one for another location by that command.
    #[track_caller]
    pub fn job_by(&self, by: &[&str], kind: &str, location: &str, args: &[&str]) -> Ended {
        let mut all = vec!["--no-cache", "job", kind, "--location", location, "--namespace", &self.namespace];
        all.extend(args);
        self.end_job(self.begin_job_by(by, &all))
    }

    /// Runs what a Job of the cluster says, as the kubelet would, and says how it ended, as the controller-manager would.
    #[track_caller]
    pub fn run_job(&self, job: &Value) -> Ended {
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(job["spec"]["template"]["spec"]["serviceAccountName"], "wherry-jobs");
        let command: Vec<&str> =
            container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(command[0], "/usr/bin/wherry");
        let ended = self.end_job(self.begin_job(&command[1..]));
        let now = job["metadata"]["creationTimestamp"].clone();
        let condition =
            |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now, "lastProbeTime": now });
        // Before either one the server wants what it follows from.
        let status = match ended.code {
            Some(0) => json!({
                "startTime": now, "completionTime": now, "succeeded": 1,
                "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
            }),
            _ => json!({
                "startTime": now, "failed": 3, "conditions": [condition("FailureTarget"), condition("Failed")],
            }),
        };
        let name = job["metadata"]["name"].as_str().unwrap();
        self.status(&self.key(Kind::Job, name), &status);
        ended
    }

    /// Its Jobs, as the server has them.
    pub fn jobs(&self) -> Vec<Value> {
        let list = wherry_api::api::Api::list(self.kube.admin(), Kind::Job, &self.namespace, &[]);
        self.kube.wait(list).unwrap()
    }
}

//! The executable itself: two replicas, CRs from New to the end, what it asks at rest, and how it ends.

use crate::Stage;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wherry_api::api::{Api, Key, Kind};
use wherry_api::watch::{Seen, Selection, follow};
use wherry_controller::sweep;
use wherry_tests::binary::controller_bin;
use wherry_tests::cluster::real::{Real, deployed};
use wherry_tests::cluster::{Scene, Who, World};

/// Whatever is waited for comes, on a machine however slow; else the test ends by this.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running controller; dropped, it is killed.
pub struct Replica {
    child: Option<Child>,
    folder: TempDir,
}

impl Replica {
    /// As it is deployed, so with ConfigMap `wherry`: one that says nothing where there is none.
    pub fn start(real: &Real, namespace: &str, name: &str) -> Self {
        settings(real, namespace);
        Self::start_with(real, namespace, name, &["--image", "wherry:test"])
    }

    pub fn start_with(real: &Real, namespace: &str, name: &str, arguments: &[&str]) -> Self {
        Self::start_at(real, &real.kube.url(), namespace, name, arguments)
    }

    pub fn start_at(real: &Real, server: &str, namespace: &str, name: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, real.kube.token(namespace, "wherry-controller")).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        // Whatever ends this process ends it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(controller_bin())
            .args(["run", "--namespace", namespace, "--log", "debug"])
            .args(arguments)
            .args(["--server", server, "--ca-file"])
            .arg(real.kube.authorities())
            .arg("--token-file")
            .arg(token)
            .env_clear()
            .env("HOSTNAME", name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child: Some(child), folder }
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Until it has logged that.
    pub fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "{text:?} is not in its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and how it ended.
    pub fn end(self) -> (Output, String) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), Signal::TERM).unwrap();
        self.wait()
    }

    /// How it ended by itself.
    pub fn wait(mut self) -> (Output, String) {
        let child = self.child.as_mut().unwrap();
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        (self.child.take().unwrap().wait_with_output().unwrap(), self.log())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("{}", self.log());
            }
        }
    }
}

/// The defaults, where nothing else is set.
fn settings(real: &Real, namespace: &str) {
    let (kube, key) = (&real.kube, Key::new(Kind::ConfigMap, namespace, "wherry"));
    if kube.wait(kube.admin().get(&key)).unwrap().is_none() {
        kube.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: wherry\n  namespace: {namespace}\n"));
    }
}

fn lease(real: &Real, namespace: &str) -> Value {
    let lease = Key::new(Kind::Lease, namespace, "wherry-controller");
    real.kube.wait(real.kube.admin().get(&lease)).unwrap().unwrap_or_default()
}

fn holder(real: &Real, namespace: &str) -> String {
    lease(real, namespace)["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

/// When the Lease was renewed last.
fn renewal(real: &Real, namespace: &str) -> String {
    lease(real, namespace)["spec"]["renewTime"].as_str().unwrap().to_owned()
}

/// Requests of the controller's account in a namespace, after so many of all.
fn asked(real: &Real, namespace: &str, after: usize) -> Vec<Value> {
    let user = format!("system:serviceaccount:{namespace}:wherry-controller");
    let mut events = real.kube.audit(after);
    events.retain(|event| event["user"]["username"] == user.as_str());
    events
}

/// How many there are of each verb and resource, for whoever reads the log.
pub fn kinds_of(events: &[Value]) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        let of = |field: &Value| field.as_str().unwrap_or_default().to_owned();
        *kinds.entry(format!("{} {}", of(&event["verb"]), of(&event["objectRef"]["resource"]))).or_default() += 1;
    }
    kinds.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

#[test]
fn an_upload_and_a_download_from_new_to_the_end() {
    let stage = Stage::enter();
    let real: &Arc<Real> = &stage.real;
    let replica = Replica::start(real, "velero", "only");
    replica.wait_for("acts in namespace velero");
    for download in [false, true] {
        let before = real.kube.audited();
        let scene = Scene { download, retain: false, wait_for_consumer: download, local: false, beside: false };
        // CRs of other movers keep their resourceVersion: I8.
        let outcome = World::on(stage.empty(), scene).play();
        assert!(outcome.violations.is_empty(), "{scene:?}: {}", outcome.violations.join("\n"));
        assert_eq!(outcome.phase, "Completed", "{scene:?}");
        let events = asked(real, "velero", before);
        let writes = events
            .iter()
            .filter(|event| ["create", "patch", "delete", "update"].iter().any(|verb| event["verb"] == *verb))
            // The Lease is of no CR, and an Event, where the machine is slow, is no write that anything rests on.
            .filter(|event| !["leases", "events"].iter().any(|other| event["objectRef"]["resource"] == *other))
            .count();
        eprintln!("{scene:?}: {} requests, of them {writes} writes: {}", events.len(), kinds_of(&events));
        // A conflict, as with the agent's write, costs one more each.
        let conflicts = events.iter().filter(|event| event["responseStatus"]["code"] == 409).count();
        let needed = if download { 12 } else { 17 };
        let all = writes + outcome.writes;
        assert!(all >= needed && all <= needed + conflicts, "{scene:?}: {writes} and {} of the agent", outcome.writes);
    }
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    assert_eq!(holder(real, "velero"), "");
}

/// As an operator's cluster has it: something else's container stands before ours.
const OWN_POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: second
  namespace: rest
spec:
  serviceAccountName: wherry-controller
  containers:
    - {name: proxy, image: 'proxy:1'}
    - {name: controller, image: 'wherry.test/own:1'}
";

/// In a namespace of their own: scenes go on meanwhile.
#[test]
fn two_replicas_rest_and_one_takes_over() {
    let real = &crate::real();
    real.kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: rest\n");
    real.kube.apply(&deployed("wherry-controller", "rest"));

    let first = Replica::start(real, "rest", "first");
    first.wait_for("acts in namespace rest");
    // This one is not told its image: it is that of its container in its pod.
    real.kube.apply(OWN_POD);
    let second = Replica::start_with(real, "rest", "second", &["--pod", "second"]);
    second.wait_for(" acts");
    assert!(holder(real, "rest").starts_with("first_"), "{}", holder(real, "rest"));

    // At rest each asks no more than once in ten seconds; on a slow machine it is only less. The first requests of the
    // first one are over when it has asked for all that it follows.
    let begin = Instant::now();
    // The one that waits follows the Lease.
    let of = |verb: &str| {
        let is = |event: &Value| event["verb"] == verb && event["objectRef"]["resource"] != "leases";
        asked(real, "rest", 0).into_iter().filter(is).collect::<Vec<_>>()
    };
    while of("watch").len() < 8 {
        assert!(begin.elapsed() < PATIENCE, "not all is watched:\n{}", first.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    first.wait_for("swept: ");
    // Of what is listed all but what is followed is of the sweep. It asks for no other object, as there is no base.
    let lists = of("list");
    let swept = lists.len() - 8;
    assert!(swept <= sweep::AT_REST && swept > 0, "{swept} of the sweep: {}", kinds_of(&lists));
    let (before, begin) = (real.kube.audited(), Instant::now());
    let renewed = renewal(real, "rest");
    std::thread::sleep(Duration::from_secs(11));
    // It holds the Lease all the time.
    while renewal(real, "rest") == renewed {
        assert!(begin.elapsed() < PATIENCE, "the Lease is not renewed:\n{}", first.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(holder(real, "rest").starts_with("first_"), "{}", holder(real, "rest"));
    let (requests, seconds) = (asked(real, "rest", before), begin.elapsed().as_secs_f32());
    let most = 2.0 * (seconds / 10.0).ceil();
    assert!(requests.len() as f32 <= most, "{} requests in {seconds} s: {requests:#?}", requests.len());

    // The first one gives the Lease back: the second one need not wait until it is taken for dead.
    let (output, log) = first.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    assert!(log.contains("ends after what is under way"), "{log}");
    // Nobody's, or taken already.
    assert!(!holder(real, "rest").starts_with("first_"), "{}", holder(real, "rest"));
    second.wait_for("acts in namespace rest");
    assert!(holder(real, "rest").starts_with("second_"), "{}", holder(real, "rest"));
    second.wait_for("hosting_image: \"wherry.test/own:1\"");
    let (output, log) = second.end();
    assert!(output.status.success(), "{output:?}\n{log}");
    // A pod that is not there is said, and that --image is the way round it.
    let (output, log) = Replica::start_with(real, "rest", "third", &["--pod", "third"]).wait();
    assert!(
        !output.status.success() && log.contains("no pod third in rest; give --image instead"),
        "{output:?}\n{log}"
    );
}

/// Who ends because the API server is away is started again later and later: it waits, and ends when it is told to.
#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let real = &crate::real();
    real.kube.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: away\n");
    real.kube.apply(&deployed("wherry-controller", "away"));
    real.kube.apply(&OWN_POD.replace("namespace: rest", "namespace: away"));
    settings(real, "away");
    let (listener, there) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicBool::new(false)));
    let server = format!("https://{}", listener.local_addr().unwrap());
    let (url, is_there) = (real.kube.url(), Arc::clone(&there));
    // It hangs up until the server is there. Ends with the process of the tests.
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            if !is_there.load(Ordering::Relaxed) {
                continue;
            }
            let to = TcpStream::connect(url.strip_prefix("https://").unwrap()).unwrap();
            for (mut from, mut to) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to); // whoever ends it
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    let start = || {
        let replica = Replica::start_at(real, &server, "away", "second", &["--pod", "second"]);
        replica.wait_for("it is asked for again every 5 s");
        replica
    };
    let (output, log) = start().end();
    assert!(output.status.success(), "{output:?}\n{log}");

    let replica = start();
    there.store(true, Ordering::Relaxed);
    replica.wait_for("hosting_image: \"wherry.test/own:1\"");
    let (output, log) = replica.end();
    assert!(output.status.success(), "{output:?}\n{log}");
}

/// A version that the server has forgotten is 410 Gone; then all is listed, and the watch goes on from there.
#[test]
fn a_watch_begins_anew_when_its_version_is_forgotten() {
    let stage = Stage::enter();
    let server = stage.empty();
    let kube = &stage.real.kube;
    let key = Key::new(Kind::DataUpload, "velero", "one");
    let spec = json!({
        "snapshotType": "CSI", "sourceNamespace": "app", "sourcePVC": "data", "backupStorageLocation": "default",
        "operationTimeout": "10m0s", "datamover": "wherry",
    });
    let object = json!({ "metadata": { "name": "one", "namespace": "velero" }, "spec": spec });
    server.create(Who::Velero, &key, &object);
    let (to, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let api = kube.account("velero", "wherry-controller");
    let of =
        Selection { kind: Kind::DataUpload, namespace: "velero".to_owned(), label: String::new(), name: String::new() };
    kube.wait(async {
        tokio::spawn(follow(api, of, Some("1".to_owned()), to));
        let listed = tokio::time::timeout(PATIENCE, seen.recv()).await;
        let Ok(Some(Seen::Listed(Kind::DataUpload, objects))) = listed else { panic!("no list: {listed:?}") };
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0]["metadata"]["name"], "one");
    });
    server.patch(Who::Velero, &key, &json!({ "spec": { "cancel": true } }));
    let next = kube.wait(async { tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap() });
    assert!(matches!(&next, Some(Seen::Changed(_, object)) if object["spec"]["cancel"] == true), "{next:?}");
    server.delete(Who::Velero, &key);
    let next = kube.wait(async { tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap() });
    assert!(matches!(&next, Some(Seen::Gone(_, object)) if object["metadata"]["name"] == "one"), "{next:?}");
}

#[test]
fn help_says_how_it_is_run() {
    let help = |args: &[&str]| {
        let output = Command::new(controller_bin()).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(help(&["--help"]).contains("\n  run "), "{}", help(&["--help"]));
    let run = help(&["run", "--help"]);
    for option in ["--namespace", "--image", "--pod", "--server", "--ca-file", "--token-file", "--log"] {
        assert!(run.contains(option), "{run}");
    }
    // Not in a cluster: it says what is missing.
    let output = Command::new(controller_bin()).args(["run", "--namespace", "velero"]).env_clear().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("KUBERNETES_SERVICE_HOST is not set"), "{said}");
}

//! Local volumes: the controller's scenes with rights of their own, and the agent on real devices and mounts that are in use
//! while they are read.

use crate::agent::{MIB, disk, snapshot_of};
use crate::rights::{USER, allowed, may, set};
use crate::{Stage, stand};
use reqwest::Method;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Kind};
use wherry_tests::cluster::{Event, How, Scene, World};
use wherry_tests::hosted::{Agent, Hosted, PATIENCE, Stand};
use wherry_tests::kube::Kube;
use wherry_tests::volumes::{Loop, Volume};

/// The component that is deployed for them; dropped, the controller has these rights no more.
pub struct Rights(Arc<Kube>);

const VOLUMES: (&str, &str) = ("", "persistentvolumes");

impl Rights {
    pub fn given(stage: &Stage) -> Self {
        let kube = stage.real.kube.clone();
        kube.apply(include_str!("../../../controller/deploy/local-volumes/rights.yaml"));
        let this = Self(kube);
        this.wait_until(true);
        this
    }

    /// The authorizer hears of it by a watch.
    fn wait_until(&self, given: bool) {
        while may(&self.0, USER, "", VOLUMES, "create", "") != given {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let paths = ["clusterrolebindings", "clusterroles"]
            .map(|all| format!("/apis/rbac.authorization.k8s.io/v1/{all}/wherry-local-volumes"));
        if paths.map(|path| self.0.ask(Method::DELETE, &path, None)).iter().all(Result::is_ok) {
            self.wait_until(false);
        }
    }
}

fn scene(retain: bool) -> Scene {
    Scene { download: false, retain, wait_for_consumer: false, local: true, beside: false }
}

#[test]
fn scenes_of_local_volumes_on_the_real_server() {
    let stage = Stage::enter();
    let before = allowed(&stage.real.kube, USER, "");
    let _rights = Rights::given(&stage);
    let mut expected = before;
    expected.extend(set(&["persistentvolumes create delete"]));
    assert_eq!(allowed(&stage.real.kube, USER, ""), expected);

    let run = |of: &str, world: World, phase: &str| {
        let outcome = world.run();
        let violations = outcome.violations.join("\n");
        assert!(violations.is_empty(), "{of}: {violations}\nsteps: {:#?}", outcome.steps);
        assert_eq!(outcome.phase, phase, "{of}: {:#?}", outcome.steps);
        outcome.writes
    };
    assert_eq!(run("alone", World::on(stage.empty(), scene(true)), "Completed"), 12);
    // A sample; all are in the model's suite.
    for (n, how) in [(4, How::ReplyLost), (11, How::Twice)] {
        let of = format!("write {n} {how:?}");
        run(&of, World::on(stage.empty().remembered(), scene(false)).fail(n, how), "Completed");
    }
    for (after, event, phase) in
        [(4, Event::Delete, ""), (7, Event::Cancel, "Canceled"), (4, Event::ClaimGone, "Completed")]
    {
        let of = format!("{event:?} after {after}");
        run(&of, World::on(stage.empty().remembered(), scene(false)).at(after, event), phase);
    }
}

/// Message, Event and tags say what such a backup is worth.
#[track_caller]
fn is_said(stand: &Stand, hosted: &Hosted, agent: &Agent, path: &Path) -> String {
    let cr = stand.until(hosted, agent, &["Completed"]);
    let message = cr["status"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("read live") && message.contains("crash-consistent at best"), "{message}");
    // It is sent after the phase is written.
    let begin = Instant::now();
    loop {
        let events = stand.kube.wait(stand.kube.admin().list(Kind::Event, &stand.namespace, &[])).unwrap();
        if events.iter().any(|event| event["message"] == message) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{events:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = snapshot_of(&cr).session;
    stand.says_live(&stand.outside(), &id, path);
    id
}

#[test]
fn a_device_that_is_mounted_and_written_to_is_uploaded() {
    let stand = stand("local-device");
    let agent = stand.agent();
    let image = stand.path("image");
    fs::File::create(&image).and_then(|file| file.set_len(32 * MIB)).unwrap();
    let device = Loop::new(&image, &[]);
    let run = |program: &str, args: &[&str]| assert!(Command::new(program).args(args).status().unwrap().success());
    run("mkfs.ext4", &["-q", "-F", device.text()]);
    let at = stand.path("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = Mounted::new(device.path(), &at);
    fs::write(at.join("hello"), "hello").unwrap();
    rustix::fs::syncfs(fs::File::open(&at).unwrap()).unwrap();

    // A local PV says what its owner thinks that it has, and all that is there is read.
    let hosted = stand.local_upload("up", "Block", 20 * MIB, device.path());
    let shown = stand.publish_local(&hosted, device.path(), device.path());
    stand.prepared(&hosted);
    let id = is_said(&stand, &hosted, &agent, device.path());
    assert!(!agent.has_open(shown.node()), "the device is open still");
    let cr = stand.get(&hosted.key);
    assert_eq!(cr["status"]["progress"]["totalBytes"], 32 * MIB);
    assert!(
        cr["status"]["message"].as_str().unwrap().contains("everything is read: a local volume"),
        "{}",
        cr["status"]
    );
    let said = stand.outside().run(&["cat", &id, "/p0/hello"]).ok().stdout;
    assert_eq!(said, "hello");
    drop(shown);
    drop(mounted);
    agent.end();
}

/// A mount that goes with the test.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(device: &Path, at: &'a Path) -> Self {
        assert!(Command::new("mount").arg(device).arg(at).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_directory_is_uploaded_while_it_is_used() {
    let stand = stand("local-files");
    let agent = stand.agent();
    let volume = Volume::ext4(32);
    let source = volume.path();
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "first").unwrap();
    let mut session = String::new();
    for (name, text) in [("first", "first"), ("second", "second")] {
        fs::write(source.join("a/b/file"), text).unwrap();
        let hosted = stand.local_upload(name, "Filesystem", 32 * MIB, &source);
        let at = stand.bind_local(&hosted, &source);
        assert!(fs::write(at.join("x"), "x").is_err(), "it is published read-only");
        stand.prepared(&hosted);
        session = is_said(&stand, &hosted, &agent, &source);
        assert!(!agent.has_open(&at), "the filesystem is in use still");
    }
    let said = stand.outside().run(&["cat", &session, "/a/b/file"]).ok().stdout;
    assert_eq!(said, "second");
    agent.end();
}

/// As when its disk did not come back with the node.
#[test]
fn a_directory_that_is_empty_all_at_once_fails() {
    let stand = stand("local-unmounted");
    let agent = stand.agent();
    let source = stand.path("source");
    fs::create_dir(&source).unwrap();
    let run = |name: &str, phase: &str| {
        let hosted = stand.local_upload(name, "Filesystem", 32 * MIB, &source);
        stand.bind_local(&hosted, &source);
        stand.prepared(&hosted);
        stand.until(&hosted, &agent, &[phase])
    };
    // That of a volume of which nothing is known may be empty, and that of one that was.
    run("first", "Completed");
    fs::create_dir(source.join("a")).unwrap();
    let full = snapshot_of(&run("full", "Completed")).session;
    fs::remove_dir(source.join("a")).unwrap();
    let cr = run("empty", "Failed");
    let message = cr["status"]["message"].as_str().unwrap();
    for part in [source.to_str().unwrap(), "is empty", &full, "1 files", "make a file in it"] {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(cr["status"]["snapshotID"].is_null(), "{cr}");
    fs::write(source.join("empty-on-purpose"), "").unwrap();
    run("on-purpose", "Completed");
    agent.end();
}

#[test]
fn what_is_not_the_local_volume_fails_before_the_first_byte() {
    let stand = stand("local-refusals");
    let agent = stand.agent();
    let file = disk(&stand, "disk", 8, 1);
    let (device, other) = (Loop::new(&file, &[]), Loop::new(&file, &[]));
    let fails = |hosted: &Hosted, words: &str| {
        stand.prepared(hosted);
        let cr = stand.until(hosted, &agent, &["Failed"]);
        let message = cr["status"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(words) && cr["status"]["snapshotID"].is_null(), "{message:?} does not say {words:?}");
    };
    // The kubelet took the path for another device than the one that it bound: names of devices change.
    let hosted = stand.local_upload("other", "Block", 8 * MIB, device.path());
    let _shown = stand.publish_local(&hosted, device.path(), other.path());
    fails(&hosted, "is not the device of");
    // A device with a filesystem, which the kubelet mounts a second time.
    let volume = Volume::tmpfs(MIB);
    let hosted = stand.local_upload("second", "Filesystem", 8 * MIB, device.path());
    stand.bind_local(&hosted, &volume.path());
    fs::create_dir_all(stand.root().join(format!("plugins/kubernetes.io/local-volume/mounts/{}", hosted.pv))).unwrap();
    fails(&hosted, "mounted a second time");
    agent.end();
}

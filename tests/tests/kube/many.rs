//! Many DataUploads at once: all end, nobody's write is lost, and the API server is not asked too much.

use crate::Stage;
use crate::replicas::{Replica, kinds_of};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::{Api, Key, Kind};
use wherry_api::kube_api::{path, path_of};
use wherry_api::watch::{Seen, Selection, follow};
use wherry_tests::cluster::many::Many;
use wherry_tests::cluster::real::Real;
use wherry_tests::cluster::{Server, Who};
use wherry_tests::hosted::PATIENCE;
use wherry_tests::kube::Kube;

/// So many unless `WHERRY_TEST_MANY` says another number, more than may be active at once: the figure of the design is
/// of 200, which the limit of requests makes a matter of ten minutes.
const MANY: usize = 18;
/// The most requests for one of them, on whatever machine; alone it takes about 60.
const EACH: usize = 90;
/// The figure: less than so many requests a second, on average.
const A_SECOND: f64 = 20.0;
/// After a pause so many may come at once; of the average of a long run they are nothing.
const BURST: f64 = 40.0;
/// Phases in their order.
const PHASES: [&str; 5] = ["", "Accepted", "Prepared", "InProgress", "Completed"];

fn ask(kube: &Kube, method: Method, path: &str, body: &Value) {
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    kube.ask(method, path, Some((media, body.to_string().into_bytes()))).unwrap();
}

/// As a later version of Velero may have it: the server takes whatever stands in the spec of a DataUpload.
fn loosen(kube: &Kube) {
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/datauploads.velero.io";
    let mut object = kube.ask(Method::GET, crd, None).unwrap();
    for version in object["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"] =
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    }
    ask(kube, Method::PUT, crd, &object);
    // It is not served at once.
    let probe = json!({
        "apiVersion": Kind::DataUpload.api_version(), "kind": "DataUpload", "metadata": { "name": "probe" },
        "spec": { "cancel": "perhaps" },
    });
    let dry = format!("{}?dryRun=All", path(Kind::DataUpload, "velero"));
    let begin = Instant::now();
    while let Err(e) = kube.ask(Method::POST, &dry, Some(("application/json", probe.to_string().into_bytes()))) {
        assert!(begin.elapsed() < PATIENCE, "{e}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Who was made first has the first deadline, whatever the names say; and one goes on at a time. Which one a controller takes that
/// has just begun to look is not said: it may be the first one that it has looked at.
#[test]
fn the_earliest_deadline_begins_first() {
    const MADE: [usize; 4] = [2, 0, 3, 1];
    let stage = Stage::enter();
    let server = stage.empty();
    let settings = Key::new(Kind::ConfigMap, "velero", "wherry");
    let one = json!({ "metadata": { "name": "wherry" }, "data": { "maxActive": "1" } });
    server.create(Who::Velero, &settings, &one);
    // Times of creation are in whole seconds.
    let mut uploads = Many::of(server, MADE.into_iter(), |_| std::thread::sleep(Duration::from_millis(1100)));
    let replica = Replica::start(&stage.real, "velero", "queue");
    let (begin, mut order) = (Instant::now(), Vec::new());
    while uploads.ended() < MADE.len() {
        assert!(begin.elapsed() < PATIENCE, "{:?}\n{}", uploads.phases(), replica.log());
        uploads.turn();
        let phases = uploads.phases();
        let is_active = |phase: &str| ["Accepted", "Prepared", "InProgress"].contains(&phase);
        assert!(phases.iter().filter(|(_, phase)| is_active(phase)).count() <= 1, "{phases:?}");
        for (name, phase) in phases {
            if !["", "New"].contains(&phase.as_str()) && !order.contains(&name) {
                order.push(name);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let behind: Vec<String> = MADE.map(|n| format!("b-{n}")).into_iter().filter(|name| *name != order[0]).collect();
    assert_eq!(order[1..], behind, "after {}", order[0]);
    uploads.turn();
    let wrong = uploads.wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(replica.end().0.status.success());
}

/// Four backups are older than a restore, and there are two places: it gets the next one, not the last one.
#[test]
fn a_restore_gets_its_share_of_the_places() {
    let stage = Stage::enter();
    let server = stage.empty();
    let settings = Key::new(Kind::ConfigMap, "velero", "wherry");
    let two = json!({ "metadata": { "name": "wherry" }, "data": { "maxActive": "2" } });
    server.create(Who::Velero, &settings, &two);
    let mut uploads = Many::on(server, 4);
    // Without agents nothing is begun: their pods run from now on.
    uploads.turn();
    let replica = Replica::start(&stage.real, "velero", "share");
    let waits = |phase: &str| ["", "New"].contains(&phase);
    let begun = |uploads: &Many| uploads.phases().iter().filter(|(_, phase)| !waits(phase)).count();
    let begin = Instant::now();
    // Nobody ends one of the first two meanwhile.
    while begun(&uploads) < 2 || uploads.queued() < 2 {
        assert!(begin.elapsed() < PATIENCE, "{:?}\n{}", uploads.phases(), replica.log());
        std::thread::sleep(Duration::from_millis(50));
        uploads.look();
    }
    // Times of creation are in whole seconds: its deadline is the last.
    std::thread::sleep(Duration::from_millis(1100));
    let restore = uploads.restore();
    while waits(&uploads.phase(&restore)) {
        assert!(begun(&uploads) < 4, "all backups came first: {:?}", uploads.phases());
        assert!(begin.elapsed() < PATIENCE, "{:?}\n{}", uploads.phases(), replica.log());
        uploads.turn();
        std::thread::sleep(Duration::from_millis(50));
    }
    // Where both of the first two end at once, a third one may have begun with it.
    assert!(begun(&uploads) < 4, "{:?}", uploads.phases());
    assert!(replica.end().0.status.success());
    // What that controller made is taken away with the rest.
    uploads.turn();
}

#[test]
fn many_uploads_at_once_all_end() {
    let many = std::env::var("WHERRY_TEST_MANY").map_or(MANY, |n| n.parse().expect("WHERRY_TEST_MANY is a number"));
    // A server of its own: other scenes go on meanwhile.
    let kube = Arc::new(Kube::start());
    let real = Arc::new(Real::new(Arc::clone(&kube)));
    loosen(&kube);
    let mut uploads = Many::on(Server::on(&real), many);
    // What nobody knows is nobody's to take away, and what cannot be read keeps no other one waiting.
    let (known, odd) = (Key::new(Kind::DataUpload, "velero", "b-1"), Key::new(Kind::DataUpload, "velero", "odd"));
    let mut object = kube.wait(kube.admin().get(&known)).unwrap().unwrap();
    ask(&kube, Method::PATCH, &path_of(&known), &json!({ "spec": { "later": { "field": [1] } } }));
    object["metadata"] = json!({ "name": "odd", "namespace": "velero" });
    object["spec"]["cancel"] = json!("perhaps");
    ask(&kube, Method::POST, &path(Kind::DataUpload, "velero"), &object);
    let of =
        Selection { kind: Kind::DataUpload, namespace: "velero".to_owned(), label: String::new(), name: String::new() };
    let (to, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let api = kube.admin().clone();
    kube.wait(async {
        tokio::spawn(follow(api, of, None, to));
    });

    let replica = Replica::start(&real, "velero", "many");
    let (begin, mut progress) = (Instant::now(), (Instant::now(), 0));
    while uploads.ended() < many {
        uploads.turn();
        // However slow the machine is: one after the other ends.
        if uploads.ended() > progress.1 {
            progress = (Instant::now(), uploads.ended());
        }
        assert!(progress.0.elapsed() < PATIENCE, "{} of {many} have ended:\n{}", progress.1, replica.log());
        // Each look lists all there is, on the two cores that the controller has, too.
        std::thread::sleep(Duration::from_millis(250));
    }
    let took = begin.elapsed().as_secs_f64();
    uploads.turn();
    let user = "system:serviceaccount:velero:wherry-controller";
    let mut events = kube.audit(0);
    events.retain(|event| event["user"]["username"] == user);
    let refused = events.iter().filter(|event| event["responseStatus"]["code"] == 409).count();
    let (a_second, each) = ((events.len() as f64 - BURST) / took, events.len() / many);
    eprintln!(
        "{many} DataUploads in {took:.0} s: {each} requests each, {a_second:.1} a second, {refused} of the controller's and {} of \
         the agent's writes refused: {}",
        uploads.conflicts,
        kinds_of(&events)
    );
    assert!(replica.end().0.status.success());

    let get = |key: &Key| kube.wait(kube.admin().get(key)).unwrap().unwrap();
    assert_eq!(get(&known)["spec"]["later"], json!({ "field": [1] }));
    let status = get(&odd)["status"].clone();
    let message = status["message"].as_str().unwrap_or_default();
    assert!(
        status["phase"] == "Failed" && message.contains("spec.cancel: ") && message.contains("perhaps"),
        "{status}"
    );
    let wrong = uploads.wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(a_second < A_SECOND, "{a_second:.1} requests a second");
    assert!(each <= EACH, "{each} requests for each of {many}");
    // No phase was ever taken back.
    let mut phases: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut note = |object: &Value| {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        if object["metadata"]["name"] == "odd" {
            return;
        }
        let at = PHASES.iter().position(|known| *known == phase).unwrap_or_else(|| panic!("{object:#}"));
        phases.entry(object["metadata"]["name"].as_str().unwrap_or_default().to_owned()).or_default().push(at);
    };
    while let Ok(event) = seen.try_recv() {
        match event {
            Seen::Listed(_, objects) => objects.iter().for_each(&mut note),
            Seen::Changed(_, object) => note(&object),
            Seen::Gone(_, object) => panic!("gone: {object:#}"),
        }
    }
    assert_eq!(phases.len(), many);
    for (name, phases) in &phases {
        assert!(phases.is_sorted() && phases.last() == Some(&(PHASES.len() - 1)), "{name}: {phases:?}");
    }
}

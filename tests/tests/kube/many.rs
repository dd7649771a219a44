//! Many DataUploads at once: all end, nobody's write is lost, and the API server is not asked too much.

use crate::replicas::{Replica, kinds_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_api::api::Kind;
use wherry_api::watch::{Seen, Selection, follow};
use wherry_tests::cluster::Server;
use wherry_tests::cluster::many::Many;
use wherry_tests::cluster::real::Real;
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

#[test]
fn many_uploads_at_once_all_end() {
    let many = std::env::var("WHERRY_TEST_MANY").map_or(MANY, |n| n.parse().expect("WHERRY_TEST_MANY is a number"));
    // A server of its own: other scenes go on meanwhile.
    let kube = Arc::new(Kube::start());
    let real = Arc::new(Real::new(Arc::clone(&kube)));
    let mut uploads = Many::on(Server::on(&real), many);
    let of = Selection { kind: Kind::DataUpload, namespace: "velero".to_owned(), label: String::new() };
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

    let wrong = uploads.wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(a_second < A_SECOND, "{a_second:.1} requests a second");
    assert!(each <= EACH, "{each} requests for each of {many}");
    // No phase was ever taken back.
    let mut phases: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut note = |object: &Value| {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
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

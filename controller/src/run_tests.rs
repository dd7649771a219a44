use super::*;
use serde_json::json;
use wherry_api::client::{Access, Client, Token};

/// A loop that has seen nothing yet, and asks nobody: its agents are known.
fn quiet(settings: &[(&str, &str)]) -> Loop {
    let access = Access {
        server: "https://127.0.0.1:1".to_owned(),
        authorities: Vec::new(),
        token: Token::Fixed(String::new()),
    };
    let registry = Arc::new(Registry::new(wherry_api::metrics::By::Controller));
    let (namespace, identity) = ("velero".to_owned(), "a".to_owned());
    let options = Options { namespace, identity, image: String::new(), registry, beat: None };
    let (stop, held) = (channel(false).1, channel(None).1);
    let told = unbounded_channel().0;
    let mut quiet = Loop::new(KubeApi::new(Client::new(access).unwrap()), options, stop, held, told);
    let pairs = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    quiet.settings = Some(Settings::parse(&pairs).unwrap());
    quiet.agents = Some((Instant::now(), BTreeSet::from(["n1".to_owned()])));
    quiet
}

fn upload(name: &str, phase: &str) -> (Key, Value) {
    let datamover = Settings::parse(&BTreeMap::new()).unwrap().datamovers.remove(0);
    let object = json!({
        "metadata": {
            "name": name, "namespace": "velero", "uid": name, "resourceVersion": "7",
            "finalizers": [names::FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "datamover": datamover }, "status": { "phase": phase },
    });
    (Key::new(Kind::DataUpload, "velero", name), object)
}

/// The watch tells of a DataUpload.
fn tell(of: &mut Loop, object: &Value) {
    of.see(Seen::Changed(Kind::DataUpload, Followed::of(Kind::DataUpload, object.clone())));
}

fn taken(of: &mut Loop) -> Option<String> {
    of.queue.take(Instant::now()).map(|key| key.name)
}

#[test]
fn what_needs_no_look_gets_none() {
    let mut quiet = quiet(&[]);
    let (key, mut object) = upload("a", "InProgress");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    quiet.queue.ended(&key, Ended::Settled, Instant::now());
    object["metadata"]["resourceVersion"] = json!("8");
    object["status"]["progress"] = json!({ "bytesDone": 1 });
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet), None);
    quiet.see(Seen::Listed(Kind::DataUpload, vec![Followed::of(Kind::DataUpload, object.clone())]));
    assert_eq!(taken(&mut quiet), None);
    object["status"]["phase"] = json!("Completed");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    quiet.queue.ended(&key, Ended::Settled, Instant::now());
    object["metadata"]["finalizers"] = json!([]);
    tell(&mut quiet, &object);
    quiet.see(Seen::Listed(Kind::Pod, Vec::new()));
    quiet.know_all();
    assert_eq!(taken(&mut quiet), None);
}

#[test]
fn a_cancel_ends_a_back_off() {
    let mut quiet = quiet(&[]);
    let (key, mut object) = upload("a", "Accepted");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    quiet.queue.ended(&key, Ended::Failed(Some(Duration::from_secs(60))), Instant::now());
    object["metadata"]["annotations"] = json!({ "a": "b" });
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet), None);
    object["spec"]["cancel"] = json!(true);
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
}

#[tokio::test]
async fn one_that_was_accepted_counts_before_the_watch_tells_of_it() {
    let mut quiet = quiet(&[("maxActive", "1"), ("hostingImage", "w")]);
    for name in ["a", "b"] {
        let (_, object) = upload(name, "New");
        tell(&mut quiet, &object);
    }
    let settings = quiet.settings.clone().unwrap();
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["a".to_owned()]));
    let (key, mut object) = upload("a", "New");
    let task =
        quiet.workers.spawn(async { Done { memory: Memory::default(), ended: Ended::Waits(None), accepted: true } });
    quiet.work.insert(task.id(), (key.clone(), true));
    let done = quiet.workers.join_next_with_id().await.unwrap();
    quiet.done(done);
    // An event of before comes late.
    object["metadata"]["resourceVersion"] = json!("8");
    tell(&mut quiet, &object);
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::new());
    object["status"]["phase"] = json!("Failed");
    tell(&mut quiet, &object);
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["b".to_owned()]));
}

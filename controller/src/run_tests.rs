use super::*;
use crate::glance::Own;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use wherry_api::Time;
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

/// A worker that had one is done.
async fn end(of: &mut Loop, key: &Key, admitted: bool, ended: Ended) {
    let (memory, own) = (Memory { by_name: true, ..Memory::default() }, Own::default());
    let uid = key.name.clone();
    let task = of.workers.spawn(async move { Done { uid, memory, own, ended, reached: Reached::default() } });
    of.work.insert(task.id(), (key.clone(), admitted));
    let done = of.workers.join_next_with_id().await.unwrap();
    of.done(done);
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
    object["metadata"]["resourceVersion"] = json!("9");
    object["status"]["phase"] = json!("Completed");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    quiet.queue.ended(&key, Ended::Settled, Instant::now());
    object["metadata"]["finalizers"] = json!([]);
    object["metadata"]["resourceVersion"] = json!("10");
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
    object["metadata"]["resourceVersion"] = json!("8");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet), None);
    object["spec"]["cancel"] = json!(true);
    object["metadata"]["resourceVersion"] = json!("9");
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
    let task = quiet.workers.spawn(async {
        let reached = Reached { accepted: true, ..Reached::default() };
        let (uid, ended) = ("a".to_owned(), Ended::Waits(None));
        Done { uid, memory: Memory::default(), own: Own::default(), ended, reached }
    });
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

/// The watch tells of each of our own writes, too, mostly before its answer is here.
#[tokio::test]
async fn what_a_worker_wrote_itself_wakes_nobody() {
    let mut quiet = quiet(&[]);
    let (key, mut object) = upload("a", "InProgress");
    tell(&mut quiet, &object);
    for (version, own) in [("8", true), ("9000", false)] {
        assert_eq!(taken(&mut quiet).as_deref(), Some("a"), "{version}");
        object["metadata"]["resourceVersion"] = json!(version);
        object["metadata"]["annotations"] = json!({ "a": version });
        let wrote = Own::of(&[(key.clone(), if own { version } else { "none" })]);
        let (uid, memory, ended) = ("a".to_owned(), Memory::default(), Ended::Settled);
        let done = Done { uid, memory, own: wrote, ended, reached: Reached::default() };
        let task = quiet.workers.spawn(async { done });
        quiet.work.insert(task.id(), (key.clone(), false));
        tell(&mut quiet, &object);
        let done = quiet.workers.join_next_with_id().await.unwrap();
        quiet.done(done);
        if own {
            assert_eq!(taken(&mut quiet), None);
            // What was meant for somebody else.
            object["metadata"]["annotations"] = json!({ "a": "others" });
            object["metadata"]["resourceVersion"] = json!("8000");
            tell(&mut quiet, &object);
        }
    }
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
}

#[tokio::test]
async fn one_that_waits_for_a_place_is_looked_at_when_there_is_one() {
    let mut quiet = quiet(&[("maxActive", "1"), ("hostingImage", "w")]);
    let (first, mut object) = upload("a", "Accepted");
    tell(&mut quiet, &object);
    tell(&mut quiet, &upload("b", "New").1);
    tell(&mut quiet, &upload("c", "New").1);
    while let Some(name) = taken(&mut quiet) {
        quiet.queue.ended(&Key::new(Kind::DataUpload, "velero", &name), Ended::Told(None), Instant::now());
    }
    quiet.let_begin().await;
    assert_eq!(taken(&mut quiet), None);
    object["metadata"]["resourceVersion"] = json!("8");
    object["status"]["phase"] = json!("Completed");
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet), Some(first.name));
    quiet.let_begin().await;
    assert_eq!(taken(&mut quiet).as_deref(), Some("b"));
    assert_eq!(taken(&mut quiet), None);
}

/// Its finalizer is our own write, of which nothing is to be heard; but with it, it is in the queue.
#[test]
fn one_that_enters_the_queue_by_our_own_write_is_looked_at() {
    let mut quiet = quiet(&[]);
    let (key, mut object) = upload("a", "New");
    object["metadata"]["finalizers"] = json!([]);
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    object["metadata"]["finalizers"] = json!([names::FINALIZER]);
    object["metadata"]["resourceVersion"] = json!("8");
    quiet.mirror.changed(Kind::DataUpload, &object);
    quiet.queue.ended(&key, Ended::Told(None), Instant::now());
    tell(&mut quiet, &object);
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    // And nothing of it is kept once it is over.
    assert!(quiet.mirror.get(&key).is_some());
    object["metadata"]["finalizers"] = json!([]);
    object["metadata"]["resourceVersion"] = json!("9");
    object["status"]["phase"] = json!("Completed");
    tell(&mut quiet, &object);
    assert!(quiet.mirror.get(&key).is_none());
}

/// What the loop knows and what the worker saw are not always the same.
#[tokio::test]
async fn one_that_is_let_begin_and_does_not_is_not_let_begin_again_and_again() {
    let mut quiet = quiet(&[("maxActive", "1"), ("hostingImage", "w")]);
    let (key, object) = upload("a", "New");
    tell(&mut quiet, &object);
    quiet.let_begin().await;
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    end(&mut quiet, &key, true, Ended::Settled).await;
    quiet.let_begin().await;
    assert_eq!(taken(&mut quiet), None);
}

/// A name is not a CR.
#[tokio::test]
async fn what_is_remembered_is_not_of_another_one_of_that_name() {
    let mut quiet = quiet(&[]);
    let (key, mut object) = upload("a", "InProgress");
    tell(&mut quiet, &object);
    end(&mut quiet, &key, false, Ended::Told(None)).await;
    assert!(quiet.memories[&key].by_name);
    // The same, as settings change: it stays.
    quiet.know_all();
    assert!(quiet.memories[&key].by_name);
    object["metadata"]["uid"] = json!("another");
    object["metadata"]["resourceVersion"] = json!("8");
    tell(&mut quiet, &object);
    assert!(!quiet.memories.contains_key(&key));
    // And what a worker still had of the one before comes late.
    end(&mut quiet, &key, false, Ended::Told(None)).await;
    assert!(!quiet.memories.contains_key(&key));
}

/// What keeps one from beginning is looked for by looks alone, of a restore also while there is no place for it: what was ready meanwhile
/// begins by its deadline, and not after all that came later.
#[tokio::test]
async fn a_restore_that_could_not_begin_is_looked_for_and_gets_its_place_back() {
    let mut quiet = quiet(&[("maxActive", "1"), ("hostingImage", "w")]);
    let (_, mut object) = upload("a", "New");
    object["kind"] = json!("DataDownload");
    let key = Key::new(Kind::DataDownload, "velero", "a");
    quiet.see(Seen::Changed(Kind::DataDownload, Followed::of(Kind::DataDownload, object)));
    let (_, mut later) = upload("b", "New");
    later["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    tell(&mut quiet, &later);
    let settings = quiet.settings.clone().unwrap();
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["a".to_owned()]));
    // It could not begin: the one behind it may.
    let done = |ready: bool, seen: Time| {
        let reached = Reached { ready, ..Reached::default() };
        let memory = Memory { cr_seen_at: Some(seen), ..Memory::default() };
        Done { uid: "a".to_owned(), memory, own: Own::default(), ended: Ended::Told(None), reached }
    };
    let end = async |quiet: &mut Loop, admitted: bool, done: Done| {
        let task = quiet.workers.spawn(async { done });
        quiet.work.insert(task.id(), (key.clone(), admitted));
        let done = quiet.workers.join_next_with_id().await.unwrap();
        quiet.done(done);
    };
    end(&mut quiet, true, done(false, time())).await;
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["b".to_owned()]));
    // Just looked at; then it is its turn again, and nothing has changed.
    assert!(!quiet.may_be_ready(&key));
    let before = Time(time().0 - 121);
    end(&mut quiet, false, done(false, before)).await;
    assert!(quiet.may_be_ready(&key));
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["b".to_owned()]));
    end(&mut quiet, false, done(true, before)).await;
    assert!(!quiet.may_be_ready(&key));
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["a".to_owned()]));
}

/// In any ten minutes, the sweep of the hour among them: `controller/docs/controller.md` has the table. The suite `kube` counts on a server what
/// one sweep asks.
#[test]
fn at_rest_it_asks_no_more_than_once_in_ten_seconds() {
    let most = |every: Duration| usize::try_from(600_u64.div_ceil(every.as_secs())).unwrap();
    let watches = (FOLLOWED.len() + jobs::FOLLOWED.len()) * most(wherry_api::watch::WATCH);
    let hourly = jobs::AT_REST * most(jobs::LONGEST) + sweep::AT_REST * most(sweep::EVERY);
    let all = [most(RENEW), most(RELOAD), watches, hourly];
    assert_eq!(all, [30, 10, 8, 8], "the table in controller/docs/controller.md says something else");
    assert!(all.iter().sum::<usize>() <= 60, "{all:?}");
}

/// A DataUpload whose VolumeSnapshot is not ready has been let begin, and cannot: the one behind it may, and it comes last.
#[tokio::test]
async fn an_upload_without_a_snapshot_keeps_nobody_waiting() {
    let mut quiet = quiet(&[("maxActive", "1"), ("hostingImage", "w")]);
    let (first, object) = upload("a", "New");
    tell(&mut quiet, &object);
    let (second, mut object) = upload("b", "New");
    object["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    tell(&mut quiet, &object);
    quiet.let_begin().await;
    assert_eq!(taken(&mut quiet).as_deref(), Some("a"));
    end(&mut quiet, &first, true, Ended::Waits(None)).await;
    let settings = quiet.settings.clone().unwrap();
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::from(["b".to_owned()]));
    // In its turn it is looked at; not while others can begin.
    assert_eq!(quiet.admitted(Some(&first), &settings).await, BTreeSet::from(["b".to_owned()]));
    assert_eq!(quiet.admitted(Some(&second), &settings).await, BTreeSet::from(["b".to_owned()]));
    object["metadata"]["resourceVersion"] = json!("8");
    object["status"]["phase"] = json!("Completed");
    tell(&mut quiet, &object);
    assert_eq!(quiet.admitted(None, &settings).await, BTreeSet::new());
    assert_eq!(quiet.admitted(Some(&first), &settings).await, BTreeSet::from(["a".to_owned()]));
}

/// Many restores that could not begin, and a server that does not say where agents are: it is asked once, not once for each, as
/// the Lease is renewed by nobody meanwhile; and where that is due, nothing is begun first.
#[tokio::test]
async fn a_server_that_does_not_tell_of_agents_keeps_no_lease_from_being_renewed() {
    let mut quiet = quiet(&[("hostingImage", "w")]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    let access = Access { server, authorities: Vec::new(), token: Token::Fixed(String::new()) };
    quiet.api = KubeApi::new(Client::new(access).unwrap());
    quiet.agents = None;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Each is closed at once. Nobody waits for this thread: it ends with the process.
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for name in ["a", "b", "c", "d"] {
        let (key, object) = upload(name, "New");
        tell(&mut quiet, &object);
        quiet.unready.insert(key);
    }
    let now = tokio::time::Instant::now();
    quiet.begin_work(now).await;
    assert_eq!((quiet.workers.len(), quiet.queue.next_due().is_some()), (0, true));
    assert!(quiet.agents_within(Duration::ZERO).await.is_none());
    let once = asked.load(Ordering::SeqCst);
    assert!(once > 0, "nobody was asked");
    quiet.begin_work(now + RENEW).await;
    // All were looked at, as nobody had before.
    assert_eq!(quiet.workers.len(), 4);
    assert_eq!(asked.load(Ordering::SeqCst), once);
}

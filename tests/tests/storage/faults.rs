//! S3 that refuses, stalls, cuts and forgets to answer.

use super::{Storage, conforms, key, server};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wherry_repo::storage::conformance::{Options as Amount, body_of};
use wherry_repo::storage::{Counters, Options, Retries, open};
use wherry_repo::{Error, ErrorKind};
use wherry_tests::faulty_s3::{Chaos, Fault, FaultyS3, Rule};
use wherry_tests::seaweed::options_for;

/// A proxy before the server, and a bucket behind it.
fn broken(bucket: &str) -> (FaultyS3, Arc<dyn Storage>, Options) {
    let proxy = FaultyS3::start(server().port());
    let options = Options { patience: Some(Duration::from_millis(700)), ..options_for(proxy.port()) };
    let storage = open(&format!("s3://{bucket}/x"), &options).unwrap();
    // Buckets are made by the first write, which takes a while.
    storage.overwrite(&key("first"), Bytes::new()).unwrap();
    (proxy, storage, options)
}

const PASSING: [Fault; 14] = [
    Fault::Refuse(500),
    Fault::Refuse(503),
    Fault::Refuse(429),
    Fault::Refuse(409),
    Fault::Refuse(412),
    Fault::ApplyAndRefuse(500),
    Fault::ApplyAndRefuse(409),
    Fault::LoseReply,
    Fault::DropRequest,
    Fault::CutRequest,
    Fault::CutReply,
    Fault::Stall,
    Fault::StallReply,
    Fault::ApplyAndRefuse(503),
];

#[test]
fn a_create_survives_what_passes_and_is_never_doubled() {
    let (proxy, storage, _) = broken("create");
    for (n, fault) in PASSING.into_iter().enumerate() {
        for len in [10, 3 << 20] {
            let key = key(&format!("snap/{n}-{len}"));
            let (ours, theirs) = (body_of(1, n as u32, len), body_of(2, n as u32, len));
            proxy.inject(Rule::next("PUT", fault));
            storage.create(&key, ours.clone()).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
            assert!(storage.get(&key).unwrap() == ours, "{fault:?}");

            // Somebody else was first, and we hit the same fault.
            proxy.inject(Rule::next("PUT", fault));
            let error = storage.create(&key, theirs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{fault:?}: {error}");
            assert!(storage.get(&key).unwrap() == ours, "{fault:?}");
        }
    }
    let hits: u64 = proxy.hits().values().sum();
    assert_eq!(hits, 4 * PASSING.len() as u64, "{:?}", proxy.hits());
}

#[test]
fn reads_deletes_and_listings_survive_what_passes() {
    let (proxy, storage, _) = broken("read");
    let body = body_of(0, 0, 3 << 20);
    storage.create(&key("packs/a"), body.clone()).unwrap();
    for fault in PASSING.into_iter().filter(|fault| !matches!(fault, Fault::CutRequest)) {
        let hit = |method| proxy.inject(Rule::next(method, fault));
        let before: u64 = proxy.hits().values().sum();
        hit("GET");
        assert!(storage.get(&key("packs/a")).unwrap() == body, "{fault:?}");
        hit("GET");
        assert!(storage.get_range(&key("packs/a"), 5..2 << 20).unwrap() == body.slice(5..2 << 20), "{fault:?}");
        hit("GET");
        let tail = storage.get_tail(&key("packs/a"), 100_000).unwrap();
        assert!(tail.size == body.len() as u64 && tail.bytes == body.slice(body.len() - 100_000..), "{fault:?}");
        hit("HEAD");
        assert_eq!(storage.head(&key("packs/a")).unwrap().size, body.len() as u64, "{fault:?}");
        hit("GET");
        let mut listed = Vec::new();
        storage
            .list("packs/", &mut |found| {
                listed.push(found.key.to_string());
                Ok(())
            })
            .unwrap();
        assert_eq!(listed, ["packs/a"], "{fault:?}");
        storage.create(&key("meta/a"), Bytes::new()).unwrap();
        hit("DELETE");
        storage.delete(&key("meta/a")).unwrap();
        assert_eq!(storage.head(&key("meta/a")).unwrap_err().kind(), ErrorKind::NotFound, "{fault:?}");
        hit("PUT");
        storage.overwrite(&key("sess/a/beat"), Bytes::from_static(b"1")).unwrap();
        let after: u64 = proxy.hits().values().sum();
        assert_eq!(after - before, 7, "{fault:?}");
    }
}

#[test]
fn what_does_not_pass_is_told_at_once() {
    let (proxy, storage, _) = broken("told");
    let told = |method, status, act: &dyn Fn() -> Result<(), Error>, kind, text: &str| {
        proxy.inject(Rule::next(method, Fault::Refuse(status)));
        let before = proxy.requests();
        let error = act().unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains(text) && error.to_string().contains("a/b"), "{status}: {error}");
        assert_eq!(proxy.requests() - before, 1, "{status}");
    };
    let get = || storage.get(&key("a/b")).map(|_| ());
    let create = || storage.create(&key("a/b"), Bytes::from_static(b"1"));
    told("GET", 403, &get, ErrorKind::Denied, "check the credentials");
    told("PUT", 403, &create, ErrorKind::Denied, "check the credentials");
    told("GET", 404, &get, ErrorKind::NotFound, "a/b");
    told("PUT", 507, &create, ErrorKind::Full, "make room");
}

#[test]
fn a_server_that_never_answers_is_given_up_in_time() {
    let (proxy, _, options) = broken("stalled");
    let retries = Retries { total: Duration::from_secs(2), ..options.retries };
    let storage = open("s3://stalled/x", &Options { retries, ..options }).unwrap();
    for method in ["GET", "PUT"] {
        proxy.inject(Rule { times: 1000, ..Rule::next(method, Fault::Stall) });
    }
    let begin = Instant::now();
    for error in [
        storage.get(&key("a")).unwrap_err(),
        storage.create(&key("b"), body_of(0, 0, 3 << 20)).unwrap_err(),
        storage.list("", &mut |_| Ok(())).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("gave up after"), "{error}");
        assert!(error.to_string().contains("no byte went either way"), "{error}");
    }
    // 2 s, the attempt under way, and for the listing the page and the whole; far from forever.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn a_long_listing_goes_on_at_the_page_that_failed() {
    let (proxy, storage, _) = broken("pages");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let storage = &storage;
            scope.spawn(move || {
                for n in (thread..2100).step_by(8) {
                    storage.create(&key(&format!("packs/{:02x}/{n}", n % 5)), Bytes::new()).unwrap();
                }
            });
        }
    });
    let before = proxy.requests();
    // Pages 1 and 3 pass; 2 is hit three times.
    for fault in [Fault::CutReply, Fault::Refuse(503), Fault::DropRequest] {
        proxy.inject(Rule { skip: 0, path: "continuation-token", ..Rule::next("GET", fault) });
    }
    let mut seen = Vec::new();
    storage
        .list("packs/", &mut |found| {
            seen.push(found.key);
            Ok(())
        })
        .unwrap();
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((all, seen.len()), (2100, 2100));
    assert_eq!(proxy.requests() - before, 6);
}

#[test]
fn slow_is_not_stalled() {
    let (proxy, storage, _) = broken("slow");
    proxy.latency(Duration::from_millis(200));
    let body = body_of(0, 0, 8 << 20);
    storage.create(&key("packs/a"), body.clone()).unwrap();
    assert!(storage.get(&key("packs/a")).unwrap() == body);
    assert_eq!(proxy.hits().len(), 0);
}

#[test]
fn the_contract_holds_over_a_storage_that_breaks_one_request_in_twelve() {
    let proxy = FaultyS3::start(server().port());
    let counters = Arc::new(Counters::default());
    let options = Options {
        patience: Some(Duration::from_millis(700)),
        counters: Arc::clone(&counters),
        ..options_for(proxy.port())
    };
    let seed = std::env::var("WHERRY_TEST_SEED").map_or(20_261_122, |seed| seed.parse().unwrap());
    println!("WHERRY_TEST_SEED={seed}");
    open("s3://chaos/x", &options).unwrap().overwrite(&key("first"), Bytes::new()).unwrap();
    open("s3://chaos/x", &options).unwrap().delete(&key("first")).unwrap();
    // Not 412 and not half a body for nothing: all that can happen on the way.
    let faults = PASSING.to_vec();
    proxy.chaos(Some(Chaos { seed, per_mille: 80, puts_per_mille: 80, faults }));
    let amount = Amount { rounds: 15, large_rounds: 1, racers: 16, large: 2 << 20, objects: 100 };
    conforms(&|| open("s3://chaos/x", &options), &amount);
    println!("{} requests, hit: {:?}; creates: {}", proxy.requests(), proxy.hits(), counters.create.requests());
    assert!(proxy.hits().len() >= 7, "every kind of fault: {:?}", proxy.hits());
}

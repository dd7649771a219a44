//! Two clusters on one bucket, one prefix and one key: what one of them forgets is its own affair, and all that is kept restores.

use crate::stand;
use serde_json::json;
use std::collections::BTreeSet;
use wherry_api::api::Kind;
use wherry_api::job::{Forgetting, State};
use wherry_tests::home::Home;
use wherry_tests::hosted::Stand;
use wherry_tests::jobs::FUTURE;

/// Leads another stand to the bucket of the first, whose repository it takes over, with a key of the same bytes.
fn joined(first: &Stand, namespace: &str) -> Stand {
    let second = stand(namespace);
    let spec = json!({ "spec": { "objectStorage": { "bucket": "velero", "prefix": first.namespace } } });
    second.patch(&second.key(Kind::Location, "default"), &spec);
    let data = |kind, name| first.get(&first.key(kind, name))["data"].clone();
    let known = data(Kind::ConfigMap, "wherry-repositories");
    second.create(Kind::ConfigMap, json!({ "metadata": { "name": "wherry-repositories" }, "data": known }));
    let key = json!({ "data": data(Kind::Secret, "wherry-repository") });
    second.patch(&second.key(Kind::Secret, "wherry-repository"), &key);
    second.available("default");
    second
}

fn visible(home: &Home) -> BTreeSet<String> {
    let list = home.run(&["snapshots", "--json"]).ok().json();
    list.as_array().unwrap().iter().map(|snapshot| snapshot["snapshot"].as_str().unwrap().to_owned()).collect()
}

fn forget(stand: &Stand, args: &[&str]) -> Forgetting {
    let result = stand.job("forget", args).ok();
    assert_eq!(result.state, State::Done, "{result:?}");
    result.forgetting.unwrap()
}

fn gc(stand: &Stand) -> u64 {
    let result = stand.job("gc", &["--grace", "0s"]).ok();
    assert_eq!(result.state, State::Done, "{result:?}");
    result.collecting.unwrap().deleted_bytes
}

#[test]
fn what_one_cluster_forgets_the_other_neither_ends_nor_loses() {
    let a = stand("two-a");
    let (_, home) = a.repository();
    let b = joined(&a, "two-b");
    // Each cluster's own backups, in one bucket; `mine` and `goes` are of the first.
    let mine = a.snapshot_of(&home, "mine", "uid-mine", FUTURE);
    let goes = a.snapshot_of(&home, "goes", "uid-goes", FUTURE);
    let theirs = b.snapshot_of(&home, "theirs", "uid-theirs", FUTURE);
    for (backup, uid) in [("mine", "uid-mine"), ("goes", "uid-goes"), ("theirs", "uid-theirs")] {
        a.store(backup, uid);
    }
    let all = BTreeSet::from([mine.clone(), goes.clone(), theirs.clone()]);
    for stand in [&a, &b] {
        assert_eq!((forget(stand, &[]).kept, visible(&home)), (3, all.clone()));
        assert_eq!(gc(stand), 0);
    }
    let whole = |ids: &[(&str, &String)]| {
        for (uid, id) in ids {
            home.run(&["restore", id, "out.raw", "--force", "-q"]).ok();
            let (is, was) = (home.path("out.raw"), home.path(&format!("data-{uid}")));
            assert!(std::fs::read(is).unwrap() == std::fs::read(was).unwrap(), "{uid}");
        }
    };

    // The first one deletes a backup. Its delay is over at once; the other cluster looks, and collects.
    a.unstore("goes");
    a.seen_deleting("uid-goes");
    assert_eq!(forget(&a, &["--delay", "0s"]).forgotten, 1);
    let left = BTreeSet::from([mine.clone(), theirs.clone()]);
    for _ in 0..2 {
        let seen = forget(&b, &["--missing-for", "0s"]);
        assert_eq!((seen.forgotten, seen.undone, visible(&home)), (0, 0, left.clone()));
        gc(&b);
    }
    // It is back before the first one has looked once more.
    a.store("goes", "uid-goes");
    assert_eq!((forget(&a, &[]).undone, visible(&home)), (1, all));
    whole(&[("uid-mine", &mine), ("uid-goes", &goes), ("uid-theirs", &theirs)]);

    // What the other one deletes it makes final itself, and either one collects it.
    let before: u64 = a.stored("packs/").iter().sum();
    a.unstore("theirs");
    b.seen_deleting("uid-theirs");
    assert_eq!(forget(&b, &["--delay", "0s"]).forgotten, 1);
    forget(&a, &["--missing-for", "0s"]);
    // One condemns, the next would delete.
    assert_eq!(gc(&a) + gc(&a), 0, "it is not final");
    forget(&b, &[]);
    let deleted = gc(&a) + gc(&b);
    let after: u64 = a.stored("packs/").iter().sum();
    assert!(deleted > 0 && after < before, "of {before} bytes {after} are left, {deleted} were deleted");
    whole(&[("uid-mine", &mine), ("uid-goes", &goes)]);
    home.run(&["check", "--read-data"]).ok();
}

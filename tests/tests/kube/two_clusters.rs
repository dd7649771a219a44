//! Two clusters, each with an API server of its own, on one bucket, one prefix and one key, with the same names in both: what one of them
//! forgets is its own affair, and all that is kept restores.

use crate::agent::{MIB, disk, snapshot_of};
use crate::{seaweed, stand};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use wherry_api::api::Kind;
use wherry_api::job::{Forgetting, State};
use wherry_tests::cluster::real::Real;
use wherry_tests::home::Home;
use wherry_tests::hosted::{PATIENCE, Stand};
use wherry_tests::jobs::FUTURE;
use wherry_tests::kube::Kube;

/// Another cluster, with a namespace of the same name, on the bucket of the first, whose repository it takes over, with a key of the
/// same bytes.
fn joined(first: &Stand) -> Stand {
    let second = Stand::new(Arc::new(Real::new(Arc::new(Kube::start()))), seaweed(), &first.namespace);
    assert_ne!(first.cluster(), second.cluster());
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
    let b = joined(&a);
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

/// Agents of both move volumes of the same names at the same time, into one repository, beside collectors of both that spare nobody:
/// neither builds on the other's snapshots, or ends its runs.
#[test]
fn agents_of_two_clusters_write_at_once_beside_collectors_of_both() {
    let a = stand("two-agents");
    let (_, home) = a.repository();
    let b = joined(&a);
    let stands = [&a, &b];
    let agents = stands.map(Stand::agent);
    let mut ids = Vec::new();
    for round in 0..2 {
        let under_way: Vec<_> = stands
            .iter()
            .enumerate()
            .map(|(n, stand)| {
                // The second disk of each has a new end.
                let file = disk(stand, &format!("disk-{round}"), 48, 24 + 8 * round + n as u64);
                let hosted = stand.upload(&format!("up-{round}"), "Block", 48 * MIB);
                let device = stand.publish(&hosted, &file);
                stand.prepared(&hosted);
                (*stand, n, file, hosted, device)
            })
            .collect();
        let done = |of: &(&Stand, usize, _, wherry_tests::hosted::Hosted, _)| {
            let cr = of.0.get(&of.3.key);
            ["Completed", "Failed"].map(|phase| cr["status"]["phase"] == phase).contains(&true)
        };
        let begin = std::time::Instant::now();
        let mut collected = 0;
        while collected < 2 || !under_way.iter().all(done) {
            assert!(begin.elapsed() < PATIENCE, "{}", agents[0].log());
            for stand in stands {
                gc(stand);
            }
            collected += 1;
        }
        for (stand, n, file, hosted, _device) in &under_way {
            let cr = stand.until(hosted, &agents[*n], &["Completed"]);
            ids.push((snapshot_of(&cr).session, file.clone(), cr["status"]["message"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(visible(&home).len(), 4);
    for (n, (id, file, message)) in ids.iter().enumerate() {
        // The second of each on its own first.
        let expected = if n < 2 { "first snapshot".to_owned() } else { format!("based on {}", ids[n - 2].0) };
        assert!(message.contains(&expected), "{expected}: {message}");
        home.run(&["restore", id, "out.raw", "--force", "-q"]).ok();
        assert!(std::fs::read(home.path("out.raw")).unwrap() == std::fs::read(file).unwrap(), "{id} is another disk");
    }
    agents.into_iter().for_each(wherry_tests::hosted::Agent::end);
    home.run(&["check", "--read-data"]).ok();
}

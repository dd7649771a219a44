//! Random trees come back as they were, and so do they after random changes.

use super::{age, backup, comes_back};
use crate::harness::Home;
use std::fs;
use std::thread;
use wherry_tests::trees::{change, grow};

const SEEDS: u64 = 6;
const CHANGES: usize = 60;

#[test]
fn random_trees_come_back_before_and_after_changes() {
    let homes: Vec<_> = (0..SEEDS)
        .map(|seed| {
            let home = Home::with_repository();
            fs::create_dir(home.path("tree")).unwrap();
            grow(&home.path("tree"), seed);
            (seed, home)
        })
        .collect();
    age();
    thread::scope(|scope| {
        for half in homes.chunks(SEEDS.div_ceil(2) as usize) {
            scope.spawn(|| half.iter().for_each(|(seed, home)| of_seed(*seed, home)));
        }
    });
}

fn of_seed(seed: u64, home: &Home) {
    let first = backup(home, "tree", &[]);
    assert_eq!((&first["partial"], &first["files_unread"]), (&false.into(), &0.into()), "{first}");
    comes_back(home, "tree", &format!("seed {seed}"));
    let again = backup(home, "tree", &[]);
    // Names of one inode beyond the first follow it, and empty files have nothing to read.
    assert_eq!(
        (&again["read"], &again["new"], &again["stored"]),
        (&0.into(), &0.into(), &0.into()),
        "seed {seed}: {again}"
    );
    assert_eq!(again["root"], first["root"], "seed {seed}: the same tree is the same nodes");
    change(&home.path("tree"), seed, CHANGES);
    let third = backup(home, "tree", &[]);
    assert_eq!(third["parent"], again["snapshot"]);
    assert!(third["files_unread"].as_u64().unwrap() > 50, "seed {seed}: {third}");
    assert!(third["read"].as_u64().unwrap() > 0, "seed {seed}: {third}");
    comes_back(home, "tree", &format!("seed {seed} after changes"));
    home.run(&["check", "--read-data", "-q"]).ok();
}

//! Both ways of reading small files, many at once over rings and one by one, make the same snapshot.

use super::{backup, comes_back};
use crate::harness::Home;
use std::fs;
use std::process::Command;
use wherry_repo::format::tree::MAX_SHARED;
use wherry_tests::binary::wherry_bin;
use wherry_tests::small::noise;
use wherry_tests::trees::grow;

#[test]
fn rings_and_threads_make_the_same_snapshot() {
    for seed in 20..23 {
        let home = Home::with_repository();
        fs::create_dir(home.path("tree")).unwrap();
        grow(&home.path("tree"), seed);
        fs::create_dir(home.path("tree/batches")).unwrap();
        // Enough for whole batches, with lengths around that of the largest that is read whole.
        for n in 0..400u64 {
            let len = if n % 8 == 0 { MAX_SHARED - 25 + n / 8 } else { n * 37 % 9000 };
            fs::write(home.path(&format!("tree/batches/{n}")), noise(seed << 32 | n, len as usize)).unwrap();
        }
        let one = backup(&home, "tree", &["--engine", "threads"]);
        let many = backup(&home, "tree", &["--engine", "ring", "--force-read"]);
        assert_eq!((&one["engine"], &many["engine"]), (&"threads".into(), &"ring".into()));
        assert_eq!((&many["new"], &many["stored"]), (&0.into(), &0.into()), "seed {seed}: {many}");
        for same in ["root", "size", "files", "read", "hole", "missing"] {
            assert_eq!(many[same], one[same], "seed {seed}: {same}");
        }
        comes_back(&home, "tree", &format!("seed {seed}"));
    }
}

#[test]
fn who_may_have_few_descriptors_reads_one_by_one_and_says_so() {
    let home = Home::with_repository();
    fs::create_dir(home.path("tree")).unwrap();
    (0..100).for_each(|n| fs::write(home.path(&format!("tree/{n}")), format!("{n}")).unwrap());
    // The soft limit and the hard one.
    let run = |limits: &str| {
        let mut command = Command::new("prlimit");
        home.prepare(&mut command);
        home.point_to_repository(&mut command);
        command.arg(format!("--nofile={limits}")).arg(wherry_bin());
        command.args(["backup", "tree", "--name", "t", "--json", "--force-read"]);
        home.ran(command.output().unwrap()).ok()
    };
    let says = |stderr: &str| stderr.matches("reads files one by one, it has no ring").count();
    let raised = run("64:4096");
    assert_eq!((&raised.json()["engine"], says(&raised.stderr)), (&"ring".into(), 0), "{raised:?}");
    let few = run("64:64");
    assert_eq!((&few.json()["engine"], says(&few.stderr)), (&"threads".into(), 1), "{few:?}");
    assert_eq!(few.json()["root"], raised.json()["root"]);
}

//! Both ways of reading small files, many at once over rings and one by one, make the same snapshot.

use super::{backup, comes_back};
use crate::harness::Home;
use std::fs;
use wherry_repo::format::tree::MAX_SHARED;
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

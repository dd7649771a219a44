//! A process that is killed while it fills the index.

use super::process::{Process, say};
use super::*;

/// Packs to a segment.
const SEGMENT: u32 = 8;

/// Goes on where the index ends, for ever; says the number of the next pack now and then.
pub(super) fn fill(dir: &Path) {
    let (index, opened) = open(dir);
    assert!(matches!(opened, Opened::Fresh | Opened::Reused), "{opened:?}");
    let first = (0..).find(|n| !index.covered_pack(&pack(*n)).expect("covered")).expect("a number");
    // Where a segment was begun and not covered, it is taken in again, as a rebuild would.
    for n in first / SEGMENT * SEGMENT.. {
        insert(&index, n).expect("insert");
        if n % SEGMENT == SEGMENT - 1 {
            index.cover(&format!("idx/{}", n / SEGMENT)).expect("cover");
            if n >= first + 8 * SEGMENT {
                say(&n.to_string());
            }
        }
    }
}

#[test]
fn what_is_covered_after_a_kill_is_there() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut survived = 0;
    for round in 0..8 {
        let mut process = Process::start("fill", dir.path());
        // Each report comes a segment later; memtables hold about 30 packs, so the kill hits all stages of a flush.
        (0..=round * 5).for_each(|_| drop(process.says()));
        process.kill();

        let (index, opened) = open(dir.path());
        assert!(matches!(opened, Opened::Fresh | Opened::Reused), "{opened:?}");
        let packs = (0..).take_while(|n| index.covered_pack(&pack(*n)).expect("covered")).count() as u32;
        assert!(packs >= survived, "what was on disk stays");
        survived = packs;
        for n in 0..packs {
            assert_eq!(found(&index, n), 100, "pack {n} of {packs}");
        }
        for n in packs..packs + 300 {
            assert_eq!(found(&index, n), 0, "pack {n} after {packs}");
            assert!(!index.covered_pack(&pack(n)).expect("covered"));
        }
        for segment in 0..packs + 100 {
            let covered = index.is_covered(&format!("idx/{segment}")).expect("covered");
            assert!(!covered || (segment + 1) * SEGMENT <= packs, "segment {segment} of {packs} packs");
        }
    }
    assert!(survived > 200, "only {survived} packs reached the disk: nothing was tested");
}

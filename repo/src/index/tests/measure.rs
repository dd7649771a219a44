//! Speed and memory, for a person to read: `cargo test --release -p wherry-repo index::tests::measure -- --ignored
//! --nocapture`. One case a process, chosen by the environment: `ROWS` (default 1000000) and `MEMORY` in MiB (16).

use super::*;
use std::time::Instant;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A line of /proc/self/status in MiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = text.lines().find(|l| l.starts_with(name)).expect("line");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("number") / 1024
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let (count, memory) = (setting("ROWS", 1_000_000), setting("MEMORY", 16));
    let dir = tempfile::tempdir().expect("tempdir");
    let mut options = options(dir.path());
    options.memory = memory << 20;
    let packs = (count / 100) as u32;
    let before = status("VmRSS");
    let per = |start: Instant, n: u64| start.elapsed().as_nanos() as f64 / n as f64 / 1000.0;

    let (index, _) = ChunkIndex::open(&options).expect("open");
    let start = Instant::now();
    (0..packs).for_each(|n| insert(&index, n).expect("insert"));
    let insert_us = per(start, count);
    index.flush().expect("flush");
    let inserted = status("VmRSS");

    let ask = |first: u64, threads: u64| {
        let asked = 400_000u64;
        let start = Instant::now();
        std::thread::scope(|scope| {
            for t in 0..threads {
                let index = &index;
                scope.spawn(move || {
                    for i in 0..asked {
                        let n = first + (i * 7_919 + t * 104_729) % count;
                        let found = index.lookup(&id(n)).expect("lookup");
                        assert_eq!(found.len(), usize::from(n < count));
                    }
                });
            }
        });
        per(start, asked)
    };
    let hashing = Instant::now();
    let sum: u64 = (0..400_000).map(|n| u64::from(id(n).bytes()[0])).sum();
    let hash_us = per(hashing, 400_000);
    let (miss, hit, miss2) = (ask(count, 1), ask(0, 1), ask(count, 2));
    let stats = index.stats();
    println!(
        "{count} rows, {memory} MiB: insert {insert_us:.2} us/row, miss {miss:.2} us, hit {hit:.2} us, miss with 2 threads \
         {miss2:.2} us (of which {hash_us:.2} us make the id, {sum}); {:.1} bytes/row on disk; RSS {before} MiB, \
         +{} inserted, +{} asked, peak +{}; {stats:?}",
        stats.disk as f64 / count as f64,
        inserted.saturating_sub(before),
        status("VmRSS").saturating_sub(before),
        status("VmHWM").saturating_sub(before),
    );
}

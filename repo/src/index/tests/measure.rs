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

/// Nanoseconds this thread has been on a processor: what it took, whatever else the machine does.
fn thread_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("number")
}

/// Seconds of CPU all threads took.
fn process_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let ticks = text.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2);
    ticks.map(|n| n.parse::<f64>().expect("number")).sum::<f64>() / 100.0
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
    let (index, _) = ChunkIndex::open(&options).expect("open");
    let (start, cpu) = (Instant::now(), process_seconds());
    (0..packs).for_each(|n| insert(&index, n).expect("insert"));
    index.flush().expect("flush");
    let (wall, cpu) = (start.elapsed().as_secs_f64(), process_seconds() - cpu);
    println!(
        "{count} rows, {memory} MiB: inserted in {wall:.1} s, CPU {:.2} us/row with all background work; RSS {before} MiB, +{}",
        cpu * 1e6 / count as f64,
        status("VmRSS").saturating_sub(before)
    );

    let asked = setting("ASKED", 400_000);
    let timed = |f: &dyn Fn(u64)| {
        let (start, cpu) = (Instant::now(), thread_ns());
        (0..asked).for_each(f);
        let per = |ns: u64| ns as f64 / asked as f64 / 1000.0;
        (per(thread_ns() - cpu), per(start.elapsed().as_nanos() as u64))
    };
    println!("PHASE");
    let hashing = timed(&|i| assert_ne!(id(i), ShortId::default())).0;
    println!("  making an id: CPU {hashing:.2} us (taken off below)");
    for (what, first, step) in [
        ("miss", count, 7_919),
        ("hit, packs at random", 0, 7_919),
        ("hit, in order", 0, 1),
        ("miss again", count, 7_919),
    ] {
        let (cpu, wall) = timed(&|i| {
            let n = first + i * step % count;
            assert_eq!(index.lookup(&id(n)).expect("lookup").len(), usize::from(n < count));
        });
        println!("  {what}: CPU {:.2} us, wall {:.2} us", cpu - hashing, wall - hashing);
    }
    let stats = index.stats();
    println!(
        "  {:.1} bytes/row on disk; RSS +{} MiB, peak +{} MiB; {stats:?}",
        stats.disk as f64 / count as f64,
        status("VmRSS").saturating_sub(before),
        status("VmHWM").saturating_sub(before),
    );
}

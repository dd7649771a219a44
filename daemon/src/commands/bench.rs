//! `wherry bench`

use crate::cli::{BenchArgs, Size};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use crate::progress::Progress;
use crate::storage;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use wherry_repo::bench::{self, Latency, Speed, StorageLimits, StorageSpeed, Work};
use wherry_repo::{Compression, Error, Result};

const SECONDS: Duration = Duration::from_secs(2);
const SIZE: Size = Size(1 << 30);
/// A smaller amount says nothing about a storage.
const LEAST_SIZE: Size = Size(1 << 20);

const LZ4: Compression = Compression::Lz4;
const ZSTD: Compression = Compression::Zstd(3);

/// What the processor does: the name in JSON, which is stable, the words for people, and the work.
const WORK: [(&str, &str, Work); 7] = [
    ("chunk-id", "chunk ids (BLAKE3)", Work::ChunkId),
    ("compress-lz4", "lz4: compress and compare", Work::Compress(LZ4)),
    ("decompress-lz4", "lz4: decompress", Work::Decompress(LZ4)),
    ("compress-zstd-3", "zstd:3: compress and compare", Work::Compress(ZSTD)),
    ("decompress-zstd-3", "zstd:3: decompress", Work::Decompress(ZSTD)),
    ("seal", "encrypt (AES-256-GCM)", Work::Seal),
    ("open", "decrypt and verify", Work::Open),
];

#[derive(Serialize)]
struct View<'a> {
    /// The repository's place, where its storage was measured.
    location: Option<&'a str>,
    rows: Vec<Row>,
    latencies: Vec<Wait>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// Threads of the processor, or requests at a time.
    threads: usize,
    /// Bytes of plaintext, or on the way to or from the storage.
    bytes: u64,
    bytes_per_second: f64,
}

impl Row {
    fn new(name: &'static str, speed: Speed) -> Self {
        let Speed { threads, bytes, bytes_per_second } = speed;
        Self { name, threads, bytes, bytes_per_second }
    }
}

#[derive(Serialize)]
struct Wait {
    name: &'static str,
    /// The median.
    seconds: f64,
    requests: usize,
}

impl Wait {
    fn new(name: &'static str, latency: Latency) -> Self {
        Self { name, seconds: latency.median.as_secs_f64(), requests: latency.requests }
    }
}

/// Measures this machine and, where one is named, the storage of a repository.
pub(crate) fn run(context: &Context, args: BenchArgs) -> anyhow::Result<Exit> {
    let BenchArgs { seconds, size } = args;
    let (time, size) = (seconds.unwrap_or(SECONDS), size.unwrap_or(SIZE));
    if size < LEAST_SIZE {
        return Err(Error::invalid(format!("--size {size} is too little: give at least {LEAST_SIZE}")).into());
    }
    let location = context.settings.repo.as_deref();
    // First: where it cannot be written to, nobody should wait for the rest.
    let stored = location.map(|place| stored(context, place, time, size)).transpose()?;
    let mut rows = Vec::new();
    let counts = threads(context);
    for (name, _, work) in WORK {
        for threads in &counts {
            let progress = context.progress(name, None);
            let tick = |bytes| {
                progress.add(bytes);
                Ok(())
            };
            rows.push(Row::new(name, bench::cpu(work, *threads, time, &context.system, &tick)?));
        }
    }
    let mut latencies = Vec::new();
    if let Some(StorageSpeed { write, read, create, get, list }) = stored {
        rows.extend([Row::new("storage-write", write), Row::new("storage-read", read)]);
        latencies.extend([
            Wait::new("storage-create", create),
            Wait::new("storage-get", get),
            Wait::new("storage-list", list),
        ]);
    }
    let view = View { location, rows, latencies };
    context.output.result(&view, || text(&view, &counts))?;
    Ok(Exit::Done)
}

/// One thread, and as many as a backup has where memory allows.
fn threads(context: &Context) -> Vec<usize> {
    let room = context.budget.buffers().saturating_sub(bench::SHARED_MEMORY) / bench::THREAD_MEMORY;
    let most = context.budget.workers.min(room as usize).max(1);
    if most == 1 { vec![1] } else { vec![1, most] }
}

/// Measures the storage of the repository that is there.
fn stored(context: &Context, place: &str, time: Duration, size: Size) -> Result<StorageSpeed> {
    let storage = storage::open(place, &context.settings.s3)?;
    let budget = &context.budget;
    let limits = StorageLimits {
        pack_size: budget.pack_size as usize,
        uploads: budget.uploads,
        downloads: if context.is_remote() { budget.downloads } else { budget.downloads.min(budget.workers * 2) },
        most: size.0,
        time,
    };
    let _armed = context.cancel.arm("what it had written to the repository is removed");
    let shown = Shown::default();
    let mut begin = |what: &'static str| shown.next(context.progress(what, None));
    let tick = |bytes| {
        shown.add(bytes);
        context.cancel.check()
    };
    bench::storage(&storage, &limits, &context.system, &mut begin, &tick)
        .map_err(|e| e.context(format!("the storage {place} cannot be measured")))
}

/// The row that is under way.
#[derive(Default)]
struct Shown(parking_lot::Mutex<Option<Arc<Progress>>>);

impl Shown {
    fn next(&self, progress: Progress) {
        *self.0.lock() = Some(Arc::new(progress));
    }

    fn add(&self, bytes: u64) {
        if let Some(progress) = &*self.0.lock() {
            progress.add(bytes);
        }
    }
}

fn text(view: &View<'_>, counts: &[usize]) -> String {
    let heads: Vec<String> =
        counts.iter().map(|n| if *n == 1 { "1 THREAD".to_owned() } else { format!("{n} THREADS") }).collect();
    let mut columns = vec![("PROCESSOR", Side::Left)];
    columns.extend(heads.iter().map(|head| (head.as_str(), Side::Right)));
    let mut table = Table::new(&columns);
    for (name, words, _) in WORK {
        let speeds = view.rows.iter().filter(|row| row.name == name).map(rate);
        table.row(std::iter::once(words.to_owned()).chain(speeds));
    }
    let mut text = table.render();
    let Some(place) = view.location else {
        text.push_str("\nThe storage was not measured: name a repository with --repo or WHERRY_REPOSITORY.\n");
        return text;
    };
    let mut table = Table::new(&[("STORAGE", Side::Left), ("", Side::Right), ("", Side::Left)]);
    for (name, words, things) in [("storage-write", "write", "packs"), ("storage-read", "read", "ranges")] {
        if let Some(row) = view.rows.iter().find(|row| row.name == name) {
            let note = format!("{} in {things}, {} at a time", output::size(row.bytes), row.threads);
            table.row([words.to_owned(), rate(row), note]);
        }
    }
    for (wait, words) in view.latencies.iter().zip(["create a small object", "get a small object", "list"]) {
        table.row([words.to_owned(), short(wait.seconds), format!("median of {}", wait.requests)]);
    }
    text.push_str(&format!("\n{}:\n{}", output::shown(place), table.render()));
    text
}

fn rate(row: &Row) -> String {
    format!("{}/s", output::size(row.bytes_per_second as u64))
}

/// A short time for people.
fn short(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_have_few_digits() {
        for (seconds, text) in [(0.000_034_2, "34 µs"), (0.0015, "1.5 ms"), (0.25, "250.0 ms"), (12.34, "12.3 s")] {
            assert_eq!(short(seconds), text);
        }
    }
}

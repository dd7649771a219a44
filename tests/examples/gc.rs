//! What a collector costs, by the number of chunks:
//! `cargo run -p wherry-tests --release --example gc -- [--chunks 1M,4M,16M] [--dir DIR] [--memory 256]`.
//!
//! Makes a repository of so many chunks below DIR (by default the directory for temporary files), runs a collector without
//! effects on it, one that collects, and again one without effects, each in a process of its own, and prints what they took
//! and by how much that grows. Of most chunks the packs have nothing but holes, so 16 M chunks (2 TiB stored) take about 3 GiB of disk; all else
//! is real: indexes and trailers of packs, index segments, maps, records, RocksDB. `--memory` is in MiB.

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wherry_repo::format::pack::{HEADER, TRAILER, Trailer};
use wherry_repo::index::{ChunkIndex, IndexOptions};
use wherry_repo::storage::{Counters, Listed, Local, Metered, Storage, Tail};
use wherry_repo::{
    CollectOptions, CollectStep, Components, InitOptions, Key, MadeDisk, Repository, Result, Snapshot, System,
    WriterOptions,
};
use wherry_tests::small::{CHEAP, password};

/// Volumes, of which one is forgotten as a whole.
const VOLUMES: u64 = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let dir = option("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let memory: u64 = option("--memory").map_or(256, |memory| memory.parse().unwrap());
    match args.first().map(String::as_str) {
        Some("make") => println!("{}", make(&dir, args[1].parse().unwrap()).unwrap()),
        Some(what @ ("plan" | "collect" | "again")) => {
            println!("{}", collect(&dir, what != "collect", memory).unwrap())
        }
        _ => {
            let list = option("--chunks").unwrap_or_else(|| "1M,4M,16M".into());
            let chunks = |text: &str| text.trim_end_matches('M').parse::<f64>().unwrap() * 1e6;
            measure(&dir, &list.split(',').map(|n| chunks(n) as u64).collect::<Vec<_>>(), memory);
        }
    }
}

/// Runs all steps for each number of chunks.
fn measure(dir: &Path, sizes: &[u64], memory: u64) {
    let mut known: Option<Vec<Value>> = None;
    for chunks in sizes {
        let scratch = tempfile::tempdir_in(dir).unwrap();
        let run = |what: &[&str]| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(what).arg("--dir").arg(scratch.path()).args(["--memory", &memory.to_string()]);
            let output = command.stderr(Stdio::inherit()).output().unwrap();
            assert!(output.status.success(), "{what:?} of {chunks} chunks: {}", output.status);
            let value: Value = serde_json::from_slice(&output.stdout).unwrap();
            println!("{} {value}", what[0]);
            value
        };
        // The last finds by their ids what the one before moved.
        let all = vec![run(&["make", &chunks.to_string()]), run(&["plan"]), run(&["collect"]), run(&["again"])];
        if let Some(before) = known {
            println!("slope {}", slope(&before, &all));
        }
        known = Some(all);
    }
}

/// By how much each figure grew for each chunk more.
fn slope(before: &[Value], after: &[Value]) -> Value {
    let number = |of: &[Value], n: usize, name: &str| of[n][name].as_f64().unwrap();
    let chunks = number(after, 0, "chunks") - number(before, 0, "chunks");
    let mut rates = BTreeMap::new();
    for (n, what) in ["make", "plan", "collect", "again"].into_iter().enumerate() {
        for name in ["disk", "peak", "seconds", "cpu", "requests", "read", "written"] {
            if after[n][name].is_number() {
                let grown = number(after, n, name) - number(before, n, name);
                rates.insert(
                    format!("{what} {name} for a million chunks"),
                    (1e8 * grown / chunks).round_ties_even() / 100.0,
                );
            }
        }
    }
    json!(rates)
}

fn open(storage: Arc<dyn Storage>, new: bool) -> Result<Repository> {
    let system = Arc::new(System::default());
    let components = Components { storage, clock: system.clone(), rng: system };
    let mut options = InitOptions::default();
    options.password_cost = CHEAP;
    match new {
        true => Repository::init(components, &options, &password()),
        false => Repository::open(components, &password()),
    }
}

/// Makes a repository of about so many chunks. Of each volume the first snapshot is forgotten: in the second one a part has
/// changed that fills whole packs, and one of which an eighth stayed the same; then a few places everywhere. Another volume
/// has what the first one begins with, found by the index.
fn make(dir: &Path, chunks: u64) -> Result<Value> {
    let start = Instant::now();
    let root = dir.join("repository");
    let repository = open(Arc::new(Holes { inner: Local::new(root.to_str().unwrap(), false), root }), true)?;
    let id = repository.id();
    let index = IndexOptions { dir: dir.join("cache"), repository: id, memory: 256 << 20, max_disk: 64 << 30 };
    let index = Arc::new(ChunkIndex::open(&index)?.0);
    // What changes comes on top.
    let size = chunks * 100 / 108 / VOLUMES;
    let sparse = size / 2..size / 2 + (size / 1000).max(1024);
    let changes = |generation: u64, n: u64| match generation {
        0 => true,
        1 => n < size * 6 / 100 || (sparse.contains(&n) && !n.is_multiple_of(8)) || n % 2048 < 20,
        _ => n % 4096 > 4076,
    };
    let write = |name: String, size: u64, content: &dyn Fn(u64) -> Option<(u64, bool)>| -> Result<Snapshot> {
        let mut disk = MadeDisk::start(&repository, index.clone(), &WriterOptions { name, ..Default::default() })?;
        let mut same: Range<u64> = 0..0;
        let inherit = |disk: &mut MadeDisk, same: &mut Range<u64>| match std::mem::take(same) {
            none if none.is_empty() => Ok(()),
            some => disk.inherit(some),
        };
        for n in 0..size {
            match content(n) {
                None if same.end == n => same.end += 1,
                None => same = n..n + 1,
                Some((content, real)) => {
                    inherit(&mut disk, &mut same)?;
                    disk.put(n, content, real)?;
                }
            }
            if n % 65536 == 65535 {
                inherit(&mut disk, &mut same)?;
                disk.advance(n + 1)?;
            }
        }
        inherit(&mut disk, &mut same)?;
        disk.commit(size)
    };
    let mut forgotten = Vec::new();
    for volume in 0..VOLUMES {
        for generation in 0..3 {
            let named = |n: u64| (volume << 56) | (generation << 48) | n;
            // What will be copied must be there, also of packs in which a part that changed begins or ends.
            let edges =
                [size * 6 / 100..size * 6 / 100 + 64, sparse.start - 64..sparse.start, sparse.end..sparse.end + 64];
            let is_edge = |n: u64| edges.iter().any(|edge| edge.contains(&n));
            let is_real = |n: u64| generation == 0 && (is_edge(n) || (sparse.contains(&n) && n.is_multiple_of(8)));
            let content = |n: u64| changes(generation, n).then(|| (named(n), is_real(n)));
            let snapshot = write(format!("volume-{volume}"), size, &content)?;
            if generation == 0 || volume + 1 == VOLUMES {
                forgotten.push(snapshot.id);
            }
            eprintln!("volume {volume}, generation {generation}: {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    write("twin".into(), size / 4, &|n| Some((n, false)))?;
    for id in forgotten {
        repository.forget(&id, Duration::ZERO, "of the measurement")?;
    }
    index.flush()?;
    let mut parts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for prefix in ["packs/", "meta/", "idx/", "snap/"] {
        repository.storage().list(prefix, &mut |object| {
            let (objects, bytes) = parts.entry(prefix).or_default();
            (*objects, *bytes) = (*objects + 1, *bytes + object.size);
            Ok(())
        })?;
    }
    let rows = index.stats();
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "chunks": rows.rows, "objects and bytes": parts, "RocksDB": rows.disk, "disk": blocks(dir), "seconds": seconds,
        "peak": peak(),
    }))
}

/// Runs a collector and says what it took.
fn collect(dir: &Path, dry_run: bool, memory: u64) -> Result<Value> {
    let counters = Arc::new(Counters::default());
    let local = Local::new(dir.join("repository").to_str().unwrap(), false);
    let repository = open(Arc::new(Metered::new(Arc::new(local), counters.clone())), false)?;
    let before = peak();
    let phases = Mutex::new((Instant::now(), "start", BTreeMap::<&str, f64>::new()));
    let turn = |name: &'static str| {
        let mut phases = phases.lock().unwrap();
        let (since, was) = (phases.0, phases.1);
        *phases.2.entry(was).or_default() += since.elapsed().as_secs_f64();
        (phases.0, phases.1) = (Instant::now(), name);
    };
    let watch = |step: CollectStep, _: u64, _: u64| {
        turn(match step {
            CollectStep::Lists => "lists",
            CollectStep::Mark => "mark",
            CollectStep::Copy => "copy",
            CollectStep::Wait => "wait",
            CollectStep::Sweep => "sweep",
            CollectStep::Compact => "compact",
        });
        Ok(())
    };
    let start = Instant::now();
    let options = CollectOptions { dry_run, grace: Duration::ZERO, memory: memory << 20, ..CollectOptions::default() };
    let report = repository.collect(&options, &watch)?;
    turn("end");
    let phases = phases.into_inner().unwrap().2;
    let Counters { get, head, create, overwrite, list, delete } = &*counters;
    // A listing over a network has a thousand objects a page.
    let pages = list.requests() + list.bytes() / 1000;
    let requests = json!({
        "get": get.requests(), "head": head.requests(), "create": create.requests(), "delete": delete.requests(),
        "pages of lists": pages,
    });
    Ok(json!({
        "seconds": start.elapsed().as_secs_f64(), "cpu": cpu(), "phases": phases, "peak": peak(), "peak before": before,
        "by kind": requests, "requests": requests.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(),
        "read": get.bytes(), "written": create.bytes() + overwrite.bytes(), "packs": report.all.packs,
        "live packs": report.live.packs, "condemned": report.condemned.packs, "thin": report.thin.packs,
        "copied chunks": report.copied.packs, "copied bytes": report.copied.bytes, "swept": report.swept.packs,
        "segments dropped": report.segments,
    }))
}

/// The most memory this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// Seconds of all cores that this process took so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // User and system time, in hundredths.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Bytes that a directory takes on its disk.
fn blocks(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| if e.path().is_dir() { blocks(&e.path()) } else { e.metadata().unwrap().blocks() * 512 }).sum()
}

/// Local files, but that packs of chunks have holes where nothing is but zeros.
#[derive(Debug)]
struct Holes {
    inner: Local,
    root: PathBuf,
}

impl Holes {
    const PAGE: usize = 4096;
    /// Every chunk that is real is longer, and covers such a place.
    const PROBE: usize = 64 << 10;

    fn write(&self, key: &Key, body: &[u8]) -> std::io::Result<()> {
        let path = self.root.join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap())?;
        let file = std::fs::File::create_new(path)?;
        // What is made here need not outlive a crash.
        if !key.as_str().starts_with("packs/") {
            return file.write_all_at(body, 0);
        }
        file.set_len(body.len() as u64)?;
        let trailer = Trailer::decode(&body[body.len() - TRAILER..], body.len() as u64).unwrap();
        let index = trailer.index_offset as usize;
        file.write_all_at(&body[..HEADER], 0)?;
        file.write_all_at(&body[index..], index as u64)?;
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let chunks = &body[..index];
        if (Self::PROBE..index).step_by(Self::PROBE).all(|at| is_zero(&chunks[at..index.min(at + 16)])) {
            return Ok(());
        }
        for (n, page) in chunks.chunks(Self::PAGE).enumerate().filter(|(_, page)| !is_zero(page)) {
            file.write_all_at(page, (n * Self::PAGE) as u64)?;
        }
        Ok(())
    }
}

impl Storage for Holes {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn is_local(&self) -> bool {
        true
    }

    fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key)
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range)
    }

    fn get_tail(&self, key: &Key, len: u64) -> Result<Tail> {
        self.inner.get_tail(key, len)
    }

    fn head(&self, key: &Key) -> Result<Listed> {
        self.inner.head(key)
    }

    fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.write(key, &body).unwrap_or_else(|e| panic!("{key}: {e}"));
        Ok(())
    }

    fn overwrite(&self, key: &Key, body: Bytes) -> Result<()> {
        self.inner.overwrite(key, body)
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
}

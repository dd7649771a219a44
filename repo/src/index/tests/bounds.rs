//! Bounds on disk and memory.

use super::super::options::sampled;
use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Bytes that all files under a folder take on disk. Files may go away meanwhile.
fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

#[test]
fn a_full_allowance_keeps_a_sample() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut options = options(dir.path());
    options.max_disk = 16 << 20;
    let (index, _) = ChunkIndex::open(&options).expect("open");
    let packs = 6_000;
    let mut largest = 0;
    for n in 0..packs {
        insert(&index, n).expect("insert");
        if n % 4 == 0 {
            largest = largest.max(size(dir.path()));
        }
    }
    assert!(largest <= options.max_disk, "{largest} bytes on disk");
    drop(index);
    let (index, opened) = ChunkIndex::open(&options).expect("open");
    assert_eq!(opened, Opened::Reused);
    let bits = index.stats().sampling;
    assert!((1..6).contains(&bits), "{bits}");
    let (mut covered, mut kept, mut sample) = (0, 0, 0);
    for n in 0..packs {
        kept += found(&index, n);
        if !index.covered_pack(&pack(n)).expect("covered") {
            continue;
        }
        covered += 1;
        for row in rows(n, chunks(n)).iter().filter(|row| sampled(row.id.bytes(), bits)) {
            sample += 1;
            assert_eq!(index.lookup(&row.id).expect("lookup"), [location(n, row)]);
        }
    }
    assert!(covered > packs / 2, "{covered} of {packs} packs were taken in");
    assert!(sample > 5000 && kept >= sample, "{sample} {kept}");
    assert!(kept < covered as usize * 100 * 3 / 4, "trimmed: {kept} rows");
}

#[test]
fn memory_takes_no_more_than_it_may() {
    let index = ChunkIndex::in_memory(1 << 20);
    let mut taken = 0;
    for n in 0..1000 {
        insert(&index, n).expect("insert");
        index.cover(&format!("idx/{n}")).expect("cover");
        taken += found(&index, n);
    }
    // 768 KiB of 41 bytes a slot, of which the table's growth takes a part.
    assert!((7_000..18_000).contains(&taken), "{taken} rows");
    assert_eq!(index.stats().rows, taken as u64);
    assert_eq!(found(&index, 0), 100, "the first stay");
}

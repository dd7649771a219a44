//! Both engines read the same bytes: files and devices, any ranges, any size. Needs root (loop devices).
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;
use std::sync::LazyLock;

use common::{ENGINES, KIB, Loop, MIB, file_with, pattern, read, sparse_file};
use proptest::prelude::*;
use wherry_block::{BufferPool, Engine, Error, Kind, Source};

/// Ascending ranges within `size` made of (gap, length) steps.
fn ranges(steps: &[(u64, u64)], size: u64) -> Vec<Range<u64>> {
    let mut at = 0;
    let mut all = Vec::new();
    for (gap, len) in steps {
        let start = (at + gap).min(size);
        at = (start + len).min(size);
        all.push(start..at);
    }
    all
}

/// What a reading of `ranges` in `unit`s must give: the touched units, the rest 0.
fn expected(data: &[u8], ranges: &[Range<u64>], unit: usize) -> Vec<u8> {
    let mut all = vec![0; data.len()];
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let start = range.start as usize / unit * unit;
        let end = (range.end as usize).next_multiple_of(unit).min(data.len());
        all[start..end].copy_from_slice(&data[start..end]);
    }
    all
}

fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0u64..400_000, 0u64..400_000), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn files_read_the_same(
        steps in steps(), size in prop_oneof![0usize..5000, 0usize..2_000_000],
        unit in prop_oneof![Just(4096usize), Just(65536)], units in 1usize..5, depth in 1usize..9, buffers in 1usize..9,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let data = pattern(size, size as u64);
        let path = file_with(&folder.path().join("disk"), &data);
        let ranges = ranges(&steps, size as u64);
        let pool = BufferPool::new(unit * units, buffers).unwrap();
        for engine in ENGINES {
            let source = Source::open(&path, engine).unwrap();
            prop_assert_eq!(source.geometry().size, size as u64);
            let got = read(&source, ranges.clone(), unit, depth, &pool).unwrap();
            prop_assert!(got == expected(&data, &ranges, unit), "{} differs", engine);
        }
    }
}

/// A device with sectors of 512 bytes whose size is no multiple of 4096, and one with sectors of 4096.
static DEVICES: LazyLock<[(&str, Vec<u8>); 2]> =
    LazyLock::new(|| [("512", pattern(2 * MIB + 3 * 512, 1)), ("4096", pattern(2 * MIB + 4096, 2))]);

#[test]
fn devices_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (sectors, data) in DEVICES.iter() {
        let file = file_with(&folder.path().join(sectors), data);
        for direct in ["--direct-io=on", "--direct-io=off"] {
            let device = Loop::new(&file, &["--sector-size", sectors, direct]);
            proptest!(ProptestConfig::with_cases(25), |(steps in steps(), depth in 1usize..9, buffers in 1usize..9)| {
                let ranges = ranges(&steps, data.len() as u64);
                let pool = BufferPool::new(128 * KIB, buffers).unwrap();
                for engine in ENGINES {
                    let source = Source::open(&device.0, engine).unwrap();
                    let geometry = source.geometry();
                    prop_assert_eq!(geometry.kind, Kind::Device);
                    prop_assert_eq!(geometry.size, data.len() as u64);
                    prop_assert_eq!(geometry.logical_block.to_string(), *sectors);
                    prop_assert!(source.is_direct());
                    let got = read(&source, ranges.clone(), 64 * KIB, depth, &pool).unwrap();
                    prop_assert!(got == expected(data, &ranges, 64 * KIB), "{} differs", engine);
                }
            });
        }
    }
}

/// The last sector of 4096 bytes is not all there: the kernel gives out none of it, so the device ends before it.
#[test]
fn a_device_that_ends_within_a_sector_is_read_up_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = pattern(MIB + 512, 3);
    let file = file_with(&folder.path().join("disk"), &data);
    let device = Loop::new(&file, &["--sector-size", "4096"]);
    for engine in ENGINES {
        assert!(common::read_everything(&device.0, engine) == data[..MIB], "{engine}");
    }
}

#[test]
fn extents_leave_out_holes_and_cost_nothing_on_huge_files() {
    let folder = tempfile::tempdir().unwrap();
    let size = 15u64 << 40;
    let data = pattern(64 * KIB, 4);
    let places = [0, 1 << 30, (14 << 40) + 4096, size - 64 * KIB as u64];
    let parts: Vec<(u64, &[u8])> = places.iter().map(|at| (*at, &data[..])).collect();
    let path = sparse_file(&folder.path().join("disk"), size, &parts);
    for engine in ENGINES {
        let source = Source::open(&path, engine).unwrap();
        let extents: Vec<_> = source.extents(0..u64::MAX).collect();
        assert_eq!(extents, places.map(|at| at..at + 64 * KIB as u64));
        assert_eq!(source.extents(4096..(1 << 30) + 10).collect::<Vec<_>>(), [4096..65536, 1 << 30..(1 << 30) + 10]);
        assert_eq!(source.extents(1 << 31..1 << 32).count(), 0);
        let pool = BufferPool::new(64 * KIB, 4).unwrap();
        let got = common::collect(source.read_all(source.extents(0..size), 64 * KIB, 4, &pool).unwrap()).unwrap();
        // The third lies across two units.
        assert_eq!(got.keys().copied().collect::<Vec<_>>(), [0, 1 << 30, 14 << 40, (14 << 40) + 65536, places[3]]);
        assert!(got[&places[1]] == data && got[&(14 << 40)][4096..] == data[..61440]);
    }
}

#[test]
fn reads_at_an_offset_and_refuses_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let data = pattern(10_000, 5);
    let path = file_with(&folder.path().join("disk"), &data);
    let pool = BufferPool::new(8192, 1).unwrap();
    let source = Source::open(&path, Engine::Auto).unwrap();
    assert!(source.read_at(8192, 1808, pool.take()).unwrap()[..] == data[8192..]);
    assert!(source.read_at(4096, 10, pool.take()).unwrap()[..] == data[4096..4106]);
    for (offset, len) in [(8192, 1809), (1, 100), (0, 8193), (u64::MAX - 4095, 1)] {
        assert!(matches!(source.read_at(offset, len, pool.take()), Err(Error::Invalid { .. })), "{len} at {offset}");
    }
    for unit in [0, 1000, 512, 16384] {
        assert!(matches!(source.read_all(std::iter::once(0..1), unit, 4, &pool), Err(Error::Invalid { .. })), "{unit}");
    }
    let disordered = source.read_all([0..5000, 4999..6000].into_iter(), 4096, 4, &pool).unwrap();
    assert!(matches!(common::collect(disordered), Err(Error::Invalid { .. })));
    assert_eq!(pool.free(), 1);
}

#[test]
fn only_disks_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    common::run("mkfifo", &[pipe.to_str().unwrap()]);
    for path in [folder.path(), &pipe, "/dev/null".as_ref()] {
        assert!(matches!(Source::open(path, Engine::Auto), Err(Error::Invalid { .. })), "{path:?}");
    }
    assert!(matches!(Source::open(&folder.path().join("none"), Engine::Auto), Err(Error::NotFound { .. })));
}

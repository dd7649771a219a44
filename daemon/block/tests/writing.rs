//! Sinks: out of order, zeros, odd sizes, errors. Needs root (loop devices, mounts).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::{ENGINES, KIB, Loop, MIB, Mount, file_with, pattern, read_everything, sparse_file};
use proptest::prelude::*;
use rustix::io::Errno;
use wherry_block::{BufferPool, Engine, Error, Sink, SinkOptions};

const UNIT: usize = 64 * KIB;

fn options(engine: Engine) -> SinkOptions {
    SinkOptions { engine, depth: 4, below_loop: false }
}

/// Restores `data`: units that are all zero by `zero`, the others by `write`, in the order of `keys`, by three threads.
fn restore(sink: &Sink, data: &[u8], keys: &[u32], pool: &BufferPool) {
    let mut units: Vec<usize> = (0..data.len().div_ceil(UNIT)).collect();
    units.sort_by_key(|unit| keys[unit % keys.len()].wrapping_mul(*unit as u32 | 1));
    std::thread::scope(|scope| {
        for part in units.chunks(units.len().div_ceil(3).max(1)) {
            scope.spawn(move || {
                for unit in part {
                    let start = unit * UNIT;
                    let bytes = &data[start..data.len().min(start + UNIT)];
                    if bytes.iter().all(|byte| *byte == 0) {
                        sink.zero(start as u64..(start + bytes.len()) as u64).unwrap();
                        continue;
                    }
                    let mut buffer = pool.take();
                    buffer.set_len(bytes.len());
                    buffer.copy_from_slice(bytes);
                    sink.write(start as u64, buffer).unwrap();
                }
            });
        }
    });
    sink.flush().unwrap();
    assert_eq!(pool.free(), pool.count(), "buffers are missing after flush");
}

/// Data with every third unit zero.
fn data(size: usize) -> Vec<u8> {
    let mut data = pattern(size, size as u64);
    data.chunks_mut(UNIT).skip(1).step_by(3).for_each(|unit| unit.fill(0));
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn files_are_restored_exactly(
        size in prop_oneof![0usize..9000, 0usize..1_500_000], old in 0usize..2_000_000, keys in prop::collection::vec(any::<u32>(), 1..9),
    ) {
        let data = data(size);
        let pool = BufferPool::new(UNIT, 6).unwrap();
        for engine in ENGINES {
            let folder = tempfile::tempdir().unwrap();
            let fresh = folder.path().join("fresh");
            let sink = Sink::create(&fresh, size as u64, options(engine), &pool).unwrap();
            prop_assert!(sink.is_fresh() && sink.geometry().size == size as u64);
            restore(&sink, &data, &keys, &pool);
            drop(sink);
            prop_assert!(fs::read(&fresh).unwrap() == data, "{} to a fresh file", engine);

            let existing = file_with(&folder.path().join("existing"), &vec![0xAA; old]);
            let sink = Sink::open(&existing, size as u64, options(engine), &pool).unwrap();
            prop_assert!(!sink.is_fresh());
            restore(&sink, &data, &keys, &pool);
            drop(sink);
            prop_assert!(fs::read(&existing).unwrap() == data, "{} to an existing file", engine);
        }
    }
}

#[test]
fn devices_full_of_junk_are_restored_exactly_and_no_further() {
    let pool = BufferPool::new(UNIT, 6).unwrap();
    for (sectors, size) in
        [("512", MIB + 777), ("512", MIB + 512), ("4096", MIB + 1000), ("4096", MIB), ("4096", 2 * MIB)]
    {
        let data = data(size);
        for engine in ENGINES {
            let folder = tempfile::tempdir().unwrap();
            let file = file_with(&folder.path().join("disk"), &vec![0xAA; 2 * MIB]);
            let device = Loop::new(&file, &["--sector-size", sectors]);
            let sink = Sink::open(&device.0, size as u64, options(engine), &pool).unwrap();
            assert_eq!(sink.geometry().size, 2 * MIB as u64);
            restore(&sink, &data, &[7, 3], &pool);
            drop(sink);
            let now = read_everything(&device.0, engine);
            assert!(now[..size] == data, "{engine} {sectors} {size}: restored");
            assert!(now[size..].iter().all(|byte| *byte == 0xAA), "{engine} {sectors} {size}: the rest");
            assert!(fs::read(&file).unwrap() == now);

            // Asked for before the data, as a restore does it, or after it.
            for first in [true, false] {
                let sink = Sink::open(&device.0, size as u64, options(engine), &pool).unwrap();
                let zero_behind = || {
                    let mut at = Some(size as u64);
                    while let Some(from) = at {
                        at = sink.zero_behind(from).unwrap();
                    }
                };
                if first {
                    zero_behind();
                }
                restore(&sink, &data, &[3], &pool);
                if !first {
                    zero_behind();
                    sink.flush().unwrap();
                }
                drop(sink);
                let now = read_everything(&device.0, engine);
                assert!(now[..size] == data, "{engine} {sectors} {size}, rest first: {first}");
                assert!(now[size..].iter().all(|byte| *byte == 0), "{engine} {sectors} {size}, rest first: {first}");
                fs::write(&file, vec![0xAA; 2 * MIB]).unwrap();
            }
        }
    }
}

/// A tail that is zero must be zeroed too, and only it.
#[test]
fn a_zero_tail_overwrites_junk() {
    let size = UNIT + 700;
    let pool = BufferPool::new(UNIT, 2).unwrap();
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let file = file_with(&folder.path().join("disk"), &vec![0xAA; MIB]);
        let device = Loop::new(&file, &[]);
        let sink = Sink::open(&device.0, size as u64, options(engine), &pool).unwrap();
        sink.zero(UNIT as u64..size as u64).unwrap();
        sink.flush().unwrap();
        drop(sink);
        let now = read_everything(&device.0, engine);
        assert!(now[UNIT..size].iter().all(|byte| *byte == 0));
        assert!(now[..UNIT].iter().chain(&now[size..]).all(|byte| *byte == 0xAA));
    }
}

#[test]
fn a_fresh_file_stays_sparse_and_a_hole_is_cut_into_an_old_one() {
    let pool = BufferPool::new(UNIT, 2).unwrap();
    let size = 64 * MIB as u64;
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let sink = Sink::create(&path, size, options(engine), &pool).unwrap();
        sink.zero(0..16 * MIB as u64).unwrap();
        sink.write(32 * MIB as u64, pool.take()).unwrap();
        sink.flush().unwrap();
        drop(sink);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.len(), meta.blocks() * 512), (size, UNIT as u64));
        assert_eq!(meta.mode() & 0o777, 0o600);

        let old = file_with(&folder.path().join("old"), &vec![0xAA; MIB]);
        let sink = Sink::open(&old, MIB as u64, options(engine), &pool).unwrap();
        sink.zero(UNIT as u64..(MIB - UNIT) as u64).unwrap();
        sink.flush().unwrap();
        assert_eq!(fs::metadata(&old).unwrap().blocks() * 512, 2 * UNIT as u64);
    }
}

#[test]
fn wrong_ranges_are_refused_and_harm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pool = BufferPool::new(UNIT, 2).unwrap();
    let sink = Sink::create(&folder.path().join("disk"), 100_000, options(Engine::Auto), &pool).unwrap();
    for (offset, len) in [(1, 4096), (0, 100), (65536, 65536), (98304, 1695), (98304, 1697), (u64::MAX, 1)] {
        let mut buffer = pool.take();
        buffer.set_len(len);
        assert!(matches!(sink.write(offset, buffer), Err(Error::Invalid { .. })), "{len} at {offset}");
        let range = offset..offset.saturating_add(len as u64);
        assert!(offset == u64::MAX || matches!(sink.zero(range), Err(Error::Invalid { .. })), "{len} at {offset}");
    }
    sink.flush().unwrap();
    assert_eq!(pool.free(), 2);
}

/// Writes until an error comes back; checks that it stays and that all buffers come home.
fn fill(path: &Path, size: usize, engine: Engine) -> Error {
    let pool = BufferPool::new(UNIT, 3).unwrap();
    let sink = Sink::open(path, size as u64, options(engine), &pool).unwrap();
    for offset in (0..size as u64).step_by(UNIT) {
        if sink.write(offset, pool.take()).is_err() {
            break;
        }
    }
    let first = sink.flush().unwrap_err();
    for again in [sink.flush(), sink.write(0, pool.take()), sink.zero(0..4096)] {
        assert_eq!(again, Err(first.clone()), "{engine}");
    }
    drop(sink);
    assert_eq!(pool.free(), 3, "{engine}");
    first
}

#[test]
fn the_first_error_stays() {
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let small = Mount::tmpfs(&folder.path().join("small"), 4 * MIB);
        let path = sparse_file(&small.0.join("disk"), 8 * MIB as u64, &[]);
        let error = fill(&path, 8 * MIB, engine);
        let Error::Io { op: "write", path: named, offset, len, errno: Errno::NOSPC } = &error else {
            panic!("{error}")
        };
        assert!(*named == path && *offset < 8 * MIB as u64 && *len == UNIT as u64);
    }
}

#[test]
fn a_failing_device_is_an_error() {
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let small = Mount::tmpfs(&folder.path().join("small"), 4 * MIB);
        let file = sparse_file(&small.0.join("disk"), 8 * MIB as u64, &[]);
        let device = Loop::new(&file, &[]);
        let error = fill(&device.0, 8 * MIB, engine);
        assert!(
            matches!(&error, Error::Io { errno: Errno::IO | Errno::NOSPC, path, .. } if *path == device.0),
            "{error}"
        );
    }
}

#[test]
fn dropping_a_sink_without_flush_gives_all_buffers_back() {
    let folder = tempfile::tempdir().unwrap();
    for engine in ENGINES {
        let pool = BufferPool::new(UNIT, 8).unwrap();
        let path = folder.path().join(engine.to_string());
        let sink = Sink::create(&path, 64 * MIB as u64, options(engine), &pool).unwrap();
        for offset in (0..8 * MIB as u64).step_by(UNIT) {
            sink.write(offset, pool.take()).unwrap();
        }
        drop(sink);
        assert_eq!(pool.free(), 8, "{engine}");
    }
}

/// Buffers of a pool that is not registered with the ring are written just as well.
#[test]
fn buffers_of_another_pool_are_written() {
    let folder = tempfile::tempdir().unwrap();
    for engine in ENGINES {
        let (own, other) = (BufferPool::new(UNIT, 1).unwrap(), BufferPool::new(UNIT, 2).unwrap());
        let path = folder.path().join(engine.to_string());
        let sink = Sink::create(&path, UNIT as u64, options(engine), &own).unwrap();
        let mut buffer = other.take();
        buffer.fill(0x55);
        sink.write(0, buffer).unwrap();
        sink.flush().unwrap();
        assert!(fs::read(&path).unwrap() == vec![0x55; UNIT]);
    }
}

//! What happens to a reading that is cut short: by its reader, or by a source that changes or fails. Needs root.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::{ENGINES, KIB, Loop, MIB, collect, file_with, pattern};
use wherry_block::{BufferPool, Engine, Error, Source};

const SIZE: u64 = 4 * MIB as u64;

/// Reads `path` in two ranges and does `between` before the second is asked for.
fn read_with(path: &Path, engine: Engine, between: impl Fn() + Send + 'static) -> Result<(), Error> {
    let pool = BufferPool::new(64 * KIB, 4).unwrap();
    let source = Source::open(path, engine).unwrap();
    let size = source.geometry().size;
    let ranges = [0..MIB as u64, 2 * MIB as u64..size];
    let ranges = ranges.into_iter().inspect(move |range: &Range<u64>| {
        if range.start > 0 {
            between()
        }
    });
    let result = collect(source.read_all(ranges, 64 * KIB, 4, &pool).unwrap()).map(drop);
    assert_eq!(pool.free(), 4, "buffers are missing");
    result
}

fn disk(folder: &Path) -> PathBuf {
    file_with(&folder.join("disk"), &pattern(SIZE as usize, 1))
}

fn set_len(path: &Path, size: u64) {
    File::options().write(true).open(path).unwrap().set_len(size).unwrap();
}

#[test]
fn a_file_that_changes_its_size_ends_the_reading() {
    for engine in ENGINES {
        for now in [0, SIZE / 2 + 4096, SIZE - 1, SIZE + 1, SIZE * 2] {
            let folder = tempfile::tempdir().unwrap();
            let path = disk(folder.path());
            let cut = path.clone();
            let result = read_with(&path, engine, move || set_len(&cut, now));
            assert_eq!(result, Err(Error::Changed { path, was: SIZE, now }), "{engine}");
        }
    }
}

#[test]
fn a_device_that_changes_its_size_ends_the_reading() {
    for engine in ENGINES {
        for now in [SIZE / 2, SIZE - 512, SIZE * 2] {
            let folder = tempfile::tempdir().unwrap();
            let file = disk(folder.path());
            let device = std::sync::Arc::new(Loop::new(&file, &[]));
            let (path, resized) = (device.0.clone(), device.clone());
            let result = read_with(&path, engine, move || {
                set_len(&file, now);
                resized.resize();
            });
            assert_eq!(result, Err(Error::Changed { path, was: SIZE, now }), "{engine}");
        }
    }
}

#[test]
fn a_device_that_fails_ends_the_reading_with_the_place() {
    for engine in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        let device = Loop::new(&file, &["--direct-io=on"]);
        let error = read_with(&device.0, engine, move || set_len(&file, SIZE / 2)).unwrap_err();
        let Error::Io { op: "read", path, offset, len, errno } = &error else { panic!("{engine}: {error}") };
        assert_eq!((path, *errno), (&device.0, rustix::io::Errno::IO), "{engine}");
        assert!(*offset >= SIZE / 2 && *len == 64 * KIB as u64, "{engine}: {len} at {offset}");
        assert!(error.to_string().contains("Input/output error"), "{error}");
    }
}

#[test]
fn dropping_a_reader_gives_all_buffers_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    for engine in ENGINES {
        for taken in [0, 1, 3, 20] {
            let pool = BufferPool::new(64 * KIB, 4).unwrap();
            let source = Source::open(&path, engine).unwrap();
            let mut reader = source.read_all(std::iter::once(0..SIZE), 64 * KIB, 3, &pool).unwrap();
            for _ in 0..taken {
                reader.next().unwrap().unwrap();
            }
            // One result is still held, and a clone of the receiver is left: neither may block the end.
            let held = reader.next().unwrap().unwrap();
            let receiver = reader.receiver().clone();
            drop(reader);
            let left: Vec<_> = receiver.iter().collect();
            assert!(left.iter().all(Result::is_ok));
            drop((held, left));
            assert_eq!(pool.free(), 4, "{engine} after {taken}");
        }
    }
}

#[test]
fn readers_that_share_a_pool_all_come_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    let pool = BufferPool::new(64 * KIB, 2).unwrap();
    std::thread::scope(|scope| {
        for round in 0..8 {
            let (path, pool) = (&path, &pool);
            scope.spawn(move || {
                let source = Source::open(path, ENGINES[round % 2]).unwrap();
                let reader = source.read_all(std::iter::once(0..SIZE), 64 * KIB, 3, pool).unwrap();
                assert_eq!(reader.map(|done| done.unwrap().buffer.len() as u64).sum::<u64>(), SIZE);
            });
        }
    });
    assert_eq!(pool.free(), 2);
}

#[test]
fn many_workers_see_each_piece_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    for engine in ENGINES {
        let pool = BufferPool::new(16 * KIB, 8).unwrap();
        let source = Source::open(&path, engine).unwrap();
        let reader = source.read_all(std::iter::once(0..SIZE), 16 * KIB, 4, &pool).unwrap();
        let mut offsets: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let receiver = reader.receiver().clone();
                    scope.spawn(move || receiver.iter().map(|done| done.unwrap().offset).collect::<Vec<_>>())
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        offsets.sort_unstable();
        assert_eq!(offsets, (0..SIZE).step_by(16 * KIB).collect::<Vec<_>>());
    }
}

#[test]
fn a_panic_in_the_ranges_is_an_error_not_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path());
    for engine in ENGINES {
        let result = read_with(&path, engine, || panic!("planted"));
        assert!(matches!(result, Err(Error::Stopped { .. })), "{engine}: {result:?}");
    }
}

#[test]
fn a_stream_is_read_to_its_end_once() {
    let data = pattern(300_001, 9);
    let (input, mut output) = std::io::pipe().unwrap();
    let source = Source::stream(input.into(), None);
    let writer = std::thread::spawn({
        let data = data.clone();
        move || data.chunks(777).for_each(|part| output.write_all(part).unwrap())
    });
    let pool = BufferPool::new(100 * KIB, 3).unwrap();
    let reader = source.read_all(source.extents(0..u64::MAX), 32 * KIB, 4, &pool).unwrap();
    let parts = collect(reader).unwrap();
    writer.join().unwrap();
    assert_eq!(parts.keys().copied().collect::<Vec<_>>(), [0, 96, 192, 288].map(|kib| kib * KIB as u64));
    assert!(parts.into_values().flatten().eq(data));
    assert!(matches!(source.read_all(std::iter::empty(), 4096, 1, &pool), Err(Error::Invalid { .. })));
    assert_eq!(pool.free(), 3);
}

#[test]
fn a_stream_that_keeps_silent_can_be_dropped() {
    let (input, output) = std::io::pipe().unwrap();
    let source = Source::stream(input.into(), None);
    let pool = BufferPool::new(100 * KIB, 3).unwrap();
    drop(source.read_all(std::iter::empty(), 4096, 4, &pool).unwrap());
    assert_eq!(pool.free(), 3);
    drop(output);
}

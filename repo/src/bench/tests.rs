use super::*;
use crate::storage::{Memory, Storage};
use crate::{ErrorKind, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LZ4: Compression = Compression::Lz4;

#[test]
fn the_sample_is_compressed_to_about_a_half() {
    let chunk = DEFAULT_CHUNK_SIZE as usize;
    let plain = sample(4 * chunk);
    for compression in [LZ4, Compression::Zstd(3)] {
        let mut packer = Packer::new(compression, chunk).unwrap();
        let packed: usize = plain.chunks(chunk).map(|c| packer.pack(c).unwrap().1.len()).sum();
        let percent = packed * 100 / plain.len();
        assert!((35..=65).contains(&percent), "{compression:?}: {percent} %");
    }
}

#[test]
fn each_kind_of_work_is_done_by_all_threads_and_counted() {
    for work in [
        Work::ChunkId,
        Work::Compress(LZ4),
        Work::Decompress(LZ4),
        Work::Compress(Compression::Zstd(3)),
        Work::Decompress(Compression::Zstd(3)),
        Work::Seal,
        Work::Open,
    ] {
        let told = AtomicU64::new(0);
        let tick = |n| {
            told.fetch_add(n, Ordering::Relaxed);
            Ok(())
        };
        let speed = cpu(work, 3, Duration::ZERO, &System::default(), &tick).unwrap();
        assert_eq!((speed.threads, speed.bytes), (3, 3 * u64::from(DEFAULT_CHUNK_SIZE)), "{work:?}");
        assert_eq!(told.into_inner(), speed.bytes);
        assert!(speed.bytes_per_second > 0.0);
    }
    let ended = |_| Err(Error::new(ErrorKind::Cancelled, "enough"));
    let error = cpu(Work::Seal, 2, Duration::MAX / 4, &System::default(), &ended).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

fn limits(most: u64) -> StorageLimits {
    StorageLimits { pack_size: 3 << 20, uploads: 2, downloads: 4, most, time: Duration::from_secs(60) }
}

#[test]
fn a_storage_gets_so_much_and_no_more_and_keeps_nothing() {
    // Requests of a memory are quick: it is the number of them that ends each row, not the time.
    for (most, len) in [(1 << 20, 1 << 20), (10 << 20, 9 << 20)] {
        let memory: Arc<dyn Storage> = Arc::new(Memory::default());
        let mut rows = Vec::new();
        let mut most_objects = 0;
        let limits = StorageLimits { time: Duration::from_millis(500), ..limits(most) };
        let speed = storage(
            &memory,
            &limits,
            &System::default(),
            &mut |row| {
                rows.push(row);
                let listed = memory.list("", &mut |_| {
                    most_objects += 1;
                    Ok(())
                });
                listed.unwrap();
            },
            &|_| Ok(()),
        );
        let speed = speed.unwrap();
        assert_eq!(rows, ["create", "get", "write", "list", "read"]);
        assert!(most_objects > 0);
        assert!(speed.write.bytes <= len && speed.read.bytes <= speed.write.bytes, "{speed:?}");
        assert!(speed.write.bytes > 0 && speed.read.bytes > 0, "{speed:?}");
        assert!(speed.create.requests >= 3 && speed.get.requests >= 3 && speed.list.requests >= 3, "{speed:?}");
        memory.list("", &mut |left| panic!("{left:?}")).unwrap();
    }
}

#[test]
fn nothing_is_left_whenever_it_is_ended() {
    for after in 0..12 {
        let memory: Arc<dyn Storage> = Arc::new(Memory::default());
        let ticks = AtomicU64::new(0);
        let tick = |_| match ticks.fetch_add(1, Ordering::Relaxed) {
            n if n < after => Ok(()),
            _ => Err(Error::new(ErrorKind::Cancelled, "enough")),
        };
        let limits = StorageLimits { time: Duration::ZERO, ..limits(6 << 20) };
        let error = storage(&memory, &limits, &System::default(), &mut |_| {}, &tick).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        memory.list("", &mut |left| panic!("after {after}: {left:?}")).unwrap();
    }
}

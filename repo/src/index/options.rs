//! How RocksDB is set up: small, bounded, quiet.

use super::IndexOptions;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, LogLevel, Options, WriteBufferManager};
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const MIB: u64 = 1 << 20;

/// The least memory and disk that RocksDB is worth opening for.
const LEAST: u64 = 4 * MIB;
const LEAST_DISK: u64 = 16 * MIB;

/// What of an index's memory is kept for rows that the database does not take.
pub(super) fn overflow_memory(memory: u64) -> u64 {
    memory.max(LEAST) / 8
}

/// The bound on disk that is kept to.
pub(super) fn max_disk(options: &IndexOptions) -> u64 {
    options.max_disk.max(LEAST_DISK)
}

/// Sizes in bytes that follow from the bounds.
struct Sizes {
    memory: u64,
    memtable: u64,
    /// Of one SST file.
    file: u64,
    /// Input of one compaction below the uppermost level, and so what it may need beside the data for a moment.
    compaction: u64,
    manifest: u64,
}

/// Files in the uppermost level at which writing waits for compaction. With the level below they are the largest
/// compaction: 12 + 4 memtables of at most 1/128 of the disk bound each, an eighth of it.
const UPPERMOST_FILES: i32 = 12;

fn sizes(options: &IndexOptions) -> Sizes {
    let memory = options.memory.max(LEAST);
    let disk = max_disk(options);
    let file = (disk / 128).min(32 * MIB);
    let memtable = (memory / 8).min(16 * MIB).min(disk / 128);
    Sizes { memory, memtable, file, compaction: file * 8, manifest: (disk / 128).min(MIB) }
}

/// Bytes of free disk that the database needs to go on: for both memtables and one compaction.
pub(super) fn room_wanted(options: &IndexOptions) -> u64 {
    let sizes = sizes(options);
    2 * sizes.memtable + sizes.compaction
}

/// Options of the database. Of `memory`, an eighth is for [`overflow_memory`], two eighths cover what RocksDB does not
/// count (open tables, a compaction's buffers, iterators), five eighths are one cache that holds blocks, filters and block
/// indexes and is charged for the memtables, which take at most two eighths.
pub(super) fn database(options: &IndexOptions, sampling: Arc<AtomicU32>) -> Options {
    let Sizes { memory, memtable, file, compaction, manifest } = sizes(options);
    let cache = Cache::new_lru_cache(size(memory / 8 * 5));
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_bloom_filter(10.0, false);
    // Filters and block indexes are cut into small parts, so that they may be larger than the cache and are built
    // without much memory.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_optimize_filters_for_memory(true);

    // Closing must not wait for room on a full disk; what is worth a flush has been flushed before.
    let mut db = Options::default().get_options_from_string("avoid_flush_during_shutdown=true").unwrap_or_default();
    db.set_block_based_table_factory(&blocks);
    db.set_paranoid_checks(true);
    // Ids and checks are random bytes.
    db.set_compression_type(rocksdb::DBCompressionType::None);
    db.set_compaction_filter_factory(SamplingFactory { sampling });

    db.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        size(memtable * 3),
        false,
        cache,
    ));
    db.set_write_buffer_size(size(memtable));
    db.set_max_write_buffer_number(2);
    db.set_max_open_files(256);
    db.set_max_file_opening_threads(1);
    db.set_table_cache_num_shard_bits(4);
    db.set_compaction_readahead_size(size(256 << 10));
    db.set_writable_file_max_buffer_size(256 << 10);

    db.set_target_file_size_base(file);
    db.set_max_bytes_for_level_base((memtable * 4).max(file));
    db.set_max_compaction_bytes(compaction);
    db.set_level_zero_slowdown_writes_trigger(UPPERMOST_FILES * 2 / 3);
    db.set_level_zero_stop_writes_trigger(UPPERMOST_FILES);
    // One flush and one compaction at a time.
    db.set_max_background_jobs(2);

    db.set_max_manifest_file_size(size(manifest));
    db.set_manifest_preallocation_size(64 << 10);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_info_logger(rocksdb::InfoLogger::new_callback_logger(LogLevel::Warn, |_, line| {
        tracing::debug!(target: "wherry_repo::index", "RocksDB: {}", line.trim_end());
    }));
    db
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Whether a chunk's row is kept when only ids that end in `sampling` zero bits are.
pub(super) fn sampled(id: &[u8; 16], sampling: u32) -> bool {
    u128::from_be_bytes(*id).trailing_zeros() >= sampling
}

struct SamplingFactory {
    sampling: Arc<AtomicU32>,
}

struct SamplingFilter {
    sampling: u32,
}

impl CompactionFilterFactory for SamplingFactory {
    type Filter = SamplingFilter;

    fn create(&mut self, _: CompactionFilterContext) -> SamplingFilter {
        SamplingFilter { sampling: self.sampling.load(Ordering::Acquire) }
    }

    fn name(&self) -> &CStr {
        c"wherry-sampling"
    }
}

impl CompactionFilter for SamplingFilter {
    fn filter(&mut self, _: u32, key: &[u8], _: &[u8]) -> Decision {
        match key.split_first() {
            Some((&super::values::ROW, id)) => match <&[u8; 16]>::try_from(id) {
                Ok(id) if !sampled(id, self.sampling) => Decision::Remove,
                _ => Decision::Keep,
            },
            _ => Decision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"wherry-sampling"
    }
}

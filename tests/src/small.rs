//! Small repositories and volumes: tiny chunks and packs, so that every boundary is crossed soon.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use wherry_repo::index::ChunkIndex;
use wherry_repo::storage::{Memory, Storage};
use wherry_repo::{
    ChunkRef, Clock, CommitInfo, Components, Credential, InitOptions, Key, ParentChoice, PasswordCost, Repository,
    Result, Rng, Snapshot, SnapshotReader, SnapshotWriter, System, Timestamp, WriterOptions,
};

/// Chunk size of small repositories in bytes.
pub const UNIT: usize = 64 << 10;

/// Time that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct TestClock {
    passed: AtomicI64,
    /// How far wall time was put back, in nanoseconds.
    back: AtomicI64,
}

impl TestClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.passed.fetch_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Puts wall time back, as a clock that is set does.
    pub fn put_back(&self, by: Duration) {
        self.back.fetch_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        // Each look is a nanosecond later, so that no two snapshots have one time.
        let passed = self.passed.fetch_add(1, Ordering::Relaxed) - self.back.load(Ordering::Relaxed);
        Timestamp(1_780_000_000_000_000_000 + passed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Ordering::Relaxed).unsigned_abs())
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
    }
}

/// The clock of a host that is so many nanoseconds ahead.
#[derive(Debug)]
pub struct Ahead(pub i64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(System::default().now().0.saturating_add(self.0))
    }

    fn monotonic(&self) -> Duration {
        System::default().monotonic()
    }

    fn sleep(&self, time: Duration) {
        System::default().sleep(time);
    }
}

/// Random bytes that are the same for the same seed.
#[derive(Debug)]
pub struct TestRng(Mutex<u64>);

impl TestRng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Rng for TestRng {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let mut state = self.0.lock();
        for byte in out {
            *byte = (splitmix(&mut state) >> 32) as u8;
        }
        Ok(())
    }
}

/// The next number of a sequence.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// `len` bytes that do not compress and differ for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    (0..len.div_ceil(8)).flat_map(|_| splitmix(&mut state).to_le_bytes()).take(len).collect()
}

/// A password that costs nothing.
pub fn password() -> Credential {
    Credential::Password("correct horse".to_owned().into())
}

/// A cost that lets tests run fast.
pub const CHEAP: PasswordCost = PasswordCost::new(8, 1);

/// Components over this storage, with a seed that is never used twice.
pub fn components(storage: Arc<dyn Storage>) -> Components {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1, Ordering::Relaxed) << 32;
    Components { storage, clock: Arc::new(TestClock::default()), rng: Arc::new(TestRng::new(seed)) }
}

/// A new repository with 64 KiB chunks on this storage.
pub fn init(storage: Arc<dyn Storage>) -> Result<Repository> {
    init_with(components(storage))
}

/// Likewise, with a clock or random numbers of one's own.
pub fn init_with(components: Components) -> Result<Repository> {
    let mut options = InitOptions::default();
    options.chunk_size = UNIT as u32;
    options.password_cost = CHEAP;
    Repository::init(components, &options, &password())
}

/// A new repository in memory.
pub fn in_memory() -> (Arc<Memory>, Repository) {
    let storage = Arc::new(Memory::default());
    let repository = init(storage.clone()).unwrap();
    (storage, repository)
}

/// Every key of a storage, sorted.
pub fn keys_of(storage: &dyn Storage) -> Vec<Key> {
    let mut keys = Vec::new();
    storage
        .list("", &mut |object| {
            keys.push(object.key);
            Ok(())
        })
        .unwrap();
    keys.sort();
    keys
}

/// Small packs, stored by the thread that completes them, one checkpoint a pack.
pub fn options(name: &str) -> WriterOptions {
    WriterOptions {
        name: name.into(),
        pack_size: 256 << 10,
        pack_buffers: 2,
        uploads: 0,
        checkpoint_packs: 1,
        parent: ParentChoice::Auto,
        ..WriterOptions::default()
    }
}

/// An index without a disk.
pub fn index() -> Arc<ChunkIndex> {
    Arc::new(ChunkIndex::in_memory(16 << 20))
}

/// Puts a whole disk.
pub fn put_all(writer: &SnapshotWriter, disk: &[u8]) -> Result<()> {
    let mut scratch = writer.scratch()?;
    for (n, chunk) in disk.chunks(writer.chunk_size()).enumerate() {
        writer.put(&mut scratch, n as u64, chunk)?;
        writer.advance(n as u64 + 1)?;
    }
    Ok(())
}

/// Backs a disk up.
pub fn backup_with(
    repository: &Repository,
    index: Arc<ChunkIndex>,
    options: &WriterOptions,
    disk: &[u8],
) -> Result<Snapshot> {
    let writer = SnapshotWriter::start(repository, index, options)?;
    put_all(&writer, disk)?;
    writer.commit(CommitInfo { size: disk.len() as u64, ..CommitInfo::default() })
}

/// Backs a disk up with an index that knows nothing.
pub fn backup(repository: &Repository, name: &str, disk: &[u8]) -> Result<Snapshot> {
    backup_with(repository, index(), &options(name), disk)
}

/// Reads a whole snapshot back.
pub fn restore(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    read_whole(&SnapshotReader::open(repository, snapshot)?, || Ok(()))
}

/// Reads all of a disk; `between` is called after each request.
pub fn read_whole(reader: &SnapshotReader, between: impl FnMut() -> Result<()>) -> Result<Vec<u8>> {
    let mut disk = vec![0; reader.size() as usize];
    let take = |chunk: &ChunkRef, bytes: &[u8]| {
        let at = (chunk.number * reader.chunk_size()) as usize;
        disk[at..at + chunk.len].copy_from_slice(bytes);
    };
    read_chunks(reader, take, between)?;
    Ok(disk)
}

/// Reads all chunks of a disk that are not zero.
pub fn read_chunks(
    reader: &SnapshotReader,
    mut take: impl FnMut(&ChunkRef, &[u8]),
    mut between: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut next = 0;
    while let Some((chunks, then)) = reader.next_chunks(next)? {
        for fetch in reader.plan(chunks, 1 << 20) {
            let buffer = |chunk: &ChunkRef| vec![0; chunk.len];
            reader.read(&fetch, &mut Vec::new(), buffer, |chunk, opened| -> Result<()> {
                take(chunk, opened?.as_ref());
                Ok(())
            })?;
            between()?;
        }
        next = then;
    }
    Ok(())
}

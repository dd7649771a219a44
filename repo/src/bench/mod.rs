//! How fast the work of a backup or a restore is on this machine, and how fast a storage is. For users, as `wherry
//! bench`: it measures the very code that backups and restores run, with keys that belong to no repository.

mod storage;
#[cfg(test)]
mod tests;

pub use storage::{Latency, StorageLimits, StorageSpeed, storage};

use crate::clock::Clock;
use crate::codec::{Compression, Packer, unpack};
use crate::crypto::{ChunkSeal, IdKeys, PackKey, Secret, TAG};
use crate::id::{Codec, PackId, PackKind, RepositoryId, SessionId, ShortId};
use crate::repository::{DEFAULT_CHUNK_SIZE, class_of};
use crate::{Error, Result};
use std::time::Duration;

/// Bytes of plaintext that all threads share; more than a core keeps in its own caches.
const SHARED: usize = 8 << 20;
/// The most memory in bytes that one thread of [`cpu`] takes: its buffers and what zstd needs.
pub const THREAD_MEMORY: u64 = 4 << 20;
/// The most memory in bytes that all threads of [`cpu`] share.
pub const SHARED_MEMORY: u64 = 2 * SHARED as u64;

/// One kind of work on chunks, of the size they have unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The id of a chunk: its keyed hash.
    ChunkId,
    /// Compression as in a backup, which decodes what it has compressed and compares.
    Compress(Compression),
    /// The reverse.
    Decompress(Compression),
    /// Encryption.
    Seal,
    /// Decryption, with the test that nothing was changed.
    Open,
}

/// So much was done in such a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Threads or requests that were at work at once.
    pub threads: usize,
    /// Bytes of plaintext, or bytes sent or received.
    pub bytes: u64,
    /// All threads together, per second.
    pub bytes_per_second: f64,
}

/// Told after each piece of work how many bytes it was about; an error ends the measurement, which returns it.
pub type Tick<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);

/// Does one kind of work with so many threads for about this time, at least one chunk each. The data is such that it
/// can be compressed to about a half. Takes no more than [`SHARED_MEMORY`] and [`THREAD_MEMORY`] for each thread.
///
/// Errors: those of `tick`, and [`Internal`](crate::ErrorKind::Internal) when this machine computes wrongly or has no
/// thread to give.
pub fn cpu(work: Work, threads: usize, time: Duration, clock: &dyn Clock, tick: Tick<'_>) -> Result<Speed> {
    let plain = sample(SHARED);
    let chunk = DEFAULT_CHUNK_SIZE as usize;
    let packed = match work {
        Work::Decompress(compression) => {
            let mut packer = Packer::new(compression, chunk)?;
            plain.chunks_exact(chunk).map(|c| packer.pack(c).map(|(codec, p)| (codec, p.to_vec()))).collect()
        }
        _ => Ok(Vec::new()),
    };
    let packed: Vec<(Codec, Vec<u8>)> = packed?;
    let end = clock.monotonic() + time;
    let one = |first: usize| -> Result<(u64, f64)> {
        let mut worker = Worker::new(work, &plain, &packed, chunk)?;
        let (mut bytes, mut spent) = (0, Duration::ZERO);
        // Threads begin at different places, as they do in a backup.
        for at in first.. {
            spent += worker.step(at, clock)?;
            bytes += chunk as u64;
            tick(chunk as u64)?;
            if clock.monotonic() >= end {
                break;
            }
        }
        Ok((bytes, bytes as f64 / spent.as_secs_f64().max(1e-9)))
    };
    let done = run(threads, one)?;
    Ok(Speed {
        threads,
        bytes: done.iter().map(|(bytes, _)| bytes).sum(),
        bytes_per_second: done.iter().map(|(_, rate)| rate).sum(),
    })
}

/// Runs `work` in so many threads at once, each with its number, and gives all results or the first error.
fn run<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let none = |e| Error::internal("no thread could be started").with_source(e);
    std::thread::scope(|scope| {
        let work = &work;
        let start = |n| std::thread::Builder::new().spawn_scoped(scope, move || work(n)).map_err(none);
        let started: Vec<_> = (0..threads).map(start).collect();
        let joined = started.into_iter().map(|thread| match thread?.join() {
            Ok(result) => result,
            Err(_) => Err(Error::internal("a measuring thread panicked")),
        });
        // All are waited for, whichever failed.
        joined.collect::<Vec<_>>().into_iter().collect()
    })
}

/// What one thread works with.
struct Worker<'a> {
    work: Work,
    plain: &'a [u8],
    packed: &'a [(Codec, Vec<u8>)],
    chunk: usize,
    class: u8,
    packer: Packer,
    ids: IdKeys,
    key: PackKey,
    /// A chunk and its tag.
    scratch: Vec<u8>,
    opened: Vec<u8>,
    ordinal: u32,
}

impl<'a> Worker<'a> {
    fn new(work: Work, plain: &'a [u8], packed: &'a [(Codec, Vec<u8>)], chunk: usize) -> Result<Self> {
        let compression = match work {
            Work::Compress(compression) => compression,
            _ => Compression::None,
        };
        // Keys of nothing: what they seal is thrown away.
        let secret = Secret::new([0; 32]);
        let nowhere = PackId { kind: PackKind::Data, session: SessionId::default(), seq: 0, random: 0 };
        let mut scratch = plain[..chunk].to_vec();
        scratch.resize(chunk + TAG, 0);
        Ok(Self {
            work,
            plain,
            packed,
            chunk,
            class: class_of(DEFAULT_CHUNK_SIZE)?,
            packer: Packer::new(compression, chunk)?,
            ids: IdKeys::new(&secret),
            key: PackKey::new(&secret, &RepositoryId::default(), &nowhere)?,
            scratch,
            opened: vec![0; chunk],
            ordinal: 0,
        })
    }

    /// Works on a chunk, the `at`-th one of all in turn, and gives the time that took. What must be made ready for it is not
    /// in that.
    fn step(&mut self, at: usize, clock: &dyn Clock) -> Result<Duration> {
        let at = at % (self.plain.len() / self.chunk);
        let plain = &self.plain[at * self.chunk..][..self.chunk];
        let seal = ChunkSeal {
            ordinal: self.ordinal,
            id: ShortId::default(),
            codec: 0,
            plain: self.chunk as u32,
            sealed: (self.chunk + TAG) as u32,
        };
        self.ordinal = self.ordinal.wrapping_add(1);
        let broken = |what: &str| Error::internal(format!("this machine or build computes wrongly: {what}"));
        let (body, tag) = self.scratch.split_at_mut(self.chunk);
        if self.work == Work::Open {
            tag.copy_from_slice(&self.key.seal_chunk(&seal, body)?);
        }
        let start = clock.monotonic();
        match self.work {
            Work::ChunkId => {
                std::hint::black_box(self.ids.chunk(self.class, plain));
            }
            Work::Compress(_) => {
                std::hint::black_box(self.packer.pack(plain)?);
            }
            Work::Decompress(_) => {
                let (codec, packed) = self.packed.get(at).ok_or_else(|| broken("a chunk is missing"))?;
                unpack(*codec, packed, body).ok_or_else(|| broken("what was compressed does not decode"))?;
            }
            Work::Seal => {
                std::hint::black_box(self.key.seal_chunk(&seal, body)?);
            }
            Work::Open => {
                let opened = self.key.open_chunk(&seal, &self.scratch, &mut self.opened);
                std::hint::black_box(opened.ok_or_else(|| broken("what was sealed does not open"))?);
            }
        }
        Ok(clock.monotonic().saturating_sub(start))
    }
}

/// Bytes that look random and are the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        // xorshift64*: never 0 unless it began so.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// So many bytes, of which about half can be compressed away, as those of a usual disk: stretches of noise, as of packed
/// files, and stretches of a few words in no order, as of text and tables.
fn sample(len: usize) -> Vec<u8> {
    const STRETCH: usize = 4096;
    const WORDS: usize = 512;
    let mut noise = Noise(0x7768_6572_7279);
    let mut words = [0; WORDS * 8];
    noise.fill(&mut words);
    let mut out = vec![0; len];
    for (n, stretch) in out.chunks_mut(STRETCH).enumerate() {
        if n % 3 == 0 {
            noise.fill(stretch);
            continue;
        }
        for part in stretch.chunks_mut(8) {
            let word = noise.next() as usize % WORDS;
            part.copy_from_slice(&words[word * 8..][..part.len()]);
        }
    }
    out
}

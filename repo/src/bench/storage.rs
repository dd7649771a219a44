//! How fast a storage is, with objects of its own that are no part of a repository.

use super::{Noise, Speed, Tick, run};
use crate::clock::{Clock, Rng, random};
use crate::pack::PackPool;
use crate::storage::conformance::Place;
use crate::storage::{Key, Storage};
use crate::{Error, ErrorKind, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes of one ranged read: several chunks that stand side by side in a pack.
const RANGE: u64 = 2 << 20;
/// Bytes of a small object: a heartbeat or a record has no more than a few hundred.
const SMALL: usize = 256;
/// Small requests of a kind, at least and at most.
const REQUESTS: std::ops::RangeInclusive<usize> = 3..=100;

/// How much a storage is asked for.
#[derive(Clone, Copy, Debug)]
pub struct StorageLimits {
    /// Bytes of one pack.
    pub pack_size: usize,
    /// Packs sent at a time; so many are in memory.
    pub uploads: usize,
    /// Ranges of 2 MiB asked for at a time; so many are in memory, after the packs.
    pub downloads: usize,
    /// The most bytes in packs. At least one pack is written; it is smaller where this is.
    pub most: u64,
    /// How long each kind of request goes on. What is under way then is waited for.
    pub time: Duration,
}

/// How long one request takes that moves next to nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half of the requests took longer.
    pub median: Duration,
    /// So many were made, one after the other.
    pub requests: usize,
}

/// What a storage can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StorageSpeed {
    /// Creates of whole packs.
    pub write: Speed,
    /// Reads of ranges of these packs, each range once.
    pub read: Speed,
    /// A create of a small object.
    pub create: Latency,
    /// A get of such an object.
    pub get: Latency,
    /// A listing of all objects made here.
    pub list: Latency,
}

/// Measures a storage with objects below `probe/<random>/`, which are removed again however it ends. `begin` is told what
/// is measured next: `create`, `get`, `list`, `write`, `read`.
///
/// Errors: those of the storage and of `tick`.
pub fn storage(
    storage: &Arc<dyn Storage>,
    limits: &StorageLimits,
    system: &(impl Clock + Rng),
    begin: &mut dyn FnMut(&'static str),
    tick: Tick<'_>,
) -> Result<StorageSpeed> {
    let seed = u64::from_le_bytes(random(system)?);
    let place = Place::new(Arc::clone(storage), Arc::clone(storage), seed, Box::new(crate::System::default()));
    let bench = Bench { storage: &**storage, place: &place, limits, clock: system, tick };
    let measured = bench.all(seed, begin);
    let gone = measured.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable) && !storage.is_local();
    let left = |e: Error| e.context(format!("some objects of this measurement are left below {}", place.home()));
    match (measured, gone) {
        // What does not answer is not waited for once more.
        (Err(e), true) => Err(left(e)),
        (Err(e), false) => {
            if let Err(why) = place.clean() {
                tracing::warn!("{}", left(why));
            }
            Err(e)
        }
        (Ok(speed), _) => place.clean().map_err(left).map(|()| speed),
    }
}

struct Bench<'a> {
    storage: &'a dyn Storage,
    place: &'a Place,
    limits: &'a StorageLimits,
    clock: &'a dyn Clock,
    tick: Tick<'a>,
}

impl Bench<'_> {
    fn all(&self, seed: u64, begin: &mut dyn FnMut(&'static str)) -> Result<StorageSpeed> {
        begin("create");
        let body = self.small(seed);
        let mut small = Vec::new();
        let create = self.latency(usize::MAX, |n| {
            let key = self.place.key(&format!("small-{n}"))?;
            small.push(key.clone());
            self.storage.create(&key, body.clone())
        })?;
        begin("get");
        let get = self.latency(small.len(), |n| {
            let got = small.get(n).map_or(Ok(Bytes::new()), |key| self.storage.get(key))?;
            if got == body {
                Ok(())
            } else {
                Err(Error::corrupt("the storage gives back other bytes than it was given"))
            }
        })?;
        begin("write");
        let (write, packs) = self.write(seed)?;
        begin("list");
        let home = self.place.home();
        let list = self.latency(usize::MAX, |_| self.storage.list(&home, &mut |_| Ok(())))?;
        begin("read");
        let read = self.read(&packs)?;
        Ok(StorageSpeed { write, read, create, get, list })
    }

    fn small(&self, seed: u64) -> Bytes {
        let mut body = vec![0; SMALL];
        Noise(seed | 1).fill(&mut body);
        body.into()
    }

    /// Makes one request after the other, at most `most`.
    fn latency(&self, most: usize, mut request: impl FnMut(usize) -> Result<()>) -> Result<Latency> {
        let end = self.clock.monotonic() + self.limits.time;
        let mut times = Vec::new();
        while times.len() < most.min(*REQUESTS.end())
            && (times.len() < *REQUESTS.start() || self.clock.monotonic() < end)
        {
            let start = self.clock.monotonic();
            request(times.len())?;
            times.push(self.clock.monotonic().saturating_sub(start));
            (self.tick)(0)?;
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        Ok(Latency { median, requests: times.len() })
    }

    /// Creates packs, several at a time; gives those that are there, and their length.
    fn write(&self, seed: u64) -> Result<(Speed, Vec<(Key, u64)>)> {
        let limits = self.limits;
        let len = usize::try_from(limits.most).unwrap_or(usize::MAX).clamp(1, limits.pack_size.max(1));
        let threads = (limits.most / len as u64).clamp(1, limits.uploads.max(1) as u64) as usize;
        // Buffers as a backup has them: a local storage writes these past the page cache.
        let pool = PackPool::new(threads, len);
        let bodies: Vec<Bytes> = (0..threads as u64)
            .map(|n| {
                let mut buffer = pool.take()?;
                Noise((seed ^ n << 32) | 1).fill(&mut buffer.all()[..len]);
                buffer.set_len(len);
                Ok(Bytes::from_owner(buffer))
            })
            .collect::<Result<_>>()?;
        let made = Mutex::new(Vec::new());
        let claimed = AtomicU64::new(0);
        let start = self.clock.monotonic();
        let one = |thread: usize| -> Result<()> {
            let Some(body) = bodies.get(thread) else { return Ok(()) };
            loop {
                let n = claimed.fetch_add(1, Ordering::Relaxed);
                if n > 0 && (n + 1) * len as u64 > limits.most {
                    return Ok(());
                }
                let key = self.place.key(&format!("pack-{n}"))?;
                self.storage.create(&key, body.clone())?;
                made.lock().push((key, len as u64));
                (self.tick)(len as u64)?;
                if self.clock.monotonic() >= start + limits.time {
                    return Ok(());
                }
            }
        };
        run(threads, one)?;
        let spent = self.clock.monotonic().saturating_sub(start);
        let made = made.into_inner();
        Ok((speed(threads, made.len() as u64 * len as u64, spent), made))
    }

    /// Reads ranges, several at a time; none twice, which a cache would answer.
    fn read(&self, packs: &[(Key, u64)]) -> Result<Speed> {
        let ranges: Vec<_> = packs
            .iter()
            .flat_map(|(key, len)| {
                let len = *len;
                (0..len).step_by(RANGE as usize).map(move |from| (key, from..len.min(from + RANGE)))
            })
            .collect();
        let threads = self.limits.downloads.clamp(1, ranges.len().max(1));
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let start = self.clock.monotonic();
        let one = |_: usize| -> Result<()> {
            while let Some((key, range)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                let got = self.storage.get_range(key, range.clone())?.len() as u64;
                bytes.fetch_add(got, Ordering::Relaxed);
                (self.tick)(got)?;
                if self.clock.monotonic() >= start + self.limits.time {
                    break;
                }
            }
            Ok(())
        };
        run(threads, one)?;
        let spent = self.clock.monotonic().saturating_sub(start);
        Ok(speed(threads, bytes.into_inner(), spent))
    }
}

fn speed(threads: usize, bytes: u64, spent: Duration) -> Speed {
    Speed { threads, bytes, bytes_per_second: bytes as f64 / spent.as_secs_f64().max(1e-9) }
}

//! Time and randomness, passed in so that tests and simulations can steer them.

use crate::{Error, ErrorKind, Result};
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time: nanoseconds since 1970-01-01 UTC. It is shown and recorded; no decision about data rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Timestamp(#[n(0)] pub i64);

impl Timestamp {
    /// Whole seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }
}

/// A source of time.
pub trait Clock: Send + Sync + Debug {
    /// Wall time now; may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// Returns after `time` has passed.
    fn sleep(&self, time: Duration);
}

/// A source of unpredictable bytes.
pub trait Rng: Send + Sync + Debug {
    /// Fills `out`; fails only when the operating system has no randomness to give.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// `N` fresh random bytes.
pub(crate) fn random<const N: usize>(rng: &dyn Rng) -> Result<[u8; N]> {
    let mut out = [0; N];
    rng.fill(&mut out)?;
    Ok(out)
}

/// The clock and the randomness of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct System {
    start: Instant,
}

impl Default for System {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for System {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the operating system")]
    fn now(&self) -> Timestamp {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Timestamp(nanos)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl Rng for System {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out)
            .map_err(|e| Error::new(ErrorKind::Internal, "the operating system gives no random bytes").with_source(e))
    }
}

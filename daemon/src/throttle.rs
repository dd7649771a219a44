//! A limit of bytes per second.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// While it waits it looks this often whether it should go on waiting. A whole pack at a low rate takes minutes.
const LOOK: Duration = Duration::from_millis(100);

/// Lets so many bytes pass per second, a tenth of a second's worth at once.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// 0: no limit.
    rate: AtomicU64,
    /// When the bytes let through so far are paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// At most `rate` bytes per second; at least one.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate.max(1)), paid: Mutex::new(Instant::now()) }
    }

    /// None yet: see [`Self::set`].
    pub(crate) fn unlimited() -> Self {
        Self { rate: AtomicU64::new(0), paid: Mutex::new(Instant::now()) }
    }

    /// From now on at most `rate` bytes per second; 0: no limit. What waits goes on waiting by the rate that it met.
    pub(crate) fn set(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Waits until these bytes may pass, or `ended` says that the limit counts no longer: at the end of a run that was
    /// asked to end nobody waits.
    pub(crate) fn take(&self, bytes: u64, ended: impl Fn() -> bool) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let until = {
            let mut paid = self.paid.lock();
            let now = Instant::now();
            let begin = (*paid).max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now));
            *paid = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *paid
        };
        while !ended() {
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return,
                left => std::thread::sleep(left.min(LOOK)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let throttle = Throttle::new(10_000);
        let start = Instant::now();
        // A tenth of a second is free.
        (0..4).for_each(|_| throttle.take(1000, || false));
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    }

    #[test]
    fn who_ends_does_not_wait() {
        // A thousand million seconds: this returns, or never.
        let throttle = Throttle::new(1);
        throttle.take(1_000_000_000, || true);
        let looks = std::cell::Cell::new(0);
        throttle.take(1, || looks.replace(looks.get() + 1) >= 2);
        assert_eq!(looks.get(), 3);
    }
}

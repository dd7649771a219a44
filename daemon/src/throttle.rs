//! A limit of bytes per second.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lets so many bytes pass per second, a tenth of a second's worth at once.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: u64,
    /// When the bytes let through so far are paid for.
    paid: Mutex<Instant>,
}

impl Throttle {
    /// At most `rate` bytes per second; at least one.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), paid: Mutex::new(Instant::now()) }
    }

    /// Waits until these bytes may pass.
    pub(crate) fn take(&self, bytes: u64) {
        let wait = {
            let mut paid = self.paid.lock();
            let now = Instant::now();
            let begin = (*paid).max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now));
            *paid = begin + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            paid.saturating_duration_since(now)
        };
        std::thread::sleep(wait);
    }
}

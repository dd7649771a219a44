//! A limit of bytes per second.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// While it waits it looks this often whether it should go on waiting. A whole pack at a low rate takes minutes.
const LOOK: Duration = Duration::from_millis(100);

/// So many seconds' worth of bytes, which nobody asked for meanwhile, pass at once.
const SAVED: f64 = 0.1;

/// Lets so many bytes pass per second, one who asks after the other. What is asked for is paid for before it passes, so
/// who gives up waiting has taken nothing from those behind it.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Bytes per second; 0: no limit.
    rate: AtomicU64,
    line: Mutex<Line>,
    moved: Condvar,
}

/// Who waits, the first in front, and the bytes that may pass.
#[derive(Debug)]
struct Line {
    /// Number and bytes of each who waits.
    waiting: VecDeque<(u64, f64)>,
    next: u64,
    /// Bytes that may pass, as of `at`.
    saved: f64,
    at: Instant,
}

impl Line {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), next: 0, saved: 0.0, at: Instant::now() }
    }

    /// Counts the time since the last look at the rate of now: a rate that was changed is heeded at once.
    fn save(&mut self, rate: f64) {
        let wanted = self.waiting.front().map_or(0.0, |(_, bytes)| *bytes);
        let now = Instant::now();
        let saved = self.saved + now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.saved = saved.min(wanted.max(rate * SAVED));
        self.at = now;
    }
}

impl Throttle {
    /// At most `rate` bytes per second; at least one.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate.max(1)), line: Mutex::new(Line::new()), moved: Condvar::new() }
    }

    /// None yet: see [`Self::set`].
    pub(crate) fn unlimited() -> Self {
        Self { rate: AtomicU64::new(0), ..Self::new(1) }
    }

    /// From now on at most `rate` bytes per second, also for those who wait; 0: no limit.
    pub(crate) fn set(&self, rate: u64) {
        if let was @ 1.. = self.rate.swap(rate, Ordering::Relaxed) {
            self.line.lock().save(was as f64);
        }
    }

    /// Waits until these bytes may pass, or `ended` says that the limit counts no longer: at the end of a run that was
    /// asked to end nobody waits.
    pub(crate) fn take(&self, bytes: u64, ended: impl Fn() -> bool) {
        if self.rate.load(Ordering::Relaxed) == 0 {
            return;
        }
        let bytes = bytes as f64;
        let mut line = self.line.lock();
        // Nobody waited: what was saved is no more than is free.
        line.save(self.rate.load(Ordering::Relaxed) as f64);
        let number = line.next;
        line.next += 1;
        line.waiting.push_back((number, bytes));
        loop {
            let rate = self.rate.load(Ordering::Relaxed) as f64;
            if rate == 0.0 || ended() {
                break;
            }
            let mut wait = LOOK;
            if line.waiting.front().is_some_and(|(first, _)| *first == number) {
                line.save(rate);
                if line.saved >= bytes {
                    line.saved -= bytes;
                    break;
                }
                wait = Duration::from_secs_f64(((bytes - line.saved) / rate).min(LOOK.as_secs_f64()));
            }
            self.moved.wait_for(&mut line, wait);
        }
        line.waiting.retain(|(other, _)| *other != number);
        drop(line);
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn bytes_take_their_time() {
        let throttle = Throttle::new(10_000);
        let start = Instant::now();
        // A tenth of a second is free at most.
        (0..4).for_each(|_| throttle.take(1000, || false));
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    }

    #[test]
    fn who_ends_does_not_wait() {
        // A thousand million seconds: this returns, or never.
        let throttle = Throttle::new(1);
        throttle.take(1_000_000_000, || true);
        let looks = std::cell::Cell::new(0);
        throttle.take(1_000_000_000, || looks.replace(looks.get() + 1) >= 2);
        assert_eq!(looks.get(), 3);
    }

    /// Those behind one who gave up would wait for a thousand million seconds if it had taken them with it.
    #[test]
    fn who_gave_up_has_taken_nothing() {
        let throttle = Throttle::new(100);
        throttle.take(100_000_000_000, || true);
        throttle.take(1, || false);
        let waits = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| throttle.take(100_000_000_000, || !waits.load(Ordering::Relaxed)));
            // Behind it, until it gives up.
            let behind = scope.spawn(|| throttle.take(1, || false));
            waits.store(false, Ordering::Relaxed);
            behind.join().unwrap();
        });
    }

    /// What waits at a rate by which it would never pass goes on by the next one.
    #[test]
    fn a_rate_counts_for_those_who_wait() {
        let throttle = Arc::new(Throttle::new(1));
        let waiting = throttle.clone();
        let thread = std::thread::spawn(move || waiting.take(1_000_000_000, || false));
        while throttle.line.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        throttle.set(1_000_000_000_000);
        thread.join().unwrap();
        // And without any.
        throttle.set(1);
        let waiting = throttle.clone();
        let thread = std::thread::spawn(move || waiting.take(1_000_000_000, || false));
        while throttle.line.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        throttle.set(0);
        thread.join().unwrap();
    }
}

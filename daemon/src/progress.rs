//! How far a long piece of work is: a bar on a terminal, a log line every ten seconds elsewhere, nothing with `-q`.

use crate::output;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BAR_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// An unknown total.
const UNKNOWN: u64 = u64::MAX;

/// Standard error, shared by log lines and the bar. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Screen {
    bars: MultiProgress,
    show: Show,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Bar,
    Lines,
    Nothing,
}

impl Screen {
    /// Looks whether standard error is a terminal that can show a bar. `plain` asks for lines even so.
    pub fn new(quiet: bool, plain: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb");
        let show = match quiet {
            true => Show::Nothing,
            false if !plain && !dumb && io::stderr().is_terminal() => Show::Bar,
            false => Show::Lines,
        };
        let target = if show == Show::Bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), show }
    }

    /// One on which nothing is shown, for work whose progress is told elsewhere.
    pub fn silent() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), show: Show::Nothing }
    }

    /// Begins to show a piece of work. `what` is a word such as "backup"; `total` is in bytes, where it is known.
    pub fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        Progress::start(self.clone(), what, total)
    }
}

impl Write for Screen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().lock().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the bytes of one piece of work and shows them. Share it between threads by reference; dropping it ends the
/// showing.
#[derive(Debug)]
pub struct Progress {
    counts: Arc<Counts>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Counts {
    done: AtomicU64,
    total: AtomicU64,
    stored: AtomicU64,
}

impl Progress {
    fn start(screen: Screen, what: &'static str, total: Option<u64>) -> Self {
        let counts = Arc::new(Counts {
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
            stored: AtomicU64::new(0),
        });
        if screen.show == Show::Nothing {
            return Self { counts, stop: None, thread: None };
        }
        let (stop, stopped) = bounded::<()>(0);
        let shared = Arc::clone(&counts);
        let show = move || {
            let mut view = View::new(&screen, what);
            let interval = if screen.show == Show::Bar { BAR_INTERVAL } else { LINE_INTERVAL };
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(interval) {
                view.update(&shared);
            }
            view.end();
        };
        // A machine that has no thread left to give shows nothing, and works.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Self { counts, stop: Some(stop), thread }
    }

    /// So many more bytes are done: read, skipped, taken over, or written.
    pub fn add(&self, bytes: u64) {
        self.counts.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more new bytes are in the storage.
    pub fn add_stored(&self, bytes: u64) {
        self.counts.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The total is known now, or another one, or not known any more.
    pub fn set_total(&self, total: Option<u64>) {
        self.counts.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Bytes done up to now.
    pub fn done(&self) -> u64 {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// For whoever watches from elsewhere, also when this is gone.
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.counts))
    }

    /// Takes the bar away; the result is the next thing to be seen.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics only by a mistake, which has been reported then.
            let _ = thread.join();
        }
    }
}

/// Reads what a [`Progress`] counts.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Counts>);

impl Meter {
    /// Bytes done, and of how many, where that is known.
    pub fn read(&self) -> (u64, Option<u64>) {
        let total = self.0.total.load(Ordering::Relaxed);
        (self.0.done.load(Ordering::Relaxed), (total != UNKNOWN).then_some(total))
    }
}

/// What the showing thread keeps.
#[derive(Debug)]
struct View {
    what: &'static str,
    start: Instant,
    rate: Rate,
    bar: Option<ProgressBar>,
}

impl View {
    fn new(screen: &Screen, what: &'static str) -> Self {
        let bar = (screen.show == Show::Bar).then(|| {
            let bar = screen.bars.add(ProgressBar::new(1).with_prefix(what));
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:20}] {wide_msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { what, start: Instant::now(), rate: Rate::default(), bar }
    }

    fn update(&mut self, counts: &Counts) {
        let total = counts.total.load(Ordering::Relaxed);
        let now = Moment {
            done: counts.done.load(Ordering::Relaxed),
            total: (total != UNKNOWN).then_some(total),
            stored: counts.stored.load(Ordering::Relaxed),
            elapsed: self.start.elapsed(),
        };
        let rate = self.rate.update(now.elapsed, now.done);
        match &self.bar {
            Some(bar) => {
                bar.set_length(now.total.unwrap_or(0).max(1));
                bar.set_position(if now.total.is_some() { now.done } else { 0 });
                bar.set_message(now.describe(rate));
            }
            None => tracing::info!(
                done = now.done,
                total = now.total,
                stored = now.stored,
                rate,
                seconds = now.elapsed.as_secs(),
                "{}: {}",
                self.what,
                now.describe(rate)
            ),
        }
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Bytes per second, smoothed: a moment counts for half after ten seconds.
#[derive(Debug, Default)]
struct Rate {
    last: Duration,
    done: u64,
    /// The weighted bytes and seconds so far: their quotient is fair from the first moment on.
    bytes: f64,
    seconds: f64,
}

impl Rate {
    fn update(&mut self, elapsed: Duration, done: u64) -> u64 {
        let seconds = elapsed.saturating_sub(self.last).as_secs_f64();
        let fade = 0.5_f64.powf(seconds / 10.0);
        self.bytes = self.bytes * fade + done.saturating_sub(self.done) as f64;
        self.seconds = self.seconds * fade + seconds;
        (self.last, self.done) = (elapsed, done);
        if self.seconds > 0.0 { (self.bytes / self.seconds) as u64 } else { 0 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    done: u64,
    total: Option<u64>,
    stored: u64,
    elapsed: Duration,
}

impl Moment {
    /// `50% of 8.0 GiB, 512.0 MiB/s, 00:08 left, 1.2 GiB stored`: what is asked first comes first, a narrow terminal cuts
    /// the end off.
    fn describe(&self, rate: u64) -> String {
        let mut parts = vec![match self.total {
            Some(total) => {
                let share = (self.done.min(total) as f64 * 100.0 / total.max(1) as f64) as u64;
                format!("{share}% of {}", output::size(total))
            }
            None => output::size(self.done),
        }];
        parts.push(format!("{}/s", output::size(rate)));
        parts.push(match self.total {
            Some(total) if rate > 0 => format!("{} left", output::duration(total.saturating_sub(self.done) / rate)),
            _ => output::duration(self.elapsed.as_secs()),
        });
        if self.stored > 0 {
            parts.push(format!("{} stored", output::size(self.stored)));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn describes_with_and_without_a_total() {
        let moment = Moment { done: 4 * GIB, total: Some(8 * GIB), stored: GIB, elapsed: Duration::from_secs(8) };
        assert_eq!(moment.describe(GIB / 2), "50% of 8.0 GiB, 512.0 MiB/s, 00:08 left, 1.0 GiB stored");
        assert_eq!(moment.describe(0), "50% of 8.0 GiB, 0 B/s, 00:08, 1.0 GiB stored");
        let moment = Moment { total: None, stored: 0, ..moment };
        assert_eq!(moment.describe(GIB), "4.0 GiB, 1.0 GiB/s, 00:08");
        let empty = Moment { done: 0, total: Some(0), stored: 0, elapsed: Duration::ZERO };
        assert_eq!(empty.describe(0), "0% of 0 B, 0 B/s, 00:00");
        let beyond = Moment { done: 9 * GIB, total: Some(8 * GIB), stored: 0, elapsed: Duration::ZERO };
        assert_eq!(beyond.describe(GIB), "100% of 8.0 GiB, 1.0 GiB/s, 00:00 left");
    }

    #[test]
    fn rate_is_fair_at_once_and_forgets() {
        let mut rate = Rate::default();
        assert_eq!(rate.update(Duration::ZERO, 0), 0);
        assert_eq!(rate.update(Duration::from_secs(1), 100), 100);
        for second in 2..=10 {
            rate.update(Duration::from_secs(second), 100 * second);
        }
        let stalled = (11..=110).map(|second| rate.update(Duration::from_secs(second), 1000)).last().unwrap();
        assert!(stalled < 2, "{stalled} B/s after a hundred seconds of nothing");
    }

    #[test]
    fn counts_from_many_threads_and_ends() {
        let screen = Screen { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), show: Show::Lines };
        let progress = screen.progress("test", Some(400));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| progress.add(1)));
            }
        });
        assert_eq!(progress.done(), 400);
        progress.finish();
    }
}

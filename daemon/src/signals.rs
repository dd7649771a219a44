//! SIGINT, SIGTERM and SIGHUP. While a piece of work is armed, the first signal asks it to end cleanly and the second ends the
//! process at once; while nothing is armed, the first one does. SIGHUP, of a terminal that has gone, is nothing to a process
//! that was begun so (`nohup`), or has [stayed behind](Cancel::outlive_terminal).

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use wherry_repo::{Error, ErrorKind, Result};

/// What a signal is answered with, unless the work says so in its own way.
const ENDS: &str = "ends cleanly as soon as it can; another one ends at once";

/// Tells work that it should end. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Cancel {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// A signal now ends the process at once.
    at_once: Arc<AtomicBool>,
    /// The work should end.
    asked: Arc<AtomicBool>,
    /// The number of the signal that asked; 0 when none did.
    signal: Arc<AtomicUsize>,
    /// What is done at a SIGHUP.
    hangup: Mutex<Vec<SigId>>,
    /// What the user can do to go on later.
    hint: Mutex<&'static str>,
    /// What a signal is answered with; nothing when it is empty.
    says: Mutex<&'static str>,
    /// Why the work should end, where it was no signal.
    why: Mutex<String>,
    /// The work may go on until then, unless that is put off: as [`now`] has it.
    until: AtomicU64,
    /// What the work has read may be sent until then although it was asked to end, as [`now`] has it.
    sends_until: AtomicU64,
    /// The work has its source closed, and sends what it has read.
    only_sends: AtomicBool,
}

impl Default for Cancel {
    fn default() -> Self {
        let state = State {
            at_once: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
            signal: Arc::default(),
            hangup: Mutex::default(),
            hint: Mutex::new(""),
            says: Mutex::new(ENDS),
            why: Mutex::default(),
            until: AtomicU64::new(u64::MAX),
            sends_until: AtomicU64::new(0),
            only_sends: AtomicBool::default(),
        };
        Self { state: Arc::new(state) }
    }
}

/// Milliseconds since the machine was started, with the time that it slept: others did not sleep. Of a virtual machine that its
/// host had paused this shows nothing, nor does any other clock that never goes back.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

impl Cancel {
    /// Listens to the signals from now on. Once per process.
    pub fn listen() -> io::Result<Self> {
        let cancel = Self::default();
        let state = &cancel.state;
        let mut all = vec![(SIGINT, 130), (SIGTERM, 143)];
        if !ignores(SIGHUP) {
            all.push((SIGHUP, 129));
        }
        for &(signal, code) in &all {
            // In this order: a signal looks whether it is the one to end the process before it says that the next is.
            let ids = [
                signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&state.at_once))?,
                signal_hook::flag::register_usize(signal, Arc::clone(&state.signal), signal as usize)?,
                signal_hook::flag::register(signal, Arc::clone(&state.asked))?,
                signal_hook::flag::register(signal, Arc::clone(&state.at_once))?,
            ];
            if signal == SIGHUP {
                state.hangup.lock().extend(ids);
            }
        }
        let mut signals = Signals::new(all.iter().map(|(signal, _)| signal))?;
        // Work may take a while to notice: whoever sits at the terminal is told that the signal has come.
        let told = cancel.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in &mut signals {
                let says = *told.state.says.lock();
                if !says.is_empty() && (signal != SIGHUP || told.heeds_hangup()) {
                    tracing::warn!("{}: {says}", signal_name(signal));
                }
            }
        })?;
        Ok(cancel)
    }

    /// From now on SIGHUP is nothing to this process: it lets go of its terminal.
    pub fn outlive_terminal(&self) {
        for id in self.state.hangup.lock().drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }

    fn heeds_hangup(&self) -> bool {
        !self.state.hangup.lock().is_empty()
    }

    /// From now until the guard is dropped a signal only asks to end, and whoever works looks at [`Cancel::check`].
    /// `hint` tells the user how to go on after that, as a sentence without its full stop.
    #[must_use]
    pub fn arm(&self, hint: &'static str) -> Armed<'_> {
        self.arm_saying(hint, ENDS)
    }

    /// Likewise, for work that answers a signal in its own way, which `says` tells the user; nothing when it is empty.
    #[must_use]
    pub fn arm_saying(&self, hint: &'static str, says: &'static str) -> Armed<'_> {
        *self.state.hint.lock() = hint;
        *self.state.says.lock() = says;
        self.state.at_once.store(self.is_cancelled(), Ordering::SeqCst);
        Armed { cancel: self }
    }

    /// Whether the work should end.
    pub fn is_cancelled(&self) -> bool {
        self.state.asked.load(Ordering::Relaxed) || self.is_over()
    }

    /// Asks the work to end, for a reason that is told with the error; the first one counts.
    pub fn ask(&self, why: &str) {
        let mut said = self.state.why.lock();
        if said.is_empty() {
            why.clone_into(&mut said);
        }
        drop(said);
        self.state.asked.store(true, Ordering::SeqCst);
    }

    /// The work may go on for so long from now, and further when this is called again in time. A process that was stopped
    /// for longer does not call it, and then its work is over before it does anything: who woke it does not know what
    /// others did meanwhile. `false`: it is over already.
    pub fn go_on_for(&self, time: Duration) -> bool {
        let until = now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let put_off = self.state.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |_| {
            // What is over stays so.
            (!self.is_over()).then_some(until)
        });
        put_off.is_ok()
    }

    /// The time of [`Self::go_on_for`] has run out.
    pub fn is_over(&self) -> bool {
        let until = self.state.until.load(Ordering::Relaxed);
        until != u64::MAX && now() > until
    }

    /// What the work has read may be sent for so long from now, whoever asks it to end, while it [only sends](Self::only_sends).
    pub fn sends_for(&self, time: Duration) {
        let until = now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.state.sends_until.store(until, Ordering::SeqCst);
    }

    /// The work has closed its source and sends what it has read of it, or (`false`) it opens one, or commits: no request may hold up
    /// whoever waits for a source, nor may a commit come long after others were told that there is none.
    pub fn only_sends(&self, only: bool) {
        self.state.only_sends.store(only, Ordering::SeqCst);
    }

    /// As [`Self::check`], of work that has sent all and commits next.
    pub fn may_commit(&self) -> Result<()> {
        self.only_sends(false);
        self.check()
    }

    /// Whether the requests of work that sends what it reads are to end, too.
    pub fn sends_no_more(&self) -> bool {
        let may =
            || self.state.only_sends.load(Ordering::SeqCst) && now() < self.state.sends_until.load(Ordering::SeqCst);
        self.is_over() || (self.is_cancelled() && !may())
    }

    /// The work goes on although it was asked to end: the next signal asks anew.
    pub fn decline(&self) {
        self.state.asked.store(false, Ordering::SeqCst);
        self.state.signal.store(0, Ordering::SeqCst);
        self.state.at_once.store(false, Ordering::SeqCst);
    }

    /// The number of the signal that asked: SIGINT where it was none.
    pub fn signal(&self) -> i32 {
        match i32::try_from(self.state.signal.load(Ordering::Relaxed)) {
            Ok(signal @ (SIGHUP | SIGTERM)) => signal,
            _ => SIGINT,
        }
    }

    /// An error of kind [`ErrorKind::Cancelled`] when the work should end.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(self.error()) } else { Ok(()) }
    }

    /// The error that [`Cancel::check`] gives.
    pub fn error(&self) -> Error {
        let why = self.state.why.lock().clone();
        if !why.is_empty() {
            return Error::new(ErrorKind::Cancelled, why);
        }
        if self.is_over() {
            return Error::new(ErrorKind::Cancelled, "this process was stopped for too long");
        }
        let signal = signal_name(self.signal());
        let hint = *self.state.hint.lock();
        let end = if hint.is_empty() { String::new() } else { format!("; {hint}") };
        Error::new(ErrorKind::Cancelled, format!("ended by {signal}{end}"))
    }

    /// The flag itself, for code that takes one. It is only to be read, but in tests.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.state.asked)
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        SIGHUP => "SIGHUP",
        SIGTERM => "SIGTERM",
        _ => "SIGINT",
    }
}

/// Whether this process was begun so that it ignores a signal. Without `/proc` it does not.
fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Work that ends cleanly is under way.
#[derive(Debug)]
pub struct Armed<'a> {
    cancel: &'a Cancel,
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.cancel.state.at_once.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_how_to_go_on() {
        let cancel = Cancel::default();
        let _armed = cancel.arm("run it again");
        assert!(cancel.check().is_ok());
        cancel.flag().store(true, Ordering::Relaxed);
        let error = cancel.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(error.to_string(), "ended by SIGINT; run it again");
    }

    #[test]
    fn work_is_over_when_nobody_puts_that_off() {
        let cancel = Cancel::default();
        assert!(cancel.go_on_for(Duration::from_secs(3600)) && !cancel.is_cancelled());
        assert!(cancel.go_on_for(Duration::ZERO));
        while !cancel.is_cancelled() {
            std::thread::yield_now();
        }
        // Whoever wakes up does not take it up again.
        assert!(!cancel.go_on_for(Duration::from_secs(3600)) && cancel.is_over());
        assert!(cancel.error().to_string().contains("stopped for too long"));
        cancel.ask("first");
        cancel.ask("second");
        assert_eq!(cancel.check().unwrap_err().to_string(), "first");
    }

    #[test]
    fn what_was_read_is_sent_after_the_source_was_closed() {
        let hour = Duration::from_secs(3600);
        let ended = |sends: Option<Duration>, closed: bool| {
            let cancel = Cancel::default();
            if let Some(time) = sends {
                cancel.sends_for(time);
            }
            cancel.only_sends(closed);
            assert!(!cancel.sends_no_more(), "it was not asked to end");
            cancel.ask("rollout");
            cancel
        };
        assert!(ended(None, true).sends_no_more(), "nobody gave it any time");
        assert!(ended(Some(hour), false).sends_no_more(), "the volume is held for nothing");
        let sends = ended(Some(hour), true);
        assert!(!sends.sends_no_more());
        // One that was stopped sends nothing when it wakes.
        let sleeps = ended(Some(hour), true);
        assert!(sleeps.go_on_for(Duration::ZERO));
        while !sleeps.is_over() {
            std::thread::yield_now();
        }
        assert!(sleeps.sends_no_more());
        let short = ended(Some(Duration::from_millis(1)), true);
        while !short.sends_no_more() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_armed_work_survives_the_first_signal() {
        let cancel = Cancel::default();
        let at_once = || cancel.state.at_once.load(Ordering::SeqCst);
        assert!(at_once());
        let armed = cancel.arm("");
        assert!(!at_once());
        drop(armed);
        assert!(at_once());
        cancel.flag().store(true, Ordering::Relaxed);
        let _armed = cancel.arm("");
        assert!(at_once(), "a signal came before: the next one is the second");
    }
}

//! Signs of life, from the first read until the commit is done.

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use wherry_repo::{Error, ErrorKind, Pulse, Result};

/// Gives signs of life of a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Beating {
    /// Dropped to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Beating {
    /// One sign of life per `every`, from the beginning of a run on. Where there is no thread for that the run ends.
    pub(crate) fn start(pulse: Pulse, every: Duration) -> Result<Self> {
        Self::by(Builder::new(), pulse, every)
    }

    /// Likewise, by a thread of this kind.
    pub(super) fn by(thread: Builder, pulse: Pulse, every: Duration) -> Result<Self> {
        let run = pulse.clone();
        let (end, ended) = bounded::<()>(0);
        let beat = move || {
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                match pulse.beat() {
                    Ok(()) => {}
                    // The writer has been told, and tells whoever works with it.
                    Err(e) if e.kind() == ErrorKind::Conflict => return,
                    Err(e) => tracing::warn!("no sign of life could be given: {e}"),
                }
            }
        };
        let thread = thread.name("beat".to_owned()).spawn(wherry_repo::as_here(beat));
        let text = "no thread could be started for signs of life: allow this user more processes";
        let thread = thread.map_err(|e| {
            run.give_up().unwrap_or_else(|e| tracing::debug!("the run stays open: {e}"));
            Error::new(ErrorKind::Unavailable, text).with_source(e)
        })?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It panics only by a mistake, which has been reported then.
            let _ = thread.join();
        }
    }
}

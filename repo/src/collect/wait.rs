//! G9: no session that writes is left behind: each has seen the list, has ended, or is fenced.

use super::report::{Collected, Waiting};
use super::sessions::Noted;
use super::{CollectStep, Run};
use crate::session::fence;
use crate::storage::keys;
use crate::{Error, Result};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Waits until every session that writes has an outcome or has seen generation `n`; those that are dead or were silent
    /// for too long are fenced. False when some live and have not seen it by the end of the patience.
    pub(super) fn wait(&self, n: u32, report: &mut Collected) -> Result<bool> {
        let start = self.repository.clock().monotonic();
        loop {
            let late = self.late(n)?;
            report.waiting.clear();
            let mut fenced = false;
            for noted in &late {
                let Some(open) = &noted.open else { return Err(without_open(noted)) };
                let silent = noted.silent;
                if silent >= self.options.fence_after || open.process.is_dead() {
                    self.fence(noted, report)?;
                    fenced = true;
                } else {
                    let (name, host) = (open.name.clone(), open.process.host.clone());
                    report.waiting.push(Waiting { session: noted.id, name, host, pid: open.process.pid, silent });
                }
            }
            if late.is_empty() {
                return Ok(true);
            }
            (self.watch)(CollectStep::Wait, 0, report.waiting.len() as u64)?;
            // Whoever was fenced has an outcome now: it is looked at once more, and not passed over.
            if fenced {
                continue;
            }
            if self.repository.clock().monotonic().saturating_sub(start) >= self.options.patience {
                return Ok(false);
            }
            self.repository.clock().sleep(PAUSE);
        }
    }

    /// Whether nobody goes on with a session that writes: it was silent for so long that none who comes after it is waited
    /// for either.
    pub(super) fn is_left(&self, noted: &Noted) -> bool {
        noted.writes() && noted.silent >= self.options.fence_after.max(self.options.grace)
    }

    /// Fences what was left: as long as it has no outcome its packs stay (G6), and there may be nothing else to condemn.
    pub(super) fn fence_left(&self, report: &mut Collected) -> Result<()> {
        self.late(u32::MAX)?.iter().filter(|noted| self.is_left(noted)).try_for_each(|noted| self.fence(noted, report))
    }

    /// The sessions that write, have no outcome and have not seen generation `n`.
    fn late(&self, n: u32) -> Result<Vec<Noted>> {
        let mut sessions = self.list_sessions()?;
        sessions.retain(|noted| noted.writes() && noted.seen.is_none_or(|seen| seen < n));
        if !sessions.is_empty() {
            let outcomes = self.list_records()?;
            sessions.retain(|noted| !outcomes.contains(&noted.id));
        }
        // The record of one that is gone for good may be gone: only these few are asked for.
        let mut late = Vec::with_capacity(sessions.len());
        for noted in sessions {
            if !self.repository.forget_of(&noted.id)?.is_some_and(|forget| forget.is_final()) {
                late.push(noted);
            }
        }
        Ok(late)
    }

    /// It loses its commit, or has committed.
    fn fence(&self, noted: &Noted, report: &mut Collected) -> Result<()> {
        let Some(open) = &noted.open else { return Err(without_open(noted)) };
        let reason = "a collector ended it, as it gave no sign of life";
        if fence(self.repository, open.volume, noted.id, reason)?.is_some() {
            report.fenced.push((noted.id, open.name.clone()));
        }
        Ok(())
    }
}

pub(super) fn without_open(noted: &Noted) -> Error {
    let key = keys::session(&noted.id, "open");
    let how = match &noted.damage {
        Some(damage) => format!("cannot be read ({damage})"),
        None => "is gone".to_owned(),
    };
    let text = format!(
        "{key} {how}: which volume this session writes is not known, so it cannot be ended here; when it has given no sign of \
         life for two hours `wherry repair` ends it"
    );
    Error::corrupt(text).with_object(key)
}

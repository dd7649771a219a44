//! Sessions of others, rules A1 and A2 of `docs/concurrency.md`: which are open, whose process is gone, and what a new run takes over.

use super::{SILENT, fence};
use crate::format::records::{SessionKind, SessionOpen};
use crate::id::{SessionId, VolumeId};
use crate::repository::{Snapshot, SnapshotList};
use crate::storage::{Listed, keys};
use crate::{ErrorKind, Repository, Result, Timestamp};
use std::collections::HashSet;

/// A session, and what is known of whoever works in it.
#[derive(Debug)]
pub(crate) struct OpenSession {
    pub(crate) id: SessionId,
    pub(crate) open: SessionOpen,
    /// Its last sign of life, by the storage's clock.
    pub(crate) last: Timestamp,
    /// Nobody works in it any more: its process is gone, or was silent for [`SILENT`].
    pub(crate) dead: bool,
}

impl OpenSession {
    /// Removes what a reader or a turn left in which nobody works any more. What stays after an error is removed by the
    /// next one.
    pub(crate) fn clear(&self, repository: &Repository) {
        // `open` last, as its own process does it.
        for part in ["beat", "open"] {
            if let Err(e) = repository.storage().delete(&keys::session(&self.id, part)) {
                tracing::debug!("the note of a process that is gone stays: {e}");
                return;
            }
        }
    }
}

/// A1: sessions of the volume without an outcome whose process is gone, fenced ones that nobody has come after, and those
/// that all these had adopted.
pub(super) fn dead_sessions(repository: &Repository, volume: VolumeId, list: &SnapshotList) -> Result<Vec<SessionId>> {
    // A copy has the time of its original.
    let made = |s: &Snapshot| if s.record.origin.is_some() { s.record.ended } else { s.record.started };
    let newest = list.snapshots.iter().map(made).max();
    let fenced: HashSet<SessionId> =
        list.fenced.iter().filter(|(_, at)| Some(*at) > newest).map(|(id, _)| *id).collect();
    let (mut dead, mut alive) = (Vec::new(), HashSet::new());
    // Whose process is certainly gone needs no clock. Silence is measured by the storage's, which has to be asked for, and from before
    // sessions were listed: by one of ours that is hours ahead, or after a stall, who works would be dead.
    let mut sessions = open_sessions(repository, &fenced, Timestamp(i64::MIN))?;
    let is_silent = |s: &OpenSession| {
        s.open.kind == SessionKind::Write && s.open.volume == volume && !s.dead && !fenced.contains(&s.id)
    };
    if sessions.iter().any(is_silent) {
        match repository.storage_time() {
            Ok(now) => sessions = open_sessions(repository, &fenced, now)?,
            // It costs uploads, and no more.
            Err(e) if e.kind() == ErrorKind::Denied => {
                tracing::info!("which backups of this volume were left is not known, so nothing is taken over: {e}");
            }
            Err(e) => return Err(e),
        }
    }
    for session in sessions {
        // V4. A process that is certainly gone reads no more.
        if session.open.kind == SessionKind::Read && session.open.parent.is_some() && session.open.process.is_dead() {
            session.clear(repository);
        }
        let OpenSession { id, open, .. } = session;
        let over = match fenced.contains(&id) {
            true => Some(open.started) > newest,
            false => session.dead,
        };
        if open.kind == SessionKind::Write && open.volume == volume && over {
            dead.push(id);
            // What it had adopted itself is still worth having.
            dead.extend(open.adopts);
        } else if !fenced.contains(&id) {
            alive.insert(id);
        }
    }
    // One that was silent when it was adopted, by a run that died before it fenced it, may be at work again.
    dead.retain(|id| !alive.contains(id));
    dead.sort_unstable();
    dead.dedup();
    Ok(dead)
}

/// Every session without an outcome, and of those that have one the ones in `also`.
/// `now` is what their silence is measured by.
pub(crate) fn open_sessions(
    repository: &Repository,
    also: &HashSet<SessionId>,
    now: Timestamp,
) -> Result<Vec<OpenSession>> {
    let mut sessions: Vec<(SessionId, Timestamp)> = Vec::new();
    repository.storage().list(keys::SESS, &mut |Listed { key, modified, .. }| {
        if let Some((id, _)) = keys::parse_session(&key) {
            match sessions.last_mut() {
                Some((last, newest)) if *last == id => *newest = modified.max(*newest),
                _ => sessions.push((id, modified)),
            }
        }
        Ok(())
    })?;
    sessions.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    sessions.dedup_by_key(|(id, _)| *id);
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let ended: HashSet<SessionId> =
        repository.list(keys::SNAP)?.iter().filter_map(keys::parse_snap).map(|(_, id)| id).collect();
    let mut found = Vec::new();
    sessions.retain(|(id, _)| also.contains(id) || !ended.contains(id));
    let sessions: Vec<_> = sessions.into_iter().map(|session| (session, keys::session(&session.0, "open"))).collect();
    for (((id, last), _), open) in sessions.iter().zip(repository.read_many(&sessions)) {
        let (id, last) = (*id, *last);
        let open: SessionOpen = match open {
            Ok((open, _)) => open,
            Err(e) if repository.is_damage(&e) => continue,
            Err(e) => return Err(e),
        };
        let silent = now.0.saturating_sub(last.0) > SILENT.as_nanos() as i64;
        let dead = open.process.is_dead() || silent;
        found.push(OpenSession { id, open, last, dead });
    }
    Ok(found)
}

/// A2: a fenced session never commits, so its packs can be taken over. One that did commit has nothing to adopt.
pub(super) fn fence_dead(
    repository: &Repository,
    volume: VolumeId,
    dead: Vec<SessionId>,
    written: &mut u64,
) -> Result<Vec<SessionId>> {
    let mut adopted = Vec::new();
    for id in dead {
        if let Some(bytes) = fence(repository, volume, id, "its process is gone; a later run takes over")? {
            *written += bytes;
            adopted.push(id);
        }
    }
    Ok(adopted)
}

//! Sessions whose `open` is damaged or gone: M6 of `docs/concurrency.md`. Nobody can tell what such a one leans on, so that no
//! collector runs beside it. Which volume it writes its `seen` says.

use crate::format::records::{Seen, SessionOpen};
use crate::id::{SessionId, VolumeId};
use crate::session::{SILENT, fence};
use crate::storage::{Key, Listed, keys};
use crate::{ErrorKind, Repository, Result, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// A session of which nobody can tell what it leans on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostSession {
    /// Its id.
    pub id: SessionId,
    /// How long ago it gave a sign of life, by the storage's clock.
    pub silent: Duration,
    /// It was ended and its notes are gone. Else it may still be at work.
    pub ended: bool,
}

/// What a listing says of a session.
struct Notes {
    keys: Vec<Key>,
    last: Timestamp,
    /// It has read a list of a collector, which only those do that write.
    has_seen: bool,
}

impl Repository {
    /// M6: ends the sessions without outcome whose `open` is damaged or gone, as soon as they were silent for two hours, and removes
    /// their notes. A Fence stands where it would commit. One that has not come to its `seen` gets none: it has no packs, and reads the lists
    /// and looks at its parent only behind that.
    ///
    /// # Errors
    /// What the storage says when it does not answer; a feature that this build must not write beside.
    pub fn end_lost_sessions(&self) -> Result<Vec<LostSession>> {
        self.check_writable()?;
        if self.lost_sessions()?.0.is_empty() {
            return Ok(Vec::new());
        }
        // From before sessions are listed: of what came since, while this process was stalled, it would not know.
        let now = self.storage_time()?;
        let (mut found, mut volumes) = self.lost_sessions()?;
        let theirs: BTreeSet<SessionId> = found.iter().map(|(id, _)| *id).collect();
        let forgets = self.verdicts(&self.listed_forgets_of(&theirs)?, |id| theirs.contains(id))?;
        let is_final = |id: &SessionId| forgets.get(id).is_some_and(|forget| forget.is_final());
        let mut ended = HashSet::new();
        for (volume, id) in self.list(keys::SNAP)?.iter().filter_map(keys::parse_snap) {
            volumes.insert(volume);
            ended.insert(id);
        }
        // What has an outcome a collector clears away.
        found.retain(|(id, _)| !ended.contains(id) && !is_final(id));
        // Without a volume there is no snapshot; the packs of the session are to be condemned all the same (G6).
        if volumes.is_empty() {
            volumes.insert(VolumeId::new([0; 16]));
        }
        let mut lost = Vec::new();
        for (id, notes) in found {
            let silent = Duration::from_nanos(u64::try_from(now.0.saturating_sub(notes.last.0)).unwrap_or(0));
            let is_over = silent >= SILENT;
            if is_over {
                if notes.has_seen {
                    let theirs = self.volume_of(&notes)?.map(|volume| BTreeSet::from([volume]));
                    for volume in theirs.as_ref().unwrap_or(&volumes) {
                        fence(self, *volume, id, "its note is damaged or gone, and it gave no sign of life")?;
                    }
                }
                // `open` last: without it the rest means nothing.
                let open = keys::session(&id, "open");
                let rest = notes.keys.iter().filter(|key| **key != open);
                rest.chain([&open]).try_for_each(|key| self.storage().delete(key))?;
            }
            lost.push(LostSession { id, silent, ended: is_over });
        }
        Ok(lost)
    }

    /// Those whose `open` is damaged or gone, with or without an outcome, and the volumes of all others.
    fn lost_sessions(&self) -> Result<(Vec<(SessionId, Notes)>, BTreeSet<VolumeId>)> {
        let mut volumes: BTreeSet<VolumeId> = BTreeSet::new();
        let mut found: Vec<(SessionId, Notes)> = Vec::new();
        for (id, notes, open) in self.noted_sessions()? {
            match open {
                Ok(open) => drop(volumes.insert(open.volume)),
                Err(e) if e.kind() == ErrorKind::NotFound && !notes.has_seen => {}
                Err(e) if self.is_damage(&e) => found.push((id, notes)),
                Err(e) => return Err(e),
            }
        }
        Ok((found, volumes))
    }

    /// The volume that one of its `seen` names; `None`: it is of an earlier build, or none of them can be read.
    fn volume_of(&self, notes: &Notes) -> Result<Option<VolumeId>> {
        let is_seen = |key: &&Key| keys::parse_session(key).is_some_and(|(_, part)| !matches!(part, "open" | "beat"));
        for key in notes.keys.iter().filter(is_seen) {
            match self.read::<Seen>(key) {
                Ok(Seen { volume: None, .. }) => {}
                Ok(seen) => return Ok(seen.volume),
                Err(e) if self.is_damage(&e) => tracing::warn!("{key} cannot be read: {e}"),
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// All that have notes, by id.
    #[allow(clippy::type_complexity)]
    fn noted_sessions(&self) -> Result<Vec<(SessionId, Notes, Result<SessionOpen>)>> {
        let mut noted: BTreeMap<SessionId, Notes> = BTreeMap::new();
        self.storage().list(keys::SESS, &mut |Listed { key, modified, .. }| {
            if let Some((id, part)) = keys::parse_session(&key) {
                let has_seen = !matches!(part, "open" | "beat");
                let notes = noted.entry(id).or_insert(Notes { keys: Vec::new(), last: modified, has_seen });
                (notes.last, notes.has_seen) = (notes.last.max(modified), notes.has_seen || has_seen);
                notes.keys.push(key);
            }
            Ok(())
        })?;
        let wanted: Vec<_> = noted.keys().map(|id| ((), keys::session(id, "open"))).collect();
        let opens = self.read_many::<_, SessionOpen>(&wanted);
        Ok(noted.into_iter().zip(opens).map(|((id, notes), open)| (id, notes, open.map(|(open, _)| open))).collect())
    }
}

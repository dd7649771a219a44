//! Sessions: G3, and which of them are over.

use super::report::Collected;
use super::{Run, since};
use crate::format::records::{SessionKind, SessionOpen};
use crate::id::{SessionId, SnapshotId};
use crate::storage::{Key, Listed, keys};
use crate::{ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// A reader that was silent for so long reads no more (V4).
const READER_SILENT: Duration = Duration::from_secs(7 * 86_400);

/// What a listing says of a session.
#[derive(Clone, Debug)]
pub(super) struct Noted {
    pub(super) id: SessionId,
    /// All its objects.
    keys: Vec<Key>,
    /// How long ago its last sign of life was, by the storage's clock, when sessions began to be listed. Not when that is looked at:
    /// this process may have been stalled since, and what others did meanwhile it does not know.
    pub(super) silent: Duration,
    /// The newest generation it has taken into account.
    pub(super) seen: Option<u32>,
    /// `None` when it was gone by the time it was read, or is damaged.
    pub(super) open: Option<SessionOpen>,
    /// How it is damaged.
    pub(super) damage: Option<String>,
}

impl Noted {
    /// Without `open` it is not known what it is, nor what it may need.
    pub(super) fn may_write(&self) -> bool {
        self.open.is_none() && (self.seen.is_some() || self.damage.is_some())
    }

    pub(super) fn writes(&self) -> bool {
        match &self.open {
            Some(open) => open.kind == SessionKind::Write,
            None => self.may_write(),
        }
    }
}

impl Run<'_> {
    /// G3. One whose `open` is damaged may need anything, unless it has an outcome: that is for the caller to tell.
    pub(super) fn list_sessions(&self) -> Result<Vec<Noted>> {
        let began = self.now();
        let mut found: BTreeMap<SessionId, Noted> = BTreeMap::new();
        self.storage().list(keys::SESS, &mut |Listed { key, modified, .. }| {
            if let Some((id, part)) = keys::parse_session(&key) {
                let seen = part.strip_prefix("seen-").and_then(|n| n.parse().ok());
                let silent = since(began, modified);
                let new = || Noted { id, keys: Vec::new(), silent, seen: None, open: None, damage: None };
                let noted = found.entry(id).or_insert_with(new);
                (noted.silent, noted.seen) = (noted.silent.min(silent), noted.seen.max(seen));
                noted.keys.push(key);
            }
            Ok(())
        })?;
        let mut found: Vec<Noted> = found.into_values().collect();
        let wanted: Vec<_> = found.iter().map(|noted| ((), keys::session(&noted.id, "open"))).collect();
        for (noted, open) in found.iter_mut().zip(self.repository.read_many(&wanted)) {
            noted.open = match open {
                Ok((open, _)) => Some(open),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) if self.repository.is_damage(&e) => {
                    noted.damage = Some(e.to_string());
                    None
                }
                Err(e) => return Err(e),
            };
        }
        Ok(found)
    }

    /// The sessions that have an outcome, of these; of one whose snapshot is gone for good that is what says so.
    fn list_outcomes(&self, of: &[Noted]) -> Result<HashSet<SessionId>> {
        let mut outcomes = self.list_records()?;
        let rest: BTreeSet<SnapshotId> = of.iter().map(|noted| noted.id).filter(|id| !outcomes.contains(id)).collect();
        let forgets = self.repository.verdicts(&self.repository.listed_forgets_of(&rest)?, |id| rest.contains(id))?;
        outcomes.extend(forgets.iter().filter(|(_, f)| f.is_final()).map(|(id, _)| *id));
        Ok(outcomes)
    }

    /// The sessions that have a Snapshot or a Fence.
    pub(super) fn list_records(&self) -> Result<HashSet<SessionId>> {
        let mut outcomes = HashSet::new();
        self.storage().list(keys::SNAP, &mut |object| {
            outcomes.extend(keys::parse_snap(&object.key).map(|(_, id)| id));
            Ok(())
        })?;
        Ok(outcomes)
    }

    /// V4: the notes of readers in which nobody reads any more, before they are taken for roots.
    pub(super) fn clear_readers(&self, report: &mut Collected) -> Result<()> {
        for noted in self.list_sessions()? {
            let Some(open) = noted.open.as_ref().filter(|open| open.kind == SessionKind::Read) else { continue };
            if open.parent.is_some() && (open.process.is_dead() || noted.silent >= READER_SILENT) {
                self.clear(noted, report)?;
            }
        }
        Ok(())
    }

    /// G13: notes of sessions with an outcome, and what is left of ones whose `open` is gone. Those who write are asked for
    /// by their successors, so they stay for the grace.
    pub(super) fn clear_sessions(&self, report: &mut Collected) -> Result<()> {
        let mut sessions = self.list_sessions()?;
        sessions.retain(|noted| noted.silent >= self.options.grace);
        if sessions.is_empty() {
            return Ok(());
        }
        let outcomes = self.list_outcomes(&sessions)?;
        for noted in sessions {
            if outcomes.contains(&noted.id) || (noted.open.is_none() && !noted.may_write()) {
                self.clear(noted, report)?;
            }
        }
        Ok(())
    }

    /// `open` last: without it the rest means nothing.
    fn clear(&self, noted: Noted, report: &mut Collected) -> Result<()> {
        let open = keys::session(&noted.id, "open");
        let rest = noted.keys.iter().filter(|key| **key != open);
        rest.chain([&open]).try_for_each(|key| self.storage().delete(key))?;
        report.sessions += 1;
        Ok(())
    }
}

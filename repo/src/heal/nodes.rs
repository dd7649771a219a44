//! Nodes of maps and trees that are lost: a snapshot of the other repository that holds the same is copied, and the copy is not
//! committed. Same content makes the same nodes, by their ids, whatever their hints say; so readers and marks find them (V3, G5).

use super::HealWatch;
use super::verify::read_back;
use crate::check::Wanted;
use crate::elsewhere::Copy;
use crate::format::tree::{FOLDER, Ref};
use crate::id::PackId;
use crate::storage::keys;
use crate::{Error, ErrorKind, Pulse, Repository, Result, SessionId, SnapshotCopy, Timestamp};

/// A snapshot of the other repository whose nodes are made again here.
#[derive(Debug)]
pub struct NodeHeal {
    repository: Repository,
    copy: SnapshotCopy,
    began: Timestamp,
}

impl NodeHeal {
    /// Of a copy that was started upon nothing.
    pub fn new(repository: &Repository, copy: SnapshotCopy) -> Self {
        Self { repository: repository.clone(), copy, began: repository.clock().now() }
    }

    /// Gives signs of life of this run here; somebody has to do that about once a minute.
    pub fn pulse(&self) -> Pulse {
        self.copy.pulse()
    }

    /// Stores all nodes of the snapshot, and of its chunks those that no intact pack is known to have; reads that back; commits
    /// nothing. Gives the packs that were stored, and why it could not be read to the end, where the snapshot there is damaged itself.
    ///
    /// # Errors
    /// `Corrupt`: what was stored does not come back; `Conflict`: a collector ended the run, it may be begun again. What was stored
    /// stays until a collector finds that nobody needs it.
    pub fn run(self, watch: HealWatch<'_>) -> Result<(u64, Option<Error>)> {
        let Self { repository, copy, began } = self;
        let id = copy.id();
        let (stored, lost) = match copy.store(watch) {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => (Ok(()), Some(e)),
            stored => (stored, None),
        };
        let packs = packs_of(&repository, &id)?;
        Ok((read_back(&repository, began, &packs, stored, watch)?, lost))
    }
}

fn packs_of(repository: &Repository, session: &SessionId) -> Result<Vec<PackId>> {
    let mut found = Vec::new();
    for prefix in [keys::PACKS, keys::META] {
        repository.storage().list(prefix, &mut |object| {
            found.extend(keys::parse_pack(&object.key).filter(|pack| pack.session == *session));
            Ok(())
        })?;
    }
    Ok(found)
}

impl Wanted {
    /// How many of the nodes no pack has now: a copy counts if its bytes are those that were sealed for it.
    ///
    /// # Errors
    /// What the storage says when it does not answer.
    pub fn missing_nodes(&self, repository: &Repository) -> Result<u64> {
        let mut missing = 0;
        for ((class, id), at) in &self.nodes {
            let open = |copy: &Copy| {
                let start = u64::from(copy.at.offset);
                let range = start..start.saturating_add(u64::from(copy.at.len));
                let opened = repository.storage().get_range(&keys::pack(&copy.pack), range).and_then(|sealed| {
                    let opener = repository.opener();
                    match class.checked_sub(128).filter(|level| *level < FOLDER - 128) {
                        Some(level) => opener.node(id, level, &copy.at, &sealed).map(drop),
                        None => {
                            let to = Ref { id: *id, class: *class, plain: copy.plain };
                            opener.tree_node(&to, &copy.at, &sealed).map(drop)
                        }
                    }
                });
                match opened {
                    Err(e) if repository.is_damage(&e) => Ok(None),
                    opened => opened.map(Some),
                }
            };
            missing += u64::from(repository.elsewhere().first(repository, id, *class, at, open)?.is_none());
        }
        Ok(missing)
    }
}

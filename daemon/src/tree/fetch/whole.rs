//! What belongs to every restore of a whole tree.

use crate::signals::Cancel;
use crate::tree::restore::{Has, Known as Snapshots, Overwrite, Report, Why, shown_path};
use anyhow::Result;
use wherry_repo::format::tree::{Below, Entry, Known, What};
use wherry_repo::{Snapshot, TreeReader};

/// What the snapshot has, for the removal of everything else.
#[derive(Debug)]
pub struct Whole<'a> {
    /// The snapshot.
    pub tree: &'a TreeReader,
    /// Asks to end.
    pub cancel: &'a Cancel,
}

impl Snapshots for Whole<'_> {
    type Folder = Option<Below>;

    fn root(&self) -> Result<Self::Folder> {
        Ok(below(self.tree.root()))
    }

    fn find(&self, folder: &Self::Folder, name: &[u8]) -> Result<Has<Self::Folder>> {
        let Some(folder) = folder else { return Ok(Has::Nothing) };
        Ok(match self.tree.find(folder, name)? {
            None => Has::Nothing,
            Some((_, Entry::Known(known))) => match &known.what {
                What::Folder { boundary: false, .. } if known.missing.is_none() => Has::Folder(below(&known)),
                _ => Has::Other,
            },
            Some((_, Entry::Unknown { .. })) => Has::Other,
        })
    }

    fn names(&self, folder: &Self::Folder, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(folder) = folder else { return Ok(()) };
        for entry in self.tree.list(folder, 0)? {
            each(entry?.1.name())?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(self.cancel.check()?)
    }
}

fn below(known: &Known) -> Option<Below> {
    match known.what {
        What::Folder { below, .. } => below,
        _ => None,
    }
}

/// The same for a restore that goes on: it names the temporary files.
pub fn run_number(snapshot: &Snapshot, (major, minor, inode): (u32, u32, u64)) -> u64 {
    let mut id = [0; 8];
    id.copy_from_slice(&snapshot.id.bytes()[..8]);
    u64::from_le_bytes(id) ^ inode ^ (u64::from(major) << 52) ^ (u64::from(minor) << 40)
}

/// True when something of the snapshot is not there although nobody asked to keep what is there in its place: it is of
/// another kind, this run works with it, or two names of the snapshot are one in the target, which does not tell cases apart.
pub fn left_out(report: &Report, began_empty: bool, overwrite: Overwrite) -> bool {
    let counts = |why: Why| match why {
        Why::OtherType | Why::Taken | Why::InUse(_) => true,
        // Nobody asked for that: it came there meanwhile.
        Why::Exists => began_empty || overwrite != Overwrite::Never,
        Why::NotOlder | Why::Mounted => began_empty,
        Why::Done | Why::Spared(_) => false,
    };
    for skipped in report.skipped.first.iter().filter(|skipped| counts(skipped.why)) {
        tracing::warn!("not restored: {}: {}", shown_path(&skipped.path), skipped.why);
    }
    report.reasons.keys().any(|why| counts(*why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::Used;

    #[test]
    fn what_is_not_there_although_nobody_asked_for_that_counts() {
        let counts = |why, began_empty, mode| {
            let report = Report { reasons: [(why, 1)].into(), ..Report::default() };
            left_out(&report, began_empty, mode)
        };
        for (began_empty, mode) in [(false, Overwrite::Never), (true, Overwrite::Always), (false, Overwrite::IfNewer)] {
            assert!(counts(Why::Taken, began_empty, mode) && counts(Why::OtherType, began_empty, mode));
            assert!(counts(Why::InUse(Used::Cache), began_empty, mode));
            assert!(!counts(Why::Done, began_empty, mode) && !counts(Why::Spared(Used::Cache), began_empty, mode));
        }
        assert!(!counts(Why::Exists, false, Overwrite::Never) && !counts(Why::NotOlder, false, Overwrite::IfNewer));
        assert!(counts(Why::Exists, true, Overwrite::Never) && counts(Why::Exists, false, Overwrite::Always));
    }
}

//! The note that a restore is under way: it lets the same command go on after an interruption, although the target is no
//! longer empty. It is no more than a permission: what is there already is compared, never believed.

use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use wherry_repo::{Error, Result, SnapshotId};

/// Lies beside a file, or in the cache directory for a device.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    note: Note,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    snapshot: String,
    root: String,
    /// Tells the target from another one that has taken its name.
    identity: String,
}

impl Marker {
    /// For a target that exists.
    pub fn new(target: &Path, cache: &Path, snapshot: &SnapshotId, root: &str) -> Result<Self> {
        let unreadable = |e| Error::invalid(format!("{} cannot be looked at: {e}", target.display()));
        let real = fs::canonicalize(target).map_err(unreadable)?;
        let meta = fs::metadata(&real).map_err(unreadable)?;
        let device = meta.rdev() != 0 && !meta.is_file();
        let (path, identity) = if device {
            let name = real.to_string_lossy().replace('/', "-");
            (
                cache.join("restores").join(format!("{}.json", name.trim_start_matches('-'))),
                format!("device {:x}", meta.rdev()),
            )
        } else {
            let name = format!(".{}.wherry-restore", real.file_name().unwrap_or_default().to_string_lossy());
            (real.with_file_name(name), format!("file {:x} {}", meta.dev(), meta.ino()))
        };
        Ok(Self { path, note: Note { snapshot: snapshot.to_string(), root: root.into(), identity } })
    }

    /// True when the same restore to the same target was begun and did not end.
    pub fn is_set(&self) -> bool {
        let note = fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        note.is_some_and(|note| note == self.note)
    }

    /// Says that the restore has begun.
    pub fn set(&self) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let text = serde_json::to_vec(&self.note).unwrap_or_default();
        let write = || {
            fs::create_dir_all(folder)?;
            fs::write(&self.path, &text)?;
            fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| {
            let text =
                format!("the note that a restore is under way cannot be written to {}: {e}", self.path.display());
            Error::new(wherry_repo::ErrorKind::Unavailable, text)
        })
    }

    /// Says that it has ended.
    pub fn clear(&self) {
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} could not be removed: {e}; remove it by hand", self.path.display());
        }
    }
}

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
    /// Nothing was ever written to the target.
    untouched: bool,
}

/// The identity of a file that is going to be made.
const NEW: &str = "new";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    snapshot: String,
    root: String,
    /// Tells the target from another one that has taken its name.
    identity: String,
}

impl Marker {
    /// For a target that exists, or for a file that is going to be made.
    pub fn new(target: &Path, cache: &Path, snapshot: &SnapshotId, root: &str) -> Result<Self> {
        if !target.exists() {
            let name = format!(".{}.wherry-restore", target.file_name().unwrap_or_default().to_string_lossy());
            let note = Note { snapshot: snapshot.to_string(), root: root.into(), identity: NEW.into() };
            return Ok(Self { path: target.with_file_name(name), note, untouched: true });
        }
        let unreadable = |e| Error::invalid(format!("{} cannot be looked at: {e}; check the path", target.display()));
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
        // Killed between the making of the file and the note that names it, a run has written nothing.
        let untouched = !device && meta.blocks() == 0;
        Ok(Self { path, untouched, note: Note { snapshot: snapshot.to_string(), root: root.into(), identity } })
    }

    /// True when the same restore to the same target was begun and did not end.
    pub fn is_set(&self) -> bool {
        let note = fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        let same = |note: Note| {
            let identity = note.identity == self.note.identity || (note.identity == NEW && self.untouched);
            identity && note.snapshot == self.note.snapshot && note.root == self.note.root
        };
        note.is_some_and(same)
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

//! The note that a restore is under way: it lets the same command go on after an interruption, although the target is no
//! longer empty. It is no more than a permission: what is there already is compared, never believed. For a disk it holds only as
//! long as nobody else has used the target: see [`Seen`](super::Seen). Damage of the snapshot ends it.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use wherry_repo::SnapshotId;

/// Lies beside a file, or in the cache directory for a device: one for each name of a target, so none is left behind.
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
    /// Tells the target from another one that has taken its name; `None` where that cannot be told.
    identity: Option<String>,
    /// What was on it before, where a filesystem would be seen: see [`Seen::checksums`](super::Seen::checksums).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<(u64, u32)>,
}

impl Note {
    fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// For the fuzz target `local_texts`: the note that these bytes are, written again.
pub(crate) fn again(bytes: &[u8]) -> Option<Vec<u8>> {
    Note::decode(bytes)?.encode().ok()
}

impl Marker {
    /// For a target that exists, or for a file that is going to be made.
    ///
    /// # Errors
    /// When the target cannot be looked at.
    pub fn new(target: &Path, cache: &Path, snapshot: &SnapshotId, root: &str) -> anyhow::Result<Self> {
        let note = |identity| Note { snapshot: snapshot.to_string(), root: root.into(), identity, before: Vec::new() };
        let beside = |file: &Path| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            file.with_file_name(format!(".{name}.wherry-restore"))
        };
        if !target.exists() {
            return Ok(Self { path: beside(target), note: note(Some(NEW.into())), untouched: true });
        }
        let unreadable =
            |e| wherry_repo::Error::invalid(format!("{} cannot be looked at: {e}; check the path", target.display()));
        let real = fs::canonicalize(target).map_err(unreadable)?;
        let meta = fs::metadata(&real).map_err(unreadable)?;
        let device = meta.file_type().is_block_device();
        let path = if device {
            let name = real.to_string_lossy().replace('/', "-");
            cache.join("restores").join(format!("{}.json", name.trim_start_matches('-')))
        } else {
            beside(&real)
        };
        // Killed between the making of the file and the note that names it, a run has written nothing.
        let untouched = !device && meta.blocks() == 0;
        Ok(Self { path, untouched, note: note(wherry_block::disk_identity(&real)?) })
    }

    /// The same, and what was on the target before.
    pub(crate) fn over(mut self, before: &[(u64, u32)]) -> Self {
        self.note.before = before.to_vec();
        self
    }

    /// What was on the target before the restore that was begun.
    pub(crate) fn before(&self) -> Vec<(u64, u32)> {
        self.read().map(|note| note.before).unwrap_or_default()
    }

    fn read(&self) -> Option<Note> {
        Note::decode(&fs::read(&self.path).ok()?)
    }

    /// True when the same restore to the same target was begun and did not end.
    pub fn is_set(&self) -> bool {
        let same = |note: Note| {
            let known = note.identity.is_some() && note.identity == self.note.identity;
            let made = note.identity.as_deref() == Some(NEW) && self.untouched;
            (known || made) && note.snapshot == self.note.snapshot && note.root == self.note.root
        };
        self.read().is_some_and(same)
    }

    /// Says that the restore has begun, durably, and takes the place of the note of another one. A restore does not fail
    /// because this does.
    pub fn set(&self) {
        if self.read().is_none_or(|note| note != self.note)
            && let Err(e) = self.write()
        {
            let path = self.path.display();
            tracing::warn!(
                "{path} cannot be written ({e}): after an interruption, --delta (of a directory: --overwrite always) is needed to go on"
            );
        }
    }

    fn write(&self) -> io::Result<()> {
        let folder = folder(&self.path);
        make_folder(folder)?;
        let fresh = self.fresh();
        // What lies there may be a link that somebody else has put there.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::create_new(&fresh)?;
        file.write_all(&self.note.encode()?)?;
        file.sync_all()?;
        // At any moment there is the old note or the new one, whole.
        fs::rename(&fresh, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn fresh(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        name.into()
    }

    /// Says that it has ended, durably: a note that came back after a power failure would let the same command write to a
    /// disk that has been in use since.
    pub fn clear(&self) {
        let _ = fs::remove_file(self.fresh());
        let removed = match fs::remove_file(&self.path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
            Err(e) => Err(e),
            Ok(()) => File::open(folder(&self.path)).and_then(|folder| folder.sync_all()),
        };
        if let Err(e) = removed {
            tracing::warn!("{} could not be removed: {e}; remove it by hand", self.path.display());
        }
    }
}

/// The folder of a file, as a path that can be opened.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder and those above it, durably.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder(path);
    make_folder(above)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(above)?.sync_all()
}

//! What the driver stores: a JSON file for each object, and beside it an image, a sparse file with its bytes.

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its volumeHandle.
    pub id: String,
    /// What it was made as; the same name is the same volume.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Made as a Block volume; else as a Filesystem one.
    pub block: bool,
    /// The snapshot that it was made from.
    pub source: Option<String>,
    /// Its bytes are not there yet, and so many times this is still to be said.
    pub copying: Option<u64>,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its snapshotHandle.
    pub id: String,
    /// What it was made as.
    pub name: String,
    /// The volume it is of; that may be gone.
    pub volume: String,
    /// Bytes.
    pub size: u64,
    /// Whole seconds since 1970.
    pub seconds: i64,
    /// And the nanoseconds.
    pub nanos: i32,
    /// So many answers still say that it is not ready.
    pub unready: u64,
}

/// A hash of each block of a snapshot, as drivers have tables of what they store. It stays when the snapshot is deleted, for deltas
/// against it, and is gone with the volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// The snapshot that is, or was.
    pub id: String,
    /// The volume it is of.
    pub volume: String,
    /// Bytes of a block.
    pub block_size: u64,
    /// By the number of the block; those that are zero have none.
    pub hashes: BTreeMap<u64, String>,
}

/// An object that has an id.
pub trait Object: Serialize + DeserializeOwned {
    /// The name of its folder.
    const FOLDER: &'static str;
    /// Its id, the name of its files.
    fn id(&self) -> &str;
}

macro_rules! object {
    ($kind:ty, $folder:literal) => {
        impl Object for $kind {
            const FOLDER: &'static str = $folder;

            fn id(&self) -> &str {
                &self.id
            }
        }
    };
}

object!(Volume, "volumes");
object!(Snapshot, "snapshots");
object!(Table, "tables");

/// All objects of a kind.
#[derive(Debug)]
pub struct Shelf<T> {
    folder: PathBuf,
    kind: PhantomData<fn() -> T>,
}

impl<T: Object> Shelf<T> {
    /// Those of a data directory; the folder is made if it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let folder = data_dir.join(T::FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { folder, kind: PhantomData })
    }

    /// The object with this id.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn get(&self, id: &str) -> anyhow::Result<Option<T>> {
        // Ids come from outside: none may lead out of the folder.
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Ok(None);
        }
        let file = self.record(id);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == NotFound => return Ok(None),
            // No id of ours is longer than a file name may be.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidFilename => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("reading {}", file.display())),
        };
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is no record", file.display()))
    }

    /// All, by id.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn all(&self) -> anyhow::Result<Vec<T>> {
        let mut ids = self.names(".json")?;
        ids.sort();
        // One that is gone since is no error: `ls` runs beside the driver.
        ids.iter().filter_map(|id| self.get(id).transpose()).collect()
    }

    /// Writes a record, new or changed, at once. What belongs to it is written before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, object: &T) -> anyhow::Result<()> {
        let file = self.record(object.id());
        let new = self.folder.join(format!("{}.new", object.id()));
        let bytes = serde_json::to_vec_pretty(object)?;
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Removes an object: its bytes, then its record, so that a removal that is cut off can be repeated.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self, id: &str) -> anyhow::Result<()> {
        for file in [self.image(id), self.record(id)] {
            match fs::remove_file(&file) {
                Err(e) if e.kind() != NotFound => {
                    return Err(e).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the bytes of an object are.
    pub fn image(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.img"))
    }

    /// Files without a record: of something that was cut off.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn strays(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut strays: Vec<PathBuf> =
            self.names(".new")?.iter().map(|id| self.folder.join(format!("{id}.new"))).collect();
        for id in self.names(".img")? {
            if self.get(&id)?.is_none() {
                strays.push(self.image(&id));
            }
        }
        Ok(strays)
    }

    /// The paths of all images.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn images(&self) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.names(".img")?.iter().map(|id| self.image(id)).collect())
    }

    fn record(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn names(&self, ending: &str) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(|| format!("listing {}", self.folder.display()))? {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(ending)).map(str::to_owned));
        }
        Ok(names)
    }
}

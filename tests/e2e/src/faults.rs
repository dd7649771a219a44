//! Misbehaviour by switch: a file for each fault, read at each call.

use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// One way to misbehave.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is called on the command line; the name of its file.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

macro_rules! faults {
    ($($name:ident $text:literal $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $name: Fault = Fault { name: $text, about: $about };
        )*
        /// All there are.
        pub const ALL: &[Fault] = &[$($name),*];
    };
}

faults! {
    SNAPSHOT_NEVER_READY "snapshot-never-ready" "No snapshot is said to be ready.";
    SNAPSHOT_LATE "snapshot-late" "A snapshot made meanwhile is not ready in the first N answers about it (1).";
    SNAPSHOT_CLOCK_AHEAD "snapshot-clock-ahead" "Snapshots are said to be taken N seconds later than they were (1).";
    SNAPSHOT_WITHOUT_SIZE "snapshot-without-size" "Snapshots are answered without a size.";
    SNAPSHOT_HELD_BY_CLONES "snapshot-held-by-clones" "A snapshot stays while a volume made from it exists.";
    LIST_SNAPSHOTS_UNSUPPORTED "list-snapshots-unsupported" "ListSnapshots is neither announced nor answered.";
    CLONE_IN_BACKGROUND "clone-in-background" "The bytes of a volume from a snapshot come after N refusals (1).";
    OLD_BYTES "old-bytes" "New volumes are full of old bytes.";
    CREATE_VOLUME_FAILS "create-volume-fails" "CreateVolume fails N times, or until cleared.";
    CREATE_VOLUME_SLOW "create-volume-slow" "CreateVolume makes it, and answers N times, or until cleared, that it is not done.";
    DELETE_VOLUME_FAILS "delete-volume-fails" "DeleteVolume fails N times, or until cleared.";
    CREATE_SNAPSHOT_FAILS "create-snapshot-fails" "CreateSnapshot fails N times, or until cleared.";
    DELETE_SNAPSHOT_FAILS "delete-snapshot-fails" "DeleteSnapshot fails N times, or until cleared.";
    STAGE_FAILS "stage-fails" "NodeStageVolume fails N times, or until cleared.";
    PUBLISH_FAILS "publish-fails" "NodePublishVolume fails N times, or until cleared.";
    CHANGED_BLOCKS_MISSING "changed-blocks-missing" "There is no SnapshotMetadata service.";
    CHANGED_BLOCKS_CUT "changed-blocks-cut" "Streams of it break after N messages, with an error (1).";
    CHANGED_BLOCKS_SHORT "changed-blocks-short" "Streams of it end after N messages as if complete (1).";
    CHANGED_BLOCKS_WRONG "changed-blocks-wrong" "Its answers are wrong: 1 not in order, 2 past the end, 3 two capacities (1).";
    DELTA_NEEDS_BASE "delta-needs-base" "A delta against a deleted snapshot is refused.";
}

/// The switches of one data directory.
#[derive(Debug)]
pub struct Faults(PathBuf);

impl Faults {
    /// Those of this data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("faults"))
    }

    /// Sets one, as `NAME` or `NAME=N`.
    ///
    /// # Errors
    /// If there is no such fault, N is no number, or the file cannot be written.
    pub fn set(&self, text: &str) -> anyhow::Result<()> {
        let (name, number) = text.split_once('=').map_or((text, ""), |(name, number)| (name, number));
        let file = self.file(known(name)?);
        if !number.is_empty() {
            number.parse::<u64>().with_context(|| format!("{text}: {number:?} is no number; give NAME=N"))?;
        }
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        replace(&file, number)
    }

    /// Takes one back; one that is not set is no error.
    ///
    /// # Errors
    /// If there is no such fault or its file cannot be removed.
    pub fn clear(&self, name: &str) -> anyhow::Result<()> {
        remove(&self.file(known(name)?))
    }

    /// Those that are set, as `set` takes them.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<String>> {
        let mut set = Vec::new();
        for fault in ALL {
            match self.number(fault)? {
                None => {}
                Some(None) => set.push(fault.name.to_owned()),
                Some(Some(number)) => set.push(format!("{}={number}", fault.name)),
            }
        }
        Ok(set)
    }

    /// Whether it is set.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn is_set(&self, fault: &Fault) -> anyhow::Result<bool> {
        Ok(self.number(fault)?.is_some())
    }

    /// Its N if it is set, 1 where none was given.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn amount(&self, fault: &Fault) -> anyhow::Result<Option<u64>> {
        Ok(self.number(fault)?.map(|number| number.unwrap_or(1)))
    }

    /// Whether this call is to fail; counts N down.
    ///
    /// # Errors
    /// If its file cannot be read or written.
    pub fn strikes(&self, fault: &Fault) -> anyhow::Result<bool> {
        let file = self.file(fault);
        match self.number(fault)? {
            None => return Ok(false),
            Some(None) => {}
            Some(Some(0)) => {
                remove(&file)?;
                return Ok(false);
            }
            Some(Some(1)) => remove(&file)?,
            Some(Some(number)) => replace(&file, &(number - 1).to_string())?,
        }
        Ok(true)
    }

    fn number(&self, fault: &Fault) -> anyhow::Result<Option<Option<u64>>> {
        let file = self.file(fault);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("reading {}", file.display())),
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(Some(None));
        }
        let number = text.parse().with_context(|| format!("{}: {text:?} is no number", file.display()))?;
        Ok(Some(Some(number)))
    }

    fn file(&self, fault: &Fault) -> PathBuf {
        self.0.join(fault.name)
    }
}

fn known(name: &str) -> anyhow::Result<&'static Fault> {
    let Some(fault) = ALL.iter().find(|fault| fault.name == name) else {
        bail!("there is no fault {name:?}; `fault list --known` names them all");
    };
    Ok(fault)
}

/// At once, so that no call reads half of it.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, file)).with_context(|| format!("writing {}", file.display()))
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

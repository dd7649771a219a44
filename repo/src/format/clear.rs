//! The clear objects: identity, configuration, key slots. Each is one line of JSON that is checked byte for byte.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The format this build reads and writes.
pub const FORMAT: u32 = 1;
/// The only suite of format 1.
pub const SUITE: &str = "blake3+aes256gcm";
/// A feature that this build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name.
    pub name: &'static str,
    /// The minor version that came with it.
    pub minor: u32,
    /// The set in which its name stands.
    pub set: Set,
}

/// The sets of features of a configuration: what a build must not do that does not know one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Open the repository.
    Read,
    /// Write to it.
    Write,
    /// Delete what nobody refers to.
    Gc,
}

/// There may be snapshots of trees.
pub const TREE: Feature = Feature { name: "tree", minor: 1, set: Set::Read };
/// Files in them may be disk images stored as maps.
pub const TREE_MAP: Feature = Feature { name: "tree-map", minor: 2, set: Set::Read };
/// There may be pinned snapshots.
pub const PIN: Feature = Feature { name: "pin", minor: 3, set: Set::Gc };
/// There may be key epochs that are not in the bundle of each slot.
pub const EPOCHS: Feature = Feature { name: "epochs", minor: 4, set: Set::Read };

/// All that this build knows.
pub const KNOWN: [Feature; 4] = [TREE, TREE_MAP, PIN, EPOCHS];

impl Feature {
    /// Whether the repository of this configuration has it.
    pub fn is_in(&self, config: &Config) -> bool {
        let set = match self.set {
            Set::Read => &config.read,
            Set::Write => &config.write,
            Set::Gc => &config.gc,
        };
        set.iter().any(|name| name == self.name)
    }

    /// Adds it.
    pub fn add(&self, config: &mut Config) {
        if self.is_in(config) {
            return;
        }
        config.minor = config.minor.max(self.minor);
        let set = match self.set {
            Set::Read => &mut config.read,
            Set::Write => &mut config.write,
            Set::Gc => &mut config.gc,
        };
        set.push(self.name.to_owned());
    }
}

/// Whether this build knows a feature of this set.
fn is_known(name: &str, set: Set) -> bool {
    KNOWN.iter().any(|feature| feature.name == name && feature.set == set)
}

/// What the clear objects have in common: a `crc` over the line in which it stands as zeros.
pub trait Clear: Serialize + DeserializeOwned + Clone {
    /// What it is, for errors.
    const WHAT: &'static str;
    /// The checksum field.
    fn crc(&mut self) -> &mut String;
}

/// `repo.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Always `repository`.
    pub wherry: String,
    /// Major version of the format.
    pub format: u32,
    /// The repository's uuid, 32 hex digits.
    pub uuid: String,
    /// Checksum.
    pub crc: String,
}

/// `config/<n>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Always `config`.
    pub wherry: String,
    /// Minor version of the format.
    pub minor: u32,
    /// Features a reader must know.
    pub read: Vec<String>,
    /// Features a writer must know.
    pub write: Vec<String>,
    /// Features a collector must know.
    pub gc: Vec<String>,
    /// Hash and cipher.
    pub suite: String,
    /// Default chunk size of block volumes, in bytes.
    pub chunk_size: u32,
    /// True when the storage cannot tell two writers apart.
    pub single_writer: bool,
    /// Keyed digest of all the above.
    pub mac: String,
    /// Checksum.
    pub crc: String,
}

/// `keys/<slot>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    /// Always `key`.
    pub wherry: String,
    /// Its number, 16 hex digits, as in its key.
    pub slot: String,
    /// `password` or `keyfile`.
    pub kind: String,
    /// When it was made: seconds since 1970.
    pub created: i64,
    /// Argon2id memory in KiB.
    pub m_kib: u32,
    /// Argon2id passes.
    pub t: u32,
    /// Argon2id lanes.
    pub p: u32,
    /// Salt, 32 hex digits.
    pub salt: String,
    /// The sealed bundle, hex.
    pub wrapped: String,
    /// The highest key epoch in the bundle; not written when it is 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub epoch: u32,
    /// Checksum.
    pub crc: String,
}

fn is_first(epoch: &u32) -> bool {
    *epoch == 0
}

/// `keys/epoch-<n>`: a key epoch, for each slot that is older than it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Always `epoch`.
    pub wherry: String,
    /// Its number.
    pub epoch: u32,
    /// When it was made: seconds since 1970.
    pub created: i64,
    /// Its secret, for each slot.
    pub slots: Vec<EpochSlot>,
    /// Checksum.
    pub crc: String,
}

/// The secret of a key epoch as one slot opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSlot {
    /// The slot's number, 16 hex digits.
    pub slot: String,
    /// The sealed secret, hex.
    pub wrapped: String,
}

macro_rules! clear {
    ($type:ty, $what:literal) => {
        impl Clear for $type {
            const WHAT: &'static str = $what;
            fn crc(&mut self) -> &mut String {
                &mut self.crc
            }
        }
    };
}
clear!(Identity, "the repository's identity");
clear!(Config, "the repository's configuration");
clear!(KeySlot, "a key slot");
clear!(Epoch, "a key epoch");

fn line<T: Clear>(object: &T) -> Result<Vec<u8>> {
    let mut out = serde_json::to_vec(object).map_err(|e| Error::internal("JSON was not written").with_source(e))?;
    out.push(b'\n');
    Ok(out)
}

/// The checksum of a line in which `crc` stands as zeros.
pub fn checksum(line: &[u8]) -> u32 {
    crc32fast::hash(line)
}

/// The bytes, with the checksum set.
pub fn encode<T: Clear>(object: &T) -> Result<Vec<u8>> {
    let mut object = object.clone();
    *object.crc() = "00000000".into();
    let crc = checksum(&line(&object)?);
    *object.crc() = format!("{crc:08x}");
    line(&object)
}

/// The reverse.
pub fn decode<T: Clear>(bytes: &[u8]) -> Result<T> {
    newer(bytes)?;
    let damaged = |why: &str| Error::corrupt(format!("{} is damaged: {why}", T::WHAT));
    let object: T = serde_json::from_slice(bytes).map_err(|e| damaged("it is not the line it was").with_source(e))?;
    if encode(&object)? != bytes {
        return Err(damaged("its checksum does not fit"));
    }
    Ok(object)
}

/// Fails when an intact `repo.json` names a format this build does not know. It may have fields we do not know, so
/// that only its checksum is checked, and in the way every version will compute it.
fn newer(bytes: &[u8]) -> Result<()> {
    let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(bytes) else { return Ok(()) };
    let format = map.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let Some(crc) = map.get("crc").and_then(|v| v.as_str()) else { return Ok(()) };
    let text = String::from_utf8_lossy(bytes);
    let zeroed = text.replacen(&format!("\"crc\":\"{crc}\""), "\"crc\":\"00000000\"", 1);
    if format > u64::from(FORMAT) && format!("{:08x}", checksum(zeroed.as_bytes())) == crc {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the repository has format {format}, this build knows {FORMAT}: use a newer wherry"),
        ));
    }
    Ok(())
}

/// Fails for features without which this build must not read.
pub fn check_readable(config: &Config) -> Result<()> {
    if config.suite != SUITE {
        return Err(unknown(&config.suite, "open"));
    }
    config.read.iter().find(|name| !is_known(name, Set::Read)).map_or(Ok(()), |name| Err(unknown(name, "read")))
}

/// Fails for features beside which this build must not write; reading it may do.
pub fn check_writable(config: &Config) -> Result<()> {
    check_readable(config)?;
    match config.write.iter().find(|name| !is_known(name, Set::Write)) {
        Some(name) => {
            let text = format!(
                "the repository uses the feature {name:?}; this build may read but not write it: use a newer wherry"
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        None => Ok(()),
    }
}

/// Fails for features without which this build must not delete what nobody refers to.
pub fn check_collectable(config: &Config) -> Result<()> {
    check_writable(config)?;
    config.gc.iter().find(|name| !is_known(name, Set::Gc)).map_or(Ok(()), |name| Err(unknown(name, "delete from")))
}

fn unknown(name: &str, what: &str) -> Error {
    let text = format!(
        "the repository uses the feature {name:?}, without which this build must not {what} it: use a newer wherry"
    );
    Error::new(ErrorKind::Unsupported, text)
}

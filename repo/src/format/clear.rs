//! The clear objects: identity, configuration, key slots. Each is one line of JSON that is checked byte for byte.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The format this build reads and writes.
pub const FORMAT: u32 = 1;
/// The only suite of format 1.
pub const SUITE: &str = "blake3+aes256gcm";
/// A feature that this build knows; its name stands in `read` of a repository that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name.
    pub name: &'static str,
    /// The minor version that came with it.
    pub minor: u32,
}

/// There may be snapshots of trees.
pub const TREE: Feature = Feature { name: "tree", minor: 1 };
/// Files in them may be disk images stored as maps.
pub const TREE_MAP: Feature = Feature { name: "tree-map", minor: 2 };

/// All that this build knows.
const KNOWN: [Feature; 2] = [TREE, TREE_MAP];

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
    /// Checksum.
    pub crc: String,
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

/// Fails for features without which this build must not read. It knows [`TREE`] and [`TREE_MAP`].
pub fn check_readable(config: &Config) -> Result<()> {
    if config.suite != SUITE {
        return Err(unknown(&config.suite, "open"));
    }
    let is_known = |name: &String| KNOWN.iter().any(|feature| feature.name == name);
    config.read.iter().find(|name| !is_known(name)).map_or(Ok(()), |name| Err(unknown(name, "read")))
}

/// Fails for features beside which this build must not write; reading it may do.
pub fn check_writable(config: &Config) -> Result<()> {
    check_readable(config)?;
    match config.write.first() {
        Some(name) => {
            let text = format!(
                "the repository uses the feature {name:?}; this build may read but not write it: use a newer wherry"
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
        None => Ok(()),
    }
}

/// Fails for features beside which this build must not delete; it may read, and write snapshots.
pub fn check_collectable(config: &Config) -> Result<()> {
    check_writable(config)?;
    config.gc.first().map_or(Ok(()), |name| Err(unknown(name, "delete anything of")))
}

fn unknown(name: &str, what: &str) -> Error {
    let text = format!(
        "the repository uses the feature {name:?}, without which this build must not {what} it: use a newer wherry"
    );
    Error::new(ErrorKind::Unsupported, text)
}

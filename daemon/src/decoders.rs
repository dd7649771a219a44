//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers. Each reads as the crate itself does; what must hold of that is said there.

use crate::agent::{blocks, location};
use crate::tree::exclude::Exclude;
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use wherry_api::{BackupStorageLocation, Time};
use wherry_repo::Result;
use wherry_repo::format::tree::Set;

/// Reads a configuration file.
///
/// # Errors
/// Where it is none, in one line.
pub fn config(text: &str) -> Result<()> {
    crate::config::File::parse(Path::new("config.toml"), text).map(drop)
}

/// The URL of the repository of a location, as the agent opens it with what is in its Secret.
///
/// # Errors
/// What makes it unusable.
pub fn location(location: &BackupStorageLocation, credential: Option<&[u8]>) -> Result<String> {
    let over = wherry_repo::storage::Over::default();
    Ok(location::place(location, credential, None, over)?.url)
}

/// Mount point and source in a line of `/proc/self/mountinfo`.
pub fn mount(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    crate::mount::point::parse(line).map(|mount| (mount.at, mount.source))
}

/// A message of the service of changed blocks, written again.
pub fn blocks(message: &[u8]) -> Option<Vec<u8>> {
    blocks::written_again(message)
}

/// What messages of that service say of a device of so many bytes.
///
/// # Errors
/// Why nothing of it is believed.
pub fn changed(messages: &[&[u8]], size: u64) -> std::result::Result<Vec<Range<u64>>, String> {
    blocks::told(messages, size)
}

/// Whether a name is what a pattern of the shell means.
pub fn matches(glob: &[u8], name: &[u8]) -> bool {
    crate::commands::find::matches(glob, name)
}

/// The note of a restore that is under way, written again.
pub fn restore_note(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::restore::again(bytes)
}

/// Whether a password, or else a key, is taken from what a file or a variable holds.
///
/// # Errors
/// Why it is none.
pub fn secret(is_password: bool, bytes: &[u8]) -> Result<wherry_repo::Credential> {
    let bytes = bytes.to_vec().into();
    if is_password { crate::credential::password(bytes) } else { crate::credential::key_in("a file", bytes) }
}

/// The uid of a backup, by its `velero-backup.json`.
pub fn backup_uid(bytes: &[u8]) -> Option<String> {
    crate::jobs::forget::uid_in(bytes)
}

/// The uids of Backups that are being deleted, by the ConfigMap with those that were seen so.
pub fn deleting(map: &Value, now: Time) -> BTreeSet<String> {
    crate::jobs::forget::deleting(map, now)
}

/// The session of the snapshot that a DataDownload reads, or is going to.
pub fn restored(cr: &Value) -> Option<String> {
    crate::jobs::forget::restored(cr)
}

/// Since when the time of a CR runs.
pub fn since(cr: &Value) -> Option<Time> {
    crate::agent::since(cr)
}

/// By what CRs have their turn: whether and when they were made, and their uid.
pub fn turn(cr: &Value) -> ((bool, Option<Time>), String) {
    crate::agent::turn(cr)
}

/// What a list of names of extended attributes comes to, by the values that the kernel gives for them; `None`: it is gone by then.
///
/// # Errors
/// The error number, where that is more than a set may be.
pub fn attributes(list: &[u8], mut value: impl FnMut(&CStr) -> Option<Vec<u8>>) -> std::result::Result<Set, i32> {
    let gathered = crate::tree::attributes::gathered(list, |name| value(name).ok_or(Errno::NODATA));
    gathered.map_err(Errno::raw_os_error)
}

/// What an ACL lets the group of an inode do.
pub fn group_of(acl: &[u8]) -> Option<u16> {
    crate::tree::restore::group_of(acl)
}

/// Key and value by which an extended attribute is told in an archive.
pub fn attribute(name: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    crate::tree::pax::attribute(name, value)
}

/// Whether a path from the root is left out, if the directory above it is not.
pub fn leaves_out(exclude: &Exclude, path: &[u8], folder: bool) -> bool {
    exclude.leaves_out(path, folder)
}

/// The first file below a directory that `/proc/PID/maps` names.
pub fn mapped(maps: &str, dir: &Path) -> Option<PathBuf> {
    crate::mount::holders::mapped(maps, dir)
}

//! Decoders that are nobody's business outside of this crate, for the fuzz targets in `tests/src/fuzzed`: no part of what it
//! offers.

use std::path::PathBuf;

/// Mount point and source in a line of `/proc/self/mountinfo`.
pub fn mount(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    crate::mounts::parse(line).map(|mount| (mount.mount_point, mount.source))
}

/// Major and minor number of a device, as sysfs says it.
pub fn device_number(text: &str) -> Option<(u32, u32)> {
    crate::sysfs::parse_number(text)
}

/// What swap areas are on, as `/proc/swaps` says it.
pub fn swaps(table: &[u8]) -> Vec<PathBuf> {
    crate::sysfs::swaps(table).collect()
}

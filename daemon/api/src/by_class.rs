//! Settings that may be another one for each storage class: `KEY` is for all of them, `KEY.CLASS` for that class.

use std::collections::BTreeMap;

/// The values of one setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByClass<T> {
    /// Of classes that are not named.
    pub(crate) other: T,
    /// By name of the StorageClass.
    pub(crate) of: BTreeMap<String, T>,
}

impl<T> ByClass<T> {
    /// What holds for volumes of that class.
    #[must_use]
    pub fn of(&self, class: &str) -> &T {
        self.of.get(class).unwrap_or(&self.other)
    }
}

/// Splits `KEY.CLASS`. `None`: it has no class.
pub(crate) fn split(key: &str) -> Option<(&str, &str)> {
    key.split_once('.')
}

/// Whether a StorageClass can have that name: a DNS subdomain (RFC 1123), of at most 253 bytes.
pub(crate) fn is_class(name: &str) -> bool {
    let part = |part: &str| {
        let end = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        end(part.bytes().next())
            && end(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// Setting `keepBase`: whether the storage snapshot of the newest backup of a volume is kept, as base of the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeepBase {
    /// Where the driver lists changed blocks.
    #[default]
    Auto,
    /// Kept.
    Always,
    /// Not kept.
    Never,
}

/// Reads a value of `keepBase`.
pub(crate) fn keep_base(text: &str) -> Result<KeepBase, String> {
    match text {
        "auto" => Ok(KeepBase::Auto),
        "always" => Ok(KeepBase::Always),
        "never" => Ok(KeepBase::Never),
        _ => Err(format!("{text:?} is none of auto, always, never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_classes() {
        for good in ["fast", "a", "ceph-block.example.com", "0"] {
            assert!(is_class(good), "{good}");
        }
        for bad in ["", "Fast", "-a", "a-", "a..b", ".a", "a.", "a_b", &"a".repeat(254)] {
            assert!(!is_class(bad), "{bad}");
        }
    }
}

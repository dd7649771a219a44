//! Settings that may be another one for each storage class: `KEY` is for all of them, `KEY.CLASS` for that class.

use crate::time::parse_duration;
use std::collections::BTreeMap;
use std::time::Duration;

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

/// Setting `waitForNode`: whether a restore into a class of WaitForFirstConsumer begins only when a pod that uses the target has a
/// node. Where it does not wait, the volume is made wherever the scheduler wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitForNode {
    /// It waits, as long as Velero does.
    #[default]
    Always,
    /// It does not.
    Never,
    /// It waits so long, once DataDownload and target are there.
    For(Duration),
}

/// Reads a value of `waitForNode`.
pub(crate) fn wait_for_node(text: &str) -> Result<WaitForNode, String> {
    match text {
        "always" => Ok(WaitForNode::Always),
        "never" => Ok(WaitForNode::Never),
        _ => parse_duration(text)
            .map(WaitForNode::For)
            .map_err(|e| format!("{text:?} is neither always nor never, and no duration: {e}")),
    }
}

/// Reads a value of `backupStorageClass`; empty is the class of the source.
pub(crate) fn class(text: &str) -> Result<String, String> {
    match text.is_empty() || is_class(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name that a StorageClass can have")),
    }
}

/// Reads a value of `backupAnnotations`: a JSON object of texts, with keys as annotations have them.
pub(crate) fn annotations(text: &str) -> Result<BTreeMap<String, String>, String> {
    let read: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|e| format!("no JSON object of texts: {e}"))?;
    match read.keys().find(|key| !is_annotation(key)) {
        Some(key) => Err(format!("{key:?} is no name of an annotation, or one that is not yours to set")),
        None => Ok(read),
    }
}

/// Those that others decide by are none of the user's.
fn is_annotation(key: &str) -> bool {
    let taken = ["wherry.io", "velero.io", "volume.kubernetes.io", "pv.kubernetes.io"];
    is_key(key) && key.rsplit_once('/').is_none_or(|(prefix, _)| !taken.contains(&prefix))
}

/// Whether a label or an annotation can have that name: `[DNS subdomain/]name`, the name of at most 63 bytes.
pub(crate) fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let end = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=63).contains(&name.len())
        && end(name.bytes().next())
        && end(name.bytes().last())
        && name.bytes().all(inner);
    good && prefix.is_none_or(is_class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_of_a_claim() {
        let read = annotations(r#"{"a": "b", "csi.example/copy": "x=1,y=2"}"#).unwrap();
        assert_eq!(read.get("csi.example/copy").map(String::as_str), Some("x=1,y=2"));
        assert!(annotations("{}").unwrap().is_empty());
        for bad in [
            "",
            "a=b",
            "[]",
            r#"{"a": 1}"#,
            r#"{"": "b"}"#,
            r#"{"a b": "c"}"#,
            r#"{"wherry.io/base": "x"}"#,
            r#"{"A.B/c": "x"}"#,
            r#"{"volume.kubernetes.io/selected-node": "n1"}"#,
        ] {
            assert!(annotations(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn how_long_is_waited() {
        assert_eq!(wait_for_node("10m"), Ok(WaitForNode::For(Duration::from_secs(600))));
        assert_eq!(
            (wait_for_node("always"), wait_for_node("never")),
            (Ok(WaitForNode::Always), Ok(WaitForNode::Never))
        );
        assert!(wait_for_node("sometimes").unwrap_err().starts_with("\"sometimes\" is neither always nor never"));
    }

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

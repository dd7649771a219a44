//! The text of `status.snapshotID`: all that a DataDownload is told of a DataUpload.

use std::fmt;
use std::str::FromStr;

/// Which snapshot of which repository.
///
/// Text: `wherry1/<repository uuid>/<session>/<volume>`. The volume is last: its name may hold anything but control
/// characters, the others are hexadecimal digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    /// uuid of `repo.json`.
    pub repository: String,
    /// The session that made the snapshot.
    pub session: String,
    /// Name of the volume in the repository.
    pub volume: String,
}

/// A `snapshotID` that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotASnapshotId {
    /// The upload got not so far as to say one.
    #[error(
        "spec.snapshotID is empty: the upload failed, was canceled, or ended after the backup had stopped waiting for it; \
         this volume is not in the backup"
    )]
    Empty,
    /// Of another data mover, or cut.
    #[error("spec.snapshotID {0:?} is not one of wherry (wherry1/REPOSITORY/SESSION/VOLUME)")]
    Other(String),
}

impl SnapshotId {
    /// The namespace in the name of a volume of a cluster, `<cluster id>.<namespace>.<pvc>.<pvc uid>`; `None` if the
    /// name is of another kind. Neither cluster id nor namespace have dots.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        let mut parts = self.volume.splitn(3, '.').skip(1);
        let namespace = parts.next()?;
        parts.next().filter(|rest| rest.contains('.'))?;
        Some(namespace)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wherry1/{}/{}/{}", self.repository, self.session, self.volume)
    }
}

impl FromStr for SnapshotId {
    type Err = NotASnapshotId;

    fn from_str(text: &str) -> Result<Self, NotASnapshotId> {
        if text.is_empty() {
            return Err(NotASnapshotId::Empty);
        }
        let hex = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let parse = || {
            let mut parts = text.strip_prefix("wherry1/")?.splitn(3, '/');
            let repository = parts.next().filter(hex)?;
            let session = parts.next().filter(hex)?;
            let volume = parts.next().filter(|v| !v.is_empty() && !v.chars().any(char::is_control))?;
            Some(Self { repository: repository.to_owned(), session: session.to_owned(), volume: volume.to_owned() })
        };
        parse().ok_or_else(|| NotASnapshotId::Other(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for volume in ["c1.app.data.u-1", "c1.app.my.data.u-1", "vm 1/disk", "Größe"] {
            let id = SnapshotId { repository: "ab-12".into(), session: "0f".into(), volume: volume.into() };
            assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        }
    }

    #[test]
    fn others_are_refused() {
        assert_eq!("".parse::<SnapshotId>(), Err(NotASnapshotId::Empty));
        for other in [
            "ours-ours1-xwdxt",
            "k1234abcd",
            "wherry1",
            "wherry1/",
            "wherry1/ab/cd",
            "wherry1/ab/cd/",
            "wherry1//cd/v",
            "wherry1/ab/x!/v",
            "wherry2/ab/cd/v",
            "wherry1/ab/cd/v\n",
        ] {
            assert_eq!(other.parse::<SnapshotId>(), Err(NotASnapshotId::Other(other.to_owned())), "{other}");
        }
    }

    #[test]
    fn the_namespace_is_the_second_part() {
        let of = |volume: &str| SnapshotId { repository: "a".into(), session: "b".into(), volume: volume.into() };
        assert_eq!(of("c1.app.data.u-1").namespace(), Some("app"));
        assert_eq!(of("c1.app.my.data.u-1").namespace(), Some("app"));
        for none in ["vm1", "vm.1", "vm.1.x"] {
            assert_eq!(of(none).namespace(), None, "{none}");
        }
    }
}

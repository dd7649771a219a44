//! The phase of a DataUpload or DataDownload.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// `status.phase` of both (`DataUploadPhase`, `DataDownloadPhase`): the same eight words. An empty one is New.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// Made by Velero; nobody has taken it.
    #[default]
    New,
    /// The controller has taken it and exposes the volume.
    Accepted,
    /// The volume is published on `status.node`.
    Prepared,
    /// The agent of that node moves data.
    InProgress,
    /// The agent stops.
    Canceling,
    /// Stopped by `spec.cancel` or by deletion.
    Canceled,
    /// Done: an upload has a snapshot, a download has its volume bound.
    Completed,
    /// Ended by an error; `status.message` says which. Velero takes one without message for success.
    Failed,
    /// A word of a later version of Velero. Such an object is left alone.
    Other(String),
}

impl Phase {
    /// The word as Velero writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::New => "New",
            Self::Accepted => "Accepted",
            Self::Prepared => "Prepared",
            Self::InProgress => "InProgress",
            Self::Canceling => "Canceling",
            Self::Canceled => "Canceled",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Other(word) => word,
        }
    }

    /// Canceled, Completed or Failed: no later phase follows.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Canceled | Self::Completed | Self::Failed)
    }
}

impl From<&str> for Phase {
    fn from(word: &str) -> Self {
        match word {
            "" | "New" => Self::New,
            "Accepted" => Self::Accepted,
            "Prepared" => Self::Prepared,
            "InProgress" => Self::InProgress,
            "Canceling" => Self::Canceling,
            "Canceled" => Self::Canceled,
            "Completed" => Self::Completed,
            "Failed" => Self::Failed,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(Option::<String>::deserialize(deserializer)?.unwrap_or_default().as_str()))
    }
}

//! A kept base: the storage snapshot of the newest Completed backup of a volume, for drivers that list changed blocks only
//! against a snapshot that they still have. What says so is label `wherry.io/base` of our VolumeSnapshot, with annotation
//! `wherry.io/base-of` beside it.

use crate::names;
use crate::plan::{PlanError, parse, print};
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// The annotation: of what the snapshot is the base, as far as its end depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Base {
    /// Format, [`crate::plan::VERSION`].
    pub version: u32,
    /// uid of the DataUpload.
    pub cr_uid: String,
    /// Its name, in the namespace of the VolumeSnapshot.
    pub cr: String,
    /// When it was Completed: the newest of a volume is the one that the next backup is compared with.
    pub completed: Time,
    /// Namespace of the source PVC.
    pub namespace: String,
    /// Name of the source PVC.
    pub pvc: String,
    /// uid of the source PVC: one that was made anew is another volume.
    pub pvc_uid: String,
    /// Its StorageClass, by which the setting `keepBase` is looked up.
    pub storage_class: String,
    /// Name of the CSI driver.
    pub driver: String,
}

impl Base {
    /// Reads the annotation of the VolumeSnapshot of the DataUpload with that uid.
    pub fn parse(text: Option<&str>, cr_uid: &str) -> Result<Self, PlanError> {
        parse(names::BASE_OF, text, cr_uid)
    }

    /// The text of the annotation.
    #[must_use]
    pub fn print(&self) -> String {
        print(self)
    }

    /// Whether this one is of a later backup. Of two that ended in one second always the same one is.
    #[must_use]
    pub fn is_later(&self, other: &Self) -> bool {
        (self.completed, &self.cr_uid) > (other.completed, &other.cr_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::VERSION;

    #[test]
    fn there_and_back() {
        let base =
            Base { version: VERSION, cr_uid: "u".into(), completed: Time(7), pvc: "data".into(), ..Base::default() };
        assert_eq!(Base::parse(Some(&base.print()), "u").unwrap(), base);
        assert!(matches!(Base::parse(Some(&base.print()), "v"), Err(PlanError::Foreign { .. })));
        assert!(matches!(Base::parse(None, "u"), Err(PlanError::Missing(names::BASE_OF))));
        assert!(matches!(Base::parse(Some("{"), "u"), Err(PlanError::Broken { .. })));
        let later = base.print().replace("\"version\":1", "\"version\":2");
        assert!(matches!(Base::parse(Some(&later), "u"), Err(PlanError::Version { .. })));
    }

    #[test]
    fn one_of_two_is_the_later_one() {
        let at = |completed: i64, uid: &str| Base { cr_uid: uid.into(), completed: Time(completed), ..Base::default() };
        assert!(at(2, "a").is_later(&at(1, "b")) && !at(1, "b").is_later(&at(2, "a")));
        assert!(at(1, "b").is_later(&at(1, "a")) && !at(1, "a").is_later(&at(1, "b")));
        assert!(!at(1, "a").is_later(&at(1, "a")));
    }
}

//! Which snapshot a delta may be asked since. One that is asked since another storage snapshot than that whose content the
//! parent's map describes would be wrong without anybody noticing; so whatever is not certain is a reason against it.

use std::collections::BTreeMap;
use wherry_api::{UploadPlan, labels};
use wherry_repo::{Newest, Repository, Snapshot, SnapshotId};

/// A snapshot in the repository, and the storage snapshot that it is a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) id: SnapshotId,
    /// The driver's name of the storage snapshot.
    pub(super) handle: String,
}

/// What is backed up now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Id of this cluster.
    pub(super) cluster: &'a str,
    pub(super) plan: &'a UploadPlan,
    /// Of the device, in bytes.
    pub(super) size: u64,
}

/// What the next snapshot of the volume of that name builds upon, if a delta may be asked since; else why not, and nothing
/// where there is no snapshot yet.
pub(super) fn base(
    repository: &Repository,
    name: &str,
    target: Target<'_>,
) -> wherry_repo::Result<Result<Base, Option<String>>> {
    let volume = repository.volume_id(name);
    let all = repository.snapshots(Some(volume))?;
    if all.snapshots.is_empty() && all.damaged.is_empty() {
        return Ok(Err(None));
    }
    let id = match repository.newest(volume)? {
        Newest::Snapshot(id) => id,
        Newest::Unclear(why) => return Ok(Err(Some(why))),
    };
    let Some(Snapshot { record, .. }) = all.snapshots.into_iter().find(|snapshot| snapshot.id == id) else {
        return Ok(Err(Some(format!("snapshot {id} came just now"))));
    };
    if record.tree.is_some() {
        return Ok(Err(Some(format!("snapshot {id} is of a filesystem"))));
    }
    let handle = same(&record.tags, record.size, target);
    Ok(handle.map(|handle| Base { id, handle }).map_err(|why| Some(format!("snapshot {id} {why}"))))
}

/// The storage snapshot of a snapshot with these tags and so many bytes, if it is one of the same volume; else what is against
/// it.
fn same(tags: &BTreeMap<String, String>, size: u64, target: Target<'_>) -> Result<String, String> {
    let Target { cluster, plan, size: now } = target;
    let handle = tags.get(labels::SNAPSHOT_HANDLE).filter(|handle| !handle.is_empty());
    let handle = handle.ok_or("does not say of which storage snapshot it is")?;
    let volume = plan.source_handle.as_deref().unwrap_or_default();
    for (tag, what, wanted) in [
        (labels::CLUSTER, "cluster", cluster),
        (labels::DRIVER, "driver", &plan.driver),
        (labels::VOLUME_HANDLE, "volume", volume),
    ] {
        if wanted.is_empty() {
            return Err(format!("cannot be told to be of the same {what}, which is not known"));
        }
        match tags.get(tag) {
            Some(was) if was == wanted => {}
            Some(was) => return Err(format!("is of {what} {was}, and this is {what} {wanted}")),
            None => return Err(format!("does not say of which {what} it is")),
        }
    }
    if size != now {
        return Err(format!("has {size} bytes, and the volume {now}"));
    }
    if *handle == plan.snapshot_handle {
        return Err("is of this very storage snapshot".to_owned());
    }
    Ok(handle.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> UploadPlan {
        UploadPlan {
            driver: "lab.csi".into(),
            snapshot_handle: "s2".into(),
            source_handle: Some("v1".into()),
            ..UploadPlan::default()
        }
    }

    fn tags(changed: &[(&str, Option<&str>)]) -> BTreeMap<String, String> {
        let whole = [
            (labels::CLUSTER, "c1"),
            (labels::DRIVER, "lab.csi"),
            (labels::VOLUME_HANDLE, "v1"),
            (labels::SNAPSHOT_HANDLE, "s1"),
        ];
        let mut tags: BTreeMap<_, _> =
            whole.into_iter().map(|(tag, value)| (tag.to_owned(), value.to_owned())).collect();
        for (tag, value) in changed {
            match value {
                Some(value) => tags.insert((*tag).to_owned(), (*value).to_owned()),
                None => tags.remove(*tag),
            };
        }
        tags
    }

    fn of(tags: &BTreeMap<String, String>, plan: &UploadPlan, size: u64) -> Result<String, String> {
        same(tags, 100, Target { cluster: "c1", plan, size })
    }

    #[test]
    fn a_base_is_of_the_same_volume_in_every_respect() {
        assert_eq!(of(&tags(&[]), &plan(), 100), Ok("s1".to_owned()));
        for (tag, value, words) in [
            (labels::CLUSTER, Some("c2"), "cluster c2"),
            (labels::CLUSTER, None, "of which cluster"),
            (labels::DRIVER, Some("other.csi"), "driver other.csi"),
            (labels::DRIVER, None, "of which driver"),
            (labels::VOLUME_HANDLE, Some("v0"), "volume v0"),
            // As all records of builds before this one.
            (labels::VOLUME_HANDLE, None, "of which volume"),
            (labels::SNAPSHOT_HANDLE, None, "of which storage snapshot"),
            (labels::SNAPSHOT_HANDLE, Some(""), "of which storage snapshot"),
            (labels::SNAPSHOT_HANDLE, Some("s2"), "this very"),
        ] {
            let why = of(&tags(&[(tag, value)]), &plan(), 100).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        for size in [99, 101] {
            assert!(of(&tags(&[]), &plan(), size).unwrap_err().contains("has 100 bytes"));
        }
        for unknown in [None, Some(String::new())] {
            let plan = UploadPlan { source_handle: unknown, ..plan() };
            let why = of(&tags(&[(labels::VOLUME_HANDLE, Some(""))]), &plan, 100).unwrap_err();
            assert!(why.contains("not known"), "{why}");
        }
    }
}

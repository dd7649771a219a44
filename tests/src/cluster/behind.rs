//! A mirror of what the controller follows that is some events behind the server.

use super::server::Change;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use wherry_api::api::{Key, Kind};
use wherry_api::names;
use wherry_controller::mirror::Mirror;

/// The mirror, and what it is not told yet.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) mirror: Arc<Mirror>,
    by: usize,
    untold: VecDeque<Change>,
}

fn is_followed(key: &Key, object: &Value) -> bool {
    match key.kind {
        Kind::DataUpload | Kind::DataDownload => true,
        Kind::Pod | Kind::Claim | Kind::VolumeSnapshot => {
            key.namespace == "velero" && object["metadata"]["labels"][names::CR_UID].is_string()
        }
        _ => false,
    }
}

impl Behind {
    /// So many events behind; all of these objects are known.
    pub(super) fn new(by: usize, objects: &[(Key, Arc<Value>)]) -> Self {
        let mirror = Mirror::default();
        for kind in [Kind::DataUpload, Kind::DataDownload, Kind::Pod, Kind::Claim, Kind::VolumeSnapshot] {
            let of_kind = objects.iter().filter(|(key, object)| key.kind == kind && is_followed(key, object));
            let of_kind: Vec<Value> = of_kind.map(|(_, object)| Value::clone(object)).collect();
            mirror.listed(kind, &of_kind);
        }
        Self { mirror: Arc::new(mirror), by, untold: VecDeque::new() }
    }

    /// These happened; what is older than so many events is told now.
    pub(super) fn happened(&mut self, changes: &[Change]) {
        let followed = |change: &&Change| {
            let of =
                |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|object| is_followed(&change.key, object));
            of(&change.before) || of(&change.after)
        };
        self.untold.extend(changes.iter().filter(followed).cloned());
        while self.untold.len() > self.by {
            self.tell();
        }
    }

    /// The next event comes. `false`: all are told.
    pub(super) fn tell(&mut self) -> bool {
        let Some(Change { key, before, after, .. }) = self.untold.pop_front() else { return false };
        // A watch by label tells of an object that has lost it as of one that is gone.
        match (after.filter(|after| is_followed(&key, after)), before) {
            (Some(after), _) => drop(self.mirror.changed(key.kind, &after)),
            (None, Some(before)) => self.mirror.gone(key.kind, &before),
            (None, None) => {}
        }
        true
    }
}

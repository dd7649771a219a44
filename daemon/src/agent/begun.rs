//! What is noted on the node over the end of the process: the volumes of downloads that were begun.

use super::Agent;
use super::verdict::Task;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use wherry_api::{Phase, names};

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("begun")
}

/// Says that the volume of an attempt was begun: what it holds is compared then, and what is right is not written again. It
/// is a permission to be quick and nothing else.
#[derive(Debug)]
pub(super) struct Mark(PathBuf);

impl Mark {
    pub(super) fn new(agent: &Agent, task: &Task) -> Self {
        Self(folder(&agent.state_dir).join(task.object()))
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.exists()
    }

    pub(super) fn set(&self) {
        let made =
            self.0.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create(&self.0)?.sync_all());
        if let Err(e) = made {
            tracing::debug!("{}: {e}", self.0.display());
        }
    }

    pub(super) fn clear(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Removes the marks of all but these CRs of this node, and of those of them that have ended.
pub(super) fn sweep<'v>(state_dir: &Path, crs: impl Iterator<Item = &'v Value>) {
    let Ok(entries) = std::fs::read_dir(folder(state_dir)) else { return };
    let is_ended = |cr: &Value| Phase::from(cr["status"]["phase"].as_str().unwrap_or_default()).is_terminal();
    let kept: Vec<&str> = crs.filter(|cr| !is_ended(cr)).filter_map(|cr| cr["metadata"]["uid"].as_str()).collect();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !kept.iter().any(|uid| names::is_of_attempt(&name, uid)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn marks_go_with_their_cr() {
        let state = tempfile::tempdir().unwrap();
        let marks: Vec<Mark> =
            ["a", "b", "c"].iter().map(|uid| Mark(folder(state.path()).join(names::of_attempt(uid, 2)))).collect();
        sweep(state.path(), std::iter::empty());
        marks.iter().for_each(Mark::set);
        let cr = |uid: &str, phase: &str| json!({ "metadata": { "uid": uid }, "status": { "phase": phase } });
        sweep(state.path(), [cr("a", "InProgress"), cr("b", "Failed")].iter());
        assert_eq!(marks.iter().map(Mark::is_set).collect::<Vec<_>>(), [true, false, false]);
    }
}

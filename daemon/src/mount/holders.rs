//! Who uses a mount, so that it cannot be unmounted.

use super::point::{MountEntry, is_below, mounts};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A line for each: processes, loop devices and mounts. Those of other users or namespaces may be out of sight.
pub(super) fn holders(dir: &Path) -> Vec<String> {
    let mounts = mounts().unwrap_or_default();
    let mut found = loops(dir, &mounts);
    found.extend(
        mounts.iter().filter(|m| m.at != dir && is_below(&m.at, dir)).map(|m| format!("a mount at {}", m.at.display())),
    );
    found.extend(processes(dir));
    found
}

/// Loop devices over a file in the mount, and where they are mounted.
fn loops(dir: &Path, mounts: &[MountEntry]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let file = Path::new(file.trim_end_matches('\n'));
        if !is_below(file, dir) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = |source: &Path| {
            let rest = source.to_str().and_then(|s| s.strip_prefix("/dev/")).and_then(|s| s.strip_prefix(&name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
        };
        let at: Vec<_> = mounts.iter().filter(|m| own(&m.source)).map(|m| m.at.display().to_string()).collect();
        let mounted = if at.is_empty() { String::new() } else { format!(", mounted at {}", at.join(" and ")) };
        found.push(format!("/dev/{name} (of {}{mounted})", below(file, dir)));
    }
    found
}

/// Processes that have a file of the mount open, mapped, or are in one of its folders.
fn processes(dir: &Path) -> Vec<String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let process = entry.path();
        let links = ["cwd", "root", "exe"].map(|name| process.join(name));
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path());
        let mut paths = links.into_iter().chain(open).filter_map(|link| fs::read_link(link).ok());
        let maps = || fs::read_to_string(process.join("maps")).ok();
        if let Some(path) = paths.find(|path| is_below(path, dir)).or_else(|| mapped(&maps()?, dir)) {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.insert(pid, format!("{} (pid {pid}, in {})", name.trim_end(), below(&path, dir)));
        }
    }
    found.into_values().collect()
}

/// A file of the mount that a process has in its memory, by its `maps`.
pub(crate) fn mapped(maps: &str, dir: &Path) -> Option<PathBuf> {
    maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))).find(|path| is_below(path, dir))
}

/// The part of the path below the mount.
fn below(path: &Path, dir: &Path) -> String {
    match path.strip_prefix(dir) {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.display().to_string(),
        _ => "its topmost folder".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_and_a_working_folder_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(holders(&root), Vec::<String>::new());
        let _open = fs::File::create(root.join("file")).unwrap();
        let me = std::process::id();
        let found = holders(&root);
        assert!(found.len() == 1 && found[0].ends_with(&format!("(pid {me}, in file)")), "{found:?}");
    }
}

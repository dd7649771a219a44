//! Random changes to a tree, as people and programs make them.

use super::random::{below, dress, make, name, pick, set_times};
use crate::small::{noise, splitmix};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every path below a directory, links not followed.
fn paths(root: &Path, into: &mut Vec<PathBuf>) {
    let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let is_folder = path.symlink_metadata().unwrap().is_dir();
        into.push(path.clone());
        if is_folder {
            paths(&path, into);
        }
    }
}

/// Makes so many random changes, the same ones for the same tree and seed.
///
/// # Panics
/// When the system refuses something. Needs root.
pub fn change(root: &Path, seed: u64, count: usize) {
    let mut state = seed;
    for n in 0..count {
        let mut all = Vec::new();
        paths(root, &mut all);
        let of = |is: fn(&fs::Metadata) -> bool| -> Vec<PathBuf> {
            all.iter().filter(|path| is(&path.symlink_metadata().unwrap())).cloned().collect()
        };
        let (files, mut folders) = (of(fs::Metadata::is_file), of(fs::Metadata::is_dir));
        let others = of(|meta| !meta.is_dir());
        folders.push(root.to_owned());
        folders.retain(|path| path.as_os_str().len() < root.as_os_str().len() + 1500);
        let fresh = |state: &mut u64| pick(state, &folders).join(OsStr::from_bytes(&name(state, 1000 + n)));
        let new = fresh(&mut state);
        let file = pick(&mut state, &files).clone();
        let open = || File::options().write(true).open(&file).unwrap();
        match below(&mut state, 13) {
            0 => {
                // Other bytes of the same length, with the old time: only the ctime tells.
                let meta = file.symlink_metadata().unwrap();
                let len = below(&mut state, 5000).min(meta.len() as usize);
                open().write_all_at(&noise(splitmix(&mut state), len), meta.len() - len as u64).unwrap();
                set_times(&file, meta.mtime(), meta.mtime_nsec());
            }
            1 => {
                let end = file.metadata().unwrap().len();
                open().write_all_at(&noise(splitmix(&mut state), 1 + below(&mut state, 100_000)), end).unwrap();
            }
            2 => open().set_len(below(&mut state, 300_000) as u64).unwrap(),
            3 => {
                // Into the middle: all behind it moves.
                let mut bytes = fs::read(&file).unwrap();
                let at = below(&mut state, bytes.len() + 1);
                bytes.splice(at..at, noise(splitmix(&mut state), 1 + below(&mut state, 500)));
                // Not made anew: in a sticky directory the kernel refuses that for another's file, even to root.
                open().write_all_at(&bytes, 0).unwrap();
            }
            4 => {
                let from = pick(&mut state, &all);
                if !new.starts_with(from) {
                    fs::rename(from, new).unwrap();
                }
            }
            5 => fs::remove_file(pick(&mut state, &others)).unwrap(),
            6 => dress(pick::<PathBuf>(&mut state, &all), &mut state),
            7 => set_times(pick::<PathBuf>(&mut state, &all), 1_000_000_000 + n as i64, 5),
            8 => {
                fs::create_dir(&new).unwrap();
                make(&new.join("new"), &mut state, &others);
            }
            9 => make(&new, &mut state, &others),
            10 => {
                // Replaced by rename, as editors do.
                fs::write(&new, noise(splitmix(&mut state), below(&mut state, 80_000))).unwrap();
                fs::rename(new, file).unwrap();
            }
            11 => {
                // What was something else becomes a directory.
                fs::remove_file(&file).unwrap();
                fs::create_dir(&file).unwrap();
                fs::write(file.join("x"), "x").unwrap();
            }
            _ => {
                let folder = pick(&mut state, &folders);
                if folder != root && !folder.ends_with("many") {
                    fs::remove_dir_all(folder).unwrap();
                    fs::write(folder, "was a directory").unwrap();
                }
            }
        }
    }
}

//! The executable under test: `scripts/test` builds it first and passes its path in.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Environment variable with the path of the executable. The list of its sources, which cargo writes beside it
/// (`wherry.d`), must lie there too.
pub const WHERRY_BIN: &str = "WHERRY_BIN";

/// Path of the executable under test.
///
/// # Panics
/// When it is not passed in, does not exist, was built from another tree, or is older than one of its sources: a test
/// that ran some other executable would prove nothing.
pub fn wherry_bin() -> PathBuf {
    built("wherry")
}

/// Path of the controller under test, beside the other one.
///
/// # Panics
/// As [`wherry_bin`].
pub fn controller_bin() -> PathBuf {
    built("wherry-controller")
}

fn built(name: &str) -> PathBuf {
    let next = "run scripts/test [FILTER], which builds it and passes it in";
    let bin = match std::env::var_os(WHERRY_BIN) {
        Some(bin) => PathBuf::from(bin).with_file_name(name),
        None => panic!("{WHERRY_BIN} is not set: {next}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace");
    if let Err(why) = check_fresh(&bin, root) {
        panic!("{}: {why}: {next}", bin.display());
    }
    bin
}

/// Checks that `bin` was built from the sources below `root` as they are now.
///
/// The dependency file beside it names every source that went in. Each must lie below `root`, or the executable comes
/// from another clone that shares the target directory, and none may be newer than the executable.
///
/// # Errors
/// One sentence that says what is wrong.
pub fn check_fresh(bin: &Path, root: &Path) -> Result<(), String> {
    let built = modified(bin)?;
    let list = bin.with_extension("d");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let sources = sources(&text);
    if sources.is_empty() {
        return Err(format!("{} names no source", list.display()));
    }
    let mut wrong = String::new();
    for source in sources {
        if !source.starts_with(root) {
            return Err(format!("it was built from {}, which is not below {}", source.display(), root.display()));
        }
        match modified(&source) {
            Ok(changed) if changed <= built => {}
            Ok(_) => write!(wrong, " {} is newer.", source.display()).expect("a String takes it"),
            Err(e) => write!(wrong, " {e}.").expect("a String takes it"),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("it is stale:{wrong}")) }
}

fn modified(path: &Path) -> Result<SystemTime, String> {
    fs::metadata(path).and_then(|m| m.modified()).map_err(|e| format!("{}: {e}", path.display()))
}

/// The paths behind the first `target:` of a dependency file; a space in a path is written as backslash and space.
fn sources(text: &str) -> Vec<PathBuf> {
    let Some((_, list)) = text.lines().next().and_then(|line| line.split_once(": ")) else { return Vec::new() };
    let mut paths = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&' ') => {
                paths.last_mut().expect("never empty").push(' ');
                chars.next();
            }
            ' ' => paths.push(String::new()),
            c => paths.last_mut().expect("never empty").push(c),
        }
    }
    paths.into_iter().filter(|p| !p.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    /// A tree with one source, and an executable built from it a minute later.
    fn tree(dir: &Path) -> (PathBuf, PathBuf) {
        let (bin, source) = (dir.join("wherry"), dir.join("a b.rs"));
        fs::write(&bin, "").unwrap();
        fs::write(&source, "").unwrap();
        let list = format!("{}: {}\n", bin.display(), source.display().to_string().replace(' ', "\\ "));
        fs::write(dir.join("wherry.d"), list).unwrap();
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        File::options().write(true).open(&source).unwrap().set_modified(base).unwrap();
        File::options().write(true).open(&bin).unwrap().set_modified(base + Duration::from_secs(60)).unwrap();
        (bin, source)
    }

    #[test]
    fn fresh_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, _) = tree(dir.path());
        assert_eq!(check_fresh(&bin, dir.path()), Ok(()));
    }

    #[test]
    fn newer_source_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, source) = tree(dir.path());
        let later = modified(&bin).unwrap() + Duration::from_secs(1);
        File::options().write(true).open(source).unwrap().set_modified(later).unwrap();
        let why = check_fresh(&bin, dir.path()).unwrap_err();
        assert!(why.contains("a b.rs is newer"), "{why}");
    }

    #[test]
    fn removed_source_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, source) = tree(dir.path());
        fs::remove_file(source).unwrap();
        assert!(check_fresh(&bin, dir.path()).unwrap_err().contains("a b.rs"));
    }

    #[test]
    fn another_clone_is_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (bin, _) = tree(dir.path());
        assert!(check_fresh(&bin, other.path()).unwrap_err().contains("not below"));
    }

    #[test]
    fn missing_list_and_missing_binary_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, _) = tree(dir.path());
        fs::write(dir.path().join("wherry.d"), "").unwrap();
        assert!(check_fresh(&bin, dir.path()).unwrap_err().contains("names no source"));
        fs::remove_file(dir.path().join("wherry.d")).unwrap();
        assert!(check_fresh(&bin, dir.path()).unwrap_err().contains("wherry.d"));
        fs::remove_file(&bin).unwrap();
        assert!(check_fresh(&bin, dir.path()).is_err());
    }
}

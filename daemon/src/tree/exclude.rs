//! What is left out: patterns as of gitignore, caches, directories that have a mark.

use super::dir::Dir;
use super::inode::{Inode, InodeKind};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use wherry_repo::{Error, Result};

/// What a directory has that is a cache, <https://bford.info/cachedir/>.
const TAG: &[u8] = b"CACHEDIR.TAG";
/// How that file begins.
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The rules of one run.
#[derive(Clone, Debug)]
pub struct Exclude {
    patterns: Gitignore,
    caches: bool,
    marks: Vec<Vec<u8>>,
    given: Vec<String>,
}

impl Default for Exclude {
    fn default() -> Self {
        Self { patterns: Gitignore::empty(), caches: false, marks: Vec::new(), given: Vec::new() }
    }
}

impl Exclude {
    /// `patterns` are lines as of a gitignore file in the root, the last one that matches counts; with `caches`
    /// directories with a valid `CACHEDIR.TAG` keep that alone, those with one of the names `marks` keep these.
    ///
    /// # Errors
    /// `Invalid` for a pattern that is no UTF-8 or that cannot be understood, and for a mark that is no name.
    pub fn new(patterns: &[OsString], caches: bool, marks: &[OsString]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("");
        let mut given = Vec::new();
        for pattern in patterns {
            let wrong = |what: &str| Error::invalid(format!("--exclude {}: {what}", pattern.display()));
            let text =
                pattern.to_str().ok_or_else(|| wrong("a pattern must be UTF-8; `?` stands for any character"))?;
            if text.contains('\n') {
                return Err(wrong("one pattern a time, without line ends"));
            }
            builder.add_line(None, text).map_err(|e| wrong(&e.to_string()))?;
            given.push(format!("--exclude {text}"));
        }
        if caches {
            given.push("--exclude-caches".to_owned());
        }
        for mark in marks {
            if mark.is_empty() || mark.as_bytes().contains(&b'/') || mark == "." || mark == ".." {
                let text = "must be the name of a file, without a slash";
                return Err(Error::invalid(format!("--exclude-if-present {}: {text}", mark.display())));
            }
            given.push(format!("--exclude-if-present {}", mark.display()));
        }
        let patterns = builder.build().map_err(|e| Error::invalid(format!("--exclude: {e}")))?;
        let marks = marks.iter().map(|mark| mark.clone().into_vec()).collect();
        Ok(Self { patterns, caches, marks, given })
    }

    /// As it was asked for, for the record.
    pub fn given(&self) -> &[String] {
        &self.given
    }

    /// Whether a path from the root is left out by a pattern, given that the directory above it is not.
    pub(crate) fn leaves_out(&self, path: &[u8], folder: bool) -> bool {
        !self.patterns.is_empty() && self.patterns.matched(Path::new(OsStr::from_bytes(path)), folder).is_ignore()
    }

    /// Whether there are patterns at all.
    pub(crate) fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The names that a directory keeps, if it is one of those that do not keep all. `has` says what it has.
    pub(crate) fn keeps_only<E>(
        &self,
        dir: &Arc<Dir>,
        has: impl Fn(&[u8]) -> std::result::Result<bool, E>,
        look: impl FnOnce(&[u8]) -> Option<Inode>,
    ) -> std::result::Result<Option<Vec<Vec<u8>>>, E> {
        let mut keep = Vec::new();
        for mark in &self.marks {
            if has(mark)? {
                keep.push(mark.clone());
            }
        }
        if self.caches && has(TAG)? && look(TAG).is_some_and(|inode| is_tag(dir, &inode)) {
            keep.push(TAG.to_vec());
        }
        Ok((!keep.is_empty()).then_some(keep))
    }
}

/// One that cannot be read is none: rather too much is kept than too little.
fn is_tag(dir: &Arc<Dir>, inode: &Inode) -> bool {
    if inode.kind != InodeKind::File {
        return false;
    }
    let mut start = [0; SIGNATURE.len()];
    dir.open_file(TAG, inode).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == SIGNATURE
}

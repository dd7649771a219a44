//! Which part of a tree is wanted.

use super::path::TreePath;
use std::collections::BTreeMap;

/// Directories on the way to what is wanted, and what is wanted with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    whole: bool,
    names: BTreeMap<Vec<u8>, Select>,
}

/// Everything.
static WHOLE: Select = Select { whole: true, names: BTreeMap::new() };

impl Select {
    /// What is under these paths; everything when there are none.
    pub fn new(paths: &[TreePath]) -> Self {
        let mut top = Self { whole: paths.is_empty(), names: BTreeMap::new() };
        for path in paths {
            let mut at = &mut top;
            for name in path.names() {
                at = at.names.entry(name.clone()).or_default();
            }
            at.whole = true;
        }
        top
    }

    /// True when all of this directory is wanted.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What is wanted of a name in it, if anything.
    pub fn of(&self, name: &[u8]) -> Option<&Self> {
        if self.whole { Some(&WHOLE) } else { self.names.get(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_to_what_is_wanted_and_to_nothing_else() {
        let select = Select::new(&[TreePath::new(b"/a/b"), TreePath::new(b"c"), TreePath::new(b"/a/b/d")]);
        assert!(!select.is_whole());
        let a = select.of(b"a").unwrap();
        assert!(!a.is_whole());
        assert_eq!(a.of(b"x"), None);
        assert!(a.of(b"b").unwrap().of(b"anything").unwrap().of(b"below").unwrap().is_whole());
        assert!(select.of(b"c").unwrap().is_whole());
        assert_eq!(select.of(b"d"), None);
        assert!(Select::new(&[]).of(b"x").unwrap().is_whole());
        assert!(Select::new(&[TreePath::new(b"/")]).is_whole());
    }
}

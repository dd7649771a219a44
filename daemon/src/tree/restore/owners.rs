//! Owners by their names.

use crate::tree::owners::answer;
use nix::unistd::{Group, User};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashMap;

/// Names that are remembered; a tree with more owners asks the system again.
const REMEMBERED: usize = 4096;

/// Finds the numbers of owners, each name asked for once.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    numeric: bool,
    users: Mutex<HashMap<Vec<u8>, Option<u32>>>,
    groups: Mutex<HashMap<Vec<u8>, Option<u32>>>,
}

impl Owners {
    pub(crate) fn new(numeric: bool) -> Self {
        Self { numeric, ..Self::default() }
    }

    /// The user of this name on this system; this number where there is none.
    ///
    /// # Errors
    /// Whether there is one cannot be said: the number may be somebody else's here.
    pub(crate) fn user(&self, name: &[u8], number: u32) -> Result<u32, Errno> {
        let ask = |name: &str| Ok(answer(User::from_name(name))?.map(|user| user.uid.as_raw()));
        Ok(self.find(&self.users, name, ask)?.unwrap_or(number))
    }

    /// The group of this name on this system; this number where there is none.
    ///
    /// # Errors
    /// As of [`Self::user`].
    pub(crate) fn group(&self, name: &[u8], number: u32) -> Result<u32, Errno> {
        let ask = |name: &str| Ok(answer(Group::from_name(name))?.map(|group| group.gid.as_raw()));
        Ok(self.find(&self.groups, name, ask)?.unwrap_or(number))
    }

    fn find(
        &self,
        known: &Mutex<HashMap<Vec<u8>, Option<u32>>>,
        name: &[u8],
        ask: impl FnOnce(&str) -> Result<Option<u32>, Errno>,
    ) -> Result<Option<u32>, Errno> {
        if self.numeric || name.is_empty() {
            return Ok(None);
        }
        let mut known = known.lock();
        if let Some(&number) = known.get(name) {
            return Ok(number);
        }
        // A name that is no UTF-8 cannot be asked for.
        let number = std::str::from_utf8(name).ok().map(ask).transpose()?.flatten();
        if known.len() < REMEMBERED {
            known.insert(name.to_vec(), number);
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_failed_is_no_answer() {
        let owners = Owners::new(false);
        let find = |ask: Result<Option<u32>, Errno>| owners.find(&owners.users, b"somebody", |_| ask);
        assert_eq!(find(Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(find(Ok(Some(7))), Ok(Some(7)), "the failure was remembered");
        assert_eq!(find(Err(Errno::IO)), Ok(Some(7)));
        assert_eq!(owners.user(b"root", 5), Ok(0));
        assert_eq!(owners.user(b"there is no such user", 5), Ok(5));
        assert_eq!(Owners::new(true).group(b"root", 5), Ok(5));
    }
}

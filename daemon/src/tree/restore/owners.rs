//! Owners by their names.

use crate::tree::owners::{Answers, answer};
use nix::unistd::{Group, User};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::time::Instant;

/// Finds the numbers of owners, each name asked for once, or, where that failed, once in a while.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    numeric: bool,
    users: Mutex<Answers<Vec<u8>, Option<u32>>>,
    groups: Mutex<Answers<Vec<u8>, Option<u32>>>,
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
        known: &Mutex<Answers<Vec<u8>, Option<u32>>>,
        name: &[u8],
        ask: impl FnOnce(&str) -> Result<Option<u32>, Errno>,
    ) -> Result<Option<u32>, Errno> {
        if self.numeric || name.is_empty() {
            return Ok(None);
        }
        if let Some(answer) = known.lock().get(name, Instant::now()) {
            return answer;
        }
        // A name that is no UTF-8 cannot be asked for. It may take long: nobody waits for the lock meanwhile.
        let number = std::str::from_utf8(name).ok().map_or(Ok(None), ask);
        known.lock().keep(name.to_vec(), number, Instant::now());
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_answer_that_failed_is_no_answer() {
        let owners = Owners::new(false);
        let find = |ask: Result<Option<u32>, Errno>| owners.find(&owners.users, b"somebody", |_| ask);
        assert_eq!(find(Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(find(Ok(Some(7))), Err(Errno::IO), "it was asked at once again");
        let before = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
        owners.users.lock().keep(b"somebody".to_vec(), Err(Errno::IO), before);
        assert_eq!(find(Ok(Some(7))), Ok(Some(7)), "the failure was remembered for good");
        assert_eq!(find(Err(Errno::IO)), Ok(Some(7)));
        assert_eq!(owners.user(b"root", 5), Ok(0));
        assert_eq!(owners.user(b"there is no such user", 5), Ok(5));
        assert_eq!(Owners::new(true).group(b"root", 5), Ok(5));
    }
}

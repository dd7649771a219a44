//! Owners by their names.

use nix::unistd::{Group, User};
use parking_lot::Mutex;
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
    pub(crate) fn user(&self, name: &[u8], number: u32) -> u32 {
        self.find(&self.users, name, |name| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()))
            .unwrap_or(number)
    }

    /// The group of this name on this system; this number where there is none.
    pub(crate) fn group(&self, name: &[u8], number: u32) -> u32 {
        self.find(&self.groups, name, |name| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
            .unwrap_or(number)
    }

    fn find(
        &self,
        known: &Mutex<HashMap<Vec<u8>, Option<u32>>>,
        name: &[u8],
        ask: impl FnOnce(&str) -> Option<u32>,
    ) -> Option<u32> {
        if self.numeric || name.is_empty() {
            return None;
        }
        let mut known = known.lock();
        if let Some(&number) = known.get(name) {
            return number;
        }
        // A name that is no UTF-8 cannot be asked for.
        let number = std::str::from_utf8(name).ok().and_then(ask);
        if known.len() < REMEMBERED {
            known.insert(name.to_vec(), number);
        }
        number
    }
}

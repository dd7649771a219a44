//! Names of owners and groups, as the system knows them. Asking may go over a network, so each number is asked for once.

use nix::unistd::{Gid, Group, Uid, User};
use std::collections::HashMap;

/// Names that are kept at once, of each kind.
const LIMIT: usize = 4096;

/// The names that were asked for.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Owners {
    /// Name of a user; empty where the system knows none, or none that the format can hold.
    pub fn user(&mut self, id: u32) -> &[u8] {
        cached(&mut self.users, id, || User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name))
    }

    /// Name of a group, likewise.
    pub fn group(&mut self, id: u32) -> &[u8] {
        cached(&mut self.groups, id, || Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name))
    }
}

fn cached(known: &mut HashMap<u32, Vec<u8>>, id: u32, ask: impl FnOnce() -> Option<String>) -> &[u8] {
    if known.len() >= LIMIT && !known.contains_key(&id) {
        known.clear();
    }
    known.entry(id).or_insert_with(|| fit(ask()))
}

/// At most 255 bytes, none of them zero, and as it was: not one that had to be made UTF-8.
fn fit(name: Option<String>) -> Vec<u8> {
    let name = name.unwrap_or_default();
    let odd = name.len() > 255 || name.contains(['\0', char::REPLACEMENT_CHARACTER]);
    if odd { Vec::new() } else { name.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_others_have_none() {
        let mut owners = Owners::default();
        assert_eq!(owners.user(0), b"root");
        assert_eq!(owners.group(0), b"root");
        assert_eq!(owners.user(3_999_999_999), b"");
    }

    #[test]
    fn each_number_is_asked_for_once_and_the_table_is_bounded() {
        let mut known = HashMap::new();
        assert_eq!(cached(&mut known, 7, || Some("seven".into())), b"seven");
        assert_eq!(cached(&mut known, 7, || unreachable!()), b"seven");
        for id in 100..100 + 3 * LIMIT as u32 {
            cached(&mut known, id, || None);
            assert!(known.len() <= LIMIT);
        }
        assert_eq!(cached(&mut known, 7, || Some("new".into())), b"new");
    }

    #[test]
    fn names_the_format_cannot_hold_are_none() {
        assert_eq!(fit(Some("x".repeat(255))).len(), 255);
        assert_eq!(fit(Some("x".repeat(256))), b"");
        assert_eq!(fit(Some("a\u{fffd}".into())), b"");
        assert_eq!(fit(None), b"");
    }
}

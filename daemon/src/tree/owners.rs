//! Names of owners and groups, as the system knows them. Asking may go over a network, so each number is asked for once, or,
//! where that failed, once in a while.

use nix::unistd::{Gid, Group, Uid, User};
use rustix::io::Errno;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Answers that are kept at once, of each kind.
const LIMIT: usize = 4096;
/// So long that it failed is an answer, too: a service that hangs would be waited for at each entry.
const FAILED: Duration = Duration::from_mins(1);

/// What the system has answered.
#[derive(Debug)]
pub(crate) struct Answers<K, V>(HashMap<K, (Result<V, Errno>, Instant)>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Clone> Answers<K, V> {
    /// The answer to this, if it was asked and need not be asked again.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Option<Result<V, Errno>>
    where
        K: Borrow<Q>,
    {
        let (answer, at) = self.0.get(key)?;
        (answer.is_ok() || now.duration_since(*at) < FAILED).then(|| answer.clone())
    }

    /// Keeps the answer that was had at a time.
    pub(crate) fn keep(&mut self, key: K, answer: Result<V, Errno>, now: Instant) {
        if self.0.len() >= LIMIT {
            self.0.clear();
        }
        self.0.insert(key, (answer, now));
    }
}

/// The names that were asked for.
#[derive(Debug, Default)]
pub struct Owners {
    users: Answers<u32, Vec<u8>>,
    groups: Answers<u32, Vec<u8>>,
    /// It was said that some cannot be asked for.
    told: bool,
}

impl Owners {
    /// Names of a user and of a group; empty where the system knows none, or none that the format can hold. `None`: it cannot
    /// say, now, which is said once.
    pub fn names(&mut self, user: u32, group: u32) -> Option<(Vec<u8>, Vec<u8>)> {
        let names = self.user(user).and_then(|user| Ok((user, self.group(group)?)));
        if let Err(e) = &names
            && !std::mem::replace(&mut self.told, true)
        {
            let e = std::io::Error::from(*e);
            tracing::warn!(
                "names of owners cannot be asked for, numbers alone are kept of some (the first: {user}:{group}): {e}"
            );
        }
        names.ok()
    }

    fn user(&mut self, id: u32) -> Result<Vec<u8>, Errno> {
        cached(&mut self.users, id, || Ok(answer(User::from_uid(Uid::from_raw(id)))?.map(|user| user.name)))
    }

    fn group(&mut self, id: u32) -> Result<Vec<u8>, Errno> {
        cached(&mut self.groups, id, || Ok(answer(Group::from_gid(Gid::from_raw(id)))?.map(|group| group.name)))
    }
}

fn cached(
    known: &mut Answers<u32, Vec<u8>>,
    id: u32,
    ask: impl FnOnce() -> Result<Option<String>, Errno>,
) -> Result<Vec<u8>, Errno> {
    if let Some(answer) = known.get(&id, Instant::now()) {
        return answer;
    }
    let name = ask().map(fit);
    // It may have taken long.
    known.keep(id, name.clone(), Instant::now());
    name
}

/// What the system says of a name or number. Some of its services answer with an error where there is none, see getpwnam(3).
pub(crate) fn answer<T>(asked: nix::Result<Option<T>>) -> Result<Option<T>, Errno> {
    use nix::errno::Errno as E;
    match asked {
        Err(E::ENOENT | E::ESRCH | E::EBADF | E::EPERM) => Ok(None),
        Err(e) => Err(Errno::from_raw_os_error(e as i32)),
        Ok(found) => Ok(found),
    }
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
        assert_eq!(owners.names(0, 0), Some((b"root".to_vec(), b"root".to_vec())));
        assert_eq!(owners.names(3_999_999_999, 3_999_999_999), Some(Default::default()));
    }

    #[test]
    fn each_number_is_asked_for_once_and_the_table_is_bounded() {
        let mut known = Answers::default();
        assert_eq!(cached(&mut known, 7, || Ok(Some("seven".into()))).unwrap(), b"seven");
        assert_eq!(cached(&mut known, 7, || unreachable!()).unwrap(), b"seven");
        for id in 100..100 + 3 * LIMIT as u32 {
            cached(&mut known, id, || Ok(None)).unwrap();
            assert!(known.0.len() <= LIMIT);
        }
        assert_eq!(cached(&mut known, 7, || Ok(Some("new".into()))).unwrap(), b"new");
    }

    #[test]
    fn an_answer_that_failed_is_no_name_and_is_remembered_for_a_while() {
        let mut known = Answers::default();
        assert_eq!(cached(&mut known, 7, || Err(Errno::IO)), Err(Errno::IO));
        assert_eq!(cached(&mut known, 7, || unreachable!()), Err(Errno::IO), "it is asked at once again");
        let before = Instant::now().checked_sub(FAILED).unwrap();
        known.keep(7, Err(Errno::IO), before);
        known.keep(8, Ok(b"eight".to_vec()), before);
        assert_eq!(cached(&mut known, 7, || Ok(Some("seven".into()))).unwrap(), b"seven");
        assert_eq!(cached(&mut known, 8, || unreachable!()).unwrap(), b"eight");
        assert_eq!(answer::<()>(Err(nix::errno::Errno::ENOENT)), Ok(None));
        assert_eq!(answer::<()>(Err(nix::errno::Errno::EMFILE)), Err(Errno::MFILE));
    }

    #[test]
    fn names_the_format_cannot_hold_are_none() {
        assert_eq!(fit(Some("x".repeat(255))).len(), 255);
        assert_eq!(fit(Some("x".repeat(256))), b"");
        assert_eq!(fit(Some("a\u{fffd}".into())), b"");
        assert_eq!(fit(None), b"");
    }
}

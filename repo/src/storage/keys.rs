//! The key of every object, in one place. Format: `docs/format.md`, section "Keys".

use crate::format::pack::MAX_PACK;
use crate::id::{PackId, PackKind, SessionId, VolumeId, unhex};
use crate::{Error, Result};
use std::fmt;

/// The key of an object: `[a-z0-9/.-]`, 1 to 199 bytes, no empty, `.` or `..` segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks the characters and the length.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let fits = (1..200).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-'))
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if fits { Ok(Self(text)) } else { Err(Error::invalid(format!("{text:?} is no object key"))) }
    }

    /// The text of the key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn made(text: String) -> Self {
        debug_assert!(Self::new(text.clone()).is_ok(), "{text}");
        Self(text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Prefix of data packs.
pub const PACKS: &str = "packs/";
/// Prefix of packs of map nodes.
pub const META: &str = "meta/";
/// Prefix of index segments.
pub const IDX: &str = "idx/";
/// Prefix of sessions.
pub const SESS: &str = "sess/";
/// Prefix of outcomes of sessions.
pub const SNAP: &str = "snap/";
/// Prefix of forget records.
pub const FORGET: &str = "forget/";
/// Prefix of pins.
pub const PIN: &str = "pin/";
/// Prefix of condemned lists and sealed sweeps.
pub const GEN: &str = "gc/gen/";
/// Prefix of the notes of collectors at work.
pub const LEAD: &str = "gc/lead/";
/// Prefix of what checks have read.
pub const CHECKED: &str = "checked/";
/// Prefix of their readings of packs.
pub const READ: &str = "checked/packs/";
/// Prefix of what they say of snapshots.
pub const STATES: &str = "checked/snaps/";
/// Prefix of key slots.
pub const KEYS: &str = "keys/";
/// Prefix of configurations.
pub const CONFIG: &str = "config/";

/// What the last part of `sess/<sid>/seen-<n>` begins with.
const SEEN: &str = "seen-";

/// Prefix of what a probe writes and removes again.
pub const PROBE: &str = "probe/";

/// Bytes that no object of this key has more of. What may grow with the repository gets a gibibyte.
pub(super) fn most(key: &Key) -> u64 {
    let below = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.as_str().starts_with(prefix));
    if parse_pack(key).is_some() {
        MAX_PACK
    } else if below(&[KEYS, CONFIG, SESS, FORGET, PIN, LEAD]) || *key == repo() {
        16 << 20
    } else {
        1 << 30
    }
}

/// `probe/<random>/<name>`; `name` obeys the rules of keys.
pub fn probe(random: u64, name: &str) -> Result<Key> {
    Key::new(format!("{PROBE}{random:016x}/{name}"))
}

/// `repo.json`: identity.
pub fn repo() -> Key {
    Key::made("repo.json".into())
}

/// `config/<n>`; the highest number counts.
pub fn config(n: u32) -> Key {
    Key::made(format!("{CONFIG}{n:08}"))
}

/// The number of a key made by [`config`]; `None` for any other key.
pub fn parse_config(key: &Key) -> Option<u32> {
    let n = key.as_str().strip_prefix(CONFIG)?.parse().ok()?;
    (config(n) == *key).then_some(n)
}

/// `keys/<slot>`; the slot is 16 hex digits.
pub fn slot(slot: u64) -> Key {
    Key::made(format!("{KEYS}{slot:016x}"))
}

/// `keys/epoch-<n>`: key epoch n, for the slots that are older than it.
pub fn epoch(n: u32) -> Key {
    Key::made(format!("{KEYS}epoch-{n:08}"))
}

/// The number of a key made by [`epoch`]; `None` for any other key.
pub fn parse_epoch(key: &Key) -> Option<u32> {
    let n = key.as_str().strip_prefix(KEYS)?.strip_prefix("epoch-")?.parse().ok()?;
    (epoch(n) == *key).then_some(n)
}

/// `packs/<hh>/<sid>-<seq>-<r>` or `meta/...`; `hh` is the first byte of `r`, which is random.
pub fn pack(id: &PackId) -> Key {
    let prefix = match id.kind {
        PackKind::Data => PACKS,
        PackKind::Meta => META,
    };
    Key::made(format!("{prefix}{:02x}/{}-{:08x}-{:016x}", id.random >> 56, id.session, id.seq, id.random))
}

/// The pack of a key made by [`pack`]; `None` for any other key.
pub fn parse_pack(key: &Key) -> Option<PackId> {
    let text = key.as_str();
    let (kind, rest) = match text.strip_prefix(PACKS) {
        Some(rest) => (PackKind::Data, rest),
        None => (PackKind::Meta, text.strip_prefix(META)?),
    };
    let mut parts = rest.split_once('/')?.1.split('-');
    let id = PackId {
        kind,
        session: SessionId::new(unhex(parts.next()?)?),
        seq: u32::from_be_bytes(unhex(parts.next()?)?),
        random: u64::from_be_bytes(unhex(parts.next()?)?),
    };
    (pack(&id) == *key).then_some(id)
}

/// `idx/<sid>-<k>`: the k-th index segment of a session.
pub fn segment(session: &SessionId, k: u32) -> Key {
    Key::made(format!("{IDX}{session}-{k:08x}"))
}

/// The session and number of a key made by [`segment`].
pub fn parse_segment(key: &Key) -> Option<(SessionId, u32)> {
    let (sid, k) = key.as_str().strip_prefix(IDX)?.split_once('-')?;
    Some((SessionId::new(unhex(sid)?), u32::from_be_bytes(unhex(k)?)))
}

/// `sess/<sid>/<part>`: `open`, `beat`; see [`seen`] for the third.
pub fn session(session: &SessionId, part: &str) -> Key {
    Key::made(format!("{SESS}{session}/{part}"))
}

/// `sess/<sid>/seen-<n>`: the session has taken the lists up to n into account.
pub fn seen(id: &SessionId, n: u32) -> Key {
    session(id, &format!("{SEEN}{n:08}"))
}

/// The session and part of a key made by [`session`] or [`seen`]; `None` for any other key.
pub fn parse_session(key: &Key) -> Option<(SessionId, &str)> {
    let (sid, part) = key.as_str().strip_prefix(SESS)?.split_once('/')?;
    let id = SessionId::new(unhex(sid)?);
    let known = match part.strip_prefix(SEEN) {
        Some(n) => seen(&id, n.parse().ok()?) == *key,
        None => matches!(part, "open" | "beat"),
    };
    known.then_some((id, part))
}

/// `snap/<vid>/<sid>`: the write-once outcome of a session.
pub fn snap(volume: &VolumeId, session: &SessionId) -> Key {
    Key::made(format!("{SNAP}{volume}/{session}"))
}

/// The prefix of the outcomes of sessions that collectors write packs and segments under: Fences of no volume.
pub fn fences_of_collectors() -> String {
    format!("{SNAP}{}/", VolumeId::new([0; 16]))
}

/// The volume and session of a key made by [`snap`].
pub fn parse_snap(key: &Key) -> Option<(VolumeId, SessionId)> {
    let (vid, sid) = key.as_str().strip_prefix(SNAP)?.split_once('/')?;
    Some((VolumeId::new(unhex(vid)?), SessionId::new(unhex(sid)?)))
}

/// `forget/<sid>/<k>-asked` or `forget/<sid>/<k>-settled`.
pub fn forget(session: &SessionId, k: u32, settled: bool) -> Key {
    let part = if settled { "settled" } else { "asked" };
    Key::made(format!("{FORGET}{session}/{k:08}-{part}"))
}

/// The session, the count and whether it is the settled one, of a key made by [`forget`]; `None` for any other key.
pub fn parse_forget(key: &Key) -> Option<(SessionId, u32, bool)> {
    let (sid, rest) = key.as_str().strip_prefix(FORGET)?.split_once('/')?;
    let (k, part) = rest.split_once('-')?;
    let settled = match part {
        "asked" => false,
        "settled" => true,
        _ => return None,
    };
    let (id, k) = (SessionId::new(unhex(sid)?), k.parse().ok()?);
    (forget(&id, k, settled) == *key).then_some((id, k, settled))
}

/// `pin/<sid>/<k>-pinned` or `pin/<sid>/<k>-unpinned`.
pub fn pin(session: &SessionId, k: u32, unpinned: bool) -> Key {
    let part = if unpinned { "unpinned" } else { "pinned" };
    Key::made(format!("{PIN}{session}/{k:08}-{part}"))
}

/// The session, the count and whether it is the end of that pin, of a key made by [`pin`]; `None` for any other key.
pub fn parse_pin(key: &Key) -> Option<(SessionId, u32, bool)> {
    let (sid, rest) = key.as_str().strip_prefix(PIN)?.split_once('/')?;
    let (k, part) = rest.split_once('-')?;
    let (id, k, unpinned) = (SessionId::new(unhex(sid)?), k.parse().ok()?, part == "unpinned");
    (pin(&id, k, unpinned) == *key).then_some((id, k, unpinned))
}

/// `gc/gen/<n>`: the condemned list of a generation.
pub fn generation(n: u32) -> Key {
    Key::made(format!("{GEN}{n:08}"))
}

/// `gc/gen/<n>-sealed`: the delete set of a generation.
pub fn sealed(n: u32) -> Key {
    Key::made(format!("{GEN}{n:08}-sealed"))
}

/// `gc/lead/<sid>`: a collector is at work.
pub fn lead(collector: &SessionId) -> Key {
    Key::made(format!("{LEAD}{collector}"))
}

/// The collector of a key made by [`lead`]; `None` for any other key.
pub fn parse_lead(key: &Key) -> Option<SessionId> {
    key.as_str().strip_prefix(LEAD).and_then(unhex).map(SessionId::new)
}

/// `checked/packs/<c>-<k>`: the k-th record of what a check has read.
pub fn readings(check: &SessionId, k: u32) -> Key {
    Key::made(format!("{READ}{check}-{k:08x}"))
}

/// The check and number of a key made by [`readings`]; `None` for any other key.
pub fn parse_readings(key: &Key) -> Option<(SessionId, u32)> {
    let (check, k) = key.as_str().strip_prefix(READ)?.split_once('-')?;
    Some((SessionId::new(unhex(check)?), u32::from_be_bytes(unhex(k)?)))
}

/// `checked/snaps/<c>`: what a check says of snapshots.
pub fn states(check: &SessionId) -> Key {
    Key::made(format!("{STATES}{check}"))
}

/// The check of a key made by [`states`]; `None` for any other key.
pub fn parse_states(key: &Key) -> Option<SessionId> {
    key.as_str().strip_prefix(STATES).and_then(unhex).map(SessionId::new)
}

/// The generation of a key made by [`generation`] or [`sealed`], and which of the two; `None` for any other key.
pub fn parse_generation(key: &Key) -> Option<(u32, bool)> {
    let rest = key.as_str().strip_prefix(GEN)?;
    let (n, is_sealed) = rest.strip_suffix("-sealed").map_or((rest, false), |n| (n, true));
    let n = n.parse().ok()?;
    let made = if is_sealed { sealed(n) } else { generation(n) };
    (made == *key).then_some((n, is_sealed))
}

#[cfg(test)]
mod tests;

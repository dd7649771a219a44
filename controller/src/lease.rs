//! Which replica acts: a Lease. Pure; who calls reads and writes it.
//!
//! Nobody compares clocks: a holder is taken for dead when its Lease has not changed for as long as it says, by the
//! clock of who looks. The Lease is no fence, and need not be one: every write rests on a resourceVersion.

use crate::reconcile::Write;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wherry_api::Time;
use wherry_api::api::{Guard, Key, Kind};

/// Name of the Lease, in the namespace of Velero.
pub const NAME: &str = "wherry-controller";
/// One that was not renewed for so long is free.
pub const DURATION: Duration = Duration::from_secs(60);
/// The holder renews it this often, and the others look at it, beside the watch that tells them when it is given back.
pub const RENEW: Duration = Duration::from_secs(20);
/// A holder that could not renew it for so long acts no more: before others may.
pub const GIVE_UP: Duration = Duration::from_secs(45);

/// The largest `leaseTransitions` that the API takes: an int32.
const MOST_TRANSITIONS: u64 = i32::MAX as u64;

/// One replica's view of the Lease.
#[derive(Debug)]
pub struct Elector {
    namespace: String,
    me: String,
    /// The resourceVersion that was seen, and since when.
    seen: Option<(String, Instant)>,
    /// Who holds it, as it was seen last, if not this one: somebody who may still act when it is gone.
    other: Option<String>,
    /// Since when it is gone.
    gone: Option<Instant>,
}

/// What is done about the Lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// This write; if it succeeds, it is ours.
    Write(Write),
    /// Somebody else's; look again after [`RENEW`], or when it is given back.
    Theirs(String),
}

fn text<'a>(lease: &'a Value, pointer: &str) -> &'a str {
    lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn guard(lease: &Value) -> Guard {
    Guard {
        uid: text(lease, "/metadata/uid").to_owned(),
        resource_version: text(lease, "/metadata/resourceVersion").to_owned(),
    }
}

/// Whether its holder has given it back: it need not be waited for until it has run out.
#[must_use]
pub fn is_given_back(lease: &Value) -> bool {
    text(lease, "/spec/holderIdentity").is_empty()
}

/// `metav1.MicroTime`.
fn micro(time: Time) -> String {
    time.to_string().replace('Z', ".000000Z")
}

impl Elector {
    /// A replica; `me` is a name that no other process has or had.
    #[must_use]
    pub fn new(namespace: &str, me: &str) -> Self {
        Self { namespace: namespace.to_owned(), me: me.to_owned(), seen: None, other: None, gone: None }
    }

    /// The Lease.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::new(Kind::Lease, &self.namespace, NAME)
    }

    /// What is done, from the Lease as it was just read.
    pub fn turn(&mut self, lease: Option<&Value>, now: Instant, time: Time) -> Turn {
        let mut spec = json!({
            "holderIdentity": self.me, "leaseDurationSeconds": DURATION.as_secs(), "renewTime": micro(time),
        });
        let Some(lease) = lease else {
            // Its holder is not told until it renews it, and acts for so long.
            let gone = *self.gone.get_or_insert(now);
            if let Some(other) = self.other.as_ref().filter(|_| now.duration_since(gone) < DURATION) {
                return Turn::Theirs(other.clone());
            }
            spec["acquireTime"] = json!(micro(time));
            spec["leaseTransitions"] = json!(0);
            let object = json!({
                "apiVersion": Kind::Lease.api_version(), "kind": "Lease",
                "metadata": { "name": NAME, "namespace": self.namespace }, "spec": spec,
            });
            return Turn::Write(Write::Create { key: self.key(), object });
        };
        let version = text(lease, "/metadata/resourceVersion");
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => now,
        };
        self.seen = Some((version.to_owned(), since));
        let holder = text(lease, "/spec/holderIdentity");
        self.gone = None;
        self.other = (holder != self.me && !is_given_back(lease)).then(|| holder.to_owned());
        if holder != self.me {
            let seconds = lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(DURATION.as_secs());
            if !is_given_back(lease) && now.duration_since(since) < Duration::from_secs(seconds) {
                return Turn::Theirs(holder.to_owned());
            }
            spec["acquireTime"] = json!(micro(time));
            // The API has no larger number, and refuses the Lease with one.
            let before = lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
            spec["leaseTransitions"] = json!(before.saturating_add(1).min(MOST_TRANSITIONS));
        }
        Turn::Write(Write::Patch { key: self.key(), guard: guard(lease), patch: json!({ "spec": spec }) })
    }

    /// Gives it back, so that another one need not wait. `None`: it is not ours.
    #[must_use]
    pub fn release(&self, lease: &Value) -> Option<Write> {
        let patch = json!({ "spec": { "holderIdentity": "" } });
        let ours = text(lease, "/spec/holderIdentity") == self.me;
        ours.then(|| Write::Patch { key: self.key(), guard: guard(lease), patch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Value {
        json!({
            "metadata": { "uid": "u", "resourceVersion": version },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": DURATION.as_secs(), "leaseTransitions": 3 },
        })
    }

    fn written(turn: Turn) -> Value {
        match turn {
            Turn::Write(Write::Create { object, .. }) => object["spec"].clone(),
            Turn::Write(Write::Patch { guard, patch, .. }) => {
                assert_eq!((guard.uid.as_str(), guard.resource_version.is_empty()), ("u", false));
                patch["spec"].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_one_makes_it_and_renews_it() {
        let (mut elector, now) = (Elector::new("velero", "a"), Instant::now());
        let made = written(elector.turn(None, now, Time(1_700_000_000)));
        assert_eq!((&made["holderIdentity"], &made["renewTime"]), (&json!("a"), &json!("2023-11-14T22:13:20.000000Z")));
        let renewed = written(elector.turn(Some(&lease("a", "1")), now, Time(0)));
        assert_eq!((&renewed["acquireTime"], &renewed["leaseTransitions"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn another_ones_is_taken_only_when_it_stood_still() {
        let (mut elector, now) = (Elector::new("velero", "b"), Instant::now());
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let theirs = Turn::Theirs("a".to_owned());
        // However old it says it is: clocks differ.
        assert_eq!(elector.turn(Some(&lease("a", "1")), at(0), Time(1 << 40)), theirs);
        assert_eq!(elector.turn(Some(&lease("a", "1")), at(59), Time(0)), theirs);
        assert_eq!(elector.turn(Some(&lease("a", "2")), at(60), Time(0)), theirs);
        assert_eq!(elector.turn(Some(&lease("a", "2")), at(119), Time(0)), theirs);
        let taken = written(elector.turn(Some(&lease("a", "2")), at(120), Time(0)));
        assert_eq!((&taken["holderIdentity"], &taken["leaseTransitions"]), (&json!("b"), &json!(4)));
    }

    #[test]
    fn one_that_was_given_back_is_free() {
        let (mut elector, now) = (Elector::new("velero", "b"), Instant::now());
        assert_eq!(written(elector.turn(Some(&lease("", "1")), now, Time(0)))["holderIdentity"], "b");
        assert!(elector.release(&lease("a", "1")).is_none());
        let Some(Write::Patch { patch, .. }) = elector.release(&lease("b", "1")) else { panic!("not given back") };
        assert_eq!(patch["spec"]["holderIdentity"], "");
    }

    /// Somebody deletes it: who held it acts until it could not renew it for too long.
    #[test]
    fn one_that_is_gone_is_waited_for_unless_nobody_else_held_it() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut elector = Elector::new("velero", "b");
        let theirs = Turn::Theirs("a".to_owned());
        assert_eq!(elector.turn(Some(&lease("a", "1")), at(0), Time(0)), theirs);
        assert_eq!(elector.turn(None, at(20), Time(0)), theirs);
        assert_eq!(elector.turn(None, at(79), Time(0)), theirs);
        assert_eq!(written(elector.turn(None, at(80), Time(0)))["holderIdentity"], "b");
        // Its holder has made it again meanwhile: it is waited for anew.
        let mut elector = Elector::new("velero", "b");
        assert_eq!(elector.turn(Some(&lease("a", "1")), at(0), Time(0)), theirs);
        assert_eq!(elector.turn(None, at(20), Time(0)), theirs);
        assert_eq!(elector.turn(Some(&lease("a", "2")), at(40), Time(0)), theirs);
        assert_eq!(elector.turn(None, at(80), Time(0)), theirs);
        // Its own, and one that was given back.
        for holder in ["b", ""] {
            let mut elector = Elector::new("velero", "b");
            written(elector.turn(Some(&lease(holder, "1")), at(0), Time(0)));
            assert_eq!(written(elector.turn(None, at(1), Time(0)))["holderIdentity"], "b", "{holder:?}");
        }
    }

    #[test]
    fn a_holder_stops_before_another_begins() {
        assert!(RENEW * 2 < GIVE_UP && GIVE_UP < DURATION);
    }
}

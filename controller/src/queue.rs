//! What is to be looked at, and when. Pure: no clock, no task.
//!
//! An object is looked at by one worker at a time. What happens to it meanwhile is looked at afterwards. One that waits
//! is looked at again and again, more seldom each time; an event begins anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wherry_api::api::Key;

/// The time between the first two looks at one that waits.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest time between two looks at one that waits: what is waited for sends no event.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The time between the first two looks at one of which the watches tell when it is to go on: that they do is not relied on.
pub const FIRST_TOLD: Duration = Duration::from_secs(15);
/// The longest: that a node or an agent is lost is told by nobody.
pub const LONGEST_TOLD: Duration = Duration::from_secs(60);
/// The time until one that failed once is tried again.
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest time until one that failed is tried again.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is to be done before the object changes.
    Settled,
    /// Somebody else's turn; the decision may change by itself after that time.
    Waits(Option<Duration>),
    /// The same, and an event tells when it may go on.
    Told(Option<Duration>),
    /// It failed; the server may say when to come back.
    Failed(Option<Duration>),
}

#[derive(Debug, Default)]
struct State {
    /// None: only while a worker has it.
    due: Option<Instant>,
    /// A worker has it.
    taken: bool,
    /// Looks without an event that ended in the same way.
    waits: u32,
    failures: u32,
    /// It is to be looked at whatever the look under way comes to.
    urgent: bool,
    /// It goes before all others, until a look at it has ended.
    first: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    states: BTreeMap<Key, State>,
}

/// The time, twice as long, four times, and so on.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    1_u32.checked_shl(times).and_then(|factor| first.checked_mul(factor)).unwrap_or(longest).min(longest)
}

impl Queue {
    /// Something happened to an object.
    pub fn changed(&mut self, key: &Key, now: Instant) {
        let state = self.states.entry(key.clone()).or_default();
        // One that fails is not tried more often because it changes: its own failed writes may be the change.
        let due = if state.failures > 0 { state.due.unwrap_or(now) } else { now };
        state.due = Some(state.due.map_or(due, |known| known.min(due)));
        state.waits = 0;
    }

    /// Somebody wants it to end: it is looked at now, also when it failed before or a worker has it.
    pub fn urgent(&mut self, key: &Key, now: Instant) {
        let state = self.states.entry(key.clone()).or_default();
        (state.waits, state.failures, state.urgent) = (0, 0, state.taken);
        (state.first, state.due) = (true, Some(now));
    }

    /// The look at one has ended, and it has not: it still goes before all others.
    pub fn stays_first(&mut self, key: &Key) {
        if let Some(state) = self.states.get_mut(key) {
            state.first = true;
        }
    }

    /// One that is due and that no worker has: first those that are to end, of both the longest due.
    pub fn take(&mut self, now: Instant) -> Option<Key> {
        let free = self.states.iter_mut().filter(|(_, state)| !state.taken && state.due.is_some_and(|due| due <= now));
        let (key, state) = free.min_by_key(|(_, state)| (!state.first, state.due))?;
        (state.taken, state.due) = (true, None);
        Some(key.clone())
    }

    /// A worker is done with one that it took.
    pub fn ended(&mut self, key: &Key, how: Ended, now: Instant) {
        let Some(state) = self.states.get_mut(key) else { return };
        state.taken = false;
        let urgent = std::mem::take(&mut state.urgent);
        // What was asked for meanwhile is still to be looked at.
        state.first &= urgent;
        let next = match how {
            Ended::Settled => {
                (state.waits, state.failures) = (0, 0);
                None
            }
            Ended::Waits(until) | Ended::Told(until) => {
                let wait = match how {
                    Ended::Told(_) => doubled(FIRST_TOLD, state.waits, LONGEST_TOLD),
                    _ => doubled(FIRST_WAIT, state.waits, LONGEST_WAIT),
                };
                (state.waits, state.failures) = (state.waits.saturating_add(1), 0);
                Some(until.map_or(wait, |until| until.min(wait)))
            }
            Ended::Failed(asked) => {
                // However long a server, or what is before it, asks for: a cancel has its limit, too.
                let asked = asked.unwrap_or_default().min(LONGEST_BACKOFF);
                let wait = doubled(FIRST_BACKOFF, state.failures, LONGEST_BACKOFF).max(asked);
                state.failures = state.failures.saturating_add(1);
                // What changed meanwhile waits as long: the reason of the failure may well be the same.
                if !urgent {
                    state.due = None;
                }
                Some(wait)
            }
        };
        state.due = state.due.into_iter().chain(next.map(|wait| now + wait)).min();
        if state.due.is_none() {
            self.states.remove(key);
        }
    }

    /// When the next one is due that no worker has.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.states.values().filter(|state| !state.taken).filter_map(|state| state.due).min()
    }

    /// How many a worker has.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.states.values().filter(|state| state.taken).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_api::api::Kind;

    fn key(name: &str) -> Key {
        Key::new(Kind::DataUpload, "velero", name)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_worker_at_a_time_and_no_change_is_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.changed(&key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.changed(&key("a"), now);
        assert_eq!((queue.take(now), queue.next_due(), queue.taken()), (None, None, 1));
        queue.ended(&key("a"), Ended::Settled, now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.ended(&key("a"), Ended::Settled, now);
        assert_eq!((queue.take(now), queue.next_due(), queue.taken()), (None, None, 0));
    }

    #[test]
    fn the_longest_due_comes_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.changed(&key("b"), now);
        queue.changed(&key("a"), now + seconds(1));
        assert_eq!(queue.take(now), Some(key("b")));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next_due(), Some(now + seconds(1)));
        assert_eq!(queue.take(now + seconds(1)), Some(key("a")));
    }

    /// However many are due before.
    #[test]
    fn one_that_is_to_end_goes_before_all_others() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for n in 0..20 {
            queue.changed(&key(&format!("a{n}")), now);
        }
        let later = now + seconds(9);
        queue.urgent(&key("z"), later);
        queue.urgent(&key("y"), later + seconds(1));
        assert_eq!(queue.take(later), Some(key("z")));
        // What it leads to is looked at after the others that are to end, unless somebody asked meanwhile.
        queue.ended(&key("z"), Ended::Waits(Some(Duration::ZERO)), later);
        assert_eq!(queue.take(later + seconds(1)), Some(key("y")));
        queue.urgent(&key("y"), later + seconds(1));
        queue.ended(&key("y"), Ended::Settled, later + seconds(1));
        assert_eq!(queue.take(later + seconds(1)), Some(key("y")));
        queue.ended(&key("y"), Ended::Waits(Some(Duration::ZERO)), later + seconds(1));
        assert_eq!(queue.take(later + seconds(1)), Some(key("a0")));
        // One that waits for its agent, and has not ended.
        queue.stays_first(&key("y"));
        assert_eq!(queue.take(later + seconds(1)), Some(key("y")));
    }

    /// How long each of several looks in a row waits.
    fn waits(how: Ended, looks: usize) -> Vec<f32> {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.changed(&key("a"), now);
        (0..looks)
            .map(|_| {
                assert_eq!(queue.take(now), Some(key("a")));
                queue.ended(&key("a"), how, now);
                let wait = queue.next_due().unwrap() - now;
                now += wait;
                wait.as_secs_f32()
            })
            .collect()
    }

    #[test]
    fn waiting_and_failing_get_slower() {
        assert_eq!(waits(Ended::Waits(None), 7), [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]);
        assert_eq!(waits(Ended::Waits(Some(seconds(3))), 5), [0.5, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(waits(Ended::Told(None), 5), [15.0, 30.0, 60.0, 60.0, 60.0]);
        assert_eq!(waits(Ended::Told(Some(seconds(20))), 3), [15.0, 20.0, 20.0]);
        assert_eq!(waits(Ended::Failed(None), 8), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!(waits(Ended::Failed(Some(seconds(5))), 4), [5.0, 5.0, 5.0, 8.0]);
        assert_eq!(waits(Ended::Failed(None), 70)[69], 60.0);
        assert_eq!(waits(Ended::Failed(Some(Duration::MAX)), 2), [60.0, 60.0]);
    }

    #[test]
    fn one_that_is_to_end_is_looked_at_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let fail = |queue: &mut Queue, at| {
            assert_eq!(queue.take(at), Some(key("a")));
            queue.ended(&key("a"), Ended::Failed(None), at);
        };
        queue.changed(&key("a"), now);
        let mut at = now;
        for _ in 0..6 {
            fail(&mut queue, at);
            at = queue.next_due().unwrap();
        }
        fail(&mut queue, at);
        queue.urgent(&key("a"), at);
        assert_eq!(queue.next_due(), Some(at));
        // It comes while a worker has it, and that look fails.
        assert_eq!(queue.take(at), Some(key("a")));
        queue.urgent(&key("a"), at);
        queue.ended(&key("a"), Ended::Failed(Some(seconds(60))), at);
        fail(&mut queue, at);
        // Only once: after that it is again tried later and later, from the beginning.
        assert_eq!(queue.next_due(), Some(at + seconds(2)));
    }

    #[test]
    fn an_event_ends_a_wait_and_no_back_off() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.changed(&key("a"), now);
        queue.take(now);
        queue.ended(&key("a"), Ended::Waits(None), now);
        queue.changed(&key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.changed(&key("a"), now);
        queue.ended(&key("a"), Ended::Failed(None), now);
        queue.changed(&key("a"), now);
        assert_eq!((queue.take(now), queue.next_due()), (None, Some(now + seconds(1))));
        assert_eq!(queue.take(now + seconds(1)), Some(key("a")));
    }
}

//! Seeded random walks, for worlds too large to be exhausted: some deep histories instead of all of them.

use super::{Action, Event, Protocol};
use stateright::Model;
use std::collections::BTreeMap;

/// Splitmix64: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What the walks came across.
#[derive(Debug, Default)]
pub struct Walked {
    /// The shortest history that lost something.
    pub lost: Option<Vec<Action>>,
    /// How often each case came up.
    pub events: BTreeMap<Event, u64>,
    /// Actions taken.
    pub steps: u64,
    /// The longest history.
    pub depth: usize,
}

/// Takes `steps` actions in walks of at most 200. Each walk favours some actors, so that others stall for long. With
/// `until_lost` it ends at the first loss.
pub fn walk(model: &Protocol, seed: u64, steps: u64, until_lost: bool) -> Walked {
    let mut random = Random(seed);
    let mut walked = Walked::default();
    let mut actions = Vec::new();
    let Some(start) = model.init_states().pop() else { return walked };
    while walked.steps < steps {
        let (mut state, mut path) = (start.clone(), Vec::new());
        let pace = random.next();
        for _ in 0..200 {
            actions.clear();
            model.actions(&state, &mut actions);
            if actions.is_empty() {
                break;
            }
            let mut action = actions[random.below(actions.len())];
            for _ in 0..3 {
                let slow = if matches!(action, Action::Crash(_)) { 7 } else { (pace >> (3 * action.actor())) & 7 };
                if random.next() & 7 >= slow {
                    break;
                }
                action = actions[random.below(actions.len())];
            }
            let Some(after) = model.next_state(&state, action) else { continue };
            state = after;
            path.push(action);
            walked.steps += 1;
            if let Some(event) = state.event {
                *walked.events.entry(event).or_default() += 1;
            }
            if !state.holds() {
                if walked.lost.as_ref().is_none_or(|best| path.len() < best.len()) {
                    walked.lost = Some(path.clone());
                }
                break;
            }
        }
        walked.depth = walked.depth.max(path.len());
        if until_lost && walked.lost.is_some() {
            break;
        }
    }
    walked
}

//! Breadth-first search, on one thread so that it finds the same each time.

use super::{ALWAYS, Action, CASES, Protocol};
use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    /// What does not hold, and the shortest history that shows it.
    pub broken: Option<(&'static str, Vec<Action>)>,
    /// All there is was looked at.
    pub complete: bool,
    /// Different states.
    pub states: usize,
    /// Length of the longest history looked at.
    pub depth: usize,
    /// The cases that came up.
    pub reached: BTreeSet<&'static str>,
}

/// Looks at all states, or at those within about `max` transitions, nearest first; ends where something is broken.
pub fn search(protocol: &Protocol, max: usize) -> Found {
    let mut found = look(protocol, max, usize::MAX);
    // The checker takes states in blocks, and of a block it tells the last that breaks something, not the first.
    while let Some((_, history)) = &found.broken {
        let nearer = look(protocol, max, history.len());
        if nearer.broken.is_none() {
            break;
        }
        found = nearer;
    }
    found
}

/// Looks at histories of less than `steps`.
fn look(protocol: &Protocol, max: usize, steps: usize) -> Found {
    let checker = protocol.clone().checker().target_state_count(max).target_max_depth(steps.saturating_add(1));
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let broken = ALWAYS.iter().filter_map(|name| Some((*name, checker.discovery(name)?.into_actions())));
    let broken = broken.min_by_key(|(_, history)| history.len());
    let reached = CASES.iter().map(|(name, _)| *name).filter(|name| checker.discovery(name).is_some()).collect();
    Found {
        complete: broken.is_none() && checker.state_count() < max,
        broken,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        reached,
    }
}

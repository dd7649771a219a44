//! Racing creates: exactly one caller may be told that it made the object, and the object must be that caller's.

use super::{Options, Place, wrong};
use crate::storage::{Key, Storage};
use crate::{ErrorKind, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Barrier};

const SMALL: usize = 100;

/// What racer `racer` writes in round `round`: other bytes for each of them, the same in every process.
pub fn body_of(round: u32, racer: u32, len: usize) -> Bytes {
    // Room to begin at an aligned address, as packs do.
    let mut out = vec![0; len + 4096];
    let start = out.as_ptr().align_offset(4096).min(4096);
    let mut state = (u64::from(round) << 32 | u64::from(racer)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for piece in out.split_at_mut(start).1.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(state.to_le_bytes().split_at(piece.len()).0);
    }
    Bytes::from(out).slice(start..start + len)
}

/// All `racers` create `key` at the same time, each its own body, taking turns on the connections. Gives who was told
/// that it created the object; fails if anybody was told anything but that or "exists".
pub fn race(
    connections: &[Arc<dyn Storage>],
    key: &Key,
    round: u32,
    racers: Range<u32>,
    len: usize,
) -> Result<Vec<u32>> {
    let start = Barrier::new(racers.len());
    let outcomes: Vec<(u32, Result<()>)> = std::thread::scope(|scope| {
        let running: Vec<_> = racers
            .zip(connections.iter().cycle())
            .map(|(racer, connection)| {
                let start = &start;
                let run = move || {
                    let body = body_of(round, racer, len);
                    start.wait();
                    connection.create(key, body)
                };
                (racer, scope.spawn(run))
            })
            .collect();
        let joined = running.into_iter().map(|(racer, thread)| {
            (racer, thread.join().unwrap_or_else(|_| Err(crate::Error::internal("a racing thread panicked"))))
        });
        joined.collect()
    });
    let mut winners = Vec::new();
    for (racer, outcome) in outcomes {
        match outcome {
            Ok(()) => winners.push(racer),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error.context(format!("racer {racer}"))),
        }
    }
    Ok(winners)
}

/// Rounds of small objects under way at once, each about a key of its own: a server may let losers wait for seconds.
const ROUNDS: u32 = 25;

pub(super) fn small(place: &Place, options: &Options) -> Result<()> {
    let round = |round| one(place, options, round, SMALL, "small");
    std::thread::scope(|scope| {
        let lanes = (0..ROUNDS).map(|lane| (lane..options.rounds).step_by(ROUNDS as usize));
        let running: Vec<_> = lanes.map(|mut lane| scope.spawn(move || lane.try_for_each(round))).collect();
        let lost = || Err(crate::Error::internal("a thread of rounds panicked"));
        running.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|_| lost()))
    })
}

pub(super) fn large(place: &Place, options: &Options) -> Result<()> {
    (0..options.large_rounds).try_for_each(|round| one(place, options, round, options.large, "large"))
}

fn one(place: &Place, options: &Options, round: u32, len: usize, name: &str) -> Result<()> {
    let key = place.key(&format!("race/{name}-{round}"))?;
    let connections = [Arc::clone(&place.a), Arc::clone(&place.b)];
    let winners = race(&connections, &key, round, 0..options.racers, len)?;
    let [winner] = winners[..] else {
        let (n, all) = (winners.len(), options.racers);
        return Err(wrong(format!("{n} of {all} racing creates of one key succeeded, not one (round {round})")));
    };
    if place.b.get(&key)? != body_of(round, winner, len) {
        return Err(wrong(format!("the object is not what the winner of racing creates wrote (round {round})")));
    }
    // The race is long over: now everybody loses.
    match place.a.create(&key, body_of(round, options.racers, len)) {
        Err(error) if error.kind() == ErrorKind::Conflict => place.a.delete(&key),
        Err(error) => Err(error),
        Ok(()) => Err(wrong("an object was created although it exists")),
    }
}

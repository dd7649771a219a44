//! Looks at worlds of the protocol that are too large for the ordinary tests:
//! `cargo run -p wherry-tests --release --example protocol [WORD]` (those whose name contains the word).
//! It takes 2 GiB of memory and some ten minutes of one core.

use wherry_tests::protocol::walk::walk;
use wherry_tests::protocol::{Bounds, Protocol, Rules, Second, search};

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    let one = Bounds { copies: 1, ..Bounds::SMALL };
    let two = Bounds { writers: 2, ..one };
    let adopt = Bounds { adopt: true, ..two };
    let worlds = [
        (
            "1 writer, 1 collector, 3 generations, 2 copies, undo, reader",
            Bounds { generations: 3, copies: 2, undo: true, reader: true, ..one },
        ),
        (
            "1 writer, 1 collector, 2 generations, shared pack, reader",
            Bounds { generations: 2, second: Second::Shares, reader: true, ..one },
        ),
        ("1 writer, 2 collectors, 2 generations, undo", Bounds { collectors: 2, generations: 2, undo: true, ..one }),
        ("1 writer, 2 collectors, 3 generations", Bounds { collectors: 2, generations: 3, ..one }),
        ("2 writers, 1 collector, 1 generation, 2 chunks, adopt, undo", Bounds { slots: 2, undo: true, ..adopt }),
        ("2 writers, 1 collector, 2 generations, adopt", Bounds { generations: 2, ..adopt }),
        ("2 writers, 1 collector, 3 generations", Bounds { generations: 3, ..two }),
        ("2 writers, 2 collectors, 1 generation, adopt", Bounds { collectors: 2, ..adopt }),
        ("3 writers, 1 collector, 1 generation, no copies", Bounds { writers: 3, copies: 0, ..two }),
    ];
    for (name, bounds) in worlds.into_iter().filter(|(name, _)| name.contains(&word)) {
        let found = search(&Protocol { rules: Rules::PROTOCOL, bounds, prefix: vec![] }, 120_000_000);
        let verdict = match &found.broken {
            Some((what, history)) => format!("BROKEN: {what}: {history:#?}"),
            None if found.complete => "complete".into(),
            None => "bounded".into(),
        };
        println!("| {name} | {verdict} | {} | {} |", found.states, found.depth);
    }
    let all = Bounds {
        writers: 3,
        collectors: 2,
        generations: 3,
        copies: 3,
        slots: 2,
        asks: 2,
        undo: true,
        adopt: true,
        give_up: true,
        reader: true,
        second: Second::None,
        last_copy: false,
        seal_anew: true,
        fence_left: true,
        crash_events: false,
    };
    let (beside, last) = (Bounds { writers: 2, second: Second::Shares, ..all }, Bounds { last_copy: true, ..all });
    let walks = [("walks, everything", all), ("walks, shared pack", beside), ("walks, last copy", last)];
    for (name, bounds) in walks.into_iter().filter(|(name, _)| name.contains(&word)) {
        let walked = walk(&Protocol { rules: Rules::PROTOCOL, bounds, prefix: vec![] }, 2, 300_000_000, true);
        let verdict = walked.lost.map_or("nothing lost".into(), |history| format!("BROKEN: {history:#?}"));
        println!("| {name} | {verdict} | {} steps | {} |", walked.steps, walked.depth);
    }
}

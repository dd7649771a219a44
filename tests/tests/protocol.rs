//! The protocol of `repo/docs/concurrency.md` loses nothing, each of its safety steps is needed, and the hard cases were
//! all looked at. `cargo test -p wherry-tests --release --test protocol -- --nocapture` prints what was looked at;
//! `cargo run -p wherry-tests --release --example protocol` looks at more.

use stateright::{Checker, HasDiscoveries, Model};
use std::collections::BTreeSet;
use wherry_tests::protocol::state::NONE;
use wherry_tests::protocol::walk::walk;
use wherry_tests::protocol::{Action, Bounds, CASES, Found, Protocol, Rules, Second, TWICE, create, pins, search};

const ONE: Bounds = Bounds::SMALL;
const LATE: Bounds =
    Bounds { writers: 2, collectors: 2, generations: 3, copies: 1, give_up: true, second: Second::Shares, ..ONE };
const TWO: Bounds = Bounds { writers: 2, adopt: true, ..ONE };
const PAGE: &str = include_str!("../../repo/docs/concurrency.md");
const RESULTS: &str = include_str!("../../repo/docs/concurrency-results.md");

/// What the page says of this world, in the first table of its results; and each row of that belongs to a test here.
fn is_told(world: &str, result: &str, states: &str, depth: &str) {
    let row = format!("| {world} | {result} | {states} | {depth} |");
    assert!(worlds().contains(&row.as_str()), "the page does not say {row:?}");
}

/// The rows of that table.
fn worlds() -> Vec<&'static str> {
    let table = RESULTS.split("## Results of the protocol").nth(1).expect("the heading");
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|')).collect()
}

/// With spaces, as the page has it.
fn spaced(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(" ")
}

fn look(name: &str, protocol: Protocol, max: usize) -> Found {
    let found = search(&protocol, max);
    let verdict = match &found.broken {
        Some((what, history)) => format!("broken in {} steps: {what}", history.len()),
        None if found.complete => "holds, complete".into(),
        None => "holds, bounded".into(),
    };
    println!("{name:45} {verdict}; {} states, depth {}", spaced(found.states), found.depth);
    found
}

fn without(names: &[&str], bounds: Bounds, prefix: Vec<Action>) -> Found {
    let protocol = Protocol { rules: Rules::without(names), bounds, prefix };
    look(&format!("without {}", names.join(" and ")), protocol, usize::MAX)
}

/// Looks at all of a world of the protocol itself; all the cases named must come up.
fn holds(name: &str, bounds: Bounds, cases: &[&str]) {
    check(name, bounds, vec![], usize::MAX, true, cases);
}

fn check(name: &str, bounds: Bounds, prefix: Vec<Action>, max: usize, complete: bool, cases: &[&str]) {
    let before = prefix.len();
    let found = look(name, Protocol { rules: Rules::PROTOCOL, bounds, prefix }, max);
    if let Some((what, history)) = found.broken {
        panic!("{name}: {what} is broken by {history:#?}");
    }
    assert_eq!(found.complete, complete, "{name}: {} states", found.states);
    for case in cases {
        assert!(CASES.iter().any(|(known, _)| known == case), "no case is called {case}");
        assert!(found.reached.contains(case), "{name}: {case:?} was not reached, only {:?}", found.reached);
    }
    let depth = if before > 0 { format!("{before} + {}", found.depth) } else { found.depth.to_string() };
    is_told(name, if complete { "holds, complete" } else { "holds, bounded" }, &spaced(found.states), &depth);
}

#[test]
fn one_writer_with_repack_undo_readers_and_crashes() {
    let bounds = Bounds { generations: 2, copies: 1, asks: 2, undo: true, seal_anew: true, crash_events: true, ..ONE };
    let mut cases = vec!["condemned", "rescued", "swept", "relocated", "record removed", "fence won", "commit won"];
    cases.extend(["undo won", "final won", "asked again", "parent refused", "raise with replacement", "taken over"]);
    cases.push("full pack moved");
    cases.extend(CASES.iter().map(|(name, _)| *name).filter(|name| name.starts_with("crash before")));
    holds(
        "1 writer, 1 collector, 2 generations, 1 copy, full packs move, two forgets, undo, crashes told apart",
        bounds,
        &cases,
    );
}

#[test]
fn one_writer_and_a_reader() {
    let bounds = Bounds { generations: 2, copies: 1, undo: true, reader: true, fence_left: true, ..ONE };
    let cases = [
        "fenced without a list",
        "passed over",
        "relocated",
        "rescued",
        "reader refused",
        "reader pinned",
        "reader cleared",
        "late pack",
        "undo won",
        "final won",
        "parent refused",
    ];
    holds("1 writer, 1 collector, 2 generations, 1 copy, undo, reader, fences without a list", bounds, &cases);
}

#[test]
fn one_writer_beside_a_volume_that_shares_a_pack() {
    let bounds = Bounds { generations: 2, copies: 2, second: Second::Shares, ..ONE };
    holds(
        "1 writer, 1 collector, 2 generations, 2 copies, 2 snapshots in one pack",
        bounds,
        &["relocated", "rescued", "parent refused"],
    );
}

#[test]
fn one_writer_with_two_chunks_and_the_last_copy() {
    let bounds = Bounds { generations: 3, copies: 2, slots: 2, last_copy: true, ..ONE };
    holds("1 writer, 1 collector, 3 generations, 2 copies, 2 chunks, last copy", bounds, &["relocated", "rescued"]);
}

#[test]
fn one_writer_and_two_collectors() {
    let bounds = Bounds { collectors: 2, generations: 2, copies: 1, ..ONE };
    let cases = ["taken over", "taken over alive", "overtaken", "sealed before", "relocated", "raise with replacement"];
    holds("1 writer, 2 collectors, 2 generations, 1 copy", bounds, &cases);
}

#[test]
fn two_collectors_that_repack_and_nobody_writes() {
    let bounds = Bounds { writers: 0, collectors: 2, generations: 2, copies: 2, second: Second::Shares, ..ONE };
    holds(
        "2 collectors, 2 generations, 2 copies, 2 snapshots in one pack",
        bounds,
        &["relocated", "overtaken", "sealed before"],
    );
}

#[test]
fn two_writers_that_adopt() {
    let bounds = Bounds { copies: 1, give_up: true, ..TWO };
    let mut cases = vec!["adopted", "nothing to resume", "fence won", "commit won", "parent refused", "rescued"];
    cases.extend(["raise with replacement"]);
    cases.extend(CASES.iter().map(|(name, _)| *name).filter(|name| name.starts_with("adopted ")));
    cases.retain(|name| *name != "adopted after adoption"); // takes three sessions
    holds("2 writers that adopt and give up, 1 collector, 1 generation, 1 copy", bounds, &cases);
}

/// A1, A2: session 1 has uploaded and has given up; session 2 adopts it all the same, at any moment of a collection that
/// may condemn what it left.
#[test]
fn a_session_that_gave_up_is_adopted() {
    use Action::*;
    let open = [OpenSession { s: 1, parent: NONE, adopts: NONE }, ListGenerations(1), PutSeen(1)];
    let prefix = [&open[..], &[UploadPack(1, 0), GiveUp(1)]].concat();
    let bounds = Bounds { generations: 2, copies: 1, give_up: true, ..TWO };
    let cases = ["adopted", "condemned", "swept", "raise with replacement"];
    check(
        "2 writers, of which one has uploaded and given up, 1 collector, 2 generations, 1 copy",
        bounds,
        prefix.clone(),
        usize::MAX,
        true,
        &cases,
    );
    let found = without(&["hits_are_barred"], bounds, prefix);
    assert!(found.broken.is_some(), "its packs are a stranger's: only the bars make hits in them safe");
}

#[test]
fn two_writers_and_two_generations() {
    let bounds = Bounds { generations: 2, copies: 1, adopt: false, ..TWO };
    let cases = ["rescued", "relocated", "raise with replacement", "fence won", "commit won", "parent refused"];
    holds("2 writers, 1 collector, 2 generations, 1 copy", bounds, &cases);
}

#[test]
fn two_writers_and_two_collectors() {
    let bounds = Bounds { collectors: 2, adopt: false, ..TWO };
    let cases = ["taken over alive", "overtaken", "sealed before", "rescued", "raise with replacement"];
    holds("2 writers, 2 collectors, 1 generation", bounds, &cases);
}

/// Too large to be exhausted: all histories up to some length that begin where it matters. Session 1 has a hit in the
/// pack of snapshot 0, which has become Final; a list that condemns the pack is out.
#[test]
fn two_writers_two_collectors_and_all_the_rest() {
    use Action::*;
    let bounds = Bounds { collectors: 2, generations: 2, copies: 1, undo: true, reader: true, ..TWO };
    let writer = [OpenSession { s: 1, parent: NONE, adopts: NONE }, ListGenerations(1), PutSeen(1), UseHit(1, 0, 0)];
    let collector = [ListPacks(0), ListForgets(1), ListSessions(1), ListSnapshots(1), Publish(1)];
    let prefix = [&writer[..], &[AskForget(0), Settle(0)], &collector].concat();
    let cases = ["raise with replacement", "taken over alive", "sealed before", "adopted while active", "fence won"];
    check(
        "2 writers that adopt, 2 collectors, 2 generations, undo, reader, from a list that is out",
        bounds,
        prefix,
        5_000_000,
        false,
        &cases,
    );
}

/// Deep histories in a world that holds everything at once.
#[test]
fn walks_through_the_largest_world() {
    let bounds = Bounds {
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
        crash_events: true,
    };
    let protocol = Protocol { rules: Rules::PROTOCOL, bounds, prefix: vec![] };
    let walked = walk(&protocol, 1, 30_000_000, true);
    let name = "3 writers, 2 collectors, 3 generations, 3 copies, 2 chunks and all the rest, walks";
    println!("{name}: {} steps, depth {}", walked.steps, walked.depth);
    assert_eq!(walked.lost, None);
    is_told(name, "holds", &format!("{} M steps", walked.steps / 1_000_000), &walked.depth.to_string());
    let missing: Vec<_> = CASES.iter().filter(|(_, event)| !walked.events.contains_key(event)).collect();
    assert!(missing.is_empty(), "{missing:?} were not reached");
}

/// Steps that are left out, a world that shows why they are needed, and the length of the shortest history in it that
/// breaks something.
struct Mutant {
    without: &'static [&'static str],
    bounds: Bounds,
    prefix: Vec<Action>,
    steps: usize,
}

/// A collector waits for generation 1 to be heard of, while the other has sealed it: pack 1 was rescued for snapshot 2.
/// Generation 2 has copied and swept pack 0. Then snapshot 2 becomes Final.
fn late_seal() -> Vec<Action> {
    use Action::*;
    let open = |s| [OpenSession { s, parent: NONE, adopts: NONE }, ListGenerations(s), PutSeen(s)];
    let lists = |j| [ListForgets(j), ListSessions(j), ListSnapshots(j)];
    let sessions = [&open(1)[..], &[UploadPack(1, 0)], &open(2), &[UseHit(2, 0, 1), GiveUp(1)]].concat();
    let first = [&[ListPacks(0)], &lists(1)[..], &[Publish(1), TakeOver(0), Commit(2), Wait(1)]].concat();
    let sealed = [&lists(1)[..], &[Seal(1), AskForget(0), Settle(0)]].concat();
    let second = [&[ListPacks(0)], &lists(0)[..], &[CopyPack(0, 0), Publish(0), Wait(1)]].concat();
    let swept = [&lists(1)[..], &[Seal(1), Sweep(0), AskForget(2), Settle(2)]].concat();
    [sessions, first, sealed, second, swept].concat()
}

fn mutants() -> Vec<Mutant> {
    let two_generations = Bounds { generations: 2, copies: 1, ..ONE };
    let with_reader = Bounds { reader: true, ..ONE };
    let no_writer = Bounds { writers: 0, collectors: 2, generations: 2, copies: 2, second: Second::Shares, ..ONE };
    let mutant = |without, bounds, steps| Mutant { without, bounds, prefix: vec![], steps };
    vec![
        mutant(&["generations_after_open"], ONE, 18),
        mutant(&["parent_checked_after_open"], ONE, 18),
        mutant(&["refused_parent_ends_session"], Bounds { second: Second::Apart, ..ONE }, 22),
        mutant(&["all_lists_bar"], two_generations, 23),
        mutant(&["bars_before_seen"], ONE, 20),
        mutant(&["hits_are_barred"], ONE, 18),
        mutant(&["commit_after_packs"], ONE, 18),
        mutant(&["rows_after_packs"], TWO, 19),
        mutant(&["nodes_of_parent_only"], ONE, 20),
        mutant(&["raise_replaces"], ONE, 20),
        mutant(&["commit_creates"], ONE, 19),
        mutant(&["adoption_fences"], TWO, 7),
        mutant(&["adoption_takes_packs_only"], TWO, 24),
        mutant(&["settled_once"], Bounds { undo: true, ..ONE }, 14),
        mutant(&["packs_before_sessions", "unknown_sessions_keep_packs"], ONE, 21),
        mutant(&["forgets_before_sessions"], two_generations, 34),
        mutant(&["swept_is_absent"], two_generations, 30),
        mutant(&["parents_are_roots"], two_generations, 34),
        mutant(&["readers_are_roots"], with_reader, 15),
        mutant(&["stale_hints_by_id"], two_generations, 30),
        mutant(&["open_sessions_keep_packs"], ONE, 21),
        mutant(&["publish_after_copies"], Bounds { copies: 1, ..ONE }, 19),
        mutant(&["one_chain"], no_writer, 25),
        mutant(&["silent_are_fenced"], ONE, 18),
        mutant(&["unseen_are_waited_for"], ONE, 18),
        mutant(&["fence_creates"], ONE, 13),
        mutant(&["second_mark"], ONE, 15),
        mutant(&["second_mark_parents"], TWO, 26),
        Mutant { without: &["sealed_once"], bounds: LATE, prefix: late_seal(), steps: 54 },
        mutant(&["parents_keep_records"], two_generations, 34),
        mutant(&["delete_set_is_swept"], ONE, 18),
        mutant(&["fences_stay"], ONE, 20),
        mutant(&["reader_checks"], with_reader, 15),
        mutant(&["cleared_reader_checks"], with_reader, 16),
    ]
}

/// Steps that are kept although the model does without each of them; the page says why.
const SECOND_LINES: &[&str] = &[
    "asked_parent_is_refused",
    "raise_reads_all_lists",
    "packs_before_sessions",
    "unknown_sessions_keep_packs",
    "adopted_sessions_keep_packs",
    "last_copy_is_rescued",
    "only_final_is_passed_over",
];

#[test]
fn each_step_is_needed() {
    for Mutant { without: names, bounds, prefix, steps } in mutants() {
        let before = prefix.len();
        let found = without(names, bounds, prefix);
        let Some((what, history)) = found.broken else { panic!("nothing is broken without {names:?}") };
        assert_eq!(before + history.len(), steps, "without {names:?}: {what}");
        assert_eq!(what == TWICE, names == ["adoption_fences"], "without {names:?}: {what}");
    }
}

#[test]
fn second_lines_are_second_lines() {
    for name in SECOND_LINES {
        let bounds = Bounds { generations: 2, copies: 1, ..ONE };
        let one = without(&[name], bounds, vec![]);
        assert!(one.complete, "without {name}: {:?}", one.broken);
        let two = without(&[name], TWO, vec![]);
        assert!(two.complete, "without {name}: {:?}", two.broken);
    }
}

#[test]
fn every_step_is_tried_and_the_page_tells_the_outcome() {
    let mutants = mutants();
    let alone: BTreeSet<_> = mutants.iter().filter(|m| m.without.len() == 1).map(|m| m.without[0]).collect();
    for name in Rules::NAMES {
        assert_ne!(alone.contains(name), SECOND_LINES.contains(name), "{name} is in one of the two tables");
    }
    for name in SECOND_LINES {
        assert!(
            RESULTS.contains(&format!("| `{name}` | none |")),
            "the page does not say that {name} is a second line"
        );
    }
    for Mutant { without: names, steps, .. } in mutants {
        let row = format!("| `{}` | {steps} |", names.join("` + `"));
        assert!(RESULTS.contains(&row), "the page lacks {row:?}");
    }
}

/// What a test looks at it compares with the page; and what the page tells a test looks at.
#[test]
fn each_world_of_the_page_is_looked_at() {
    let tests = include_str!("protocol.rs");
    let worlds = worlds();
    assert!(worlds.len() > 10, "{worlds:?}");
    for row in worlds {
        let world = row.split('|').nth(1).unwrap().trim();
        assert!(tests.contains(&format!("\"{world}\"")), "no test looks at {world:?}");
    }
}

#[test]
fn a_late_seal_changes_nothing() {
    check(
        "2 collectors, 3 generations, from the history of a late seal",
        LATE,
        late_seal(),
        usize::MAX,
        true,
        &["sealed before"],
    );
}

#[test]
fn create_if_absent_tells_the_truth() {
    let right = create::Rules::PROTOCOL;
    let checker = right.checker().threads(1).spawn_bfs().join();
    let name = "create-if-absent, 3 clients, 2 requests each";
    println!("{name}: {} states, depth {}", spaced(checker.unique_state_count()), checker.max_depth());
    is_told(name, "holds, complete", &spaced(checker.unique_state_count()), &checker.max_depth().to_string());
    assert_eq!(checker.discovery(create::TRUE).map(stateright::Path::into_actions), None);
    checker.assert_properties();
    let wrong = [
        ("conflict_is_compared", create::Rules { conflict_is_compared: false, ..right }),
        ("unclear_is_read", create::Rules { unclear_is_read: false, ..right }),
        ("absent_decides_nothing", create::Rules { absent_decides_nothing: false, ..right }),
        ("same_bytes_again", create::Rules { same_bytes_again: false, ..right }),
        ("giving_up_fences", create::Rules { giving_up_fences: false, ..right }),
    ];
    for (name, rules) in wrong {
        let checker = rules.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let history = checker.discovery(create::TRUE).unwrap_or_else(|| panic!("nothing is broken without {name}"));
        println!("create-if-absent without {name}: broken in {} steps", history.into_actions().len());
        assert!(RESULTS.contains(&format!("`{name}`")), "the page does not tell of {name}");
    }
}

/// Pins beside forgets: all of it; and each step of F1, F3 and F5 is needed, or the page says that it is not.
#[test]
fn what_is_pinned_does_not_go() {
    let right = pins::Rules::PROTOCOL;
    let checker = right.checker().threads(1).spawn_bfs().join();
    let name = "pins beside forgets of one snapshot, 2 forget, 2 pin, one each settles, takes back, unpins";
    println!("{name}: {} states, depth {}", spaced(checker.unique_state_count()), checker.max_depth());
    for always in pins::ALWAYS {
        assert_eq!(checker.discovery(always).map(stateright::Path::into_actions), None, "{always}");
    }
    checker.assert_properties();
    is_told(name, "holds, complete", &spaced(checker.unique_state_count()), &checker.max_depth().to_string());
    let needed = [
        ("forget_looks_again", pins::Rules { forget_looks_again: false, ..right }),
        ("settle_looks", pins::Rules { settle_looks: false, ..right }),
        ("pin_looks_again", pins::Rules { pin_looks_again: false, ..right }),
        ("too_late_is_told", pins::Rules { too_late_is_told: false, ..right }),
        ("pins_settled_once", pins::Rules { settled_once: false, ..right }),
    ];
    let second = [
        ("forget_looks_first", pins::Rules { forget_looks_first: false, ..right }),
        ("pin_looks_first", pins::Rules { pin_looks_first: false, ..right }),
        ("pin_sees_its_end", pins::Rules { pin_sees_its_end: false, ..right }),
    ];
    for (is_needed, (name, rules)) in
        needed.map(|rule| (true, rule)).into_iter().chain(second.map(|rule| (false, rule)))
    {
        let checker = rules.checker().threads(1).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let history = pins::ALWAYS.iter().find_map(|always| Some((always, checker.discovery(always)?)));
        let history = history.map(|(always, history)| (always, history.into_actions()));
        println!("pins without {name}: {history:?}");
        assert_eq!(history.is_some(), is_needed, "without {name}");
        let steps = history.map_or("none".into(), |(_, history)| history.len().to_string());
        assert!(RESULTS.contains(&format!("| `{name}` | {steps} |")), "the page does not tell of {name}: {steps}");
    }
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../repo/src");
    for (file, name) in pins::FUNCTIONS {
        let text = std::fs::read_to_string(source.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {name}(")), "there is no function {name} in {file} any more");
    }
}

/// The model is of this code: each of its actions names the function that performs it, and there is such a function.
#[test]
fn each_action_is_a_function_of_the_code() {
    let writing = Bounds { give_up: true, reader: true, fence_left: true, ..TWO };
    let collecting = Bounds { generations: 2, copies: 2, undo: true, collectors: 2, writers: 1, ..ONE };
    let alone = Bounds { writers: 0, generations: 2, ..ONE };
    let (mut functions, mut actions) = (BTreeSet::new(), Vec::new());
    // Not all of these worlds: walks through them that always take another way.
    let mut random: u64 = 1;
    for walk in 0..2000 {
        let bounds = [writing, collecting, alone][walk % 3];
        let protocol = Protocol { rules: Rules::PROTOCOL, bounds, prefix: vec![] };
        let mut state = protocol.init_states().remove(0);
        loop {
            actions.clear();
            protocol.actions(&state, &mut actions);
            functions.extend(actions.iter().filter_map(|action| action.function()));
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Else hardly any collector gets to its end.
            if (random >> 60) < [0, 6, 12][walk / 3 % 3]
                && actions.iter().any(|action| matches!(action.actor(), 4 | 5 | 7))
            {
                actions.retain(|action| matches!(action.actor(), 4 | 5 | 7) && !matches!(action, Action::Crash(_)));
            }
            let Some(action) = actions.get((random >> 33) as usize % actions.len().max(1)) else { break };
            let Some(next) = protocol.next_state(&state, *action) else { break };
            state = next;
        }
    }
    assert!(functions.len() >= 29, "only {functions:?} came up");
    // All that the model names, so that none goes unlooked at, also of what these walks do not come to.
    let actions = include_str!("../src/protocol/actions.rs");
    let named: BTreeSet<(&str, &str)> = actions
        .lines()
        .filter_map(|line| line.split_once("=> (\"")?.1.strip_suffix("\"),")?.split_once("\", \""))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    assert!(functions.is_subset(&named), "the model names others: {functions:?}");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../repo/src");
    for (file, name) in named {
        let text = std::fs::read_to_string(source.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(text.contains(&format!("fn {name}(")), "there is no function {name} in {file} any more");
        let is_named = PAGE.contains(&format!("`{name}`")) || PAGE.contains(&format!("::{name}`"));
        assert!(is_named, "{name} of {file} performs an action, and the page does not name it");
    }
}

/// Each pair of operations has a cell, and each letter and note in one is told of.
#[test]
fn each_pair_of_operations_has_its_reasons() {
    let (_, part) = PAGE.split_once("## Operations x operations\n").unwrap();
    let (text, table) = part.split_once("\n\n|").unwrap();
    let (table, notes) = table.split_once("\n\n").unwrap();
    let letters: BTreeSet<&str> = text.split("**").skip(1).step_by(2).collect();
    let is_told = |reason: &str| letters.contains(reason) || notes.contains(&format!("{reason} "));
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let operations = &rows[0][1..];
    assert_eq!(operations.len(), 16, "{operations:?}");
    assert_eq!(rows.len(), 2 + operations.len());
    for (n, row) in rows[2..].iter().enumerate() {
        assert_eq!(row[0].trim_end_matches(" ⁸"), operations[n]);
        for (other, cell) in operations.iter().zip(&row[1..]).take(n + 1) {
            assert!(!cell.is_empty(), "{} beside {other} has no reason", row[0]);
            let unknown: Vec<&str> = cell.split(' ').filter(|reason| !is_told(reason)).collect();
            assert!(unknown.is_empty(), "{} beside {other}: {unknown:?} is not told of", row[0]);
        }
    }
}

/// What stands in backticks behind the number of a rule is the function that does it. And what fences, fences.
#[test]
fn each_name_behind_a_rule_is_a_function_of_the_code() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../repo/src");
    let (mut folders, mut text) = (vec![source.clone()], String::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => text.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let parts: Vec<&str> = PAGE.split("**").collect();
    let is_rule = |part: &str| {
        part.len() < 4
            && part.starts_with(|c: char| c.is_ascii_uppercase())
            && part.ends_with(|c: char| c.is_ascii_digit())
    };
    let names: Vec<(&str, &str)> = parts
        .windows(2)
        .filter(|pair| is_rule(pair[0]))
        .filter_map(|pair| Some((pair[0], pair[1].strip_prefix(" `")?.split_once('`')?.0)))
        // Not a folder of the storage.
        .filter(|(_, name)| !name.contains('/'))
        .collect();
    assert!(names.len() > 25, "{names:?}");
    for (rule, name) in names {
        let function = name.rsplit("::").next().unwrap();
        assert!(text.contains(&format!("fn {function}(")), "{rule}: there is no function {name}");
    }
    let session = std::fs::read_to_string(source.join("session/others.rs")).unwrap();
    let adopts = session.split("fn fence_dead(").nth(1).unwrap().split("\n}").next().unwrap();
    assert!(adopts.contains(" fence("), "A2 fences nobody any more");
}

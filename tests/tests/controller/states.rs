//! The tables of states in `controller/docs/states.md` are what the code does.

use crate::{local_scenes, scenes};
use wherry_api::Time;
use wherry_controller::reconcile::{Agent, Host, Step};
use wherry_tests::cluster::{World, WorldView};

const UPLOAD_ROWS: [&str; 18] = [
    "- seen for the first time",
    "U0 finalizer",
    "U1 Accepted and plan",
    "U2 VSC Retain and label",
    "U3 VSC' made",
    "U4 VS' made",
    "U5 VS deleted",
    "U6 VSC deleted",
    "U7 PVC' made",
    "U8 PV' Delete and label",
    "U9 pod made",
    "U10 Prepared",
    "U11 InProgress",
    "U13 Completed",
    "U14 pod deleted",
    "U15 PVC' deleted",
    "U16 VS' deleted",
    "U17 finalizer off",
];

const DOWNLOAD_ROWS: [&str; 13] = [
    "D0 New",
    "D1 Accepted, plan, finalizer",
    "D2 PVC' made",
    "D3 pod made",
    "D4 Prepared",
    "D5 InProgress",
    "D6 data-done",
    "D7 PV' Retain and marks",
    "D8 pod deleted",
    "D9 PVC' deleted",
    "D10 PV' given to the target",
    "D11 PV' policy back, marks off",
    "D12 Completed",
];

/// What differs where its base is kept, and that of the backup before is there.
const BASE_ROWS: [&str; 4] =
    ["U15 PVC' deleted", "VS' marked as base", "VS of the base before deleted", "U17 finalizer off"];

/// Of a local volume.
const LOCAL_ROWS: [&str; 13] = [
    "- seen for the first time",
    "finalizer",
    "Accepted and plan",
    "PVC' made",
    "PV' made",
    "pod made",
    "Prepared",
    "InProgress",
    "Completed",
    "pod deleted",
    "PVC' deleted",
    "PV' deleted",
    "finalizer off",
];

const EVENTS: [&str; 7] = [
    "goes on",
    "cancel",
    "cancel, silent agent",
    "31 minutes later",
    "5 hours later, silent agent",
    "node lost",
    "source or target gone",
];

fn short(step: &Step) -> String {
    match step {
        Step::Wait { .. } => "wait".to_owned(),
        step => step.name(),
    }
}

/// What is done in the state of a view, when one more thing happens.
fn happened(view: &mut WorldView, event: &str) {
    let late = |now: Time| Time(now.0 - 3600);
    let lost = |now: Time| Host { gone: false, not_ready_since: Some(late(now)), agent: Agent::Silent };
    match view {
        WorldView::Upload(view) => match event {
            "cancel" => (view.cr.spec.cancel, view.cancel_since) = (true, Some(view.now)),
            "cancel, silent agent" => (view.cr.spec.cancel, view.cancel_since) = (true, Some(late(view.now))),
            "31 minutes later" => view.now = Time(view.now.0 + 31 * 60),
            "5 hours later, silent agent" => {
                (view.now, view.host.agent) = (Time(view.now.0 + 5 * 3600), Agent::Silent);
            }
            "node lost" => view.host = lost(view.now),
            "source or target gone" => (view.first, view.source, view.source_volume) = (None, None, None),
            _ => {}
        },
        WorldView::Download(view) => match event {
            "cancel" => (view.cr.spec.cancel, view.cancel_since) = (true, Some(view.now)),
            "cancel, silent agent" => (view.cr.spec.cancel, view.cancel_since) = (true, Some(late(view.now))),
            "31 minutes later" => view.now = Time(view.now.0 + 31 * 60),
            "5 hours later, silent agent" => {
                (view.now, view.host.agent) = (Time(view.now.0 + 5 * 3600), Agent::Silent);
            }
            "node lost" => view.host = lost(view.now),
            "source or target gone" => view.target = None,
            _ => {}
        },
    }
}

fn table(rows: &[&str], first: usize, world: impl Fn() -> World) -> String {
    let mut text = format!("| last write | {} |\n|---|{}\n", EVENTS.join(" | "), "---|".repeat(EVENTS.len()));
    for (writes, row) in rows.iter().enumerate() {
        let world = world().run_to(first + writes);
        let cells = EVENTS.map(|event| {
            let mut view = world.look().unwrap();
            happened(&mut view, event);
            short(&view.next_step())
        });
        text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
    }
    text
}

#[test]
fn the_tables_in_the_documents_are_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../controller/docs/states.md");
    let document = std::fs::read_to_string(path).unwrap();
    let of = |download: bool| move || World::new(scenes(download)[0]);
    let tables = [
        table(&UPLOAD_ROWS, 0, of(false)),
        table(&BASE_ROWS, 15, || World::new(scenes(false)[0]).keeping("always")),
        table(&LOCAL_ROWS, 0, || World::new(local_scenes()[0])),
        table(&DOWNLOAD_ROWS, 0, of(true)),
    ];
    let missing: Vec<&str> = tables.iter().map(String::as_str).filter(|table| !document.contains(*table)).collect();
    assert!(missing.is_empty(), "controller/docs/states.md lacks what the code does:\n\n{}", missing.join("\n"));
}

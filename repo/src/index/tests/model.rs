//! Random histories against a plain map, with closing and crashes in between.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::{fs, io};

/// Chunks that packs draw from: few, so that most stand in several packs.
const CHUNKS: u64 = 24;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// Inserts the pack of this number, maybe again.
    Insert(u8),
    Cover(u8),
    Flush,
    Reopen,
    /// All memory is lost: a copy of the files is opened instead.
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0u8..20).prop_map(Op::Insert),
        4 => (0u8..6).prop_map(Op::Cover),
        2 => Just(Op::Flush),
        1 => Just(Op::Reopen),
        2 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..40)
}

fn rows_of(n: u8) -> Vec<Row> {
    let n = u64::from(n);
    rows(n as u32, (0..1 + n % 7).map(|i| (n * 5 + i * 3) % CHUNKS))
}

#[derive(Debug, Default, PartialEq)]
struct State {
    packs: BTreeSet<u8>,
    covered: BTreeSet<u8>,
    chunks: BTreeMap<u64, Vec<Location>>,
}

/// What a history must have led to.
fn expected(history: &[Op]) -> State {
    let mut order = Vec::new();
    let mut state = State::default();
    for op in history {
        match op {
            Op::Insert(n) if state.packs.insert(*n) => order.push(*n),
            Op::Cover(n) => drop(state.covered.insert(*n)),
            _ => {}
        }
    }
    for chunk in 0..CHUNKS {
        let copies = order.iter().rev().filter_map(|n| {
            let row = rows_of(*n).into_iter().rfind(|row| row.id == id(chunk))?;
            Some(location(u32::from(*n), &row))
        });
        state.chunks.insert(chunk, copies.take(super::super::row::MAX_COPIES).collect());
    }
    state
}

fn actual(index: &ChunkIndex) -> State {
    State {
        packs: (0..20).filter(|n| index.covered_pack(&pack(u32::from(*n))).expect("covered")).collect(),
        covered: (0..6).filter(|n| index.is_covered(&format!("idx/{n}")).expect("covered")).collect(),
        chunks: (0..CHUNKS).map(|chunk| (chunk, index.lookup(&id(chunk)).expect("lookup"))).collect(),
    }
}

/// A copy of the database as a crash would leave it, in a folder of its own. A crash is one instant; a copy that a
/// background job ran into is made again.
fn copy(from: &Path, to: &Path) {
    let files = || -> BTreeMap<OsString, u64> {
        let entries = fs::read_dir(database(from)).expect("readdir").map(|entry| entry.expect("entry"));
        let named = entries.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.len())));
        // Opening and closing LOCK would let go of the lock of this process.
        named.filter(|(name, _)| name != "LOCK").collect()
    };
    loop {
        fs::create_dir_all(database(to)).expect("mkdir");
        let before = files();
        let copied = before.keys().all(|name| {
            let copied = fs::copy(database(from).join(name), database(to).join(name));
            assert!(!copied.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::NotFound), "{copied:?}");
            copied.is_ok()
        });
        if copied && files() == before {
            return;
        }
        fs::remove_dir_all(database(to)).expect("remove");
    }
}

fn run(ops: &[Op]) {
    let root = tempfile::tempdir().expect("tempdir");
    let mut dir = root.path().join("0");
    let mut index = open(&dir).0;
    let mut history: Vec<Op> = Vec::new();
    let mut flushed = 0;
    for (step, op) in ops.iter().enumerate() {
        match op {
            Op::Insert(n) => {
                let n32 = u32::from(*n);
                index.insert(&pack(n32), epoch(n32), &rows_of(*n)).expect("insert");
            }
            Op::Cover(n) => index.cover(&format!("idx/{n}")).expect("cover"),
            Op::Flush => index.flush().expect("flush"),
            Op::Reopen => {
                drop(index);
                let (again, opened) = open(&dir);
                assert_eq!(opened, Opened::Reused);
                index = again;
            }
            Op::Crash => {
                let next = root.path().join((step + 1).to_string());
                copy(&dir, &next);
                std::mem::forget(index);
                dir = next;
                let (again, opened) = open(&dir);
                assert_eq!(opened, Opened::Reused);
                index = again;
                let found = actual(&index);
                let survived = (flushed..=history.len()).find(|n| expected(&history[..*n]) == found);
                history.truncate(survived.expect("after a crash it is as it was at some moment since the last flush"));
            }
        }
        match op {
            Op::Insert(_) | Op::Cover(_) => history.push(*op),
            Op::Flush | Op::Reopen | Op::Crash => flushed = history.len(),
        }
        assert_eq!(actual(&index), expected(&history));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn is_a_map(ops in ops()) {
        run(&ops);
    }
}

#[test]
fn rows_covered_and_numbers_survive_together() {
    use Op::{Cover, Crash, Flush, Insert};
    run(&[Insert(1), Cover(1), Flush, Insert(2), Cover(2), Crash, Insert(3), Cover(2), Crash, Insert(3), Flush, Crash]);
}

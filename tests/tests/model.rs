//! Random histories on the repository and on a reference in memory: see `tests/src/model/`.
//!
//! History number n is always the same one. One that fails is shrunk and printed.
//! `WHERRY_MODEL_FIRST=n WHERRY_MODEL_COUNT=m` plays m of them from n on, `WHERRY_MODEL_SHRINK=0` shrinks nothing.

use parking_lot::Mutex;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wherry_tests::model::{CASES, Cases, History, histories, play};

/// Histories of an ordinary run.
const COUNT: u64 = 900;
/// Operations of the longest.
const MOST: usize = 90;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// The history of this number; the shrunk one when it fails.
fn run(n: u64, told: &Mutex<(Cases, usize)>) -> Result<(), TestError<History>> {
    let max_shrink_iters = number("WHERRY_MODEL_SHRINK", 1500) as u32;
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    runner.run(&histories(MOST), |history| {
        let cases = play(&history);
        let mut told = told.lock();
        told.0.join(&cases);
        told.1 += history.len();
        Ok::<(), TestCaseError>(())
    })
}

#[test]
fn the_repository_is_what_the_reference_is() {
    let (first, count) = (number("WHERRY_MODEL_FIRST", 0), number("WHERRY_MODEL_COUNT", COUNT));
    let told = Mutex::default();
    // Shrinking a history that fails panics again and again; what it ends with is told below.
    let hook = std::panic::take_hook();
    let places = Arc::new(Mutex::new(HashMap::new()));
    let last = places.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        last.lock().insert(std::thread::current().id(), place);
    }));
    let (next, failed) = (AtomicU64::new(first), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= first + count || !failed.lock().is_empty() {
                return;
            }
            if let Err(e) = run(n, &told) {
                let place = places.lock().remove(&std::thread::current().id()).unwrap_or_default();
                failed.lock().insert(n, (e, place));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().pop_first();
    std::panic::set_hook(hook);
    match failed {
        Some((n, (TestError::Fail(why, history), place))) => {
            panic!("history {n} (WHERRY_MODEL_FIRST={n} WHERRY_MODEL_COUNT=1): {why}\nat {place}, by\n{history}")
        }
        Some((n, (e, _))) => panic!("history {n}: {e}"),
        None => {}
    }
    let (cases, steps) = told.into_inner();
    println!("{count} histories from {first} on, {steps} operations");
    for case in CASES {
        println!("{:>7}  {case}", cases.count(case));
    }
    // A few histories do not reach everything.
    if count >= COUNT {
        let few: Vec<&str> = CASES.into_iter().filter(|case| cases.count(case) < 5).collect();
        assert!(few.is_empty(), "hardly reached: {few:?}");
    }
}

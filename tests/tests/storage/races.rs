//! Two processes create the same keys at the same time. The second and third process are this test binary again.

use super::{Storage, key, large_rounds, server};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use wherry_repo::Result;
use wherry_repo::storage::conformance::{body_of, race};
use wherry_repo::storage::{Options, open};

const URL: &str = "WHERRY_TEST_RACE_URL";
const FIRST: &str = "WHERRY_TEST_RACE_FIRST";
/// Of each process.
const RACERS: u32 = 8;
const SMALL: usize = 100;
const LARGE: usize = 32 << 20;

/// Rounds under way at once: the S3 server lets losers wait for seconds.
const SIDE_BY_SIDE: u32 = 50;

/// Not a test: what a racing process does. Reads `<first round> <rounds> <length>` lines, races in all of these rounds at
/// once, writes who of its racers won each.
#[test]
fn racing_process() {
    let (Ok(url), Ok(first)) = (std::env::var(URL), std::env::var(FIRST)) else { return };
    let first: u32 = first.parse().unwrap();
    let connections: Vec<Arc<dyn Storage>> = (0..2).map(|_| open(&url, &Options::default()).unwrap()).collect();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let numbers: Vec<u32> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [from, rounds, len] = numbers[..] else { panic!("{line:?}") };
        let run = |round| {
            let key = key(&format!("race/{round}"));
            race(&connections, &key, round, first..first + RACERS, len as usize).unwrap()
        };
        let winners: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let running: Vec<_> = (from..from + rounds).map(|round| scope.spawn(move || run(round))).collect();
            running.into_iter().map(|round| round.join().unwrap()).collect()
        });
        println!("winners {winners:?}");
    }
}

struct Racer {
    child: Child,
    orders: ChildStdin,
    results: Lines<BufReader<ChildStdout>>,
}

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Racer {
    fn start(url: &str, first: u32, variables: &[(&str, String)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "races::racing_process", "--nocapture"])
            .env(URL, url)
            .env(FIRST, first.to_string())
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let results = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, results }
    }

    fn order(&mut self, from: u32, rounds: u32, len: usize) {
        writeln!(self.orders, "{from} {rounds} {len}").unwrap();
    }

    fn winners(&mut self) -> Vec<Vec<u32>> {
        let line = self.results.find_map(|line| Some(line.unwrap().split_once("winners ")?.1.to_owned()));
        serde_json::from_str(&line.expect("the racing process ended early")).unwrap()
    }
}

fn two_processes(url: &str, storage: &dyn Storage, variables: &[(&str, String)], small: u32, large: u32) {
    let mut racers = [0, RACERS].map(|first| Racer::start(url, first, variables));
    let mut won = [0; 2];
    let small_ones = (0..small).step_by(SIDE_BY_SIDE as usize).map(|n| (n, SIDE_BY_SIDE.min(small - n), SMALL));
    for (from, rounds, len) in small_ones.chain((small..small + large).map(|n| (n, 1, LARGE))) {
        racers.iter_mut().for_each(|racer| racer.order(from, rounds, len));
        let [a, b] = racers.each_mut().map(Racer::winners);
        assert_eq!((a.len(), b.len()), (rounds as usize, rounds as usize));
        for (round, (a, b)) in (from..).zip(a.into_iter().zip(b)) {
            won[0] += a.len();
            won[1] += b.len();
            let winners = [a, b].concat();
            assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
            let key = key(&format!("race/{round}"));
            assert!(storage.get(&key).unwrap() == body_of(round, winners[0], len), "round {round}: not the winner's");
            storage.delete(&key).unwrap();
        }
    }
    println!("{url}: the processes won {won:?} of {} rounds", small + large);
    assert!(won.iter().all(|n| *n > 0), "they did not race: {won:?}");
}

#[test]
fn two_processes_race_local() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    two_processes(url, &*open(url, &Options::default())?, &[], 100, large_rounds(10));
    Ok(())
}

#[test]
fn two_processes_race_s3() {
    let server = server();
    two_processes("s3://race/a", &*server.open("race/a"), &server.variables(), 100, large_rounds(3));
}

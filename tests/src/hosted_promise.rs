//! What is promised in seconds: Canceled after a cancel, a volume let go of after whoever has it was told to go.

use super::{Agent, Hosted, Stand};
use serde_json::Value;
use std::time::{Duration, Instant};

/// So many seconds are promised.
const PROMISED: u32 = 10;
/// So many turns of one who waits are a second, where nothing else runs.
const A_SECOND: u32 = 50;

/// How many times slower than that this machine may be: `WHERRY_TEST_SLOW`, for one that is busy with much else; else 1.
fn slow() -> u32 {
    std::env::var("WHERRY_TEST_SLOW").map_or(1, |n| n.parse().expect("WHERRY_TEST_SLOW is a whole number"))
}

impl Stand {
    /// Waits until that holds of the CR, which is promised within ten seconds, and gives it.
    ///
    /// Turns are counted, not seconds: in each this process asks the same API server for the same CR that the agent has to write, and
    /// sleeps for the rest of the fiftieth part of a second. On an idle machine so many turns are ten seconds. On a busy one a turn
    /// takes longer, as does what the agent has to do, so that being busy is no failure.
    #[track_caller]
    pub fn promised(&self, hosted: &Hosted, agent: &Agent, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        for turn in 0..PROMISED * A_SECOND * slow() {
            let end = Instant::now() + Duration::from_secs(1) / A_SECOND;
            let cr = self.get(&hosted.key);
            if holds(&cr) {
                eprintln!("{what}: after {turn} turns, {} ms", begin.elapsed().as_millis());
                return cr;
            }
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
        let (seconds, status) = (begin.elapsed().as_secs(), self.get(&hosted.key)["status"].clone());
        panic!("{what}: not so after {seconds} s, and {PROMISED} s are promised: {status:#}\n{}", agent.log());
    }

    /// Waits until the CR is Canceled, and gives it.
    #[track_caller]
    pub fn canceled(&self, hosted: &Hosted, agent: &Agent) -> Value {
        self.promised(hosted, agent, &format!("{} is Canceled", hosted.key.name), |cr| {
            cr["status"]["phase"] == "Canceled"
        })
    }
}

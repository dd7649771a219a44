//! What every command is given.

use crate::budget::Budget;
use crate::cli::LogFormat;
use crate::config::Settings;
use crate::credential::Credential;
use crate::output::Output;
use crate::progress::{Progress, Screen};
use crate::signals::Cancel;
use crate::telemetry::{self, RunId};
use wherry_repo::{Result, System};

/// The settings of this run and the components made from them.
#[derive(Debug)]
pub struct Context {
    /// What was asked for, with nothing left open.
    pub settings: Settings,
    /// The shares of memory and the numbers of threads.
    pub budget: Budget,
    /// Asks work to end.
    pub cancel: Cancel,
    /// Where results go.
    pub output: Output,
    /// This run's id, in each log line and in the snapshot it makes.
    pub run: RunId,
    /// Time and randomness.
    pub system: System,
    screen: Screen,
}

impl Context {
    /// Makes the components and starts the log.
    pub fn new(settings: Settings, cancel: Cancel) -> Result<Self> {
        let system = System::default();
        let run = RunId::draw(&system)?;
        // A program reads JSON log lines: it has no use for a bar between them.
        let screen = Screen::new(settings.verbosity < 0, settings.log_format == LogFormat::Json);
        telemetry::start(settings.log_format, settings.verbosity, run, system, screen.clone());
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            budget: Budget::of_machine(settings.memory),
            cancel,
            output: Output::new(settings.json),
            run,
            system,
            screen,
            settings,
        })
    }

    /// Begins to show a piece of work: a word for it, and its length in bytes, where it is known.
    pub fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        self.screen.progress(what, total)
    }

    /// The password or key that opens the repository.
    pub fn credential(&self) -> Result<Credential> {
        self.settings.credential.read(&format!("Password of {}: ", self.settings.repo()?))
    }
}

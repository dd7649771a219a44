//! The `wherry` executable: settings, commands, and the pipelines between devices and the repository.
#![forbid(unsafe_code)]

mod agent;
pub mod backup;
pub mod budget;
pub mod cli;
mod commands;
pub mod config;
pub mod context;
pub mod credential;
#[doc(hidden)]
pub mod decoders;
pub mod exit;
mod jobs;
pub mod mount;
pub mod output;
pub mod own;
pub mod progress;
pub mod readers;
pub mod restore;
pub mod retention;
pub mod select;
pub mod signals;
mod storage;
pub mod telemetry;
mod threads;
mod throttle;
pub mod tree;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind as Wrong};
use config::{Environment, Settings};
use context::Context;
use exit::Exit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signals::Cancel;
use std::ffi::OsString;
use std::io;

/// Runs one command line to its end. All that the process says has been written when this returns.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    exit::end_on_panic();
    let cli = match cli::Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return explain(&e),
    };
    // Before anything else is looked at: it needs nothing, and is not to fail by a file that is not its own.
    if matches!(cli.command, cli::Command::Hold) {
        return hold();
    }
    let cancel = match Cancel::listen() {
        Ok(cancel) => cancel,
        Err(e) => return end(&anyhow::Error::new(e).context("listening to signals"), &Cancel::default()),
    };
    raise_descriptors();
    match resolve_and_run(cli, &cancel) {
        Ok(Exit::Done) if output::is_unwritten() => Exit::Failed,
        Ok(exit) => exit,
        Err(error) => end(&error, &cancel),
    }
}

/// Waits for SIGTERM or SIGINT, and opens nothing: what it runs for is what the kubelet does beside it.
fn hold() -> Exit {
    match signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT]) {
        Ok(mut signals) => {
            signals.forever().next();
            Exit::Done
        }
        Err(e) => end(&anyhow::Error::new(e).context("listening to signals"), &Cancel::default()),
    }
}

/// Descriptors that a run may need: directories of a walk, files of its workers, the index, connections.
const DESCRIPTORS: u64 = 4096;

/// Raises the soft limit of descriptors, where the hard one allows: shells give 1024 for the sake of select(2), which is
/// not used here. Where it stays lower, less is done at once.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

fn resolve_and_run(cli: cli::Cli, cancel: &Cancel) -> anyhow::Result<Exit> {
    let (settings, command): (Settings, _) = config::resolve(cli, &Environment::of_process())?;
    let context = Context::new(settings, cancel.clone())?;
    tracing::debug!(version = cli::VERSION, pid = std::process::id(), "started");
    commands::run(&context, command)
}

/// Says what ended the command, in one line, and gives the exit code.
fn end(error: &anyhow::Error, cancel: &Cancel) -> Exit {
    match exit::of_error(error, cancel) {
        Some(code) => {
            let advice = exit::advice(error).map_or_else(String::new, |advice| format!("; {advice}"));
            exit::complain(&format!("{}{advice}", exit::one_line(error)));
            code
        }
        None => Exit::Done,
    }
}

/// `--help` and `--version` go to standard output; what was typed wrongly is said in one line.
fn explain(error: &clap::Error) -> Exit {
    match error.kind() {
        Wrong::DisplayHelp | Wrong::DisplayVersion => {
            match output::Output::new(false).bytes(error.render().to_string().as_bytes()) {
                Ok(()) => Exit::Done,
                Err(e) => end(&e, &Cancel::default()),
            }
        }
        Wrong::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = io::Write::write_all(&mut io::stderr().lock(), error.render().to_string().as_bytes());
            Exit::Usage
        }
        _ => {
            exit::complain(&usage_line(error));
            Exit::Usage
        }
    }
}

/// clap's paragraphs on one line, without its usage text, and with the help to ask for.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more information").next().unwrap_or_default().trim();
    // Its advice on values that begin with a dash makes another argument of them, and it gives it for misspelt flags as well.
    let (tips, paragraphs): (Vec<&str>, Vec<&str>) = said
        .trim_start_matches("error: ")
        .split("\n\n")
        .partition(|said| said.trim_start().starts_with("tip: to pass"));
    let mut paragraphs: Vec<_> = paragraphs.into_iter().map(exit::on_one_line).collect();
    if tips.iter().any(|tip| !tip.contains("pass '--")) {
        paragraphs.push("a value that begins with - is written as in --name=-x, and a path as ./-x".to_owned());
    }
    let command = match error.get(ContextKind::Usage) {
        Some(usage) => {
            let usage = usage.to_string();
            let words = usage.trim_start_matches("Usage: ").split_whitespace();
            words.take_while(|w| w.starts_with(|c: char| c.is_ascii_lowercase())).collect::<Vec<_>>().join(" ")
        }
        None => "wherry".to_owned(),
    };
    format!("{}; see {command} --help", paragraphs.join("; "))
}

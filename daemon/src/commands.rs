//! One file per command. Each takes its flags apart by name, does its work, and gives the exit code.

mod completions;
mod config;
mod man;

use crate::cli::{Command, ConfigCommand};
use crate::context::Context;
use crate::exit::Exit;

/// Runs a command.
pub(crate) fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Config(ConfigCommand::Check) => config::check(context),
        Command::Completions(args) => completions::run(context, args),
        Command::Man(args) => man::run(context, args),
        _ => Err(wherry_repo::Error::invalid("this command is not in this version").into()),
    }
}

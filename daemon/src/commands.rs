//! One file per command. Each takes its flags apart by name, does its work, and gives the exit code.

mod backup;
mod backup_tree;
mod bench;
mod cat;
mod check;
mod completions;
mod config;
mod copy;
mod diff;
mod diff_tree;
mod dump;
pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod gc;
pub(crate) mod heal;
mod init;
mod key;
mod ls;
mod man;
mod mount;
mod names;
mod opened;
mod pin;
mod probe;
mod repair;
mod restore;
mod restore_tree;
mod saved;
mod show;
mod snapshots;
mod stats;
mod unforget;
mod upgrade;

use crate::cli::{Command, ConfigCommand};
use crate::context::Context;
use crate::exit::Exit;

/// Runs a command.
pub(crate) fn run(context: &Context, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Init(args) => init::run(context, args),
        Command::Backup(args) => backup::run(context, args),
        Command::Restore(args) => restore::run(context, args),
        Command::Cat(args) => cat::run(context, args),
        Command::Ls(args) => ls::run(context, args),
        Command::Find(args) => find::run(context, args),
        Command::Dump(args) => dump::run(context, args),
        Command::Diff(args) => diff::run(context, args),
        Command::Check(args) => check::run(context, args),
        Command::Snapshots(args) => snapshots::run(context, args),
        Command::Show(args) => show::run(context, args),
        Command::Stats(args) => stats::run(context, args),
        Command::Mount(args) => mount::run(context, args),
        Command::Repair(args) => repair::run(context, args),
        Command::Forget(args) => forget::run(context, args),
        Command::Unforget(args) => unforget::run(context, args),
        Command::Pin(args) => pin::pin(context, &args.snaps),
        Command::Unpin(args) => pin::unpin(context, &args.snaps),
        Command::Copy(args) => copy::run(context, args),
        Command::Gc(args) => gc::run(context, args),
        Command::Key(command) => key::run(context, command),
        Command::Upgrade(args) => upgrade::run(context, args),
        Command::Probe(args) => probe::run(context, args),
        Command::Bench(args) => bench::run(context, args),
        Command::Config(ConfigCommand::Check) => config::check(context),
        Command::Completions(args) => completions::run(context, args),
        Command::Man(args) => man::run(context, args),
        Command::Agent(args) => crate::agent::run(context, args),
        Command::Job(command) => crate::jobs::run(context, command),
        // Ended before there were settings.
        Command::Hold => Ok(Exit::Done),
    }
}

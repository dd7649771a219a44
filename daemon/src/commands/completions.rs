//! `wherry completions`

use crate::cli::{Cli, CompletionsArgs};
use crate::context::Context;
use crate::exit::Exit;
use clap::CommandFactory;

pub(crate) fn run(context: &Context, args: CompletionsArgs) -> anyhow::Result<Exit> {
    let CompletionsArgs { shell } = args;
    // Into memory first: the generator panics where writing fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "wherry", &mut script);
    context.output.bytes(&script)?;
    Ok(Exit::Done)
}

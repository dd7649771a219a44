//! `wherry man`

use crate::cli::{Cli, ManArgs};
use crate::context::Context;
use crate::exit::Exit;
use anyhow::Context as _;
use clap::CommandFactory;

pub(crate) fn run(context: &Context, args: ManArgs) -> anyhow::Result<Exit> {
    let ManArgs { dir } = args;
    let write = || {
        std::fs::create_dir_all(&dir)?;
        clap_mangen::generate_to(Cli::command(), &dir)
    };
    write().with_context(|| format!("man pages cannot be written to {}", dir.display()))?;
    context.output.result(&serde_json::json!({ "dir": dir }), || format!("man pages written to {}", dir.display()))?;
    Ok(Exit::Done)
}

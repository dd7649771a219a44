//! The `wherry-controller` executable.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use wherry_api::settings::{ENTRIES, Settings};

/// The controller of wherry in a cluster. It is being built: this version checks settings and controls nothing yet.
#[derive(Debug, Parser)]
#[command(name = "wherry-controller", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the settings of ConfigMap `wherry`: key, default, unit, what it does.
    Settings,
    /// Says whether the `data` of a ConfigMap can be used: a JSON file, as from `kubectl get cm wherry -o json`.
    Check {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "wherry-controller: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::Settings => {
            for entry in ENTRIES {
                writeln!(out, "{:22} {:18} {:28} {}", entry.key, entry.default, entry.unit, entry.about)?;
            }
        }
        Command::Check { file } => {
            let data = data_of(file)?;
            if let Err(wrong) = Settings::parse(&data) {
                anyhow::bail!(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            }
            writeln!(out, "{} settings, all good", data.len())?;
        }
    }
    Ok(())
}

fn data_of(file: &std::path::Path) -> anyhow::Result<BTreeMap<String, String>> {
    use anyhow::Context;
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
    let object: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))?;
    let data = object.get("data").cloned().unwrap_or_else(|| serde_json::json!({}));
    serde_json::from_value(data).with_context(|| format!("data of {name} is no map of texts"))
}

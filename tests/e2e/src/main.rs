//! The `wherry-test-csi` executable: a CSI driver for tests on loop devices. README.md is about how it is used.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use wherry_e2e::driver::{Driver, Options};
use wherry_e2e::faults::{self, Faults};
use wherry_e2e::store::{Shelf, Snapshot, Table, Volume};
use wherry_e2e::{serve, tidy};

/// A CSI driver for tests: volumes on loop devices, which misbehave by switch.
#[derive(Debug, Parser)]
#[command(name = "wherry-test-csi", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the driver until SIGTERM or SIGINT.
    Serve(Serve),
    /// Lists what is stored: volumes, snapshots, and files of neither.
    Ls {
        #[command(flatten)]
        dir: Dir,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// The tables of hashes instead, also those of deleted snapshots.
        #[arg(long)]
        tables: bool,
    },
    /// Unmounts and detaches all that is over the files of the driver, which does not run any more.
    Tidy(Dir),
    /// Misbehaviour.
    #[command(subcommand)]
    Fault(Fault),
    /// Static volumes.
    #[command(subcommand)]
    Volume(StaticVolume),
}

#[derive(Debug, Args)]
struct Dir {
    /// Where the state of the driver is.
    #[arg(long)]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    dir: Dir,
    /// The name of the node.
    #[arg(long)]
    node: String,
    /// The name of the driver.
    #[arg(long, default_value = "csi.test.wherry.io")]
    name: String,
    /// Where it is called.
    #[arg(long, default_value = "/var/lib/kubelet/plugins/csi.test.wherry.io/csi.sock")]
    socket: PathBuf,
    /// Where the kubelet looks for plugins; without it, it is told nothing.
    #[arg(long)]
    registration_dir: Option<PathBuf>,
    /// What changed blocks are told in, bytes: a power of two.
    #[arg(long, default_value_t = 65536, value_parser = block_size)]
    block_size: u64,
    /// Tell changed blocks as ranges of any length.
    #[arg(long)]
    variable_blocks: bool,
}

#[derive(Debug, Subcommand)]
enum Fault {
    /// Sets faults.
    Set {
        #[command(flatten)]
        dir: Dir,
        /// NAME or NAME=N.
        #[arg(required = true)]
        faults: Vec<String>,
    },
    /// Takes faults back.
    Clear {
        #[command(flatten)]
        dir: Dir,
        /// Their names.
        #[arg(required_unless_present = "all")]
        faults: Vec<String>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Lists those that are set.
    List {
        #[command(flatten)]
        dir: Dir,
        /// All that there are, and what they do.
        #[arg(long)]
        known: bool,
    },
}

#[derive(Debug, Subcommand)]
enum StaticVolume {
    /// Makes an empty volume.
    Create {
        #[command(flatten)]
        dir: Dir,
        /// Its volumeHandle.
        #[arg(long)]
        id: String,
        /// Bytes.
        #[arg(long)]
        size: u64,
        /// For volumeMode Block.
        #[arg(long)]
        block: bool,
    },
    /// Removes a volume that is not in use.
    Delete {
        #[command(flatten)]
        dir: Dir,
        /// Its volumeHandle.
        #[arg(long)]
        id: String,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "wherry-test-csi: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => run_driver(args),
        Command::Ls { dir, json, tables } => list(&dir.data_dir, json, tables),
        Command::Tidy(dir) => tidy::tidy(&dir.data_dir),
        Command::Fault(fault) => steer(fault),
        Command::Volume(StaticVolume::Create { dir, id, size, block }) => tidy::create(&dir.data_dir, &id, size, block),
        Command::Volume(StaticVolume::Delete { dir, id }) => tidy::delete(&dir.data_dir, &id),
    }
}

fn run_driver(args: Serve) -> anyhow::Result<()> {
    let driver = Driver::open(Options {
        name: args.name,
        node: args.node,
        data_dir: args.dir.data_dir,
        block_size: args.block_size,
        variable_blocks: args.variable_blocks,
    })?;
    let (ask, stop) = tokio::sync::watch::channel(false);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in &mut signals {
            let _ = ask.send(true); // an error says that it has ended
        }
    })?;
    // Ended, it waits for the calls under way: nothing is left half done.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve::serve(Arc::new(driver), &args.socket, args.registration_dir.as_deref(), stop))
}

fn list(dir: &Path, json: bool, tables: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if tables {
        for table in Shelf::<Table>::open(dir)?.all()? {
            writeln!(out, "table {} of {}", table.id, table.volume)?;
        }
        return Ok(());
    }
    let (volumes, snapshots) = (Shelf::<Volume>::open(dir)?, Shelf::<Snapshot>::open(dir)?);
    let strays: Vec<PathBuf> = volumes.strays()?.into_iter().chain(snapshots.strays()?).collect();
    let (volumes, snapshots) = (volumes.all()?, snapshots.all()?);
    if json {
        writeln!(out, "{}", json!({ "volumes": volumes, "snapshots": snapshots, "strays": strays }))?;
        return Ok(());
    }
    for volume in volumes {
        let Volume { id, name, size, .. } = &volume;
        let mode = if volume.block { "Block" } else { "Filesystem" };
        let from = volume.source.as_ref().map_or_else(String::new, |source| format!(" from {source}"));
        writeln!(out, "volume {id} {size} {mode} {name:?}{from}")?;
    }
    for Snapshot { id, name, size, volume, .. } in snapshots {
        writeln!(out, "snapshot {id} {size} of {volume} {name:?}")?;
    }
    for stray in strays {
        writeln!(out, "stray {}", stray.display())?;
    }
    Ok(())
}

fn steer(fault: Fault) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match fault {
        Fault::Set { dir, faults } => faults.iter().try_for_each(|fault| Faults::of(&dir.data_dir).set(fault)),
        Fault::Clear { dir, all: true, .. } => {
            faults::ALL.iter().try_for_each(|fault| Faults::of(&dir.data_dir).clear(fault.name))
        }
        Fault::Clear { dir, faults, .. } => faults.iter().try_for_each(|fault| Faults::of(&dir.data_dir).clear(fault)),
        Fault::List { known: true, .. } => {
            faults::ALL.iter().try_for_each(|fault| writeln!(out, "{:28} {}", fault.name, fault.about))?;
            Ok(())
        }
        Fault::List { dir, .. } => {
            Faults::of(&dir.data_dir).list()?.iter().try_for_each(|fault| writeln!(out, "{fault}"))?;
            Ok(())
        }
    }
}

fn block_size(text: &str) -> anyhow::Result<u64> {
    let size: u64 = text.parse().context("not a number")?;
    anyhow::ensure!(
        size.is_power_of_two() && (4096..=1 << 30).contains(&size),
        "not a power of two from 4 KiB to 1 GiB"
    );
    Ok(size)
}

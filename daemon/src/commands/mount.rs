//! `wherry mount`

use crate::cli::MountArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::mount::{Limits, Mount, Point};
use crate::output::shown;
use anyhow::{Context as _, Result};
use rustix::fs::{FileType, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use wherry_repo::format::tree::MAX_PIECE;
use wherry_repo::{Error, Repository};

/// Tells a process that it is the one that stays, started by one that waits for it to say so.
const STAYS: &str = "WHERRY_MOUNT_STAYS";

/// The folder of the log may be one where others write too.
const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

#[derive(Serialize)]
struct Report {
    mountpoint: String,
    repository: String,
    pid: u32,
    /// The file that takes the messages of a mount in the background, where standard error cannot.
    log: Option<String>,
}

/// Mounts the snapshots.
pub(crate) fn run(context: &Context, args: MountArgs) -> Result<Exit> {
    let stays = std::env::var_os(STAYS).is_some();
    if args.foreground || stays { serve(context, &args, stays) } else { start_another(context) }
}

/// Serves the mount in this process until it ends.
fn serve(context: &Context, args: &MountArgs, detach: bool) -> Result<Exit> {
    let MountArgs { dir, snap, foreground: _, allow_other } = args;
    let point = Point::prepare(dir)?;
    let repository = context.open_repository()?;
    let only = snap.as_ref().map(|snap| context.snapshot(&repository, snap)).transpose()?;
    let chunk = match &only {
        Some(snapshot) => snapshot.chunk_size().unwrap_or(MAX_PIECE.into()),
        None if repository.has_trees() => u64::from(repository.chunk_size().max(MAX_PIECE)),
        None => repository.chunk_size().into(),
    };
    let limits = Limits::new(&context.budget, chunk);
    // From here on a signal unmounts.
    let _armed = context.cancel.arm_saying("", "unmounts, unless somebody uses it");
    let mount = Mount::start(repository.clone(), only, point.clone(), limits, *allow_other)?;
    let log = match report(context, &repository, &point, detach) {
        Ok(log) => log,
        Err(e) => {
            mount.end()?;
            return Err(e);
        }
    };
    let served = mount.serve(&context.cancel);
    if let Err(e) = &served {
        // Nobody waits for the last line of a process that has stayed behind, but its log.
        tracing::error!("the mount has ended: {e}");
    }
    if let Some(log) = log.filter(|log| std::fs::metadata(log).is_ok_and(|m| m.len() == 0)) {
        // A file that says nothing is of no use to anybody; one that stays is small.
        let _ = std::fs::remove_file(log);
    }
    served?;
    Ok(Exit::Done)
}

/// Says that the mount answers. A process that stays behind lets go of everything it shares with the one that waits.
/// Gives the file that takes its messages, where there is one.
fn report(context: &Context, repository: &Repository, point: &Point, detach: bool) -> Result<Option<PathBuf>> {
    let shared = detach && !keeps_stderr();
    let log = if shared { log_file(context) } else { None };
    let report = Report {
        mountpoint: point.dir().display().to_string(),
        repository: repository.storage().location(),
        pid: std::process::id(),
        log: log.as_ref().map(|(path, _)| path.display().to_string()),
    };
    let text = || {
        let log = report.log.as_ref().map_or_else(String::new, |log| format!("; messages go to {}", shown(log)));
        format!("mounted {} at {}; umount it to end{log}", shown(&report.repository), shown(&report.mountpoint))
    };
    if !detach {
        context.output.result(&report, text)?;
        return Ok(None);
    }
    context.cancel.outlive_terminal();
    let nowhere = File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    rustix::process::setsid().context("starting a session of its own")?;
    std::env::set_current_dir("/").context("leaving the working folder")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    if shared {
        rustix::stdio::dup2_stderr(log.as_ref().map_or(&nowhere, |(_, file)| file))?;
    }
    context.output.result(&report, text)?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(log.map(|(path, _)| path))
}

/// `mount-<pid>.log` in the cache folder, for whoever comes later: what the mount says when it is busy, or damage is met.
/// A machine where it cannot be made can mount all the same.
fn log_file(context: &Context) -> Option<(PathBuf, File)> {
    let dir = context.state_dir();
    let path = std::path::absolute(&dir).unwrap_or(dir).join(format!("mount-{}.log", std::process::id()));
    let open = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new("/")))?;
        // What a process of the same number left is not about this mount.
        File::options().create(true).write(true).truncate(true).mode(0o600).custom_flags(NOFOLLOW).open(&path)
    };
    match open() {
        Ok(file) => Some((path, file)),
        Err(e) => {
            tracing::warn!("what this mount has to say later is lost: {} cannot be written: {e}", path.display());
            None
        }
    }
}

/// A terminal, a file and the journal take messages of a process that stays behind. Whoever reads a pipe or a socket
/// waits for its end: it must not be kept open.
fn keeps_stderr() -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => false,
        FileType::Socket => {
            let journal = format!("{}:{}", stat.st_dev, stat.st_ino);
            std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == journal)
        }
        _ => true,
    }
}

/// Runs the same command line in a process that stays, and waits until it has mounted or failed. That one reads the
/// password, from a terminal too, and says on standard error itself what went wrong.
fn start_another(context: &Context) -> Result<Exit> {
    let mut arguments = std::env::args_os();
    let mut other = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        other.arg0(name);
    }
    let mut other = other.args(arguments).env(STAYS, "1").stdout(Stdio::piped()).spawn().context("starting wherry")?;
    let mut line = String::new();
    if let Some(stdout) = other.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context("waiting for the mount")?;
    }
    if !line.is_empty() {
        if let Err(e) = context.output.bytes(line.as_bytes()) {
            // Nobody knows of it: it is not to stay.
            if let Some(pid) = i32::try_from(other.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
                let _ = other.wait();
            }
            return Err(e);
        }
        return Ok(Exit::Done);
    }
    let status = other.wait().context("waiting for the mount")?;
    let died = || Error::internal(format!("the process that was to mount ended: {status}"));
    Ok(status.code().and_then(Exit::from_code).ok_or_else(died)?)
}

//! How the process ends. The one table from kinds of errors to exit codes is here.

use crate::signals::Cancel;
use crate::telemetry;
use signal_hook::consts::{SIGHUP, SIGTERM};
use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::process::ExitCode;
use wherry_repo::ErrorKind;
use wherry_repo::storage::keys;

/// The exit codes of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage, or a request that is refused.
    Usage = 2,
    /// Finished, but some data was unreadable or the snapshot is partial.
    Partial = 3,
    /// There is no repository.
    NoRepository = 10,
    /// What is needed is in use.
    Busy = 11,
    /// Wrong or missing password, key or credentials.
    Denied = 12,
    /// Damage was found.
    Damage = 13,
    /// There is no such snapshot.
    NoSnapshot = 14,
    /// Written by a newer version, or with a feature that this one lacks.
    Unsupported = 15,
    /// Ended by SIGHUP.
    HungUp = 129,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// That of another process of wherry.
    pub fn from_code(code: i32) -> Option<Self> {
        let all = [
            Self::Done,
            Self::Failed,
            Self::Usage,
            Self::Partial,
            Self::NoRepository,
            Self::Busy,
            Self::Denied,
            Self::Damage,
            Self::NoSnapshot,
            Self::Unsupported,
            Self::HungUp,
            Self::Interrupted,
            Self::Terminated,
        ];
        all.into_iter().find(|exit| *exit as i32 == code)
    }
}

/// The exit code for an error of this kind.
pub fn of_kind(kind: ErrorKind, cancel: &Cancel) -> Exit {
    match kind {
        ErrorKind::NoRepository => Exit::NoRepository,
        ErrorKind::Busy => Exit::Busy,
        ErrorKind::Denied => Exit::Denied,
        // What nobody has taken for "not there" is an object that others refer to: it is lost.
        ErrorKind::Corrupt | ErrorKind::NotFound => Exit::Damage,
        ErrorKind::NoSnapshot => Exit::NoSnapshot,
        ErrorKind::Unsupported => Exit::Unsupported,
        ErrorKind::Invalid => Exit::Usage,
        ErrorKind::Cancelled => match cancel.signal() {
            SIGHUP => Exit::HungUp,
            SIGTERM => Exit::Terminated,
            _ => Exit::Interrupted,
        },
        // Unavailable, Full, Conflict, Internal: nothing that a caller would act on by the code.
        _ => Exit::Failed,
    }
}

/// What a caller can do about an error of a device or image file.
pub fn kind_of_block(error: &wherry_block::Error) -> ErrorKind {
    use wherry_block::Error as Block;
    match error {
        Block::Busy { .. } => ErrorKind::Busy,
        // Refused as it was asked for: another name, another target or another engine helps.
        Block::TooSmall { .. }
        | Block::Invalid { .. }
        | Block::ReadOnly { .. }
        | Block::NotFound { .. }
        | Block::Exists { .. }
        | Block::Unsupported { .. } => ErrorKind::Invalid,
        // Not the repository's credentials: `Denied` would have a caller look for those.
        Block::Denied { .. }
        | Block::Changed { .. }
        | Block::ShortRead { .. }
        | Block::Length { .. }
        | Block::Io { .. }
        | Block::NoMemory { .. }
        | Block::Stopped { .. } => ErrorKind::Unavailable,
    }
}

/// The exit code for whatever ended a command: that of the outermost error whose kind is known. `None` when whoever
/// read standard output has gone: nothing is wrong then, and nothing is said.
pub fn of_error(error: &anyhow::Error, cancel: &Cancel) -> Option<Exit> {
    if error.chain().any(|cause| cause.is::<crate::output::ReaderGone>()) {
        return None;
    }
    let known = |cause: &(dyn std::error::Error + 'static)| {
        let repository = cause.downcast_ref::<wherry_repo::Error>().map(wherry_repo::Error::kind);
        repository.or_else(|| cause.downcast_ref().map(kind_of_block))
    };
    Some(error.chain().find_map(known).map_or(Exit::Failed, |kind| of_kind(kind, cancel)))
}

/// What to do about damage that ended a command; `None` where the error is about something else, or says it itself.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<wherry_repo::Error>())?;
    let says_it = |text: String| ["wherry check", "wherry repair"].iter().any(|command| text.contains(command));
    if !matches!(found.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) || says_it(found.to_string()) {
        return None;
    }
    let object = found.object()?;
    // Without these the repository does not open, and nothing can check it.
    let way_in = ["repo.json", keys::CONFIG, keys::KEYS].iter().any(|prefix| object.starts_with(prefix));
    Some(match way_in {
        true => "put it back from a copy of the repository",
        false => "`wherry check --read-data` says what else is damaged, and which snapshots are hit",
    })
}

/// The error and its causes in one line. Causes that the line before has said already are left out.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    on_one_line(&text)
}

/// Line ends become spaces and other control characters are shown: an error quotes names it was given.
pub fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().flat_map(|c| {
            let control = c.is_control();
            c.escape_default().filter(move |_| control).chain((!control).then_some(c))
        }));
    }
    line
}

/// Says on standard error what ended the process: as a log line where those are JSON, for the program that reads them.
/// Nothing can be done when that fails too.
pub fn complain(line: &str) {
    let text = telemetry::last_line(line).unwrap_or_else(|| format!("wherry: {line}"));
    let _ = io::Write::write_all(&mut io::stderr().lock(), format!("{text}\n").as_bytes());
}

/// A panic is a mistake in wherry: the user gets one line and exit code 1, whichever thread it was. But for the parsers of
/// what is inside disks: anybody may have made that, and whoever waits for the thread says what happened.
#[expect(clippy::exit, reason = "other threads may wait for the one that panicked; the format is safe against kills")]
pub fn end_on_panic() {
    set_hook(Box::new(|info| {
        if tell(info) {
            std::process::exit(Exit::Failed as i32);
        }
    }));
}

/// For a process that does the work of many: a panic is told, and ends the work that it belongs to ([`caught`]) and no other.
pub fn only_tell_panics() {
    set_hook(Box::new(|info| {
        tell(info);
    }));
}

/// `false`: it is for somebody else to tell.
fn tell(info: &PanicHookInfo<'_>) -> bool {
    if std::thread::current().name() == Some(crate::tree::inside::filesystem::THREAD) {
        return false;
    }
    let what = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
    complain(&format!(
        "bug: {}{place}, version {}: please report it; the repository is not harmed by it",
        on_one_line(what),
        crate::cli::VERSION
    ));
    true
}

/// Does that. A panic becomes an error: of a thread that others wait for, and would wait for without end.
///
/// # Errors
/// Those of the work; `Internal` when it panicked.
pub fn caught<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    // Whatever it left half done is dropped with the work that it belongs to.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = message(&*panic);
        Err(wherry_repo::Error::internal(format!("a bug in wherry: {what}; please report it")).into())
    })
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    on_one_line(text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use wherry_repo::Error;

    #[test]
    fn codes_are_those_of_the_contract() {
        let cancel = Cancel::default();
        for (kind, code) in [
            (ErrorKind::NoRepository, 10),
            (ErrorKind::Busy, 11),
            (ErrorKind::Denied, 12),
            (ErrorKind::Corrupt, 13),
            (ErrorKind::NoSnapshot, 14),
            (ErrorKind::Unsupported, 15),
            (ErrorKind::Invalid, 2),
            (ErrorKind::Cancelled, 130),
            (ErrorKind::Unavailable, 1),
            (ErrorKind::Full, 1),
            (ErrorKind::NotFound, 13),
            (ErrorKind::Conflict, 1),
            (ErrorKind::Internal, 1),
        ] {
            assert_eq!(of_kind(kind, &cancel) as u8, code, "{kind:?}");
        }
    }

    #[test]
    fn the_outermost_known_kind_counts() {
        let cancel = Cancel::default();
        let inner = Error::new(ErrorKind::Denied, "the bucket refuses");
        let outer = anyhow::Error::new(Error::corrupt("bad").with_source(inner)).context("checking");
        assert_eq!(of_error(&outer, &cancel), Some(Exit::Damage));
        let plain = Err::<(), _>(io::Error::other("x")).context("reading").unwrap_err();
        assert_eq!(of_error(&plain, &cancel), Some(Exit::Failed));
    }

    #[test]
    fn devices_have_their_codes() {
        let cancel = Cancel::default();
        let code = |error: wherry_block::Error| of_error(&anyhow::Error::new(error).context("x"), &cancel);
        let path = std::path::PathBuf::from("/dev/x");
        assert_eq!(code(wherry_block::Error::Busy { path: path.clone(), by: "y".into() }), Some(Exit::Busy));
        assert_eq!(code(wherry_block::Error::TooSmall { path: path.clone(), size: 1, needed: 2 }), Some(Exit::Usage));
        assert_eq!(code(wherry_block::Error::ReadOnly { path: path.clone() }), Some(Exit::Usage));
        assert_eq!(code(wherry_block::Error::Changed { path, was: 1, now: 2 }), Some(Exit::Failed));
    }

    #[test]
    fn a_panic_is_an_error_of_its_work() {
        let found = [(caught::<()>(|| panic!("planted")), "planted"), (caught(|| panic!("no. {}", 7)), "no. 7")];
        for (found, words) in found {
            let error = found.unwrap_err();
            assert!(error.to_string().contains(&format!("a bug in wherry: {words}")), "{error}");
        }
        assert_eq!(caught(|| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn one_line_whatever_is_in_it() {
        let inner = io::Error::other("second\nline\u{1b}[31m");
        let error = anyhow::Error::new(Error::invalid("part").with_source(inner)).context("first");
        assert_eq!(one_line(&error), "first: part: second line\\u{1b}[31m");
        let repeated = anyhow::Error::new(io::Error::other("cause")).context("doing x: cause");
        assert_eq!(one_line(&repeated), "doing x: cause");
    }
}

//! Passwords and key files: where they come from, and how they are read. They never stand in argv, in logs, or in
//! `Debug`, and are wiped from memory.

use crate::cli::{CredentialFlags, NewKeyArgs, ToCredentialFlags};
use crate::signals::{Armed, Cancel};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use wherry_repo::{Credential, Error, ErrorKind, MIN_KEY_FILE, Result, Rng};
use zeroize::Zeroizing;

/// More than any password or key has.
const MAX_LEN: usize = 64 << 10;

/// Where a password or key comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// The password is in this file.
    PasswordFile(PathBuf),
    /// The password is what this shell command prints.
    PasswordCommand(String),
    /// The password is in `WHERRY_PASSWORD`.
    Environment,
    /// The password of a second repository is in `WHERRY_TO_PASSWORD` or `WHERRY_FROM_PASSWORD`.
    EnvironmentOf(Second),
    /// This key file.
    KeyFile(PathBuf),
    /// Whoever sits at the terminal knows the password.
    Prompt,
    /// Likewise, that of a second repository.
    PromptOf(Second),
}

/// A second repository, besides the one of `--repo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// The one that is copied into.
    To,
    /// The one that lost data is taken from.
    From,
}

impl Second {
    /// What the names of its flags begin with.
    pub fn flags(self) -> &'static str {
        match self {
            Self::To => "to-",
            Self::From => "from-",
        }
    }

    /// The variable that holds its password.
    fn variable(self) -> &'static str {
        match self {
            Self::To => "WHERRY_TO_PASSWORD",
            Self::From => "WHERRY_FROM_PASSWORD",
        }
    }

    /// Where its password or key comes from; a prompt when nothing is named.
    pub fn source(self, flags: CredentialFlags) -> Result<CredentialSource> {
        Ok(match flags.source()? {
            CredentialSource::Environment => CredentialSource::EnvironmentOf(self),
            CredentialSource::Prompt => CredentialSource::PromptOf(self),
            source => source,
        })
    }
}

/// Without the command, which may have more in it than it should.
impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PasswordFile(path) => write!(f, "password file {}", path.display()),
            Self::PasswordCommand(_) => f.write_str("password command"),
            Self::Environment => f.write_str("WHERRY_PASSWORD"),
            Self::EnvironmentOf(second) => f.write_str(second.variable()),
            Self::KeyFile(path) => write!(f, "key file {}", path.display()),
            Self::Prompt | Self::PromptOf(_) => f.write_str("prompt"),
        }
    }
}

impl CredentialFlags {
    /// Whether any source is named.
    pub fn is_given(&self) -> bool {
        let Self { password_file, password_command, key_file, environment } = self;
        password_file.is_some() || password_command.is_some() || key_file.is_some() || *environment
    }

    /// The one source; the prompt when none is named.
    pub fn source(self) -> Result<CredentialSource> {
        let Self { password_file, password_command, key_file, environment } = self;
        let given = [
            password_file.map(CredentialSource::PasswordFile),
            password_command.map(CredentialSource::PasswordCommand),
            key_file.map(CredentialSource::KeyFile),
            environment.then_some(CredentialSource::Environment),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (None, _) => Ok(CredentialSource::Prompt),
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                Err(Error::invalid(format!("{first} and {second} are given at once: leave one of them out")))
            }
        }
    }
}

impl ToCredentialFlags {
    /// The one source; the prompt when none is named.
    pub fn source(self) -> Result<CredentialSource> {
        Second::To.source(self.flags())
    }
}

impl NewKeyArgs {
    /// Where the new password or key comes from.
    pub fn source(self) -> CredentialSource {
        let Self { new_password_file, new_key_file } = self;
        let file = new_password_file.map(CredentialSource::PasswordFile);
        file.or(new_key_file.map(CredentialSource::KeyFile)).unwrap_or(CredentialSource::Prompt)
    }
}

impl CredentialSource {
    /// Reads an existing password or key. `prompt` is what a terminal shows, and a signal that comes meanwhile ends the process, with
    /// the terminal as it was. Errors are of kind [`ErrorKind::Denied`].
    pub fn read(&self, prompt: &str, cancel: &Cancel) -> Result<Credential> {
        match self {
            Self::PasswordFile(path) => read_file(path, "password").and_then(password),
            Self::PasswordCommand(command) => run(command).and_then(password),
            Self::Environment => from_environment("WHERRY_PASSWORD").and_then(password),
            Self::EnvironmentOf(second) => from_environment(second.variable()).and_then(password),
            Self::KeyFile(path) => read_file(path, "key").and_then(|key| key_of(path, key)),
            Self::Prompt => ask(prompt, "", cancel).and_then(password),
            Self::PromptOf(second) => ask(prompt, second.flags(), cancel).and_then(password),
        }
    }

    /// Reads a password that is about to be set, or a key: a prompt asks twice. `of` is what the names of the flags begin with that would
    /// have named another source.
    pub fn read_new(&self, prompt: &str, of: &str, cancel: &Cancel) -> Result<Credential> {
        let Self::Prompt = self else { return self.read(prompt, cancel) };
        let first = ask(prompt, of, cancel)?;
        if *first != *ask("The same again: ", of, cancel)? {
            return Err(denied("the two passwords differ: nothing was changed"));
        }
        password(first)
    }

    /// The key file that [`make_key_file`] would have to make first.
    pub fn missing_key_file(&self) -> Option<&Path> {
        match self {
            Self::KeyFile(path) if matches!(path.try_exists(), Ok(false)) => Some(path),
            _ => None,
        }
    }
}

fn denied(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Denied, why)
}

/// Takes one line end away.
fn trimmed(mut secret: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    for end in [b'\n', b'\r'] {
        if secret.last() == Some(&end) {
            secret.pop();
        }
    }
    secret
}

pub(crate) fn password(secret: Zeroizing<Vec<u8>>) -> Result<Credential> {
    let secret = trimmed(secret);
    let text = std::str::from_utf8(&secret).map_err(|_| denied("the password is not UTF-8"))?;
    if text.is_empty() {
        return Err(denied("the password is empty"));
    }
    Ok(Credential::Password(Zeroizing::new(text.to_owned())))
}

fn key_of(path: &Path, secret: Zeroizing<Vec<u8>>) -> Result<Credential> {
    key_in(&format!("key file {}", path.display()), secret)
}

/// The key that is in a file, or in what is in its place.
pub(crate) fn key_in(place: &str, secret: Zeroizing<Vec<u8>>) -> Result<Credential> {
    let secret = trimmed(secret);
    if secret.len() < MIN_KEY_FILE {
        return Err(denied(format!("{place} has {} bytes, a key has at least {MIN_KEY_FILE}", secret.len())));
    }
    Ok(Credential::KeyFile(secret))
}

/// Everything up to [`MAX_LEN`], in a buffer that never moves: no copy stays behind.
fn read_all(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    from.take(MAX_LEN as u64 + 1).read_to_end(&mut secret)?;
    if secret.len() > MAX_LEN {
        return Err(io::Error::other("it is longer than any password or key"));
    }
    Ok(secret)
}

fn read_file(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |e| denied(format!("{what} file {} cannot be read", path.display())).with_source(e);
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{:o}", metadata.mode() & 0o777),
            "others may read this {what} file: chmod 600 it"
        );
    }
    read_all(file).map_err(cannot)
}

fn run(command: &str) -> Result<Zeroizing<Vec<u8>>> {
    let cannot = |e| denied("the password command cannot be run").with_source(e);
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env_remove("WHERRY_PASSWORD")
        .env_remove("WHERRY_TO_PASSWORD")
        .env_remove("WHERRY_FROM_PASSWORD")
        // What comes in there may be the disk.
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let secret = child.stdout.take().map(read_all).transpose();
    let status = child.wait().map_err(cannot)?;
    if !status.success() {
        return Err(denied(format!("the password command failed ({status})")));
    }
    secret.map_err(cannot)?.ok_or_else(|| denied("the password command has no output"))
}

fn from_environment(name: &str) -> Result<Zeroizing<Vec<u8>>> {
    use std::os::unix::ffi::OsStringExt;
    let secret = std::env::var_os(name).ok_or_else(|| denied(format!("{name} is not set")))?;
    Ok(Zeroizing::new(secret.into_vec()))
}

/// Whether there is a terminal on which somebody can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// `of`: what the names of the flags begin with that would have named another source.
fn ask(prompt: &str, of: &str, cancel: &Cancel) -> Result<Zeroizing<Vec<u8>>> {
    // The prompt goes to the terminal itself; where nobody would see it, nobody is asked.
    if !can_ask() {
        let env = of.to_uppercase().replace('-', "_");
        // Of a new one there is no more.
        let more = match of {
            "new-" => "or --new-key-file".to_owned(),
            _ => format!("--{of}password-command or --{of}key-file, or set WHERRY_{env}PASSWORD"),
        };
        return Err(denied(format!("no password: give --{of}password-file, {more}; there is no terminal to ask on")));
    }
    let _echo = Echo::restored_by(cancel);
    let text = rpassword::prompt_password(prompt).map_err(|e| match e.kind() {
        // The prompt takes the key for itself, and no signal comes of it.
        io::ErrorKind::Interrupted => cancel.error(),
        _ => denied("the terminal gives no password").with_source(e),
    })?;
    Ok(Zeroizing::new(text.into_bytes()))
}

/// While a prompt has the echo of the terminal off, a signal from elsewhere ends the process with the terminal as it was.
struct Echo<'a> {
    /// Ends who waits for a signal.
    over: Arc<AtomicBool>,
    waits: Option<JoinHandle<()>>,
    _armed: Armed<'a>,
}

impl<'a> Echo<'a> {
    /// `None` where it is not known how the terminal was.
    fn restored_by(cancel: &'a Cancel) -> Option<Self> {
        let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let (armed, over) = (cancel.arm_saying("", ""), Arc::new(AtomicBool::new(false)));
        let (is_over, cancel) = (Arc::clone(&over), cancel.clone());
        let wait = move || {
            while !is_over.load(Ordering::Relaxed) {
                if cancel.is_cancelled() {
                    let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
                    let _ = terminal.write_all(b"\n");
                    std::process::exit(128 + cancel.signal());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let waits = std::thread::Builder::new().name("echo".to_owned()).spawn(wait).ok()?;
        Some(Self { over, waits: Some(waits), _armed: armed })
    }
}

impl Drop for Echo<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(waits) = self.waits.take() {
            let _ = waits.join();
        }
    }
}

/// What a new key file holds: 64 random hex digits and a line end.
pub(crate) fn draw_key(rng: &dyn Rng) -> Result<Zeroizing<Vec<u8>>> {
    let mut raw = Zeroizing::new([0; 32]);
    rng.fill(raw.as_mut())?;
    let mut text = Zeroizing::new(Vec::with_capacity(65));
    for byte in raw.iter() {
        write_hex(&mut text, *byte);
    }
    text.push(b'\n');
    Ok(text)
}

/// Makes a key file: 64 random hex digits and a line end, readable by its owner alone, on the medium when this returns.
/// A file that is there already is an error.
pub fn make_key_file(path: &Path, rng: &dyn Rng) -> Result<()> {
    let text = draw_key(rng)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if let Err(e) = file.write_all(&text).and_then(|()| file.sync_all()) {
            // Part of a key opens nothing, and would be in the way of the next try.
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| {
        Error::invalid(format!("key file {} cannot be made: check the folder, or name another file", path.display()))
            .with_source(e)
    })
}

fn write_hex(out: &mut Vec<u8>, byte: u8) {
    for digit in [byte >> 4, byte & 15] {
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;

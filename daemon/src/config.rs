//! From what was typed to settings: flag, then environment, then the user's file, then the system's, then default.
//! Nothing is ignored: every step takes the structs apart by name.

use crate::cli::{
    BackupArgs, CheckArgs, Cli, Command, Compression, CopyArgs, CredentialFlags, Engine, ForgetArgs, GcArgs, Global,
    InitArgs, KeepFlags, LogFormat, MountArgs, Percent, Rate, RepairArgs, RestoreArgs, S3Flags, Size, SourceArg, Span,
    ToCredentialFlags,
};
use crate::credential::CredentialSource;
use serde::Deserialize;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use wherry_repo::{Error, Result};

const SYSTEM_FILE: &str = "/etc/wherry/config.toml";

/// The ceiling of memory where none is given.
const DEFAULT_MEMORY: Size = Size(256 << 20);

/// The same of an agent, which moves several volumes at once.
const AGENT_MEMORY: Size = Size(1 << 30);

pub(crate) const HELP: &str = "\
Keys are the names of flags without the dashes:
  repo password-file password-command key-file cache-dir no-cache json quiet verbose log-format memory engine
  s3-endpoint s3-region s3-profile s3-virtual-host s3-ca-file s3-skip-verify retry-for
and of these commands:
  init     single-writer chunk-size
  backup   compression limit-read limit-upload exclude exclude-caches exclude-if-present all-filesystems ignore-inode
  restore  verify
  mount    allow-other foreground
  check    read-data sample max-age
  forget   keep-last keep-hourly keep-daily keep-weekly keep-monthly keep-yearly keep-within delay
  copy     to to-password-file to-password-command to-key-file to-s3-endpoint to-s3-region to-s3-profile compression
           to-s3-ca-file to-s3-skip-verify limit-upload
  gc       grace fence-after
Not taken from a file, because they are about one run: force dry-run allow-partial delta changed-blocks parent offset
length forgotten name recursive tag new-password-file new-key-file config force-read overwrite delete numeric-ids seconds
size rewrite slot-password-file slot-key-file all from from-password-file from-password-command from-key-file
from-s3-endpoint from-s3-region from-s3-profile from-s3-ca-file from-s3-skip-verify. A password is never written into one.

Examples:
  wherry config check --config /etc/wherry/config.toml

  # /etc/wherry/config.toml
  repo = \"s3://bucket/prefix\"
  s3-endpoint = \"https://s3.example.org\"
  key-file = \"/etc/wherry/key\"
  memory = \"512M\"
  keep-daily = 7";

/// A configuration file: flat, its keys are the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    repo: Option<String>,
    password_file: Option<PathBuf>,
    password_command: Option<String>,
    key_file: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    no_cache: Option<bool>,
    json: Option<bool>,
    quiet: Option<bool>,
    verbose: Option<u8>,
    log_format: Option<LogFormat>,
    memory: Option<Size>,
    engine: Option<Engine>,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    s3_profile: Option<String>,
    s3_virtual_host: Option<bool>,
    s3_ca_file: Option<PathBuf>,
    s3_skip_verify: Option<bool>,
    retry_for: Option<Span>,
    // init
    single_writer: Option<bool>,
    chunk_size: Option<Size>,
    // backup
    compression: Option<Compression>,
    limit_read: Option<Rate>,
    limit_upload: Option<Rate>,
    exclude: Option<Vec<String>>,
    exclude_caches: Option<bool>,
    exclude_if_present: Option<Vec<String>>,
    all_filesystems: Option<bool>,
    ignore_inode: Option<bool>,
    // restore
    verify: Option<bool>,
    // mount
    allow_other: Option<bool>,
    foreground: Option<bool>,
    // check
    read_data: Option<bool>,
    sample: Option<Percent>,
    max_age: Option<Span>,
    // forget
    keep_last: Option<u32>,
    keep_hourly: Option<u32>,
    keep_daily: Option<u32>,
    keep_weekly: Option<u32>,
    keep_monthly: Option<u32>,
    keep_yearly: Option<u32>,
    keep_within: Option<Span>,
    delay: Option<Span>,
    // copy
    to: Option<String>,
    to_password_file: Option<PathBuf>,
    to_password_command: Option<String>,
    to_key_file: Option<PathBuf>,
    to_s3_endpoint: Option<String>,
    to_s3_region: Option<String>,
    to_s3_profile: Option<String>,
    to_s3_ca_file: Option<PathBuf>,
    to_s3_skip_verify: Option<bool>,
    // gc
    grace: Option<Span>,
    fence_after: Option<Span>,
}

impl File {
    /// Reads a file. `None` when there is none. An error is one line that names the file, the place in it and the key.
    fn read(path: &Path) -> io::Result<Option<Result<Self>>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(Self::parse(path, &text))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let place = e.span().map_or(0..0, |s| s);
            let line = text.get(..place.start).map_or(1, |before| before.matches('\n').count() + 1);
            let typed = text.lines().nth(line - 1).unwrap_or_default().trim();
            // The line of a password that was put here by mistake is not shown.
            let typed =
                typed.split_once('=').map_or(if typed.starts_with('[') { typed } else { "" }, |(key, _)| key.trim());
            let key = if typed.is_empty() { String::new() } else { format!("{typed}: ") };
            let why = e.message().replace('\n', " ");
            let why = match why.split_once(", expected one of") {
                Some(_) => "unknown key; `wherry config check --help` lists them all",
                None => &why,
            };
            Error::invalid(format!("{}:{line}: {key}{why}", path.display()))
        })
    }

    /// Fills the gaps of the command line. All sources of a credential count as one setting.
    fn fill(self, cli: &mut Cli) {
        let Self {
            repo,
            password_file,
            password_command,
            key_file,
            cache_dir,
            no_cache,
            json,
            quiet,
            verbose,
            log_format,
            memory,
            engine,
            s3_endpoint,
            s3_region,
            s3_profile,
            s3_virtual_host,
            s3_ca_file,
            s3_skip_verify,
            retry_for,
            single_writer,
            chunk_size,
            compression,
            limit_read,
            limit_upload,
            exclude,
            exclude_caches,
            exclude_if_present,
            all_filesystems,
            ignore_inode,
            verify,
            allow_other,
            foreground,
            read_data,
            sample,
            max_age,
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_yearly,
            keep_within,
            delay,
            to,
            to_password_file,
            to_password_command,
            to_key_file,
            to_s3_endpoint,
            to_s3_region,
            to_s3_profile,
            to_s3_ca_file,
            to_s3_skip_verify,
            grace,
            fence_after,
        } = self;
        let global = &mut cli.global;
        gap(&mut global.repo, repo);
        if !global.credential.is_given() {
            global.credential = CredentialFlags { password_file, password_command, key_file, environment: false };
        }
        gap(&mut global.cache_dir, cache_dir);
        switch(&mut global.no_cache, no_cache);
        switch(&mut global.json, json);
        if !global.quiet && global.verbose == 0 {
            switch(&mut global.quiet, quiet);
            global.verbose = if global.quiet { 0 } else { verbose.unwrap_or(0) };
        }
        gap(&mut global.log_format, log_format);
        gap(&mut global.memory, memory);
        gap(&mut global.engine, engine);
        gap(&mut global.s3.s3_endpoint, s3_endpoint);
        gap(&mut global.s3.s3_region, s3_region);
        gap(&mut global.s3.s3_profile, s3_profile);
        switch(&mut global.s3.s3_virtual_host, s3_virtual_host);
        gap(&mut global.s3.s3_ca_file, s3_ca_file);
        switch(&mut global.s3.s3_skip_verify, s3_skip_verify);
        gap(&mut global.s3.retry_for, retry_for);
        match &mut cli.command {
            Command::Init(InitArgs { single_writer: one, chunk_size: size }) => {
                switch(one, single_writer);
                gap(size, chunk_size);
            }
            Command::Backup(BackupArgs {
                compression: method,
                limit_read: read,
                limit_upload: upload,
                source,
                tree,
                ..
            }) => {
                gap(method, compression);
                gap(read, limit_read);
                gap(upload, limit_upload);
                // A disk has no use for them, and refuses those that were typed.
                if matches!(source, SourceArg::Path(path) if path.is_dir()) {
                    list(&mut tree.exclude, exclude);
                    switch(&mut tree.exclude_caches, exclude_caches);
                    list(&mut tree.exclude_if_present, exclude_if_present);
                    switch(&mut tree.all_filesystems, all_filesystems);
                    switch(&mut tree.ignore_inode, ignore_inode);
                }
            }
            Command::Restore(RestoreArgs { verify: on, .. }) => switch(on, verify),
            Command::Mount(MountArgs { allow_other: others, foreground: stays, .. }) => {
                switch(others, allow_other);
                switch(stays, foreground);
            }
            Command::Check(CheckArgs { read_data: on, sample: share, max_age: age, .. }) => {
                switch(on, read_data);
                gap(share, sample);
                gap(age, max_age);
            }
            Command::Copy(copy) => {
                gap(&mut copy.to, to);
                gap(&mut copy.compression, compression);
                gap(&mut copy.limit_upload, limit_upload);
                if !copy.credential.is_given() {
                    copy.credential =
                        ToCredentialFlags { to_password_file, to_password_command, to_key_file, environment: false };
                }
                gap(&mut copy.s3.to_s3_endpoint, to_s3_endpoint);
                gap(&mut copy.s3.to_s3_region, to_s3_region);
                gap(&mut copy.s3.to_s3_profile, to_s3_profile);
                gap(&mut copy.s3.to_s3_ca_file, to_s3_ca_file);
                switch(&mut copy.s3.to_s3_skip_verify, to_s3_skip_verify);
            }
            Command::Forget(ForgetArgs { snaps, keep, delay: time, .. }) => {
                gap(time, delay);
                // A policy is taken as a whole: a file's keep-daily does not join --keep-last of the command line.
                if snaps.is_empty() && *keep == KeepFlags::default() {
                    *keep = KeepFlags {
                        keep_last,
                        keep_hourly,
                        keep_daily,
                        keep_weekly,
                        keep_monthly,
                        keep_yearly,
                        keep_within,
                    };
                }
            }
            Command::Gc(GcArgs { grace: time, fence_after: silence, .. }) => {
                gap(time, grace);
                gap(silence, fence_after);
            }
            _ => {}
        }
    }
}

fn gap<T>(setting: &mut Option<T>, lower: Option<T>) {
    if setting.is_none() {
        *setting = lower;
    }
}

/// What was typed takes the place of a whole list.
fn list(setting: &mut Vec<OsString>, lower: Option<Vec<String>>) {
    if setting.is_empty() {
        *setting = lower.unwrap_or_default().into_iter().map(OsString::from).collect();
    }
}

fn switch(setting: &mut bool, lower: Option<bool>) {
    *setting |= lower.unwrap_or(false);
}

/// What settings depend on besides the command line. Tests give their own.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The value of an environment variable.
    pub var: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the process runs as root.
    pub root: bool,
    /// The system's configuration file.
    pub system_file: &'a Path,
}

impl std::fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Environment<'_> {
    /// That of this process.
    pub fn of_process() -> Environment<'static> {
        Environment {
            var: &|name| std::env::var_os(name),
            root: rustix::process::geteuid().is_root(),
            system_file: Path::new(SYSTEM_FILE),
        }
    }

    /// An empty variable counts as none.
    fn var(&self, name: &str) -> Option<OsString> {
        (self.var)(name).filter(|v| !v.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let text = self.var(name).map(OsString::into_string).transpose();
        text.map_err(|_| Error::invalid(format!("{name} is not UTF-8: set it to text, or give the flag")))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(PathBuf::from)
    }

    /// A folder of the XDG specification, which wants absolute paths only.
    fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        let home = || self.path("HOME").map(|home| home.join(below_home));
        self.path(name).or_else(home).filter(|path| path.is_absolute())
    }
}

/// Everything a command needs to know that is not its own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The repository, where it was given.
    pub repo: Option<String>,
    /// Where the password or key comes from.
    pub credential: CredentialSource,
    /// The folder of the cache, where one is known.
    pub cache_dir: Option<PathBuf>,
    /// False with `--no-cache`: no index is kept in that folder.
    pub use_cache: bool,
    /// JSON on standard output.
    pub json: bool,
    /// -1 for `-q`, else how often `-v` was given.
    pub verbosity: i8,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// The ceiling of the process's memory in bytes.
    pub memory: u64,
    /// The block engine that was asked for.
    pub engine: Engine,
    /// S3, as far as it is given by flags and files.
    pub s3: S3Flags,
    /// The configuration files that were read.
    pub files: Vec<PathBuf>,
    /// What should be logged as soon as there is a log.
    pub warnings: Vec<String>,
}

impl Settings {
    /// The repository, or an error that says how to name one.
    pub fn repo(&self) -> Result<&str> {
        self.repo.as_deref().ok_or_else(|| {
            Error::invalid(
                "no repository is named: give --repo, or set WHERRY_REPOSITORY, or repo in the configuration",
            )
        })
    }
}

/// Resolves a command line: the settings, and the command with its own gaps filled.
pub fn resolve(mut cli: Cli, env: &Environment<'_>) -> Result<(Settings, Command)> {
    let mut warnings = Vec::new();
    let mut files = Vec::new();
    from_environment(&mut cli.global, env)?;
    if let Command::Copy(CopyArgs { credential, .. }) = &mut cli.command
        && !credential.is_given()
    {
        credential.environment = env.var("WHERRY_TO_PASSWORD").is_some();
        credential.to_key_file = env.path("WHERRY_TO_KEY_FILE").filter(|_| !credential.environment);
    }
    if let Command::Repair(RepairArgs { from: Some(_), credential, .. }) = &mut cli.command
        && !credential.is_given()
    {
        credential.environment = env.var("WHERRY_FROM_PASSWORD").is_some();
        credential.from_key_file = env.path("WHERRY_FROM_KEY_FILE").filter(|_| !credential.environment);
    }
    let asked = part_of_data(&cli.command);
    for (path, file) in read_files(cli.global.config.take(), env, &mut warnings)? {
        file.fill(&mut cli);
        files.push(path);
    }
    let Cli { global, command } = cli;
    // In a file they are for when data is read; on the command line somebody waits for them.
    if let (Some(flag), Command::Check(CheckArgs { read_data: false, .. })) = (asked, &command) {
        return Err(Error::invalid(format!("{flag} is about the data of the disks: add --read-data")));
    }
    let Global {
        repo,
        credential,
        cache_dir,
        no_cache,
        config: _,
        json,
        quiet,
        verbose,
        log_format,
        memory,
        engine,
        s3,
    } = global;
    let cache_dir = match cache_dir {
        Some(dir) => Some(dir),
        None if env.root => Some(PathBuf::from("/var/cache/wherry")),
        None => {
            let dir = env.xdg("XDG_CACHE_HOME", ".cache").map(|dir| dir.join("wherry"));
            if dir.is_none() {
                warnings.push("no cache: neither --cache-dir nor XDG_CACHE_HOME nor HOME is set".to_owned());
            }
            dir
        }
    };
    let default = if matches!(command, Command::Agent(_)) { AGENT_MEMORY } else { DEFAULT_MEMORY };
    let memory = memory.unwrap_or(default);
    crate::budget::check_ceiling(memory)?;
    if s3.s3_skip_verify {
        warnings.push("--s3-skip-verify: the server's certificate is not checked".to_owned());
    }
    let settings = Settings {
        repo,
        credential: credential.source()?,
        use_cache: cache_dir.is_some() && !no_cache,
        cache_dir,
        json,
        verbosity: if quiet { -1 } else { i8::try_from(verbose).unwrap_or(i8::MAX) },
        log_format: log_format.unwrap_or_default(),
        memory: memory.0,
        engine: engine.unwrap_or_default(),
        s3,
        files,
        warnings,
    };
    Ok((settings, command))
}

/// The flag of `check` on the command line that says which part of the data is read.
fn part_of_data(command: &Command) -> Option<&'static str> {
    match command {
        Command::Check(CheckArgs { sample: Some(_), .. }) => Some("--sample"),
        Command::Check(CheckArgs { max_age: Some(_), .. }) => Some("--max-age"),
        _ => None,
    }
}

fn from_environment(global: &mut Global, env: &Environment<'_>) -> Result<()> {
    gap(&mut global.repo, env.text("WHERRY_REPOSITORY")?);
    gap(&mut global.cache_dir, env.path("WHERRY_CACHE_DIR"));
    if !global.credential.is_given() {
        // A session may have inherited both: the password wins, by the order of the contract.
        global.credential.environment = env.var("WHERRY_PASSWORD").is_some();
        global.credential.key_file = env.path("WHERRY_KEY_FILE").filter(|_| !global.credential.environment);
    }
    Ok(())
}

fn is_out_of_sight(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

/// The files to read, the one that wins first.
fn read_files(
    named: Option<PathBuf>,
    env: &Environment<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(PathBuf, File)>> {
    let cannot = |path: &Path, e: &dyn std::fmt::Display| {
        Error::invalid(format!("configuration file {} cannot be read: {e}", path.display()))
    };
    if let Some(path) = named {
        let file = File::read(&path).map_err(|e| cannot(&path, &e))?;
        let file = file.ok_or_else(|| cannot(&path, &"there is no such file"))??;
        return Ok(vec![(path, file)]);
    }
    let user = env.xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("wherry/config.toml"));
    let mut files = Vec::new();
    for path in user.into_iter().chain([env.system_file.to_owned()]) {
        match File::read(&path) {
            Ok(Some(file)) => files.push((path, file?)),
            Ok(None) => {}
            // The system's file may hold what is root's business alone. A home that may not be entered is another one's, as under
            // `setpriv`: there is no saying whether there is such a file.
            Err(e)
                if e.kind() == io::ErrorKind::PermissionDenied
                    && (path == env.system_file || is_out_of_sight(&path)) =>
            {
                warnings.push(format!("{} is left out: it may not be read ({e})", path.display()));
            }
            Err(e) => return Err(cannot(&path, &e)),
        }
    }
    Ok(files)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

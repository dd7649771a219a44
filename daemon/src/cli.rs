//! What can be typed: the one definition of every command and flag. Parser, `--help`, man pages and completions come
//! from it. Nothing here has a default or looks at the environment; [`crate::config`] turns it into settings.

mod args;
mod cluster;
mod copying;
mod healing;
mod keeping;
mod looking;
mod values;

pub use args::*;
pub use cluster::*;
pub use copying::*;
pub use healing::*;
pub use keeping::*;
pub use looking::*;
pub use values::*;

use crate::select::SnapSpec;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The version and, where the build knew it, the commit.
pub const VERSION: &str = env!("WHERRY_VERSION");

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "wherry",
    version = VERSION,
    about = "Backs up disks and directories into a deduplicating, encrypted repository; restores, mounts and checks them",
    long_about = "Backs up block devices, disk images and directories into a deduplicating, encrypted repository on local \
        disks or object storage, restores them, and mounts any snapshot read-only.",
    after_long_help = args::MAIN_EXAMPLES,
    arg_required_else_help = true,
    subcommand_required = true,
    infer_long_args = false,
    max_term_width = 110
)]
pub struct Cli {
    /// The flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command. All but `config` may stand in the configuration file under the same name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The repository: a path, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; in a pod of a cluster
    /// velero://LOCATION, that of a BackupStorageLocation, with the key of Secret wherry-repository [env: WHERRY_REPOSITORY]
    #[arg(long, global = true, value_name = "REPO")]
    pub repo: Option<String>,
    /// The password or key.
    #[command(flatten)]
    pub credential: CredentialFlags,
    /// Where the chunk index is cached; it can be deleted at any time [default: /var/cache/wherry for root, else
    /// $XDG_CACHE_HOME/wherry] [env: WHERRY_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub cache_dir: Option<PathBuf>,
    /// Works without a cache: of what is stored, only what the parent has is found again
    #[arg(long, global = true, hide_short_help = true)]
    pub no_cache: bool,
    /// The configuration file [default: /etc/wherry/config.toml, then $XDG_CONFIG_HOME/wherry/config.toml]
    ///
    /// Its keys are these flags and those of the commands that are settings (see `wherry config check --help`). A flag
    /// wins over an environment variable, that over the user's file, that over the one of the system. A file named
    /// here replaces both.
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub config: Option<PathBuf>,
    /// Prints the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress, and of the log only errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// More log lines; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// The form of the log lines on standard error [default: text]
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<LogFormat>,
    /// The ceiling of the memory of the whole process, at least 64M; with a password 88M, for the backup of a
    /// directory 128M [default: 256M]
    #[arg(long, global = true, value_name = "SIZE", hide_short_help = true)]
    pub memory: Option<Size>,
    /// How devices and files are read and written: io_uring, a pool of threads, or what works [default: auto]
    #[arg(long, global = true, value_name = "ENGINE", hide_short_help = true)]
    pub engine: Option<Engine>,
    /// S3 servers.
    #[command(flatten)]
    pub s3: S3Flags,
}

/// Where the password or key comes from; at most one of them in each place: flags win over the environment, where the
/// password wins over the key file, and that over the configuration. Never the secret itself.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct CredentialFlags {
    /// Reads the password from a file [env: WHERRY_PASSWORD holds the password itself and wins over WHERRY_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Reads the password from the output of a shell command
    #[arg(long, global = true, value_name = "COMMAND", hide_short_help = true)]
    pub password_command: Option<String>,
    /// Opens the repository with a key file instead of a password [env: WHERRY_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The environment has the password: WHERRY_PASSWORD. No flag.
    #[arg(skip)]
    pub environment: bool,
}

/// How an S3 server is reached, besides the usual AWS_* variables.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "S3 options")]
pub struct S3Flags {
    /// The server [env: AWS_ENDPOINT_URL]; http:// is taken as written
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub s3_endpoint: Option<String>,
    /// The region [env: AWS_REGION]
    #[arg(long, global = true, value_name = "REGION", hide_short_help = true)]
    pub s3_region: Option<String>,
    /// The profile of the AWS credentials file [env: AWS_PROFILE]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub s3_profile: Option<String>,
    /// Puts the bucket into the host name instead of the path
    #[arg(long, global = true, hide_short_help = true)]
    pub s3_virtual_host: bool,
    /// Trusts the certificate authorities of this PEM file, also for az:// and gs://
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub s3_ca_file: Option<PathBuf>,
    /// Does not check the server's certificate: anybody in between can delete your backups
    #[arg(long, global = true, hide_short_help = true)]
    pub s3_skip_verify: bool,
    /// How long to try again when the server does not answer as it should; a request on which nothing moves for a sixth of that (45 s
    /// at most) is given up, and sent again [default: 5m]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub retry_for: Option<Span>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a new repository
    Init(InitArgs),
    /// Takes a snapshot of a block device, a disk image, directories or standard input
    Backup(BackupArgs),
    /// Writes a snapshot to a block device, a file or a directory
    Restore(RestoreArgs),
    /// Writes a disk, or a file inside it or of a directory, to standard output
    Cat(CatArgs),
    /// Lists a directory, or the partitions of a disk and directories inside it
    Ls(LsArgs),
    /// Looks for files in a directory or inside a disk
    Find(FindArgs),
    /// Writes a directory, also one inside a disk, to standard output as a tar archive
    Dump(DumpArgs),
    /// Says which bytes of two disks, or which paths of two directories differ
    Diff(DiffArgs),
    /// Lists the snapshots
    Snapshots(SnapshotsArgs),
    /// Shows all there is to know about one snapshot
    Show(ShowArgs),
    /// Shows what the repository holds and how much room it takes
    Stats(StatsArgs),
    /// Mounts the snapshots read-only
    Mount(MountArgs),
    /// Looks for damage
    Check(CheckArgs),
    /// Makes again what can be made from the rest, and says what is lost
    Repair(RepairArgs),
    /// Marks snapshots for removal, by id or by a policy; can be undone until the delay is over
    Forget(ForgetArgs),
    /// Takes a forget back
    Unforget(UnforgetArgs),
    /// Keeps snapshots from being forgotten, by a policy or by name
    Pin(PinArgs),
    /// Lets pinned snapshots be forgotten again
    Unpin(UnpinArgs),
    /// Copies snapshots into another repository
    Copy(CopyArgs),
    /// Deletes what no snapshot needs any more
    Gc(GcArgs),
    /// Manages the passwords and key files that open the repository
    #[command(subcommand)]
    Key(KeyCommand),
    /// Adds what this version knows and the repository lacks; older versions may not open it then
    Upgrade(UpgradeArgs),
    /// Tests whether the storage keeps the promises that a repository rests on
    Probe(ProbeArgs),
    /// Measures how fast this machine and the storage of a repository are
    Bench(BenchArgs),
    /// Looks at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints a completion script for a shell
    Completions(CompletionsArgs),
    /// Writes the man pages to a folder
    Man(ManArgs),
    /// Moves the data of the volumes of one node of a cluster: of Velero's DataUploads and DataDownloads
    Agent(AgentArgs),
    /// Looks after the repository of one of Velero's BackupStorageLocations, as the controller of a cluster has it done
    #[command(subcommand)]
    Job(JobCommand),
    /// Waits for SIGTERM: the command of the pods that keep a volume published
    #[command(after_long_help = "\
Opens nothing and needs no right: while its pod runs, the kubelet keeps the pod's volume published.

Examples:
  wherry hold")]
    Hold,
}

/// A snapshot on the command line: an id, a prefix of one, `latest` or `latest:NAME`.
pub type Snap = SnapSpec;

#[cfg(test)]
#[path = "cli/tests.rs"]
mod tests;

//! The flags of each command, with its examples.

use super::{Compression, Percent, Size, Snap, Span, Tag, VolumeName};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::str::FromStr;

pub(super) const MAIN_EXAMPLES: &str = "\
Examples:
  export WHERRY_REPOSITORY=/srv/backup WHERRY_KEY_FILE=/root/wherry.key
  wherry init                                  a new repository; makes the key file
  wherry backup /dev/vg/vm1 --name vm1         a snapshot of a disk
  wherry snapshots                             what there is
  wherry mount /mnt                            look into any of them
  wherry restore latest:vm1 /dev/vg/vm1-new    a disk again

SNAP, where a command takes one, is an id of 32 hex digits, its first four or more, latest, or latest:NAME.
Sizes are bytes or K, M, G, T (of 1024); times are 30s, 5m, 12h, 7d, 2w.

Exit codes:
  0  done               10  no repository            14  no such snapshot
  1  failed             11  busy                     15  written by a newer version
  2  usage, or refused  12  wrong or missing key    130  ended by SIGINT
  3  finished, but      13  damage found            143  ended by SIGTERM
     some data was unreadable, or the snapshot is partial";

/// `wherry init`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Probes the storage first. An existing repository is left untouched (exit 1); a half-made one is finished.

Examples:
  wherry init --repo /srv/backup --key-file /root/wherry.key
  wherry init --repo s3://bucket/prefix --s3-endpoint https://s3.example.org --password-file /root/wherry.pw")]
pub struct InitArgs {
    /// For a storage that cannot serve several writers at once: one process at a time uses the repository
    #[arg(long)]
    pub single_writer: bool,
    /// The size of the pieces that disks are cut into: a power of two from 64K to 4M [default: 256K]
    #[arg(long, value_name = "SIZE")]
    pub chunk_size: Option<Size>,
}

/// What a backup reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceArg {
    /// A block device, a disk image or a directory.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

impl From<std::ffi::OsString> for SourceArg {
    fn from(text: std::ffi::OsString) -> Self {
        if text == "-" { Self::Stdin } else { Self::Path(text.into()) }
    }
}

/// Which snapshot a backup builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The newest whole one of the same volume.
    Auto,
    /// None: every chunk is looked up in the index.
    None,
    /// This one.
    Snap(Snap),
}

impl FromStr for Parent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            snap => snap.parse().map(Self::Snap),
        }
    }
}

/// `wherry backup`
#[derive(Args, Debug)]
#[command(after_long_help = "\
What is read should not change meanwhile: back up an LVM snapshot, or a disk whose guest is frozen. The same command \
after an interruption reads everything again, but uploads only what is not there yet.

Examples:
  wherry backup /dev/vg/vm1-snap --name vm1
  wherry backup /var/lib/libvirt/images/vm2.raw --tag cluster=prod --compression zstd
  ssh host cat /dev/sda | wherry backup - --name host.sda")]
pub struct BackupArgs {
    /// A block device, an image file, or - for standard input
    #[arg(value_name = "SOURCE")]
    pub source: SourceArg,
    /// The volume's name [default: HOSTNAME.LAST-PART-OF-THE-PATH]; needed for -
    #[arg(long, value_name = "NAME")]
    pub name: Option<VolumeName>,
    /// A tag; can be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
    /// The snapshot to build on: auto, none or SNAP [default: auto]
    #[arg(long, value_name = "SNAP")]
    pub parent: Option<Parent>,
    /// lz4, none, zstd or zstd:LEVEL [default: lz4]
    #[arg(long, value_name = "METHOD")]
    pub compression: Option<Compression>,
    /// Reads at most so many bytes per second
    #[arg(long, value_name = "SIZE")]
    pub limit_read: Option<Size>,
    /// Uploads at most so many bytes per second
    #[arg(long, value_name = "SIZE")]
    pub limit_upload: Option<Size>,
    /// Reads only the ranges listed in a file and takes the rest from the parent
    ///
    /// The list holds what changed since one snapshot, one range a line: offset and length in bytes, decimal; # begins a
    /// comment. What it leaves out is taken over unseen. Say which snapshot with --parent SNAP. With --parent auto it is
    /// taken to be the newest one of the volume; where it is not certain which one that is, it cannot be built upon, or the
    /// list names bytes that neither it nor SOURCE has, everything is read, and the result says why.
    #[arg(long, value_name = "FILE")]
    pub changed_blocks: Option<PathBuf>,
}

/// `wherry restore`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Refuses, before it writes, a target that is mounted or in use, too small, or not empty. A missing file is made. The \
same command after an interruption goes on where that one stopped.

Examples:
  wherry restore latest:vm1 /dev/vg/vm1-new --verify
  wherry restore 3f2a /tmp/disk.raw
  wherry restore latest:vm1 /dev/vg/vm1 --delta    writes only what differs from what is there")]
pub struct RestoreArgs {
    /// The snapshot
    pub snap: Snap,
    /// A block device or a file
    pub target: PathBuf,
    /// Overwrites a target that is not empty
    #[arg(long)]
    pub force: bool,
    /// Reads the target and writes only what differs
    #[arg(long)]
    pub delta: bool,
    /// Reads everything back from the medium afterwards and compares
    #[arg(long)]
    pub verify: bool,
    /// Says what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Takes a partial snapshot too; ends with exit code 3
    #[arg(long)]
    pub allow_partial: bool,
}

/// `wherry cat`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry cat latest:vm1 > disk.raw
  wherry cat latest:vm1 --length 1M | file -")]
pub struct CatArgs {
    /// The snapshot
    pub snap: Snap,
    /// The first byte [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub offset: Option<Size>,
    /// How many bytes [default: to the end]
    #[arg(long, value_name = "SIZE")]
    pub length: Option<Size>,
}

/// `wherry diff`
#[derive(Args, Debug)]
#[command(after_long_help = "\
One range a line, offset and length in bytes, in whole chunks: what `wherry backup --changed-blocks` takes.
It compares what is recorded of the disks and reads none of their data.

Examples:
  wherry diff 3f2a91c0 latest:vm1
  wherry diff 3f2a91c0 latest:vm1 --json")]
pub struct DiffArgs {
    /// The one snapshot
    #[arg(value_name = "OLD")]
    pub old: Snap,
    /// The other one
    #[arg(value_name = "NEW")]
    pub new: Snap,
}

/// Which snapshots are meant, by what they are of.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Only snapshots of this volume
    #[arg(long, value_name = "NAME")]
    pub name: Option<VolumeName>,
    /// Only snapshots with this tag; several: with all of them
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub tags: Vec<Tag>,
}

/// `wherry snapshots`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry snapshots --name vm1
  wherry snapshots --tag cluster=prod --json")]
pub struct SnapshotsArgs {
    /// Which ones.
    #[command(flatten)]
    pub filter: Filter,
    /// Lists the forgotten ones instead, and when they go
    #[arg(long)]
    pub forgotten: bool,
}

/// `wherry show`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry show latest:vm1
  wherry show 3f2a --json")]
pub struct ShowArgs {
    /// The snapshot
    pub snap: Snap,
}

/// `wherry stats`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry stats
  wherry stats --json")]
pub struct StatsArgs {}

/// `wherry mount`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Returns as soon as DIR answers. `umount DIR` or SIGTERM ends it. Where somebody uses it, SIGTERM leaves it mounted and a \
line on standard error says who. A mount that stays in the background keeps standard error where that is a terminal, a \
file or the journal; else its lines go to mount-PID.log in the cache folder, and the first line names that file.

Examples:
  wherry mount /mnt && ls /mnt/by-volume/vm1
  wherry mount /mnt latest:vm1
  losetup -rP --find --show /mnt/by-volume/vm1/latest/disk.raw
  mount -o ro,noload /dev/loop0p1 /media    (xfs: ro,norecovery,nouuid)")]
pub struct MountArgs {
    /// An empty folder
    pub dir: PathBuf,
    /// Only this snapshot
    pub snap: Option<Snap>,
    /// Stays in the foreground
    #[arg(long)]
    pub foreground: bool,
    /// Lets other users in
    #[arg(long)]
    pub allow_other: bool,
}

/// `wherry check`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Without --read-data it verifies keys, records, maps and that every pack is there, and says what it did not read.

Examples:
  wherry check
  wherry check latest:vm1 --read-data
  wherry check --read-data --sample 10% --max-age 30d")]
pub struct CheckArgs {
    /// Only what these snapshots need [default: everything]
    #[arg(value_name = "SNAP")]
    pub snaps: Vec<Snap>,
    /// Reads and verifies the data of the disks too
    #[arg(long)]
    pub read_data: bool,
    /// Reads only such a share of the data, another one each time; with --read-data
    #[arg(long, value_name = "PERCENT")]
    pub sample: Option<Percent>,
    /// Reads only packs last read, or written, longer ago; with --read-data
    #[arg(long, value_name = "TIME")]
    pub max_age: Option<Span>,
}

/// Which snapshots a policy keeps. Periods are those of the local time zone.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Policy")]
pub struct KeepFlags {
    /// Keeps the newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keeps the newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// ... of N days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// ... of N weeks (they begin on Monday)
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// ... of N months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// ... of N years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Keeps all not older than this, counted back from the newest of the volume
    #[arg(long, value_name = "TIME")]
    pub keep_within: Option<Span>,
}

/// `wherry forget`
#[derive(Args, Debug)]
#[command(after_long_help = "\
A forgotten snapshot can be had back with `wherry unforget` until the delay is over. A policy works on each volume by \
itself. Partial snapshots and those dated in the future never count. A policy that would drop more than 10 snapshots \
and more than half of those it is about, in one run, is refused (exit 2) without --force.

Examples:
  wherry forget 3f2a 77c0
  wherry forget --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  wherry forget --name vm1 --keep-within 30d")]
pub struct ForgetArgs {
    /// These snapshots
    #[arg(value_name = "SNAP")]
    pub snaps: Vec<Snap>,
    /// The policy.
    #[command(flatten)]
    pub keep: KeepFlags,
    /// Which ones.
    #[command(flatten)]
    pub filter: Filter,
    /// How long it can be undone [default: 7d]
    #[arg(long, value_name = "TIME")]
    pub delay: Option<Span>,
    /// Says which snapshots would stay and go, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Lets a policy drop more than 10 snapshots that are more than half of all
    #[arg(long)]
    pub force: bool,
}

/// `wherry unforget`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry snapshots --forgotten
  wherry unforget 3f2a")]
pub struct UnforgetArgs {
    /// The snapshots to have back
    #[arg(value_name = "SNAP", required = true)]
    pub snaps: Vec<Snap>,
}

/// `wherry key`
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  wherry key list
  wherry key add --new-key-file /root/second.key
  wherry key passwd")]
pub enum KeyCommand {
    /// Lists the passwords and key files that open the repository
    #[command(after_long_help = "Examples:\n  wherry key list\n  wherry key list --json")]
    List,
    /// Adds a password or key file
    #[command(after_long_help = "\
Examples:
  wherry key add                                   asks for the new password
  wherry key add --new-password-file /root/new.pw
  wherry key add --new-key-file /root/second.key   a missing file is made")]
    Add(NewKeyArgs),
    /// Removes one of them, but never the last
    #[command(after_long_help = "Examples:\n  wherry key remove 5b0c9d3e")]
    Remove {
        /// The slot, as `wherry key list` shows it, or the beginning of it
        slot: String,
    },
    /// Replaces the one in use
    #[command(after_long_help = "\
Examples:
  wherry key passwd
  wherry key passwd --new-password-file /root/new.pw")]
    Passwd(NewKeyArgs),
}

/// Where the new password or key comes from; without any, it is asked for on the terminal.
#[derive(Args, Clone, Debug, Default)]
pub struct NewKeyArgs {
    /// Reads the new password from a file
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pub new_password_file: Option<PathBuf>,
    /// The new key file; a missing one is made
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,
}

/// `wherry probe`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Writes and deletes objects of its own beside the repository; the place may be empty. Ends with 0 when several writers \
can share the storage, else with 1 and what is missing.

Examples:
  wherry probe --repo s3://bucket/prefix --s3-endpoint http://127.0.0.1:8333")]
pub struct ProbeArgs {}

/// `wherry config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Reads the configuration files as any command would and shows what came of them
    #[command(after_long_help = crate::config::HELP)]
    Check,
}

/// `wherry completions`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry completions bash > /etc/bash_completion.d/wherry
  wherry completions zsh > \"${fpath[1]}/_wherry\"")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `wherry man`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// A folder; a missing one is made
    pub dir: PathBuf,
}

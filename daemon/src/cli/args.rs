//! The flags of each command, with its examples.

use super::{Compression, Percent, Rate, Size, Snap, Span, Tag, VolumeName};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub(super) const MAIN_EXAMPLES: &str = "\
Examples:
  export WHERRY_REPOSITORY=/srv/backup WHERRY_KEY_FILE=/root/wherry.key
  wherry init                                  a new repository; makes the key file
  wherry backup /dev/vg/vm1 --name vm1         a snapshot of a disk
  wherry snapshots                             what there is
  wherry mount /mnt                            look into any of them
  wherry cat latest:vm1 /p1/etc/hostname       a file inside a disk
  wherry restore latest:vm1 /dev/vg/vm1-new    a disk again

SNAP, where a command takes one, is an id of 32 hex digits, its first four or more, latest, or latest:NAME. Where it is not \
certain which one that is, as after a clock that was wrong, latest is an error.
Sizes are bytes or K, M, G, T (of 1024); times are 30s, 5m, 12h, 7d, 2w.

Exit codes:
  0  done               10  no repository            14  no such snapshot
  1  failed             11  busy                     15  written by a newer version
  2  usage, or refused  12  wrong or missing key    129  ended by SIGHUP
  3  finished, but      13  damage found            130  ended by SIGINT
     some data was unreadable, or                   143  ended by SIGTERM
     the snapshot is partial";

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

A pipe does not tell how the command before it ended: what came until it died is a whole snapshot, the next parent and \
`latest`. With --size it is none.

Examples:
  wherry backup /dev/vg/vm1-snap --name vm1
  wherry backup /var/lib/libvirt/images/vm2.raw --tag cluster=prod --compression zstd
  wherry backup /srv/www --exclude '*.tmp' --exclude-caches
  ssh host cat /dev/sda | wherry backup - --name host.sda --size \"$(ssh host blockdev --getsize64 /dev/sda)\"")]
pub struct BackupArgs {
    /// A block device, an image file, a directory, or - for standard input
    #[arg(value_name = "SOURCE")]
    pub source: SourceArg,
    /// The volume's name [default: HOSTNAME.LAST-PART-OF-THE-PATH]; needed for -
    #[arg(long, value_name = "NAME")]
    pub name: Option<VolumeName>,
    /// How long standard input (-) must be: if it ends sooner or later, nothing is committed
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,
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
    pub limit_read: Option<Rate>,
    /// Uploads at most so many bytes per second
    #[arg(long, value_name = "SIZE")]
    pub limit_upload: Option<Rate>,
    /// Reads only the ranges listed in a file and takes the rest from the parent
    ///
    /// The list holds what changed since one snapshot, one range a line: offset and length in bytes, decimal; # begins a
    /// comment. What it leaves out is taken over unseen. Say which snapshot with --parent SNAP. With --parent auto it is
    /// taken to be the newest one of the volume; where it is not certain which one that is, it cannot be built upon, or the
    /// list names bytes that neither it nor SOURCE has, everything is read, and the result says why.
    #[arg(long, value_name = "FILE")]
    pub changed_blocks: Option<PathBuf>,
    /// What only the backup of a directory has.
    #[command(flatten)]
    pub tree: TreeArgs,
}

/// What only the backup of a directory has.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "For a directory")]
pub struct TreeArgs {
    /// Leaves out what matches, as a line of a gitignore file would; can be given several times
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<OsString>,
    /// Leaves out what is in directories with a CACHEDIR.TAG, but for that
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leaves out what is in directories that have this name in them, but for that; can be given several times
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<OsString>,
    /// Enters other filesystems that are mounted below
    #[arg(long)]
    pub all_filesystems: bool,
    /// A file is the one it was although its inode number differs: for filesystems that number anew at each mount
    #[arg(long)]
    pub ignore_inode: bool,
    /// Reads every file, also those that look as they did in the parent
    #[arg(long)]
    pub force_read: bool,
}

impl TreeArgs {
    /// The first of them that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (!self.exclude.is_empty(), "--exclude"),
            (self.exclude_caches, "--exclude-caches"),
            (!self.exclude_if_present.is_empty(), "--exclude-if-present"),
            (self.all_filesystems, "--all-filesystems"),
            (self.ignore_inode, "--ignore-inode"),
            (self.force_read, "--force-read"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}

/// `wherry restore`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Refuses, before it writes, a target that is mounted or in use, too small, or not empty, and a device that is not there. A missing \
file is made. The same command after an interruption goes on where that one stopped, unless the target was used for \
something else since, which is seen where filesystems and tables of partitions begin (not inside of LVM or LUKS). The \
repository, key file, password file and cache in use are never written into or removed: where the target has them in it they \
stay and are named. Of a directory, what the repository has lost is left out and named, and all else is restored (exit 13); \
of a disk the first such place ends it, and going on when that is healed takes --delta.

Examples:
  wherry restore latest:vm1 /dev/vg/vm1-new --verify
  wherry restore 3f2a /tmp/disk.raw
  wherry restore latest:www /srv/www-new
  wherry restore latest:www /tmp/out var/log etc/hosts    only these
  wherry restore latest:vm1 /dev/vg/vm1 --delta    writes only what differs from what is there")]
pub struct RestoreArgs {
    /// The snapshot
    pub snap: Snap,
    /// A block device or a file; of a directory's snapshot a directory
    pub target: PathBuf,
    /// Of a directory's snapshot: only what is under these paths
    #[arg(value_name = "PATH")]
    pub paths: Vec<OsString>,
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
    /// What happens to files that are there
    #[arg(long, value_name = "WHEN", help_heading = "For a directory")]
    pub overwrite: Option<OverwriteArg>,
    /// Removes from the target what the snapshot does not have
    #[arg(long, help_heading = "For a directory")]
    pub delete: bool,
    /// Owners by number, also where the system knows their names
    #[arg(long, help_heading = "For a directory")]
    pub numeric_ids: bool,
}

impl RestoreArgs {
    /// The first of what is for directories alone that was given.
    pub fn tree_only(&self) -> Option<&'static str> {
        let given = [
            (!self.paths.is_empty(), "PATH"),
            (self.overwrite.is_some(), "--overwrite"),
            (self.delete, "--delete"),
            (self.numeric_ids, "--numeric-ids"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}

/// What happens to files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OverwriteArg {
    /// They stay
    Never,
    /// They are replaced when the snapshot's is newer
    IfNewer,
    /// They are replaced
    Always,
}

/// `wherry diff`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Of disks one range a line, offset and length in bytes, in whole chunks: what `wherry backup --changed-blocks` takes.
It compares what is recorded of the disks and reads none of their data.
Of directories one path a line, after + (only NEW has it), - (only OLD has it), M (another kind, content, target or device), \
m (only metadata; neither inode numbers nor ctimes count) or ? (not compared: something of it could not be read when OLD or NEW \
was made, and of a directory what only the other one has). Equal directories are not entered.

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
Returns as soon as DIR answers. `umount DIR` or SIGTERM ends it, and with --foreground the end of its terminal. Where somebody uses it, SIGTERM leaves it mounted and a \
line on standard error says who. A mount that stays in the background keeps standard error where that is a terminal, a \
file or the journal; else its lines go to mount-PID.log in the cache folder, and the first line names that file.

A folder of a volume has its snapshots by their times, and `latest`, which leads nowhere while it is not certain which one that is. \
A disk is disk.raw, a directory is below files/, with its owners, modes, times, attributes and links. With --allow-other \
each user may do there what modes and ACLs allow, and read all disks. Where SELinux is on, the kernel answers for \
security.selinux itself.

Examples:
  wherry mount /mnt && ls /mnt/by-volume/vm1
  rsync -aHAX /mnt/by-volume/home/latest/files/ /home/
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
Without --read-data it verifies keys, records, maps and that every pack is there, and says what it did not read. \
What an earlier check has found damaged is read again in any case.
What was read is noted in the repository: --max-age leaves out what was read lately, and --sample takes what was never read, \
then what was read longest ago. So `--read-data --max-age 30d --sample 5%`, run every day, reads everything once a month. \
`wherry snapshots` and `wherry show` say since when all of a snapshot is verified.

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
    /// Reads only such a share of all data, what was read longest ago first; with --read-data
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
itself. Partial snapshots and those dated in the future never count. Partial ones that are newer than each whole one stay, however many there \
are, until a whole one comes. Nor do those count that `wherry check` has found damaged (`damaged`): they stay while no intact one is newer, and where a \
rule would keep them if they were intact, and take no place from one that is. What was made last stays whatever its time says (`newest`: it was built upon the one with the latest time, \
or ended after it; a clock is wrong, or was). Pinned ones stay (see `wherry pin`). A policy that would drop more \
than 10 snapshots and more than half of those it is about in one run, or of one volume so that fewer than 3 whole ones are left, is \
refused (exit 2) without --force.

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
    /// Lets a policy drop more than half of all, or nearly all of a volume
    #[arg(long)]
    pub force: bool,
}

/// `wherry pin`
#[derive(Args, Debug)]
#[command(after_long_help = "\
A pinned snapshot stays: no --keep-* policy drops it, and `wherry forget` of it is refused until `wherry unpin`.

Examples:
  wherry pin latest:vm1
  wherry pin 3f2a 77c0")]
pub struct PinArgs {
    /// The snapshots to keep
    #[arg(value_name = "SNAP", required = true)]
    pub snaps: Vec<Snap>,
}

/// `wherry unpin`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  wherry unpin 3f2a")]
pub struct UnpinArgs {
    /// The snapshots that need not stay
    #[arg(value_name = "SNAP", required = true)]
    pub snaps: Vec<Snap>,
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

/// `wherry gc`
#[derive(Args, Debug)]
#[command(after_long_help = "\
What no snapshot needs any more is deleted: that of snapshots whose delay of `wherry forget` is over, and of runs that were \
broken off. Backups, restores and mounts may run meanwhile, also on other machines, and so may other collectors. What is \
condemned is deleted when every backup under way has heard of it and --grace is over, mostly by the next run; so run it by a \
timer, once a day. It can be ended at any moment: the next run goes on.

A backup that gave no sign of life for --fence-after counts as dead and loses its run; one that lives is waited for, five \
minutes at most, then the run ends (exit 0), says whom it waits for, and the next one goes on. When anything cannot be read \
that leads to what is kept, nothing is condemned (exit 13); nor goes what may be an intact copy of what turns out to be damaged \
while it works (also exit 13). What could not be deleted is tried again by the next run (exit 1).

With --rewrite what was stored before the last `wherry key rotate` is sealed anew, 64 GiB by one run, and deleted as all else \
is: until then it takes its room twice. On a disk one run takes half of what is free at most; the next ones go on. What is moved \
so is looked for by name, which takes 64 bytes of --memory a chunk here, and the next backup of each volume reads all of its source once, and stores nothing of it again. A pack in which something is damaged \
stays under its old key until no snapshot refers to it.

Examples:
  wherry gc --dry-run
  wherry gc --rewrite --dry-run
  wherry gc
  wherry forget 3f2a --delay 0s; wherry gc --grace 0s --fence-after 0s  deletes at once; no backup must be under way")]
pub struct GcArgs {
    /// Says what would be condemned, and writes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Seals anew what is stored under an older key than that of the last `wherry key rotate`
    #[arg(long)]
    pub rewrite: bool,
    /// How long what was condemned stays for readers that cannot say that they are there [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Span>,
    /// How long a backup may be silent before it is ended [default: 2h]
    #[arg(long, value_name = "TIME")]
    pub fence_after: Option<Span>,
}

/// `wherry probe`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Writes and deletes objects of its own beside the repository; the place may be empty. Ends with 0 when several writers \
can share the storage, else with 1 and what is missing.

Examples:
  wherry probe --repo s3://bucket/prefix --s3-endpoint http://127.0.0.1:8333")]
pub struct ProbeArgs {}

/// `wherry bench`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Half a minute with the usual settings; no password is needed. Without a repository only the machine is measured. \
Objects of its own are written beside those of the repository, and removed again, after a failure or SIGINT too.

Compression is that of a backup, which decodes what it has compressed and compares; the data is such that half of it can \
be compressed away. Packs and ranges are as many at a time, and as large, as in a backup or restore with this --memory.

Examples:
  wherry bench
  wherry bench --repo s3://bucket/prefix --size 256M
  wherry bench --repo /srv/backup --seconds 5 --json")]
pub struct BenchArgs {
    /// How long each row takes, such as 5 or 0.5 [default: 2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// The most that is written to the storage at a time [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<Size>,
}

/// A number of seconds above 0, at most an hour.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: Option<f64> = text.parse().ok().filter(|n| *n > 0.0 && *n <= 3600.0);
    number.map(Duration::from_secs_f64).ok_or_else(|| format!("{text:?} is no number of seconds above 0, up to 3600"))
}

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

//! The flags of the commands that look into a snapshot, with their examples.

use super::{Size, Snap};
use clap::Args;
use std::ffi::OsString;

/// `wherry cat`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Without PATH it is the disk itself. Inside, paths begin with a partition: see `wherry ls --help`; of a disk image in a \
directory with its own path.

Examples:
  wherry cat latest:vm1 > disk.raw
  wherry cat latest:vm1 --length 1M | file -
  wherry cat latest:vm1 /p1/etc/hostname
  wherry cat latest:home /user/notes.txt
  wherry cat latest:vms /vm1/disk.img/p1/etc/hostname")]
pub struct CatArgs {
    /// The snapshot
    pub snap: Snap,
    /// A file of the directory, or inside the disk [default: the disk]
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    /// The first byte [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub offset: Option<Size>,
    /// How many bytes [default: to the end]
    #[arg(long, value_name = "SIZE")]
    pub length: Option<Size>,
}

/// `wherry ls`
#[derive(Args, Debug)]
#[command(after_long_help = "\
The top of a disk shows disk.raw, the disk itself, and p1, p2, .. for its partitions by number (MBR with logical ones from \
p5 on, GPT); p0 is a disk that is one filesystem from its first byte on. ext2, ext3, ext4 and FAT are read; for xfs, NTFS, \
btrfs, LVM, LUKS and others, `wherry ls` of the partition says which commands open them. Links are not followed.
A disk image in a snapshot of a directory is gone into in the same way: its path, then p1. With a / behind its path the \
partitions are shown. Times inside FAT are taken for UTC. What is in a name of control characters, of those that set the \
direction of text, and of bytes that are not UTF-8 is shown as \\xHH, and a backslash as two: so do all commands and warnings.

Examples:
  wherry ls latest:vm1                    the partitions and what is in them
  wherry ls latest:vm1 /p1/etc
  wherry ls latest:vm1 /p1/etc/ssh -R --json
  wherry ls latest:home /user             a directory of a snapshot of one
  wherry ls latest:vms /vm1/disk.img/     the partitions of a disk image in it")]
pub struct LsArgs {
    /// The snapshot
    pub snap: Snap,
    /// A directory or file inside [default: /]
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    /// Goes on into the directories below
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

/// `wherry find`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Prints the paths of PATH and of all below it, one a line. From the top of a disk it goes through all partitions that can be \
read, and says which cannot.

Examples:
  wherry find latest:vm1 /p1/etc --name '*.conf'
  wherry find latest:vm1 --name hostname --json
  wherry find latest:home --name '*.txt'")]
pub struct FindArgs {
    /// The snapshot
    pub snap: Snap,
    /// Where to begin [default: /]
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    /// Only names that match: * is any text, ? one character, [abc] and [!a-z] one of a set, \ takes the next as it is
    // The text is shown by --help as it stands here.
    #[allow(rustdoc::broken_intra_doc_links)]
    #[arg(long, value_name = "GLOB")]
    pub name: Option<OsString>,
}

/// `wherry dump`
#[derive(Args, Debug)]
#[command(after_long_help = "\
A POSIX archive (pax): names, modes, owners, times, links; of snapshots of directories also extended attributes, ACLs, \
devices and holes. Names in it begin below PATH. GNU tar gives the tree back with --numeric-owner --xattrs \
--xattrs-include='*' --acls --selinux -xp, as root. What is left out is said on standard error: sockets, inode flags; of a \
directory inside a disk extended attributes, ACLs and devices. A file that cannot be read from its first byte on is left out; \
where reading ends further on, zeros stand in place of the rest. The exit code is 3 then, or 13 where the repository has lost it.

Examples:
  wherry dump latest:vm1 /p1/etc | tar -tv
  wherry dump latest:home | tar --numeric-owner --xattrs --xattrs-include='*' --acls --selinux -xp -C /home
  wherry dump latest:vm1 /p1/home | tar --numeric-owner -xp -C /home")]
pub struct DumpArgs {
    /// The snapshot
    pub snap: Snap,
    /// A directory or file inside [default: /]
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
}

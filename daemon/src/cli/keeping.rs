//! The flags of the commands that keep a repository in order: `key`, `repair`, `upgrade`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

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
One that opens a slot already is refused (exit 2).

Examples:
  wherry key add                                   asks for the new password
  wherry key add --new-password-file /root/new.pw
  wherry key add --new-key-file /root/second.key   a missing file is made")]
    Add(NewKeyArgs),
    /// Removes one of them, but never the last
    #[command(after_long_help = "Examples:\n  wherry key remove 5b0c9d3e")]
    Remove {
        /// The slot, as `wherry key list` shows it, or at least the first 4 digits of it
        slot: String,
    },
    /// Replaces the one in use
    #[command(after_long_help = "\
Examples:
  wherry key passwd
  wherry key passwd --new-password-file /root/new.pw")]
    Passwd(NewKeyArgs),
    /// Seals what is stored from now on under a new data key; what is there stays readable
    #[command(after_long_help = "\
Every password and key file stays and opens old and new, so that of each but the one in use is needed here. Who had one that \
was removed before cannot read the data that is stored from now on; names, times and tags of snapshots he still could. Backups that are running go on under the old key. Builds that do not \
know key epochs refuse to open the repository from then on (exit 15).

Examples:
  wherry key rotate
  wherry key rotate --rewrite; wherry gc --rewrite     the second one when the grace of a day is over
  wherry key rotate --slot-key-file /root/second.key --slot-password-file /root/other.pw")]
    Rotate(RotateArgs),
}

/// `wherry key rotate`
#[derive(Args, Clone, Debug, Default)]
pub struct RotateArgs {
    /// Seals what is stored already anew, too: as `wherry gc --rewrite` does, which goes on with what is left
    #[arg(long)]
    pub rewrite: bool,
    /// The password of another slot; can be given several times
    #[arg(long = "slot-password-file", value_name = "FILE")]
    pub slot_password_files: Vec<PathBuf>,
    /// The key file of another slot; can be given several times
    #[arg(long = "slot-key-file", value_name = "FILE")]
    pub slot_key_files: Vec<PathBuf>,
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

/// `wherry upgrade`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Features come to a repository when they are first used: nobody needs this command for them. It adds them all at once, so that \
it is known from then on which versions of wherry work with the repository. Said a second time it changes nothing.

Examples:
  wherry upgrade
  wherry upgrade --json")]
pub struct UpgradeArgs {}

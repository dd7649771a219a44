//! The flags of `repair`, which may have a second repository.

use super::{CredentialFlags, S3Flags, ToS3Flags};
use clap::Args;
use std::path::PathBuf;

/// `wherry repair`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Makes the index of the repository again where it is lost or damaged, from the packs themselves, and then checks everything. \
It never changes a snapshot: what is damaged stays so, and is named, with what of which snapshot it hits (exit 13). What a \
pack has lost comes back when the next backup of a volume still finds it at its source, or from another repository that has \
the same data. A damaged newest configuration, whose content is certain, it writes anew.

With --from, what snapshots refer to and no pack has is looked for there: in copies that `wherry copy` made, in the original of \
a copy, in other backups of the same volumes. It is taken only if its content is what is missing here, bit for bit. Parts of \
maps and trees are made again from a snapshot that has the same content. Records of snapshots are not. Damage in the chunks \
themselves is known after `wherry check --read-data`, or with --read-data here. What is stored is read back before it counts. \
Nothing is written to the other repository but the note that it is being read. A mirror of this repository, with the same uuid, is \
refused: copy the damaged objects from there, by their names. Exit 0: all that snapshots refer to is there, \
as far as was looked; 13: something is still lost, or, with --dry-run, is lost now.

Examples:
  wherry repair
  wherry repair --read-data --json
  wherry repair --from /mnt/usb/repo --from-key-file /root/usb.key --dry-run
  wherry repair --from s3://offsite/prefix --from-password-file /root/offsite.pw --read-data")]
pub struct RepairArgs {
    /// Reads and verifies the data of the disks too
    #[arg(long)]
    pub read_data: bool,
    /// Takes what is lost from this repository
    #[arg(long, value_name = "REPO")]
    pub from: Option<String>,
    /// Looks at all snapshots there, chunk by chunk, whatever volume they are of
    #[arg(long, requires = "from")]
    pub all: bool,
    /// Says what could be taken, and stores nothing
    #[arg(long, requires = "from")]
    pub dry_run: bool,
    /// The password or key of that one.
    #[command(flatten)]
    pub credential: FromCredentialFlags,
    /// How that one is reached.
    #[command(flatten)]
    pub s3: FromS3Flags,
}

/// Where the password or key of the repository that is taken from comes from; as [`CredentialFlags`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The repository of --from")]
pub struct FromCredentialFlags {
    /// Reads its password from a file [env: WHERRY_FROM_PASSWORD holds the password itself and wins over WHERRY_FROM_KEY_FILE]
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_password_file: Option<PathBuf>,
    /// Reads its password from the output of a shell command
    #[arg(long, value_name = "COMMAND", requires = "from")]
    pub from_password_command: Option<String>,
    /// Opens it with a key file instead of a password [env: WHERRY_FROM_KEY_FILE]
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_key_file: Option<PathBuf>,
    /// The environment has the password: WHERRY_FROM_PASSWORD. No flag.
    #[arg(skip)]
    pub environment: bool,
}

impl FromCredentialFlags {
    /// Whether any source is named.
    pub fn is_given(&self) -> bool {
        self.clone().flags().is_given()
    }

    /// As those of the repository that is repaired.
    pub fn flags(self) -> CredentialFlags {
        let Self { from_password_file, from_password_command, from_key_file, environment } = self;
        CredentialFlags {
            password_file: from_password_file,
            password_command: from_password_command,
            key_file: from_key_file,
            environment,
        }
    }
}

/// How an S3 server of the repository that is taken from is reached, where that is not as the other one is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The repository of --from")]
pub struct FromS3Flags {
    /// Its server [default: that of --s3-endpoint]
    #[arg(long, value_name = "URL", hide_short_help = true, requires = "from")]
    pub from_s3_endpoint: Option<String>,
    /// Its region [default: that of --s3-region]
    #[arg(long, value_name = "REGION", hide_short_help = true, requires = "from")]
    pub from_s3_region: Option<String>,
    /// Its profile of the AWS credentials file [default: that of --s3-profile]
    #[arg(long, value_name = "NAME", hide_short_help = true, requires = "from")]
    pub from_s3_profile: Option<String>,
    /// Trusts the certificate authorities of this PEM file there [default: that of --s3-ca-file, without --from-s3-endpoint]
    #[arg(long, value_name = "FILE", hide_short_help = true, requires = "from")]
    pub from_s3_ca_file: Option<PathBuf>,
    /// Does not check its certificate [default: as --s3-skip-verify, without --from-s3-endpoint]
    #[arg(long, hide_short_help = true, requires = "from")]
    pub from_s3_skip_verify: bool,
}

impl FromS3Flags {
    /// With those of the repository that is repaired where nothing else is said, by the rules of [`ToS3Flags::over`].
    pub fn over(&self, from: &S3Flags) -> S3Flags {
        let Self { from_s3_endpoint, from_s3_region, from_s3_profile, from_s3_ca_file, from_s3_skip_verify } =
            self.clone();
        let other = ToS3Flags {
            to_s3_endpoint: from_s3_endpoint,
            to_s3_region: from_s3_region,
            to_s3_profile: from_s3_profile,
            to_s3_ca_file: from_s3_ca_file,
            to_s3_skip_verify: from_s3_skip_verify,
        };
        other.over(from)
    }
}

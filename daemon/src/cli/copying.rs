//! The flags of `copy`, which has two repositories.

use super::{Compression, CredentialFlags, Filter, Rate, S3Flags, Snap};
use clap::Args;
use std::path::PathBuf;

/// `wherry copy`
#[derive(Args, Debug)]
#[command(after_long_help = "\
Copies what the repository has to the one of --to, which `wherry init` has made: sealed anew with the keys of that one, and \
bit for bit the same when it is restored. Time, tags, name, and what is missing in a partial snapshot stay; ids are new. What \
was copied before is known by its origin (`wherry show`) until it is gone for good; what an older copy has is not read \
again. The same command after an interruption goes on. A snapshot that is damaged is not copied: the others are, exit 13. \
Without a password or key of its own named, the other repository is opened with that of this one.

Examples:
  wherry copy --to /mnt/usb/repo --to-key-file /root/usb.key
  wherry copy --to s3://offsite/prefix --to-s3-endpoint https://s3.example.org --to-password-file /root/offsite.pw latest:vm1
  WHERRY_TO_KEY_FILE=/root/usb.key wherry copy --to /mnt/usb/repo --tag cluster=prod --json")]
pub struct CopyArgs {
    /// These snapshots [default: all that are not forgotten]
    #[arg(value_name = "SNAP")]
    pub snaps: Vec<Snap>,
    /// The repository to copy into
    #[arg(long, value_name = "REPO")]
    pub to: Option<String>,
    /// The password or key of that one.
    #[command(flatten)]
    pub credential: ToCredentialFlags,
    /// How that one is reached.
    #[command(flatten)]
    pub s3: ToS3Flags,
    /// Which ones.
    #[command(flatten)]
    pub filter: Filter,
    /// lz4, none, zstd or zstd:LEVEL, whatever the original has [default: lz4]
    #[arg(long, value_name = "METHOD")]
    pub compression: Option<Compression>,
    /// Uploads at most so many bytes per second
    #[arg(long, value_name = "SIZE")]
    pub limit_upload: Option<Rate>,
}

/// Where the password or key of the repository that is copied into comes from; as [`CredentialFlags`].
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The repository of --to")]
pub struct ToCredentialFlags {
    /// Reads its password from a file [env: WHERRY_TO_PASSWORD holds the password itself and wins over WHERRY_TO_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub to_password_file: Option<PathBuf>,
    /// Reads its password from the output of a shell command
    #[arg(long, value_name = "COMMAND")]
    pub to_password_command: Option<String>,
    /// Opens it with a key file instead of a password [env: WHERRY_TO_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub to_key_file: Option<PathBuf>,
    /// The environment has the password: WHERRY_TO_PASSWORD. No flag.
    #[arg(skip)]
    pub environment: bool,
}

impl ToCredentialFlags {
    /// Whether any source is named.
    pub fn is_given(&self) -> bool {
        self.clone().flags().is_given()
    }

    /// As those of the repository that is copied from.
    pub fn flags(self) -> CredentialFlags {
        let Self { to_password_file, to_password_command, to_key_file, environment } = self;
        CredentialFlags {
            password_file: to_password_file,
            password_command: to_password_command,
            key_file: to_key_file,
            environment,
        }
    }
}

/// How an S3 server of the repository that is copied into is reached, where that is not as the other one is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The repository of --to")]
pub struct ToS3Flags {
    /// Its server [default: that of --s3-endpoint]
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub to_s3_endpoint: Option<String>,
    /// Its region [default: that of --s3-region]
    #[arg(long, value_name = "REGION", hide_short_help = true)]
    pub to_s3_region: Option<String>,
    /// Its profile of the AWS credentials file [default: that of --s3-profile]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub to_s3_profile: Option<String>,
    /// Trusts the certificate authorities of this PEM file there [default: that of --s3-ca-file, without --to-s3-endpoint]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub to_s3_ca_file: Option<PathBuf>,
    /// Does not check its certificate [default: as --s3-skip-verify, without --to-s3-endpoint]
    #[arg(long, hide_short_help = true)]
    pub to_s3_skip_verify: bool,
}

impl ToS3Flags {
    /// With those of the repository that is copied from where nothing else is said. Whom to trust is said of one server, and
    /// does not hold for another.
    pub fn over(&self, from: &S3Flags) -> S3Flags {
        let Self { to_s3_endpoint, to_s3_region, to_s3_profile, to_s3_ca_file, to_s3_skip_verify } = self.clone();
        let mut from = from.clone();
        if to_s3_endpoint.is_some() {
            (from.s3_ca_file, from.s3_skip_verify) = (None, false);
        }
        S3Flags {
            s3_endpoint: to_s3_endpoint.or(from.s3_endpoint),
            s3_region: to_s3_region.or(from.s3_region),
            s3_profile: to_s3_profile.or(from.s3_profile),
            s3_ca_file: to_s3_ca_file.or(from.s3_ca_file),
            s3_skip_verify: to_s3_skip_verify || from.s3_skip_verify,
            ..from
        }
    }
}

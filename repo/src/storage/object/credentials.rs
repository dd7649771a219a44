//! Whose requests they are: a profile named on the command line, keys in the environment, a profile, or the role of the
//! machine, in this order. Files are read again when they change, so that credentials that are renewed while a backup
//! runs are used.

use super::role::{NotGiven, Role};
use super::s3::Environment;
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Files that changed so short a time ago are read again the next time.
const YOUNG: Duration = Duration::from_secs(2);
/// For so long keys are used that the files held before, and do not hold now.
const KEPT: Duration = Duration::from_secs(10);

/// Variables by which a user names who gives credentials.
const SERVERS: [&str; 4] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
];

/// There are no credentials, or unusable ones.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Missing(String);

impl Missing {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// What a profile says besides its secrets.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

/// A profile in the two files of the AWS tools.
#[derive(Debug)]
pub(super) struct Profile {
    name: String,
    /// Asked for by name, so it must exist.
    named: bool,
    /// Given as an option, so it goes before keys in the environment.
    first: bool,
    /// The credentials file, then the config file.
    files: [PathBuf; 2],
}

impl Profile {
    pub(super) fn new(option: Option<String>, env: &Environment) -> Self {
        let set = |name: &str| env.get(name);
        let first = option.is_some();
        let named = option.or_else(|| set("AWS_PROFILE"));
        let home = PathBuf::from(set("HOME").unwrap_or_else(|| "/root".into()));
        let file = |name: &str, default: &str| set(name).map_or_else(|| home.join(default), PathBuf::from);
        let files = [file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), file("AWS_CONFIG_FILE", ".aws/config")];
        Self { named: named.is_some(), name: named.unwrap_or_else(|| "default".into()), first, files }
    }

    /// Region and endpoint of the profile.
    pub(super) fn settings(&self) -> Result<Settings> {
        let mut values = self.values().map_err(|e| Error::new(ErrorKind::Denied, e.to_string()))?;
        Ok(Settings { region: values.remove("region"), endpoint: values.remove("endpoint_url") })
    }

    /// Its lines in both files; those of the credentials file win.
    fn values(&self) -> Result<HashMap<String, String>, Missing> {
        let [credentials, config] = &self.files;
        let section = if self.name == "default" { self.name.clone() } else { format!("profile {}", self.name) };
        let mut values = section_of(config, &section)?;
        let found = section_of(credentials, &self.name)?;
        if self.named && values.is_empty() && found.is_empty() {
            let [a, b] = [credentials.display(), config.display()];
            return Err(Missing(format!("there is no profile {:?} in {a} or {b}", self.name)));
        }
        values.extend(found);
        Ok(values)
    }

    /// What the files are now.
    fn stamps(&self) -> [Option<Stamp>; 2] {
        self.files.each_ref().map(|file| {
            let found = file.metadata().ok()?;
            Some(Stamp { modified: found.modified().ok()?, size: found.size(), inode: found.ino() })
        })
    }

    /// The keys of the profile; none where it has none.
    fn keys(&self) -> Result<Option<AwsCredential>, Missing> {
        let mut values = self.values()?;
        let mut take = |name: &str| values.remove(name).filter(|value| !value.is_empty());
        match (take("aws_access_key_id"), take("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => {
                Ok(Some(AwsCredential { key_id, secret_key, token: take("aws_session_token") }))
            }
            (None, None) => match ["credential_process", "sso_session", "sso_start_url", "role_arn"]
                .into_iter()
                .find(|way| take(way).is_some())
            {
                Some(way) if self.named => Err(Missing(format!(
                    "profile {:?} gets its keys by {way}, which is not supported; export keys into the environment \
                     or a profile (`aws configure export-credentials`)",
                    self.name
                ))),
                _ => Ok(None),
            },
            _ => Err(Missing(format!("profile {:?} has only one of key id and secret", self.name))),
        }
    }
}

/// The lines `name = value` of one section; a missing file has none.
fn section_of(file: &Path, section: &str) -> Result<HashMap<String, String>, Missing> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Missing(format!("{} can not be read: {e}", file.display()))),
    };
    Ok(values_in(&text, section))
}

/// The same of such a file's text.
pub(crate) fn values_in(text: &str, section: &str) -> HashMap<String, String> {
    let mut values = HashMap::new();
    let mut inside = false;
    for line in text.lines() {
        // Indented lines belong to nested settings.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            inside = name.0.split_whitespace().eq(section.split_whitespace());
        } else if inside && let Some((name, value)) = line.split_once('=') {
            values.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    values
}

/// By what it is seen that a file is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    size: u64,
    inode: u64,
}

impl Stamp {
    /// It may be changed once more without a change of this: filesystems tell times in ticks, some in whole seconds.
    fn is_young(&self) -> bool {
        self.modified.elapsed().map_or(true, |age| age < YOUNG)
    }
}

/// What the files said.
#[derive(Default)]
struct Reading {
    /// As long as they are these nobody need read them again.
    of: Option<[Option<Stamp>; 2]>,
    /// The newest keys.
    keys: Option<Arc<AwsCredential>>,
    /// Since then they hold none, though they did.
    without: Option<Instant>,
}

/// Why there are no keys: [`Missing`], or [`NotGiven`] where that may pass.
type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Answers object_store's question before each request.
pub(super) struct Credentials {
    profile: Profile,
    env: Environment,
    role: Role<AwsCredential>,
    read: Mutex<Reading>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn new(profile: Profile, env: Environment, role: AwsCredentialProvider) -> Self {
        let advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile: --s3-profile";
        let is_named = SERVERS.iter().any(|name| env.get(name).is_some());
        Self { profile, env, role: Role::new(role, is_named, advice), read: Mutex::default() }
    }

    fn of_environment(&self) -> Result<Option<AwsCredential>, Missing> {
        match (self.env.get("AWS_ACCESS_KEY_ID"), self.env.get("AWS_SECRET_ACCESS_KEY")) {
            (Some(key_id), Some(secret_key)) => {
                Ok(Some(AwsCredential { key_id, secret_key, token: self.env.get("AWS_SESSION_TOKEN") }))
            }
            (None, None) => Ok(None),
            _ => Err(Missing("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set".into())),
        }
    }

    fn of_files(&self) -> Result<Option<Arc<AwsCredential>>, Failed> {
        let stamps = self.profile.stamps();
        let mut read = self.read.lock();
        if read.of == Some(stamps) {
            return Ok(read.keys.clone());
        }
        let found = match (self.profile.keys(), read.keys.clone()) {
            (Ok(Some(keys)), _) => Some(Arc::new(keys)),
            (found, None) => found?.map(Arc::new),
            // Whoever renews a file may write it in place.
            (_, Some(known)) if read.without.get_or_insert_with(Instant::now).elapsed() < KEPT => {
                return Ok(Some(known));
            }
            (found, Some(_)) => {
                let [file, _] = &self.profile.files;
                let why =
                    found.err().map_or_else(|| format!("there are none in {}", file.display()), |e| e.to_string());
                return Err(NotGiven::for_now(&why).into());
            }
        };
        let is_young = stamps.iter().flatten().any(Stamp::is_young);
        *read = Reading { of: (!is_young).then_some(stamps), keys: found.clone(), without: None };
        Ok(found)
    }

    /// Keys that need no request.
    fn here(&self) -> Result<Option<Arc<AwsCredential>>, Failed> {
        if !self.profile.first
            && let Some(keys) = self.of_environment()?
        {
            return Ok(Some(Arc::new(keys)));
        }
        match self.of_files()? {
            None if self.profile.first => Err(Missing(format!("profile {:?} holds no keys", self.profile.name)).into()),
            keys => Ok(keys),
        }
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |source: Failed| object_store::Error::Generic { store: "S3", source };
        if let Some(keys) = self.here().map_err(failed)? {
            return Ok(keys);
        }
        self.role.get_credential().await
    }
}

#[cfg(test)]
mod tests;

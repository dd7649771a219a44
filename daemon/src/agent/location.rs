//! Where the repository of a BackupStorageLocation lies, and as whom it is asked: from what Velero's own plugins are told to
//! what the storage is opened with. Reads nothing itself.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use wherry_api::BackupStorageLocation;
use wherry_repo::storage::{Environment, Options, Over, S3Options};
use wherry_repo::{Error, Result};
use zeroize::Zeroizing;

/// Below the prefix of a location. Velero takes no other top-level folder but those it knows, and `plugins` is one.
const FOLDER: &str = "plugins/wherry";

/// A secret as a file that is in memory only, and that others can read anew when it is replaced.
#[derive(Debug)]
pub(crate) struct SecretFile {
    file: std::fs::File,
    length: parking_lot::Mutex<usize>,
}

impl SecretFile {
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let fd: OwnedFd = rustix::fs::memfd_create("wherry-secret", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes)?;
        Ok(Self { file, length: parking_lot::Mutex::new(bytes.len()) })
    }

    /// Its path, for this process.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Other bytes, by one write: what was longer is overwritten by line ends.
    pub(crate) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let mut length = self.length.lock();
        let mut text = Zeroizing::new(bytes.to_vec());
        text.resize(bytes.len().max(*length), b'\n');
        self.file.write_all_at(&text, 0)?;
        *length = text.len();
        Ok(())
    }
}

/// What a location is opened with.
#[derive(Debug)]
pub(crate) struct Place {
    /// `s3://bucket/prefix`, `az://..`, `gs://..`.
    pub(crate) url: String,
    /// Settings of the storage.
    pub(crate) options: Options,
    /// Holds the credentials, where they are read from a file.
    pub(crate) secret: Option<SecretFile>,
    _authorities: Option<SecretFile>,
}

impl Place {
    /// The same for another folder below the prefix of the location.
    pub(crate) fn beside(&self, folder: &str) -> String {
        format!("{}{folder}", self.url.strip_suffix(FOLDER).unwrap_or(&self.url))
    }
}

/// The provider, without what some put before it.
fn provider(location: &BackupStorageLocation) -> Result<&'static str> {
    let spec = &location.spec;
    let name = spec.provider.strip_prefix("velero.io/").unwrap_or(&spec.provider);
    match name {
        "aws" | "openshift.io/aws" => Ok("aws"),
        "azure" => Ok("azure"),
        "gcp" => Ok("gcp"),
        _ if spec.config.contains_key("s3Url") => Ok("aws"),
        other => Err(Error::invalid(format!(
            "BackupStorageLocation {}: provider {other:?} is not known; aws (and what speaks S3: with config key s3Url), azure \
             and gcp are",
            location.metadata.name
        ))),
    }
}

/// From the location, what its Secret holds (none: who runs this has rights of its own), its certificates (PEM), and what says
/// that the work is over.
pub(crate) fn place(
    location: &BackupStorageLocation,
    credential: Option<&[u8]>,
    authorities: Option<&[u8]>,
    over: Over,
) -> Result<Place> {
    let (spec, name) = (&location.spec, &location.metadata.name);
    let Some(storage) = spec.object_storage.as_ref().filter(|storage| !storage.bucket.is_empty()) else {
        return Err(Error::invalid(format!(
            "BackupStorageLocation {name} names no bucket (spec.objectStorage.bucket)"
        )));
    };
    let config = |key: &str| spec.config.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let memory = |bytes: &[u8]| {
        let cannot = "there is no memory for a secret";
        SecretFile::new(bytes).map_err(|e| Error::new(wherry_repo::ErrorKind::Unavailable, cannot).with_source(e))
    };
    let certificates = authorities.map(memory).transpose()?;
    let mut s3 = S3Options {
        ca_file: certificates.as_ref().map(SecretFile::path),
        skip_verify: config("insecureSkipTLSVerify") == Some("true"),
        ..S3Options::default()
    };
    let (scheme, env, secret) = match provider(location)? {
        "aws" => {
            s3.endpoint = config("s3Url").map(ToOwned::to_owned);
            s3.region = config("region").map(ToOwned::to_owned);
            s3.virtual_host = config("s3ForcePathStyle") == Some("false");
            let secret = credential.map(memory).transpose()?;
            if secret.is_some() {
                s3.profile = Some(config("profile").unwrap_or("default").to_owned());
            }
            ("s3", aws(secret.as_ref()), secret)
        }
        "azure" => ("az", azure(&spec.config, credential, name)?, None),
        _ => {
            let secret = credential.map(memory).transpose()?;
            ("gs", google(secret.as_ref()), secret)
        }
    };
    let prefix = storage.prefix.trim_matches('/');
    let folder = if prefix.is_empty() { FOLDER.to_owned() } else { format!("{prefix}/{FOLDER}") };
    Ok(Place {
        url: format!("{scheme}://{}/{folder}", storage.bucket),
        options: Options { s3, env, over, ..Options::default() },
        secret,
        _authorities: certificates,
    })
}

fn variables(pairs: &[(&str, String)]) -> Environment {
    Environment::of(&pairs.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
}

/// With a credentials file nothing of this process's own surroundings counts; without one everything does: the role of the
/// pod or the machine.
fn aws(secret: Option<&SecretFile>) -> Environment {
    secret.map_or_else(Environment::default, |secret| {
        variables(&[
            ("AWS_SHARED_CREDENTIALS_FILE", secret.path().display().to_string()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ])
    })
}

fn google(secret: Option<&SecretFile>) -> Environment {
    let emulator = std::env::var("STORAGE_EMULATOR_HOST").unwrap_or_default();
    secret.map_or_else(Environment::default, |secret| {
        variables(&[
            ("GOOGLE_APPLICATION_CREDENTIALS", secret.path().display().to_string()),
            ("STORAGE_EMULATOR_HOST", emulator),
        ])
    })
}

/// Velero's file for Azure has a variable a line.
fn azure(config: &BTreeMap<String, String>, credential: Option<&[u8]>, name: &str) -> Result<Environment> {
    let config = |key: &str| config.get(key).filter(|value| !value.is_empty());
    let file = credential.map(|bytes| env_file(&String::from_utf8_lossy(bytes))).unwrap_or_default();
    let own = |name: &str| std::env::var(name).ok().filter(|_| credential.is_none());
    let get = |name: &str| file.get(name).cloned().or_else(|| own(name));
    let mut pairs = Vec::new();
    let mut add = |name: &'static str, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    let account = config("storageAccount").cloned().or_else(|| get("AZURE_STORAGE_ACCOUNT_NAME"));
    if account.is_none() {
        let text = format!("BackupStorageLocation {name} names no storage account (config key storageAccount)");
        return Err(Error::invalid(text));
    }
    add("AZURE_STORAGE_ACCOUNT_NAME", account);
    add("AZURE_STORAGE_ENDPOINT", config("storageAccountURI").cloned());
    match config("storageAccountKeyEnvVar") {
        Some(variable) => match get(variable) {
            Some(key) => add("AZURE_STORAGE_ACCOUNT_KEY", Some(key)),
            None => {
                return Err(Error::invalid(format!(
                    "BackupStorageLocation {name}: its credential has no line {variable}=.. (config key \
                     storageAccountKeyEnvVar)"
                )));
            }
        },
        None => add("AZURE_STORAGE_ACCOUNT_KEY", get("AZURE_STORAGE_ACCOUNT_ACCESS_KEY")),
    }
    for variable in [
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
        "AZURE_AUTHORITY_HOST",
        "IDENTITY_ENDPOINT",
        "MSI_ENDPOINT",
    ] {
        add(variable, get(variable));
    }
    Ok(variables(&pairs))
}

/// `NAME=VALUE` a line; `export` before it and quotes around the value are passed over.
fn env_file(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let line = line.trim();
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        let value = value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
        (!name.starts_with('#')).then(|| (name.trim().to_owned(), quoted.unwrap_or(value).to_owned()))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_api::location::{LocationSpec, ObjectStorage};

    fn location(provider: &str, prefix: &str, config: &[(&str, &str)]) -> BackupStorageLocation {
        let storage = ObjectStorage { bucket: "b".into(), prefix: prefix.into(), ..ObjectStorage::default() };
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        BackupStorageLocation {
            spec: LocationSpec {
                provider: provider.into(),
                config,
                object_storage: Some(storage),
                ..LocationSpec::default()
            },
            ..BackupStorageLocation::default()
        }
    }

    #[test]
    fn the_repository_lies_where_velero_suffers_it() {
        for (provider, prefix, url) in [
            ("aws", "", "s3://b/plugins/wherry"),
            ("velero.io/aws", "/x/y/", "s3://b/x/y/plugins/wherry"),
            ("gcp", "x", "gs://b/x/plugins/wherry"),
        ] {
            let place = place(&location(provider, prefix, &[]), None, None, Over::default()).unwrap();
            assert_eq!((place.url.as_str(), place.beside("backups")), (url, url.replace("plugins/wherry", "backups")));
        }
        let azure = location("velero.io/azure", "x", &[("storageAccount", "acc")]);
        assert_eq!(place(&azure, None, None, Over::default()).unwrap().url, "az://b/x/plugins/wherry");
        // Any provider with an S3 server.
        let other = location("digitalocean", "", &[("s3Url", "https://x")]);
        assert_eq!(place(&other, None, None, Over::default()).unwrap().url, "s3://b/plugins/wherry");
        for (wrong, words) in [
            (location("digitalocean", "", &[]), "is not known"),
            (location("azure", "", &[]), "names no storage account"),
            (BackupStorageLocation::default(), "names no bucket"),
        ] {
            let said = place(&wrong, None, None, Over::default()).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn config_keys_of_s3_are_heeded() {
        let config = [("s3Url", "http://s"), ("region", "r"), ("profile", "p"), ("insecureSkipTLSVerify", "true")];
        let s3 =
            place(&location("aws", "", &config), Some(b"[p]\n"), Some(b"pem"), Over::default()).unwrap().options.s3;
        assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://s"), Some("r")));
        assert_eq!((s3.profile.as_deref(), s3.skip_verify, s3.virtual_host), (Some("p"), true, false));
        assert_eq!(std::fs::read(s3.ca_file.unwrap()).ok(), None, "it is gone with the place");
        let virtual_host =
            place(&location("aws", "", &[("s3ForcePathStyle", "false")]), None, None, Over::default()).unwrap();
        assert!(virtual_host.options.s3.virtual_host && virtual_host.options.s3.profile.is_none());
    }

    #[test]
    fn a_secret_is_replaced_in_place_and_not_shown() {
        let file = SecretFile::new(b"a longer secret\n").unwrap();
        let path = file.path();
        file.replace(b"short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), "short");
        file.replace(b"and a much longer one than before").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "and a much longer one than before");
        assert!(!format!("{file:?}").contains("longer"));
    }

    #[test]
    fn the_file_of_azure_is_read_as_its_plugin_reads_it() {
        let text = "AZURE_CLIENT_ID=id\nexport AZURE_TENANT_ID='t'\n# no=comment\nKEY=\"a=b==\"\n\njunk\n";
        let read = env_file(text);
        assert_eq!(read.len(), 3);
        assert_eq!((read["AZURE_CLIENT_ID"].as_str(), read["AZURE_TENANT_ID"].as_str()), ("id", "t"));
        assert_eq!(read["KEY"], "a=b==");
        let with = |variable| location("azure", "", &[("storageAccount", "a"), ("storageAccountKeyEnvVar", variable)]);
        assert!(place(&with("KEY"), Some(text.as_bytes()), None, Over::default()).is_ok());
        let said = place(&with("OTHER"), Some(text.as_bytes()), None, Over::default()).unwrap_err().to_string();
        assert!(said.contains("no line OTHER=") && !said.contains("a=b"), "{said}");
    }
}

//! Where the repository of a BackupStorageLocation lies, and as whom it is asked: from what Velero's own plugins are told to
//! what the storage is opened with. Reads nothing itself.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use wherry_api::BackupStorageLocation;
use wherry_repo::storage::{Encryption, Environment, Options, Over, S3Options};
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

/// Certificates that the storage's is signed by, beside those of the system.
#[derive(Debug)]
pub(crate) struct Authorities {
    /// PEM.
    pub(crate) pem: Vec<u8>,
    /// Where they come from, for errors.
    pub(crate) name: String,
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

/// What becomes of a config key of Velero's plugins. One that means how data is to be kept is never passed over: who asks for
/// a key of their own, and gets none, is betrayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heed {
    /// It means the same here.
    Yes,
    /// It says what Velero's server does, such as for URLs of logs, and nothing about data here.
    Velero,
    /// It is refused, and why.
    No(&'static str),
}

/// Keys of `config` (`backupstoragelocation.md` of Velero's plugins).
const KEYS: [(&str, &str, Heed); 27] = [
    ("aws", "region", Heed::Yes),
    ("aws", "s3Url", Heed::Yes),
    ("aws", "s3ForcePathStyle", Heed::Yes),
    ("aws", "profile", Heed::Yes),
    ("aws", "insecureSkipTLSVerify", Heed::Yes),
    ("aws", "serverSideEncryption", Heed::Yes),
    ("aws", "kmsKeyId", Heed::Yes),
    ("aws", "checksumAlgorithm", Heed::Yes),
    ("aws", "enableSharedConfig", Heed::Yes),
    ("aws", "publicUrl", Heed::Velero),
    ("aws", "signatureVersion", Heed::Velero),
    ("aws", "customerKeyEncryptionFile", Heed::No(CUSTOMER_KEY)),
    ("aws", "customerKeyEncryptionSecret", Heed::No(CUSTOMER_KEY)),
    ("aws", "tagging", Heed::No("wherry gives its objects no tags")),
    ("azure", "storageAccount", Heed::Yes),
    ("azure", "storageAccountURI", Heed::Yes),
    ("azure", "storageAccountKeyEnvVar", Heed::Yes),
    ("azure", "useAAD", Heed::Yes),
    ("azure", "activeDirectoryAuthorityURI", Heed::Yes),
    ("azure", "resourceGroup", Heed::Velero),
    ("azure", "subscriptionId", Heed::Velero),
    ("azure", "blockSizeInBytes", Heed::Velero),
    (
        "gcp",
        "kmsKeyName",
        Heed::No("make that key the default of the bucket (gcloud storage buckets update --default-encryption-key)"),
    ),
    ("gcp", "serviceAccount", Heed::Velero),
    // Of Velero's restic, which is gone.
    ("aws", "resticRepoPrefix", Heed::Velero),
    ("azure", "resticRepoPrefix", Heed::Velero),
    ("gcp", "resticRepoPrefix", Heed::Velero),
];
const CUSTOMER_KEY: &str =
    "SSE-C is not supported; use kmsKeyId, or nothing: what wherry stores is encrypted before it is sent";

/// An error that names the first key that is not heeded here.
fn check_keys(provider: &str, config: &BTreeMap<String, String>, name: &str) -> Result<()> {
    // One without a value is as one that is not there.
    for (key, _) in config.iter().filter(|(_, value)| !value.is_empty()) {
        let why = match KEYS.iter().find(|(of, known, _)| *of == provider && known == key) {
            Some((_, _, Heed::Yes | Heed::Velero)) => continue,
            Some((_, _, Heed::No(why))) => why,
            None => {
                "it is not known to this version, and what it asks for might be missed: take it out, or use another location"
            }
        };
        return Err(Error::invalid(format!("BackupStorageLocation {name}: config key {key:?} is refused: {why}")));
    }
    Ok(())
}

/// From the location, what its Secret holds (none: who runs this has rights of its own), its certificates, and what says that
/// the work is over.
pub(crate) fn place(
    location: &BackupStorageLocation,
    credential: Option<&[u8]>,
    authorities: Option<&Authorities>,
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
    let certificates = authorities.map(|authorities| memory(&authorities.pem)).transpose()?;
    let mut s3 = S3Options {
        ca_file: certificates.as_ref().map(SecretFile::path),
        ca_name: authorities.map(|authorities| authorities.name.clone()),
        skip_verify: config("insecureSkipTLSVerify") == Some("true"),
        ..S3Options::default()
    };
    let provider = provider(location)?;
    check_keys(provider, &spec.config, name)?;
    let (scheme, env, secret) = match provider {
        "aws" => {
            s3.endpoint = config("s3Url").map(ToOwned::to_owned);
            s3.region = config("region").map(ToOwned::to_owned);
            s3.look_up_region = true;
            s3.encryption = encryption(&spec.config, name)?;
            // Set and empty says that the server knows no checksums; any other is answered by SHA-256.
            s3.without_checksum = spec.config.get("checksumAlgorithm").is_some_and(String::is_empty);
            s3.virtual_host = config("s3ForcePathStyle") == Some("false");
            let secret = credential.map(memory).transpose()?;
            if secret.is_some() {
                s3.profile = Some(config("profile").unwrap_or("default").to_owned());
            }
            ("s3", aws(secret.as_ref(), config("enableSharedConfig") == Some("true")), secret)
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

/// What the server is to encrypt with; a key of the user's own means KMS, as in Velero's plugin.
fn encryption(config: &BTreeMap<String, String>, name: &str) -> Result<Option<Encryption>> {
    let get = |key: &str| config.get(key).filter(|value| !value.is_empty()).cloned();
    let key = get("kmsKeyId");
    match (get("serverSideEncryption").as_deref(), &key) {
        (None, None) => Ok(None),
        (Some("AES256"), None) => Ok(Some(Encryption { algorithm: "AES256".to_owned(), kms_key: None })),
        (Some("aws:kms:dsse"), _) => Ok(Some(Encryption { algorithm: "aws:kms:dsse".to_owned(), kms_key: key })),
        (None | Some("AES256" | "aws:kms"), _) => {
            Ok(Some(Encryption { algorithm: "aws:kms".to_owned(), kms_key: key }))
        }
        (Some(other), _) => Err(Error::invalid(format!(
            "BackupStorageLocation {name}: config key serverSideEncryption is {other:?}; AES256, aws:kms and aws:kms:dsse are known"
        ))),
    }
}

/// With a credentials file nothing of this process's own surroundings counts; without one everything does: the role of the
/// pod or the machine. `shared`: the file is written as a config file, with sections `[profile NAME]`.
fn aws(secret: Option<&SecretFile>, shared: bool) -> Environment {
    secret.map_or_else(Environment::default, |secret| {
        let path = secret.path().display().to_string();
        let config = if shared { path.clone() } else { "/dev/null".to_owned() };
        variables(&[("AWS_SHARED_CREDENTIALS_FILE", path), ("AWS_CONFIG_FILE", config)])
    })
}

/// Cloud of Azure by the name in its credential file: where accounts answer, and who knows who asks.
const CLOUDS: [(&str, &str, &str); 3] = [
    ("AzurePublicCloud", "blob.core.windows.net", "https://login.microsoftonline.com"),
    ("AzureUSGovernmentCloud", "blob.core.usgovcloudapi.net", "https://login.microsoftonline.us"),
    ("AzureChinaCloud", "blob.core.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
];

/// The cloud of that name, or of one of the names without `Azure` and `Cloud` that are in use, too.
fn cloud(named: &str, location: &str) -> Result<(&'static str, &'static str)> {
    let bare = |name: &str| name.to_ascii_lowercase().trim_start_matches("azure").trim_end_matches("cloud").to_owned();
    let found = CLOUDS.iter().find(|(name, ..)| bare(name) == bare(named));
    found.map(|(_, blobs, authority)| (*blobs, *authority)).ok_or_else(|| {
        let known: Vec<_> = CLOUDS.iter().map(|(name, ..)| *name).collect();
        Error::invalid(format!(
            "BackupStorageLocation {location}: AZURE_CLOUD_NAME of its credential is {named:?}; known are {}. For another cloud set \
             config keys storageAccountURI and activeDirectoryAuthorityURI, and take that line out",
            known.join(", ")
        ))
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
    let cloud = get("AZURE_CLOUD_NAME").map(|named| cloud(&named, name)).transpose()?;
    // Velero takes it with and without a scheme.
    let with_scheme = |uri: &String| if uri.contains("://") { uri.clone() } else { format!("https://{uri}") };
    let own_cloud = || Some(format!("https://{}.{}", account.as_deref()?, cloud?.0));
    add("AZURE_STORAGE_ENDPOINT", config("storageAccountURI").map(with_scheme).or_else(own_cloud));
    add("AZURE_STORAGE_ACCOUNT_NAME", account);
    let aad = config("useAAD").map(String::as_str) == Some("true");
    match config("storageAccountKeyEnvVar") {
        Some(_) if aad => {
            return Err(Error::invalid(format!(
                "BackupStorageLocation {name}: config keys useAAD and storageAccountKeyEnvVar exclude each other: take one out"
            )));
        }
        Some(variable) => match get(variable) {
            Some(key) => add("AZURE_STORAGE_ACCOUNT_KEY", Some(key)),
            None => {
                return Err(Error::invalid(format!(
                    "BackupStorageLocation {name}: its credential has no line {variable}=.. (config key \
                     storageAccountKeyEnvVar)"
                )));
            }
        },
        None if aad => {}
        None => {
            add("AZURE_STORAGE_ACCOUNT_KEY", get("AZURE_STORAGE_ACCOUNT_ACCESS_KEY"));
            add("AZURE_STORAGE_SAS_TOKEN", get("AZURE_STORAGE_SAS_TOKEN"));
        }
    }
    let authority = config("activeDirectoryAuthorityURI").map(|uri| uri.trim_end_matches('/').to_owned());
    let authority =
        authority.or_else(|| get("AZURE_AUTHORITY_HOST")).or(cloud.map(|(_, authority)| authority.to_owned()));
    add("AZURE_AUTHORITY_HOST", authority);
    for variable in [
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_CLIENT_ID",
        "AZURE_TENANT_ID",
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
        let authorities = Authorities { pem: b"pem".into(), name: "caCert".into() };
        let s3 = place(&location("aws", "", &config), Some(b"[p]\n"), Some(&authorities), Over::default());
        let s3 = s3.unwrap().options.s3;
        assert_eq!(s3.ca_name.as_deref(), Some("caCert"));
        assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://s"), Some("r")));
        assert_eq!((s3.profile.as_deref(), s3.skip_verify, s3.virtual_host), (Some("p"), true, false));
        assert_eq!(std::fs::read(s3.ca_file.unwrap()).ok(), None, "it is gone with the place");
        let virtual_host =
            place(&location("aws", "", &[("s3ForcePathStyle", "false")]), None, None, Over::default()).unwrap();
        assert!(virtual_host.options.s3.virtual_host && virtual_host.options.s3.profile.is_none());
    }

    fn opened(provider: &str, config: &[(&str, &str)], credential: Option<&[u8]>) -> Result<Place> {
        place(&location(provider, "", config), credential, None, Over::default())
    }

    #[test]
    fn no_wish_is_passed_over() {
        for (provider, key, value, word) in [
            ("aws", "customerKeyEncryptionFile", "/x", "SSE-C"),
            ("aws", "tagging", "a=b", "no tags"),
            ("aws", "serverSideEncryption", "rot13", "AES256"),
            ("aws", "later", "x", "not known to this version"),
            ("digitalocean", "later", "x", "not known to this version"),
            ("azure", "region", "x", "not known to this version"),
            ("gcp", "kmsKeyName", "projects/p", "default of the bucket"),
        ] {
            let fixed = if provider == "azure" { ("storageAccount", "a") } else { ("s3Url", "http://s") };
            let config = [fixed, (key, value)];
            let said =
                opened(provider, if provider == "gcp" { &config[1..] } else { &config }, None).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains(word), "{provider} {key}: {said}");
        }
        // Without a value it asks for nothing.
        assert!(
            opened("aws", &[("s3Url", "http://s"), ("customerKeyEncryptionFile", ""), ("publicUrl", "x")], None)
                .is_ok()
        );
        assert!(opened("gcp", &[("serviceAccount", "x"), ("kmsKeyName", "")], None).is_ok());
    }

    #[test]
    fn s3_servers_are_told_how_to_encrypt() {
        let encryption = |config: &[(&str, &str)]| {
            let s3 = opened("aws", config, None).unwrap().options.s3;
            s3.encryption.map(|with| (with.algorithm, with.kms_key.unwrap_or_default()))
        };
        let with = |algorithm: &str, key: &str| Some((algorithm.to_owned(), key.to_owned()));
        assert_eq!(encryption(&[("region", "r")]), None);
        assert_eq!(encryption(&[("serverSideEncryption", "AES256")]), with("AES256", ""));
        assert_eq!(encryption(&[("kmsKeyId", "k")]), with("aws:kms", "k"));
        assert_eq!(encryption(&[("serverSideEncryption", "AES256"), ("kmsKeyId", "k")]), with("aws:kms", "k"));
        assert_eq!(encryption(&[("serverSideEncryption", "aws:kms")]), with("aws:kms", ""));
        assert_eq!(
            encryption(&[("serverSideEncryption", "aws:kms:dsse"), ("kmsKeyId", "k")]),
            with("aws:kms:dsse", "k")
        );
        let checksum = |config: &[(&str, &str)]| !opened("aws", config, None).unwrap().options.s3.without_checksum;
        assert!(
            checksum(&[]) && checksum(&[("checksumAlgorithm", "CRC32")]) && !checksum(&[("checksumAlgorithm", "")])
        );
        assert!(opened("aws", &[], None).unwrap().options.s3.look_up_region);
    }

    /// A file with sections `[profile NAME]`, as of the AWS tools, is one only where the location says so.
    #[test]
    fn a_credential_may_be_written_as_a_config_file() {
        let file = b"[profile p]\naws_access_key_id=k\naws_secret_access_key=s\nregion=r\n";
        let open = |shared: &str| {
            let config = [("s3Url", "http://127.0.0.1:1"), ("profile", "p"), ("enableSharedConfig", shared)];
            let place = opened("aws", &config, Some(file)).unwrap();
            wherry_repo::storage::open(&place.url, &place.options).map(drop).map_err(|e| e.to_string())
        };
        open("true").unwrap();
        assert!(open("false").unwrap_err().contains("no profile"));
    }

    #[test]
    fn clouds_of_azure_have_their_own_servers() {
        let env = |config: &[(&str, &str)], file: &str| {
            let config = [&[("storageAccount", "a")][..], config].concat();
            opened("azure", &config, Some(file.as_bytes())).map(|place| place.options.env).map_err(|e| e.to_string())
        };
        let get = |env: &Environment, name: &str| env.get(name).unwrap_or_default();
        let (endpoint, authority, key) =
            ("AZURE_STORAGE_ENDPOINT", "AZURE_AUTHORITY_HOST", "AZURE_STORAGE_ACCOUNT_KEY");
        let gov = env(&[], "AZURE_CLOUD_NAME=AzureUSGovernmentCloud\n").unwrap();
        assert_eq!(get(&gov, endpoint), "https://a.blob.core.usgovcloudapi.net");
        assert_eq!(get(&gov, authority), "https://login.microsoftonline.us");
        let china = env(
            &[("storageAccountURI", "s.example/"), ("activeDirectoryAuthorityURI", "https://l/")],
            "AZURE_CLOUD_NAME=AZURECHINACLOUD",
        );
        let china = china.unwrap();
        assert_eq!((get(&china, endpoint), get(&china, authority)), ("https://s.example/".into(), "https://l".into()));
        assert_eq!(get(&env(&[], "").unwrap(), endpoint), "");
        let said = env(&[], "AZURE_CLOUD_NAME=AzureGermanCloud").unwrap_err();
        assert!(said.contains("AzureGermanCloud") && said.contains("AzureChinaCloud"), "{said}");
        // Who asks for AAD is not served by a key that happens to be there.
        let file = "AZURE_STORAGE_ACCOUNT_ACCESS_KEY=aw==\nAZURE_CLIENT_ID=i\n";
        assert_eq!(get(&env(&[], file).unwrap(), key), "aw==");
        let aad = env(&[("useAAD", "true")], file).unwrap();
        assert_eq!((get(&aad, key), get(&aad, "AZURE_CLIENT_ID")), (String::new(), "i".to_owned()));
        let said = env(&[("useAAD", "true"), ("storageAccountKeyEnvVar", "K")], "K=aw==").unwrap_err();
        assert!(said.contains("useAAD") && said.contains("storageAccountKeyEnvVar"), "{said}");
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

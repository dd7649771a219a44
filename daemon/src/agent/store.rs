//! The repository of a BackupStorageLocation: its place, its key, its uuid. A repository is made only where none was known
//! and none is; its key is made only with it.

use super::location::{Authorities, Place, place};
use super::surroundings::Surroundings;
use crate::backup::kind;
use crate::context::Context;
use crate::credential::{draw_key, key_in};
use crate::signals::Cancel;
use crate::storage::{Limited, peek};
use anyhow::Result;
use serde_json::{Value, json};
use std::sync::Arc;
use wherry_api::api::{Api, Guard, Key, Kind, Refusal, guarded};
use wherry_api::base64;
use wherry_api::decode::decode;
use wherry_api::location::{REPOSITORIES, Recorded, SecretKey};
use wherry_api::{BackupStorageLocation, Meta, names};
use wherry_repo::storage::{Over, Storage, conformance};
use wherry_repo::{Credential, Error, ErrorKind, InitOptions, Repository};
use zeroize::Zeroizing;

/// Secret with the key file of every repository, and its key.
pub(super) const KEY: (&str, &str) = ("wherry-repository", "key");
/// Secret and key of the credentials that `velero install` makes, for locations that name none. Where it is not there, the
/// agent has rights of its own: the role of the pod or the machine.
const DEFAULT_CREDENTIAL: (&str, &str) = ("cloud-credentials", "cloud");

/// An opened repository.
#[derive(Debug)]
pub(crate) struct Store {
    /// It.
    pub(crate) repository: Repository,
    /// Where it lies.
    pub(crate) url: String,
    /// Which location that is, and as whom it is asked: for errors of kind `Denied`.
    pub(crate) whose: String,
    place: Place,
    credential: Option<SecretKey>,
}

/// What it is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    /// To back up into it: it is made where there is none yet.
    Write,
    /// To forget and delete in it: only the one that is recorded for this place.
    Known,
}

fn wrong(text: String) -> anyhow::Error {
    Error::invalid(text).into()
}

impl Store {
    /// Opens the repository of that location; for an upload makes it where there is none yet.
    ///
    /// # Errors
    /// `Invalid` and `Denied` say what has to be mended; `Unavailable` may pass.
    pub(crate) fn open(around: &Surroundings, name: &str, to: Use, cancel: &Cancel, context: &Context) -> Result<Self> {
        let location = Self::location(around, name)?;
        if to == Use::Write && location.spec.access_mode == "ReadOnly" {
            return Err(wrong(format!("BackupStorageLocation {name} is ReadOnly: nothing can be backed up to it")));
        }
        let secret = |of: &SecretKey| around.secret(&of.name, &of.key);
        let mut credential = location.spec.credential.clone().filter(|of| !of.name.is_empty());
        let mut text = credential.as_ref().map(secret).transpose()?;
        if credential.is_none() {
            // The server of Velero has these mounted; a location that names no credential means them.
            let default = SecretKey { name: DEFAULT_CREDENTIAL.0.to_owned(), key: DEFAULT_CREDENTIAL.1.to_owned() };
            if let Some(found) = secret(&default)? {
                (text, credential) = (Some(Some(found)), Some(default));
            }
        }
        let text = match (text, &credential) {
            (Some(None), Some(of)) => {
                let SecretKey { name: secret, key } = of;
                let text = format!("BackupStorageLocation {name}: there is no Secret {secret} with key {key:?}");
                return Err(Error::new(ErrorKind::Denied, text).into());
            }
            (text, _) => text.flatten(),
        };
        let place = place(
            &location,
            text.as_ref().map(|text| text.as_slice()),
            Self::authorities(around, &location)?.as_ref(),
            {
                // A volume is let go of although the storage does not answer; what was read of it by then may be sent for longer.
                let cancel = cancel.clone();
                Over::when(move || if to == Use::Write { cancel.sends_no_more() } else { cancel.is_cancelled() })
            },
        )?;
        // What the storage says of credentials names the file that they are read from, which is nobody's but this process's.
        let as_whom = match &credential {
            Some(of) => format!("Secret {} (key {:?})", of.name, of.key),
            None => "the agent itself".to_owned(),
        };
        let whose = format!("BackupStorageLocation {name}, asked with credentials of {as_whom}");
        let named = |e: anyhow::Error| if kind(&e) == Some(ErrorKind::Denied) { e.context(whose.clone()) } else { e };
        let bare = wherry_repo::storage::open(&place.url, &place.options).map_err(|e| named(e.into()))?;
        let storage: Arc<dyn Storage> =
            Arc::new(Limited::sharing(bare, around.up.clone(), around.down.clone(), cancel.clone()));
        let url = place.url.clone();
        let repository = Self::repository(around, context, name, &place, storage, to).map_err(named)?;
        Ok(Self { repository, url, whose, place, credential })
    }

    /// The repository alone, for as long as this process lives.
    pub(crate) fn into_repository(self) -> Repository {
        // Credentials are read from their file again and again.
        std::mem::forget(self.place);
        self.repository
    }

    /// A storage for a folder beside that of the repositories: for what Velero keeps there.
    ///
    /// # Errors
    /// When the options are wrong; nothing is asked yet.
    pub(crate) fn beside(&self, folder: &str) -> Result<Arc<dyn Storage>> {
        Ok(wherry_repo::storage::open(&self.place.beside(folder), &self.place.options)?)
    }

    /// The location of that name.
    ///
    /// # Errors
    /// `Invalid` where there is none.
    pub(crate) fn location(around: &Surroundings, name: &str) -> Result<BackupStorageLocation> {
        let object = around.get(Kind::Location, name)?;
        let namespace = &around.namespace;
        let object = object
            .ok_or_else(|| wrong(format!("there is no BackupStorageLocation {name:?} in namespace {namespace}")))?;
        Ok(decode(Kind::Location.word(), &object)?)
    }

    /// Certificates that the storage's is signed by, beside those of the system.
    fn authorities(around: &Surroundings, location: &BackupStorageLocation) -> Result<Option<Authorities>> {
        let Some(storage) = &location.spec.object_storage else { return Ok(None) };
        let name = &location.metadata.name;
        if let Some(SecretKey { name: secret, key }) = storage.ca_cert_ref.as_ref().filter(|of| !of.name.is_empty()) {
            let found = around.secret(secret, key)?;
            let missing = || {
                wrong(format!("BackupStorageLocation {name}: there is no Secret {secret} with key {key:?} (caCertRef)"))
            };
            let pem = found.ok_or_else(missing)?.to_vec();
            let name = format!("BackupStorageLocation {name}: key {key:?} of Secret {secret} (caCertRef)");
            return Ok(Some(Authorities { pem, name }));
        }
        if storage.ca_cert.is_empty() {
            return Ok(None);
        }
        let pem = base64::decode(&storage.ca_cert);
        let pem = pem.ok_or_else(|| wrong(format!("BackupStorageLocation {name}: caCert is no base64")))?;
        Ok(Some(Authorities { pem, name: format!("BackupStorageLocation {name}: caCert") }))
    }

    fn repository(
        around: &Surroundings,
        context: &Context,
        name: &str,
        place: &Place,
        storage: Arc<dyn Storage>,
        to: Use,
    ) -> Result<Repository> {
        let url = &place.url;
        let recorded = Self::known(around, name)?;
        // Also where the location led before: one that vanished there is missed when it leads back.
        let known = recorded.as_ref().and_then(|recorded| recorded.at(url)).map(ToOwned::to_owned);
        let leads_there = recorded.is_some_and(|recorded| recorded.location == *url);
        let there = match peek(&*storage) {
            Ok(config) => Some(config.is_some()),
            Err(e) if e.kind() == ErrorKind::NoRepository => None,
            Err(e) => return Err(e.into()),
        };
        if let (Some(known), None) = (&known, there) {
            return Err(wrong(format!(
                "the repository {} of BackupStorageLocation {name} is gone: there is none at {url} any more. Nothing is made in its \
                 place: bring it back, or remove key {name} of ConfigMap {REPOSITORIES} if it is to be made anew",
                known
            )));
        }
        if known.is_none() && to == Use::Known {
            return Err(wrong(format!(
                "no repository was ever used at {url}, where BackupStorageLocation {name} leads (ConfigMap {REPOSITORIES}): nothing \
                 is taken from what may be somebody else's"
            )));
        }
        if there != Some(true) && to != Use::Write {
            return Err(wrong(format!("there is no repository at {url}, where BackupStorageLocation {name} leads")));
        }
        let secret = around.secret(KEY.0, KEY.1)?;
        around.set_key_missing(secret.is_none() && there.is_some());
        let credential = match secret {
            Some(key) => Self::key(key)?,
            None if there.is_some() => {
                return Err(wrong(format!(
                    "there is no Secret {} with key {:?}, and there is a repository at {url}, which no other key opens: bring the \
                     Secret back; no new key was made",
                    KEY.0, KEY.1
                )));
            }
            None => Self::fill_key(around, context)?,
        };
        let components = context.components(storage);
        let opened = if there == Some(true) {
            Repository::open(components, &credential)
        } else {
            Self::fit(place)?;
            match Repository::init(components.clone(), &InitOptions::default(), &credential) {
                // Another agent was faster.
                Err(e) if e.kind() == ErrorKind::Conflict => Repository::open(components, &credential),
                made => made,
            }
        };
        let repository = opened.map_err(|e| match e.kind() {
            ErrorKind::Denied => {
                wrong(format!("the key in Secret {} does not open the repository at {url}: {e}", KEY.0))
            }
            _ => e.into(),
        })?;
        if repository.is_single_writer() {
            return Err(wrong(format!("the repository at {url} is for one process at a time: agents are several")));
        }
        let id = repository.id().to_string();
        match known {
            Some(known) if known != id => Err(wrong(format!(
                "the repository at {url} is {id}, and that of BackupStorageLocation {name} was {}: it is another one. Bring the first \
                 one back, or remove key {name} of ConfigMap {REPOSITORIES} if this one is to be used",
                known
            ))),
            Some(_) if leads_there => Ok(repository),
            // Who makes no backup may be led elsewhere for once: what is recorded stays what was written to. (A Job may not change it.)
            _ if to != Use::Write => Ok(repository),
            _ => {
                Self::remember(around, name, &id, url)?;
                Ok(repository)
            }
        }
    }

    fn key(key: Zeroizing<Vec<u8>>) -> Result<Credential> {
        Ok(key_in(&format!("key {:?} of Secret {}", KEY.1, KEY.0), key)?)
    }

    /// Draws a key where there is none, and gives the one that is there then. It is never overwritten, and there is one for all
    /// locations: none is drawn as long as a repository is known. The Secret itself is made by who installs wherry: who may make
    /// Secrets may have one filled with the token of any account of the namespace.
    fn fill_key(around: &Surroundings, context: &Context) -> Result<Credential> {
        let known = around.get(Kind::ConfigMap, REPOSITORIES)?.unwrap_or_default();
        if let Some(made) = known["data"].as_object().filter(|made| !made.is_empty()) {
            // The key comes before whatever is known: another agent may just have made both.
            if let Some(key) = around.secret(KEY.0, KEY.1)? {
                return Self::key(key);
            }
            around.set_key_missing(true);
            let names: Vec<_> = made.keys().map(String::as_str).collect();
            return Err(wrong(format!(
                "Secret {} with key {:?} is gone, and there are repositories that no other key opens (of BackupStorageLocation {}, \
                 see ConfigMap {REPOSITORIES}): bring the Secret back; no new key was made",
                KEY.0,
                KEY.1,
                names.join(", ")
            )));
        }
        let namespace = &around.namespace;
        let Some(empty) = around.get(Kind::Secret, KEY.0)? else {
            return Err(wrong(format!(
                "there is no Secret {} to put the key of the repositories into, and an agent has no right to make one: \
                 kubectl -n {namespace} create secret generic {} (helm upgrade makes it, too), and back up again",
                KEY.0, KEY.0
            )));
        };
        if empty["data"][KEY.1].is_null() {
            let text = draw_key(&context.system)?;
            let text = std::str::from_utf8(&text).unwrap_or_default();
            let patch = json!({
                // Also of one that somebody made by hand: uninstalling a chart leaves it, and a backup by Velero would put it
                // beside what it opens.
                "metadata": {
                    "annotations": { "helm.sh/resource-policy": "keep" },
                    "labels": { names::EXCLUDE: "true" },
                },
                "stringData": { KEY.1: text },
                // From now on nobody overwrites it, whatever is applied or replaced.
                "immutable": true,
            });
            let patch = guarded(&patch, &guard_of(&empty)?);
            match around.wait(around.api.patch(&Key::new(Kind::Secret, namespace, KEY.0), &patch)) {
                Ok(_) => tracing::warn!(
                    "made the key of the repositories, in Secret {}: keep a copy of it outside of the cluster; without it nobody \
                     can read a backup",
                    KEY.0
                ),
                // Somebody else was faster.
                Err(e) if e.refusal == Refusal::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
        // What the server has counts, whoever put it there.
        let key = around.secret(KEY.0, KEY.1)?;
        let missing = || {
            let text = format!("Secret {} was changed by somebody else meanwhile, and has no key {:?}", KEY.0, KEY.1);
            Error::new(ErrorKind::Unavailable, text)
        };
        Self::key(key.ok_or_else(missing)?)
    }

    /// An error unless the storage keeps the promises that a repository with many writers rests on.
    fn fit(place: &Place) -> Result<()> {
        let open = || wherry_repo::storage::open(&place.url, &place.options);
        let report = conformance::run(&open, &conformance::Options::SHORT)?;
        if report.many_writers() {
            return Ok(());
        }
        let failed: Vec<_> = report.failed().map(|check| check.name).collect();
        let url = &place.url;
        Err(wrong(format!("the storage at {url} cannot hold a repository ({}); nothing was made", failed.join(", "))))
    }

    fn known(around: &Surroundings, name: &str) -> Result<Option<Recorded>> {
        match around.get(Kind::ConfigMap, REPOSITORIES)? {
            Some(map) => Self::recorded(&map, name),
            None => Ok(None),
        }
    }

    fn recorded(map: &Value, name: &str) -> Result<Option<Recorded>> {
        let Some(text) = map["data"][name].as_str() else { return Ok(None) };
        let known = serde_json::from_str(text);
        Ok(Some(known.map_err(|e| wrong(format!("ConfigMap {REPOSITORIES}, key {name:?}, cannot be read: {e}")))?))
    }

    /// The repository of a location, beside those where it led before.
    fn remember(around: &Surroundings, name: &str, repository: &str, url: &str) -> Result<()> {
        let key = Key::new(Kind::ConfigMap, &around.namespace, REPOSITORIES);
        let data = |known: &Recorded| Ok::<_, anyhow::Error>(json!({ name: serde_json::to_string(known)? }));
        let (repository, url) = (repository.to_owned(), url.to_owned());
        loop {
            let done = match around.get(Kind::ConfigMap, REPOSITORIES)? {
                None => {
                    let labels = json!({ names::EXCLUDE: "true" });
                    let metadata = json!({ "name": REPOSITORIES, "namespace": around.namespace, "labels": labels });
                    let data = data(&Recorded::new(repository.clone(), url.clone()))?;
                    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
                    around.wait(around.api.create(&key, &map))
                }
                Some(map) => {
                    // Somebody else was first: what stands there is compared by who opens it next.
                    let there = Self::recorded(&map, name)?;
                    let known = match there.clone() {
                        Some(there) => there.moved(repository.clone(), url.clone()),
                        None => Recorded::new(repository.clone(), url.clone()),
                    };
                    if there.as_ref() == Some(&known) {
                        return Ok(());
                    }
                    let patch = guarded(&json!({ "data": data(&known)? }), &guard_of(&map)?);
                    around.wait(around.api.patch(&key, &patch))
                }
            };
            match done {
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.refusal, Refusal::Exists | Refusal::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes credentials over that were replaced meanwhile. `false`: they are as they were, or cannot be replaced under way.
    pub(crate) fn refresh(&self, around: &Surroundings) -> Result<bool> {
        let (Some(file), Some(of)) = (&self.place.secret, &self.credential) else { return Ok(false) };
        let Some(text) = around.secret(&of.name, &of.key)? else { return Ok(false) };
        let now = std::fs::read(file.path())?;
        let trimmed = |bytes: &[u8]| bytes.trim_ascii_end().to_vec();
        if trimmed(&now) == trimmed(&text) {
            return Ok(false);
        }
        file.replace(&text)?;
        Ok(true)
    }
}

/// What a write of an object rests on.
pub(crate) fn guard_of(object: &Value) -> Result<Guard> {
    let meta: Meta = serde_json::from_value(object["metadata"].clone())?;
    Ok(Guard { uid: meta.uid, resource_version: meta.resource_version })
}

//! What every command is given: the settings of this run, and what is made from them.

use crate::agent::located;
use crate::budget::{self, Budget};
use crate::cli::{LogFormat, S3Flags};
use crate::config::Settings;
use crate::credential::{CredentialSource, Second, can_ask};
use crate::output::{Output, local_time};
use crate::progress::{Progress, Screen};
use crate::restore::Marker;
use crate::select::{self, SnapSpec, Summary};
use crate::signals::Cancel;
use crate::storage::{self, Limited};
use crate::telemetry::{self, RunId};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wherry_repo::index::{ChunkIndex, IndexOptions, Opened};
use wherry_repo::storage::{Storage, keys as storage_keys};
use wherry_repo::{
    Components, Credential, Error, ErrorKind, PasswordCost, Repository, Result, Snapshot, SnapshotId, SnapshotList,
    System, Turn,
};

/// The chunk index takes this much of the disk at most (bytes): the chunks of about 20 TiB.
const INDEX_DISK: u64 = 4 << 30;

/// The settings of this run and the components made from them.
#[derive(Debug)]
pub struct Context {
    /// What was asked for, with nothing left open.
    pub settings: Settings,
    /// The shares of memory and the numbers of threads.
    pub budget: Budget,
    /// Asks work to end.
    pub cancel: Cancel,
    /// Where results go.
    pub output: Output,
    /// This run's id, in each log line and in the snapshot it makes.
    pub run: RunId,
    /// Time and randomness.
    pub system: System,
    screen: Screen,
}

impl Context {
    /// Makes the components and starts the log.
    pub fn new(settings: Settings, cancel: Cancel) -> Result<Self> {
        let system = System::default();
        let run = RunId::draw(&system)?;
        // A program reads JSON log lines: it has no use for a bar between them.
        let screen = Screen::new(settings.verbosity < 0, settings.log_format == LogFormat::Json);
        telemetry::start(settings.log_format, settings.verbosity, run, system, screen.clone());
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            budget: Budget::of_machine(settings.memory),
            cancel,
            output: Output::new(settings.json),
            run,
            system,
            screen,
            settings,
        })
    }

    /// The same for one of several pieces of work of this process: with its share of the memory, what asks it alone to end,
    /// and an id of its own. Its progress is told elsewhere.
    pub fn for_job(&self, repo: String, budget: Budget, cancel: Cancel) -> Result<Self> {
        Ok(Self {
            settings: Settings { repo: Some(repo), ..self.settings.clone() },
            budget,
            cancel,
            output: self.output,
            run: RunId::draw(&self.system)?,
            system: self.system,
            screen: Screen::silent(),
        })
    }

    /// Begins to show a piece of work: a word for it, and its length in bytes, where it is known.
    pub fn progress(&self, what: &'static str, total: Option<u64>) -> Progress {
        self.screen.progress(what, total)
    }

    /// A storage with this system's clock and randomness.
    pub fn components(&self, storage: Arc<dyn Storage>) -> Components {
        let system = Arc::new(self.system);
        Components { storage, clock: system.clone(), rng: system }
    }

    /// An error when the ceiling of memory is too low for this credential.
    pub fn admit(&self, credential: &Credential) -> Result<()> {
        match credential {
            Credential::Password(_) => {
                let cost = u64::from(PasswordCost::default().memory_kib) << 10;
                budget::check_password(self.settings.memory, cost)
            }
            Credential::KeyFile(_) => Ok(()),
        }
    }

    /// Whether the repository is reached over a network, so that many requests under way hide its latency.
    pub fn is_remote(&self) -> bool {
        self.settings.repo.as_ref().is_some_and(|place| place.contains("://"))
    }

    /// Opens the repository of the settings, to read it.
    pub fn open_repository(&self) -> Result<Repository> {
        self.open_limited(None)
    }

    fn open_limited(&self, upload: Option<u64>) -> Result<Repository> {
        let settings = &self.settings;
        self.open_at(settings.repo()?, &settings.s3, &settings.credential, upload)
    }

    /// Opens a second repository; `upload`: at most so many bytes per second are sent to it. Others are not kept out yet. Without a
    /// credential it is tried with that of the first one.
    pub fn open_other(
        &self,
        which: Second,
        place: &str,
        s3: &S3Flags,
        credential: Option<&CredentialSource>,
        upload: Option<u64>,
    ) -> Result<Repository> {
        let own = &self.settings.credential;
        match credential {
            Some(credential) => self.open_at(place, s3, credential, upload),
            None if *own == CredentialSource::Prompt => {
                self.open_at(place, s3, &CredentialSource::PromptOf(which), upload)
            }
            None => match self.open_at(place, s3, own, upload) {
                Err(e) if e.kind() == ErrorKind::Denied && can_ask() => {
                    self.open_at(place, s3, &CredentialSource::PromptOf(which), upload)
                }
                Err(e) if e.kind() == ErrorKind::Denied => {
                    let flags = which.flags();
                    let (other, env) = (flags.trim_end_matches('-'), flags.to_uppercase().replace('-', "_"));
                    Err(e.advise(&format!(
                        "where the repository of --{other} has a password or key of its own, give --{flags}password-file, \
                         --{flags}password-command or --{flags}key-file, or set WHERRY_{env}PASSWORD"
                    )))
                }
                opened => opened,
            },
        }
    }

    fn open_at(
        &self,
        place: &str,
        s3: &S3Flags,
        credential: &CredentialSource,
        upload: Option<u64>,
    ) -> Result<Repository> {
        if let Some(name) = place.strip_prefix(located::SCHEME).filter(|_| *credential == CredentialSource::Prompt) {
            let repository = located::open(self, name)?;
            repository.limit_nodes(self.budget.nodes);
            repository.limit_lookups(self.budget.index);
            return Ok(repository);
        }
        let storage = storage::open(place, s3)?;
        let storage: Arc<dyn Storage> = match upload {
            Some(rate) => Arc::new(Limited::new(storage, rate, self.cancel.clone())),
            None => storage,
        };
        // After the storage: nobody should type a password to learn that there is no repository.
        let credential = credential.read(&format!("Password of {place}: "), &self.cancel)?;
        self.admit(&credential)?;
        let repository = Repository::open(self.components(storage), &credential)?;
        repository.limit_nodes(self.budget.nodes);
        repository.limit_lookups(self.budget.index);
        tracing::debug!(repository = %repository.id(), %place, "opened");
        Ok(repository)
    }

    /// Opens the repository to write to it, as [`Self::open_repository`]. What is done is what others are told who have to
    /// wait; the second value keeps them out where one process at a time may write.
    pub fn open_to_write(&self, what: &str) -> Result<(Repository, Turn)> {
        self.open_to_write_limited(what, None)
    }

    /// Likewise, and sends it at most so many bytes per second.
    pub fn open_to_write_limited(&self, what: &str, upload: Option<u64>) -> Result<(Repository, Turn)> {
        let repository = self.open_limited(upload)?;
        let turn = repository.begin_writing(what)?;
        Ok((repository, turn))
    }

    /// The one snapshot that is meant; errors as those of [`certain`].
    pub fn snapshot(&self, repository: &Repository, spec: &SnapSpec) -> Result<Snapshot> {
        let (list, found) = self.look(repository, spec)?;
        certain(repository, &list, &found.id, spec)?;
        Ok(found)
    }

    /// Likewise for what a backup builds upon: an older one than `latest` costs time and no data, so that is a warning.
    pub fn parent(&self, repository: &Repository, spec: &SnapSpec) -> Result<Snapshot> {
        let (list, found) = self.look(repository, spec)?;
        if let Some(doubt) = doubt(&list, &found, spec) {
            tracing::warn!("{doubt}");
        }
        Ok(found)
    }

    fn look(&self, repository: &Repository, spec: &SnapSpec) -> Result<(SnapshotList, Snapshot)> {
        if let SnapSpec::LatestOf(volume) = spec {
            // One volume's records are fewer than all; the whole list is for the error that names what there is.
            let list = repository.snapshots(Some(repository.volume_id(volume)))?;
            if let Ok(found) = pick(repository, &list, spec) {
                return Ok((list, found));
            }
            if let Some((key, error)) = unread(&list).next() {
                let text =
                    format!("no whole snapshot of {volume:?} can be read, and this record is one of its own: {error}");
                return Err(Error::corrupt(text).with_object(key));
            }
        }
        let list = repository.snapshots(None)?;
        let found = pick(repository, &list, spec)?;
        Ok((list, found))
    }

    /// The chunk index of this repository, up to date. Whatever keeps the one on disk from being used is logged, and
    /// one in memory is used: a backup then finds again what its parent has.
    pub fn index(&self, repository: &Repository) -> Result<Arc<ChunkIndex>> {
        self.index_within(repository, self.budget.index)
    }

    /// Likewise, in so many bytes of memory.
    pub fn index_within(&self, repository: &Repository, memory: u64) -> Result<Arc<ChunkIndex>> {
        let Some(dir) = self.settings.cache_dir.clone().filter(|_| self.settings.use_cache) else {
            return Ok(Arc::new(ChunkIndex::in_memory(memory)));
        };
        let options = IndexOptions { dir, repository: repository.id(), memory, max_disk: INDEX_DISK };
        let start = Instant::now();
        let (index, opened) = match ChunkIndex::open(&options) {
            Ok(opened) => opened,
            Err(e) => {
                tracing::warn!("works without the chunk index, and finds again only what the parent has: {e}");
                return Ok(Arc::new(ChunkIndex::in_memory(memory)));
            }
        };
        if let Opened::Dropped(why) = &opened {
            tracing::warn!("the chunk index is made anew: {why}");
        }
        let anew = opened != Opened::Reused;
        let synced = index.synchronise(repository, anew)?;
        let (segments, packs, seconds) = (synced.segments, synced.packs, start.elapsed().as_secs_f64());
        match anew && segments + packs > 0 {
            true => tracing::info!(segments, packs, "the chunk index was rebuilt in {seconds:.1} s"),
            false => tracing::debug!(segments, packs, "the chunk index is up to date after {seconds:.3} s"),
        }
        Ok(Arc::new(index))
    }

    /// The note that this restore is under way.
    pub fn restore_marker(&self, target: &Path, snapshot: &Snapshot) -> anyhow::Result<Marker> {
        Marker::new(target, &self.state_dir(), &snapshot.id, &snapshot.record.root.to_string())
    }

    /// Where a few bytes can be kept from one run to the next, with `--no-cache` too.
    pub fn state_dir(&self) -> PathBuf {
        let user = || std::env::temp_dir().join(format!("wherry-{}", rustix::process::geteuid().as_raw()));
        self.settings.cache_dir.clone().unwrap_or_else(user)
    }
}

/// The one of these of a list that is meant. A record that cannot be read may be the one: by its id that is an error.
pub fn resolve<'a>(
    repository: &Repository,
    list: &SnapshotList,
    summaries: &'a [Summary],
    spec: &SnapSpec,
) -> Result<&'a Summary> {
    let found = spec.resolve(summaries);
    if found.as_ref().is_err_and(|e| e.kind() == ErrorKind::NoSnapshot) {
        let meant = |key: &wherry_repo::Key| key.as_str().rsplit('/').next().is_some_and(|id| spec.names(id));
        if let Some((key, error)) = list.damaged.iter().find(|(key, _)| meant(key)) {
            let lost = Error::corrupt(format!("the record of this snapshot cannot be read: {error}")).with_object(key);
            return Err(match (spec, storage_keys::parse_snap(key)) {
                (SnapSpec::Prefix(_), Some((_, id))) => lost.advise(&format!(
                    "nothing but all 32 digits of its id names it, as in `wherry forget {id}`, which gives it up"
                )),
                _ => lost,
            });
        }
        for id in list.forgets.keys().chain(&list.traces).filter(|id| spec.names(&id.to_string())) {
            if repository.is_gone(id)? {
                let text = format!("snapshot {id} was forgotten for good; `wherry snapshots` shows what there is");
                return Err(Error::new(ErrorKind::NoSnapshot, text));
            }
        }
    }
    found
}

/// An error where `id`, which that resolved to, may not be what is meant, of `latest`: `Corrupt` beside a record that cannot be read,
/// `Invalid` where another one may be newer because a clock is wrong, or was.
pub fn certain(repository: &Repository, list: &SnapshotList, id: &SnapshotId, spec: &SnapSpec) -> Result<()> {
    if !spec.is_latest() {
        return Ok(());
    }
    let found = list.snapshots.iter().find(|snapshot| snapshot.id == *id);
    found.and_then(|found| doubt(list, found, spec)).map_or(Ok(()), Err)?;
    unrivalled(repository, &select::summaries(list), id, spec)
}

/// Likewise, of what can be read.
pub fn unrivalled(repository: &Repository, summaries: &[Summary], id: &SnapshotId, spec: &SnapSpec) -> Result<()> {
    let now = repository.components().clock.now();
    let found = summaries.iter().find(|s| s.id == *id).filter(|_| spec.is_latest());
    let Some((found, rival)) = found.and_then(|found| Some((found, select::rival(summaries, found, now)?))) else {
        return Ok(());
    };
    let is_ahead = found.time > now;
    let (ahead, after) = if is_ahead { (", which has not come yet", "") } else { ("", ", but made after it") };
    Err(Error::invalid(format!(
        "{spec} could be {id} ({}{ahead}) or {} ({}{after}), as a clock is wrong, or was: name one by its id",
        local_time(found.time),
        rival.id,
        local_time(rival.time),
    )))
}

/// Records that cannot be read, of snapshots that nobody asked to forget.
fn unread(list: &SnapshotList) -> impl Iterator<Item = &(wherry_repo::Key, Error)> {
    let hidden = |key| storage_keys::parse_snap(key).is_some_and(|(_, id)| !list.is_visible(&id));
    list.damaged.iter().filter(move |(key, _)| !hidden(key))
}

/// Why `found` may not be the latest: a record that cannot be read may be newer. Only what another one was built upon is older
/// than that one for sure, as ids do not tell the time.
pub fn doubt(list: &SnapshotList, found: &Snapshot, spec: &SnapSpec) -> Option<Error> {
    if !spec.is_latest() {
        return None;
    }
    let not_newer = list.snapshots.iter().filter(|s| s.record.started <= found.record.started);
    let parents: HashSet<_> = not_newer.filter_map(|s| s.record.parent).collect();
    let (key, error, id) = unread(list).find_map(|(key, error)| {
        let (volume, id) = storage_keys::parse_snap(key)?;
        // With `latest` alone it may be of another volume, and then there is more than one.
        let counts = volume == found.volume || *spec == SnapSpec::Latest;
        (counts && !parents.contains(&id)).then_some((key, error, id))
    })?;
    let text = format!(
        "{spec} cannot be told: snapshot {id} may be the newest, and its record cannot be read ({error}); the newest that can be read is \
         {}, of {}: name it by its id, or give the other one up with `wherry forget {id}`; `wherry check` says what is damaged",
        found.id,
        local_time(found.record.started)
    );
    Some(Error::corrupt(text).with_object(key))
}

/// Picks from a list.
fn pick(repository: &Repository, list: &SnapshotList, spec: &SnapSpec) -> Result<Snapshot> {
    let id = resolve(repository, list, &select::summaries(list), spec)?.id;
    let snapshot = list.snapshots.iter().find(|s| s.id == id).cloned();
    snapshot.ok_or_else(|| Error::internal("a snapshot is in one list and not in the other"))
}

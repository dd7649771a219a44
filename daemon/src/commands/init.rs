//! `wherry init`

use super::key::keep_a_copy;
use super::probe::{fit_alone, probe};
use crate::cli::{InitArgs, Size};
use crate::context::Context;
use crate::credential;
use crate::exit::Exit;
use crate::storage;
use anyhow::Result;
use serde::Serialize;
use wherry_repo::storage::keys;
use wherry_repo::{DEFAULT_CHUNK_SIZE, Error, ErrorKind, InitOptions, Repository, class_of};

#[derive(Serialize)]
struct View {
    repository: String,
    location: String,
    chunk_size: u32,
    single_writer: bool,
    /// The key file that was made.
    key_file: Option<String>,
    /// A making that was interrupted was finished.
    finished: bool,
}

/// Where a place stands before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Begun; the first way in exists or not.
    Half {
        slot: bool,
    },
}

/// Makes a repository. What is there already is not touched; nothing is made on a storage that will not do.
pub(crate) fn run(context: &Context, args: InitArgs) -> Result<Exit> {
    let InitArgs { single_writer, chunk_size } = args;
    let place = context.settings.repo()?;
    let Size(chunk_size) = chunk_size.unwrap_or(Size(DEFAULT_CHUNK_SIZE.into()));
    let chunk_size = u32::try_from(chunk_size).unwrap_or(u32::MAX);
    class_of(chunk_size)?;
    let storage = wherry_repo::storage::open(place, &storage::options(&context.settings.s3, single_writer))?;
    let state = state(&*storage)?;

    // The credential before the probe, which takes a while; a key file is made only when the probe has passed.
    let source = &context.settings.credential;
    let prompt = format!("Password of {place}: ");
    let missing = source.missing_key_file().filter(|_| state != State::Half { slot: true });
    let known = match (missing, state) {
        (Some(_), _) => None,
        (None, State::Half { slot: true }) => Some(source.read(&prompt, &context.cancel)?),
        (None, _) => Some(source.read_new(&format!("New password of {place}: "), "", &context.cancel)?),
    };
    known.as_ref().map_or(Ok(()), |credential| context.admit(credential))?;
    admit(context, single_writer)?;
    let (credential, key_file) = match (known, missing) {
        (Some(known), _) => (known, None),
        (None, missing) => {
            missing.map_or(Ok(()), |path| credential::make_key_file(path, &context.system))?;
            (source.read(&prompt, &context.cancel)?, missing.map(|path| path.display().to_string()))
        }
    };
    let mut options = InitOptions::default();
    (options.chunk_size, options.single_writer) = (chunk_size, single_writer);
    let repository = Repository::init(context.components(storage), &options, &credential)?;
    let view = View {
        repository: repository.id().to_string(),
        location: repository.storage().location(),
        chunk_size: repository.chunk_size(),
        single_writer: repository.is_single_writer(),
        key_file,
        finished: state != State::Empty,
    };
    // The result in JSON has no place for it.
    if let Some(path) = view.key_file.as_ref().filter(|_| context.output.is_json()) {
        tracing::warn!("{}", keep_a_copy(path).trim_end());
    }
    context.output.result(&view, || {
        let made = if view.finished { "finished" } else { "made" };
        let end = match &view.key_file {
            Some(path) => keep_a_copy(path),
            None => {
                "keep a copy of its password or key in another place: without it nobody can read anything\n".to_owned()
            }
        };
        format!("{made} repository {} at {}\n{end}", view.repository, view.location)
    })?;
    Ok(Exit::Done)
}

fn state(storage: &dyn wherry_repo::Storage) -> Result<State> {
    match storage::peek(storage) {
        Err(e) if e.kind() == ErrorKind::NoRepository => Ok(State::Empty),
        Err(e) => Err(e.into()),
        Ok(Some(_)) => {
            let text = format!("there is a repository at {} already; it was not touched", storage.location());
            Err(Error::new(ErrorKind::Conflict, text).into())
        }
        Ok(None) => {
            let mut slot = false;
            storage.list(keys::KEYS, &mut |_| {
                slot = true;
                Ok(())
            })?;
            Ok(State::Half { slot })
        }
    }
}

/// An error unless the storage keeps the promises that this repository will rest on.
fn admit(context: &Context, single_writer: bool) -> Result<()> {
    let report = probe(context, single_writer).map_err(|e| e.context("nothing was made"))?;
    let fit = if single_writer { report.usable() } else { report.many_writers() };
    if fit {
        return Ok(());
    }
    // One reason may fail every check.
    let mut failed: Vec<_> =
        report.failed().map(|c| format!("{}: {}", c.name, c.failed.as_deref().unwrap_or_default())).collect();
    let more = failed.len().saturating_sub(1);
    failed.truncate(1);
    if more > 0 {
        failed.push(format!("and {more} more, see `wherry probe`"));
    }
    let failed = failed.join("; ");
    let place = context.settings.repo()?;
    Err(match !single_writer && fit_alone(context, &report)? {
        true => Error::invalid(format!(
            "the storage at {place} cannot serve several writers at once ({failed}); nothing was made: use another one, or \
             --single-writer: then one process at a time writes"
        )),
        // Nothing was refused: the storage failed.
        false => {
            let text = format!("the storage at {place} cannot hold a repository ({failed}); nothing was made");
            Error::new(ErrorKind::Unavailable, text)
        }
    }
    .into())
}

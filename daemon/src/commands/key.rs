//! `wherry key`

use super::gc;
use crate::cli::{KeyCommand, NewKeyArgs, RotateArgs};
use crate::context::Context;
use crate::credential::{self, CredentialSource};
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::time::Instant;
use wherry_repo::storage::keys;
use wherry_repo::{CollectOptions, Collected, Credential, Error, ErrorKind, PasswordCost, Repository, Timestamp};

/// Digits of the name of a slot that are enough to remove it, as for the id of a snapshot.
const MIN_DIGITS: usize = 4;

#[derive(Serialize)]
struct View {
    slot: String,
    kind: String,
    created: String,
    #[serde(skip)]
    created_local: String,
    current: bool,
}

#[derive(Default, Serialize)]
struct Changed {
    added: Option<String>,
    removed: Option<String>,
    /// The key file that was made.
    key_file: Option<String>,
    /// Nothing was added, as this slot takes it already.
    #[serde(skip)]
    is_there: Option<String>,
    /// After a change of password: how many slots there are beside the new one.
    #[serde(skip)]
    others: usize,
}

/// Lists, adds, removes and replaces ways into the repository. Its data is not touched.
pub(crate) fn run(context: &Context, command: KeyCommand) -> Result<Exit> {
    match command {
        KeyCommand::List => list(context, &context.open_repository()?),
        KeyCommand::Add(new) => {
            let (repository, _turn) = context.open_to_write("key add")?;
            report(context, add(context, &repository, new, None)?)
        }
        KeyCommand::Remove { slot } => {
            let (repository, _turn) = context.open_to_write("key remove")?;
            let slot = find(&repository, &slot)?;
            repository.remove_slot(slot)?;
            report(context, Changed { removed: Some(hex(slot)), ..Changed::default() })
        }
        KeyCommand::Passwd(new) => {
            let (repository, _turn) = context.open_to_write("key passwd")?;
            let current = repository.slots()?.into_iter().flatten().find(|slot| slot.current);
            let current = current.ok_or_else(|| Error::internal("the key slot in use is not among the slots"))?;
            let added = add(context, &repository, new, Some(current.slot))?;
            repository.remove_slot(current.slot)?;
            let others = repository.slots()?.len().saturating_sub(1);
            report(context, Changed { removed: Some(hex(current.slot)), others, ..added })
        }
        KeyCommand::Rotate(args) => rotate(context, args),
    }
}

#[derive(Serialize)]
struct Rotated {
    /// The number of the key epoch that new packs have.
    epoch: u32,
    /// The slots that open it.
    slots: Vec<String>,
    /// Slots that were added at the same time, and do not.
    left_out: Vec<String>,
    /// With --rewrite: what was sealed anew, and what else a collector does.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewrite: Option<gc::View>,
}

fn rotate(context: &Context, args: RotateArgs) -> Result<Exit> {
    let RotateArgs { rewrite, slot_password_files, slot_key_files } = args;
    let (repository, turn) = context.open_to_write("key rotate")?;
    let passwords = slot_password_files.into_iter().map(CredentialSource::PasswordFile);
    let others = passwords.chain(slot_key_files.into_iter().map(CredentialSource::KeyFile));
    let others = others.map(|source| source.read("", &context.cancel)).collect::<wherry_repo::Result<Vec<_>>>()?;
    others.iter().try_for_each(|credential| context.admit(credential))?;
    let done = repository.rotate(&others)?;
    for slot in &done.left_out {
        tracing::warn!(
            "key slot {} was added at the same time and does not open what is stored from now on",
            hex(*slot)
        );
    }
    let slots = |slots: &[u64]| slots.iter().map(|slot| hex(*slot)).collect::<Vec<_>>();
    let start = Instant::now();
    let options = CollectOptions { rewrite, ..gc::options() };
    let epoch = done.epoch;
    let done_so_far =
        || format!("the keys were rotated (key epoch {epoch}), and `wherry gc --rewrite` goes on from here");
    let collected = rewrite.then(|| gc::collect(context, &repository, Some(turn), options));
    let collected = collected.transpose().with_context(done_so_far)?;
    let view = |(report, _): &(Collected, _)| gc::View::new(report, false, start.elapsed().as_secs_f64());
    let report = Rotated {
        epoch,
        slots: slots(&done.slots),
        left_out: slots(&done.left_out),
        rewrite: collected.as_ref().map(view),
    };
    context.output.result(&report, || {
        let mut text = format!("key epoch {}: what is stored from now on is sealed under a new key\n", report.epoch);
        for slot in &report.slots {
            text.push_str(&format!("key slot {slot} opens old and new\n"));
        }
        for slot in &report.left_out {
            text.push_str(&format!("key slot {slot} does NOT open it: `wherry key remove {slot}`, and add it again\n"));
        }
        if let Some((report, options)) = &collected {
            text.push_str(&gc::text(report, options));
        }
        text
    })?;
    let is_partial = collected.as_ref().is_some_and(|(report, _)| report.failed.packs > 0);
    let is_damaged = collected.as_ref().is_some_and(|(report, _)| report.unopened.packs > 0);
    Ok(match report.left_out.is_empty() {
        true if is_damaged => Exit::Damage,
        true if is_partial => Exit::Partial,
        true => Exit::Done,
        false => Exit::Failed,
    })
}

fn hex(slot: u64) -> String {
    format!("{slot:016x}")
}

fn list(context: &Context, repository: &Repository) -> Result<Exit> {
    let mut views = Vec::new();
    let mut exit = Exit::Done;
    for slot in repository.slots()? {
        match slot {
            Ok(slot) => {
                let created = Timestamp(slot.created.saturating_mul(1_000_000_000));
                views.push(View {
                    slot: hex(slot.slot),
                    kind: slot.kind,
                    created: output::utc_time(created),
                    created_local: output::local_time(created),
                    current: slot.current,
                });
            }
            // Removed since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => {
                tracing::error!("a key slot is damaged: {e}");
                exit = Exit::Damage;
            }
        }
    }
    context.output.result(&views, || {
        let mut table =
            Table::new(&[("SLOT", Side::Left), ("KIND", Side::Left), ("CREATED", Side::Left), ("", Side::Left)]);
        for view in &views {
            let current = if view.current { "in use" } else { "" };
            table.row([view.slot.clone(), view.kind.clone(), view.created_local.clone(), current.to_owned()]);
        }
        table.render()
    })?;
    Ok(exit)
}

/// Adds a slot. What opens another one already does not get a second: whoever removed one of the two would believe that it shuts out.
/// That is refused; in place of the slot `replaced` it is as good, and what a run leaves that is killed before it removes the old one. The
/// one in use may be replaced by itself.
fn add(context: &Context, repository: &Repository, new: NewKeyArgs, replaced: Option<u64>) -> Result<Changed> {
    let source = new.source();
    let made = source.missing_key_file().map(|path| credential::make_key_file(path, &context.system).map(|()| path));
    let key_file = made.transpose()?.map(|path| path.display().to_string());
    let credential = source.read_new("New password: ", "new-", &context.cancel)?;
    context.admit(&credential)?;
    if let Some(slot) = repository.slot_of(&credential, replaced)? {
        if replaced.is_some() {
            return Ok(Changed { is_there: Some(hex(slot)), ..Changed::default() });
        }
        let what = match credential {
            Credential::Password(_) => "password",
            Credential::KeyFile(_) => "key file",
        };
        let text = format!("this {what} opens key slot {} already, nothing was added: give another one", hex(slot));
        return Err(Error::invalid(text).into());
    }
    let slot = repository.add_slot(&credential, PasswordCost::default())?;
    Ok(Changed { added: Some(hex(slot)), key_file, ..Changed::default() })
}

/// The number of the slot whose name begins so.
fn find(repository: &Repository, text: &str) -> Result<u64> {
    let mut slots = Vec::new();
    repository.storage().list(keys::KEYS, &mut |object| {
        let slot = object.key.as_str().strip_prefix(keys::KEYS).filter(|s| s.len() == 16);
        slots.extend(slot.and_then(|slot| u64::from_str_radix(slot, 16).ok()));
        Ok(())
    })?;
    let mut found = slots.into_iter().filter(|slot| hex(*slot).starts_with(&text.to_ascii_lowercase()));
    match (found.next().filter(|_| !text.is_empty()), found.next()) {
        // One digit mistyped must not shut somebody out.
        (Some(_), None) if text.len() < MIN_DIGITS => {
            let why = format!(
                "{text:?} is too short for a key slot: write at least {MIN_DIGITS} digits of its name, or all of them"
            );
            Err(Error::invalid(why).into())
        }
        (Some(slot), None) => Ok(slot),
        (None, _) => Err(Error::invalid(format!("there is no key slot {text:?}: see `wherry key list`")).into()),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("{text} is the beginning of several key slots: write more digits")).into())
        }
    }
}

fn report(context: &Context, changed: Changed) -> Result<Exit> {
    // The result in JSON has no place for it.
    if let Some(path) = changed.key_file.as_ref().filter(|_| context.output.is_json()) {
        tracing::warn!("{}", keep_a_copy(path).trim_end());
    }
    context.output.result(&changed, || {
        let Changed { added, removed, key_file, is_there, others } = &changed;
        let mut text = String::new();
        if let Some(slot) = is_there {
            text.push_str(&format!("key slot {slot} takes it already\n"));
        }
        if let Some(slot) = added {
            text.push_str(&format!("added key slot {slot}\n"));
        }
        if let Some(slot) = removed {
            text.push_str(&format!("removed key slot {slot}\n"));
        }
        // Perhaps with a password that was to be shut out, by a change that was killed half way.
        if *others > 0 {
            let slots = if *others == 1 { "another key slot opens" } else { "other key slots open" };
            text.push_str(&format!("{slots} the repository, too: see `wherry key list`\n"));
        }
        if let Some(path) = key_file {
            text.push_str(&keep_a_copy(path));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// What has to be said when a key file was made.
pub(super) fn keep_a_copy(path: &str) -> String {
    format!(
        "made the key file {path}: keep a copy of it in another place; who has it can read everything, and without it, \
         or another way in, nobody can\n"
    )
}

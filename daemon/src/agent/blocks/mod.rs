//! What is read of a Block volume, as the driver says it: the CSI SnapshotMetadata service (KEP-3314). The way of it, and why each
//! answer is believed or not, is in `controller/docs/changed-blocks.md`. Nothing here lets an upload fail: without an answer
//! everything is read.

mod base;
mod call;
mod ranges;
mod token;
mod wire;

use super::Agent;
use crate::backup::{Allocated, ChangedBlocks, Pinned};
use crate::signals::Cancel;
use anyhow::Result;
use base::{Base, Target, base};
use call::{Caller, Unanswered};
use prost::Message;
use ranges::Ranges;
use std::ops::Range;
use std::time::Duration;
use wherry_api::api::Refusal;
use wherry_api::metrics::{BY_ALLOCATED, BY_CHANGED, BY_NOTHING};
use wherry_api::snapshot_metadata::Service;
use wherry_api::{UploadPlan, names};
use wherry_repo::{Repository, SnapshotId};
use wire::Answer;

/// Whoever cancels waits no longer than this for an answer to be given up.
const LOOK: Duration = Duration::from_millis(100);

/// The API server is asked so often where the service is, with that pause.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What came of asking.
#[derive(Debug)]
pub(super) enum Blocks {
    /// Only this may differ from that snapshot.
    Changed(ChangedBlocks, SnapshotId),
    /// Only this holds data. With why there is no delta, where there is a snapshot before.
    Allocated(Allocated, Option<String>),
    /// Everything is read, for this reason.
    Nothing(String),
}

/// For `crate::decoders`: a message, written again.
pub(crate) fn written_again(message: &[u8]) -> Option<Vec<u8>> {
    Answer::decode(message).ok().map(|answer| answer.encode_to_vec())
}

/// The same: what messages say of a device of so many bytes.
pub(crate) fn told(messages: &[&[u8]], size: u64) -> std::result::Result<Vec<Range<u64>>, String> {
    let mut ranges = Ranges::new(size);
    for message in messages {
        ranges.take(&Answer::decode(*message).map_err(|e| e.to_string())?)?;
    }
    Ok(ranges.whole()?.ranges().to_vec())
}

impl Blocks {
    /// What the pipeline is told.
    pub(super) fn hints(&self) -> (Option<Pinned>, Option<Allocated>) {
        match self {
            Self::Changed(list, id) => (Some(Pinned::new(list.clone(), Ok(*id))), None),
            Self::Allocated(allocated, _) => (None, Some(allocated.clone())),
            Self::Nothing(_) => (None, None),
        }
    }

    /// What was read, in words for people, and as the metrics count it. `unused` is why the pipeline did not take what it was
    /// told.
    pub(super) fn told(&self, unused: Option<&str>) -> (String, &'static str) {
        let read = |why: &str| (format!("everything is read: {}", whole(why)), BY_NOTHING);
        match (self, unused) {
            (Self::Nothing(why), _) => read(why),
            (_, Some(why)) => read(why),
            (Self::Changed(_, id), None) => (format!("by changed blocks since {id}"), BY_CHANGED),
            (Self::Allocated(_, None), None) => ("by allocated blocks".to_owned(), BY_ALLOCATED),
            (Self::Allocated(_, Some(why)), None) => {
                (format!("by allocated blocks, not by changed ones: {}", whole(why)), BY_ALLOCATED)
            }
        }
    }
}

/// Other words follow in the same line.
fn whole(why: &str) -> &str {
    why.trim_end_matches('.')
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) repository: &'a Repository,
    /// Name of the volume in the repository.
    pub(super) name: &'a str,
    /// Id of this cluster.
    pub(super) cluster: &'a str,
    pub(super) plan: &'a UploadPlan,
    /// Of the device, in bytes.
    pub(super) size: u64,
}

/// Asks the service of the driver, if there is one.
///
/// # Errors
/// When the work is to end, or the repository cannot be read.
pub(super) fn blocks(agent: &Agent, question: Question<'_>, cancel: &Cancel) -> Result<Blocks> {
    let Question { repository, name, cluster, plan, size } = question;
    if agent.settings.lock().as_ref().is_some_and(|settings| settings.read_all) {
        return Ok(Blocks::Nothing("the setting readAll is on".to_owned()));
    }
    let service = match find(agent, &plan.driver, cancel)? {
        Ok(service) => service,
        Err(why) => return Ok(Blocks::Nothing(why)),
    };
    let base = base(repository, name, Target { cluster, plan, size })?;
    let snapshot = names::object(&plan.cr_uid);
    agent.around.wait(async {
        tokio::select! {
            blocks = ask(agent, &service, &snapshot, size, base) => Ok(blocks),
            () = asked_to_end(cancel) => Err(cancel.error().into()),
        }
    })
}

async fn asked_to_end(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The service of that driver, or why there is none.
fn find(agent: &Agent, driver: &str, cancel: &Cancel) -> Result<std::result::Result<Service, String>> {
    let call = format!("get SnapshotMetadataService {driver}");
    let ask = || agent.around.wait_briefly(&call, agent.around.api.snapshot_metadata_service(driver));
    let mut found = ask();
    for _ in 1..TRIES {
        match &found {
            // To read all of a volume is dearer than to ask once more.
            Err(e) if e.refusal == Refusal::Unavailable => {}
            _ => break,
        }
        std::thread::sleep(PAUSE);
        cancel.check()?;
        found = ask();
    }
    Ok(found.map_err(|e| e.to_string()).flatten())
}

/// A delta, else what is allocated, else nothing.
async fn ask(
    agent: &Agent,
    service: &Service,
    snapshot: &str,
    size: u64,
    base: std::result::Result<Base, Option<String>>,
) -> Blocks {
    let nothing = |(Unanswered::Refused(why) | Unanswered::Gone(why) | Unanswered::Wrong(why)), asked: &str| {
        Blocks::Nothing(format!("{asked}: {why}"))
    };
    let mut caller = match Caller::new(&agent.around, service, snapshot, size) {
        Ok(caller) => caller,
        Err(why) => return nothing(why, "the driver's service cannot be asked"),
    };
    let no_delta = match base {
        Err(why) => why,
        Ok(Base { id, handle }) => match caller.ask(Some(&handle)).await {
            Ok(changed) => return Blocks::Changed(changed, id),
            Err(Unanswered::Refused(why)) => Some(format!("the driver gives none since {id} ({handle}): {why}")),
            Err(Unanswered::Wrong(why)) => {
                return Blocks::Nothing(format!("the driver's changed blocks are wrong: {why}"));
            }
            Err(why) => return nothing(why, "the driver gives no changed blocks"),
        },
    };
    match caller.ask(None).await {
        Ok(list) => Blocks::Allocated(Allocated { list, size }, no_delta),
        Err(Unanswered::Wrong(why)) => Blocks::Nothing(format!("the driver's allocated blocks are wrong: {why}")),
        Err(why) => nothing(why, "the driver gives no allocated blocks"),
    }
}

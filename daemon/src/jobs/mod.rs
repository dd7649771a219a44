//! `wherry job`: what the controller of a cluster has done about a repository by Jobs. A Job looks, decides and acts by itself, and
//! leaves its result in a ConfigMap. See `controller/docs/forgetting.md`.

mod decide;
pub(crate) mod forget;
mod gc;
mod result;

use crate::agent::store::{Store, Use};
use crate::agent::surroundings::Surroundings;
use crate::backup;
use crate::cli::JobCommand;
use crate::context::Context;
use crate::exit::{Exit, one_line};
use anyhow::Result;
use wherry_api::job::{Collecting, Forgetting, JobKind, JobResult, State};
use wherry_api::{BackupStorageLocation, Time};
use wherry_repo::{Clock, ErrorKind};

/// What is fixed for one Job.
struct Job<'a> {
    context: &'a Context,
    around: Surroundings,
    /// Name of the BackupStorageLocation.
    location: String,
}

/// What came of the work.
#[derive(Debug, Default)]
struct Outcome {
    state: State,
    message: String,
    repository: Option<String>,
    forgetting: Option<Forgetting>,
    collecting: Option<Collecting>,
}

/// Does one Job, prints its result and keeps it in the cluster.
pub(crate) fn run(context: &Context, command: JobCommand) -> Result<Exit> {
    let (kind, location, cluster) = match &command {
        JobCommand::Forget(args) => (JobKind::Forget, args.location.clone(), args.cluster.clone()),
        JobCommand::Gc(args) => (JobKind::Gc, args.location.clone(), args.cluster.clone()),
    };
    let (around, runtime) = Surroundings::new(cluster)?;
    let job = Job { context, around, location };
    let _armed = context.cancel.arm("what was done stays done, and the next Job goes on");
    let outcome = match command {
        JobCommand::Forget(args) => forget::run(&job, &args),
        JobCommand::Gc(args) => gc::run(&job, &args),
    };
    let (outcome, error) = match outcome {
        Ok(outcome) => (outcome, None),
        Err(e) => (Outcome { message: one_line(&e), ..Outcome::default() }, Some(e)),
    };
    let Outcome { state, message, repository, forgetting, collecting } = outcome;
    let ended = JobResult { repository, forgetting, collecting, ..JobResult::new(kind, job.now(), state, message) };
    // The error of the work is the one that counts, whatever becomes of its record.
    let kept = result::keep(&job.around, &job.location, &ended);
    context.output.bytes(format!("{}\n", kept.as_ref().unwrap_or(&ended).print()).as_bytes())?;
    // What is still asked of the API server is of no use to anybody.
    runtime.shutdown_background();
    match (error, kept) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(_)) => Ok(Exit::Done),
    }
}

impl Job<'_> {
    fn now(&self) -> Time {
        Time(self.context.system.now().seconds())
    }

    /// The repository, unless the location or what lies there is not as it should be: then why.
    fn open(&self, kind: JobKind) -> Result<Opened> {
        let refused = |why: String| Outcome { state: State::Refused, message: why, ..Outcome::default() };
        let location = match Store::location(&self.around, &self.location) {
            Err(e) if is_invalid(&e) => return Ok(Err(refused(one_line(&e)))),
            location => location?,
        };
        let name = &self.location;
        let why = |ahead| decide::refusal(&location.status.phase, &location.spec.access_mode, ahead);
        if let Some(why) = why(0) {
            return Ok(Err(refused(format!("BackupStorageLocation {name}: {why}"))));
        }
        let cancel = &self.context.cancel;
        let store = match Store::open(&self.around, name, Use::Known, cancel, self.context) {
            Err(e) if is_invalid(&e) => return Ok(Err(refused(one_line(&e)))),
            store => store?,
        };
        let (budget, repository) = (&self.context.budget, &store.repository);
        repository.limit_nodes(budget.nodes);
        repository.limit_lookups(budget.index);
        let ahead = decide::ahead(kind, self.now(), repository.storage_time())?;
        if let Some(why) = why(ahead) {
            let repository = Some(repository.id().to_string());
            return Ok(Err(Outcome { repository, ..refused(format!("BackupStorageLocation {name}: {why}")) }));
        }
        Ok(Ok((location, store)))
    }
}

fn is_invalid(error: &anyhow::Error) -> bool {
    backup::kind(error) == Some(ErrorKind::Invalid)
}

/// The location and its repository, or why not.
type Opened = std::result::Result<(BackupStorageLocation, Store), Outcome>;

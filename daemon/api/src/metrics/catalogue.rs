//! Every metric of controller and agent, in one place: what a dashboard or an alert may name. The values of each label are a closed
//! list, so that the number of series is known beforehand; no volume, PVC, namespace or backup is a label.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// As it is now.
    Gauge,
    /// How often, by size; the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// Which executable serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `wherry agent`.
    Agent,
    /// `wherry-controller run`. One that waits for the Lease serves what it has: zeros, and `wherry_controller_acts 0`.
    Controller,
    /// Both.
    Both,
}

/// A label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values that it can have. Where "other" is one of them, it stands for those that are none of the rest.
    pub values: &'static [&'static str],
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Type,
    /// Who serves it.
    pub by: By,
    /// What its number counts.
    pub unit: &'static str,
    /// Its labels; each combination of their values is served from the start.
    pub labels: &'static [Label],
    /// What it says, in a line.
    pub help: &'static str,
}

const fn label(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values }
}

/// Value of label `kind` for a DataUpload.
pub const UPLOAD: &str = "upload";
/// Value of label `kind` for a DataDownload.
pub const DOWNLOAD: &str = "download";

const KIND: Label = label("kind", &[UPLOAD, DOWNLOAD]);
const PHASE: Label = label(
    "phase",
    &["New", "Accepted", "Prepared", "InProgress", "Canceling", "Canceled", "Completed", "Failed", "other"],
);
const UNENDED: Label = label("phase", &["Accepted", "Prepared", "InProgress", "Canceling"]);
const RESULT: Label = label("result", &["Completed", "Failed", "Canceled"]);
/// Value of label `by`: of changed blocks since a snapshot.
pub const BY_CHANGED: &str = "changed";
/// Value of label `by`: of allocated blocks.
pub const BY_ALLOCATED: &str = "allocated";
/// Value of label `by`: of nothing, so that everything was read.
pub const BY_NOTHING: &str = "nothing";

/// Value of label `of`: all PVCs that have DataUploads, also those that nobody backs up any more.
pub const OF_ALL: &str = "all";
/// Value of label `of`: those that have a DataUpload since, which is not Completed.
pub const OF_TRIED: &str = "tried";

const OF: Label = label("of", &[OF_ALL, OF_TRIED]);
const BY: Label = label("by", &[BY_CHANGED, BY_ALLOCATED, BY_NOTHING]);
const ENGINE: Label = label("engine", &["ring", "threads", "other"]);
const WHY: Label = label("why", &["asked", "works", "no-ring", "other"]);
const VERB: Label = label("verb", &["get", "list", "watch", "create", "patch", "delete", "other"]);
const CODE: Label = label("code", &["2xx", "4xx", "404", "409", "429", "5xx", "none", "other"]);
// Not `job`, which each scrape has for itself.
const TASK: Label = label("task", &["forget", "gc"]);
const VERSION: Label = label("version", &[env!("CARGO_PKG_VERSION")]);

/// From a second to Velero's four hours and beyond.
const SECONDS: Type = Type::Histogram(&[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0]);

/// Makes a constant of each line, and the list of all of them: none can be left out of it.
macro_rules! catalogue {
    ($($constant:ident = $by:ident $kind:expr, $name:literal, $unit:literal, [$($label:ident),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name, kind: $kind, by: By::$by, unit: $unit, labels: &[$($label),*], help: $help,
            };
        )*
        /// All of them.
        pub const CATALOGUE: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    BUILD = Both Type::Gauge, "wherry_build_info", "1", [VERSION], "The version that runs.";
    SETTINGS_GOOD = Both Type::Gauge, "wherry_settings_good", "0 or 1", [],
        "Whether ConfigMap wherry is there and can be used as it is now; if not, what was set before stays in force.";
    REQUESTS = Both Type::Counter, "wherry_api_requests_total", "requests", [VERB, CODE],
        "Requests to the API server by the kind of answer; none: no answer.";
    CONFLICTS = Both Type::Counter, "wherry_api_conflicts_total", "requests", [],
        "Writes that met an object that had changed, after which it is looked at anew.";

    READ = Agent Type::Counter, "wherry_upload_read_bytes_total", "bytes", [],
        "Read from volumes by uploads that have made a snapshot.";
    SKIPPED = Agent Type::Counter, "wherry_upload_skipped_bytes_total", "bytes", [],
        "Of the volumes of these uploads not read: not allocated, or known to be unchanged.";
    CHANGED = Agent Type::Counter, "wherry_upload_changed_bytes_total", "bytes", [],
        "Of what these uploads read not in the snapshot that they were based on (incrementalBytes).";
    STORED = Agent Type::Counter, "wherry_upload_stored_bytes_total", "bytes", [],
        "Written to packs of the repository by these uploads, compressed; the rest of what changed was stored before.";
    RESTORED = Agent Type::Counter, "wherry_download_bytes_total", "bytes", [],
        "Bytes of the snapshots whose volumes were restored.";
    MOVED = Agent Type::Counter, "wherry_volumes_moved_total", "volumes", [KIND, ENGINE],
        "Volumes whose data was moved, by the engine that did it.";
    ENGINE_INFO = Agent Type::Gauge, "wherry_engine_info", "1", [ENGINE, WHY],
        "1: the engine for devices, and why, as this agent found it last, at its start and with each Block volume; no-ring: io_uring is off, denied or missing, and the log says which.";
    BY_BLOCKS = Agent Type::Counter, "wherry_uploads_by_blocks_total", "volumes", [BY],
        "Block volumes uploaded, by what the driver said to read of them: changed blocks, allocated blocks, or nothing, so all.";
    MOVING = Agent Type::Gauge, "wherry_volumes_moving", "volumes", [KIND], "Volumes whose data is moved now.";
    SLOTS = Agent Type::Gauge, "wherry_slots", "volumes", [], "How many volumes this agent moves at once at most.";
    DATA_SECONDS = Agent SECONDS, "wherry_data_seconds", "seconds", [KIND],
        "How long the data of a volume took, all tries of one process, whatever came of it.";
    RETRIES = Agent Type::Counter, "wherry_retries_total", "tries", [KIND],
        "Tries that failed by something that may pass (storage or API server away, credentials refused) and were repeated.";
    KEY_MISSING = Agent Type::Gauge, "wherry_key_missing", "0 or 1", [],
        "Whether there was a repository and no key that opens it, when one was opened last.";

    ACTS = Controller Type::Gauge, "wherry_controller_acts", "0 or 1", [], "Whether this replica has the Lease.";
    PAUSED = Controller Type::Gauge, "wherry_paused", "0 or 1", [], "Whether the setting pause is on.";
    CRS = Controller Type::Gauge, "wherry_crs", "CRs", [KIND, PHASE], "DataUploads and DataDownloads of wherry by phase.";
    ENDED = Controller Type::Counter, "wherry_crs_ended_total", "CRs", [KIND, RESULT], "CRs that were seen to end.";
    QUEUE_SECONDS = Controller SECONDS, "wherry_queue_seconds", "seconds", [KIND],
        "From creation to Accepted, of CRs that this process accepted.";
    PHASE_SECONDS = Controller SECONDS, "wherry_phase_seconds", "seconds", [KIND, UNENDED],
        "How long CRs were in a phase that this process saw begin and end.";
    AT_RISK = Controller Type::Gauge, "wherry_crs_deadline_at_risk", "CRs", [KIND],
        "CRs that have not ended after 75 % of the setting itemTimeout.";
    WITHOUT_AGENT = Controller Type::Gauge, "wherry_crs_without_agent", "CRs", [KIND],
        "CRs on a node whose agent has not answered for two minutes; those on no node yet, if none has anywhere.";
    AGENTS = Controller Type::Gauge, "wherry_agents", "nodes", [],
        "Nodes whose agent answers, as it was looked at last: once a minute while there is work.";
    LEFTOVERS = Controller Type::Gauge, "wherry_leftovers", "objects", [],
        "Objects of ours that no CR needs, in the namespace of Velero for five minutes, of the cluster at the last sweep; and CRs that ended and hold something.";
    FAILING = Controller Type::Gauge, "wherry_volumes_failing", "volumes", [],
        "PVCs whose newest DataUpload that ended was not Completed: Failed, or Canceled by whomever.";
    OLDEST_COMPLETED = Controller Type::Gauge, "wherry_oldest_completed_timestamp_seconds", "Unix time", [OF],
        "When the newest DataUpload of a PVC that was Completed ended, of the PVC where that is longest ago (never: the creation of its first one); of all PVCs that have DataUploads, or of those that were tried again since; 0: of none.";
    LAST_COMPLETED = Controller Type::Gauge, "wherry_last_completed_timestamp_seconds", "Unix time", [KIND],
        "When the newest CR that was Completed ended, as this process has seen, gone or not; 0: it has seen none.";
    FORGETTING_HELD = Controller Type::Gauge, "wherry_forgetting_on_hold", "backups", [],
        "Backups that are missing and whose snapshots stay all the same, as they are more than may go without a word of a human.";
    LAST_GC = Controller Type::Gauge, "wherry_gc_last_success_timestamp_seconds", "Unix time", [],
        "When gc last succeeded (one that only waited for backups has not), of the repositories in which it did the one where that is longest ago; 0: in none.";
    JOBS_FAILING = Controller Type::Gauge, "wherry_jobs_failing", "repositories", [TASK],
        "Repositories whose newest Job of that kind that ended, of those that are kept, failed or was refused.";
    LIVE_BYTES = Controller Type::Gauge, "wherry_gc_live_bytes", "bytes", [],
        "Size of the packs that the newest gc of each location left, of those that succeeded; 0: this process has seen none.";
    DELETED_BYTES = Controller Type::Gauge, "wherry_gc_deleted_bytes", "bytes", [],
        "Size of the packs that the newest gc of each location deleted.";
    GC_OVERDUE = Controller Type::Gauge, "wherry_gc_overdue", "repositories", [],
        "Repositories in which no gc has succeeded for longer than the settings gcOverdue and twice gcInterval; where none ever has, since the first Job.";
}

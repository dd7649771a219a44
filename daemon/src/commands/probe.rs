//! `wherry probe`

use crate::cli::ProbeArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Side, Table};
use crate::storage;
use serde::Serialize;
use wherry_repo::Result;
use wherry_repo::storage::conformance::{self, Need, Options, Report};

#[derive(Serialize)]
struct View<'a> {
    location: &'a str,
    /// Some process can use it.
    usable: bool,
    /// Many processes can use it at once.
    many_writers: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// Tests the storage, whether or not there is a repository in it.
pub(crate) fn run(context: &Context, args: ProbeArgs) -> anyhow::Result<Exit> {
    let ProbeArgs {} = args;
    let place = context.settings.repo()?;
    let report = probe(context, false)?;
    let (usable, many_writers) = (fit_alone(context, &report)?, report.many_writers());
    context.output.result(&View { location: place, usable, many_writers, report: &report }, || {
        let mut table =
            Table::new(&[("CHECK", Side::Left), ("NEEDED FOR", Side::Left), ("", Side::Left), ("WHY", Side::Left)]);
        for check in &report.checks {
            let need = match check.need {
                Need::Basic => "everything",
                Need::CreateIfAbsent | Need::ListAfterWrite => "several writers",
            };
            let result = if check.failed.is_some() { "FAILED" } else { "ok" };
            table.row([
                check.name.to_owned(),
                need.to_owned(),
                result.to_owned(),
                check.failed.clone().unwrap_or_default(),
            ]);
        }
        let verdict = match (usable, many_writers) {
            (_, true) => "fit for any number of writers",
            (true, false) => "fit for one writer at a time: wherry init --single-writer",
            (false, false) => "not fit for a repository",
        };
        format!("{}{place} is {verdict}\n", table.render())
    })?;
    Ok(if many_writers { Exit::Done } else { Exit::Failed })
}

/// Whether one process at a time could use the storage that gave this report. One that refuses every create because two
/// could overwrite each other fails all checks, and is tried again as somebody would who is alone.
pub(super) fn fit_alone(context: &Context, report: &Report) -> Result<bool> {
    Ok(report.usable() || probe(context, true)?.usable())
}

/// Runs the short checks.
pub(super) fn probe(context: &Context, single_writer: bool) -> Result<Report> {
    let options = storage::options(&context.settings.s3, single_writer);
    let place = context.settings.repo()?;
    let progress = context.progress("probe", None);
    let report = conformance::run(&|| wherry_repo::storage::open(place, &options), &Options::SHORT);
    progress.finish();
    report
}

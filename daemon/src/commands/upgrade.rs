//! `wherry upgrade`

use crate::cli::UpgradeArgs;
use crate::context::Context;
use crate::exit::Exit;
use serde::Serialize;
use wherry_repo::format::clear::{Feature, KNOWN, Set};

#[derive(Serialize)]
struct Report {
    repository: String,
    /// The minor version of the format.
    minor: u32,
    added: Vec<View>,
    features: Vec<View>,
}

#[derive(Serialize)]
struct View {
    feature: &'static str,
    /// What a version must not do that does not know it: `read`, `write` or `gc`.
    set: &'static str,
}

impl From<&Feature> for View {
    fn from(feature: &Feature) -> Self {
        let set = match feature.set {
            Set::Read => "read",
            Set::Write => "write",
            Set::Gc => "gc",
        };
        Self { feature: feature.name, set }
    }
}

/// Adds every feature that the repository lacks.
pub(crate) fn run(context: &Context, args: UpgradeArgs) -> anyhow::Result<Exit> {
    let UpgradeArgs {} = args;
    let (repository, _turn) = context.open_to_write("upgrade")?;
    let (added, config) = repository.upgrade()?;
    let report = Report {
        repository: repository.id().to_string(),
        minor: config.minor,
        added: added.iter().map(View::from).collect(),
        features: KNOWN.iter().filter(|feature| feature.is_in(&config)).map(View::from).collect(),
    };
    context.output.result(&report, || {
        let mut lines: Vec<_> =
            report.added.iter().map(|view| format!("added {}: {}", view.feature, without(view))).collect();
        if lines.is_empty() {
            lines.push("nothing to add: the repository has all that this version knows".to_owned());
        }
        lines.push(format!("format 1.{}", report.minor));
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}

fn without(view: &View) -> &'static str {
    match view.set {
        "read" => "versions that do not know it refuse to open the repository from now on (exit 15)",
        "write" => "versions that do not know it only read the repository from now on (exit 15)",
        _ => "versions that do not know it back up and restore as before, but delete nothing any more",
    }
}

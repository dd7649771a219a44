//! `wherry config check`

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Side, Table};
use serde::Serialize;

#[derive(Serialize)]
struct Checked<'a> {
    files: Vec<String>,
    repo: Option<&'a str>,
    credential: String,
    cache_dir: Option<String>,
    memory: u64,
    pack_size: u64,
    workers: usize,
    engine: String,
}

/// Everything was read and resolved before: what is left is to show it. Secrets are not looked at.
pub(crate) fn check(context: &Context) -> anyhow::Result<Exit> {
    let settings = &context.settings;
    let checked = Checked {
        files: settings.files.iter().map(|f| f.display().to_string()).collect(),
        repo: settings.repo.as_deref(),
        credential: settings.credential.to_string(),
        cache_dir: settings.cache_dir.as_ref().filter(|_| settings.use_cache).map(|d| d.display().to_string()),
        memory: settings.memory,
        pack_size: context.budget.pack_size,
        workers: context.budget.workers,
        engine: format!("{:?}", settings.engine).to_lowercase(),
    };
    context.output.result(&checked, || {
        let mut table = Table::new(&[("SETTING", Side::Left), ("VALUE", Side::Left)]);
        let files = if checked.files.is_empty() { "none".to_owned() } else { checked.files.join(", ") };
        let rows = [
            ("files", files),
            ("repo", checked.repo.unwrap_or("none").to_owned()),
            ("credential", checked.credential.clone()),
            ("cache-dir", checked.cache_dir.clone().unwrap_or_else(|| "none".to_owned())),
            ("memory", crate::cli::Size(checked.memory).to_string()),
            ("engine", checked.engine.clone()),
        ];
        for (name, value) in rows {
            table.row([name.to_owned(), value]);
        }
        table.render()
    })?;
    Ok(Exit::Done)
}

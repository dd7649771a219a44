//! `wherry ls`

use super::names::{Json, Lines, table};
use super::opened::{Typed, ended, look};
use crate::cli::LsArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::tree::path::TreePath;
use crate::tree::view::walk;
use anyhow::Result;

/// Lists a directory, or shows one entry.
pub(crate) fn run(context: &Context, args: LsArgs) -> Result<Exit> {
    let LsArgs { snap, path, recursive } = args;
    let typed = Typed::new(path);
    let repository = context.open_repository()?;
    let snapshot = context.snapshot(&repository, &snap)?;
    look(context, &repository, &snapshot, &typed, |view, path| {
        let top = view.stat(path)?;
        let (json, mut lines) = (context.output.is_json(), Lines::new(context));
        if !top.is_folder() {
            match json {
                true => Json::one(context, path, &top)?,
                false => lines.add(&table(&[top]))?,
            }
            lines.end()?;
            return Ok(Exit::Done);
        }
        if json {
            let mut json = Json::new(context);
            let failed = walk(view, path, recursive, &mut |_, folder, nodes| {
                nodes.iter().try_for_each(|node| json.add(&folder.join(&node.name), node))
            })?;
            json.end()?;
            return Ok(ended(failed));
        }
        let mut last: Option<TreePath> = None;
        let failed = walk(view, path, recursive, &mut |_, folder, nodes| {
            // The pages of a long directory stand below one headline.
            if recursive && last.as_ref() != Some(folder) {
                let blank = if last.is_some() { "\n" } else { "" };
                lines.add(&format!("{blank}{folder}:\n"))?;
                last = Some(folder.clone());
            }
            if nodes.is_empty() { Ok(()) } else { lines.add(&table(&nodes)) }
        })?;
        lines.end()?;
        Ok(ended(failed))
    })
}

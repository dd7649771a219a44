//! `wherry stats`

use super::snapshots::{Known, damage};
use crate::cli::StatsArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{self, Side, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use wherry_repo::TreeInfo;
use wherry_repo::storage::Storage;

/// Objects below one prefix.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Objects {
    count: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Stats {
    repository: String,
    location: String,
    chunk_size: u32,
    single_writer: bool,
    volumes: usize,
    snapshots: usize,
    forgotten: usize,
    partial: usize,
    /// Snapshots whose record cannot be read, and those not forgotten that damage hits, as the last check found.
    damaged: usize,
    /// Of the snapshots that are not forgotten, those that are trees of directories, and what is in all of them.
    trees: usize,
    files: u64,
    directories: u64,
    others: u64,
    missing: u64,
    unsettled: u64,
    /// Bytes of all volumes of all snapshots that are not forgotten.
    size: u64,
    /// Objects by the first part of their key.
    objects: BTreeMap<String, Objects>,
    /// Bytes of all objects.
    stored: u64,
}

/// Counts what the repository holds. Every object is listed, none is read but the records of snapshots, and
/// of what is said of them.
pub(crate) fn run(context: &Context, args: StatsArgs) -> anyhow::Result<Exit> {
    let StatsArgs {} = args;
    let repository = context.open_repository()?;
    let list = repository.snapshots(None)?;
    let known = Known::read(&repository)?;
    let objects = count(repository.storage())?;
    let volumes: std::collections::BTreeSet<_> = list.visible().map(|s| s.volume).collect();
    let visible = list.visible().count();
    let trees: Vec<_> = list.visible().filter_map(|s| s.record.tree.as_ref()).collect();
    let sum = |of: fn(&TreeInfo) -> u64| trees.iter().map(|tree| of(tree)).fold(0, u64::saturating_add);
    let stats = Stats {
        repository: repository.id().to_string(),
        location: repository.storage().location(),
        chunk_size: repository.chunk_size(),
        single_writer: repository.is_single_writer(),
        volumes: volumes.len(),
        snapshots: visible,
        forgotten: list.snapshots.len() - visible,
        partial: list.visible().filter(|s| s.record.partial).count(),
        damaged: list.damaged.len() + list.visible().filter(|s| known.is_damaged(&s.id)).count(),
        trees: trees.len(),
        files: sum(|tree| tree.files),
        directories: sum(|tree| tree.folders),
        others: sum(|tree| tree.others),
        missing: sum(|tree| tree.missing),
        unsettled: sum(|tree| tree.unsettled),
        size: list.visible().map(|s| s.record.size).fold(0, u64::saturating_add),
        stored: objects.values().map(|o| o.bytes).sum(),
        objects,
    };
    context.output.result(&stats, || {
        let mut table = Table::new(&[("REPOSITORY", Side::Left), (&stats.repository, Side::Left)]);
        let rows = [
            ("location", stats.location.clone()),
            ("chunk size", output::size(stats.chunk_size.into())),
            ("writers", if stats.single_writer { "one at a time" } else { "many" }.to_owned()),
            ("volumes", stats.volumes.to_string()),
            ("snapshots", stats.snapshots.to_string()),
            ("forgotten", stats.forgotten.to_string()),
            ("partial", stats.partial.to_string()),
            ("damaged", stats.damaged.to_string()),
            ("size of all", output::size(stats.size)),
            ("stored", output::size(stats.stored)),
        ];
        let of_trees = [
            ("trees", stats.trees.to_string()),
            ("files", stats.files.to_string()),
            ("directories", stats.directories.to_string()),
            ("others", stats.others.to_string()),
            ("missing", stats.missing.to_string()),
            ("unsettled", stats.unsettled.to_string()),
        ];
        let of_trees = of_trees.into_iter().filter(|_| stats.trees > 0);
        for (name, value) in rows.into_iter().chain(of_trees) {
            table.row([name.to_owned(), value]);
        }
        let mut objects = Table::new(&[("OBJECTS", Side::Left), ("COUNT", Side::Right), ("BYTES", Side::Right)]);
        for (name, Objects { count, bytes }) in &stats.objects {
            objects.row([name.clone(), count.to_string(), output::size(*bytes)]);
        }
        format!("{}\n{}", table.render(), objects.render())
    })?;
    Ok(damage(&list))
}

fn count(storage: &dyn Storage) -> wherry_repo::Result<BTreeMap<String, Objects>> {
    let mut objects: BTreeMap<String, Objects> = BTreeMap::new();
    storage.list("", &mut |object| {
        let kind = object.key.as_str().split('/').next().unwrap_or_default().to_owned();
        let entry = objects.entry(kind).or_default();
        entry.count += 1;
        entry.bytes += object.size;
        Ok(())
    })?;
    Ok(objects)
}

//! What the driver does, call by call. The calls that change something run one at a time.

mod changed;
mod controller;
mod node;

use crate::csi::{
    BoolValue, GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse, Rpc, ServiceCapability, ServiceKind, Texts,
    Topology, plugin_service,
};
use crate::faults::{CHANGED_BLOCKS_MISSING, Fault, Faults};
use crate::host;
use crate::images;
use crate::store::{Shelf, Snapshot, Table, Volume};
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tonic::Status;

/// What a driver is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the driver.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Where its state is.
    pub data_dir: PathBuf,
    /// What changed blocks are told in, bytes; sizes of volumes are multiples of it.
    pub block_size: u64,
    /// Tell changed blocks as ranges of any length.
    pub variable_blocks: bool,
}

/// The driver.
#[derive(Debug)]
pub struct Driver {
    options: Options,
    volumes: Shelf<Volume>,
    snapshots: Shelf<Snapshot>,
    tables: Shelf<Table>,
    faults: Faults,
    one_at_a_time: Mutex<()>,
}

impl Driver {
    /// Opens the state, and mends what was cut off when the driver was last killed.
    ///
    /// # Errors
    /// If the state cannot be read or mended.
    pub fn open(options: Options) -> anyhow::Result<Self> {
        let dir = &options.data_dir;
        let driver = Self {
            volumes: Shelf::open(dir)?,
            snapshots: Shelf::open(dir)?,
            tables: Shelf::open(dir)?,
            faults: Faults::of(dir),
            one_at_a_time: Mutex::new(()),
            options,
        };
        thaw_all(&driver.options.data_dir)?;
        for stray in
            driver.volumes.strays()?.into_iter().chain(driver.snapshots.strays()?).chain(driver.tables.strays()?)
        {
            host::detach(&stray)?;
            fs::remove_file(&stray).with_context(|| format!("removing {}", stray.display()))?;
        }
        Ok(driver)
    }

    /// The driver's name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub(crate) fn get_plugin_info(&self, _: GetPluginInfoRequest) -> Result<GetPluginInfoResponse, Status> {
        let vendor_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(GetPluginInfoResponse { name: self.options.name.clone(), vendor_version })
    }

    pub(crate) fn get_plugin_capabilities(
        &self,
        _: GetPluginCapabilitiesRequest,
    ) -> Result<GetPluginCapabilitiesResponse, Status> {
        let mut kinds = vec![plugin_service::CONTROLLER, plugin_service::TOPOLOGY];
        if !self.has(&CHANGED_BLOCKS_MISSING)? {
            kinds.push(plugin_service::SNAPSHOT_METADATA);
        }
        let capability = |kind| PluginCapability { service: Some(ServiceKind { kind }) };
        Ok(GetPluginCapabilitiesResponse { capabilities: kinds.into_iter().map(capability).collect() })
    }

    pub(crate) fn probe(&self, _: ProbeRequest) -> Result<ProbeResponse, Status> {
        Ok(ProbeResponse { ready: Some(BoolValue { value: true }) })
    }

    /// Where volumes of this node can be used.
    fn topology(&self) -> Topology {
        let key = format!("{}/node", self.options.name);
        Topology { segments: Texts::from([(key, self.options.node.clone())]) }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, fault: &Fault) -> Result<bool, Status> {
        self.faults.is_set(fault).map_err(internal)
    }

    /// An error if this call is to fail.
    fn strike(&self, fault: &Fault) -> Result<(), Status> {
        if self.faults.strikes(fault).map_err(internal)? {
            return Err(Status::internal(format!("fails because the fault {} is set", fault.name)));
        }
        Ok(())
    }

    fn volume(&self, id: &str) -> Result<Volume, Status> {
        let volume = self.volumes.get(given(id, "volume_id")?).map_err(internal)?;
        volume.ok_or_else(|| Status::not_found(format!("there is no volume {id:?}")))
    }

    fn snapshot(&self, id: &str) -> Result<Snapshot, Status> {
        let snapshot = self.snapshots.get(given(id, "snapshot_id")?).map_err(internal)?;
        snapshot.ok_or_else(|| Status::not_found(format!("there is no snapshot {id:?}")))
    }

    /// Brings the bytes of a volume that is copied in the background; an error as long as that is still under way.
    fn settle(&self, volume: &mut Volume) -> Result<(), Status> {
        let Some(left) = volume.copying else { return Ok(()) };
        if left > 0 {
            volume.copying = Some(left - 1);
            self.volumes.put(volume).map_err(internal)?;
            return Err(Status::unavailable(format!("volume {} is still being copied from its snapshot", volume.id)));
        }
        let source = volume.source.clone().unwrap_or_default();
        images::copy(&self.snapshots.image(&source), &self.volumes.image(&volume.id), volume.size).map_err(internal)?;
        volume.copying = None;
        self.volumes.put(volume).map_err(internal)
    }
}

/// Capabilities of the controller or node service.
fn capabilities(kinds: Vec<i32>) -> Vec<ServiceCapability> {
    kinds.into_iter().map(|kind| ServiceCapability { rpc: Some(Rpc { kind }) }).collect()
}

fn internal(error: anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}

/// A text that a request must have.
fn given<'a>(text: &'a str, name: &str) -> Result<&'a str, Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{name} is missing")));
    }
    Ok(text)
}

/// Logs a line to stderr.
pub(crate) fn log(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "wherry-test-csi: {line}");
}

/// A filesystem that is frozen as long as this lives. A file says so, for whoever comes after a driver that was killed.
#[derive(Debug)]
struct Frozen {
    target: PathBuf,
    note: PathBuf,
}

impl Frozen {
    fn new(data_dir: &Path, volume: &str, target: &Path) -> anyhow::Result<Self> {
        let folder = data_dir.join("frozen");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let note = folder.join(volume);
        let text = target.to_str().with_context(|| format!("{} is no UTF-8", target.display()))?;
        fs::write(&note, text).with_context(|| format!("writing {}", note.display()))?;
        let frozen = Self { target: target.to_owned(), note };
        host::freeze(target)?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        match host::thaw(&self.target) {
            Ok(()) => drop(fs::remove_file(&self.note)),
            Err(e) => log(&format!("{e:#}")), // the note stays: the next start tries again
        }
    }
}

fn thaw_all(data_dir: &Path) -> anyhow::Result<()> {
    let folder = data_dir.join("frozen");
    let Ok(notes) = fs::read_dir(&folder) else { return Ok(()) };
    for note in notes {
        let note = note?.path();
        let target = fs::read_to_string(&note).with_context(|| format!("reading {}", note.display()))?;
        // One that was not frozen yet, or is no longer mounted, cannot be thawed and need not be.
        if let Err(e) = host::thaw(Path::new(&target)) {
            log(&format!("{e:#}"));
        }
        fs::remove_file(&note).with_context(|| format!("removing {}", note.display()))?;
    }
    Ok(())
}

//! What is done beside a driver, or after one: static volumes, and taking down what it left in use.

use crate::store::{Shelf, Snapshot, Table, Volume};
use crate::{host, images};
use anyhow::{Context, bail, ensure};
use std::path::Path;

/// Makes an empty static volume.
///
/// # Errors
/// If there is one already, or the id cannot be one, or it cannot be written.
pub fn create(data_dir: &Path, id: &str, size: u64, block: bool) -> anyhow::Result<()> {
    let volumes = Shelf::<Volume>::open(data_dir)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let named = id.len() <= 128 && id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    ensure!(
        named && id.bytes().all(plain),
        "{id:?} cannot be a volumeHandle here: letters, digits, - _ . and at most 128"
    );
    let whole = size > 0 && size <= i64::MAX.cast_unsigned() && size.is_multiple_of(512);
    ensure!(whole, "a volume of {size} bytes cannot be made; give a multiple of 512");
    if volumes.get(id)?.is_some() {
        bail!("there is a volume {id} already; give another --id");
    }
    images::create(&volumes.image(id), size)?;
    volumes.put(&Volume { id: id.to_owned(), name: id.to_owned(), size, block, source: None, copying: None })
}

/// Removes a volume.
///
/// # Errors
/// If there is none, or it is in use, or it cannot be removed.
pub fn delete(data_dir: &Path, id: &str) -> anyhow::Result<()> {
    let volumes = Shelf::<Volume>::open(data_dir)?;
    volumes.get(id)?.with_context(|| format!("there is no volume {id}; `ls` lists them"))?;
    if let Some(device) = host::loops(&volumes.image(id))?.first() {
        bail!("volume {id} is in use as {}; unstage it first", device.path.display());
    }
    volumes.remove(id)
}

/// Unmounts and detaches all that is over files of the driver.
///
/// # Errors
/// If something cannot be unmounted or detached; the rest is.
pub fn tidy(data_dir: &Path) -> anyhow::Result<()> {
    if !data_dir.exists() {
        return Ok(()); // so that a machine can be tidied twice
    }
    let mut images = Shelf::<Volume>::open(data_dir)?.images()?;
    images.extend(Shelf::<Snapshot>::open(data_dir)?.images()?);
    images.extend(Shelf::<Table>::open(data_dir)?.images()?);
    let results: Vec<anyhow::Result<()>> = images.iter().map(|image| release(image)).collect();
    results.into_iter().collect()
}

fn release(image: &Path) -> anyhow::Result<()> {
    for device in host::loops(image)? {
        for mount in host::binds_of(&device.path)?.into_iter().chain(host::mounts_of(&device.path)?) {
            host::unmount(&mount.target)?;
        }
    }
    host::detach(image)
}

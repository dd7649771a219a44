//! Names: those that an entry may have, temporary ones, and what a directory lists.

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

/// True for what an entry of a snapshot may be called. All that goes to the system as a name was asked here.
pub(super) fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// How all temporary names of a run begin.
pub(super) fn temporary_prefix(run: u64) -> String {
    format!(".wherry-{run:016x}-")
}

/// The temporary name of a run with this number.
pub(super) fn temporary(run: u64, number: u64) -> Vec<u8> {
    format!("{}{number}", temporary_prefix(run)).into_bytes()
}

/// True for a temporary name of this run.
pub(crate) fn is_temporary(run: u64, name: &[u8]) -> bool {
    name.strip_prefix(temporary_prefix(run).as_bytes())
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Names that a directory lists, but `.` and `..`, each with its type (`Unknown` where the filesystem does not say), a buffer
/// full at a time: the names of a buffer may be removed while it goes on.
pub(crate) fn list<E: From<io::Error>>(
    folder: &File,
    mut each: impl FnMut(&[u8], FileType) -> Result<(), E>,
) -> Result<(), E> {
    rustix::fs::seek(folder, rustix::fs::SeekFrom::Start(0)).map_err(io::Error::from)?;
    let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut names = RawDir::new(folder, &mut buffer);
    while let Some(entry) = names.next() {
        let entry = match entry {
            Err(Errno::NOENT) => return Ok(()),
            entry => entry.map_err(io::Error::from)?,
        };
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => each(name, entry.file_type())?,
        }
    }
    Ok(())
}

//! How the FUSE mounts of this crate end, and one that nobody serves.

use fuser::BackgroundSession;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Unmounts what is at `folder` and waits for its threads.
pub(crate) fn unmount(session: Option<BackgroundSession>, folder: &Path) {
    let Some(session) = session else { return };
    if session.umount_and_join().is_err() {
        // A process that another test is just starting may have a file of it open for a moment.
        let _ = rustix::mount::unmount(folder, UnmountFlags::DETACH);
    }
}

/// A file that hangs whoever opens it, as on a network filesystem whose server is away, until this is dropped or they are killed.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    /// Whose end is that of the mount.
    _device: File,
}

impl Held {
    /// Hides what is in this file.
    ///
    /// # Panics
    /// When it cannot be mounted over: that takes root and /dev/fuse.
    pub fn over(path: &Path) -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse is there");
        // A mount of one file; nobody will ever read what it is asked.
        let options = format!("fd={},rootmode=100000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options).expect("there is no NUL in it");
        rustix::mount::mount("held", path, "fuse", MountFlags::empty(), options.as_c_str())
            .expect("it is mounted over");
        Self { path: path.to_owned(), _device: device }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

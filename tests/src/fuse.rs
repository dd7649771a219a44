//! How the FUSE mounts of this crate end.

use fuser::BackgroundSession;
use std::path::Path;

/// Unmounts what is at `folder` and waits for its threads.
pub(crate) fn unmount(session: Option<BackgroundSession>, folder: &Path) {
    let Some(session) = session else { return };
    if session.umount_and_join().is_err() {
        // A process that another test is just starting may have a file of it open for a moment.
        let _ = rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH);
    }
}

//! Panics on the threads of parsers, which whoever asked them hears as damage of the filesystem: those of other people's code
//! are no finding, those of ours are.

use std::panic::Location;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use wherry::tree::inside::filesystem::THREAD;

static OURS: AtomicBool = AtomicBool::new(false);

/// Whether this is in a crate of ours: cargo compiles those by paths from the top of the workspace, and others by whole ones.
pub fn is_ours(location: &Location<'_>) -> bool {
    Path::new(location.file()).is_relative()
}

/// The hook that is there hears no more of panics of other people's parsers.
pub fn leave_others_alone() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some(THREAD) {
                if !info.location().is_some_and(is_ours) {
                    return;
                }
                OURS.store(true, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

/// Whether our code has panicked on such a thread since this was asked last.
pub fn was_ours() -> bool {
    OURS.swap(false, Ordering::SeqCst)
}

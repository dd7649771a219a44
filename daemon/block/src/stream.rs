//! Reading standard input.

use std::os::fd::OwnedFd;
use std::thread::Builder;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::engine::{EngineInfo, Running};
use crate::reader::{Cancel, Delivery};
use crate::{Error, Result};

/// Stands for standard input in errors.
pub(crate) const NAME: &str = "standard input";

/// Why no engine is used.
pub(crate) const WHY: &str = "a stream is read from front to back";

/// A stream that is read from where it is.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) fd: OwnedFd,
    /// How long it is to be, in bytes.
    pub(crate) size: Option<u64>,
}

/// Starts a thread that reads `input` to its end in pieces of `limit` bytes.
pub(crate) fn start(input: Input, limit: usize, delivery: Delivery, cancel: Cancel) -> Result<Running> {
    let info = EngineInfo::only("stream", WHY);
    let thread = Builder::new().name("wherry-stream".into()).spawn(move || {
        let guard = Guard(&delivery);
        if let Err(error) = copy(&input, limit, &delivery, &cancel) {
            delivery.fail(error);
        }
        drop(guard);
    });
    let thread =
        thread.map_err(|e| Error::Stopped { path: NAME.into(), why: format!("cannot start a thread: {e}") })?;
    Ok(Running::new(info, vec![thread]))
}

/// Makes a panic of the thread an error of the reading.
struct Guard<'a>(&'a Delivery);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Stopped { path: NAME.into(), why: "its thread panicked".into() });
        }
    }
}

fn copy(input: &Input, limit: usize, delivery: &Delivery, cancel: &Cancel) -> Result<()> {
    let Input { fd, size } = input;
    let failed = |at, errno| Error::on_range("read", NAME.as_ref(), at, limit as u64, errno);
    let mut offset = 0;
    while let Some(mut buffer) = cancel.take_buffer() {
        buffer.set_len(limit);
        let mut filled = 0;
        while filled < limit {
            if !wait(fd, cancel).map_err(|errno| failed(offset + filled as u64, errno))? {
                return Ok(());
            }
            match rustix::io::read(fd, &mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(failed(offset + filled as u64, errno)),
            }
        }
        buffer.set_len(filled);
        let ended = filled < limit;
        let read = offset + filled as u64;
        if let Some(size) = *size
            && (read > size || ended && read < size)
        {
            return Err(Error::Length { path: NAME.into(), size, read });
        }
        if filled > 0 {
            delivery.deliver(offset, buffer);
        }
        if ended {
            return Ok(());
        }
        offset = read;
    }
    Ok(())
}

/// Waits until there is something to read. `false`: the reading was cancelled.
fn wait(input: &OwnedFd, cancel: &Cancel) -> Result<bool, Errno> {
    loop {
        if cancel.is_set() {
            return Ok(false);
        }
        let mut both = [PollFd::new(input, PollFlags::IN), PollFd::new(cancel.waker.fd(), PollFlags::IN)];
        match rustix::event::poll(&mut both, None) {
            Ok(_) if !both[0].revents().is_empty() => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

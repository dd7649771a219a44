//! The buffers every transfer uses: one fixed mapping, cut into equal pieces.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::wake::Waker;
use crate::{Error, Result};

/// Every buffer begins at a multiple of this and is a multiple of it long: what O_DIRECT asks for on any usual device.
pub(crate) const ALIGNMENT: usize = 4096;

/// More would not fit the table of registered buffers of a ring.
const MAX_BUFFERS: usize = 16 * 1024;

/// A fixed number of equal buffers in one mapping: a memory budget. Clones share the buffers.
///
/// The memory is given back when the pool and all its buffers are gone.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    mapping: Mapping,
    buffer_bytes: usize,
    count: usize,
    free: Mutex<Free>,
    returned: Condvar,
}

struct Free {
    list: Vec<u32>,
    /// Engines that found the list empty and want to hear of the next buffer that comes back.
    waiting: Vec<Arc<Waker>>,
}

impl BufferPool {
    /// Makes a pool of `count` buffers of `buffer_bytes` each.
    ///
    /// # Errors
    /// `Invalid` unless `buffer_bytes` is a positive multiple of 4096 and `count` is in 1..=16384; `NoMemory`.
    pub fn new(buffer_bytes: usize, count: usize) -> Result<Self> {
        if buffer_bytes == 0 || !buffer_bytes.is_multiple_of(ALIGNMENT) || count == 0 || count > MAX_BUFFERS {
            let why = format!(
                "{count} buffers of {buffer_bytes} bytes: want 1 to {MAX_BUFFERS} of a multiple of {ALIGNMENT}"
            );
            return Err(Error::invalid("buffer pool".as_ref(), why));
        }
        let mapping = Mapping::new(buffer_bytes.saturating_mul(count))?;
        // Taken from the end, so the first buffers go out first and a lightly used pool touches little memory.
        let list = (0..count as u32).rev().collect();
        let free = Mutex::new(Free { list, waiting: Vec::new() });
        Ok(Self { shared: Arc::new(Shared { mapping, buffer_bytes, count, free, returned: Condvar::new() }) })
    }

    /// Bytes one buffer holds.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// Number of buffers, free and in use.
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Number of buffers nobody holds at the moment.
    pub fn free(&self) -> usize {
        self.shared.free.lock().list.len()
    }

    /// Takes a buffer, waiting until one is free. Its length is its capacity; its contents are whatever was there before.
    pub fn take(&self) -> Buffer {
        let mut free = self.shared.free.lock();
        loop {
            if let Some(index) = free.list.pop() {
                return self.buffer(index);
            }
            self.shared.returned.wait(&mut free);
        }
    }

    /// Takes a buffer if one is free now.
    pub fn try_take(&self) -> Option<Buffer> {
        let index = self.shared.free.lock().list.pop()?;
        Some(self.buffer(index))
    }

    /// Takes a buffer, waiting until one is free or `stop` holds. `stop` is asked again after [`Self::interrupt`].
    pub(crate) fn take_unless(&self, stop: impl Fn() -> bool) -> Option<Buffer> {
        let mut free = self.shared.free.lock();
        while !stop() {
            if let Some(index) = free.list.pop() {
                return Some(self.buffer(index));
            }
            self.shared.returned.wait(&mut free);
        }
        None
    }

    /// Takes a buffer if one is free now; otherwise `waker` is woken when one has come back.
    pub(crate) fn take_or_wake(&self, waker: &Arc<Waker>) -> Option<Buffer> {
        let mut free = self.shared.free.lock();
        let index = free.list.pop();
        if index.is_none() && !free.waiting.iter().any(|known| Arc::ptr_eq(known, waker)) {
            free.waiting.push(waker.clone());
        }
        drop(free);
        Some(self.buffer(index?))
    }

    /// Makes every waiting [`Self::take_unless`] look at its condition again.
    pub(crate) fn interrupt(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _free = self.shared.free.lock();
        self.shared.returned.notify_all();
    }

    /// Whether both are the same pool.
    pub(crate) fn is(&self, other: &BufferPool) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The memory of all buffers in the order of their indexes, for registration with a ring.
    pub(crate) fn io_vectors(&self) -> Vec<libc::iovec> {
        let bytes = self.shared.buffer_bytes;
        let base = self.shared.mapping.start.as_ptr();
        (0..self.shared.count)
            .map(|index| libc::iovec { iov_base: base.wrapping_add(index * bytes).cast(), iov_len: bytes })
            .collect()
    }

    fn buffer(&self, index: u32) -> Buffer {
        Buffer { pool: self.clone(), index, len: self.shared.buffer_bytes }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { buffer_bytes, count, .. } = &*self.shared;
        f.debug_struct("BufferPool").field("buffer_bytes", buffer_bytes).field("count", count).finish_non_exhaustive()
    }
}

/// One buffer of a pool, owned: a slice of bytes that goes back to its pool when dropped.
pub struct Buffer {
    pool: BufferPool,
    /// Which piece of the mapping this is. No two buffers that exist at the same time have the same index.
    index: u32,
    /// Always <= capacity.
    len: usize,
}

impl Buffer {
    /// Bytes this buffer can hold.
    pub fn capacity(&self) -> usize {
        self.pool.shared.buffer_bytes
    }

    /// Sets how many bytes of the buffer count, at most its capacity (more is cut down to it).
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }

    pub(crate) fn pool(&self) -> &BufferPool {
        &self.pool
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Where the buffer begins. Points to `capacity()` bytes that stay mapped as long as the buffer exists.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start()
    }

    fn start(&self) -> *mut u8 {
        self.pool.shared.mapping.start.as_ptr().wrapping_add(self.index as usize * self.capacity())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` lies in the mapping, which lives as long as the pool this buffer holds, and `len` <= capacity
        // bytes follow it there. They are initialised (an anonymous mapping is zero). Nobody else writes to them: the
        // index is unique among living buffers, and a buffer handed to the kernel is owned by the in-flight table.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let shared = &self.pool.shared;
        let mut free = shared.free.lock();
        free.list.push(self.index);
        // All of them: the one that needs the buffer may be any.
        for waker in free.waiting.drain(..) {
            waker.force();
        }
        drop(free);
        shared.returned.notify_one();
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("index", &self.index).field("len", &self.len).finish_non_exhaustive()
    }
}

/// An anonymous private mapping.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is plain memory, not bound to a thread; who may touch which part is settled by `Buffer`.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; the mapping itself offers no access through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> Result<Self> {
        let failed = |errno| Error::NoMemory { bytes: bytes as u64, errno };
        // SAFETY: a new anonymous mapping at a place the kernel chooses touches no memory that exists.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(failed)?;
        // SAFETY: the range was just mapped; the advice changes the size of its pages only, and failing is harmless.
        let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).ok_or(failed(rustix::io::Errno::NOMEM))?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and no buffer is left: each holds the pool and with it this mapping.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

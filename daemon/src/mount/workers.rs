//! Threads that do what may take long, so that nobody else waits for it.

use crossbeam_channel::{Sender, unbounded};
use std::fmt;
use std::io;

/// Memory a worker keeps from one piece of work to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A sealed chunk.
    pub sealed: Vec<u8>,
    /// An answer of several chunks.
    pub answer: Vec<u8>,
}

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// A fixed number of threads and a queue. The queue has no bound of its own: its jobs are a few words each, and the
/// kernel keeps the number of requests down (one for each process that waits, and its `max_background`).
pub struct Workers {
    queue: Sender<Job>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({} waiting)", self.queue.len())
    }
}

impl Workers {
    /// Starts `count` threads; they end when this is dropped and the queue is empty.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let (queue, jobs) = unbounded::<Job>();
        for n in 0..count {
            let jobs = jobs.clone();
            std::thread::Builder::new().name(format!("{name}-{n}")).spawn(move || {
                let mut scratch = Scratch::default();
                for job in jobs {
                    job(&mut scratch);
                }
            })?;
        }
        Ok(Self { queue })
    }

    /// Does this as soon as a thread is free.
    pub fn submit(&self, job: impl FnOnce(&mut Scratch) + Send + 'static) {
        // Fails when all threads are gone, which a panic ends the process before.
        let _ = self.queue.send(Box::new(job));
    }

    /// Jobs that no thread has begun.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

//! Whether the agent lives, and whether it has seen its work: `/healthz` and `/readyz`, for the kubelet's probes.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The loop turns twice a second; one that has not for so long hangs.
const SILENT: Duration = Duration::from_secs(120);
/// A probe that says nothing is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody can be answered, that is tried again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// What the loop tells.
#[derive(Debug)]
pub(crate) struct Beat {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
    ready: AtomicBool,
}

impl Beat {
    /// The loop turns.
    pub(crate) fn beat(&self, ready: bool) {
        self.last.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn answer(&self, path: &str) -> &'static str {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        let alive = self.began.elapsed().saturating_sub(last) < SILENT;
        match path {
            "/healthz" if alive => "200 OK",
            "/readyz" if alive && self.ready.load(Ordering::Relaxed) => "200 OK",
            "/healthz" | "/readyz" => "503 Service Unavailable",
            _ => "404 Not Found",
        }
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = [0; 512];
        let length = stream.read(&mut request)?;
        let request = String::from_utf8_lossy(request.get(..length).unwrap_or_default()).into_owned();
        let status = self.answer(request.split_whitespace().nth(1).unwrap_or_default());
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    }
}

/// Answers at an address such as `:8081` or `127.0.0.1:8081`, as long as the process lives.
pub(crate) fn serve(address: &str) -> Result<Arc<Beat>> {
    let whole = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let listener =
        TcpListener::bind(&whole).with_context(|| format!("--health {address}: nothing can be heard there"))?;
    let beat = Arc::new(Beat { began: Instant::now(), last: AtomicU64::new(0), ready: AtomicBool::new(false) });
    let of_thread = Arc::clone(&beat);
    let listen = move || {
        for stream in listener.incoming() {
            match stream {
                // Whoever asked has gone: it asks again.
                Ok(stream) => drop(of_thread.serve(stream)),
                // No descriptor is free, say, and so it is at once again.
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    };
    std::thread::Builder::new().name("health".to_owned()).spawn(listen).context("no thread for --health")?;
    Ok(beat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let beat = Beat { began: Instant::now(), last: AtomicU64::new(0), ready: AtomicBool::new(false) };
        let ask = |path: &str| beat.answer(path).split(' ').next().unwrap().parse::<u16>().unwrap();
        assert_eq!((ask("/healthz"), ask("/readyz"), ask("/")), (200, 503, 404));
        beat.beat(true);
        assert_eq!((ask("/healthz"), ask("/readyz")), (200, 200));
        let Some(began) = Instant::now().checked_sub(SILENT * 2) else { return };
        let hangs = Beat { began, last: AtomicU64::new(0), ready: AtomicBool::new(true) };
        assert!(hangs.answer("/healthz").starts_with("503") && hangs.answer("/readyz").starts_with("503"));
    }
}

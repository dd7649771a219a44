//! What controller and agent answer over HTTP: `/healthz` and `/readyz` for the kubelet's probes, `/metrics` for Prometheus. Without
//! TLS and for anybody who reaches it: nothing that it says names a volume or a backup.

use crate::metrics::Registry;
use std::io::{Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The loops turn every few seconds, one that waits for the Lease every 20; one that has not for so long hangs.
const SILENT: Duration = Duration::from_secs(120);
/// A probe that says nothing is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a request that are read at most.
const LONGEST: usize = 16 << 10;
/// Where nobody can be answered, that is tried again after so long.
const AGAIN: Duration = Duration::from_millis(100);
/// Connections that are answered at a time, each by a thread: one that says nothing keeps no probe waiting. Of more than
/// that each is closed at once.
const AT_ONCE: usize = 16;

/// What the loop tells.
#[derive(Debug)]
pub struct Beat {
    registry: Arc<Registry>,
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
    ready: AtomicBool,
}

impl Beat {
    /// The loop turns. Ready: it has seen all that it works by.
    pub fn beat(&self, ready: bool) {
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
            "/metrics" => "200 OK",
            _ => "404 Not Found",
        }
    }

    /// All that is asked: what is not read yet when a connection is closed lets the client lose the answer.
    fn request(stream: &mut TcpStream) -> Result<Vec<u8>> {
        let (mut request, end) = (Vec::new(), Instant::now() + PATIENCE);
        while !request.ends_with(b"\r\n\r\n") && request.len() < LONGEST && Instant::now() < end {
            let mut part = [0; 1024];
            match stream.read(&mut part)? {
                0 => break,
                length => request.extend_from_slice(part.get(..length).unwrap_or_default()),
            }
        }
        Ok(request)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = Self::request(&mut stream)?;
        let path = &path(&request);
        let status = self.answer(path);
        let body = if path == "/metrics" { self.registry.print() } else { String::new() };
        let (media, length) = ("text/plain; version=0.0.4; charset=utf-8", body.len());
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {length}");
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes())
    }
}

/// What a request asks for, without its query.
pub(crate) fn path(request: &[u8]) -> String {
    let request = String::from_utf8_lossy(request);
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    path.split('?').next().unwrap_or_default().to_owned()
}

/// Answers at an address such as `:8081` or `127.0.0.1:8081`, as long as the process lives.
///
/// # Errors
/// That address cannot be had: another process has it, or it is none.
pub fn serve(address: &str, registry: Arc<Registry>) -> Result<Arc<Beat>> {
    // Of a port alone: all addresses of both kinds, or of the old kind where the kernel has no other.
    let bind = || match address.strip_prefix(':') {
        Some(port) => {
            TcpListener::bind(format!("[::]:{port}")).or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))
        }
        None => TcpListener::bind(address),
    };
    let named = |e: Error| {
        let text = format!("--health {address}: nothing can be heard there ({e}); give another address, such as :8081");
        Error::new(e.kind(), text)
    };
    let listener = bind().map_err(named)?;
    let (began, last, ready) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
    let beat = Arc::new(Beat { registry, began, last, ready });
    let of_thread = Arc::clone(&beat);
    let places = Arc::new(());
    let listen = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) if Arc::strong_count(&places) <= AT_ONCE => {
                    let (beat, place) = (Arc::clone(&of_thread), Arc::clone(&places));
                    let answer = move || {
                        // Whoever asked and has no answer asks again.
                        drop(beat.serve(stream));
                        drop(place);
                    };
                    drop(std::thread::Builder::new().name("health".to_owned()).spawn(answer));
                }
                Ok(_) => {}
                // No descriptor is free, say, and so it is at once again.
                Err(_) => std::thread::sleep(AGAIN),
            }
        }
    };
    std::thread::Builder::new().name("health".to_owned()).spawn(listen)?;
    Ok(beat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::By;

    fn beat(began: Instant, ready: bool) -> Beat {
        let registry = Arc::new(Registry::new(By::Agent));
        Beat { registry, began, last: AtomicU64::new(0), ready: AtomicBool::new(ready) }
    }

    /// One that says nothing is closed after two seconds; the answer comes before that, so it waited for nobody.
    #[test]
    fn who_says_nothing_keeps_nobody_waiting() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let beat = serve(&free.to_string(), Arc::new(Registry::new(By::Agent))).unwrap();
        let silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(free).unwrap()).collect();
        let mut asks = TcpStream::connect(free).unwrap();
        asks.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        for mut stream in silent {
            stream.set_nonblocking(true).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
        drop(beat);
    }

    #[test]
    fn answers() {
        let beat = beat(Instant::now(), false);
        let ask = |path: &str| beat.answer(path).split(' ').next().unwrap().parse::<u16>().unwrap();
        assert_eq!((ask("/healthz"), ask("/readyz"), ask("/")), (200, 503, 404));
        assert_eq!(ask("/metrics"), 200);
        beat.beat(true);
        assert_eq!((ask("/healthz"), ask("/readyz")), (200, 200));
        let Some(began) = Instant::now().checked_sub(SILENT * 2) else { return };
        let hangs = self::beat(began, true);
        assert!(hangs.answer("/healthz").starts_with("503") && hangs.answer("/readyz").starts_with("503"));
    }
}

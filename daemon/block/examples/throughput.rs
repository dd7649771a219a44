//! Measures reading and writing: `throughput read|write PATH auto|ring|threads DEPTH BUFFER_KIB [MIB]`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use wherry_block::{BufferPool, Engine, Sink, SinkOptions, Source};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, what, path, engine, depth, kib, rest @ ..] = args.as_slice() else {
        return println!("usage: throughput read|write PATH auto|ring|threads DEPTH BUFFER_KIB [MIB]");
    };
    let (path, engine): (&Path, Engine) = (path.as_ref(), engine.parse().unwrap());
    let (depth, bytes): (usize, usize) = (depth.parse().unwrap(), kib.parse::<usize>().unwrap() << 10);
    let pool = BufferPool::new(bytes, depth + 8).unwrap();
    let start = Instant::now();
    let (total, info) = if what == "read" {
        let source = Source::open(path, engine).unwrap();
        let reader = source.read_all(source.extents(0..u64::MAX), bytes.min(256 << 10), depth, &pool).unwrap();
        let info = reader.engine().clone();
        (reader.map(|done| done.unwrap().buffer.len() as u64).sum::<u64>(), info)
    } else {
        let size = rest[0].parse::<u64>().unwrap() << 20;
        let options = SinkOptions { engine, depth, below_loop: false };
        let sink = if path.exists() {
            Sink::open(path, size, options, &pool).unwrap()
        } else {
            Sink::create(path, size, options, &pool).unwrap()
        };
        for offset in (0..size).step_by(bytes) {
            let mut buffer = pool.take();
            buffer[..8].copy_from_slice(&(offset | 1).to_ne_bytes());
            sink.write(offset, buffer).unwrap();
        }
        sink.flush().unwrap();
        (size, sink.engine())
    };
    let seconds = start.elapsed().as_secs_f64();
    println!("{what} {} ({}): {:.0} MiB/s, {seconds:.2} s", info.name, info.why, total as f64 / seconds / 1048576.0);
}

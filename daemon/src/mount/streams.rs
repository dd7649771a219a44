//! Tells readers that go straight on from those that jump, and says what to fetch ahead for the former.

use std::ops::Range;

/// So many readers of one open file are told apart: a file behind a loop device has all readers of its filesystem.
const STREAMS: usize = 4;

/// The last few readers of an open file. Numbers are chunk numbers.
#[derive(Debug, Default)]
pub struct Streams {
    streams: Vec<Stream>,
    tick: u64,
}

#[derive(Debug)]
struct Stream {
    /// One past the last chunk read.
    next: u64,
    /// One past the last chunk fetched ahead.
    ahead: u64,
    /// Chunks to stay ahead; 0 until the reader has gone on from one chunk to the next.
    window: u64,
    used: u64,
}

impl Streams {
    /// Takes note of a read of these chunks (not empty) and gives the chunks to fetch ahead, at most about `most` past
    /// the read.
    pub fn note(&mut self, read: Range<u64>, most: u64) -> Option<Range<u64>> {
        self.tick += 1;
        let tick = self.tick;
        // Reads that the kernel sends ahead come in any order: a reader on its way is known by a wider mark.
        let belongs = |s: &Stream| read.start <= s.next + s.window && read.start + 2 * s.window + 1 >= s.next;
        let Some(stream) = self.streams.iter_mut().find(|s| belongs(s)) else {
            if self.streams.len() == STREAMS
                && let Some(oldest) = self.streams.iter().enumerate().min_by_key(|(_, s)| s.used).map(|(at, _)| at)
            {
                self.streams.swap_remove(oldest);
            }
            self.streams.push(Stream { next: read.end, ahead: read.end, window: 0, used: tick });
            return None;
        };
        stream.used = tick;
        if read.end <= stream.next {
            return None;
        }
        stream.next = read.end;
        stream.window = (stream.window * 2).max(2).min(most.max(1));
        stream.ahead = stream.ahead.max(stream.next);
        let target = stream.next + stream.window;
        // In large steps: neighbours in a pack come with one request.
        if target < stream.ahead + stream.window.div_ceil(2) {
            return None;
        }
        let fetch = stream.ahead..target;
        stream.ahead = target;
        Some(fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `count` times `len` chunks from `from` on and gives all that was fetched ahead, in order.
    fn go(streams: &mut Streams, from: u64, len: u64, count: u64) -> Vec<Range<u64>> {
        (0..count).filter_map(|n| streams.note(from + n * len..from + (n + 1) * len, 64)).collect()
    }

    #[test]
    fn who_goes_straight_on_finds_everything_fetched() {
        for len in [1, 4, 7] {
            let mut streams = Streams::default();
            let fetched = go(&mut streams, 10, len, 400);
            assert!(fetched.windows(2).all(|w| w[0].end <= w[1].start), "nothing twice: {fetched:?}");
            // While the window grows, long reads overtake it.
            assert!(fetched.windows(2).skip(4).all(|w| w[0].end == w[1].start), "no gap: {fetched:?}");
            assert_eq!(fetched[0].start, 10 + 2 * len, "ahead from the second read on");
            let last = fetched.last().unwrap();
            let read = 10 + 400 * len;
            assert!(last.end >= read + 32 && last.end <= read + 64, "{last:?} after {read}");
            assert!(fetched.len() < 400, "in large steps");
        }
    }

    #[test]
    fn who_jumps_fetches_nothing_ahead() {
        let mut streams = Streams::default();
        let mut at = 1u64;
        for _ in 0..10_000 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let chunk = at >> 20;
            assert_eq!(streams.note(chunk..chunk + 1, 64), None);
        }
    }

    #[test]
    fn small_reads_of_one_chunk_are_one_read() {
        let mut streams = Streams::default();
        for _ in 0..100 {
            assert_eq!(streams.note(5..6, 64), None);
        }
        assert_eq!(streams.note(6..7, 64), Some(7..9));
    }

    #[test]
    fn several_readers_of_one_file_are_told_apart() {
        let mut streams = Streams::default();
        let mut fetched = [0; 4];
        for n in 0..100 {
            for (reader, count) in fetched.iter_mut().enumerate() {
                let at = reader as u64 * 100_000 + n;
                *count += streams.note(at..at + 1, 32).map_or(0, |r| r.end - r.start);
            }
        }
        assert!(fetched.iter().all(|f| (99..140).contains(f)), "{fetched:?}");
    }

    #[test]
    fn reads_that_overtake_each_other_belong_together() {
        let mut streams = Streams::default();
        go(&mut streams, 0, 4, 8);
        let mut fetched = 0;
        for n in (8..100).step_by(2) {
            for n in [n + 1, n] {
                fetched += streams.note(n * 4..n * 4 + 4, 64).map_or(0, |r| r.end - r.start);
            }
        }
        assert_eq!(streams.streams.len(), 1);
        assert!(fetched >= 92 * 4 - 64, "{fetched}");
    }

    #[test]
    fn a_window_of_one_chunk_works() {
        let mut streams = Streams::default();
        let fetched: Vec<_> = (0..10).filter_map(|n| streams.note(n..n + 1, 1)).collect();
        assert_eq!(fetched.first(), Some(&(2..3)));
        assert_eq!(fetched.last(), Some(&(10..11)));
    }
}

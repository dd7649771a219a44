//! Results on standard output: text for people, or one JSON value. The JSON is API: fields are added, never renamed.

use serde::Serialize;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use wherry_repo::Timestamp;

/// Whoever read standard output has closed it. A command that only writes bytes or lists names ends quietly and well.
#[derive(Debug)]
pub struct ReaderGone;

impl std::fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// A result could not be written.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);
/// Of such a result the log has so many characters.
const SHOWN: usize = 2000;

/// Whether this process has a result that it could not write, though the work was done: then all is not well.
pub fn is_unwritten() -> bool {
    UNWRITTEN.load(Ordering::Relaxed)
}

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the result is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes the result of a command: `value` as one line of JSON, or what `text` gives. That nobody reads it is no error: what the
    /// command did or found stays so, and its exit code is for whoever did not look. Nor is it that it cannot be written (a full disk): the
    /// log has it then, and a command that has nothing worse to say ends with exit code 1, see [`is_unwritten`].
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let mut all = if self.json { serde_json::to_string(value)? } else { text() };
        if !all.is_empty() && !all.ends_with('\n') {
            all.push('\n');
        }
        match self.bytes(all.as_bytes()) {
            Err(e) if e.is::<ReaderGone>() => Ok(()),
            Err(e) => {
                UNWRITTEN.store(true, Ordering::Relaxed);
                let result = serde_json::to_string(value)?;
                let shown: String = result.chars().take(SHOWN).collect();
                let more = if shown.len() < result.len() { "…" } else { "" };
                tracing::error!("{e:#}; what was done or found stays so: {shown}{more}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes bytes as they are and makes sure that they are out.
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
            Err(e) => Err(anyhow::Error::new(e).context("writing to standard output")),
        }
    }
}

/// On which side a column of a table is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table of text: columns as wide as they need to be, two blanks between them.
#[derive(Debug)]
pub struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&str, Side)]) -> Self {
        Self {
            sides: columns.iter().map(|(_, side)| *side).collect(),
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row; one cell for each column. Control characters are shown, not sent to the terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| shown(&cell)).collect());
    }

    /// The whole table, a line per row.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match side {
                    Side::Left => line.push_str(&format!("{cell:<width$}")),
                    Side::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Text with its control characters made visible.
pub fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// A number of bytes for people: three or four digits and a unit of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number of things for people, by the word for one of them.
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// A length of time for people: `1d 02:03:04`, `02:03:04`, `03:04`.
pub fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    match (days, h) {
        (0, 0) => format!("{m:02}:{s:02}"),
        (0, _) => format!("{h:02}:{m:02}:{s:02}"),
        _ => format!("{days}d {h:02}:{m:02}:{s:02}"),
    }
}

fn moment(time: Timestamp) -> jiff::Timestamp {
    // Outside of jiff's 20000 years nothing can be shown; 64 bits of nanoseconds stay within.
    jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default()
}

/// A time for people: local, to the second.
pub fn local_time(time: Timestamp) -> String {
    moment(time).to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time for log lines: RFC 3339 in UTC, to the millisecond.
pub fn log_time(time: Timestamp) -> String {
    format!("{:.3}", moment(time))
}

/// A time for programs: RFC 3339 in UTC, with as many digits as there are.
pub fn utc_time(time: Timestamp) -> String {
    moment(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn one_is_one() {
        assert_eq!([0, 1, 2].map(|n| count(n, "pack")), ["0 packs", "1 pack", "2 packs"]);
    }

    #[test]
    fn durations() {
        assert_eq!(duration(59), "00:59");
        assert_eq!(duration(3600), "01:00:00");
        assert_eq!(duration(90_061), "1d 01:01:01");
    }

    #[test]
    fn times() {
        assert_eq!(utc_time(Timestamp(0)), "1970-01-01T00:00:00Z");
        assert_eq!(utc_time(Timestamp(1_795_375_805_500_000_000)), "2026-11-22T19:30:05.5Z");
        assert_eq!(log_time(Timestamp(1_795_375_805_500_000_001)), "2026-11-22T19:30:05.500Z");
        assert_eq!(log_time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc_time(Timestamp(i64::MIN)), "1677-09-21T00:12:43.145224192Z");
    }

    #[test]
    fn tables_are_aligned_and_harmless() {
        let mut table = Table::new(&[("ID", Side::Left), ("SIZE", Side::Right), ("VOLUME", Side::Left)]);
        table.row(["ab".into(), "5".into(), "é".into()]);
        table.row(["abc".into(), "12345".into(), "x\u{1b}[2J".into()]);
        assert_eq!(table.render(), "ID    SIZE  VOLUME\nab       5  é\nabc  12345  x\\u{1b}[2J\n");
    }
}

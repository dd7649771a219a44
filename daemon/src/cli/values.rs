//! The values that flags and the configuration file share: one text form each, one parser each.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Reads a value in the configuration file with the parser of the flag. Plain integers are allowed where the text form
/// may be one.
macro_rules! deserialize_from_text {
    ($($name:ty: $expecting:literal),+ $(,)?) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    )+};
}

deserialize_from_text! {
    Size: "a size such as 256M or 268435456",
    Rate: "bytes a second such as 20M or 20971520",
    Span: "a time such as 30s, 5m or 7d",
    Percent: "a share such as 10%",
    Compression: "lz4, none, zstd or zstd:LEVEL",
    Engine: "auto, ring or threads",
    LogFormat: "text or json",
}

/// A number of bytes: digits, then nothing or one of K M G T (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" | "B" => 0,
            "K" | "k" | "KiB" => 10,
            "M" | "m" | "MiB" => 20,
            "G" | "g" | "GiB" => 30,
            "T" | "t" | "TiB" => 40,
            _ => return Err(format!("{text:?} is not a size: write bytes, or a number with K, M, G or T (of 1024)")),
        };
        let number: u64 =
            digits.parse().map_err(|_| format!("{text:?} is not a size: write a whole number, such as 256M"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("{text:?} is more bytes than 64 bits count"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        match units.into_iter().find(|(shift, _)| self.0 != 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Bytes per second, at least one: at none nothing would ever pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Size(0) => Err("at 0 bytes a second nothing would ever pass: leave it out for no limit".to_owned()),
            Size(rate) => Ok(Self(rate)),
        }
    }
}

/// A length of time: a whole number and one of s m h d w; `0` is none in every unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time: write a whole number with s, m, h, d or w, such as 7d");
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        // Times are kept as nanoseconds in 64 bits: 292 years.
        match number.checked_mul(seconds).filter(|s| *s <= 200 * 365 * 86_400) {
            Some(seconds) => Ok(Self(Duration::from_secs(seconds))),
            None => Err(format!("{text:?} is too long: at most 73000d")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [(86_400, "d"), (3600, "h"), (60, "m")];
        match units.into_iter().find(|(unit, _)| seconds != 0 && seconds.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", seconds / unit),
            None => write!(f, "{seconds}s"),
        }
    }
}

/// A share of a whole: more than 0 and at most 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number: Option<f64> = text.strip_suffix('%').and_then(|n| n.parse().ok());
        match number.filter(|n| *n > 0.0 && *n <= 100.0) {
            Some(number) => Ok(Self(number)),
            None => Err(format!("{text:?} is not a share: write more than 0% and at most 100%, such as 10%")),
        }
    }
}

/// How chunks are packed before they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4, the fast one.
    #[default]
    Lz4,
    /// zstd at this level, 1 to 19.
    Zstd(i32),
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "lz4" => return Ok(Self::Lz4),
            "zstd" => return Ok(Self::Zstd(3)),
            _ => {}
        }
        let level = text.strip_prefix("zstd:").and_then(|l| l.parse().ok()).filter(|l| (1..=19).contains(l));
        level.map(Self::Zstd).ok_or_else(|| format!("{text:?} is not one of lz4, none, zstd, zstd:1 to zstd:19"))
    }
}

/// Which block engine reads and writes devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Engine {
    /// io_uring where it works, else threads.
    #[default]
    Auto,
    /// io_uring, or an error.
    Ring,
    /// A pool of threads.
    Threads,
}

impl From<Compression> for wherry_repo::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd(level) => Self::Zstd(level),
        }
    }
}

impl From<Engine> for wherry_block::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Ring => Self::Ring,
            Engine::Threads => Self::Threads,
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

macro_rules! from_value_enum {
    ($($name:ident),+) => {$(
        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <Self as clap::ValueEnum>::from_str(text, false)
            }
        }
    )+};
}
from_value_enum!(Engine, LogFormat);

/// The name of a volume: 1 to 200 bytes of UTF-8 without '/', ':' and control characters, not "." or "..": it is a
/// folder of the mount, and `latest:NAME` on the command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why = match text {
            "" => "is empty",
            "." | ".." => "is a name of the file system",
            _ if text.len() > 200 => "is longer than 200 bytes",
            _ if text.contains(['/', ':']) => "has a '/' or ':' in it",
            _ if text.chars().any(char::is_control) => "has a control character in it",
            _ => return Ok(Self(text.to_owned())),
        };
        Err(format!("volume name {text:?} {why}; give another one with --name"))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag of a snapshot, written KEY=VALUE.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// 1 to 320 bytes, without '=' and control characters.
    pub key: String,
    /// 0 to 1024 bytes, without control characters.
    pub value: String,
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not a tag: write KEY=VALUE"))?;
        if key.is_empty() || key.len() > 320 || value.len() > 1024 {
            return Err(format!("tag {text:?} is out of bounds: the key has 1 to 320 bytes, the value at most 1024"));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("tag {text:?} has a control character in it"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;

//! Times and durations as Kubernetes and Go write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A point in time, whole seconds since 1970, UTC; in JSON `metav1.Time`: RFC 3339 without fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// This time and so much later; the last time there is, where it would be past that.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_secs()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

/// A text that is no time or no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct NotATime {
    text: String,
    what: &'static str,
}

impl FromStr for Time {
    type Err = NotATime;

    /// Fractions of a second are dropped: `metav1.MicroTime` is read too.
    fn from_str(text: &str) -> Result<Self, NotATime> {
        let time: jiff::Timestamp =
            text.parse().map_err(|_| NotATime { text: text.to_owned(), what: "a time of RFC 3339" })?;
        Ok(Self(time.as_second()))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a duration of Go: `10m0s`, `1h30m`, `500ms`, `0`. Negative ones and a number without unit are refused.
pub fn parse_duration(text: &str) -> Result<Duration, NotATime> {
    let wrong = || NotATime { text: text.to_owned(), what: "a duration such as 30s, 10m0s or 4h" };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(wrong()),
        };
        nanos += number * scale;
        rest = &rest[unit..];
    }
    let seconds = nanos / 1e9;
    // Go's own limit is 292 years.
    if text.is_empty() || !seconds.is_finite() || seconds > 9.2e9 {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A duration of whole seconds as Go prints it: `4h0m0s`, `10m0s`, `30s`.
#[must_use]
pub fn print_duration(duration: Duration) -> String {
    let all = duration.as_secs();
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_there_and_back() {
        let time: Time = "2026-11-22T18:42:56Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T18:42:56Z");
        assert_eq!("2026-11-22T18:42:56.789123Z".parse::<Time>().unwrap(), time);
        assert_eq!("2026-11-22T19:42:56+01:00".parse::<Time>().unwrap(), time);
        for bad in ["", "yesterday", "2026-11-22", "2026-13-22T18:42:56Z"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_of_go() {
        for (text, seconds) in [("10m0s", 600), ("4h0m0s", 14400), ("30s", 30), ("1h30m0s", 5400), ("0s", 0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
            assert_eq!(print_duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(parse_duration("1.5h").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        for bad in ["", "10", "-5s", "m", "5 s", "5d", "1..5s", "1e3s", "99999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

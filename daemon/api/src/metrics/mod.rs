//! The numbers that controller and agent serve at `/metrics`, in the text format of Prometheus (version 0.0.4), which this file
//! alone writes: a line each of HELP and TYPE, then a line a series. The catalogue says what there is.

mod catalogue;

pub use catalogue::*;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What is behind one series.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Number(f64),
    Spread {
        /// Of each bound, how many were not larger.
        buckets: Vec<u64>,
        sum: f64,
        count: u64,
    },
}

/// A series: name of the metric, and the values of its labels in their order.
type Series = (&'static str, Vec<&'static str>);

/// All numbers of one process.
#[derive(Debug)]
pub struct Registry {
    by: By,
    cells: Mutex<BTreeMap<Series, Cell>>,
}

impl Registry {
    /// Everything that this executable serves, at 0.
    #[must_use]
    pub fn new(by: By) -> Self {
        let mut cells = BTreeMap::new();
        for metric in of(by) {
            let zero = match metric.kind {
                Type::Histogram(bounds) => Cell::Spread { buckets: vec![0; bounds.len()], sum: 0.0, count: 0 },
                Type::Counter | Type::Gauge => Cell::Number(0.0),
            };
            for values in combinations(metric.labels) {
                cells.insert((metric.name, values), zero.clone());
            }
        }
        let this = Self { by, cells: Mutex::new(cells) };
        this.set(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        this
    }

    /// Adds to a counter or a gauge.
    pub fn add(&self, metric: &Metric, labels: &[&str], by: f64) {
        self.change(metric, labels, |cell| {
            if let Cell::Number(number) = cell {
                *number += by;
            }
        });
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &Metric, labels: &[&str], to: f64) {
        self.change(metric, labels, |cell| {
            if let Cell::Number(number) = cell {
                *number = to;
            }
        });
    }

    /// Sets one series of a gauge to 1, and the others of that gauge to 0: what it says is one thing.
    pub fn choose(&self, metric: &Metric, labels: &[&str]) {
        let Some(values) = known(metric, labels) else { return };
        for ((_, found), cell) in self.cells.lock().iter_mut().filter(|((name, _), _)| *name == metric.name) {
            *cell = Cell::Number(if *found == values { 1.0 } else { 0.0 });
        }
    }

    /// One more for a histogram.
    pub fn observe(&self, metric: &Metric, labels: &[&str], value: f64) {
        let Type::Histogram(bounds) = metric.kind else { return };
        self.change(metric, labels, |cell| {
            if let Cell::Spread { buckets, sum, count } = cell {
                let fits = buckets.iter_mut().zip(bounds).filter(|(_, bound)| value <= **bound);
                fits.for_each(|(bucket, _)| *bucket += 1);
                *sum += value;
                *count += 1;
            }
        });
    }

    fn change(&self, metric: &Metric, labels: &[&str], how: impl FnOnce(&mut Cell)) {
        match known(metric, labels).and_then(|values| self.cells.lock().get_mut(&(metric.name, values)).map(how)) {
            Some(()) => {}
            None => tracing::debug!("no series {} {labels:?}", metric.name),
        }
    }

    /// All of it as text.
    #[must_use]
    pub fn print(&self) -> String {
        let cells = self.cells.lock();
        let mut text = String::new();
        for metric in of(self.by) {
            let Metric { name, kind, labels, help, .. } = metric;
            let word = match kind {
                Type::Counter => "counter",
                Type::Gauge => "gauge",
                Type::Histogram(_) => "histogram",
            };
            // A String takes whatever is written to it.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {word}\n");
            for ((_, values), cell) in cells.iter().filter(|((of, _), _)| of == name) {
                let pairs: Vec<String> =
                    labels.iter().zip(values).map(|(label, value)| format!("{}=\"{value}\"", label.name)).collect();
                let _ = match (cell, kind) {
                    (Cell::Spread { buckets, sum, count }, Type::Histogram(bounds)) => {
                        for (bound, bucket) in bounds.iter().zip(buckets) {
                            let _ =
                                writeln!(text, "{name}_bucket{} {bucket}", braced(&pairs, Some(&bound.to_string())));
                        }
                        let _ = writeln!(text, "{name}_bucket{} {count}", braced(&pairs, Some("+Inf")));
                        let pairs = braced(&pairs, None);
                        writeln!(text, "{name}_sum{pairs} {sum}\n{name}_count{pairs} {count}")
                    }
                    (Cell::Number(number), _) => writeln!(text, "{name}{} {number}", braced(&pairs, None)),
                    (Cell::Spread { .. }, _) => Ok(()),
                };
            }
        }
        text
    }
}

/// What an executable serves, in the order of the catalogue.
pub fn of(by: By) -> impl Iterator<Item = &'static Metric> {
    CATALOGUE.iter().filter(move |metric| metric.by == by || metric.by == By::Both)
}

/// A value that a label cannot have counts as "other", or nowhere: a number more or less stops nothing.
fn known(metric: &Metric, labels: &[&str]) -> Option<Vec<&'static str>> {
    let known = |(label, value): (&Label, &&str)| {
        let found = label.values.iter().find(|known| *known == value);
        found.or_else(|| label.values.iter().find(|known| **known == "other")).copied()
    };
    metric.labels.iter().zip(labels).map(known).collect()
}

fn braced(pairs: &[String], bound: Option<&str>) -> String {
    let mut pairs = pairs.to_vec();
    pairs.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

/// All values of one label with all of the others.
fn combinations(labels: &[Label]) -> Vec<Vec<&'static str>> {
    labels.iter().fold(vec![Vec::new()], |before, label| {
        let longer = |values: &Vec<&'static str>| {
            let values = values.clone();
            label.values.iter().map(move |value| [values.clone(), vec![*value]].concat()).collect::<Vec<_>>()
        };
        before.iter().flat_map(longer).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len(), "a name stands twice");
        for Metric { name, kind, unit, labels, help, .. } in CATALOGUE {
            assert!(name.starts_with("wherry_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Type::Counter, "{name}: of counters, and of no others");
            assert_eq!(*unit == "bytes", name.contains("_bytes"), "{name}");
            assert_eq!(*unit == "seconds" || *unit == "Unix time", name.contains("_seconds"), "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{name}: {help}");
            for Label { name: label, values } in *labels {
                assert!(!["le", "volume", "pvc", "backup"].contains(label), "{name}: {label}");
                // A scrape has labels of its own, of what was scraped, and gives ours another name: no alert would find it.
                let scraped = ["job", "instance", "pod", "container", "endpoint", "node", "namespace", "service"];
                assert!(!scraped.contains(label), "{name}: {label}");
                assert!(!values.is_empty() && values.iter().all(|value| !value.contains(['"', '\\', '\n'])), "{label}");
            }
        }
        // What a scrape costs.
        let series: usize = CATALOGUE.iter().map(|metric| combinations(metric.labels).len()).sum();
        assert!(series < 300, "{series} series");
    }

    #[test]
    fn everything_is_there_from_the_start_and_counts() {
        let registry = Registry::new(By::Agent);
        let has = |line: &str| registry.print().lines().any(|found| found == line);
        assert!(has("# TYPE wherry_upload_read_bytes_total counter") && has("wherry_upload_read_bytes_total 0"));
        assert!(has("wherry_volumes_moved_total{kind=\"upload\",engine=\"ring\"} 0"));
        assert!(!registry.print().contains("wherry_crs"), "that is the controller's");
        registry.add(&READ, &[], 5e12);
        registry.add(&READ, &[], 1.0);
        registry.add(&MOVED, &[UPLOAD, "ring"], 1.0);
        registry.add(&MOVED, &[DOWNLOAD, "of later"], 1.0);
        registry.set(&MOVING, &[UPLOAD], 2.0);
        // None of its values, and it has no "other".
        registry.set(&MOVING, &["sideways"], 3.0);
        // The last one holds.
        registry.choose(&ENGINE_INFO, &["ring", "works"]);
        registry.choose(&ENGINE_INFO, &["threads", "no-ring"]);
        registry.observe(&DATA_SECONDS, &[UPLOAD], 15.0);
        registry.observe(&DATA_SECONDS, &[UPLOAD], 1e9);
        for line in [
            "wherry_upload_read_bytes_total 5000000000001",
            "wherry_volumes_moved_total{kind=\"upload\",engine=\"ring\"} 1",
            "wherry_volumes_moved_total{kind=\"download\",engine=\"other\"} 1",
            "wherry_volumes_moving{kind=\"upload\"} 2",
            "wherry_volumes_moving{kind=\"download\"} 0",
            "wherry_engine_info{engine=\"ring\",why=\"works\"} 0",
            "wherry_engine_info{engine=\"threads\",why=\"no-ring\"} 1",
            "wherry_data_seconds_bucket{kind=\"upload\",le=\"5\"} 0",
            "wherry_data_seconds_bucket{kind=\"upload\",le=\"15\"} 1",
            "wherry_data_seconds_bucket{kind=\"upload\",le=\"28800\"} 1",
            "wherry_data_seconds_bucket{kind=\"upload\",le=\"+Inf\"} 2",
            "wherry_data_seconds_sum{kind=\"upload\"} 1000000015",
            "wherry_data_seconds_count{kind=\"upload\"} 2",
        ] {
            assert!(has(line), "{line:?} is not in\n{}", registry.print());
        }
    }
}

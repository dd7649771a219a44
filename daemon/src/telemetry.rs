//! Log lines on standard error. Each names the run it belongs to; the same id is in the snapshot the run made.

use crate::cli::LogFormat;
use crate::progress::Screen;
use std::fmt;
use std::sync::OnceLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use wherry_repo::{Clock, Result, Rng, System};

/// Names one run of wherry: 16 random hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(u64);

impl RunId {
    /// A new one.
    pub fn draw(rng: &dyn Rng) -> Result<Self> {
        let mut raw = [0; 8];
        rng.fill(&mut raw)?;
        Ok(Self(u64::from_le_bytes(raw)))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How much is logged: `-q` is -1, `-v` 1, `-vv` 2.
fn levels(verbosity: i8) -> Targets {
    let (ours, others) = match verbosity {
        ..0 => (LevelFilter::ERROR, LevelFilter::OFF),
        0 => (LevelFilter::INFO, LevelFilter::ERROR),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    // Targets are matched by prefix: "wherry" is every crate of ours.
    // A certificate that is refused is an error of ours too, which says what to do.
    let verifier = if verbosity > 0 { others } else { LevelFilter::OFF };
    Targets::new().with_default(others).with_target("wherry", ours).with_target("rustls_platform_verifier", verifier)
}

/// The run whose log lines are JSON, if they are.
static JSON: OnceLock<RunId> = OnceLock::new();

/// Starts logging, once per process. Lines go through `screen`, so that they do not run into a progress bar.
pub fn start(format: LogFormat, verbosity: i8, run: RunId, clock: impl Clock + 'static, screen: Screen) {
    if format == LogFormat::Json {
        JSON.get_or_init(|| run);
    }
    let layer = tracing_subscriber::fmt::layer()
        .event_format(Lines { format, run, clock })
        .with_writer(screen)
        .with_ansi(false);
    // It fails only when a log was started before, in tests of this crate; then that one stays.
    let _ = tracing_subscriber::registry().with(levels(verbosity)).with(KeptFields).with(layer).try_init();
}

/// What ended the run as a log line, with no line end; `None` where log lines are text, or before logging has started.
/// It passes by the subscriber: it is said with any verbosity, and a panic that came out of a log line can say it too.
pub fn last_line(message: &str) -> Option<String> {
    let time = crate::output::log_time(System::default().now());
    let fields = Fields { message: message.to_owned(), others: Vec::new() };
    JSON.get().map(|run| json_line(&time, Level::ERROR, *run, "wherry", fields))
}

/// Keeps the fields of spans, which lines of what is done within them end with.
#[derive(Debug)]
struct KeptFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeptFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }
}

#[derive(Debug)]
struct Lines<C> {
    format: LogFormat,
    run: RunId,
    clock: C,
}

impl<C, S, N> FormatEvent<S, N> for Lines<C>
where
    C: Clock,
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope().into_iter().flatten() {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.others.extend(of_span.others.iter().cloned());
            }
        }
        let time = crate::output::log_time(self.clock.now());
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        match self.format {
            LogFormat::Text => writeln!(writer, "{}", text_line(&time, level, self.run, &fields)),
            LogFormat::Json => writeln!(writer, "{}", json_line(&time, level, self.run, target, fields)),
        }
    }
}

/// The message of an event and its other fields, in their order.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

fn text_line(time: &str, level: Level, run: RunId, fields: &Fields) -> String {
    let mut line = format!("{time} {level:5} {run} {}", crate::exit::on_one_line(&fields.message));
    for (name, value) in &fields.others {
        match value {
            serde_json::Value::String(text) if !text.contains([' ', '"']) => {
                line.push_str(&format!(" {name}={}", crate::exit::on_one_line(text)));
            }
            value => line.push_str(&format!(" {name}={value}")),
        }
    }
    line
}

fn json_line(time: &str, level: Level, run: RunId, target: &str, fields: Fields) -> String {
    let mut line = serde_json::Map::new();
    for (name, value) in [("time", time), ("level", level.as_str()), ("run", &run.to_string()), ("target", target)] {
        line.insert(name.to_owned(), value.into());
    }
    line.insert("message".to_owned(), fields.message.into());
    for (name, value) in fields.others {
        line.entry(name).or_insert(value);
    }
    serde_json::Value::Object(line).to_string()
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Screen;

    fn make_writer(&'a self) -> Screen {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "two\nlines".to_owned(),
            others: vec![("path", "/dev/x".into()), ("why", "a b".into()), ("n", 5.into()), ("run", "forged".into())],
        }
    }

    #[test]
    fn every_line_has_the_run_and_is_one_line() {
        let line = text_line("T", Level::WARN, RunId(0xab), &fields());
        assert_eq!(line, "T WARN  00000000000000ab two lines path=/dev/x why=\"a b\" n=5 run=forged");
        let line = json_line("T", Level::INFO, RunId(0xab), "wherry::x", fields());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["run"], "00000000000000ab");
        assert_eq!(value["message"], "two\nlines");
        assert_eq!(value["n"], 5);
        assert!(!line.contains('\n'));
    }

    /// What is written by lines of a subscriber of its own.
    #[derive(Clone, Debug, Default)]
    struct Written(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_logged_within_a_job_is_told_to_be_its_own_in_threads_too() {
        let written = Written::default();
        let to = written.clone();
        let lines = Lines { format: LogFormat::Json, run: RunId(1), clock: System::default() };
        let layer =
            tracing_subscriber::fmt::layer().event_format(lines).with_writer(move || to.clone()).with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(levels(0)).with(KeptFields).with(layer);
        let dispatch = tracing::Dispatch::new(subscriber);
        tracing::dispatcher::with_default(&dispatch, || {
            let span = tracing::info_span!("job", cr = %"upload-1").entered();
            let (of_thread, work) = (dispatch.clone(), wherry_repo::as_here(|| tracing::warn!("within")));
            let thread = std::thread::spawn(move || tracing::dispatcher::with_default(&of_thread, work));
            thread.join().unwrap();
            drop(span);
            tracing::warn!("outside");
        });
        let text = String::from_utf8(written.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["message"], &lines[0]["cr"]), (&"within".into(), &"upload-1".into()));
        assert_eq!((&lines[1]["message"], &lines[1]["cr"]), (&"outside".into(), &serde_json::Value::Null));
    }

    #[test]
    fn verbosity() {
        let shows = |v, target, level| levels(v).would_enable(target, &level);
        assert!(shows(0, "wherry_repo::index", Level::INFO) && !shows(0, "wherry", Level::DEBUG));
        assert!(!shows(0, "rustls", Level::WARN) && shows(1, "rustls", Level::WARN));
        assert!(shows(-1, "wherry", Level::ERROR) && !shows(-1, "wherry", Level::WARN));
        assert!(shows(2, "wherry_block", Level::TRACE));
    }
}

//! Logs: one JSON line an event on stdout, with `level` and `message`, or something for human eyes on a terminal.

use std::{io::IsTerminal, str::FromStr};

use jobs::redaction::conceal_bytes;
use tracing::{
    Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::RecordFields,
    fmt::{
        self,
        format::{FormatFields, Writer},
    },
    prelude::*,
    registry::LookupSpan,
};

use super::{panics, trace::TraceExporter};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For human eyes.
    Pretty,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err("auto, json or pretty".to_owned()),
        }
    }
}

/// Standard output, without the process's secrets.
#[derive(Debug, Default)]
struct RedactedStdout(());

impl std::io::Write for RedactedStdout {
    /// A whole line at a time: that is how the layer writes.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let clean = conceal_bytes(line);
        std::io::stdout().write_all(clean.as_deref().unwrap_or(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

/// Writes fields without line breaks and terminal control codes, because names and ids come from outside.
#[derive(Debug, Default)]
struct EscapedFields(());

impl<'w> FormatFields<'w> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        let mut visitor = EscapedVisitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct EscapedVisitor<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: std::fmt::Result,
}

impl EscapedVisitor<'_> {
    fn write(&mut self, field: &Field, text: &str) -> std::fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if field.name() != "message" {
            write!(self.writer, "{}=", field.name())?;
        }
        for c in text.chars() {
            match c.is_control() {
                true => write!(self.writer, "{}", c.escape_default())?,
                false => self.writer.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Visit for EscapedVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = match field.name() {
                "message" => self.write(field, value),
                _ => self.write(field, &format!("{value:?}")),
            };
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, &format!("{value:?}"));
        }
    }
}

/// Starts logging to stdout, panics included, and tracing where there is an exporter. A second call does nothing.
pub fn init(format: LogFormat, filter: &str, traces: Option<&TraceExporter>) {
    panics::init();
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let is_json = match format {
        LogFormat::Auto => !std::io::stdout().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let registry = tracing_subscriber::registry();
    // An error means that the process already has a logger, as in tests.
    let _ = match traces {
        None => registry.with(filter).with(lines(is_json)).try_init(),
        // Traces are whole, whatever the log leaves out. A filter for each layer costs more than one for all.
        Some(traces) => registry
            .with(lines(is_json).with_filter(filter))
            .with(traces.layer())
            .try_init(),
    };
}

/// The layer that writes the log.
fn lines<S>(is_json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if is_json {
        return fmt::layer()
            .json()
            .with_writer(RedactedStdout::default)
            .flatten_event(true)
            // Each line lists all its spans: worker, job, attempt, call.
            .with_current_span(false)
            .with_span_list(true)
            .with_target(false)
            .boxed();
    }
    fmt::layer()
        .compact()
        .with_writer(RedactedStdout::default)
        .with_target(false)
        .fmt_fields(EscapedFields::default())
        .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_name_from_outside_neither_forges_a_line_nor_steers_a_terminal() {
        let written = Written::default();
        let writer = written.clone();
        let layer = fmt::layer()
            .compact()
            .with_ansi(false)
            .fmt_fields(EscapedFields::default())
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let forged = "x\n2026-01-01 ERROR forged\r\u{1b}[2J\u{9b}1m";
            let span = tracing::info_span!("job", id = %forged, name = forged);
            let _entered = span.enter();
            tracing::info!(kind = %forged, name = forged, "Unknown job type: {forged}");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        assert!(text.contains("Unknown job type: x\\n2026"), "{text:?}");
    }
}

//! The log on stderr: warnings of the backends as ordinary lines, or all events with `-v`.

use std::fmt;

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::Visit,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{FmtSpan, Format, Writer},
    },
    registry::LookupSpan,
};

use crate::{
    journal::{self, Priority},
    stderr_writer::Log,
};

/// Starts the log. With `verbose` 0 it shows only events that an operator must know at once: the
/// store is unavailable, or a start-up check failed. The commands themselves report the state of
/// the lock.
pub(crate) fn start(verbose: u8) {
    let filter = match verbose {
        0 => return quiet(),
        // The messages of the client libraries would hide the rest.
        1 => "debug,h2=off,hyper=off,hyper_util=off,rustls=off,tonic=off,tower=off",
        _ => "trace",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(|| Log)
        .with_ansi(false)
        .with_env_filter(EnvFilter::new(filter))
        .with_span_events(FmtSpan::CLOSE)
        // The subscriber reports a closed stderr by writing to stderr, which panics.
        .log_internal_errors(false);
    // A program that embeds this library may have its own subscriber.
    let _ = if journal::is_connected() {
        // The journal has the time of each line.
        let format = Format::default().without_time().with_ansi(false);
        subscriber.event_format(Prioritized(format)).try_init()
    } else {
        subscriber.try_init()
    };
}

fn quiet() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(|| Log)
        .log_internal_errors(false)
        // The ZooKeeper backend returns an error for everything that its client library warns of.
        .with_env_filter(EnvFilter::new(
            "warn,tenure_core=off,tenure_core::acquire=warn,zookeeper_client=off",
        ))
        .event_format(Prioritized(OneLine));
    let _ = subscriber.try_init();
}

/// Puts the priority in front of each line, if stderr is connected to the journal.
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = Priority::from(event.metadata().level());
        writer.write_str(priority.prefix())?;
        self.0.format_event(context, writer, event)
    }
}

/// Formats a warning as one line of the command.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { backend, message } = fields;
        writeln!(writer, "tenure: warning: {backend}{message}")
    }
}

#[derive(Default)]
struct Fields {
    backend: String,
    message: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "backend" {
            self.backend = format!("{value}: ");
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}").replace(char::is_control, " ");
        }
    }
}

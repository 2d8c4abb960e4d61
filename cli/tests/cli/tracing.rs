//! The variables of W3C Trace Context, `TRACEPARENT` and `TRACESTATE`.

use crate::support::{Finished, Sandbox, finished};

#[cfg(feature = "otlp")]
mod export;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Runs a command that shows the variables as it receives them.
fn run(sandbox: &Sandbox, parent: &str) -> Finished {
    let script = "echo \"$TRACEPARENT $TRACESTATE\"";
    let mut command = sandbox.tenure(&["-v", "run", "x", "-c", script]);
    command.env("TRACEPARENT", parent).env("TRACESTATE", "a=b");
    finished(command.output().unwrap())
}

#[test]
fn command_inherits_its_trace_if_no_spans_are_exported() {
    let sandbox = Sandbox::new();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let shown = run(&sandbox, &parent);
    assert_eq!(shown.assert_succeeded().stdout, format!("{parent} a=b\n"));
    let line = format!("belongs to trace {TRACE}, span {PARENT}");
    assert!(shown.stderr.contains(&line), "{shown:?}");
}

#[test]
fn invalid_trace_is_ignored_and_left_as_it_is() {
    let sandbox = Sandbox::new();
    let parent = format!("00-{TRACE}-{PARENT}-01-\u{1b}[2J");
    let shown = run(&sandbox, &parent);
    assert_eq!(shown.assert_succeeded().stdout, format!("{parent} a=b\n"));
    assert!(shown.stderr.contains("TRACEPARENT is invalid"), "{shown:?}");
    assert!(!shown.stderr.contains('\u{1b}'), "{shown:?}");
}

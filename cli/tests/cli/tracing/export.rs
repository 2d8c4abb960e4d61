//! The export of spans, to a collector that is a socket of this test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use super::{PARENT, TRACE};
use crate::support::{CONDITION_TIMEOUT, Running, Sandbox, finished, now, wait_until};

/// Accepts requests, and answers each with this status.
fn collector(status: &'static str) -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, bodies) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let body = read_request(&connection);
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).unwrap();
            let _ = sender.send(body);
        }
    });
    (endpoint, bodies)
}

/// Reads a request for spans in Protocol Buffers, and returns its body.
fn read_request(connection: &TcpStream) -> Vec<u8> {
    let mut reader = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_lowercase()),
        }
    }
    assert_eq!(lines[0], "post /v1/traces http/1.1");
    assert!(lines.contains(&"content-type: application/x-protobuf".to_owned()));
    let length = lines
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    body
}

fn run(sandbox: &Sandbox, endpoint: &str, options: &[&str], script: &str) -> Command {
    let mut command = sandbox.tenure(&["run"]);
    command.args(options).args(["x", "-c", script]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    command.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-01"));
    command.env("TRACESTATE", "a=b");
    command
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    (0..hexadecimal.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap())
        .collect()
}

fn count(body: &[u8], part: impl AsRef<[u8]>) -> usize {
    let part = part.as_ref();
    body.windows(part.len())
        .filter(|window| *window == part)
        .count()
}

#[test]
fn spans_arrive_in_the_trace_of_traceparent() {
    let sandbox = Sandbox::new();
    let (endpoint, bodies) = collector("200 OK");
    let script = "echo \"$TRACEPARENT-$TRACESTATE\"; exit 3";
    let shown = finished(run(&sandbox, &endpoint, &[], script).output().unwrap());
    assert_eq!((shown.code, &*shown.stderr), (Some(3), ""));
    let body = bodies.recv_timeout(CONDITION_TIMEOUT).unwrap();
    for text in ["tenure.run", "tenure.wait", "tenure.hold"] {
        assert_eq!(count(&body, text), 1, "{text}");
    }
    for text in [
        "lock.name",
        "lock.namespace",
        "lock.backend",
        "lock.token",
        "outcome",
        "exited",
    ] {
        assert!(count(&body, text) > 0, "{text}");
    }
    // All spans are in the trace of the caller, and one of them is the child of its span.
    assert_eq!(count(&body, bytes(TRACE)), 3);
    assert_eq!(count(&body, bytes(PARENT)), 1);
    // The command is in the trace too, as a child of an exported span.
    let fields: Vec<_> = shown.stdout.trim().split('-').collect();
    let [version, trace, span, flags, state] = fields[..] else {
        panic!("{shown:?}")
    };
    assert_eq!((version, trace, flags, state), ("00", TRACE, "01", "a=b"));
    assert_ne!(span, PARENT);
    assert_eq!(count(&body, bytes(span)), 1);
    assert_eq!(
        count(&body, "tenure"),
        3 + 2,
        "the name of the service and of the scope"
    );
}

#[test]
fn trace_that_the_caller_does_not_record_is_not_exported() {
    let sandbox = Sandbox::new();
    let (endpoint, bodies) = collector("200 OK");
    let mut unsampled = run(&sandbox, &endpoint, &[], "echo $TRACEPARENT");
    unsampled.env("TRACEPARENT", format!("00-{TRACE}-{PARENT}-00"));
    let shown = finished(unsampled.output().unwrap());
    let parent = shown.assert_succeeded().stdout.trim();
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"),
        "{parent}"
    );
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        let mut off = run(&sandbox, &endpoint, &[], "echo $TRACEPARENT");
        let shown = finished(off.env(name, value).output().unwrap());
        assert_eq!(shown.stdout, format!("00-{TRACE}-{PARENT}-01\n"));
    }
    assert!(bodies.try_recv().is_err());
}

#[test]
fn command_gets_a_trace_if_the_caller_has_none_but_keeps_an_invalid_one() {
    let sandbox = Sandbox::new();
    let (endpoint, bodies) = collector("200 OK");
    let mut without = run(&sandbox, &endpoint, &[], "echo $TRACEPARENT");
    let shown = finished(without.env_remove("TRACEPARENT").output().unwrap());
    let body = bodies.recv_timeout(CONDITION_TIMEOUT).unwrap();
    let trace = shown.assert_succeeded().stdout.split('-').nth(1).unwrap();
    assert_eq!(count(&body, bytes(trace)), 3, "{shown:?}");
    let mut invalid = run(&sandbox, &endpoint, &[], "echo $TRACEPARENT");
    let shown = finished(invalid.env("TRACEPARENT", "00-invalid").output().unwrap());
    assert_eq!(shown.assert_succeeded().stdout, "00-invalid\n");
    let body = bodies.recv_timeout(CONDITION_TIMEOUT).unwrap();
    assert_eq!(count(&body, "tenure.run"), 1);
}

#[test]
fn collector_that_does_not_answer_delays_no_release() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let begin = now();
    let first = Running::start(run(&sandbox, &endpoint, &[], "exit 4"));
    let connection = listener.accept().unwrap();
    // The first run exports its spans now, and has released the lock.
    let next = sandbox.run(&["run", "-n", "x", "--", "true"]);
    next.assert_succeeded();
    let first = first.finish();
    assert!(now().since(begin) < Duration::from_secs(10));
    first.assert_failed(4, &["spans could not be exported", "2s"]);
    drop(connection);
}

#[test]
fn failed_export_is_one_line_and_changes_no_exit_code() {
    let sandbox = Sandbox::new();
    let failed = |endpoint: &str, words: &[&str]| {
        let shown = finished(run(&sandbox, endpoint, &[], "exit 5").output().unwrap());
        shown.assert_failed(5, words);
        assert!(!shown.stderr.contains("secret"), "{shown:?}");
    };
    let (endpoint, _bodies) = collector("503 Service Unavailable");
    failed(
        &endpoint,
        &["spans could not be exported", "127.0.0.1:", "503"],
    );
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let nothing = format!("http://user:secret@127.0.0.1:{port}");
    failed(&nothing, &["spans could not be exported", "refused"]);
    failed("not an address", &["no spans are exported"]);
}

#[test]
fn command_inherits_nothing_of_the_exporter() {
    let sandbox = Sandbox::new();
    let (endpoint, bodies) = collector("200 OK");
    // The wait is exported while the command runs.
    let script = "while [ ! -e go ]; do sleep 0.02; done; \
                  ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let mut exporting = run(&sandbox, &endpoint, &[], script);
    exporting.env("OTEL_BSP_SCHEDULE_DELAY", "10");
    let exporting = Running::start(exporting);
    let body = bodies.recv_timeout(CONDITION_TIMEOUT).unwrap();
    assert_eq!(
        (count(&body, "tenure.wait"), count(&body, "tenure.run")),
        (1, 0)
    );
    crate::support::write(&sandbox.path("go"), "");
    let exporting = exporting.finish();
    let plain = sandbox.run(&["run", "x", "-c", script]);
    assert_eq!(exporting.assert_succeeded().stdout, plain.stdout);
    wait_until("the other spans", || {
        bodies
            .try_recv()
            .is_ok_and(|body| count(&body, "tenure.run") == 1)
    });
}

#[test]
fn exporter_leaves_the_guardian_its_work() {
    use nix::sys::signal::Signal;
    let sandbox = Sandbox::new();
    let (endpoint, _bodies) = collector("200 OK");
    let script = "echo $$ > pid; exec sleep 1000";
    let mut exporting = Running::start(run(&sandbox, &endpoint, &[], script));
    let command = sandbox.pid("pid");
    // The guardian has one thread, none of which is the exporter's.
    let threads = format!("/proc/{}/task", exporting.guardian());
    assert_eq!(std::fs::read_dir(threads).unwrap().count(), 1);
    exporting.signal(Signal::SIGKILL);
    wait_until("the end of the command", || {
        !crate::support::is_alive(command)
    });
    wait_until("the end of the run", || exporting.has_ended());
}

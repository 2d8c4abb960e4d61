//! Two workers receive the same message, as two processes. One is paused past its TTL while it handles
//! the message, the other takes over, and the write of the first worker is late.
#![expect(clippy::unwrap_used, reason = "a test")]

use example_support::Program;
use tempfile::TempDir;
use tenure_test_servers::redis::Server;

struct Workers {
    server: Server,
    directory: TempDir,
}

impl Workers {
    fn new() -> Self {
        Self {
            server: Server::builder().start().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Delivers the message to a new worker.
    fn worker(&self, name: &str, more: &[&str]) -> Program {
        let (url, db) = (self.server.url(), self.db());
        let mut arguments = vec!["m-1", "--url", &url, "--db", &db, "--worker", name];
        arguments.extend(["--ttl", "2s"]);
        arguments.extend(more);
        Program::start(env!("CARGO_BIN_EXE_example-message-once"), &arguments)
    }

    fn db(&self) -> String {
        self.directory.path().join("payments").display().to_string()
    }

    /// Returns the payments, each with the worker and the receipt of its message.
    fn payments(&self) -> Vec<(i64, String, String)> {
        let db = rusqlite::Connection::open(self.db()).unwrap();
        let mut rows = db
            .prepare(
                "SELECT cents, worker, receipt FROM payment JOIN message ON message = message.id",
            )
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        rows.query_map([], row)
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }
}

/// Pauses worker a while it handles the message. Worker b takes over, and a resumes. Returns both: a has
/// its receipt and is about to write, and b waits for its receipt.
fn pause_first_worker(workers: &Workers, more: &[&str]) -> (Program, Program) {
    let mut a = workers.worker("a", more);
    let first = a.expect_number("has the message");
    a.expect_line("asks the bank");
    let mut b = workers.worker("b", more);
    b.expect_line("waits");

    a.pause();
    let second = b.expect_number("has the message");
    assert!(second > first, "{second} after {first}");
    b.expect_line("asks the bank");
    a.resume();
    a.expect_line("lost the message");
    a.write_line("receipt-a");
    (a, b)
}

fn payment(worker: &str) -> (i64, String, String) {
    (100, worker.to_owned(), format!("receipt-{worker}"))
}

#[test]
fn x1_message_delivered_twice_is_handled_once() {
    let workers = Workers::new();
    let mut a = workers.worker("a", &[]);
    a.expect_line("asks the bank");
    let mut b = workers.worker("b", &[]);
    b.expect_line("waits");
    a.write_line("receipt-a");
    a.expect_end(0, "a: handled it");
    b.expect_end(0, "b: handled before, by a");
    workers
        .worker("c", &[])
        .expect_end(0, "c: handled before, by a");
    assert_eq!(workers.payments(), [payment("a")]);
}

#[test]
fn t1_late_worker_is_refused_while_its_successor_works() {
    let workers = Workers::new();
    let (a, mut b) = pause_first_worker(&workers, &[]);
    a.expect_end(79, "a: refused: token");
    assert_eq!(workers.payments(), []);
    b.write_line("receipt-b");
    b.expect_end(0, "b: handled it");
    assert_eq!(workers.payments(), [payment("b")]);
}

#[test]
fn late_worker_finds_the_result_of_its_successor() {
    let workers = Workers::new();
    let mut a = workers.worker("a", &[]);
    a.expect_line("asks the bank");
    let mut b = workers.worker("b", &[]);
    b.expect_line("waits");
    a.pause();
    b.expect_line("asks the bank");
    b.write_line("receipt-b");
    b.expect_end(0, "b: handled it");
    a.resume();
    a.write_line("receipt-a");
    a.expect_end(0, "a: handled before, by b");
    assert_eq!(workers.payments(), [payment("b")]);
}

/// Without the token, the message's id still prevents a second payment. But the late worker pays, and the
/// holder of the lock is refused.
#[test]
fn late_worker_pays_without_the_token() {
    let workers = Workers::new();
    let (a, mut b) = pause_first_worker(&workers, &["--no-fencing"]);
    a.expect_end(0, "a: handled it");
    assert_eq!(workers.payments(), [payment("a")]);
    b.write_line("receipt-b");
    b.expect_end(0, "b: handled before, by a");
    assert_eq!(workers.payments(), [payment("a")]);
}

//! Two workers that got the same message, as two processes: one is paused past its TTL while it
//! handles it, the other takes over, and the first one comes late.
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

    /// Delivers the message to a worker.
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

    /// The payments, each with the worker and the receipt of its message.
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

/// Worker a is paused while it handles the message, worker b takes over and is at it too. Then a
/// goes on. Returns both: a comes to its write, b waits for its receipt.
fn paused_at_the_bank(workers: &Workers, more: &[&str]) -> (Program, Program) {
    let mut a = workers.worker("a", more);
    let first = a.says_number("has the message");
    a.says("asks the bank");
    let mut b = workers.worker("b", more);
    b.says("waits");

    a.pause();
    let second = b.says_number("has the message");
    assert!(second > first, "{second} after {first}");
    b.says("asks the bank");
    a.resume();
    a.says("lost the message");
    a.reads("receipt-a");
    (a, b)
}

fn payment(worker: &str) -> (i64, String, String) {
    (100, worker.to_owned(), format!("receipt-{worker}"))
}

#[test]
fn a_message_that_is_delivered_twice_is_handled_once() {
    let workers = Workers::new();
    let mut a = workers.worker("a", &[]);
    a.says("asks the bank");
    let mut b = workers.worker("b", &[]);
    b.says("waits");
    a.reads("receipt-a");
    a.ends(0, "a: handled it");
    b.ends(0, "b: handled before, by a");
    workers.worker("c", &[]).ends(0, "c: handled before, by a");
    assert_eq!(workers.payments(), [payment("a")]);
}

#[test]
fn t1_a_late_worker_is_refused_while_its_successor_is_still_at_it() {
    let workers = Workers::new();
    let (a, mut b) = paused_at_the_bank(&workers, &[]);
    a.ends(79, "a: refused: token");
    assert_eq!(workers.payments(), []);
    b.reads("receipt-b");
    b.ends(0, "b: handled it");
    assert_eq!(workers.payments(), [payment("b")]);
}

#[test]
fn a_late_worker_finds_what_its_successor_has_done() {
    let workers = Workers::new();
    let mut a = workers.worker("a", &[]);
    a.says("asks the bank");
    let mut b = workers.worker("b", &[]);
    b.says("waits");
    a.pause();
    b.says("asks the bank");
    b.reads("receipt-b");
    b.ends(0, "b: handled it");
    a.resume();
    a.reads("receipt-a");
    a.ends(0, "a: handled before, by b");
    assert_eq!(workers.payments(), [payment("b")]);
}

/// The same again without the token: the message's id alone keeps the payment single, but it is the
/// late worker's, and the holder of the lock is the one who is turned away.
#[test]
fn without_the_token_the_late_worker_wins() {
    let workers = Workers::new();
    let (a, mut b) = paused_at_the_bank(&workers, &["--no-fencing"]);
    a.ends(0, "a: handled it");
    assert_eq!(workers.payments(), [payment("a")]);
    b.reads("receipt-b");
    b.ends(0, "b: handled before, by a");
    assert_eq!(workers.payments(), [payment("a")]);
}

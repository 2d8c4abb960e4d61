//! Two nodes, as two processes. One is paused past its TTL while it works, the other takes over, and the
//! booking of the first node is late.
#![expect(clippy::unwrap_used, reason = "a test")]

use example_support::Program;
use tempfile::TempDir;
use tenure_test_servers::redis::Server;

/// The ledger and the nodes that book into it.
struct Night<'a> {
    url: &'a str,
    directory: TempDir,
}

impl<'a> Night<'a> {
    fn new(url: &'a str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { url, directory }
    }

    fn node(&self, name: &str, more: &[&str]) -> Program {
        let db = self.ledger();
        let mut arguments = vec!["--url", self.url, "--db", &db, "--node", name];
        arguments.extend(["--ttl", "2s", "--wait", "1m"]);
        arguments.extend(more);
        Program::start(env!("CARGO_BIN_EXE_example-db-job"), &arguments)
    }

    fn ledger(&self) -> String {
        self.directory.path().join("ledger").display().to_string()
    }

    /// Returns the bookings in order, each with its node.
    fn booked(&self) -> Vec<(String, i64)> {
        let db = rusqlite::Connection::open(self.ledger()).unwrap();
        let mut rows = db
            .prepare("SELECT node, cents FROM ledger ORDER BY rowid")
            .unwrap();
        let rows = rows
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        rows.map(Result::unwrap).collect()
    }
}

/// Pauses node a while it works. Node b takes over, and a resumes. Returns both: a has all its input and
/// is about to write, and b waits for its input.
fn pause_first_node(night: &Night<'_>, more: &[&str]) -> (Program, Program) {
    let mut a = night.node("a", more);
    let first = a.expect_number("has the lock, token");
    a.expect_line("reads the sales");
    a.write_line("100");
    let mut b = night.node("b", more);
    b.expect_line("waits for the lock");

    a.pause();
    let second = b.expect_number("has the lock, token");
    assert!(second > first, "{second} after {first}");
    b.expect_line("reads the sales");
    a.resume();
    a.expect_line("lost the lock");
    a.write_line("200");
    (a, b)
}

fn assert_late_booking_is_refused(url: &str) {
    let night = Night::new(url);
    let (a, mut b) = pause_first_node(&night, &[]);
    a.expect_end(79, "a: refused: token");
    assert_eq!(night.booked(), []);
    b.write_line("100");
    b.write_line("200");
    b.expect_end(0, "b: booked 2 sales");
    assert_eq!(night.booked(), [row("b", 100), row("b", 200)]);

    night
        .node("c", &[])
        .expect_end(0, "c: the night is booked already");
    assert_eq!(night.booked(), [row("b", 100), row("b", 200)]);
}

fn row(node: &str, cents: i64) -> (String, i64) {
    (node.to_owned(), cents)
}

#[test]
fn t1_late_booking_is_refused_on_redis() {
    let server = Server::builder().start().unwrap();
    assert_late_booking_is_refused(&server.url());
}

#[test]
fn t1_late_booking_is_refused_on_files() {
    let directory = tempfile::tempdir().unwrap();
    assert_late_booking_is_refused(&format!("file:{}", directory.path().display()));
}

/// Shows that the tests above depend on the token.
#[test]
fn sales_are_booked_twice_without_the_token() {
    let server = Server::builder().start().unwrap();
    let url = server.url();
    let night = Night::new(&url);
    let (a, mut b) = pause_first_node(&night, &["--no-fencing"]);
    a.expect_end(0, "a: booked 2 sales");
    b.write_line("100");
    b.write_line("200");
    b.expect_end(0, "b: booked 2 sales");
    let twice = [row("a", 100), row("a", 200), row("b", 100), row("b", 200)];
    assert_eq!(night.booked(), twice);
}

/// Every node starts the job at the same time, as by cron.
#[test]
fn x1_one_of_many_nodes_books() {
    let server = Server::builder().start().unwrap();
    let url = server.url();
    let night = Night::new(&url);
    let mut nodes = ["a", "b", "c", "d"].map(|name| night.node(name, &[]));
    for node in &mut nodes {
        node.write_line("100");
        node.end_input();
    }
    // The nodes end in any order: one has booked the sales, and the others found them booked.
    for node in nodes {
        node.expect_end(0, "booked");
    }
    assert_eq!(night.booked().len(), 1);
}

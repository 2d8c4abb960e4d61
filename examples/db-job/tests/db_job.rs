//! Two nodes as two processes: one is paused past its TTL while it works, the other takes over, and
//! the first one's booking comes late.
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

    /// Who booked what, in order.
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

/// Node a is paused at its work; node b takes over and is at work too when a goes on and comes to
/// its write. Returns both: a has all its input, b waits for its own.
fn paused_at_work(night: &Night<'_>, more: &[&str]) -> (Program, Program) {
    let mut a = night.node("a", more);
    let first = a.says_number("has the lock, token");
    a.says("reads the sales");
    a.reads("100");
    let mut b = night.node("b", more);
    b.says("waits for the lock");

    a.pause();
    let second = b.says_number("has the lock, token");
    assert!(second > first, "{second} after {first}");
    b.says("reads the sales");
    a.resume();
    a.says("lost the lock");
    a.reads("200");
    (a, b)
}

fn a_late_booking_is_refused_on(url: &str) {
    let night = Night::new(url);
    let (a, mut b) = paused_at_work(&night, &[]);
    a.ends(79, "a: refused: token");
    assert_eq!(night.booked(), []);
    b.reads("100");
    b.reads("200");
    b.ends(0, "b: booked 2 sales");
    assert_eq!(night.booked(), [row("b", 100), row("b", 200)]);

    night
        .node("c", &[])
        .ends(0, "c: the night is booked already");
    assert_eq!(night.booked(), [row("b", 100), row("b", 200)]);
}

fn row(node: &str, cents: i64) -> (String, i64) {
    (node.to_owned(), cents)
}

#[test]
fn t1_a_late_booking_is_refused_on_redis() {
    let server = Server::builder().start().unwrap();
    a_late_booking_is_refused_on(&server.url());
}

#[test]
fn t1_a_late_booking_is_refused_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    a_late_booking_is_refused_on(&format!("file:{}", directory.path().display()));
}

/// The same again without the token: what is asserted above would not be so by itself.
#[test]
fn without_the_token_the_sales_are_booked_twice() {
    let server = Server::builder().start().unwrap();
    let url = server.url();
    let night = Night::new(&url);
    let (a, mut b) = paused_at_work(&night, &["--no-fencing"]);
    a.ends(0, "a: booked 2 sales");
    b.reads("100");
    b.reads("200");
    b.ends(0, "b: booked 2 sales");
    let twice = [row("a", 100), row("a", 200), row("b", 100), row("b", 200)];
    assert_eq!(night.booked(), twice);
}

/// What a cron table does on every node at the same time.
#[test]
fn of_many_nodes_one_books() {
    let server = Server::builder().start().unwrap();
    let url = server.url();
    let night = Night::new(&url);
    let mut nodes = ["a", "b", "c", "d"].map(|name| night.node(name, &[]));
    for node in &mut nodes {
        node.reads("100");
        node.end_input();
    }
    // They end in any order: one has booked, the others found it booked.
    for node in nodes {
        node.ends(0, "booked");
    }
    assert_eq!(night.booked().len(), 1);
}

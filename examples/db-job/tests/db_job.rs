//! Two nodes as two processes: one is paused past its TTL while it works, the other takes over, and
//! the first one's booking comes late.

use std::path::Path;

use example_support::Program;
use tempfile::TempDir;
use tenure_test_servers::redis::Server;

/// The ledger and the nodes that book into it.
struct Night<'a> {
    url: &'a str,
    directory: TempDir,
}

impl Night<'_> {
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
        let db = rusqlite::Connection::open(Path::new(&self.ledger())).unwrap();
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
/// its write. Returns what a says to that; then b finishes.
fn paused_at_work(night: &Night<'_>, more: &[&str]) -> (i32, String) {
    let mut a = night.node("a", more);
    let first = token(&a.says("has the lock"));
    a.says("reads the sales");
    a.reads("100");
    let mut b = night.node("b", more);
    b.says("waits for the lock");

    a.pause();
    let second = token(&b.says("has the lock"));
    assert!(second > first, "{second} after {first}");
    b.says("reads the sales");
    a.resume();
    a.says("lost the lock");
    a.reads("200");
    let late = a.ends();

    b.reads("100");
    b.reads("200");
    let (code, said) = b.ends();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("b: booked 2 sales"), "{said}");
    assert!(said.contains("b: gives the lock back: Released"), "{said}");
    late
}

fn token(line: &str) -> u64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn a_late_booking_is_refused_on(url: &str) {
    let directory = tempfile::tempdir().unwrap();
    let night = Night { url, directory };
    let (code, said) = paused_at_work(&night, &[]);
    assert_eq!(code, 79, "{said}");
    assert!(said.contains("a: refused: token"), "{said}");
    let b = |cents| ("b".to_owned(), cents);
    assert_eq!(night.booked(), [b(100), b(200)]);

    let (code, said) = night.node("c", &[]).ends();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("c: the night is booked already"), "{said}");
    assert_eq!(night.booked(), [b(100), b(200)]);
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
    let directory = tempfile::tempdir().unwrap();
    let night = Night {
        url: &url,
        directory,
    };
    let (code, said) = paused_at_work(&night, &["--no-fencing"]);
    assert_eq!(code, 0, "{said}");
    let row = |node: &str, cents| (node.to_owned(), cents);
    let twice = [row("a", 100), row("a", 200), row("b", 100), row("b", 200)];
    assert_eq!(night.booked(), twice);
}

/// What a cron table does on every node at the same time.
#[test]
fn of_many_nodes_one_books() {
    let server = Server::builder().start().unwrap();
    let url = server.url();
    let directory = tempfile::tempdir().unwrap();
    let night = Night {
        url: &url,
        directory,
    };
    let names = ["a", "b", "c", "d"];
    let mut nodes: Vec<_> = names.map(|name| night.node(name, &[])).into();
    for node in &mut nodes {
        node.reads("100");
        node.end_input();
    }
    let said: Vec<_> = nodes.into_iter().map(Program::ends).collect();
    assert!(said.iter().all(|(code, _)| *code == 0), "{said:?}");
    assert_eq!(night.booked().len(), 1, "{said:?}");
}

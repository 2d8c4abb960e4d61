//! Several processes want the same cache entry: one refills it, and the others wait or serve the old
//! value. A process that was paused past its TTL resumes with an outdated value.
#![expect(clippy::unwrap_used, reason = "a test")]

use example_support::Program;
use tempfile::TempDir;
use tenure_test_servers::redis::Server;

struct Nodes {
    server: Server,
    directory: TempDir,
}

impl Nodes {
    fn new() -> Self {
        Self {
            server: Server::builder().start().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn node(&self, name: &str, more: &[&str]) -> Program {
        let (url, cache) = (self.server.url(), self.cache());
        let mut arguments = vec!["--url", &url, "--cache", &cache, "--node", name];
        arguments.extend(["--ttl", "2s"]);
        arguments.extend(more);
        Program::start(env!("CARGO_BIN_EXE_example-cache-refill"), &arguments)
    }

    fn cache(&self) -> String {
        self.directory.path().join("cache").display().to_string()
    }

    /// Stores a value that has expired.
    fn store_expired(&self, value: &str) {
        let mut node = self.node("before", &["--fresh", "0"]);
        node.write_line(value);
        node.expect_end(0, "from the origin");
    }

    /// Returns all values in the cache.
    fn values(&self) -> Vec<String> {
        let db = rusqlite::Connection::open(self.cache()).unwrap();
        let mut rows = db.prepare("SELECT value FROM cache").unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

#[test]
fn one_process_refills_and_the_others_wait_or_serve_the_old_value() {
    let nodes = Nodes::new();
    nodes.store_expired("old");

    let mut first = nodes.node("first", &[]);
    first.expect_line("asks the origin");
    let mut waiting: Vec<_> = ["w1", "w2", "w3"].map(|name| nodes.node(name, &[])).into();
    for node in &mut waiting {
        node.expect_line("waits for the refill");
    }
    nodes
        .node("hasty", &["--stale"])
        .expect_end(0, "the old value: old");

    first.write_line("new");
    first.expect_end(0, "from the origin: new");
    for node in waiting {
        // These processes have no input, so a request to the origin would fail.
        node.expect_end(0, "from the cache: new");
    }
    nodes
        .node("later", &[])
        .expect_end(0, "from the cache: new");
    assert_eq!(nodes.values(), ["new"]);
}

/// Pauses node a while it asks the origin. Node b takes over and refills the entry, and a resumes.
/// Returns a, which has its value and is about to write.
fn pause_first_node(nodes: &Nodes, more: &[&str]) -> Program {
    nodes.store_expired("old");
    let mut a = nodes.node("a", more);
    let first = a.expect_number("asks the origin");
    let mut b = nodes.node("b", more);
    b.expect_line("waits for the refill");

    a.pause();
    let second = b.expect_number("asks the origin");
    assert!(second > first, "{second} after {first}");
    b.write_line("newest");
    b.expect_end(0, "from the origin: newest");
    assert_eq!(nodes.values(), ["newest"]);

    a.resume();
    a.write_line("late");
    a
}

#[test]
fn t1_late_refill_is_refused() {
    let nodes = Nodes::new();
    let a = pause_first_node(&nodes, &[]);
    a.expect_end(79, "the cache has a newer value: newest");
    assert_eq!(nodes.values(), ["newest"]);
}

/// Shows that the test above depends on the token.
#[test]
fn late_refill_overwrites_the_newer_value_without_the_token() {
    let nodes = Nodes::new();
    let a = pause_first_node(&nodes, &["--no-fencing"]);
    a.expect_end(0, "from the origin: late");
    assert_eq!(nodes.values(), ["late"]);
}
